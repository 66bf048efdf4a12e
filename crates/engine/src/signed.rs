//! Votes that are signed with a key of the person's own: the key is looked up in the directory, and the signature checked, before
//! anything is stored.

use countersign_audit::{Note, NoteVerifier};
use countersign_core::approval::{ApprovalError, SIGNING_TOLERANCE_MILLIS, UNSIGNED, VoteSignature, VoteStatement};
use countersign_core::{Digest, EntityRef, Timestamp};
use countersign_policy::View;

use crate::vote::Ballot;

/// The tag of a person that holds the public keys they sign votes with: `name+id+key`, several with spaces between them. Entities
/// change by a governed action that nobody takes for themselves.
pub const VOTE_KEY: &str = "vote-key";

/// How many keys of one person are looked at.
const MOST_KEYS: usize = 8;

/// A signature that comes with a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The signature line of a C2SP signed note.
    pub line: String,
    /// The id of the attempt that is in the statement: the call's own, also where it has several votes.
    pub request: String,
    /// The time that is in the statement.
    pub at: Timestamp,
}

/// What is kept of the signature of a ballot, if there is one: it must hold, by a key that the directory has of the person now.
pub(crate) fn check(
    view: View<'_>,
    ballot: &Ballot,
    person: &EntityRef,
    now: Timestamp,
) -> Result<Option<VoteSignature>, ApprovalError> {
    let Some(Signed { line, request, at }) = &ballot.signed else { return Ok(None) };
    let refused = |why: String| ApprovalError::Signature(why);
    if at.millis().abs_diff(now.millis()) > SIGNING_TOLERANCE_MILLIS {
        let minutes = SIGNING_TOLERANCE_MILLIS / 60_000;
        return Err(refused(format!(
            "its time is more than {minutes} minutes from the server's; set the clock and sign again"
        )));
    }
    let keys = view.tag_of(person, VOTE_KEY);
    let keys = keys.ok_or_else(|| refused(format!("the directory has no key of {person}, in the tag `{VOTE_KEY}`")))?;
    let keys: Result<Vec<NoteVerifier>, _> = keys.split_whitespace().take(MOST_KEYS).map(str::parse).collect();
    let keys = keys.map_err(|error| refused(format!("the tag `{VOTE_KEY}` of {person} is not usable: {error}")))?;
    let Ballot { approval, verdict, digest, view, comment, signed: _ } = ballot;
    let statement = VoteStatement {
        approval: *approval,
        digest: *digest,
        view: *view,
        verdict: *verdict,
        comment,
        person,
        request,
        at: *at,
    };
    let note = Note::parse(format!("{}\n{line}\n", statement.text()).as_bytes());
    let note = note.map_err(|error| refused(format!("it is not the line of a signed note ({error})")))?;
    // Otherwise something would be kept that nobody checked.
    let [made] = note.signatures() else { return Err(refused("there is more than one line".to_owned())) };
    if note.text() != statement.text() {
        return Err(refused("it holds more than a line".to_owned()));
    }
    note.verify(&keys).map_err(|error| refused(error.to_string()))?;
    let key = keys.iter().find(|key| key.name() == made.name() && key.id() == made.id()).map(ToString::to_string);
    let key = key.ok_or_else(|| refused("it is by no key of the voter's".to_owned()))?;
    Ok(Some(VoteSignature::Ed25519 { key, line: line.clone(), request: request.clone(), at: *at }))
}

/// The digest of what a vote says: of what was signed; otherwise of the same text by the server's clock, and with no request.
pub(crate) fn statement(
    ballot: &Ballot,
    person: &EntityRef,
    signature: Option<&VoteSignature>,
    now: Timestamp,
) -> Digest {
    let Ballot { approval, verdict, digest, view, comment, signed: _ } = ballot;
    let (request, at) = match signature {
        Some(VoteSignature::Ed25519 { key: _, line: _, request, at }) => (request.as_str(), *at),
        None => (UNSIGNED, now),
    };
    let statement = VoteStatement {
        approval: *approval,
        digest: *digest,
        view: *view,
        verdict: *verdict,
        comment,
        person,
        request,
        at,
    };
    Digest::of(statement.text().as_bytes())
}
