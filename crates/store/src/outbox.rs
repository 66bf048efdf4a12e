//! The outbox: what is to be told of approval requests and of reviews, written in the commit that changes them.
//!
//! Each notification is one row for each sink that wants it. Delivered, the row goes; given up, it becomes a dead letter.

use countersign_core::{ApprovalId, Line, Notification, NotificationId, SessionId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::kernel::{Commit, Guard, Kernel, Revision, Row, Write};
use crate::layout::{Key, Place, Prefix};
use crate::repository::{Repository, Stored, encode, stored};

/// A notification that waits for a sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueuedRow {
    /// Since when it waits: its age is counted from here.
    pub queued_at: Timestamp,
    /// What it tells.
    pub notification: Notification,
}

/// A notification that a sink did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadRow {
    /// The sink.
    pub sink: String,
    /// Where it stood, and stands again when it is retried.
    pub place: Place,
    /// When it was given up.
    pub died_at: Timestamp,
    /// How often it was tried, by the process that gave it up.
    pub attempts: u32,
    /// What the last attempt came to.
    pub error: String,
    /// What it tells.
    pub notification: Notification,
}

/// A request whose end is yet to be told. It ends by time or with its session, and nobody commits that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndingRow {
    /// The request.
    pub approval: ApprovalId,
    /// The session that it dies with.
    pub session: SessionId,
}

/// Some dead letters, and where the next ones begin.
pub type DeadRows = (Vec<Stored<DeadRow>>, Option<Key>);

impl<K: Kernel> Repository<K> {
    /// What waits for a sink at a place of a line.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn queued(&self, sink: &str, line: Line, place: Place) -> Result<Option<Stored<QueuedRow>>, StoreError> {
        self.read(&Key::queued(self.tenant(), sink, line, place)).await
    }

    /// A notification that a sink did not take.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn dead_letter(&self, sink: &str, id: &NotificationId) -> Result<Option<Stored<DeadRow>>, StoreError> {
        self.read(&Key::dead_letter(self.tenant(), sink, id)).await
    }

    /// What a sink did not take, or any of them, the oldest of each first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn dead_letters(
        &self,
        sink: Option<&str>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<DeadRows, StoreError> {
        let page = self.kernel().scan(&Prefix::dead_letters(self.tenant(), sink), after, limit).await?;
        let rows = page.rows.iter().map(|(key, row)| stored(key, row)).collect::<Result<_, _>>()?;
        Ok((rows, page.next))
    }

    /// Whether the end of a request is yet to be told.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ending(&self, approval: &ApprovalId) -> Result<Option<Stored<EndingRow>>, StoreError> {
        self.read(&Key::ending(self.tenant(), approval)).await
    }
}

impl Commit {
    /// Lets a notification wait for a sink.
    #[must_use]
    pub fn queue(self, sink: &str, place: Place, row: &QueuedRow) -> Self {
        let key = Key::queued(&self.log, sink, row.notification.line(), place);
        self.create(key, encode(row))
    }

    /// Keeps a notification that a sink did not take.
    #[must_use]
    pub fn bury(self, row: &DeadRow) -> Self {
        let key = Key::dead_letter(&self.log, &row.sink, &row.notification.id);
        self.create(key, encode(row))
    }

    /// Notes that the end of a request is to be told.
    #[must_use]
    pub fn expect_end(self, row: &EndingRow) -> Self {
        let key = Key::ending(&self.log, &row.approval);
        self.create(key, encode(row))
    }

    /// What the commit makes of a row, and the revision that the row was read at; [`Revision::ZERO`] if it was not there.
    #[must_use]
    pub fn written(&self, key: &Key) -> Option<(Revision, Row)> {
        let value = self.writes.iter().find_map(|write| match write {
            Write::Put(written, value) if written == key => Some(value.clone()),
            Write::Put(..) | Write::Delete(_) => None,
        })?;
        let read = self.guards.iter().find(|guard| guard.key() == key)?;
        let read = match read {
            Guard::Absent(_) => Revision::ZERO,
            Guard::Revision(_, revision) => *revision,
        };
        Some((read, Row { revision: read, value }))
    }
}
