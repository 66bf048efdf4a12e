//! What must hold of a bundle, besides being fit to decide, before it becomes active.

use std::fmt::Debug;

use countersign_policy::Bundle;
use serde::{Deserialize, Serialize};

/// Judges every bundle that is about to become active, whoever publishes it; and the active one again, when
/// its signatures change.
pub trait Admission: Debug + Send + Sync {
    /// Whether the bundle may become active. May take its time: it holds nobody up but others who publish.
    ///
    /// # Errors
    /// Why not, and what to do, as a sentence.
    fn admit(&self, bundle: &Bundle) -> Result<Admitted, String>;
}

/// What was found to hold, for the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Who signed the bundle, of those who were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub signed_by: Vec<String>,
    /// The properties that were proved of it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub proved: Vec<String>,
}

/// Asks for nothing more.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn admit(&self, _bundle: &Bundle) -> Result<Admitted, String> {
        Ok(Admitted::default())
    }
}
