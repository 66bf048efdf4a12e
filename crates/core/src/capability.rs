//! Capabilities: what was minted for one digest, and what became of it.
//!
//! ```text
//! minted ─▶ redeemed ─▶ completed
//!    │          └────▶ outcome unknown (decided by every reader) ─▶ completed late | resolved by a person
//!    ├────▶ delegated ─▶ revoked
//!    └────▶ revoked | expired (decided by every reader)
//! ```

mod outcome;
mod state;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::holder::Holder;
use crate::id::{ApprovalId, DecisionId, ReviewId, SessionId, TokenId};
use crate::revocation::is_first;
use crate::time::Timestamp;

pub use outcome::{Finding, Outcome, Resolution};
pub use state::{CapabilityError, CapabilityState};

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
    /// The digests of the statements of the votes that it rests on, in the order in which they were cast; the first [`MAX_VOTES`].
    /// Absent where nobody voted, and in rows of earlier releases.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub votes: Vec<Digest>,
}

/// How many votes a capability names.
pub const MAX_VOTES: usize = 8;

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
        /// What it had been exchanged for, for whoever reads of it: that is worth nothing either.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        to: Option<TokenId>,
    },
    Delegated {
        at: Timestamp,
        by: EntityRef,
        to: TokenId,
    },
    Resolved(Resolution),
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
            self.written = Written::Revoked { at, by, reason, to: self.exchanged_for() };
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

    /// What it was exchanged for, whatever became of that since: for whoever reads of it, and never to judge by.
    #[must_use]
    pub const fn exchanged_for(&self) -> Option<TokenId> {
        match &self.written {
            Written::Delegated { to, .. } => Some(*to),
            Written::Revoked { to, .. } => *to,
            Written::Minted | Written::Redeemed { .. } | Written::Completed { .. } | Written::Resolved(_) => None,
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
        self.written = Written::Revoked { at: now, by, reason, to: self.exchanged_for() };
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
mod tests;
