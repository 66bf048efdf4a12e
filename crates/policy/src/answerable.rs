//! Who could answer for each rule, found once when a bundle is loaded.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{PrincipalConstraint, ResourceConstraint};
use countersign_core::EntityRef;
use serde_json::Value;

use crate::bundle::AskingRule;
use crate::closed_form::rules_named;
use crate::entities::{Directory, to_ref};
use crate::finding::Finding;
use crate::policies::{Authored, Kind};

/// Who could answer for a rule, before the `approve` policies judge each of them.
#[derive(Debug, Default)]
pub(crate) struct Answerable {
    pub groups: BTreeSet<EntityRef>,
    /// Persons whom the policies name, apart from groups.
    pub persons: BTreeSet<EntityRef>,
}

impl Answerable {
    /// The bundle's own persons among them.
    fn own(&self, directory: &Directory) -> usize {
        let members = self.groups.iter().flat_map(|group| directory.members(group));
        members.chain(&self.persons).collect::<BTreeSet<_>>().len()
    }
}

/// Whether who may answer can change by time alone: some `approve` policy reads `context.now` or `context.waited`. One that
/// handed the whole context on, which the lint refuses, would count as one that does.
pub(crate) fn by_time(authored: &BTreeMap<String, Authored>) -> bool {
    authored.values().any(|policy| policy.kind == Kind::Approve && reads_time(&policy.json))
}

fn reads_time(expression: &Value) -> bool {
    match expression {
        Value::Object(parts) => {
            let access = parts.get(".").or_else(|| parts.get("has"));
            let field = access.filter(|access| is_context(access.get("left")));
            if let Some(field) = field.and_then(|access| access.get("attr")) {
                return field == "now" || field == "waited";
            }
            is_context(Some(expression)) || parts.values().any(reads_time)
        }
        Value::Array(parts) => parts.iter().any(reads_time),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn is_context(expression: Option<&Value>) -> bool {
    expression.and_then(|expression| expression.get("Var")).is_some_and(|name| name == "context")
}

/// Whether two policies can be about one resource, as far as their scopes tell.
fn types_meet(a: &Authored, b: &Authored) -> bool {
    let kind = |policy: &Authored| match policy.policy.resource_constraint() {
        ResourceConstraint::Is(kind) | ResourceConstraint::IsIn(kind, _) => Some(kind),
        ResourceConstraint::Eq(entity) => Some(entity.type_name().clone()),
        ResourceConstraint::Any | ResourceConstraint::In(_) => None,
    };
    match (kind(a), kind(b)) {
        (Some(a), Some(b)) => a == b,
        (_, _) => true,
    }
}

/// For each rule who could answer, from the scopes of the `approve` policies. A rule that fewer persons could answer than
/// it asks for would keep everybody waiting for nothing, so it is refused.
pub(crate) fn answerable(
    rules: &BTreeMap<String, AskingRule>,
    authored: &BTreeMap<String, Authored>,
    directory: &Directory,
    findings: &mut Vec<Finding>,
) -> BTreeMap<String, Answerable> {
    let mut all: BTreeMap<String, Answerable> = rules.keys().map(|id| (id.clone(), Answerable::default())).collect();
    for policy in authored.values().filter(|a| a.kind == Kind::Approve) {
        let named = rules_named(&policy.json);
        for unknown in named.iter().flatten().filter(|rule| !rules.contains_key(*rule)) {
            let message = format!(
                "`{}` answers for `{}`, which is no rule that people can lift",
                policy.id,
                unknown.escape_debug()
            );
            let known: Vec<String> = rules.keys().map(|rule| format!("`{rule}`")).collect();
            let hint = match known.as_slice() {
                [] => "there is none; if there should be one, see what else is found".to_owned(),
                known => format!("such rules are: {}", known.join(", ")),
            };
            findings.push(policy.finding(message).hint(hint));
        }
        if !policy.permits() {
            continue;
        }
        let scope = match policy.policy.principal_constraint() {
            PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) => {
                to_ref(&uid).ok()
            }
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
        };
        let Some(scope) = scope else {
            let hint = "write `principal in Group::\"...\"` or `principal == Person::\"...\"` in its scope";
            findings.push(policy.finding(format!("`{}` lets anybody answer", policy.id)).hint(hint));
            continue;
        };
        // Who is in the store is known when somebody asks.
        let in_store = directory.stores("Person") || directory.stores("Group");
        let persons: BTreeSet<EntityRef> = match scope.kind() {
            "Group" => directory.members(&scope).cloned().collect(),
            _person => Some(scope.clone()).filter(|person| directory.contains(person)).into_iter().collect(),
        };
        if persons.is_empty() && !in_store {
            let hint = "add somebody to it in `entities.json`, or correct the name";
            findings.push(policy.finding(format!("`{scope}` of `{}` is nobody", policy.id)).hint(hint).warning());
        }
        let answered = all.iter_mut().filter(|(id, _)| {
            let meet = authored.get(*id).is_none_or(|rule| types_meet(rule, policy));
            meet && named.as_ref().is_none_or(|named| named.contains(id))
        });
        for (_, answerable) in answered {
            if scope.kind() == "Group" {
                answerable.groups.insert(scope.clone());
            } else {
                answerable.persons.insert(scope.clone());
            }
        }
    }
    for (id, rule) in rules {
        if directory.stores("Person") && all.get(id).is_some_and(|answerable| !answerable.groups.is_empty()) {
            continue;
        }
        let persons = all.get(id).map_or(0, |answerable| answerable.own(directory));
        if u32::try_from(persons).unwrap_or(u32::MAX) < rule.quorum
            && let Some(policy) = authored.get(id)
        {
            let message = format!("`{id}` asks for {} and {persons} could ever answer", rule.quorum);
            let hint =
                format!("permit a group with enough members to answer for `{id}` in `{}`", Kind::Approve.folder());
            findings.push(policy.finding(message).hint(hint));
        }
    }
    all
}
