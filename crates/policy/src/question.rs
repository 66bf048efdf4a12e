//! Questions that own their parts: put together by hand, or read back from the record of a decision.

use std::collections::{BTreeMap, BTreeSet};

use countersign_core::ledger::Standing;
use countersign_core::{Action, Digest, EntityRef, HolderKind, Record, SessionId, Timestamp};
use serde::{Deserialize, Deserializer};

use crate::decide::{ApprovalFacts, Evaluation, Query, SessionFacts, Verdict};
use crate::view::View;

/// Everything that a decision about work is made from, besides the bundle and the stored entities.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Who acts.
    pub principal: EntityRef,
    /// The operation, by the id of its Cedar action.
    pub operation: String,
    /// What is acted upon.
    pub resource: EntityRef,
    /// The arguments.
    pub input: Record,
    /// The circumstances.
    pub environment: Record,
    /// The session it happens in.
    pub session: SessionId,
    /// What the session is for.
    pub purpose: String,
    /// When the session was opened.
    pub opened_at: Timestamp,
    /// From when on the session is over.
    pub deadline: Timestamp,
    /// The session's labels and counters.
    pub standing: Standing,
    /// The person the principal acts for.
    pub operator: Option<EntityRef>,
    /// The action's digest.
    pub digest: Digest,
    /// The time that decides.
    pub now: Timestamp,
    /// The persons whose approval counts for nothing here.
    pub excluded: BTreeSet<EntityRef>,
    /// What people have approved of this digest.
    pub approval: Option<ApprovalFacts>,
    /// The groups that the principal is in by its credential, and not by the directory.
    pub claimed: BTreeSet<EntityRef>,
    /// How whoever the capability is bound to proves it; absent if it is bound to nobody.
    pub holder: Option<HolderKind>,
}

impl Question {
    /// Bundle and entities as the question sees them: with its principal in the groups that it claims.
    #[must_use]
    pub fn seen<'a>(&'a self, view: View<'a>) -> View<'a> {
        view.claiming(&self.principal, &self.claimed)
    }

    /// As [`crate::View::decide`] takes it.
    #[must_use]
    pub fn query(&self) -> Query<'_> {
        Query {
            principal: &self.principal,
            operation: &self.operation,
            resource: &self.resource,
            input: &self.input,
            environment: &self.environment,
            session: SessionFacts {
                id: self.session,
                purpose: &self.purpose,
                opened_at: self.opened_at,
                deadline: self.deadline,
                standing: &self.standing,
            },
            operator: self.operator.as_ref(),
            digest: self.digest,
            now: self.now,
            excluded: &self.excluded,
            approval: self.approval.as_ref(),
            holder: self.holder,
        }
    }
}

/// The record of a decision, as far as it can be decided again.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedDecision {
    /// Its id.
    pub id: String,
    /// The answer of the policies: `ALLOW`, `DENY` or `NEEDS_APPROVAL`; the last also where the glass was broken.
    pub verdict: String,
    /// The policies that determined it.
    pub determining: Vec<String>,
    /// The bundle that decided.
    pub bundle: Digest,
    /// What was asked. Sensitive inputs are not in it: they are in no record.
    pub question: Question,
    /// The input fields that are missing in `question`, since they are sensitive.
    pub withheld: Vec<String>,
}

/// A record of a decision that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record of the decision cannot be read: {0}")]
pub struct RecordError(String);

impl RecordedDecision {
    /// Reads a record's content; nothing if it is no decision's.
    ///
    /// # Errors
    /// [`RecordError`] for the record of a decision that is not as this version writes them.
    pub fn read(content: &[u8]) -> Result<Option<Self>, RecordError> {
        let wrong = |error: serde_json::Error| RecordError(error.to_string());
        let Kind { kind } = serde_json::from_slice(content).map_err(wrong)?;
        if kind != "decision" {
            return Ok(None);
        }
        let Written { decision, verdict, determining, bundle, action, context, glass_broken } =
            serde_json::from_slice(content).map_err(wrong)?;
        // What the policies said, before a person went past those whom they ask.
        let verdict = if glass_broken.is_some() { "NEEDS_APPROVAL".to_owned() } else { verdict };
        let action = Action::from_canonical(&action).map_err(|error| RecordError(error.to_string()))?;
        let Context { input, environment, session, excluded, digest, now, operator, approval, claimed, holder } =
            context;
        let withheld = action.input.keys().filter(|name| !input.contains_key(*name)).cloned().collect();
        let question = Question {
            principal: action.principal,
            operation: action.operation,
            resource: action.resource,
            input,
            environment,
            session: session.id,
            purpose: session.purpose,
            opened_at: session.opened_at,
            deadline: session.deadline,
            standing: Standing { labels: session.labels, counters: session.counters, unresolved: session.unresolved },
            operator,
            digest,
            now,
            excluded,
            approval: approval.map(|Approval { rules, persons, digest, expires }| ApprovalFacts {
                rules,
                persons,
                digest,
                expires,
            }),
            claimed,
            holder: holder.map(|Holder { kind }| kind),
        };
        Ok(Some(Self { id: decision, verdict, determining, bundle, question, withheld }))
    }
}

/// What another bundle says to a recorded decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// The same: the same verdict, and the same rules if it asks for people.
    Same,
    /// Something else.
    Otherwise(Evaluation),
    /// The bundle has no such question: it would be refused, for this reason.
    Invalid(String),
    /// The question cannot be asked again, for this reason.
    Incomparable(String),
}

impl View<'_> {
    /// Decides a recorded decision again. What was approved then counts as approved, and the time is that of the record.
    #[must_use]
    pub fn replay(&self, recorded: &RecordedDecision) -> Replayed {
        if !recorded.withheld.is_empty() {
            return Replayed::Incomparable("its sensitive inputs are in no record".to_owned());
        }
        let now = match recorded.question.seen(*self).decide(&recorded.question.query()) {
            Ok(evaluation) => evaluation,
            Err(error) => return Replayed::Invalid(error.to_string()),
        };
        let asks = matches!(now.verdict, Verdict::NeedsApproval { .. });
        let same = now.verdict.name() == recorded.verdict && (!asks || now.determining == recorded.determining);
        if same { Replayed::Same } else { Replayed::Otherwise(now) }
    }
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

#[derive(Deserialize)]
struct Written {
    decision: String,
    verdict: String,
    determining: Vec<String>,
    bundle: Digest,
    action: String,
    context: Context,
    #[serde(default)]
    glass_broken: Option<serde::de::IgnoredAny>,
}

/// What [`crate::Evaluated`] wrote.
#[derive(Deserialize)]
struct Context {
    input: Record,
    environment: Record,
    session: Session,
    excluded: BTreeSet<EntityRef>,
    digest: Digest,
    #[serde(deserialize_with = "timestamp")]
    now: Timestamp,
    operator: Option<EntityRef>,
    approval: Option<Approval>,
    #[serde(default)]
    claimed: BTreeSet<EntityRef>,
    holder: Option<Holder>,
}

#[derive(Deserialize)]
struct Holder {
    kind: HolderKind,
}

#[derive(Deserialize)]
struct Session {
    id: SessionId,
    purpose: String,
    #[serde(deserialize_with = "timestamp")]
    opened_at: Timestamp,
    #[serde(deserialize_with = "timestamp")]
    deadline: Timestamp,
    #[serde(default)]
    labels: BTreeSet<String>,
    #[serde(default)]
    counters: BTreeMap<String, u64>,
    #[serde(default)]
    unresolved: u64,
}

#[derive(Deserialize)]
struct Approval {
    rules: BTreeSet<String>,
    persons: BTreeSet<EntityRef>,
    digest: Digest,
    #[serde(deserialize_with = "timestamp")]
    expires: Timestamp,
}

/// A time as RFC 3339 text.
pub(crate) fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time: jiff::Timestamp = text.parse().map_err(|_| {
        serde::de::Error::custom(format!("`{}` is not a time, write it as `2026-11-18T10:00:00Z`", text.escape_debug()))
    })?;
    Ok(Timestamp::from_millis(time.as_millisecond()))
}
