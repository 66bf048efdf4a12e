//! What is handed over, where other things meet it: budgets and labels, holders, keys that go, and revocation.

use countersign_core::{Axis, Clock as _, Holder};
use countersign_engine::Delegate;
use countersign_token::{HolderError, HolderKey};

use crate::children::named;
use crate::delegation::delegate;
use crate::ledgers::{allowed, denied};
use crate::*;

const AIDE: (&str, &[&str]) = ("agent:aide", &[]);

/// A world that keeps labels and counters, in which the bot has a child session for the aide.
async fn world() -> (World<MemoryKernel>, SessionId) {
    let world = ledgers::world().await;
    let child = world.open_child(&call("agent:bot", "OpenSession"), world.session, named("aide"), None).await.unwrap();
    (world, child.value.id)
}

#[tokio::test]
async fn the_fifth_of_five_can_be_handed_on_and_the_budget_is_no_larger_for_it() {
    let (world, child) = world().await;
    let mut given = Vec::new();
    for _ in 0..5 {
        given.push(world.decide("export", "docs", None).await.unwrap());
    }
    let fifth = given.pop().unwrap();
    let handed = world.hand_on("agent:bot", &delegate(&fifth, child, "export")).await.unwrap();
    assert!(allowed(&handed), "{handed:?}");
    assert_eq!(world.standing().await.counters["exports"], 5);
    // Neither of them has room for a sixth.
    assert!(denied(&world.decide("export", "docs", None).await.unwrap()));
    assert!(denied(&world.does(AIDE, child, "export", "docs").await));
    let redeem = Redeem { operation: operation("export", "docs"), ..world.redeem(&handed) };
    world.engine.redeem(&call("agent:aide", "Redeem"), &redeem).await.unwrap();
    assert_eq!(world.standing().await.counters["exports"], 5);
    // What was given up has freed what it reserved: had it not, there would be six once it is charged.
    world.clock.advance(Limits::default().token_ttl);
    assert_eq!(world.standing().await.counters["exports"], 1);
}

#[tokio::test]
async fn what_a_sub_agent_read_colours_what_its_parent_may_send_and_the_other_way_round() {
    let (world, child) = world().await;
    assert!(allowed(&world.does(AIDE, child, "query", "people").await));
    assert!(denied(&world.does(("agent:bot", &[]), world.session, "send", "docs").await));
    let (world, child) = self::world().await;
    assert!(allowed(&world.does(("agent:bot", &[]), world.session, "query", "people").await));
    assert!(denied(&world.does(AIDE, child, "send", "docs").await));
}

#[tokio::test]
async fn a_capability_that_is_bound_is_handed_on_by_its_holder_alone() {
    let (world, child) = world().await;
    let key = HolderKey::generate().unwrap();
    let bound = Decide {
        session: world.session,
        operation: operation("query", "docs"),
        audience: "gate".to_owned(),
        acting: Acting::Caller,
        approval: None,
        mint: true,
        entity_revision: None,
        holder: Some(key.holder()),
        open: false,
    };
    let given = world.engine.decide(&call("agent:bot", "Decide"), &bound).await.unwrap().answer;
    let stolen = world.hand_on("agent:bot", &delegate(&given, child, "query")).await;
    assert!(matches!(stolen, Err(Error::Holder(HolderError::Missing(_)))), "{stolen:?}");
    // Bound to the sub-agent's own key, by whoever has the first.
    let other = HolderKey::generate().unwrap();
    let call = call("agent:bot", "Delegate");
    let id = &call.request.as_ref().unwrap().id;
    let proof = key.prove(given.token.as_ref().unwrap().expose(), id, world.clock.wall()).unwrap();
    let holder: Option<Holder> = Some(other.holder());
    let hand_on = Delegate { holder_proof: proof, holder, ..delegate(&given, child, "query") };
    let handed = world.engine.delegate(&call, &hand_on).await.unwrap().answer;
    assert_eq!(world.engine.peek(minted(&handed)).await.unwrap().value.grant.holder, holder);
    let bare = world.engine.redeem(&crate::call("service:gate", "Redeem"), &world.redeem(&handed)).await;
    assert!(matches!(bare, Err(Error::Holder(HolderError::Missing(_)))), "{bare:?}");
}

/// A world in which admins may revoke all and keep the keys, and the bot has a child session for sub.
async fn governed() -> (World<MemoryKernel>, SessionId) {
    let mut files = files();
    files.get_mut("admin/admin.cedar").unwrap().push_str(
        r#"
        @id("all") permit (
          principal in Group::"admins", action in [Action::"revoke", Action::"revokeAll", Action::"manageKeys"], resource
        );
        "#,
    );
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    world.change("service:sync", &[person("sue", &[]), agent("sub", "sue")]).await.unwrap();
    let child = world.child().await;
    (world, child)
}

#[tokio::test]
async fn revoking_whoever_handed_it_on_takes_along_what_was_handed_on() {
    for axis in [Axis::Principal(entity("Agent::\"bot\"")), Axis::Everything] {
        let (world, child) = governed().await;
        let given = world.decide("query", "docs", None).await.unwrap();
        let handed = world.hand_on("agent:bot", &delegate(&given, child, "query")).await.unwrap();
        world.engine.revoke_all(&call("adam", "RevokeAll"), &axis, "stop").await.unwrap();
        assert!(world.redeem_it(&handed).await.is_err(), "{axis}");
        assert!(world.decide_in("agent:sub", child, "query", None).await.is_err(), "{axis}");
    }
}

#[tokio::test]
async fn revoking_a_sub_agent_ends_its_session_and_leaves_its_parents() {
    let (world, child) = governed().await;
    let (own, parents) =
        (world.decide_in("agent:sub", child, "query", None).await.unwrap(), world.decide("query", "docs", None));
    let parents = parents.await.unwrap();
    let sub = Axis::Principal(entity("Agent::\"sub\""));
    world.engine.revoke_all(&call("adam", "RevokeAll"), &sub, "stop").await.unwrap();
    assert!(world.redeem_it(&own).await.is_err());
    let again = world.decide_in("agent:sub", child, "query", None).await;
    assert!(matches!(again, Err(Error::SessionOver(_))), "{again:?}");
    world.redeem_it(&parents).await.unwrap();
    // It is no ban.
    let fresh = world.child().await;
    world.redeem_it(&world.decide_in("agent:sub", fresh, "query", None).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn what_was_handed_on_dies_with_the_key_that_signed_it() {
    let (world, child) = governed().await;
    let given = world.decide("query", "docs", None).await.unwrap();
    let handed = world.hand_on("agent:bot", &delegate(&given, child, "query")).await.unwrap();
    keys::change(&world, "adam", &keys::compromised(1)).await.unwrap();
    assert!(world.redeem_it(&handed).await.is_err());
    let fresh = world.decide("query", "docs", None).await.unwrap();
    let handed = world.hand_on("agent:bot", &delegate(&fresh, child, "query")).await.unwrap();
    world.redeem_it(&handed).await.unwrap();
}
