//! Many calls at once on the same few objects. Which of them win is nobody's to say; that the winners could have come one
//! after the other is, and the log says in which order they did.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_core::capability::CapabilityState;
use countersign_engine::Error;
use countersign_store::repository::Repository;
use tokio::sync::Barrier;

use crate::audit::Log;
use crate::backend::{Backend, InMemory, OnDisk, acme};
use crate::driver::Tally;
use crate::hand::Hand;
use crate::request::{Acting, Altered, Caller, Request, Sent, Shown};
use crate::service::{Told, class, send};
use crate::world::{Deed, Party, Variant};

const BOT: Caller = Caller::Is(Party::Bot);
const ALICE: Caller = Caller::Is(Party::Alice);

fn vote(approve: bool) -> Request {
    Request::Vote { question: 0, approve, shown: Shown::Right }
}

fn redeem(capability: usize) -> Request {
    Request::Redeem { capability, altered: Altered::Nothing }
}

/// What is done at once: two capabilities of one approval, and a free one.
fn rush(round: usize) -> Vec<(Caller, Request)> {
    let spend = Request::Decide {
        action: Hand::<countersign_store::MemoryKernel>::action(0, Deed::Write),
        acting: Acting::Caller,
        approval: Some(0),
        mint: false,
    };
    let mut calls = vec![(BOT, spend), (BOT, spend)];
    for capability in 0..3 {
        for by in [Party::Keeper, Party::Gateway, Party::Keeper, Party::Bot] {
            calls.push((Caller::Is(by), redeem(capability)));
        }
        calls.push((Caller::Is(Party::Keeper), Request::Complete { capability, succeeded: true }));
    }
    // Each round has another thing that takes authority away, and some have all.
    let ends = [
        (BOT, Request::Revoke { capability: round % 3 }),
        (BOT, Request::End { session: 0 }),
        (ALICE, Request::Publish { variant: Variant::Tight }),
        (ALICE, Request::Publish { variant: Variant::Owner }),
        (Caller::Is(Party::Erin), Request::Withdraw { question: 0 }),
        (Caller::Is(Party::Eve), vote(false)),
        (BOT, Request::Cancel { question: 0 }),
    ];
    let chosen = ends.iter().enumerate().filter(|(number, _)| round % 8 == 7 || round % 8 == *number);
    calls.extend(chosen.map(|(_, end)| *end));
    // Not always in the same order: the first tasks start first.
    let turn = (round * 5) % calls.len();
    calls.rotate_left(turn);
    calls
}

/// Plays one round and returns what came of each call.
async fn round<B: Backend>(number: usize) -> Tally {
    let backend = B::create();
    let mut hand = Hand::on(backend.kernel()).await;
    hand.ask(Deed::Write).await;
    hand.accepted(Caller::Is(Party::Erin), vote(true)).await;
    hand.mint(Deed::Write).await;
    hand.mint(Deed::Write).await;
    hand.mint(Deed::Read).await;

    let calls = rush(number);
    let start = Arc::new(Barrier::new(calls.len()));
    let tasks: Vec<_> = calls
        .into_iter()
        .enumerate()
        .map(|(id, (caller, request))| {
            let (engine, names, start) = (Arc::clone(&hand.engine), hand.names.clone(), Arc::clone(&start));
            let sent = Sent { caller, id: Some(10_000 + id), other_body: false, request };
            tokio::spawn(async move {
                start.wait().await;
                (sent, send(&engine, &names, &sent).await)
            })
        })
        .collect();
    let mut tally = Tally::new();
    let (mut redeemed, mut allowed) = (BTreeMap::<usize, usize>::new(), 0_usize);
    for task in tasks {
        let (sent, told) = task.await.unwrap();
        let what = match &told {
            Ok((told, replayed)) => {
                assert!(!replayed, "{sent:?} was never sent before");
                match (sent.request, told) {
                    (Request::Redeem { capability, .. }, _) => *redeemed.entry(capability).or_default() += 1,
                    (Request::Decide { .. }, Told::Decision(decision)) if decision.word() == "ALLOW" => allowed += 1,
                    _ => {}
                }
                "ok".to_owned()
            }
            Err(error) => {
                let faults = matches!(error, Error::Internal(_) | Error::Store(_) | Error::OutcomeUnknown(_));
                assert!(!faults, "{sent:?}: {error}");
                class(error)
            }
        };
        *tally.entry(format!("{} {what}", sent.request.rpc())).or_default() += 1;
    }

    // I1: one approval, one thing done by it, whether by a capability or without.
    let spent = redeemed.get(&0).unwrap_or(&0) + redeemed.get(&1).unwrap_or(&0) + allowed;
    assert!(spent <= 1, "one approval was spent {spent} times");
    assert!(redeemed.values().all(|times| *times <= 1), "a capability was redeemed twice: {redeemed:?}");
    // The order of the log explains everything (I1, I2, I3, I5, I6, I10).
    let mut log = Log::default();
    log.follow(&*hand.kernel).await.unwrap();
    log.audit(false).unwrap();
    // What was acknowledged is in the log (I8), and the rows say the same.
    let records = |kind: &str| log.records.iter().filter(|record| record["kind"] == kind).count();
    assert_eq!(records("redeem"), redeemed.values().sum::<usize>());
    let repo = Repository::new(Arc::clone(&hand.kernel), acme());
    for (number, minted) in hand.names.capabilities.iter().enumerate() {
        let row = repo.capability(minted.as_ref().unwrap().id).await.unwrap().unwrap().value;
        let used =
            matches!(row.state(hand.engine.now().unwrap()), CapabilityState::Redeemed | CapabilityState::Completed(_));
        assert_eq!(used, redeemed.contains_key(&number), "{row:?}");
    }
    let question = repo.approval(hand.names.questions[0].unwrap().id).await.unwrap().unwrap().value;
    assert_eq!(question.state(hand.engine.now().unwrap()).word() == "redeemed", spent == 1, "{question:?}");
    tally
}

fn rounds<B: Backend>(number: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let mut tally = Tally::new();
    for at in 0..number {
        for (what, times) in runtime.block_on(round::<B>(at)) {
            *tally.entry(what).or_default() += times;
        }
    }
    // A race in which nobody ever wins, or nobody ever loses, is none.
    for what in [
        "Redeem ok",
        "Redeem Capability already redeemed",
        "Decide ok",
        "Revoke ok",
        "EndSession ok",
        "PublishBundle ok",
    ] {
        assert!(tally.contains_key(what), "never: {what}: {tally:#?}");
    }
}

#[test]
fn calls_at_once_come_out_as_if_one_after_the_other_in_memory() {
    rounds::<InMemory>(160);
}

#[test]
fn calls_at_once_come_out_as_if_one_after_the_other_on_disk() {
    rounds::<OnDisk>(32);
}
