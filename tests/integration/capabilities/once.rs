//! At most one redeem of a capability, and of an approval, ever succeeds (I1).

use std::collections::BTreeMap;

use countersign::client::Client;
use countersign::proto::decision_service_client::DecisionServiceClient;
use countersign::proto::*;
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use tonic::Code;

use crate::approvals::shared::{Ledger, approved, capabilities, denied, failed, invalid, query};
use crate::harness::flow::{
    AUDIENCE, capability_state, describe, export, mint, must_mint, open, question, reason, redeem, refused, show,
    spending,
};
use crate::harness::{Server, fresh_id};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_redeems_at_once_spend_a_capability_once() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let approval = approved(&server, &agent, &session, &export(5)).await;
    let minted = must_mint(&agent, &session, &export(5), &approval.approval_id).await;
    // The limit of one caller is 256 under way, so four callers who may redeem here, on five connections each.
    let mut callers: Vec<Client> = Vec::new();
    for caller in ["service:warehouse-gateway", "agent:etl-bot", "agent:deploy-bot", "agent:ops-bot"] {
        for _ in 0..5 {
            callers.push(server.person(caller).await);
        }
    }
    let mut ledger = Ledger::of(&server).await;
    let operation = export(5);
    let attempts = (0..1_000).map(|n| redeem(&callers[n % callers.len()], &minted.token, &operation));
    let (spent, others): (Vec<_>, Vec<_>) = join_all(attempts).await.into_iter().partition(Result::is_ok);
    assert_eq!(spent.len(), 1);
    assert!(!spent.into_iter().next().unwrap().unwrap().replayed);
    for other in others {
        assert_eq!(refused(other), failed("ALREADY_REDEEMED"));
    }
    ledger.expect(&[("redeem", 1), ("refusal", 999)]).await;
    assert_eq!(capabilities(&agent, &session).await, [CapabilityState::Redeemed]);
    assert_eq!(show(&agent, &approval.approval_id).await.unwrap().state(), ApprovalState::Redeemed);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_redeems_of_a_thousand_capabilities_spend_each_once() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let (agent, session, operation) = (&agent, &session, &query());
    let minted = stream::iter(0..1_000).map(|_| must_mint(agent, session, operation, "")).buffer_unordered(64);
    let tokens: Vec<String> = minted.map(|minted| minted.token).collect().await;
    let mut callers: Vec<Client> = Vec::new();
    for caller in ["service:warehouse-gateway", "agent:etl-bot", "agent:deploy-bot", "agent:ops-bot"] {
        for _ in 0..8 {
            callers.push(server.person(caller).await);
        }
    }
    // Neighbours redeem the same one, by different callers, so that they meet.
    let attempts = (0..10_000_usize).map(|n| redeem(&callers[n % callers.len()], &tokens[n / 10], operation));
    let mut spent = BTreeMap::<String, u32>::new();
    let mut attempts = stream::iter(attempts).buffer_unordered(800);
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(receipt) => *spent.entry(receipt.capability_id).or_default() += u32::from(!receipt.replayed),
            refused => assert_eq!(reason(&refused), "ALREADY_REDEEMED"),
        }
    }
    assert_eq!(spent.len(), tokens.len());
    assert!(spent.values().all(|times| *times == 1), "{spent:?}");
}

#[tokio::test]
async fn one_approval_five_capabilities_five_redeems_at_once_is_one_execution() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let approval = approved(&server, &agent, &session, &export(5)).await;
    let mut ledger = Ledger::of(&server).await;
    let operation = export(5);
    let mints = join_all((0..5).map(|_| must_mint(&agent, &session, &operation, &approval.approval_id))).await;
    ledger.expect(&[("minted", 5)]).await;
    let warehouse = join_all((0..5).map(|_| server.warehouse())).await;
    let redeems = mints.iter().zip(&warehouse).map(|(minted, at)| redeem(at, &minted.token, &operation));
    let (spent, others): (Vec<_>, Vec<_>) = join_all(redeems).await.into_iter().partition(Result::is_ok);
    assert_eq!(spent.len(), 1);
    for other in others {
        assert_eq!(refused(other), failed("ALREADY_REDEEMED"));
    }
    ledger.expect(&[("redeem", 1), ("refusal", 4)]).await;
    let states = capabilities(&agent, &session).await;
    assert_eq!(states.iter().filter(|state| **state == CapabilityState::Redeemed).count(), 1, "{states:?}");
}

#[tokio::test]
async fn a_redeem_whose_reply_was_lost_gives_the_same_receipt_and_one_effect() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let warehouse = server.warehouse().await;
    let mut ledger = Ledger::of(&server).await;
    let request = spending(&minted.token, &query());
    let first = warehouse.redeem(request.clone()).await.unwrap();
    assert!(!first.replayed && first.log_index.is_some());
    // Again and again, on this connection and on another, at once, and after the session has ended.
    let elsewhere = server.warehouse().await;
    let again =
        join_all((0..20).map(|n| (if n % 2 == 0 { &warehouse } else { &elsewhere }).redeem(request.clone()))).await;
    let same = RedeemResponse { replayed: true, log_index: None, ..first.clone() };
    for answer in again {
        assert_eq!(answer.unwrap(), same, "a replay never authorizes, and says so");
    }
    ledger.expect(&[("redeem", 1)]).await;
    // The same id with another body, or by another caller, is another attempt.
    let changed = RedeemRequest { operation: Some(describe()), ..request.clone() };
    assert_eq!(refused(warehouse.redeem(changed).await), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    assert_eq!(refused(agent.redeem(request.clone()).await), failed("ALREADY_REDEEMED"));
    let anew = RedeemRequest { request_id: fresh_id(), ..request };
    assert_eq!(refused(warehouse.redeem(anew).await), failed("ALREADY_REDEEMED"));
    ledger.expect(&[("refusal", 3)]).await;
}

#[tokio::test]
async fn one_request_id_sent_many_times_at_once_redeems_once() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let warehouse = join_all((0..10).map(|_| server.warehouse())).await;
    // Ten times, so that some retry meets the moment in which the first attempt commits: it must get the receipt, and not
    // be told that the capability was spent, by its own attempt.
    for _ in 0..10 {
        let minted = must_mint(&agent, &session, &query(), "").await;
        let mut ledger = Ledger::of(&server).await;
        let request = spending(&minted.token, &query());
        let answers = join_all((0..100).map(|n| warehouse[n % 10].redeem(request.clone()))).await;
        let fresh = answers.into_iter().filter(|answer| !answer.as_ref().unwrap().replayed).count();
        assert_eq!(fresh, 1);
        ledger.expect(&[("redeem", 1)]).await;
    }
}

#[tokio::test]
async fn redeeming_needs_a_request_id_of_the_one_form() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let token = server.token("service:warehouse-gateway", None, &[]);
    let mut raw = capability_service_client::CapabilityServiceClient::new(server.channel().await);
    for id in
        ["", "1", "00000000-0000-0000-0000-000000000000", &fresh_id().to_uppercase(), &fresh_id().replace('-', "")]
    {
        let request = RedeemRequest { request_id: id.to_owned(), ..spending(&minted.token, &query()) };
        let status = raw.redeem(Server::request(request, &token, &[])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{id:?}");
    }
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Minted);
}

#[tokio::test]
async fn reading_needs_no_request_id_and_minting_does() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let mut ledger = Ledger::of(&server).await;
    let token = server.token("agent:etl-bot", Some("olivia"), &[]);
    let mut raw = DecisionServiceClient::new(server.channel().await);
    let plain = DecideRequest { request_id: String::new(), ..question(&session, &describe()) };
    for _ in 0..2 {
        let answer = raw.decide(Server::request(plain.clone(), &token, &[])).await.unwrap().into_inner();
        assert_eq!((answer.verdict(), answer.replayed, answer.capability), (Verdict::Allow, false, None));
    }
    ledger.expect(&[("ALLOW", 2)]).await;
    for request in [
        DecideRequest { mint: true, ..plain.clone() },
        DecideRequest { approval_id: format!("apr_{}", fresh_id()), ..plain.clone() },
    ] {
        let status = raw.decide(Server::request(request, &token, &[])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    assert_eq!(capabilities(&agent, &session).await, []);
    let nobodys = DecideRequest { audience: String::new(), ..plain };
    assert_eq!(refused(agent.decide(nobodys).await), invalid());
}

#[tokio::test]
async fn a_pending_approval_mints_nothing() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = crate::harness::flow::ask(&agent, &session, &export(5)).await.unwrap();
    let mut ledger = Ledger::of(&server).await;
    let answer = mint(&agent, &session, &export(5), &asked.approval_id).await.unwrap();
    assert_eq!((answer.verdict(), answer.capability), (Verdict::NeedsApproval, None));
    ledger.expect(&[("NEEDS_APPROVAL", 1)]).await;
    assert_eq!(capabilities(&agent, &session).await, []);
    let stranger = server.person("service:gateway").await;
    let theirs = RedeemRequest { audience: AUDIENCE.to_owned(), ..spending("csn_", &export(5)) };
    assert_eq!(refused(stranger.redeem(theirs).await), denied("CAPABILITY_INVALID"));
}
