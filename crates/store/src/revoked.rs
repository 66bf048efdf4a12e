//! The rows of revocations, and of what was redeemed and is not completed.

use countersign_core::{Revocation, RevocationId, Revocations, Timestamp, TokenId};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::kernel::{Commit, Kernel, Revision};
use crate::layout::{Key, Kind, Prefix};
use crate::repository::{Repository, encode, stored};

/// That a capability was redeemed, and nobody has told its outcome. What it is stands in its own row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningRow {}

/// Capabilities whose outcome is due, the one that was due first before the others, and where the next page begins.
pub type Due = (Vec<TokenId>, Option<(Timestamp, TokenId)>);

impl<K: Kernel> Repository<K> {
    /// Every revocation by a wider axis that is kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revocations(&self) -> Result<Revocations, StoreError> {
        let prefix = Prefix::revoked(self.tenant());
        let (mut revocations, mut after) = (Revocations::default(), None);
        loop {
            let page = self.kernel().scan(&prefix, after.as_ref(), usize::MAX).await?;
            for (key, row) in &page.rows {
                revocations.insert(stored::<Revocation>(key, row)?.value);
            }
            after = page.next;
            if after.is_none() {
                return Ok(revocations);
            }
        }
    }

    /// The row that says that a capability runs, if there is one: what an earlier release redeemed has none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn running(&self, complete_by: Timestamp, id: TokenId) -> Result<Option<Revision>, StoreError> {
        let row = self.kernel().get(&Key::running(self.tenant(), complete_by, &id)).await?;
        Ok(row.map(|row| row.revision))
    }

    /// The capabilities whose outcome was due at `now` and was told by nobody, after the one given; at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn outcomes_due(
        &self,
        now: Timestamp,
        after: Option<(Timestamp, TokenId)>,
        limit: usize,
    ) -> Result<Due, StoreError> {
        let after = after.map(|(due, id)| Key::running(self.tenant(), due, &id));
        let page = self.kernel().scan(&Prefix::kind(self.tenant(), Kind::Running), after.as_ref(), limit).await?;
        let rows = page.rows.iter().filter_map(|(key, _)| key.running_parts());
        let due: Vec<(Timestamp, TokenId)> = rows.take_while(|(due, _)| now.reached(*due)).collect();
        // They lie in the order of time: behind one that is not due yet, none is.
        let next = page.next.and(due.last().copied()).filter(|_| due.len() == page.rows.len());
        Ok((due.into_iter().map(|(_, id)| id).collect(), next))
    }
}

/// Commits of revocations, in the words of the domain.
pub trait RevokedExt: Sized {
    /// Keeps a revocation by a wider axis. There is one for each epoch.
    #[must_use]
    fn revoke(self, epoch: u64, revocation: &Revocation) -> Self;
    /// Tells of a revocation of any axis.
    #[must_use]
    fn tell_revocation(self, id: &RevocationId, revocation: &Revocation) -> Self;
    /// A capability runs from now on.
    #[must_use]
    fn run(self, complete_by: Timestamp, id: &TokenId) -> Self;
    /// It does not any more.
    #[must_use]
    fn stop(self, complete_by: Timestamp, id: &TokenId, read: Revision) -> Self;
}

impl RevokedExt for Commit {
    fn revoke(self, epoch: u64, revocation: &Revocation) -> Self {
        let key = Key::revoked(&self.log, epoch);
        self.create(key, encode(revocation))
    }
    fn tell_revocation(self, id: &RevocationId, revocation: &Revocation) -> Self {
        let key = Key::told_revocation(&self.log, id);
        self.create(key, encode(revocation))
    }
    fn run(self, complete_by: Timestamp, id: &TokenId) -> Self {
        let key = Key::running(&self.log, complete_by, id);
        self.create(key, encode(&RunningRow {}))
    }
    fn stop(self, complete_by: Timestamp, id: &TokenId, read: Revision) -> Self {
        let key = Key::running(&self.log, complete_by, id);
        self.delete(key, read)
    }
}
