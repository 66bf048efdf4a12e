//! Sessions that somebody keeps alive.

use std::time::Duration;

use countersign_core::session::{SessionError, SessionState};
use countersign_engine::Terms;
use futures::StreamExt as _;

use crate::children::{named, world};
use crate::*;

const BEAT: Duration = Duration::from_secs(30);

impl<K: Kernel> World<K> {
    pub(crate) async fn open_beating(&self, every: Duration) -> SessionId {
        let opening = OpenSession {
            purpose: "x".to_owned(),
            ttl: None,
            acting: Acting::Caller,
            operator: None,
            ..OpenSession::default()
        };
        let terms = Terms { parent: None, heartbeat: Some(every) };
        let opened = self.engine.open_session_on(&call("agent:bot", "OpenSession"), &opening, terms).await.unwrap();
        opened.answer.value.id
    }

    pub(crate) async fn beat(&self, who: &str, session: SessionId) -> Result<(), Error> {
        let mut call = call(who, "Heartbeat");
        call.request = None;
        self.engine.heartbeat(&call, session).await.map(drop)
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

#[tokio::test]
async fn a_session_whose_heartbeat_stays_away_is_over_with_all_that_is_in_it() {
    let world = world().await;
    let session = world.open_beating(BEAT).await;
    let child = world.open_child(&call("agent:bot", "OpenSession"), session, named("sub"), None).await.unwrap();
    for _ in 0..4 {
        world.pass(20);
        world.beat("agent:bot", session).await.unwrap();
    }
    let minted = world.decide_in("agent:bot", session, "query", None).await.unwrap();
    let below = world.decide_in("agent:sub", child.value.id, "query", None).await.unwrap();
    world.pass(29);
    assert_eq!(world.state_of("agent:bot", session).await, SessionState::Open);
    world.pass(1);
    assert_eq!(world.state_of("agent:bot", session).await, SessionState::Expired);
    assert_eq!(world.state_of("agent:sub", child.value.id).await, SessionState::Expired);
    assert!(matches!(world.redeem_it(&minted).await, Err(Error::SessionOver(SessionError::Lapsed))));
    assert!(matches!(world.redeem_it(&below).await, Err(Error::SessionOver(SessionError::ParentOver))));
    // There is no way back (I5).
    let late = world.beat("agent:bot", session).await;
    assert!(matches!(late, Err(Error::SessionOver(SessionError::Lapsed))), "{late:?}");
    assert_eq!(world.state_of("agent:bot", session).await, SessionState::Expired);
}

#[tokio::test]
async fn only_its_parties_keep_a_session_alive_and_only_one_that_asks_for_it() {
    let world = world().await;
    let session = world.open_beating(BEAT).await;
    let stranger = world.beat("agent:other", session).await;
    assert!(matches!(stranger, Err(Error::SessionNotFound)), "{stranger:?}");
    let without = world.beat("agent:bot", world.session).await;
    assert!(matches!(without, Err(Error::NoHeartbeat)), "{without:?}");
    world.end("agent:bot", session).await;
    let over = world.beat("agent:bot", session).await;
    assert!(matches!(over, Err(Error::SessionOver(SessionError::Ended))), "{over:?}");
}

#[tokio::test]
async fn heartbeats_leave_no_record_and_disturb_no_action() {
    let world = world().await;
    let session = world.open_beating(BEAT).await;
    let before = world.all_records().await.len();
    let revision = world.engine.session(&call("agent:bot", "GetSession"), session).await.unwrap().revision;
    for _ in 0..10 {
        world.pass(10);
        world.beat("agent:bot", session).await.unwrap();
    }
    assert_eq!(world.all_records().await.len(), before);
    assert_eq!(world.engine.session(&call("agent:bot", "GetSession"), session).await.unwrap().revision, revision);
}

#[tokio::test]
async fn a_server_that_was_away_for_too_long_finds_the_session_over() {
    let kernel = Arc::new(MemoryKernel::default());
    let world = World::on(Arc::clone(&kernel)).await;
    let session = world.open_beating(BEAT).await;
    let World { clock, engine, .. } = world;
    drop(engine);
    clock.advance(BEAT);
    let world = World::at(kernel, clock, parts(), files()).await;
    assert_eq!(world.state_of("agent:bot", session).await, SessionState::Expired);
}

#[tokio::test]
async fn a_stream_keeps_a_session_alive_and_its_end_ends_it_at_once() {
    let world = world().await;
    let session = world.open_beating(Duration::from_secs(1)).await;
    let child = world.open_child(&call("agent:bot", "OpenSession"), session, named("sub"), None).await.unwrap();
    let minted = world.decide_in("agent:sub", child.value.id, "query", None).await.unwrap();
    let hold = |who: &str| {
        let engine = Arc::clone(&world.engine);
        Box::pin(engine.hold_session(call(who, "HoldSession"), session, std::future::pending()))
    };
    let refused = hold("agent:other").next().await;
    assert!(matches!(refused, Some(Err(Error::SessionNotFound))), "{refused:?}");
    let mut held = hold("agent:bot");
    for _ in 0..4 {
        held.next().await.unwrap().unwrap();
        world.clock.advance(Duration::from_millis(500));
    }
    assert_eq!(world.state_of("agent:bot", session).await, SessionState::Open);
    drop(held);
    // It is ended, and not merely left alone.
    while world.state_of("agent:bot", session).await == SessionState::Open {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.state_of("agent:bot", session).await, SessionState::Ended);
    assert!(matches!(world.redeem_it(&minted).await, Err(Error::SessionOver(SessionError::ParentOver))));
    assert_eq!(world.all_records().await.iter().filter(|record| record["kind"] == "session_ended").count(), 1);
}

#[tokio::test]
async fn a_stream_ends_with_its_session_and_a_server_that_lets_go_ends_none() {
    let world = world().await;
    let session = world.open_beating(BEAT).await;
    let (let_go, gone) = tokio::sync::oneshot::channel::<()>();
    let engine = Arc::clone(&world.engine);
    let gone = async move { drop(gone.await) };
    let mut held = Box::pin(engine.hold_session(call("agent:bot", "HoldSession"), session, gone));
    held.next().await.unwrap().unwrap();
    let_go.send(()).unwrap();
    assert!(held.next().await.is_none());
    drop(held);
    assert_eq!(world.state_of("agent:bot", session).await, SessionState::Open);

    let engine = Arc::clone(&world.engine);
    let mut held = Box::pin(engine.hold_session(call("agent:bot", "HoldSession"), session, std::future::pending()));
    held.next().await.unwrap().unwrap();
    world.end("agent:bot", session).await;
    let over = tokio::time::timeout(Duration::from_secs(5), held.next()).await.unwrap();
    assert!(matches!(over, Some(Err(Error::SessionOver(SessionError::Ended)))), "{over:?}");
    assert!(held.next().await.is_none());
}
