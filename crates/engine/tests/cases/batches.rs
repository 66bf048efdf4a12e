//! Several questions, and several votes, at once.

use std::sync::Arc;

use countersign_core::approval::{ApprovalError, ApprovalState, Together};
use countersign_core::restraint::{AskingBudget, RestraintError};
use countersign_core::{BatchId, Value};
use futures::StreamExt as _;

use crate::*;

impl<K: Kernel> World<K> {
    fn question(&self, note: &str) -> Ask {
        let mut operation = operation("export", "docs");
        operation.input.insert("note".to_owned(), Value::String(note.to_owned()));
        Ask {
            session: self.session,
            operation,
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            justification: "because".to_owned(),
        }
    }

    fn questions(&self, notes: &[&str]) -> Vec<Ask> {
        notes.iter().map(|note| self.question(note)).collect()
    }

    async fn together(&self, notes: &[&str]) -> (BatchId, Vec<ApprovalId>) {
        let asks = self.questions(notes);
        let (batch, asked) = self.engine.ask_together(&call("agent:bot", "RequestApprovals"), &asks).await.unwrap();
        (batch, asked.into_iter().map(|asked| asked.unwrap().answer.0).collect())
    }

    async fn ballot(&self, who: &str, approval: ApprovalId, verdict: Says) -> Ballot {
        let shown = self.engine.approval(&call(who, "GetApproval"), approval).await.unwrap().approval.value;
        Ballot { approval, verdict, digest: shown.digest, view: shown.view, comment: String::new(), signed: None }
    }

    async fn shown(&self, approval: ApprovalId) -> countersign_core::approval::Approval {
        self.engine.approval(&call("dana", "GetApproval"), approval).await.unwrap().approval.value
    }
}

#[tokio::test]
async fn voters_see_which_questions_were_put_together() {
    let world = World::new().await;
    let before = world.ask_with(world.question("b").operation).await.unwrap();
    let (batch, asked) = world.together(&["a", "b", "c"]).await;
    assert_eq!(asked[1], before, "what was pending is shared");
    let place = async |id| world.shown(id).await.batch;
    assert_eq!(place(asked[0]).await, Some(Together { id: batch, place: 1, of: 3 }));
    assert_eq!(place(asked[1]).await, None, "and stays what people saw");
    assert_eq!(place(asked[2]).await, Some(Together { id: batch, place: 3, of: 3 }));
    // It is part of what is voted on.
    let shown = world.shown(asked[0]).await;
    assert_eq!(shown.view, shown.view_digest());
    for other in [None, Some(Together { id: batch, place: 2, of: 3 }), Some(Together { id: batch, place: 1, of: 2 })] {
        assert_ne!(shown.clone().in_batch(other).view, shown.view);
    }
    // And they find them.
    let list = async |who, after, limit| {
        let page = world.engine.approvals_of_batch(&call(who, "ListApprovals"), batch, after, limit).await.unwrap();
        (page.items.iter().map(|view| view.approval.value.id).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(list("dana", None, 10).await, (vec![asked[0], asked[2]], None));
    assert_eq!(list("dana", None, 1).await, (vec![asked[0]], Some(1)));
    assert_eq!(list("dana", Some(1), 1).await.0, [asked[2]]);
    assert_eq!(list("adam", None, 10).await.0, [], "whoever may not see a request does not see it in a batch");
    let mut watch = std::pin::pin!(Arc::clone(&world.engine).watch_batch(call("dana", "WatchApprovals"), batch, None));
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(watch.next().await.unwrap().unwrap().view.approval.value.id);
    }
    assert_eq!(seen, [asked[0], asked[2]]);
}

#[tokio::test]
async fn a_batch_does_not_get_round_the_budget_and_the_first_of_it_are_put() {
    let limits = Limits { asking: AskingBudget { pending: 2, per_hour: 60 }, ..Limits::default() };
    let world = World::with(Arc::new(MemoryKernel::default()), Parts { limits, ..parts() }, files()).await;
    let asks = world.questions(&["1", "2", "3", "4"]);
    let (_, asked) = world.engine.ask_together(&call("agent:bot", "RequestApprovals"), &asks).await.unwrap();
    assert!(asked[..2].iter().all(Result::is_ok), "{asked:?}");
    for refused in &asked[2..] {
        assert!(matches!(refused, Err(Error::Restraint(RestraintError::Pending { pending: 2, .. }))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_retry_of_a_batch_goes_on_with_the_same_batch() {
    let limits = Limits { asking: AskingBudget { pending: 2, per_hour: 60 }, ..Limits::default() };
    let world = World::with(Arc::new(MemoryKernel::default()), Parts { limits, ..parts() }, files()).await;
    let asks = world.questions(&["1", "2", "3"]);
    let request = call("agent:bot", "RequestApprovals");
    let (batch, first) = world.engine.ask_together(&request, &asks).await.unwrap();
    let id =
        |asked: &Result<countersign_engine::Replayable<(ApprovalId, bool)>, Error>| asked.as_ref().unwrap().answer.0;
    world.vote("dana", id(&first[0])).await.unwrap();
    let (again, second) = world.engine.ask_together(&request, &asks).await.unwrap();
    assert_eq!((again, id(&second[0]), id(&second[1])), (batch, id(&first[0]), id(&first[1])));
    assert!(second[0].as_ref().unwrap().replayed && second[1].as_ref().unwrap().replayed);
    // There is room for the third now, and it has the place that it had.
    assert!(first[2].is_err() && !second[2].as_ref().unwrap().replayed);
    assert_eq!(world.shown(id(&second[2])).await.batch, Some(Together { id: batch, place: 3, of: 3 }));
    // The id is taken for these questions.
    let mut other = request.clone();
    other.request.as_mut().unwrap().body = Digest::of(b"other");
    let reused = world.engine.ask_together(&other, &asks[..1]).await;
    assert!(matches!(reused, Err(Error::RequestIdReused)), "{reused:?}");
}

#[tokio::test]
async fn a_vote_in_a_batch_on_a_stale_view_fails_alone() {
    let world = World::new().await;
    let (_, asked) = world.together(&["1", "2", "3"]).await;
    let mut ballots = Vec::new();
    for (approval, verdict) in asked.iter().zip([Says::Approve, Says::Approve, Says::Deny]) {
        ballots.push(world.ballot("dana", *approval, verdict).await);
    }
    ballots[1].view = ballots[0].view;
    let request = call("dana", "CastVotes");
    let cast = world.engine.vote_together(&request, &ballots).await.unwrap();
    assert!(cast[0].is_ok() && cast[2].is_ok(), "{cast:?}");
    assert!(matches!(cast[1], Err(Error::Approval(ApprovalError::StaleView))), "{cast:?}");
    let state = async |id| world.engine.approval(&call("dana", "GetApproval"), id).await.unwrap().state;
    assert_eq!(state(asked[0]).await, ApprovalState::Approved);
    assert_eq!(state(asked[1]).await, ApprovalState::Pending);
    assert!(matches!(state(asked[2]).await, ApprovalState::Denied { .. }));
    // Sent again, what was cast is not cast twice.
    let again = world.engine.vote_together(&request, &ballots).await.unwrap();
    assert!(again[0].as_ref().unwrap().replayed && again[1].is_err() && again[2].as_ref().unwrap().replayed);
    // Nor are other votes added to those of the same id.
    let mut other = request;
    other.request.as_mut().unwrap().body = Digest::of(b"other");
    ballots[1] = world.ballot("dana", asked[1], Says::Approve).await;
    let reused = world.engine.vote_together(&other, &ballots).await;
    assert!(matches!(reused, Err(Error::RequestIdReused)), "{reused:?}");
    assert_eq!(state(asked[1]).await, ApprovalState::Pending);
}

#[tokio::test]
async fn there_is_no_vote_on_nothing_and_none_twice_on_one() {
    let world = World::new().await;
    let (_, asked) = world.together(&["1"]).await;
    let none = world.engine.vote_together(&call("dana", "CastVotes"), &[]).await;
    assert!(matches!(&none, Err(Error::InvalidField { field, .. }) if field == "items"), "{none:?}");
    let ballots =
        [world.ballot("dana", asked[0], Says::Approve).await, world.ballot("dana", asked[0], Says::Deny).await];
    let twice = world.engine.vote_together(&call("dana", "CastVotes"), &ballots).await;
    assert!(matches!(&twice, Err(Error::InvalidField { field, .. }) if field == "items"), "{twice:?}");
    assert!(world.shown(asked[0]).await.votes().is_empty());
    assert!(world.engine.ask_together(&call("agent:bot", "RequestApprovals"), &[]).await.is_err());
    // Nor does an agent vote in a batch.
    let by_agent = world.engine.vote_together(&call("agent:bot", "CastVotes"), &ballots[..1]).await;
    assert!(matches!(by_agent, Err(Error::NotAPerson(_))), "{by_agent:?}");
}

#[tokio::test]
async fn a_batch_that_a_fault_breaks_off_goes_on_where_it_was() {
    let world = World::new().await;
    let asks = world.questions(&["1", "2"]);
    let request = call("agent:bot", "RequestApprovals");
    let (batch, first) = {
        // As if the process had ended after the first: the same request, of which only one item was reached.
        let (batch, _) = world.engine.ask_together(&request, &asks[..1]).await.unwrap();
        (batch, world.engine.approvals_of_batch(&call("dana", "ListApprovals"), batch, None, 10).await.unwrap())
    };
    let (again, both) = world.engine.ask_together(&request, &asks).await.unwrap();
    assert_eq!(again, batch);
    assert_eq!(both[0].as_ref().unwrap().answer.0, first.items[0].approval.value.id);
    assert!(both[0].as_ref().unwrap().replayed && !both[1].as_ref().unwrap().replayed);
}
