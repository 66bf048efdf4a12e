//! Revocation by every axis: a capability, an approval, a session; a principal, an operator, a bundle, or everything at once.
//!
//! The first three are changes of one row, which every redeem that rests on it guards. The wider ones raise the tenant's
//! revocation epoch: its row is guarded by whatever authorizes, so once a revocation is acknowledged, no commit that was judged
//! without it takes effect (I6). What was revoked so is in memory, beside the bundle that decides, and never older than the row
//! that it was read with: looking it up costs no read. What is revoked is what came to be before. What is decided afterwards, by
//! the policies of then, is not; it is policies that ban.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_core::approval::{Approval, VoidCause};
use countersign_core::capability::Capability;
use countersign_core::session::Session;
use countersign_core::{ApprovalId, Axis, EntityRef, Revocation, RevocationId, SessionId, Timestamp, TokenId};
use countersign_policy::AdminAction;
use countersign_store::repository::{CommitExt, Stored};
use countersign_store::revoked::RevokedExt;
use countersign_store::{Commit, Kernel, Key};
use serde::{Deserialize, Serialize};

use crate::ask::{check_text, require_request_id};
use crate::engine::{Active, Call, Engine, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::lineage::RestingOn;
use crate::pre_approve;
use crate::record::{Event, record};
use crate::revoke::MAX_REASON;
use crate::tidings::Tidings;
use crate::vote::{Question, is_party};

/// So often within [`OWN_WITHIN`] somebody revokes all that is their own without a permission: everybody else's decisions are
/// made again each time.
const OWN_TIMES: usize = 6;
/// See [`OWN_TIMES`].
const OWN_WITHIN: Duration = Duration::from_secs(60 * 60);
/// How many callers are remembered for that. Beyond, those who revoke their own need a permission.
const MAX_CALLERS: usize = 10_000;

/// What an engine keeps about revocations beside the store.
#[derive(Debug, Default)]
pub(crate) struct Revoking {
    /// What is told of revocations.
    pub(crate) tidings: Tidings,
    own: Mutex<BTreeMap<EntityRef, Vec<Timestamp>>>,
}

impl Revoking {
    /// Whether somebody may revoke their own once more.
    fn own_once_more(&self, who: &EntityRef, now: Timestamp) -> bool {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() >= MAX_CALLERS {
            own.retain(|_, times| times.iter().any(|at| counts(*at, now)));
        }
        let times = own.get(who).map_or(0, |times| times.iter().filter(|at| counts(**at, now)).count());
        times < OWN_TIMES && (own.len() < MAX_CALLERS || own.contains_key(who))
    }

    /// Somebody has. Whoever asked before whether they may had the turn, and still has.
    fn own_revoked(&self, who: &EntityRef, now: Timestamp) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let times = own.entry(who.clone()).or_default();
        times.retain(|at| counts(*at, now));
        times.push(now);
    }
}

/// Whether somebody who revoked their own at a moment did so of late.
fn counts(at: Timestamp, now: Timestamp) -> bool {
    !now.reached(at.plus(OWN_WITHIN))
}

/// What was revoked, and where that is in the order of what is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// What.
    pub axis: Axis,
    /// Whoever was told everything up to here was told of it.
    pub sequence: u64,
}

/// What is kept under the request id of a revocation by a wider axis.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Cut {
    epoch: u64,
}

/// What is kept under the request id of the revocation of an approval.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Void {
    approval: ApprovalId,
}

impl<K: Kernel> Engine<K> {
    /// Makes worthless whatever an axis names, as far as it came to be before. Once this returns, no redeem of it commits.
    ///
    /// Whoever it belongs to may: the parties of a capability, an approval and a session; a principal for itself, a person for
    /// what is done for them. Others need the `revoke` policies, of a session the `endSession` ones, and of a bundle or everything
    /// `revokeAll`.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], and what the axis's own use case refuses.
    pub async fn revoke_all(&self, call: &Call, axis: &Axis, reason: &str) -> Result<Replayable<Revoked>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, check_text("reason", reason, 1, MAX_REASON)).await?;
        let revoked =
            |sequence: u64, replayed| Ok(Replayable { answer: Revoked { axis: axis.clone(), sequence }, replayed });
        match axis {
            Axis::Capability(id) => {
                let done = self.revoke(call, *id, reason).await?;
                revoked(self.peek(*id).await?.revision.get(), done.replayed)
            }
            Axis::Session(id) => {
                let done = self.end_session_for(call, *id, Some(reason)).await?;
                revoked(done.answer.revision.get(), done.replayed)
            }
            Axis::Approval(id) => {
                let done = self.revoke_approval(call, *id, reason).await?;
                let row = self.repo.approval(*id).await?.ok_or(Error::ApprovalNotFound)?;
                revoked(row.revision.get(), done.replayed)
            }
            Axis::Principal(_) | Axis::Operator(_) | Axis::Bundle(_) | Axis::Everything => {
                let Replayable { answer: Cut { epoch }, replayed } = self.cut(call, axis, reason).await?;
                let row = self.repo.kernel().get(&Key::revoked(self.tenant(), epoch)).await?;
                revoked(row.map_or(0, |row| row.revision.get()), replayed)
            }
        }
    }

    async fn revoke_approval(&self, call: &Call, id: ApprovalId, reason: &str) -> Result<Replayable<Void>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(done) = self.replay::<Void>(scene).await? {
                return Ok(Replayable::replayed(done));
            }
            let question = self.question(id).await?;
            let (approval, action) = (&question.approval.value, &question.action);
            let own = is_party(scene, approval, action);
            if !own && !pre_approve::may_revoke_of(self, scene, &approval.principal) {
                // Whoever may not end it need not learn that it is there.
                return Err(Error::ApprovalNotFound);
            }
            question.require_live(scene.now)?;
            let lapses = question.lapses_at(scene.now);
            let Question { mut approval, session, .. } = question;
            let cause = VoidCause::Revoked { by: scene.caller.entity.clone() };
            approval.value.void(cause.clone(), scene.now)?;
            let commit = self.lasting(lapses).resting_on(&session).update(&approval);
            let commit = self.noting(scene, commit, Event::ApprovalVoid { approval: id, cause: &cause })?;
            let (axis, bundle) = (&Axis::Approval(id), scene.active.bundle.digest());
            let event = Event::Revocation { axis, reason, epoch: None, determining: &[], bundle };
            self.commit(scene, commit, event, &Void { approval: id }).await?;
            Ok(Replayable::fresh(Void { approval: id }))
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    async fn cut(&self, call: &Call, axis: &Axis, reason: &str) -> Result<Replayable<Cut>, Error> {
        // One after the other, and none while a bundle becomes active or an entity changes: each replaces what decides.
        let attempt = |scene: Scene| async move { self.cut_once(&scene, axis, reason).await };
        let in_turn = || async {
            let turn = self.publishing.lock().await;
            let cut = self.settle(call, Some(&axis.to_string()), attempt).await;
            drop(turn);
            cut
        };
        match in_turn().await {
            // Whoever has the turn cannot catch up with a store that went on without it.
            Err(Error::Contention) => {
                self.catch_up().await?;
                in_turn().await
            }
            settled => settled,
        }
    }

    async fn cut_once(&self, scene: &Scene, axis: &Axis, reason: &str) -> Result<Replayable<Cut>, Error> {
        if let Some(done) = self.replay::<Cut>(scene).await? {
            return Ok(Replayable::replayed(done));
        }
        let determining = self.may_cut(scene, axis).await?;
        let active = &scene.active;
        let mut row = active.row.clone();
        let epoch = row.value.revocation_epoch.saturating_add(1);
        row.value.revocation_epoch = epoch;
        let revocation = Revocation {
            axis: axis.clone(),
            at: scene.now,
            by: Some(scene.caller.entity.clone()),
            reason: Some(reason.to_owned()),
            epoch: Some(epoch),
        };
        let claimed = scene.caller.claimed.as_ref().and_then(|claimed| claimed.lapses_at(scene.now));
        let commit = self.bound(active, &scene.reads, self.lasting([claimed]));
        let commit = commit.update(&row).revoke(epoch, &revocation);
        let bundle = active.bundle.digest();
        let event = Event::Revocation { axis, reason, epoch: Some(epoch), determining: &determining, bundle };
        let committed = self.commit(scene, commit, event, &Cut { epoch }).await?;
        if determining.is_empty() {
            self.revoking.own_revoked(&scene.caller.entity, scene.now);
        }

        let mut revoked = (*active.revoked).clone();
        revoked.insert(revocation);
        self.set_active(Active {
            bundle: Arc::clone(&active.bundle),
            row: Stored { revision: committed.revision, value: row.value },
            entities: active.entities.clone(),
            entity_revision: active.entity_revision,
            revoked: Arc::new(revoked),
        });
        Ok(Replayable::fresh(Cut { epoch }))
    }

    /// By which policies the caller may revoke by a wider axis: none for what is their own.
    async fn may_cut(&self, scene: &Scene, axis: &Axis) -> Result<Vec<String>, Error> {
        let tenant = tenant_entity(self.tenant())?;
        let caller = &scene.caller;
        let (own, action, name) = match axis {
            Axis::Principal(principal) => {
                if !matches!(principal.kind(), "Agent" | "Service" | "Person") {
                    return Err(Error::field("target.principal", "expected an `Agent`, `Service` or `Person`"));
                }
                let own = caller.acts_directly() && caller.entity == *principal;
                (own, AdminAction::Revoke { principal }, "revoke")
            }
            Axis::Operator(operator) => {
                if operator.kind() != "Person" {
                    return Err(Error::field("target.operator", "expected a `Person`"));
                }
                let own = caller.as_person() == Some(operator);
                (own, AdminAction::Revoke { principal: operator }, "revoke")
            }
            Axis::Bundle(digest) => {
                if self.repo.bundle(*digest).await?.is_none() {
                    return Err(Error::BundleNotFound(*digest));
                }
                (false, AdminAction::RevokeAll { tenant: &tenant, bundle: Some(*digest) }, "revokeAll")
            }
            Axis::Everything | Axis::Capability(_) | Axis::Approval(_) | Axis::Session(_) => {
                (false, AdminAction::RevokeAll { tenant: &tenant, bundle: None }, "revokeAll")
            }
        };
        let answer = self.may_administer(scene, action);
        if answer.permitted {
            return Ok(answer.policies);
        }
        if !own {
            return Err(Error::AdministrationDenied { caller: caller.entity.to_string(), action: name });
        }
        if !self.revoking.own_once_more(&caller.entity, scene.now) {
            return Err(Error::LimitReached(format!(
                "{OWN_TIMES} times within an hour all that was one's own was revoked, the most that needs no `revoke` policy; end sessions \
                 one by one, or try again later"
            )));
        }
        Ok(Vec::new())
    }

    /// A session, ended if it is cut off.
    pub(crate) async fn session_row(&self, id: SessionId) -> Result<Option<Stored<Session>>, Error> {
        let mut row = self.repo.session(id).await?;
        if let Some(row) = &mut row {
            self.cut_session(&mut row.value);
        }
        Ok(row)
    }

    /// A capability, revoked if it is cut off.
    pub(crate) async fn capability_row(&self, id: TokenId) -> Result<Option<Stored<Capability>>, Error> {
        let mut row = self.repo.capability(id).await?;
        if let Some(row) = &mut row {
            self.cut_capability(&mut row.value);
        }
        Ok(row)
    }

    /// An approval request, void if it is cut off.
    pub(crate) async fn approval_row(&self, id: ApprovalId) -> Result<Option<Stored<Approval>>, Error> {
        let mut row = self.repo.approval(id).await?;
        if let Some(row) = &mut row {
            self.cut_approval(&mut row.value);
        }
        Ok(row)
    }

    // What decides may be newer by now than what an attempt began with, and then knows of more. Of less it never does, and what
    // is bound to the tenant's row does not commit if there was more. Without a bundle nothing is decided.

    pub(crate) fn cut_session(&self, session: &mut Session) {
        if let Ok(active) = self.active() {
            active.revoked.cut_session(session);
        }
    }

    pub(crate) fn cut_capability(&self, capability: &mut Capability) {
        if let Ok(active) = self.active() {
            active.revoked.cut_capability(capability);
        }
    }

    pub(crate) fn cut_approval(&self, approval: &mut Approval) {
        if let Ok(active) = self.active() {
            active.revoked.cut_approval(approval);
        }
    }

    /// What was read before, as it is by now.
    pub(crate) fn cut_question(&self, question: Arc<Question>) -> Arc<Question> {
        let (mut session, mut approval) = (question.session.clone(), question.approval.clone());
        self.cut_session(&mut session.value);
        self.cut_approval(&mut approval.value);
        if session.value == question.session.value && approval == question.approval {
            return question;
        }
        Arc::new(Question { approval, session, action: question.action.clone() })
    }

    /// Writes into a request's row that it was cut off, for those who look there only, and tells people.
    pub(crate) async fn keep_cut(&self, question: &Question, cause: &VoidCause, now: Timestamp) -> Result<(), Error> {
        let id = question.approval.value.id;
        let row = self.repo.approval(id).await?.ok_or(Error::ApprovalNotFound)?;
        if row.revision != question.approval.revision || row.value.state(now).is_terminal() {
            return Ok(());
        }
        let event = Event::ApprovalVoid { approval: id, cause };
        let commit = Commit::new(self.tenant().clone()).update(&question.approval);
        let commit = self.telling(commit, &event, None, now)?.record(record(self.tenant(), now, None, None, event));
        self.repo.kernel().commit(commit).await.map(drop).map_err(Error::from)
    }

    /// Adds to a commit what is to be told of it: to people, and to those who must forget what they cached.
    pub(crate) fn telling(
        &self,
        commit: Commit,
        event: &Event<'_>,
        by: Option<&EntityRef>,
        now: Timestamp,
    ) -> Result<Commit, Error> {
        let commit = self.outbox.announce(commit, event, by, now)?;
        let Some((axis, reason, epoch)) = revoked(event) else { return Ok(commit) };
        let reason = reason.map(str::to_owned);
        let revocation = Revocation { axis, at: now, by: by.cloned(), reason, epoch };
        Ok(commit.tell_revocation(&RevocationId::generate(), &revocation))
    }
}

impl Scene {
    /// The revocation epoch: what comes to be now carries it.
    pub(crate) fn epoch(&self) -> u64 {
        self.active.row.value.revocation_epoch
    }
}

type What<'a> = (Axis, Option<&'a str>, Option<u64>);

/// What is worthless by an event. Every event stands here, so that a new one does not compile until somebody has decided.
fn revoked<'a>(event: &Event<'a>) -> Option<What<'a>> {
    match event {
        Event::Revoke { capability, reason } => Some((Axis::Capability(*capability), Some(reason), None)),
        Event::SessionEnded { session } => Some((Axis::Session(*session), None, None)),
        Event::ApprovalCancelled { approval } => Some((Axis::Approval(*approval), None, None)),
        // A vote that makes void what was approved; a deny of what was pending takes nothing from anybody.
        Event::Vote { approval, state: "void", .. } | Event::VoteWithdrawn { approval, state: "void", .. } => {
            Some((Axis::Approval(*approval), None, None))
        }
        Event::ApprovalVoid { approval, cause } => match cause {
            VoidCause::Withdrawn { .. } | VoidCause::Denied { .. } | VoidCause::ConditionsChanged { .. } => {
                Some((Axis::Approval(*approval), None, None))
            }
            // Told with the revocation, or the end of the session.
            VoidCause::Revoked { .. } | VoidCause::SessionOver => None,
        },
        Event::Revocation { axis, reason, epoch, .. } => match axis {
            // Its end is told.
            Axis::Session(_) => None,
            Axis::Capability(_)
            | Axis::Approval(_)
            | Axis::Principal(_)
            | Axis::Operator(_)
            | Axis::Bundle(_)
            | Axis::Everything => Some(((*axis).clone(), Some(reason), *epoch)),
        },
        Event::Vote { .. }
        | Event::VoteWithdrawn { .. }
        | Event::Decision { .. }
        | Event::ReviewClosed { .. }
        | Event::SessionOpened { .. }
        | Event::ApprovalRequested { .. }
        | Event::ApprovalExcluded { .. }
        | Event::CoolDownLift { .. }
        | Event::ApprovalEscalated { .. }
        | Event::Redeem { .. }
        // What it was exchanged for is worth what it was.
        | Event::Delegated(_)
        | Event::Complete { .. }
        | Event::OutcomeResolved { .. }
        | Event::BundleActivated { .. }
        | Event::BundleSigned { .. }
        | Event::EntitiesChanged { .. }
        | Event::NotificationRetried { .. }
        | Event::NotificationDropped { .. }
        // What a key signed dies with it, and with a restore everything does: its epochs say so, and what caches is told by the keys.
        | Event::Key { .. }
        | Event::Restored { .. }
        | Event::BackedUp { .. }
        | Event::LogPruned { .. }
        | Event::Refusal { .. }
        | Event::Refusals { .. }
        | Event::Access { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_revokes_their_own_again_and_again_disturbs_nobody() {
        let (revoking, who) = (Revoking::default(), EntityRef::new("Agent", "a").unwrap());
        let now = Timestamp::from_millis(0);
        for _ in 0..OWN_TIMES {
            assert!(revoking.own_once_more(&who, now));
            revoking.own_revoked(&who, now);
        }
        assert!(!revoking.own_once_more(&who, now));
        assert!(revoking.own_once_more(&EntityRef::new("Agent", "b").unwrap(), now));
        assert!(revoking.own_once_more(&who, now.plus(OWN_WITHIN)));
    }
}
