//! Who votes and publishes: whose credential is good for it, at that moment.

use std::time::Duration;

use countersign_engine::{Consent, NotAnswering};

use crate::*;

/// The caller's credential, as good for answering as this.
fn with(call: Call, answers: Result<Timestamp, NotAnswering>) -> Call {
    let credential = Credential { answers, ..(*call.credential).clone() };
    Call { credential: Arc::new(credential), ..call }
}

const WRONG: [(Result<Timestamp, NotAnswering>, NotAnswering); 5] = [
    (Err(NotAnswering::NotTrusted), NotAnswering::NotTrusted),
    (Err(NotAnswering::Audience), NotAnswering::Audience),
    (Err(NotAnswering::Stale), NotAnswering::Stale),
    (Err(NotAnswering::Weak), NotAnswering::Weak),
    // It was fresh until this moment.
    (Ok(START), NotAnswering::Stale),
];

#[tokio::test]
async fn how_fresh_a_credential_is_counts_at_the_moment_of_the_vote() {
    let world = World::new().await;
    let approval = world.ask().await;
    let shown = world.engine.changed_approval(&call("dana", "GetApproval"), approval).await.unwrap().approval.value;
    let ballot = |verdict| Ballot {
        approval,
        verdict,
        digest: shown.digest,
        view: shown.view,
        comment: String::new(),
        signed: None,
    };
    for (answers, expected) in WRONG {
        for verdict in [Says::Approve, Says::Deny] {
            let voted = world.engine.vote(&with(call("dana", "CastVote"), answers), &ballot(verdict)).await;
            assert!(matches!(voted, Err(Error::NotAnswering(why)) if why == expected), "{voted:?}");
        }
    }
    let now = world.engine.changed_approval(&call("dana", "GetApproval"), approval).await.unwrap().approval.value;
    assert!(now.votes().is_empty());
    let still = Ok(START.plus(Duration::from_millis(1)));
    world.engine.vote(&with(call("dana", "CastVote"), still), &ballot(Says::Approve)).await.unwrap();
    // Taking it back only takes authority away.
    let back = with(call("dana", "WithdrawVote"), Err(NotAnswering::Audience));
    world.engine.withdraw(&back, approval).await.unwrap();
}

#[tokio::test]
async fn a_vote_is_recorded_with_how_it_came_as_far_as_that_was_verified() {
    let strong = Authentication {
        audience: Some("votes".to_owned()),
        at: Some(Timestamp::from_millis(7_000)),
        context: Some("gold".to_owned()),
        methods: vec!["pwd".to_owned(), "hwk".to_owned()],
    };
    let certificate = Digest::of(b"certificate");
    let plain = json!({"kind": "grpc", "rpc": "CastVote", "issuer": "iss"});
    let told = json!({
        "kind": "grpc", "rpc": "CastVote", "issuer": "iss", "audience": "votes", "authenticated_at": 7_000,
        "acr": "gold", "amr": ["pwd", "hwk"], "certificate": certificate.to_string(),
    });
    for (authentication, certificate, expected) in
        [(strong, Some(certificate), told), (Authentication::default(), None, plain)]
    {
        let world = World::new().await;
        let approval = world.ask().await;
        let shown = world.engine.changed_approval(&call("dana", "GetApproval"), approval).await.unwrap();
        let shown = shown.approval.value;
        let (digest, view, comment) = (shown.digest, shown.view, String::new());
        let ballot = Ballot { approval, verdict: Says::Approve, digest, view, comment, signed: None };
        let voting = call("dana", "CastVote");
        let credential = Arc::new(Credential { authentication, ..(*voting.credential).clone() });
        world.engine.vote(&Call { credential, certificate, ..voting }, &ballot).await.unwrap();
        let records = world.engine.log_records(0, 1_000).await.unwrap();
        let last: Json = serde_json::from_slice(&records.last().unwrap().1).unwrap();
        assert_eq!((&last["kind"], &last["channel"]), (&json!("vote"), &expected));
    }
}

#[tokio::test]
async fn a_cool_down_is_lifted_with_a_credential_to_answer_with() {
    let world = World::new().await;
    let asked = world.ask().await;
    world.say("dana", asked, Says::Deny, "no").await.unwrap();
    for (answers, expected) in WRONG {
        let lifted = world.engine.lift(&with(call("dave", "LiftCoolDown"), answers), asked).await;
        assert!(matches!(lifted, Err(Error::NotAnswering(why)) if why == expected), "{lifted:?}");
    }
    let shown = world.engine.changed_approval(&call("dave", "GetApproval"), asked).await.unwrap();
    assert!(shown.cool_down.unwrap().lifted_by().is_empty());
    world.engine.lift(&call("dave", "LiftCoolDown"), asked).await.unwrap();
}

#[tokio::test]
async fn a_bundle_takes_a_credential_for_it_and_is_not_even_read_for_another() {
    let world = World::new().await;
    let reads = std::sync::atomic::AtomicUsize::new(0);
    let read = || async {
        reads.fetch_add(1, Ordering::Relaxed);
        Ok(source(files()))
    };
    let active = world.engine.bundle_info().unwrap().digest;
    for (answers, expected) in WRONG {
        let published = with(call("adam", "ReloadBundle"), answers);
        let published = world.engine.publish(&published, read, Consent::default()).await;
        assert!(matches!(published, Err(Error::NotAnswering(why)) if why == expected), "{published:?}");
        let rolled_back = with(call("adam", "RollbackBundle"), answers);
        let rolled_back = world.engine.rollback(&rolled_back, active, Consent::default()).await;
        assert!(matches!(rolled_back, Err(Error::NotAnswering(why)) if why == expected), "{rolled_back:?}");
        // What was active may be looked at.
        world.engine.bundles(&with(call("adam", "ListBundles"), answers), None, 10).await.unwrap();
    }
    assert_eq!(reads.load(Ordering::Relaxed), 0);
    world.engine.publish(&call("adam", "ReloadBundle"), read, Consent::default()).await.unwrap();
}
