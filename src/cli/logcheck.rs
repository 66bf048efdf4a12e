//! Checking the audit log record by record, wherever the records come from: a server or a directory.

use countersign::client::Client;
use countersign::proto::{GetCheckpointRequest, ListRecordsRequest};
use countersign_audit::{Checkpoint, FsckError, Hash, LogVerifier, NodeId, NoteVerifier, SignedCheckpoint, check_node};
use serde_json::{Value, json};

use super::Failure;
use super::output::{BAD, FAINT, GOOD, STRONG, WARN, paint};
use super::text::Lines;

/// How many faults are told one by one.
const TOLD: usize = 20;
/// How many records are asked for at once.
const PAGE: i32 = 500;

/// What is stored beside a record: the leaf hash alone, as a server sends it, or every node of the tree.
pub enum Stored<'a> {
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
    faults: Vec<String>,
    count: usize,
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
    /// Whether the key of the heads came from whoever is being checked.
    pub key_unproven: bool,
}

impl LogCheck {
    /// Starts at the first record. The signatures of `heads` must have been checked.
    pub fn new(mut heads: Vec<Checkpoint>) -> Self {
        heads.sort_by_key(Checkpoint::size);
        let mut check = Self { verifier: LogVerifier::new(), heads, faults: Vec::new(), count: 0 };
        check.compare();
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
        Ok(())
    }

    /// Ends the check.
    pub fn finish(mut self, origin: &str, key_unproven: bool) -> Report {
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
            "key_unproven": self.key_unproven,
        })
    }

    /// For people.
    pub fn to_human(&self) -> String {
        let mut text = Lines::default();
        let verdict = if self.ok() { paint(GOOD.bold(), "ok") } else { paint(BAD, "BROKEN") };
        text.line(format!("{verdict} {}", paint(STRONG, &self.origin)));
        text.field("records", self.records).field("root", self.root);
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

/// Checks a server's log up to its head, and that it continues the older heads in `notes`.
pub async fn check_server(
    client: &Client,
    key: Option<NoteVerifier>,
    notes: &[String],
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, Failure> {
    let key_unproven = key.is_none();
    let (checkpoint, key) = server_head(client, key).await?;
    let size = checkpoint.size();
    let mut heads = vec![checkpoint];
    for note in notes {
        heads.push(head(note, &key)?);
    }
    let mut check = LogCheck::new(heads);
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
                "faults": [], "fault_count": 0, "key_unproven": false,
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
