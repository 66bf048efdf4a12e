//! What a pre-approval was used for: each use is charged in the commit that spends it, and the last one ends it.

use serde::{Deserialize, Serialize};

use super::{ApprovalError, Spender};
use crate::digest::Digest;
use crate::pre_approval::Bounds;
use crate::time::Timestamp;

/// So many of the last uses are kept with a request. The log has all of them.
pub const KEPT_USES: usize = 32;

/// One use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charge {
    /// Which one: the first is 1.
    pub number: u32,
    /// What was charged for it.
    pub by: Spender,
    /// When.
    pub at: Timestamp,
}

/// The bounds of a pre-approval, and what is used of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charged {
    bounds: Bounds,
    until: Timestamp,
    /// Of the text of the rules when it was asked.
    wording: Digest,
    charged: u32,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    last: Vec<Charge>,
}

impl Charged {
    pub(super) const fn new(bounds: Bounds, until: Timestamp, wording: Digest) -> Self {
        Self { bounds, until, wording, charged: 0, last: Vec::new() }
    }

    /// How often, and for how long.
    #[must_use]
    pub const fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// However late it is approved, it is over then.
    #[must_use]
    pub const fn until(&self) -> Timestamp {
        self.until
    }

    /// The digest of the text of the rules when it was asked: what an input may be, their clauses say, so what people approved
    /// is what the rules said then.
    #[must_use]
    pub const fn wording(&self) -> Digest {
        self.wording
    }

    /// How many uses are charged.
    #[must_use]
    pub const fn charged(&self) -> u32 {
        self.charged
    }

    /// How many are left.
    #[must_use]
    pub const fn left(&self) -> u32 {
        self.bounds.uses.saturating_sub(self.charged)
    }

    /// The last uses, the oldest first.
    #[must_use]
    pub fn last(&self) -> &[Charge] {
        &self.last
    }

    /// From when on it is over, when it is approved at `now`.
    pub(super) fn expires_at(&self, now: Timestamp) -> Timestamp {
        now.plus(self.bounds.duration()).min(self.until)
    }

    /// Charges a use (I1: never more than there are). Answers whether it was the last.
    pub(super) fn charge(&mut self, by: Spender, at: Timestamp) -> Result<bool, ApprovalError> {
        if self.left() == 0 {
            return Err(ApprovalError::UsedUp(self.bounds.uses));
        }
        self.charged = self.charged.saturating_add(1);
        self.last.push(Charge { number: self.charged, by, at });
        let older = self.last.len().saturating_sub(KEPT_USES);
        self.last.drain(..older);
        Ok(self.left() == 0)
    }
}

#[cfg(test)]
mod tests;
