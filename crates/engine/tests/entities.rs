//! Stored entities: what changes between two bundles, and what hangs on it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_audit::NoteSigner;
use countersign_core::approval::Verdict as Says;
use countersign_core::time::ManualClock;
use countersign_core::{ApprovalId, Digest, EntityRef, SessionId, TenantId, Timestamp, TokenId};
use countersign_engine::{
    Acting, Ask, Ballot, Call, Credential, Decide, Decision, Engine, EntityChange, Error, Limits, OpenSession,
    Operation, Parts, Redeem, RequestId, Subject, Verdict,
};
use countersign_policy::{EntityData, Source};
use countersign_store::fail::FailPoint;
use countersign_store::{Config, Kernel, MemoryKernel, Mode, RocksKernel};
use countersign_token::{KeyId, SigningKey};
use serde_json::{Value as Json, json};
use zeroize::Zeroizing;

const START: Timestamp = Timestamp::from_millis(1_794_996_000_000);

const SCHEMA: &str = r#"
    entity Dataset = { classification: String };
    action query, export appliesTo { principal: [Agent, Person], resource: [Dataset], context: { input: {} } };
"#;
const WORK: &str = r#"
    @id("work") permit (principal, action, resource is Dataset);
    @id("secret") forbid (principal, action, resource is Dataset) when { resource.classification == "secret" };
    @id("asks") forbid (principal, action == Action::"export", resource is Dataset)
    unless { context has approval && context.approval.rules.contains("asks") };
"#;
const APPROVE: &str = r#"
    @id("owners") permit (principal in Group::"owners", action == Action::"approve", resource);
"#;
const ADMIN: &str = r#"
    @id("sessions") permit (principal, action in [Action::"openSession", Action::"redeem"], resource);
    @id("sync") permit (principal == Service::"sync", action in [Action::"changeEntities", Action::"readEntities"], resource);
    @id("admins") permit (principal in Group::"admins", action in [Action::"changeEntities", Action::"publish"], resource);
"#;

fn files() -> BTreeMap<String, String> {
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

fn source(files: BTreeMap<String, String>) -> Source {
    Source::from_files(files).unwrap()
}

fn entity(text: &str) -> EntityRef {
    EntityRef::parse(text).unwrap()
}

fn person(id: &str, groups: &[&str]) -> EntityChange {
    let groups: Vec<Json> = groups.iter().map(|id| json!({ "type": "Group", "id": id })).collect();
    put(&format!("Person::\"{id}\""), json!({ "attrs": { "accounts": [format!("iss#{id}")] }, "parents": groups }))
}

fn dataset(id: &str, class: &str) -> EntityChange {
    put(&format!("Dataset::\"{id}\""), json!({ "attrs": { "classification": class } }))
}

fn agent(id: &str, owner: &str) -> EntityChange {
    let owner = json!({ "type": "Person", "id": owner });
    put(&format!("Agent::\"{id}\""), json!({ "attrs": { "owner": owner } }))
}

fn put(name: &str, data: Json) -> EntityChange {
    EntityChange { entity: entity(name), data: Some(serde_json::from_value(data).unwrap()), read: None }
}

fn gone(name: &str) -> EntityChange {
    EntityChange { entity: entity(name), data: None, read: None }
}

fn parts() -> Parts {
    Parts {
        tenant: TenantId::new("acme").unwrap(),
        limits: Limits::default(),
        signing: vec![SigningKey::from_seed(KeyId(1), Zeroizing::new([3; 32])).unwrap()],
        commitment: Zeroizing::new([5; 32]),
        log: NoteSigner::from_seed("entities.example/log", &[7; 32]).unwrap(),
        development: true,
    }
}

fn call(who: &str, rpc: &'static str) -> Call {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = format!("call-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let subject = match who.split_once(':') {
        Some(("agent", name)) => Subject::Agent(name.to_owned()),
        Some((_, name)) => Subject::Service(name.to_owned()),
        None => Subject::Account(who.to_owned()),
    };
    let credential = Credential {
        tenant: TenantId::new("acme").unwrap(),
        issuer: "iss".to_owned(),
        subject,
        actors: Vec::new(),
        expires_at: Timestamp::from_millis(i64::MAX),
        hash: Digest::of(who.as_bytes()),
    };
    let request = Some(RequestId { body: Digest::of(id.as_bytes()), id });
    Call { credential: Arc::new(credential), rpc, request }
}

struct World<K: Kernel> {
    engine: Arc<Engine<K>>,
    session: SessionId,
}

impl World<MemoryKernel> {
    async fn new() -> Self {
        World::on(Arc::new(MemoryKernel::default())).await
    }
}

impl<K: Kernel> World<K> {
    async fn on(kernel: Arc<K>) -> Self {
        let engine = Engine::open(kernel, Box::new(ManualClock::new(START)), parts()).await.unwrap();
        let engine = Arc::new(engine);
        engine.activate(source(files())).await.unwrap();
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
        let opening = OpenSession { purpose: "x".to_owned(), ttl: None, acting: Acting::Caller, operator: None };
        let session = engine.open_session(&call("agent:bot", "OpenSession"), &opening).await.unwrap();
        Self { engine, session: session.answer.value.id }
    }

    async fn change(&self, who: &str, changes: &[EntityChange]) -> Result<u64, Error> {
        self.engine.change_entities(&call(who, "ChangeEntities"), changes).await.map(|changed| changed.answer.revision)
    }

    async fn decide(&self, name: &str, resource: &str, approval: Option<ApprovalId>) -> Result<Decision, Error> {
        self.decide_at(name, resource, approval, None).await
    }

    async fn decide_at(
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
            entity_revision,
        };
        self.engine.decide(&call("agent:bot", "Decide"), &decide).await.map(|decision| decision.answer)
    }

    async fn ask(&self) -> ApprovalId {
        let ask = Ask {
            session: self.session,
            operation: operation("export", "docs"),
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            justification: "because".to_owned(),
        };
        self.engine.ask(&call("agent:bot", "RequestApproval"), &ask).await.unwrap().answer.0
    }

    async fn vote(&self, who: &str, approval: ApprovalId) -> Result<(), Error> {
        let shown = self.engine.changed_approval(&call(who, "GetApproval"), approval).await?.approval.value;
        let comment = String::new();
        let ballot = Ballot { approval, verdict: Says::Approve, digest: shown.digest, view: shown.view, comment };
        self.engine.vote(&call(who, "CastVote"), &ballot).await.map(drop)
    }

    fn redeem(&self, decision: &Decision) -> Redeem {
        let token = decision.token.as_ref().unwrap().expose().to_owned();
        Redeem { token, operation: operation("query", "docs"), audience: "gate".to_owned() }
    }
}

fn operation(name: &str, resource: &str) -> Operation {
    let resource = EntityRef::new("Dataset", resource).unwrap();
    Operation { name: name.to_owned(), resource, input: Default::default(), environment: Default::default() }
}

fn minted(decision: &Decision) -> TokenId {
    let Verdict::Allow { capability: Some((id, _)) } = decision.verdict else { panic!("{decision:?}") };
    id
}

#[tokio::test]
async fn what_is_changed_decides_from_then_on() {
    let world = World::new().await;
    minted(&world.decide("query", "docs", None).await.unwrap());
    let revision = world.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
    let denied = world.decide_at("query", "docs", None, Some(revision)).await.unwrap();
    assert!(matches!(denied.verdict, Verdict::Deny { .. }) && denied.determining == ["secret"], "{denied:?}");
    assert_eq!(denied.revisions.entities, Some(revision));
    // Of a change that is not known yet, nothing is decided.
    let early = world.decide_at("query", "docs", None, Some(revision + 1)).await;
    assert!(matches!(early, Err(Error::EntityRevision { newest, .. }) if newest == revision), "{early:?}");
    world.change("service:sync", &[gone("Agent::\"bot\"")]).await.unwrap();
    let nobody = world.decide("query", "docs", None).await;
    assert!(matches!(nobody, Err(Error::PrincipalUnknown(_))), "{nobody:?}");
}

#[tokio::test]
async fn a_capability_dies_with_what_its_decision_knew() {
    let world = World::new().await;
    let decision = world.decide("query", "docs", None).await.unwrap();
    world.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
    let redeemed = world.engine.redeem(&call("service:gate", "Redeem"), &world.redeem(&decision)).await;
    assert!(matches!(redeemed, Err(Error::PolicyDenied(_))), "{redeemed:?}");
    // Nothing was spent: with the old classification it is good again.
    world.change("service:sync", &[dataset("docs", "public")]).await.unwrap();
    world.engine.redeem(&call("service:gate", "Redeem"), &world.redeem(&decision)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redeem_that_was_evaluated_before_a_change_does_not_commit_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let fail = FailPoint::default();
    let config = Config { fail: fail.clone(), ..Config::new(Mode::Development) };
    let kernel = Arc::new(RocksKernel::create(&dir.path().join("store"), &config).unwrap());
    let world = World::on(Arc::clone(&kernel)).await;
    let kernel = &kernel;
    let decision = world.decide("query", "docs", None).await.unwrap();
    // Both wait for the writer, the change first; the redeem was evaluated on what was before it.
    let held = fail.hold();
    let engine = Arc::clone(&world.engine);
    let change = tokio::spawn(async move {
        engine.change_entities(&call("service:sync", "ChangeEntities"), &[dataset("docs", "secret")]).await
    });
    let until_more_waits_than = |bytes| async move {
        while kernel.queued_bytes() <= bytes {
            tokio::task::yield_now().await;
        }
        kernel.queued_bytes()
    };
    let waiting = until_more_waits_than(0).await;
    let (engine, redeem) = (Arc::clone(&world.engine), world.redeem(&decision));
    let redeeming = tokio::spawn(async move { engine.redeem(&call("service:gate", "Redeem"), &redeem).await });
    until_more_waits_than(waiting).await;
    drop(held);
    change.await.unwrap().unwrap();
    let redeemed = redeeming.await.unwrap();
    assert!(matches!(redeemed, Err(Error::PolicyDenied(_))), "{redeemed:?}");
}

#[tokio::test]
async fn entities_are_there_after_a_restart() {
    let kernel = Arc::new(MemoryKernel::default());
    let world = World::on(Arc::clone(&kernel)).await;
    let revision = world.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
    let engine = Engine::open(kernel, Box::new(ManualClock::new(START)), parts()).await.unwrap();
    let again = World { engine: Arc::new(engine), session: world.session };
    let denied = again.decide_at("query", "docs", None, Some(revision)).await.unwrap();
    assert_eq!(denied.determining, ["secret"]);
    let all = again.engine.entities(&call("service:sync", "ListEntities"), None, None, 100).await.unwrap();
    let names: Vec<String> = all.0.iter().map(|found| found.entity.to_string()).collect();
    assert_eq!(names.len(), 8);
    assert!(names.is_sorted(), "{names:?}");
    let page = again.engine.entities(&call("service:sync", "ListEntities"), Some("Person"), None, 2).await.unwrap();
    assert_eq!((page.0.len(), page.1), (2, Some(entity("Person::\"dana\""))));
}

#[tokio::test]
async fn nobody_changes_what_binds_themselves() {
    let world = World::new().await;
    for changes in [
        vec![person("adam", &["admins", "owners"])],
        vec![person("dana", &["owners"]), person("adam", &["owners"])],
        vec![put("Group::\"admins\"", json!({ "parents": [{ "type": "Group", "id": "owners" }] }))],
        vec![agent("helper", "adam")],
    ] {
        let refused = world.change("adam", &changes).await;
        assert!(matches!(refused, Err(Error::OwnEntity(_))), "{changes:?}: {refused:?}");
    }
    world.change("adam", &[agent("helper", "dana"), person("eve", &["owners"])]).await.unwrap();
    // What is owned by somebody changes nothing of theirs, not even to take it from them.
    world.change("service:sync", &[person("sid", &[])]).await.map(drop).unwrap_err();
    let refused = world.change("service:sync", &[agent("bot", "sid")]).await;
    assert!(matches!(refused, Err(Error::OwnEntity(_))), "{refused:?}");
    // And whoever no policy permits changes nothing at all.
    let refused = world.change("dana", &[dataset("docs", "secret")]).await;
    assert!(matches!(refused, Err(Error::AdministrationDenied { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_vote_counts_while_the_voter_is_in_the_group() {
    let world = World::new().await;
    let approval = world.ask().await;
    world.vote("dana", approval).await.unwrap();
    world.change("service:sync", &[person("dana", &[])]).await.unwrap();
    let after = world.decide("export", "docs", Some(approval)).await.unwrap();
    assert!(matches!(after.verdict, Verdict::NeedsApproval { .. }), "{after:?}");
    world.change("service:sync", &[person("dana", &["owners"])]).await.unwrap();
    minted(&world.decide("export", "docs", Some(approval)).await.unwrap());
}

#[tokio::test]
async fn whoever_owned_the_agent_when_it_asked_cannot_answer_later() {
    let world = World::new().await;
    world.change("service:sync", &[agent("bot", "dave")]).await.unwrap();
    let approval = world.ask().await;
    world.change("service:sync", &[agent("bot", "olivia")]).await.unwrap();
    assert!(world.vote("dave", approval).await.is_err(), "he owned it when it asked");
    world.vote("dana", approval).await.unwrap();
    // Who comes to own it after a vote takes the vote along.
    world.change("service:sync", &[agent("bot", "dana")]).await.unwrap();
    let after = world.decide("export", "docs", Some(approval)).await.unwrap();
    assert!(matches!(after.verdict, Verdict::NeedsApproval { .. }), "{after:?}");
}

#[tokio::test]
async fn a_bundle_that_what_is_stored_does_not_fit_is_refused() {
    let world = World::new().await;
    let mut strict = files();
    strict.insert("schema.cedarschema".to_owned(), SCHEMA.replace("classification: String", "classification: Long"));
    strict
        .insert("policies/work.cedar".to_owned(), WORK.replace("\"secret\"", "5").replace("@id(5)", "@id(\"secret\")"));
    strict.insert("bundle.toml".to_owned(), files()["bundle.toml"].replace("revision = 1", "revision = 2"));
    let before = world.engine.bundle_info().unwrap().digest;
    let refused = world.engine.activate(source(strict)).await;
    assert!(matches!(refused, Err(Error::EntityMisfit(_))), "{refused:?}");
    assert_eq!(world.engine.bundle_info().unwrap().digest, before);
    minted(&world.decide("query", "docs", None).await.unwrap());
}

#[tokio::test]
async fn a_change_is_all_or_nothing_and_once() {
    let world = World::new().await;
    let bad = [dataset("new", "public"), put("Dataset::\"worse\"", json!({ "attrs": {} }))];
    let refused = world.change("service:sync", &bad).await;
    assert!(matches!(&refused, Err(Error::InvalidField { field, .. }) if field == "changes[1].entity"), "{refused:?}");
    let found = world.engine.entity(&call("service:sync", "GetEntity"), &entity("Dataset::\"new\"")).await;
    assert!(matches!(found, Err(Error::EntityNotFound(_))));

    // Read, changed by somebody else, and changed on what was read.
    let look = call("service:sync", "GetEntity");
    let read = world.engine.entity(&look, &entity("Dataset::\"docs\"")).await.unwrap().revision;
    world.change("service:sync", &[dataset("docs", "internal")]).await.unwrap();
    let late = EntityChange { read: Some(read), ..dataset("docs", "public") };
    assert!(matches!(world.change("service:sync", &[late]).await, Err(Error::EntityChanged(_))));
    let new = EntityChange { read: Some(0), ..dataset("docs", "public") };
    assert!(matches!(world.change("service:sync", &[new]).await, Err(Error::EntityChanged(_))));

    let once = call("service:sync", "ChangeEntities");
    let first = world.engine.change_entities(&once, &[dataset("docs", "public")]).await.unwrap();
    world.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
    let again = world.engine.change_entities(&once, &[dataset("docs", "public")]).await.unwrap();
    assert!(!first.replayed && again.replayed && again.answer.revision > first.answer.revision);
    let denied = world.decide("query", "docs", None).await.unwrap();
    assert_eq!(denied.determining, ["secret"], "a replay changes nothing");
    let twice = world.change("service:sync", &[dataset("docs", "a"), dataset("docs", "b")]).await;
    assert!(matches!(twice, Err(Error::InvalidField { .. })));
    let data: EntityData = Default::default();
    assert_eq!(data.owner(), None);
}
