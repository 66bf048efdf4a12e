//! Asking must not wear people out: budgets, the cool-down after a deny, and how people lift it.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::approval::{Approval, ApprovalError, ApprovalState, Verdict, VoidCause, Vote};
use countersign_core::precedent::{Precedent, Precedents};
use countersign_core::restraint::{AskedOfLate, CoolDown, Denial, RestraintError};
use countersign_core::{Action, ApprovalId, Digest, EntityRef, Timestamp};
use countersign_policy::View;
use countersign_store::repository::{CommitExt, Stored};
use countersign_store::{Commit, Guard, Kernel};

use crate::engine::{Call, Engine, Replayable, Scene};
use crate::error::Error;
use crate::record::Event;
use crate::vote::{Done, Question, may_answer};

/// Who is answerable for a principal: its owner, as the directory has it, or else as its credential says; a person, and whoever
/// has no owner, for themselves.
pub(crate) fn answerable(view: View<'_>, principal: &EntityRef, claimed: Option<&EntityRef>) -> EntityRef {
    view.owner_of(principal).or_else(|| claimed.cloned()).unwrap_or_else(|| principal.clone())
}

impl<K: Kernel> Engine<K> {
    /// Refuses a question while one like it cools down, also if that begins before this commit.
    pub(crate) async fn require_cool(
        &self,
        scene: &Scene,
        owner: &EntityRef,
        action: &Action,
        commit: Commit,
    ) -> Result<Commit, Error> {
        let subject = CoolDown::subject(owner, &action.operation, &action.resource);
        let Some(earlier) = self.repo.cool_down(&subject).await? else {
            return Ok(commit.guard(Guard::Absent(self.repo.cool_down_key(&subject))));
        };
        earlier.value.require_over(scene.now)?;
        Ok(commit.unchanged(&earlier))
    }

    /// Counts a question in the commit that puts it. The one that it replaces does not wait any more.
    pub(crate) async fn spend_budget(
        &self,
        scene: &Scene,
        approval: &Approval,
        operator: Option<&EntityRef>,
        replaces: Option<ApprovalId>,
        commit: Commit,
    ) -> Result<Commit, Error> {
        let stored = self.repo.asked_of_late(&approval.principal, operator).await?;
        let read = stored.as_ref().map(|stored| stored.revision);
        let none = || AskedOfLate::new(approval.principal.clone(), operator.cloned());
        let mut asked = stored.map_or_else(none, |stored| stored.value);
        let mut pending = BTreeSet::new();
        for id in asked.perhaps_pending(scene.now).filter(|id| Some(*id) != replaces) {
            match self.question(id).await {
                Ok(question) if question.state(scene.now) == ApprovalState::Pending => drop(pending.insert(id)),
                // What is gone is not pending.
                Ok(_) | Err(Error::ApprovalNotFound | Error::SessionNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        asked.spend(approval.id, approval.expires_at(), &pending, self.limits.asking, scene.now)?;
        Ok(commit.upsert(&asked, read))
    }

    /// What a deny begins, in the commit of the vote: as long as the longest of the rules says that the voter answered.
    pub(crate) async fn cool_down(
        &self,
        scene: &Scene,
        approval: &Approval,
        action: &Action,
        vote: &Vote,
        commit: Commit,
    ) -> Result<(Commit, Option<CoolDown>), Error> {
        // Requests of the first release do not say who was answerable.
        let Some(owner) = approval.owner.clone() else { return Ok((commit, None)) };
        let bundle = &scene.active.bundle;
        let lasts = vote.rules.iter().filter_map(|rule| bundle.asking(rule)).map(|rule| rule.cooldown).max();
        let subject = CoolDown::subject(&owner, &action.operation, &action.resource);
        let denial = Denial {
            owner,
            operation: action.operation.clone(),
            resource: action.resource.clone(),
            denied: approval.id,
            by: vote.person.clone(),
            excluded: approval.excluded.clone(),
            quorum: approval.rules.iter().map(|rule| rule.quorum).max().unwrap_or_default(),
            lasts: lasts.unwrap_or_default(),
        };
        let earlier = self.repo.cool_down(&subject).await?;
        let Some(down) = CoolDown::start(denial, earlier.as_ref().map(|earlier| &earlier.value), scene.now) else {
            return Ok((commit, None));
        };
        let commit = commit.upsert(&down, earlier.map(|earlier| earlier.revision));
        Ok((commit, Some(down)))
    }

    /// Keeps what a vote answered, if it did, for those who are asked about the same operation on the same resource later.
    /// `before` is what the request was before that vote.
    pub(crate) async fn remember_answer(
        &self,
        approval: &Approval,
        before: &ApprovalState,
        action: &Action,
        now: Timestamp,
        commit: Commit,
    ) -> Result<Commit, Error> {
        let (verdict, by) = match approval.state(now) {
            ApprovalState::Approved => {
                let approved = approval.votes().iter().filter(|vote| vote.verdict == Verdict::Approve);
                (Verdict::Approve, approved.map(|vote| vote.person.clone()).collect())
            }
            ApprovalState::Denied { by } | ApprovalState::Void { why: VoidCause::Denied { by } } => {
                (Verdict::Deny, BTreeSet::from([by]))
            }
            ApprovalState::Pending
            | ApprovalState::Expired
            | ApprovalState::Cancelled { .. }
            | ApprovalState::Void { .. }
            | ApprovalState::Redeemed { .. } => return Ok(commit),
        };
        let answer = Precedent { approval: approval.id, principal: action.principal.clone(), verdict, by, at: now };
        let stored = self.repo.precedents(&action.operation, &action.resource).await?;
        let read = stored.as_ref().map(|stored| stored.revision);
        let none = || Precedents::new(action.operation.clone(), action.resource.clone());
        let mut precedents = stored.map_or_else(none, |stored| stored.value);
        if *before == ApprovalState::Approved {
            precedents.take_back(approval.id);
        }
        precedents.add(answer);
        Ok(commit.upsert(&precedents, read))
    }

    /// Forgets that a request was approved, when somebody takes back what made it so.
    pub(crate) async fn forget_answer(
        &self,
        approval: ApprovalId,
        action: &Action,
        commit: Commit,
    ) -> Result<Commit, Error> {
        let stored = self.repo.precedents(&action.operation, &action.resource).await?;
        let Some(mut precedents) = stored else { return Ok(commit) };
        precedents.value.take_back(approval);
        Ok(commit.update(&precedents))
    }

    /// The cool-down that holds back the same as a denied request now, if there is one.
    pub(crate) async fn cool_down_of(&self, question: &Question, scene: &Scene) -> Result<Option<CoolDown>, Error> {
        Ok(self.stored_cool_down(question, scene).await?.map(|stored| stored.value))
    }

    /// What holds back the same as a denied request, because of its deny or of a later one.
    async fn stored_cool_down(&self, question: &Question, scene: &Scene) -> Result<Option<Stored<CoolDown>>, Error> {
        let (approval, action) = (&question.approval.value, &question.action);
        let Some(owner) = approval.owner.as_ref().filter(|_| approval.was_denied()) else { return Ok(None) };
        let subject: Digest = CoolDown::subject(owner, &action.operation, &action.resource);
        let stored = self.repo.cool_down(&subject).await?;
        Ok(stored.filter(|down| down.value.holds(scene.now)))
    }

    /// The calling person lifts the cool-down that a denied request began. It takes more persons than it would have taken to
    /// approve, each of whom may answer the request's rules; then one may ask again.
    ///
    /// # Errors
    /// [`Error::NotAPerson`]; [`Error::NotAnswering`]; [`Error::ApprovalNotFound`] for whoever may not answer; [`Error::Restraint`].
    pub async fn lift(&self, call: &Call, id: ApprovalId) -> Result<Replayable<ApprovalId>, Error> {
        let lift = |scene: Arc<Scene>| async move {
            let scene = &scene;
            let person = scene.person()?;
            scene.require_answering()?;
            let mut question = self.question(id).await?;
            question.exclude(scene.view())?;
            let stored = self.stored_cool_down(&question, scene).await?;
            let Question { approval, action, .. } = &question;
            if !self.may_answer(scene, &approval.value, action) {
                return Err(if self.visible(scene, &approval.value, action) {
                    ApprovalError::NotEligible(person.clone()).into()
                } else {
                    Error::ApprovalNotFound
                });
            }
            let mut down = stored.ok_or(RestraintError::NotCoolingDown)?;
            if down.value.denied != id {
                return Err(RestraintError::DeniedAgain(down.value.denied).into());
            }
            if down.value.excluded.contains(person) {
                return Err(ApprovalError::NotEligible(person.clone()).into());
            }
            let eligible = |who: &EntityRef, groups: &BTreeSet<EntityRef>| {
                may_answer(scene.view().claiming(who, groups), scene.now, &approval.value, action, who)
            };
            let lifted = down.value.lift(person.clone(), scene.caller.claimed.clone(), eligible, scene.now)?;
            let lapses = [Some(down.value.lapses_at(scene.now))];
            let event = Event::CoolDownLift {
                approval: id,
                person,
                lifted_by: down.value.lifted_by(),
                lifts_needed: down.value.lifts_needed,
                lifted,
                bundle: scene.active.bundle.digest(),
            };
            let commit = self.guarded(scene, lapses).update(&down);
            self.commit(scene, commit, event, &Done { approval: id }).await.map(drop)
        };
        self.change(call, id, lift).await
    }
}
