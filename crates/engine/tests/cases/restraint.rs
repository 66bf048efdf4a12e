//! Asking must not wear people out: budgets, the cool-down after a deny, how it is lifted, and what people are shown of before.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::approval::{ApprovalError, Verdict as Says};
use countersign_core::restraint::{AskingBudget, RestraintError};
use countersign_core::{ApprovalId, Value};
use countersign_engine::{Acting, Ask, Error, Limits, OpenSession, Operation};
use countersign_store::fail::FailPoint;
use countersign_store::{Config, MemoryKernel, Mode, RocksKernel};

use crate::*;

const MINUTE: Duration = Duration::from_secs(60);

fn export(resource: &str, note: &str) -> Operation {
    let mut operation = operation("export", resource);
    operation.input.insert("note".to_owned(), Value::String(note.to_owned()));
    operation
}

fn no_cooldown() -> BTreeMap<String, String> {
    let mut files = files();
    files.insert("policies/work.cedar".to_owned(), WORK.replace("@id(\"asks\")", "@id(\"asks\") @cooldown(\"0m\")"));
    files
}

impl<K: Kernel> World<K> {
    async fn ask_as(&self, agent: &str, operation: Operation) -> Result<ApprovalId, Error> {
        let opening =
            OpenSession { purpose: "x".to_owned(), ttl: None, acting: Acting::Caller, ..OpenSession::default() };
        let agent = format!("agent:{agent}");
        let session = self.engine.open_session(&call(&agent, "OpenSession"), &opening).await?.answer.value.id;
        let ask = Ask {
            session,
            operation,
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            justification: "because".to_owned(),
        };
        self.engine.ask(&call(&agent, "RequestApproval"), &ask).await.map(|asked| asked.answer.0)
    }

    async fn deny(&self, who: &str, approval: ApprovalId) {
        self.say(who, approval, Says::Deny, "no").await.unwrap();
    }

    async fn lift(&self, who: &str, approval: ApprovalId) -> Result<ApprovalId, Error> {
        self.engine.lift(&call(who, "LiftCoolDown"), approval).await.map(|lifted| lifted.answer)
    }

    async fn cools(&self, who: &str, approval: ApprovalId) -> Option<Vec<String>> {
        let shown = self.engine.approval(&call(who, "GetApproval"), approval).await.unwrap();
        shown.cool_down.map(|down| down.lifted_by().iter().map(|person| person.id().to_owned()).collect())
    }
}

async fn budgeted(pending: u32, per_hour: u32) -> World<MemoryKernel> {
    let limits = Limits { asking: AskingBudget { pending, per_hour }, ..Limits::default() };
    let world = World::with(Arc::new(MemoryKernel::default()), Parts { limits, ..parts() }, files()).await;
    world.change("service:sync", &[agent("rob", "olivia"), dataset("logs", "public")]).await.unwrap();
    world
}

fn cooling<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Restraint(RestraintError::CoolingDown(..)))), "{result:?}");
}

#[tokio::test]
async fn one_principal_has_only_so_many_questions_pending_and_others_are_unharmed() {
    let world = budgeted(2, 60).await;
    let first = world.ask_with(export("docs", "1")).await.unwrap();
    let second = world.ask_with(export("docs", "2")).await.unwrap();
    let refused = world.ask_with(export("docs", "3")).await;
    assert!(matches!(refused, Err(Error::Restraint(RestraintError::Pending { pending: 2, .. }))), "{refused:?}");
    // The same question is shared, and costs nobody anything.
    assert_eq!(world.ask_with(export("docs", "1")).await.unwrap(), first);
    world.ask_as("rob", export("docs", "3")).await.unwrap();
    // Answered or taken back, it waits no more.
    world.vote("dana", first).await.unwrap();
    let third = world.ask_with(export("docs", "3")).await.unwrap();
    assert!(world.ask_with(export("docs", "4")).await.is_err());
    world.engine.cancel(&call("agent:bot", "CancelApproval"), second).await.unwrap();
    world.ask_with(export("docs", "4")).await.unwrap();
    // Nor does one that ran out.
    world.clock.advance(15 * MINUTE);
    assert_ne!(world.ask_with(export("docs", "3")).await.unwrap(), third);
}

#[tokio::test]
async fn questions_of_a_session_that_ended_do_not_weigh_on_the_next_one() {
    let world = budgeted(1, 60).await;
    world.ask_with(export("docs", "1")).await.unwrap();
    assert!(world.ask_as("bot", export("docs", "2")).await.is_err());
    world.engine.end_session(&call("agent:bot", "EndSession"), world.session).await.unwrap();
    world.ask_as("bot", export("docs", "2")).await.unwrap();
}

#[tokio::test]
async fn what_is_asked_within_an_hour_is_bounded_whatever_became_of_it() {
    let world = budgeted(20, 2).await;
    for note in ["1", "2"] {
        let asked = world.ask_with(export("docs", note)).await.unwrap();
        world.engine.cancel(&call("agent:bot", "CancelApproval"), asked).await.unwrap();
        world.clock.advance(MINUTE);
    }
    let refused = world.ask_with(export("docs", "3")).await;
    let Err(Error::Restraint(RestraintError::PerHour { asked: 2, again_in, .. })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(again_in, 58 * MINUTE);
    world.clock.advance(again_in - Duration::from_millis(1));
    assert!(world.ask_as("bot", export("docs", "3")).await.is_err());
    world.clock.advance(Duration::from_millis(1));
    world.ask_as("bot", export("docs", "3")).await.unwrap();
}

#[tokio::test]
async fn a_deny_is_not_evaded_by_a_changed_byte_or_by_another_agent_of_the_owner() {
    let world = budgeted(20, 60).await;
    world.change("service:sync", &[agent("eva", "dave")]).await.unwrap();
    let asked = world.ask_with(export("docs", "1")).await.unwrap();
    world.deny("dana", asked).await;
    cooling(world.ask_with(export("docs", "1")).await);
    cooling(world.ask_with(export("docs", "2")).await);
    cooling(world.ask_as("rob", export("docs", "3")).await);
    // It is about this resource, and about what this owner is answerable for.
    world.ask_with(export("logs", "1")).await.unwrap();
    world.ask_as("eva", export("docs", "1")).await.unwrap();
    world.clock.advance(15 * MINUTE - Duration::from_millis(1));
    cooling(world.ask_as("rob", export("docs", "3")).await);
    world.clock.advance(Duration::from_millis(1));
    world.ask_as("rob", export("docs", "3")).await.unwrap();
}

#[tokio::test]
async fn a_deny_after_the_quorum_cools_down_too() {
    let world = World::new().await;
    let asked = world.ask().await;
    world.vote("dana", asked).await.unwrap();
    world.deny("dave", asked).await;
    cooling(world.ask_with(export("docs", "1")).await);
}

#[tokio::test]
async fn rules_say_how_long_it_cools_down() {
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), no_cooldown()).await;
    let asked = world.ask().await;
    world.deny("dana", asked).await;
    assert_eq!(world.cools("dana", asked).await, None);
    assert_ne!(world.ask().await, asked);
}

#[tokio::test]
async fn more_persons_than_it_takes_to_approve_lift_what_one_denied() {
    let world = World::new().await;
    world.change("service:sync", &[person("eve", &["owners"]), person("una", &[])]).await.unwrap();
    let asked = world.ask().await;
    assert!(matches!(world.lift("dave", asked).await, Err(Error::Restraint(RestraintError::NotCoolingDown))));
    world.deny("dana", asked).await;
    assert_eq!(world.cools("dave", asked).await, Some(vec![]));
    // Neither who is part of the question, nor who may not answer it, nor whoever is no person.
    let refused = world.lift("olivia", asked).await;
    assert!(
        matches!(refused, Err(Error::ApprovalNotFound | Error::Approval(ApprovalError::NotEligible(_)))),
        "{refused:?}"
    );
    assert!(matches!(world.lift("una", asked).await, Err(Error::ApprovalNotFound)));
    assert!(matches!(world.lift("agent:bot", asked).await, Err(Error::NotAPerson(_))));
    let through = world.engine.lift(&call_via("dave", &["service:gate"], "LiftCoolDown"), asked).await;
    assert!(matches!(through, Err(Error::NotAPerson(_))), "{through:?}");

    world.lift("dave", asked).await.unwrap();
    assert_eq!(world.cools("dana", asked).await, Some(vec!["dave".to_owned()]));
    let again = world.lift("dave", asked).await;
    assert!(matches!(again, Err(Error::Restraint(RestraintError::AlreadyLifted(_)))), "{again:?}");
    cooling(world.ask_with(export("docs", "1")).await);
    // Who may not answer any more does not count.
    world.change("service:sync", &[person("dave", &[])]).await.unwrap();
    world.lift("eve", asked).await.unwrap();
    cooling(world.ask_with(export("docs", "1")).await);
    world.lift("dana", asked).await.unwrap();
    assert_eq!(world.cools("dana", asked).await, None);
    let next = world.ask_with(export("docs", "1")).await.unwrap();
    // The one whose deny was lifted says no again, which ends this question and keeps nobody from the next.
    world.deny("dana", next).await;
    world.ask_with(export("docs", "2")).await.unwrap();
}

#[tokio::test]
async fn a_lift_is_counted_once_however_often_it_is_sent() {
    let world = World::new().await;
    let asked = world.ask().await;
    world.deny("dana", asked).await;
    let same = call("dave", "LiftCoolDown");
    assert!(!world.engine.lift(&same, asked).await.unwrap().replayed);
    assert!(world.engine.lift(&same, asked).await.unwrap().replayed);
    assert_eq!(world.cools("dave", asked).await, Some(vec!["dave".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_was_weighed_before_a_deny_is_not_put_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let fail = FailPoint::default();
    let config = Config { fail: fail.clone(), ..Config::new(Mode::Development) };
    let kernel = Arc::new(RocksKernel::create(&dir.path().join("store"), &config).unwrap());
    let world = Arc::new(World::on(Arc::clone(&kernel)).await);
    let asked = world.ask().await;
    let until_more_waits_than = |bytes| {
        let kernel = Arc::clone(&kernel);
        async move {
            while kernel.queued_bytes() <= bytes {
                tokio::task::yield_now().await;
            }
            kernel.queued_bytes()
        }
    };
    let held = fail.hold();
    let denying = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.deny("dana", asked).await }
    });
    let waiting = until_more_waits_than(0).await;
    let asking = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.ask_with(export("docs", "changed")).await }
    });
    until_more_waits_than(waiting).await;
    drop(held);
    denying.await.unwrap();
    cooling(asking.await.unwrap());
}

#[tokio::test]
async fn people_see_what_was_answered_before_and_their_votes_bind_it() {
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), no_cooldown()).await;
    let show =
        async |approval| world.engine.approval(&call("dana", "GetApproval"), approval).await.unwrap().approval.value;
    let first = world.ask_with(export("docs", "1")).await.unwrap();
    let shown = show(first).await;
    assert!(shown.history.is_empty());
    assert_eq!(shown.owner, Some(entity("Person::\"olivia\"")));
    world.vote("dana", first).await.unwrap();
    let second = world.ask_with(export("docs", "2")).await.unwrap();
    world.deny("dave", second).await;
    // Another resource has another history; what nobody answered is in none.
    let third = world.ask_with(export("docs", "3")).await.unwrap();
    world.engine.cancel(&call("agent:bot", "CancelApproval"), third).await.unwrap();
    let shown = show(world.ask_with(export("docs", "4")).await.unwrap()).await;
    assert_eq!((shown.history.approved, shown.history.denied), (1, 1));
    let recent: Vec<_> =
        shown.history.recent.iter().map(|past| (past.verdict, past.by.first().unwrap().id().to_owned())).collect();
    assert_eq!(recent, [(Says::Deny, "dave".to_owned()), (Says::Approve, "dana".to_owned())]);
    assert_eq!(shown.view, shown.view_digest());
    let mut without = shown.clone();
    without.history.recent.clear();
    assert_ne!(without.view_digest(), shown.view);
}

#[tokio::test]
async fn what_no_longer_weighs_is_tidied_away() {
    let world = World::new().await;
    let asked = world.ask().await;
    world.deny("dana", asked).await;
    world.clock.advance(14 * MINUTE);
    assert_eq!(world.engine.tidy().await.unwrap(), 0);
    world.clock.advance(MINUTE);
    assert_eq!(world.engine.tidy().await.unwrap(), 1, "the cool-down");
    world.clock.advance(45 * MINUTE);
    assert_eq!(world.engine.tidy().await.unwrap(), 1, "the question");
}

#[tokio::test]
async fn one_persons_denies_do_not_undo_what_others_lift() {
    let world = World::new().await;
    world.change("service:sync", &[person("eve", &["owners"]), person("fay", &["owners"])]).await.unwrap();
    let mut asked = Vec::new();
    for note in ["1", "2", "3"] {
        asked.push(world.ask_with(export("docs", note)).await.unwrap());
    }
    world.deny("dana", asked[0]).await;
    world.lift("dave", asked[0]).await.unwrap();
    world.deny("dana", asked[1]).await;
    assert_eq!(world.cools("dave", asked[0]).await, Some(vec!["dave".to_owned()]));
    world.lift("eve", asked[0]).await.unwrap();
    world.deny("dana", asked[2]).await;
    world.ask_with(export("docs", "4")).await.unwrap();
    // The no of somebody else is another one, and is lifted where it was said.
    let fourth = world.ask_with(export("docs", "4")).await.unwrap();
    world.deny("fay", fourth).await;
    let lifted = world.lift("dave", asked[0]).await;
    assert!(matches!(lifted, Err(Error::Restraint(RestraintError::DeniedAgain(by))) if by == fourth), "{lifted:?}");
    cooling(world.ask_with(export("docs", "5")).await);
}

#[tokio::test]
async fn what_an_agent_asks_for_one_person_takes_nothing_from_another() {
    let world = budgeted(2, 60).await;
    world.change("service:sync", &[person("olga", &[]), person("carl", &[])]).await.unwrap();
    let ask = async |operator: &str, note: &str| {
        let as_agent = |rpc| call_via(operator, &["agent:bot"], rpc);
        let opening =
            OpenSession { purpose: "x".to_owned(), ttl: None, acting: Acting::Caller, ..OpenSession::default() };
        let session = world.engine.open_session(&as_agent("OpenSession"), &opening).await?.answer.value.id;
        let ask = Ask {
            session,
            operation: export("docs", note),
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            justification: "because".to_owned(),
        };
        world.engine.ask(&as_agent("RequestApproval"), &ask).await.map(|asked| asked.answer.0)
    };
    let first = ask("carl", "1").await.unwrap();
    ask("carl", "2").await.unwrap();
    assert!(matches!(ask("carl", "3").await, Err(Error::Restraint(RestraintError::Pending { pending: 2, .. }))));
    ask("olga", "3").await.unwrap();
    // Nor does the agent, for one person, see or take back what it asked for another.
    let as_olgas = |rpc| call_via("olga", &["agent:bot"], rpc);
    assert!(matches!(world.engine.approval(&as_olgas("GetApproval"), first).await, Err(Error::ApprovalNotFound)));
    assert!(matches!(world.engine.cancel(&as_olgas("CancelApproval"), first).await, Err(Error::ApprovalNotFound)));
    world.engine.cancel(&call_via("carl", &["agent:bot"], "CancelApproval"), first).await.unwrap();
}

#[tokio::test]
async fn an_approval_that_was_taken_back_is_no_precedent() {
    let world = World::new().await;
    let first = world.ask_with(export("docs", "1")).await.unwrap();
    world.vote("dana", first).await.unwrap();
    world.engine.withdraw(&call("dana", "WithdrawVote"), first).await.unwrap();
    let second = world.ask_with(export("docs", "2")).await.unwrap();
    let shown = world.engine.approval(&call("dana", "GetApproval"), second).await.unwrap().approval.value;
    assert!(shown.history.is_empty(), "{:?}", shown.history);
}

#[tokio::test]
async fn nobody_approves_and_takes_it_back_for_ever() {
    let mut files = files();
    files.insert("policies/work.cedar".to_owned(), WORK.replace("@id(\"asks\")", "@id(\"asks\") @quorum(\"2\")"));
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    let approval = world.ask().await;
    for _time in 0..3 {
        world.vote("dana", approval).await.unwrap();
        world.engine.withdraw(&call("dana", "WithdrawVote"), approval).await.unwrap();
    }
    let refused = world.vote("dana", approval).await;
    assert!(matches!(refused, Err(Error::Approval(ApprovalError::Wavering(_)))), "{refused:?}");
    // A no is always heard.
    world.say("dana", approval, Says::Deny, "").await.unwrap();
}

#[tokio::test]
async fn asking_the_same_again_disturbs_nobody() {
    let world = World::new().await;
    let approval = world.ask().await;
    let revision = async || {
        let shown = world.engine.approval(&call("dana", "GetApproval"), approval).await.unwrap();
        shown.approval.revision
    };
    let before = revision().await;
    assert_eq!(world.ask().await, approval);
    assert_eq!(revision().await, before);
}
