//! Pre-approvals: people approve the same operation on the same resource for the rest of a session, at most so often, until
//! some time. They are asked, voted on, made void and ended like any question; what differs stands here: what they cover, and
//! what they may be asked about.
//!
//! A pre-approval never allows by itself. Each use is decided anew: the votes are counted under the active bundle, and lift the
//! rules that people voted on and no other. It is charged in the commit that spends it, which is bound to the revision of the
//! request's row: so there are never more uses than were voted on (I1), however many capabilities were minted for them.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_core::approval::{Approval, Changed};
use countersign_core::ledger::Standing;
use countersign_core::pre_approval::Bounds;
use countersign_core::session::Session;
use countersign_core::time::Span;
use countersign_core::{Action, ApprovalId, Digest, EntityRef, PreApproval, Timestamp};
use countersign_policy::{AdminAction, ApprovalFacts, AskingRule, View};
use countersign_store::Kernel;

use crate::ask::{Ask, How};
use crate::conditions::partly_changed;
use crate::engine::{Call, Engine, Replayable, Scene, enforcement_point};
use crate::error::Error;
use crate::judge::{Facts, Judgement, Ruling, judge_for_any_holder, ruled_out};
use crate::vote::Question;

/// How much room a request that is a pre-approval leaves for what it is used for, in bytes.
pub(crate) const USES_ROOM: usize = 6 * 1024;

impl<K: Kernel> Engine<K> {
    /// As [`Engine::ask`], about every action like this one: the same operation on the same resource at the same enforcement
    /// point, whatever its input. The rules that people are asked to lift are those that ask for the action given.
    ///
    /// # Errors
    /// As [`Engine::ask`]; [`Error::NotPreApprovable`] if a rule that asks offers no pre-approval, [`Error::InvalidField`] if
    /// the bounds reach further than a rule or the session.
    pub async fn pre_approve(
        &self,
        call: &Call,
        ask: &Ask,
        bounds: Bounds,
    ) -> Result<Replayable<(ApprovalId, bool)>, Error> {
        self.put(call, ask, How { bounds: Some(bounds), batch: None }).await
    }
}

/// What people are to be asked about, if the rules that ask for an action offer it.
pub(crate) fn subject(facts: Facts<'_>, session: &Session, bounds: Bounds) -> Result<PreApproval, Error> {
    let Judgement { ruling, .. } = judge_for_any_holder(facts)?;
    let rules = asking(ruling)?;
    require_offered(facts.view, facts.action, &rules, bounds)?;
    let left = session.deadline.since(facts.now);
    if bounds.seconds > left.as_secs() {
        return Err(too_far("duration", format!("{}, when the session is over", Span(left))));
    }
    let rules = rules.into_iter().map(|rule| rule.id).collect();
    Ok(PreApproval::like(facts.action, rules, bounds, session.deadline))
}

/// The rules that ask.
pub(crate) fn asking(ruling: Ruling) -> Result<Vec<AskingRule>, Error> {
    match ruling {
        Ruling::NeedsApproval(rules) => Ok(rules),
        Ruling::Allow(_unused) => Err(Error::NothingToAsk("allowed without approval; decide it")),
        Ruling::Deny { .. } => Err(Error::NothingToAsk("denied, and no approval lifts that")),
    }
}

fn require_offered(view: View<'_>, action: &Action, rules: &[AskingRule], bounds: Bounds) -> Result<(), Error> {
    if publishes(view, action) {
        return Err(Error::NotPreApprovable("publishing, which replaces the rules themselves,".to_owned()));
    }
    for rule in rules {
        let most =
            rule.pre_approval.ok_or_else(|| Error::NotPreApprovable(format!("what `{}` asks about", rule.id)))?;
        if bounds.uses > most.uses {
            return Err(too_far("uses", format!("{}, as the rule `{}` says", most.uses, rule.id)));
        }
        if bounds.seconds > most.seconds {
            return Err(too_far(
                "duration",
                format!("{}, as the rule `{}` says", Span(Duration::from_secs(most.seconds)), rule.id),
            ));
        }
    }
    if !bounds.are_sound() {
        return Err(Error::field("pre_approval", "expected at least one use, and at least one second"));
    }
    Ok(())
}

fn too_far(field: &str, most: String) -> Error {
    Error::field(format!("pre_approval.{field}"), format!("expected at most {most}"))
}

/// Whether an action replaces the rules: whoever pre-approved that would have approved whatever comes after.
fn publishes(view: View<'_>, action: &Action) -> bool {
    view.bundle().publish_operation() == Some(action.operation.as_str())
}

/// Whether the rules, as they are now, let a request stand. For one action they do. A pre-approval stands as long as its rules offer
/// as much, and say what they said: which inputs they ask about is all that bounds what people approved without seeing it.
pub(crate) fn stands(view: View<'_>, approval: &Approval) -> bool {
    let Some(pre) = approval.pre_approval() else { return true };
    let offers = |most: Option<Bounds>| most.is_some_and(|most| pre.bounds().within(&most));
    let rules = approval.rules.iter().map(|rule| &rule.id);
    offered(view, approval).into_iter().all(offers) && wording(view, rules) == pre.wording()
}

/// The digest of the text of rules.
pub(crate) fn wording<'a>(view: View<'_>, rules: impl IntoIterator<Item = &'a String>) -> Digest {
    let text = |rule: &String| view.bundle().policy_text(rule).map(|policy| policy.text.as_bytes());
    let texts: Vec<&[u8]> = rules.into_iter().map(|rule| text(rule).unwrap_or_default()).collect();
    Digest::of_parts(&texts)
}

/// Whether an approval is one for this action, which has this digest.
pub(crate) fn is_for(view: View<'_>, approval: &Approval, action: &Action, digest: Digest) -> bool {
    match approval.pre_approval() {
        Some(_) => covers(approval, action) && !publishes(view, action),
        None => approval.session == action.session && approval.digest == digest,
    }
}

fn covers(approval: &Approval, action: &Action) -> bool {
    PreApproval::from_canonical(&approval.action).is_ok_and(|pre| pre.digest_for(action) == approval.digest)
}

/// The digest under which Cedar is told of an approval: that which people approved; of a pre-approval that of the action, if
/// it is covered. What is not covered has none, and then there is no approval.
pub(crate) fn presented(approval: &Approval, facts: &Facts<'_>) -> Option<Digest> {
    match approval.pre_approval() {
        Some(_) => covers(approval, facts.action).then(|| facts.canonical.digest()),
        None => Some(approval.digest),
    }
}

/// The second lock: that an approval is for this action, found out in another way than by the first, and, of a pre-approval,
/// that it is not used up, and lifts what people were shown.
pub(crate) fn holds(approval: &Approval, counted: &ApprovalFacts, facts: &Facts<'_>) -> bool {
    let Some(charged) = approval.pre_approval() else { return approval.digest == facts.canonical.digest() };
    PreApproval::from_canonical(&approval.action).is_ok_and(|pre| {
        pre.covers(facts.action)
            && pre.bounds == *charged.bounds()
            && pre.until == charged.until()
            && charged.left() > 0
            && !facts.now.reached(pre.until)
            && counted.rules.is_subset(&pre.rules)
    })
}

/// The action that people are asked about, read back from the bytes that they are shown; of a pre-approval its frame, without
/// input and environment.
pub(crate) fn action_of(approval: &Approval) -> Result<Action, Error> {
    let read = match approval.pre_approval() {
        Some(_) => PreApproval::from_canonical(&approval.action).map(|pre| pre.frame()),
        None => Action::from_canonical(&approval.action),
    };
    read.map_err(|error| Error::Internal(error.to_string()))
}

/// What the active bundle offers for each rule that a request asks.
pub(crate) fn offered(view: View<'_>, approval: &Approval) -> Vec<Option<Bounds>> {
    let offer = |id: &str| view.bundle().asking(id).and_then(|rule| rule.pre_approval);
    approval.rules.iter().map(|rule| offer(&rule.id)).collect()
}

/// Whether the caller may see and end a pre-approval without being part of it: by the `revoke` policies. To be asked where nothing
/// else lets them.
pub(crate) fn may_revoke<K: Kernel>(engine: &Engine<K>, scene: &Scene, approval: &Approval) -> bool {
    approval.pre_approval().is_some() && engine.may_read(scene, AdminAction::Revoke { principal: &approval.principal })
}

/// Whether the caller may end the pre-approvals of a principal.
pub(crate) fn may_revoke_of<K: Kernel>(engine: &Engine<K>, scene: &Scene, principal: &EntityRef) -> bool {
    engine.may_administer(scene, AdminAction::Revoke { principal }).permitted
}

/// Which condition of a pre-approval is not as it was, as far as it can be told without an input.
pub(crate) fn changed(
    question: &Question,
    standing: &Standing,
    excluded: &BTreeSet<EntityRef>,
    view: View<'_>,
    now: Timestamp,
) -> Result<Option<Changed>, Error> {
    let Question { approval, session, action } = question;
    let approval = &approval.value;
    if !view.contains(&enforcement_point(&action.audience)?) {
        return Ok(Some(Changed::Schema));
    }
    let Ok(session) = session.value.require_open(now) else { return Ok(None) };
    let canonical = &action.canonical()?;
    let facts = Facts { view, session, action, canonical, approval: None, standing, excluded, holder: None, now };
    match ruled_out(facts) {
        Err(Error::InvalidField { .. }) => return Ok(Some(Changed::Schema)),
        Err(error) => return Err(error),
        // Of a budget that is used up for now.
        Ok(true) if view.bundle().rests_on_counts(&action.operation) => {}
        Ok(true) => return Ok(Some(Changed::Denied)),
        Ok(false) => {}
    }
    if publishes(view, action) {
        return Ok(Some(Changed::Rules));
    }
    Ok(partly_changed(approval, action, excluded, view, now))
}
