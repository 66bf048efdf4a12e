//! `bundle.toml`, and the files that a bundle may have.

use std::collections::BTreeMap;

use countersign_core::value::MAX_LONG;
use countersign_core::{Digest, EntityRef, Record, Value};
use serde::Deserialize;

use crate::bundle::Operation;
use crate::entities::Directory;
use crate::finding::{Finding, locate, position};
use crate::kept::Declared;
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
    /// The labels that actions leave, each with how long it follows whoever acted.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What is counted of what was done.
    #[serde(default)]
    pub counters: BTreeMap<String, Declared>,
    /// The operation that publishing another bundle is while this one is active.
    #[serde(default)]
    pub publish_operation: Option<String>,
}

/// Steps that policies may go unless the manifest says otherwise.
const fn usual_level() -> u32 {
    3
}

/// The most steps.
const MAX_LEVEL: u32 = 8;
/// The most that signatures take: they are kept in one row of a store, beside other things.
const MAX_SIGNATURES_BYTES: usize = 32 * 1024;

/// The audience of what the service does itself: there it is its own enforcement point.
pub const PUBLISH_AUDIENCE: &str = "countersign";

/// What publishing a bundle is asked about with, under the operation that the active one names for it.
#[must_use]
pub fn publish_input(digest: Digest, revision: u64, rollback: bool) -> Record {
    // A manifest with a larger revision is refused.
    let revision = i64::try_from(revision).map_or(MAX_LONG, |revision| revision.min(MAX_LONG));
    Record::from([
        ("bundle".to_owned(), Value::String(digest.to_string())),
        ("revision".to_owned(), Value::Long(revision)),
        ("rollback".to_owned(), Value::Bool(rollback)),
    ])
}

/// An operation that publishing cannot be would keep every later bundle out.
pub(crate) fn check_publish(
    manifest: &Manifest,
    source: &Source,
    operations: &BTreeMap<String, Operation>,
    directory: &Directory,
    findings: &mut Vec<Finding>,
) {
    let Some(name) = &manifest.publish_operation else { return };
    let (point, kind) = (EntityRef::new("EnforcementPoint", PUBLISH_AUDIENCE), "EnforcementPoint");
    if !manifest.stored.iter().any(|stored| stored == kind) && !point.is_ok_and(|point| directory.contains(&point)) {
        let message = format!("`publish_operation` needs the entity `EnforcementPoint::\"{PUBLISH_AUDIENCE}\"`");
        let hint = "publishing is enforced by countersign itself; name its owner, who then cannot approve it";
        findings.push(Finding::error(ENTITIES, message).hint(hint));
    }
    let fits = operations.get(name).is_some_and(|operation| {
        operation.resources.iter().any(|kind| kind == "Tenant")
            && operation.input.convert(&publish_input(Digest::of(b""), 1, true)).is_ok()
            && operation.environment.convert(&Record::new()).is_ok()
            && operation.sensitive.is_empty()
    });
    if !fits {
        let at = locate(source.text(MANIFEST).unwrap_or_default(), "publish_operation");
        let message = format!("`{}` is no operation that publishing can be", name.escape_debug());
        let hint = format!(
            "declare `action {} appliesTo {{ principal: [Person], resource: [Tenant], context: {{ input: {{ bundle: String, \
             revision: Long, rollback: Bool }} }} }};`",
            name.escape_debug()
        );
        findings.push(Finding::error(MANIFEST, message).at(at).hint(hint));
    }
}

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
        // Publishing is decided by the revision, and what is decided has numbers that every client can write.
        if i64::try_from(manifest.revision).map_or(true, |revision| revision > MAX_LONG) {
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
    if source.signatures().is_some_and(|text| text.len() > MAX_SIGNATURES_BYTES) {
        let message = format!("the signatures take more than {MAX_SIGNATURES_BYTES} bytes");
        findings.push(Finding::error(SIGNATURES, message).hint("remove the file and sign again"));
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
