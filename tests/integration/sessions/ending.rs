//! The end of a session: once it is acknowledged, nothing in it commits (I6).

use countersign::proto::*;
use tonic::Code;

use crate::approvals::shared::{Ledger, approved, capabilities, denied, failed, query, within};
use crate::harness::flow::{
    ask, capability_state, code, decide, describe, end, export, mint, must_mint, open, redeem, refused, show, vote,
};
use crate::harness::{Server, fresh_id};

const OVER: &str = "SESSION_OVER";

#[tokio::test(flavor = "multi_thread")]
async fn no_redeem_starts_after_the_end_of_the_session_is_acknowledged() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let olivia = server.person("olivia").await;
    let warehouse = server.warehouse().await;
    let mut sessions = Vec::new();
    let (mut redeemed, mut refusals) = (0, 0);
    for _ in 0..60 {
        let session = open(&agent).await;
        let mut tokens = Vec::new();
        for _ in 0..4 {
            tokens.push(must_mint(&agent, &session, &query(), "").await.token);
        }
        let operation = query();
        let late = tokens.pop().unwrap();
        let ending = async {
            let acknowledged = end(&olivia, &session).await;
            assert_eq!(acknowledged.unwrap().state(), SessionState::Ended);
            // The acknowledgement is there, so this one cannot succeed, whatever is still under way.
            redeem(&warehouse, &late, &operation).await
        };
        let at_once = futures::future::join_all(tokens.iter().map(|token| redeem(&warehouse, token, &operation)));
        let (after, raced) = tokio::join!(ending, at_once);
        assert_eq!(refused(after), denied(OVER));
        for result in raced {
            match code(&result) {
                Code::Ok => redeemed += 1,
                _ => {
                    assert_eq!(refused(result), denied(OVER));
                    refusals += 1;
                }
            }
        }
        sessions.push(session);
    }
    // The log has the order of the commits, and in it nothing of a session is redeemed behind its end.
    let records = server.audit_records().await;
    for session in &sessions {
        let ended =
            records.iter().position(|record| record.kind == "session_ended" && record.text("/session") == session);
        let ended = ended.expect("the end is recorded");
        let behind = records[ended..].iter().any(|r| r.kind == "redeem" && r.text("/session") == session);
        assert!(!behind, "a redeem behind the end of {session}");
    }
    let logged = records.iter().filter(|record| record.kind == "redeem").count();
    assert_eq!((logged, redeemed + refusals), (redeemed, 180));
}

#[tokio::test]
async fn everything_in_a_session_dies_with_it() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let pending = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    let good = approved(&server, &agent, &session, &export(6)).await.approval_id;
    let lifted = must_mint(&agent, &session, &export(6), &good).await;
    end(&agent, &session).await.unwrap();
    let mut ledger = Ledger::of(&server).await;

    let warehouse = server.warehouse().await;
    assert_eq!(refused(redeem(&warehouse, &minted.token, &query()).await), denied(OVER));
    assert_eq!(refused(redeem(&warehouse, &lifted.token, &export(6)).await), denied(OVER));
    assert_eq!(refused(decide(&agent, &session, &describe()).await), denied(OVER));
    assert_eq!(refused(mint(&agent, &session, &query(), "").await), denied(OVER));
    assert_eq!(refused(mint(&agent, &session, &export(6), &good).await), denied(OVER));
    assert_eq!(refused(ask(&agent, &session, &export(7)).await), denied(OVER));
    assert_eq!(refused(end(&agent, &session).await), denied(OVER));
    for id in [&pending, &good] {
        let now = show(&agent, id).await.unwrap();
        assert_eq!(now.state(), ApprovalState::Void);
        assert!(now.state_detail.contains("session"), "{}", now.state_detail);
        for verdict in [VoteVerdict::Approve, VoteVerdict::Deny] {
            let late = vote(&server.person("dana").await, id, verdict).await;
            assert_eq!(refused(late), failed("APPROVAL_STATE"));
        }
    }
    ledger.expect(&[("refusal", 11)]).await;
    // Another session of the same agent does not bring any of it back.
    let second = open(&agent).await;
    assert_eq!(refused(mint(&agent, &second, &export(6), &good).await), denied("APPROVAL_MISMATCH"));
    assert_eq!(decide(&agent, &second, &export(6)).await.unwrap().verdict(), Verdict::NeedsApproval);
    assert_eq!(capabilities(&agent, &session).await.len(), 2);
}

#[tokio::test]
async fn a_request_that_died_with_its_session_stays_void() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let pending = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    vote(&server.person("dana").await, &pending, VoteVerdict::Approve).await.unwrap();
    end(&agent, &session).await.unwrap();
    let mut ledger = Ledger::of(&server).await;
    // Void is terminal: neither the parties nor the voters lead out of it (I5).
    let cancel = CancelApprovalRequest { approval_id: pending.clone(), ..Default::default() };
    let withdraw = WithdrawVoteRequest { approval_id: pending.clone(), ..Default::default() };
    let withdrawn = server.person("dana").await.withdraw_vote(withdraw).await;
    let cancelled = agent.cancel_approval(cancel).await;
    assert_eq!(show(&agent, &pending).await.unwrap().state(), ApprovalState::Void);
    assert_eq!(refused(cancelled), failed("APPROVAL_STATE"));
    assert_eq!(refused(withdrawn), failed("APPROVAL_STATE"));
    ledger.expect(&[("refusal", 2)]).await;
}

#[tokio::test]
async fn a_session_is_over_at_its_deadline() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let request = OpenSessionRequest {
        purpose: "a short one".to_owned(),
        ttl: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        ..OpenSessionRequest::default()
    };
    let session = agent.open_session(request).await.unwrap().session.unwrap().session_id;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let pending = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    let request = || GetSessionRequest { session_id: session.clone() };
    let passing =
        async { while agent.get_session(request()).await.unwrap().session.unwrap().state() == SessionState::Open {} };
    within("the deadline", passing).await;
    let mut ledger = Ledger::of(&server).await;
    let now = agent.get_session(request()).await.unwrap().session.unwrap();
    assert_eq!(now.state(), SessionState::Expired);
    // The token is good for no longer than its session, so either may be what refuses it.
    let (code, reason) = refused(redeem(&server.warehouse().await, &minted.token, &query()).await);
    assert_eq!(code, Code::PermissionDenied);
    assert!(["CAPABILITY_EXPIRED", OVER].contains(&reason.as_str()), "{reason}");
    assert_eq!(refused(decide(&agent, &session, &describe()).await), denied(OVER));
    assert_eq!(refused(end(&agent, &session).await), denied(OVER));
    assert_eq!(show(&agent, &pending).await.unwrap().state(), ApprovalState::Void);
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Expired);
    ledger.expect(&[("refusal", 3)]).await;
}

#[tokio::test]
async fn parties_owner_and_security_end_a_session_and_strangers_do_not() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let mut ledger = Ledger::of(&server).await;
    for stranger in ["dana", "alice", "aaron", "agent:chat-bot", "agent:deploy-bot", "service:warehouse-gateway"] {
        let result = end(&server.person(stranger).await, &session).await;
        assert_eq!(refused(result), denied("ADMINISTRATION_DENIED"), "{stranger}");
    }
    assert_eq!(decide(&agent, &session, &describe()).await.unwrap().verdict(), Verdict::Allow);
    ledger.expect(&[("refusal", 6), ("ALLOW", 1)]).await;
    for party in
        [agent.clone(), server.person("olivia").await, server.person("wendy").await, server.person("sam").await]
    {
        let session = open(&agent).await;
        assert_eq!(end(&party, &session).await.unwrap().state(), SessionState::Ended);
    }
    let unknown = format!("ses_{}", fresh_id());
    assert_eq!(refused(end(&agent, &unknown).await), (Code::NotFound, "SESSION_NOT_FOUND".to_owned()));
}
