//! What must hold of a bundle, besides being fit to decide, before it becomes active.

use std::fmt::Debug;

use countersign_policy::Bundle;

/// Judges every bundle that is about to become active, whoever publishes it. One that is active already is not judged again.
pub trait Admission: Debug + Send + Sync {
    /// Whether the bundle may become active. May take its time: it holds nobody up but others who publish.
    ///
    /// # Errors
    /// Why not, and what to do, as a sentence.
    fn admit(&self, bundle: &Bundle) -> Result<(), String>;
}

/// Asks for nothing more.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn admit(&self, _bundle: &Bundle) -> Result<(), String> {
        Ok(())
    }
}
