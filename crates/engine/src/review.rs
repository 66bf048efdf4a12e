//! Reviews of broken glass: who may look at them, and how they are closed.

use std::collections::BTreeSet;

use countersign_core::review::Review;
use countersign_core::{Action, EntityRef, ReviewId};
use countersign_policy::AdminAction;
use countersign_store::repository::{CommitExt, Stored};
use countersign_store::{Kernel, Key};
use serde::{Deserialize, Serialize};

use crate::ask::{check_text, require_request_id};
use crate::caller;
use crate::engine::{Call, Engine, Replayable, Scene, enforcement_point, tenant_entity};
use crate::error::Error;
use crate::read::Paged;
use crate::record::Event;
use crate::vote::MAX_COMMENT;

/// A review as somebody is shown it.
#[derive(Debug, Clone)]
pub struct ReviewView {
    /// The review.
    pub review: Stored<Review>,
    /// The action, read back from the bytes that are kept.
    pub action: Action,
    /// Whether the viewer could close it now.
    pub may_close: bool,
}

/// What is kept under the request id of a call that closed a review.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Done {
    review: ReviewId,
}

impl<K: Kernel> Engine<K> {
    /// One review.
    ///
    /// # Errors
    /// [`Error::ReviewNotFound`], also if the caller may not know of it.
    pub async fn review(&self, call: &Call, id: ReviewId) -> Result<ReviewView, Error> {
        let attempt = |scene: Scene| async move {
            let review = self.repo.review(id).await?.ok_or(Error::ReviewNotFound)?;
            self.seen_review(&scene, review)?.ok_or(Error::ReviewNotFound)
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    /// The reviews that the caller may see, newest first, of at most `limit` that are looked at.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn reviews(
        &self,
        call: &Call,
        before: Option<ReviewId>,
        limit: usize,
    ) -> Result<Paged<ReviewView, ReviewId>, Error> {
        let attempt = |scene: Scene| async move {
            let before = before.map(|id| Key::review(self.tenant(), &id));
            let page = self.repo.newest::<Review>(before.as_ref(), limit).await?;
            let next = page.next.and(page.values.last()).map(|last| last.value.id);
            let mut items = Vec::new();
            for review in page.values {
                items.extend(self.seen_review(&scene, review)?);
            }
            Ok(Paged { items, next })
        };
        self.settle(call, None, attempt).await
    }

    /// The calling person closes a review: somebody else than who broke the glass, and whom the `reviewBreakGlass` policies permit it.
    ///
    /// # Errors
    /// [`Error::NotAPerson`]; [`Error::NotAnswering`]; [`Error::ReviewNotFound`]; [`Error::Glass`];
    /// [`Error::AdministrationDenied`].
    pub async fn close_review(
        &self,
        call: &Call,
        id: ReviewId,
        comment: &str,
    ) -> Result<Replayable<ReviewView>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, check_text("comment", comment, 1, MAX_COMMENT)).await?;
        let attempt = |scene: Scene| async move { self.close_once(&scene, id, comment).await };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    async fn close_once(&self, scene: &Scene, id: ReviewId, comment: &str) -> Result<Replayable<ReviewView>, Error> {
        if let Some(Done { review }) = self.replay(scene).await? {
            let review = self.repo.review(review).await?.ok_or(Error::ReviewNotFound)?;
            let action = action_of(&review.value)?;
            return Ok(Replayable::replayed(ReviewView { review, action, may_close: false }));
        }
        let person = scene.person()?.clone();
        scene.require_answering()?;
        let review = self.repo.review(id).await?.ok_or(Error::ReviewNotFound)?;
        let ReviewView { mut review, action, .. } = self.seen_review(scene, review)?.ok_or(Error::ReviewNotFound)?;
        let excluded = excluded(scene, &review.value, &action)?;
        review.value.close(person, &excluded, comment.to_owned(), scene.now)?;
        let tenant = tenant_entity(self.tenant())?;
        let rules = review.value.lifted();
        let close = reviewing(&tenant, &review.value, &action, &rules, &excluded);
        let permitted = self.administer(scene, close, "reviewBreakGlass")?;

        let mut commit = self.guarded(scene, []).update(&review);
        if let Some(mut broken) = self.repo.broken_glass(&review.value.person).await? {
            broken.value.reviewed(id);
            commit = commit.update(&broken);
        }
        let event = Event::ReviewClosed {
            review: id,
            person: &review.value.person,
            comment,
            determining: &permitted.policies,
            bundle: scene.active.bundle.digest(),
        };
        let committed = self.commit(scene, commit, event, &Done { review: id }).await?;
        review.revision = committed.revision;
        Ok(Replayable::fresh(ReviewView { review, action, may_close: false }))
    }

    /// A review, if the caller may know of it: who broke the glass, who owns what it was broken for, who was passed over, who may
    /// close it, and whoever may read all requests.
    fn seen_review(&self, scene: &Scene, review: Stored<Review>) -> Result<Option<ReviewView>, Error> {
        let action = action_of(&review.value)?;
        let excluded = excluded(scene, &review.value, &action)?;
        let tenant = tenant_entity(self.tenant())?;
        let rules = review.value.lifted();
        let close = reviewing(&tenant, &review.value, &action, &rules, &excluded);
        let reviews = scene.caller.as_person().map(|_| self.may_administer(scene, close)).unwrap_or_default();
        let may_review = reviews.permitted;
        // Who broke the glass is among the excluded.
        let concerns = |person: &EntityRef| excluded.contains(person) || review.value.passed_over.contains(person);
        let visible = scene.caller.as_person().is_some_and(concerns)
            || scene.looks_by(close.name(), &reviews)
            || scene.looks_by("readApprovals", self.reads_all(scene));
        // Whoever is excluded is so by the kernel's policies already.
        let may_close = may_review && review.value.closing().is_none();
        Ok(visible.then_some(ReviewView { review, action, may_close }))
    }
}

fn action_of(review: &Review) -> Result<Action, Error> {
    Action::from_canonical(&review.action).map_err(|e| Error::Internal(e.to_string()))
}

/// Who is excluded from the action, then or now: they only grow.
fn excluded(scene: &Scene, review: &Review, action: &Action) -> Result<BTreeSet<EntityRef>, Error> {
    let point = enforcement_point(&action.audience)?;
    let parties = [&action.principal, &point].into_iter().chain(&action.operator).chain(&action.chain);
    Ok(&caller::excluded(scene.view(), parties) | &review.excluded)
}

const fn reviewing<'a>(
    tenant: &'a EntityRef,
    review: &'a Review,
    action: &'a Action,
    rules: &'a BTreeSet<String>,
    excluded: &'a BTreeSet<EntityRef>,
) -> AdminAction<'a> {
    AdminAction::ReviewBreakGlass {
        tenant,
        person: &review.person,
        operation: action.operation.as_str(),
        rules,
        excluded,
    }
}
