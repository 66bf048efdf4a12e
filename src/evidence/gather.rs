//! Which records of a log are about one action.

use std::collections::BTreeSet;

use serde_json::Value;

/// What is kept of a record while its log is read.
#[derive(Debug)]
struct Line {
    index: u64,
    kind: String,
    /// Everything that it is about.
    ids: BTreeSet<String>,
    session: Option<String>,
    digest: Option<String>,
    bundle: Option<String>,
    key: Option<u64>,
}

/// A log that is being read for one action.
#[derive(Debug, Default)]
pub struct Gather {
    lines: Vec<Line>,
}

/// A text in a record.
pub(super) fn text<'a>(record: &'a Value, pointer: &str) -> Option<&'a str> {
    record.pointer(pointer).and_then(Value::as_str)
}

/// What a record is about: the decision, the request and the capability.
pub(super) fn subjects(record: &Value) -> BTreeSet<String> {
    ["/decision", "/approval", "/capability", "/minted/id", "/glass_broken/review", "/review", "/to"]
        .into_iter()
        .filter_map(|pointer| text(record, pointer))
        .map(str::to_owned)
        .collect()
}

/// The session that a record is in.
pub(super) fn session(record: &Value) -> Option<&str> {
    ["/session/id", "/session", "/context/session/id"].into_iter().find_map(|pointer| text(record, pointer))
}

impl Gather {
    /// Takes the next record of the log. What is no record of an action is passed over.
    pub fn record(&mut self, index: u64, content: &[u8]) {
        let Ok(record) = serde_json::from_slice::<Value>(content) else { return };
        let kind = text(&record, "/kind").unwrap_or_default();
        let about = matches!(
            kind,
            "decision" | "approval_requested" | "approval_excluded" | "approval_escalated" | "approval_void" | "vote"
        ) || matches!(
            kind,
            "vote_withdrawn" | "approval_cancelled" | "redeem" | "delegated" | "complete" | "revoke" | "review_closed"
        ) || matches!(
            kind,
            "outcome_resolved" | "session_opened" | "session_ended" | "bundle_activated" | "key"
        );
        if !about {
            return;
        }
        self.lines.push(Line {
            index,
            kind: kind.to_owned(),
            ids: subjects(&record),
            session: session(&record).map(str::to_owned),
            digest: text(&record, "/digest").map(str::to_owned),
            bundle: text(&record, "/bundle").map(str::to_owned),
            key: record.pointer("/key").or_else(|| record.pointer("/minted/key")).and_then(Value::as_u64),
        });
    }

    /// The indices of the records about a subject, ascending; empty if the log knows nothing of it.
    #[must_use]
    pub fn about(&self, subject: &str) -> Vec<u64> {
        let is_general = |kind: &str| matches!(kind, "session_opened" | "session_ended" | "bundle_activated" | "key");
        let own = self.lines.iter().filter(|line| !is_general(&line.kind));
        // What it was decided by, asked by, and spent as: two steps reach each from each of the others.
        let mut ids = BTreeSet::from([subject.to_owned()]);
        for _ in 0..2 {
            for line in own.clone() {
                let minted_elsewhere =
                    line.kind == "decision" && subject.starts_with("cap_") && !line.ids.contains(subject);
                if !minted_elsewhere && !line.ids.is_disjoint(&ids) {
                    ids.extend(line.ids.iter().cloned());
                }
            }
        }
        let mut chosen: BTreeSet<u64> = BTreeSet::new();
        let (mut sessions, mut bundles, mut keys) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let first: Vec<&Line> = own.clone().filter(|line| !line.ids.is_disjoint(&ids)).collect();
        sessions.extend(first.iter().filter_map(|line| line.session.as_deref()));
        let digests: BTreeSet<&str> = first.iter().filter_map(|line| line.digest.as_deref()).collect();
        // The same action in the same session, decided before people were asked.
        let decided = own.filter(|line| {
            line.kind == "decision"
                && line.digest.as_deref().is_some_and(|digest| digests.contains(digest))
                && line.session.as_deref().is_some_and(|session| sessions.contains(session))
        });
        for line in first.iter().copied().chain(decided) {
            chosen.insert(line.index);
            bundles.extend(line.bundle.as_deref());
            keys.extend(line.key);
        }
        for line in self.lines.iter().filter(|line| is_general(&line.kind)) {
            let wanted = match line.kind.as_str() {
                "session_opened" | "session_ended" => {
                    line.session.as_deref().is_some_and(|session| sessions.contains(session))
                }
                "bundle_activated" => line.bundle.as_deref().is_some_and(|bundle| bundles.contains(bundle)),
                _key => line.key.is_some_and(|key| keys.contains(&key)),
            };
            if wanted && !first.is_empty() {
                chosen.insert(line.index);
            }
        }
        chosen.into_iter().collect()
    }
}
