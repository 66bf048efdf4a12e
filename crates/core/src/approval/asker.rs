//! Whoever puts a question that is pending already.

use serde::{Deserialize, Serialize};

use super::{Approval, ApprovalState};
use crate::entity::EntityRef;
use crate::time::Timestamp;

/// So many askers a question shows.
pub const MAX_ASKERS: usize = 8;

/// One who put the same question after another had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlsoAsked {
    /// Who.
    pub by: EntityRef,
    /// Why, in the asker's words: a stranger's text.
    pub justification: String,
}

impl Approval {
    /// Who put the same question after the first.
    #[must_use]
    pub fn also_asked(&self) -> &[AlsoAsked] {
        &self.also
    }

    /// Somebody puts the same question: their words are shown beside the others'. Whoever voted has not seen them, so the votes are
    /// asked for again. Each asker is heard once, [`MAX_ASKERS`] are heard, and of an approved request, which nobody votes on any more,
    /// nothing changes. Answers whether what is shown has changed.
    pub fn join(&mut self, by: &EntityRef, justification: &str, now: Timestamp) -> bool {
        let heard = self.asked_by == *by || self.also.iter().any(|asker| asker.by == *by);
        let full = self.also.len().saturating_add(1) >= MAX_ASKERS;
        if heard || full || self.state(now) != ApprovalState::Pending {
            return false;
        }
        self.also.push(AlsoAsked { by: by.clone(), justification: justification.to_owned() });
        self.votes.clear();
        self.view = self.view_digest();
        true
    }
}
