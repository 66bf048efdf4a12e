//! `PolicyService`.

use std::sync::Arc;

use countersign_engine::{BundleInfo, Error, Replayable};
use countersign_policy::Source;
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified, to_its_end};
use super::convert::timestamp;
use super::errors::Failure;
use crate::http::metrics as names;
use crate::proto::ErrorReason;
use crate::proto::policy_service_server::PolicyService;
use crate::proto::{Bundle, Finding, GetBundleRequest, GetBundleResponse, ReloadBundleRequest, ReloadBundleResponse};

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
        let run = |verified: Verified, ReloadBundleRequest { request_id: _ }: ReloadBundleRequest| async move {
            let verified = &verified;
            let dir = verified.bundle_dir.clone();
            let source = tokio::task::spawn_blocking(move || Source::read_dir(&dir))
                .await
                .map_err(|e| Error::Internal(e.to_string()))?
                .map_err(|e| Error::BundleUnreadable(e.to_string()));
            let (engine, call) = (Arc::clone(&verified.engine), verified.call.clone());
            let published = to_its_end(async move { engine.publish(&call, source).await }).await;
            let Replayable { answer, replayed } = published.inspect_err(|error| {
                // Whoever may not publish is refused, and no bundle is.
                if matches!(error.classify(), (_, ErrorReason::BundleRefused)) {
                    let tenant = verified.engine.tenant().to_string();
                    metrics::counter!(names::BUNDLE_REFUSED_TOTAL, "tenant" => tenant).increment(1);
                    tracing::error!(%error, "the bundle was refused and the active one stays");
                }
            })?;
            tracing::info!(bundle = %answer.digest, changed = answer.changed, replayed, "bundle reloaded");
            let warnings = answer.warnings.iter().map(finding).collect();
            Ok(ReloadBundleResponse { bundle: bundle(verified)?, changed: answer.changed, warnings, replayed })
        };
        self.0.handle("ReloadBundle", request, |m| &m.request_id, run).await
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
