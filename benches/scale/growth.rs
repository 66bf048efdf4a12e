//! Bundles and stores of any size, about which one question is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::str::FromStr as _;
use std::time::Duration;

use cedar_policy::{Authorizer, Context, Entities as CedarEntities, EntityUid, PolicySet, Request};
use countersign_core::ledger::NOTHING;
use countersign_core::{Digest, EntityRef, Record, SessionId, Timestamp};
use countersign_policy::{Bundle, Entities, EntityData, Query, SessionFacts, Source, View};
use serde_json::json;

use crate::Result;

const NOW: Timestamp = Timestamp::from_millis(1_794_996_000_000);
const SCHEMA: &str = "entity Dataset = { classification: String };\n\
    action query appliesTo { principal: [Agent], resource: [Dataset], context: { input: {} } };\n";
/// Policies that can apply to the question, however many others there are.
const CANDIDATES: usize = 10;

fn bundle(work: &str, stored: &str, entities: &serde_json::Value) -> Result<Bundle> {
    let manifest = format!("format = 1\nname = \"scale\"\nrevision = 1\nstored = [{stored}]\n");
    let mut files: BTreeMap<String, String> = [
        ("bundle.toml", manifest),
        ("schema.cedarschema", SCHEMA.to_owned()),
        ("entities.json", entities.to_string()),
        ("admin/admin.cedar", String::new()),
        ("approve/approve.cedar", String::new()),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into();
    files.insert("policies/work.cedar".to_owned(), work.to_owned());
    let source = Source::from_files(files)?;
    Bundle::load(source).map_err(|refused| refused.to_string().into())
}

fn people() -> Vec<serde_json::Value> {
    let person = json!({ "__entity": { "type": "Person", "id": "olivia" } });
    vec![
        json!({ "uid": { "type": "Person", "id": "olivia" }, "attrs": { "accounts": ["iss#olivia"] }, "parents": [] }),
        json!({ "uid": { "type": "Group", "id": "readers" }, "attrs": {}, "parents": [] }),
        json!({ "uid": { "type": "Agent", "id": "bot" }, "attrs": { "owner": person },
                "parents": [{ "type": "Group", "id": "readers" }] }),
    ]
}

fn dataset() -> EntityData {
    let attrs = json!({ "classification": "internal" });
    EntityData { attrs: attrs.as_object().cloned().unwrap_or_default(), ..EntityData::default() }
}

/// What the question is made of.
struct Question {
    principal: EntityRef,
    resource: EntityRef,
    nothing: Record,
    nobody: BTreeSet<EntityRef>,
}

impl Question {
    fn new() -> Result<Self> {
        let (principal, resource) = (EntityRef::new("Agent", "bot")?, EntityRef::new("Dataset", "d0")?);
        Ok(Self { principal, resource, nothing: Record::new(), nobody: BTreeSet::new() })
    }

    fn ask(&self, view: View<'_>) {
        let answer = view.decide(&Query {
            principal: &self.principal,
            operation: "query",
            resource: &self.resource,
            input: &self.nothing,
            environment: &self.nothing,
            session: SessionFacts {
                id: SessionId::from_bytes([1; 16]),
                purpose: "measuring",
                opened_at: NOW,
                deadline: NOW.plus(Duration::from_secs(3_600)),
                standing: &NOTHING,
            },
            operator: None,
            digest: Digest::of(b"an action"),
            now: NOW,
            excluded: &self.nobody,
            approval: None,
            holder: None,
        });
        assert!(answer.is_ok_and(|answer| matches!(answer.verdict, countersign_policy::Verdict::Allow)));
    }
}

/// A bundle of so many policies.
pub struct Policies {
    bundle: Bundle,
    question: Question,
    everything: PolicySet,
    entities: CedarEntities,
    request: Request,
}

impl Policies {
    pub fn new(number: usize) -> Result<Self> {
        let mut work = String::new();
        for place in 0..number {
            if place < CANDIDATES {
                writeln!(
                    work,
                    "@id(\"p{place}\") permit (principal in Group::\"readers\", action, resource is Dataset);"
                )?;
            } else {
                writeln!(
                    work,
                    "@id(\"p{place}\") permit (principal == Agent::\"a{place}\", action, resource == Dataset::\"x{place}\");"
                )?;
            }
        }
        let mut entities = people();
        entities.push(json!({ "uid": { "type": "Dataset", "id": "d0" }, "attrs": { "classification": "internal" }, "parents": [] }));
        let entities = serde_json::Value::from(entities);
        let bundle = bundle(&work, "", &entities)?;
        let [principal, action, resource] =
            ["Agent::\"bot\"", "Action::\"query\"", "Dataset::\"d0\""].map(EntityUid::from_str);
        let request = Request::new(principal?, action?, resource?, Context::empty(), None)?;
        let question = Question::new()?;
        Ok(Self {
            bundle,
            question,
            everything: work.parse()?,
            entities: CedarEntities::from_json_value(entities, None)?,
            request,
        })
    }

    pub fn decide(&self) {
        self.question.ask(self.bundle.alone());
    }

    /// Cedar's own evaluation of every policy.
    pub fn evaluate_all(&self) {
        let response = Authorizer::new().is_authorized(&self.request, &self.everything, &self.entities);
        assert!(response.decision() == cedar_policy::Decision::Allow);
    }
}

/// A store of so many entities.
pub struct Stored {
    bundle: Bundle,
    question: Question,
    entities: Entities,
    changes: u64,
}

impl Stored {
    pub fn new(number: usize) -> Result<Self> {
        let work = "@id(\"readers\") permit (principal in Group::\"readers\", action, resource is Dataset);\n\
                    @id(\"secrets\") forbid (principal, action, resource is Dataset) when { resource.classification == \"secret\" };";
        let bundle = bundle(work, "\"Dataset\"", &serde_json::Value::from(people()))?;
        let mut entities = Entities::default();
        for place in 0..number {
            let checked = bundle.check_entity(&EntityRef::new("Dataset", format!("d{place}"))?, &dataset())?;
            entities.insert(checked, 1);
        }
        Ok(Self { bundle, question: Question::new()?, entities, changes: 1 })
    }

    pub fn decide(&self) {
        self.question.ask(self.bundle.with(&self.entities, None));
    }

    /// What a change of one entity costs, the store's commit apart: checked, admitted, and a new version of the map while
    /// decisions hold the old one.
    pub fn change(&mut self) {
        let before = self.entities.clone();
        self.changes += 1;
        let name = EntityRef::new("Dataset", format!("d{}", self.changes * 7919 % 1_000));
        let checked = name.ok().and_then(|name| self.bundle.check_entity(&name, &dataset()).ok());
        if let Some(checked) = checked.filter(|checked| self.bundle.with(&before, None).admit(checked).is_ok()) {
            self.entities.insert(checked, self.changes);
        }
        assert!(self.entities.len() == before.len());
    }
}
