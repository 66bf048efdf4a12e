//! Counting: what is kept is a number for each name, and what is still open.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value;

/// An approval within so long after it was first seen was hardly read.
const QUICK_MILLIS: i64 = 10_000;
/// At most so many names of one kind are told apart; what comes later counts as `(others)`.
const NAMES: usize = 1_000;
/// At most so many requests and capabilities are kept that are still open.
const OPEN: usize = 1_000_000;

/// A figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub name: String,
    pub value: u64,
}

/// Figures that belong together, and the command that lists the records behind them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    pub title: &'static str,
    pub query: String,
    pub rows: Vec<Row>,
}

/// How often each name came.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, u64>);

impl Tally {
    fn add(&mut self, name: &str) {
        let name = if self.0.len() >= NAMES && !self.0.contains_key(name) { "(others)" } else { name };
        *self.0.entry(name.to_owned()).or_default() += 1;
    }

    /// The most frequent first.
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.0.iter().map(|(name, value)| Row { name: name.clone(), value: *value }).collect();
        rows.sort_by(|a, b| b.value.cmp(&a.value).then_with(|| a.name.cmp(&b.name)));
        rows
    }
}

/// Times to an answer, by whole seconds: as many entries as there are different ones, and those beyond a day in one.
#[derive(Debug, Default)]
struct Times(BTreeMap<i64, u64>);

impl Times {
    fn add(&mut self, millis: i64) {
        *self.0.entry((millis / 1_000).clamp(0, 86_400)).or_default() += 1;
    }

    /// The seconds within which so many of a hundred came.
    fn within(&self, percent: u64) -> Option<u64> {
        let all: u64 = self.0.values().sum();
        let wanted = (all * percent).div_ceil(100);
        let mut so_far = 0;
        let found = self.0.iter().find(|(_, count)| {
            so_far += **count;
            so_far >= wanted
        });
        found.and_then(|(seconds, _)| u64::try_from(*seconds).ok())
    }
}

/// A request that may still be answered.
#[derive(Debug)]
struct Asked {
    at: i64,
    approved_by: BTreeSet<String>,
}

/// What was counted.
#[derive(Debug)]
pub struct Figures {
    from: i64,
    to: i64,
    asked: HashMap<String, Asked>,
    redeemed: HashMap<String, i64>,
    verdicts: Tally,
    requests: Tally,
    approvers: Tally,
    deciding: Tally,
    denying: Tally,
    glass: Tally,
    revoked: Tally,
    outcomes: Tally,
    refused: Tally,
    changes: Tally,
    times: Times,
    alone: u64,
    quick: u64,
}

impl Figures {
    /// Of the records from `from` on and before `to`, in milliseconds since 1970.
    pub fn new(from: i64, to: i64) -> Self {
        Self {
            from,
            to,
            asked: HashMap::new(),
            redeemed: HashMap::new(),
            verdicts: Tally::default(),
            requests: Tally::default(),
            approvers: Tally::default(),
            deciding: Tally::default(),
            denying: Tally::default(),
            glass: Tally::default(),
            revoked: Tally::default(),
            outcomes: Tally::default(),
            refused: Tally::default(),
            changes: Tally::default(),
            times: Times::default(),
            alone: 0,
            quick: 0,
        }
    }

    /// Counts a record. Those before the period are looked at for what is still open when it begins.
    pub fn take(&mut self, record: &Value) {
        let at = record.get("at").and_then(Value::as_i64).unwrap_or_default();
        if at >= self.to {
            return;
        }
        let counts = at >= self.from;
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        let kind = text("kind");
        match kind {
            "decision" if counts => self.decision(record),
            "approval_requested" => {
                let joins = record.get("joined").and_then(Value::as_bool).unwrap_or_default();
                if !joins {
                    if self.asked.len() < OPEN {
                        self.asked.insert(text("approval").to_owned(), Asked { at, approved_by: BTreeSet::new() });
                    }
                    if counts {
                        self.requests.add("asked");
                    }
                }
            }
            "vote" => self.vote(record, at, counts),
            "vote_withdrawn" => {
                let person = record.pointer("/person/id").and_then(Value::as_str).unwrap_or_default();
                if let Some(asked) = self.asked.get_mut(text("approval")) {
                    asked.approved_by.remove(person);
                }
                if counts {
                    self.approvers.add(&format!("{person} took an approval back"));
                }
            }
            "approval_cancelled" | "approval_void" => {
                self.asked.remove(text("approval"));
                if counts {
                    self.requests.add(if kind == "approval_void" { "void" } else { "cancelled" });
                }
            }
            "redeem" => {
                if self.redeemed.len() < OPEN {
                    let due = record.get("complete_by").and_then(Value::as_i64).unwrap_or(at);
                    self.redeemed.insert(text("capability").to_owned(), due);
                }
                if counts {
                    self.outcomes.add("redeemed");
                }
            }
            "complete" => {
                self.redeemed.remove(text("capability"));
                if counts {
                    self.outcomes.add(text("outcome"));
                }
            }
            "outcome_resolved" => {
                self.redeemed.remove(text("capability"));
                if counts {
                    self.outcomes.add("found out by a person");
                }
            }
            "revoke" if counts => self.revoked.add("capability"),
            "revocation" if counts => self.revoked.add(text("axis")),
            "refusal" if counts => self.refused.add(text("rpc")),
            "refusals" if counts => self.refused.add("(too fast to be recorded singly)"),
            "bundle_activated" | "bundle_signed" | "key" | "entities_changed" | "restored" | "backed_up" if counts => {
                self.changes.add(kind);
            }
            _ => {}
        }
    }

    fn decision(&mut self, record: &Value) {
        let verdict = record.get("verdict").and_then(Value::as_str).unwrap_or_default();
        self.verdicts.add(verdict);
        let rules = record.get("determining").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for rule in rules {
            self.deciding.add(rule);
            if verdict == "DENY" {
                self.denying.add(rule);
            }
        }
        if let Some(person) = record.pointer("/glass_broken/person/id").and_then(Value::as_str) {
            self.glass.add(person);
        }
    }

    fn vote(&mut self, record: &Value, at: i64, counts: bool) {
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        let person = record.pointer("/person/id").and_then(Value::as_str).unwrap_or_default();
        let approves = text("verdict") == "approve";
        let asked = self.asked.get_mut(text("approval"));
        let asked_at = asked.as_ref().map(|asked| asked.at);
        let mut voters = 0;
        if let Some(asked) = asked
            && approves
        {
            asked.approved_by.insert(person.to_owned());
            voters = asked.approved_by.len();
        }
        if text("state") != "pending" {
            self.asked.remove(text("approval"));
        }
        if !counts {
            return;
        }
        self.approvers.add(&format!("{person} {}", text("verdict")));
        if let Some(asked_at) = asked_at {
            self.times.add(at - asked_at);
        }
        if text("state") != "pending" {
            self.requests.add(text("state"));
        }
        if approves && text("state") == "approved" && voters == 1 {
            self.alone += 1;
        }
        let seen_at = record.get("seen_at").and_then(Value::as_i64).or(asked_at);
        if approves && seen_at.is_some_and(|seen| at - seen <= QUICK_MILLIS) {
            self.quick += 1;
        }
    }

    /// The figures, each with the command that lists what it was counted from.
    /// `period` are the options of the command that name the same time.
    pub fn sections(&self, period: &str) -> Vec<Section> {
        let row = |name: &str, value: u64| Row { name: name.to_owned(), value };
        let mut answers = Vec::new();
        if let (Some(median), Some(p95)) = (self.times.within(50), self.times.within(95)) {
            answers = vec![
                row("median seconds from the question to a vote", median),
                row("seconds within which 95 % of the votes came", p95),
            ];
        }
        answers.push(row("approved by one person alone", self.alone));
        answers.push(row("approving votes within 10 seconds of first sight", self.quick));
        let unknown = self.redeemed.values().filter(|due| (self.from..self.to).contains(*due)).count();
        let mut outcomes = self.outcomes.rows();
        outcomes.push(row("unknown at the end of the period", unknown as u64));
        let section =
            |title, what: &str, rows| Section { title, query: format!("countersign audit {what} {period}"), rows };
        vec![
            section("Decisions", "search --kind decision", self.verdicts.rows()),
            section("Rules that decided", "search --kind decision --full", self.deciding.rows()),
            section("Denials by rule", "search --decision deny --full", self.denying.rows()),
            section("Approval requests", "search --kind approval_requested", self.requests.rows()),
            section("Answers", "search --kind vote --full", answers),
            section("Votes by person", "search --kind vote --full", self.approvers.rows()),
            section("Glass broken", "questions break-glass", self.glass.rows()),
            section("Outcomes", "questions outcomes-unknown", outcomes),
            section("Revocations", "search --kind revocation", self.revoked.rows()),
            section("Refusals", "questions denials", self.refused.rows()),
            section("Bundles, keys, entities, store", "search --kind bundle_activated", self.changes.rows()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(sections: &[Section], title: &str, name: &str) -> Option<u64> {
        let section = sections.iter().find(|section| section.title == title).unwrap();
        section.rows.iter().find(|row| row.name == name).map(|row| row.value)
    }

    #[test]
    fn a_period_counts_what_is_in_it_and_knows_what_was_open_before() {
        let mut figures = Figures::new(10_000, 100_000);
        let vote = |at: i64, approval: &str, person: &str, state: &str| json!({"at": at, "kind": "vote", "approval": approval, "person": {"id": person}, "verdict": "approve", "state": state});
        for record in [
            json!({"at": 5_000, "kind": "decision", "verdict": "ALLOW"}),
            json!({"at": 5_000, "kind": "approval_requested", "approval": "a"}),
            json!({"at": 11_000, "kind": "approval_requested", "approval": "b"}),
            json!({"at": 12_000, "kind": "approval_requested", "approval": "b", "joined": true}),
            vote(35_000, "a", "dana", "pending"),
            vote(36_000, "a", "dave", "approved"),
            vote(20_000, "b", "dana", "approved"),
            json!({"at": 40_000, "kind": "decision", "verdict": "DENY", "determining": ["never"]}),
            json!({"at": 50_000, "kind": "redeem", "capability": "c", "complete_by": 60_000}),
            json!({"at": 50_000, "kind": "redeem", "capability": "d", "complete_by": 160_000}),
            json!({"at": 100_000, "kind": "decision", "verdict": "DENY"}),
        ] {
            figures.take(&record);
        }
        let sections = figures.sections("--since A --until B");
        assert_eq!(value(&sections, "Decisions", "ALLOW"), None);
        assert_eq!(value(&sections, "Decisions", "DENY"), Some(1));
        assert_eq!(value(&sections, "Denials by rule", "never"), Some(1));
        assert_eq!(value(&sections, "Approval requests", "asked"), Some(1));
        assert_eq!(value(&sections, "Approval requests", "approved"), Some(2));
        assert_eq!(value(&sections, "Answers", "approved by one person alone"), Some(1));
        assert_eq!(value(&sections, "Answers", "approving votes within 10 seconds of first sight"), Some(1));
        assert_eq!(value(&sections, "Answers", "median seconds from the question to a vote"), Some(30));
        assert_eq!(value(&sections, "Votes by person", "dana approve"), Some(2));
        assert_eq!(value(&sections, "Outcomes", "unknown at the end of the period"), Some(1));
    }

    #[test]
    fn names_are_bounded() {
        let mut tally = Tally::default();
        (0..2_000).for_each(|n| tally.add(&n.to_string()));
        assert_eq!(tally.rows().first(), Some(&Row { name: "(others)".to_owned(), value: 1_000 }));
        assert_eq!(tally.rows().len(), NAMES + 1);
    }
}
