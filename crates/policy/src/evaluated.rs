//! The context that a decision evaluated, as the audit record tells it.

use std::collections::{BTreeMap, BTreeSet};

use countersign_core::{Digest, EntityRef, HolderKind, Record, SessionId, Timestamp, Value};
use serde::{Serialize, Serializer};

use crate::bundle::Bundle;
use crate::decide::{ApprovalFacts, Query, SessionFacts};
use crate::moment::Moment;

/// What [`crate::View::decide`] evaluated, to be written into a record: with the bundle, everything that is needed to decide
/// again, except for the sensitive inputs. The order of the fields is part of the records.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluated<'a> {
    input: Shown<'a>,
    environment: &'a Record,
    session: Session<'a>,
    excluded: &'a BTreeSet<EntityRef>,
    digest: Digest,
    now: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<&'a EntityRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<Approval<'a>>,
    /// Not of the context: the groups that the principal was in by its credential, and not by the directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed: Option<&'a BTreeSet<EntityRef>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<Holder>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Holder {
    kind: HolderKind,
}

#[derive(Debug, Clone, Serialize)]
struct Session<'a> {
    id: SessionId,
    purpose: &'a str,
    opened_at: Time,
    deadline: Time,
    /// Absent, as what follows, where the bundle keeps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counters: Option<&'a BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unresolved: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
struct Approval<'a> {
    rules: &'a BTreeSet<String>,
    persons: &'a BTreeSet<EntityRef>,
    digest: Digest,
    expires: Time,
}

/// An input without its sensitive fields.
#[derive(Debug, Clone)]
struct Shown<'a> {
    input: &'a Record,
    sensitive: &'a [String],
}

/// A time as policies see it; null for one that they could not.
#[derive(Debug, Clone, Copy)]
struct Time(Timestamp);

impl Bundle {
    /// What [`Bundle::decide`] evaluates for this query.
    #[must_use]
    pub fn evaluated<'a>(&'a self, query: &Query<'a>) -> Evaluated<'a> {
        let SessionFacts { id, purpose, opened_at, deadline, standing } = query.session;
        let kept = (!self.kept().are_empty()).then_some(standing);
        let approval = |facts: &'a ApprovalFacts| Approval {
            rules: &facts.rules,
            persons: &facts.persons,
            digest: facts.digest,
            expires: Time(facts.expires),
        };
        Evaluated {
            input: Shown { input: query.input, sensitive: self.sensitive(query.operation) },
            environment: query.environment,
            session: Session {
                id,
                purpose,
                opened_at: Time(opened_at),
                deadline: Time(deadline),
                labels: kept.map(|standing| &standing.labels),
                counters: kept.map(|standing| &standing.counters),
                unresolved: kept.map(|standing| standing.unresolved),
            },
            excluded: query.excluded,
            digest: query.digest,
            now: Time(query.now),
            operator: query.operator,
            approval: query.approval.map(approval),
            claimed: None,
            holder: query.holder.map(|kind| Holder { kind }),
        }
    }
}

impl<'a> Evaluated<'a> {
    /// With the groups that the principal was in by its credential, which [`crate::View::claiming`] was given.
    #[must_use]
    pub fn claiming(self, groups: &'a BTreeSet<EntityRef>) -> Self {
        Self { claimed: (!groups.is_empty()).then_some(groups), ..self }
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = self.input.iter().filter(|(name, _): &(&String, &Value)| !self.sensitive.contains(name));
        serializer.collect_map(shown)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Moment::new(self.0).map(Moment::text).serialize(serializer)
    }
}
