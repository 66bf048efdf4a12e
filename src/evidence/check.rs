//! Checking evidence, offline: each check is told by itself, and what was not checked is told too.

use std::collections::{BTreeMap, BTreeSet};

use countersign_audit::{Hash, leaf_hash, verify_inclusion};
use countersign_core::Digest;
use serde::Serialize;
use serde_json::Value;

use super::Evidence;
use super::ballots::{Ballots, Stand, Standing, votes};
use super::gather::{Gather, text};
use super::head::{Head, cosigned, head};
use super::opening::{RecordOpening, opened};
use super::policies::policies;
use super::shown::shown;
use super::token::tokens;
use super::trust::Trust;

/// What came of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not.
    Refused,
    /// The file, or the keys, do not allow to check it.
    NotChecked,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub what: String,
    /// What came of it.
    pub verdict: Verdict,
    /// In words; may hold a stranger's text.
    pub detail: String,
}

/// What came of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What the evidence is about.
    pub subject: String,
    /// The checks.
    pub findings: Vec<Finding>,
    /// What happened, in plain words, as far as the records tell; may hold a stranger's text.
    pub story: Vec<String>,
    /// The votes, and what their signatures are worth.
    pub votes: Ballots,
}

impl Outcome {
    /// Whether nothing was refused.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Refused)
    }

    /// The one line above all others: what came of it, and what nobody looked at.
    #[must_use]
    pub fn head(&self) -> String {
        if !self.holds() {
            return "REFUSED".to_owned();
        }
        let Ballots { cast, unsigned, unvouched } = self.votes;
        let left = self.findings.iter().filter(|finding| finding.verdict == Verdict::NotChecked).count();
        let mut told = format!("nothing was refused, and {left} things were NOT CHECKED");
        if unsigned > 0 {
            told.push_str(&format!("; {unsigned} of {cast} votes bear NO SIGNATURE of the voter's"));
        }
        if unvouched > 0 {
            told.push_str(&format!(
                "; {unvouched} of {cast} votes are signed by keys that NOBODY BUT THE LOG vouches for"
            ));
        }
        told
    }

    pub(super) fn tell(&mut self, what: &str, result: Result<String, String>) {
        let (verdict, detail) = match result {
            Ok(detail) => (Verdict::Holds, detail),
            Err(detail) => (Verdict::Refused, detail),
        };
        self.findings.push(Finding { what: what.to_owned(), verdict, detail });
    }

    pub(super) fn skip(&mut self, what: &str, why: &str) {
        self.findings.push(Finding { what: what.to_owned(), verdict: Verdict::NotChecked, detail: why.to_owned() });
    }
}

/// A record that was read.
pub(super) struct Read<'a> {
    pub(super) index: u64,
    pub(super) bytes: &'a str,
    pub(super) json: Value,
}

impl Read<'_> {
    pub(super) fn text(&self, pointer: &str) -> &str {
        text(&self.json, pointer).unwrap_or_default()
    }

    pub(super) fn kind(&self) -> &str {
        self.text("/kind")
    }

    pub(super) fn number(&self, pointer: &str) -> Option<i64> {
        self.json.pointer(pointer).and_then(Value::as_i64)
    }

    pub(super) fn list(&self, pointer: &str) -> &[Value] {
        self.json.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}

/// Checks a file.
///
/// # Errors
/// In words, when the bytes are no evidence of the one form: nothing in them was looked at then.
pub fn verify(bytes: &[u8], trust: &Trust) -> Result<Outcome, String> {
    verify_opened(bytes, trust, &[])
}

/// Checks a file, with inputs that somebody opened.
///
/// # Errors
/// As [`verify`].
pub fn verify_opened(bytes: &[u8], trust: &Trust, openings: &[RecordOpening]) -> Result<Outcome, String> {
    let evidence = Evidence::from_bytes(bytes)?;
    let mut outcome = Outcome {
        subject: evidence.subject.clone(),
        findings: Vec::new(),
        story: Vec::new(),
        votes: Ballots::default(),
    };
    let head = head(&evidence, trust);
    let proved = head.as_ref().map_err(Clone::clone).and_then(|head| included(&evidence, head));
    if let Ok(head) = &head {
        cosigned(head, trust, &mut outcome);
    }
    outcome.tell("the head of the log", head.map(|head| head.told));
    let records = match proved {
        Ok(records) => records,
        Err(error) => {
            outcome.tell("the records are in the log", Err(error));
            return Ok(outcome);
        }
    };
    let number = records.len();
    outcome.tell("the records are in the log", Ok(format!("{number} records, each proved under the signed head")));
    outcome.tell("the records are about the subject", about(&evidence.subject, &records));
    outcome.tell("the digests", digests(&records));
    let standing = votes(&records, trust, &mut outcome);
    outcome.tell("the quorum of each rule", quorum(&records, &standing));
    outcome.tell("minted, spent and reported", spending(&records));
    policies(&evidence, &records, &mut outcome);
    shown(&evidence, &records, &mut outcome);
    tokens(&evidence, &records, trust, &mut outcome);
    outcome.skip("other records", "whether the log holds more about the subject cannot be seen from a part of it");
    outcome.story = records.iter().map(story).collect();
    opened(openings, &records, &mut outcome);
    Ok(outcome)
}

fn included<'a>(evidence: &'a Evidence, head: &Head) -> Result<Vec<Read<'a>>, String> {
    let mut records: Vec<Read<'_>> = Vec::new();
    for proved in &evidence.records {
        let index = proved.index;
        let wrong = |error: &dyn std::fmt::Display| format!("record {index}: {error}");
        if records.last().is_some_and(|last| last.index >= index) {
            return Err(wrong(&"out of order"));
        }
        let mut hashes = Vec::new();
        for text in &proved.proof {
            let hash: Hash = text.parse().map_err(|error| wrong(&error))?;
            if hash.to_string() != *text {
                return Err(wrong(&"a hash is not spelled as hashes are"));
            }
            hashes.push(hash);
        }
        let leaf = leaf_hash(proved.content.as_bytes());
        verify_inclusion(&leaf, index, head.size, &hashes, &head.root).map_err(|error| wrong(&error))?;
        let json = serde_json::from_str(&proved.content).map_err(|error| wrong(&error))?;
        records.push(Read { index, bytes: &proved.content, json });
    }
    Ok(records)
}

fn about(subject: &str, records: &[Read<'_>]) -> Result<String, String> {
    let tenant = records.first().map(|record| record.text("/tenant")).unwrap_or_default();
    if records.iter().any(|record| record.text("/tenant") != tenant) {
        return Err("they are of more than one tenant".to_owned());
    }
    let mut gather = Gather::default();
    for record in records {
        gather.record(record.index, record.bytes.as_bytes());
    }
    let about = gather.about(subject);
    let strange = records.iter().find(|record| !about.contains(&record.index));
    match strange {
        Some(record) => Err(format!("record {} is about something else than `{subject}`", record.index)),
        None => Ok(format!("of the tenant `{tenant}`, about `{subject}`")),
    }
}

fn digests(records: &[Read<'_>]) -> Result<String, String> {
    let mut seen = BTreeSet::new();
    for record in records.iter().filter(|record| record.json.get("action").is_some()) {
        let digest = Digest::of(record.text("/action").as_bytes()).to_string();
        if digest != record.text("/digest") {
            return Err(format!(
                "record {}: the action's bytes have another digest than the record says",
                record.index
            ));
        }
        if record.kind() == "decision" && record.text("/context/digest") != digest {
            return Err(format!("record {}: the policies were given another digest", record.index));
        }
        seen.insert(digest);
    }
    if seen.is_empty() {
        return Err("no record holds an action".to_owned());
    }
    Ok(format!(
        "recomputed from the bytes that were shown and decided: {}",
        seen.into_iter().collect::<Vec<_>>().join(", ")
    ))
}

/// Every rule that counted as met, when it was decided and when it was spent, was met by votes that stood then.
fn quorum(records: &[Read<'_>], votes: &Standing) -> Result<String, String> {
    let mut quorums: BTreeMap<(&str, &str), (u64, bool)> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for record in records {
        let approval = record.text("/approval");
        if record.kind() == "approval_requested" {
            for rule in record.list("/rules") {
                let quorum = rule.get("quorum").and_then(Value::as_u64).unwrap_or(u64::MAX);
                let signed = rule.get("signed_votes").is_some_and(|signed| *signed != Value::Bool(false));
                quorums.insert((approval, text(rule, "/id").unwrap_or_default()), (quorum, signed));
            }
        }
        let rules: Vec<(&str, Option<u64>)> = match record.kind() {
            "decision" => record
                .list("/context/approval/rules")
                .iter()
                .filter_map(Value::as_str)
                .map(|rule| (rule, None))
                .collect(),
            "redeem" | "delegated" => {
                let tallied = record.list("/tally").iter();
                tallied.filter_map(|tally| Some((text(tally, "/rule")?, tally.get("quorum")?.as_u64()))).collect()
            }
            _other => Vec::new(),
        };
        for (rule, tallied) in rules {
            let (asked, signed) = quorums.get(&(approval, rule)).copied().unzip();
            let wanted =
                asked.max(tallied).ok_or_else(|| format!("record {}: `{rule}` was never asked about", record.index))?;
            let counts = |stand: &Stand| stand.counts(rule, record.index, signed.unwrap_or_default());
            let persons = votes.iter().filter(|((on, _), stand)| on == approval && counts(stand)).count();
            if wanted == 0 || (persons as u64) < wanted {
                return Err(format!(
                    "record {}: `{rule}` wants {wanted} persons, and {persons} had approved",
                    record.index
                ));
            }
            told.insert(format!("`{rule}`: {persons} of {wanted}"));
        }
    }
    if told.is_empty() {
        return Ok("no rule counted as met by people".to_owned());
    }
    Ok(told.into_iter().collect::<Vec<_>>().join(", "))
}

fn spending(records: &[Read<'_>]) -> Result<String, String> {
    let mut minted: BTreeMap<&str, &Read<'_>> = BTreeMap::new();
    let mut spent: BTreeSet<&str> = BTreeSet::new();
    let mut over: BTreeSet<&str> = BTreeSet::new();
    let mut cast: BTreeSet<(&str, &str)> = BTreeSet::new();
    for record in records {
        let (index, capability) = (record.index, record.text("/capability"));
        match record.kind() {
            "decision" if record.json.get("minted").is_some() => {
                if record.text("/verdict") != "ALLOW" || record.text("/minted/digest") != record.text("/digest") {
                    return Err(format!("record {index}: minted without an ALLOW of the same digest"));
                }
                let said = record.list("/minted/votes").iter().filter_map(Value::as_str);
                if let Some(vote) = said.into_iter().find(|vote| !cast.contains(&(record.text("/approval"), vote))) {
                    return Err(format!(
                        "record {index}: the capability names the vote {vote}, which nobody cast before"
                    ));
                }
                minted.insert(record.text("/minted/id"), record);
            }
            "redeem" | "delegated" => {
                let by = minted
                    .get(capability)
                    .ok_or_else(|| format!("record {index}: what was spent was not minted before"))?;
                if by.text("/digest") != record.text("/digest") || by.text("/approval") != record.text("/approval") {
                    return Err(format!("record {index}: spent for another digest or approval than it was minted for"));
                }
                if record.number("/at") >= by.number("/minted/expires_at") {
                    return Err(format!("record {index}: spent when it had expired"));
                }
                if over.contains(capability) || !spent.insert(capability) {
                    return Err(format!("record {index}: spent twice, or after it was revoked"));
                }
            }
            "vote" if record.text("/verdict") == "approve" => {
                cast.insert((record.text("/approval"), record.text("/statement")));
            }
            "complete" if !spent.contains(capability) => {
                return Err(format!("record {index}: reported before it was spent"));
            }
            "revoke" => {
                over.insert(capability);
            }
            _other => {}
        }
    }
    Ok(format!("{} minted, {} spent, each at most once", minted.len(), spent.len()))
}

/// How a vote came; nothing of one that was recorded before that was.
fn came(record: &Read<'_>) -> String {
    if record.json.get("channel").is_none() {
        return String::new();
    }
    let mut told =
        format!(", over {} by a credential of {:?}", record.text("/channel/kind"), record.text("/channel/issuer"));
    let at = record.number("/channel/authenticated_at").and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    if let Some(at) = at {
        told.push_str(&format!(", for which they authenticated at {at}"));
    }
    let methods: Vec<String> =
        record.list("/channel/amr").iter().filter_map(Value::as_str).map(|method| format!("{method:?}")).collect();
    if !methods.is_empty() {
        told.push_str(&format!(" by {}", methods.join(", ")));
    }
    told
}

/// One record, in plain words.
fn story(record: &Read<'_>) -> String {
    let when = record.number("/at").and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let when = when.map(|when| when.to_string()).unwrap_or_default();
    let entity = |pointer: &str| {
        let (kind, id) = (record.text(&format!("{pointer}/type")), record.text(&format!("{pointer}/id")));
        if kind.is_empty() { "the service".to_owned() } else { format!("{kind} {id:?}") }
    };
    let who = entity("/caller/entity");
    let what = match record.kind() {
        "session_opened" => format!("{who} opened a session: {:?}", record.text("/session/purpose")),
        "session_ended" => format!("{who} ended the session"),
        "approval_requested" => format!(
            "{who} asked people, saying {:?}; shown was {}",
            record.text("/justification"),
            record.text("/action")
        ),
        "vote" => {
            let signed = if record.json.get("signature").is_some() { ", signed with a key of their own" } else { "" };
            let (said, comment) = (record.text("/verdict"), record.text("/comment"));
            format!("{} said {said}: {comment:?}{signed}{}", entity("/person"), came(record))
        }
        "vote_withdrawn" => format!("{} took their vote back", entity("/person")),
        "decision" => {
            let minted = record.text("/minted/id");
            let minted = if minted.is_empty() { String::new() } else { format!(", and minted {minted}") };
            let by: Vec<&str> = record.list("/determining").iter().filter_map(Value::as_str).collect();
            if record.json.get("glass_broken").is_some() {
                let person = entity("/glass_broken/person");
                let reason = record.text("/glass_broken/reason");
                return format!(
                    "{when}  {person} broke the glass of {}, saying {reason:?}{minted} (record {})",
                    by.join(", "),
                    record.index
                );
            }
            format!("the policies ({}) answered {who}: {}{minted}", by.join(", "), record.text("/verdict"))
        }
        "redeem" => format!("{who} spent {} for exactly this action", record.text("/capability")),
        "complete" => format!("{who} reported that it {}", record.text("/outcome")),
        "delegated" => {
            format!("{who} handed {} on: it was delegated as {}", record.text("/capability"), record.text("/to"))
        }
        "revoke" => format!("{who} revoked {}: {:?}", record.text("/capability"), record.text("/reason")),
        "bundle_activated" => format!("{who} made the bundle {} active", record.text("/bundle")),
        other => format!("{who}: {}", other.replace('_', " ")),
    };
    format!("{when}  {what} (record {})", record.index)
}
