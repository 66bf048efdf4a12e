//! What a policy must hold to beyond Cedar's own validation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cedar_policy::{ActionConstraint, EntityUid, PolicySet, Schema, ValidationMode, ValidationWarning, Validator};
use countersign_core::pre_approval::{Bounds, MAX_SECONDS, MAX_USES};

use crate::bundle::AskingRule;
use crate::closed_form::{Form, form};
use crate::compose::{APPROVE, Composed};
use crate::finding::{Finding, from_cedar, position};
use crate::policies::{Authored, Kind};

const MAX_QUORUM: u32 = 16;
const DEFAULT_TTL: Duration = Duration::from_secs(15 * 60);
const MIN_ESCALATE: Duration = Duration::from_secs(10);
const MIN_TTL: Duration = Duration::from_secs(60);
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
const DEFAULT_COOLDOWN: Duration = Duration::from_secs(15 * 60);
const MAX_COOLDOWN: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_REASON: usize = 200;

/// Checks one policy; returns the rule that it is, if people can lift it.
pub(crate) fn policy(authored: &Authored, schema: &Composed, findings: &mut Vec<Finding>) -> Option<AskingRule> {
    scope(authored, schema, findings);
    let form = form(&authored.id, &authored.json);
    let liftable = form == Form::Liftable;
    if let Form::Refused(reason) = form {
        let hint = format!(
            "only a forbid may ask for an approval, as `unless {{ context has approval && \
             context.approval.rules.contains(\"{}\") }}`",
            authored.id
        );
        findings.push(authored.finding(format!("`{}` {reason}", authored.id)).hint(hint));
    }
    if liftable && authored.kind != Kind::Work {
        let hint = format!("move it to `{}`, or remove the clause", Kind::Work.folder());
        findings.push(authored.finding(format!("`{}` asks for an approval", authored.id)).hint(hint));
        return None;
    }
    annotations(authored, liftable, findings)
}

/// Each set has its own actions.
fn scope(authored: &Authored, schema: &Composed, findings: &mut Vec<Finding>) {
    let named = match authored.policy.action_constraint() {
        ActionConstraint::Any => None,
        ActionConstraint::Eq(action) => Some((true, vec![action])),
        ActionConstraint::In(actions) => Some((false, actions)),
    };
    let id = &authored.id;
    match (authored.kind, named) {
        (Kind::Work, None) => {}
        (Kind::Work, Some((_, actions))) => {
            for action in actions.iter().filter(|a| schema.reserved.contains(a.id().unescaped())) {
                let folder = if action.id().unescaped() == APPROVE { Kind::Approve } else { Kind::Admin }.folder();
                let message = format!("`{id}` is about the reserved action `{}`", action.id().unescaped());
                findings.push(authored.finding(message).hint(format!("move it to `{folder}`")));
            }
        }
        (Kind::Approve, Some((true, actions))) if actions.iter().all(|a| a.id().unescaped() == APPROVE) => {}
        (Kind::Approve, _) => {
            let message = format!("`{id}` is not about answering");
            findings.push(authored.finding(message).hint("write `action == Action::\"approve\"` in its scope"));
        }
        (Kind::Admin, None) if !authored.permits() => {}
        (Kind::Admin, None) => {
            // Else a later release's new action would be granted by an old policy.
            let message = format!("`{id}` permits every action of the service");
            findings.push(authored.finding(message).hint("name the actions: `action in [Action::\"readLog\", ...]`"));
        }
        (Kind::Admin, Some((_, actions))) => {
            let foreign =
                |a: &&EntityUid| a.id().unescaped() == APPROVE || !schema.reserved.contains(a.id().unescaped());
            for action in actions.iter().filter(foreign) {
                let folder = if action.id().unescaped() == APPROVE { Kind::Approve } else { Kind::Work }.folder();
                let message =
                    format!("`{id}` is about `{}`, which is no action of the service", action.id().unescaped());
                findings.push(authored.finding(message).hint(format!("move it to `{folder}`")));
            }
        }
    }
}

/// Annotations come from a closed list; they can only restrict or present.
pub(crate) fn annotations(authored: &Authored, liftable: bool, findings: &mut Vec<Finding>) -> Option<AskingRule> {
    let mut rule = AskingRule {
        id: authored.id.clone(),
        quorum: 1,
        ttl: DEFAULT_TTL,
        cooldown: DEFAULT_COOLDOWN,
        escalate: None,
        pre_approval: None,
        signed_votes: false,
        reason: None,
    };
    for (name, value) in authored.policy.annotations() {
        let mut refuse = |message: String, hint: &str| findings.push(authored.finding(message).hint(hint));
        match name {
            "id" => {}
            "reason" if value.is_empty() || value.chars().count() > MAX_REASON => {
                refuse(
                    format!("the reason of `{}` has {} characters", authored.id, value.chars().count()),
                    "write 1 to 200",
                );
            }
            "reason" => rule.reason = Some(value.to_owned()),
            "quorum" | "ttl" | "cooldown" | "escalate" | "pre_approval" | "signed_votes" if !liftable => {
                let hint = "it belongs to a forbid that people can lift, in the closed form";
                refuse(format!("`@{name}` has no effect on `{}`", authored.id), hint);
            }
            "quorum" => match value.parse().ok().filter(|q| (1..=MAX_QUORUM).contains(q) && *value == q.to_string()) {
                Some(quorum) => rule.quorum = quorum,
                None => {
                    let hint = "write 1 to 16; for what nobody may lift, remove the `unless` clause";
                    refuse(format!("`{}` is not a quorum", value.escape_debug()), hint);
                }
            },
            "ttl" => match duration(value).filter(|ttl| (MIN_TTL..=MAX_TTL).contains(ttl)) {
                Some(ttl) => rule.ttl = ttl,
                None => {
                    refuse(format!("`{}` is not a ttl", value.escape_debug()), "write `1m` to `24h`, such as `15m`")
                }
            },
            "cooldown" => match duration(value).filter(|cooldown| *cooldown <= MAX_COOLDOWN) {
                Some(cooldown) => rule.cooldown = cooldown,
                None => refuse(
                    format!("`{}` is not a cool-down", value.escape_debug()),
                    "write `0m` to `24h`: how long nobody asks for the same again after a deny",
                ),
            },
            "escalate" => match duration(value).filter(|after| (MIN_ESCALATE..MAX_TTL).contains(after)) {
                Some(after) => rule.escalate = Some(after),
                None => refuse(
                    format!("`{}` is not when to escalate", value.escape_debug()),
                    "write `10s` or more, and less than the `@ttl`: after how long without an answer others are told",
                ),
            },
            "pre_approval" => match pre_approval(value) {
                Some(most) => rule.pre_approval = Some(most),
                None => refuse(
                    format!("`{}` is not what may be pre-approved", value.escape_debug()),
                    "write how often and for how long at most, such as `10 uses, 2h`: 2 to 100 uses, `1m` to `24h`",
                ),
            },
            "signed_votes" if value.is_empty() => rule.signed_votes = true,
            "signed_votes" => refuse(
                format!("`{}` is nothing that `@signed_votes` says", value.escape_debug()),
                "write `@signed_votes` alone; for a rule that demands no signatures, leave it out",
            ),
            _unknown => {
                let hint = "a policy may carry `@id` and `@reason`, and one that people can lift `@quorum`, `@ttl`, `@cooldown`, `@escalate`, \
                            `@pre_approval` and `@signed_votes`";
                refuse(format!("`@{name}` is not known"), hint);
            }
        }
    }
    if let Some(after) = rule.escalate.filter(|after| *after >= rule.ttl) {
        let message = format!("`{}` escalates after {} s, when it has expired", rule.id, after.as_secs());
        findings.push(authored.finding(message).hint("escalate before the `@ttl` is over"));
    }
    liftable.then_some(rule)
}

/// `10 uses, 2h`: ceilings, both of them, so that neither is forgotten.
fn pre_approval(text: &str) -> Option<Bounds> {
    let (uses, time) = text.split_once(" uses, ")?;
    let uses = uses.parse().ok().filter(|n: &u32| (2..=MAX_USES).contains(n) && n.to_string() == uses)?;
    let seconds = duration(time)?.as_secs();
    (60..=MAX_SECONDS).contains(&seconds).then_some(Bounds { uses, seconds })
}

/// `90s`, `15m` or `2h`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|n: &u64| n.to_string() == digits)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _unknown => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// Cedar's strict validation of one set. `texts` are the files of the bundle.
pub(crate) fn validate(
    set: &PolicySet,
    schema: &Schema,
    level: u32,
    policies: &BTreeMap<String, Authored>,
    texts: &BTreeMap<String, String>,
    findings: &mut Vec<Finding>,
) {
    let result = Validator::new(schema.clone()).validate_with_level(set, ValidationMode::Strict, level);
    let mut seen = BTreeSet::new();
    let mut tell = |id: &str, error: &dyn miette::Diagnostic, warning: bool| {
        let Some(authored) = policies.get(id) else {
            return;
        };
        let text = texts.get(&authored.file).map_or("", String::as_str);
        let mut finding = from_cedar(&authored.file, text, error).about(id);
        if (finding.line, finding.column) == (1, 1) {
            finding = finding.at(authored.at);
        }
        if warning {
            finding = finding.warning();
        }
        // The same expression fails once for each kind of request that it could be evaluated for.
        if seen.insert(finding.clone()) {
            findings.push(finding);
        }
    };
    for error in result.validation_errors() {
        tell(error.policy_id().as_ref(), error, false);
    }
    for warning in result.validation_warnings() {
        // A policy that never applies is a mistake; one that only looks odd is for people to judge.
        let impossible =
            matches!(warning, ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_));
        tell(warning.policy_id().as_ref(), warning, !impossible);
    }
}

/// The position of `word` in a file, for findings about data.
pub(crate) fn at_text(text: &str, word: &str) -> (usize, usize) {
    text.find(word).map_or((1, 1), |offset| position(text, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_pre_approved_has_one_spelling_and_two_ceilings() {
        assert_eq!(pre_approval("10 uses, 2h"), Some(Bounds { uses: 10, seconds: 7_200 }));
        assert_eq!(pre_approval("100 uses, 24h"), Some(Bounds { uses: 100, seconds: 86_400 }));
        for bad in [
            "",
            "10",
            "10 uses",
            "2h",
            "2h, 10 uses",
            "1 uses, 2h",
            "0 uses, 2h",
            "101 uses, 2h",
            "010 uses, 2h",
            "10 uses,2h",
            "10 uses, 25h",
            "10 uses, 59s",
            "10 uses, 0m",
            "-1 uses, 2h",
            "10 uses, 2h ",
            "10  uses, 2h",
        ] {
            assert_eq!(pre_approval(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_have_one_spelling() {
        assert_eq!(duration("15m"), Some(Duration::from_secs(900)));
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        for bad in ["", "m", "15", "015m", "+1m", "1d", "1.5h", "-1m", "99999999999999999999h", "1ü"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
