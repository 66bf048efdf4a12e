//! What ends a capability: its revocation, or its outcome.

use countersign::proto::*;
use tonic::Code;

use crate::approvals::shared::{Ledger, denied, failed, invalid, not_found, query};
use crate::harness::flow::{capability_state, complete, mint, must_mint, open, redeem, refused, revoke};
use crate::harness::{Server, fresh_id};

#[tokio::test]
async fn principal_operator_owner_and_security_revoke_and_nothing_is_redeemed_afterwards() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let warehouse = server.warehouse().await;
    let mut ledger = Ledger::of(&server).await;
    for revoker in
        [agent.clone(), server.person("olivia").await, server.person("wendy").await, server.person("sam").await]
    {
        let minted = must_mint(&agent, &session, &query(), "").await;
        assert_eq!(revoke(&revoker, &minted.capability_id).await.unwrap().state(), CapabilityState::Revoked);
        assert_eq!(refused(redeem(&warehouse, &minted.token, &query()).await), denied("CAPABILITY_REVOKED"));
        assert_eq!(refused(revoke(&revoker, &minted.capability_id).await), denied("CAPABILITY_REVOKED"));
    }
    ledger.expect(&[("minted", 4), ("revoke", 4), ("refusal", 8)]).await;
}

#[tokio::test]
async fn strangers_do_not_revoke() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let mut ledger = Ledger::of(&server).await;
    for stranger in ["dana", "alice", "aaron", "agent:chat-bot", "agent:deploy-bot", "service:warehouse-gateway"] {
        let result = revoke(&server.person(stranger).await, &minted.capability_id).await;
        assert_eq!(refused(result), denied("ADMINISTRATION_DENIED"), "{stranger}");
    }
    let nothing = format!("cap_{}", fresh_id());
    assert_eq!(refused(revoke(&agent, &nothing).await), not_found("CAPABILITY_NOT_FOUND"));
    let strange = GetCapabilityRequest { capability_id: minted.capability_id.clone() };
    let hidden = refused(server.person("dana").await.get_capability(strange).await);
    assert_eq!(hidden, not_found("CAPABILITY_NOT_FOUND"));
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Minted);
    redeem(&server.warehouse().await, &minted.token, &query()).await.unwrap();
    // Six strangers, one unknown id, one look.
    ledger.expect(&[("refusal", 8), ("redeem", 1)]).await;
}

#[tokio::test]
async fn a_revocation_says_why() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let mut ledger = Ledger::of(&server).await;
    for reason in ["", &"x".repeat(501)] {
        let capability_id = minted.capability_id.clone();
        let request = RevokeRequest { capability_id, reason: reason.to_owned(), request_id: fresh_id() };
        assert_eq!(refused(agent.revoke(request).await), invalid());
    }
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Minted);
    ledger.expect(&[("refusal", 2)]).await;
}

#[tokio::test]
async fn what_was_redeemed_is_past_revoking() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    redeem(&server.warehouse().await, &minted.token, &query()).await.unwrap();
    let mut ledger = Ledger::of(&server).await;
    assert_eq!(refused(revoke(&agent, &minted.capability_id).await), failed("ALREADY_REDEEMED"));
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Redeemed);
    ledger.expect(&[("refusal", 1)]).await;
}

#[tokio::test]
async fn a_lost_reply_to_a_revocation_is_told_again() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let mut ledger = Ledger::of(&server).await;
    let request = RevokeRequest {
        capability_id: minted.capability_id.clone(),
        reason: "lost laptop".to_owned(),
        request_id: fresh_id(),
    };
    let first = agent.revoke(request.clone()).await.unwrap();
    let second = agent.revoke(request).await.unwrap();
    assert_eq!((first.replayed, second.replayed), (false, true));
    assert_eq!(first.capability, second.capability);
    ledger.expect(&[("revoke", 1)]).await;
}

#[tokio::test]
async fn only_the_redeemer_completes_and_only_once() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let warehouse = server.warehouse().await;
    let unredeemed = must_mint(&agent, &session, &query(), "").await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    redeem(&warehouse, &minted.token, &query()).await.unwrap();
    let mut ledger = Ledger::of(&server).await;
    assert_eq!(refused(complete(&warehouse, &unredeemed.capability_id).await), failed("COMPLETION_REFUSED"));
    for other in ["agent:etl-bot", "olivia", "alice", "sam", "service:vault-gateway"] {
        let result = complete(&server.person(other).await, &minted.capability_id).await;
        assert_eq!(refused(result), denied("COMPLETION_REFUSED"), "{other}");
    }
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Redeemed);
    ledger.expect(&[("refusal", 6)]).await;

    let report = CompleteRequest {
        capability_id: minted.capability_id.clone(),
        outcome: Outcome::Failed.into(),
        result_digest: "ab".repeat(32),
        request_id: fresh_id(),
    };
    for malformed in [
        CompleteRequest { outcome: Outcome::Unspecified.into(), ..report.clone() },
        CompleteRequest { result_digest: "ab".to_owned(), ..report.clone() },
        CompleteRequest { capability_id: "cap_".to_owned(), ..report.clone() },
    ] {
        assert_eq!(refused(warehouse.complete(malformed).await), invalid());
    }
    let first = warehouse.complete(report.clone()).await.unwrap();
    let again = warehouse.complete(report.clone()).await.unwrap();
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!(first.capability.unwrap().state(), CapabilityState::Failed);
    // An outcome is not told anew.
    assert_eq!(refused(complete(&warehouse, &minted.capability_id).await), failed("COMPLETION_REFUSED"));
    let changed = CompleteRequest { outcome: Outcome::Succeeded.into(), ..report };
    assert_eq!(refused(warehouse.complete(changed).await), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Failed);
    assert_eq!(refused(redeem(&warehouse, &minted.token, &query()).await), failed("ALREADY_REDEEMED"));
    let kinds = server.audit_records().await.iter().filter(|record| record.kind == "complete").count();
    assert_eq!(kinds, 1);
}

#[tokio::test]
async fn an_outcome_is_taken_after_the_session_has_ended() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let warehouse = server.warehouse().await;
    redeem(&warehouse, &minted.token, &query()).await.unwrap();
    crate::harness::flow::end(&agent, &session).await.unwrap();
    // What already runs, runs; and how it went is worth knowing.
    assert_eq!(complete(&warehouse, &minted.capability_id).await.unwrap().state(), CapabilityState::Succeeded);
    assert_eq!(refused(mint(&agent, &session, &query(), "").await), denied("SESSION_OVER"));
}
