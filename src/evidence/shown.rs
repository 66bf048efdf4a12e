//! What people were shown, in evidence: the text of each view, whose digest the votes name.

use std::collections::BTreeSet;

use countersign_core::Digest;
use serde_json::Value;

use super::Evidence;
use super::check::{Outcome, Read};
use super::gather::text;

const WHAT: &str = "the view digest of each vote";

/// Each view has the digest that it stands under, a request was put with it, and it says what the records say.
pub(super) fn shown(evidence: &Evidence, records: &[Read<'_>], outcome: &mut Outcome) {
    for (digest, view) in &evidence.views {
        if let Err(why) = one(digest, view, records) {
            return outcome.tell(WHAT, Err(format!("the view {digest}: {why}")));
        }
    }
    let votes: Vec<&str> =
        records.iter().filter(|record| record.kind() == "vote").map(|record| record.text("/view")).collect();
    let left = votes.iter().filter(|view| !evidence.views.contains_key(**view)).count();
    let computed = votes.len().saturating_sub(left);
    if computed > 0 {
        outcome.tell(WHAT, Ok(format!("recomputed from the text of what was shown, for {computed} votes")));
    }
    if left > 0 {
        let why =
            format!("what {left} votes were shown is not in the file, so its digest is compared, and not computed");
        outcome.skip(WHAT, &why);
    }
}

fn one(digest: &str, view: &str, records: &[Read<'_>]) -> Result<(), String> {
    if Digest::of(view.as_bytes()).to_string() != digest {
        return Err("its text has another digest".to_owned());
    }
    let shown: Value = serde_json::from_str(view).map_err(|error| error.to_string())?;
    let mut asked =
        records.iter().filter(|record| record.kind() == "approval_requested" && record.text("/view") == digest);
    let first = asked.next().ok_or("no record names it")?;
    std::iter::once(first).chain(asked).try_for_each(|record| says_the_same(&shown, record, records))
}

fn says_the_same(shown: &Value, record: &Read<'_>, records: &[Read<'_>]) -> Result<(), String> {
    let differs = |what: &str| Err(format!("it shows another {what} than record {} has", record.index));
    for (in_view, in_record) in [("/id", "/approval"), ("/action", "/action")] {
        if text(shown, in_view) != Some(record.text(in_record)) {
            return differs(in_record.trim_start_matches('/'));
        }
    }
    for (pointer, default) in [("/rules", None), ("/labels", Some(Value::Array(Vec::new())))] {
        let (shown, recorded) = (shown.pointer(pointer), record.json.pointer(pointer));
        if shown.or(default.as_ref()) != recorded.or(default.as_ref()) {
            return differs(pointer.trim_start_matches('/'));
        }
    }
    // Who joined without being shown is no part of it.
    let joined = record.json.get("joined").is_some() && record.json.get("asked_again").is_none();
    let also = shown.pointer("/also").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let said: BTreeSet<&str> = text(shown, "/justification")
        .into_iter()
        .chain(also.iter().filter_map(|one| text(one, "/justification")))
        .collect();
    if !joined && !said.contains(record.text("/justification")) {
        return differs("justification");
    }
    let bounds = |json: &Value| {
        Some((json.pointer("/pre_approval/uses")?.as_u64()?, json.pointer("/pre_approval/seconds")?.as_u64()?))
    };
    if bounds(shown) != bounds(&record.json) {
        return differs("pre-approval");
    }
    let action: Value = serde_json::from_str(record.text("/action")).unwrap_or_default();
    let of_session = |opened: &&Read<'_>| text(&action, "/session") == Some(opened.text("/session/id"));
    let opened = records.iter().filter(|record| record.kind() == "session_opened").find(of_session);
    if opened.is_some_and(|opened| text(shown, "/purpose") != Some(opened.text("/session/purpose"))) {
        return differs("purpose");
    }
    Ok(())
}
