//! What a bundle keeps of what was done: the labels and counters that `bundle.toml` declares, and what of them policies read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cedar_policy::{Entity, EvalResult};
use countersign_core::EntityRef;
use countersign_core::ledger::{Counter, LONGEST_WINDOW, Rules};
use serde::Deserialize;
use serde_json::Value;

use crate::bundle::Operation;
use crate::clause::path;
use crate::closed_form::children;
use crate::entities::Directory;
use crate::finding::{Finding, locate};
use crate::lint;
use crate::manifest::Manifest;
use crate::policies::{Authored, Kind};
use crate::source::{ENTITIES, MANIFEST, SCHEMA, Source};
use crate::view::View;

/// The attribute by which a resource has labels.
const LABELS: &str = "labels";
/// The most labels, and the most counters, of a bundle.
const MOST: usize = 32;
const MAX_FOLLOW: Duration = Duration::from_secs(366 * 86_400);
const MIN_WINDOW: Duration = Duration::from_secs(60);

/// A counter, as `bundle.toml` declares it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declared {
    operations: Vec<String>,
    #[serde(default)]
    sum: Option<String>,
    /// A time, or `session`.
    #[serde(default = "usual_window")]
    window: String,
}

fn usual_window() -> String {
    "24h".to_owned()
}

/// The window of what counts for its session alone. Said, and not left out: a new session begins at nothing.
const SESSION: &str = "session";

/// As everywhere, or in days: `30d`.
fn duration(text: &str) -> Option<Duration> {
    let Some(days) = text.strip_suffix('d') else { return lint::duration(text) };
    let number: u64 = days.parse().ok().filter(|number: &u64| number.to_string() == days)?;
    number.checked_mul(86_400).map(Duration::from_secs)
}

/// What policies read of `context.session` that has to be kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reads {
    labels: bool,
    counters: bool,
    unresolved: bool,
    /// Whether it names labels, counters or `unresolved`, and not the session as a whole.
    named: bool,
}

impl Reads {
    const ALL: Self = Self { labels: true, counters: true, unresolved: true, named: false };

    fn any(self) -> bool {
        self.labels || self.counts()
    }

    /// Whether it reads what goes up and down again with what is done.
    fn counts(self) -> bool {
        self.counters || self.unresolved
    }
}

/// What a policy reads, found in its JSON form. Whatever it could read is counted.
fn reads(policy: &Value) -> Reads {
    let conditions = policy.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let mut rest: Vec<&Value> = conditions.filter_map(|clause| clause.get("body")).collect();
    let mut found = Reads::default();
    while let Some(at) = rest.pop() {
        if let Some((variable, fields)) = path(at) {
            let mut fields = fields.iter().map(String::as_str);
            match (variable.as_str(), fields.next(), fields.next()) {
                ("context", None, _) | ("context", Some("session"), None) => {
                    found = Reads { named: found.named, ..Reads::ALL };
                }
                ("context", Some("session"), Some("labels")) => (found.labels, found.named) = (true, true),
                ("context", Some("session"), Some("counters")) => (found.counters, found.named) = (true, true),
                ("context", Some("session"), Some("unresolved")) => (found.unresolved, found.named) = (true, true),
                _nothing_kept => {}
            }
            continue;
        }
        match children(at) {
            Some(children) => rest.extend(children),
            None => return Reads::ALL,
        }
    }
    found
}

/// What an answer rests on of what is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resting {
    pub any: bool,
    /// On what goes up and down again with what is done.
    pub counts: bool,
}

/// The policies for work whose answer rests on what is kept.
pub(crate) fn resting(authored: &BTreeMap<String, Authored>) -> BTreeMap<&str, Resting> {
    let work = authored.values().filter(|policy| policy.kind == Kind::Work);
    let resting = work.map(|policy| (policy.id.as_str(), reads(&policy.json))).filter(|(_, reads)| reads.any());
    resting.map(|(id, reads)| (id, Resting { any: true, counts: reads.counts() })).collect()
}

/// The labels that a policy looks for by name.
fn looked_for(policy: &Value) -> BTreeSet<String> {
    let labels = ("context".to_owned(), vec!["session".to_owned(), LABELS.to_owned()]);
    let mut found = BTreeSet::new();
    let conditions = policy.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let mut rest: Vec<&Value> = conditions.filter_map(|clause| clause.get("body")).collect();
    while let Some(at) = rest.pop() {
        for operator in ["contains", "containsAny", "containsAll"] {
            let sides = at.get(operator).and_then(|sides| Some((sides.get("left")?, sides.get("right")?)));
            match sides {
                Some((left, right)) if path(left).as_ref() == Some(&labels) => texts(right, &mut found),
                Some((left, right)) if path(right).as_ref() == Some(&labels) => texts(left, &mut found),
                Some(_) | None => {}
            }
        }
        rest.extend(children(at).unwrap_or_default());
    }
    found
}

/// The strings of an expression that is one, or a set of them.
fn texts(expression: &Value, found: &mut BTreeSet<String>) {
    let mut rest = vec![expression];
    while let Some(at) = rest.pop() {
        match at.get("Value").unwrap_or(at) {
            Value::String(text) => drop(found.insert(text.clone())),
            Value::Array(items) => rest.extend(items),
            Value::Object(parts) => rest.extend(parts.get("Set")),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// What is kept, if what the manifest declares can be.
pub(crate) fn rules(
    Manifest { labels, counters, .. }: &Manifest,
    source: &Source,
    authored: &BTreeMap<String, Authored>,
    schema: &Value,
    operations: &BTreeMap<String, Operation>,
    directory: &Directory,
    findings: &mut Vec<Finding>,
) -> Rules {
    let text = source.text(MANIFEST).unwrap_or_default();
    let mut refuse = |word: &str, message: String, hint: &str| {
        findings.push(Finding::error(MANIFEST, message).at(locate(text, word)).hint(hint));
    };
    for (what, count) in [("labels", labels.len()), ("counters", counters.len())] {
        if count > MOST {
            refuse(what, format!("{count} {what} are declared"), "declare at most 32");
        }
    }
    let mut kept = Rules::default();
    for (label, follow) in labels {
        if !is_name(label, b'-') {
            let message = format!("`{}` is not a label", label.escape_debug());
            refuse(label, message, "use 1 to 64 of the characters a-z, 0-9 and `-`");
        }
        match duration(follow).filter(|follow| *follow <= MAX_FOLLOW) {
            Some(follow) => drop(kept.labels.insert(label.clone(), follow)),
            None => {
                let message = format!("`{}` is not how long a label follows", follow.escape_debug());
                refuse(
                    label,
                    message,
                    "write a time of at most 366 days, such as `12h` or `30d`; `0s`: its session alone",
                );
            }
        }
    }
    for (name, declared) in counters {
        if !is_name(name, b'_') || name.starts_with(|first: char| first.is_ascii_digit()) {
            let message = format!("`{}` is not a counter", name.escape_debug());
            refuse(name, message, "use 1 to 64 of the characters a-z, 0-9 and `_`, and a letter first");
        }
        match counter(declared, operations) {
            Ok(counter) => drop(kept.counters.insert(name.clone(), counter)),
            Err((message, hint)) => refuse(name, message, &hint),
        }
    }
    let work = authored.values().filter(|policy| policy.kind == Kind::Work);
    for (policy, reads) in work.map(|policy| (policy, reads(&policy.json))).filter(|(_, reads)| reads.any()) {
        kept.running = kept.running || reads.unresolved;
        if !labels.is_empty() {
            for unknown in looked_for(&policy.json).iter().filter(|label| !labels.contains_key(*label)) {
                let message = format!("looks for the label `{}`, which is not declared", unknown.escape_debug());
                let hint = "declare it in `bundle.toml` under `[labels]`, or correct it";
                findings.push(policy.finding(message).hint(hint));
            }
        }
        if reads.labels && reads.named && labels.is_empty() {
            let hint = "declare the labels in `bundle.toml`, such as `[labels]` and `pii = \"30d\"`";
            findings.push(policy.finding("reads `context.session.labels`, and the bundle keeps none").hint(hint));
        }
    }
    check_types(&kept, source, schema, findings);
    check_entities(&kept, source, directory, findings);
    kept
}

/// What is called `labels`, and is none, would be looked at by nobody.
fn check_types(kept: &Rules, source: &Source, schema: &Value, findings: &mut Vec<Finding>) {
    let text = source.text(SCHEMA).unwrap_or_default();
    for (namespace, declared) in schema.as_object().into_iter().flatten() {
        let types = declared.get("entityTypes").and_then(Value::as_object).into_iter().flatten();
        for (name, of) in types {
            let at = ["shape", "attributes", LABELS].into_iter().try_fold(of, |at, key| at.get(key));
            let Some(attribute) = at else { continue };
            let is = |value: &Value, kind: &str| {
                let named = value.get("name").and_then(Value::as_str);
                value.get("type").and_then(Value::as_str) == Some(kind) || named == Some(kind)
            };
            let element = attribute.get("element");
            let fits = is(attribute, "Set")
                && element.is_some_and(|element| is(element, "String") || is(element, "__cedar::String"));
            let name = if namespace.is_empty() { name.clone() } else { format!("{namespace}::{name}") };
            if !kept.labels.is_empty() && !fits {
                let hint = "write `labels: Set<String>`, or call it otherwise";
                let message = format!("the `labels` of `{name}` are no set of strings");
                findings.push(Finding::error(SCHEMA, message).at(locate(text, LABELS)).hint(hint));
            } else if kept.labels.is_empty() && fits {
                let hint = "declare them in `bundle.toml` under `[labels]`, or nobody carries them";
                let message = format!("the `labels` of `{name}` are not kept");
                findings.push(Finding::error(SCHEMA, message).warning().at(locate(text, LABELS)).hint(hint));
            }
        }
    }
}

fn counter(declared: &Declared, operations: &BTreeMap<String, Operation>) -> Result<Counter, (String, String)> {
    let Declared { operations: named, sum, window } = declared;
    if named.is_empty() {
        return Err(("the counter counts no operation".into(), "name the `operations` that charge it".into()));
    }
    for name in named {
        let Some(operation) = operations.get(name) else {
            let known: Vec<String> = operations.keys().map(|known| format!("`{known}`")).collect();
            let message = format!("the counter names the operation `{}`, which there is not", name.escape_debug());
            return Err((message, format!("the operations are {}", known.join(", "))));
        };
        if let Some(field) = sum.as_ref().filter(|field| !operation.input.is_long(field)) {
            let message = format!(
                "the counter adds up `input.{}` of `{name}`, which is no `Long` that is always there",
                field.escape_debug()
            );
            return Err((
                message,
                "name a field of the input that is a `Long` without `?`, or leave `sum` out to count actions".into(),
            ));
        }
    }
    let window = match window.as_str() {
        SESSION => None,
        time => match duration(time).filter(|window| (MIN_WINDOW..=LONGEST_WINDOW).contains(window)) {
            Some(window) => Some(window),
            None => {
                let message = format!("`{}` is not a window", time.escape_debug());
                return Err((message, "write a time from `1m` to `31d`, or `session`".into()));
            }
        },
    };
    Ok(Counter { operations: named.iter().cloned().collect(), sum: sum.clone(), window })
}

fn is_name(name: &str, joint: u8) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9') || b == joint)
}

/// A label that is misspelt on a resource is one that no policy looks for.
fn check_entities(kept: &Rules, source: &Source, directory: &Directory, findings: &mut Vec<Finding>) {
    if kept.labels.is_empty() {
        return;
    }
    let all: BTreeSet<String> = directory.entities.iter().filter_map(labels).flatten().collect();
    for unknown in all.iter().filter(|label| !kept.labels.contains_key(*label)) {
        let text = source.text(ENTITIES).unwrap_or_default();
        let message = format!("the label `{}` is not declared", unknown.escape_debug());
        let hint = "declare it in `bundle.toml` under `[labels]`, or correct it";
        findings.push(Finding::error(ENTITIES, message).at(locate(text, &format!("\"{unknown}\""))).hint(hint));
    }
}

/// The labels of an entity, if it has any.
pub(crate) fn labels(entity: &Entity) -> Option<BTreeSet<String>> {
    let Some(Ok(EvalResult::Set(labels))) = entity.attr(LABELS) else { return None };
    let text = |label: &EvalResult| if let EvalResult::String(text) = label { Some(text.clone()) } else { None };
    labels.iter().map(text).collect()
}

impl View<'_> {
    /// The labels that an action on a resource leaves.
    #[must_use]
    pub fn labels_of(&self, resource: &EntityRef) -> BTreeSet<String> {
        if self.bundle.kept().labels.is_empty() {
            return BTreeSet::new();
        }
        let held = self.bundle.directory.uid(resource).and_then(|uid| self.held(&uid));
        held.and_then(|held| labels(&held.entity)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    fn read(condition: &str) -> Reads {
        let policy = format!("forbid (principal, action, resource) {condition};");
        reads(&Policy::parse(None, policy).unwrap().to_json().unwrap())
    }

    #[test]
    fn what_a_policy_reads_of_a_session_is_found_wherever_it_stands() {
        let labels = Reads { labels: true, ..Reads::default() };
        for body in [
            r#"when { context.session.labels.contains("pii") }"#,
            r#"unless { ["pii"].containsAny(context.session.labels) }"#,
            r#"when { context["session"]["labels"] == [] }"#,
            r#"when { (if context.input.a then context.session else context.session).labels == [] }"#,
        ] {
            assert!(read(body).labels, "{body}");
        }
        assert_eq!(read(r#"when { context has session.labels }"#), Reads { named: true, ..labels });
        assert!(read("when { context.session.counters.rows + context.input.rows > 10 }").counters);
        assert!(read("when { context.session.unresolved > 0 }").unresolved);
        assert_eq!(read("when { context.session == context.session }"), Reads::ALL);
    }

    #[test]
    fn labels_that_a_policy_looks_for_are_found() {
        let looked = |condition: &str| {
            let policy = format!("forbid (principal, action, resource) {condition};");
            looked_for(&Policy::parse(None, policy).unwrap().to_json().unwrap()).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(looked(r#"when { !context.session.labels.contains("a") }"#), ["a"]);
        assert_eq!(looked(r#"when { context.session.labels.containsAny(["a", "b"]) }"#), ["a", "b"]);
        assert_eq!(looked(r#"unless { ["c"].containsAll(context.session.labels) || "d" == "d" }"#), ["c"]);
    }

    #[test]
    fn what_every_session_has_need_not_be_kept() {
        for body in [
            r#"when { context.session.purpose like "*" && context.session.deadline > context.now.instant }"#,
            r#"when { context.input.labels == [] && resource has labels }"#,
            "",
        ] {
            assert_eq!(read(body), Reads::default(), "{body}");
        }
    }
}
