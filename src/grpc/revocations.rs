//! `RevocationService`.

use std::pin::Pin;
use std::sync::Arc;

use countersign_core::Axis;
use countersign_engine::{Error, Replayable, RevocationToken, Revoked, Tiding, Told};
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified, to_its_end};
use super::convert::{digest, entity, entity_to_wire, id, optional_id, required, timestamp};
use super::errors::Failure;
use crate::proto::revocation_service_server::RevocationService;
use crate::proto::revocation_target::Axis as Wire;
use crate::proto::{
    Revocation, RevocationTarget, RevokeAllRequest, RevokeAllResponse, WatchRevocationsRequest,
    WatchRevocationsResponse,
};

/// Revokes by every axis, and tells of it.
#[derive(Clone)]
pub struct Revocations(pub Backend);

fn axis(target: Option<RevocationTarget>) -> Result<Axis, Failure> {
    let RevocationTarget { axis } = required("target", target)?;
    Ok(match required("target.axis", axis)? {
        Wire::CapabilityId(text) => Axis::Capability(id("target.capability_id", &text)?),
        Wire::ApprovalId(text) => Axis::Approval(id("target.approval_id", &text)?),
        Wire::SessionId(text) => Axis::Session(id("target.session_id", &text)?),
        Wire::Principal(principal) => Axis::Principal(entity("target.principal", principal)?),
        Wire::Operator(operator) => Axis::Operator(entity("target.operator", operator)?),
        Wire::BundleDigest(text) => Axis::Bundle(digest("target.bundle_digest", &text)?),
        Wire::Everything(true) => Axis::Everything,
        Wire::Everything(false) => return Err(Failure::field("target.everything", "expected true, or another axis")),
    })
}

fn target(axis: &Axis) -> RevocationTarget {
    let axis = match axis {
        Axis::Capability(id) => Wire::CapabilityId(id.to_string()),
        Axis::Approval(id) => Wire::ApprovalId(id.to_string()),
        Axis::Session(id) => Wire::SessionId(id.to_string()),
        Axis::Principal(principal) => Wire::Principal(entity_to_wire(principal)),
        Axis::Operator(operator) => Wire::Operator(entity_to_wire(operator)),
        Axis::Bundle(digest) => Wire::BundleDigest(digest.to_string()),
        Axis::Everything => Wire::Everything(true),
    };
    RevocationTarget { axis: Some(axis) }
}

fn revocation(tiding: &Tiding) -> Revocation {
    let Tiding { sequence, revocation } = tiding;
    let countersign_core::Revocation { axis, at, by, reason, epoch: _ } = revocation;
    Revocation {
        target: Some(target(axis)),
        sequence: *sequence,
        revoked_at: Some(timestamp(*at)),
        revoked_by: by.as_ref().map(entity_to_wire),
        reason: reason.clone().unwrap_or_default(),
    }
}

#[tonic::async_trait]
impl RevocationService for Revocations {
    type WatchRevocationsStream = Pin<Box<dyn Stream<Item = Result<WatchRevocationsResponse, Status>> + Send>>;

    async fn revoke_all(&self, request: Request<RevokeAllRequest>) -> Result<Response<RevokeAllResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let RevokeAllRequest { target, reason, request_id: _ } = message;
            let axis = axis(target)?;
            let Verified { engine, call, .. } = verified;
            let revoked = to_its_end(async move { engine.revoke_all(&call, &axis, &reason).await }).await?;
            let Replayable { answer: Revoked { axis, sequence }, replayed } = revoked;
            tracing::warn!(axis = axis.word(), what = %axis, replayed, "revoked");
            Ok(RevokeAllResponse { sequence, replayed })
        };
        self.0.handle("RevokeAll", request, |m| &m.request_id, run).await
    }

    async fn watch_revocations(
        &self,
        request: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let (verified, permits) = self.0.watch("WatchRevocations", &request)?;
        let WatchRevocationsRequest { resume_token } = request.into_inner();
        let resume = match optional_id::<RevocationToken>("resume_token", &resume_token) {
            Ok(resume) => resume,
            Err(failure) => return Err(Failure::recorded(failure, &verified.engine, &verified.call).await.into()),
        };
        let left = verified.call.credential.expires_at.since(self.0.wall());
        let Verified { engine, call, .. } = verified;
        let told = Arc::clone(&engine).watch_revocations(call, resume).boxed().map(move |told| {
            let _held_as_long_as_the_stream_lives = &permits;
            let Told { tiding, complete_through, resume } = told.map_err(Failure::Engine)?;
            let revocation = tiding.as_deref().map(revocation);
            Ok(WatchRevocationsResponse { revocation, complete_through, resume_token: resume.to_string() })
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
        let merged = futures::stream::select(told, expired).take_while(move |item: &Result<_, Status>| {
            let go_on = !over;
            over = over || item.is_err();
            std::future::ready(go_on)
        });
        Ok(Response::new(Box::pin(merged)))
    }
}
