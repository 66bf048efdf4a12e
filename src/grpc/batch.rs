//! Several questions, and several votes, in one call.

use countersign_core::ApprovalId;
use countersign_engine::{Ask, Ballot, Error, Replayable};

use super::approvals::after;
use super::call::{Backend, Verified};
use super::convert::{acting, digest, id, operation, vote_verdict};
use super::errors::{Failure, reason_name};
use super::signed::signed;
use crate::http::metrics as names;
use crate::proto::cast_votes_result::Result as Cast;
use crate::proto::request_approvals_result::Result as Asked;
use crate::proto::{
    ApprovalItemError, BatchQuestion, BatchVote, CastVoteResponse, CastVotesRequest, CastVotesResponse,
    CastVotesResult, RequestApprovalResponse, RequestApprovalsRequest, RequestApprovalsResponse,
    RequestApprovalsResult,
};

/// That there are some, and not too many.
fn bounded<T>(items: &[T], backend: &Backend) -> Result<(), Failure> {
    let most = backend.limits().batch_items;
    if items.is_empty() || items.len() > most as usize {
        return Err(Failure::field("items", format!("expected 1 to {most}; each is named, there is none for all")));
    }
    Ok(())
}

/// Says which item a failure is about.
fn of_item(number: usize, failure: Failure) -> Failure {
    match failure {
        Failure::Message { field, reason } => Failure::Message { field: format!("items[{number}].{field}"), reason },
        Failure::Engine(_) | Failure::Credential(_) | Failure::Draining | Failure::Deadline => failure,
    }
}

fn item_error(failure: &Failure) -> ApprovalItemError {
    let (code, reason) = failure.classify();
    ApprovalItemError { code: code.into(), message: failure.told(), reason: reason_name(reason).to_owned() }
}

/// Puts questions together.
pub async fn request_approvals(
    backend: &Backend,
    verified: &Verified,
    message: RequestApprovalsRequest,
) -> Result<RequestApprovalsResponse, Failure> {
    let RequestApprovalsRequest { items, request_id: _ } = message;
    bounded(&items, backend)?;
    let mut asks = Vec::new();
    for (number, item) in items.into_iter().enumerate() {
        asks.push(question(backend, item).await.map_err(|failure| of_item(number, failure))?);
    }
    let (batch, asked) = verified.engine.ask_together(&verified.call, &asks).await?;
    let number = asked.iter().filter(|item| item.is_ok()).count() as u64;
    metrics::counter!(names::APPROVALS_TOTAL, "event" => "requested").increment(number);
    tracing::info!(%batch, items = asked.len(), put = number, "approvals requested");
    let mut results = Vec::new();
    for item in asked {
        let result =
            put(verified, item).await.map_or_else(|failure| Asked::Error(item_error(&failure)), Asked::Response);
        results.push(RequestApprovalsResult { result: Some(result) });
    }
    Ok(RequestApprovalsResponse { batch_id: batch.to_string(), results })
}

/// A request that was put, or found.
async fn put(
    verified: &Verified,
    item: Result<Replayable<(ApprovalId, bool)>, Error>,
) -> Result<RequestApprovalResponse, Failure> {
    let Replayable { answer: (id, shared), replayed } = item?;
    Ok(RequestApprovalResponse { approval: after(verified, id).await?, shared, replayed })
}

async fn question(backend: &Backend, item: BatchQuestion) -> Result<Ask, Failure> {
    let BatchQuestion { session_id, operation: action, audience, principal, principal_credential, justification } =
        item;
    Ok(Ask {
        session: id("session_id", &session_id)?,
        operation: operation(action)?,
        audience,
        acting: acting(principal, &principal_credential, backend).await?,
        justification,
    })
}

/// Casts votes.
pub async fn cast_votes(
    backend: &Backend,
    verified: &Verified,
    message: CastVotesRequest,
) -> Result<CastVotesResponse, Failure> {
    let CastVotesRequest { items, request_id } = message;
    bounded(&items, backend)?;
    let ballots = items.into_iter().enumerate();
    let ballots = ballots.map(|(number, item)| ballot(item, &request_id).map_err(|failure| of_item(number, failure)));
    let ballots: Vec<Ballot> = ballots.collect::<Result<_, Failure>>()?;
    let cast = verified.engine.vote_together(&verified.call, &ballots).await?;
    let counted = cast.iter().filter(|item| item.is_ok()).count() as u64;
    metrics::counter!(names::APPROVALS_TOTAL, "event" => "vote").increment(counted);
    tracing::info!(items = cast.len(), cast = counted, "votes cast");
    let mut results = Vec::new();
    for item in cast {
        let result =
            voted(verified, item).await.map_or_else(|failure| Cast::Error(item_error(&failure)), Cast::Response);
        results.push(CastVotesResult { result: Some(result) });
    }
    Ok(CastVotesResponse { results })
}

/// A request that was voted on.
async fn voted(verified: &Verified, item: Result<Replayable<ApprovalId>, Error>) -> Result<CastVoteResponse, Failure> {
    let Replayable { answer: id, replayed } = item?;
    Ok(CastVoteResponse { approval: after(verified, id).await?, replayed })
}

fn ballot(item: BatchVote, request_id: &str) -> Result<Ballot, Failure> {
    let BatchVote { approval_id, verdict, digest: shown, view_digest, comment, signature } = item;
    Ok(Ballot {
        approval: id("approval_id", &approval_id)?,
        verdict: vote_verdict(verdict)?,
        digest: digest("digest", &shown)?,
        view: digest("view_digest", &view_digest)?,
        comment,
        signed: signed(signature, request_id.to_owned())?,
    })
}
