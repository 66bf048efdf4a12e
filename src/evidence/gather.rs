//! Which records of a log are about one action.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What is kept of a record while its log is read.
#[derive(Debug)]
struct Line {
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
    /// By their indices.
    lines: BTreeMap<u64, Line>,
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

/// By what more of the records about a subject may be found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lead {
    /// An id of a capability, an approval request or a review.
    Id(String),
    /// A session.
    Session(String),
    /// The digest of a bundle that became active.
    Bundle(String),
}

/// What the records that were read so far tell of a subject.
struct Reach<'a> {
    /// What it was decided by, asked by, and spent as.
    ids: BTreeSet<String>,
    sessions: BTreeSet<&'a str>,
    bundles: BTreeSet<&'a str>,
    chosen: BTreeSet<u64>,
}

fn is_general(kind: &str) -> bool {
    matches!(kind, "session_opened" | "session_ended" | "bundle_activated" | "key")
}

impl Gather {
    /// Takes a record of the log, in any order. What is no record of an action is passed over.
    pub fn record(&mut self, index: u64, content: &[u8]) {
        let Ok(record) = serde_json::from_slice::<Value>(content) else { return };
        let kind = text(&record, "/kind").unwrap_or_default();
        let about = matches!(
            kind,
            "decision" | "approval_requested" | "approval_excluded" | "approval_escalated" | "approval_void" | "vote"
        ) || matches!(
            kind,
            "vote_withdrawn" | "approval_cancelled" | "redeem" | "delegated" | "complete" | "revoke" | "review_closed"
        ) || kind == "outcome_resolved"
            || is_general(kind);
        if !about {
            return;
        }
        let line = Line {
            kind: kind.to_owned(),
            ids: subjects(&record),
            session: session(&record).map(str::to_owned),
            digest: text(&record, "/digest").map(str::to_owned),
            bundle: text(&record, "/bundle").map(str::to_owned),
            key: record.pointer("/key").or_else(|| record.pointer("/minted/key")).and_then(Value::as_u64),
        };
        self.lines.insert(index, line);
    }

    /// The indices of the records about a subject, ascending; empty if the log knows nothing of it.
    #[must_use]
    pub fn about(&self, subject: &str) -> Vec<u64> {
        self.reach(subject).chosen.into_iter().collect()
    }

    /// By what more may be found than was read. When everything was read that each of them, and the kind `key`, leads to, and none
    /// is new, [`Self::about`] is the same as if all of the log had been read.
    #[must_use]
    pub fn leads(&self, subject: &str) -> BTreeSet<Lead> {
        let Reach { ids, sessions, bundles, chosen: _ } = self.reach(subject);
        // Whatever names a decision names one of the others too, or is in its session.
        let ids = ids.into_iter().filter(|id| !id.starts_with("dec_")).map(Lead::Id);
        let sessions = sessions.into_iter().map(|session| Lead::Session(session.to_owned()));
        ids.chain(sessions).chain(bundles.into_iter().map(|bundle| Lead::Bundle(bundle.to_owned()))).collect()
    }

    fn reach(&self, subject: &str) -> Reach<'_> {
        let own = self.lines.iter().filter(|(_, line)| !is_general(&line.kind));
        // What it was decided by, asked by, and spent as: two steps reach each from each of the others.
        let mut ids = BTreeSet::from([subject.to_owned()]);
        for _ in 0..2 {
            for (_, line) in own.clone() {
                let minted_elsewhere =
                    line.kind == "decision" && subject.starts_with("cap_") && !line.ids.contains(subject);
                if !minted_elsewhere && !line.ids.is_disjoint(&ids) {
                    ids.extend(line.ids.iter().cloned());
                }
            }
        }
        let mut chosen: BTreeSet<u64> = BTreeSet::new();
        let (mut sessions, mut bundles, mut keys) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let first: Vec<(&u64, &Line)> = own.clone().filter(|(_, line)| !line.ids.is_disjoint(&ids)).collect();
        sessions.extend(first.iter().filter_map(|(_, line)| line.session.as_deref()));
        let digests: BTreeSet<&str> = first.iter().filter_map(|(_, line)| line.digest.as_deref()).collect();
        // The same action in the same session, decided before people were asked; not by what others answered, nor for another execution.
        let nothing_else = |line: &Line| line.ids.iter().all(|id| id.starts_with("dec_") || ids.contains(id));
        let decided = own.filter(|(_, line)| {
            line.kind == "decision"
                && nothing_else(line)
                && line.digest.as_deref().is_some_and(|digest| digests.contains(digest))
                && line.session.as_deref().is_some_and(|session| sessions.contains(session))
        });
        for (index, line) in first.iter().copied().chain(decided) {
            chosen.insert(*index);
            bundles.extend(line.bundle.as_deref());
            keys.extend(line.key);
        }
        for (index, line) in self.lines.iter().filter(|(_, line)| is_general(&line.kind)) {
            let wanted = match line.kind.as_str() {
                "session_opened" | "session_ended" => {
                    line.session.as_deref().is_some_and(|session| sessions.contains(session))
                }
                "bundle_activated" => line.bundle.as_deref().is_some_and(|bundle| bundles.contains(bundle)),
                _key => line.key.is_some_and(|key| keys.contains(&key)),
            };
            if wanted && !first.is_empty() {
                chosen.insert(*index);
            }
        }
        Reach { ids, sessions, bundles, chosen }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const KINDS: [&str; 8] =
        ["decision", "approval_requested", "vote", "redeem", "delegated", "session_opened", "bundle_activated", "key"];

    /// A log in which ids, sessions and digests meet by chance.
    fn log() -> impl Strategy<Value = Vec<Value>> {
        let few = 0..4_u8;
        let record = (prop::sample::select(&KINDS[..]), few.clone(), few.clone(), few.clone(), few).prop_map(
            |(kind, decision, approval, capability, place)| {
                let mut record = json!({
                    "kind": kind, "bundle": format!("{}", place % 2), "digest": format!("{}", capability % 2), "key": place,
                    "session": format!("ses_{}", place / 2),
                });
                let fields = record.as_object_mut().unwrap();
                let mut name = |field: &str, prefix: &str, id: u8| {
                    // Not every record names everything.
                    if id > 0 {
                        fields.insert(field.to_owned(), json!(format!("{prefix}_{id}")));
                    }
                };
                name("approval", "apr", approval);
                name("capability", "cap", capability);
                if kind == "delegated" {
                    name("to", "cap", decision);
                }
                if kind == "decision" {
                    // Its own.
                    fields.insert("decision".to_owned(), json!(format!("dec_{decision}{approval}{capability}{place}")));
                }
                record
            },
        );
        prop::collection::vec(record, 0..40)
    }

    /// What a search by a lead finds.
    fn found(record: &Value, lead: &Lead) -> bool {
        match lead {
            Lead::Id(id) => subjects(record).contains(id),
            Lead::Session(wanted) => session(record) == Some(wanted),
            Lead::Bundle(bundle) => {
                text(record, "/kind") == Some("bundle_activated") && text(record, "/bundle") == Some(bundle)
            }
        }
    }

    proptest! {
        #[test]
        fn what_searches_lead_to_is_all_that_reading_the_log_finds(log in log(), subject in "(cap|apr)_[1-3]") {
            let take = |gather: &mut Gather, wanted: &dyn Fn(&Value) -> bool| {
                for (index, record) in (0..).zip(&log).filter(|(_, record)| wanted(record)) {
                    gather.record(index, record.to_string().as_bytes());
                }
            };
            let mut all = Gather::default();
            take(&mut all, &|_| true);
            let mut some = Gather::default();
            take(&mut some, &|record| text(record, "/kind") == Some("key"));
            let mut followed = BTreeSet::new();
            let mut new = BTreeSet::from([Lead::Id(subject.clone())]);
            while !new.is_empty() {
                for lead in &new {
                    take(&mut some, &|record| found(record, lead));
                }
                followed.append(&mut new);
                new = some.leads(&subject).difference(&followed).cloned().collect();
            }
            prop_assert_eq!(some.about(&subject), all.about(&subject));
        }
    }
}
