//! Checkpoints: the signed head of the tree at one size (C2SP tlog-checkpoint).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::hash::{EMPTY_ROOT, Hash};
use crate::note::{Note, NoteError, NoteSignature, check_characters};
use crate::vkey::{NoteSigner, NoteVerifier, check_name, clip};

/// Why a checkpoint is malformed or was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// The note around the checkpoint is malformed, or its signatures were refused.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The origin is not one that a new log may take.
    #[error(
        "the origin `{origin}` is not usable; \
         take a URL without its scheme, with no spaces, control characters or `+`"
    )]
    Origin {
        /// The origin that was given, cut short.
        origin: String,
    },
    /// The text has fewer lines than a checkpoint.
    #[error("the checkpoint ends before its {missing}; it may have been cut short")]
    Truncated {
        /// What the next line would have been.
        missing: &'static str,
    },
    /// A line is empty.
    #[error("line {line} of the checkpoint is empty")]
    EmptyLine {
        /// The line, from 1.
        line: usize,
    },
    /// The second line is not a tree size.
    #[error("the tree size `{text}` is not a decimal number below 2^64 without leading zeros")]
    Size {
        /// The line, cut short.
        text: String,
    },
    /// The third line is not a root hash.
    #[error("the root hash `{text}` is not the base64 of 32 bytes")]
    Root {
        /// The line, cut short.
        text: String,
    },
    /// A tree of no leaves has one root only.
    #[error("the checkpoint is of an empty log, whose root is `{EMPTY_ROOT}`, not `{root}`")]
    EmptyTreeRoot {
        /// The root that is claimed.
        root: Hash,
    },
    /// An extension line is empty or has a line feed in it.
    #[error("the extension line `{line}` must be one line that is not empty")]
    Extension {
        /// The line, cut short.
        line: String,
    },
    /// The checkpoint is of another log.
    #[error("the checkpoint is of the log `{found}`, and `{expected}` was expected")]
    OtherLog {
        /// The origin of the expected log.
        expected: String,
        /// The origin in the checkpoint, cut short.
        found: String,
    },
}

/// The head of a log at one size: which log, how many leaves, which root.
///
/// Its text form (`Display`, `FromStr`) is the text of the note that signs it: the origin, the size
/// in decimal, the root in base64, and any extension lines, each ended by a line feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

/// A checkpoint and the note that signs it.
///
/// `Display` gives the note, which is what a log publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Note,
}

impl Checkpoint {
    /// The checkpoint of the log `origin` with `size` leaves.
    ///
    /// A checkpoint that is read may have any origin that is not empty; a new one must follow the
    /// advice of the document, so that the key of the log can bear the same name.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Origin`] when the origin is empty or has spaces, control characters or `+`;
    /// [`CheckpointError::EmptyTreeRoot`] when the size is 0 and the root is not [`EMPTY_ROOT`].
    pub fn new(origin: &str, size: u64, root: Hash) -> Result<Self, CheckpointError> {
        check_name(origin).map_err(|_| CheckpointError::Origin { origin: clip(origin) })?;
        Self { origin: origin.to_owned(), size, root, extensions: Vec::new() }.checked()
    }

    /// The same checkpoint with these extension lines. The document advises against them, because
    /// no monitor can audit what they say.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] when a line is empty or has a line feed or another control character.
    pub fn with_extensions(mut self, extensions: Vec<String>) -> Result<Self, CheckpointError> {
        for line in &extensions {
            if line.is_empty() || line.contains('\n') {
                return Err(CheckpointError::Extension { line: clip(line) });
            }
            check_characters(line)?;
        }
        self.extensions = extensions;
        Ok(self)
    }

    fn checked(self) -> Result<Self, CheckpointError> {
        if self.size == 0 && self.root != EMPTY_ROOT {
            return Err(CheckpointError::EmptyTreeRoot { root: self.root });
        }
        Ok(self)
    }

    /// The name of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root hash of the tree of [`Checkpoint::size`] leaves.
    #[must_use]
    pub const fn root(&self) -> &Hash {
        &self.root
    }

    /// The extension lines, without their line feeds.
    #[must_use]
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = STANDARD.encode(self.root.as_bytes());
        write!(f, "{}\n{}\n{root}\n", self.origin, self.size)?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl FromStr for Checkpoint {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        check_characters(text)?;
        let text = text.strip_suffix('\n').ok_or(NoteError::Unterminated)?;
        let empty = (1..).zip(text.split('\n')).find(|(_, line)| line.is_empty());
        if let Some((line, _)) = empty {
            return Err(CheckpointError::EmptyLine { line });
        }
        let mut lines = text.split('\n');
        let mut next = |missing| lines.next().ok_or(CheckpointError::Truncated { missing });
        let origin = next("origin")?.to_owned();
        let size = parse_size(next("tree size")?)?;
        let root = parse_root(next("root hash")?)?;
        let extensions = lines.map(str::to_owned).collect();
        Self { origin, size, root, extensions }.checked()
    }
}

impl SignedCheckpoint {
    /// Signs a checkpoint with each of the keys, in this order.
    ///
    /// A log must never sign two checkpoints of which neither continues the other (C2SP
    /// tlog-checkpoint): sign only what is durable.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Note`] when there is no key, or the note grows too long.
    pub fn sign(checkpoint: Checkpoint, signers: &[&NoteSigner]) -> Result<Self, CheckpointError> {
        let note = Note::sign(&checkpoint.to_string(), signers)?;
        Ok(Self { checkpoint, note })
    }

    /// Reads a signed checkpoint. The signatures are not checked: use [`SignedCheckpoint::verify`].
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] when the note or the checkpoint in it is not of the exact form.
    pub fn parse(note: &[u8]) -> Result<Self, CheckpointError> {
        let note = Note::parse(note)?;
        let checkpoint = note.text().parse()?;
        Ok(Self { checkpoint, note })
    }

    /// The checkpoint, if it is of the log `origin` and signed by one of the keys.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::OtherLog`] when it is of another log; [`CheckpointError::Note`] when no
    /// signature is of a known key, or one that claims to be does not hold.
    pub fn verify(&self, origin: &str, verifiers: &[NoteVerifier]) -> Result<&Checkpoint, CheckpointError> {
        self.note.verify(verifiers)?;
        if self.checkpoint.origin != origin {
            return Err(CheckpointError::OtherLog {
                expected: origin.to_owned(),
                found: clip(&self.checkpoint.origin),
            });
        }
        Ok(&self.checkpoint)
    }

    /// The checkpoint as it is written, whoever signed it. Not to be believed.
    #[must_use]
    pub const fn unverified(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The same checkpoint with these signatures too; they are not checked.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Note`] when there are too many.
    pub fn with_signatures(self, added: Vec<NoteSignature>) -> Result<Self, CheckpointError> {
        let Self { checkpoint, note } = self;
        Ok(Self { checkpoint, note: note.with_signatures(added)? })
    }

    /// The note that signs the checkpoint.
    #[must_use]
    pub const fn note(&self) -> &Note {
        &self.note
    }
}

impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}

fn parse_size(text: &str) -> Result<u64, CheckpointError> {
    let refused = || CheckpointError::Size { text: clip(text) };
    // The number parser takes a sign and leading zeros, and then one size would have several texts.
    let size: u64 = text.parse().map_err(|_| refused())?;
    if size.to_string() == text { Ok(size) } else { Err(refused()) }
}

fn parse_root(text: &str) -> Result<Hash, CheckpointError> {
    let decoded = STANDARD.decode(text).ok();
    decoded
        .and_then(|bytes| Hash::try_from(bytes.as_slice()).ok())
        .ok_or_else(|| CheckpointError::Root { text: clip(text) })
}
