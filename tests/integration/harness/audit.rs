//! The audit log, as an auditor reads it, and as a stranger checks it.

use std::sync::LazyLock;
use std::time::Duration;

use countersign::client::Client;
use countersign::proto::ListRecordsRequest;
use serde_json::Value;

use super::PATIENCE;
use super::cli::{self, Finished};
use super::schema::Schema;
use super::server::Server;

/// What records look like. Whichever test reads the log holds every record in it to this.
pub static RECORDS: LazyLock<Schema> =
    LazyLock::new(|| Schema::closed(include_str!("../../../docs/records.schema.json")));

/// The auditor of the example bundle.
pub const AUDITOR: &str = "aaron";

/// A record.
#[derive(Debug, Clone)]
pub struct AuditRecord {
    /// Its index.
    pub index: u64,
    /// What it is about, such as `decision`.
    pub kind: String,
    /// What it says.
    pub content: Value,
    /// The bytes that are hashed.
    pub bytes: Vec<u8>,
    /// The leaf hash that the server tells.
    pub leaf_hash: String,
}

impl AuditRecord {
    /// A text in it, by JSON pointer; empty if it is not there.
    pub fn text(&self, pointer: &str) -> &str {
        self.content.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Server {
    /// As [`records_of`] the example bundle's auditor.
    pub async fn audit_records(&self) -> Vec<AuditRecord> {
        records_of(&self.person(AUDITOR).await).await
    }

    /// All records, also of what was read. From then on the log stands still for the auditor: their first read since the server started is
    /// recorded, and those that follow are counted for longer than a test takes.
    pub async fn whole_log(&self) -> Vec<AuditRecord> {
        let (auditor, began) = (self.person(AUDITOR).await, self.began().millis());
        let recorded = async {
            loop {
                let records = whole_log_of(&auditor).await;
                let own =
                    |record: &&AuditRecord| record.kind == "access" && record.text("/caller/entity/id") == AUDITOR;
                let mut reads = records.iter().filter(own).filter(|one| one.text("/reserved_action") == "readLog");
                if reads.any(|one| one.content["at"].as_i64() >= Some(began)) {
                    return records;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, recorded).await.expect("the auditor's read is recorded")
    }

    /// Of [`Self::audit_records`], the ones after the first `from`.
    pub async fn audit_since(&self, from: usize) -> Vec<AuditRecord> {
        self.audit_records().await.split_off(from)
    }

    /// How many of those there are of each kind, as `kind` to count.
    pub async fn audit_kinds_since(&self, from: usize) -> std::collections::BTreeMap<String, usize> {
        let mut kinds = std::collections::BTreeMap::new();
        for record in self.audit_since(from).await {
            *kinds.entry(record.kind).or_default() += 1;
        }
        kinds
    }

    /// `countersign audit verify --data-dir`; the server must have ended.
    pub async fn verify_log_offline(&self) -> Finished {
        cli::run(&["audit", "verify", "--data-dir", self.data_dir().to_str().unwrap()], &[]).await
    }

    /// As [`Self::verify_log_offline`], and nothing else is accepted than a log without a flaw.
    pub async fn log_verifies_offline(&self) {
        let finished = self.verify_log_offline().await;
        assert_eq!(finished.code, 0, "the log does not verify: {finished:?}");
    }
}

/// All records that this client may read, but those that say that something was read: when a server writes them depends on
/// when it was asked.
pub async fn records_of(client: &Client) -> Vec<AuditRecord> {
    let mut records = whole_log_of(client).await;
    records.retain(|record| record.kind != "access");
    records
}

/// All records that this client may read.
pub async fn whole_log_of(client: &Client) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    let mut request = ListRecordsRequest { page_size: 1_000, ..ListRecordsRequest::default() };
    loop {
        let page = client.list_records(request.clone()).await.unwrap();
        for record in &page.records {
            let content = serde_json::from_slice(&record.content).unwrap();
            assert_eq!(RECORDS.faults(&content), Vec::<String>::new(), "docs/records.schema.json: {content}");
        }
        records.extend(page.records.into_iter().map(|record| AuditRecord {
            index: record.index,
            kind: record.kind,
            content: serde_json::from_slice(&record.content).unwrap(),
            bytes: record.content,
            leaf_hash: record.leaf_hash,
        }));
        if page.next_page_token.is_empty() {
            return records;
        }
        request.page_token = page.next_page_token;
    }
}
