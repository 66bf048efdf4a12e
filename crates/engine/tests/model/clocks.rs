//! A clock that is wrong stops the service, and leaves nothing behind that a right one could not go on from (I13).

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::time::ManualClock;
use countersign_engine::{Engine, Error};
use countersign_store::MemoryKernel;

use crate::hand::Hand;
use crate::request::{Altered, Caller, Request};
use crate::service::{START, open};
use crate::world::{Deed, Party};

const HOUR: i64 = 3_600_000;

fn redeem() -> Request {
    Request::Redeem { capability: 0, altered: Altered::Nothing }
}

async fn reopen(kernel: &MemoryKernel, wall: i64) -> Result<Arc<Engine<MemoryKernel>>, Error> {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(wall)));
    open(Arc::new(kernel.restart()), &clock).await
}

#[tokio::test]
async fn a_clock_set_back_revives_no_expired_capability() {
    let mut hand = Hand::new().await;
    hand.mint(Deed::Read).await;
    // Past the deadline of the capability, and somebody was told so.
    hand.clock.advance(Duration::from_secs(301));
    assert_eq!(hand.refused(Caller::Is(Party::Keeper), redeem()).await, "Token expired");
    hand.clock.jump_to(Timestamp::from_millis(START + 301_000 - HOUR));
    assert_eq!(hand.refused(Caller::Is(Party::Keeper), redeem()).await, "ClockJumped");

    // A restart does not make a clock right: what is in the log is later than what it shows.
    for wall in [START + 301_000 - HOUR, START, START + 298_000] {
        let started = reopen(&hand.kernel, wall).await;
        assert!(matches!(started, Err(Error::ClockJumped(_))), "it started at {wall}");
    }
    // Behind by less than what clocks are allowed: the time of the log goes on, and the capability stays dead.
    hand.engine = reopen(&hand.kernel, START + 300_500).await.unwrap();
    assert_eq!(hand.refused(Caller::Is(Party::Keeper), redeem()).await, "Token expired");
}

#[tokio::test]
async fn a_clock_that_jumped_ahead_and_back_poisons_nothing() {
    let mut hand = Hand::new().await;
    hand.mint(Deed::Read).await;
    let size = hand.log_size().await;
    hand.clock.jump_to(Timestamp::from_millis(START + 24 * HOUR));
    for request in [redeem(), Request::Revoke { capability: 0 }, Request::End { session: 0 }] {
        assert_eq!(hand.refused(Caller::Is(Party::Bot), request).await, "ClockJumped");
    }
    hand.clock.jump_to(Timestamp::from_millis(START));
    assert_eq!(
        hand.refused(Caller::Is(Party::Keeper), redeem()).await,
        "ClockJumped",
        "believed again without a restart"
    );
    assert_eq!(hand.log_size().await, size, "something was written by a clock that jumped");

    // Nothing from tomorrow is in the store: the service starts, and what was minted today is redeemed today.
    hand.engine = reopen(&hand.kernel, START + 1_000).await.unwrap();
    hand.accepted(Caller::Is(Party::Keeper), redeem()).await;
}

#[tokio::test]
async fn a_wait_is_no_jump() {
    let mut hand = Hand::new().await;
    hand.clock.advance(Duration::from_secs(7 * 24 * 3_600));
    hand.open_session().await;
    hand.mint_in(1, Deed::Read).await;
}
