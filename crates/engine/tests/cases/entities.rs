//! Stored entities: what changes between two bundles, and what hangs on it.

use std::sync::Arc;

use countersign_core::time::ManualClock;
use countersign_engine::{Engine, EntityChange, Error, RevisionRule, Verdict};
use countersign_policy::EntityData;
use countersign_store::fail::FailPoint;
use countersign_store::{Config, MemoryKernel, Mode, RocksKernel};
use serde_json::json;

use crate::*;

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
async fn an_account_in_another_spelling_is_nobodys_and_makes_no_second_person() {
    let world = World::new().await;
    let with = |name: &str, accounts: &[&str]| {
        put(
            &format!("Person::\"{name}\""),
            json!({ "attrs": { "accounts": accounts }, "parents": [{ "type": "Group", "id": "owners" }] }),
        )
    };
    for spelled in ["iss#Dana", "iss#dana ", "iss#ｄａｎａ"] {
        let refused = world.change("service:sync", &[with("second", &[spelled])]).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("differ only in case")), "{spelled}");
    }
    // Nobody has said that Dana is dana, so she is nobody.
    let refused = world.engine.approvals(&call("Dana", "ListApprovals"), None, 1).await;
    assert!(matches!(refused, Err(Error::PrincipalUnknown(_))), "{refused:?}");
    world.change("service:sync", &[with("dana", &["iss#dana", "iss#Dana"])]).await.unwrap();
    let approval = world.ask().await;
    world.vote("dana", approval).await.unwrap();
    assert!(world.vote("Dana", approval).await.is_err(), "one person, one vote");
    world.change("service:sync", &[with("dana", &["iss#dana"])]).await.unwrap();
    assert!(world.engine.approvals(&call("Dana", "ListApprovals"), None, 1).await.is_err());
    world.change("service:sync", &[gone("Person::\"dana\""), with("second", &["iss#Dana"])]).await.unwrap();
    world.engine.approvals(&call("Dana", "ListApprovals"), None, 1).await.unwrap();
}

#[tokio::test]
async fn entities_are_there_after_a_restart() {
    let kernel = Arc::new(MemoryKernel::default());
    let world = World::on(Arc::clone(&kernel)).await;
    let revision = world.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
    let engine = Engine::open(kernel, Box::new(ManualClock::new(START)), parts()).await.unwrap();
    let (kernel, clock) = (Arc::clone(&world.kernel), Arc::clone(&world.clock));
    let again = World { kernel, engine: Arc::new(engine), clock, session: world.session };
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
    let refused = world.engine.activate(source(strict), RevisionRule::NotLower).await;
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
