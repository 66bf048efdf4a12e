//! What an approval is good for: exactly the action that was shown, in its session, once.

use countersign::client::operation;
use countersign::proto::*;
use futures::future::join_all;
use serde_json::{Value, json};
use tonic::Code;

use super::shared::{Ledger, approved, capabilities, denied, failed, not_found};
use crate::harness::flow::{
    self, AUDIENCE, ask, decide, export, mint, must_mint, open, question, redeem, refused, vote,
};
use crate::harness::production::{self, Tenant};
use crate::harness::{Bundle, Server, fresh_id, records_of};

/// The example bundle, with an environment that an export may name.
fn with_environment() -> Bundle {
    let bundle = Bundle::example();
    bundle.replace(
        "schema.cedarschema",
        "      destination: String,\n    },\n",
        "      destination: String,\n    },\n    environment: {\n      region?: String,\n    },\n",
    );
    bundle
}

fn export_of(dataset: &str, rows: i64, destination: &str, environment: Value) -> Operation {
    operation("export", ("Dataset", dataset), json!({"rows": rows, "destination": destination}), environment).unwrap()
}

#[tokio::test]
async fn an_approval_is_for_nothing_that_differs_by_one_byte() {
    let server = Server::with_bundle(with_environment()).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let eu = json!({"region": "eu"});
    let shown = export_of("customers", 500, "s3://ours-reports", eu.clone());
    let approval = approved(&server, &agent, &session, &shown).await;
    let mut ledger = Ledger::of(&server).await;
    let others = [
        export_of("customers", 501, "s3://ours-reports", eu.clone()),
        export_of("customers", 5_000, "s3://ours-reports", eu.clone()),
        export_of("customers", 500, "s3://ours-report", eu.clone()),
        export_of("customers", 500, "s3://ours-reports ", eu.clone()),
        export_of("customers", 500, "s3://ours-repοrts", eu.clone()),
        export_of("telemetry", 500, "s3://ours-reports", eu.clone()),
        export_of("customers", 500, "s3://ours-reports", json!({"region": "us"})),
        export_of("customers", 500, "s3://ours-reports", json!({})),
    ];
    for other in &others {
        let result = mint(&agent, &session, other, &approval.approval_id).await;
        assert_eq!(refused(result), denied("APPROVAL_MISMATCH"), "{other:?}");
    }
    let elsewhere = DecideRequest {
        audience: "vault".to_owned(),
        approval_id: approval.approval_id.clone(),
        mint: true,
        ..question(&session, &shown)
    };
    assert_eq!(refused(agent.decide(elsewhere).await), denied("APPROVAL_MISMATCH"));
    let attempts = u64::try_from(others.len()).unwrap() + 1;
    ledger.expect(&[("refusal", attempts)]).await;
    assert_eq!(capabilities(&agent, &session).await, []);

    must_mint(&agent, &session, &shown, &approval.approval_id).await;
    ledger.expect(&[("minted", 1)]).await;
}

#[tokio::test]
async fn an_approval_is_for_no_other_session_and_no_other_agent() {
    let bundle = Bundle::example();
    bundle.change(|files| {
        let entities = files.get_mut("entities.json").unwrap();
        let mut all: Vec<Value> = serde_json::from_str(entities).unwrap();
        let bot = all.iter_mut().find(|entity| entity["uid"]["id"] == "deploy-bot").unwrap();
        bot["parents"].as_array_mut().unwrap().push(json!({"type": "Group", "id": "data-readers"}));
        *entities = serde_json::to_string(&all).unwrap();
    });
    let server = Server::with_bundle(bundle).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let approval = approved(&server, &agent, &session, &export(5)).await;
    let id = &approval.approval_id;
    let second = open(&agent).await;
    let stranger = server.client("agent:deploy-bot", Some("olivia"), &[]).await;
    let theirs = open(&stranger).await;
    let mut ledger = Ledger::of(&server).await;
    assert_eq!(refused(mint(&agent, &second, &export(5), id).await), denied("APPROVAL_MISMATCH"));
    assert_eq!(refused(mint(&stranger, &theirs, &export(5), id).await), denied("APPROVAL_MISMATCH"));
    assert_eq!(refused(mint(&stranger, &session, &export(5), id).await), denied("SESSION_MISMATCH"));
    let unknown = format!("apr_{}", fresh_id());
    assert_eq!(refused(mint(&agent, &session, &export(5), &unknown).await), not_found("APPROVAL_NOT_FOUND"));
    ledger.expect(&[("refusal", 4)]).await;
    // Asking for oneself leads to a request of one's own.
    let own = ask(&stranger, &theirs, &export(5)).await.unwrap();
    assert_ne!((&own.approval_id, &own.digest), (id, &approval.digest));
    must_mint(&agent, &session, &export(5), id).await;
}

#[tokio::test]
async fn an_approval_a_session_and_a_capability_are_unknown_in_another_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (Tenant::new("acme"), Tenant::new("umbra"));
    let server = Server::start(production::options(dir.path(), &[&here, &there], "")).await;
    let agent = server.client_of(&here.issuer.acting("agent:etl-bot", "olivia")).await;
    let twin = server.client_of(&there.issuer.acting("agent:etl-bot", "olivia")).await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    for person in ["dana", "dave"] {
        let theirs = server.client_of(&there.issuer.token(person)).await;
        assert_eq!(refused(vote(&theirs, &asked.approval_id, VoteVerdict::Approve).await).0, Code::NotFound);
        let ours = server.client_of(&here.issuer.token(person)).await;
        vote(&ours, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    }
    let minted = must_mint(&agent, &session, &export(5), &asked.approval_id).await;

    let own = open(&twin).await;
    let before = twin_log(&server, &there).await;
    assert_eq!(refused(mint(&twin, &own, &export(5), &asked.approval_id).await), not_found("APPROVAL_NOT_FOUND"));
    assert_eq!(refused(mint(&twin, &session, &export(5), "").await), not_found("SESSION_NOT_FOUND"));
    let gateway = server.client_of(&there.issuer.token("service:warehouse-gateway")).await;
    assert_eq!(refused(redeem(&gateway, &minted.token, &export(5)).await), denied("CAPABILITY_INVALID"));
    assert_eq!(refused(flow::revoke(&twin, &minted.capability_id).await).0, Code::NotFound);
    assert_eq!(refused(flow::end(&twin, &session).await).0, Code::NotFound);
    assert_eq!(twin_log(&server, &there).await, before + 5, "each attempt in the log of whoever tried");

    let gateway = server.client_of(&here.issuer.token("service:warehouse-gateway")).await;
    redeem(&gateway, &minted.token, &export(5)).await.unwrap();
}

/// How many records of what was tried the tenant's log has.
async fn twin_log(server: &Server, tenant: &Tenant) -> usize {
    records_of(&server.client_of(&tenant.issuer.token("aaron")).await).await.len()
}

#[tokio::test]
async fn a_spent_approval_is_worth_nothing() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let redeemer = server.warehouse().await;
    let session = open(&agent).await;
    let approval = approved(&server, &agent, &session, &export(5)).await;
    let id = &approval.approval_id;
    let first = must_mint(&agent, &session, &export(5), id).await;
    let second = must_mint(&agent, &session, &export(5), id).await;
    assert_ne!(first.capability_id, second.capability_id);
    redeem(&redeemer, &first.token, &export(5)).await.unwrap();
    let mut ledger = Ledger::of(&server).await;
    assert_eq!(refused(redeem(&redeemer, &second.token, &export(5)).await), failed("ALREADY_REDEEMED"));
    assert_eq!(refused(mint(&agent, &session, &export(5), id).await), failed("APPROVAL_STATE"));
    let unminted = DecideRequest { approval_id: id.clone(), ..question(&session, &export(5)) };
    assert_eq!(refused(agent.decide(unminted).await), failed("APPROVAL_STATE"));
    let late = vote(&server.person("dana").await, id, VoteVerdict::Deny).await;
    assert_eq!(refused(late), failed("APPROVAL_STATE"), "what was redeemed cannot be denied");
    let plain = decide(&agent, &session, &export(5)).await.unwrap();
    assert_eq!(plain.verdict(), Verdict::NeedsApproval);
    ledger.expect(&[("refusal", 4), ("NEEDS_APPROVAL", 1)]).await;
}

#[tokio::test]
async fn an_allow_without_a_capability_spends_the_approval_once() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let approval = approved(&server, &agent, &session, &export(5)).await;
    let minted = must_mint(&agent, &session, &export(5), &approval.approval_id).await;
    let mut ledger = Ledger::of(&server).await;
    let unminted = || DecideRequest {
        approval_id: approval.approval_id.clone(),
        request_id: fresh_id(),
        ..question(&session, &export(5))
    };
    let answers = join_all((0..20).map(|_| agent.decide(unminted()))).await;
    let (allowed, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(allowed.len(), 1);
    let allowed = allowed.into_iter().next().unwrap().unwrap();
    assert_eq!((allowed.verdict(), allowed.replayed, allowed.capability), (Verdict::Allow, false, None));
    for other in others {
        assert_eq!(refused(other), failed("APPROVAL_STATE"));
    }
    let late = redeem(&server.warehouse().await, &minted.token, &export(5)).await;
    assert_eq!(refused(late), failed("ALREADY_REDEEMED"));
    ledger.expect(&[("ALLOW", 1), ("refusal", 20)]).await;
}

#[tokio::test]
async fn an_identical_pending_question_is_one_request_and_the_first_justification_stands() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let mut ledger = Ledger::of(&server).await;
    let request = |why: &str| RequestApprovalRequest {
        session_id: session.clone(),
        operation: Some(export(5)),
        audience: AUDIENCE.to_owned(),
        justification: why.to_owned(),
        request_id: fresh_id(),
        ..RequestApprovalRequest::default()
    };
    let answers = join_all((0..20).map(|n| agent.request_approval(request(&format!("reason {n}"))))).await;
    let answers: Vec<RequestApprovalResponse> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.shared).count(), 1);
    let first = answers.iter().find(|answer| !answer.shared).unwrap().approval.clone().unwrap();
    for answer in &answers {
        let approval = answer.approval.as_ref().unwrap();
        assert_eq!((&approval.approval_id, &approval.view_digest), (&first.approval_id, &first.view_digest));
        assert_eq!(approval.justification, first.justification);
    }
    ledger.expect(&[("approval_requested", 20)]).await;
    vote(&server.person("dana").await, &first.approval_id, VoteVerdict::Approve).await.unwrap();
    let again = agent.request_approval(request("again")).await.unwrap();
    assert!(again.shared && again.approval.unwrap().votes.len() == 1, "asking again takes no vote away");
    let other = RequestApprovalRequest { operation: Some(export(6)), ..request("another action") };
    assert!(!agent.request_approval(other).await.unwrap().shared);
}

#[tokio::test]
async fn another_callers_request_id_has_its_own_answer() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let other = server.client("agent:deploy-bot", Some("olivia"), &[]).await;
    let (session, theirs) = (open(&agent).await, open(&other).await);
    let mut ledger = Ledger::of(&server).await;
    let id = fresh_id();
    let ask =
        |session: &str| DecideRequest { mint: true, request_id: id.clone(), ..question(session, &flow::describe()) };
    let first = agent.decide(ask(&session)).await.unwrap();
    let second = other.decide(ask(&theirs)).await.unwrap();
    assert!(!first.replayed && !second.replayed);
    let token = |answer: &DecideResponse| answer.capability.clone().unwrap();
    assert_ne!(token(&first).token, token(&second).token);
    // Even with the identical body: what it says is the other's, and so refused.
    assert_eq!(refused(other.decide(ask(&session)).await), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    let third = server.client("agent:ops-bot", Some("alice"), &[]).await;
    assert_eq!(refused(third.decide(ask(&session)).await), denied("SESSION_MISMATCH"));
    assert!(agent.decide(ask(&session)).await.unwrap().replayed);
    ledger.expect(&[("minted", 2), ("refusal", 2)]).await;
}
