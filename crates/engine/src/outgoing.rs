//! Whom a bundle excludes, kept before another one takes its place.

use countersign_core::approval::{Approval, Changed, VoidCause};
use countersign_core::{ApprovalId, Timestamp};
use countersign_policy::View;
use countersign_store::kernel::MAX_VALUE_BYTES;
use countersign_store::repository::{CommitExt, Stored, encode};
use countersign_store::{Commit, CommitError, Kernel};

use crate::engine::Engine;
use crate::error::Error;
use crate::record::{Event, record};

/// How many requests are read at once.
const PAGE: usize = 256;
/// How long a request can live: a day until it is answered, and a day after, by the longest `@ttl`; and an hour to be sure.
const LONGEST_LIFE: std::time::Duration = std::time::Duration::from_secs(49 * 60 * 60);

impl<K: Kernel> Engine<K> {
    /// Adds to every live request whom the outgoing bundle excludes, because nobody will know later: the excluded only grow
    /// (I2). A request that is made meanwhile is made under that bundle, and knows them.
    pub(crate) async fn keep_excluded(&self, now: Timestamp) -> Result<(), Error> {
        let Ok(outgoing) = self.active() else { return Ok(()) };
        let mut before = None;
        loop {
            let page = self.repo.newest::<Approval>(before.as_ref(), PAGE).await?;
            let mut changed = Vec::new();
            for Stored { value, .. } in &page.values {
                if now.since(value.created_at) > LONGEST_LIFE {
                    self.keep_changed(changed, outgoing.view(), now).await?;
                    return Ok(());
                }
                if let Some(commit) = self.excluding(value.id, outgoing.view(), now).await? {
                    changed.push((value.id, commit));
                }
            }
            self.keep_changed(changed, outgoing.view(), now).await?;
            before = page.next;
            if before.is_none() {
                return Ok(());
            }
        }
    }

    /// Commits what a page of requests came to, for the price of one sync; who was voted on meanwhile is looked at again.
    async fn keep_changed(
        &self,
        mut changed: Vec<(ApprovalId, Commit)>,
        outgoing: View<'_>,
        now: Timestamp,
    ) -> Result<(), Error> {
        while !changed.is_empty() {
            let (ids, commits): (Vec<ApprovalId>, Vec<Commit>) = changed.into_iter().unzip();
            changed = Vec::new();
            for (id, outcome) in ids.into_iter().zip(self.repo.kernel().commit_many(commits).await) {
                match outcome {
                    Ok(_) => {}
                    Err(CommitError::Conflict { .. }) => {
                        changed.extend(self.excluding(id, outgoing, now).await?.map(|commit| (id, commit)));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The commit by which a live request comes to exclude whom `outgoing` excludes, if there is anybody to add.
    async fn excluding(&self, id: ApprovalId, outgoing: View<'_>, now: Timestamp) -> Result<Option<Commit>, Error> {
        let mut question = self.question(id).await?;
        let newly = question.exclude(outgoing)?;
        if question.state(now).is_terminal() || newly.is_empty() {
            return Ok(None);
        }
        let bundle = outgoing.bundle().digest();
        let commit = Commit::new(self.tenant().clone());
        // One request must not keep a bundle from being published: what has no room for them is put anew.
        let cause = VoidCause::ConditionsChanged { changed: Some(Changed::Excluded) };
        let event = Event::ApprovalExcluded { approval: id, excluded: newly, bundle };
        let event = if encode(&question.approval.value).len() > MAX_VALUE_BYTES {
            question = self.question(id).await?;
            question.approval.value.void(cause.clone(), now)?;
            Event::ApprovalVoid { approval: id, cause: &cause }
        } else {
            event
        };
        let commit = self.telling(commit.update(&question.approval), &event, None, now)?;
        Ok(Some(commit.record(record(self.tenant(), now, None, None, event))))
    }
}
