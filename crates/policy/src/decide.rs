//! The decision about one action.
//!
//! ALLOW takes at least one permit, no forbid, and no evaluation error in either pass: Cedar skips a policy that fails, a
//! forbid too, so whatever fails is DENY.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_core::ledger::Standing;
use countersign_core::{Digest, EntityRef, HolderKind, Record, SessionId, Timestamp};

use crate::bundle::AskingRule;
use crate::entities::STAND_IN;
use crate::request::{Pass, Prepared};
use crate::view::View;

/// One question: may this principal do exactly this, now?
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// Who acts: an `Agent`, `Service` or `Person`.
    pub principal: &'a EntityRef,
    /// The operation, by the id of its Cedar action.
    pub operation: &'a str,
    /// What is acted upon.
    pub resource: &'a EntityRef,
    /// The arguments, raw: sensitive ones are evaluated, and left out of [`Evaluated`].
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
    /// How whoever the capability is bound to proves it; absent if it is bound to nobody.
    pub holder: Option<HolderKind>,
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
    /// Its labels and counters.
    pub standing: &'a Standing,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// The answer.
    pub verdict: Verdict,
    /// The ids of the policies that determined it, sorted. For [`Verdict::NeedsApproval`] the rules that ask.
    pub determining: Vec<String>,
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

impl Verdict {
    /// As records and scenarios write it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Deny { .. } => "DENY",
            Self::Allow => "ALLOW",
            Self::NeedsApproval { .. } => "NEEDS_APPROVAL",
        }
    }
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

impl View<'_> {
    /// Decides. Asks nobody: [`Verdict::NeedsApproval`] is a preview of what would be needed.
    ///
    /// # Errors
    /// [`QueryError`] if the question does not fit the schema. That is no verdict, and allows nothing.
    pub fn decide(&self, query: &Query<'_>) -> Result<Evaluation, QueryError> {
        let request = Prepared::new(*self, query)?;

        let first = request.pass(query.approval)?;
        if !first.errors.is_empty() {
            return Ok(denied(DenyCause::EvaluationError, first));
        }
        if first.allowed {
            return Ok(answered(Verdict::Allow, first));
        }
        if first.determining.is_empty() {
            return Ok(denied(DenyCause::NoPermit, first));
        }
        let Some(rules) = self.liftable(&first) else {
            return Ok(denied(DenyCause::Forbidden, first));
        };

        // Would it be allowed, were everything approved that asks? The closed form is the only reader of approvals, so
        // this is what an approval of all of them would do.
        let second = request.pass(Some(&preview(query, &rules)))?;
        if !second.errors.is_empty() {
            return Ok(denied(DenyCause::EvaluationError, second));
        }
        if !second.allowed {
            let cause = if second.determining.is_empty() { DenyCause::NoPermit } else { DenyCause::Forbidden };
            return Ok(denied(cause, first));
        }
        Ok(answered(Verdict::NeedsApproval { rules }, first))
    }

    /// The rules behind a denial, if people can lift every one of them.
    fn liftable(&self, denial: &Pass) -> Option<Vec<AskingRule>> {
        denial.determining.iter().map(|id| self.bundle.asking(id).cloned()).collect()
    }
}

/// An approval of `rules` and of those that are already met.
fn preview(query: &Query<'_>, rules: &[AskingRule]) -> ApprovalFacts {
    let met = query.approval.into_iter().flat_map(|approval| approval.rules.iter().cloned());
    ApprovalFacts {
        rules: met.chain(rules.iter().map(|rule| rule.id.clone())).collect(),
        persons: EntityRef::new("Person", STAND_IN).into_iter().collect(),
        digest: query.digest,
        expires: query.now.plus(Duration::from_millis(1)),
    }
}

fn answered(verdict: Verdict, pass: Pass) -> Evaluation {
    Evaluation { verdict, determining: pass.determining }
}

fn denied(cause: DenyCause, pass: Pass) -> Evaluation {
    let errors = pass.errors.iter().map(|failure| failure.text.clone()).collect();
    // Of a failure those that failed are told: what the others say is not the reason.
    let determining = match cause {
        DenyCause::EvaluationError => pass.errors.into_iter().map(|failure| failure.policy).collect(),
        DenyCause::NoPermit | DenyCause::Forbidden => pass.determining,
    };
    Evaluation { verdict: Verdict::Deny { cause, errors }, determining }
}
