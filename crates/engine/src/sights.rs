//! When persons first saw the requests that they may answer: kept in memory, so that looking costs no commit, and written into
//! the record of the vote.
//!
//! What is told of a vote is exact or unknown, and never guessed: of a request that was put before this process began, or while
//! there was no room, nobody can say whether it was seen before.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use countersign_core::{ApprovalId, EntityRef, Timestamp};
use countersign_store::Kernel;

use crate::engine::Engine;
use crate::read::ApprovalView;

/// So many are kept, of one request and one person each.
const MOST: usize = 65_536;

/// Who first saw what, and when.
#[derive(Debug)]
pub(crate) struct Sights(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    first: HashMap<(ApprovalId, EntityRef), Sight>,
    /// Of requests that were put before this, a first look may have been missed.
    unsure_before: Timestamp,
    most: usize,
}

#[derive(Debug, Clone, Copy)]
struct Sight {
    at: Timestamp,
    /// After that nobody answers the request.
    until: Timestamp,
}

impl Sights {
    pub(crate) fn since(start: Timestamp) -> Self {
        Self::with_room(start, MOST)
    }

    fn with_room(start: Timestamp, most: usize) -> Self {
        Self(Mutex::new(Kept { first: HashMap::new(), unsure_before: start, most }))
    }

    fn kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a person was sent a request.
    fn note(&self, request: (ApprovalId, Timestamp), until: Timestamp, person: &EntityRef, now: Timestamp) {
        let (id, asked_at) = request;
        self.kept(|kept| {
            if let Some(sight) = kept.first.get_mut(&(id, person.clone())) {
                sight.until = sight.until.max(until);
                return;
            }
            if asked_at < kept.unsure_before {
                return;
            }
            if kept.first.len() >= kept.most {
                kept.first.retain(|_, sight| !now.reached(sight.until));
            }
            if kept.first.len() >= kept.most {
                // This look is missed, so of what was put until now a later one may not be the first.
                kept.unsure_before = now.plus(std::time::Duration::from_millis(1));
                return;
            }
            kept.first.insert((id, person.clone()), Sight { at: now, until });
        });
    }

    /// When a person first saw a request; `None` if that is not known.
    pub(crate) fn first(&self, id: ApprovalId, person: &EntityRef) -> Option<Timestamp> {
        self.kept(|kept| kept.first.get(&(id, person.clone())).map(|sight| sight.at))
    }

    /// Forgets what nobody can vote on any more.
    /// What is shown of a request has changed: whoever has seen it has not seen that.
    pub(crate) fn forget(&self, id: ApprovalId) {
        self.kept(|kept| kept.first.retain(|(seen, _), _| *seen != id));
    }

    pub(crate) fn tidy(&self, now: Timestamp) {
        self.kept(|kept| kept.first.retain(|_, sight| !now.reached(sight.until)));
    }
}

impl<K: Kernel> Engine<K> {
    /// Notes that a request was sent to whoever looked at it. To be called when it is, by whatever sends it.
    pub fn sent(&self, view: &ApprovalView) {
        let Some(viewer) = view.viewer.as_ref().filter(|_| view.may_answer) else { return };
        // Without a time nothing is decided either.
        let Ok(now) = self.now() else { return };
        let approval = &view.approval.value;
        self.sights.note((approval.id, approval.created_at), approval.expires_at(), viewer, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn id(n: u8) -> ApprovalId {
        ApprovalId::from_bytes([n; 16])
    }

    fn dana() -> EntityRef {
        EntityRef::new("Person", "dana").unwrap()
    }

    #[test]
    fn the_first_look_counts_and_what_was_asked_before_the_start_is_not_known() {
        let sights = Sights::since(at(100));
        for (request, asked, now) in [(1, 99, 200), (2, 100, 200), (2, 100, 300)] {
            sights.note((id(request), at(asked)), at(1_000), &dana(), at(now));
        }
        assert_eq!(sights.first(id(1), &dana()), None);
        assert_eq!(sights.first(id(2), &dana()), Some(at(200)));
        assert_eq!(sights.first(id(2), &EntityRef::new("Person", "dave").unwrap()), None);
        sights.tidy(at(1_000));
        assert_eq!(sights.first(id(2), &dana()), None);
    }

    #[test]
    fn a_look_that_there_was_no_room_for_stays_unknown() {
        let sights = Sights::with_room(at(0), 1);
        sights.note((id(1), at(10)), at(100), &dana(), at(20));
        sights.note((id(2), at(10)), at(500), &dana(), at(30));
        // There is room again, and this is not the first look.
        sights.note((id(2), at(10)), at(500), &dana(), at(200));
        assert_eq!((sights.first(id(1), &dana()), sights.first(id(2), &dana())), (Some(at(20)), None));
        sights.note((id(3), at(200)), at(500), &dana(), at(200));
        assert_eq!(sights.first(id(3), &dana()), Some(at(200)));
    }
}
