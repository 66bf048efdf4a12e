//! Signing keys change while tokens are about, and a store is restored: what is dead is dead, and nothing else is.

use std::time::Duration;

use countersign_core::session::SessionState;
use countersign_engine::{KeyChange, KeyFault, KeysChanged, Restoring, renounce};
use countersign_token::{Claims, KeyRing, KeyState, Limits as TokenLimits, TokenError};

use crate::children::named;
use crate::*;

/// The test's bundle, with somebody who keeps the keys.
async fn world() -> World<MemoryKernel> {
    let mut files = files();
    let admin = r#"@id("keys") permit (principal in Group::"admins", action == Action::"manageKeys", resource);"#;
    files.get_mut("admin/admin.cedar").unwrap().push_str(admin);
    World::with(Arc::new(MemoryKernel::default()), parts(), files).await
}

fn seed(id: KeyId) -> SigningKey {
    SigningKey::from_seed(id, Zeroizing::new([u8::try_from(id.0).unwrap() + 100; 32])).unwrap()
}

pub(crate) async fn change(world: &World<MemoryKernel>, who: &str, change: &KeyChange) -> Result<KeysChanged, Error> {
    let make = |id| async move { Ok(seed(id)) };
    world.engine.change_keys(&call(who, "Keys"), change, make).await.map(|changed| changed.answer)
}

pub(crate) fn compromised(key: u32) -> KeyChange {
    KeyChange::Compromised { key: KeyId(key), reason: "it was on a screen".to_owned() }
}

async fn redeem_it(world: &World<MemoryKernel>, decision: &Decision) -> Result<(), Error> {
    world.engine.redeem(&call("service:gate", "Redeem"), &world.redeem(decision)).await.map(drop)
}

fn states(world: &World<MemoryKernel>) -> Vec<(u32, KeyState)> {
    world.engine.public_keys().unwrap().into_iter().map(|key| (key.id.0, key.state)).collect()
}

#[tokio::test]
async fn a_new_key_mints_and_the_one_before_verifies_what_it_minted() {
    let world = world().await;
    let old = world.decide("query", "docs", None).await.unwrap();
    assert_eq!(
        change(&world, "adam", &KeyChange::Rotate).await.unwrap(),
        KeysChanged { key: 1, active: 2, discard: false }
    );
    assert_eq!(states(&world), [(1, KeyState::Retired), (2, KeyState::Active)]);
    let new = world.decide("query", "docs", None).await.unwrap();
    redeem_it(&world, &old).await.unwrap();
    redeem_it(&world, &new).await.unwrap();
    // Not before its tokens are over.
    let early = change(&world, "adam", &KeyChange::Retire(KeyId(1))).await;
    assert!(matches!(early, Err(Error::Key(KeyFault::TokensLive(..)))), "{early:?}");
    let active = change(&world, "adam", &KeyChange::Retire(KeyId(2))).await;
    assert!(matches!(active, Err(Error::Key(KeyFault::Active(_)))), "{active:?}");
    world.clock.advance(Duration::from_secs(3_700));
    assert!(change(&world, "adam", &KeyChange::Retire(KeyId(1))).await.unwrap().discard);
    assert_eq!(states(&world), [(2, KeyState::Active)]);
    let again = change(&world, "adam", &KeyChange::Retire(KeyId(1))).await;
    assert!(matches!(again, Err(Error::Key(KeyFault::Already(..)))), "{again:?}");
}

#[tokio::test]
async fn once_a_key_is_compromised_nothing_that_it_signed_is_redeemed() {
    let world = world().await;
    let (old, session) = (world.decide("query", "docs", None).await.unwrap(), world.session);
    assert_eq!(change(&world, "adam", &compromised(1)).await.unwrap().active, 2);
    let refused = redeem_it(&world, &old).await;
    assert!(matches!(refused, Err(Error::Token(TokenError::CompromisedKey(_)))), "{refused:?}");
    assert_eq!(states(&world), [(1, KeyState::Compromised), (2, KeyState::Active)]);
    let again = change(&world, "adam", &compromised(1)).await;
    assert!(matches!(again, Err(Error::Key(KeyFault::Already(..)))), "{again:?}");
    let unknown = change(&world, "adam", &compromised(9)).await;
    assert!(matches!(unknown, Err(Error::Key(KeyFault::Unknown(_)))), "{unknown:?}");
    // What is minted from now on is good, in the same session.
    let new = world.decide("query", "docs", None).await.unwrap();
    assert_eq!(world.session, session);
    redeem_it(&world, &new).await.unwrap();
    // It stays so over a restart, and the new key with it.
    let mut parts = parts();
    parts.signing.push(seed(KeyId(2)));
    let engine = Engine::open(Arc::clone(&world.kernel), Box::new(Arc::clone(&world.clock)), parts).await.unwrap();
    let states = engine.public_keys().unwrap().into_iter().map(|key| key.state);
    assert_eq!(states.collect::<Vec<_>>(), [KeyState::Compromised, KeyState::Active]);
}

#[tokio::test]
async fn a_redeem_that_races_a_compromised_key_commits_before_it_or_not_at_all() {
    for _round in 0..20 {
        let world = world().await;
        let decision = world.decide("query", "docs", None).await.unwrap();
        let key = compromised(1);
        let (redeemed, changed) = tokio::join!(redeem_it(&world, &decision), change(&world, "adam", &key));
        changed.unwrap();
        let size = world.kernel().log_size(world.engine.tenant()).await.unwrap();
        let entries = world.kernel().log_entries(world.engine.tenant(), 0, usize::MAX).await.unwrap();
        assert_eq!(u64::try_from(entries.len()).unwrap(), size);
        let at = |needle: &str| entries.iter().position(|(_, bytes)| String::from_utf8_lossy(bytes).contains(needle));
        let compromised = at(r#""state":"compromised""#).unwrap();
        match at(r#""kind":"redeem""#) {
            Some(redeem) => assert!(redeemed.is_ok() && redeem < compromised),
            None => assert!(redeemed.is_err()),
        }
    }
}

#[tokio::test]
async fn keys_are_changed_by_whom_the_policies_permit_and_by_nobody_for_them() {
    let world = world().await;
    for who in ["dana", "agent:bot", "service:sync"] {
        let refused = change(&world, who, &KeyChange::Rotate).await;
        assert!(matches!(refused, Err(Error::AdministrationDenied { .. })), "{who}: {refused:?}");
    }
    let call = call_via("adam", &["agent:bot"], "Keys");
    let make = |_id| async { panic!("a key is made for somebody who may not") };
    assert!(world.engine.change_keys(&call, &KeyChange::Rotate, make).await.is_err());
    assert_eq!(states(&world), [(1, KeyState::Active)]);
}

#[tokio::test]
async fn the_same_request_changes_keys_once() {
    let world = world().await;
    let call = call("adam", "Keys");
    let make = |id| async move { Ok(seed(id)) };
    let first = world.engine.change_keys(&call, &KeyChange::Rotate, make).await.unwrap();
    let second = world.engine.change_keys(&call, &KeyChange::Rotate, make).await.unwrap();
    assert_eq!((first.answer, first.replayed, second.replayed), (second.answer, false, true));
    assert_eq!(states(&world).len(), 2);
}

#[tokio::test]
async fn a_restored_store_ends_sessions_whose_heartbeats_stayed_away_and_those_below_them() {
    let world = children::world().await;
    let every = Duration::from_secs(30);
    let parent = world.open_beating(every).await;
    let child = world.open_child(&call("agent:bot", "OpenSession"), parent, named("sub"), None).await.unwrap().value.id;
    // Alive by its heartbeat alone, and without that over for long.
    for _ in 0..4 {
        world.clock.advance(Duration::from_secs(20));
        world.beat("agent:bot", parent).await.unwrap();
    }
    let minted = world.decide_in("agent:bot", parent, "query", None).await.unwrap();
    let below = world.decide_in("agent:sub", child, "query", None).await.unwrap();
    assert_eq!(restore(&world).await, 3);
    let world = reopened(world).await;
    for (who, session) in [("agent:bot", parent), ("agent:sub", child), ("agent:bot", world.session)] {
        let decided = world.decide_in(who, session, "query", None).await;
        assert!(matches!(decided, Err(Error::SessionOver(_))), "{session}: {decided:?}");
        assert_eq!(world.state_of(who, session).await, SessionState::Ended, "{session}");
    }
    assert!(world.beat("agent:bot", parent).await.is_err());
    for token in [&minted, &below] {
        assert!(matches!(redeem_it(&world, token).await, Err(Error::TokenDead(_))));
    }
}

/// Every key so far verifies nothing, also one that was retired before and one that mints by its row.
#[tokio::test]
async fn no_key_of_before_a_restore_verifies_anything_after_it() {
    let world = world().await;
    change(&world, "adam", &KeyChange::Rotate).await.unwrap();
    restore(&world).await;
    let world = reopened(world).await;
    let now = world.engine.now().unwrap();
    for key in world.engine.public_keys().unwrap() {
        let over = key.verifies_until.is_some_and(|until| now.reached(until));
        assert_eq!(over, key.id != KeyId(9), "{key:?}");
    }
}

async fn restore(world: &World<MemoryKernel>) -> u64 {
    let restoring = Restoring { epoch: 2, revision: 9, acknowledged: Some(11) };
    let (kernel, tenant) = (Arc::clone(&world.kernel), world.engine.tenant());
    renounce(kernel, tenant, &seed(KeyId(9)), restoring, world.engine.now().unwrap()).await.unwrap()
}

async fn reopened(world: World<MemoryKernel>) -> World<MemoryKernel> {
    let mut parts = parts();
    parts.signing.push(seed(KeyId(9)));
    let engine = Engine::open(Arc::clone(&world.kernel), Box::new(Arc::clone(&world.clock)), parts).await.unwrap();
    World { engine: Arc::new(engine), ..world }
}

#[tokio::test]
async fn what_a_restored_store_had_handed_out_is_dead() {
    let world = world().await;
    let approval = world.ask().await;
    for who in ["dana", "dave"] {
        // One of them may be enough.
        let _ = world.vote(who, approval).await;
    }
    let token = world.decide("query", "docs", None).await.unwrap();
    let restoring = Restoring { epoch: 2, revision: 9, acknowledged: Some(11) };
    let (kernel, tenant) = (Arc::clone(&world.kernel), world.engine.tenant().clone());
    let wall = world.engine.now().unwrap();
    let before = world.kernel().log_size(&tenant).await.unwrap();
    assert_eq!(renounce(kernel, &tenant, &seed(KeyId(2)), restoring, wall).await.unwrap(), 1);
    let records = world.kernel().log_entries(&tenant, before, usize::MAX).await.unwrap();
    assert!(records.iter().any(|(_, bytes)| String::from_utf8_lossy(bytes).contains(r#""kind":"restored""#)));

    let mut parts = parts();
    parts.signing.push(seed(KeyId(2)));
    let engine = Engine::open(Arc::clone(&world.kernel), Box::new(Arc::clone(&world.clock)), parts).await.unwrap();
    let world = World { engine: Arc::new(engine), ..world };
    assert_eq!(states(&world), [(1, KeyState::Retired), (2, KeyState::Active)]);
    assert!(matches!(redeem_it(&world, &token).await, Err(Error::TokenDead(_))));
    assert!(matches!(world.decide("export", "docs", Some(approval)).await, Err(Error::SessionOver(_))));
    assert!(world.vote("dana", approval).await.is_err());
    // A new session has nothing of the old one.
    let opening = OpenSession {
        purpose: "x".to_owned(),
        ttl: None,
        acting: Acting::Caller,
        operator: None,
        ..OpenSession::default()
    };
    let session = world.engine.open_session(&call("agent:bot", "OpenSession"), &opening).await.unwrap();
    let world = World { session: session.answer.value.id, ..world };
    assert!(matches!(world.decide("export", "docs", Some(approval)).await, Err(Error::ApprovalMismatch)));
    let new = world.decide("query", "docs", None).await.unwrap();
    redeem_it(&world, &new).await.unwrap();
}

/// Whoever has a key, and an older copy of the store, could sign what was never minted.
#[tokio::test]
async fn a_token_that_says_other_than_what_was_minted_under_its_id_is_refused() {
    let world = world().await;
    let decision = world.decide("query", "docs", None).await.unwrap();
    let ring = KeyRing::new([(KeyId(1), parts().signing[0].public(), KeyState::Active)]).unwrap();
    let now = world.engine.now().unwrap();
    let genuine = decision.token.as_ref().unwrap().expose();
    let claims = countersign_token::verify(genuine, &ring, now, &TokenLimits::default()).unwrap().claims().clone();
    let later = now.plus(Duration::from_secs(3_000));
    for forged in [
        Claims { expires_at: later, ..claims.clone() },
        Claims { open: true, ..claims.clone() },
        Claims { resource: entity("Dataset::\"customers\""), ..claims.clone() },
    ] {
        let token = countersign_token::mint(&parts().signing[0], &forged).unwrap();
        let redeem = Redeem { token: token.expose().to_owned(), ..world.redeem(&decision) };
        let refused = world.engine.redeem(&call("service:gate", "Redeem"), &redeem).await;
        assert!(matches!(refused, Err(Error::TokenDead(_))), "{forged:?}: {refused:?}");
    }
    // By another key of the tenant's, too.
    change(&world, "adam", &KeyChange::Rotate).await.unwrap();
    let token = countersign_token::mint(&seed(KeyId(2)), &claims).unwrap();
    let redeem = Redeem { token: token.expose().to_owned(), ..world.redeem(&decision) };
    let refused = world.engine.redeem(&call("service:gate", "Redeem"), &redeem).await;
    assert!(matches!(refused, Err(Error::TokenDead(_))), "{refused:?}");
    redeem_it(&world, &decision).await.unwrap();
}
