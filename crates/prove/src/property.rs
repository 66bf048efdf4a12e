//! What is to be proved.

use cedar_policy::{Effect, Policy, PolicyId, PolicySet};
use countersign_policy::analysis::{Approval, Statement};
use countersign_policy::{Bundle, SetKind};
use serde_json::Value;

const BUILTIN: &str = include_str!("builtin.cedar");
const CLOCK: &str = include_str!("clock.cedar");

/// One statement about one policy set.
#[derive(Debug, Clone)]
pub struct Property {
    /// Its id. Those of the built-in ones have a colon, which those of authors cannot have.
    pub id: String,
    /// The policy set that it is about.
    pub set: SetKind,
    /// What it says, in words.
    pub says: String,
    /// Where its author wrote it: the file inside the bundle, and the line. Nothing for a built-in one.
    pub stated_at: Option<(String, usize)>,
    pub(crate) claim: Claim,
}

/// A property as the solver is asked about it. The policies here are permits: they say what is matched, and decide nothing.
#[derive(Debug, Clone)]
pub(crate) enum Claim {
    /// Nothing that it matches is allowed.
    Never(Policy),
    /// The same, for a rule that people can lift.
    Guard {
        /// What the rule asks about, without its approval.
        missing: Policy,
        /// The same with it. If none of that is allowed either, the rule asks in vain.
        given: Box<Policy>,
    },
    /// Everything that it matches is allowed.
    Always(Policy),
    /// No policy of the set can fail.
    NoFailure,
}

/// A property that could not be written as a question.
#[derive(Debug, thiserror::Error)]
pub enum PropertyError {
    /// What the author states is wrong.
    #[error("{0}")]
    Refused(#[from] countersign_policy::Refused),
    /// A fault of ours.
    #[error(
        "the property `{id}` could not be written as a question: {reason}; this is a fault of countersign, report it"
    )]
    Broken {
        /// The property.
        id: String,
        /// What was refused.
        reason: String,
    },
}

/// Everything that there is to prove of a bundle: what holds of every bundle, what holds of each rule that people can lift,
/// and what its author states.
///
/// # Errors
/// [`PropertyError::Refused`] with everything that is wrong with what the author states.
pub fn properties(bundle: &Bundle) -> Result<Vec<Property>, PropertyError> {
    let mut all = builtin()?;
    for rule in bundle.rules() {
        let id = format!("guard:{}", rule.id);
        let about = |approval| match bundle.asked_about(&rule.id, approval) {
            Some(policy) => in_time(&id, &policy),
            None => Err(broken(&id, "the rule was not found")),
        };
        all.push(Property {
            set: SetKind::Work,
            says: format!("nothing that `{}` asks about is allowed without its approval", rule.id),
            stated_at: None,
            claim: Claim::Guard { missing: about(Approval::Missing)?, given: Box::new(about(Approval::Given)?) },
            id,
        });
    }
    for (set, folder) in [(SetKind::Work, "policies"), (SetKind::Approve, "approve"), (SetKind::Admin, "admin")] {
        all.push(Property {
            id: format!("errors:{folder}"),
            set,
            says: format!("no policy of `{folder}/` can fail to evaluate"),
            stated_at: None,
            claim: Claim::NoFailure,
        });
    }
    for statement in bundle.statements()?.statements {
        all.push(authored(statement)?);
    }
    Ok(all)
}

fn builtin() -> Result<Vec<Property>, PropertyError> {
    let set: PolicySet = BUILTIN.parse().map_err(|error| broken("built-in", error))?;
    let mut all = Vec::new();
    for policy in set.policies() {
        let (Some(id), Some(says)) = (policy.annotation("id"), policy.annotation("reason")) else {
            return Err(broken("built-in", "a statement without id or reason"));
        };
        let set = if id.starts_with("answer:") { SetKind::Approve } else { SetKind::Work };
        let claim = Claim::Never(in_time(id, policy)?);
        all.push(Property { id: id.to_owned(), set, says: says.to_owned(), stated_at: None, claim });
    }
    // Cedar keeps no order.
    all.sort_by(|a, b| (a.set != SetKind::Work, &a.id).cmp(&(b.set != SetKind::Work, &b.id)));
    Ok(all)
}

fn authored(statement: Statement) -> Result<Property, PropertyError> {
    let matched = in_time(&statement.id, &statement.policy)?;
    let (claim, says) = if statement.forbids() {
        (Claim::Never(matched), "nothing that it matches is ever allowed")
    } else {
        (Claim::Always(matched), "everything that it matches is allowed")
    };
    Ok(Property {
        set: SetKind::Work,
        says: statement.reason.unwrap_or_else(|| says.to_owned()),
        stated_at: Some((statement.file, statement.line)),
        claim,
        id: statement.id,
    })
}

/// The policy as a permit, which matches at possible times only.
fn in_time(id: &str, policy: &Policy) -> Result<Policy, PropertyError> {
    possible(policy, Effect::Permit).map_err(|reason| broken(id, reason))
}

/// The policy, evaluated at possible times only: the clock is asked before its own conditions, so at any other time they are
/// neither true nor a failure.
pub(crate) fn possible(policy: &Policy, effect: Effect) -> Result<Policy, String> {
    let clock = Policy::parse(None, CLOCK).map_err(|error| error.to_string())?;
    let clock = clock.to_json().map_err(|error| error.to_string())?;
    let clock = clock.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let mut json = policy.to_json().map_err(|error| error.to_string())?;
    let own = json.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let conditions: Value = clock.chain(own).cloned().collect();
    let fields = json.as_object_mut().ok_or("a policy is an object")?;
    fields.insert("conditions".into(), conditions);
    fields.insert("effect".into(), if effect == Effect::Permit { "permit" } else { "forbid" }.into());
    Policy::from_json(Some(PolicyId::new(policy.id())), json).map_err(|error| error.to_string())
}

fn broken(id: &str, reason: impl ToString) -> PropertyError {
    PropertyError::Broken { id: id.to_owned(), reason: reason.to_string() }
}
