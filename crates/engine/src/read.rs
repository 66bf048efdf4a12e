//! What callers may look at.

use std::sync::Arc;

use countersign_core::approval::{Approval, ApprovalState, Tally};
use countersign_core::capability::Capability;
use countersign_core::pre_approval::Bounds;
use countersign_core::restraint::CoolDown;
use countersign_core::session::Session;
use countersign_core::{Action, ApprovalId, EntityRef, SessionId, Timestamp, TokenId};
use countersign_store::repository::{Stored, Value};
use countersign_store::{Kernel, Key};

use crate::access::Looked;
use crate::engine::{Call, Engine, Scene};
use crate::error::Error;
use crate::judge::{answer_query, answerers};
use crate::pre_approve::offered;
use crate::session::is_party;
use crate::vote::Question;

/// An approval request as somebody is shown it.
#[derive(Debug, Clone)]
pub struct ApprovalView {
    /// The request.
    pub approval: Stored<Approval>,
    /// The action, read back from the bytes that are shown.
    pub action: Action,
    /// What it is now.
    pub state: ApprovalState,
    /// How far each rule is, under the policies of now.
    pub tally: Vec<Tally>,
    /// Within which bounds each rule can be pre-approved now.
    pub offers: Vec<Option<Bounds>>,
    /// When its session ended, or will.
    pub session_over_at: Timestamp,
    /// The session that it dies with, and those above that.
    pub lineage: Vec<SessionId>,
    /// The person who looks, if one does, acting directly.
    pub viewer: Option<EntityRef>,
    /// Whether the viewer could vote on it now.
    pub may_answer: bool,
    /// Who could answer now.
    pub answerers: Vec<EntityRef>,
    /// The cool-down that a deny of it began, while it holds.
    pub cool_down: Option<CoolDown>,
}

/// A page, and the last id that was looked at, if there may be more.
#[derive(Debug, Clone)]
pub struct Paged<T, I> {
    /// What the caller may see of it.
    pub items: Vec<T>,
    /// Where the next page begins.
    pub next: Option<I>,
}

impl<K: Kernel> Engine<K> {
    /// One approval request.
    ///
    /// # Errors
    /// [`Error::ApprovalNotFound`], also if the caller may not know of it.
    pub async fn approval(&self, call: &Call, id: ApprovalId) -> Result<ApprovalView, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            let question = self.question(id).await?;
            self.seen(scene, question, true).await?.ok_or(Error::ApprovalNotFound)
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    /// The requests that the caller may see, newest first, of at most `limit` that are looked at.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn approvals(
        &self,
        call: &Call,
        before: Option<ApprovalId>,
        limit: usize,
    ) -> Result<Paged<ApprovalView, ApprovalId>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            let before = before.map(|id| Key::approval(self.tenant(), &id));
            let page = self.repo.newest::<Approval>(before.as_ref(), limit).await?;
            let next = page.next.and(page.values.last()).map(|last| last.value.id);
            let mut items = Vec::new();
            for approval in page.values {
                let question = self.question_of(approval).await?;
                items.extend(self.seen(scene, question, false).await?);
            }
            Ok(Paged { items, next })
        };
        self.settle(call, None, attempt).await
    }

    /// The sessions that the caller is part of, newest first, of at most `limit` that are looked at.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn sessions(
        &self,
        call: &Call,
        before: Option<SessionId>,
        limit: usize,
    ) -> Result<Paged<Stored<Session>, SessionId>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            let before = before.map(|id| Key::session(self.tenant(), &id));
            let may = |session: &Session| Ok(is_party(scene, session) || self.may_read_log(scene)?);
            let Paged { items, next } = self.page(before, limit, |session: &Session| session.id, may).await?;
            let mut sessions = Vec::with_capacity(items.len());
            for session in items {
                sessions.push(self.lineage_of(session).await?.stored());
            }
            Ok(Paged { items: sessions, next })
        };
        self.settle(call, None, attempt).await
    }

    /// The capabilities of a session that the caller may see, newest first, of at most `limit` that are looked at.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn capabilities(
        &self,
        call: &Call,
        session: SessionId,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<Paged<Stored<Capability>, TokenId>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            let before = before.map(|id| Key::capability(self.tenant(), &id));
            let keep = |c: &Capability| Ok(c.grant.session == session && self.may_see(scene, c)?);
            let mut page = self.page(before, limit, |c: &Capability| c.grant.id, keep).await?;
            page.items.iter_mut().for_each(|capability| self.cut_capability(&mut capability.value));
            Ok(page)
        };
        self.settle(call, None, attempt).await
    }

    async fn page<T: Value, I>(
        &self,
        before: Option<Key>,
        limit: usize,
        id: impl Fn(&T) -> I,
        keep: impl Fn(&T) -> Result<bool, Error>,
    ) -> Result<Paged<Stored<T>, I>, Error> {
        let page = self.repo.newest::<T>(before.as_ref(), limit).await?;
        let next = page.next.and(page.values.last()).map(|last| id(&last.value));
        let mut items = Vec::new();
        for stored in page.values {
            if keep(&stored.value)? {
                items.push(stored);
            }
        }
        Ok(Paged { items, next })
    }

    /// How the caller sees a request, if they may know of it.
    pub(crate) async fn seen(
        &self,
        scene: &Scene,
        question: Question,
        with_answerers: bool,
    ) -> Result<Option<ApprovalView>, Error> {
        let Question { approval, action, .. } = &question;
        let rules = |person| self.answerable_rules(scene, &approval.value, action, person, scene.claimed());
        let rules = scene.caller.as_person().map(rules);
        let may_answer = rules.is_some_and(|rules| rules.contains(&true));
        if !self.visible_if(scene, &approval.value, action, may_answer) {
            return Ok(None);
        }
        self.view(scene, question, may_answer, with_answerers).await.map(Some)
    }

    /// How the caller sees a request. Naming everybody who could answer takes time, so lists do not.
    async fn view(
        &self,
        scene: &Scene,
        question: Question,
        may_answer: bool,
        with_answerers: bool,
    ) -> Result<ApprovalView, Error> {
        let now = scene.now;
        let cool_down = self.cool_down_of(&question, scene).await?;
        let state = question.state(now);
        let may_answer = !state.is_terminal() && may_answer;
        let Question { approval, action, session } = question;
        let session_over_at = session.value.over_at();
        let lineage = session.ids().collect();
        let look = scene.view();
        let query = answer_query(&action, &approval.value.excluded, Some(approval.value.created_at), now);
        let place = |rule: &str| approval.value.rules.iter().position(|asked| asked.id == rule);
        let tally = approval.value.tally(&approval.value.rules, &approval.value.excluded, |rule, vote| {
            let rules = self.answerable_rules(scene, &approval.value, &action, &vote.person, vote.groups_at(now));
            place(rule).and_then(|place| rules.get(place).copied()).unwrap_or(false)
        });
        let answerers = if with_answerers && !state.is_terminal() {
            answerers(look, approval.value.rules.iter().map(|rule| rule.id.as_str()), &query)
        } else {
            Vec::new()
        };
        let viewer = scene.caller.as_person().cloned();
        let offers = offered(look, &approval.value);
        Ok(ApprovalView {
            approval,
            action,
            state,
            tally,
            offers,
            session_over_at,
            lineage,
            viewer,
            may_answer,
            answerers,
            cool_down,
        })
    }

    /// One request, for a caller that has just changed it and may have lost sight of it by that.
    ///
    /// # Errors
    /// [`Error::ApprovalNotFound`].
    pub async fn changed_approval(&self, call: &Call, id: ApprovalId) -> Result<ApprovalView, Error> {
        let scene = self.scene(call)?;
        let question = self.question(id).await?;
        let may_answer = self.may_answer(&scene, &question.approval.value, &question.action);
        self.view(&scene, question, may_answer, false).await
    }

    /// One request, for a watcher: without naming who could answer, and without a record of a refusal, because nobody asked for it
    /// anew. What is told is to be counted.
    pub(crate) async fn glance(&self, call: &Call, id: ApprovalId) -> Result<(ApprovalView, Looked), Error> {
        let scene = self.scene(call)?;
        let question = self.shared_question(id).await?;
        let view = self.seen(&scene, Arc::unwrap_or_clone(question), false).await?.ok_or(Error::ApprovalNotFound)?;
        Ok((view, scene.looked))
    }
}
