//! Notifications as signed HTTP requests.

use std::time::Duration;

use countersign_core::time::SystemClock;
use countersign_core::{Clock as _, Notification};
use countersign_engine::{Sink, Undelivered};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::CONTENT_TYPE;
use reqwest::{Client, Url};

use super::signing::Signer;
use super::{Events, SinkError};
use crate::config::SinkConfig;
use crate::outgoing::{self, AuthoritiesError};

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
        let client = outgoing::client(&url, config.ca.as_deref()).map_err(|error| {
            let path = config.ca.clone().unwrap_or_default();
            match error {
                AuthoritiesError::Read(source) => SinkError::Read { sink: config.name.clone(), path, source },
                AuthoritiesError::Pem => failed(format!("`{}` is not valid PEM", path.display())),
                AuthoritiesError::None => failed(format!("`{}` holds no `CERTIFICATE`", path.display())),
            }
        })?;
        let client = client
            .retry(reqwest::retry::never())
            .https_only(url.scheme() == "https")
            .connect_timeout(timeout)
            .timeout(timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build()
            .map_err(|error| failed(cause(&error)))?;
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

/// The innermost cause, which says what went wrong.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
