//! Signed notes: a text and the signatures under it (C2SP signed-note).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::vkey::{KeyId, NoteSigner, NoteVerifier, check_name, clip};

/// The longest note that is read or made, in bytes.
///
/// C2SP signed-note asks that 16 signatures of nearly 5 kB each (7 kB in base64) are accepted.
pub const MAX_NOTE_BYTES: usize = 256 * 1024;

/// The most signatures that a note may carry. C2SP signed-note asks for at least 16.
pub const MAX_SIGNATURES: usize = 64;

/// What a signature line starts with: an em dash and a space.
const SIGNATURE_PREFIX: &str = "— ";

/// Why a note is malformed, or its signatures were refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoteError {
    /// The note is longer than [`MAX_NOTE_BYTES`].
    #[error("the note is {len} bytes long, and at most {MAX_NOTE_BYTES} are accepted")]
    TooLong {
        /// The length of the note, in bytes.
        len: usize,
    },
    /// The note is not UTF-8.
    #[error("the note is not valid UTF-8 from byte {offset} on")]
    Utf8 {
        /// Where the first bad byte is, from 0.
        offset: usize,
    },
    /// The note has a control character other than the line feed.
    #[error(
        "line {line} of the note has the control character U+{code:04X}; \
         a note has no control characters but the line feed that ends each line"
    )]
    ControlCharacter {
        /// The line, from 1.
        line: usize,
        /// The code point.
        code: u32,
    },
    /// The text, or the note as a whole, does not end with a line feed.
    #[error("the note does not end with a line feed; it may have been cut short")]
    Unterminated,
    /// No empty line with signatures below it.
    #[error("the note has no signatures: they follow the text after an empty line")]
    Unsigned,
    /// The note has more signatures than [`MAX_SIGNATURES`].
    #[error("the note has more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
    /// A line under the text is not a signature.
    #[error("signature line {line} of the note does not have the form `— name base64`")]
    SignatureLine {
        /// The line, from 1 for the first one below the empty line.
        line: usize,
    },
    /// Two of the given keys have the same name and id.
    #[error("two different keys are given as `{name}` with the id `{id}`; keep the right one")]
    AmbiguousKey {
        /// The name of both keys.
        name: String,
        /// The id of both keys.
        id: KeyId,
    },
    /// A signature says that it is of a known key, and is not.
    #[error("the signature of `{name}` with the key id `{id}` does not hold for this text")]
    BadSignature {
        /// The name of the key.
        name: String,
        /// The id of the key.
        id: KeyId,
    },
    /// None of the signatures is of a known key.
    #[error("none of the signatures is of a known key (they are of {found}); check the given keys")]
    NoKnownKey {
        /// The names of the keys that signed, cut short.
        found: String,
    },
}

/// One signature line of a note. It says nothing until [`Note::verify`] has accepted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    id: KeyId,
    bytes: Vec<u8>,
}

/// A signed note: a text that ends with a line feed, and at least one signature.
///
/// `Display` gives back the exact bytes that were parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl NoteSignature {
    /// The name of the key that is said to have signed.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the key that is said to have signed.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The signature, without the key id.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) const fn new(name: String, id: KeyId, bytes: Vec<u8>) -> Self {
        Self { name, id, bytes }
    }

    /// Reads one line, without its line feed; `None` when it is not of the exact form.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
        check_name(name).ok()?;
        let decoded = STANDARD.decode(encoded).ok()?;
        let (id, bytes) = decoded.split_first_chunk::<4>()?;
        if bytes.is_empty() {
            return None;
        }
        Some(Self { name: name.to_owned(), id: KeyId(*id), bytes: bytes.to_vec() })
    }
}

impl Note {
    /// Signs a text with each of the keys, in this order.
    ///
    /// # Errors
    ///
    /// [`NoteError`] when there is no key, or the text is not one that a note can hold.
    pub fn sign(text: &str, signers: &[&NoteSigner]) -> Result<Self, NoteError> {
        if signers.is_empty() {
            return Err(NoteError::Unsigned);
        }
        if signers.len() > MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        check_characters(text)?;
        if !text.ends_with('\n') {
            return Err(NoteError::Unterminated);
        }
        let signatures = signers.iter().map(|signer| NoteSignature {
            name: signer.name().to_owned(),
            id: signer.id(),
            bytes: signer.sign(text).to_vec(),
        });
        let note = Self { text: text.to_owned(), signatures: signatures.collect() };
        let len = note.to_string().len();
        if len > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong { len });
        }
        Ok(note)
    }

    /// The same note with this key's signature too, in place of one that it made before.
    ///
    /// # Errors
    ///
    /// [`NoteError::TooManySignatures`], [`NoteError::TooLong`].
    pub fn signed_also(mut self, signer: &NoteSigner) -> Result<Self, NoteError> {
        let Self { signatures, .. } = Self::sign(&self.text, &[signer])?;
        self.signatures.retain(|made| made.name != signer.name() || made.id != signer.id());
        self.signatures.extend(signatures);
        if self.signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        let len = self.to_string().len();
        if len > MAX_NOTE_BYTES { Err(NoteError::TooLong { len }) } else { Ok(self) }
    }

    /// The same note with these signatures too, each in place of one that the same key made before. They are not checked.
    ///
    /// # Errors
    ///
    /// [`NoteError::TooManySignatures`], [`NoteError::TooLong`].
    pub fn with_signatures(mut self, added: Vec<NoteSignature>) -> Result<Self, NoteError> {
        self.signatures.retain(|made| !added.iter().any(|new| new.name == made.name && new.id == made.id));
        self.signatures.extend(added);
        if self.signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        let len = self.to_string().len();
        if len > MAX_NOTE_BYTES { Err(NoteError::TooLong { len }) } else { Ok(self) }
    }

    /// Reads a note. The signatures are not checked: the text must not be believed before
    /// [`Note::verify`].
    ///
    /// # Errors
    ///
    /// [`NoteError`] when the note is not of the exact form. Control characters that the document
    /// would allow (U+007F to U+009F) are refused too, because a note is shown to operators.
    pub fn parse(note: &[u8]) -> Result<Self, NoteError> {
        if note.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong { len: note.len() });
        }
        let note = std::str::from_utf8(note).map_err(|error| NoteError::Utf8 { offset: error.valid_up_to() })?;
        check_characters(note)?;
        let note = note.strip_suffix('\n').ok_or(NoteError::Unterminated)?;
        // The text may hold empty lines; the last one of the note ends it.
        let (text, lines) = note.rsplit_once("\n\n").ok_or(NoteError::Unsigned)?;
        if lines.is_empty() {
            return Err(NoteError::Unsigned);
        }
        let mut signatures = Vec::new();
        for (number, line) in (1..).zip(lines.split('\n')) {
            if number > MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            let signature = NoteSignature::parse(line);
            signatures.push(signature.ok_or(NoteError::SignatureLine { line: number })?);
        }
        Ok(Self { text: format!("{text}\n"), signatures })
    }

    /// Checks the signatures against the known keys and returns those that hold, one for each key,
    /// in the order of the note. Signatures of other keys are ignored (C2SP signed-note).
    ///
    /// # Errors
    ///
    /// [`NoteError::BadSignature`] when one signature of a known key does not hold, even if another
    /// one does; [`NoteError::NoKnownKey`] when there is none; [`NoteError::AmbiguousKey`] when two
    /// different keys share a name and an id.
    pub fn verify(&self, verifiers: &[NoteVerifier]) -> Result<Vec<&NoteSignature>, NoteError> {
        let mut held: Vec<&NoteSignature> = Vec::new();
        for signature in &self.signatures {
            let mut known = verifiers.iter().filter(|key| key.name() == signature.name && key.id() == signature.id);
            let Some(verifier) = known.next() else {
                continue;
            };
            let (name, id) = (signature.name.clone(), signature.id);
            if known.any(|other| other != verifier) {
                return Err(NoteError::AmbiguousKey { name, id });
            }
            if !verifier.accepts(&self.text, &signature.bytes) {
                return Err(NoteError::BadSignature { name, id });
            }
            if !held.iter().any(|other| other.name == name && other.id == id) {
                held.push(signature);
            }
        }
        if held.is_empty() {
            let names = self.signatures.iter().take(4).map(|s| format!("`{}`", clip(&s.name)));
            let found = names.collect::<Vec<_>>().join(", ");
            return Err(NoteError::NoKnownKey { found });
        }
        Ok(held)
    }

    /// The text, with its last line feed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, in the order of the note.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = STANDARD.encode([&self.id.0, self.bytes.as_slice()].concat());
        write!(f, "{SIGNATURE_PREFIX}{} {encoded}", self.name)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

/// Refuses every control character but the line feed.
pub(crate) fn check_characters(text: &str) -> Result<(), NoteError> {
    for (line, content) in (1..).zip(text.split('\n')) {
        if let Some(found) = content.chars().find(|c| c.is_control()) {
            return Err(NoteError::ControlCharacter { line, code: u32::from(found) });
        }
    }
    Ok(())
}
