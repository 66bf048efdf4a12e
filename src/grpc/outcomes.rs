//! `OutcomeService`.

use countersign_core::capability::{Finding, Resolution};
use countersign_core::{Timestamp, TokenId};
use countersign_engine::{Replayable, Resolve, Unresolved};
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified};
use super::capabilities::after;
use super::convert::{capability, entity_to_wire, id, page_size, timestamp};
use super::errors::Failure;
use crate::proto::outcome_service_server::OutcomeService;
use crate::proto::{
    ListUnresolvedOutcomesRequest, ListUnresolvedOutcomesResponse, OutcomeFinding, OutcomeResolution,
    ResolveOutcomeRequest, ResolveOutcomeResponse, UnresolvedOutcome,
};

/// Lists outcomes that nobody reported, and lets people resolve them.
#[derive(Clone)]
pub struct Outcomes(pub Backend);

/// How an outcome was resolved, for the wire.
pub(super) fn resolution(resolution: &Resolution) -> OutcomeResolution {
    let Resolution { at, by, finding, note, redeemed_by: _ } = resolution;
    OutcomeResolution {
        finding: match finding {
            Finding::Succeeded => OutcomeFinding::Succeeded,
            Finding::Failed => OutcomeFinding::Failed,
            Finding::NeverRan => OutcomeFinding::NeverRan,
        }
        .into(),
        resolved_by: Some(entity_to_wire(by)),
        resolved_at: Some(timestamp(*at)),
        note: note.clone(),
    }
}

fn finding(value: i32) -> Result<Finding, Failure> {
    match OutcomeFinding::try_from(value) {
        Ok(OutcomeFinding::Succeeded) => Ok(Finding::Succeeded),
        Ok(OutcomeFinding::Failed) => Ok(Finding::Failed),
        Ok(OutcomeFinding::NeverRan) => Ok(Finding::NeverRan),
        Ok(OutcomeFinding::Unspecified) | Err(_) => {
            Err(Failure::field("finding", "expected `SUCCEEDED`, `FAILED` or `NEVER_RAN`"))
        }
    }
}

/// A place in the list, as pages name it: when it was due, and the capability.
fn place(token: &str) -> Result<Option<(Timestamp, TokenId)>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    let bad = || Failure::field("page_token", "not one of this service's; leave it out to begin anew");
    let (due, capability) = token.split_once('.').ok_or_else(bad)?;
    let due = due.parse().map_err(|_| bad())?;
    Ok(Some((Timestamp::from_millis(due), id("page_token", capability)?)))
}

#[tonic::async_trait]
impl OutcomeService for Outcomes {
    async fn list_unresolved_outcomes(
        &self,
        request: Request<ListUnresolvedOutcomesRequest>,
    ) -> Result<Response<ListUnresolvedOutcomesResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ListUnresolvedOutcomesRequest { page_size: size, page_token } = message;
            let after = place(&page_token)?;
            let page = verified.engine.unresolved(&verified.call, after, page_size(size, 50, 200)?).await?;
            let now = verified.engine.now()?;
            let outcomes = page.items.iter().map(|Unresolved { capability: stored, may_resolve }| UnresolvedOutcome {
                capability: Some(capability(&stored.value, now)),
                caller_may_resolve: *may_resolve,
            });
            let next = page.next.map(|(due, capability)| format!("{}.{capability}", due.millis()));
            Ok(ListUnresolvedOutcomesResponse {
                outcomes: outcomes.collect(),
                next_page_token: next.unwrap_or_default(),
            })
        };
        self.0.handle("ListUnresolvedOutcomes", request, |_| "", run).await
    }

    async fn resolve_outcome(
        &self,
        request: Request<ResolveOutcomeRequest>,
    ) -> Result<Response<ResolveOutcomeResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ResolveOutcomeRequest { capability_id, finding: found, note, request_id: _ } = message;
            let resolve = Resolve { capability: id("capability_id", &capability_id)?, finding: finding(found)?, note };
            let Replayable { answer, replayed } = verified.engine.resolve(&verified.call, &resolve).await?;
            tracing::info!(capability = %answer, replayed, "outcome resolved");
            Ok(ResolveOutcomeResponse { capability: after(verified, answer).await?, replayed })
        };
        self.0.handle("ResolveOutcome", request, |m| &m.request_id, run).await
    }
}
