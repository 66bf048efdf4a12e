//! What a record can be found by.

use std::collections::BTreeSet;

use countersign_core::{Digest, EntityRef, Timestamp};
use countersign_store::questions::ValueHash;
use serde::Deserialize;
use serde_json::Value;

/// What a record can be found by. The values are part of the data format: they never change. Another field, or other values
/// in one, ask for another form of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Field {
    /// What the record is about, such as `redeem`.
    Kind = 1,
    /// Who acts, or is cut off.
    Principal = 2,
    /// The person acted for.
    Operator = 3,
    /// Who called.
    Caller = 4,
    /// Who voted, took a vote back, lifted a cool-down, or counted for a rule.
    Approver = 5,
    /// What is acted upon; an entity that was changed.
    Resource = 6,
    /// The operation.
    Operation = 7,
    /// A policy that decided, a rule that asked.
    Rule = 8,
    /// What was decided, voted, reported or found, as the record writes it.
    Verdict = 9,
    /// A session.
    Session = 10,
    /// A capability.
    Capability = 11,
    /// An approval request.
    Approval = 12,
    /// The review of broken glass.
    Review = 13,
    /// The bundle.
    Bundle = 14,
    /// What is remarkable about it: [`Mark`].
    Mark = 15,
    /// How a vote came: over what, and by whose credential.
    Channel = 16,
}

/// What can be remarkable about a record: the name, and the pointer at what makes it so.
const MARKS: [(&str, &str); 9] = [
    ("approved", "/tally/0"),
    ("approved", "/context/approval"),
    ("break_glass", "/glass_broken"),
    ("minted", "/minted"),
    ("pre_approval", "/pre_approval"),
    ("signed", "/signature"),
    ("late", "/late"),
    ("rollback", "/rollback"),
    ("joined", "/joined"),
];

/// Whether there is such a mark.
#[must_use]
pub fn is_mark(name: &str) -> bool {
    MARKS.iter().any(|(mark, _)| *mark == name)
}

/// The value of an entity in a field. No type has a zero byte.
#[must_use]
pub fn entity_value(entity: &EntityRef) -> String {
    format!("{}\0{}", entity.kind(), entity.id())
}

/// The name that a value has in the index.
pub fn hash(value: &str) -> ValueHash {
    Digest::of(value.as_bytes()).as_bytes().first_chunk().copied().unwrap_or_default()
}

/// When a record was, without taking all of it apart.
pub fn time_of(record: &[u8]) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct At {
        at: Timestamp,
    }
    serde_json::from_slice(record).ok().map(|At { at }| at)
}

/// Whether a record may have a value in a field, without taking it apart: it has if the text stands in it. Of a text that JSON may
/// write in more than one way, nothing is known.
pub fn may_say(record: &[u8], (field, value): &(Field, String)) -> bool {
    let text = value.split_once('\0').map_or(value.as_str(), |(_, id)| id);
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    // Marks are no text of a record.
    *field == Field::Mark || !plain || std::str::from_utf8(record).is_ok_and(|record| record.contains(text))
}

/// What a record can be found by, and when it was.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// When; `None` for what is no record.
    pub at: Option<Timestamp>,
    /// The values, by their fields.
    pub values: BTreeSet<(Field, String)>,
}

impl Facts {
    /// What a record says of itself. What is no record, which would be a fault, is found by nothing.
    pub fn of(record: &[u8]) -> Self {
        let Ok(record) = serde_json::from_slice::<Value>(record) else { return Self::default() };
        let at = record.get("at").and_then(Value::as_i64).map(Timestamp::from_millis);
        let mut facts = Self { at, values: BTreeSet::new() };
        let action: Value =
            text(&record, "/action").and_then(|action| serde_json::from_str(action).ok()).unwrap_or_default();
        facts.names(&record, &action);
        facts.ids(&record, &action);
        facts.judged(&record);
        facts
    }

    fn names(&mut self, record: &Value, action: &Value) {
        for (field, within, pointers) in [
            (Field::Caller, record, &["/caller/entity", "/who"][..]),
            (Field::Principal, action, &["/principal"]),
            (Field::Principal, record, &["/session/principal", "/minted/principal", "/to_principal"]),
            (Field::Operator, action, &["/operator"]),
            (Field::Operator, record, &["/caller/operator", "/session/operator", "/minted/operator"]),
            (Field::Resource, action, &["/resource"]),
            (Field::Resource, record, &["/minted/resource"]),
        ] {
            for pointer in pointers {
                self.entity(field, at(within, pointer));
            }
        }
        for entry in list(record, "/entities") {
            self.entity(Field::Resource, entry.get("entity"));
        }
        if matches!(text(record, "/kind"), Some("vote" | "vote_withdrawn" | "cool_down_lift")) {
            self.entity(Field::Approver, record.get("person"));
        }
        let counted = list(record, "/tally").flat_map(|tally| list(tally, "/persons"));
        for person in counted.chain(list(record, "/context/approval/persons")) {
            self.entity(Field::Approver, Some(person));
        }
        // Whoever read is who acted: reads are in no session.
        if text(record, "/kind") == Some("access") {
            self.entity(Field::Principal, at(record, "/caller/entity"));
        }
        match text(record, "/axis") {
            Some("principal") => self.entity(Field::Principal, record.get("of")),
            Some("operator") => self.entity(Field::Operator, record.get("of")),
            Some("session") => self.text(Field::Session, record, "/of"),
            Some("approval") => self.text(Field::Approval, record, "/of"),
            Some("bundle") => self.text(Field::Bundle, record, "/of"),
            Some(_) | None => {}
        }
    }

    fn ids(&mut self, record: &Value, action: &Value) {
        self.text(Field::Session, action, "/session");
        self.text(Field::Operation, action, "/operation");
        let replaced = match text(record, "/kind") {
            Some("approval_requested") => Field::Approval,
            Some(_) | None => Field::Bundle,
        };
        for (field, pointers) in [
            (Field::Kind, &["/kind"][..]),
            (Field::Operation, &["/minted/operation", "/reserved_action"]),
            (Field::Session, &["/session", "/session/id", "/session/parent", "/minted/session", "/to_session"]),
            (Field::Capability, &["/capability", "/minted/id", "/minted/parent", "/to"]),
            (Field::Approval, &["/approval"]),
            (Field::Review, &["/review", "/glass_broken/review"]),
            (Field::Bundle, &["/bundle"]),
            (Field::Channel, &["/channel/kind", "/channel/issuer"]),
            (replaced, &["/replaces"]),
        ] {
            for pointer in pointers {
                self.text(field, record, pointer);
            }
        }
        for (field, pointer) in [(Field::Session, "/sessions_above"), (Field::Capability, "/minted/grandparents")] {
            self.texts(field, record, pointer);
        }
    }

    fn judged(&mut self, record: &Value) {
        for pointer in ["/verdict", "/outcome", "/finding"] {
            self.text(Field::Verdict, record, pointer);
        }
        for pointer in
            ["/determining", "/rules", "/context/approval/rules", "/glass_broken/rules", "/glass_broken/determining"]
        {
            self.texts(Field::Rule, record, pointer);
        }
        for rule in list(record, "/rules") {
            self.text(Field::Rule, rule, "/id");
        }
        for tally in list(record, "/tally") {
            self.text(Field::Rule, tally, "/rule");
        }
        for (mark, pointer) in MARKS {
            if at(record, pointer).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false))) {
                self.values.insert((Field::Mark, mark.to_owned()));
            }
        }
    }

    fn text(&mut self, field: Field, within: &Value, pointer: &str) {
        self.values.extend(text(within, pointer).map(|text| (field, text.to_owned())));
    }

    fn texts(&mut self, field: Field, within: &Value, pointer: &str) {
        self.values.extend(list(within, pointer).filter_map(Value::as_str).map(|text| (field, text.to_owned())));
    }

    fn entity(&mut self, field: Field, entity: Option<&Value>) {
        let Some(entity) = entity else { return };
        if let (Some(kind), Some(id)) = (text(entity, "/type"), text(entity, "/id")) {
            self.values.insert((field, format!("{kind}\0{id}")));
        }
    }
}

/// What a path such as `/tally/0` leads to. As [`Value::pointer`], which copies each part of it.
fn at<'a>(within: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').skip(1).try_fold(within, |value, part| match value {
        Value::Array(list) => list.get(part.parse::<usize>().ok()?),
        Value::Object(fields) => fields.get(part),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

fn text<'a>(within: &'a Value, pointer: &str) -> Option<&'a str> {
    at(within, pointer).and_then(Value::as_str)
}

fn list<'a>(within: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    at(within, pointer).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(record: &str) -> Vec<(Field, String)> {
        Facts::of(record.as_bytes())
            .values
            .into_iter()
            .map(|(field, value)| (field, value.replace('\0', "::")))
            .collect()
    }

    #[test]
    fn a_redeem_is_found_by_all_that_took_part() {
        let action = r#"{\"operation\":\"export\",\"operator\":{\"id\":\"olivia\",\"type\":\"Person\"},\"principal\":{\"id\":\"bot\",\"type\":\"Agent\"},\"resource\":{\"id\":\"docs\",\"type\":\"Dataset\"},\"session\":\"ses_1\"}"#;
        let record = format!(
            r#"{{"v":1,"at":7,"caller":{{"entity":{{"type":"Service","id":"gate"}}}},"kind":"redeem","capability":"cap_1",
            "session":"ses_1","action":"{action}","approval":"apr_1","bundle":"b","determining":["work"],
            "tally":[{{"rule":"asks","quorum":1,"persons":[{{"type":"Person","id":"dana"}}]}}],"late":false,
            "pre_approval":{{"use":1,"of":2}}}}"#
        );
        let expected = [
            (Field::Kind, "redeem"),
            (Field::Principal, "Agent::bot"),
            (Field::Operator, "Person::olivia"),
            (Field::Caller, "Service::gate"),
            (Field::Approver, "Person::dana"),
            (Field::Resource, "Dataset::docs"),
            (Field::Operation, "export"),
            (Field::Rule, "asks"),
            (Field::Rule, "work"),
            (Field::Session, "ses_1"),
            (Field::Capability, "cap_1"),
            (Field::Approval, "apr_1"),
            (Field::Bundle, "b"),
            (Field::Mark, "approved"),
            (Field::Mark, "pre_approval"),
        ]
        .map(|(field, value)| (field, value.to_owned()));
        assert_eq!(found(&record), expected);
        assert_eq!(Facts::of(record.as_bytes()).at, Some(Timestamp::from_millis(7)));
    }

    #[test]
    fn questions_votes_and_broken_glass_are_found_by_their_rules_and_persons() {
        let asked = found(
            r#"{"kind":"approval_requested","approval":"apr_2","replaces":"apr_1","rules":[{"id":"asks","quorum":1}]}"#,
        );
        assert!(asked.contains(&(Field::Rule, "asks".into())) && asked.contains(&(Field::Approval, "apr_1".into())));
        let vote = found(
            r#"{"kind":"vote","person":{"type":"Person","id":"dana"},"verdict":"deny","rules":["asks"],"signature":{},
            "channel":{"kind":"grpc","rpc":"CastVote","issuer":"https://login.example.com"}}"#,
        );
        for value in [
            (Field::Approver, "Person::dana"),
            (Field::Verdict, "deny"),
            (Field::Rule, "asks"),
            (Field::Mark, "signed"),
            (Field::Channel, "grpc"),
            (Field::Channel, "https://login.example.com"),
        ] {
            assert!(vote.contains(&(value.0, value.1.to_owned())), "{value:?}");
        }
        let glass = found(
            r#"{"kind":"decision","glass_broken":{"review":"rev_1","person":{"type":"Person","id":"olivia"},"rules":["asks"],"determining":["glass"]}}"#,
        );
        for value in
            [(Field::Review, "rev_1"), (Field::Rule, "asks"), (Field::Rule, "glass"), (Field::Mark, "break_glass")]
        {
            assert!(glass.contains(&(value.0, value.1.to_owned())), "{value:?}");
        }
        assert!(glass.iter().all(|(field, _)| *field != Field::Approver));
    }

    #[test]
    fn reads_are_found_by_who_read_and_by_what_permitted_it() {
        let read = found(
            r#"{"kind":"access","caller":{"entity":{"type":"Agent","id":"bot"},"operator":{"type":"Person","id":"olivia"}},
            "reserved_action":"readLog","rpcs":["ListRecords"],"count":3,"determining":["auditors"],"bundle":"b"}"#,
        );
        let expected = [
            (Field::Kind, "access"),
            (Field::Principal, "Agent::bot"),
            (Field::Operator, "Person::olivia"),
            (Field::Caller, "Agent::bot"),
            (Field::Operation, "readLog"),
            (Field::Rule, "auditors"),
            (Field::Bundle, "b"),
        ]
        .map(|(field, value)| (field, value.to_owned()));
        assert_eq!(read, expected);
    }

    #[test]
    fn a_record_that_has_a_value_may_say_so() {
        let record = br#"{"at":7,"kind":"vote","person":{"type":"Person","id":"d\u00e4na"}}"#;
        let may = |field, value: &str| may_say(record, &(field, value.to_owned()));
        assert!(may(Field::Kind, "vote") && !may(Field::Kind, "redeem"));
        assert!(may(Field::Mark, "break_glass") && may(Field::Approver, "Person\0d\u{e4}na"));
        assert!(!may(Field::Approver, "Person\0dave"));
        assert_eq!((time_of(record), time_of(b"{}")), (Some(Timestamp::from_millis(7)), None));
    }

    #[test]
    fn who_is_cut_off_is_found_and_what_is_no_record_is_not() {
        let cut = found(r#"{"kind":"revocation","axis":"principal","of":{"type":"Agent","id":"bot"}}"#);
        assert!(cut.contains(&(Field::Principal, "Agent::bot".into())));
        for nothing in ["", "[]", "7", "{\"kind\":7}", "\u{0}"] {
            assert_eq!(Facts::of(nothing.as_bytes()), Facts::default(), "{nothing}");
        }
    }
}
