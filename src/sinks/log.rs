//! Notifications as lines of the server's log: for whoever collects that anyhow.

use countersign_core::Notification;
use countersign_engine::{Sink, Undelivered};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::Events;

/// Writes each notification as one line at `info`, with the target `countersign::notification`.
#[derive(Debug)]
pub struct LogSink {
    events: Events,
    name: String,
}

impl LogSink {
    pub fn new(events: Events, name: &str) -> Self {
        Self { events, name: name.to_owned() }
    }
}

impl Sink for LogSink {
    fn deliver<'a>(&'a self, notification: &'a Notification) -> BoxFuture<'a, Result<(), Undelivered>> {
        tracing::info!(
            target: "countersign::notification",
            sink = self.name,
            event = self.events.json(notification),
            "{}",
            Events::kind(notification)
        );
        futures::future::ready(Ok(())).boxed()
    }
}
