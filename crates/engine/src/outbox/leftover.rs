//! What waits for sinks that are not configured any more. It is kept for a while, because a sink that was left out by mistake
//! is put back, and then goes for good.

use std::time::Duration;

use countersign_core::{Line, NotificationId, Timestamp};
use countersign_store::outbox::{DeadRow, QueuedRow};
use countersign_store::repository::stored;
use countersign_store::{Commit, CommitError, Kernel, Key, Place, Prefix, StoreError};

use crate::engine::Engine;
use crate::error::Error;

/// How long what waits for a sink that is not configured is kept.
const KEPT: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// How many rows are read at once, and deleted in one commit.
const PAGE: usize = 32;

impl<K: Kernel> Engine<K> {
    /// Deletes what has waited too long for sinks that are not configured, and returns how many rows that were.
    pub(crate) async fn forget_leftovers(&self, now: Timestamp) -> Result<usize, Error> {
        let queued_at = |key: &Key, row: &_| stored::<QueuedRow>(key, row).map(|row| row.value.queued_at);
        let died_at = |key: &Key, row: &_| stored::<DeadRow>(key, row).map(|row| row.value.died_at);
        let last_queued = |sink: &str| {
            let place = Place { read: u64::MAX, number: u8::MAX };
            Key::queued(self.tenant(), sink, Line::from_bytes([u8::MAX; 16]), place)
        };
        let last_dead = |sink: &str| Key::dead_letter(self.tenant(), sink, &NotificationId::from_bytes([u8::MAX; 16]));
        let queued = self.forget_in(&Prefix::queues(self.tenant()), now, queued_at, last_queued).await?;
        let dead = self.forget_in(&Prefix::dead_letters(self.tenant(), None), now, died_at, last_dead).await?;
        if queued.saturating_add(dead) > 0 {
            let tenant = self.tenant().as_str();
            tracing::error!(tenant, queued, dead, "notifications for sinks that are not configured forgotten");
        }
        Ok(queued.saturating_add(dead))
    }

    async fn forget_in(
        &self,
        prefix: &Prefix,
        now: Timestamp,
        since: impl Fn(&Key, &countersign_store::Row) -> Result<Timestamp, StoreError> + Send + Sync,
        last_of: impl Fn(&str) -> Key + Send + Sync,
    ) -> Result<usize, Error> {
        let (mut after, mut forgotten) = (None, 0_usize);
        loop {
            // What is configured is stepped over, however much of it there is.
            let first = self.repo.kernel().scan(prefix, after.as_ref(), 1).await?;
            let Some(sink) = first.rows.first().and_then(|(key, _)| key.sink()) else { return Ok(forgotten) };
            if self.outbox.shelf(sink).is_some() {
                after = Some(last_of(sink));
                continue;
            }
            let page = self.repo.kernel().scan(prefix, after.as_ref(), PAGE).await?;
            let mut commit = Commit::new(self.tenant().clone());
            for (key, row) in page.rows.iter().filter(|(key, _)| key.sink() == Some(sink)) {
                after = Some(key.clone());
                if now.reached(since(key, row)?.plus(KEPT)) {
                    commit = commit.delete(key.clone(), row.revision);
                }
            }
            let rows = commit.writes.len();
            match self.repo.kernel().commit(commit).await {
                Ok(_) => forgotten = forgotten.saturating_add(rows),
                // Nothing is old enough, or another sweeper was faster.
                Err(CommitError::Empty | CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
