//! The wire's messages as JSON with stable snake_case names. What is absent is null. Every message is taken apart field by
//! field, so that one that is added to the protocol is not forgotten here.

use std::collections::BTreeMap;

use countersign::client::record_from_struct;
use countersign::proto::{
    AlsoAsked, Approval, ApprovalState, AskingRule, BatchPlace, Bundle, Capability, CapabilityState, CoolDown,
    DecideResponse, Entity, Finding, History, KeyState, MintedCapability, NeededApproval, PreApproval,
    PreApprovalBounds, PreApprovalUse, Precedent, PublicKey, Reason, Record, RedeemResponse, Revisions, RuleTally,
    Session, SessionState, Standing, StoredEntity, Verdict, Vote, VoteSignature, VoteVerdict, vote_signature,
};
use serde_json::{Value, json};

use super::when::rfc3339;

/// `{"type": …, "id": …}`.
pub fn entity(entity: &Entity) -> Value {
    let Entity { r#type, id } = entity;
    json!({"type": r#type, "id": id})
}

/// A stored entity, as Cedar's JSON has it, with what the service knows of it.
pub fn stored_entity(stored: &StoredEntity) -> Value {
    let StoredEntity { entity: name, attributes, parents, tags, revision, changed_at, changed_by } = stored;
    json!({
        "uid": maybe(name.as_ref()),
        "attrs": attributes.as_ref().map_or_else(|| json!({}), fields),
        "parents": parents.iter().map(entity).collect::<Value>(),
        "tags": tags.as_ref().map_or_else(|| json!({}), fields),
        "revision": revision,
        "changed_at": rfc3339(changed_at.as_ref()),
        "changed_by": maybe(changed_by.as_ref()),
    })
}

/// The fields of a `Struct`. What no reader agrees on is not sent by the server, and shown as null if it is.
pub fn fields(fields: &prost_types::Struct) -> Value {
    record_from_struct(fields, "fields").ok().and_then(|record| serde_json::to_value(record).ok()).unwrap_or_default()
}

fn maybe(present: Option<&Entity>) -> Value {
    present.map_or(Value::Null, entity)
}

fn entities(list: &[Entity]) -> Value {
    list.iter().map(entity).collect()
}

fn text(empty_is_absent: &str) -> Option<&str> {
    Some(empty_is_absent).filter(|text| !text.is_empty())
}

/// The word for a verdict.
pub const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unspecified => "UNSPECIFIED",
        Verdict::Deny => "DENY",
        Verdict::NeedsApproval => "NEEDS_APPROVAL",
        Verdict::Allow => "ALLOW",
    }
}

/// The word for a request's state.
pub const fn approval_state(state: ApprovalState) -> &'static str {
    match state {
        ApprovalState::Unspecified => "unspecified",
        ApprovalState::Pending => "pending",
        ApprovalState::Approved => "approved",
        ApprovalState::Denied => "denied",
        ApprovalState::Expired => "expired",
        ApprovalState::Cancelled => "cancelled",
        ApprovalState::Void => "void",
        ApprovalState::Redeemed => "redeemed",
    }
}

/// The word for a capability's state.
pub const fn capability_state(state: CapabilityState) -> &'static str {
    match state {
        CapabilityState::Unspecified => "unspecified",
        CapabilityState::Minted => "minted",
        CapabilityState::Expired => "expired",
        CapabilityState::Revoked => "revoked",
        CapabilityState::Redeemed => "redeemed",
        CapabilityState::OutcomeUnknown => "outcome_unknown",
        CapabilityState::Succeeded => "succeeded",
        CapabilityState::Failed => "failed",
        CapabilityState::Delegated => "delegated",
        CapabilityState::Resolved => "resolved",
    }
}

/// The word for a session's state.
pub const fn session_state(state: SessionState) -> &'static str {
    match state {
        SessionState::Unspecified => "unspecified",
        SessionState::Open => "open",
        SessionState::Ended => "ended",
        SessionState::Expired => "expired",
    }
}

/// The word for a key's state.
pub const fn key_state(state: KeyState) -> &'static str {
    match state {
        KeyState::Unspecified => "unspecified",
        KeyState::Active => "active",
        KeyState::Retired => "retired",
        KeyState::Compromised => "compromised",
    }
}

/// The word for a vote.
pub const fn vote_verdict(verdict: VoteVerdict) -> &'static str {
    match verdict {
        VoteVerdict::Unspecified => "unspecified",
        VoteVerdict::Deny => "deny",
        VoteVerdict::Approve => "approve",
    }
}

/// A decision.
pub fn decision(answer: &DecideResponse) -> Value {
    let DecideResponse {
        verdict: _,
        decision_id,
        digest,
        reasons,
        needed_approval,
        capability,
        bundle_digest,
        revisions,
        decided_at,
        replayed,
        log_index,
    } = answer;
    let reasons =
        reasons.iter().map(|Reason { policy_id, text: why }| json!({"policy_id": text(policy_id), "text": why}));
    json!({
        "verdict": verdict(answer.verdict()),
        "decision_id": decision_id,
        "digest": digest,
        "reasons": reasons.collect::<Value>(),
        "needed_approval": needed_approval.as_ref().map(needed),
        "capability": capability.as_ref().map(|MintedCapability { token, capability_id, expires_at }| json!({
            "token": token,
            "capability_id": capability_id,
            "expires_at": rfc3339(expires_at.as_ref()),
        })),
        "bundle_digest": bundle_digest,
        "revisions": revisions.as_ref().map(|Revisions { session, tenant, approval, entities }| json!({
            "session": session,
            "tenant": tenant,
            "approval": approval,
            "entities": entities,
        })),
        "decided_at": rfc3339(decided_at.as_ref()),
        "replayed": replayed,
        "log_index": log_index,
    })
}

fn needed(needed: &NeededApproval) -> Value {
    let NeededApproval { rules, persons, would_expire_at } = needed;
    let rules =
        rules.iter().map(|AskingRule { rule_id, quorum, reason, ttl, cool_down, pre_approval, signed_votes }| {
            json!({
                "rule_id": rule_id,
                "quorum": quorum,
                "reason": text(reason),
                "ttl_seconds": ttl.as_ref().map(|ttl| ttl.seconds),
                "cool_down_seconds": cool_down.as_ref().map_or(0, |cool_down| cool_down.seconds),
                "pre_approval": pre_approval.as_ref().map(bounds),
                "signed_votes": signed_votes,
            })
        });
    json!({
        "rules": rules.collect::<Value>(),
        "persons": entities(persons),
        "would_expire_at": rfc3339(would_expire_at.as_ref()),
    })
}

fn bounds(bounds: &PreApprovalBounds) -> Value {
    let PreApprovalBounds { uses, duration } = bounds;
    json!({"uses": uses, "seconds": duration.as_ref().map(|duration| duration.seconds)})
}

fn pre_approved(pre: &PreApproval) -> Value {
    let PreApproval { bounds: within, until, charged, last_uses } = pre;
    let last_uses = last_uses.iter().map(|PreApprovalUse { number, capability_id, decision_id, used_at }| {
        json!({
            "number": number,
            "capability_id": text(capability_id),
            "decision_id": text(decision_id),
            "used_at": rfc3339(used_at.as_ref()),
        })
    });
    json!({
        "bounds": within.as_ref().map(bounds),
        "until": rfc3339(until.as_ref()),
        "charged": charged,
        "last_uses": last_uses.collect::<Value>(),
    })
}

fn past(history: &History) -> Value {
    let History { approved, denied, recent } = history;
    let recent = recent.iter().map(|precedent| {
        let Precedent { approval_id, principal, verdict: _, persons, answered_at } = precedent;
        json!({
            "approval_id": approval_id,
            "principal": maybe(principal.as_ref()),
            "verdict": vote_verdict(precedent.verdict()),
            "persons": entities(persons),
            "answered_at": rfc3339(answered_at.as_ref()),
        })
    });
    json!({"approved": approved, "denied": denied, "recent": recent.collect::<Value>()})
}

/// An approval request. `canonical_action` stays text: the digest is of its bytes.
pub fn approval(approval: &Approval) -> Value {
    let Approval {
        approval_id,
        state: _,
        state_detail,
        digest,
        view_digest,
        canonical_action,
        principal,
        operator,
        chain,
        operation,
        resource,
        audience,
        session_id,
        purpose,
        asked_by,
        justification,
        rules,
        votes,
        created_at,
        expires_at,
        bundle_digest,
        caller_may_answer,
        answerers,
        owner,
        history,
        ttl,
        cool_down,
        escalates_at,
        batch,
        pre_approval,
        labels,
        also_asked,
    } = approval;
    let also_asked = also_asked.iter().map(|AlsoAsked { asked_by, justification }| {
        json!({ "asked_by": maybe(asked_by.as_ref()), "justification": justification })
    });
    let rules = rules.iter().map(|RuleTally { rule_id, quorum, reason, persons, met, pre_approval, signed_votes }| {
        json!({
            "rule_id": rule_id,
            "quorum": quorum,
            "reason": text(reason),
            "persons": entities(persons),
            "met": met,
            "pre_approval": pre_approval.as_ref().map(bounds),
            "signed_votes": signed_votes,
        })
    });
    let votes = votes.iter().map(|vote| {
        let Vote { person, verdict: _, comment, cast_at, claimed_until, signature, signing_key, signed_request_id } =
            vote;
        json!({
            "person": maybe(person.as_ref()),
            "verdict": vote_verdict(vote.verdict()),
            "comment": text(comment),
            "cast_at": rfc3339(cast_at.as_ref()),
            "claimed_until": rfc3339(claimed_until.as_ref()),
            "signature": signature.as_ref().map(|signature| vote_signature(signature, signing_key, signed_request_id)),
        })
    });
    json!({
        "approval_id": approval_id,
        "state": approval_state(approval.state()),
        "state_detail": text(state_detail),
        "pre_approval": pre_approval.as_ref().map(pre_approved),
        "digest": digest,
        "view_digest": view_digest,
        "canonical_action": canonical_action,
        "principal": maybe(principal.as_ref()),
        "operator": maybe(operator.as_ref()),
        "chain": entities(chain),
        "operation": operation,
        "resource": maybe(resource.as_ref()),
        "audience": audience,
        "session_id": session_id,
        "purpose": purpose,
        "labels": labels,
        "also_asked": also_asked.collect::<Vec<_>>(),
        "asked_by": maybe(asked_by.as_ref()),
        "justification": justification,
        "rules": rules.collect::<Value>(),
        "votes": votes.collect::<Value>(),
        "created_at": rfc3339(created_at.as_ref()),
        "batch": batch.as_ref().map(|BatchPlace { batch_id, place, of }| json!({
            "batch_id": batch_id,
            "place": place,
            "of": of,
        })),
        "escalates_at": escalates_at.as_ref().map(|at| rfc3339(Some(at))),
        "expires_at": rfc3339(expires_at.as_ref()),
        "bundle_digest": bundle_digest,
        "caller_may_answer": caller_may_answer,
        "answerers": entities(answerers),
        "owner": maybe(owner.as_ref()),
        "history": history.as_ref().map(past),
        "ttl_seconds": ttl.as_ref().map(|ttl| ttl.seconds),
        "cool_down": cool_down.as_ref().map(|CoolDown { owner, denied_by, until, lifts_needed, lifted_by }| json!({
            "owner": maybe(owner.as_ref()),
            "denied_by": maybe(denied_by.as_ref()),
            "until": rfc3339(until.as_ref()),
            "lifts_needed": lifts_needed,
            "lifted_by": entities(lifted_by),
        })),
    })
}

/// A receipt.
pub fn receipt(receipt: &RedeemResponse) -> Value {
    let RedeemResponse {
        capability_id,
        digest,
        session_id,
        principal,
        redeemed_at,
        complete_by,
        bundle_digest,
        log_index,
        replayed,
    } = receipt;
    json!({
        "capability_id": capability_id,
        "digest": digest,
        "session_id": session_id,
        "principal": maybe(principal.as_ref()),
        "redeemed_at": rfc3339(redeemed_at.as_ref()),
        "complete_by": rfc3339(complete_by.as_ref()),
        "bundle_digest": bundle_digest,
        "log_index": log_index,
        "replayed": replayed,
    })
}

/// A capability, without its token.
pub fn capability(capability: &Capability) -> Value {
    let Capability {
        capability_id,
        state: _,
        session_id,
        principal,
        operation,
        resource,
        digest,
        audience,
        approval_id,
        decision_id,
        issued_at,
        expires_at,
        holder,
        open,
        parent_capability_id,
        delegated_to,
        resolution,
        redeemed_by,
        complete_by,
    } = capability;
    json!({
        "capability_id": capability_id,
        "state": capability_state(capability.state()),
        "session_id": session_id,
        "principal": maybe(principal.as_ref()),
        "operation": operation,
        "resource": maybe(resource.as_ref()),
        "digest": digest,
        "audience": audience,
        "approval_id": text(approval_id),
        "decision_id": decision_id,
        "issued_at": rfc3339(issued_at.as_ref()),
        "expires_at": rfc3339(expires_at.as_ref()),
        "holder": holder.as_ref().and_then(super::holder::shown),
        "open": open,
        "parent_capability_id": text(parent_capability_id),
        "delegated_to": text(delegated_to),
        "resolution": resolution.as_ref().map(super::outcomes::resolved),
        "redeemed_by": maybe(redeemed_by.as_ref()),
        "complete_by": rfc3339(complete_by.as_ref()),
    })
}

/// A session.
pub fn session(session: &Session) -> Value {
    let Session {
        session_id,
        state: _,
        principal,
        operator,
        chain,
        purpose,
        opened_at,
        deadline,
        standing,
        clean,
        parent_session_id,
        heartbeat,
        last_heartbeat,
    } = session;
    let standing = standing.as_ref().map(|Standing { labels, counters, unresolved }| {
        json!({ "labels": labels, "counters": counters.iter().collect::<BTreeMap<_, _>>(), "unresolved": unresolved })
    });
    let seconds = |every: &prost_types::Duration| every.seconds as f64 + f64::from(every.nanos) / 1e9;
    json!({
        "session_id": session_id,
        "state": session_state(session.state()),
        "principal": maybe(principal.as_ref()),
        "operator": maybe(operator.as_ref()),
        "chain": entities(chain),
        "purpose": purpose,
        "opened_at": rfc3339(opened_at.as_ref()),
        "deadline": rfc3339(deadline.as_ref()),
        "standing": standing,
        "clean": clean,
        "parent_session_id": text(parent_session_id),
        "heartbeat_seconds": heartbeat.as_ref().map(seconds),
        "last_heartbeat": rfc3339(last_heartbeat.as_ref()),
    })
}

/// A bundle.
pub fn bundle(bundle: &Bundle) -> Value {
    let Bundle { digest, name, revision, operations, activated_at } = bundle;
    json!({
        "digest": digest,
        "name": name,
        "revision": revision,
        "operations": operations,
        "activated_at": rfc3339(activated_at.as_ref()),
    })
}

/// What is wrong with a bundle, as the server found it.
pub fn finding(finding: &Finding) -> Value {
    let Finding { file, line, column, message, hint } = finding;
    json!({"file": file, "line": line, "column": column, "message": message, "hint": text(hint)})
}

/// A record of the audit log. Content that is not JSON, which would be a fault, is given in hexadecimal digits.
pub fn record(record: &Record) -> Value {
    let Record { index, kind, recorded_at, content, leaf_hash } = record;
    let parsed: Option<Value> = serde_json::from_slice(content).ok();
    json!({
        "index": index,
        "kind": kind,
        "recorded_at": rfc3339(recorded_at.as_ref()),
        "content_hex": hex(content),
        "content": parsed,
        "leaf_hash": leaf_hash,
    })
}

/// A public key.
pub fn public_key(key: &PublicKey) -> Value {
    let PublicKey { key_id, algorithm, public_key, state: _, created_at, verifies_until } = key;
    json!({
        "created_at": rfc3339(created_at.as_ref()),
        "verifies_until": rfc3339(verifies_until.as_ref()),
        "key_id": key_id,
        "algorithm": algorithm,
        "public_key": hex(public_key),
        "state": key_state(key.state()),
    })
}

/// Lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn vote_signature(signature: &VoteSignature, key: &str, request: &str) -> Value {
    let VoteSignature { signed_at, signature } = signature;
    let line = signature.as_ref().map(|vote_signature::Signature::Ed25519(line)| line);
    json!({ "ed25519": line, "signed_at": rfc3339(signed_at.as_ref()), "key": key, "request_id": request })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_has_stable_names() {
        let answer = DecideResponse {
            verdict: Verdict::NeedsApproval.into(),
            decision_id: "dec_1".into(),
            reasons: vec![Reason { policy_id: "export-needs-two".into(), text: "leaves the boundary".into() }],
            needed_approval: Some(NeededApproval {
                rules: vec![AskingRule {
                    rule_id: "export-needs-two".into(),
                    quorum: 2,
                    reason: String::new(),
                    ttl: Some(prost_types::Duration { seconds: 900, nanos: 0 }),
                    cool_down: None,
                    pre_approval: None,
                    signed_votes: true,
                }],
                persons: vec![Entity { r#type: "Person".into(), id: "dana".into() }],
                would_expire_at: None,
            }),
            ..DecideResponse::default()
        };
        let expected = json!({
            "verdict": "NEEDS_APPROVAL",
            "decision_id": "dec_1",
            "digest": "",
            "reasons": [{"policy_id": "export-needs-two", "text": "leaves the boundary"}],
            "needed_approval": {
                "rules": [{"rule_id": "export-needs-two", "quorum": 2, "reason": null, "ttl_seconds": 900, "cool_down_seconds": 0,
                           "pre_approval": null, "signed_votes": true}],
                "persons": [{"type": "Person", "id": "dana"}],
                "would_expire_at": null,
            },
            "capability": null,
            "bundle_digest": "",
            "revisions": null,
            "decided_at": null,
            "replayed": false,
            "log_index": null,
        });
        assert_eq!(decision(&answer), expected);
    }

    #[test]
    fn an_unknown_verdict_is_no_allow() {
        let answer = DecideResponse { verdict: 77, ..DecideResponse::default() };
        assert_eq!(decision(&answer).pointer("/verdict"), Some(&json!("UNSPECIFIED")));
    }

    #[test]
    fn a_record_carries_its_content_as_json() {
        let of = |content: &[u8]| record(&Record { content: content.to_vec(), ..Record::default() });
        assert_eq!(of(b"{\"a\":1}").pointer("/content/a"), Some(&json!(1)));
        assert_eq!(of(b"\xff").pointer("/content_hex"), Some(&json!("ff")));
    }
}
