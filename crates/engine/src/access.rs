//! Who read what because an administration policy lets them. An auditor asks for that; but reads come by the thousand, and a
//! record for each would let readers fill the log, and keep whoever reads the log from its end. So they are counted, and the counts
//! recorded: a first use soon, and then once in an [`INTERVAL`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use countersign_core::{Digest, TenantId, Timestamp};
use countersign_policy::{AdminAction, Answer};
use countersign_store::kernel::MAX_OPERATIONS;
use countersign_store::{Commit, Kernel};

use crate::caller::Caller;
use crate::engine::{Engine, Scene};
use crate::error::Error;
use crate::record::{Event, record};

/// How long what one caller reads by one reserved action is counted, before it is recorded again.
const INTERVAL: Duration = Duration::from_secs(300);
/// How many such counts are kept apart. Beyond, reads are counted for each reserved action, and not for each caller.
const MAX_COUNTS: usize = 10_000;

/// Which counts are to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichCounts {
    /// First uses, and what was counted for long enough.
    Due,
    /// All: the process ends.
    All,
}

/// What one attempt was let look at by administration policies. Whoever waits for its end shares it: only what was answered is
/// counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Looked(Arc<Mutex<Option<Looks>>>);

#[derive(Debug)]
struct Looks {
    caller: Caller,
    rpc: &'static str,
    bundle: Digest,
    at: Timestamp,
    /// The policies that permitted it, by reserved action.
    by: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Looked {
    /// What is recorded by itself is not counted beside that.
    pub(crate) fn forget(&self) {
        drop(held(&self.0).take());
    }
}

impl Scene {
    /// Whether an answer permits to look at something; if it does, that was the reason why the caller may.
    pub(crate) fn looks_by(&self, action: &'static str, answer: &Answer) -> bool {
        if answer.permitted {
            let mut looked = held(&self.looked.0);
            let looks = looked.get_or_insert_with(|| Looks {
                caller: self.caller.clone(),
                rpc: self.call.rpc,
                bundle: self.active.bundle.digest(),
                at: self.now,
                by: BTreeMap::new(),
            });
            looks.by.entry(action).or_default().extend(answer.policies.iter().cloned());
        }
        answer.permitted
    }
}

/// What was counted of late.
#[derive(Debug, Default)]
pub(crate) struct Accesses {
    counts: Mutex<BTreeMap<Whose, Count>>,
    /// Held while counts are recorded.
    recording: tokio::sync::Mutex<()>,
}

/// The caller, if they are told apart; the reserved action; and the bundle that permitted it.
type Whose = (Option<Digest>, &'static str, Digest);

#[derive(Debug, Default)]
struct Count {
    /// `None` when nothing was read since the last record.
    reads: Option<Reads>,
    recorded: Option<Timestamp>,
}

/// What was read since the last record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reads {
    /// As they called last; `None` of those who are not told apart.
    caller: Option<Caller>,
    count: u64,
    since: Timestamp,
    until: Timestamp,
    rpcs: BTreeSet<&'static str>,
    policies: BTreeSet<String>,
}

impl Reads {
    /// Both, of which `self` is the earlier.
    fn and(mut self, later: Self) -> Self {
        let Self { caller, count, since, until, rpcs, policies } = later;
        self.caller = caller;
        self.count = self.count.saturating_add(count);
        self.since = self.since.min(since);
        self.until = self.until.max(until);
        self.rpcs.extend(rpcs);
        self.policies.extend(policies);
        self
    }
}

impl Accesses {
    /// Something was answered.
    pub(crate) fn count(&self, looked: &Looked) {
        let Some(Looks { caller, rpc, bundle, at, by }) = held(&looked.0).take() else { return };
        let mut counts = held(&self.counts);
        for (action, policies) in by {
            let mut whose = (Some(caller.key()), action, bundle);
            let full = counts.len() >= MAX_COUNTS && !counts.contains_key(&whose);
            if full {
                whose.0 = None;
            }
            let caller = (!full).then(|| caller.clone());
            let reads = Reads { caller, count: 1, since: at, until: at, rpcs: BTreeSet::from([rpc]), policies };
            let count = counts.entry(whose).or_default();
            count.reads = Some(match count.reads.take() {
                Some(earlier) => earlier.and(reads),
                None => reads,
            });
        }
    }

    /// Takes what is due, and forgets those who were quiet for an interval: their next use is a first one.
    fn take(&self, now: Timestamp, which: WhichCounts) -> Vec<(Whose, Reads)> {
        let mut counts = held(&self.counts);
        let over = |count: &Count| count.recorded.is_none_or(|at| now.reached(at.plus(INTERVAL)));
        counts.retain(|_, count| count.reads.is_some() || !over(count));
        let mut taken = Vec::new();
        for (whose, count) in counts.iter_mut().filter(|(_, count)| which == WhichCounts::All || over(count)) {
            if let Some(reads) = count.reads.take() {
                count.recorded = Some(now);
                taken.push((*whose, reads));
            }
        }
        taken
    }

    /// What was taken could not be recorded: it is due again.
    fn put_back(&self, taken: Vec<(Whose, Reads)>) {
        let mut counts = held(&self.counts);
        for (whose, reads) in taken {
            let count = counts.entry(whose).or_default();
            count.recorded = None;
            count.reads = Some(match count.reads.take() {
                Some(later) => reads.and(later),
                None => reads,
            });
        }
    }
}

impl<K: Kernel> Engine<K> {
    /// Whether an administration policy lets the caller look at something. To be asked where that is the reason why they may:
    /// what is answered is counted.
    pub(crate) fn may_read(&self, scene: &Scene, action: AdminAction<'_>) -> bool {
        scene.looks_by(action.name(), &self.may_administer(scene, action))
    }

    /// As [`Self::may_read`], where nothing else would let them.
    pub(crate) fn require_read(&self, scene: &Scene, action: AdminAction<'_>) -> Result<(), Error> {
        if self.may_read(scene, action) {
            return Ok(());
        }
        Err(Error::AdministrationDenied { caller: scene.caller.entity.to_string(), action: action.name() })
    }

    /// Records what was read. To be called now and then, and at the end with [`WhichCounts::All`]. It runs to its end whoever stops waiting
    /// for it: what was taken would be lost otherwise.
    ///
    /// # Errors
    /// [`Error::Store`]; the counts are kept then.
    pub async fn record_accesses(self: &Arc<Self>, which: WhichCounts) -> Result<(), Error> {
        let engine = Arc::clone(self);
        let recording = async move {
            let _one_at_a_time = engine.accesses.recording.lock().await;
            let now = engine.now()?;
            let mut left = engine.accesses.take(now, which);
            while !left.is_empty() {
                let now_due = left.get(..MAX_OPERATIONS).unwrap_or(&left);
                let written = now_due.iter().map(|(whose, reads)| written(engine.tenant(), now, whose, reads));
                let commit = written.fold(Commit::new(engine.tenant().clone()), Commit::record);
                let many = now_due.len();
                if let Err(error) = engine.repo.kernel().commit(commit).await {
                    engine.accesses.put_back(left);
                    return Err(error.into());
                }
                left.drain(..many);
            }
            Ok(())
        };
        tokio::spawn(recording).await.map_err(|error| Error::Internal(error.to_string()))?
    }
}

fn written(tenant: &TenantId, now: Timestamp, (_, action, bundle): &Whose, reads: &Reads) -> Bytes {
    let Reads { caller, count, since, until, rpcs, policies } = reads;
    let event = Event::Access {
        reserved_action: action,
        rpcs,
        count: *count,
        since: *since,
        until: *until,
        determining: policies,
        bundle: *bundle,
    };
    record(tenant, now, caller.as_ref(), None, event)
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use countersign_core::EntityRef;

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000);

    fn looked(who: &str, at: Timestamp) -> Looked {
        let caller = Caller {
            entity: EntityRef::new("Person", who).unwrap(),
            operator: None,
            chain: Vec::new(),
            account: format!("iss#{who}"),
            issuer: "iss".to_owned(),
            credential: Digest::of(who.as_bytes()),
            owner: None,
            claimed: None,
        };
        let by = BTreeMap::from([("readLog", BTreeSet::from(["auditors".to_owned()]))]);
        let looks = Looks { caller, rpc: "ListRecords", bundle: Digest::of(b"bundle"), at, by };
        Looked(Arc::new(Mutex::new(Some(looks))))
    }

    fn counts(taken: &[(Whose, Reads)]) -> Vec<(&str, u64)> {
        taken
            .iter()
            .map(|(_, reads)| (reads.caller.as_ref().map_or("", |caller| caller.entity.id()), reads.count))
            .collect()
    }

    #[test]
    fn a_first_use_is_due_at_once_and_what_follows_after_an_interval() {
        let accesses = Accesses::default();
        accesses.count(&looked("aaron", START));
        assert_eq!(counts(&accesses.take(START, WhichCounts::Due)), [("aaron", 1)]);
        let soon = START.plus(Duration::from_secs(2));
        for _ in 0..1_000 {
            accesses.count(&looked("aaron", soon));
        }
        assert_eq!(accesses.take(START.plus(INTERVAL - Duration::from_millis(1)), WhichCounts::Due), []);
        let taken = accesses.take(START.plus(INTERVAL), WhichCounts::Due);
        assert_eq!(counts(&taken), [("aaron", 1_000)]);
        assert_eq!((taken[0].1.since, taken[0].1.until), (soon, soon));
        assert_eq!(accesses.take(START.plus(INTERVAL * 2), WhichCounts::All), []);
        assert!(held(&accesses.counts).is_empty(), "whoever was quiet is kept");
    }

    #[test]
    fn at_the_end_everything_is_due() {
        let accesses = Accesses::default();
        accesses.count(&looked("aaron", START));
        assert_eq!(accesses.take(START, WhichCounts::Due).len(), 1);
        accesses.count(&looked("aaron", START));
        assert_eq!(accesses.take(START, WhichCounts::Due), []);
        assert_eq!(counts(&accesses.take(START, WhichCounts::All)), [("aaron", 1)]);
    }

    #[test]
    fn what_could_not_be_recorded_is_due_again_with_what_came_since() {
        let accesses = Accesses::default();
        accesses.count(&looked("aaron", START));
        let taken = accesses.take(START, WhichCounts::Due);
        let later = START.plus(Duration::from_secs(1));
        accesses.count(&looked("aaron", later));
        accesses.put_back(taken);
        let taken = accesses.take(later, WhichCounts::Due);
        assert_eq!(counts(&taken), [("aaron", 2)]);
        assert_eq!((taken[0].1.since, taken[0].1.until), (START, later));
    }

    #[test]
    fn callers_beyond_the_limit_share_one_count_and_take_nothing_from_the_others() {
        let accesses = Accesses::default();
        for number in 0..MAX_COUNTS + 500 {
            accesses.count(&looked(&number.to_string(), START));
        }
        accesses.count(&looked("7", START));
        let taken = accesses.take(START, WhichCounts::Due);
        assert_eq!(taken.len(), MAX_COUNTS + 1);
        let (shared, own): (Vec<_>, Vec<_>) = taken.iter().partition(|(_, reads)| reads.caller.is_none());
        assert_eq!(shared.iter().map(|(_, reads)| reads.count).collect::<Vec<_>>(), [500]);
        assert_eq!(own.iter().map(|(_, reads)| reads.count).sum::<u64>(), 10_001);
    }
}
