//! Tidying: rows that no decision can depend on any more. Nothing rests on it: deadlines are in the rows, and whoever reads
//! them decides.

use countersign_core::Timestamp;
use countersign_core::ledger::Ledger;
use countersign_core::restraint::{AskedOfLate, CoolDown};
use countersign_core::review::BrokenGlass;
use countersign_store::repository::{RequestRow, stored};
use countersign_store::{Commit, CommitError, Kernel, Key, Kind, Prefix};
use serde::de::DeserializeOwned;

use crate::engine::Engine;
use crate::error::Error;

/// How many rows one commit deletes.
const CHUNK: usize = 32;

impl<K: Kernel> Engine<K> {
    /// Deletes the answers of request ids that nobody may ask for again, what was asked too long ago to count, the cool-downs that
    /// are over, labels and charges that count no more, when the glass was broken too long ago to count, and what waits in vain for sinks that are not configured any
    /// more; returns how many rows that were.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::ClockJumped`].
    pub async fn tidy(&self) -> Result<usize, Error> {
        let requests = self.tidy_kind(Kind::Request, |row: &RequestRow, now| now.reached(row.expires_at)).await?;
        let asked = self.tidy_kind(Kind::AskedOfLate, AskedOfLate::is_over).await?;
        let cooled = self.tidy_kind(Kind::CoolDown, CoolDown::is_over).await?;
        self.sights.tidy(self.now()?);
        let budget = self.limits.glass;
        let broken = self.tidy_kind(Kind::BrokenGlass, |row: &BrokenGlass, now| row.is_over(budget, now)).await?;
        let kept = self.tidy_kind(Kind::Ledger, Ledger::is_over).await?;
        let left = self.forget_leftovers(self.now()?).await?;
        Ok([requests, asked, cooled, broken, kept, left].into_iter().fold(0, usize::saturating_add))
    }

    async fn tidy_kind<T: DeserializeOwned>(
        &self,
        kind: Kind,
        is_over: impl Fn(&T, Timestamp) -> bool,
    ) -> Result<usize, Error> {
        let now = self.now()?;
        let prefix = Prefix::kind(self.tenant(), kind);
        let mut after: Option<Key> = None;
        let mut deleted = 0_usize;
        loop {
            let page = self.repo.kernel().scan(&prefix, after.as_ref(), 1_024).await?;
            let mut old = Vec::new();
            for (key, row) in &page.rows {
                if is_over(&stored(key, row)?.value, now) {
                    old.push((key.clone(), row.revision));
                }
            }
            for chunk in old.chunks(CHUNK) {
                let commit = Commit::new(self.tenant().clone());
                let commit = chunk.iter().fold(commit, |commit, (key, revision)| commit.delete(key.clone(), *revision));
                match self.repo.kernel().commit(commit).await {
                    Ok(_) => deleted = deleted.saturating_add(chunk.len()),
                    // Another sweeper was faster.
                    Err(CommitError::Conflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(deleted);
            }
        }
    }
}
