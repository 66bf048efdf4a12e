//! The gate before every service: whoever is not known does not get a message read.

use std::convert::Infallible;
use std::mem;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::call::Backend;

/// A service that only those reach whose credential was verified, which is by headers alone: what a stranger sends costs
/// nothing.
#[derive(Clone)]
pub struct Gated<S> {
    service: S,
    backend: Backend,
}

impl<S> Gated<S> {
    /// Puts the gate before a service.
    pub const fn new(service: S, backend: Backend) -> Self {
        Self { service, backend }
    }
}

impl<S: NamedService> NamedService for Gated<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The one that is ready, and not its copy, takes the request.
        let copy = self.service.clone();
        let mut service = mem::replace(&mut self.service, copy);
        let backend = self.backend.clone();
        async move {
            match backend.gate(request.headers(), request.extensions().get()).await {
                Ok(credential) => {
                    request.extensions_mut().insert(credential);
                    service.call(request).await
                }
                Err(status) => Ok(status.into_http()),
            }
        }
        .boxed()
    }
}
