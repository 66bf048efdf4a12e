//! Checking the audit log record by record, wherever the records come from: a server or a directory.

mod server;

use std::collections::BTreeMap;
use std::path::Path;

use countersign::tlog::archived;
use countersign_audit::{
    Checkpoint, Frontier, FsckError, Hash, LogVerifier, NodeId, NoteVerifier, ProofError, SignedCheckpoint, check_node,
    consistency_proof, verify_consistency,
};
use countersign_core::visible::Visible;
use countersign_engine::Prune;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::output::{BAD, FAINT, GOOD, STRONG, WARN, paint};
use super::recorded::{Stopped, copy_failed};
use super::text::Lines;

pub use server::{check_server, server_head, server_head_at};

/// How many faults are told one by one.
const TOLD: usize = 20;
/// The kind of the record that says that records were dropped.
const PRUNED: &str = "log_pruned";

/// What is stored beside a record: the leaf hash alone, as a server sends it, or every node of the tree.
pub enum Stored<'a> {
    /// Nothing: it is read from a copy.
    Nothing,
    /// The stored leaf hash of this record.
    Leaf(Option<Hash>),
    /// What the store holds in a place of the tree.
    Nodes(&'a mut dyn FnMut(NodeId) -> Result<Option<Hash>, Failure>),
    /// What tiles hold in a place of the tree; they hold every eighth level.
    Tiles(&'a mut dyn FnMut(NodeId) -> Result<Option<Hash>, Failure>),
}

/// A check under way.
pub struct LogCheck {
    verifier: LogVerifier,
    /// Verified heads that the records must give, the smallest first.
    heads: Vec<Checkpoint>,
    /// The first record that was seen; those before it must have been dropped.
    minimum: u64,
    /// The first record that is not from a copy: those before it must have been dropped, too.
    copied: u64,
    /// The roots at the places where a log can be pruned, from the first that was not dropped on; none if none was.
    roots: BTreeMap<u64, Hash>,
    /// What says that they were dropped.
    told: Option<Told>,
    faults: Vec<String>,
    count: usize,
}

/// What says that records were dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The record that says so.
    pub record: u64,
    /// The first that is kept.
    pub minimum_index: u64,
    /// Where a copy is, in the words of whoever dropped them.
    pub archive: Option<String>,
}

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// The log's name.
    pub origin: String,
    /// How many records there are.
    pub records: u64,
    /// The root that they give.
    pub root: Hash,
    /// The sizes of the signed heads that were compared.
    pub heads: Vec<u64>,
    /// What is wrong, at most [`TOLD`] of it.
    pub faults: Vec<String>,
    /// How much is wrong.
    pub count: usize,
    /// The first record that was seen.
    pub minimum_index: u64,
    /// What says that those before it were dropped.
    pub told: Option<Told>,
    /// Whether the key of the heads came from whoever is being checked.
    pub key_unproven: bool,
}

impl LogCheck {
    /// Starts at the first record. The signatures of `heads` must have been checked.
    pub fn new(heads: Vec<Checkpoint>) -> Self {
        Self::after(Frontier::empty(), heads)
    }

    /// Starts after the records of a frontier, which were dropped: one of the records to come must say so. Heads of fewer records are
    /// whoever calls to prove. Nothing needs to be believed of the frontier where a head is compared.
    pub fn after(frontier: Frontier, mut heads: Vec<Checkpoint>) -> Self {
        heads.sort_by_key(Checkpoint::size);
        let minimum = frontier.size();
        let verifier = LogVerifier::resume(frontier);
        let (roots, told) = (BTreeMap::new(), None);
        let mut check = Self { verifier, heads, minimum, copied: 0, roots, told, faults: Vec::new(), count: 0 };
        check.compare();
        check.keep_root();
        check
    }

    /// How many records were taken.
    pub const fn size(&self) -> u64 {
        self.verifier.size()
    }

    /// Takes the record stored under `index`.
    ///
    /// # Errors
    /// When what is stored cannot be read. What does not fit is a fault, not an error, unless a record is missing or
    /// repeated: then nothing after it can be placed.
    pub fn record(&mut self, index: u64, content: &[u8], stored: Stored<'_>) -> Result<(), Failure> {
        let nodes = match self.verifier.push_at(index, content) {
            Ok(nodes) => nodes,
            Err(error) => {
                self.fault(&error);
                return Err(Failure::new(format!("the log does not verify: {error}")).reason("LOG_BROKEN"));
            }
        };
        match stored {
            Stored::Nothing => {}
            Stored::Leaf(hash) => {
                if let Some(leaf) = nodes.first() {
                    self.note(check_node(leaf, hash));
                }
            }
            Stored::Nodes(look) => {
                for node in &nodes {
                    self.note(check_node(node, look(node.id)?));
                }
            }
            Stored::Tiles(look) => {
                for node in nodes.iter().filter(|node| node.id.level.is_multiple_of(8)) {
                    self.note(check_node(node, look(node.id)?));
                }
            }
        }
        self.compare();
        self.keep_root();
        if self.first_kept() > 0 && index >= self.first_kept() {
            self.pruned(index, content);
        }
        Ok(())
    }

    /// The first record that was not dropped.
    const fn first_kept(&self) -> u64 {
        if self.copied > self.minimum { self.copied } else { self.minimum }
    }

    /// Takes a record of which only the leaf hash is left. There must have been none before it that is there.
    pub fn dropped(
        &mut self,
        leaf: Hash,
        stored: &mut dyn FnMut(NodeId) -> Result<Option<Hash>, Failure>,
    ) -> Result<(), Failure> {
        for node in self.verifier.push_leaf(leaf).iter().filter(|node| node.id.level.is_multiple_of(8)) {
            self.note(check_node(node, stored(node.id)?));
        }
        self.minimum = self.verifier.size();
        self.compare();
        self.keep_root();
        Ok(())
    }

    /// Whether all records so far were dropped.
    pub const fn only_dropped(&self) -> bool {
        self.verifier.size() == self.minimum
    }

    fn keep_root(&mut self) {
        let size = self.verifier.size();
        if self.first_kept() > 0 && size >= self.first_kept() && size.is_multiple_of(Prune::STEP) {
            self.roots.insert(size, self.verifier.frontier().root());
        }
    }

    /// What a record says of what was dropped.
    fn pruned(&mut self, index: u64, content: &[u8]) {
        #[derive(Deserialize)]
        struct Says {
            kind: String,
            minimum_index: u64,
            root: Hash,
            archive: Option<String>,
        }
        // Most are about something else, and need not be taken apart.
        if !std::str::from_utf8(content).is_ok_and(|text| text.contains(PRUNED)) {
            return;
        }
        let Some(says) = serde_json::from_slice::<Says>(content).ok().filter(|says| says.kind == PRUNED) else {
            return;
        };
        let Says { minimum_index, root, archive, .. } = says;
        // It tells of fewer than are missing.
        if minimum_index < self.first_kept() {
            return;
        }
        match self.roots.get(&minimum_index) {
            Some(computed) if *computed != root => self.problem(format!(
                "record {index} says that the records before {minimum_index} were dropped, with the root `{root}`, and theirs is `{computed}`"
            )),
            Some(_) => self.told = Some(Told { record: index, minimum_index, archive }),
            // Of those before the first that is here nothing is known but their hashes.
            None => {}
        }
    }

    /// Ends the check.
    pub fn finish(mut self, origin: &str, key_unproven: bool) -> Report {
        if self.first_kept() > 0 && self.told.is_none() {
            let minimum = self.first_kept();
            self.problem(format!(
                "the records before {minimum} are not there, and no record says that they were dropped"
            ));
        }
        // Only heads of records that never came are left out until here.
        let ahead = self.heads.iter().filter(|head| head.size() > self.verifier.size());
        let ahead: Vec<FsckError> = ahead.filter_map(|head| self.verifier.compare(head).err()).collect();
        ahead.iter().for_each(|error| self.fault(error));
        Report {
            origin: origin.to_owned(),
            records: self.verifier.size(),
            root: self.verifier.frontier().root(),
            heads: self.heads.iter().map(Checkpoint::size).collect(),
            faults: self.faults,
            count: self.count,
            minimum_index: self.minimum,
            told: self.told,
            key_unproven,
        }
    }

    fn compare(&mut self) {
        let size = self.verifier.size();
        let here: Vec<FsckError> = self
            .heads
            .iter()
            .filter(|head| head.size() == size)
            .filter_map(|head| self.verifier.compare(head).err())
            .collect();
        here.iter().for_each(|error| self.fault(error));
    }

    fn note(&mut self, checked: Result<(), FsckError>) {
        if let Err(error) = checked {
            self.fault(&error);
        }
    }

    fn fault(&mut self, error: &FsckError) {
        self.problem(error.to_string());
    }

    /// Notes what is wrong beside the records.
    pub fn problem(&mut self, problem: String) {
        self.count += 1;
        if self.faults.len() < TOLD {
            self.faults.push(problem);
        }
    }
}

impl Report {
    /// Whether every record is the one that was signed.
    pub const fn ok(&self) -> bool {
        self.count == 0
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "ok": self.ok(),
            "origin": self.origin,
            "records": self.records,
            "root": self.root,
            "heads": self.heads,
            "faults": self.faults,
            "fault_count": self.count,
            "minimum_index": self.minimum_index,
            "dropped_by_record": self.told.as_ref().map(|told| told.record),
            "key_unproven": self.key_unproven,
        })
    }

    /// For people.
    pub fn to_human(&self) -> String {
        let mut text = Lines::default();
        let verdict = if self.ok() { paint(GOOD.bold(), "ok") } else { paint(BAD, "BROKEN") };
        text.line(format!("{verdict} {}", paint(STRONG, &self.origin)));
        text.field("records", self.records).field("root", self.root);
        if let Some(Told { record, minimum_index, archive }) = &self.told {
            let copy = archive.as_ref().map(|archive| format!("; a copy is said to be at {}", Visible::new(archive)));
            let copy = copy.unwrap_or_default();
            let read = if self.minimum_index == 0 { "; they are read from the copy" } else { &copy };
            let before = if self.minimum_index == 0 { *minimum_index } else { self.minimum_index };
            text.field("dropped", format!("those before {before}, as record {record} says{read}"));
        }
        let heads: Vec<String> = self.heads.iter().map(ToString::to_string).collect();
        text.field(
            "signed heads",
            if heads.is_empty() { "none".to_owned() } else { format!("of {} records", heads.join(", ")) },
        );
        for fault in &self.faults {
            text.line(format!("  {} {fault}", paint(BAD, "fault:")));
        }
        if self.count > self.faults.len() {
            text.line(format!("  … and {} more", self.count - self.faults.len()));
        }
        if self.key_unproven {
            text.line(paint(
                WARN,
                "  the key of the head came from whom it is to check; compare it with one that you were given",
            ));
            text.line(paint(FAINT, "  by other means: `--log-key` or `--log-key @FILE`"));
        }
        if self.heads.is_empty() {
            text.line(paint(
                WARN,
                "  no signed head was compared: the records agree with each other, and whether any are missing is not shown",
            ));
            text.line(paint(FAINT, "  give a head that was kept elsewhere: `--since FILE`"));
        }
        text.finish()
    }

    /// The report as the end of a command.
    pub fn into_result(self) -> Result<(), Failure> {
        match self.faults.first() {
            None => Ok(()),
            Some(first) => Err(Failure::new(format!("the log does not verify: {first}"))
                .reason("LOG_BROKEN")
                .hint("keep a copy of it as it is, and compare it with the heads that were published")),
        }
    }
}

/// A head whose signature holds.
pub fn head(note: &str, key: &NoteVerifier) -> Result<Checkpoint, Failure> {
    let signed = SignedCheckpoint::parse(note.as_bytes());
    let verified = signed.and_then(|signed| signed.verify(key.name(), std::slice::from_ref(key)).cloned());
    verified.map_err(|error| {
        Failure::new(format!("the checkpoint is not to be believed: {error}")).reason("CHECKPOINT_REFUSED")
    })
}

impl LogCheck {
    /// Takes the records before `end` from a copy.
    pub fn archived(&mut self, dir: &Path, end: u64, mut progress: impl FnMut(u64)) -> Result<(), Failure> {
        self.copied = end;
        let read = archived(dir, self.size(), end, |index, content| {
            self.record(index, content, Stored::Nothing)?;
            if index.is_multiple_of(4_096) {
                progress(index);
            }
            Ok(())
        });
        read.map_err(|error: Stopped| match error {
            Stopped::Taking(failure) => failure,
            Stopped::Copy(error) => copy_failed(dir, &error),
            Stopped::Store(error) => Failure::new(error.to_string()),
        })
    }

    /// Notes whether the log of a directory continues such a head, by the nodes that are stored.
    pub fn older_stored(
        &mut self,
        old: &Checkpoint,
        edge: &Frontier,
        node: impl FnMut(NodeId) -> Result<Option<Hash>, Failure>,
    ) -> Result<(), Failure> {
        let unread = |error: ProofError<Failure>| match error {
            ProofError::Source(failure) => failure,
            ProofError::IndexOutsideTree { .. } | ProofError::SizesReversed { .. } | ProofError::MissingNode { .. } => {
                Failure::new(format!("the log does not verify: {error}")).reason("LOG_BROKEN")
            }
        };
        let proof = consistency_proof(old.size(), edge.size(), node).map_err(unread)?;
        match verify_consistency(old.size(), old.root(), edge.size(), &edge.root(), &proof) {
            Ok(()) => self.proved(old.clone()),
            Err(error) => {
                self.problem(format!("the log does not continue the head of {} records: {error}", old.size()))
            }
        }
        Ok(())
    }

    /// Counts a head among those that were compared.
    fn proved(&mut self, head: Checkpoint) {
        self.heads.push(head);
        self.heads.sort_by_key(Checkpoint::size);
    }
}

#[cfg(test)]
mod tests;
