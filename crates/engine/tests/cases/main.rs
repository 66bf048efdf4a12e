//! What the use cases must do, one at a time, on a world that is small enough to see through.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

mod access;
mod answering;
mod batches;
mod children;
mod claims;
mod conditions;
mod delegation;
mod entities;
mod figures;
mod garbage;
mod glass;
mod handing_over;
mod heartbeats;
mod holder;
mod keys;
mod ledgers;
mod listing;
mod notifications;
mod pre_approved;
mod publishing;
mod questions;
mod refusals;
mod restraint;
mod revoking;
mod seams;
mod searching;
mod shadow;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_audit::NoteSigner;
use countersign_core::approval::Verdict as Says;
use countersign_core::time::ManualClock;
use countersign_core::{ApprovalId, Digest, EntityRef, SessionId, TenantId, Timestamp, TokenId};
use countersign_engine::{
    Acting, Ask, Authentication, Ballot, Call, Claims, Credential, Decide, Decision, Engine, EntityChange, Error,
    Limits, OpenSession, Operation, Parts, Redeem, RequestId, RevisionRule, Subject, Verdict,
};
use countersign_policy::Source;
use countersign_store::{Kernel, MemoryKernel};
use countersign_token::{KeyId, SigningKey};
use serde_json::{Value as Json, json};
use zeroize::Zeroizing;

pub(crate) const START: Timestamp = Timestamp::from_millis(1_794_996_000_000);

pub(crate) const SCHEMA: &str = r#"
    entity Dataset = { classification: String };
    action query, export appliesTo { principal: [Agent, Person], resource: [Dataset], context: { input: { note?: String } } };
"#;
pub(crate) const WORK: &str = r#"
    @id("work") permit (principal, action, resource is Dataset);
    @id("secret") forbid (principal, action, resource is Dataset) when { resource.classification == "secret" };
    @id("asks") forbid (principal, action == Action::"export", resource is Dataset)
    unless { context has approval && context.approval.rules.contains("asks") };
"#;
const APPROVE: &str = r#"
    @id("owners") permit (principal in Group::"owners", action == Action::"approve", resource);
"#;
const ADMIN: &str = r#"
    @id("sessions") permit (principal, action in [Action::"openSession", Action::"actFor", Action::"redeem"], resource);
    @id("sync") permit (principal == Service::"sync", action in [Action::"changeEntities", Action::"readEntities"], resource);
    @id("admins") permit (principal in Group::"admins", action in [Action::"changeEntities", Action::"publish"], resource);
"#;

pub(crate) fn files() -> BTreeMap<String, String> {
    let person = |id: &str| json!({ "__entity": { "type": "Person", "id": id } });
    let entities = json!([
        { "uid": { "type": "Service", "id": "sync" }, "attrs": { "owner": person("sid") }, "parents": [] },
        { "uid": { "type": "Service", "id": "gate" }, "attrs": { "owner": person("gina") }, "parents": [] },
        { "uid": { "type": "EnforcementPoint", "id": "gate" }, "attrs": { "owner": person("gina") }, "parents": [] },
        { "uid": { "type": "Tenant", "id": "acme" }, "attrs": {}, "parents": [] },
    ]);
    let manifest =
        "format = 1\nname = \"test\"\nrevision = 1\nstored = [\"Agent\", \"Dataset\", \"Group\", \"Person\"]\n";
    [
        ("bundle.toml", manifest.to_owned()),
        ("schema.cedarschema", SCHEMA.to_owned()),
        ("entities.json", entities.to_string()),
        ("policies/work.cedar", WORK.to_owned()),
        ("approve/approve.cedar", APPROVE.to_owned()),
        ("admin/admin.cedar", ADMIN.to_owned()),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into()
}

pub(crate) fn source(files: BTreeMap<String, String>) -> Source {
    Source::from_files(files).unwrap()
}

pub(crate) fn entity(text: &str) -> EntityRef {
    EntityRef::parse(text).unwrap()
}

pub(crate) fn person(id: &str, groups: &[&str]) -> EntityChange {
    let groups: Vec<Json> = groups.iter().map(|id| json!({ "type": "Group", "id": id })).collect();
    put(&format!("Person::\"{id}\""), json!({ "attrs": { "accounts": [format!("iss#{id}")] }, "parents": groups }))
}

pub(crate) fn dataset(id: &str, class: &str) -> EntityChange {
    put(&format!("Dataset::\"{id}\""), json!({ "attrs": { "classification": class } }))
}

pub(crate) fn agent(id: &str, owner: &str) -> EntityChange {
    let owner = json!({ "type": "Person", "id": owner });
    put(&format!("Agent::\"{id}\""), json!({ "attrs": { "owner": owner } }))
}

pub(crate) fn put(name: &str, data: Json) -> EntityChange {
    EntityChange { entity: entity(name), data: Some(serde_json::from_value(data).unwrap()), read: None }
}

pub(crate) fn gone(name: &str) -> EntityChange {
    EntityChange { entity: entity(name), data: None, read: None }
}

pub(crate) fn parts() -> Parts {
    Parts {
        tenant: TenantId::new("acme").unwrap(),
        limits: Limits::default(),
        signing: vec![SigningKey::from_seed(KeyId(1), Zeroizing::new([3; 32])).unwrap()],
        commitment: Zeroizing::new([5; 32]),
        log: NoteSigner::from_seed("entities.example/log", &[7; 32]).unwrap(),
        development: true,
        admission: Arc::new(countersign_engine::AdmitAll),
        sinks: Vec::new(),
    }
}

pub(crate) fn call(who: &str, rpc: &'static str) -> Call {
    call_via(who, &[], rpc)
}

/// A call of the first of `via`, if there is one, for `who`.
pub(crate) fn call_via(who: &str, via: &[&str], rpc: &'static str) -> Call {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = format!("call-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let subject = |who: &str| match who.split_once(':') {
        Some(("agent", name)) => Subject::Agent(name.to_owned()),
        Some((_, name)) => Subject::Service(name.to_owned()),
        None => Subject::Account(who.to_owned()),
    };
    let credential = Credential {
        tenant: TenantId::new("acme").unwrap(),
        issuer: "iss".to_owned(),
        subject: subject(who),
        actors: via.iter().map(|actor| subject(actor)).collect(),
        claims: Claims::default(),
        expires_at: Timestamp::from_millis(i64::MAX),
        answers: Ok(Timestamp::from_millis(i64::MAX)),
        authentication: Authentication::default(),
        hash: Digest::of(who.as_bytes()),
    };
    let request = Some(RequestId { body: Digest::of(id.as_bytes()), id });
    Call { credential: Arc::new(credential), rpc, certificate: None, request }
}

pub(crate) struct World<K: Kernel> {
    kernel: Arc<K>,
    pub(crate) engine: Arc<Engine<K>>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) session: SessionId,
}

impl World<MemoryKernel> {
    pub(crate) async fn new() -> Self {
        World::on(Arc::new(MemoryKernel::default())).await
    }
}

impl<K: Kernel> World<K> {
    pub(crate) async fn on(kernel: Arc<K>) -> Self {
        Self::with(kernel, parts(), files()).await
    }

    pub(crate) fn kernel(&self) -> &K {
        &self.kernel
    }

    pub(crate) async fn with(kernel: Arc<K>, parts: Parts, files: BTreeMap<String, String>) -> Self {
        Self::at(kernel, Arc::new(ManualClock::new(START)), parts, files).await
    }

    pub(crate) async fn at(
        kernel: Arc<K>,
        clock: Arc<ManualClock>,
        parts: Parts,
        files: BTreeMap<String, String>,
    ) -> Self {
        let engine = Engine::open(Arc::clone(&kernel), Box::new(Arc::clone(&clock)), parts).await.unwrap();
        let engine = Arc::new(engine);
        engine.activate(source(files), RevisionRule::NotLower).await.unwrap();
        let group = |id: &str| put(&format!("Group::\"{id}\""), json!({}));
        let all = [
            group("owners"),
            group("admins"),
            person("dana", &["owners"]),
            person("dave", &["owners"]),
            person("adam", &["admins"]),
            person("olivia", &[]),
            agent("bot", "olivia"),
            dataset("docs", "public"),
        ];
        engine.change_entities(&call("service:sync", "ChangeEntities"), &all).await.unwrap();
        let opening =
            OpenSession { purpose: "x".to_owned(), ttl: None, acting: Acting::Caller, ..OpenSession::default() };
        let session = engine.open_session(&call("agent:bot", "OpenSession"), &opening).await.unwrap();
        Self { kernel, engine, clock, session: session.answer.value.id }
    }

    pub(crate) async fn change(&self, who: &str, changes: &[EntityChange]) -> Result<u64, Error> {
        self.engine.change_entities(&call(who, "ChangeEntities"), changes).await.map(|changed| changed.answer.revision)
    }

    pub(crate) async fn decide(
        &self,
        name: &str,
        resource: &str,
        approval: Option<ApprovalId>,
    ) -> Result<Decision, Error> {
        self.decide_at(name, resource, approval, None).await
    }

    pub(crate) async fn decide_at(
        &self,
        name: &str,
        resource: &str,
        approval: Option<ApprovalId>,
        entity_revision: Option<u64>,
    ) -> Result<Decision, Error> {
        let decide = Decide {
            session: self.session,
            operation: operation(name, resource),
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            approval,
            mint: true,
            holder: None,
            open: false,
            entity_revision,
        };
        self.engine.decide(&call("agent:bot", "Decide"), &decide).await.map(|decision| decision.answer)
    }

    pub(crate) async fn ask(&self) -> ApprovalId {
        self.ask_with(operation("export", "docs")).await.unwrap()
    }

    pub(crate) async fn ask_with(&self, operation: Operation) -> Result<ApprovalId, Error> {
        let ask = Ask {
            session: self.session,
            operation,
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            justification: "because".to_owned(),
        };
        self.engine.ask(&call("agent:bot", "RequestApproval"), &ask).await.map(|asked| asked.answer.0)
    }

    pub(crate) async fn vote(&self, who: &str, approval: ApprovalId) -> Result<(), Error> {
        self.say(who, approval, Says::Approve, "").await
    }

    pub(crate) async fn say(&self, who: &str, approval: ApprovalId, verdict: Says, comment: &str) -> Result<(), Error> {
        let shown = self.engine.changed_approval(&call(who, "GetApproval"), approval).await?.approval.value;
        let comment = comment.to_owned();
        let ballot = Ballot { approval, verdict, digest: shown.digest, view: shown.view, comment, signed: None };
        self.engine.vote(&call(who, "CastVote"), &ballot).await.map(drop)
    }

    pub(crate) fn redeem(&self, decision: &Decision) -> Redeem {
        let token = decision.token.as_ref().unwrap().expose().to_owned();
        Redeem {
            token,
            operation: operation("query", "docs"),
            audience: "gate".to_owned(),
            holder_proof: String::new(),
        }
    }
}

pub(crate) fn operation(name: &str, resource: &str) -> Operation {
    let resource = EntityRef::new("Dataset", resource).unwrap();
    Operation { name: name.to_owned(), resource, input: Default::default(), environment: Default::default() }
}

pub(crate) fn minted(decision: &Decision) -> TokenId {
    let Verdict::Allow { capability: Some((id, _)) } = decision.verdict else { panic!("{decision:?}") };
    id
}
