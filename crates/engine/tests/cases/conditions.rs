//! Conditions change while a request waits, or while its approval is not spent: it is void, says why, and nobody has to look.

use countersign_core::approval::{ApprovalState, Changed, VoidCause};
use countersign_engine::{Reconsidered, Seen};
use futures::StreamExt as _;

use crate::*;

/// What `now` says of the request after everything that changed was followed.
async fn now<K: Kernel>(world: &World<K>, approval: ApprovalId) -> ApprovalState {
    world.engine.reconsider(approval).await.unwrap();
    world.engine.changed_approval(&call("dave", "GetApproval"), approval).await.unwrap().state
}

fn void(changed: Changed) -> ApprovalState {
    ApprovalState::Void { why: VoidCause::ConditionsChanged { changed: Some(changed) } }
}

async fn activate(world: &World<MemoryKernel>, path: &str, from: &str, to: &str) {
    let mut files = files();
    let changed = files[path].replace(from, to);
    assert_ne!(changed, files[path]);
    files.insert(path.to_owned(), changed);
    world.engine.activate(source(files), RevisionRule::NotLower).await.unwrap();
}

#[tokio::test]
async fn whoever_waits_learns_at_once_that_the_action_is_denied_by_now() {
    let world = World::new().await;
    let approval = world.ask().await;
    let engine = Arc::clone(&world.engine);
    let mut waiting = Box::pin(engine.watch_approvals(call("agent:bot", "WatchApprovals"), Some(approval), None));
    let Some(Ok(Seen { view, .. })) = waiting.next().await else { panic!("nothing is told") };
    assert_eq!(view.state, ApprovalState::Pending);
    let following = async {
        world.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
        waiting.next().await.unwrap().unwrap().view.state
    };
    tokio::select! {
        state = following => assert_eq!(state, void(Changed::Denied)),
        ended = world.engine.follow_conditions() => panic!("{ended:?}"),
    }
    assert!(matches!(world.vote("dana", approval).await, Err(Error::Approval(_))));
}

#[tokio::test]
async fn what_changed_while_nobody_followed_is_found_when_somebody_does() {
    let world = World::new().await;
    let approval = world.ask().await;
    world.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
    let engine = Arc::clone(&world.engine);
    let mut waiting = Box::pin(engine.watch_approvals(call("agent:bot", "WatchApprovals"), Some(approval), None));
    let void_by_now = async { while waiting.next().await.unwrap().unwrap().view.state != void(Changed::Denied) {} };
    tokio::select! {
        () = void_by_now => {}
        ended = world.engine.follow_conditions() => panic!("{ended:?}"),
    }
}

#[tokio::test]
async fn an_approval_dies_with_the_role_of_whoever_gave_it() {
    let world = World::new().await;
    let approval = world.ask().await;
    world.vote("dana", approval).await.unwrap();
    assert_eq!(now(&world, approval).await, ApprovalState::Approved);
    world.change("service:sync", &[person("dana", &[])]).await.unwrap();
    assert_eq!(now(&world, approval).await, void(Changed::Votes));
    assert!(world.decide("export", "docs", Some(approval)).await.is_err());
    // Asked again, others answer.
    let again = world.ask().await;
    assert_ne!(again, approval);
    world.vote("dave", again).await.unwrap();
    assert_eq!(now(&world, again).await, ApprovalState::Approved);
}

#[tokio::test]
async fn an_approval_dies_when_its_voter_comes_to_own_the_agent() {
    let world = World::new().await;
    let approval = world.ask().await;
    world.vote("dana", approval).await.unwrap();
    world.change("service:sync", &[agent("bot", "dana")]).await.unwrap();
    assert_eq!(now(&world, approval).await, void(Changed::Votes));
}

#[tokio::test]
async fn a_request_outlives_what_does_not_concern_it() {
    let world = World::new().await;
    let approval = world.ask().await;
    let Ok(Reconsidered::Good(_)) = world.engine.reconsider(approval).await else { panic!("it is good") };
    // One who may answer goes, and others are there; another resource becomes secret; the bundle says something else elsewhere.
    world.change("service:sync", &[person("dana", &[]), dataset("logs", "secret")]).await.unwrap();
    activate(&world, "policies/work.cedar", "@id(\"work\")", "@id(\"daily\")").await;
    assert_eq!(now(&world, approval).await, ApprovalState::Pending);
    world.vote("dave", approval).await.unwrap();
}

#[tokio::test]
async fn what_the_policies_ask_otherwise_is_asked_anew() {
    for (from, to, changed) in [
        ("@id(\"asks\")", "@id(\"asks\") @quorum(\"2\")", Changed::Rules),
        ("@id(\"asks\")", "@id(\"asks\") @reason(\"It leaves the house\")", Changed::Rules),
        ("action == Action::\"export\"", "action == Action::\"query\"", Changed::Allowed),
        ("== \"secret\"", "== \"public\"", Changed::Denied),
    ] {
        for approved in [false, true] {
            let world = World::new().await;
            let approval = world.ask().await;
            if approved {
                world.vote("dana", approval).await.unwrap();
            }
            activate(&world, "policies/work.cedar", from, to).await;
            assert_eq!(now(&world, approval).await, void(changed), "{to}, approved: {approved}");
        }
    }
}

#[tokio::test]
async fn an_action_that_the_schema_does_not_know_any_more_asks_nobody() {
    let world = World::new().await;
    let mut operation = operation("export", "docs");
    operation.input.insert("note".to_owned(), countersign_core::Value::String("x".to_owned()));
    let approval = world.ask_with(operation).await.unwrap();
    activate(&world, "schema.cedarschema", "note?: String", "other?: String").await;
    assert_eq!(now(&world, approval).await, void(Changed::Schema));
}

#[tokio::test]
async fn a_request_whose_inputs_only_the_asker_knows_is_judged_by_its_rules_and_votes() {
    let sensitive = |files: &mut BTreeMap<String, String>| {
        let schema = SCHEMA.replace("{ note?: String }", "{\n@sensitive\nnote?: String }");
        files.insert("schema.cedarschema".to_owned(), schema);
    };
    let mut secretive = files();
    sensitive(&mut secretive);
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), secretive.clone()).await;
    let note = |text: &str| {
        let mut operation = operation("export", "docs");
        operation.input.insert("note".to_owned(), countersign_core::Value::String(text.to_owned()));
        operation
    };
    let (first, second) = (world.ask_with(note("1")).await.unwrap(), world.ask_with(note("2")).await.unwrap());
    world.vote("dana", first).await.unwrap();
    assert_eq!(now(&world, first).await, ApprovalState::Approved);
    world.change("service:sync", &[person("dana", &[])]).await.unwrap();
    assert_eq!(now(&world, first).await, void(Changed::Votes));
    assert_eq!(now(&world, second).await, ApprovalState::Pending);
    let work = secretive["policies/work.cedar"].replace("@id(\"asks\")", "@id(\"asks\") @quorum(\"2\")");
    secretive.insert("policies/work.cedar".to_owned(), work);
    world.engine.activate(source(secretive.clone()), RevisionRule::NotLower).await.unwrap();
    assert_eq!(now(&world, second).await, void(Changed::Rules));
    let third = world.ask_with(note("3")).await.unwrap();
    // What was shown as a commitment would be shown in full.
    secretive.insert("schema.cedarschema".to_owned(), SCHEMA.to_owned());
    world.engine.activate(source(secretive), RevisionRule::NotLower).await.unwrap();
    assert_eq!(now(&world, third).await, void(Changed::Schema));
}

#[tokio::test]
async fn a_request_is_void_once_and_a_spent_approval_stays_spent() {
    let world = World::new().await;
    let approval = world.ask().await;
    world.vote("dana", approval).await.unwrap();
    let minted = world.decide("export", "docs", Some(approval)).await.unwrap();
    let token = minted.token.as_ref().unwrap().expose().to_owned();
    let redeem = Redeem {
        token,
        operation: operation("export", "docs"),
        audience: "gate".to_owned(),
        holder_proof: String::new(),
    };
    world.engine.redeem(&call("service:gate", "Redeem"), &redeem).await.unwrap();
    world.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
    assert!(matches!(now(&world, approval).await, ApprovalState::Redeemed { .. }));
}

#[tokio::test]
async fn what_was_void_with_its_session_stays_so_when_its_own_time_is_over() {
    let world = World::new().await;
    let approval = world.ask().await;
    world.engine.end_session(&call("agent:bot", "EndSession"), world.session).await.unwrap();
    let over = ApprovalState::Void { why: VoidCause::SessionOver };
    assert_eq!(now(&world, approval).await, over);
    world.clock.advance(std::time::Duration::from_secs(3 * 86_400));
    assert_eq!(now(&world, approval).await, over, "a terminal state has no exit (I5)");
    // One that was expired before its session was over stays expired.
    let world = World::new().await;
    let approval = world.ask().await;
    world.clock.advance(std::time::Duration::from_secs(16 * 60));
    assert_eq!(now(&world, approval).await, ApprovalState::Expired);
    world.engine.end_session(&call("agent:bot", "EndSession"), world.session).await.unwrap();
    assert_eq!(now(&world, approval).await, ApprovalState::Expired);
}

/// A bundle whose rule escalates after ten minutes, when admins may answer, too.
fn escalating() -> BTreeMap<String, String> {
    let mut files = files();
    let work = WORK.replace("@id(\"asks\")", "@id(\"asks\") @ttl(\"30m\") @escalate(\"10m\")");
    files.insert("policies/work.cedar".to_owned(), work);
    files.get_mut("approve/approve.cedar").unwrap().push_str(
        r#"@id("later") permit (principal in Group::"admins", action == Action::"approve", resource)
           when { context.waited >= duration("10m") };"#,
    );
    files
}

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

#[tokio::test]
async fn who_may_answer_later_answers_later_and_their_vote_counts() {
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), escalating()).await;
    let approval = world.ask().await;
    let early = world.vote("adam", approval).await;
    assert!(matches!(early, Err(Error::Approval(countersign_core::approval::ApprovalError::NotEligible(_)))));
    world.clock.advance(10 * MINUTE);
    world.vote("adam", approval).await.unwrap();
    assert_eq!(now(&world, approval).await, ApprovalState::Approved);
    world.clock.advance(10 * MINUTE);
    world.decide("export", "docs", Some(approval)).await.unwrap();
}

#[tokio::test]
async fn nobody_is_told_before_it_is_time_or_when_it_is_answered_and_silence_approves_nothing() {
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), escalating()).await;
    let (silent, answered) = (world.ask().await, world.ask_with(operation("export", "logs")).await);
    assert!(answered.is_err(), "there is no such dataset");
    let mut noted = operation("export", "docs");
    noted.input.insert("note".to_owned(), countersign_core::Value::String("x".to_owned()));
    let answered = world.ask_with(noted).await.unwrap();
    world.vote("dana", answered).await.unwrap();
    let revision = async |id| world.engine.changed_approval(&call("dana", "x"), id).await.unwrap().approval.revision;
    let before = (revision(silent).await, revision(answered).await);
    world.clock.advance(10 * MINUTE - std::time::Duration::from_millis(1));
    world.engine.escalate(silent).await.unwrap();
    assert_eq!(revision(silent).await, before.0);
    world.clock.advance(MINUTE);
    world.engine.escalate(silent).await.unwrap();
    world.engine.escalate(answered).await.unwrap();
    let told = revision(silent).await;
    assert!(told > before.0);
    assert_eq!((now(&world, silent).await, revision(answered).await), (ApprovalState::Pending, before.1));
    // Once.
    world.clock.advance(MINUTE);
    world.engine.escalate(silent).await.unwrap();
    assert_eq!(revision(silent).await, told);
}

#[tokio::test]
async fn those_who_may_answer_by_then_are_shown_the_request_without_asking() {
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), escalating()).await;
    let approval = world.ask().await;
    let mut adams = Box::pin(Arc::clone(&world.engine).watch_approvals(call("adam", "WatchApprovals"), None, None));
    tokio::select! {
        biased;
        seen = adams.next() => panic!("{seen:?}"),
        () = std::future::ready(()) => {}
    }
    world.clock.advance(10 * MINUTE);
    tokio::select! {
        seen = adams.next() => {
            let seen = seen.unwrap().unwrap().view;
            assert_eq!((seen.approval.value.id, seen.may_answer), (approval, true));
        }
        ended = world.engine.follow_conditions() => panic!("{ended:?}"),
    }
}
