//! Notifications as signed HTTP requests.

use std::path::Path;
use std::time::Duration;

use countersign_core::time::SystemClock;
use countersign_core::{Clock as _, Notification};
use countersign_engine::{Sink, Undelivered};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};

use super::signing::Signer;
use super::{Events, SinkError};
use crate::config::SinkConfig;

/// The media type of a CloudEvent in JSON.
const CLOUD_EVENT: &str = "application/cloudevents+json";
/// How many connections to a receiver are kept for later.
const IDLE_CONNECTIONS: usize = 1;

/// Posts each notification as a CloudEvent, signed as Standard Webhooks has it.
#[derive(Debug)]
pub struct Webhook {
    events: Events,
    signer: Signer,
    url: Url,
    client: Client,
    /// The receiver holds the time against its own, so it is the wall clock, also where a server rehearses another time.
    clock: SystemClock,
}

impl Webhook {
    pub fn new(events: Events, signer: Signer, config: &SinkConfig, timeout: Duration) -> Result<Self, SinkError> {
        let failed = |problem: String| SinkError::Tls { sink: config.name.clone(), problem };
        let url = config.url.as_deref().unwrap_or_default();
        let url = Url::parse(url).map_err(|_| failed("its URL is none".to_owned()))?;
        // A redirect would carry the event to where nobody configured, and so would a proxy of the environment.
        let client = Client::builder()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .https_only(url.scheme() == "https")
            .connect_timeout(timeout)
            .timeout(timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")));
        let client = match (&config.ca, url.scheme()) {
            (Some(ca), _) => client.tls_certs_only(authorities(&config.name, ca)?),
            // Nobody is asked for a certificate, and a machine without authorities can post to itself.
            (None, "http") => client.tls_certs_only([]),
            (None, _) => client,
        };
        let client = client.build().map_err(|error| failed(cause(&error)))?;
        Ok(Self { events, signer, url, client, clock: SystemClock::default() })
    }

    async fn post(&self, notification: &Notification) -> Result<(), Undelivered> {
        let id = notification.id.to_string();
        let body = self.events.json(notification);
        let seconds = self.clock.wall().millis().div_euclid(1_000);
        let sending = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, CLOUD_EVENT)
            .header("webhook-id", &id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", self.signer.sign(&id, seconds, &body))
            .body(body)
            .send();
        // Whatever else it says is not read: the connection is closed over it.
        let status = sending.await.map_err(|error| Undelivered(cause(&error.without_url())))?.status();
        match status {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => {
                Err(Undelivered(format!("answered {}; no redirect is followed", status.as_u16())))
            }
            status => Err(Undelivered(format!("answered {}", status.as_u16()))),
        }
    }
}

impl Sink for Webhook {
    fn deliver<'a>(&'a self, notification: &'a Notification) -> BoxFuture<'a, Result<(), Undelivered>> {
        self.post(notification).boxed()
    }
}

fn authorities(sink: &str, path: &Path) -> Result<Vec<Certificate>, SinkError> {
    let (name, file) = (sink.to_owned(), path.to_owned());
    let pem = std::fs::read(path).map_err(|source| SinkError::Read { sink: name, path: file, source })?;
    let failed =
        |problem: &str| SinkError::Tls { sink: sink.to_owned(), problem: format!("`{}` {problem}", path.display()) };
    let authorities = Certificate::from_pem_bundle(&pem).map_err(|_| failed("is not valid PEM"))?;
    if authorities.is_empty() { Err(failed("holds no `CERTIFICATE`")) } else { Ok(authorities) }
}

/// The innermost cause, which says what went wrong.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
