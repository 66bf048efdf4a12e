//! Questions: who cannot answer them, whom they still concern when they are put anew, and that there is always room for a no.

use std::sync::Arc;

use countersign_core::Value;
use countersign_core::approval::{ApprovalError, ApprovalState, Verdict as Says};
use countersign_core::time::ManualClock;
use countersign_engine::{Acting, Engine, Error, OpenSession, RevisionRule, Verdict};
use countersign_store::MemoryKernel;

use crate::*;

#[tokio::test]
async fn whoever_stands_behind_the_opening_of_a_session_cannot_answer_in_it() {
    let mut world = World::new().await;
    // The gate opens it for the bot, and dana is behind the gate; nobody names her as operator.
    let opening = OpenSession {
        purpose: "x".to_owned(),
        ttl: None,
        acting: Acting::Named(entity("Agent::\"bot\"")),
        ..OpenSession::default()
    };
    let opened =
        world.engine.open_session(&call_via("dana", &["service:gate"], "OpenSession"), &opening).await.unwrap();
    world.session = opened.answer.value.id;
    let approval = world.ask().await;
    let refused = world.vote("dana", approval).await;
    assert!(matches!(refused, Err(Error::Approval(ApprovalError::Excluded(_)))), "{refused:?}");
    world.vote("dave", approval).await.unwrap();
    minted(&world.decide("export", "docs", Some(approval)).await.unwrap());
}

#[tokio::test]
async fn a_question_that_is_put_anew_remembers_who_could_not_answer() {
    let world = World::new().await;
    world.change("service:sync", &[agent("bot", "dave")]).await.unwrap();
    let first = world.ask().await;
    world.change("service:sync", &[agent("bot", "olivia")]).await.unwrap();
    world.vote("dana", first).await.unwrap();
    // The one who approved does not count any more, so it has to be put anew.
    world.change("service:sync", &[person("dana", &[]), person("eve", &["owners"])]).await.unwrap();
    let second = world.ask().await;
    assert_ne!(first, second);
    assert!(world.vote("dave", second).await.is_err(), "he owned the agent when it asked for this");
    world.vote("eve", second).await.unwrap();
    // Nor is it forgotten when the question was taken back.
    let third = {
        world.engine.cancel(&call("agent:bot", "CancelApproval"), second).await.unwrap_err();
        world.say("eve", second, Says::Deny, "no").await.unwrap();
        // Until the deny has cooled down.
        world.clock.advance(std::time::Duration::from_secs(15 * 60));
        world.ask().await
    };
    assert!(world.vote("dave", third).await.is_err());
}

#[tokio::test]
async fn votes_count_for_the_rule_that_was_shown() {
    let world = World::new().await;
    let approval = world.ask().await;
    world.vote("dana", approval).await.unwrap();
    let mut changed = files();
    let work = WORK.replace("@id(\"asks\")", "@id(\"asks\") @reason(\"Only with a decision of the board\")");
    changed.insert("policies/work.cedar".to_owned(), work);
    world.engine.activate(source(changed), RevisionRule::NotLower).await.unwrap();
    let after = world.decide("export", "docs", Some(approval)).await.unwrap();
    assert!(matches!(after.verdict, Verdict::NeedsApproval { .. }), "{after:?}");
    let again = world.ask().await;
    world.vote("dave", again).await.unwrap();
    minted(&world.decide("export", "docs", Some(again)).await.unwrap());
}

#[tokio::test]
async fn there_is_always_room_for_a_no() {
    let world = World::new().await;
    let with = |note: String| {
        let mut operation = operation("export", "docs");
        operation.input.insert("note".to_owned(), Value::String(note));
        operation
    };
    // Within the limit of an action, and too much as a question: every backslash is written twice, and twice again.
    let refused = world.ask_with(with("\\".repeat(15_700))).await;
    assert!(matches!(&refused, Err(Error::InvalidField { field, .. }) if field == "operation"), "{refused:?}");

    let approval = world.ask_with(with(format!("{}{}", "a".repeat(20_000), "\"".repeat(5_000)))).await.unwrap();
    let long = "\u{1d518}".repeat(2_000);
    world.say("dana", approval, Says::Approve, &long).await.unwrap();
    world.say("dave", approval, Says::Deny, &long).await.unwrap();
    let look = world.engine.changed_approval(&call("dana", "GetApproval"), approval).await.unwrap();
    assert!(matches!(look.state, ApprovalState::Void { .. }), "{:?}", look.state);
}

#[tokio::test]
async fn a_process_that_disagrees_with_its_store_catches_up() {
    let kernel = Arc::new(MemoryKernel::default());
    let world = World::on(Arc::clone(&kernel)).await;
    // As if the publish had been broken off between its commit and its effect here.
    let other = Engine::open(kernel, Box::new(ManualClock::new(START)), parts()).await.unwrap();
    let mut changed = files();
    let manifest = files()["bundle.toml"].replace("revision = 1", "revision = 2");
    changed.insert("bundle.toml".to_owned(), manifest);
    other.activate(source(changed), RevisionRule::NotLower).await.unwrap();
    let decision = world.decide("query", "docs", None).await.unwrap();
    minted(&decision);
    assert_eq!(decision.bundle, other.bundle_info().unwrap().digest);
    assert_eq!(world.engine.bundle_info().unwrap().revision, 2);
}
