//! The beginning of the log is dropped, for whom the `pruneLog` policies permit it, and once the configuration no longer asks for it.
//! The tree stays, and with it every proof: that something stood there, and what it was to whoever has a copy of it.

use countersign_audit::Hash;
use countersign_core::Timestamp;
use countersign_core::time::Span;
use countersign_policy::AdminAction;
use countersign_store::questions::SEGMENT;
use countersign_store::{Commit, Kernel};
use serde::{Deserialize, Serialize};

use crate::ask::require_request_id;
use crate::engine::{Call, Engine, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::published::LogStanding;
use crate::record::Event;

/// The longest name of a copy, in bytes.
const LONGEST_NAME: usize = 512;

/// What is to be dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// The first record that is kept: a multiple of [`Self::STEP`].
    pub minimum_index: u64,
    /// The root of the records before it, as the caller has checked it: what is dropped is what they mean, and have a copy of.
    pub root: Hash,
    /// Where the caller says that a copy of them is; absent if they say that there is none.
    pub archive: Option<String>,
}

/// What was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// The first record that was dropped.
    pub from: u64,
    /// The first record that is kept.
    pub minimum_index: u64,
}

impl Prune {
    /// Records are dropped by so many: whole tiles, and whole segments of the index.
    pub const STEP: u64 = SEGMENT;
}

impl<K: Kernel> Engine<K> {
    /// Drops the records before an index. They are not there any more when this answers, and a record tells of it.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], [`Error::InvalidField`], [`Error::NotInLog`], [`Error::PruningRefused`],
    /// [`Error::Store`].
    pub async fn prune(&self, call: &Call, prune: &Prune) -> Result<Replayable<Pruned>, Error> {
        self.require(call, require_request_id(call)).await?;
        // One at a time: each record tells from where on its own dropped.
        let _turn = self.pruning.lock().await;
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(pruned) = self.replay::<Pruned>(scene).await? {
                return Ok(Replayable::replayed(pruned));
            }
            let tenant = tenant_entity(self.tenant())?;
            let permitted = self.administer(scene, AdminAction::PruneLog { tenant: &tenant }, "pruneLog")?;
            let (from, newest) = self.may_prune(prune, scene.now).await?;
            let Prune { minimum_index, root, archive } = prune;
            let event = Event::LogPruned {
                from,
                minimum_index: *minimum_index,
                root: root.to_string(),
                newest,
                archive: archive.as_deref(),
                determining: &permitted.policies,
            };
            let pruned = Pruned { from, minimum_index: *minimum_index };
            let commit = Commit::new(self.tenant().clone()).prune(*minimum_index);
            self.commit(scene, commit, event, &pruned).await?;
            Ok(Replayable::fresh(pruned))
        };
        self.settle(call, None, attempt).await
    }

    /// From where to where records may be dropped, and the time of the newest of them.
    async fn may_prune(&self, prune: &Prune, now: Timestamp) -> Result<(u64, Timestamp), Error> {
        let Prune { minimum_index, root, archive } = prune;
        let minimum_index = *minimum_index;
        let refused = |reason: String| Err(Error::PruningRefused(reason));
        let Some(keep) = self.limits.keep_records else {
            return refused("the configuration keeps all of them: it has no `log.keep_days`".to_owned());
        };
        if !minimum_index.is_multiple_of(Prune::STEP) {
            return Err(Error::field("minimum_index", format!("expected a multiple of {}", Prune::STEP)));
        }
        if archive.as_ref().is_some_and(|archive| archive.is_empty() || archive.len() > LONGEST_NAME) {
            return Err(Error::field("archive", format!("expected 1 to {LONGEST_NAME} bytes, or none")));
        }
        let kernel = self.repo.kernel();
        let size = kernel.log_size(self.tenant()).await?;
        if minimum_index > size {
            return Err(Error::NotInLog(format!("the log has {size} records, not {minimum_index}")));
        }
        let from = kernel.log_minimum_index(self.tenant()).await?;
        if minimum_index <= from {
            return Err(Error::field(
                "minimum_index",
                format!("those before {from} are dropped already: expected more"),
            ));
        }
        let has = self.log_root(minimum_index).await?;
        if has != *root {
            return refused(format!(
                "the root of the first {minimum_index} is `{has}` here, and not `{root}`: the copy is of another log, or damaged"
            ));
        }
        if self.limits.publishes {
            let published = self.published_of(size).await?;
            if published < minimum_index {
                return refused(format!(
                    "{published} are published yet, and the others would never be; try again later"
                ));
            }
        }
        // What is counted and found is to be of all that ever was.
        self.count_figures().await?;
        self.index_log(false).await?;
        let newest = self.newest_between(from, minimum_index).await?;
        if !now.reached(newest.plus(keep)) {
            let (age, keep) = (Span(now.since(newest)), Span(keep));
            return refused(format!("the newest of them is {age} old, and `log.keep_days` keeps each for {keep}"));
        }
        Ok((from, newest))
    }

    /// How many records of this log others can see. What was published of another history shows none of them.
    async fn published_of(&self, size: u64) -> Result<u64, Error> {
        let Some(note) = self.published.load_full() else { return Ok(0) };
        let head = note.unverified();
        let continues = self.standing_to(head, size).await? == LogStanding::Continues;
        Ok(if continues { head.size() } else { 0 })
    }

    /// The latest time that one of the records bears, which are whole segments.
    async fn newest_between(&self, from: u64, until: u64) -> Result<Timestamp, Error> {
        let mut newest = None;
        for segment in from / SEGMENT..until / SEGMENT {
            let (times, _) = self.repo.segment_times(segment, false, 1).await?;
            let (_, times) = times.first().filter(|(at, _)| *at == segment).ok_or_else(|| {
                Error::Internal(format!("the index does not say of when the records of segment {segment} are"))
            })?;
            newest = newest.max(Some(times.last));
        }
        newest.ok_or_else(|| Error::Internal("nothing is to be dropped".to_owned()))
    }
}
