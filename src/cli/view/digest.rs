//! The view digest, recomputed from what the server sent.

use countersign::proto::{Approval, BatchPlace, Entity, History, VoteVerdict};
use std::collections::BTreeSet;

use countersign_core::approval::{AlsoAsked, AskingRule, Together, Verdict, View};
use countersign_core::{Digest, EntityRef, Timestamp, precedent as core};

use super::bounds::{latest, stated};

/// The digest of all that is shown. `None` if it is not such as a view can be made of.
pub fn view_digest(approval: &Approval) -> Option<Digest> {
    view_text(approval).map(|text| Digest::of(text.as_bytes()))
}

/// All that is shown, as it is digested. `None` if it is not such as a view can be made of.
pub fn view_text(approval: &Approval) -> Option<String> {
    let owner = match &approval.owner {
        Some(owner) => Some(entity(owner)?),
        None => None,
    };
    let rules = approval.rules.iter().map(|rule| AskingRule {
        id: rule.rule_id.clone(),
        quorum: rule.quorum,
        reason: (!rule.reason.is_empty()).then(|| rule.reason.clone()),
        signed_votes: rule.signed_votes,
    });
    let ttl = approval.ttl.as_ref()?;
    let pre_approval = match &approval.pre_approval {
        Some(_) => Some((stated(approval)?, Timestamp::from_millis(latest(approval)?))),
        None => None,
    };
    let also = approval.also_asked.iter().map(|also| {
        Some(AlsoAsked { by: entity(also.asked_by.as_ref()?)?, justification: also.justification.clone() })
    });
    let labels: BTreeSet<String> = approval.labels.iter().cloned().collect();
    // One that is there twice is shown twice, and would count once.
    if labels.len() != approval.labels.len() {
        return None;
    }
    let view = View {
        id: approval.approval_id.parse().ok()?,
        action: &approval.canonical_action,
        owner: owner.as_ref(),
        asked_by: &entity(approval.asked_by.as_ref()?)?,
        justification: &approval.justification,
        also: &also.collect::<Option<Vec<_>>>()?,
        labels: &labels,
        purpose: &approval.purpose,
        rules: &rules.collect::<Vec<_>>(),
        ttl_millis: millis(ttl.seconds, ttl.nanos)?.try_into().ok()?,
        history: &history(approval.history.as_ref())?,
        batch: match &approval.batch {
            Some(BatchPlace { batch_id, place, of }) => {
                Some(Together { id: batch_id.parse().ok()?, place: *place, of: *of })
            }
            None => None,
        },
        pre_approval,
    };
    Some(view.text())
}

fn history(history: Option<&History>) -> Option<core::History> {
    let Some(History { approved, denied, recent }) = history else { return Some(core::History::default()) };
    let recent = recent.iter().map(|precedent| {
        let at = precedent.answered_at.as_ref()?;
        Some(core::Precedent {
            approval: precedent.approval_id.parse().ok()?,
            principal: entity(precedent.principal.as_ref()?)?,
            verdict: match precedent.verdict() {
                VoteVerdict::Approve => Verdict::Approve,
                VoteVerdict::Deny => Verdict::Deny,
                VoteVerdict::Unspecified => return None,
            },
            by: precedent.persons.iter().map(entity).collect::<Option<_>>()?,
            at: Timestamp::from_millis(millis(at.seconds, at.nanos)?),
        })
    });
    Some(core::History { approved: *approved, denied: *denied, recent: recent.collect::<Option<_>>()? })
}

fn entity(entity: &Entity) -> Option<EntityRef> {
    EntityRef::new(&entity.r#type, &entity.id).ok()
}

fn millis(seconds: i64, nanos: i32) -> Option<i64> {
    seconds.checked_mul(1_000)?.checked_add(i64::from(nanos / 1_000_000))
}
