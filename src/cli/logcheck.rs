//! Checking the audit log record by record, wherever the records come from: a server or a directory.

use std::collections::BTreeMap;
use std::path::Path;

use countersign::client::Client;
use countersign::proto::{
    GetCheckpointRequest, GetConsistencyProofRequest, GetInclusionProofRequest, ListRecordsRequest,
};
use countersign::tlog::archived;
use countersign_audit::{
    Checkpoint, Frontier, FsckError, Hash, LogVerifier, NodeId, NoteVerifier, ProofError, SignedCheckpoint, check_node,
    consistency_proof, frontier_before, verify_consistency,
};
use countersign_core::visible::Visible;
use countersign_engine::Prune;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::output::{BAD, FAINT, GOOD, STRONG, WARN, paint};
use super::recorded::{Stopped, copy_failed};
use super::text::Lines;

/// How many faults are told one by one.
const TOLD: usize = 20;
/// How many records are asked for at once.
const PAGE: i32 = 500;
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
    /// The roots at the places where a log can be pruned, from the minimum on; none if there is no need.
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
        let mut check = Self { verifier, heads, minimum, roots, told, faults: Vec::new(), count: 0 };
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
        if self.minimum > 0 {
            self.pruned(index, content);
        }
        Ok(())
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
        if self.minimum > 0 && size.is_multiple_of(Prune::STEP) {
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
        if self.minimum > 0 && self.told.is_none() {
            let minimum = self.minimum;
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
        if let Some(Told { record, minimum_index: _, archive }) = &self.told {
            let copy = archive.as_ref().map(|archive| format!("; a copy is said to be at {}", Visible::new(archive)));
            let copy = copy.unwrap_or_default();
            text.field("dropped", format!("those before {}, as record {record} says{copy}", self.minimum_index));
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

/// The server's head, under the key that was given, else the server's own.
pub async fn server_head(client: &Client, key: Option<NoteVerifier>) -> Result<(Checkpoint, NoteVerifier), Failure> {
    let answer = client.get_checkpoint(GetCheckpointRequest::default()).await?;
    let key = match key {
        Some(key) => key,
        None => answer.verifier_key.parse().map_err(|error| Failure::new(format!("the server's log key: {error}")))?,
    };
    Ok((head(&answer.note, &key)?, key))
}

/// Checks a server's log up to its head, and that it continues the older heads in `notes`. Records that were dropped are read from
/// `archive`, if there is one.
pub async fn check_server(
    client: &Client,
    key: Option<NoteVerifier>,
    notes: &[String],
    archive: Option<&Path>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, Failure> {
    let key_unproven = key.is_none();
    let minimum = client.get_checkpoint(GetCheckpointRequest::default()).await?.minimum_index;
    let (checkpoint, key) = server_head(client, key).await?;
    let size = checkpoint.size();
    let mut heads = vec![checkpoint.clone()];
    for note in notes {
        heads.push(head(note, &key)?);
    }
    let mut check = match archive {
        Some(dir) => {
            let mut check = LogCheck::new(heads);
            check.archived(dir, minimum, |done| progress(done, size))?;
            check
        }
        None if minimum == 0 => LogCheck::new(heads),
        None => {
            let (older, newer): (Vec<_>, Vec<_>) = heads.into_iter().partition(|head| head.size() < minimum);
            let mut check = LogCheck::after(before(client, minimum, size).await?, newer);
            for old in older {
                check.older(client, &old, &checkpoint).await?;
            }
            check
        }
    };
    while check.size() < size {
        let request = ListRecordsRequest { start: check.size(), page_size: PAGE, page_token: String::new() };
        let page = client.list_records(request).await?;
        if page.records.is_empty() {
            break; // the head then covers records that are not there, which is a fault
        }
        for record in page.records {
            if check.size() == size {
                break; // appended after the head was signed
            }
            check.record(record.index, &record.content, Stored::Leaf(record.leaf_hash.parse().ok()))?;
        }
        progress(check.size(), size);
    }
    Ok(check.finish(key.name(), key_unproven))
}

/// The right edge of the log before the first record that a server has, from the proof that this one is in it.
async fn before(client: &Client, minimum: u64, size: u64) -> Result<Frontier, Failure> {
    let request = GetInclusionProofRequest { index: minimum, tree_size: size };
    let hashes = hashes(&client.get_inclusion_proof(request).await?.hashes)?;
    frontier_before(minimum, size, &hashes).map_err(|error| malformed(&error))
}

fn hashes(bytes: &[Vec<u8>]) -> Result<Vec<Hash>, Failure> {
    bytes.iter().map(|hash| Hash::try_from(hash.as_slice()).map_err(|error| malformed(&error))).collect()
}

fn malformed(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("the server's proof is malformed: {error}")).reason("LOG_BROKEN")
}

impl LogCheck {
    /// Takes the records before `end` from a copy.
    pub fn archived(&mut self, dir: &Path, end: u64, mut progress: impl FnMut(u64)) -> Result<(), Failure> {
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

    /// Notes whether the log continues a head of fewer records than were dropped, by the server's proof of that.
    async fn older(&mut self, client: &Client, old: &Checkpoint, head: &Checkpoint) -> Result<(), Failure> {
        let mut proof = Vec::new();
        if old.size() > 0 {
            let request = GetConsistencyProofRequest { old_tree_size: old.size(), new_tree_size: head.size() };
            proof = hashes(&client.get_consistency_proof(request).await?.hashes)?;
        }
        match verify_consistency(old.size(), old.root(), head.size(), head.root(), &proof) {
            Ok(()) => self.proved(old.clone()),
            Err(error) => {
                self.problem(format!("the log does not continue the head of {} records: {error}", old.size()))
            }
        }
        Ok(())
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
mod tests {
    use countersign_audit::{Frontier, NoteSigner, leaf_hash};

    use super::*;

    fn log(records: &[&str]) -> Frontier {
        let mut frontier = Frontier::empty();
        records.iter().for_each(|record| drop(frontier.append(leaf_hash(record.as_bytes()))));
        frontier
    }

    fn head_of(records: &[&str]) -> Checkpoint {
        let frontier = log(records);
        Checkpoint::new("example/log", frontier.size(), frontier.root()).unwrap()
    }

    fn check(heads: Vec<Checkpoint>, records: &[&str], stored: &[&str]) -> Report {
        let mut check = LogCheck::new(heads);
        for ((index, record), stored) in (0..).zip(records).zip(stored) {
            check.record(index, record.as_bytes(), Stored::Leaf(Some(leaf_hash(stored.as_bytes())))).unwrap();
        }
        check.finish("example/log", false)
    }

    #[test]
    fn a_log_that_is_whole_verifies_against_old_and_new_heads() {
        let records = ["a", "b", "c"];
        let report = check(vec![head_of(&records), head_of(&["a"])], &records, &records);
        assert!(report.ok(), "{report:?}");
        assert_eq!(
            report.to_json(),
            json!({
                "ok": true, "origin": "example/log", "records": 3, "root": log(&records).root(), "heads": [1, 3],
                "faults": [], "fault_count": 0, "minimum_index": 0, "dropped_by_record": null, "key_unproven": false,
            })
        );
        assert!(report.into_result().is_ok());
    }

    #[test]
    fn a_changed_byte_is_found_and_placed() {
        let report = check(vec![head_of(&["a", "b", "c"])], &["a", "B", "c"], &["a", "b", "c"]);
        assert_eq!(report.count, 2);
        assert!(report.faults[0].contains("record 1"), "{report:?}");
        let failure = report.into_result().unwrap_err();
        assert!(failure.to_human().contains("record 1"));
    }

    #[test]
    fn history_that_was_rewritten_with_its_hashes_shows_against_an_older_head() {
        let rewritten = ["x", "b", "c"];
        let report = check(vec![head_of(&rewritten), head_of(&["a", "b"])], &rewritten, &rewritten);
        assert_eq!(report.count, 1, "{report:?}");
        assert!(report.faults[0].contains("first 2 records"), "{report:?}");
    }

    #[test]
    fn a_lost_end_is_found() {
        let report = check(vec![head_of(&["a", "b", "c"])], &["a", "b"], &["a", "b"]);
        assert!(report.faults[0].contains("record 2 is the first one missing"), "{report:?}");
    }

    #[test]
    fn a_gap_ends_the_check() {
        let mut check = LogCheck::new(vec![]);
        let failure = check.record(1, b"b", Stored::Leaf(None)).unwrap_err();
        assert!(failure.to_human().contains("record 0 is missing"));
    }

    #[test]
    fn damaged_nodes_of_a_directory_are_found() {
        let mut check = LogCheck::new(vec![]);
        let mut look = |id: NodeId| Ok(Some(if id.level == 0 { leaf_hash(b"a") } else { leaf_hash(b"damaged") }));
        check.record(0, b"a", Stored::Nodes(&mut look)).unwrap();
        check.record(1, b"a", Stored::Nodes(&mut look)).unwrap();
        assert_eq!(check.finish("x", false).count, 1);
    }

    #[test]
    fn a_head_is_believed_only_under_the_right_key() {
        let signer = NoteSigner::from_seed("example/log", &[1; 32]).unwrap();
        let other = NoteSigner::from_seed("example/log", &[2; 32]).unwrap();
        let note = SignedCheckpoint::sign(head_of(&["a"]), &[&signer]).unwrap().to_string();
        assert_eq!(head(&note, signer.verifier()).unwrap().size(), 1);
        assert!(head(&note, other.verifier()).is_err());
    }
}
