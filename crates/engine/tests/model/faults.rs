//! A store that failed: nothing was acknowledged, nothing is answered, and a restart goes on from what is proved.

use countersign_engine::Error;
use countersign_store::fail::Fault;

use crate::audit::Log;
use crate::backend::{Backend, InMemory, OnDisk};
use crate::hand::Hand;
use crate::request::{Altered, Caller, Request, Shown};
use crate::service::{open, source};
use crate::world::{Deed, Party, Variant};

const ALICE: Caller = Caller::Is(Party::Alice);

fn redeem() -> Request {
    Request::Redeem { capability: 0, altered: Altered::Nothing }
}

/// A sync fails while a capability is redeemed.
async fn after_a_failed_sync_nothing_is_acknowledged<B: Backend>(fault: Fault) {
    let mut backend = B::create();
    let mut hand = Hand::on(backend.kernel()).await;
    hand.ask(Deed::Write).await;
    let yes = Request::Vote { question: 0, approve: true, shown: Shown::Right };
    hand.accepted(Caller::Is(Party::Erin), yes).await;
    hand.mint(Deed::Write).await;
    let before = hand.log_size().await;

    backend.fail().arm(fault);
    let told = hand.send(Caller::Is(Party::Keeper), redeem()).await;
    assert!(matches!(told, Err(Error::OutcomeUnknown(_))), "{told:?}");
    for request in [
        redeem(),
        yes,
        Request::Withdraw { question: 0 },
        Request::Revoke { capability: 0 },
        Request::End { session: 0 },
        Request::Publish { variant: Variant::Tight },
        Request::View { question: 0 },
        Request::Look { capability: 0 },
    ] {
        for caller in [Caller::Is(Party::Erin), ALICE, Caller::Is(Party::Keeper)] {
            let told = hand.send(caller, request).await;
            assert!(matches!(told, Err(Error::Store(_))), "{request:?} by {caller:?} was answered {told:?}");
        }
    }

    let (names, clock) = (hand.names.clone(), hand.clock.clone());
    drop(hand);
    backend.reopen();
    let mut log = Log::default();
    log.follow(&*backend.kernel()).await.unwrap();
    log.audit(true).unwrap();
    let kept = fault == Fault::SyncFailsButKept;
    assert_eq!(log.records.len(), usize::try_from(before).unwrap() + usize::from(kept));

    let engine = open(backend.kernel(), &clock).await.unwrap();
    let again = crate::request::Sent {
        caller: Caller::Is(Party::Keeper),
        id: Some(1_000),
        other_body: false,
        request: redeem(),
    };
    match crate::service::send(&engine, &names, &again).await {
        Ok((_, replayed)) => assert!(!kept && !replayed, "it was redeemed twice"),
        Err(error) => assert!(kept, "it was not redeemed, and is refused: {error}"),
    }
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_and_stops_the_service_in_memory() {
    for fault in [Fault::SyncFails, Fault::SyncFailsButKept] {
        after_a_failed_sync_nothing_is_acknowledged::<InMemory>(fault).await;
    }
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_and_stops_the_service_on_disk() {
    for fault in [Fault::SyncFails, Fault::SyncFailsButKept] {
        after_a_failed_sync_nothing_is_acknowledged::<OnDisk>(fault).await;
    }
}

/// Publishing a bundle for the first time takes two commits: its files, and that it is active.
async fn an_interrupted_publish_is_whole_or_not_at_all<B: Backend>() {
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::SyncFails, Fault::SyncFailsButKept] {
        for nth in 1..=2 {
            let mut backend = B::create();
            let mut hand = Hand::on(backend.kernel()).await;
            let sent = hand.sent(ALICE, Request::Publish { variant: Variant::Tight });
            backend.fail().arm_nth(nth, fault);
            let told = crate::service::send(&hand.engine, &hand.names, &sent).await;
            assert!(matches!(told, Err(Error::OutcomeUnknown(_))), "{fault:?} at {nth}: {told:?}");

            let (names, clock) = (hand.names.clone(), hand.clock.clone());
            drop(hand);
            backend.reopen();
            let engine = open(backend.kernel(), &clock).await.unwrap();
            let active = engine.bundle_info().unwrap().digest;
            let kept = nth == 2 && matches!(fault, Fault::CrashAfter | Fault::SyncFailsButKept);
            let expected = if kept { Variant::Tight } else { Variant::Base };
            assert_eq!(active, source(expected).digest(), "{fault:?} at {nth}");
            // The same request settles it, whatever the first attempt left.
            let (_, replayed) = crate::service::send(&engine, &names, &sent).await.unwrap();
            assert_eq!(replayed, kept, "{fault:?} at {nth}");
            assert_eq!(engine.bundle_info().unwrap().digest, source(Variant::Tight).digest());
        }
    }
}

#[tokio::test]
async fn an_interrupted_publish_is_settled_by_its_retry_in_memory() {
    an_interrupted_publish_is_whole_or_not_at_all::<InMemory>().await;
}

#[tokio::test]
async fn an_interrupted_publish_is_settled_by_its_retry_on_disk() {
    an_interrupted_publish_is_whole_or_not_at_all::<OnDisk>().await;
}
