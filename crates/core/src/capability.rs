//! Capabilities: what was minted for one digest, and what became of it.
//!
//! ```text
//! minted ─▶ redeemed ─▶ completed
//!    │          └────▶ outcome unknown (decided by every reader) ─▶ completed late | resolved by a person
//!    ├────▶ delegated ─▶ revoked
//!    └────▶ revoked | expired (decided by every reader)
//! ```

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::holder::Holder;
use crate::id::{ApprovalId, DecisionId, ReviewId, SessionId, TokenId};
use crate::revocation::is_first;
use crate::time::Timestamp;

/// What a capability says. The token carries the same, so that it can be reissued from here to identical bytes, and no
/// bearer token lies at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Its id: single use and revocation are keyed by it.
    pub id: TokenId,
    /// The session it dies with.
    pub session: SessionId,
    /// Who acts.
    pub principal: EntityRef,
    /// The person acted for.
    pub operator: Option<EntityRef>,
    /// The operation.
    pub operation: String,
    /// What is acted upon.
    pub resource: EntityRef,
    /// The action's digest.
    pub digest: Digest,
    /// The enforcement point it is for.
    pub audience: String,
    /// The approval that it needed; spent together with it.
    pub approval: Option<ApprovalId>,
    /// The review of the broken glass that it needed instead. Absent where nobody broke any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub review: Option<ReviewId>,
    /// Whom it is bound to. Absent of a bearer token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub holder: Option<Holder>,
    /// Whether its holder may narrow it without asking. Absent if not.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub open: bool,
    /// When it was minted.
    pub issued_at: Timestamp,
    /// From when on it is worthless.
    pub expires_at: Timestamp,
    /// The shard that owns the session.
    pub shard: u32,
    /// The mint epoch: tokens of older epochs are dead (I11).
    pub mint_epoch: u64,
    /// The key that signed it.
    pub key: u32,
    /// The capability that it was exchanged for: it dies with that. Absent where an action was decided for its own sake.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<TokenId>,
    /// Through whom the principal acts, the nearest first. Absent where through nobody, and in rows of earlier releases; the
    /// digest covers it in any case.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub chain: Vec<EntityRef>,
    /// What `parent` was exchanged for in turn, the nearest first. Absent where for nothing.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub grandparents: Vec<TokenId>,
    /// The sessions that its own was opened in, the nearest first: it dies with any of them. Absent where it stands alone.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sessions_above: Vec<SessionId>,
}

/// What came of an action, in the words of whoever ran it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
}

/// What a person found out about an action whose outcome nobody reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
    /// It was never begun.
    NeverRan,
}

impl Finding {
    /// The words for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::NeverRan => "never ran",
        }
    }
}

/// How an unknown outcome was resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolution {
    /// When.
    pub at: Timestamp,
    /// The person who did.
    pub by: EntityRef,
    /// What they found.
    pub finding: Finding,
    /// How they know, in their words.
    pub note: String,
    /// Who had redeemed it.
    pub redeemed_by: EntityRef,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", deny_unknown_fields)]
enum Written {
    Minted,
    Redeemed {
        at: Timestamp,
        by: EntityRef,
        complete_by: Timestamp,
        #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
        behind: BTreeSet<EntityRef>,
    },
    Completed {
        at: Timestamp,
        by: EntityRef,
        outcome: Outcome,
        late: bool,
        result: Option<Digest>,
    },
    Revoked {
        at: Timestamp,
        by: EntityRef,
        reason: String,
    },
    Delegated {
        at: Timestamp,
        by: EntityRef,
        to: TokenId,
    },
    Resolved(Resolution),
}

/// What a capability is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapabilityState {
    /// Usable.
    Minted,
    /// Never used, and never to be.
    Expired,
    /// Never used, and never to be.
    Revoked,
    /// The action may be running.
    Redeemed,
    /// Redeemed, and the deadline for the outcome has passed: nobody knows what happened.
    OutcomeUnknown,
    /// The outcome was reported.
    Completed(Outcome),
    /// It was exchanged for another's. Never redeemed; revoked, it takes that along.
    Delegated,
    /// Nobody reported the outcome in time, and a person found out.
    Resolved(Finding),
}

impl CapabilityState {
    /// The words for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Minted => "minted",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Redeemed => "redeemed",
            Self::OutcomeUnknown => "redeemed, outcome unknown",
            Self::Completed(_) => "completed",
            Self::Delegated => "delegated",
            Self::Resolved(_) => "resolved",
        }
    }
}

/// Why a capability refused what was tried on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// It was spent before.
    #[error("the capability was already redeemed; decide again for another action")]
    AlreadyRedeemed,
    /// It was revoked.
    #[error("the capability was revoked; decide again")]
    Revoked,
    /// It is too old.
    #[error("the capability has expired; decide again")]
    Expired,
    /// Its outcome was reported before.
    #[error("the outcome was already reported")]
    AlreadyCompleted,
    /// It has not been redeemed, so there is no outcome.
    #[error("the capability has not been redeemed; there is no outcome to report")]
    NotRedeemed,
    /// The outcome is not unknown yet: whoever redeemed still has time to report it.
    #[error("the outcome is not due yet, and whoever redeemed can still report it in time; resolve it after that")]
    StillRunning,
    /// A person resolved it.
    #[error("the outcome was resolved by {0}, and stands")]
    AlreadyResolved(EntityRef),
    /// Whoever stands behind the action says nothing about its outcome.
    #[error("{0} stands behind the action; somebody else has to resolve its outcome")]
    OwnOutcome(EntityRef),
    /// Somebody else redeemed it.
    #[error("only {0}, who redeemed the capability, can report its outcome")]
    NotTheRedeemer(EntityRef),
    /// It was exchanged for another's.
    #[error("the capability was delegated; only the one that it was exchanged for can be redeemed")]
    Delegated,
    /// What it was exchanged for does not stand any more.
    #[error("the capability that this one was exchanged for was revoked, and this one with it; decide again")]
    ParentGone,
}

/// A capability as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// What it says.
    pub grant: Grant,
    /// The decision that minted it.
    pub decision: DecisionId,
    /// The bundle that allowed it.
    pub bundle: Digest,
    /// The revocation epoch in which it was minted. Absent in those of before anything was revoked by a wider axis.
    #[serde(skip_serializing_if = "is_first", default)]
    pub epoch: u64,
    #[serde(rename = "status")]
    written: Written,
}

impl Capability {
    /// A capability that was just minted.
    #[must_use]
    pub const fn mint(grant: Grant, decision: DecisionId, bundle: Digest) -> Self {
        Self { grant, decision, bundle, epoch: 0, written: Written::Minted }
    }

    /// The same capability, minted in a revocation epoch.
    #[must_use]
    pub const fn in_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// It was cut off by a revocation that is not in its row, unless it was spent or over by then.
    pub(crate) fn cut_off(&mut self, by: EntityRef, reason: String, at: Timestamp) {
        // What was exchanged for another takes that along.
        let handed_on = matches!(self.written, Written::Delegated { .. }) && !at.reached(self.grant.expires_at);
        if handed_on || self.state(at) == CapabilityState::Minted {
            self.written = Written::Revoked { at, by, reason };
        }
    }

    /// What it is at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> CapabilityState {
        match &self.written {
            Written::Minted if now.reached(self.grant.expires_at) => CapabilityState::Expired,
            Written::Minted => CapabilityState::Minted,
            Written::Redeemed { complete_by, .. } if now.reached(*complete_by) => CapabilityState::OutcomeUnknown,
            Written::Redeemed { .. } => CapabilityState::Redeemed,
            Written::Completed { outcome, .. } => CapabilityState::Completed(*outcome),
            Written::Revoked { .. } => CapabilityState::Revoked,
            Written::Delegated { .. } => CapabilityState::Delegated,
            Written::Resolved(resolution) => CapabilityState::Resolved(resolution.finding),
        }
    }

    /// From when on it is something else than at `now`, though nobody does anything.
    #[must_use]
    pub fn lapses_at(&self, now: Timestamp) -> Option<Timestamp> {
        let lapses = match &self.written {
            Written::Minted | Written::Delegated { .. } => Some(self.grant.expires_at),
            Written::Redeemed { complete_by, .. } => Some(*complete_by),
            Written::Completed { .. } | Written::Revoked { .. } | Written::Resolved(_) => None,
        };
        lapses.filter(|lapses| !now.reached(*lapses))
    }

    /// From when on nothing more happens to it: its outcome is known, or the time is over in which anything could.
    #[must_use]
    pub fn over_at(&self) -> Timestamp {
        match &self.written {
            Written::Minted | Written::Revoked { .. } | Written::Delegated { .. } => self.grant.expires_at,
            Written::Redeemed { complete_by, .. } => self.grant.expires_at.max(*complete_by),
            Written::Completed { at, .. } | Written::Resolved(Resolution { at, .. }) => self.grant.expires_at.max(*at),
        }
    }

    /// Who redeemed it and by when the outcome is due, while it is not reported.
    #[must_use]
    pub const fn running(&self) -> Option<(&EntityRef, Timestamp)> {
        match &self.written {
            Written::Redeemed { by, complete_by, .. } => Some((by, *complete_by)),
            Written::Minted
            | Written::Completed { .. }
            | Written::Revoked { .. }
            | Written::Delegated { .. }
            | Written::Resolved(_) => None,
        }
    }

    /// Who redeemed it, if anybody did.
    #[must_use]
    pub const fn redeemer(&self) -> Option<&EntityRef> {
        match &self.written {
            Written::Redeemed { by, .. } | Written::Completed { by, .. } => Some(by),
            Written::Resolved(resolution) => Some(&resolution.redeemed_by),
            Written::Minted | Written::Revoked { .. } | Written::Delegated { .. } => None,
        }
    }

    /// How a person resolved its outcome, if one did.
    #[must_use]
    pub const fn resolution(&self) -> Option<&Resolution> {
        match &self.written {
            Written::Resolved(resolution) => Some(resolution),
            Written::Minted
            | Written::Redeemed { .. }
            | Written::Completed { .. }
            | Written::Revoked { .. }
            | Written::Delegated { .. } => None,
        }
    }

    /// Spends it (I1: once).
    ///
    /// # Errors
    /// [`CapabilityError`]; it is unchanged then.
    pub fn redeem(&mut self, by: EntityRef, now: Timestamp, complete_by: Timestamp) -> Result<(), CapabilityError> {
        self.require_minted(now)?;
        self.written = Written::Redeemed { at: now, by, complete_by, behind: BTreeSet::new() };
        Ok(())
    }

    /// Keeps whom the session names beside the action's parties, while its outcome is not known: a session is kept less long.
    #[must_use]
    pub fn with_behind(mut self, persons: impl IntoIterator<Item = EntityRef>) -> Self {
        if let Written::Redeemed { behind, .. } = &mut self.written {
            behind.extend(persons);
        }
        self
    }

    /// Whom its session named beside the action's parties, while it runs. Nobody in rows of earlier releases.
    pub fn behind(&self) -> impl Iterator<Item = &EntityRef> {
        let behind = match &self.written {
            Written::Redeemed { behind, .. } => Some(behind),
            Written::Minted
            | Written::Completed { .. }
            | Written::Revoked { .. }
            | Written::Delegated { .. }
            | Written::Resolved(_) => None,
        };
        behind.into_iter().flatten()
    }

    /// Reports the outcome. After the deadline it is still taken, marked late: a late truth is better than none.
    ///
    /// # Errors
    /// [`CapabilityError`]; it is unchanged then.
    pub fn complete(
        &mut self,
        by: &EntityRef,
        outcome: Outcome,
        result: Option<Digest>,
        now: Timestamp,
    ) -> Result<(), CapabilityError> {
        match &self.written {
            Written::Redeemed { by: redeemer, .. } if redeemer != by => {
                Err(CapabilityError::NotTheRedeemer(redeemer.clone()))
            }
            Written::Redeemed { complete_by, .. } => {
                let late = now.reached(*complete_by);
                self.written = Written::Completed { at: now, by: by.clone(), outcome, late, result };
                Ok(())
            }
            Written::Completed { .. } => Err(CapabilityError::AlreadyCompleted),
            Written::Minted => Err(CapabilityError::NotRedeemed),
            Written::Revoked { .. } => Err(CapabilityError::Revoked),
            Written::Delegated { .. } => Err(CapabilityError::Delegated),
            Written::Resolved(resolution) => Err(CapabilityError::AlreadyResolved(resolution.by.clone())),
        }
    }

    /// A person says what came of an action whose outcome nobody reported in time.
    ///
    /// # Errors
    /// [`CapabilityError`]; it is unchanged then.
    pub fn resolve(
        &mut self,
        by: EntityRef,
        finding: Finding,
        note: String,
        now: Timestamp,
    ) -> Result<(), CapabilityError> {
        match &self.written {
            Written::Redeemed { complete_by, .. } if !now.reached(*complete_by) => Err(CapabilityError::StillRunning),
            Written::Redeemed { by: redeemer, .. } => {
                let redeemed_by = redeemer.clone();
                self.written = Written::Resolved(Resolution { at: now, by, finding, note, redeemed_by });
                Ok(())
            }
            Written::Completed { .. } => Err(CapabilityError::AlreadyCompleted),
            Written::Minted => Err(CapabilityError::NotRedeemed),
            Written::Revoked { .. } => Err(CapabilityError::Revoked),
            Written::Delegated { .. } => Err(CapabilityError::Delegated),
            Written::Resolved(resolution) => Err(CapabilityError::AlreadyResolved(resolution.by.clone())),
        }
    }

    /// Spends it for another's, so that there is one authority and not two (I1). It expires no later, and dies with this one.
    ///
    /// # Errors
    /// [`CapabilityError`]; it is unchanged then.
    pub fn delegate(&mut self, by: EntityRef, to: TokenId, now: Timestamp) -> Result<(), CapabilityError> {
        self.require_minted(now)?;
        self.written = Written::Delegated { at: now, by, to };
        Ok(())
    }

    /// What it was exchanged for, while that stands.
    #[must_use]
    pub const fn delegated_to(&self) -> Option<TokenId> {
        match &self.written {
            Written::Delegated { to, .. } => Some(*to),
            Written::Minted
            | Written::Redeemed { .. }
            | Written::Completed { .. }
            | Written::Revoked { .. }
            | Written::Resolved(_) => None,
        }
    }

    /// That `child` may be worth something, as far as this one is concerned.
    ///
    /// # Errors
    /// [`CapabilityError::ParentGone`].
    pub fn require_delegated_to(&self, child: TokenId) -> Result<(), CapabilityError> {
        if self.delegated_to() == Some(child) { Ok(()) } else { Err(CapabilityError::ParentGone) }
    }

    /// Makes it worthless, and with it what it was exchanged for. What was redeemed runs, and cannot be revoked.
    ///
    /// # Errors
    /// [`CapabilityError`]; it is unchanged then.
    pub fn revoke(&mut self, by: EntityRef, reason: String, now: Timestamp) -> Result<(), CapabilityError> {
        match &self.written {
            Written::Delegated { .. } if now.reached(self.grant.expires_at) => return Err(CapabilityError::Expired),
            Written::Delegated { .. } => {}
            Written::Minted
            | Written::Redeemed { .. }
            | Written::Completed { .. }
            | Written::Revoked { .. }
            | Written::Resolved(_) => {
                self.require_minted(now)?;
            }
        }
        self.written = Written::Revoked { at: now, by, reason };
        Ok(())
    }

    /// That it can still be redeemed.
    ///
    /// # Errors
    /// [`CapabilityError`] says why not.
    pub fn require_minted(&self, now: Timestamp) -> Result<(), CapabilityError> {
        match self.state(now) {
            CapabilityState::Minted => Ok(()),
            CapabilityState::Expired => Err(CapabilityError::Expired),
            CapabilityState::Revoked => Err(CapabilityError::Revoked),
            CapabilityState::Redeemed
            | CapabilityState::OutcomeUnknown
            | CapabilityState::Completed(_)
            | CapabilityState::Resolved(_) => Err(CapabilityError::AlreadyRedeemed),
            CapabilityState::Delegated => Err(CapabilityError::Delegated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_after_it_was_exchanged_takes_the_other_along() {
        let mut capability = capability();
        let child = TokenId::from_bytes([9; 16]);
        capability.delegate(agent("a"), child, at(1)).unwrap();
        assert_eq!(capability.require_delegated_to(child), Ok(()));
        capability.cut_off(agent("a"), "stop".into(), at(2));
        assert_eq!(capability.require_delegated_to(child), Err(CapabilityError::ParentGone));
    }

    fn agent(id: &str) -> EntityRef {
        EntityRef::new("Agent", id).unwrap()
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn capability() -> Capability {
        let grant = Grant {
            id: TokenId::from_bytes([1; 16]),
            session: SessionId::from_bytes([2; 16]),
            principal: agent("a"),
            operator: None,
            operation: "read".into(),
            resource: EntityRef::new("Dataset", "d").unwrap(),
            digest: Digest::of(b"{}"),
            audience: "warehouse".into(),
            approval: None,
            review: None,
            holder: None,
            open: false,
            issued_at: at(0),
            expires_at: at(10),
            shard: 0,
            mint_epoch: 1,
            key: 1,
            parent: None,
            chain: Vec::new(),
            grandparents: Vec::new(),
            sessions_above: Vec::new(),
        };
        Capability::mint(grant, DecisionId::from_bytes([3; 16]), Digest::of(b"bundle"))
    }

    #[test]
    fn capabilities_of_before_the_glass_could_be_broken_are_read() {
        let old = serde_json::to_value(capability()).unwrap();
        for since in ["/grant/review", "/grant/parent", "/grant/chain"] {
            assert_eq!(old.pointer(since), None);
        }
        assert_eq!(serde_json::from_value::<Capability>(old).unwrap(), capability());
    }

    #[test]
    fn a_capability_is_redeemed_once() {
        let mut capability = capability();
        assert_eq!(capability.redeem(agent("a"), at(9), at(20)), Ok(()));
        assert_eq!(capability.redeem(agent("a"), at(9), at(20)), Err(CapabilityError::AlreadyRedeemed));
        assert_eq!(capability.revoke(agent("a"), String::new(), at(9)), Err(CapabilityError::AlreadyRedeemed));
    }

    #[test]
    fn the_expired_and_the_revoked_are_not_redeemed() {
        assert_eq!(capability().redeem(agent("a"), at(10), at(20)), Err(CapabilityError::Expired));
        let mut revoked = capability();
        revoked.revoke(agent("o"), "stop".into(), at(1)).unwrap();
        assert_eq!(revoked.redeem(agent("a"), at(2), at(20)), Err(CapabilityError::Revoked));
        assert_eq!(revoked.complete(&agent("a"), Outcome::Failed, None, at(2)), Err(CapabilityError::Revoked));
    }

    #[test]
    fn every_state_is_read_back_as_it_was_written() {
        let ends: [fn(&mut Capability); 5] = [
            |_| {},
            |c| c.delegate(agent("a"), TokenId::from_bytes([9; 16]), at(1)).unwrap(),
            |c| c.redeem(agent("a"), at(1), at(20)).unwrap(),
            |c| {
                c.redeem(agent("a"), at(1), at(20)).unwrap();
                c.complete(&agent("a"), Outcome::Failed, Some(Digest::of(b"r")), at(2)).unwrap();
            },
            |c| c.revoke(agent("o"), "stop".into(), at(1)).unwrap(),
        ];
        for end in ends {
            let mut capability = capability();
            end(&mut capability);
            let text = serde_json::to_string(&capability).unwrap();
            assert_eq!(serde_json::from_str::<Capability>(&text).unwrap(), capability);
        }
    }

    #[test]
    fn a_capability_is_exchanged_once_and_revoked_afterwards_while_it_lasts() {
        let (child, mut capability) = (TokenId::from_bytes([9; 16]), capability());
        capability.delegate(agent("a"), child, at(1)).unwrap();
        assert_eq!(capability.state(at(99)), CapabilityState::Delegated);
        assert_eq!(capability.redeem(agent("a"), at(2), at(20)), Err(CapabilityError::Delegated));
        assert_eq!(capability.delegate(agent("a"), child, at(2)), Err(CapabilityError::Delegated));
        assert_eq!(capability.require_delegated_to(child), Ok(()));
        let other = TokenId::from_bytes([8; 16]);
        assert_eq!(capability.require_delegated_to(other), Err(CapabilityError::ParentGone));
        assert_eq!(capability.revoke(agent("o"), "stop".into(), at(10)), Err(CapabilityError::Expired));
        capability.revoke(agent("o"), "stop".into(), at(9)).unwrap();
        assert_eq!(capability.state(at(9)), CapabilityState::Revoked);
        assert_eq!(capability.require_delegated_to(child), Err(CapabilityError::ParentGone));
    }

    #[test]
    fn only_the_redeemer_completes_and_once() {
        let mut capability = capability();
        assert_eq!(
            capability.complete(&agent("a"), Outcome::Succeeded, None, at(1)),
            Err(CapabilityError::NotRedeemed)
        );
        capability.redeem(agent("a"), at(1), at(20)).unwrap();
        assert_eq!(
            capability.complete(&agent("b"), Outcome::Succeeded, None, at(2)),
            Err(CapabilityError::NotTheRedeemer(agent("a")))
        );
        capability.complete(&agent("a"), Outcome::Succeeded, None, at(2)).unwrap();
        assert_eq!(
            capability.complete(&agent("a"), Outcome::Failed, None, at(3)),
            Err(CapabilityError::AlreadyCompleted)
        );
    }

    #[test]
    fn a_person_resolves_what_nobody_reported_in_time_and_that_stands() {
        let mut capability = capability();
        let resolve = |capability: &mut Capability, at_millis| {
            capability.resolve(agent("r"), Finding::NeverRan, "seen".into(), at(at_millis))
        };
        assert_eq!(resolve(&mut capability, 1), Err(CapabilityError::NotRedeemed));
        capability.redeem(agent("a"), at(1), at(20)).unwrap();
        assert_eq!(resolve(&mut capability, 19), Err(CapabilityError::StillRunning));
        resolve(&mut capability, 20).unwrap();
        assert_eq!(capability.state(at(21)), CapabilityState::Resolved(Finding::NeverRan));
        assert_eq!(capability.redeemer(), Some(&agent("a")));
        let late = capability.complete(&agent("a"), Outcome::Succeeded, None, at(30));
        assert_eq!(late, Err(CapabilityError::AlreadyResolved(agent("r"))));
        assert_eq!(resolve(&mut capability, 30), Err(CapabilityError::AlreadyResolved(agent("r"))));
        assert_eq!(capability.redeem(agent("a"), at(2), at(20)), Err(CapabilityError::AlreadyRedeemed));
        let text = serde_json::to_string(&capability).unwrap();
        assert_eq!(serde_json::from_str::<Capability>(&text).unwrap(), capability);
    }

    #[test]
    fn a_missed_deadline_is_an_unknown_outcome_until_it_is_told() {
        let mut capability = capability();
        capability.redeem(agent("a"), at(1), at(20)).unwrap();
        assert_eq!(capability.state(at(20)), CapabilityState::OutcomeUnknown);
        capability.complete(&agent("a"), Outcome::Succeeded, None, at(30)).unwrap();
        assert_eq!(capability.state(at(30)), CapabilityState::Completed(Outcome::Succeeded));
    }
}
