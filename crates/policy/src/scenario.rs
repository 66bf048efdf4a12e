//! Scenarios as data: what a bundle must answer, in files beside its policies.
//!
//! The same files run against this crate, the engine and the server, and the answers must agree.

use countersign_core::value::Record;
use countersign_core::{EntityRef, Timestamp};
use serde::Deserialize;

/// One situation and what must come of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What must hold, as a sentence.
    pub name: String,
    /// When it happens.
    #[serde(deserialize_with = "timestamp")]
    pub now: Timestamp,
    /// Who acts.
    #[serde(deserialize_with = "entity")]
    pub principal: EntityRef,
    /// The person the principal acts for.
    #[serde(default, deserialize_with = "some_entity")]
    pub operator: Option<EntityRef>,
    /// The operation.
    pub operation: String,
    /// What is acted upon.
    #[serde(deserialize_with = "entity")]
    pub resource: EntityRef,
    /// The enforcement point that the capability is for.
    pub audience: String,
    /// What the session is for.
    #[serde(default)]
    pub purpose: String,
    /// The arguments.
    #[serde(default, deserialize_with = "record")]
    pub input: Record,
    /// The circumstances.
    #[serde(default, deserialize_with = "record")]
    pub environment: Record,
    /// The first answer.
    pub expect: Expect,
    /// The rules that ask when approval is needed, the determining policies otherwise; absent means: not compared.
    #[serde(default)]
    pub rules: Option<Vec<String>>,
    /// The votes, in the order in which they are cast.
    #[serde(default)]
    pub vote: Vec<ScenarioVote>,
    /// What comes of it after the votes.
    #[serde(default)]
    pub after: Option<After>,
}

/// A verdict, as scenario files write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Expect {
    /// The action may happen.
    Allow,
    /// It may not.
    Deny,
    /// People are to be asked.
    NeedsApproval,
    /// The question itself is refused.
    Invalid,
}

/// One vote.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioVote {
    /// Who votes.
    #[serde(deserialize_with = "entity")]
    pub person: EntityRef,
    /// What they say.
    pub verdict: VoteVerdict,
    /// What must come of it.
    pub expect: VoteExpect,
}

/// What a voter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VoteVerdict {
    /// Yes.
    Approve,
    /// No.
    Deny,
}

/// What comes of a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VoteExpect {
    /// It counts; some rule is still unmet.
    Counted,
    /// It counts, and every rule is met.
    Approved,
    /// It counts as a no: the request is over.
    Ended,
    /// The voter is excluded.
    Excluded,
    /// The voter may not answer for any rule that asks.
    NotEligible,
    /// The voter has voted.
    AlreadyVoted,
}

/// What comes after the votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The verdict of deciding again with the approval.
    pub expect: Expect,
}
