//! A policy taken apart into clauses, each true or false by itself: how an answer is explained.
//!
//! A policy applies if its scope matches, every `when` holds and no `unless` does. All of these are joined by `&&`, which
//! Cedar evaluates from left to right and stops at the first that does not hold; so the policy applies exactly if every clause
//! here holds, and fails exactly if the first that does not hold fails.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use cedar_policy::{Entities, Expression, Policy, Request, eval_expression};
use countersign_core::visible::Visible;
use serde::Serialize;
use serde_json::{Value, json};

use crate::closed_form::closed_clause;

/// The longest value that is shown, in characters.
const MAX_SHOWN: usize = 256;

/// One condition of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// In Cedar's syntax.
    pub text: String,
    /// Whether it is the clause by which people lift the rule.
    pub lifting: bool,
    /// Whether it holds.
    pub holds: Holds,
    /// What it reads.
    pub reads: Vec<Read>,
}

/// Whether a clause holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "holds", content = "error")]
pub enum Holds {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It depends on what is not known.
    Open,
    /// It is not reached, since one before it does not hold, and could not be evaluated by itself.
    Unreached,
    /// It could not be evaluated.
    Failed(String),
}

/// An attribute that a clause reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Read {
    /// In Cedar's syntax, such as `resource.classification`.
    pub path: String,
    /// Its value, in Cedar's syntax; absent if there is none, or it is not known.
    pub value: Option<String>,
}

/// What clauses are evaluated on.
pub(crate) struct Ground<'a> {
    pub request: Request,
    pub entities: &'a Entities,
    /// The fields of the context that are not known.
    pub open: &'a [&'a str],
}

impl Ground<'_> {
    /// The clauses of a policy, in the order in which Cedar evaluates them. Nothing if the policy has no JSON form, which
    /// those of a bundle have.
    pub(crate) fn clauses(&self, id: &str, policy: &Policy) -> Vec<Clause> {
        let Ok(json) = policy.to_json() else { return Vec::new() };
        let lifting = closed_clause(id);
        let mut clauses = Vec::new();
        for axis in ["principal", "resource"] {
            if let Some(scope) = json.get(axis).and_then(|scope| scope_as_expression(axis, scope)) {
                clauses.push((scope, false));
            }
        }
        for condition in json.get("conditions").and_then(Value::as_array).into_iter().flatten() {
            let is_lifting = *condition == lifting;
            let Some(body) = condition.get("body") else { continue };
            if condition.get("kind").and_then(Value::as_str) == Some("unless") {
                let negated = |part: &Value| (json!({ "!": { "arg": part } }), is_lifting);
                clauses.extend(parts(body, "||").into_iter().map(negated));
            } else {
                clauses.extend(parts(body, "&&").into_iter().map(|part| (part.clone(), is_lifting)));
            }
        }
        let mut reached = true;
        let mut judged = Vec::with_capacity(clauses.len());
        for (expression, lifting) in clauses {
            let holds = match self.holds(&expression) {
                Holds::Failed(_) if !reached => Holds::Unreached,
                holds @ (Holds::Yes | Holds::No | Holds::Open | Holds::Unreached | Holds::Failed(_)) => holds,
            };
            reached = reached && holds != Holds::No;
            judged.push(Clause { text: text(&expression), lifting, holds, reads: self.reads(&expression) });
        }
        judged
    }

    fn holds(&self, expression: &Value) -> Holds {
        if self.is_open(expression) {
            return Holds::Open;
        }
        match self.value(expression) {
            Ok(value) if value == "true" => Holds::Yes,
            Ok(_) => Holds::No,
            Err(error) => Holds::Failed(error),
        }
    }

    fn is_open(&self, expression: &Value) -> bool {
        let mut paths = BTreeSet::new();
        collect(expression, &mut paths);
        paths
            .iter()
            .any(|path| path.0 == "context" && path.1.first().is_some_and(|field| self.open.contains(&field.as_str())))
    }

    fn value(&self, expression: &Value) -> Result<String, String> {
        let text = text(expression);
        let parsed = Expression::from_str(&text).map_err(|error| error.to_string())?;
        let value = eval_expression(&self.request, self.entities, &parsed).map_err(|error| error.to_string())?;
        Ok(value.to_string())
    }

    fn reads(&self, expression: &Value) -> Vec<Read> {
        let mut paths = BTreeSet::new();
        collect(expression, &mut paths);
        let attributes = paths.into_iter().filter(|(_, fields)| !fields.is_empty());
        let read = |(variable, fields): (String, Vec<String>)| {
            let seed = json!({ "Var": variable });
            let path = fields.iter().fold(seed, |left, attr| json!({ ".": { "left": left, "attr": attr } }));
            let value = if self.is_open(&path) { None } else { self.value(&path).ok() };
            Read { path: text(&path), value: value.map(|value| Visible::cut(&value, MAX_SHOWN).to_string()) }
        };
        attributes.map(read).collect()
    }
}

/// A scope's constraint as an expression; nothing if it names nothing.
fn scope_as_expression(axis: &str, scope: &Value) -> Option<Value> {
    let variable = json!({ "Var": axis });
    let entity = |of: &Value| of.get("entity").map(|entity| json!({ "Value": { "__entity": entity } }));
    match scope.get("op")?.as_str()? {
        "==" => Some(json!({ "==": { "left": variable, "right": entity(scope)? } })),
        "in" => Some(json!({ "in": { "left": variable, "right": entity(scope)? } })),
        "is" => {
            let mut is = json!({ "left": variable, "entity_type": scope.get("entity_type")? });
            if let Some(above) = scope.get("in").and_then(entity) {
                is.as_object_mut()?.insert("in".into(), above);
            }
            Some(json!({ "is": is }))
        }
        _everything => None,
    }
}

/// What an expression joins by `operator`, from left to right.
fn parts<'v>(expression: &'v Value, operator: &str) -> Vec<&'v Value> {
    let sides = expression.get(operator).and_then(|joined| joined.get("left").zip(joined.get("right")));
    match sides {
        Some((left, right)) => [parts(left, operator), parts(right, operator)].concat(),
        None => vec![expression],
    }
}

/// The variables of an expression, each with the attributes that lead on from it, as far as they do.
fn collect(expression: &Value, paths: &mut BTreeSet<(String, Vec<String>)>) {
    let mut next = vec![expression];
    while let Some(at) = next.pop() {
        if let Some(path) = path(at) {
            paths.insert(path);
            continue;
        }
        match at {
            Value::Array(parts) => next.extend(parts),
            Value::Object(fields) => next.extend(fields.values()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// `resource.a.b` as `("resource", ["a", "b"])`. A `has` counts as the attribute that it asks for.
pub(crate) fn path(expression: &Value) -> Option<(String, Vec<String>)> {
    if let Some(variable) = expression.get("Var").and_then(Value::as_str) {
        return Some((variable.to_owned(), Vec::new()));
    }
    let access = expression.get(".").or_else(|| expression.get("has"))?;
    let (variable, mut fields) = path(access.get("left")?)?;
    match access.get("attr")? {
        Value::String(field) => fields.push(field.clone()),
        Value::Array(several) => fields.extend(several.iter().filter_map(Value::as_str).map(str::to_owned)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
    }
    Some((variable, fields))
}

/// An expression in Cedar's syntax. One that has none, which none of a policy is, reads as what is never true.
fn text(expression: &Value) -> String {
    // Cedar writes these as the negations of their opposites, which is not what the author wrote.
    for operator in ["!=", ">", ">="] {
        let sides = expression.get(operator).and_then(|sides| sides.get("left").zip(sides.get("right")));
        if let Some((left, right)) = sides.filter(|(left, right)| binds(left) && binds(right)) {
            return format!("{} {operator} {}", text(left), text(right));
        }
    }
    let all = json!({ "op": "All" });
    let policy = json!({
        "effect": "permit", "principal": all, "action": all, "resource": all,
        "conditions": [{ "kind": "when", "body": expression }],
    });
    let written = Policy::from_json(None, policy).ok().and_then(|policy| policy.to_cedar()).unwrap_or_default();
    let body = written.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map(|(body, _)| body.trim());
    body.unwrap_or("false").to_owned()
}

/// Whether an expression can stand beside a comparison without parentheses.
fn binds(expression: &Value) -> bool {
    let looser = ["&&", "||", "if-then-else", "==", "!=", "<", "<=", ">", ">=", "in", "is", "has", "like"];
    looser.iter().all(|operator| expression.get(operator).is_none())
}
