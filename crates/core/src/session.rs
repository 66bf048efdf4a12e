//! Sessions: one bounded run of a principal for one stated purpose.

mod lineage;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::claimed::{Claimed, groups_at};
use crate::entity::EntityRef;
use crate::id::SessionId;
use crate::revocation::is_first;
use crate::time::Timestamp;

use lineage::Above;
pub use lineage::{Heartbeat, MAX_DEPTH};

/// A session as it stands in the store. It ends once: by [`Session::end`], or by its deadline, which every reader decides
/// from the record, so that no sweeper is needed for it to be over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Who acts in it.
    pub principal: EntityRef,
    /// The person the principal acts for.
    pub operator: Option<EntityRef>,
    /// The links between operator and principal.
    pub chain: Vec<EntityRef>,
    /// What it is for, in the words of whoever opened it: a stranger's text.
    pub purpose: String,
    /// Who opened it: the caller.
    pub opened_by: EntityRef,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// From when on it is over.
    pub deadline: Timestamp,
    /// The persons behind whoever opened it: they answer for nothing that is done in it (I2).
    #[serde(default)]
    pub excluded: BTreeSet<EntityRef>,
    /// Who is answerable for the principal by its own credential, if that said so when the session was opened.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<EntityRef>,
    /// The groups that the principal was in by its own credential and not by the directory, when the session was opened.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub claimed: Option<Claimed>,
    /// Whether labels count in it only that were left since it was opened.
    #[serde(skip_serializing_if = "is_false", default)]
    pub clean: bool,
    /// The session that it was opened in, if it is a child.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<SessionId>,
    /// How many sessions are above it.
    #[serde(skip_serializing_if = "lineage::is_none", default)]
    depth: u32,
    /// Without a heartbeat for so long it is over.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    heartbeat_millis: Option<u64>,
    /// The revocation epoch in which it was opened. Absent in sessions of before anything was revoked by a wider axis.
    #[serde(skip_serializing_if = "is_first", default)]
    pub epoch: u64,
    ended: Option<Ended>,
    /// What other rows say of it, as far as they were read.
    #[serde(skip)]
    seen_at: Option<Timestamp>,
    #[serde(skip)]
    above: Option<Above>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// How a session ended before its deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: EntityRef,
}

/// What a session is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Actions can be decided in it.
    Open,
    /// It was ended.
    Ended,
    /// Its deadline has passed, or its heartbeat, or one above it, stayed away.
    Expired,
}

/// Proof that a session was open at a moment; what needs an open session takes it as an argument.
#[derive(Debug, Clone, Copy)]
pub struct OpenSession<'a> {
    session: &'a Session,
    at: Timestamp,
}

impl<'a> OpenSession<'a> {
    /// The session.
    #[must_use]
    pub const fn session(self) -> &'a Session {
        self.session
    }
    /// The moment at which it was open.
    #[must_use]
    pub const fn at(self) -> Timestamp {
        self.at
    }
}

/// Why a session takes no more part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It was ended.
    #[error("the session was ended; open a new one")]
    Ended,
    /// Its deadline has passed.
    #[error("the session's deadline has passed; open a new one")]
    Expired,
    /// Nobody said for too long that it still runs.
    #[error(
        "the session's heartbeat stayed away, and it is over; open a new one, and send `Heartbeat` or hold it in time"
    )]
    Lapsed,
    /// The session that it was opened in is over.
    #[error("the session that this one was opened in is over, and this one with it; open new ones")]
    ParentOver,
    /// It would be too far below the first.
    #[error("at most {MAX_DEPTH} sessions are opened below one another; open this one in a session that is further up")]
    TooDeep,
}

/// What opens a session.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Who will act in it.
    pub principal: EntityRef,
    /// The person the principal acts for.
    pub operator: Option<EntityRef>,
    /// The links between operator and principal.
    pub chain: Vec<EntityRef>,
    /// What it is for.
    pub purpose: String,
    /// The caller.
    pub opened_by: EntityRef,
    /// The persons behind the caller.
    pub excluded: BTreeSet<EntityRef>,
    /// Who is answerable for the principal by its own credential.
    pub owner: Option<EntityRef>,
    /// The groups that the principal is in by its own credential.
    pub claimed: Option<Claimed>,
    /// Whether the labels of before do not count.
    pub clean: bool,
}

impl Session {
    /// Opens a session.
    #[must_use]
    pub fn open(id: SessionId, opening: Opening, now: Timestamp, deadline: Timestamp) -> Self {
        let Opening { principal, operator, chain, purpose, opened_by, excluded, owner, claimed, clean } = opening;
        Self {
            id,
            principal,
            operator,
            chain,
            purpose,
            opened_by,
            opened_at: now,
            deadline,
            excluded,
            owner,
            claimed,
            clean,
            parent: None,
            depth: 0,
            heartbeat_millis: None,
            epoch: 0,
            ended: None,
            seen_at: None,
            above: None,
        }
    }

    /// The same session, opened in a revocation epoch.
    #[must_use]
    pub const fn in_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// Ends it by its own row alone, whatever its heartbeat and what is above it say, which may not be read: for what ends
    /// sessions that nobody looked at one by one. Answers whether its row said so far that it is not over.
    pub fn cut_off(&mut self, by: EntityRef, at: Timestamp) -> bool {
        let cut = self.ended.is_none() && !at.reached(self.deadline);
        if cut {
            self.ended = Some(Ended { at, by });
        }
        cut
    }

    /// What it is at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> SessionState {
        if self.ended.is_some() {
            return SessionState::Ended;
        }
        match self.above() {
            // Whatever the time is by now: of calls that ran at once, one may bear the earlier time.
            Some(above) if above.ended && above.over_at <= self.lapses() => SessionState::Ended,
            Some(above) if above.ended => SessionState::Expired,
            Some(_) | None if now.reached(self.over_at()) => SessionState::Expired,
            Some(_) | None => SessionState::Open,
        }
    }

    /// The groups that the principal's credential adds to those of the directory, as long as it does.
    #[must_use]
    pub fn groups_at(&self, now: Timestamp) -> &BTreeSet<EntityRef> {
        groups_at(self.claimed.as_ref(), now)
    }

    /// From when on it is something else than at `now`, or its principal is in fewer groups, though nobody does anything.
    #[must_use]
    pub fn lapses_at(&self, now: Timestamp) -> Option<Timestamp> {
        let claimed = self.claimed.as_ref().and_then(|claimed| claimed.lapses_at(now));
        (self.state(now) == SessionState::Open).then(|| claimed.into_iter().fold(self.over_at(), Ord::min))
    }

    /// From when on it is over: when it, or one above it, was ended, or was left without a heartbeat, or its deadline.
    #[must_use]
    pub fn over_at(&self) -> Timestamp {
        // Cut off by its row alone, it may have been over before.
        let own = self.ended.iter().map(|ended| ended.at).fold(self.lapses(), Ord::min);
        self.above().map_or(own, |above| above.over_at.min(own))
    }

    /// How it ended, if somebody ended it.
    #[must_use]
    pub const fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// Proof that it is open at `now`.
    ///
    /// # Errors
    /// [`SessionError`] says how it is over.
    pub fn require_open(&self, now: Timestamp) -> Result<OpenSession<'_>, SessionError> {
        match self.state(now) {
            SessionState::Open => Ok(OpenSession { session: self, at: now }),
            SessionState::Ended | SessionState::Expired => Err(self.why_over(now)),
        }
    }

    /// Ends it (I5: there is no way back; I6: no redeem commits after).
    ///
    /// # Errors
    /// [`SessionError`] if it is over already.
    pub fn end(&mut self, by: EntityRef, now: Timestamp) -> Result<(), SessionError> {
        self.require_open(now)?;
        self.ended = Some(Ended { at: now, by });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let agent = EntityRef::new("Agent", "a").unwrap();
        let opening = Opening {
            principal: agent.clone(),
            operator: None,
            chain: vec![],
            purpose: "nightly".into(),
            opened_by: agent,
            excluded: BTreeSet::new(),
            owner: None,
            claimed: None,
            clean: false,
        };
        Session::open(SessionId::from_bytes([1; 16]), opening, Timestamp::from_millis(0), Timestamp::from_millis(10))
    }

    #[test]
    fn a_session_is_over_at_its_deadline_and_not_before() {
        assert_eq!(session().state(Timestamp::from_millis(9)), SessionState::Open);
        assert_eq!(session().require_open(Timestamp::from_millis(10)).err(), Some(SessionError::Expired));
    }

    #[test]
    fn the_groups_of_a_credential_last_as_long_as_it_does() {
        let groups = BTreeSet::from([EntityRef::new("Group", "readers").unwrap()]);
        let claimed = Claimed::new(groups.clone(), Timestamp::from_millis(5));
        let session = Session { claimed, ..session() };
        assert_eq!(session.groups_at(Timestamp::from_millis(4)), &groups);
        assert_eq!(session.lapses_at(Timestamp::from_millis(4)), Some(Timestamp::from_millis(5)));
        assert!(session.groups_at(Timestamp::from_millis(5)).is_empty());
        assert_eq!(session.lapses_at(Timestamp::from_millis(5)), Some(Timestamp::from_millis(10)));
    }

    #[test]
    fn a_session_that_nobody_kept_alive_is_cut_off_all_the_same_and_was_over_before() {
        let by = EntityRef::new("Person", "p").unwrap();
        let mut session = session().with_heartbeat(Some(std::time::Duration::from_millis(3)));
        assert_eq!(session.state(Timestamp::from_millis(5)), SessionState::Expired);
        assert!(session.cut_off(by.clone(), Timestamp::from_millis(5)));
        assert!(!session.cut_off(by, Timestamp::from_millis(6)));
        let beat = Heartbeat { session: session.id, at: Timestamp::from_millis(4) };
        assert_eq!(session.clone().seen(Some(&beat)).state(Timestamp::from_millis(5)), SessionState::Ended);
        assert_eq!(session.over_at(), Timestamp::from_millis(3));
    }

    #[test]
    fn a_session_ends_once() {
        let by = EntityRef::new("Person", "p").unwrap();
        let mut session = session();
        assert_eq!(session.end(by.clone(), Timestamp::from_millis(5)), Ok(()));
        assert_eq!(session.end(by, Timestamp::from_millis(6)), Err(SessionError::Ended));
        assert_eq!(session.state(Timestamp::from_millis(99)), SessionState::Ended);
    }
}
