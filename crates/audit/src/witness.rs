//! What a witness is asked, and what it answers (C2SP tlog-witness). It keeps nothing: whoever calls it does.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint};
use crate::hash::{EMPTY_ROOT, Hash};
use crate::note::NoteError;
use crate::proof::{VerifyError, verify_consistency};
use crate::vkey::NoteVerifier;

/// The most hashes of a proof that may be sent (C2SP tlog-witness).
const MAX_PROOF: usize = 63;

/// What is sent to `add-checkpoint`. `Display` gives the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size of the checkpoint that the witness is believed to have cosigned last; 0 for none.
    pub old_size: u64,
    /// That the new checkpoint continues it.
    pub proof: Vec<Hash>,
    /// The new checkpoint.
    pub checkpoint: SignedCheckpoint,
}

/// Why what was sent is not a question to a witness.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MalformedQuestion {
    /// It does not begin with `old`, a size, hashes and an empty line.
    #[error("the body does not begin with `old SIZE`, hashes in base64, and an empty line")]
    Form,
    /// There are too many hashes.
    #[error("the proof has more than {MAX_PROOF} hashes")]
    TooLong,
    /// The checkpoint is malformed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Why a witness does not cosign. Each has a status of its own in HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The log is none of those that the witness watches: 404.
    #[error("this witness does not watch the log `{origin}`")]
    UnknownLog {
        /// The origin.
        origin: String,
    },
    /// No signature is of the log's key: 403.
    #[error("the checkpoint is not signed by the log: {0}")]
    NotTheLogs(CheckpointError),
    /// The old size is above the new one: 400.
    #[error("the old size {old} is above the checkpoint's, {new}")]
    OldAbove {
        /// The old size.
        old: u64,
        /// The checkpoint's size.
        new: u64,
    },
    /// The old size is not that of what was cosigned last: 409, with the size.
    #[error("the checkpoint that was cosigned last has {size} records")]
    OtherSize {
        /// Its size.
        size: u64,
    },
    /// The same size was cosigned with another root: 409. The log has two histories.
    #[error("another root was cosigned for the same {size} records: the log has two histories")]
    OtherRoot {
        /// The size.
        size: u64,
    },
    /// The proof does not hold: 422.
    #[error("the checkpoint is not shown to continue the one before: {0}")]
    NotContinued(VerifyError),
}

impl AddCheckpoint {
    /// Reads a body. Nothing in it is to be believed yet.
    ///
    /// # Errors
    ///
    /// [`MalformedQuestion`].
    pub fn parse(body: &[u8]) -> Result<Self, MalformedQuestion> {
        let text = std::str::from_utf8(body).map_err(|error| {
            MalformedQuestion::Checkpoint(CheckpointError::Note(NoteError::Utf8 { offset: error.valid_up_to() }))
        })?;
        let (head, note) = text.split_once("\n\n").ok_or(MalformedQuestion::Form)?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).ok_or(MalformedQuestion::Form)?;
        let old_size: u64 = old.parse().map_err(|_| MalformedQuestion::Form)?;
        if old_size.to_string() != old {
            return Err(MalformedQuestion::Form);
        }
        let mut proof = Vec::new();
        for line in lines {
            if proof.len() == MAX_PROOF {
                return Err(MalformedQuestion::TooLong);
            }
            let bytes = STANDARD.decode(line).map_err(|_| MalformedQuestion::Form)?;
            proof.push(Hash::try_from(bytes.as_slice()).map_err(|_| MalformedQuestion::Form)?);
        }
        Ok(Self { old_size, proof, checkpoint: SignedCheckpoint::parse(note.as_bytes())? })
    }

    /// What there is to cosign, if it continues what was cosigned last: the checkpoint to be kept, before it is cosigned.
    ///
    /// `logs` are the keys of the logs that are watched, each with the origin of its log as its name; `latest` is what was
    /// cosigned last of this log.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn judge(&self, logs: &[NoteVerifier], latest: Option<&Checkpoint>) -> Result<&Checkpoint, Refusal> {
        let origin = self.checkpoint.unverified().origin();
        let keys: Vec<NoteVerifier> = logs.iter().filter(|key| key.name() == origin).cloned().collect();
        if keys.is_empty() {
            return Err(Refusal::UnknownLog { origin: crate::vkey::clip(origin) });
        }
        let new = self.checkpoint.verify(origin, &keys).map_err(Refusal::NotTheLogs)?;
        if self.old_size > new.size() {
            return Err(Refusal::OldAbove { old: self.old_size, new: new.size() });
        }
        let (size, root) = latest.map_or((0, EMPTY_ROOT), |latest| (latest.size(), *latest.root()));
        if self.old_size != size {
            return Err(Refusal::OtherSize { size });
        }
        if new.size() == size && *new.root() != root {
            return Err(Refusal::OtherRoot { size });
        }
        verify_consistency(size, &root, new.size(), new.root(), &self.proof).map_err(Refusal::NotContinued)?;
        Ok(new)
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", STANDARD.encode(hash.as_bytes())))?;
        write!(f, "\n{}", self.checkpoint)
    }
}
