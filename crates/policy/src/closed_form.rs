//! What can be told of a policy from its text alone: whether people can lift it, whether it reads `approval` anywhere else,
//! and which rules it names. Works on Cedar's JSON form of policies.

use serde_json::{Value, json};

/// The context field that only the closed form may read.
const APPROVAL: &str = "approval";

/// How a policy treats approvals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// It does not read them.
    Final,
    /// It is a forbid that asks for its own id, exactly once, in the closed form.
    Liftable,
    /// It reads them in any other way. The text says how.
    Refused(String),
}

/// The clause by which people can lift the forbid `id`:
/// `unless { context has approval && context.approval.rules.contains("<id>") }`.
pub(crate) fn closed_clause(id: &str) -> Value {
    let context = json!({ "Var": "context" });
    json!({ "kind": "unless", "body": { "&&": {
        "left": { "has": { "left": context, "attr": APPROVAL } },
        "right": { "contains": {
            "left": { ".": { "left": { ".": { "left": context, "attr": APPROVAL } }, "attr": "rules" } },
            "right": { "Value": id },
        } },
    } } })
}

/// The clauses of the rule `id` with the closed one turned: what it asks to be approved, when it is. Nothing if `policy` is
/// no such rule.
pub(crate) fn approved(id: &str, mut policy: Value) -> Option<Value> {
    let closed = closed_clause(id);
    let clauses = policy.get_mut("conditions")?.as_array_mut()?;
    let clause = clauses.iter_mut().find(|clause| **clause == closed)?;
    clause.as_object_mut()?.insert("kind".into(), "when".into());
    Some(policy)
}

/// Judges one policy. The preview of what an approval would lift is exact only if nothing else depends on approvals, so
/// whatever is not understood here is refused.
pub(crate) fn form(id: &str, policy: &Value) -> Form {
    let closed = closed_clause(id);
    let clauses: Vec<&Value> = policy.get("conditions").and_then(Value::as_array).into_iter().flatten().collect();
    let (lifting, others): (Vec<_>, Vec<_>) = clauses.into_iter().partition(|clause| **clause == closed);
    for clause in others {
        let Some(body) = clause.get("body") else {
            return Form::Refused("has a clause that cannot be read".into());
        };
        if let Err(reason) = reads_no_approval(body) {
            return Form::Refused(reason);
        }
    }
    match (lifting.len(), policy.get("effect").and_then(Value::as_str)) {
        (0, _) => Form::Final,
        (1, Some("forbid")) => Form::Liftable,
        (1, _) => Form::Refused("is a permit, and asks for an approval; only a forbid can be lifted".into()),
        (_, _) => Form::Refused("asks for its approval more than once".into()),
    }
}

/// Whether an expression leaves `context.approval` alone. `context` may stand only before an attribute or a `has`, since
/// as a whole value it could be taken apart anywhere.
fn reads_no_approval(expression: &Value) -> Result<(), String> {
    let mut rest = vec![expression];
    while let Some(at) = rest.pop() {
        if let Some(attribute) = context_attribute(at) {
            if attribute == APPROVAL {
                return Err("reads `context.approval` outside of the closed form".into());
            }
            continue;
        }
        if at.get("Var").and_then(Value::as_str) == Some("context") {
            return Err("uses `context` as a whole value; name the field that it needs".into());
        }
        match children(at) {
            Some(children) => rest.extend(children),
            None => return Err("has an expression that cannot be checked".into()),
        }
    }
    Ok(())
}

/// The attribute of `context` that an expression reads or tests: `a` of `context.a`, `context has a` and
/// `context has a.b`.
fn context_attribute(expression: &Value) -> Option<&str> {
    let access = expression.get(".").or_else(|| expression.get("has"))?;
    if access.get("left")?.get("Var")?.as_str()? != "context" {
        return None;
    }
    match access.get("attr")? {
        Value::String(attribute) => Some(attribute),
        Value::Array(path) => path.first()?.as_str(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// The expressions inside an expression; nothing if its form is not known.
pub(crate) fn children(expression: &Value) -> Option<Vec<&Value>> {
    let map = expression.as_object()?;
    let (kind, body) = map.iter().next().filter(|_| map.len() == 1)?;
    let fields = |names: &[&str]| names.iter().map(|name| body.get(*name)).collect::<Option<Vec<_>>>();
    match (kind.as_str(), body) {
        ("Value" | "Var" | "Slot", _) => Some(Vec::new()),
        ("Record", Value::Object(fields)) => Some(fields.values().collect()),
        ("if-then-else", _) => fields(&["if", "then", "else"]),
        ("." | "has" | "like", _) => fields(&["left"]),
        ("is", _) => Some(fields(&["left"])?.into_iter().chain(body.get("in")).collect()),
        ("!" | "neg" | "isEmpty", _) => fields(&["arg"]),
        // A set, or the arguments of an extension function.
        (_, Value::Array(items)) => Some(items.iter().collect()),
        (_, _) => fields(&["left", "right"]),
    }
}

/// The rules that an `approve` policy compares `context.rule` with; nothing if it does not, or does so in other ways, and
/// may thus answer for any rule. An over-approximation: who may really answer, Cedar says.
pub(crate) fn rules_named(policy: &Value) -> Option<Vec<String>> {
    let rule = json!({ ".": { "left": { "Var": "context" }, "attr": "rule" } });
    let text = |value: &Value| value.get("Value").and_then(Value::as_str).map(str::to_owned);
    let mut named = Vec::new();
    let clauses = policy.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let mut rest: Vec<&Value> = clauses.filter_map(|clause| clause.get("body")).collect();
    while let Some(at) = rest.pop() {
        if *at == rule {
            return None;
        }
        let (equals, contains) = (at.get("=="), at.get("contains"));
        let sides = equals.or(contains).and_then(|body| Some((body.get("left")?, body.get("right")?)));
        let literals: Option<Vec<String>> = match sides {
            Some((left, right)) if equals.is_some() && *left == rule => text(right).map(|id| vec![id]),
            Some((left, right)) if equals.is_some() && *right == rule => text(left).map(|id| vec![id]),
            Some((left, right)) if contains.is_some() && *right == rule => left
                .get("Set")
                .or_else(|| left.get("Value"))
                .and_then(Value::as_array)
                .and_then(|ids| ids.iter().map(|id| text(id).or_else(|| id.as_str().map(str::to_owned))).collect()),
            Some(_) | None => None,
        };
        match literals {
            Some(literals) => named.extend(literals),
            None => rest.extend(children(at)?),
        }
    }
    named.sort();
    named.dedup();
    if named.is_empty() { None } else { Some(named) }
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    fn est(policy: &str) -> Value {
        Policy::parse(None, policy).unwrap().to_json().unwrap()
    }

    fn judged(policy: &str) -> Form {
        form("own", &est(policy))
    }

    const CLOSED: &str = r#"unless { context has approval && context.approval.rules.contains("own") }"#;

    #[test]
    fn the_closed_form_makes_a_forbid_liftable() {
        assert_eq!(judged(&format!("forbid (principal, action, resource) {CLOSED};")), Form::Liftable);
        let with_others = r#"when { context.input.rows > 1 && context has operator } unless { resource has x.y }"#;
        assert_eq!(judged(&format!("forbid (principal, action, resource) {with_others} {CLOSED};")), Form::Liftable);
        assert_eq!(judged("forbid (principal, action, resource) when { context.input.a };"), Form::Final);
    }

    #[test]
    fn what_a_rule_asks_about_with_its_approval_has_the_clause_turned() {
        let rest = r#"forbid (principal, action, resource) when { context.input.a } "#;
        let turned = CLOSED.replace("unless", "when");
        assert_eq!(approved("own", est(&format!("{rest}{CLOSED};"))), Some(est(&format!("{rest}{turned};"))));
        assert_eq!(approved("other", est(&format!("{rest}{CLOSED};"))), None);
    }

    #[test]
    fn approval_is_read_nowhere_else() {
        for body in [
            r#"when { context has approval }"#,
            r#"when { context has approval.rules }"#,
            r#"when { context.approval.rules.contains("own") }"#,
            r#"when { context["approval"].rules.contains("own") }"#,
            r#"when { {c: context}.c.approval.digest == "x" }"#,
            r#"when { (if true then context else context).approval.digest == "x" }"#,
            r#"when { [context].contains(context) }"#,
            r#"when { context == context }"#,
            r#"when { principal == resource || !(context has approval) }"#,
            r#"when { ip("10.0.0.1").isInRange(ip(context.approval.digest)) }"#,
            r#"when { resource is Foo in context.approval.persons }"#,
            r#"when { resource.getTag(context.approval.digest) == "x" }"#,
            r#"when { context.approval.digest like "*" }"#,
            r#"when { context has approval && context.approval.rules.contains("own") }"#,
            r#"unless { context has approval && context.approval.rules.contains("other") }"#,
            r#"unless { context has approval && context.approval.rules.contains("own") || true }"#,
            r#"unless { true && (context has approval && context.approval.rules.contains("own")) }"#,
            r#"unless { context.approval.rules.contains("own") && context has approval }"#,
            r#"unless { context has approval && context.approval.rules.containsAny(["own"]) }"#,
        ] {
            let policy = format!("forbid (principal, action, resource) {body};");
            assert!(matches!(judged(&policy), Form::Refused(_)), "{policy}");
        }
        assert!(matches!(
            judged(&format!("forbid (principal, action, resource) {CLOSED} {CLOSED};")),
            Form::Refused(_)
        ));
        assert!(matches!(judged(&format!("permit (principal, action, resource) {CLOSED};")), Form::Refused(_)));
    }

    #[test]
    fn fields_that_are_only_called_approval_are_no_approvals() {
        for body in [
            r#"when { resource.approval == 1 && context.input.approval }"#,
            r#"when { {approval: 1}.approval == 1 }"#,
            r#"when { context.input has approval }"#,
            r#"when { "context.approval" == context.digest }"#,
        ] {
            assert_eq!(judged(&format!("forbid (principal, action, resource) {body};")), Form::Final, "{body}");
        }
    }

    #[test]
    fn rules_are_read_from_comparisons() {
        let named = |body: &str| rules_named(&est(&format!("permit (principal, action, resource) {body};")));
        assert_eq!(named(r#"when { context.rule == "a" && resource == resource }"#), Some(vec!["a".into()]));
        assert_eq!(named(r#"when { "b" == context.rule || context.rule == "a" }"#), Some(vec!["a".into(), "b".into()]));
        assert_eq!(named(r#"when { ["a", "b"].contains(context.rule) }"#), Some(vec!["a".into(), "b".into()]));
        assert_eq!(named(""), None);
        assert_eq!(named(r#"when { context.rule == "a" || context.rule like "b*" }"#), None);
        assert_eq!(named(r#"when { context.rule == context.operation }"#), None);
    }
}
