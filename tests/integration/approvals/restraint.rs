//! Asking must not wear people out: a flood of questions, a deny that is asked around, and how people lift it.

use countersign::proto::*;
use countersign_core::ApprovalId;
use futures::stream::{self, StreamExt as _};
use tonic::Code;

use super::shared::{Ledger, failed, join};
use crate::harness::flow::{ask, code, export, open, reason, refused, show, vote};
use crate::harness::{Bundle, Server};

#[tokio::test]
async fn of_a_thousand_questions_of_one_agent_few_are_put_and_others_are_unharmed() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let mut ledger = Ledger::of(&server).await;
    let questions: Vec<_> = (0..1_000).map(export).collect();
    let asked: Vec<_> =
        stream::iter(&questions).map(|question| ask(&agent, &session, question)).buffer_unordered(32).collect().await;
    let put = asked.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(put, 100, "`approvals.pending_per_principal` of a development server");
    for refused in asked.iter().filter(|answer| answer.is_err()) {
        assert_eq!((code(refused), reason(refused)), (Code::ResourceExhausted, "ASKING_BUDGET_SPENT".to_owned()));
    }
    ledger.expect(&[("approval_requested", 100), ("refusal", 900)]).await;

    let other = server.client("agent:deploy-bot", Some("olivia"), &[]).await;
    let session_of_other = open(&other).await;
    let pending = ListApprovalsRequest { page_size: 200, ..ListApprovalsRequest::default() };
    let before = server.person("dana").await.list_approvals(pending.clone()).await.unwrap().approvals.len();
    assert_eq!(before, 100);
    // What the other one may not do is for policy to say, and not for this agent's flood.
    let answer = ask(&other, &session_of_other, &export(5)).await;
    assert_ne!(answer.as_ref().err().map(|_| reason(&answer)), Some("ASKING_BUDGET_SPENT".to_owned()));
    // Taken back, one makes room for one.
    let first = asked.into_iter().flatten().next().unwrap();
    let cancel = CancelApprovalRequest { approval_id: first.approval_id, ..CancelApprovalRequest::default() };
    agent.cancel_approval(cancel).await.unwrap();
    ask(&agent, &session, &export(5_000)).await.unwrap();
    let answer = ask(&agent, &session, &export(5_001)).await;
    assert_eq!(refused(answer), (Code::ResourceExhausted, "ASKING_BUDGET_SPENT".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deny_holds_for_changed_bytes_and_after_a_crash_until_more_than_the_quorum_lift_it() {
    let bundle = Bundle::example();
    join(&bundle, "kurt", "data-owners");
    let mut server = Server::with_bundle(bundle).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let denied = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    let after = vote(&server.person("kurt").await, &denied, VoteVerdict::Deny).await.unwrap();
    let down = after.cool_down.unwrap();
    assert_eq!((down.lifts_needed, down.lifted_by.len()), (3, 0));
    assert_eq!(down.owner.unwrap().id, "wendy");
    assert_eq!(after.owner.unwrap().id, "wendy");

    server.kill().await;
    server.restart().await;
    let agent = server.etl_bot().await;
    let evading = ask(&agent, &session, &export(6)).await;
    assert_eq!((code(&evading), reason(&evading)), failed("COOLING_DOWN"));
    let refusal = evading.unwrap_err();
    let text = refusal.to_string();
    assert!(text.contains("kurt") && text.contains(&format!("countersign approvals lift {denied}")), "{text}");
    // Who is part of the question lifts nothing, nor does an agent.
    let lift = || LiftCoolDownRequest { approval_id: denied.clone(), ..LiftCoolDownRequest::default() };
    for (who, expected) in [("olivia", "VOTER_NOT_ELIGIBLE"), ("agent:etl-bot", "VOTER_NOT_ELIGIBLE")] {
        let lifted = server.person(who).await.lift_cool_down(lift()).await;
        assert_eq!(refused(lifted), (Code::PermissionDenied, expected.to_owned()), "{who}");
    }
    let unknown = LiftCoolDownRequest { approval_id: ApprovalId::generate().to_string(), ..lift() };
    assert_eq!(code(&server.person("dana").await.lift_cool_down(unknown).await), Code::NotFound);

    let as_person = async |who: &str| {
        let lifted = server.cli(&server.token(who, None, &[]), &["approvals", "lift", &denied, "--json"]).await;
        assert_eq!(lifted.code, 0, "{lifted:?}");
        lifted.json()["cool_down"].clone()
    };
    assert_eq!(as_person("dana").await["lifted_by"][0]["id"], "dana");
    assert_eq!(as_person("dave").await["lifted_by"].as_array().unwrap().len(), 2);
    assert_eq!(refused(ask(&agent, &session, &export(6)).await), failed("COOLING_DOWN"));
    assert!(as_person("kurt").await.is_null());
    let asked = ask(&agent, &session, &export(6)).await.unwrap();
    // People see what was answered before, and that is part of what they vote on.
    let history = asked.history.unwrap();
    assert_eq!((history.approved, history.denied), (0, 1));
    assert_eq!(history.recent[0].persons[0].id, "kurt");
    let shown = server.cli(&server.token("dana", None, &[]), &["approvals", "show", &asked.approval_id]).await;
    assert!(shown.stdout.contains("approved 0 times, denied 1 time"), "{shown:?}");
    assert_eq!(show(&agent, &denied).await.unwrap().cool_down, None);
}
