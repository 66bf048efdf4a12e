//! What a bundle keeps of what was done: the labels and counters that `bundle.toml` declares, and what of them policies read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cedar_policy::{Entity, EvalResult};
use countersign_core::EntityRef;
use countersign_core::ledger::{Counter, Rules};
use serde::Deserialize;
use serde_json::Value;

use crate::bundle::Operation;
use crate::clause::path;
use crate::closed_form::children;
use crate::entities::Directory;
use crate::finding::{Finding, locate};
use crate::lint::duration;
use crate::policies::{Authored, Kind};
use crate::source::{ENTITIES, MANIFEST, Source};
use crate::view::View;

/// The attribute by which a resource has labels.
const LABELS: &str = "labels";
/// The most labels, and the most counters, of a bundle.
const MOST: usize = 32;
const MAX_FOLLOW: Duration = Duration::from_secs(366 * 86_400);
const MIN_WINDOW: Duration = Duration::from_secs(60);
const MAX_WINDOW: Duration = Duration::from_secs(31 * 86_400);

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

/// What policies read of `context.session` that has to be kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reads {
    labels: bool,
    counters: bool,
    unresolved: bool,
}

impl Reads {
    const ALL: Self = Self { labels: true, counters: true, unresolved: true };

    fn any(self) -> bool {
        self.labels || self.counters || self.unresolved
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
                ("context", None, _) | ("context", Some("session"), None) => return Reads::ALL,
                ("context", Some("session"), Some("labels")) => found.labels = true,
                ("context", Some("session"), Some("counters")) => found.counters = true,
                ("context", Some("session"), Some("unresolved")) => found.unresolved = true,
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

/// The policies for work whose answer rests on what is kept.
pub(crate) fn resting(authored: &BTreeMap<String, Authored>) -> BTreeSet<&str> {
    let work = authored.values().filter(|policy| policy.kind == Kind::Work);
    work.filter(|policy| reads(&policy.json).any()).map(|policy| policy.id.as_str()).collect()
}

/// What is kept, if what the manifest declares can be.
pub(crate) fn rules(
    labels: &BTreeMap<String, String>,
    counters: &BTreeMap<String, Declared>,
    source: &Source,
    authored: &BTreeMap<String, Authored>,
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
        if reads.labels && labels.is_empty() {
            let hint = "declare the labels in `bundle.toml`, such as `[labels]` and `pii = \"30d\"`";
            findings.push(policy.finding("reads `context.session.labels`, and the bundle keeps none").hint(hint));
        }
    }
    check_entities(&kept, source, directory, findings);
    kept
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
            let message =
                format!("the counter adds up `input.{}` of `{name}`, which is no `Long`", field.escape_debug());
            return Err((
                message,
                "name a field of the input that is a `Long`, or leave `sum` out to count actions".into(),
            ));
        }
    }
    let window = match window.as_str() {
        SESSION => None,
        time => match duration(time).filter(|window| (MIN_WINDOW..=MAX_WINDOW).contains(window)) {
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
fn labels(entity: &Entity) -> Option<BTreeSet<String>> {
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
        assert_eq!(read(r#"when { context has session.labels }"#), labels);
        assert!(read("when { context.session.counters.rows + context.input.rows > 10 }").counters);
        assert!(read("when { context.session.unresolved > 0 }").unresolved);
        assert_eq!(read("when { context.session == context.session }"), Reads::ALL);
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
