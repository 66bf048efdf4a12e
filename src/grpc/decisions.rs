//! `DecisionService`.

use countersign_engine::{Decide, Verdict};
use futures::StreamExt as _;
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified, request_id_of};
use super::convert::{acting, decision, id, operation, optional_id};
use super::errors::{Failure, reason_name};
use super::holder::holder_to_bind;
use crate::http::metrics as names;
use crate::proto::decide_batch_result::Result as ItemResult;
use crate::proto::decision_service_server::DecisionService;
use crate::proto::{
    DecideBatchRequest, DecideBatchResponse, DecideBatchResult, DecideRequest, DecideResponse, ItemError,
};

/// How many items of a batch are decided at once.
const AT_ONCE: usize = 8;

/// Decides.
#[derive(Clone)]
pub struct Decisions(pub Backend);

impl Decisions {
    async fn decide_one(&self, verified: &Verified, message: DecideRequest) -> Result<DecideResponse, Failure> {
        let DecideRequest {
            session_id,
            operation: action,
            audience,
            principal,
            principal_credential,
            approval_id,
            mint,
            request_id: _,
            min_entity_revision,
            holder,
            open,
        } = message;
        let ask = Decide {
            session: id("session_id", &session_id)?,
            operation: operation(action)?,
            audience,
            acting: acting(principal, &principal_credential, &self.0).await?,
            approval: optional_id("approval_id", &approval_id)?,
            mint,
            holder: holder.map(holder_to_bind).transpose()?,
            open,
            entity_revision: Some(min_entity_revision).filter(|revision| *revision > 0),
        };
        let started = std::time::Instant::now();
        let answer = verified.engine.decide(&verified.call, &ask).await?;
        metrics::histogram!(names::DECISION_SECONDS).record(started.elapsed());
        metrics::counter!(names::DECISIONS_TOTAL, "verdict" => verdict_label(&answer.answer.verdict)).increment(1);
        if let (Verdict::Allow { capability: Some(_) }, false) = (&answer.answer.verdict, answer.replayed) {
            metrics::counter!(names::MINTS_TOTAL).increment(1);
        }
        tracing::info!(
            decision = %answer.answer.id, verdict = answer.answer.word(), digest = %answer.answer.digest,
            replayed = answer.replayed, "decided"
        );
        let active = verified.engine.active()?;
        let decided_by = (active.bundle.digest() == answer.answer.bundle).then_some(active.bundle.as_ref());
        Ok(decision(answer, decided_by))
    }

    async fn item(&self, verified: &Verified, item: DecideRequest) -> DecideBatchResult {
        let decided = match request_id_of(&item.request_id, &item) {
            Ok(request) => {
                let mut verified = verified.clone();
                verified.call.request = request;
                self.decide_one(&verified, item).await
            }
            Err(failure) => Err(failure),
        };
        let result = match decided {
            Ok(response) => ItemResult::Response(response),
            Err(failure) => {
                let failure = failure.recorded(&verified.engine, &verified.call).await;
                let (code, reason) = failure.classify();
                let reason = reason_name(reason).to_owned();
                ItemResult::Error(ItemError { code: code.into(), message: failure.told(), reason })
            }
        };
        DecideBatchResult { result: Some(result) }
    }
}

const fn verdict_label(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Deny { .. } => "deny",
        Verdict::NeedsApproval { .. } => "needs_approval",
        Verdict::Allow { .. } => "allow",
    }
}

#[tonic::async_trait]
impl DecisionService for Decisions {
    async fn decide(&self, request: Request<DecideRequest>) -> Result<Response<DecideResponse>, Status> {
        let run = |verified: Verified, message| async move { self.decide_one(&verified, message).await };
        self.0.handle("Decide", request, |m| &m.request_id, run).await
    }

    async fn decide_batch(
        &self,
        request: Request<DecideBatchRequest>,
    ) -> Result<Response<DecideBatchResponse>, Status> {
        let run = |verified: Verified, DecideBatchRequest { items }: DecideBatchRequest| async move {
            let verified = &verified;
            let most = self.0.limits().batch_items;
            if items.is_empty() || items.len() > most as usize {
                return Err(Failure::field("items", format!("expected 1 to {most}")));
            }
            // An item's request id is scoped like a single call's: the same id means the same attempt either way.
            let mut verified = verified.clone();
            verified.call.rpc = "Decide";
            // Some at once, so that their commits share a sync; each on its own, so that none waits for another's failure; not
            // all, so that a batch takes no more than its share from other callers.
            let items = items.into_iter().map(|item| self.item(&verified, item));
            let results = futures::stream::iter(items).buffered(AT_ONCE).collect().await;
            Ok(DecideBatchResponse { results })
        };
        self.0.handle("DecideBatch", request, |_| "", run).await
    }
}
