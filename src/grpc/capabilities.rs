//! `CapabilityService`.

use countersign_core::TokenId;
use countersign_core::capability::Outcome;
use countersign_engine::{Complete, KeyInfo, Redeem, Replayable};
use countersign_token::KeyState as State;
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified};
use super::convert::{capability, digest, id, operation, optional_id, outcome, page_size, receipt, timestamp};
use super::errors::Failure;
use crate::http::metrics as names;
use crate::proto::capability_service_server::CapabilityService;
use crate::proto::{
    Capability, CompleteRequest, CompleteResponse, GetCapabilityRequest, GetCapabilityResponse, KeyState,
    ListCapabilitiesRequest, ListCapabilitiesResponse, ListPublicKeysRequest, ListPublicKeysResponse, PublicKey,
    RedeemRequest, RedeemResponse, RevokeRequest, RevokeResponse,
};

/// Spends, takes outcomes, revokes.
#[derive(Clone)]
pub struct Capabilities(pub Backend);

async fn after(verified: &Verified, id: TokenId) -> Result<Option<Capability>, Failure> {
    let stored = verified.engine.peek(id).await?;
    Ok(Some(capability(&stored.value, verified.engine.now()?)))
}

#[tonic::async_trait]
impl CapabilityService for Capabilities {
    async fn redeem(&self, request: Request<RedeemRequest>) -> Result<Response<RedeemResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let RedeemRequest { token, operation: action, audience, request_id: _ } = message;
            let redeem = Redeem { token, operation: operation(action)?, audience };
            let result = verified.engine.redeem(&verified.call, &redeem).await;
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
            Ok(ListPublicKeysResponse { keys: keys.collect() })
        };
        self.0.handle("ListPublicKeys", request, |_| "", run).await
    }
}
