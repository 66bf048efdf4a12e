//! `PolicyService`.

use std::sync::Arc;

use countersign_core::{Digest, Timestamp};
use countersign_engine::{
    ArchivePlace, ArchivedBundle, BundleInfo, Consent, Difference, Example, Paged, Published, Replayable, ShadowReport,
};
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified, to_its_end};
use super::convert::{digest, optional_id, page_size, timestamp};
use super::errors::Failure;
use crate::bundle_dir;
use crate::client::convert::entity;
use crate::http::metrics as names;
use crate::proto::policy_service_server::PolicyService;
use crate::proto::{
    ArchivedBundle as ArchivedMessage, Bundle, ErrorReason, Finding, GetBundleRequest, GetBundleResponse,
    GetShadowRequest, GetShadowResponse, ListBundlesRequest, ListBundlesResponse, ReloadBundleRequest,
    ReloadBundleResponse, RollbackBundleRequest, RollbackBundleResponse, ShadowDifference, ShadowExample,
};

/// Tells which policies decide, and takes new ones.
#[derive(Clone)]
pub struct Policies(pub Backend);

fn bundle(verified: &Verified) -> Result<Option<Bundle>, Failure> {
    let BundleInfo { digest, name, revision, operations, activated_at } = verified.engine.bundle_info()?;
    Ok(Some(Bundle {
        digest: digest.to_string(),
        name,
        revision,
        operations,
        activated_at: Some(timestamp(activated_at)),
    }))
}

#[tonic::async_trait]
impl PolicyService for Policies {
    async fn get_bundle(&self, request: Request<GetBundleRequest>) -> Result<Response<GetBundleResponse>, Status> {
        let run = |verified: Verified, GetBundleRequest {}: GetBundleRequest| async move {
            let verified = &verified;
            verified.engine.require_known(&verified.call)?;
            Ok(GetBundleResponse { bundle: bundle(verified)? })
        };
        self.0.handle("GetBundle", request, |_| "", run).await
    }

    async fn reload_bundle(
        &self,
        request: Request<ReloadBundleRequest>,
    ) -> Result<Response<ReloadBundleResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ReloadBundleRequest { request_id: _, session_id, approval_id } = message;
            let consent = consent(&session_id, &approval_id)?;
            let (engine, call) = (Arc::clone(&verified.engine), verified.call.clone());
            let dir = verified.bundle_dir.clone();
            let publishing = async move { engine.publish(&call, || bundle_dir::read(&dir, None), consent).await };
            let published = to_its_end(publishing).await;
            let Replayable { answer, replayed } = told(verified, published)?;
            let warnings = answer.warnings.iter().map(finding).collect();
            Ok(ReloadBundleResponse { bundle: bundle(verified)?, changed: answer.changed, warnings, replayed })
        };
        self.0.handle("ReloadBundle", request, |m| &m.request_id, run).await
    }

    async fn list_bundles(
        &self,
        request: Request<ListBundlesRequest>,
    ) -> Result<Response<ListBundlesResponse>, Status> {
        let run = |verified: Verified, ListBundlesRequest { page_size: size, page_token }| async move {
            let verified = &verified;
            let after = if page_token.is_empty() { None } else { Some(place(&page_token)?) };
            let size = page_size(size, 100, 1_000)?;
            let Paged { items, next } = verified.engine.bundles(&verified.call, after, size).await?;
            let bundles = items.into_iter().map(archived).collect();
            Ok(ListBundlesResponse { bundles, next_page_token: next.map(token).unwrap_or_default() })
        };
        self.0.handle("ListBundles", request, |_| "", run).await
    }

    async fn rollback_bundle(
        &self,
        request: Request<RollbackBundleRequest>,
    ) -> Result<Response<RollbackBundleResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let RollbackBundleRequest { digest: named, request_id: _, session_id, approval_id } = message;
            let (named, consent) = (digest("digest", &named)?, consent(&session_id, &approval_id)?);
            let (engine, call) = (Arc::clone(&verified.engine), verified.call.clone());
            let published = to_its_end(async move { engine.rollback(&call, named, consent).await }).await;
            let Replayable { answer, replayed } = told(verified, published)?;
            Ok(RollbackBundleResponse { bundle: bundle(verified)?, changed: answer.changed, replayed })
        };
        self.0.handle("RollbackBundle", request, |m| &m.request_id, run).await
    }

    async fn get_shadow(&self, request: Request<GetShadowRequest>) -> Result<Response<GetShadowResponse>, Status> {
        let run = |verified: Verified, GetShadowRequest {}: GetShadowRequest| async move {
            let report = verified.engine.shadow_report(&verified.call).await?;
            Ok(report.map(shadow).unwrap_or_default())
        };
        self.0.handle("GetShadow", request, |_| "", run).await
    }
}

fn consent(session: &str, approval: &str) -> Result<Consent, Failure> {
    Ok(Consent { session: optional_id("session_id", session)?, approval: optional_id("approval_id", approval)? })
}

/// Says loudly what became active, or was refused. Whoever may not publish is refused, and no bundle is.
fn told(
    verified: &Verified,
    published: Result<Replayable<Published>, Failure>,
) -> Result<Replayable<Published>, Failure> {
    match &published {
        Ok(Replayable { answer, replayed }) => {
            tracing::info!(bundle = %answer.digest, changed = answer.changed, replayed, "bundle published");
        }
        Err(error) if matches!(error.classify(), (_, ErrorReason::BundleRefused)) => {
            let tenant = verified.engine.tenant().to_string();
            metrics::counter!(names::BUNDLE_REFUSED_TOTAL, "tenant" => tenant).increment(1);
            tracing::error!(%error, "the bundle was refused and the active one stays");
        }
        Err(_) => {}
    }
    published
}

/// Where a page ended: milliseconds, or nothing, and the digest.
fn token((at, digest): ArchivePlace) -> String {
    format!("{}.{digest}", at.map(|at| at.millis().to_string()).unwrap_or_default())
}

fn place(token: &str) -> Result<ArchivePlace, Failure> {
    let read = || {
        let (at, digest) = token.split_once('.')?;
        let at = if at.is_empty() { None } else { Some(Timestamp::from_millis(at.parse().ok()?)) };
        Some((at, Digest::parse(digest).ok()?))
    };
    read().ok_or_else(|| Failure::field("page_token", "not one of this service's"))
}

fn archived(bundle: ArchivedBundle) -> ArchivedMessage {
    let ArchivedBundle { digest, name, revision, activated_at, active } = bundle;
    let activated_at = activated_at.map(timestamp);
    ArchivedMessage { digest: digest.to_string(), name, revision, activated_at, active }
}

fn shadow(report: ShadowReport) -> GetShadowResponse {
    let ShadowReport { digest, name, revision, refused, compared_with, since, same, different, skipped, differences } =
        report;
    GetShadowResponse {
        digest: digest.to_string(),
        name,
        revision,
        compared_with: compared_with.map(|digest| digest.to_string()).unwrap_or_default(),
        since: since.map(timestamp),
        same,
        different,
        skipped,
        differences: differences.into_iter().map(difference).collect(),
        refused: refused.unwrap_or_default(),
    }
}

fn difference(difference: Difference) -> ShadowDifference {
    let Difference { operation, verdict, determining, shadow_verdict, shadow_determining, count, examples } =
        difference;
    let example = |Example { decision, at, principal, resource }: Example| ShadowExample {
        decision_id: decision.to_string(),
        decided_at: Some(timestamp(at)),
        principal: Some(entity(&principal)),
        resource: Some(entity(&resource)),
    };
    ShadowDifference {
        operation,
        verdict: verdict.to_owned(),
        determining_policies: determining,
        shadow_verdict: shadow_verdict.to_owned(),
        shadow_determining_policies: shadow_determining,
        count,
        examples: examples.into_iter().map(example).collect(),
    }
}

fn finding(finding: &countersign_policy::Finding) -> Finding {
    Finding {
        file: finding.file.clone(),
        line: u32::try_from(finding.line).unwrap_or(0),
        column: u32::try_from(finding.column).unwrap_or(0),
        message: finding.message.clone(),
        hint: finding.hint.clone().unwrap_or_default(),
    }
}
