//! Where one way of asking less meets another: none of them lends the other what it has not.

use std::time::Duration;

use countersign_core::approval::{ApprovalError, ApprovalState, Verdict as Says};
use countersign_engine::{BreakGlass, Wanted};

use crate::pre_approved::offering;
use crate::*;

async fn world() -> World<MemoryKernel> {
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), offering()).await;
    world.change("service:sync", &[person("eve", &[])]).await.unwrap();
    world
}

/// Eve, with a credential that has her among the owners for so long.
fn eve(rpc: &'static str, lasts: Duration) -> Call {
    let call = call("eve", rpc);
    let claims = Claims { groups: [entity("Group::\"owners\"")].into(), owner: None };
    let expires_at = START.plus(lasts);
    let hash = Digest::of(format!("eve until {expires_at:?}").as_bytes());
    let credential = Credential { claims, expires_at, hash, ..(*call.credential).clone() };
    Call { credential: Arc::new(credential), ..call }
}

async fn approved_by_eve(world: &World<MemoryKernel>, uses: u32, lasts: Duration) -> ApprovalId {
    let approval = world.pre_approve(operation("export", "docs"), uses, 1_800).await.unwrap();
    let shown = world.engine.approval(&eve("GetApproval", lasts), approval).await.unwrap().approval.value;
    let ballot = Ballot {
        approval,
        verdict: Says::Approve,
        digest: shown.digest,
        view: shown.view,
        comment: String::new(),
        signed: None,
    };
    world.engine.vote(&eve("CastVote", lasts), &ballot).await.unwrap();
    approval
}

fn export_of(world: &World<MemoryKernel>, decision: &Decision) -> Redeem {
    Redeem { operation: operation("export", "docs"), ..world.redeem(decision) }
}

#[tokio::test]
async fn a_pre_approval_by_a_claimed_group_ends_with_the_credential_and_so_does_what_was_minted_on_it() {
    let world = world().await;
    let approval = approved_by_eve(&world, 3, Duration::from_secs(300)).await;
    let used = world.decide("export", "docs", Some(approval)).await.unwrap();
    world.engine.redeem(&call("service:gate", "Redeem"), &export_of(&world, &used)).await.unwrap();
    let kept = world.decide("export", "docs", Some(approval)).await.unwrap();
    world.clock.advance(Duration::from_secs(299));
    let last = world.decide("export", "docs", Some(approval)).await.unwrap();
    assert!(matches!(last.verdict, Verdict::Allow { .. }), "{last:?}");

    world.clock.advance(Duration::from_secs(1));
    let late = world.decide("export", "docs", Some(approval)).await.unwrap();
    assert!(matches!(late.verdict, Verdict::NeedsApproval { .. }), "{late:?}");
    for minted in [kept, last] {
        let redeemed = world.engine.redeem(&call("service:gate", "Redeem"), &export_of(&world, &minted)).await;
        assert!(redeemed.is_err(), "{redeemed:?}");
    }
    world.engine.reconsider(approval).await.unwrap();
    let over = world.engine.approval(&call("dana", "GetApproval"), approval).await.unwrap();
    assert!(matches!(over.state, ApprovalState::Void { .. }), "{:?}", over.state);
    assert_eq!(over.approval.value.pre_approval().unwrap().charged(), 1);
}

#[tokio::test]
async fn a_pre_approval_stands_for_a_principal_that_is_permitted_by_a_claimed_group() {
    let mut files = offering();
    let work = files["policies/work.cedar"]
        .replace("@id(\"work\") permit (principal,", "@id(\"work\") permit (principal in Group::\"readers\",");
    files.insert("policies/work.cedar".to_owned(), work);
    let mut world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    world.change("service:sync", &[put("Group::\"readers\"", json!({}))]).await.unwrap();
    let plain = call("agent:bot", "OpenSession");
    let claims = Claims { groups: [entity("Group::\"readers\"")].into(), owner: None };
    let expires_at = START.plus(Duration::from_secs(3_000));
    let credential = Credential { claims, expires_at, ..(*plain.credential).clone() };
    let opening = OpenSession { purpose: "x".to_owned(), ttl: None, acting: Acting::Caller, ..OpenSession::default() };
    let bot = Call { credential: Arc::new(credential), ..plain };
    world.session = world.engine.open_session(&bot, &opening).await.unwrap().answer.value.id;
    let approval = world.pre_approve(operation("export", "docs"), 2, 600).await.unwrap();
    world.engine.reconsider(approval).await.unwrap();
    world.vote("dana", approval).await.unwrap();
    world.engine.reconsider(approval).await.unwrap();
    let decision = world.decide("export", "docs", Some(approval)).await.unwrap();
    assert!(matches!(decision.verdict, Verdict::Allow { .. }), "{decision:?}");
}

#[tokio::test]
async fn a_pre_approval_is_found_among_live_requests_until_its_last_use() {
    let world = world().await;
    let approval = approved_by_eve(&world, 2, Duration::from_secs(3_600)).await;
    let found = async |who: &str| {
        let page = world.engine.live_approvals(&call(who, "ListApprovals"), None, 10, Wanted::Live).await.unwrap();
        page.items.into_iter().map(|item| item.approval.value.id).collect::<Vec<_>>()
    };
    for left in [1, 0] {
        assert_eq!((found("dana").await, found("agent:bot").await), (vec![approval], vec![approval]));
        let decision = world.decide("export", "docs", Some(approval)).await.unwrap();
        world.engine.redeem(&call("service:gate", "Redeem"), &export_of(&world, &decision)).await.unwrap();
        let view = world.engine.approval(&call("dana", "GetApproval"), approval).await.unwrap();
        assert_eq!(view.approval.value.pre_approval().unwrap().left(), left);
    }
    assert_eq!((found("dana").await, found("agent:bot").await), (vec![], vec![]));
    let more = world.decide("export", "docs", Some(approval)).await;
    assert!(matches!(more, Err(Error::Approval(ApprovalError::UsedUp(2)))), "{more:?}");
}

#[tokio::test]
async fn a_cancelled_pre_approval_leaves_what_was_minted_on_it_worthless() {
    let world = world().await;
    let approval = approved_by_eve(&world, 3, Duration::from_secs(3_600)).await;
    let minted = world.decide("export", "docs", Some(approval)).await.unwrap();
    world.engine.cancel(&call("agent:bot", "CancelApproval"), approval).await.unwrap();
    let redeemed = world.engine.redeem(&call("service:gate", "Redeem"), &export_of(&world, &minted)).await;
    assert!(redeemed.is_err(), "{redeemed:?}");
    assert!(world.decide("export", "docs", Some(approval)).await.is_err());
}

#[tokio::test]
async fn a_group_that_comes_after_the_session_breaks_no_glass() {
    let mut files = offering();
    let admin = r#"@id("glass") permit (principal in Group::"owners", action == Action::"breakGlass", resource);"#;
    files.get_mut("admin/admin.cedar").unwrap().push_str(admin);
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    world.change("service:sync", &[person("eve", &[])]).await.unwrap();
    let lasts = Duration::from_secs(3_600);
    let opening = OpenSession { purpose: "x".to_owned(), ttl: None, acting: Acting::Caller, ..OpenSession::default() };
    for (opened_by, lifted) in [(call("eve", "OpenSession"), false), (eve("OpenSession", lasts), true)] {
        let session = world.engine.open_session(&opened_by, &opening).await.unwrap().answer.value.id;
        let broken = BreakGlass {
            session,
            operation: operation("export", "docs"),
            audience: "gate".to_owned(),
            reason: "it is down".to_owned(),
            mint: true,
        };
        let broken = world.engine.break_glass(&eve("BreakGlass", lasts), &broken).await;
        // Whoever redeems has the session's groups alone, so a capability by other groups would be worth nothing.
        assert_eq!(broken.is_ok(), lifted, "{broken:?}");
        if let Ok(broken) = broken {
            let redeem = export_of(&world, &broken.answer.decision);
            world.engine.redeem(&call("service:gate", "Redeem"), &redeem).await.unwrap();
        }
    }
}
