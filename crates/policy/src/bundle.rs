//! A bundle that was found fit to decide.

use std::time::Duration;

use countersign_core::{Digest, EntityRef};

use crate::finding::{Finding, Refused};
use crate::source::Source;

/// A rule that asks for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskingRule {
    /// The id of the `forbid` that people can lift.
    pub id: String,
    /// How many distinct persons must approve.
    pub quorum: u32,
    /// How long the question stays open, and the approval good.
    pub ttl: Duration,
    /// Why it asks, in the words of the author.
    pub reason: Option<String>,
}

/// Where a policy stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySource {
    /// The file inside the bundle; of the kernel, its name in this crate.
    pub file: String,
    /// The line it begins at, counted from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// One versioned set of policies, schema and static entities: validated, immutable, cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Bundle {}

// impl Bundle {
//     pub fn load(source: Source) -> Result<Self, Refused>;      // #[must_use] etc.
//     pub fn source(&self) -> &Source;
//     pub fn warnings(&self) -> &[Finding];
//     pub fn name(&self) -> &str;
//     pub fn revision(&self) -> u64;
//     pub fn digest(&self) -> Digest;
//     pub fn composed_schema(&self) -> &str;
//     pub fn operations(&self) -> impl Iterator<Item = &str>;
//     pub fn sensitive(&self, operation: &str) -> &[String];
//     pub fn rules(&self) -> impl Iterator<Item = &AskingRule>;
//     pub fn asking(&self, rule: &str) -> Option<&AskingRule>;
//     pub fn policy_text(&self, id: &str) -> Option<&PolicySource>;
//     pub fn person_of(&self, account: &str) -> Option<&EntityRef>;
//     pub fn owner_of(&self, entity: &EntityRef) -> Option<&EntityRef>;
//     pub fn contains(&self, entity: &EntityRef) -> bool;
//     pub fn decide(&self, query: &Query<'_>) -> Result<Evaluation, QueryError>;
//     pub fn may_answer(&self, rule: &str, person: &EntityRef, query: &AnswerQuery<'_>) -> Answer;
//     pub fn answerers(&self, rule: &str, query: &AnswerQuery<'_>, limit: usize) -> Answerers;
//     pub fn administer(&self, query: &AdminQuery<'_>) -> Answer;
// }
// impl Source {
//     pub fn read_dir(path: &Path) -> Result<Self, SourceError>;
//     pub fn from_files(files: BTreeMap<String, String>) -> Result<Self, SourceError>;
//     pub fn files(&self) -> &BTreeMap<String, String>;
//     pub fn digest(&self) -> Digest;   // scenarios are not part of it
// }
