//! `NotificationService`.

use countersign_core::{Notification, NotificationId, NotificationKind};
use countersign_engine::{DeadLetter as Dead, LetterPlace, Paged, SinkReport, SinkState};
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified};
use super::convert::{id, page_size, timestamp};
use super::errors::Failure;
use crate::proto::notification_service_server::NotificationService;
use crate::proto::{
    DeadLetter, DropNotificationRequest, DropNotificationResponse, ListDeadLettersRequest, ListDeadLettersResponse,
    ListSinksRequest, ListSinksResponse, NotificationKind as Kind, NotificationSink, RetryNotificationRequest,
    RetryNotificationResponse,
};

/// Looks after what is told.
#[derive(Clone)]
pub struct Notifications(pub Backend);

#[tonic::async_trait]
impl NotificationService for Notifications {
    async fn list_sinks(&self, request: Request<ListSinksRequest>) -> Result<Response<ListSinksResponse>, Status> {
        let run = |verified: Verified, ListSinksRequest {}: ListSinksRequest| async move {
            let sinks = verified.engine.sinks(&verified.call).await?;
            Ok(ListSinksResponse { sinks: sinks.into_iter().map(sink).collect() })
        };
        self.0.handle("ListSinks", request, |_| "", run).await
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ListDeadLettersRequest { sink, page_size: size, page_token } = message;
            let after = if page_token.is_empty() { None } else { Some(place(&page_token)?) };
            let sink = if sink.is_empty() { None } else { Some(sink_name(&sink)?) };
            let size = page_size(size, 100, 1_000)?;
            let Paged { items, next } = verified.engine.dead_letters(&verified.call, sink, after, size).await?;
            let next_page_token = next.map(|(sink, id)| format!("{sink}.{id}")).unwrap_or_default();
            Ok(ListDeadLettersResponse { dead_letters: items.into_iter().map(dead_letter).collect(), next_page_token })
        };
        self.0.handle("ListDeadLetters", request, |_| "", run).await
    }

    async fn retry_notification(
        &self,
        request: Request<RetryNotificationRequest>,
    ) -> Result<Response<RetryNotificationResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let RetryNotificationRequest { sink, notification_id, request_id: _ } = message;
            let (sink, notification) = (sink_name(&sink)?, id("notification_id", &notification_id)?);
            let retried = verified.engine.retry_notification(&verified.call, sink, notification).await?;
            tracing::info!(sink, %notification, replayed = retried.replayed, "dead letter retried");
            Ok(RetryNotificationResponse { replayed: retried.replayed })
        };
        self.0.handle("RetryNotification", request, |m| &m.request_id, run).await
    }

    async fn drop_notification(
        &self,
        request: Request<DropNotificationRequest>,
    ) -> Result<Response<DropNotificationResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let DropNotificationRequest { sink, notification_id, request_id: _ } = message;
            let (sink, notification) = (sink_name(&sink)?, id("notification_id", &notification_id)?);
            let dropped = verified.engine.drop_notification(&verified.call, sink, notification).await?;
            tracing::info!(sink, %notification, replayed = dropped.replayed, "dead letter dropped");
            Ok(DropNotificationResponse { replayed: dropped.replayed })
        };
        self.0.handle("DropNotification", request, |m| &m.request_id, run).await
    }
}

/// A name that a sink can have: it becomes a part of keys.
fn sink_name(name: &str) -> Result<&str, Failure> {
    // Names of sinks and tenants have the same form.
    match countersign_core::TenantId::new(name) {
        Ok(_) => Ok(name),
        Err(_) => Err(Failure::field("sink", "expected the name of a sink, as the configuration has it")),
    }
}

fn place(token: &str) -> Result<LetterPlace, Failure> {
    let read = || {
        let (sink, id) = token.split_once('.')?;
        Some((sink_name(sink).ok()?.to_owned(), id.parse::<NotificationId>().ok()?))
    };
    read().ok_or_else(|| Failure::field("page_token", "not one of this service's"))
}

const fn kind(kind: NotificationKind) -> Kind {
    match kind {
        NotificationKind::Asked => Kind::Asked,
        NotificationKind::Voted => Kind::Voted,
        NotificationKind::Withdrawn => Kind::Withdrawn,
        NotificationKind::Decided => Kind::Decided,
        NotificationKind::Cancelled => Kind::Cancelled,
        NotificationKind::Void => Kind::Void,
        NotificationKind::Expired => Kind::Expired,
        NotificationKind::Redeemed => Kind::Redeemed,
        NotificationKind::Escalated => Kind::Escalated,
        NotificationKind::GlassBroken => Kind::GlassBroken,
        NotificationKind::ReviewClosed => Kind::ReviewClosed,
    }
}

fn sink(report: SinkReport) -> NotificationSink {
    let SinkReport { name, events, state } = report;
    let SinkState {
        backlog,
        dead_letters,
        last_delivered,
        last_failure,
        down,
        delivered,
        failed,
        given_up: _,
        forgotten: _,
    } = state;
    let (last_failed_at, last_error) = last_failure.unzip();
    NotificationSink {
        name,
        events: events.into_iter().map(|event| kind(event).into()).collect(),
        backlog: backlog as u64,
        dead_letters: dead_letters as u64,
        last_delivered_at: last_delivered.map(timestamp),
        last_failed_at: last_failed_at.map(timestamp),
        last_error: last_error.unwrap_or_default(),
        down,
        delivered,
        failed,
    }
}

fn dead_letter(dead: Dead) -> DeadLetter {
    let Dead { sink, place: _, died_at, attempts, error, notification } = dead;
    let Notification { id, kind: happened, at, approval, review, .. } = notification;
    DeadLetter {
        notification_id: id.to_string(),
        sink,
        kind: kind(happened).into(),
        approval_id: approval.map(|id| id.to_string()).unwrap_or_default(),
        happened_at: Some(timestamp(at)),
        died_at: Some(timestamp(died_at)),
        attempts,
        error,
        review_id: review.map(|id| id.to_string()).unwrap_or_default(),
    }
}
