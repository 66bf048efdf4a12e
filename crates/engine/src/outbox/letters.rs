//! Dead letters: looked at, tried again, or let go, by whoever may.

use countersign_core::{Notification, NotificationId, NotificationKind};
use countersign_policy::AdminAction;
use countersign_store::outbox::{DeadRow, QueuedRow};
use countersign_store::repository::Stored;
use countersign_store::{Commit, Kernel, Key};
use serde::{Deserialize, Serialize};

use super::SinkState;
use crate::ask::require_request_id;
use crate::engine::{Call, Engine, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::read::Paged;
use crate::record::Event;

/// A sink, told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkReport {
    /// Its name.
    pub name: String,
    /// What it is told.
    pub events: Vec<NotificationKind>,
    /// What it is doing.
    pub state: SinkState,
}

/// A notification that a sink did not take.
pub type DeadLetter = DeadRow;

/// Where a page of dead letters ends: the sink, and the last one of it.
pub type LetterPlace = (String, NotificationId);

/// What is kept under the request id of a call about a dead letter.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Done {
    notification: NotificationId,
}

impl<K: Kernel> Engine<K> {
    /// What the sinks are doing.
    pub fn sink_reports(&self) -> Vec<SinkReport> {
        let report = |shelf: &std::sync::Arc<super::Shelf>| SinkReport {
            name: shelf.settings.name.clone(),
            events: shelf.settings.events.iter().copied().collect(),
            state: shelf.state(|state| state.clone()),
        };
        self.outbox.shelves.iter().map(report).collect()
    }

    /// As [`Self::sink_reports`], for a caller who may read the log.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`].
    pub async fn sinks(&self, call: &Call) -> Result<Vec<SinkReport>, Error> {
        let attempt = |scene: Scene| async move {
            self.require_read_log(&scene)?;
            Ok(self.sink_reports())
        };
        self.settle(call, None, attempt).await
    }

    /// Dead letters of a sink, or of all, the oldest of each first, for a caller who may read the log.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], [`Error::Store`].
    pub async fn dead_letters(
        &self,
        call: &Call,
        sink: Option<&str>,
        after: Option<LetterPlace>,
        limit: usize,
    ) -> Result<Paged<DeadLetter, LetterPlace>, Error> {
        let after = &after;
        let attempt = |scene: Scene| async move {
            self.require_read_log(&scene)?;
            let after = after.as_ref().map(|(sink, id)| Key::dead_letter(self.tenant(), sink, id));
            let (rows, next) = self.repo.dead_letters(sink, after.as_ref(), limit).await?;
            let items: Vec<DeadRow> = rows.into_iter().map(|row| row.value).collect();
            let last = items.last().map(|last| (last.sink.clone(), last.notification.id));
            Ok(Paged { items, next: next.and(last) })
        };
        self.settle(call, None, attempt).await
    }

    /// Lets a dead letter wait for its sink again, in its old place, and as if it were new.
    ///
    /// # Errors
    /// [`Error::NotificationNotFound`], [`Error::AdministrationDenied`].
    pub async fn retry_notification(
        &self,
        call: &Call,
        sink: &str,
        id: NotificationId,
    ) -> Result<Replayable<NotificationId>, Error> {
        let again = |scene: &Scene, commit: Commit, dead: &DeadRow| {
            if self.outbox.shelf(sink).is_none() {
                return Err(Error::field("sink", "it is not configured any more; the notification can be dropped"));
            }
            let row = QueuedRow { queued_at: scene.now, notification: dead.notification.clone() };
            Ok(commit.queue(sink, dead.place, &row))
        };
        let event = |told: &Notification| {
            let Notification { approval, review, kind, .. } = *told;
            Event::NotificationRetried { sink, notification: id, approval, review, kind }
        };
        self.change_letter(call, sink, id, again, event).await
    }

    /// Lets a dead letter go: nobody will be told.
    ///
    /// # Errors
    /// [`Error::NotificationNotFound`], [`Error::AdministrationDenied`].
    pub async fn drop_notification(
        &self,
        call: &Call,
        sink: &str,
        id: NotificationId,
    ) -> Result<Replayable<NotificationId>, Error> {
        let go = |_: &Scene, commit: Commit, _: &DeadRow| Ok(commit);
        let event = |told: &Notification| {
            let Notification { approval, review, kind, .. } = *told;
            Event::NotificationDropped { sink, notification: id, approval, review, kind }
        };
        self.change_letter(call, sink, id, go, event).await
    }

    async fn change_letter<'a>(
        &self,
        call: &Call,
        sink: &'a str,
        id: NotificationId,
        change: impl Fn(&Scene, Commit, &DeadRow) -> Result<Commit, Error> + Send + Sync,
        event: impl Fn(&Notification) -> Event<'a> + Send + Sync,
    ) -> Result<Replayable<NotificationId>, Error> {
        self.require(call, require_request_id(call)).await?;
        let (change, event) = (&change, &event);
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(Done { notification }) = self.replay(scene).await? {
                return Ok(Replayable::replayed(notification));
            }
            let tenant = tenant_entity(self.tenant())?;
            self.administer(scene, AdminAction::ManageNotifications { tenant: &tenant }, "manageNotifications")?;
            let dead = self.repo.dead_letter(sink, &id).await?.ok_or(Error::NotificationNotFound)?;
            let Stored { revision, value: dead } = dead;
            let commit = self.guarded(scene, []).delete(Key::dead_letter(self.tenant(), sink, &id), revision);
            let commit = change(scene, commit, &dead)?;
            let event = event(&dead.notification);
            self.commit(scene, commit, event, &Done { notification: id }).await?;
            Ok(Replayable::fresh(id))
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }
}
