//! The files of a bundle.

use std::collections::BTreeMap;
use std::path::Path;

use countersign_core::Digest;

/// The files of a bundle, by their path inside it, with `/` between the parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    files: BTreeMap<String, String>,
}
