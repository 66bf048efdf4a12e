//! Conditions change while a request waits, and until it is spent: policies, groups, owners, resources. Nobody has to look for
//! the requester and the approvers to be told: what a request rests on is judged again whenever it changes.
//!
//! Nothing rests on this being done, or being done soon: a vote, a mint and a redeem judge by what holds then. It only spares
//! people a question that leads nowhere, and a requester the wait for it.
//!
//! And a question that nobody answers escalates: others are told, whom the `approve` policies let answer after that time. Nothing
//! is ever approved by silence.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use countersign_core::approval::{Approval, ApprovalState, AskingRule, Changed, Tally, VoidCause};
use countersign_core::ledger::Standing;
use countersign_core::{Action, ApprovalId, Digest, EntityRef, Timestamp, Value};
use countersign_policy::{Reads, View};
use countersign_store::repository::{CommitExt, stored};
use countersign_store::{Kernel, Key, Kind, Prefix, Revision, StoreError};
use futures::StreamExt;
use tokio::time::MissedTickBehavior;

use crate::ask::{asks_the_same, still_good};
use crate::engine::{Active, Engine, enforcement_point};
use crate::error::Error;
use crate::judge::{Facts, Ruling, asked, count, judge_for_any_holder};
use crate::ledger::unseen;
use crate::lineage::RestingOn;
use crate::pre_approve;
use crate::record::{Event, record};
use crate::vote::Question;

/// How often a request is judged anew because others changed it meanwhile; then it waits for the next look.
const MAX_ATTEMPTS: usize = 16;
/// How often it is looked for requests that are over by time, and for those that could not be judged.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What a request was found good on: as long as the same bundle decides, these entities are the same, and so are the groups that
/// credentials add, it is.
#[derive(Debug, Clone)]
pub struct Grounds {
    bundle: Digest,
    /// The revocation epoch in which it was looked at.
    epoch: u64,
    reads: BTreeMap<EntityRef, Option<u64>>,
    /// What is kept of its session and of those who act in it.
    ledgers: Vec<(Key, Option<Revision>)>,
    /// When the first of the credentials expires whose groups count for it.
    fades_at: Option<Timestamp>,
}

impl Grounds {
    fn still_hold(&self, active: &Active) -> bool {
        self.bundle == active.bundle.digest() && active.view().still(&self.reads)
    }

    fn rest_on(&self, ledger: &Key, written: Revision) -> bool {
        self.ledgers.iter().any(|(key, read)| key == ledger && *read != Some(written))
    }

    fn have_faded(&self, now: Timestamp) -> bool {
        self.fades_at.is_some_and(|at| now.reached(at))
    }
}

/// A live request, as far as it has to be looked after.
#[derive(Debug)]
struct Watched {
    expires_at: Timestamp,
    escalates_at: Option<Timestamp>,
    /// On what it was found good, if it was judged.
    grounds: Option<Grounds>,
}

impl Watched {
    /// When something is to be done about it, though nothing changes.
    fn due_at(&self) -> Option<Timestamp> {
        let fades_at = self.grounds.as_ref().and_then(|grounds| grounds.fades_at);
        self.escalates_at.into_iter().chain(fades_at).min()
    }
}

type Live = BTreeMap<ApprovalId, Watched>;

impl<K: Kernel> Engine<K> {
    /// Looks after live requests: makes those void whose conditions have changed, and tells others when nobody answers. Runs
    /// until it is dropped, or the store fails; what was due meanwhile is done by the next run.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::ClockJumped`].
    pub async fn follow_conditions(&self) -> Result<(), Error> {
        let mut activated = self.activated.subscribe();
        let mut changes = pin!(self.repo.kernel().watch(&Prefix::kind(self.tenant(), Kind::Approval), Revision::ZERO));
        let mut kept = pin!(self.repo.kernel().watch(&Prefix::kind(self.tenant(), Kind::Ledger), Revision::ZERO));
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut live = Live::new();
        loop {
            let now = self.now()?;
            let next = live.values().filter_map(Watched::due_at).min();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep(at.since(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.next() => {
                    let change = change.ok_or(StoreError::ShutDown)??;
                    let Some(row) = change.row else { continue };
                    let approval = stored::<Approval>(&change.key, &row)?.value;
                    live.remove(&approval.id);
                    if !approval.state(now).is_terminal() {
                        let (expires_at, escalates_at) = (approval.expires_at(), approval.escalates_at(now));
                        live.insert(approval.id, Watched { expires_at, escalates_at, grounds: None });
                        self.reconsider_all(&mut live, Some(approval.id)).await?;
                    }
                }
                // Whoever acts in the session of a request may have labels now that people were not shown.
                kept = kept.next() => {
                    let kept = kept.ok_or(StoreError::ShutDown)??;
                    let Some(row) = kept.row else { continue };
                    self.reconsider_resting(&mut live, &kept.key, row.revision).await?;
                }
                // The engine keeps the sender, so this does not fail.
                _changed = activated.changed() => self.reconsider_all(&mut live, None).await?,
                () = due => {
                    self.escalate_all(&mut live).await?;
                    self.reconsider_faded(&mut live).await?;
                }
                _tick = look_again.tick() => {
                    live.retain(|_, watched| !now.reached(watched.expires_at));
                    self.reconsider_all(&mut live, None).await?;
                }
            }
        }
    }

    /// Tells of every request that nobody has answered for long enough.
    async fn escalate_all(&self, live: &mut Live) -> Result<(), Error> {
        let now = self.now()?;
        let due = live.iter().filter(|(_, watched)| watched.escalates_at.is_some_and(|at| now.reached(at)));
        let due: Vec<ApprovalId> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.escalate(id).await?;
            // Its change says when the next is due, if one is.
            if let Some(watched) = live.get_mut(&id) {
                watched.escalates_at = None;
            }
        }
        Ok(())
    }

    /// Judges again what rested on a ledger that was written.
    async fn reconsider_resting(&self, live: &mut Live, ledger: &Key, written: Revision) -> Result<(), Error> {
        let resting = |watched: &Watched| watched.grounds.as_ref().is_some_and(|it| it.rest_on(ledger, written));
        let ids: Vec<ApprovalId> = live.iter().filter(|(_, watched)| resting(watched)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(watched) = live.get_mut(&id) {
                watched.grounds = None;
            }
            self.reconsider_all(live, Some(id)).await?;
        }
        Ok(())
    }

    /// Judges again what rested on groups that a credential said that has expired.
    async fn reconsider_faded(&self, live: &mut Live) -> Result<(), Error> {
        let now = self.now()?;
        let faded = |watched: &Watched| watched.grounds.as_ref().is_some_and(|grounds| grounds.have_faded(now));
        let ids: Vec<ApprovalId> = live.iter().filter(|(_, watched)| faded(watched)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(watched) = live.get_mut(&id) {
                watched.grounds = None;
            }
            self.reconsider_all(live, Some(id)).await?;
        }
        Ok(())
    }

    /// Tells others that nobody has answered a request, if it is time.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::ClockJumped`], [`Error::ApprovalNotFound`].
    pub async fn escalate(&self, id: ApprovalId) -> Result<(), Error> {
        for _attempt in 0..MAX_ATTEMPTS {
            let question = self.question(id).await?;
            let now = self.now()?;
            let lapses = question.lapses_at(now);
            let over = question.state(now).is_terminal();
            let Question { mut approval, session, .. } = question;
            if over || !approval.value.escalate(now) {
                return Ok(());
            }
            let event = Event::ApprovalEscalated { approval: id };
            let commit = self.lasting(lapses).resting_on(&session).update(&approval);
            let commit = self.telling(commit, &event, None, now)?;
            let commit = commit.record(record(self.tenant(), now, None, None, event));
            match self.repo.kernel().commit(commit).await.map_err(Error::from) {
                Ok(_) => return Ok(()),
                Err(Error::Contention) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
        // Whoever keeps changing it knows of it.
        Ok(())
    }

    /// Judges again what rests on something that changed: all, or only one.
    async fn reconsider_all(&self, live: &mut Live, only: Option<ApprovalId>) -> Result<(), Error> {
        let ids: Vec<ApprovalId> = only.map_or_else(|| live.keys().copied().collect(), |only| vec![only]);
        for id in ids {
            let Ok(active) = self.active() else { return Ok(()) };
            let known = live.get_mut(&id).and_then(|watched| watched.grounds.as_mut());
            if let Some(grounds) = known.filter(|grounds| grounds.still_hold(&active)) {
                let epoch = active.row.value.revocation_epoch;
                if grounds.epoch == epoch || !self.question(id).await?.state(self.now()?).is_terminal() {
                    grounds.epoch = epoch;
                    continue;
                }
            }
            match (self.reconsider(id).await?, live.get_mut(&id)) {
                (Reconsidered::Good(grounds), Some(watched)) => watched.grounds = Some(grounds),
                (Reconsidered::Contended, _) | (_, None) => {}
                (Reconsidered::Over, Some(_)) => drop(live.remove(&id)),
            }
            // There may be thousands.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Judges one request by what holds now. It is void if it leads nowhere any more.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::ClockJumped`], [`Error::NoBundle`], [`Error::ApprovalNotFound`].
    pub async fn reconsider(&self, id: ApprovalId) -> Result<Reconsidered, Error> {
        for _attempt in 0..MAX_ATTEMPTS {
            let (active, now) = (self.active()?, self.now()?);
            let reads = Reads::default();
            let question = self.question(id).await?;
            let state = question.state(now);
            if let ApprovalState::Void { why: cause @ VoidCause::Revoked { .. } } = &state {
                match self.keep_cut(&question, cause, now).await {
                    Err(Error::Contention) => continue,
                    kept => kept?,
                }
            }
            if state == (ApprovalState::Void { why: VoidCause::SessionOver }) {
                // If it was cut off, nobody has told that. Nobody may be watching.
                let _watchers = self.ended.send(question.session.value.id);
            }
            if state.is_terminal() {
                return Ok(Reconsidered::Over);
            }
            let (rules, session) = (active.bundle.kept(), &question.session.value);
            let ledgers = self.ledgers(rules, session, now).await?;
            let standing = ledgers.standing(rules, session, None, now);
            let view = active.bundle.with(&active.entities, Some(&reads));
            let Some(changed) = question.changed(&standing, view, now)? else {
                let fades_at = question.fades_at(now);
                return Ok(Reconsidered::Good(Grounds {
                    bundle: active.bundle.digest(),
                    epoch: active.row.value.revocation_epoch,
                    reads: reads.all(),
                    ledgers: ledgers.rows(self.tenant()),
                    fades_at,
                }));
            };
            let lapses = question.lapses_at(now);
            let Question { mut approval, session, .. } = question;
            let cause = VoidCause::ConditionsChanged { changed: Some(changed) };
            approval.value.void(cause.clone(), now)?;
            let event = Event::ApprovalVoid { approval: id, cause: &cause };
            let commit = self.lasting(lapses).unchanged(&active.row).resting_on(&session).update(&approval);
            let commit = self.telling(self.bound(&active, &reads, commit), &event, None, now)?;
            let commit = commit.record(record(self.tenant(), now, None, None, event));
            match self.repo.kernel().commit(commit).await.map_err(Error::from) {
                Ok(_) => return Ok(Reconsidered::Over),
                Err(Error::Contention) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
        Ok(Reconsidered::Contended)
    }
}

/// What came of judging a request again.
#[derive(Debug, Clone)]
pub enum Reconsidered {
    /// It can still lead somewhere.
    Good(Grounds),
    /// It is over, now or before.
    Over,
    /// Others kept changing it.
    Contended,
}

impl Question {
    /// Which condition of a live request is not as it was, if one is: the first that makes it lead nowhere.
    fn changed(&self, standing: &Standing, view: View<'_>, now: Timestamp) -> Result<Option<Changed>, Error> {
        let excluded = &self.excluded(view)?;
        let Self { approval, session, action } = self;
        let approval = &approval.value;
        if unseen(approval, standing) {
            return Ok(Some(Changed::Labels));
        }
        if approval.pre_approval().is_some() {
            return pre_approve::changed(self, standing, excluded, view, now);
        }
        let sensitive = view.bundle().sensitive(&action.operation);
        let is_committed = |value: &Value| matches!(value, Value::Commitment(_));
        // Decided now, the action would have another digest, or none.
        let same_form = action.input.iter().all(|(name, value)| sensitive.contains(name) == is_committed(value));
        if !same_form || !view.contains(&enforcement_point(&action.audience)?) {
            return Ok(Some(Changed::Schema));
        }
        // A budget that is used up now, also by what was minted for this very request, may have room again when it is redeemed.
        if action.input.values().any(is_committed) || view.bundle().rests_on_counts(&action.operation) {
            return Ok(partly_changed(approval, action, excluded, view, now));
        }
        let Ok(session) = session.value.require_open(now) else { return Ok(None) };
        let canonical = &action.canonical()?;
        let facts = Facts { view, session, action, canonical, approval: None, standing, excluded, holder: None, now };
        Ok(match judge_for_any_holder(facts).map(|judgement| judgement.ruling) {
            Err(Error::InvalidField { .. }) => Some(Changed::Schema),
            Err(error) => return Err(error),
            Ok(Ruling::Deny { .. }) => Some(Changed::Denied),
            Ok(Ruling::Allow(_unused)) => Some(Changed::Allowed),
            Ok(Ruling::NeedsApproval(rules)) if !asks_the_same(approval, &rules) => Some(Changed::Rules),
            Ok(Ruling::NeedsApproval(_)) => (!still_good(approval, facts)).then_some(Changed::Votes),
        })
    }
}

/// As [`Question::changed`], as far as it can be told without the inputs that only whoever asks has: the rules, and the votes.
pub(crate) fn partly_changed(
    approval: &Approval,
    action: &Action,
    excluded: &BTreeSet<EntityRef>,
    view: View<'_>,
    now: Timestamp,
) -> Option<Changed> {
    let asks = |rule: &AskingRule| view.bundle().asking(&rule.id).is_some_and(|now| asked(now) == *rule);
    if !approval.rules.iter().all(asks) || !pre_approve::stands(view, approval) {
        return Some(Changed::Rules);
    }
    let approved = approval.state(now) == ApprovalState::Approved;
    let met = || count(view, action, excluded, now, approval).iter().all(Tally::met);
    (approved && !met()).then_some(Changed::Votes)
}
