//! What people answered before, when they were asked about the same operation on the same resource.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::approval::Verdict;
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::ApprovalId;
use crate::time::Timestamp;

/// So many answers are kept singly; beyond, they are counted.
pub const RECENT: usize = 5;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precedent {
    /// The request.
    pub approval: ApprovalId,
    /// Whose action it was.
    pub principal: EntityRef,
    /// What the answer was: approve when every rule was met, deny when an eligible person said no.
    pub verdict: Verdict,
    /// Who decided it: everyone who had approved, or who denied.
    pub by: BTreeSet<EntityRef>,
    /// When.
    pub at: Timestamp,
}

/// The answers about one operation on one resource. What nobody answered does not count: it says nothing about the question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precedents {
    /// The operation.
    pub operation: String,
    /// The resource.
    pub resource: EntityRef,
    /// How it went.
    pub history: History,
}

/// How often it was approved and denied, and the last answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// How often every rule was met.
    pub approved: u64,
    /// How often an eligible person said no.
    pub denied: u64,
    /// The last answers, the newest first, at most [`RECENT`].
    pub recent: Vec<Precedent>,
}

impl History {
    /// Whether nobody ever answered.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.approved == 0 && self.denied == 0
    }
}

impl Precedents {
    /// None yet.
    #[must_use]
    pub fn new(operation: String, resource: EntityRef) -> Self {
        Self { operation, resource, history: History::default() }
    }

    /// What they are about, in one value: rows are found by it.
    #[must_use]
    pub fn subject(operation: &str, resource: &EntityRef) -> Digest {
        Digest::of_parts(&[operation.as_bytes(), resource.kind().as_bytes(), resource.id().as_bytes()])
    }

    /// A request that counts as approved is so no more: somebody withdrew, or denied it afterwards.
    pub fn take_back(&mut self, approval: ApprovalId) {
        let History { approved, recent, .. } = &mut self.history;
        recent.retain(|earlier| earlier.approval != approval);
        *approved = approved.saturating_sub(1);
    }

    /// Adds an answer.
    pub fn add(&mut self, precedent: Precedent) {
        let History { approved, denied, recent } = &mut self.history;
        match precedent.verdict {
            Verdict::Approve => *approved = approved.saturating_add(1),
            Verdict::Deny => *denied = denied.saturating_add(1),
        }
        recent.insert(0, precedent);
        recent.truncate(RECENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(n: u8, verdict: Verdict) -> Precedent {
        Precedent {
            approval: ApprovalId::from_bytes([n; 16]),
            principal: EntityRef::new("Agent", "a").unwrap(),
            verdict,
            by: BTreeSet::new(),
            at: Timestamp::from_millis(n.into()),
        }
    }

    fn none() -> Precedents {
        Precedents::new("export".into(), EntityRef::new("Dataset", "docs").unwrap())
    }

    #[test]
    fn all_are_counted_and_the_last_are_kept() {
        let mut precedents = none();
        for n in 0..9 {
            precedents.add(answer(n, if n % 3 == 0 { Verdict::Deny } else { Verdict::Approve }));
        }
        let History { approved, denied, recent } = &precedents.history;
        assert_eq!((*approved, *denied), (6, 3));
        assert_eq!(recent.iter().map(|answer| answer.at.millis()).collect::<Vec<_>>(), [8, 7, 6, 5, 4]);
        let text = serde_json::to_string(&precedents).unwrap();
        assert_eq!(serde_json::from_str::<Precedents>(&text).unwrap(), precedents);
    }

    #[test]
    fn what_was_approved_and_then_denied_was_denied_however_many_answers_there_were_since() {
        let mut precedents = none();
        for n in 1..=9 {
            precedents.add(answer(n, Verdict::Approve));
        }
        for n in [1, 9] {
            precedents.take_back(ApprovalId::from_bytes([n; 16]));
            precedents.add(answer(n, Verdict::Deny));
        }
        let History { approved, denied, recent } = &precedents.history;
        assert_eq!((*approved, *denied), (7, 2));
        let recent: Vec<_> = recent.iter().map(|answer| (answer.at.millis(), answer.verdict)).collect();
        assert_eq!(recent[..3], [(9, Verdict::Deny), (1, Verdict::Deny), (8, Verdict::Approve)]);
    }
}
