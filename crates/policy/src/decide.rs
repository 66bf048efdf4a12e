//! The decision about one action.

use std::collections::BTreeSet;

use countersign_core::{Digest, EntityRef, Record, SessionId, Timestamp};

use crate::bundle::{AskingRule, Bundle};

/// One question: may this principal do exactly this, now?
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// Who acts: an `Agent`, `Service` or `Person`.
    pub principal: &'a EntityRef,
    /// The operation, by the id of its Cedar action.
    pub operation: &'a str,
    /// What is acted upon.
    pub resource: &'a EntityRef,
    /// The arguments, raw: sensitive ones are evaluated, and left out of [`Evaluation::context`].
    pub input: &'a Record,
    /// The circumstances that the enforcement point vouches for.
    pub environment: &'a Record,
    /// The session it happens in.
    pub session: SessionFacts<'a>,
    /// The person the principal acts for.
    pub operator: Option<&'a EntityRef>,
    /// The action's digest.
    pub digest: Digest,
    /// The time that decides.
    pub now: Timestamp,
    /// The persons whose approval counts for nothing here: caller, operator, owners, chain. Persons only.
    pub excluded: &'a BTreeSet<EntityRef>,
    /// What people have approved of this digest; absent until at least one rule is met.
    pub approval: Option<&'a ApprovalFacts>,
}

/// What policies may know of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionFacts<'a> {
    /// Its id.
    pub id: SessionId,
    /// What it is for.
    pub purpose: &'a str,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// From when on it is over.
    pub deadline: Timestamp,
}

/// What people have approved. `rules` holds the ids whose quorum is met by distinct, eligible, not excluded persons; the
/// caller of this crate counts, Cedar decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalFacts {
    /// The rules that are met.
    pub rules: BTreeSet<String>,
    /// Everybody who approved.
    pub persons: BTreeSet<EntityRef>,
    /// The digest they approved.
    pub digest: Digest,
    /// From when on the approval counts for nothing.
    pub expires: Timestamp,
}

/// What came out, and from what.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The answer.
    pub verdict: Verdict,
    /// The ids of the policies that determined it, sorted. For [`Verdict::NeedsApproval`] the rules that ask.
    pub determining: Vec<String>,
    /// The evaluated context as JSON, for the audit record. Sensitive inputs are left out.
    pub context: serde_json::Value,
}

/// ALLOW, DENY or NEEDS_APPROVAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No.
    Deny {
        /// Why.
        cause: DenyCause,
        /// The evaluation errors, one for each policy that failed; empty unless the cause is an error.
        errors: Vec<String>,
    },
    /// Yes: at least one permit, no forbid, and no evaluation error.
    Allow,
    /// Not yet: these rules ask for people, and with all of them met it would be allowed.
    NeedsApproval {
        /// The rules that are still unmet, sorted by id.
        rules: Vec<AskingRule>,
    },
}

impl Default for Verdict {
    fn default() -> Self {
        Self::Deny { cause: DenyCause::NoPermit, errors: Vec::new() }
    }
}

/// Why something was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyCause {
    /// No policy permits it, not even with every approval that could be given.
    NoPermit,
    /// A policy forbids it, and no approval lifts that.
    Forbidden,
    /// A policy could not be evaluated; Cedar would skip it, a forbid too.
    EvaluationError,
}

/// A question that cannot be asked: the caller's fault, and not a verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The schema has no such operation.
    #[error("the policies know no operation `{operation}`{}", did_you_mean(.closest))]
    UnknownOperation {
        /// What was asked for, visibly escaped.
        operation: String,
        /// Operations with similar names, the most similar first.
        closest: Vec<String>,
    },
    /// The operation is not for such principals.
    #[error("`{principal}` cannot be the principal of `{operation}`; its principals are of type {}", listed(.allowed))]
    Principal {
        /// Who was given.
        principal: String,
        /// The operation.
        operation: String,
        /// The types that it is for.
        allowed: Vec<String>,
    },
    /// The operation is not for such resources.
    #[error("`{resource}` cannot be the resource of `{operation}`; its resources are of type {}", listed(.allowed))]
    Resource {
        /// What was given.
        resource: String,
        /// The operation.
        operation: String,
        /// The types that it is for.
        allowed: Vec<String>,
    },
    /// A value does not fit the schema.
    #[error("`{field}` {reason}")]
    Invalid {
        /// Where, such as `input.rows`.
        field: String,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
}

fn did_you_mean(closest: &[String]) -> String {
    if closest.is_empty() { String::new() } else { format!("; did you mean {}?", listed(closest)) }
}

fn listed(words: &[String]) -> String {
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(" or ")
}
