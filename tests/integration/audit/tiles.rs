//! The log as tiles that any static file server serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign::client::Client;
use countersign_audit::{EntryForm, SignedCheckpoint, tiles_between};

use crate::harness::cli::{self, Finished};
use crate::harness::flow::*;
use crate::harness::production::{self, Tenant};
use crate::harness::{Options, PATIENCE, Server};

/// A production server whose log is published, and what it is made of.
pub struct Published {
    pub acme: Tenant,
    pub dir: tempfile::TempDir,
}

impl Published {
    pub fn new() -> Self {
        Self { acme: Tenant::new("acme"), dir: tempfile::tempdir().unwrap() }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The tiles of the one tenant.
    pub fn tiles(&self) -> PathBuf {
        self.at("tiles/acme")
    }

    /// Starts on a data directory; `more` is added to `[log]`.
    pub async fn start(&self, data: &str, more: &str) -> Server {
        let tiles = self.at("tiles");
        let log = format!("[log]\ntiles = {tiles:?}\ncheckpoint_every_seconds = 1\n{more}\n");
        let options = production::options(self.dir.path(), &[&self.acme], &log);
        Server::start(Options { data_dir: Some(self.at(data)), ..options }).await
    }

    pub async fn agent(&self, server: &Server) -> Client {
        server.client_of(&self.acme.issuer.token(AGENT)).await
    }

    /// The log's key.
    pub fn key(&self, data: &str) -> String {
        format!("@{}", self.at(data).join("keys/acme/log.pub").display())
    }

    pub async fn verify(&self, data: &str, more: &[&str]) -> Finished {
        let (tiles, key) = (self.tiles(), self.key(data));
        let args = ["audit", "verify", "--tiles", tiles.to_str().unwrap(), "--log-key", &key, "--json"];
        cli::run(&[&args[..], more].concat(), &[]).await
    }

    /// What is published now.
    pub fn checkpoint(&self) -> Option<SignedCheckpoint> {
        let note = fs::read(self.tiles().join("checkpoint")).ok()?;
        Some(SignedCheckpoint::parse(&note).unwrap())
    }

    pub fn size(&self) -> u64 {
        self.checkpoint().map_or(0, |note| note.unverified().size())
    }

    /// Waits until at least so much is published.
    pub async fn until(&self, size: u64, server: &Server) {
        let waiting = async {
            while self.size() < size {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("{} is published, not {size}: {}", self.size(), server.logs()));
    }

    /// How many records the log has.
    pub async fn log_size(&self, server: &Server) -> u64 {
        let aaron = server.client_of(&self.acme.issuer.token("aaron")).await;
        aaron.get_checkpoint(countersign::proto::GetCheckpointRequest::default()).await.unwrap().tree_size
    }
}

/// A copy of a directory, as whoever makes backups with their own means has it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

async fn work(agent: &Client, session: &str, rows: std::ops::Range<i64>) {
    for _ in rows {
        decide(agent, session, &describe()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_log_is_checked_from_its_tiles_alone_and_every_damage_is_found() {
    let published = Published::new();
    let mut server = published.start("data", "").await;
    let agent = published.agent(&server).await;
    let session = open(&agent).await;
    work(&agent, &session, 0..20).await;
    published.until(20, &server).await;
    work(&agent, &session, 20..300).await;
    let size = published.log_size(&server).await;
    published.until(size, &server).await;
    server.terminate().await;

    let finished = published.verify("data", &[]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    assert_eq!(
        (finished.json()["ok"].clone(), finished.json()["records"].as_u64()),
        (true.into(), Some(published.size()))
    );
    // What was there of a tile before it was full is gone.
    assert!(!published.tiles().join("tile/0/000.p").exists());
    assert!(!published.tiles().join("tile/entries/000.p").exists());

    let mut files = vec!["checkpoint".to_owned()];
    for tile in tiles_between(0, published.size()) {
        files.push(tile.path());
        if tile.level() == 0 {
            files.push(tile.entries_path(EntryForm::Entries));
        }
    }
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let path = published.tiles().join(&file);
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let finished = published.verify("data", &[]).await;
            assert_eq!(finished.code, 1, "{file} at {at}: {finished:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(published.verify("data", &[]).await.code, 1, "without {file}");
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(published.verify("data", &[]).await.code, 0);
    // An older head, kept elsewhere, is continued; another key's is none.
    let note = published.at("kept");
    fs::copy(published.tiles().join("checkpoint"), &note).unwrap();
    assert_eq!(published.verify("data", &["--since", note.to_str().unwrap()]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_set_back_never_replaces_what_was_published() {
    let published = Published::new();
    let mut server = published.start("data", "").await;
    let session = open(&published.agent(&server).await).await;
    work(&published.agent(&server).await, &session, 0..5).await;
    server.terminate().await;
    copy(&published.at("data"), &published.at("old"));

    let mut server = published.start("data", "").await;
    work(&published.agent(&server).await, &session, 5..20).await;
    published.until(published.log_size(&server).await, &server).await;
    server.terminate().await;
    let before = published.checkpoint().unwrap();

    let mut server = published.start("old", "").await;
    server.log_line(|line| line.contains("the log is not published") && line.contains("older copy")).await;
    // Nor once it is longer: its history is another one.
    work(&published.agent(&server).await, &session, 100..130).await;
    server.log_line(|line| line.contains("the log is not published") && line.contains("history")).await;
    assert!(published.log_size(&server).await > before.unverified().size());
    server.terminate().await;
    assert_eq!(published.checkpoint().unwrap(), before);
    assert_eq!(published.verify("data", &[]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_while_it_publishes_goes_on_where_it_was() {
    let published = Published::new();
    let mut server = published.start("data", "").await;
    let session = open(&published.agent(&server).await).await;
    for round in 0..3 {
        work(&published.agent(&server).await, &session, round * 100..(round + 1) * 100).await;
        server.kill().await;
        let known = published.size();
        if known > 0 {
            assert_eq!(published.verify("data", &[]).await.code, 0, "what is published is whole at every moment");
        }
        server = published.start("data", "").await;
        let size = published.log_size(&server).await;
        published.until(size, &server).await;
        assert!(published.size() >= known);
    }
    let finished = published.verify("data", &[]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
}
