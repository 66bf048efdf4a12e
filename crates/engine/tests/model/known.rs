//! What random sequences do not find: crashes at one certain moment, clocks that misbehave, replies that were lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_core::time::ManualClock;
use countersign_core::{Clock, Timestamp};
use countersign_engine::{Engine, Verdict};
use countersign_store::fail::{FailPoint, Fault};
use countersign_store::{Commit, Kernel as _, MemoryKernel};
use countersign_token::{KeyId, SigningKey};
use zeroize::Zeroizing;

use crate::backend::{Backend, OnDisk, disarm};
use crate::hand::Hand;
use crate::request::{Acting, Altered, Caller, Request, Sent, Shown};
use crate::service::{START, Told, parts, send, source};
use crate::world::{Deed, Party, Variant};

const ALICE: Caller = Caller::Is(Party::Alice);
const YES: Request = Request::Vote { question: 0, approve: true, shown: Shown::Right };

#[tokio::test]
async fn a_crash_between_the_first_keys_leaves_a_store_that_opens() {
    let fail = FailPoint::default();
    let kernel = MemoryKernel::new(fail.clone());
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
    let two = || {
        let mut parts = parts();
        parts.signing.push(SigningKey::from_seed(KeyId(2), Zeroizing::new([4; 32])).unwrap());
        parts
    };
    fail.arm_nth(1, Fault::CrashBefore);
    let first = Engine::open(Arc::new(kernel.clone()), Box::new(Arc::clone(&clock)), two()).await;
    assert!(first.is_err());
    disarm(&fail);
    let second = Engine::open(Arc::new(kernel.restart()), Box::new(clock), two()).await;
    assert!(second.is_ok(), "{:?}", second.err());
}

#[tokio::test]
async fn a_retried_publish_never_brings_an_old_bundle_back() {
    let mut hand = Hand::new().await;
    let unchanged =
        Sent { caller: ALICE, id: Some(500), other_body: false, request: Request::Publish { variant: Variant::Base } };
    let (told, _) = send(&hand.engine, &hand.names, &unchanged).await.unwrap();
    assert!(matches!(told, Told::Published(false, _)));
    hand.accepted(ALICE, Request::Publish { variant: Variant::Tight }).await;
    // The reply was lost, and the client asks again what came of its publish.
    let (_, replayed) = send(&hand.engine, &hand.names, &unchanged).await.unwrap();
    assert!(replayed);
    assert_eq!(hand.engine.bundle_info().unwrap().digest, source(Variant::Tight).digest());
}

#[tokio::test]
async fn somebody_else_can_answer_when_a_voter_no_longer_counts() {
    let mut hand = Hand::new().await;
    hand.ask(Deed::Write).await;
    hand.accepted(Caller::Is(Party::Erin), YES).await;
    // Erin comes to own the bot, so that her answer counts for nothing.
    hand.accepted(ALICE, Request::Publish { variant: Variant::Owner }).await;
    let write = Hand::<MemoryKernel>::action(0, Deed::Write);
    let mint =
        |question| Request::Decide { action: write, acting: Acting::Caller, approval: Some(question), mint: true };
    let Told::Decision(decision) = hand.accepted(Caller::Is(Party::Bot), mint(0)).await else { panic!("no decision") };
    assert!(matches!(decision.verdict, Verdict::NeedsApproval { .. }));
    // Ask again, and have another editor answer: that must lead somewhere before the old request expires.
    hand.ask(Deed::Write).await;
    let newest = hand.names.questions.len() - 1;
    let yes = Request::Vote { question: newest, approve: true, shown: Shown::Right };
    hand.accepted(Caller::Is(Party::Eve), yes).await;
    let Told::Decision(decision) = hand.accepted(Caller::Is(Party::Bot), mint(newest)).await else { panic!("none") };
    assert!(matches!(decision.verdict, Verdict::Allow { .. }));
}

#[tokio::test]
async fn a_clock_that_stands_still_stops_the_service() {
    let mut hand = Hand::new().await;
    hand.mint(Deed::Read).await;
    for _ in 0..1_000 {
        hand.clock.advance(Duration::from_secs(1));
        hand.clock.jump_to(Timestamp::from_millis(START));
        let _reading = hand.engine.now();
    }
    // The monotonic clock knows that a thousand seconds have passed; the capability was good for three hundred.
    let redeem = Request::Redeem { capability: 0, altered: Altered::Nothing };
    let why = hand.refused(Caller::Is(Party::Keeper), redeem).await;
    assert!(["ClockJumped", "Token expired"].contains(&why.as_str()), "{why}");
}

#[tokio::test]
async fn a_clock_behind_any_late_record_refuses_to_start() {
    let kernel = Arc::new(MemoryKernel::new(FailPoint::default()));
    let open = |millis| {
        let clock = ManualClock::new(Timestamp::from_millis(START + millis));
        Engine::open(Arc::clone(&kernel), Box::new(clock), parts())
    };
    open(0).await.unwrap();
    // Two calls at once: the one that was decided earlier had to wait for its turn.
    for at in [START + 60_000, START + 55_000] {
        let record = serde_json::json!({ "at": at }).to_string();
        kernel.commit(Commit::new(crate::backend::acme()).record(record)).await.unwrap();
    }
    assert!(matches!(open(56_000).await, Err(countersign_engine::Error::ClockJumped(-4))));
    assert!(open(60_000).await.is_ok());
}

/// A clock that says how often it was read.
struct Counting {
    clock: Arc<ManualClock>,
    readings: Arc<AtomicU64>,
}

impl Clock for Counting {
    fn wall(&self) -> Timestamp {
        let wall = self.clock.wall();
        self.readings.fetch_add(1, Ordering::SeqCst);
        wall
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_to_be_expired_is_not_redeemed_afterwards() {
    let backend = OnDisk::create();
    let mut hand = Hand::on(backend.kernel()).await;
    hand.mint(Deed::Read).await;
    let redeem = Request::Redeem { capability: 0, altered: Altered::Nothing };
    let sent = Sent { caller: Caller::Is(Party::Keeper), id: Some(500), other_body: false, request: redeem };
    let id = hand.names.capabilities[0].as_ref().unwrap().id;
    let readings = Arc::new(AtomicU64::new(0));
    let clock = Counting { clock: Arc::clone(&hand.clock), readings: Arc::clone(&readings) };
    let engine = Arc::new(Engine::open(backend.kernel(), Box::new(clock), parts()).await.unwrap());

    // The writer is busy, and the redeem has to wait for it; time passes when the redeem knows what time it was.
    let busy = backend.fail().hold();
    let before = readings.load(Ordering::SeqCst);
    let (at_work, names) = (Arc::clone(&engine), hand.names.clone());
    let slow = tokio::spawn(async move { send(&at_work, &names, &sent).await });
    while readings.load(Ordering::SeqCst) == before {
        tokio::task::yield_now().await;
    }
    hand.clock.advance(Duration::from_secs(301));
    let told = engine.peek(id).await.unwrap().value.state(engine.now().unwrap());
    assert_eq!(told.word(), "expired");
    drop(busy);
    let (settled, now) = (slow.await.unwrap(), engine.peek(id).await.unwrap());
    assert!(settled.is_err(), "redeemed after it was told to be expired: {now:?}");
}
