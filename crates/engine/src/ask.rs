//! Ask: the question about one action is put to people.

use countersign_core::approval::{Approval, ApprovalState, Asking, Changed, Together, VoidCause};
use countersign_core::pre_approval::Bounds;
use countersign_core::{ApprovalId, EntityRef, PreApproval, SessionId};
use countersign_policy::AskingRule;
use countersign_store::Kernel;
use countersign_store::repository::{CommitExt, Stored, encode};
use serde::{Deserialize, Serialize};

use crate::decide::shortest_ttl;
use crate::engine::{Acting, Call, Engine, Operation, Replayable, Scene};
use crate::error::Error;
use crate::judge::{Facts, Judgement, Ruling, answer_query, answerers, asked, judge_for_any_holder};
use crate::ledger::unseen;
use crate::lineage::RestingOn;
use crate::pre_approve::{self, USES_ROOM, asking};
use crate::record::Event;
use crate::restraint::answerable;

/// How much a question may take as it is kept, in bytes: three quarters of what a row takes.
const MAX_KEPT_BYTES: usize = 48 * 1024;
/// The longest justification, in characters.
pub const MAX_JUSTIFICATION: usize = 2_000;

/// A question to put.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The session.
    pub session: SessionId,
    /// What is to be done.
    pub operation: Operation,
    /// The enforcement point.
    pub audience: String,
    /// Who acts.
    pub acting: Acting,
    /// Why, in the asker's words.
    pub justification: String,
}

/// How a question is put, if not about one action and alone.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct How {
    /// The bounds within which it is about every action like this one.
    pub bounds: Option<Bounds>,
    /// With which others it is put.
    pub batch: Option<Together>,
}

/// What asking led to, as it is kept under the request id.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Asked {
    approval: ApprovalId,
    shared: bool,
}

impl<K: Kernel> Engine<K> {
    /// Puts the question, or finds the same one already pending: an identical digest is one request. What another asker says for
    /// it is shown too, and whoever has voted is asked again.
    ///
    /// # Errors
    /// [`Error::NothingToAsk`] if nobody's answer could make it allowed, or nobody's is needed; [`Error::Restraint`] if the
    /// principal asks too much, or people have just said no.
    pub async fn ask(&self, call: &Call, ask: &Ask) -> Result<Replayable<(ApprovalId, bool)>, Error> {
        self.put(call, ask, How::default()).await
    }

    /// Puts the question about an action, or, within bounds, about every one like it.
    pub(crate) async fn put(&self, call: &Call, ask: &Ask, how: How) -> Result<Replayable<(ApprovalId, bool)>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, check_text("justification", &ask.justification, 1, MAX_JUSTIFICATION)).await?;
        let attempt = |scene: Scene| async move { self.ask_once(&scene, ask, how).await };
        self.settle(call, Some(&ask.session.to_string()), attempt).await
    }

    async fn ask_once(
        &self,
        scene: &Scene,
        ask: &Ask,
        How { bounds, batch }: How,
    ) -> Result<Replayable<(ApprovalId, bool)>, Error> {
        if let Some(Asked { approval, shared }) = self.replay(scene).await? {
            return Ok(Replayable::replayed((approval, shared)));
        }
        let session = self.session_of(scene, ask.session, &ask.acting, &ask.operation.name).await?;
        let open = session.value.require_open(scene.now)?;
        let (action, canonical) = self.action(scene, &session.value, &ask.operation, &ask.audience)?;
        let involved = self.excluded(scene, &session.value, &action)?;
        let kept = scene.active.bundle.kept();
        let ledgers = self.ledgers(kept, &session.value, scene.now).await?;
        let standing = ledgers.standing(kept, &session.value, None, scene.now);
        let facts = Facts {
            standing: &standing,
            view: scene.view(),
            session: open,
            action: &action,
            canonical: &canonical,
            approval: None,
            excluded: &involved,
            holder: None,
            now: scene.now,
        };
        let pre = bounds.map(|bounds| pre_approve::subject(facts, &session.value, bounds)).transpose()?;
        let shown = pre.as_ref().map(PreApproval::canonical).transpose()?;
        let shown = shown.as_ref().unwrap_or(&canonical);
        let earlier = self.asked_before(shown).await?;
        let before = earlier.as_ref().and_then(|(_, approval)| approval.as_ref());
        // The excluded only grow: whoever asks again is part of the question too, and whoever could not answer when it was
        // put before cannot now, whatever became of that.
        let mut excluded = involved.clone();
        excluded.extend(before.iter().flat_map(|before| before.value.excluded.iter().cloned()));
        let bundle = &scene.active.bundle;
        let facts = Facts { excluded: &excluded, ..facts };
        let Judgement { ruling, .. } = judge_for_any_holder(facts)?;
        let rules = asking(ruling)?;
        if pre.as_ref().is_some_and(|pre| !rules.iter().map(|rule| &rule.id).eq(&pre.rules)) {
            return Err(Error::NothingToAsk("asked about by rules that depend on who is excluded; ask about it alone"));
        }

        let live = before.filter(|approval| !approval.value.state(scene.now).is_terminal());
        let lapses = [session.value.lapses_at(scene.now), live.and_then(|live| live.value.lapses_at(scene.now))];
        let sees_all = |approval: &Approval| !unseen(approval, &standing);
        let same = live.filter(|live| asks_the_same(&live.value, &rules) && sees_all(&live.value));
        let joined = same.cloned().map(|mut joined| {
            joined.value.excluded.clone_from(&excluded);
            joined
        });
        if let Some(mut joined) = joined.filter(|joined| still_good(&joined.value, facts)) {
            let answer = Asked { approval: joined.value.id, shared: true };
            let commit = self.guarded(scene, lapses).resting_on(&session);
            let again = joined.value.join(&scene.caller.entity, &ask.justification, scene.now);
            if again {
                check_size("justification", &joined.value)?;
                self.sights.forget(answer.approval);
            }
            // Whoever has asked before disturbs nobody who reads it, watches it or votes on it.
            let known = !again && live.is_some_and(|live| live.value.excluded == joined.value.excluded);
            let commit = if known { commit.unchanged(&joined) } else { commit.update(&joined) };
            let event = self.joined(&joined.value, &ask.justification, again);
            self.commit(scene, commit, event, &answer).await?;
            return Ok(Replayable::fresh((answer.approval, true)));
        }

        let owner = answerable(scene.view(), &action.principal, session.value.owner.as_ref());
        let precedents = self.repo.precedents(&action.operation, &action.resource).await?;
        let question = Asking {
            action: shown.text().to_owned(),
            digest: shown.digest(),
            session: session.value.id,
            principal: action.principal.clone(),
            owner: owner.clone(),
            history: precedents.map(|precedents| precedents.value.history).unwrap_or_default(),
            asked_by: scene.caller.entity.clone(),
            justification: ask.justification.clone(),
            purpose: session.value.purpose.clone(),
            labels: &standing.labels | &scene.view().labels_of(&action.resource),
            rules: rules.iter().map(asked).collect(),
            bundle: bundle.digest(),
            excluded: excluded.clone(),
            ttl: shortest_ttl(&rules),
            escalations: rules.iter().filter_map(|rule| rule.escalate).collect(),
        };
        let approval =
            Approval::ask(ApprovalId::generate(), question, scene.now).in_batch(batch).in_epoch(scene.epoch());
        let approval = match &pre {
            Some(pre) => approval.within(pre.bounds, pre.until, pre_approve::wording(scene.view(), &pre.rules)),
            None => approval,
        };
        check_size("operation", &approval)?;
        let replaces = live.map(|approval| approval.value.id);
        let key = self.repo.asked_key(approval.digest);
        let mut commit = self.guarded(scene, lapses).resting_on(&session).insert(&approval);
        commit = self.require_cool(scene, &owner, &action, commit).await?;
        commit = self.spend_budget(scene, &approval, action.operator.as_ref(), replaces, commit).await?;
        commit = commit.put(key, earlier.as_ref().map(|(pointer, _)| pointer.revision), encode(&approval.id));
        if let Some(outdated) = live {
            let mut outdated = outdated.clone();
            let changed = match (sees_all(&outdated.value), asks_the_same(&outdated.value, &rules)) {
                (false, _) => Changed::Labels,
                (true, true) => Changed::Votes,
                (true, false) => Changed::Rules,
            };
            let cause = VoidCause::ConditionsChanged { changed: Some(changed) };
            outdated.value.void(cause.clone(), scene.now)?;
            let event = Event::ApprovalVoid { approval: outdated.value.id, cause: &cause };
            commit = self.noting(scene, commit.update(&outdated), event)?;
        }
        if let Some(Together { id, place, .. }) = batch {
            commit = commit.in_batch(&id, place, &approval.id);
        }
        // Nothing rests on who could answer now, so it is looked up without being bound to.
        let query = answer_query(&action, &excluded, None, scene.now);
        let persons = answerers(scene.active.view(), rules.iter().map(|rule| rule.id.as_str()), &query);
        let event = self.requested(&approval, replaces, Some(&persons));
        let answer = Asked { approval: approval.id, shared: false };
        self.commit(scene, commit, event, &answer).await?;
        Ok(Replayable::fresh((approval.id, false)))
    }

    async fn asked_before(
        &self,
        canonical: &countersign_core::Canonical,
    ) -> Result<Option<(Stored<ApprovalId>, Option<Stored<Approval>>)>, Error> {
        let Some(pointer) = self.repo.asked(canonical.digest()).await? else { return Ok(None) };
        let approval = self.approval_row(pointer.value).await?;
        Ok(Some((pointer, approval)))
    }

    /// Somebody joined a question that was pending. What they say was not shown before, if people are asked `again`.
    fn joined<'a>(&self, approval: &'a Approval, justification: &'a str, again: bool) -> Event<'a> {
        let mut event = self.requested(approval, None, None);
        if let Event::ApprovalRequested { justification: first, asked_again, .. } = &mut event {
            (*first, *asked_again) = (justification, again);
        }
        event
    }

    /// `asked` is absent when somebody joined a question that was pending.
    fn requested<'a>(
        &self,
        approval: &'a Approval,
        replaces: Option<ApprovalId>,
        asked: Option<&'a [EntityRef]>,
    ) -> Event<'a> {
        Event::ApprovalRequested {
            approval: approval.id,
            digest: approval.digest,
            view: approval.view,
            action: &approval.action,
            justification: &approval.justification,
            rules: &approval.rules,
            excluded: approval.excluded.iter().collect(),
            bundle: approval.bundle,
            expires_at: approval.expires_at(),
            replaces,
            asked,
            joined: asked.is_none(),
            asked_again: false,
            labels: &approval.labels,
            batch: approval.batch.filter(|_| asked.is_some()),
            pre_approval: approval.pre_approval().map(|pre| *pre.bounds()),
        }
    }
}

/// Whether a request still asks what the policies ask now.
pub(crate) fn asks_the_same(approval: &Approval, rules: &[AskingRule]) -> bool {
    approval.rules == rules.iter().map(asked).collect::<Vec<_>>()
}

/// Whether a request can still lead somewhere. One that was approved takes no more votes; if those that it has do not count
/// any more, it is a dead end until it expires, and has to be put anew.
pub(crate) fn still_good(approval: &Approval, facts: Facts<'_>) -> bool {
    approval.state(facts.now) != ApprovalState::Approved
        || judge_for_any_holder(Facts { approval: Some(approval), ..facts })
            .is_ok_and(|judgement| matches!(judgement.ruling, Ruling::Allow(_unused)))
}

/// Room is left for the votes, a deny above all, and for the uses of a pre-approval: whoever asks must not be able to fill it.
fn check_size(field: &str, approval: &Approval) -> Result<(), Error> {
    let kept = encode(approval).len().saturating_add(approval.pre_approval().map_or(0, |_| USES_ROOM));
    if kept > MAX_KEPT_BYTES {
        let reason = format!(
            "makes a question of {kept} bytes, at most {MAX_KEPT_BYTES} are allowed; send large content as its hash"
        );
        return Err(Error::field(field, reason));
    }
    Ok(())
}

/// Every call that changes something carries a request id, so that a lost reply can be asked for again.
pub(crate) fn require_request_id(call: &Call) -> Result<(), Error> {
    match call.request {
        Some(_) => Ok(()),
        None => Err(Error::field("request_id", "required; send a new UUID, and the same one when retrying")),
    }
}

/// Text of a stranger, bounded in characters.
pub(crate) fn check_text(field: &str, text: &str, min: usize, max: usize) -> Result<(), Error> {
    // Bytes first: counting the characters of an endless text is work that a stranger orders.
    let long = text.len() > max.saturating_mul(4) || text.chars().count() > max;
    if long || text.chars().count() < min {
        return Err(Error::field(field, format!("expected {min} to {max} characters")));
    }
    // What people are to read must say something.
    if min > 0 && text.trim().is_empty() {
        return Err(Error::field(field, "expected words, and not space alone"));
    }
    Ok(())
}
