//! `BreakGlassService`.

use countersign_core::review::Closing;
use countersign_engine::{BreakGlass, Broken, Replayable, ReviewView, Verdict};
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified};
use super::convert::{decision, entities, entity_to_wire, id, operation, optional_id, page_size, timestamp};
use super::errors::Failure;
use crate::http::metrics as names;
use crate::proto::break_glass_service_server::BreakGlassService;
use crate::proto::{
    BreakGlassRequest, BreakGlassResponse, CloseReviewRequest, CloseReviewResponse, GetReviewRequest,
    GetReviewResponse, LiftedRule, ListReviewsRequest, ListReviewsResponse, Review, ReviewState,
};

/// Breaks the glass, and has that reviewed.
#[derive(Clone)]
pub struct BreakGlasses(pub Backend);

#[tonic::async_trait]
impl BreakGlassService for BreakGlasses {
    async fn break_glass(&self, request: Request<BreakGlassRequest>) -> Result<Response<BreakGlassResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let BreakGlassRequest { session_id, operation: action, audience, reason, mint, request_id: _ } = message;
            let session = id("session_id", &session_id)?;
            let ask = BreakGlass { session, operation: operation(action)?, audience, reason, mint };
            let Replayable { answer: Broken { decision: decided, review }, replayed } =
                verified.engine.break_glass(&verified.call, &ask).await?;
            if let (Some(review), false) = (review, replayed) {
                metrics::counter!(names::GLASS_BROKEN_TOTAL).increment(1);
                if matches!(decided.verdict, Verdict::Allow { capability: Some(_) }) {
                    metrics::counter!(names::MINTS_TOTAL).increment(1);
                }
                tracing::warn!(%review, decision = %decided.id, digest = %decided.digest, "glass broken");
            }
            let active = verified.engine.active()?;
            let decided_by = (active.bundle.digest() == decided.bundle).then_some(active.bundle.as_ref());
            Ok(BreakGlassResponse {
                decision: Some(decision(Replayable { answer: decided, replayed }, decided_by)),
                review_id: review.map(|id| id.to_string()).unwrap_or_default(),
            })
        };
        self.0.handle("BreakGlass", request, |m| &m.request_id, run).await
    }

    async fn list_reviews(
        &self,
        request: Request<ListReviewsRequest>,
    ) -> Result<Response<ListReviewsResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ListReviewsRequest { page_size: size, page_token, states: wanted } = message;
            let wanted = states(&wanted)?;
            let before = optional_id("page_token", &page_token)?;
            let page = verified.engine.reviews(&verified.call, before, page_size(size, 50, 200)?).await?;
            let reviews = page.items.into_iter().map(review);
            let reviews = reviews.filter(|r| wanted.is_empty() || wanted.contains(&r.state())).collect();
            let next_page_token = page.next.map(|id| id.to_string()).unwrap_or_default();
            Ok(ListReviewsResponse { reviews, next_page_token })
        };
        self.0.handle("ListReviews", request, |_| "", run).await
    }

    async fn get_review(&self, request: Request<GetReviewRequest>) -> Result<Response<GetReviewResponse>, Status> {
        let run = |verified: Verified, GetReviewRequest { review_id }: GetReviewRequest| async move {
            let verified = &verified;
            let view = verified.engine.review(&verified.call, id("review_id", &review_id)?).await?;
            Ok(GetReviewResponse { review: Some(review(view)) })
        };
        self.0.handle("GetReview", request, |_| "", run).await
    }

    async fn close_review(
        &self,
        request: Request<CloseReviewRequest>,
    ) -> Result<Response<CloseReviewResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let CloseReviewRequest { review_id, comment, request_id: _ } = message;
            let id = id("review_id", &review_id)?;
            let Replayable { answer, replayed } = verified.engine.close_review(&verified.call, id, &comment).await?;
            tracing::info!(review = %id, replayed, "review closed");
            Ok(CloseReviewResponse { review: Some(review(answer)), replayed })
        };
        self.0.handle("CloseReview", request, |m| &m.request_id, run).await
    }
}

/// The states of reviews that callers filter by.
fn states(states: &[i32]) -> Result<Vec<ReviewState>, Failure> {
    let state = |number: &i32| match ReviewState::try_from(*number) {
        Ok(ReviewState::Unspecified) | Err(_) => Err(Failure::field("states", "expected known states")),
        Ok(state @ (ReviewState::Open | ReviewState::Closed)) => Ok(state),
    };
    states.iter().map(state).collect()
}

/// A review, for the wire.
fn review(view: ReviewView) -> Review {
    let ReviewView { review, action, may_close } = view;
    let review = review.value;
    let closing = review.closing();
    let state = if closing.is_some() { ReviewState::Closed } else { ReviewState::Open };
    let rules = review.rules.iter().map(|rule| LiftedRule {
        rule_id: rule.id.clone(),
        quorum: rule.quorum,
        reason: rule.reason.clone().unwrap_or_default(),
    });
    Review {
        review_id: review.id.to_string(),
        state: state.into(),
        person: Some(entity_to_wire(&review.person)),
        reason: review.reason.clone(),
        decision_id: review.decision.to_string(),
        capability_id: review.capability.map(|id| id.to_string()).unwrap_or_default(),
        session_id: review.session.to_string(),
        operation: action.operation,
        resource: Some(entity_to_wire(&action.resource)),
        audience: action.audience,
        digest: review.digest.to_string(),
        canonical_action: review.action.clone(),
        rules: rules.collect(),
        passed_over: entities(&review.passed_over),
        more_passed_over: review.more_passed_over,
        excluded: entities(&review.excluded),
        permitted_by: review.permitted_by.clone(),
        bundle_digest: review.bundle.to_string(),
        opened_at: Some(timestamp(review.opened_at)),
        closed_at: closing.map(|Closing { at, .. }| timestamp(at)),
        closed_by: closing.map(|Closing { by, .. }| entity_to_wire(by)),
        comment: closing.map(|Closing { comment, .. }| comment.to_owned()).unwrap_or_default(),
        caller_may_close: may_close,
    }
}
