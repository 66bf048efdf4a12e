//! What administration policies let somebody read is counted, and the counts are recorded.

use std::time::Duration;

use countersign_core::EntityRef;
use countersign_engine::WhichCounts;
use countersign_store::MemoryKernel;
use futures::StreamExt as _;

use crate::*;

const READERS: &str = r#"
    @id("auditors") permit (
        principal == Person::"adam",
        action in [Action::"readLog", Action::"readApprovals", Action::"readRevocations"],
        resource
    );
    @id("bots-read") permit (principal == Agent::"bot", action == Action::"readLog", resource);
"#;

async fn world() -> World<MemoryKernel> {
    let mut files = files();
    files.insert("admin/readers.cedar".to_owned(), READERS.to_owned());
    World::with(Arc::new(MemoryKernel::default()), parts(), files).await
}

impl World<MemoryKernel> {
    async fn read_log(&self, call: &Call) {
        self.engine.records(call, 0, 10).await.unwrap();
    }

    /// What is recorded of reads, once what is due was.
    async fn accesses(&self, which: WhichCounts) -> Vec<Json> {
        self.engine.record_accesses(which).await.unwrap();
        let records = self.engine.log_records(0, 1_000).await.unwrap();
        let records = records.iter().map(|(_, record)| serde_json::from_slice::<Json>(record).unwrap());
        records.filter(|record| record["kind"] == "access").collect()
    }
}

#[tokio::test]
async fn a_reader_is_recorded_soon_and_then_once_in_an_interval() {
    let world = world().await;
    world.read_log(&call("adam", "ListRecords")).await;
    world.engine.checkpoint(&call("adam", "GetCheckpoint")).await.unwrap();
    let first = world.accesses(WhichCounts::Due).await;
    let bundle = world.engine.active().unwrap().bundle.digest().to_string();
    let at = START.millis();
    assert_eq!(
        first,
        [json!({
            "v": 1, "at": at, "tenant": "acme", "kind": "access", "bundle": bundle, "determining": ["auditors"],
            "caller": {
                "entity": {"type": "Person", "id": "adam"},
                "account": "iss#adam", "credential": Digest::of(b"adam").to_string(),
            },
            "reserved_action": "readLog", "rpcs": ["GetCheckpoint", "ListRecords"], "count": 2, "since": at, "until": at,
        })]
    );
    // Whoever follows the log reads of themselves, and comes to its end all the same.
    for _ in 0..299 {
        world.clock.advance(Duration::from_secs(1));
        world.read_log(&call("adam", "ListRecords")).await;
        assert_eq!(world.accesses(WhichCounts::Due).await.len(), 1);
    }
    world.clock.advance(Duration::from_secs(1));
    let second = world.accesses(WhichCounts::Due).await;
    assert_eq!(second.len(), 2);
    let told = |name: &str| second[1][name].as_i64().unwrap();
    assert_eq!((told("count"), told("since"), told("until")), (299, at + 1_000, at + 299_000));
    // Who was quiet begins anew.
    world.clock.advance(Duration::from_secs(300));
    assert_eq!(world.accesses(WhichCounts::Due).await.len(), 2);
    world.read_log(&call("adam", "ListRecords")).await;
    assert_eq!(world.accesses(WhichCounts::Due).await.len(), 3);
}

#[tokio::test]
async fn what_is_counted_is_recorded_at_the_end() {
    let world = world().await;
    world.read_log(&call("adam", "ListRecords")).await;
    world.accesses(WhichCounts::Due).await;
    world.read_log(&call("adam", "ListRecords")).await;
    assert_eq!(world.accesses(WhichCounts::Due).await.len(), 1);
    assert_eq!(world.accesses(WhichCounts::All).await.len(), 2);
    assert_eq!(world.accesses(WhichCounts::All).await.len(), 2, "nothing is written twice");
}

#[tokio::test]
async fn callers_are_told_apart_by_whom_they_act_for_and_by_what_permits_it() {
    let world = world().await;
    for who in ["dana", "olivia"] {
        world.read_log(&call_via(who, &["agent:bot"], "ListRecords")).await;
    }
    world.engine.figures(&call("adam", "GetApprovalFigures"), None, 10).await.unwrap();
    world.read_log(&call("adam", "ListRecords")).await;
    let mut told: Vec<_> = (world.accesses(WhichCounts::Due).await.iter())
        .map(|record| {
            let operator = record.pointer("/caller/operator/id").and_then(Json::as_str).unwrap_or_default();
            let caller = record.pointer("/caller/entity/id").and_then(Json::as_str).unwrap();
            format!("{caller} {operator} {} {}", record["reserved_action"], record["determining"])
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            r#"adam  "readApprovals" ["auditors"]"#,
            r#"adam  "readLog" ["auditors"]"#,
            r#"bot dana "readLog" ["bots-read"]"#,
            r#"bot olivia "readLog" ["bots-read"]"#,
        ]
    );
}

#[tokio::test]
async fn what_is_ones_own_and_what_was_refused_is_not_counted() {
    let world = world().await;
    let id = world.ask().await;
    // The asker, whoever may answer, and the principal of the session.
    for who in ["agent:bot", "dana"] {
        world.engine.approval(&call(who, "GetApproval"), id).await.unwrap();
        world.engine.approvals(&call(who, "ListApprovals"), None, 10).await.unwrap();
        world.engine.figures(&call(who, "GetApprovalFigures"), None, 10).await.ok();
    }
    world.engine.session(&call("agent:bot", "GetSession"), world.session).await.unwrap();
    world.engine.sessions(&call("agent:bot", "ListSessions"), None, 10).await.unwrap();
    for who in ["dana", "olivia"] {
        world.engine.records(&call(who, "ListRecords"), 0, 10).await.unwrap_err();
        world.engine.entity(&call(who, "GetEntity"), &EntityRef::new("Person", "dana").unwrap()).await.unwrap_err();
    }
    // What was asked for by whoever may, and is not there, was not answered.
    world.engine.inclusion(&call("adam", "GetInclusionProof"), 1 << 20, 1 << 21).await.unwrap_err();
    assert_eq!(world.accesses(WhichCounts::All).await, Vec::<Json>::new());
}

#[tokio::test]
async fn what_one_sees_only_because_a_policy_says_so_is_counted() {
    let world = world().await;
    let id = world.ask().await;
    world.engine.approval(&call("adam", "GetApproval"), id).await.unwrap();
    world.engine.approvals(&call("adam", "ListApprovals"), None, 10).await.unwrap();
    world.engine.session(&call("adam", "GetSession"), world.session).await.unwrap();
    world.engine.sessions(&call("adam", "ListSessions"), None, 10).await.unwrap();
    let dana = EntityRef::new("Person", "dana").unwrap();
    world.engine.entity(&call("service:sync", "GetEntity"), &dana).await.unwrap();
    world.engine.bundles(&call("adam", "ListBundles"), None, 10).await.unwrap();
    let mut told: Vec<_> = (world.accesses(WhichCounts::Due).await.iter())
        .map(|record| format!("{} {} {}", record["reserved_action"], record["rpcs"], record["count"]))
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            r#""publish" ["ListBundles"] 1"#,
            r#""readApprovals" ["GetApproval","ListApprovals"] 2"#,
            r#""readEntities" ["GetEntity"] 1"#,
            r#""readLog" ["GetSession","ListSessions"] 2"#,
        ]
    );
}

#[tokio::test]
async fn a_watch_is_counted_as_it_tells() {
    let world = world().await;
    world.ask().await;
    let engine = || Arc::clone(&world.engine);
    let mut own = Box::pin(engine().watch_approvals(call("agent:bot", "WatchApprovals"), None, None));
    let mut all = Box::pin(engine().watch_approvals(call("adam", "WatchApprovals"), None, None));
    own.next().await.unwrap().unwrap();
    all.next().await.unwrap().unwrap();
    let mut revocations = Box::pin(engine().watch_revocations(call("adam", "WatchRevocations"), None));
    revocations.next().await.unwrap().unwrap();
    let mut told: Vec<_> = (world.accesses(WhichCounts::Due).await.iter())
        .map(|record| format!("{} {} {}", record["reserved_action"], record["rpcs"], record["count"]))
        .collect();
    told.sort();
    assert_eq!(told, [r#""readApprovals" ["WatchApprovals"] 1"#, r#""readRevocations" ["WatchRevocations"] 1"#]);
}

#[tokio::test]
async fn a_change_has_a_record_of_its_own_and_is_not_counted_beside_it() {
    let world = world().await;
    world.change("adam", &[dataset("more", "public")]).await.unwrap();
    let id = world.ask().await;
    world.vote("dana", id).await.unwrap();
    world.decide("query", "docs", None).await.unwrap();
    assert_eq!(world.accesses(WhichCounts::All).await, Vec::<Json>::new());
}
