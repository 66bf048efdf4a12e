//! Sessions under sessions, and sessions that somebody has to keep alive.
//!
//! A child is opened in its parent, for a sub-agent. It is over when its parent is, whatever its own row says, and nothing about
//! it is wider than its parent: same operator, a longer chain, no later deadline, no fewer persons excluded. What it is can only
//! be told from the rows of all that are above it: [`Session::under`] puts them together, from the uppermost down. Read alone, a
//! child is over.
//!
//! A session may be opened with a heartbeat. When it came last stands in a row of its own, so that a beat disturbs no action that
//! guards the session. A beat only ever extends, and none is taken once the session is over: who read an earlier one, and commits
//! before the time that this one leaves, is right with that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{OpenSession, Opening, Session, SessionError, SessionState};
use crate::entity::EntityRef;
use crate::id::SessionId;
use crate::time::Timestamp;

/// So many sessions may be above a session. Every action in it reads and guards all of them.
pub const MAX_DEPTH: u32 = 4;

/// When a session gave the last sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The session.
    pub session: SessionId,
    /// When.
    pub at: Timestamp,
}

/// What is above a session, as far as it bounds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Above {
    /// From when on all that is below is over.
    pub over_at: Timestamp,
    /// Whether somebody ended it.
    pub ended: bool,
}

impl Session {
    /// Opens a session in another: for its operator, through its principal, excluding whom it excludes, and until it is over at the
    /// latest.
    ///
    /// # Errors
    /// [`SessionError::TooDeep`].
    pub fn open_in(
        id: SessionId,
        opening: Opening,
        parent: OpenSession<'_>,
        deadline: Timestamp,
    ) -> Result<Self, SessionError> {
        let (now, parent) = (parent.at(), parent.session());
        let depth = parent.depth.saturating_add(1);
        if depth > MAX_DEPTH {
            return Err(SessionError::TooDeep);
        }
        let mut excluded = &opening.excluded | &parent.excluded;
        excluded.extend(parent.owner.clone());
        let opening = Opening {
            operator: parent.hands_down().cloned(),
            chain: parent.link().into_iter().chain(&parent.chain).cloned().collect(),
            excluded,
            ..opening
        };
        let child = Self::open(id, opening, now, deadline.min(parent.deadline));
        Ok(Self { parent: Some(parent.id), depth, ..child }.under(parent))
    }

    /// For whom acts who acts below: its operator; a person who acts themselves.
    #[must_use]
    pub fn hands_down(&self) -> Option<&EntityRef> {
        self.operator.as_ref().or_else(|| (self.principal.kind() == "Person").then_some(&self.principal))
    }

    /// Its principal, as a link between that one and who acts below.
    fn link(&self) -> Option<&EntityRef> {
        (self.hands_down() != Some(&self.principal)).then_some(&self.principal)
    }

    /// With a heartbeat that must not stay away for longer than this.
    #[must_use]
    pub fn with_heartbeat(self, every: Option<Duration>) -> Self {
        let millis = |every: Duration| u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        Self { heartbeat_millis: every.map(millis), ..self }
    }

    /// Without a heartbeat for so long it is over.
    #[must_use]
    pub fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat_millis.map(Duration::from_millis)
    }

    /// How many sessions are above it.
    #[must_use]
    pub const fn depth(&self) -> u32 {
        self.depth
    }

    /// When the last sign of life of a session with a heartbeat was: its opening is one.
    #[must_use]
    pub fn seen_at(&self) -> Timestamp {
        self.seen_at.unwrap_or(self.opened_at)
    }

    /// What it is, by the row of its heartbeat.
    #[must_use]
    pub fn seen(self, heartbeat: Option<&Heartbeat>) -> Self {
        let seen_at = heartbeat.filter(|heartbeat| heartbeat.session == self.id).map(|heartbeat| heartbeat.at);
        Self { seen_at, ..self }
    }

    /// What it is, by what its parent is.
    #[must_use]
    pub fn under(self, parent: &Self) -> Self {
        // Any time will do: what it is without regard to the time is wanted.
        let ended = parent.state(parent.opened_at) == SessionState::Ended;
        let above = Above { over_at: parent.over_at(), ended };
        Self { above: (self.parent == Some(parent.id)).then_some(above), ..self }
    }

    /// Whether other rows have to be read to know what it is.
    #[must_use]
    pub const fn stands_alone(&self) -> bool {
        self.parent.is_none() && self.heartbeat_millis.is_none()
    }

    /// What is above it. A child whose parent was not read is over.
    pub(super) fn above(&self) -> Option<Above> {
        self.parent.map(|_| self.above.unwrap_or(Above { over_at: self.deadline, ended: true }))
    }

    /// From when on it is over by its own row and its heartbeat, if nobody ends it.
    pub(super) fn lapses(&self) -> Timestamp {
        let left_alone = self.heartbeat().map(|every| self.seen_at().plus(every));
        left_alone.into_iter().fold(self.deadline, Ord::min)
    }

    /// Whether its heartbeat stayed away, whatever else became of it.
    #[must_use]
    pub fn has_lapsed(&self, now: Timestamp) -> bool {
        self.heartbeat().is_some_and(|every| now.reached(self.seen_at().plus(every)))
    }

    /// Why one that is over is.
    pub(super) fn why_over(&self, now: Timestamp) -> SessionError {
        let by_above = |above: Above| above.over_at <= self.lapses() && (above.ended || now.reached(above.over_at));
        if self.ended.is_some() {
            SessionError::Ended
        } else if self.above().is_some_and(by_above) {
            SessionError::ParentOver
        } else if now.reached(self.deadline) {
            SessionError::Expired
        } else {
            SessionError::Lapsed
        }
    }
}

/// For serde: sessions that are nobody's children are written as they always were.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
pub(super) const fn is_none(depth: &u32) -> bool {
    *depth == 0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn opening(name: &str) -> Opening {
        Opening {
            principal: EntityRef::new("Agent", name).unwrap(),
            operator: None,
            chain: vec![],
            purpose: "x".into(),
            opened_by: EntityRef::new("Agent", "a").unwrap(),
            excluded: BTreeSet::from([EntityRef::new("Person", name).unwrap()]),
            owner: None,
            claimed: None,
            clean: false,
        }
    }

    fn parent() -> Session {
        let operator = EntityRef::new("Person", "op").ok();
        let opening = Opening { operator, ..opening("a") };
        Session::open(SessionId::from_bytes([1; 16]), opening, at(0), at(100))
    }

    fn child(parent: &Session, deadline: i64) -> Session {
        let id = SessionId::from_bytes([u8::try_from(parent.depth).unwrap() + 2; 16]);
        Session::open_in(id, opening("b"), parent.require_open(at(10)).unwrap(), at(deadline)).unwrap()
    }

    fn person() -> EntityRef {
        EntityRef::new("Person", "p").unwrap()
    }

    #[test]
    fn a_child_is_nowhere_wider_than_its_parent() {
        let (parent, child) = (parent(), child(&parent(), 500));
        assert_eq!((child.deadline, child.operator.as_ref()), (at(100), parent.operator.as_ref()));
        assert_eq!(child.chain, std::slice::from_ref(&parent.principal));
        assert!(parent.excluded.is_subset(&child.excluded) && child.excluded.len() == 2);
        assert_eq!(child.state(at(10)), SessionState::Open);
    }

    #[test]
    fn whoever_acts_below_a_person_acts_for_them() {
        let person = Session { principal: person(), operator: None, ..parent() };
        let child = child(&person, 50);
        assert_eq!((child.operator.as_ref(), child.chain.len()), (Some(&person.principal), 0));
    }

    #[test]
    fn a_child_that_is_read_without_its_parent_is_over() {
        let child = child(&parent(), 50);
        let text = serde_json::to_string(&child).unwrap();
        let alone: Session = serde_json::from_str(&text).unwrap();
        assert_eq!(alone.state(at(10)), SessionState::Ended);
        assert_eq!(alone.require_open(at(10)).err(), Some(SessionError::ParentOver));
        assert_eq!(alone.clone().under(&parent()), child);
        let stranger = Session { id: SessionId::from_bytes([9; 16]), ..parent() };
        assert_eq!(alone.under(&stranger).state(at(10)), SessionState::Ended);
    }

    #[test]
    fn whoever_ends_a_session_ends_all_that_are_below_it() {
        let mut parent = parent();
        let (child, grandchild) = (child(&parent, 100), child(&child(&parent, 100), 100));
        parent.end(person(), at(20)).unwrap();
        let child = child.under(&parent);
        let grandchild = grandchild.under(&child);
        // By whatever time: of calls that ran at once, one may bear the earlier one.
        for now in [at(15), at(20), at(1_000)] {
            assert_eq!((child.state(now), grandchild.state(now)), (SessionState::Ended, SessionState::Ended));
            assert_eq!(grandchild.require_open(now).err(), Some(SessionError::ParentOver));
        }
        assert_eq!(grandchild.over_at(), at(20));
    }

    #[test]
    fn what_a_child_was_when_its_parent_ended_it_stays() {
        let mut parent = parent();
        let child = child(&parent, 15);
        parent.end(person(), at(20)).unwrap();
        let child = child.under(&parent);
        assert_eq!((child.state(at(30)), child.over_at()), (SessionState::Expired, at(15)));
        assert_eq!(child.require_open(at(30)).err(), Some(SessionError::Expired));
    }

    #[test]
    fn a_session_without_its_heartbeat_is_over_and_so_are_its_children() {
        let parent = parent().with_heartbeat(Some(Duration::from_millis(20)));
        let child = child(&parent, 100);
        assert_eq!((parent.state(at(19)), parent.state(at(20))), (SessionState::Open, SessionState::Expired));
        assert_eq!((parent.lapses_at(at(5)), child.lapses_at(at(10))), (Some(at(20)), Some(at(20))));
        let beat = Heartbeat { session: parent.id, at: at(15) };
        let parent = parent.seen(Some(&beat));
        let child = child.under(&parent);
        assert_eq!((parent.state(at(34)), child.state(at(34))), (SessionState::Open, SessionState::Open));
        assert_eq!(parent.require_open(at(35)).err(), Some(SessionError::Lapsed));
        assert_eq!(child.require_open(at(35)).err(), Some(SessionError::ParentOver));
        let foreign = Heartbeat { session: SessionId::from_bytes([9; 16]), at: at(99) };
        assert_eq!(parent.seen(Some(&foreign)).state(at(20)), SessionState::Expired);
    }

    #[test]
    fn sessions_are_only_so_deep() {
        let mut deepest = parent();
        for _ in 0..MAX_DEPTH {
            deepest = child(&deepest, 100);
        }
        let below = Session::open_in(deepest.id, opening("c"), deepest.require_open(at(10)).unwrap(), at(50));
        assert_eq!(below.err(), Some(SessionError::TooDeep));
    }
}
