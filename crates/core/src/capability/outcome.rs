//! What came of an action: told by whoever ran it, or found out by a person.

use serde::{Deserialize, Serialize};

use crate::entity::EntityRef;
use crate::time::Timestamp;

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
