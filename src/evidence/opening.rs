//! Sensitive inputs that somebody opens: a record holds a commitment to each, and whoever is given an opening sees that it is of that
//! value, without the key.

use countersign_core::action::Opening;
use countersign_core::{Action, Digest, Value};
use serde::{Deserialize, Serialize};

use super::Evidence;
use super::check::{Outcome, Read};
use super::gather::text;

/// The name and version of the form.
pub const OPENING_FORMAT: &str = "countersign-opening/v1";

/// An opening of one input in one record, as it goes from hand to hand. It holds the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordOpening {
    format: String,
    /// The index of the record in the log.
    record: u64,
    input: String,
    value: Value,
    salt: Digest,
}

/// Why a commitment is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// The evidence has no such record.
    #[error("the evidence does not hold record {0}")]
    NoRecord(u64),
    /// The record is of no action.
    #[error("record {0} holds no action; decisions, questions, redeems and exchanges do")]
    NoAction(u64),
    /// There is nothing to open.
    #[error("the input `{0}` is not kept as a commitment there")]
    NoCommitment(String),
    /// It is of another value, or was made with another key.
    #[error("the commitment to `{0}` is not of this value, or was made with another key")]
    Other(String),
    /// The file is no opening.
    #[error("it is no opening: {0}")]
    Form(String),
}

impl RecordOpening {
    /// Opens an input of the action in a record with the key of the action's tenant.
    ///
    /// # Errors
    /// [`OpeningError`]; whether it is the value or the key that does not fit, nobody can tell.
    pub fn of(record: u64, action: &Action, input: &str, value: Value, key: &[u8; 32]) -> Result<Self, OpeningError> {
        if !matches!(action.input.get(input), Some(Value::Commitment(_))) {
            return Err(OpeningError::NoCommitment(input.to_owned()));
        }
        let opening = Opening::of(action, input, value, key).ok_or_else(|| OpeningError::Other(input.to_owned()))?;
        let Opening { input, value, salt } = opening;
        Ok(Self { format: OPENING_FORMAT.to_owned(), record, input, value, salt })
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which it always can.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a file. What it says is not believed before it was held against the record.
    ///
    /// # Errors
    /// [`OpeningError::Form`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OpeningError> {
        let opening: Self = serde_json::from_slice(bytes).map_err(|error| OpeningError::Form(error.to_string()))?;
        if opening.format == OPENING_FORMAT {
            Ok(opening)
        } else {
            Err(OpeningError::Form(format!("its form is not `{OPENING_FORMAT}`, the only one that is known here")))
        }
    }

    /// What the input was, in words, if it opens the commitment in the record of that index.
    fn told(&self, records: &[Read<'_>]) -> Result<String, OpeningError> {
        let Self { format: _, record, input, value, salt } = self;
        let read = records.iter().find(|read| read.index == *record).ok_or(OpeningError::NoRecord(*record))?;
        let action = action_in(*record, &read.json)?;
        let opening = Opening { input: input.clone(), value: value.clone(), salt: *salt };
        if opening.fits(&action) {
            Ok(format!("the input {input:?} of record {record} was {}", value.canonical()))
        } else {
            Err(OpeningError::Other(input.clone()))
        }
    }
}

/// The action in a record of evidence, which is not checked for that.
///
/// # Errors
/// [`OpeningError::NoRecord`], [`OpeningError::NoAction`].
pub fn action_of(evidence: &Evidence, record: u64) -> Result<Action, OpeningError> {
    let held = evidence.records.iter().find(|held| held.index == record).ok_or(OpeningError::NoRecord(record))?;
    action_in(record, &serde_json::from_str(&held.content).unwrap_or_default())
}

fn action_in(record: u64, json: &serde_json::Value) -> Result<Action, OpeningError> {
    let action = text(json, "/action").and_then(|action| Action::from_canonical(action).ok());
    action.ok_or(OpeningError::NoAction(record))
}

/// Each opening opens the commitment that it says, and the story tells what of.
pub(super) fn opened(openings: &[RecordOpening], records: &[Read<'_>], outcome: &mut Outcome) {
    for opening in openings {
        let told = opening.told(records).map_err(|error| error.to_string());
        outcome.story.extend(told.clone());
        outcome.tell("an opened input", told);
    }
}
