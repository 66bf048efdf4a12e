//! What a request is, and why it is over.

use serde::{Deserialize, Serialize};

use super::Approval;
use crate::entity::EntityRef;
use crate::id::{DecisionId, TokenId};
use crate::time::Timestamp;

/// Why a request became void.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum VoidCause {
    /// A person took an approving vote back after the quorum was met.
    Withdrawn {
        /// Who.
        by: EntityRef,
    },
    /// An eligible person denied after the quorum was met.
    Denied {
        /// Who.
        by: EntityRef,
    },
    /// The session it belongs to is over.
    SessionOver,
    /// It was revoked, alone or with its bundle, pending or approved.
    Revoked {
        /// By whom.
        by: EntityRef,
    },
    /// What the question rested on is no longer so.
    ConditionsChanged {
        /// What changed. Absent in what earlier releases wrote.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        changed: Option<Changed>,
    },
}

/// What is no longer as it was when a question was put, or answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changed {
    /// The policies deny the action now, whoever approves it.
    Denied,
    /// The policies allow the action now without anybody's approval.
    Allowed,
    /// Other rules ask now, or they ask it otherwise.
    Rules,
    /// The votes that approved it do not suffice any more: a voter lost the role, the credential that it was claimed by
    /// expired, or a voter came to be excluded.
    Votes,
    /// The session has labels that people were not shown.
    Labels,
    /// The action does not fit the schema any more.
    Schema,
    /// So many persons came to be excluded that the request has no room for them.
    Excluded,
}

impl Changed {
    /// The one word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Allowed => "allowed",
            Self::Rules => "rules",
            Self::Votes => "votes",
            Self::Labels => "labels",
            Self::Schema => "schema",
            Self::Excluded => "excluded",
        }
    }
}

/// What a request is, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub(super) enum Written {
    Pending,
    Approved { at: Timestamp },
    Denied { at: Timestamp, by: EntityRef },
    Cancelled { at: Timestamp, by: EntityRef },
    Void { at: Timestamp, why: VoidCause },
    Redeemed { at: Timestamp, by: Spender },
}

/// What spent an approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spender {
    /// The redeem of a capability.
    Capability(TokenId),
    /// An ALLOW that was answered without a capability.
    Decision(DecisionId),
}

/// What a request is at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApprovalState {
    /// Waiting for votes.
    Pending,
    /// Every rule that asks is met; usable until it expires.
    Approved,
    /// Ended by one eligible deny.
    Denied {
        /// Who denied.
        by: EntityRef,
    },
    /// Time ran out, before or after the quorum was met. Nobody said no.
    Expired,
    /// Taken back by whoever asked.
    Cancelled {
        /// Who cancelled.
        by: EntityRef,
    },
    /// No longer good for anything.
    Void {
        /// Why.
        why: VoidCause,
    },
    /// Spent.
    Redeemed {
        /// By what.
        by: Spender,
    },
}

impl ApprovalState {
    /// The one word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied { .. } => "denied",
            Self::Expired => "expired",
            Self::Cancelled { .. } => "cancelled",
            Self::Void { .. } => "void",
            Self::Redeemed { .. } => "redeemed",
        }
    }

    /// Whether there is no way out of it.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        !matches!(self, Self::Pending | Self::Approved)
    }
}

impl Approval {
    /// The same request, put in a revocation epoch.
    #[must_use]
    pub const fn in_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// It was cut off by a revocation that is not in its row, unless it was over by then.
    pub(crate) fn cut_off(&mut self, by: EntityRef, at: Timestamp) {
        if !self.state(at).is_terminal() {
            self.written = Written::Void { at, why: VoidCause::Revoked { by } };
        }
    }
}
