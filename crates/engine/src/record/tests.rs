//! The bytes of records. They are hashed into logs that exist: whatever writes them another way must write the same.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use countersign_core::capability::Grant;
use countersign_core::ledger::NOTHING;
use countersign_core::{ApprovalId, DecisionId, Digest, EntityRef, SessionId, TenantId, Timestamp, TokenId};
use countersign_policy::{ApprovalFacts, Bundle, Query, SessionFacts, Source};

use super::{Event, TallyRecord, record};
use crate::caller::Caller;
use crate::engine::Revisions;

const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_123);

fn entity(text: &str) -> EntityRef {
    EntityRef::parse(text).unwrap()
}

fn bundle() -> Bundle {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/ai-platform");
    Bundle::load(Source::read_dir(&path).unwrap()).unwrap()
}

fn caller(operator: Option<EntityRef>) -> Caller {
    Caller {
        entity: entity("Agent::\"etl-bot\""),
        operator,
        chain: Vec::new(),
        account: "https://login.example.com#agent:etl-bot".to_owned(),
        issuer: "https://login.example.com".to_owned(),
        credential: Digest::of(b"credential"),
        owner: None,
        claimed: None,
    }
}

fn session() -> SessionFacts<'static> {
    SessionFacts {
        id: SessionId::from_bytes([1; 16]),
        purpose: "nightly \"sync\"\n",
        opened_at: NOW,
        deadline: NOW.plus(Duration::from_secs(3_600)),
        standing: &NOTHING,
    }
}

#[test]
fn a_decision_is_the_bytes_that_were_released() {
    let (bundle, bot, telemetry) = (bundle(), entity("Agent::\"etl-bot\""), entity("Dataset::\"telemetry\""));
    let (operator, person) = (entity("Person::\"olivia\""), entity("Person::\"wendy\""));
    let input = serde_json::from_str(r#"{"statement":"select 'é'","columns":["day","host"]}"#).unwrap();
    let environment = serde_json::from_str("{}").unwrap();
    let excluded = BTreeSet::from([operator.clone(), person.clone()]);
    let approval = ApprovalFacts {
        rules: BTreeSet::from(["a".to_owned(), "b".to_owned()]),
        persons: BTreeSet::from([person]),
        digest: Digest::of(b"action"),
        expires: NOW.plus(Duration::from_millis(1)),
    };
    let query = Query {
        principal: &bot,
        operation: "query",
        resource: &telemetry,
        input: &input,
        environment: &environment,
        session: session(),
        operator: Some(&operator),
        digest: Digest::of(b"action"),
        now: NOW,
        excluded: &excluded,
        approval: Some(&approval),
        holder: None,
    };
    let grant = Grant {
        id: TokenId::from_bytes([2; 16]),
        session: SessionId::from_bytes([1; 16]),
        principal: bot.clone(),
        operator: Some(operator.clone()),
        operation: "query".to_owned(),
        resource: telemetry.clone(),
        digest: Digest::of(b"action"),
        audience: "warehouse".to_owned(),
        approval: None,
        review: None,
        holder: None,
        open: false,
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(300)),
        shard: 0,
        mint_epoch: 1,
        key: 1,
        parent: None,
        chain: Vec::new(),
        grandparents: Vec::new(),
        sessions_above: Vec::new(),
        votes: Vec::new(),
    };
    let event = Event::Decision {
        decision: DecisionId::from_bytes([3; 16]),
        verdict: "ALLOW",
        action: r#"{"a":1}"#,
        digest: Digest::of(b"action"),
        determining: &["one".to_owned(), "two".to_owned()],
        errors: &[],
        bundle: Digest::of(b"bundle"),
        revisions: Revisions { session: 7, tenant: 8, approval: Some(9), entities: None },
        context: &bundle.evaluated(&query),
        approval: Some(ApprovalId::from_bytes([4; 16])),
        minted: Some(&grant),
        pre_approval: None,
        sessions_above: Vec::new(),
        glass_broken: None,
    };
    let tenant = TenantId::new("acme").unwrap();
    let bytes = record(&tenant, NOW, Some(&caller(Some(operator.clone()))), Some("an-id"), event);
    assert_eq!(std::str::from_utf8(&bytes).unwrap(), include_str!("decision.json").trim_end());
}

#[test]
fn a_redeem_is_the_bytes_that_were_released() {
    let (bundle, bot, customers) = (bundle(), entity("Agent::\"etl-bot\""), entity("Dataset::\"customers\""));
    let person = entity("Person::\"wendy\"");
    let input = serde_json::from_str(r#"{"rows":500,"destination":"s3://ours-backup"}"#).unwrap();
    let environment = serde_json::from_str("{}").unwrap();
    let query = Query {
        principal: &bot,
        operation: "export",
        resource: &customers,
        input: &input,
        environment: &environment,
        session: session(),
        operator: None,
        digest: Digest::of(b"action"),
        now: NOW,
        excluded: &BTreeSet::new(),
        approval: None,
        holder: None,
    };
    let event = Event::Redeem {
        capability: TokenId::from_bytes([2; 16]),
        session: SessionId::from_bytes([1; 16]),
        digest: Digest::of(b"action"),
        action: r#"{"a":1}"#,
        approval: Some(ApprovalId::from_bytes([4; 16])),
        review: None,
        tally: vec![TallyRecord { rule: "a", quorum: 2, persons: vec![&person] }],
        determining: &["one".to_owned()],
        bundle: Digest::of(b"bundle"),
        revisions: Revisions { session: 7, tenant: 8, approval: None, entities: None },
        context: &bundle.evaluated(&query),
        complete_by: NOW.plus(Duration::from_secs(900)),
        pre_approval: None,
        holder: None,
    };
    let bytes = record(&TenantId::new("acme").unwrap(), NOW, Some(&caller(None)), None, event);
    assert_eq!(std::str::from_utf8(&bytes).unwrap(), include_str!("redeem.json").trim_end());
}
