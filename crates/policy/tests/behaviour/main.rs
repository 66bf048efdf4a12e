//! What bundles accept, refuse and answer, through the public API alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

mod administering;
mod answering;
mod claiming;
mod deciding;
mod explaining;
mod loading;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_core::ledger::NOTHING;
use countersign_core::{Digest, EntityRef, HolderKind, Record, SessionId, Timestamp};
use countersign_policy::{
    AnswerQuery, ApprovalFacts, Bundle, Evaluation, Finding, Query, QueryError, Refused, SessionFacts, Source, View,
};

/// 2026-11-18T10:00:00Z, a Wednesday.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_794_996_000_000);

/// A small bundle, part by part, so that each test changes what it is about.
#[derive(Debug, Clone)]
pub(crate) struct Files(BTreeMap<String, String>);

impl Files {
    pub(crate) fn new() -> Self {
        let schema = r#"
            entity Dataset = { classification: String, owner_team?: String };
            action reads;
            action query in [reads] appliesTo { principal: [Agent, Person], resource: [Dataset],
                context: { input: { limit?: Long, tags?: Set<String>, argv?: String } } };
            action export appliesTo { principal: [Agent, Person], resource: [Dataset],
                context: { input: { rows: Long, @sensitive token?: String }, environment: { network?: String } } };
        "#;
        let entities = r#"[
            { "uid": { "type": "Group", "id": "owners" }, "attrs": {}, "parents": [] },
            { "uid": { "type": "Group", "id": "night-owners" }, "attrs": {}, "parents": [{ "type": "Group", "id": "owners" }] },
            { "uid": { "type": "Group", "id": "empty" }, "attrs": {}, "parents": [] },
            { "uid": { "type": "Person", "id": "olivia" }, "attrs": { "accounts": ["dev#olivia"] }, "parents": [] },
            { "uid": { "type": "Person", "id": "dana" }, "attrs": { "accounts": ["dev#dana", "sso#dana"] },
              "parents": [{ "type": "Group", "id": "owners" }] },
            { "uid": { "type": "Person", "id": "dave" }, "attrs": { "accounts": ["dev#dave"] },
              "parents": [{ "type": "Group", "id": "night-owners" }] },
            { "uid": { "type": "Agent", "id": "bot" },
              "attrs": { "owner": { "__entity": { "type": "Person", "id": "olivia" } } }, "parents": [] },
            { "uid": { "type": "Dataset", "id": "docs" }, "attrs": { "classification": "public" }, "parents": [] },
            { "uid": { "type": "Dataset", "id": "customers" }, "attrs": { "classification": "pii" }, "parents": [] }
        ]"#;
        Self(BTreeMap::new())
            .with("bundle.toml", "format = 1\nname = \"test\"\nrevision = 7\n")
            .with("schema.cedarschema", schema)
            .with("entities.json", entities)
    }

    /// The bundle that most tests are about: an agent reads, and exports if two owners approve.
    pub(crate) fn usual() -> Self {
        Self::new()
            .work(&format!(
                r#"@id("all-work") permit (principal, action, resource is Dataset);
               @id("pii-needs-two") @quorum("2") @ttl("20m") @reason("It is personal data")
               forbid (principal, action == Action::"export", resource is Dataset)
               when {{ resource.classification == "pii" }} {};"#,
                lift("pii-needs-two")
            ))
            .approve(
                r#"@id("owners-answer") permit (principal in Group::"owners", action == Action::"approve", resource)
                    when { context.rule == "pii-needs-two" };"#,
            )
    }

    pub(crate) fn with(mut self, path: &str, text: &str) -> Self {
        self.0.insert(path.to_owned(), text.to_owned());
        self
    }

    pub(crate) fn without(mut self, path: &str) -> Self {
        self.0.remove(path);
        self
    }

    pub(crate) fn replaced(mut self, path: &str, from: &str, to: &str) -> Self {
        let text = self.0.get_mut(path).unwrap();
        assert!(text.contains(from), "{from}");
        *text = text.replace(from, to);
        self
    }

    pub(crate) fn work(self, text: &str) -> Self {
        self.with("policies/work.cedar", text)
    }

    pub(crate) fn approve(self, text: &str) -> Self {
        self.with("approve/approve.cedar", text)
    }

    pub(crate) fn admin(self, text: &str) -> Self {
        self.with("admin/admin.cedar", text)
    }

    pub(crate) fn source(&self) -> Source {
        Source::from_files(self.0.clone()).unwrap()
    }

    pub(crate) fn load(&self) -> Bundle {
        Bundle::load(self.source()).unwrap_or_else(|refused| panic!("{refused}"))
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let Refused { findings } = Bundle::load(self.source()).expect_err("the bundle was accepted");
        findings
    }
}

/// The clause by which people can lift a forbid.
pub(crate) fn lift(id: &str) -> String {
    format!("unless {{ context has approval && context.approval.rules.contains(\"{id}\") }}")
}

pub(crate) fn entity(text: &str) -> EntityRef {
    EntityRef::parse(text).unwrap()
}

pub(crate) fn person(id: &str) -> EntityRef {
    EntityRef::new("Person", id).unwrap()
}

pub(crate) fn record(json: &str) -> Record {
    countersign_core::value::record_from_json(json).unwrap()
}

pub(crate) fn digest() -> Digest {
    Digest::of(b"the action")
}

/// An approval of `rules` by `persons`, good for another minute.
pub(crate) fn approval(rules: &[&str], persons: &[&str]) -> ApprovalFacts {
    ApprovalFacts {
        rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        persons: persons.iter().map(|id| person(id)).collect(),
        digest: digest(),
        expires: NOW.plus(Duration::from_secs(60)),
    }
}

/// A question, part by part.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) principal: EntityRef,
    pub(crate) operation: String,
    pub(crate) resource: EntityRef,
    pub(crate) input: Record,
    pub(crate) environment: Record,
    pub(crate) operator: Option<EntityRef>,
    pub(crate) excluded: BTreeSet<EntityRef>,
    pub(crate) now: Timestamp,
    pub(crate) approval: Option<ApprovalFacts>,
    pub(crate) holder: Option<HolderKind>,
}

impl Ask {
    pub(crate) fn new(operation: &str, resource: &str, input: &str) -> Self {
        Self {
            principal: entity("Agent::\"bot\""),
            operation: operation.to_owned(),
            resource: EntityRef::new("Dataset", resource).unwrap(),
            input: record(input),
            environment: Record::new(),
            operator: None,
            excluded: BTreeSet::from([person("olivia")]),
            now: NOW,
            approval: None,
            holder: None,
        }
    }

    pub(crate) fn approved(mut self, facts: ApprovalFacts) -> Self {
        self.approval = Some(facts);
        self
    }

    pub(crate) fn try_of(&self, bundle: &Bundle) -> Result<Evaluation, QueryError> {
        self.on(bundle.alone())
    }

    pub(crate) fn on(&self, view: View<'_>) -> Result<Evaluation, QueryError> {
        view.decide(&self.query())
    }

    pub(crate) fn query(&self) -> Query<'_> {
        Query {
            principal: &self.principal,
            operation: &self.operation,
            resource: &self.resource,
            input: &self.input,
            environment: &self.environment,
            session: SessionFacts {
                id: SessionId::from_bytes([1; 16]),
                purpose: "a test",
                opened_at: NOW,
                deadline: NOW.plus(Duration::from_secs(600)),
                standing: &NOTHING,
            },
            operator: self.operator.as_ref(),
            digest: digest(),
            now: self.now,
            excluded: &self.excluded,
            approval: self.approval.as_ref(),
            holder: self.holder,
        }
    }

    pub(crate) fn of(&self, bundle: &Bundle) -> Evaluation {
        self.try_of(bundle).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// A question about answering for an export of customers.
pub(crate) fn answering<'a>(
    resource: &'a EntityRef,
    requester: &'a EntityRef,
    excluded: &'a BTreeSet<EntityRef>,
) -> AnswerQuery<'a> {
    AnswerQuery { operation: "export", resource, requester, operator: None, excluded, waited: Duration::ZERO, now: NOW }
}
