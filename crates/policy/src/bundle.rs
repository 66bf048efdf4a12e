//! A bundle that was found fit to decide.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cedar_policy::{ActionConstraint, Authorizer, EntityUid, Policy, PolicyId, Schema};
use countersign_core::Digest;
use countersign_core::ledger::Rules;
use countersign_core::pre_approval::Bounds;
use serde_json::Value as Json;

use crate::answerable::{Answerable, answerable, by_time};
use crate::compose::{Composed, compose};
use crate::entities::Directory;
use crate::finding::{Finding, Refused, Severity};
use crate::index::Index;
use crate::kept::{self, Resting};
use crate::lint;
use crate::manifest::{Manifest, check_files, check_publish};
use crate::policies::{self, Authored, Kind};
use crate::shape::Fields;
use crate::source::{ENTITIES, MANIFEST, SCHEMA, Source};
use crate::stored::Entities;
use crate::view::View;

/// A rule that asks for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskingRule {
    /// The id of the `forbid` that people can lift.
    pub id: String,
    /// How many distinct persons must approve.
    pub quorum: u32,
    /// How long the question stays open, and the approval good.
    pub ttl: Duration,
    /// How long nobody asks for the same again after a deny. Zero: one may at once.
    pub cooldown: Duration,
    /// After how long without an answer others are told, whom the `approve` policies let answer then (`context.waited`).
    pub escalate: Option<Duration>,
    /// Within which bounds people may approve whatever it asks about on one resource in one session, beforehand. Absent: never.
    pub pre_approval: Option<Bounds>,
    /// Whether only approvals count that are signed with a key of the voter's own.
    pub signed_votes: bool,
    /// Why it asks, in the words of the author.
    pub reason: Option<String>,
}

/// Where a policy stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySource {
    /// The file inside the bundle; of the kernel, `kernel.cedar`.
    pub file: String,
    /// The line it begins at, counted from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
    /// Its `@reason`, in the words of its author.
    pub reason: Option<String>,
}

/// One versioned set of policies, schema and static entities: validated, immutable, cheap to share behind an `Arc`.
pub struct Bundle {
    source: Source,
    manifest: Manifest,
    digest: Digest,
    warnings: Vec<Finding>,
    composed: String,
    texts: BTreeMap<String, PolicySource>,
    rules: BTreeMap<String, AskingRule>,
    pub(crate) answerable: BTreeMap<String, Answerable>,
    answers_by_time: bool,
    kept: Rules,
    pub(crate) schema: Schema,
    pub(crate) authorizer: Authorizer,
    pub(crate) directory: Directory,
    pub(crate) operations: BTreeMap<String, Operation>,
    pub(crate) reserved: BTreeMap<String, Reserved>,
    /// Stands for the store where there is none.
    nothing: Entities,
}

/// An author's action, and everything that deciding about it needs.
pub(crate) struct Operation {
    pub uid: EntityUid,
    pub principals: Vec<String>,
    pub resources: Vec<String>,
    pub input: Fields,
    pub environment: Fields,
    pub sensitive: Vec<String>,
    /// The policies whose scope can match the action.
    pub policies: Index,
    /// Whether one of these reads labels or counters.
    pub resting: Resting,
}

/// A reserved action, and the policies whose scope can match it.
pub(crate) struct Reserved {
    pub uid: EntityUid,
    pub policies: Index,
}

impl Bundle {
    /// Reads, composes, lints, validates and indexes a bundle.
    ///
    /// # Errors
    /// [`Refused`] with everything that is wrong with it, warnings included.
    pub fn load(source: Source) -> Result<Self, Refused> {
        let mut findings = Vec::new();
        if source.text(MANIFEST).is_none() && source.text(SCHEMA).is_none() {
            let hint = "name a bundle's own directory, or begin one with `countersign policy new`";
            let nothing =
                Finding::error(MANIFEST, "this is no bundle: it has neither a manifest nor a schema").hint(hint);
            return Err(Refused::new(vec![nothing]));
        }
        check_files(&source, &mut findings);
        let manifest = Manifest::read(&source, &mut findings);
        let mut authored = policies::read(&source, &mut findings);
        let counters = manifest.iter().flat_map(|manifest| manifest.counters.keys());
        let composed = match source.text(SCHEMA).map(|text| compose(text, counters)) {
            Some(Ok(composed)) => Some(composed),
            Some(Err(errors)) => {
                findings.extend(errors);
                None
            }
            None => None, // already a finding
        };
        let parts = composed
            .zip(manifest.as_ref())
            .and_then(|(composed, manifest)| Parts::build(&source, manifest, composed, &mut authored, &mut findings));
        match (manifest, parts) {
            (Some(manifest), Some(parts)) if findings.iter().all(|f| f.severity == Severity::Warning) => {
                Ok(Self::assemble(source, manifest, parts, &authored, findings))
            }
            (_, _) => Err(Refused::new(findings)),
        }
    }

    fn assemble(
        source: Source,
        manifest: Manifest,
        parts: Parts,
        authored: &BTreeMap<String, Authored>,
        warnings: Vec<Finding>,
    ) -> Self {
        let text = |a: &Authored| PolicySource {
            file: a.file.clone(),
            line: a.at.0,
            text: a.text.clone(),
            reason: a.policy.annotation("reason").map(str::to_owned),
        };
        Self {
            digest: source.digest(),
            manifest,
            warnings: Refused::new(warnings).findings,
            composed: parts.composed.text,
            texts: authored.iter().map(|(id, a)| (id.clone(), text(a))).collect(),
            rules: parts.rules,
            answerable: parts.answerable,
            answers_by_time: by_time(authored),
            kept: parts.kept,
            schema: parts.composed.full,
            authorizer: Authorizer::new(),
            directory: parts.directory,
            operations: parts.operations,
            reserved: parts.reserved,
            nothing: Entities::default(),
            source,
        }
    }

    /// The files it was loaded from.
    #[must_use]
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// What somebody should look at, though it hinders nothing.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// The name in `bundle.toml`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// The revision in `bundle.toml`. A lower one than that of the active bundle is older.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.manifest.revision
    }

    /// The digest that names it.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The composed schema in Cedar's schema syntax, for ordinary Cedar tools.
    #[must_use]
    pub fn composed_schema(&self) -> &str {
        &self.composed
    }

    /// The operation that publishing another bundle is while this one is active. Absent: publishing needs `publish` alone.
    #[must_use]
    pub fn publish_operation(&self) -> Option<&str> {
        self.manifest.publish_operation.as_deref()
    }

    /// The operations that can be decided about.
    pub fn operations(&self) -> impl Iterator<Item = &str> {
        self.operations.keys().map(String::as_str)
    }

    /// The input fields of an operation that the schema marks sensitive.
    #[must_use]
    pub fn sensitive(&self, operation: &str) -> &[String] {
        self.operations.get(operation).map_or(&[], |operation| &operation.sensitive)
    }

    /// The rules that people can lift, by id.
    pub fn rules(&self) -> impl Iterator<Item = &AskingRule> {
        self.rules.values()
    }

    /// The rule of this id that people can lift.
    #[must_use]
    pub fn asking(&self, rule: &str) -> Option<&AskingRule> {
        self.rules.get(rule)
    }

    /// Whether who may answer can change though no policy and no entity does, by time alone.
    #[must_use]
    pub const fn answers_by_time(&self) -> bool {
        self.answers_by_time
    }

    /// The labels and counters that are kept of what is done.
    #[must_use]
    pub const fn kept(&self) -> &Rules {
        &self.kept
    }

    /// Whether what is kept can change the answer about an operation.
    #[must_use]
    pub fn rests_on_kept(&self, operation: &str) -> bool {
        self.operations.get(operation).is_some_and(|operation| operation.resting.any)
    }

    /// Whether the answer about an operation rests on what goes up and down again with what is done: counters, and what is not
    /// completed.
    #[must_use]
    pub fn rests_on_counts(&self, operation: &str) -> bool {
        self.operations.get(operation).is_some_and(|operation| operation.resting.counts)
    }

    /// Where a policy stands, kernel policies included.
    #[must_use]
    pub fn policy_text(&self, id: &str) -> Option<&PolicySource> {
        self.texts.get(id)
    }

    /// The policies that decide about actions, by their ids, and where they stand; those about answering and administering, and the
    /// kernel's, are not among them.
    pub fn policies(&self) -> impl Iterator<Item = (&str, &PolicySource)> {
        let deciding = |policy: &PolicySource| policy.file.starts_with("policies/");
        self.texts.iter().filter(move |(_, policy)| deciding(policy)).map(|(id, policy)| (id.as_str(), policy))
    }

    /// The bundle as it is without a store: entities of the types that lie there do not exist.
    #[must_use]
    pub const fn alone(&self) -> View<'_> {
        self.with(&self.nothing, None)
    }

    /// How many entities a policy may go through, one after the other.
    pub(crate) const fn level(&self) -> u32 {
        self.manifest.level
    }

    /// The types whose entities lie in the store.
    #[must_use]
    pub fn stored_types(&self) -> &[String] {
        &self.manifest.stored
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Bundle");
        out.field("name", &self.name()).field("revision", &self.revision()).field("digest", &self.digest);
        out.finish_non_exhaustive()
    }
}

/// What is made of the schema, the policies and the entities together.
struct Parts {
    composed: Composed,
    directory: Directory,
    rules: BTreeMap<String, AskingRule>,
    kept: Rules,
    answerable: BTreeMap<String, Answerable>,
    operations: BTreeMap<String, Operation>,
    reserved: BTreeMap<String, Reserved>,
}

impl Parts {
    /// Adds the kernel to `authored`, checks everything and builds what answers are given from.
    fn build(
        source: &Source,
        manifest: &Manifest,
        composed: Composed,
        authored: &mut BTreeMap<String, Authored>,
        findings: &mut Vec<Finding>,
    ) -> Option<Self> {
        let linted =
            authored.values().filter_map(|a| lint::policy(a, &composed, findings).map(|rule| (a.id.clone(), rule)));
        let rules: BTreeMap<String, AskingRule> = linted.collect();
        let directory =
            source.text(ENTITIES).and_then(|text| Directory::read(text, &composed.full, &manifest.stored, findings));
        let kernel = policies::kernel(findings);
        authored.extend(kernel.into_iter().map(|a| (a.id.clone(), a)));
        for (kind, schema) in
            [(Kind::Work, &composed.work), (Kind::Approve, &composed.approve), (Kind::Admin, &composed.admin)]
        {
            match policies::set(authored.values().filter(|a| a.kind == kind)) {
                Ok(set) => lint::validate(&set, schema, manifest.level, authored, source.files(), findings),
                Err(finding) => findings.push(finding),
            }
        }
        if composed.operations.is_empty() {
            // Nothing can be asked about, so the kernel applies to nothing; that is no fault of the author's policies.
            findings.retain(|f| f.file != policies::KERNEL_FILE);
        }
        let directory = directory?;
        let answerable = answerable(&rules, authored, &directory, findings);
        let operations = operations(&composed, authored, &directory, findings);
        check_publish(manifest, source, &operations, &directory, findings);
        let kept = kept::rules(manifest, source, authored, &composed.json, &operations, &directory, findings);
        let reserved = reserved(&composed, authored, &directory, findings);
        Some(Self { composed, directory, rules, kept, answerable, operations, reserved })
    }
}

/// The policies of one set.
struct Shelf<'a> {
    folder: &'static str,
    policies: Arc<[Policy]>,
    directory: &'a Directory,
}

impl<'a> Shelf<'a> {
    fn new(kind: Kind, authored: &BTreeMap<String, Authored>, directory: &'a Directory) -> Self {
        let policies = authored.values().filter(|authored| authored.kind == kind);
        Self { folder: kind.folder(), policies: policies.map(|authored| authored.policy.clone()).collect(), directory }
    }

    /// Those whose scope can match an action. Which they are is known from the schema alone.
    fn about(&self, action: &EntityUid) -> Result<Index, Finding> {
        let in_scope = |policy: &Policy| match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(named) => named == *action,
            ActionConstraint::In(named) => {
                named.iter().any(|n| n == action || self.directory.entities.is_ancestor_of(n, action))
            }
        };
        let places = (0..).zip(self.policies.iter()).filter(|(_, policy)| in_scope(policy)).map(|(place, _)| place);
        Index::new(&self.policies, places.collect()).map_err(|reason| Finding::error(self.folder, reason))
    }
}

fn uid_of<'a>(schema: &'a Schema, action: &str) -> Option<&'a EntityUid> {
    schema.actions().find(|uid| uid.id().unescaped() == action && uid.type_name().to_string() == "Action")
}

fn operations(
    composed: &Composed,
    authored: &BTreeMap<String, Authored>,
    directory: &Directory,
    findings: &mut Vec<Finding>,
) -> BTreeMap<String, Operation> {
    let mut all = BTreeMap::new();
    let work = Shelf::new(Kind::Work, authored, directory);
    let resting = kept::resting(authored);
    for (name, sensitive) in &composed.operations {
        let applies = ["", "actions", name, "appliesTo"].into_iter().try_fold(&composed.json, |at, key| at.get(key));
        let (Some(applies), Some(uid)) = (applies, uid_of(&composed.full, name)) else {
            findings.push(Finding::error(SCHEMA, format!("the action `{name}` was lost in composition")));
            continue;
        };
        let field = |field: &str| {
            let declared = applies.get("context").and_then(|c| c.get("attributes")).and_then(|a| a.get(field));
            Fields::compile(&composed.json, "", declared.unwrap_or(&Json::Null), 0)
        };
        let types = |types: Option<Vec<String>>| types.unwrap_or_default();
        let principals = composed.full.principals_for_action(uid).map(|types| types.map(ToString::to_string).collect());
        let resources = composed.full.resources_for_action(uid).map(|types| types.map(ToString::to_string).collect());
        match (field("input"), field("environment"), work.about(uid)) {
            (Ok(input), Ok(environment), Ok(policies)) => {
                let in_scope = policies.whole();
                let operation = Operation {
                    resting: Resting {
                        any: resting.keys().any(|id| in_scope.policy(&PolicyId::new(id)).is_some()),
                        counts: resting
                            .iter()
                            .any(|(id, resting)| resting.counts && in_scope.policy(&PolicyId::new(id)).is_some()),
                    },
                    uid: uid.clone(),
                    principals: types(principals),
                    resources: types(resources),
                    input,
                    environment,
                    sensitive: sensitive.clone(),
                    policies,
                };
                all.insert(name.clone(), operation);
            }
            (Err(unknown), _, _) | (_, Err(unknown), _) => {
                findings.push(Finding::error(SCHEMA, format!("in the context of `{name}`, {}", unknown.0)));
            }
            (_, _, Err(finding)) => findings.push(finding),
        }
    }
    all
}

fn reserved(
    composed: &Composed,
    authored: &BTreeMap<String, Authored>,
    directory: &Directory,
    findings: &mut Vec<Finding>,
) -> BTreeMap<String, Reserved> {
    let mut all = BTreeMap::new();
    let approve = Shelf::new(Kind::Approve, authored, directory);
    let admin = Shelf::new(Kind::Admin, authored, directory);
    for name in &composed.reserved {
        let shelf = if name == crate::compose::APPROVE { &approve } else { &admin };
        let Some(uid) = uid_of(&composed.full, name) else { continue };
        match shelf.about(uid) {
            Ok(policies) => drop(all.insert(name.clone(), Reserved { uid: uid.clone(), policies })),
            Err(finding) => findings.push(finding),
        }
    }
    all
}
