//! The votes in evidence: each on what was asked, by nobody who was excluded, and what their signatures are worth.

use std::collections::{BTreeMap, BTreeSet};

use countersign_audit::{Note, NoteVerifier};
use countersign_core::approval::{UNSIGNED, Verdict as Said, VoteStatement};
use countersign_core::{Digest, EntityRef, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::check::{Outcome, Read};
use super::gather::text;
use super::trust::Trust;

/// How many votes there are, and what is not known of their signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Ballots {
    /// All of them.
    pub cast: usize,
    /// Those that bear no signature of the voter's: that the voter said so is the service's word.
    pub unsigned: usize,
    /// Those that are signed by a key that nobody but the log says is the voter's.
    pub unvouched: usize,
}

/// An approval that counts from one record on, until another one.
pub(super) struct Stand {
    from: u64,
    until: Option<u64>,
    rules: BTreeSet<String>,
    signed: bool,
}

impl Stand {
    /// Whether it counts for a rule at a record.
    pub(super) fn counts(&self, rule: &str, at: u64, signed: bool) -> bool {
        let Self { from, until, rules, signed: is_signed } = self;
        *from < at && until.is_none_or(|until| until > at) && rules.contains(rule) && (*is_signed || !signed)
    }
}

/// Who approved, for which rules: by request and person.
pub(super) type Standing = BTreeMap<(String, String), Stand>;

pub(super) fn votes(records: &[Read<'_>], trust: &Trust, outcome: &mut Outcome) -> Standing {
    let mut standing = Standing::new();
    let mut asked: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let mut excluded: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut ballots = Ballots::default();
    let mut faults = Vec::new();
    for record in records {
        let approval = record.text("/approval");
        let person = record.json.pointer("/person").cloned().unwrap_or_default();
        let key = (approval.to_owned(), person.to_string());
        match record.kind() {
            "approval_requested" => {
                let shown = (record.text("/digest"), record.text("/view"));
                if asked.insert(approval, shown).is_some_and(|before| before != shown) {
                    // Asked again with something else to see: votes of before count no more.
                    let stale = standing.iter_mut().filter(|((on, _), _)| on == approval);
                    stale.for_each(|(_, stand)| stand.until = stand.until.or(Some(record.index)));
                }
                excluded.entry(approval).or_default().extend(record.list("/excluded"));
            }
            "approval_excluded" => {
                for person in record.list("/excluded") {
                    if let Some(stand) = standing.get_mut(&(approval.to_owned(), person.to_string())) {
                        stand.until = stand.until.or(Some(record.index));
                    }
                    excluded.entry(approval).or_default().push(person);
                }
            }
            "vote_withdrawn" => {
                if let Some(stand) = standing.get_mut(&key) {
                    stand.until = Some(record.index);
                }
            }
            "vote" => {
                ballots.cast += 1;
                let index = record.index;
                if asked.get(approval) != Some(&(record.text("/digest"), record.text("/view"))) {
                    faults.push(format!("record {index}: the vote is on something else than was asked"));
                }
                if excluded.get(approval).is_some_and(|all| all.contains(&&person)) {
                    faults.push(format!("record {index}: the voter was excluded"));
                }
                if let Err(error) = stated(record) {
                    faults.push(format!("record {index}: {error}"));
                }
                match signature(record, trust) {
                    Ok(Some(true)) => {}
                    Ok(Some(false)) => ballots.unvouched += 1,
                    Ok(None) => ballots.unsigned += 1,
                    Err(error) => faults.push(format!("record {index}: {error}")),
                }
                if record.text("/verdict") == "approve" {
                    let rules = record.list("/rules").iter().filter_map(Value::as_str).map(str::to_owned);
                    let signed = record.json.get("signature").is_some();
                    standing.insert(key, Stand { from: index, until: None, rules: rules.collect(), signed });
                } else if let Some(stand) = standing.get_mut(&key) {
                    stand.until = Some(index);
                }
            }
            _other => {}
        }
    }
    match faults.into_iter().next() {
        Some(fault) => outcome.tell("the votes", Err(fault)),
        None => outcome.tell(
            "the votes",
            Ok(format!(
                "{}, each on the digest and the view that were asked, none by an excluded person",
                ballots.cast
            )),
        ),
    }
    let Ballots { cast, unsigned, unvouched } = ballots;
    if cast > 0 && unsigned == 0 && unvouched == 0 {
        let told = format!("each of {cast} votes is signed by a trusted key of the voter's own");
        outcome.tell("signatures of votes", Ok(told));
    }
    let mut left = |what: &str, why: String| {
        if trust.signed_votes { outcome.tell(what, Err(why)) } else { outcome.skip(what, &why) }
    };
    if unsigned > 0 {
        let why = "that these persons said so is the word of the service alone";
        left("signatures of votes", format!("{unsigned} of {cast} votes bear NO SIGNATURE of the voter's own: {why}"));
    }
    if unvouched > 0 {
        let why = "nobody but the log says that these keys were the voters'; give them as `voter KEY`";
        left("keys of voters", format!("the signatures of {unvouched} of {cast} votes hold, and {why}"));
    }
    outcome.votes = ballots;
    standing
}

/// What the vote says, as it was signed, or would have been.
fn statement(record: &Read<'_>) -> Result<(EntityRef, String), String> {
    let wrong = || "the vote cannot be read".to_owned();
    let person: EntityRef =
        EntityRef::new(record.text("/person/type"), record.text("/person/id")).map_err(|error| error.to_string())?;
    let at = record.number("/signature/at").or_else(|| record.number("/at")).ok_or_else(wrong)?;
    let text = VoteStatement {
        approval: record.text("/approval").parse().map_err(|_| wrong())?,
        digest: Digest::parse(record.text("/digest")).map_err(|_| wrong())?,
        view: Digest::parse(record.text("/view")).map_err(|_| wrong())?,
        verdict: match record.text("/verdict") {
            "approve" => Said::Approve,
            "deny" => Said::Deny,
            _other => return Err(wrong()),
        },
        comment: record.text("/comment"),
        person: &person,
        request: text(&record.json, "/signature/request").unwrap_or(UNSIGNED),
        at: Timestamp::from_millis(at),
    }
    .text();
    Ok((person, text))
}

/// That the digest of the vote's statement is what the record says; records of the first release say none.
fn stated(record: &Read<'_>) -> Result<(), String> {
    let Some(told) = text(&record.json, "/statement") else { return Ok(()) };
    let (_, text) = statement(record)?;
    if Digest::of(text.as_bytes()).to_string() == told {
        Ok(())
    } else {
        Err("what the vote says has another digest than the record says".to_owned())
    }
}

/// Whether the voter's own signature is there, and by a trusted key.
fn signature(record: &Read<'_>, trust: &Trust) -> Result<Option<bool>, String> {
    let Some(signature) = record.json.get("signature") else { return Ok(None) };
    let wrong = || "the signature of the vote cannot be read".to_owned();
    if text(signature, "/kind") != Some("ed25519") {
        return Err("the signature of the vote is of a kind that is not known here".to_owned());
    }
    let (person, said) = statement(record)?;
    let key: NoteVerifier = text(signature, "/key").ok_or_else(wrong)?.parse().map_err(|_| wrong())?;
    let line = text(signature, "/line").ok_or_else(wrong)?;
    let note = Note::parse(format!("{}\n{line}\n", said).as_bytes()).map_err(|_| wrong())?;
    let held = note.verify(std::slice::from_ref(&key));
    if note.text() != said || held.is_err() {
        return Err("the signature of the vote does not hold".to_owned());
    }
    let own: Vec<&NoteVerifier> = trust.voters.iter().filter(|trusted| trusted.name() == person.id()).collect();
    if !own.is_empty() && !own.contains(&&key) {
        return Err("the vote is signed by another key than the one that is trusted to be the voter's".to_owned());
    }
    Ok(Some(!own.is_empty()))
}
