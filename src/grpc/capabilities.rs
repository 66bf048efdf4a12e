//! `CapabilityService`.

use countersign_core::TokenId;
use countersign_core::capability::Outcome;
use countersign_engine::{Call, Complete, Delegate, KeyInfo, Redeem, Replayable, Verdict};
use countersign_token::KeyState as State;
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified, request_id_of};
use super::convert::{
    capability, decision, digest, duration, id, operation, optional_id, outcome, page_size, receipt, timestamp,
};
use super::errors::Failure;
use super::holder::holder_to_bind;
use crate::http::metrics as names;
use crate::proto::capability_service_server::CapabilityService;
use crate::proto::{
    Capability, CompleteRequest, CompleteResponse, DelegateRequest, DelegateResponse, GetCapabilityRequest,
    GetCapabilityResponse, KeyState, ListCapabilitiesRequest, ListCapabilitiesResponse, ListPublicKeysRequest,
    ListPublicKeysResponse, PublicKey, RedeemRequest, RedeemResponse, RevokeRequest, RevokeResponse,
};

/// Spends, takes outcomes, revokes.
#[derive(Clone)]
pub struct Capabilities(pub Backend);

/// How long keys that were listed may be gone on with. A key that is compromised is believed offline for so long at most.
const KEYS_MAX_AGE: prost_types::Duration = prost_types::Duration { seconds: 300, nanos: 0 };

/// The call as one attempt, whatever the holder signed for it: a proof lasts a minute, and a retry after that bears another. What
/// is answered then was answered before, and authorizes nothing.
fn attempt(call: &Call, message: &RedeemRequest) -> Result<Call, Failure> {
    if message.holder_proof.is_empty() {
        return Ok(call.clone());
    }
    let unproved = RedeemRequest { holder_proof: String::new(), ..message.clone() };
    Ok(Call { request: request_id_of(&message.request_id, &unproved)?, ..call.clone() })
}

pub(super) async fn after(verified: &Verified, id: TokenId) -> Result<Option<Capability>, Failure> {
    let stored = verified.engine.peek(id).await?;
    Ok(Some(capability(&stored.value, verified.engine.now()?)))
}

#[tonic::async_trait]
impl CapabilityService for Capabilities {
    async fn redeem(&self, request: Request<RedeemRequest>) -> Result<Response<RedeemResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let call = attempt(&verified.call, &message)?;
            let RedeemRequest { token, operation: action, audience, request_id: _, holder_proof } = message;
            let redeem = Redeem { token, operation: operation(action)?, audience, holder_proof };
            let result = verified.engine.redeem(&call, &redeem).await;
            let word = match &result {
                Ok(Replayable { replayed: true, .. }) => "replayed",
                Ok(_) => "redeemed",
                Err(_) => "refused",
            };
            metrics::counter!(names::REDEEMS_TOTAL, "result" => word).increment(1);
            let answer = result?;
            tracing::info!(capability = %answer.answer.capability, replayed = answer.replayed, "redeemed");
            Ok(receipt(answer))
        };
        self.0.handle("Redeem", request, |m| &m.request_id, run).await
    }

    async fn complete(&self, request: Request<CompleteRequest>) -> Result<Response<CompleteResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let CompleteRequest { capability_id, outcome: came, result_digest, request_id: _ } = message;
            let result = if result_digest.is_empty() { None } else { Some(digest("result_digest", &result_digest)?) };
            let report = Complete { capability: id("capability_id", &capability_id)?, outcome: outcome(came)?, result };
            let Replayable { answer, replayed } = verified.engine.complete(&verified.call, report).await?;
            let label = if report.outcome == Outcome::Succeeded { "succeeded" } else { "failed" };
            metrics::counter!(names::COMPLETIONS_TOTAL, "outcome" => label).increment(1);
            tracing::info!(capability = %answer, replayed, "completed");
            Ok(CompleteResponse { capability: after(verified, answer).await?, replayed })
        };
        self.0.handle("Complete", request, |m| &m.request_id, run).await
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let RevokeRequest { capability_id, reason, request_id: _ } = message;
            let id = id("capability_id", &capability_id)?;
            let Replayable { answer, replayed } = verified.engine.revoke(&verified.call, id, &reason).await?;
            tracing::info!(capability = %answer, replayed, "revoked");
            Ok(RevokeResponse { capability: after(verified, answer).await?, replayed })
        };
        self.0.handle("Revoke", request, |m| &m.request_id, run).await
    }

    async fn get_capability(
        &self,
        request: Request<GetCapabilityRequest>,
    ) -> Result<Response<GetCapabilityResponse>, Status> {
        let run = |verified: Verified, GetCapabilityRequest { capability_id }: GetCapabilityRequest| async move {
            let verified = &verified;
            let stored = verified.engine.capability(&verified.call, id("capability_id", &capability_id)?).await?;
            Ok(GetCapabilityResponse { capability: Some(capability(&stored.value, verified.engine.now()?)) })
        };
        self.0.handle("GetCapability", request, |_| "", run).await
    }

    async fn list_capabilities(
        &self,
        request: Request<ListCapabilitiesRequest>,
    ) -> Result<Response<ListCapabilitiesResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ListCapabilitiesRequest { session_id, page_size: size, page_token } = message;
            let session = id("session_id", &session_id)?;
            let before = optional_id("page_token", &page_token)?;
            let size = page_size(size, 50, 200)?;
            let page = verified.engine.capabilities(&verified.call, session, before, size).await?;
            let now = verified.engine.now()?;
            let capabilities = page.items.iter().map(|stored| capability(&stored.value, now)).collect();
            let next_page_token = page.next.map(|id| id.to_string()).unwrap_or_default();
            Ok(ListCapabilitiesResponse { capabilities, next_page_token })
        };
        self.0.handle("ListCapabilities", request, |_| "", run).await
    }

    async fn list_public_keys(
        &self,
        request: Request<ListPublicKeysRequest>,
    ) -> Result<Response<ListPublicKeysResponse>, Status> {
        let run = |verified: Verified, ListPublicKeysRequest {}: ListPublicKeysRequest| async move {
            let verified = &verified;
            let keys = verified.engine.public_keys()?;
            let keys = keys.into_iter().map(|KeyInfo { id, public, state, created_at, verifies_until }| PublicKey {
                key_id: id.0,
                created_at: Some(timestamp(created_at)),
                verifies_until: verifies_until.map(timestamp),
                algorithm: "Ed25519".to_owned(),
                public_key: public.as_bytes().to_vec(),
                state: match state {
                    State::Active => KeyState::Active,
                    State::Retired => KeyState::Retired,
                    State::Compromised => KeyState::Compromised,
                }
                .into(),
            });
            Ok(ListPublicKeysResponse { keys: keys.collect(), max_age: Some(KEYS_MAX_AGE) })
        };
        self.0.handle("ListPublicKeys", request, |_| "", run).await
    }

    async fn delegate(&self, request: Request<DelegateRequest>) -> Result<Response<DelegateResponse>, Status> {
        let run = |verified: Verified, message: DelegateRequest| async move {
            let verified = &verified;
            let call = if message.holder_proof.is_empty() {
                verified.call.clone()
            } else {
                // As for a redeem: a retry may carry a newer proof.
                let unproved = DelegateRequest { holder_proof: String::new(), ..message.clone() };
                Call { request: request_id_of(&message.request_id, &unproved)?, ..verified.call.clone() }
            };
            let DelegateRequest {
                token,
                operation: action,
                audience,
                session_id,
                request_id: _,
                approval_id,
                ttl,
                holder_proof,
                holder,
            } = message;
            let delegate = Delegate {
                token,
                operation: operation(action)?,
                audience,
                session: id("session_id", &session_id)?,
                approval: optional_id("approval_id", &approval_id)?,
                ttl: ttl.map(|ttl| duration("ttl", ttl)).transpose()?,
                holder_proof,
                holder: holder.map(holder_to_bind).transpose()?,
            };
            let answer = verified.engine.delegate(&call, &delegate).await?;
            if let (Verdict::Allow { capability: Some(_) }, false) = (&answer.answer.verdict, answer.replayed) {
                metrics::counter!(names::MINTS_TOTAL).increment(1);
            }
            tracing::info!(
                decision = %answer.answer.id, verdict = answer.answer.word(), replayed = answer.replayed, "delegation decided"
            );
            let active = verified.engine.active()?;
            let decided_by = (active.bundle.digest() == answer.answer.bundle).then_some(active.bundle.as_ref());
            Ok(DelegateResponse { decision: Some(decision(answer, decided_by)) })
        };
        self.0.handle("Delegate", request, |m| &m.request_id, run).await
    }
}
