//! Whose signatures are believed, from a channel of one's own.

use countersign_audit::{CosignatureVerifier, NoteVerifier};
use countersign_token::{KeyId, PublicKey};

/// Whose signatures are believed, and what is demanded of them.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The log's keys.
    pub logs: Vec<NoteVerifier>,
    /// Keys of witnesses, which cosign.
    pub witnesses: Vec<CosignatureVerifier>,
    /// How many witnesses must have cosigned.
    pub quorum: usize,
    /// Keys of persons who sign votes; the name of each is the person's id.
    pub voters: Vec<NoteVerifier>,
    /// Keys that sign tokens, by id.
    pub tokens: Vec<(KeyId, PublicKey)>,
    /// Whether each vote must be signed, by a key that is among `voters`.
    pub signed_votes: bool,
}

/// A file of trusted keys that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct TrustError {
    line: usize,
    why: String,
}

impl Trust {
    /// Reads a file of keys: one in each line, after `log`, `witness`, `voter` or `token`. Empty lines and those with `#` are passed
    /// over.
    ///
    /// # Errors
    /// [`TrustError`] for a line that says something else.
    pub fn read(text: &str) -> Result<Self, TrustError> {
        let mut trust = Self::default();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let wrong = |why: String| TrustError { line, why };
            let (role, key) = content.split_once(' ').ok_or_else(|| wrong("expected `log KEY`".to_owned()))?;
            let key = key.trim();
            let note = || key.parse::<NoteVerifier>().map_err(|error| wrong(error.to_string()));
            match role {
                "log" => trust.logs.push(note()?),
                "witness" => trust.witnesses.push(key.parse().map_err(|error| wrong(format!("{error}")))?),
                "voter" => trust.voters.push(note()?),
                "token" => trust.tokens.push(token(key).map_err(wrong)?),
                _other => return Err(wrong("expected `log`, `witness`, `voter` or `token` before the key".to_owned())),
            }
        }
        Ok(trust)
    }
}

/// `1 9f3c…`: the id and the key in hexadecimal.
fn token(text: &str) -> Result<(KeyId, PublicKey), String> {
    let (id, key) = text.split_once(' ').ok_or_else(|| "expected `token ID KEY`".to_owned())?;
    let id = id.parse().map_err(|_| "the id of a key that signs tokens is a number".to_owned())?;
    let key = PublicKey::parse(key.trim()).map_err(|error| format!("expected `token ID KEY`: {error}"))?;
    Ok((KeyId(id), key))
}
