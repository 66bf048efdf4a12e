//! Evidence of one action: a file that a stranger checks offline.
//!
//! The form is docs/evidence.md. Every byte of a file is covered: the form has one spelling only, records are proved to be in the log,
//! the head of the log is signed, bundles and views have the digests that the records name, and tokens are what was minted.

mod ballots;
mod check;
mod gather;
mod head;
mod opening;
mod page;
mod policies;
mod shown;
mod token;
mod trust;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use ballots::Ballots;
pub use check::{Finding, Outcome, Verdict, verify, verify_opened};
pub use gather::{Gather, Lead};
pub use opening::{OPENING_FORMAT, OpeningError, RecordOpening, action_of};
pub use page::html;
pub use trust::{Trust, TrustError};

/// The name and version of the form.
pub const FORMAT: &str = "countersign-evidence/v1";
/// The largest file that is looked at.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The most records that one file holds.
pub const MAX_RECORDS: usize = 10_000;

/// A file of evidence. The order of the fields is part of the form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// [`FORMAT`].
    pub format: String,
    /// The capability, approval request or decision that it is about.
    pub subject: String,
    /// The head of the log, a signed note with all its signatures.
    pub checkpoint: String,
    /// The records, in the order of the log.
    pub records: Vec<Proved>,
    /// The files of the bundles that decided, by digest, as far as whoever exported had them.
    pub bundles: BTreeMap<String, BTreeMap<String, String>>,
    /// What people were shown, by view digest, as far as whoever exported could read it.
    pub views: BTreeMap<String, String>,
    /// The tokens that whoever exported gave: spent, revoked or expired, or they would be worth stealing.
    pub tokens: Vec<String>,
}

/// A record with the proof that it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proved {
    /// Its index in the log.
    pub index: u64,
    /// The inclusion proof (RFC 9162), from the leaf upwards.
    pub proof: Vec<String>,
    /// Its bytes, which are JSON themselves.
    pub content: String,
}

impl Evidence {
    /// The bytes of the file: there are no others for the same evidence.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which it always can.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a file. What it says is not believed before [`verify`].
    ///
    /// # Errors
    /// In words, when it is not of the form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("the file is larger than {MAX_BYTES} bytes"));
        }
        let evidence: Self = serde_json::from_slice(bytes).map_err(|error| format!("it is no evidence: {error}"))?;
        if evidence.format != FORMAT {
            return Err(format!("its form is not `{FORMAT}`, the only one that is known here"));
        }
        if evidence.records.is_empty() || evidence.records.len() > MAX_RECORDS {
            return Err(format!("it holds no record, or more than {MAX_RECORDS}"));
        }
        if evidence.to_bytes().ok().as_deref() != Some(bytes) {
            return Err("it is not spelled as evidence is: somebody wrote it again, or changed it".to_owned());
        }
        Ok(evidence)
    }
}

#[cfg(test)]
mod tests;
