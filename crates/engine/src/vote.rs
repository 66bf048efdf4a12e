//! Votes: cast, taken back; and the question taken back.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::approval::{Approval, ApprovalError, ApprovalState, Verdict, VoidCause, Vote};
use countersign_core::{Action, ApprovalId, Digest, EntityRef, Timestamp};
use countersign_policy::{AdminAction, Answer, View};
use countersign_store::Kernel;
use countersign_store::kernel::MAX_VALUE_BYTES;
use countersign_store::repository::{CommitExt, Stored, encode};
use serde::{Deserialize, Serialize};

use crate::ask::{check_text, require_request_id};
use crate::caller;
use crate::engine::{Call, Engine, Replayable, Scene, enforcement_point, tenant_entity};
use crate::error::Error;
use crate::judge::{answer_query, answers};
use crate::ledger::unseen;
use crate::lineage::{Lineage, RestingOn};
use crate::pre_approve::{self, USES_ROOM};
use crate::record::Event;
use crate::signed::{self, Signed};

/// The longest comment, in characters.
pub const MAX_COMMENT: usize = 2_000;

/// From so many bytes on, the words of the votes on a request are kept in the log alone.
const ROOMY: usize = MAX_VALUE_BYTES - 12 * 1024;
/// From so many bytes on, a request takes no more approvals, so that there is always room for a deny.
const FULL: usize = MAX_VALUE_BYTES - 4 * 1024;

/// A vote to cast.
#[derive(Debug, Clone)]
pub struct Ballot {
    /// The request.
    pub approval: ApprovalId,
    /// What the person says.
    pub verdict: Verdict,
    /// The digest that was shown.
    pub digest: Digest,
    /// The view that was shown.
    pub view: Digest,
    /// The person's words.
    pub comment: String,
    /// What they signed it with, if they did.
    pub signed: Option<Signed>,
}

/// What is kept under the request id of a call that changed a request.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) approval: ApprovalId,
}

impl<K: Kernel> Engine<K> {
    /// Casts the caller's vote.
    ///
    /// # Errors
    /// [`Error::NotAPerson`] for agents, services and whoever acts for somebody; [`Error::NotAnswering`]; [`Error::Approval`], also if
    /// it is signed and the signature does not hold.
    pub async fn vote(&self, call: &Call, ballot: &Ballot) -> Result<Replayable<ApprovalId>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, check_text("comment", &ballot.comment, 0, MAX_COMMENT)).await?;
        self.change(call, ballot.approval, |scene| async move { self.vote_once(&scene, ballot).await }).await
    }

    async fn vote_once(&self, scene: &Scene, ballot: &Ballot) -> Result<(), Error> {
        let person = scene.person()?.clone();
        scene.require_answering()?;
        let mut question = self.question(ballot.approval).await?;
        let (bundle, view) = (&scene.active.bundle, scene.view());
        // Whoever owned the agent when the question was put stays excluded, and so does whoever owns it now (I2).
        let newly = question.exclude(view)?;
        let lapses = question.lapses_at(scene.now);
        let Question { mut approval, session, action } = question;
        let excluded = approval.value.excluded.clone();
        let query = answer_query(&action, &excluded, Some(approval.value.created_at), scene.now);
        let eligible = |rule: &str, vote: &Vote| answers(view, rule, vote, &query);
        if !self.visible(scene, &approval.value, &action) && !excluded.contains(&person) {
            return Err(ApprovalError::NotEligible(person).into());
        }
        if session.value.require_open(scene.now).is_err() {
            return Err(ApprovalError::State("void: its session is over").into());
        }
        if ballot.verdict == Verdict::Approve {
            let rules = bundle.kept();
            let standing = self.ledgers(rules, &session.value, scene.now).await?;
            let standing = standing.standing(rules, &session.value, None, scene.now);
            if unseen(&approval.value, &standing) {
                return Err(ApprovalError::StaleView.into());
            }
        }
        let signature = signed::check(view, ballot, &person, scene.now)?;
        let statement = signed::statement(ballot, &person, signature.as_ref(), scene.now);
        let before = approval.value.state(scene.now);
        approval.value.vote(
            Vote {
                person: person.clone(),
                account: scene.caller.account.clone(),
                verdict: ballot.verdict,
                rules: BTreeSet::new(),
                digest: ballot.digest,
                view: ballot.view,
                comment: ballot.comment.clone(),
                at: scene.now,
                claimed: scene.caller.claimed.clone(),
                signature: signature.clone(),
                statement: Some(statement),
            },
            eligible,
        )?;

        let uses = approval.value.pre_approval().map_or(0, |_| USES_ROOM);
        if encode(&approval.value).len() > ROOMY - uses {
            approval.value.forget_comments();
        }
        if ballot.verdict == Verdict::Approve && encode(&approval.value).len() > FULL - uses {
            return Err(Error::LimitReached("as many as can have voted on this request; ask again".to_owned()));
        }
        let cast = approval.value.votes().iter().rev().find(|vote| vote.person == person);
        let rules = cast.map(|vote| vote.rules.iter().map(String::as_str).collect()).unwrap_or_default();
        let mut commit = self.guarded(scene, lapses).resting_on(&session).update(&approval);
        commit = self.remember_answer(&approval.value, &before, &action, scene.now, commit).await?;
        let mut cool_down = None;
        if let Some(deny) = cast.filter(|vote| vote.verdict == Verdict::Deny) {
            (commit, cool_down) = self.cool_down(scene, &approval.value, &action, deny, commit).await?;
        }
        let event = Event::Vote {
            approval: approval.value.id,
            person: &person,
            verdict: ballot.verdict,
            digest: ballot.digest,
            view: ballot.view,
            rules,
            comment: &ballot.comment,
            state: approval.value.state(scene.now).word(),
            bundle: bundle.digest(),
            cools_down_until: cool_down.map(|down| down.until),
            seen_at: self.sights.first(approval.value.id, &person),
            signature: signature.as_ref(),
            statement,
            channel: (&scene.call).into(),
        };
        if !newly.is_empty() {
            let event =
                Event::ApprovalExcluded { approval: approval.value.id, excluded: newly, bundle: bundle.digest() };
            commit = commit.record(self.record(scene, event));
        }
        self.commit(scene, commit, event, &Done { approval: ballot.approval }).await.map(drop)
    }

    /// Takes the caller's vote back.
    ///
    /// # Errors
    /// [`Error::NotAPerson`], [`Error::Approval`].
    pub async fn withdraw(&self, call: &Call, id: ApprovalId) -> Result<Replayable<ApprovalId>, Error> {
        let withdraw = |scene: Arc<Scene>| async move {
            let scene = &scene;
            let person = scene.person()?;
            let question = self.question(id).await?;
            question.require_live(scene.now)?;
            let lapses = question.lapses_at(scene.now);
            let Question { mut approval, session, action } = question;
            if !self.visible(scene, &approval.value, &action) {
                return Err(Error::ApprovalNotFound);
            }
            let before = approval.value.state(scene.now);
            approval.value.withdraw(person, scene.now)?;
            let state = approval.value.state(scene.now).word();
            let event = Event::VoteWithdrawn { approval: id, person, state };
            let mut commit = self.lasting(lapses).resting_on(&session).update(&approval);
            if before == ApprovalState::Approved {
                commit = self.forget_answer(id, &action, commit).await?;
            }
            self.commit(scene, commit, event, &Done { approval: id }).await.map(drop)
        };
        self.change(call, id, withdraw).await
    }

    /// Takes the question back: for whoever asked, the principal and its operator. Ends a pre-approval, also one that is approved:
    /// for them, and for whom the `revoke` policies permit.
    ///
    /// # Errors
    /// [`Error::ApprovalNotFound`] for everybody else, [`Error::Approval`].
    pub async fn cancel(&self, call: &Call, id: ApprovalId) -> Result<Replayable<ApprovalId>, Error> {
        let cancel = |scene: Arc<Scene>| async move {
            let scene = &scene;
            let question = self.question(id).await?;
            let (approval, action) = (&question.approval.value, &question.action);
            if !is_party(scene, approval, action) && !pre_approve::may_revoke(self, scene, approval) {
                return Err(Error::ApprovalNotFound);
            }
            question.require_live(scene.now)?;
            let lapses = question.lapses_at(scene.now);
            let Question { mut approval, session, .. } = question;
            approval.value.cancel(scene.caller.entity.clone(), scene.now)?;
            let commit = self.lasting(lapses).resting_on(&session).update(&approval);
            self.commit(scene, commit, Event::ApprovalCancelled { approval: id }, &Done { approval: id })
                .await
                .map(drop)
        };
        self.change(call, id, cancel).await
    }

    /// Changes something about a request, once for each request id. `change` commits, and keeps [`Done`] with it.
    pub(crate) async fn change<F>(
        &self,
        call: &Call,
        id: ApprovalId,
        change: impl Fn(Arc<Scene>) -> F + Send + Sync,
    ) -> Result<Replayable<ApprovalId>, Error>
    where
        F: Future<Output = Result<(), Error>> + Send,
    {
        self.require(call, require_request_id(call)).await?;
        let change = &change;
        let attempt = |scene: Scene| async move {
            if let Some(Done { approval }) = self.replay(&scene).await? {
                return Ok(Replayable::replayed(approval));
            }
            change(Arc::new(scene)).await?;
            Ok(Replayable::fresh(id))
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    /// A request with its session and its action, read back from the bytes that were shown.
    pub(crate) async fn question(&self, id: ApprovalId) -> Result<Question, Error> {
        self.question_of(self.repo.approval(id).await?.ok_or(Error::ApprovalNotFound)?).await
    }

    /// A request that was read, with its session and its action.
    pub(crate) async fn question_of(&self, mut approval: Stored<Approval>) -> Result<Question, Error> {
        let action = pre_approve::action_of(&approval.value)?;
        let session = self.lineage(approval.value.session).await?;
        self.cut_approval(&mut approval.value);
        Ok(Question { approval, session, action })
    }

    /// Whether the caller may know of a request: whoever is part of it, whoever may answer it or has, and whoever may read
    /// all.
    pub(crate) fn visible(&self, scene: &Scene, approval: &Approval, action: &Action) -> bool {
        self.visible_if(scene, approval, action, self.may_answer(scene, approval, action))
    }

    /// As [`Self::visible`], where it is known whether the caller may answer.
    pub(crate) fn visible_if(&self, scene: &Scene, approval: &Approval, action: &Action, may_answer: bool) -> bool {
        let voted = approval.votes().iter().any(|vote| Some(&vote.person) == scene.caller.as_person());
        is_party(scene, approval, action)
            || voted
            || may_answer
            || scene.looks_by("readApprovals", self.reads_all(scene))
            || pre_approve::may_revoke(self, scene, approval)
    }

    /// Whether the caller may read every request.
    pub(crate) fn reads_all<'a>(&self, scene: &'a Scene) -> &'a Answer {
        // It is the same for every request of a list.
        scene.reads_approvals.get_or_init(|| {
            let Ok(tenant) = tenant_entity(self.tenant()) else { return Answer::default() };
            self.may_administer(scene, AdminAction::ReadApprovals { tenant: &tenant })
        })
    }

    /// Whether the caller may answer any rule of a request.
    pub(crate) fn may_answer(&self, scene: &Scene, approval: &Approval, action: &Action) -> bool {
        let view = scene.own_view();
        scene.caller.as_person().is_some_and(|person| may_answer(view, scene.now, approval, action, person))
    }
}

/// Whether a person may answer any rule of a request.
pub(crate) fn may_answer(
    view: View<'_>,
    now: Timestamp,
    approval: &Approval,
    action: &Action,
    person: &EntityRef,
) -> bool {
    let query = answer_query(action, &approval.excluded, Some(approval.created_at), now);
    let mut rules = approval.rules.iter();
    rules.any(|rule| view.may_answer(&rule.id, person, &query).permitted)
}

/// Whoever asked, the principal, and the person it acts for.
pub(crate) fn is_party(scene: &Scene, approval: &Approval, action: &Action) -> bool {
    scene.caller.is_among(action.operator.as_ref(), [&approval.asked_by, &action.principal])
}

/// A request with what it is about.
#[derive(Debug, Clone)]
pub struct Question {
    pub(crate) approval: Stored<Approval>,
    pub(crate) session: Lineage,
    pub(crate) action: Action,
}

impl Question {
    /// Who can never answer, as far as was known before, and by the policies and entities of a moment.
    pub(crate) fn excluded(&self, view: View<'_>) -> Result<BTreeSet<EntityRef>, Error> {
        let point = enforcement_point(&self.action.audience)?;
        let parties = [&self.action.principal, &point, &self.approval.value.asked_by]
            .into_iter()
            .chain(&self.action.operator)
            .chain(&self.action.chain);
        let now = &caller::excluded(view, parties) | &self.session.value.excluded;
        Ok(&now | &self.approval.value.excluded)
    }

    /// Adds whom the policies and entities of a moment exclude, and returns those who were not excluded before.
    pub(crate) fn exclude(&mut self, view: View<'_>) -> Result<BTreeSet<EntityRef>, Error> {
        let excluded = self.excluded(view)?;
        let newly = &excluded - &self.approval.value.excluded;
        self.approval.value.excluded = excluded;
        Ok(newly)
    }

    /// When it, or its session, is over, though nobody does anything.
    pub(crate) fn lapses_at(&self, now: Timestamp) -> [Option<Timestamp>; 2] {
        [self.approval.value.lapses_at(now), self.session.value.lapses_at(now)]
    }

    /// When the first of the credentials expires whose groups it may rest on: its votes', and its principal's.
    pub(crate) fn fades_at(&self, now: Timestamp) -> Option<Timestamp> {
        let claimed = self.session.value.claimed.as_ref().and_then(|claimed| claimed.lapses_at(now));
        self.approval.value.fades_at(now).into_iter().chain(claimed).min()
    }

    /// That something can still happen to the request.
    pub(crate) fn require_live(&self, now: Timestamp) -> Result<(), ApprovalError> {
        let state = self.state(now);
        if state.is_terminal() { Err(self.approval.value.over(&state)) } else { Ok(()) }
    }

    /// What the request is now: one whose session was over while it lived is void, and stays so when its own time is over (I5).
    pub(crate) fn state(&self, now: Timestamp) -> ApprovalState {
        let (approval, over_at) = (&self.approval.value, self.session.value.over_at());
        let state = approval.state(now);
        let lived = matches!(state, ApprovalState::Pending | ApprovalState::Approved | ApprovalState::Expired);
        if lived && now.reached(over_at) && over_at < approval.expires_at() {
            return ApprovalState::Void { why: VoidCause::SessionOver };
        }
        state
    }
}
