//! Tidying: rows that no decision can depend on any more. Nothing rests on it: deadlines are in the rows, and whoever reads them
//! decides. Two that tidy at once are harmless, because every row is deleted at the revision at which it was found over.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::approval::Approval;
use countersign_core::capability::Capability;
use countersign_core::ledger::Ledger;
use countersign_core::restraint::{AskedOfLate, CoolDown};
use countersign_core::review::BrokenGlass;
use countersign_core::session::Session;
use countersign_store::repository::{RequestRow, stored};
use countersign_store::{Commit, CommitError, Kernel, Key, Kind, Prefix, Revision, Row, StoreError};

use crate::engine::Engine;
use crate::error::Error;

/// How many rows are deleted in one commit, each with what goes with it.
const CHUNK: usize = 16;
/// How many rows are read at once.
const PAGE: usize = 1_024;
/// After so many rows none of which is over, a kind is gone on with at the next time.
const AT_ONCE: usize = 16 * PAGE;
/// How much longer a session is kept than what else is over: requests in it expire up to a day after it, and are read with it.
const KEPT_WITH_REQUESTS: Duration = Duration::from_secs(26 * 60 * 60);
/// How long a capability is kept whose outcome nobody knows. Somebody may still find it out.
const KEPT_UNKNOWN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What goes by its age, in this order: sessions after what is read with them.
const AGEING: [Kind; 8] = [
    Kind::Request,
    Kind::AskedOfLate,
    Kind::CoolDown,
    Kind::BrokenGlass,
    Kind::Ledger,
    Kind::Capability,
    Kind::Approval,
    Kind::Session,
];

/// How old a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// Nothing depends on it.
    Over,
    /// Something may.
    Held,
    /// Something may, on this one and on all that come after it: they lie in the order of creation.
    Young,
}

impl Age {
    fn of(now: Timestamp, over_at: Timestamp) -> Self {
        if now.reached(over_at) { Self::Over } else { Self::Held }
    }

    /// Of rows that lie in the order of creation: none is over before it was there for as long as it is kept.
    fn since(now: Timestamp, created_at: Timestamp, kept: Duration, over_at: Timestamp) -> Self {
        if now.reached(created_at.plus(kept)) { Self::of(now, over_at.plus(kept)) } else { Self::Young }
    }
}

/// Where tidying goes on, for each kind that was not looked through at once.
#[derive(Debug, Default)]
pub(crate) struct Tidied(Mutex<HashMap<Kind, Key>>);

impl Tidied {
    fn take(&self, kind: Kind) -> Option<Key> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&kind)
    }

    fn go_on_after(&self, kind: Kind, key: Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, key);
    }
}

impl<K: Kernel> Engine<K> {
    /// Deletes what is over and was kept for long enough, and what waits in vain for sinks that are not configured any more;
    /// returns how many rows that were.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::ClockJumped`].
    pub async fn tidy(&self) -> Result<usize, Error> {
        let now = self.now()?;
        self.sights.tidy(now);
        let mut deleted = self.forget_leftovers(now).await?;
        for kind in AGEING {
            let (rows, all) = self.tidy_kind(kind, now).await?;
            deleted = deleted.saturating_add(rows);
            if kind == Kind::Approval && !all {
                // Their sessions wait for them.
                break;
            }
        }
        Ok(deleted)
    }

    /// Deletes what is over of a kind; says whether that was all that was found.
    async fn tidy_kind(&self, kind: Kind, now: Timestamp) -> Result<(usize, bool), Error> {
        let prefix = Prefix::kind(self.tenant(), kind);
        let mut after = self.tidied.take(kind);
        // What was looked through before may have come to be over since.
        let (mut deleted, mut in_vain, mut all) = (0_usize, 0_usize, after.is_none());
        loop {
            let page = self.repo.kernel().scan(&prefix, after.as_ref(), PAGE).await?;
            let (mut over, mut young) = (Vec::new(), false);
            for (key, row) in &page.rows {
                match self.age(kind, key, row, now)? {
                    Age::Over => over.push((key, row)),
                    Age::Held => {}
                    Age::Young => {
                        young = true;
                        break;
                    }
                }
            }
            in_vain = if over.is_empty() { in_vain.saturating_add(page.rows.len()) } else { 0 };
            for chunk in over.chunks(CHUNK) {
                let (mut commit, mut rows) = (Commit::new(self.tenant().clone()), 0_usize);
                for (key, row) in chunk {
                    let Some(others) = self.goes_with(kind, key, row).await? else {
                        all = false;
                        continue;
                    };
                    let commit_with = |commit: Commit, (key, revision)| commit.delete(key, revision);
                    commit = others.into_iter().fold(commit.delete((*key).clone(), row.revision), commit_with);
                    rows = rows.saturating_add(1);
                }
                match self.repo.kernel().commit(commit).await {
                    Ok(_) => deleted = deleted.saturating_add(rows),
                    Err(CommitError::Empty) => {}
                    // Another sweeper was faster.
                    Err(CommitError::Conflict { .. }) => all = false,
                    Err(error) => return Err(error.into()),
                }
            }
            let Some(next) = page.next.filter(|_| !young) else { return Ok((deleted, all)) };
            if in_vain >= AT_ONCE {
                self.tidied.go_on_after(kind, next);
                return Ok((deleted, false));
            }
            after = Some(next);
            // There may be millions.
            tokio::task::yield_now().await;
        }
    }

    /// Whether a row is over. Every kind stands here, so that a new one does not compile until somebody has decided how its rows
    /// go.
    fn age(&self, kind: Kind, key: &Key, row: &Row, now: Timestamp) -> Result<Age, StoreError> {
        let over_if = |over| if over { Age::Over } else { Age::Held };
        Ok(match kind {
            Kind::Request => Age::of(now, stored::<RequestRow>(key, row)?.value.expires_at),
            Kind::AskedOfLate => over_if(stored::<AskedOfLate>(key, row)?.value.is_over(now)),
            Kind::CoolDown => over_if(stored::<CoolDown>(key, row)?.value.is_over(now)),
            Kind::Ledger => over_if(stored::<Ledger>(key, row)?.value.is_over(now)),
            Kind::BrokenGlass => over_if(stored::<BrokenGlass>(key, row)?.value.is_over(self.limits.glass, now)),
            Kind::Capability => {
                let capability = stored::<Capability>(key, row)?.value;
                let unknown = if capability.running().is_some() { KEPT_UNKNOWN } else { Duration::ZERO };
                Age::since(now, capability.grant.issued_at, self.limits.kept, capability.over_at().plus(unknown))
            }
            Kind::Approval => {
                let approval = stored::<Approval>(key, row)?.value;
                Age::since(now, approval.created_at, self.limits.kept, approval.expires_at())
            }
            // By its deadline, and not by its end: what is below it has none that is later.
            Kind::Session => {
                let session = stored::<Session>(key, row)?.value;
                Age::since(now, session.opened_at, self.limits.kept, session.deadline.plus(KEPT_WITH_REQUESTS))
            }
            // They go with a request or a session, or with what is delivered.
            Kind::PendingDigest | Kind::Batch | Kind::Heartbeat | Kind::Outbox => Age::Held,
            // They have a tidying of their own (`tidy_revocations`), or go when the outcome is known.
            Kind::Revocation | Kind::Running => Age::Held,
            // There are as many as there are things that they are about, and these stay.
            Kind::Tenant
            | Kind::SigningKey
            | Kind::Entity
            | Kind::EntityHead
            | Kind::Figures
            | Kind::FiguresHead
            | Kind::Precedents => Age::Held,
            // What may be taken up again, and what people read.
            Kind::Bundle | Kind::BundleChunk | Kind::Review => Age::Held,
            // The index of what the log holds.
            Kind::Posting | Kind::QuestionsHead | Kind::SegmentTimes => Age::Held,
            // Not written by any release yet.
            Kind::Checkpoint | Kind::Sweep => Age::Held,
        })
    }

    /// What goes in the same commit as a row; `None` if the row has to wait.
    async fn goes_with(&self, kind: Kind, key: &Key, row: &Row) -> Result<Option<Vec<(Key, Revision)>>, Error> {
        let mut keys = Vec::new();
        match kind {
            // Nobody has found out its outcome for so long; it is listed no more.
            Kind::Capability => {
                let capability = stored::<Capability>(key, row)?.value;
                let running = capability.running().map(|(_, complete_by)| complete_by);
                keys.extend(running.map(|due| Key::running(self.tenant(), due, &capability.grant.id)));
            }
            Kind::Session => keys.push(Key::heartbeat(self.tenant(), &stored::<Session>(key, row)?.value.id)),
            Kind::Approval => {
                let approval = stored::<Approval>(key, row)?.value;
                // Nobody is left untold, however long the service was away.
                if self.repo.ending(&approval.id).await?.is_some() {
                    return Ok(None);
                }
                keys.extend(approval.batch.map(|batch| Key::batch(self.tenant(), &batch.id, batch.place)));
                // Somebody may have asked again since.
                let pointer = self.repo.asked(approval.digest).await?;
                if pointer.is_some_and(|pointer| pointer.value == approval.id) {
                    keys.push(self.repo.asked_key(approval.digest));
                }
            }
            Kind::Request
            | Kind::AskedOfLate
            | Kind::CoolDown
            | Kind::BrokenGlass
            | Kind::Ledger
            | Kind::Revocation
            | Kind::Running
            | Kind::PendingDigest
            | Kind::Batch
            | Kind::Heartbeat
            | Kind::Outbox
            | Kind::Tenant
            | Kind::SigningKey
            | Kind::Entity
            | Kind::EntityHead
            | Kind::Figures
            | Kind::FiguresHead
            | Kind::Precedents
            | Kind::Bundle
            | Kind::BundleChunk
            | Kind::Review
            | Kind::Posting
            | Kind::QuestionsHead
            | Kind::SegmentTimes
            | Kind::Checkpoint
            | Kind::Sweep => {}
        }
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(row) = self.repo.kernel().get(&key).await? {
                rows.push((key, row.revision));
            }
        }
        Ok(Some(rows))
    }
}
