//! Between the wire and the domain. Messages are taken apart exhaustively: a new field breaks the build, not the policy.

use std::str::FromStr;
use std::time::Duration;

use countersign_core::approval::{AlsoAsked, ApprovalState, Changed, Together, Verdict as VoteVerdict, VoidCause};
use countersign_core::capability::{Capability, CapabilityState, Outcome};
use countersign_core::ledger::Standing;
use countersign_core::precedent::{History, Precedent};
use countersign_core::restraint::CoolDown;
use countersign_core::session::{Session, SessionState};
use countersign_core::{Digest, EntityRef, Record, Timestamp};
use countersign_engine::{Acting, ApprovalView, Decision, Operation, Receipt, Replayable, Verdict};
use countersign_policy::Bundle;

use super::call::Backend;
use super::errors::Failure;
use super::pre_approvals::{bounds_to_wire, pre_approval};
use crate::client::convert::record_from_struct;
use crate::identity::CredentialError;
use crate::proto;

/// A field that must be there.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T, Failure> {
    value.ok_or_else(|| Failure::field(field, "required"))
}

/// An id in its written form.
pub fn id<T: FromStr>(field: &str, text: &str) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    if text.is_empty() {
        return Err(Failure::field(field, "required"));
    }
    text.parse().map_err(|e: T::Err| Failure::field(field, e.to_string()))
}

/// An id that may be absent.
pub fn optional_id<T: FromStr>(field: &str, text: &str) -> Result<Option<T>, Failure>
where
    T::Err: std::fmt::Display,
{
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

/// A digest in its written form.
pub fn digest(field: &str, text: &str) -> Result<Digest, Failure> {
    Digest::parse(text).map_err(|e| Failure::field(field, e.to_string()))
}

/// An entity.
pub fn entity(field: &str, entity: proto::Entity) -> Result<EntityRef, Failure> {
    let proto::Entity { r#type, id } = entity;
    EntityRef::new(r#type, id).map_err(|e| Failure::field(field, e.to_string()))
}

/// What is executed.
pub fn operation(operation: Option<proto::Operation>) -> Result<Operation, Failure> {
    let proto::Operation { name, resource, input, environment } = required("operation", operation)?;
    let record = |field: &str, value: Option<prost_types::Struct>| -> Result<Record, Failure> {
        let Some(value) = value else { return Ok(Record::new()) };
        record_from_struct(&value, field).map_err(|e| Failure::field(format!("operation.{field}"), e.to_string()))
    };
    Ok(Operation {
        name,
        resource: entity("operation.resource", required("operation.resource", resource)?)?,
        input: record("input", input)?,
        environment: record("environment", environment)?,
    })
}

/// Who acts: the caller, somebody named, or the bearer of another credential, which is verified like the caller's own.
pub async fn acting(principal: Option<proto::Entity>, credential: &str, backend: &Backend) -> Result<Acting, Failure> {
    match (principal, credential) {
        (None, "") => Ok(Acting::Caller),
        (Some(principal), "") => Ok(Acting::Named(entity("principal", principal)?)),
        (None, token) => {
            let verified = backend.authenticator().authenticate(token, || backend.wall()).await;
            verified.map(Acting::Credential).map_err(|error| {
                // The field is what it should be, as far as anybody can say now.
                let unknown = matches!(error, CredentialError::IssuerUnavailable(_));
                if unknown { error.into() } else { Failure::field("principal_credential", error.to_string()) }
            })
        }
        (Some(_), _) => {
            Err(Failure::field("principal_credential", "give either `principal` or `principal_credential`, not both"))
        }
    }
}

/// A duration.
pub fn duration(field: &str, duration: prost_types::Duration) -> Result<Duration, Failure> {
    Duration::try_from(duration).map_err(|_| Failure::field(field, "expected a duration that is not negative"))
}

/// How many rows a page may look at.
pub fn page_size(size: i32, default: usize, max: usize) -> Result<usize, Failure> {
    match usize::try_from(size) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(max)),
        Err(_) => Err(Failure::field("page_size", "expected 0 or more")),
    }
}

/// What a person says.
pub fn vote_verdict(verdict: i32) -> Result<VoteVerdict, Failure> {
    match proto::VoteVerdict::try_from(verdict) {
        Ok(proto::VoteVerdict::Approve) => Ok(VoteVerdict::Approve),
        Ok(proto::VoteVerdict::Deny) => Ok(VoteVerdict::Deny),
        Ok(proto::VoteVerdict::Unspecified) | Err(_) => {
            Err(Failure::field("verdict", "expected `VOTE_VERDICT_APPROVE` or `VOTE_VERDICT_DENY`"))
        }
    }
}

/// What came of an action.
pub fn outcome(outcome: i32) -> Result<Outcome, Failure> {
    match proto::Outcome::try_from(outcome) {
        Ok(proto::Outcome::Succeeded) => Ok(Outcome::Succeeded),
        Ok(proto::Outcome::Failed) => Ok(Outcome::Failed),
        Ok(proto::Outcome::Unspecified) | Err(_) => {
            Err(Failure::field("outcome", "expected `OUTCOME_SUCCEEDED` or `OUTCOME_FAILED`"))
        }
    }
}

/// A time, for the wire.
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, millis) = (at.millis().div_euclid(1_000), at.millis().rem_euclid(1_000));
    prost_types::Timestamp { seconds, nanos: i32::try_from(millis).unwrap_or(0).saturating_mul(1_000_000) }
}

/// An entity, for the wire.
pub fn entity_to_wire(entity: &EntityRef) -> proto::Entity {
    proto::Entity { r#type: entity.kind().to_owned(), id: entity.id().to_owned() }
}

/// Entities, for the wire.
pub fn entities<'a>(entities: impl IntoIterator<Item = &'a EntityRef>) -> Vec<proto::Entity> {
    entities.into_iter().map(entity_to_wire).collect()
}

/// A session, for the wire.
pub fn session(session: &Session, now: Timestamp) -> proto::Session {
    proto::Session {
        session_id: session.id.to_string(),
        state: match session.state(now) {
            SessionState::Open => proto::SessionState::Open,
            SessionState::Ended => proto::SessionState::Ended,
            SessionState::Expired => proto::SessionState::Expired,
        }
        .into(),
        principal: Some(entity_to_wire(&session.principal)),
        operator: session.operator.as_ref().map(entity_to_wire),
        chain: entities(&session.chain),
        purpose: session.purpose.clone(),
        opened_at: Some(timestamp(session.opened_at)),
        deadline: Some(timestamp(session.deadline)),
        standing: None,
        clean: session.clean,
        parent_session_id: session.parent.map(|id| id.to_string()).unwrap_or_default(),
        heartbeat: session.heartbeat().and_then(|every| prost_types::Duration::try_from(every).ok()),
        last_heartbeat: session.heartbeat().map(|_| timestamp(session.seen_at())),
    }
}

/// Labels and counters, for the wire.
pub fn standing(standing: Standing) -> proto::Standing {
    let Standing { labels, counters, unresolved } = standing;
    proto::Standing { labels: labels.into_iter().collect(), counters: counters.into_iter().collect(), unresolved }
}

/// A capability, for the wire: never the token.
pub fn capability(capability: &Capability, now: Timestamp) -> proto::Capability {
    let grant = &capability.grant;
    proto::Capability {
        capability_id: grant.id.to_string(),
        state: match capability.state(now) {
            CapabilityState::Minted => proto::CapabilityState::Minted,
            CapabilityState::Expired => proto::CapabilityState::Expired,
            CapabilityState::Revoked => proto::CapabilityState::Revoked,
            CapabilityState::Redeemed => proto::CapabilityState::Redeemed,
            CapabilityState::OutcomeUnknown => proto::CapabilityState::OutcomeUnknown,
            CapabilityState::Completed(Outcome::Succeeded) => proto::CapabilityState::Succeeded,
            CapabilityState::Completed(Outcome::Failed) => proto::CapabilityState::Failed,
            CapabilityState::Delegated => proto::CapabilityState::Delegated,
            CapabilityState::Resolved(_) => proto::CapabilityState::Resolved,
        }
        .into(),
        session_id: grant.session.to_string(),
        principal: Some(entity_to_wire(&grant.principal)),
        operation: grant.operation.clone(),
        resource: Some(entity_to_wire(&grant.resource)),
        digest: grant.digest.to_string(),
        audience: grant.audience.clone(),
        approval_id: grant.approval.map(|id| id.to_string()).unwrap_or_default(),
        decision_id: capability.decision.to_string(),
        issued_at: Some(timestamp(grant.issued_at)),
        expires_at: Some(timestamp(grant.expires_at)),
        holder: grant.holder.map(super::holder::holder),
        open: grant.open,
        parent_capability_id: grant.parent.map(|id| id.to_string()).unwrap_or_default(),
        delegated_to: capability.exchanged_for().map(|id| id.to_string()).unwrap_or_default(),
        resolution: capability.resolution().map(super::outcomes::resolution),
        redeemed_by: capability.redeemer().map(entity_to_wire),
        complete_by: capability.running().map(|(_, complete_by)| timestamp(complete_by)),
    }
}

/// A decision, for the wire. The reasons of the policies' authors come from the bundle that decided, while it is active.
pub fn decision(decision: Replayable<Decision>, bundle: Option<&Bundle>) -> proto::DecideResponse {
    let Replayable { answer, replayed } = decision;
    let (verdict, needed_approval, capability) = match &answer.verdict {
        Verdict::Deny { .. } => (proto::Verdict::Deny, None, None),
        Verdict::NeedsApproval { rules, persons, would_expire_at } => {
            let needed = proto::NeededApproval {
                rules: rules.iter().map(asking_rule).collect(),
                persons: entities(persons),
                would_expire_at: Some(timestamp(*would_expire_at)),
            };
            (proto::Verdict::NeedsApproval, Some(needed), None)
        }
        Verdict::Allow { capability } => {
            let minted = capability.as_ref().zip(answer.token.as_ref()).map(|((id, expires_at), token)| {
                proto::MintedCapability {
                    token: token.expose().to_owned(),
                    capability_id: id.to_string(),
                    expires_at: Some(timestamp(*expires_at)),
                }
            });
            (proto::Verdict::Allow, None, minted)
        }
    };
    let mut reasons: Vec<proto::Reason> = answer
        .determining
        .iter()
        .map(|policy| proto::Reason { policy_id: policy.clone(), text: reason_text(bundle, policy) })
        .collect();
    if let Verdict::Deny { because } = &answer.verdict {
        reasons.push(proto::Reason { policy_id: String::new(), text: because.clone() });
    }
    proto::DecideResponse {
        verdict: verdict.into(),
        decision_id: answer.id.to_string(),
        digest: answer.digest.to_string(),
        reasons,
        needed_approval,
        capability,
        bundle_digest: answer.bundle.to_string(),
        revisions: Some(proto::Revisions {
            session: answer.revisions.session,
            tenant: answer.revisions.tenant,
            approval: answer.revisions.approval,
            entities: answer.revisions.entities,
        }),
        decided_at: Some(timestamp(answer.decided_at)),
        replayed,
        log_index: answer.log_index,
    }
}

fn reason_text(bundle: Option<&Bundle>, policy: &str) -> String {
    bundle.and_then(|bundle| bundle.policy_text(policy)).and_then(|text| text.reason.clone()).unwrap_or_default()
}

fn asking_rule(rule: &countersign_engine::NeededRule) -> proto::AskingRule {
    proto::AskingRule {
        rule_id: rule.id.clone(),
        quorum: rule.quorum,
        reason: rule.reason.clone().unwrap_or_default(),
        ttl: duration_to_wire(rule.ttl_millis),
        cool_down: duration_to_wire(rule.cool_down_millis).filter(|_| rule.cool_down_millis > 0),
        pre_approval: rule.pre_approval.as_ref().map(bounds_to_wire),
        signed_votes: rule.signed_votes,
    }
}

fn duration_to_wire(millis: u64) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(Duration::from_millis(millis)).ok()
}

fn history(history: &History) -> proto::History {
    let History { approved, denied, recent } = history;
    let recent = recent.iter().map(|Precedent { approval, principal, verdict, by, at }| proto::Precedent {
        approval_id: approval.to_string(),
        principal: Some(entity_to_wire(principal)),
        verdict: verdict_to_wire(*verdict).into(),
        persons: entities(by),
        answered_at: Some(timestamp(*at)),
    });
    proto::History { approved: *approved, denied: *denied, recent: recent.collect() }
}

fn also_asked(AlsoAsked { by, justification }: &AlsoAsked) -> proto::AlsoAsked {
    proto::AlsoAsked { asked_by: Some(entity_to_wire(by)), justification: justification.clone() }
}

fn cool_down(down: &CoolDown) -> proto::CoolDown {
    proto::CoolDown {
        owner: Some(entity_to_wire(&down.owner)),
        denied_by: Some(entity_to_wire(&down.by)),
        until: Some(timestamp(down.until)),
        lifts_needed: down.lifts_needed,
        lifted_by: entities(down.lifted_by()),
    }
}

const fn verdict_to_wire(verdict: VoteVerdict) -> proto::VoteVerdict {
    match verdict {
        VoteVerdict::Approve => proto::VoteVerdict::Approve,
        VoteVerdict::Deny => proto::VoteVerdict::Deny,
    }
}

/// An approval request, for the wire.
pub fn approval(view: &ApprovalView) -> proto::Approval {
    let ApprovalView {
        approval,
        action,
        state,
        tally,
        offers,
        session_over_at: _,
        lineage: _,
        viewer: _,
        may_answer,
        answerers,
        cool_down: down,
    } = view;
    let approval = &approval.value;
    let escalates_at = approval.next_escalation().filter(|_| *state == ApprovalState::Pending);
    let (state, state_detail) = approval_state(state);
    proto::Approval {
        approval_id: approval.id.to_string(),
        state: state.into(),
        state_detail,
        digest: approval.digest.to_string(),
        view_digest: approval.view.to_string(),
        canonical_action: approval.action.clone(),
        principal: Some(entity_to_wire(&action.principal)),
        operator: action.operator.as_ref().map(entity_to_wire),
        chain: entities(&action.chain),
        operation: action.operation.clone(),
        resource: Some(entity_to_wire(&action.resource)),
        audience: action.audience.clone(),
        session_id: approval.session.to_string(),
        purpose: approval.purpose.clone(),
        labels: approval.labels.iter().cloned().collect(),
        also_asked: approval.also_asked().iter().map(also_asked).collect(),
        asked_by: Some(entity_to_wire(&approval.asked_by)),
        justification: approval.justification.clone(),
        rules: approval
            .rules
            .iter()
            .zip(tally)
            .zip(offers)
            .map(|((rule, tally), offer)| proto::RuleTally {
                rule_id: rule.id.clone(),
                quorum: rule.quorum,
                reason: rule.reason.clone().unwrap_or_default(),
                persons: entities(&tally.persons),
                met: tally.met(),
                pre_approval: offer.as_ref().map(bounds_to_wire),
                signed_votes: rule.signed_votes,
            })
            .collect(),
        votes: approval
            .votes()
            .iter()
            .map(|vote| proto::Vote {
                person: Some(entity_to_wire(&vote.person)),
                verdict: verdict_to_wire(vote.verdict).into(),
                comment: vote.comment.clone(),
                cast_at: Some(timestamp(vote.at)),
                claimed_until: vote.claimed.as_ref().map(|claimed| timestamp(claimed.until())),
                signature: vote.signature.as_ref().map(super::signed::to_wire),
                signing_key: vote.signature.as_ref().map(super::signed::key).unwrap_or_default(),
                signed_request_id: vote.signature.as_ref().map(super::signed::request).unwrap_or_default(),
            })
            .collect(),
        created_at: Some(timestamp(approval.created_at)),
        expires_at: Some(timestamp(approval.expires_at())),
        bundle_digest: approval.bundle.to_string(),
        caller_may_answer: *may_answer,
        answerers: entities(answerers),
        owner: approval.owner.as_ref().map(entity_to_wire),
        history: approval.owner.as_ref().map(|_| history(&approval.history)),
        ttl: duration_to_wire(approval.ttl_millis),
        cool_down: down.as_ref().map(cool_down),
        escalates_at: escalates_at.map(timestamp),
        batch: approval.batch.map(|Together { id, place, of }| proto::BatchPlace {
            batch_id: id.to_string(),
            place,
            of,
        }),
        pre_approval: approval.pre_approval().map(pre_approval),
    }
}

fn approval_state(state: &ApprovalState) -> (proto::ApprovalState, String) {
    match state {
        ApprovalState::Pending => (proto::ApprovalState::Pending, String::new()),
        ApprovalState::Approved => (proto::ApprovalState::Approved, String::new()),
        ApprovalState::Denied { by } => (proto::ApprovalState::Denied, format!("denied by {by}")),
        ApprovalState::Expired => (proto::ApprovalState::Expired, "its time is over; nobody said no".to_owned()),
        ApprovalState::Cancelled { by } => (proto::ApprovalState::Cancelled, format!("cancelled by {by}")),
        ApprovalState::Void { why } => (proto::ApprovalState::Void, void(why)),
        ApprovalState::Redeemed { .. } => (proto::ApprovalState::Redeemed, "spent".to_owned()),
    }
}

fn void(why: &VoidCause) -> String {
    match why {
        VoidCause::Withdrawn { by } => format!("{by} withdrew an approval"),
        VoidCause::Denied { by } => format!("{by} denied it after it was approved"),
        VoidCause::SessionOver => "its session is over".to_owned(),
        VoidCause::Revoked { by } => format!("{by} revoked it"),
        VoidCause::ConditionsChanged { changed } => conditions(*changed).to_owned(),
    }
}

/// What a requester reads of what changed, with what to do next.
const fn conditions(changed: Option<Changed>) -> &'static str {
    match changed {
        Some(Changed::Denied) => "the policies deny the action now, whoever approves",
        Some(Changed::Allowed) => "the policies allow the action now without approval; decide again",
        Some(Changed::Rules) | None => "the policies now ask another question; ask again",
        Some(Changed::Votes) => {
            "who approved it lost the role for it, by the directory or as the credential expired that claimed it, or came to be excluded; \
             ask again"
        }
        Some(Changed::Labels) => "the session has labels now that people were not shown; ask again",
        Some(Changed::Schema) => "the action does not fit the schema of the active bundle any more",
        Some(Changed::Excluded) => "too many persons came to be excluded; ask again",
    }
}

/// The state of a request as callers filter by it.
pub fn states(states: &[i32]) -> Result<Vec<proto::ApprovalState>, Failure> {
    let state = |number: &i32| match proto::ApprovalState::try_from(*number) {
        Ok(proto::ApprovalState::Unspecified) | Err(_) => Err(Failure::field("states", "expected known states")),
        Ok(state) => Ok(state),
    };
    states.iter().map(state).collect()
}

/// A receipt, for the wire.
pub fn receipt(receipt: Replayable<Receipt>) -> proto::RedeemResponse {
    let Replayable { answer, replayed } = receipt;
    proto::RedeemResponse {
        capability_id: answer.capability.to_string(),
        digest: answer.digest.to_string(),
        session_id: answer.session.to_string(),
        principal: Some(entity_to_wire(&answer.principal)),
        redeemed_at: Some(timestamp(answer.redeemed_at)),
        complete_by: Some(timestamp(answer.complete_by)),
        bundle_digest: answer.bundle.to_string(),
        log_index: answer.log_index,
        replayed,
    }
}

/// The bytes of many hashes.
pub fn hashes(hashes: Vec<countersign_audit::Hash>) -> Vec<Vec<u8>> {
    hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect()
}
