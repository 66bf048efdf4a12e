//! `bundle.toml`, and the files that a bundle may have.

use countersign_core::Digest;
use serde::Deserialize;

use crate::finding::{Finding, locate, position};
use crate::policies::Kind;
use crate::source::{ENTITIES, MANIFEST, PROPERTIES, SCENARIOS, SCHEMA, SIGNATURES, Source};

/// `bundle.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u32,
    /// The bundle's name.
    pub name: String,
    /// Counts up with every change that is published.
    pub revision: u64,
    /// Pins all other files, so that a bundle that is still being written is told from a whole one.
    #[serde(default)]
    content_digest: Option<Digest>,
    /// The types of the entities that lie in the store, and not in `entities.json`.
    #[serde(default)]
    pub stored: Vec<String>,
    /// How many entities a policy may go through, one after the other: `principal.owner.team` takes two steps from the
    /// principal, and a third to look whether the team is in a group. It bounds what a decision has to read.
    #[serde(default = "usual_level")]
    pub level: u32,
}

/// Steps that policies may go unless the manifest says otherwise.
const fn usual_level() -> u32 {
    3
}

/// The most steps.
const MAX_LEVEL: u32 = 8;

impl Manifest {
    /// Reads it; whatever is wrong with it is a finding.
    pub(crate) fn read(source: &Source, findings: &mut Vec<Finding>) -> Option<Self> {
        let Some(text) = source.text(MANIFEST) else {
            let hint = "write `format = 1`, `name = \"...\"` and `revision = 1` in it";
            findings.push(Finding::error(MANIFEST, "`bundle.toml` is missing").hint(hint));
            return None;
        };
        let manifest: Self = match toml::from_str(text) {
            Ok(manifest) => manifest,
            Err(error) => {
                let at = error.span().map_or((1, 1), |span| position(text, span.start));
                findings.push(Finding::error(MANIFEST, error.message()).at(at));
                return None;
            }
        };
        let mut refuse = |word: &str, message: String, hint: &str| {
            findings.push(Finding::error(MANIFEST, message).at(locate(text, word)).hint(hint));
        };
        if manifest.format != 1 {
            refuse("format", format!("the format {} is not known", manifest.format), "this release reads format 1");
        }
        let name = &manifest.name;
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            let message = format!("`{}` is not a bundle name", name.escape_debug());
            refuse("name", message, "use 1 to 64 of the characters a-z, 0-9 and `-`");
        }
        // Cedar's numbers are signed, and `publish` is decided by the revision.
        if i64::try_from(manifest.revision).is_err() {
            refuse("revision", format!("the revision {} is too large", manifest.revision), "count up from 1");
        }
        if !(1..=MAX_LEVEL).contains(&manifest.level) {
            refuse("level", format!("the level {} is out of range", manifest.level), "write 1 to 8; 3 is usual");
        }
        let content = source.content_digest();
        if manifest.content_digest.is_some_and(|pinned| pinned != content) {
            let message = format!("the files have the content digest `{content}`, and not the pinned one");
            refuse("content_digest", message, "wait until all files are written, or pin what is there");
        }
        Some(manifest)
    }
}

/// A file that nobody reads may be a forbid that its author counts on, so whatever is not known is refused.
pub(crate) fn check_files(source: &Source, findings: &mut Vec<Finding>) {
    for required in [SCHEMA, ENTITIES] {
        if source.text(required).is_none() {
            let hint = if required == ENTITIES { "without entities write `[]`" } else { "declare the actions in it" };
            findings.push(Finding::error(required, format!("`{required}` is missing")).hint(hint));
        }
    }
    for path in source.files().keys() {
        let known = match path.rsplit_once('/') {
            None => [MANIFEST, SCHEMA, ENTITIES, SIGNATURES].contains(&path.as_str()),
            Some((folder, name)) => {
                let folder = format!("{folder}/");
                let cedar = folder == PROPERTIES
                    || [Kind::Work, Kind::Approve, Kind::Admin].iter().any(|kind| kind.folder() == folder);
                !name.starts_with('.')
                    && ((cedar && name.ends_with(".cedar"))
                        || (folder == SCENARIOS && (name.ends_with(".toml") || name.ends_with(".json"))))
            }
        };
        if !known {
            let hint = "a bundle has `bundle.toml`, `schema.cedarschema`, `entities.json`, `bundle.sig`, \
                        `.cedar` files in `policies/`, `approve/`, `admin/` and `properties/`, and `.toml` and \
                        `.json` files in `scenarios/`";
            findings.push(Finding::error(path, "this file belongs to no part of a bundle").hint(hint));
        }
    }
}
