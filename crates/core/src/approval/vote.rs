//! What persons say, and how far that goes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::AskingRule;
use super::signed::VoteSignature;
use crate::claimed::{Claimed, groups_at};
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::time::Timestamp;

/// What one person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes, to exactly this.
    Approve,
    /// No. One from an eligible person ends the request.
    Deny,
}

/// One person's vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// The canonical human; accounts do not vote, persons do.
    pub person: EntityRef,
    /// The account that was used: issuer and subject.
    pub account: String,
    /// What was said.
    pub verdict: Verdict,
    /// The asking rules that the person was eligible for when voting.
    pub rules: BTreeSet<String>,
    /// The digest that was shown.
    pub digest: Digest,
    /// The digest of everything that was shown.
    pub view: Digest,
    /// The person's words: a stranger's text.
    pub comment: String,
    /// When, by the server's clock.
    pub at: Timestamp,
    /// The groups that the voter was in by their credential and not by the directory: while they count, the vote may rest on
    /// them. Absent in a deny, which nothing counts again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub claimed: Option<Claimed>,
    /// What the person signed it with. Absent when they did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signature: Option<VoteSignature>,
    /// The digest of its statement, signed or not: what a capability that rests on it names. Absent in votes of the first release.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub statement: Option<Digest>,
}

impl Vote {
    /// The groups that the voter's credential adds to those of the directory, as long as it does.
    #[must_use]
    pub fn groups_at(&self, now: Timestamp) -> &BTreeSet<EntityRef> {
        groups_at(self.claimed.as_ref(), now)
    }

    /// Whether it is signed, if the rule demands that. A deny takes nothing but a possibility away, and whoever has lost their key
    /// must be able to say no: it needs no signature.
    pub(super) const fn satisfies(&self, rule: &AskingRule) -> bool {
        !rule.signed_votes || self.signature.is_some() || matches!(self.verdict, Verdict::Deny)
    }

    /// Whether it was cast with groups of a credential that has expired: it may not count any more, and can be cast again.
    pub(super) fn has_faded(&self, now: Timestamp) -> bool {
        self.claimed.as_ref().is_some_and(|claimed| now.reached(claimed.until()))
    }
}

/// How far one rule is from being met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// The rule.
    pub rule: String,
    /// How many distinct persons it wants.
    pub quorum: u32,
    /// Who counts for it.
    pub persons: BTreeSet<EntityRef>,
}

impl Tally {
    /// Whether the quorum is met. A quorum of zero is never met: nobody has answered.
    #[must_use]
    pub fn met(&self) -> bool {
        self.quorum > 0 && u32::try_from(self.persons.len()).unwrap_or(u32::MAX) >= self.quorum
    }
}
