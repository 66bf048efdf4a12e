//! The steps of an action in the example bundle. Errors are left to the test, as results; the `must_*` forms take none.

use countersign::client::{Client, ClientError, operation};
use countersign::proto::*;
use serde_json::json;
use tonic::Code;

use super::fresh_id;

/// The enforcement point of the steps below.
pub const AUDIENCE: &str = "warehouse";
/// Who acts in the steps below, and for whom.
pub const AGENT: &str = "agent:etl-bot";
pub const OPERATOR: &str = "olivia";
/// Who redeems at [`AUDIENCE`].
pub const REDEEMER: &str = "service:warehouse-gateway";

/// The gRPC code of a refusal; `Ok` if there is none, `Unknown` if the client refused by itself.
pub fn code<T>(result: &Result<T, ClientError>) -> Code {
    match result {
        Ok(_) => Code::Ok,
        Err(error) => error.refusal().map_or(Code::Unknown, |refusal| refusal.code()),
    }
}

/// The reason of a refusal, such as `SESSION_OVER`; empty if there is none.
pub fn reason<T>(result: &Result<T, ClientError>) -> String {
    let refusal = result.as_ref().err().and_then(ClientError::refusal);
    refusal.map(|refusal| refusal.reason_name().to_owned()).unwrap_or_default()
}

/// The code and the reason of a refusal; panics if there is none.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (Code, String) {
    assert!(result.is_err(), "expected a refusal, got {result:?}");
    (code(&result), reason(&result))
}

/// The fields that a refusal names.
pub fn fields<T>(result: &Result<T, ClientError>) -> Vec<String> {
    let refusal = result.as_ref().err().and_then(ClientError::refusal);
    refusal.map(|r| r.violations().iter().map(|v| v.field.clone()).collect()).unwrap_or_default()
}

/// Opens a session.
pub async fn open(client: &Client) -> String {
    let request = OpenSessionRequest { purpose: "a test".to_owned(), ..OpenSessionRequest::default() };
    client.open_session(request).await.unwrap().session.unwrap().session_id
}

/// A routine read of public data: ALLOW.
pub fn describe() -> Operation {
    operation("describe", ("Dataset", "docs"), json!({}), json!({})).unwrap()
}

/// An export of customer data to one of our own buckets: needs two data owners.
pub fn export(rows: i64) -> Operation {
    let input = json!({"rows": rows, "destination": "s3://ours-reports"});
    operation("export", ("Dataset", "customers"), input, json!({})).unwrap()
}

/// An export that no approval lifts: DENY.
pub fn forbidden() -> Operation {
    let input = json!({"rows": 1, "destination": "s3://ours-reports"});
    operation("export", ("Dataset", "payroll"), input, json!({})).unwrap()
}

/// What [`decide`] sends, to be changed.
pub fn question(session: &str, operation: &Operation) -> DecideRequest {
    DecideRequest {
        session_id: session.to_owned(),
        operation: Some(operation.clone()),
        audience: AUDIENCE.to_owned(),
        request_id: fresh_id(),
        ..DecideRequest::default()
    }
}

/// Decides without minting.
pub async fn decide(client: &Client, session: &str, operation: &Operation) -> Result<DecideResponse, ClientError> {
    client.decide(question(session, operation)).await
}

/// Decides and mints, with an approval unless it is empty.
pub async fn mint(
    client: &Client,
    session: &str,
    operation: &Operation,
    approval: &str,
) -> Result<DecideResponse, ClientError> {
    let request = DecideRequest { mint: true, approval_id: approval.to_owned(), ..question(session, operation) };
    client.decide(request).await
}

/// Mints, or fails the test.
pub async fn must_mint(client: &Client, session: &str, operation: &Operation, approval: &str) -> MintedCapability {
    let answer = mint(client, session, operation, approval).await.unwrap();
    assert_eq!(answer.verdict(), Verdict::Allow, "{answer:?}");
    answer.capability.unwrap()
}

/// Puts the question to people.
pub async fn ask(client: &Client, session: &str, operation: &Operation) -> Result<Approval, ClientError> {
    let request = RequestApprovalRequest {
        session_id: session.to_owned(),
        operation: Some(operation.clone()),
        audience: AUDIENCE.to_owned(),
        justification: "the monthly report".to_owned(),
        ..RequestApprovalRequest::default()
    };
    Ok(client.request_approval(request).await?.approval.unwrap())
}

/// What [`vote`] sends, to be changed.
pub fn ballot(shown: &Approval, verdict: VoteVerdict) -> CastVoteRequest {
    CastVoteRequest {
        approval_id: shown.approval_id.clone(),
        verdict: verdict.into(),
        digest: shown.digest.clone(),
        view_digest: shown.view_digest.clone(),
        request_id: fresh_id(),
        ..CastVoteRequest::default()
    }
}

/// Looks at a request and votes on what is shown.
pub async fn vote(client: &Client, approval: &str, verdict: VoteVerdict) -> Result<Approval, ClientError> {
    let shown = show(client, approval).await?;
    Ok(client.cast_vote(ballot(&shown, verdict)).await?.approval.unwrap())
}

/// Looks at a request.
pub async fn show(client: &Client, approval: &str) -> Result<Approval, ClientError> {
    let request = GetApprovalRequest { approval_id: approval.to_owned() };
    Ok(client.get_approval(request).await?.approval.unwrap())
}

/// What [`redeem`] sends, to be changed.
pub fn spending(token: &str, operation: &Operation) -> RedeemRequest {
    RedeemRequest {
        token: token.to_owned(),
        operation: Some(operation.clone()),
        audience: AUDIENCE.to_owned(),
        request_id: fresh_id(),
        ..RedeemRequest::default()
    }
}

/// Redeems.
pub async fn redeem(client: &Client, token: &str, operation: &Operation) -> Result<RedeemResponse, ClientError> {
    client.redeem(spending(token, operation)).await
}

/// Reports success.
pub async fn complete(client: &Client, capability: &str) -> Result<Capability, ClientError> {
    let request = CompleteRequest {
        capability_id: capability.to_owned(),
        outcome: Outcome::Succeeded.into(),
        ..CompleteRequest::default()
    };
    Ok(client.complete(request).await?.capability.unwrap())
}

/// Revokes.
pub async fn revoke(client: &Client, capability: &str) -> Result<Capability, ClientError> {
    let request =
        RevokeRequest { capability_id: capability.to_owned(), reason: "a test".to_owned(), ..RevokeRequest::default() };
    Ok(client.revoke(request).await?.capability.unwrap())
}

/// The state of a capability.
pub async fn capability_state(client: &Client, capability: &str) -> Result<CapabilityState, ClientError> {
    let request = GetCapabilityRequest { capability_id: capability.to_owned() };
    Ok(client.get_capability(request).await?.capability.unwrap().state())
}

/// Ends a session.
pub async fn end(client: &Client, session: &str) -> Result<Session, ClientError> {
    let request = EndSessionRequest { session_id: session.to_owned(), ..EndSessionRequest::default() };
    Ok(client.end_session(request).await?.session.unwrap())
}

/// Lets the server read its bundle again.
pub async fn reload(client: &Client) -> Result<ReloadBundleResponse, ClientError> {
    client.reload_bundle(ReloadBundleRequest::default()).await
}
