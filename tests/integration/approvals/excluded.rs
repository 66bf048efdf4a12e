//! Who can never answer: whoever asks, operates, owns or enforces the action, under whatever name (I2).

use countersign::client::Client;
use countersign::proto::*;
use serde_json::json;

use super::shared::{
    Ledger, account, admin_role, approved, denied, join, neither_vote_counts, own, publish, unvoted, void,
};
use crate::harness::flow::{self, ask, export, mint, open, redeem, refused, show, vote};
use crate::harness::{Bundle, Server, fresh_id};

const EXCLUDED: &str = "VOTER_EXCLUDED";
const NOT_ELIGIBLE: &str = "VOTER_NOT_ELIGIBLE";

async fn ask_for_role(asker: &Client, session: &str) -> Approval {
    let request = RequestApprovalRequest {
        session_id: session.to_owned(),
        operation: Some(admin_role("dana")),
        audience: "iam".to_owned(),
        justification: "on call tonight".to_owned(),
        request_id: fresh_id(),
        ..RequestApprovalRequest::default()
    };
    asker.request_approval(request).await.unwrap().approval.unwrap()
}

#[tokio::test]
async fn an_admin_who_may_answer_for_others_cannot_answer_for_herself_over_any_surface() {
    let bundle = Bundle::example();
    // alice administers the platform; now she is of security as well, and has a second account.
    join(&bundle, "alice", "security");
    account(&bundle, "alice", "alice.second");
    let server = Server::with_bundle(bundle).await;
    let alice = server.person("alice").await;
    let session = open(&alice).await;
    let asked = ask_for_role(&alice, &session).await;
    let mut ledger = Ledger::of(&server).await;

    neither_vote_counts(&alice, &asked, denied(EXCLUDED)).await;
    neither_vote_counts(&server.person("alice.second").await, &asked, denied(EXCLUDED)).await;
    // Through an agent of hers, and through a person who acts for her: a credential with `act` never votes.
    for subject in ["agent:ops-bot", "sam"] {
        let acting = server.client(subject, Some("alice"), &[]).await;
        neither_vote_counts(&acting, &asked, denied(NOT_ELIGIBLE)).await;
    }
    ledger.expect(&[("refusal", 8)]).await;

    let token = server.token("alice", None, &[]);
    for verb in ["approve", "deny"] {
        let told = server.cli(&token, &["approvals", verb, &asked.approval_id, "--yes", "--json"]).await;
        assert_eq!((told.code, told.json_error()["reason"].clone()), (1, json!(EXCLUDED)), "{told:?}");
    }
    ledger.expect(&[("refusal", 2)]).await;

    // What is pending lifts nothing, whoever names it.
    let request = DecideRequest {
        audience: "iam".to_owned(),
        approval_id: asked.approval_id.clone(),
        mint: true,
        ..flow::question(&session, &admin_role("dana"))
    };
    let answer = alice.decide(request).await.unwrap();
    assert_eq!(answer.verdict(), Verdict::NeedsApproval);
    let persons = answer.needed_approval.unwrap().persons;
    assert!(persons.iter().all(|person| person.id != "alice"), "{persons:?}");
    unvoted(&alice, &asked.approval_id).await;
    ledger.expect(&[("NEEDS_APPROVAL", 1)]).await;
}

#[tokio::test]
async fn operator_owner_chain_and_the_owners_of_chain_and_enforcement_point_cannot_answer() {
    let bundle = Bundle::example();
    let parties = ["wendy", "rita", "kurt", "kim"];
    for person in parties {
        join(&bundle, person, "data-owners");
    }
    own(&bundle, "EnforcementPoint", "warehouse", "rita");
    own(&bundle, "Agent", "chat-bot", "kurt");
    let server = Server::with_bundle(bundle).await;
    // olivia operates, kim and chat-bot (of kurt) stand between, etl-bot is wendy's, the warehouse rita's.
    let agent = server.client(flow::AGENT, Some("olivia"), &["agent:chat-bot", "kim"]).await;
    let session = open(&agent).await;
    let preview = flow::decide(&agent, &session, &export(5)).await.unwrap();
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    let chain: Vec<&str> = asked.chain.iter().map(|link| link.id.as_str()).collect();
    assert_eq!(chain, ["chat-bot", "kim"]);
    let mut ledger = Ledger::of(&server).await;

    for person in parties.into_iter().chain(["olivia"]) {
        neither_vote_counts(&server.person(person).await, &asked, denied(EXCLUDED)).await;
    }
    ledger.expect(&[("refusal", 10)]).await;
    unvoted(&agent, &asked.approval_id).await;

    let dana = server.person("dana").await;
    let shown = show(&dana, &asked.approval_id).await.unwrap();
    for persons in [preview.needed_approval.unwrap().persons, shown.answerers] {
        let mut names: Vec<&str> = persons.iter().map(|person| person.id.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["dana", "dave"], "nobody else may answer");
    }
    // The control: those who are no part of it can.
    vote(&dana, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    let after = vote(&server.person("dave").await, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(after.state(), ApprovalState::Approved);
    ledger.expect(&[("vote", 2)]).await;
}

#[tokio::test]
async fn agents_services_and_whoever_acts_for_somebody_never_vote() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    let mut ledger = Ledger::of(&server).await;
    let voters = [
        agent.clone(),
        server.client("agent:deploy-bot", Some("dana"), &[]).await,
        server.client("agent:deploy-bot", None, &[]).await,
        server.client("dana", Some("dave"), &[]).await,
        server.client("service:gateway", None, &[]).await,
        server.client("service:warehouse-gateway", Some("dana"), &[]).await,
    ];
    for voter in &voters {
        neither_vote_counts(voter, &asked, denied(NOT_ELIGIBLE)).await;
        let withdraw = WithdrawVoteRequest { approval_id: asked.approval_id.clone(), ..Default::default() };
        assert_eq!(refused(voter.withdraw_vote(withdraw).await), denied(NOT_ELIGIBLE));
    }
    unvoted(&agent, &asked.approval_id).await;
    ledger.expect(&[("refusal", 18)]).await;
}

#[tokio::test]
async fn whoever_acts_for_somebody_never_publishes() {
    let server = Server::dev().await;
    server.bundle().replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"1\")");
    let before = server.audit_records().await.len();
    // An admin's own agent, and the admin while she acts for somebody else.
    for (subject, operator) in [("agent:ops-bot", "alice"), ("alice", "dana")] {
        let caller = server.client(subject, Some(operator), &[]).await;
        assert_eq!(refused(flow::reload(&caller).await), denied("ADMINISTRATION_DENIED"), "{subject} for {operator}");
    }
    let kinds = server.audit_kinds_since(before).await;
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [("refusal".to_owned(), 2)]);
}

#[tokio::test]
async fn who_owned_the_agent_when_the_question_was_put_stays_excluded() {
    let bundle = Bundle::example();
    own(&bundle, "Agent", "etl-bot", "dana");
    let server = Server::with_bundle(bundle).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();

    own(server.bundle(), "Agent", "etl-bot", "wendy");
    publish(&server).await;
    let mut ledger = Ledger::of(&server).await;
    neither_vote_counts(&server.person("dana").await, &asked, denied(EXCLUDED)).await;
    unvoted(&agent, &asked.approval_id).await;
    ledger.expect(&[("refusal", 2)]).await;
}

#[tokio::test]
async fn a_voter_who_becomes_the_owner_no_longer_counts() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let approval = approved(&server, &agent, &session, &export(5)).await;
    let minted = flow::must_mint(&agent, &session, &export(5), &approval.approval_id).await;

    own(server.bundle(), "Agent", "etl-bot", "dana");
    publish(&server).await;
    assert!(void(&agent, &approval.approval_id).await.contains("came to be excluded"));
    let mut ledger = Ledger::of(&server).await;
    let anew = mint(&agent, &session, &export(5), "").await.unwrap();
    assert_eq!(anew.verdict(), Verdict::NeedsApproval);
    let late = redeem(&server.warehouse().await, &minted.token, &export(5)).await;
    assert_eq!(refused(late), denied("CAPABILITY_REVOKED"));
    ledger.expect(&[("NEEDS_APPROVAL", 1), ("refusal", 1)]).await;
}

#[tokio::test]
async fn who_owned_the_agent_for_a_while_as_the_question_was_pending_stays_excluded() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    // wendy, then dana, then wendy again: a question that could be answered by handing the agent over and back could be
    // answered by whoever owns it.
    own(server.bundle(), "Agent", "etl-bot", "dana");
    publish(&server).await;
    own(server.bundle(), "Agent", "etl-bot", "wendy");
    publish(&server).await;
    let mut ledger = Ledger::of(&server).await;
    neither_vote_counts(&server.person("dana").await, &asked, denied(EXCLUDED)).await;
    unvoted(&agent, &asked.approval_id).await;
    ledger.expect(&[("refusal", 2)]).await;
}
