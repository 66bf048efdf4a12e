//! `ApprovalService`.

use std::pin::Pin;
use std::sync::Arc;

use countersign_core::{ApprovalId, BatchId};
use countersign_engine::{Ask, Ballot, Error, Replayable, ResumeToken, Wanted};
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified};
use super::convert::{acting, approval, digest, id, operation, optional_id, page_size, states, vote_verdict};
use super::errors::Failure;
use super::pre_approvals::bounds as pre_approval_bounds;
use super::signed::signed;
use super::{batch, figures};
use crate::http::metrics as names;
use crate::proto::approval_service_server::ApprovalService;
use crate::proto::{
    Approval, ApprovalState, CancelApprovalRequest, CancelApprovalResponse, CastVoteRequest, CastVoteResponse,
    CastVotesRequest, CastVotesResponse, GetApprovalFiguresRequest, GetApprovalFiguresResponse, GetApprovalRequest,
    GetApprovalResponse, LiftCoolDownRequest, LiftCoolDownResponse, ListApprovalsRequest, ListApprovalsResponse,
    RequestApprovalRequest, RequestApprovalResponse, RequestApprovalsRequest, RequestApprovalsResponse,
    WatchApprovalsRequest, WatchApprovalsResponse, WithdrawVoteRequest, WithdrawVoteResponse,
};

/// Puts questions to people and takes their votes.
#[derive(Clone)]
pub struct Approvals(pub Backend);

/// The request after a call, as the caller sees it.
pub(super) async fn after(verified: &Verified, id: ApprovalId) -> Result<Option<Approval>, Failure> {
    Ok(Some(approval(&verified.engine.changed_approval(&verified.call, id).await?)))
}

/// Which live requests are wanted, if no others are: those are found without reading all that ever were.
fn live(wanted: &[ApprovalState]) -> Option<Wanted> {
    let has = |state| wanted.contains(&state);
    let live = [ApprovalState::Pending, ApprovalState::Approved];
    match (has(ApprovalState::Pending), has(ApprovalState::Approved), wanted.iter().all(|state| live.contains(state))) {
        (true, true, true) => Some(Wanted::Live),
        (true, false, true) => Some(Wanted::Pending),
        (false, true, true) => Some(Wanted::Approved),
        (false, false, _) | (_, _, false) => None,
    }
}

#[tonic::async_trait]
impl ApprovalService for Approvals {
    type WatchApprovalsStream = Pin<Box<dyn Stream<Item = Result<WatchApprovalsResponse, Status>> + Send>>;

    async fn request_approval(
        &self,
        request: Request<RequestApprovalRequest>,
    ) -> Result<Response<RequestApprovalResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let RequestApprovalRequest {
                session_id,
                operation: action,
                audience,
                principal,
                principal_credential,
                justification,
                request_id: _,
                pre_approval,
            } = message;
            let bounds = pre_approval.map(pre_approval_bounds).transpose()?;
            let ask = Ask {
                session: id("session_id", &session_id)?,
                operation: operation(action)?,
                audience,
                acting: acting(principal, &principal_credential, &self.0).await?,
                justification,
            };
            let asked = match bounds {
                None => verified.engine.ask(&verified.call, &ask).await?,
                Some(bounds) => verified.engine.pre_approve(&verified.call, &ask, bounds).await?,
            };
            let Replayable { answer: (id, shared), replayed } = asked;
            metrics::counter!(names::APPROVALS_TOTAL, "event" => "requested").increment(1);
            tracing::info!(approval = %id, shared, replayed, "approval requested");
            Ok(RequestApprovalResponse { approval: after(verified, id).await?, shared, replayed })
        };
        self.0.handle("RequestApproval", request, |m| &m.request_id, run).await
    }

    async fn get_approval(
        &self,
        request: Request<GetApprovalRequest>,
    ) -> Result<Response<GetApprovalResponse>, Status> {
        let run = |verified: Verified, GetApprovalRequest { approval_id }: GetApprovalRequest| async move {
            let verified = &verified;
            let view = verified.engine.approval(&verified.call, id("approval_id", &approval_id)?).await?;
            verified.engine.sent(&view);
            Ok(GetApprovalResponse { approval: Some(approval(&view)) })
        };
        self.0.handle("GetApproval", request, |_| "", run).await
    }

    async fn list_approvals(
        &self,
        request: Request<ListApprovalsRequest>,
    ) -> Result<Response<ListApprovalsResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ListApprovalsRequest { page_size: size, page_token, states: wanted, batch_id } = message;
            let wanted = states(&wanted)?;
            let size = page_size(size, 50, 200)?;
            let (engine, call) = (&verified.engine, &verified.call);
            let (items, next) = match optional_id::<BatchId>("batch_id", &batch_id)? {
                Some(batch) => {
                    let after = optional_id("page_token", &page_token)?;
                    let page = engine.approvals_of_batch(call, batch, after, size).await?;
                    (page.items, page.next.map(|place| place.to_string()))
                }
                None => {
                    let before = optional_id("page_token", &page_token)?;
                    let page = match live(&wanted) {
                        Some(live) => engine.live_approvals(call, before, size, live).await?,
                        None => engine.approvals(call, before, size).await?,
                    };
                    (page.items, page.next.map(|id| id.to_string()))
                }
            };
            let approvals = items.iter().filter_map(|view| {
                let approval = approval(view);
                let asked_for = wanted.is_empty() || wanted.contains(&approval.state());
                asked_for.then(|| {
                    engine.sent(view);
                    approval
                })
            });
            Ok(ListApprovalsResponse { approvals: approvals.collect(), next_page_token: next.unwrap_or_default() })
        };
        self.0.handle("ListApprovals", request, |_| "", run).await
    }

    async fn cast_vote(&self, request: Request<CastVoteRequest>) -> Result<Response<CastVoteResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let CastVoteRequest { approval_id, verdict, digest: shown, view_digest, comment, request_id, signature } =
                message;
            let ballot = Ballot {
                approval: id("approval_id", &approval_id)?,
                verdict: vote_verdict(verdict)?,
                digest: digest("digest", &shown)?,
                view: digest("view_digest", &view_digest)?,
                comment,
                signed: signed(signature, request_id)?,
            };
            let Replayable { answer, replayed } = verified.engine.vote(&verified.call, &ballot).await?;
            metrics::counter!(names::APPROVALS_TOTAL, "event" => "vote").increment(1);
            tracing::info!(approval = %answer, replayed, "vote cast");
            Ok(CastVoteResponse { approval: after(verified, answer).await?, replayed })
        };
        self.0.handle("CastVote", request, |m| &m.request_id, run).await
    }

    async fn withdraw_vote(
        &self,
        request: Request<WithdrawVoteRequest>,
    ) -> Result<Response<WithdrawVoteResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let WithdrawVoteRequest { approval_id, request_id: _ } = message;
            let id = id("approval_id", &approval_id)?;
            let Replayable { answer, replayed } = verified.engine.withdraw(&verified.call, id).await?;
            metrics::counter!(names::APPROVALS_TOTAL, "event" => "withdrawn").increment(1);
            Ok(WithdrawVoteResponse { approval: after(verified, answer).await?, replayed })
        };
        self.0.handle("WithdrawVote", request, |m| &m.request_id, run).await
    }

    async fn lift_cool_down(
        &self,
        request: Request<LiftCoolDownRequest>,
    ) -> Result<Response<LiftCoolDownResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let LiftCoolDownRequest { approval_id, request_id: _ } = message;
            let id = id("approval_id", &approval_id)?;
            let Replayable { answer, replayed } = verified.engine.lift(&verified.call, id).await?;
            metrics::counter!(names::APPROVALS_TOTAL, "event" => "lifted").increment(1);
            Ok(LiftCoolDownResponse { approval: after(verified, answer).await?, replayed })
        };
        self.0.handle("LiftCoolDown", request, |m| &m.request_id, run).await
    }

    async fn cancel_approval(
        &self,
        request: Request<CancelApprovalRequest>,
    ) -> Result<Response<CancelApprovalResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let CancelApprovalRequest { approval_id, request_id: _ } = message;
            let id = id("approval_id", &approval_id)?;
            let Replayable { answer, replayed } = verified.engine.cancel(&verified.call, id).await?;
            metrics::counter!(names::APPROVALS_TOTAL, "event" => "cancelled").increment(1);
            Ok(CancelApprovalResponse { approval: after(verified, answer).await?, replayed })
        };
        self.0.handle("CancelApproval", request, |m| &m.request_id, run).await
    }

    async fn watch_approvals(
        &self,
        request: Request<WatchApprovalsRequest>,
    ) -> Result<Response<Self::WatchApprovalsStream>, Status> {
        let (verified, permits) = self.0.watch("WatchApprovals", &request)?;
        let WatchApprovalsRequest { approval_id, resume_token, batch_id } = request.into_inner();
        let asked = || {
            let only = optional_id("approval_id", &approval_id)?;
            let batch = optional_id::<BatchId>("batch_id", &batch_id)?;
            if only.is_some() && batch.is_some() {
                return Err(Failure::field("batch_id", "give either `approval_id` or `batch_id`, not both"));
            }
            Ok((only, batch, optional_id::<ResumeToken>("resume_token", &resume_token)?))
        };
        let (only, batch, resume) = match asked() {
            Ok(asked) => asked,
            Err(failure) => return Err(Failure::recorded(failure, &verified.engine, &verified.call).await.into()),
        };
        let left = verified.call.credential.expires_at.since(self.0.wall());
        let Verified { engine, call, .. } = verified;
        let watched = match batch {
            Some(batch) => Arc::clone(&engine).watch_batch(call, batch, resume).boxed(),
            None => Arc::clone(&engine).watch_approvals(call, only, resume).boxed(),
        };
        let seen = watched.map(move |seen| {
            let _held_as_long_as_the_stream_lives = &permits;
            let seen = seen.map_err(Failure::Engine)?;
            engine.sent(&seen.view);
            Ok(WatchApprovalsResponse { approval: Some(approval(&seen.view)), resume_token: seen.resume.to_string() })
        });
        // A stream outlives its credential by nothing: whoever lost access must not go on reading.
        let draining = self.0.clone().draining();
        let expired = futures::stream::once(async move {
            let end = tokio::select! {
                () = tokio::time::sleep(left) => Failure::Engine(Error::CredentialExpired),
                () = draining => Failure::Draining,
            };
            Err(end.into())
        });
        let mut over = false;
        let merged = futures::stream::select(seen, expired).take_while(move |item: &Result<_, Status>| {
            let go_on = !over;
            over = over || item.is_err();
            std::future::ready(go_on)
        });
        Ok(Response::new(Box::pin(merged)))
    }

    async fn request_approvals(
        &self,
        request: Request<RequestApprovalsRequest>,
    ) -> Result<Response<RequestApprovalsResponse>, Status> {
        let run =
            |verified: Verified, message| async move { batch::request_approvals(&self.0, &verified, message).await };
        self.0.handle("RequestApprovals", request, |m| &m.request_id, run).await
    }

    async fn cast_votes(&self, request: Request<CastVotesRequest>) -> Result<Response<CastVotesResponse>, Status> {
        let run = |verified: Verified, message| async move { batch::cast_votes(&self.0, &verified, message).await };
        self.0.handle("CastVotes", request, |m| &m.request_id, run).await
    }

    async fn get_approval_figures(
        &self,
        request: Request<GetApprovalFiguresRequest>,
    ) -> Result<Response<GetApprovalFiguresResponse>, Status> {
        let run = |verified: Verified, message| async move { figures::get(&verified, message).await };
        self.0.handle("GetApprovalFigures", request, |_| "", run).await
    }
}
