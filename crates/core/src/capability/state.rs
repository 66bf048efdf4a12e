//! What a capability is at a moment, and why it refuses.

use super::{Finding, Outcome};
use crate::entity::EntityRef;

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
