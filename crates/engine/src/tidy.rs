//! Tidying: rows that no decision can depend on any more. Nothing rests on it: deadlines are in the rows, and whoever reads
//! them decides.

use countersign_store::repository::{RequestRow, stored};
use countersign_store::{Commit, CommitError, Kernel, Key, Kind, Prefix};

use crate::engine::Engine;
use crate::error::Error;

/// How many rows one commit deletes.
const CHUNK: usize = 32;

impl<K: Kernel> Engine<K> {
    /// Deletes the answers of request ids that nobody may ask for again, and what waits in vain for sinks that are not
    /// configured any more, and returns how many rows that were.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::ClockJumped`].
    pub async fn tidy(&self) -> Result<usize, Error> {
        let now = self.now()?;
        let prefix = Prefix::kind(self.tenant(), Kind::Request);
        let mut after: Option<Key> = None;
        let mut deleted = self.forget_leftovers(now).await?;
        loop {
            let page = self.repo.kernel().scan(&prefix, after.as_ref(), 1_024).await?;
            let mut old = Vec::new();
            for (key, row) in &page.rows {
                if now.reached(stored::<RequestRow>(key, row)?.value.expires_at) {
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
