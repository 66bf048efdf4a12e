//! The head of the log in evidence: signed by the log, and cosigned by witnesses.

use std::collections::BTreeSet;

use countersign_audit::{Hash, NoteVerifier, SignedCheckpoint};

use super::Evidence;
use super::check::Outcome;
use super::trust::Trust;

/// A head that the log signed.
pub(super) struct Head {
    pub(super) size: u64,
    pub(super) root: Hash,
    pub(super) told: String,
    /// Who cosigned it, by name and key, and when, in seconds since 1970.
    cosigned: Vec<(String, [u8; 32], u64)>,
}

/// The head, if a trusted key of the log signed it. Each line under it must be by a trusted key and hold: of another one nobody could
/// tell whether it was changed.
pub(super) fn head(evidence: &Evidence, trust: &Trust) -> Result<Head, String> {
    let signed = SignedCheckpoint::parse(evidence.checkpoint.as_bytes()).map_err(|error| error.to_string())?;
    let note = signed.note();
    if note.to_string() != evidence.checkpoint {
        return Err("the note is not spelled as notes are".to_owned());
    }
    let origin = signed.unverified().origin();
    let logs: Vec<NoteVerifier> = trust.logs.iter().filter(|key| key.name() == origin).cloned().collect();
    if logs.is_empty() {
        return Err(format!("no trusted key is of the log `{origin}`; give it as `log KEY`"));
    }
    let head = signed.verify(origin, &logs).map_err(|error| error.to_string())?;
    let mut lines = BTreeSet::new();
    let mut cosigned = Vec::new();
    for line in note.signatures() {
        if !lines.insert((line.name(), line.id().to_string())) {
            return Err(format!("two signatures under it are by the same key of `{}`", line.name()));
        }
        if logs.iter().any(|key| key.name() == line.name() && key.id() == line.id()) {
            continue;
        }
        let Some(witness) = trust.witnesses.iter().find(|witness| witness.made(line)) else {
            let name = line.name();
            return Err(format!("the signature of `{name}` under it is by no trusted key; give it as `witness KEY`"));
        };
        let at = witness.check(note.text(), line).map_err(|error| error.to_string())?;
        cosigned.push((witness.name().to_owned(), witness.public_key(), at));
    }
    let told = format!("`{origin}` of {} records, signed by the log", head.size());
    Ok(Head { size: head.size(), root: *head.root(), told, cosigned })
}

/// Whether enough witnesses cosigned, and which did when.
pub(super) fn cosigned(head: &Head, trust: &Trust, outcome: &mut Outcome) {
    const WHAT: &str = "the witnesses of the head";
    // One key under two names is one witness.
    let distinct: BTreeSet<&[u8; 32]> = head.cosigned.iter().map(|(_, key, _)| key).collect();
    let told = head.cosigned.iter().map(|(name, _, at)| format!("`{name}` cosigned it at {}", moment(*at)));
    let told = told.collect::<Vec<_>>().join(", ");
    if distinct.len() < trust.quorum {
        let told = if told.is_empty() { String::new() } else { format!(": {told}") };
        let number = distinct.len();
        outcome.tell(WHAT, Err(format!("{number} trusted witnesses cosigned it, and {} must{told}", trust.quorum)));
    } else if distinct.is_empty() {
        outcome.skip(
            WHAT,
            "none cosigned it: that the log shows everybody the same history is the log's own word; export from a log \
             that is published with witnesses",
        );
    } else {
        outcome.tell(WHAT, Ok(told));
    }
}

fn moment(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    at.map_or_else(|| format!("{seconds} s after 1970"), |at| at.to_string())
}
