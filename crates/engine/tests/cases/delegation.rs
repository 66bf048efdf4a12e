//! Delegation: what is given up, what is handed out for it, and that there is never more than one authority.

use std::time::Duration;

use countersign_core::capability::{CapabilityError, CapabilityState};
use countersign_core::session::SessionError;
use countersign_engine::{Delegate, KeyChange, Replayable};
use countersign_token::{KeyRing, KeyState, Limits as TokenLimits, TokenError};

use crate::children::{named, world};
use crate::*;

pub(crate) fn delegate(decision: &Decision, session: SessionId, name: &str) -> Delegate {
    Delegate {
        token: decision.token.as_ref().unwrap().expose().to_owned(),
        operation: operation(name, "docs"),
        audience: "gate".to_owned(),
        session,
        approval: None,
        ttl: None,
        holder_proof: String::new(),
        holder: None,
    }
}

impl<K: Kernel> World<K> {
    pub(crate) async fn hand_on(&self, who: &str, delegate: &Delegate) -> Result<Decision, Error> {
        self.engine.delegate(&call(who, "Delegate"), delegate).await.map(|decision| decision.answer)
    }

    async fn capability_state(&self, decision: &Decision) -> CapabilityState {
        self.engine.peek(minted(decision)).await.unwrap().value.state(self.engine.now().unwrap())
    }

    async fn revoke(&self, who: &str, decision: &Decision) -> Result<(), Error> {
        self.engine.revoke(&call(who, "Revoke"), minted(decision), "stop").await.map(drop)
    }

    async fn redeem_as(&self, decision: &Decision, name: &str) -> Result<(), Error> {
        let redeem = Redeem { operation: operation(name, "docs"), ..self.redeem(decision) };
        self.engine.redeem(&call("service:gate", "Redeem"), &redeem).await.map(drop)
    }
}

#[tokio::test]
async fn a_capability_is_exchanged_for_one_of_the_sub_agents_and_is_worth_nothing_itself() {
    let world = world().await;
    let child = world.child().await;
    let given = world.decide("query", "docs", None).await.unwrap();
    let ttl = Some(Duration::from_secs(60));
    let handed = world.hand_on("agent:bot", &Delegate { ttl, ..delegate(&given, child, "query") }).await.unwrap();
    assert_eq!(world.capability_state(&given).await, CapabilityState::Delegated);
    let row = world.engine.peek(minted(&handed)).await.unwrap().value;
    assert_eq!((row.grant.parent, row.grant.session), (Some(minted(&given)), child));
    assert_eq!((row.grant.principal.id(), row.grant.chain[0].id()), ("sub", "bot"));
    assert_eq!(row.grant.expires_at, START.plus(Duration::from_secs(60)));
    assert_ne!(handed.digest, given.digest);

    let spent = world.redeem_it(&given).await;
    assert!(matches!(spent, Err(Error::Capability(CapabilityError::Delegated))), "{spent:?}");
    let again = world.hand_on("agent:bot", &delegate(&given, child, "query")).await;
    assert!(matches!(again, Err(Error::Capability(CapabilityError::Delegated))), "{again:?}");
    world.redeem_it(&handed).await.unwrap();
    assert!(matches!(world.redeem_it(&handed).await, Err(Error::Capability(CapabilityError::AlreadyRedeemed))));

    let records = world.all_records().await;
    let at = records.iter().position(|record| record["kind"] == "delegated").unwrap();
    let (delegated, decided) = (&records[at], &records[at + 1]);
    assert_eq!((&delegated["capability"], &delegated["to"]), (&json!(minted(&given)), &json!(minted(&handed))));
    assert_eq!((&delegated["to_session"], &delegated["to_principal"]["id"]), (&json!(child), &json!("sub")));
    assert_eq!((&decided["minted"]["parent"], &decided["decision"]), (&json!(minted(&given)), &json!(handed.id)));
    assert_eq!(handed.log_index, u64::try_from(at + 1).ok());
}

#[tokio::test]
async fn only_who_acts_by_it_hands_on_exactly_what_it_is_for_and_only_below_its_session() {
    let world = world().await;
    let child = world.child().await;
    let given = world.decide("query", "docs", None).await.unwrap();
    let right = delegate(&given, child, "query");
    let stranger = world.hand_on("agent:other", &right).await;
    assert!(matches!(stranger, Err(Error::SessionMismatch("principal"))), "{stranger:?}");
    let sub = world.hand_on("agent:sub", &right).await;
    assert!(matches!(sub, Err(Error::SessionMismatch("principal"))), "{sub:?}");
    let wider = world.hand_on("agent:bot", &delegate(&given, child, "export")).await;
    assert!(matches!(wider, Err(Error::Token(TokenError::DigestMismatch))), "{wider:?}");
    for session in [
        world.session,
        world.open_child(&call("agent:sub", "OpenSession"), child, named("leaf"), None).await.unwrap().value.id,
    ] {
        let elsewhere = world.hand_on("agent:bot", &Delegate { session, ..right.clone() }).await;
        assert!(matches!(elsewhere, Err(Error::NotDelegable(_))), "{elsewhere:?}");
    }
    assert_eq!(world.capability_state(&given).await, CapabilityState::Minted);
    // It is still worth what it was.
    world.redeem_it(&given).await.unwrap();
    let spent = world.hand_on("agent:bot", &right).await;
    assert!(matches!(spent, Err(Error::Capability(CapabilityError::AlreadyRedeemed))), "{spent:?}");
}

#[tokio::test]
async fn an_approval_of_the_one_action_is_none_of_the_other_and_is_spent_with_it() {
    let world = world().await;
    let child = world.child().await;
    let own = world.ask().await;
    world.vote("dana", own).await.unwrap();
    let given = world.decide("export", "docs", Some(own)).await.unwrap();
    let right = delegate(&given, child, "export");
    let asks = world.hand_on("agent:bot", &right).await.unwrap();
    assert!(matches!(asks.verdict, Verdict::NeedsApproval { .. }), "{asks:?}");
    let wrong = world.hand_on("agent:bot", &Delegate { approval: Some(own), ..right.clone() }).await;
    assert!(matches!(wrong, Err(Error::ApprovalMismatch)), "{wrong:?}");
    assert_eq!(world.capability_state(&given).await, CapabilityState::Minted);

    let approval = world.ask_in("agent:sub", child).await.unwrap();
    world.vote("dave", approval).await.unwrap();
    let handed = world.hand_on("agent:bot", &Delegate { approval: Some(approval), ..right }).await.unwrap();
    assert!(matches!(handed.verdict, Verdict::Allow { .. }), "{handed:?}");
    // One approval, one authority: there is no second to be had for the first.
    let second = world.decide("export", "docs", Some(own)).await;
    assert!(matches!(second, Err(Error::Approval(_))), "{second:?}");
    world.redeem_as(&handed, "export").await.unwrap();
}

#[tokio::test]
async fn what_is_handed_on_is_decided_afresh_and_never_more_than_what_is_left() {
    let mut files = files();
    let no = "@id(\"no-sub\") forbid (principal == Agent::\"sub\", action == Action::\"query\", resource);";
    files.get_mut("policies/work.cedar").unwrap().push_str(no);
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    let all = [person("sue", &[]), agent("sub", "sue"), agent("leaf", "sue")];
    world.change("service:sync", &all).await.unwrap();
    let given = world.decide("query", "docs", None).await.unwrap();
    let child = world.child().await;
    let denied = world.hand_on("agent:bot", &delegate(&given, child, "query")).await.unwrap();
    assert!(matches!(denied.verdict, Verdict::Deny { .. }), "{denied:?}");
    assert_eq!(world.capability_state(&given).await, CapabilityState::Minted);
    // What bot may not do itself any more it does not hand on either, though leaf might.
    let leaf = world.open_child(&call("agent:bot", "OpenSession"), world.session, named("leaf"), None).await.unwrap();
    world.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
    let less = world.hand_on("agent:bot", &delegate(&given, leaf.value.id, "query")).await;
    assert!(matches!(less, Err(Error::PolicyDenied(_))), "{less:?}");
}

#[tokio::test]
async fn revoking_what_was_given_up_takes_along_all_that_came_of_it() {
    let world = world().await;
    let child = world.child().await;
    let leaf = world.open_child(&call("agent:sub", "OpenSession"), child, named("leaf"), None).await.unwrap().value.id;
    let given = world.decide("query", "docs", None).await.unwrap();
    let handed = world.hand_on("agent:bot", &delegate(&given, child, "query")).await.unwrap();
    let last = world.hand_on("agent:sub", &delegate(&handed, leaf, "query")).await.unwrap();
    world.revoke("agent:bot", &given).await.unwrap();
    assert_eq!(world.capability_state(&given).await, CapabilityState::Revoked);
    let dead = world.redeem_it(&last).await;
    assert!(matches!(dead, Err(Error::Capability(CapabilityError::ParentGone))), "{dead:?}");
    // And nothing more comes of it.
    let given = world.decide("query", "docs", None).await.unwrap();
    let handed = world.hand_on("agent:bot", &delegate(&given, child, "query")).await.unwrap();
    world.revoke("agent:bot", &given).await.unwrap();
    let more = world.hand_on("agent:sub", &delegate(&handed, leaf, "query")).await;
    assert!(matches!(more, Err(Error::Capability(CapabilityError::ParentGone))), "{more:?}");
}

#[tokio::test]
async fn what_was_handed_on_dies_with_the_session_that_it_came_from() {
    let world = world().await;
    let child = world.child().await;
    let given = world.decide("query", "docs", None).await.unwrap();
    let handed = world.hand_on("agent:bot", &delegate(&given, child, "query")).await.unwrap();
    world.end("agent:bot", world.session).await;
    let dead = world.redeem_it(&handed).await;
    assert!(matches!(dead, Err(Error::SessionOver(SessionError::ParentOver))), "{dead:?}");
}

#[tokio::test]
async fn the_same_request_id_hands_on_once_and_gives_the_same_token() {
    let world = world().await;
    let child = world.child().await;
    let given = world.decide("query", "docs", None).await.unwrap();
    let (caller, right) = (call("agent:bot", "Delegate"), delegate(&given, child, "query"));
    let first = world.engine.delegate(&caller, &right).await.unwrap();
    let Replayable { answer, replayed } = world.engine.delegate(&caller, &right).await.unwrap();
    assert!(replayed && !first.replayed);
    assert_eq!(answer.token.unwrap().expose(), first.answer.token.unwrap().expose());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_handing_on_redeeming_and_revoking_at_once_one_authority_comes_at_most() {
    let world = Arc::new(world().await);
    let child = world.child().await;
    for _round in 0..20 {
        let given = Arc::new(world.decide("query", "docs", None).await.unwrap());
        let redeem = {
            let (world, given) = (Arc::clone(&world), Arc::clone(&given));
            tokio::spawn(async move { world.redeem_it(&given).await.is_ok() })
        };
        let hands: Vec<_> = (0..4)
            .map(|_| {
                let (world, given) = (Arc::clone(&world), Arc::clone(&given));
                tokio::spawn(async move {
                    let handed = world.hand_on("agent:bot", &delegate(&given, child, "query")).await.ok()?;
                    world.redeem_it(&handed).await.ok()
                })
            })
            .collect();
        let revoke = {
            let (world, given) = (Arc::clone(&world), Arc::clone(&given));
            tokio::spawn(async move { world.revoke("agent:bot", &given).await })
        };
        let mut redeemed = usize::from(redeem.await.unwrap());
        for hand in hands {
            redeemed += usize::from(hand.await.unwrap().is_some());
        }
        let _either = revoke.await.unwrap();
        assert!(redeemed <= 1, "{redeemed} authorities");
    }
}

#[tokio::test]
async fn what_was_exchanged_for_something_that_a_compromised_key_signed_is_worth_nothing() {
    let mut files = files();
    let admin = r#"@id("keys") permit (principal in Group::"admins", action == Action::"manageKeys", resource);"#;
    files.get_mut("admin/admin.cedar").unwrap().push_str(admin);
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    world.change("service:sync", &[person("sue", &["owners"]), agent("sub", "sue")]).await.unwrap();
    let child = world.child().await;
    let given = world.decide("query", "docs", None).await.unwrap();
    // The second is signed by another key than what it came from.
    keys::change(&world, "adam", &KeyChange::Rotate).await.unwrap();
    let handed = world.hand_on("agent:bot", &delegate(&given, child, "query")).await.unwrap();
    keys::change(&world, "adam", &keys::compromised(1)).await.unwrap();
    let refused = world.redeem_it(&handed).await;
    assert!(matches!(refused, Err(Error::Token(TokenError::CompromisedKey(KeyId(1))))), "{refused:?}");
}

#[tokio::test]
async fn a_token_names_the_chain_the_sessions_and_the_capabilities_that_it_dies_with() {
    let world = world().await;
    let child = world.child().await;
    let leaf = world.open_child(&call("agent:sub", "OpenSession"), child, named("leaf"), None).await.unwrap().value.id;
    let first = world.decide("query", "docs", None).await.unwrap();
    let second = world.hand_on("agent:bot", &delegate(&first, child, "query")).await.unwrap();
    let third = world.hand_on("agent:sub", &delegate(&second, leaf, "query")).await.unwrap();
    let ring = KeyRing::new([(KeyId(1), parts().signing[0].public(), KeyState::Active)]).unwrap();
    let read = |decision: &Decision| {
        let text = decision.token.as_ref().unwrap().expose();
        let now = world.engine.now().unwrap();
        countersign_token::verify(text, &ring, now, &TokenLimits::default()).unwrap().claims().clone()
    };
    assert_eq!((read(&first).exchanged, read(&first).sessions_above, read(&first).chain), (vec![], vec![], vec![]));
    let claims = read(&third);
    assert_eq!(claims.exchanged, [minted(&second), minted(&first)]);
    assert_eq!(claims.sessions_above, [child, world.session]);
    let chain: Vec<_> = claims.chain.iter().map(EntityRef::id).collect();
    assert_eq!(chain, ["sub", "bot"]);
    world.redeem_it(&third).await.unwrap();
}
