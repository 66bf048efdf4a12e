//! A query made into a Cedar request, and evaluated.

use std::collections::BTreeSet;

use cedar_policy::{Context, Decision, EntityUid, Request, RestrictedExpression};
use countersign_core::visible::Visible;
use countersign_core::{EntityRef, HolderKind, Timestamp};

use crate::bundle::{Bundle, Operation};
use crate::clause::Ground;
use crate::decide::{ApprovalFacts, Query, QueryError};
use crate::index::Index;
use crate::moment::Moment;
use crate::shape::Misfit;
use crate::view::{Slice, View};

/// The longest evaluation error that is passed on, in characters.
const MAX_ERROR: usize = 512;

/// The fields of a context, or of a record in it.
pub(crate) type Pairs = Vec<(String, RestrictedExpression)>;

/// A query that fits the schema, with all of its context but the approval.
pub(crate) struct Prepared<'a> {
    view: View<'a>,
    slice: Slice<'a>,
    operation: &'a Operation,
    principal: EntityUid,
    resource: EntityUid,
    context: Pairs,
}

/// What one evaluation came to.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    pub allowed: bool,
    /// The policies that determined it, sorted.
    pub determining: Vec<String>,
    /// The policies that failed, sorted. If there are any, nothing else here means anything.
    pub errors: Vec<Failure>,
}

/// A policy that could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Failure {
    pub policy: String,
    pub text: String,
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(view: View<'a>, query: &Query<'_>) -> Result<Self, QueryError> {
        Self::with(view, query, true)
    }

    /// Without input and environment: for what can be told before they are known, and not to be decided.
    pub(crate) fn without_moment(view: View<'a>, query: &Query<'_>) -> Result<Self, QueryError> {
        Self::with(view, query, false)
    }

    fn with(view: View<'a>, query: &Query<'_>, moment: bool) -> Result<Self, QueryError> {
        let bundle = view.bundle;
        let operation = bundle.operations.get(query.operation).ok_or_else(|| unknown(bundle, query.operation))?;
        let kind = |entity: &EntityRef, kinds: &[String]| {
            bundle.directory.uid(entity).filter(|_| kinds.iter().any(|kind| kind == entity.kind()))
        };
        let principal = kind(query.principal, &operation.principals).ok_or_else(|| QueryError::Principal {
            principal: query.principal.to_string(),
            operation: query.operation.to_owned(),
            allowed: operation.principals.clone(),
        })?;
        let resource = kind(query.resource, &operation.resources).ok_or_else(|| QueryError::Resource {
            resource: query.resource.to_string(),
            operation: query.operation.to_owned(),
            allowed: operation.resources.clone(),
        })?;
        let within = |name: &'static str| {
            move |misfit: Misfit| QueryError::Invalid { field: format!("{name}{}", misfit.path), reason: misfit.reason }
        };
        let mut context = vec![
            ("session".to_owned(), session(bundle, query)?),
            ("digest".to_owned(), RestrictedExpression::new_string(query.digest.to_string())),
        ];
        context.extend(circumstances(bundle, query.operator, query.excluded, query.now)?);
        context.extend(holder_of(query.holder)?);
        // Whatever a policy can go on from: the request's own entities, and those that the context names.
        let mut named = Vec::new();
        let moments =
            [("input", &operation.input, query.input), ("environment", &operation.environment, query.environment)];
        for (field, declared, sent) in moments.into_iter().filter(|_| moment) {
            context.push((field.to_owned(), declared.convert(sent).map_err(within(field))?));
            declared.named_in(sent, &mut named);
        }
        named.extend(query.operator.and_then(|operator| bundle.directory.uid(operator)));
        let roots: Vec<&EntityUid> = [&principal, &resource].into_iter().chain(&named).collect();
        let slice = view.slice(&roots, &operation.uid)?;
        Ok(Self { view, slice, operation, principal, resource, context })
    }

    /// Evaluates it with these approvals.
    pub(crate) fn pass(&self, approval: Option<&ApprovalFacts>) -> Result<Pass, QueryError> {
        let context = self.context(approval)?;
        let uids = (self.principal.clone(), self.operation.uid.clone(), self.resource.clone());
        let mut pass = evaluate(self.view, &self.slice, uids, context, &self.operation.policies)?;
        if !self.operation.sensitive.is_empty() {
            // Cedar's messages may show values, and these were promised not to be shown.
            for failure in &mut pass.errors {
                failure.text = format!("`{}` could not be evaluated", failure.policy);
            }
        }
        Ok(pass)
    }

    /// What single expressions are evaluated on, with these approvals; the context fields `open` are not known.
    pub(crate) fn ground<'s>(
        &'s self,
        approval: Option<&ApprovalFacts>,
        open: &'s [&'s str],
    ) -> Result<Ground<'s>, QueryError> {
        let context = Context::from_pairs(self.context(approval)?).map_err(|error| invalid("context", error))?;
        let (principal, action, resource) = (self.principal.clone(), self.operation.uid.clone(), self.resource.clone());
        let request = Request::new(principal, action, resource, context, None).map_err(|e| invalid("request", e))?;
        Ok(Ground { request, entities: self.slice.entities(), open })
    }

    fn context(&self, approval: Option<&ApprovalFacts>) -> Result<Pairs, QueryError> {
        let mut context = self.context.clone();
        if let Some(facts) = approval {
            let record = vec![
                ("rules".to_owned(), strings(&facts.rules)),
                ("persons".to_owned(), persons(self.view.bundle, &facts.persons, "approval.persons")?),
                ("digest".to_owned(), RestrictedExpression::new_string(facts.digest.to_string())),
                ("expires".to_owned(), moment(facts.expires, "approval.expires")?.instant()),
            ];
            context.push(("approval".to_owned(), record_of(record)?));
        }
        Ok(context)
    }
}

/// Evaluates one request against one policy set.
pub(crate) fn evaluate(
    view: View<'_>,
    slice: &Slice<'_>,
    (principal, action, resource): (EntityUid, EntityUid, EntityUid),
    context: Pairs,
    policies: &Index,
) -> Result<Pass, QueryError> {
    let context = Context::from_pairs(context).map_err(|error| invalid("context", error))?;
    let (bundle, entities) = (view.bundle, slice.entities());
    let above = |entity: &EntityUid| entities.ancestors(entity).into_iter().flatten().collect();
    let policies = policies.candidates(&principal, &resource, above);
    let request = Request::new(principal, action, resource, context, Some(&bundle.schema))
        .map_err(|error| invalid("request", error))?;
    let response = bundle.authorizer.is_authorized(&request, &policies, entities);
    let mut pass = Pass {
        allowed: response.decision() == Decision::Allow,
        determining: response.diagnostics().reason().map(ToString::to_string).collect(),
        errors: response.diagnostics().errors().map(failure).collect(),
    };
    pass.determining.sort();
    pass.errors.sort();
    Ok(pass)
}

fn failure(error: &cedar_policy::AuthorizationError) -> Failure {
    let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
    let policy = error.policy_id().to_string();
    let text = format!("`{policy}` could not be evaluated: {}", Visible::cut(&error.inner().to_string(), MAX_ERROR));
    Failure { policy, text }
}

/// What work and answers both know: operator, excluded and now.
pub(crate) fn circumstances(
    bundle: &Bundle,
    operator: Option<&EntityRef>,
    excluded: &BTreeSet<EntityRef>,
    now: Timestamp,
) -> Result<Pairs, QueryError> {
    let mut pairs = operator_of(bundle, operator)?;
    pairs.push(("excluded".to_owned(), persons(bundle, excluded, "excluded")?));
    pairs.push(("now".to_owned(), clock(now)?));
    Ok(pairs)
}

/// The operator's field, if there is one.
pub(crate) fn operator_of(bundle: &Bundle, operator: Option<&EntityRef>) -> Result<Pairs, QueryError> {
    let operator = operator.map(|operator| person(bundle, operator, "operator")).transpose()?;
    Ok(operator.into_iter().map(|operator| ("operator".to_owned(), operator)).collect())
}

/// The holder's field, if there is one.
pub(crate) fn holder_of(holder: Option<HolderKind>) -> Result<Pairs, QueryError> {
    let Some(kind) = holder else { return Ok(Vec::new()) };
    let kind = ("kind".to_owned(), RestrictedExpression::new_string(kind.word().to_owned()));
    Ok(vec![("holder".to_owned(), record_of(vec![kind])?)])
}

/// The time that decides, as policies read it.
pub(crate) fn clock(now: Timestamp) -> Result<RestrictedExpression, QueryError> {
    let now = moment(now, "now")?;
    record_of(vec![
        ("instant".to_owned(), now.instant()),
        ("weekday".to_owned(), RestrictedExpression::new_string(now.weekday().to_owned())),
        ("hour".to_owned(), RestrictedExpression::new_long(now.hour())),
        ("minute".to_owned(), RestrictedExpression::new_long(now.minute())),
    ])
}

fn session(bundle: &Bundle, query: &Query<'_>) -> Result<RestrictedExpression, QueryError> {
    let session = &query.session;
    let long = |count: u64| RestrictedExpression::new_long(i64::try_from(count).unwrap_or(i64::MAX));
    // Those that the bundle declares, whatever was kept under an earlier one.
    let counters = bundle.kept().counters.keys();
    let used = |name: &String| session.standing.counters.get(name).copied().unwrap_or_default();
    let counters = counters.map(|name| (name.clone(), long(used(name)))).collect();
    record_of(vec![
        ("id".to_owned(), RestrictedExpression::new_string(session.id.to_string())),
        ("purpose".to_owned(), RestrictedExpression::new_string(session.purpose.to_owned())),
        ("opened_at".to_owned(), moment(session.opened_at, "session.opened_at")?.instant()),
        ("deadline".to_owned(), moment(session.deadline, "session.deadline")?.instant()),
        ("labels".to_owned(), strings(&session.standing.labels)),
        ("counters".to_owned(), record_of(counters)?),
        ("unresolved".to_owned(), long(session.standing.unresolved)),
    ])
}

fn record_of(pairs: Pairs) -> Result<RestrictedExpression, QueryError> {
    RestrictedExpression::new_record(pairs).map_err(|error| invalid("context", error))
}

fn moment(time: Timestamp, field: &str) -> Result<Moment, QueryError> {
    Moment::new(time).ok_or_else(|| invalid(field, "is not a time between the years 0 and 9999"))
}

pub(crate) fn strings(texts: &BTreeSet<String>) -> RestrictedExpression {
    RestrictedExpression::new_set(texts.iter().map(|text| RestrictedExpression::new_string(text.clone())))
}

pub(crate) fn persons(
    bundle: &Bundle,
    persons: &BTreeSet<EntityRef>,
    field: &str,
) -> Result<RestrictedExpression, QueryError> {
    let persons = persons.iter().map(|entity| person(bundle, entity, field));
    persons.collect::<Result<Vec<_>, _>>().map(RestrictedExpression::new_set)
}

pub(crate) fn person(bundle: &Bundle, entity: &EntityRef, field: &str) -> Result<RestrictedExpression, QueryError> {
    let uid = bundle.directory.uid(entity).filter(|_| entity.kind() == "Person");
    let uid = uid.ok_or_else(|| invalid(field, format!("holds `{entity}`, which is no `Person`")))?;
    Ok(RestrictedExpression::new_entity_uid(uid))
}

fn invalid(field: &str, reason: impl ToString) -> QueryError {
    QueryError::Invalid { field: field.to_owned(), reason: reason.to_string() }
}

/// The operation is not known; the hint is what was probably meant.
fn unknown(bundle: &Bundle, operation: &str) -> QueryError {
    let limit = (operation.chars().count() / 3).max(2);
    let known = bundle.operations.keys().map(|name| (distance(name, operation, limit), name));
    let mut near: Vec<_> = known.filter(|(distance, _)| *distance <= limit).collect();
    near.sort();
    QueryError::UnknownOperation {
        operation: Visible::cut(operation, 64).to_string(),
        closest: near.into_iter().take(3).map(|(_, name)| name.clone()).collect(),
    }
}

/// How many letters one must change to get from one word to the other; more than `limit` if their lengths say so already,
/// so that a stranger's long text costs nothing.
fn distance(a: &str, b: &str, limit: usize) -> usize {
    if a.len().abs_diff(b.len()) > limit.saturating_mul(4) || b.len() > 256 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for ((y, above), diagonal) in b.iter().zip(row.iter().skip(1)).zip(&row) {
            left = (left + 1).min(above + 1).min(diagonal + usize::from(x != *y));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use countersign_core::ledger::NOTHING;
    use countersign_core::{Digest, Record, SessionId};
    use serde_json::json;

    use super::*;
    use crate::{SessionFacts, Source};

    /// Prints what a decision costs and how much of it is Cedar's: `cargo test -p countersign-policy -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures"]
    fn what_a_decision_costs() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/ai-platform");
        let bundle = Bundle::load(Source::read_dir(&path).unwrap()).unwrap();
        let entity = |text| EntityRef::parse(text).unwrap();
        let (bot, operator, customers) =
            (entity("Agent::\"etl-bot\""), entity("Person::\"olivia\""), entity("Dataset::\"customers\""));
        let excluded = BTreeSet::from([operator.clone(), entity("Person::\"wendy\"")]);
        let (no, export, select): (Record, Record, Record) = (
            Record::new(),
            serde_json::from_value(json!({ "rows": 500, "destination": "s3://ours-backup" })).unwrap(),
            serde_json::from_value(json!({ "statement": "select 1", "columns": ["id", "name"] })).unwrap(),
        );
        let now = Timestamp::from_millis(1_795_000_000_000);
        let session = SessionFacts {
            id: SessionId::from_bytes([1; 16]),
            purpose: "nightly sync",
            opened_at: now,
            deadline: now.plus(Duration::from_secs(3_600)),
            standing: &NOTHING,
        };
        for (operation, input) in [("query", &select), ("export", &export)] {
            let query = Query {
                principal: &bot,
                operation,
                resource: &customers,
                input,
                environment: &no,
                session,
                operator: Some(&operator),
                digest: Digest::of(b"action"),
                now,
                excluded: &excluded,
                approval: None,
                holder: None,
            };
            let prepared = Prepared::new(bundle.alone(), &query).unwrap();
            let context = || Context::from_pairs(prepared.context.clone()).unwrap();
            let uids = || (prepared.principal.clone(), prepared.operation.uid.clone(), prepared.resource.clone());
            let request = |schema| {
                let (principal, action, resource) = uids();
                Request::new(principal, action, resource, context(), schema).unwrap()
            };
            let ready = request(None);
            let above =
                |entity: &EntityUid| bundle.directory.entities.ancestors(entity).into_iter().flatten().collect();
            let find = || prepared.operation.policies.candidates(&prepared.principal, &prepared.resource, above);
            let policies = &find();
            println!("{operation}: {} policies in scope", policies.num_of_policies());
            time("decide", || drop(bundle.alone().decide(&query).unwrap()));
            time("  prepare", || drop(Prepared::new(bundle.alone(), &query).unwrap()));
            time("  context", || drop(context()));
            time("  context and request, checked against the schema", || drop(request(Some(&bundle.schema))));
            let entities = &bundle.directory.entities;
            time("  is_authorized alone", || drop(bundle.authorizer.is_authorized(&ready, policies, entities)));
            time("  find the policies", || drop(find()));
            time("  context for the record", || drop(serde_json::to_vec(&bundle.evaluated(&query)).unwrap()));
        }
    }

    fn time(what: &str, mut run: impl FnMut()) {
        const ROUNDS: u32 = 20_000;
        (0..ROUNDS / 10).for_each(|_| run());
        let start = Instant::now();
        (0..ROUNDS).for_each(|_| run());
        println!("{what}: {:.1} µs", start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
    }

    #[test]
    fn distances_are_edits() {
        assert_eq!(distance("export", "export", 2), 0);
        assert_eq!(distance("export", "exprot", 2), 2);
        assert_eq!(distance("export", "exports", 2), 1);
        assert_eq!(distance("export", &"x".repeat(1000), 2), usize::MAX);
    }
}
