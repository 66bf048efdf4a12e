//! The beginning of the log is dropped: told, proved, and only when nobody needs it any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign::client::Client;
use countersign::proto::{GetCheckpointRequest, ListRecordsRequest, PruneLogRequest};
use countersign_core::Timestamp;
use futures::StreamExt as _;
use serde_json::Value;

use super::damage::{image, write_out};
use super::tiles::Published;
use crate::harness::cli::{self, Finished};
use crate::harness::flow::*;
use crate::harness::{Options, Server, fresh_id};

/// When everything begins: 2026-01-01T00:00:00Z.
const BEGIN: Timestamp = Timestamp::from_millis(1_767_225_600_000);
/// What is dropped is dropped by so many.
const STEP: u64 = 1_024;

/// A data directory whose log has more than a thousand records of one day.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A server on the data, so many days later.
    async fn server(&self, data: &str, days: u64) -> Server {
        let clock = BEGIN.plus(Duration::from_secs(days * 86_400));
        let data_dir = Some(self.dir.path().join(data));
        Server::start(Options { data_dir, clock: Some(clock), ..Options::default() }).await
    }

    /// Decides until the log has at least so many records.
    async fn fill(&self, server: &Server, size: u64) {
        let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
        let session = open(&agent).await;
        let left = size.saturating_sub(log_size(server).await);
        let operation = describe();
        let decided = futures::stream::iter(0..left).map(|_| decide(&agent, &session, &operation));
        let decided: Vec<_> = decided.buffer_unordered(32).collect().await;
        assert!(decided.iter().all(Result::is_ok), "{:?}", decided.iter().find(|decided| decided.is_err()));
        assert!(log_size(server).await >= size);
    }
}

async fn auditor(server: &Server) -> Client {
    server.person("aaron").await
}

async fn log_size(server: &Server) -> u64 {
    auditor(server).await.get_checkpoint(GetCheckpointRequest::default()).await.unwrap().tree_size
}

async fn as_auditor(server: &Server, args: &[&str]) -> Finished {
    server.cli(&server.token("aaron", None, &[]), &[args, &["--json"]].concat()).await
}

/// What a command answered that was done.
async fn told(server: &Server, args: &[&str]) -> Value {
    let finished = as_auditor(server, args).await;
    assert_eq!(finished.code, 0, "{args:?}: {finished:?}");
    finished.json()
}

/// Why a command was not done.
async fn refusal(server: &Server, args: &[&str]) -> Value {
    let finished = as_auditor(server, args).await;
    assert_ne!(finished.code, 0, "{args:?}: {finished:?}");
    finished.json_error()
}

/// What asks that everything before an index is dropped.
async fn asking(server: &Server, minimum_index: u64) -> PruneLogRequest {
    asking_of(&auditor(server).await, minimum_index).await
}

async fn asking_of(auditor: &Client, minimum_index: u64) -> PruneLogRequest {
    let tree_size = minimum_index;
    let request = GetCheckpointRequest { published: false, tree_size };
    let note = auditor.get_checkpoint(request).await.unwrap().note;
    let head = countersign_audit::SignedCheckpoint::parse(note.as_bytes()).unwrap();
    let root = head.unverified().root().as_bytes().to_vec();
    PruneLogRequest { minimum_index, root, archive: None, request_id: fresh_id() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_is_told_and_proved_and_read_from_its_copy() {
    let scene = Scene::new();
    let mut server = scene.server("data", 0).await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let early = must_mint(&agent, &session, &describe(), "").await.capability_id;
    scene.fill(&server, STEP + 50).await;
    let (old, copy, key) = (scene.at("old"), scene.at("copy"), format!("@{}", scene.at("data/keys/dev/log.pub")));
    for (name, size) in [("old", "500"), ("whole", "1070")] {
        let note = told(&server, &["audit", "checkpoint", "--size", size]).await["note"].as_str().unwrap().to_owned();
        fs::write(scene.at(name), note).unwrap();
    }
    // Too young to be dropped.
    let young = auditor(&server).await.prune_log(asking(&server, STEP).await).await;
    assert_eq!(refused(young).1, "PRUNING_REFUSED");
    server.terminate().await;

    let mut server = scene.server("data", 10).await;
    let before = ["--before", "2026-01-05", "--log-key", &key];
    let archive = [&["audit", "archive", "--to", &copy], &before[..]].concat();
    let prune = [&["audit", "prune", "--archive", &copy], &before[..]].concat();
    // There is no copy yet.
    assert_eq!(refusal(&server, &prune).await["reason"], "ARCHIVE_REFUSED");
    assert_eq!(told(&server, &archive).await["added"], STEP);
    assert_eq!(told(&server, &archive).await["added"], 0);
    let checked = cli::run(&["audit", "verify", "--tiles", &copy, "--log-key", &key, "--json"], &[]).await;
    assert_eq!(checked.json()["records"], STEP, "{checked:?}");
    assert_eq!(told(&server, &[&prune[..], &["--dry-run"]].concat()).await["dropped"], STEP);
    // Whoever may do much else here may not do this.
    let admin = server.cli(&server.token("alice", None, &[]), &[&prune[..], &["--json"]].concat()).await;
    assert_eq!(admin.json_error()["reason"], "ADMINISTRATION_DENIED");
    assert_eq!(told(&server, &["audit", "verify"]).await["minimum_index"], 0);
    assert_eq!(told(&server, &prune).await["minimum_index"], STEP);
    assert_eq!(told(&server, &prune).await["dropped"], 0);

    let read = auditor(&server).await.list_records(ListRecordsRequest { start: STEP - 1, ..Default::default() }).await;
    assert_eq!(refused(read).1, "RECORD_PRUNED");
    let listed = as_auditor(&server, &["audit", "list", "--limit", "1"]).await;
    assert_eq!(listed.json()["index"], STEP);
    assert!(listed.stderr.contains("the records before 1024 were dropped"), "{listed:?}");
    let found = told(&server, &["audit", "search", "--kind", "log_pruned"]).await;
    let says: Value = found["content"].clone();
    // What nobody finds any more may have been there.
    for args in [&["audit", "search", "--capability", &early][..], &["audit", "questions", "break-glass"]] {
        let asked = as_auditor(&server, args).await;
        assert!(asked.code == 0 && asked.stderr.contains("the records before 1024 were dropped"), "{asked:?}");
    }
    assert_eq!((&says["from"], &says["minimum_index"]), (&0.into(), &STEP.into()), "{found}");
    assert_eq!(says["archive"], copy.as_str());
    let heads = ["--since", &old, "--since", &scene.at("whole")];
    for more in [&[][..], &["--archive", &copy]] {
        let verify = [&["audit", "verify", "--log-key", &key], &heads[..], more].concat();
        let report = told(&server, &verify).await;
        let gap = more.is_empty();
        assert_eq!(report["minimum_index"], if gap { STEP } else { 0 }, "{report}");
        assert!(report["dropped_by_record"].is_u64(), "{report}");
        assert_eq!(report["heads"].as_array().unwrap().len(), 3, "{report}");
    }
    let proved = told(&server, &["audit", "prove", "7"]).await;
    assert_eq!((&proved["ok"], &proved["record"]), (&true.into(), &Value::Null));

    // Of what was dropped, evidence is what the copy has, proved in the log as it is now.
    let out = scene.at("evidence");
    let export = ["evidence", "export", &early, "--out", &out];
    let error = as_auditor(&server, &export).await;
    assert!(error.code != 0 && error.stderr.contains("were dropped"), "{error:?}");
    told(&server, &[&export[..], &["--archive", &copy]].concat()).await;
    let trust = scene.at("trust");
    fs::write(&trust, format!("log {}\n", fs::read_to_string(scene.at("data/keys/dev/log.pub")).unwrap().trim()))
        .unwrap();
    let verified = cli::run(&["evidence", "verify", &out, "--trust", &trust, "--json"], &[]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let report = ["audit", "report", "--from", "2026-01-01", "--to", "2026-01-02"];
    assert_eq!(told(&server, &report).await["minimum_index"], STEP);
    let whole = told(&server, &[&report[..], &["--archive", &copy]].concat()).await;
    assert_eq!(whole["minimum_index"], 0);

    // All of it again, without a server, and after a start.
    server.terminate().await;
    let data = scene.at("data");
    for more in [&[][..], &["--archive", &copy]] {
        let verify = [&["audit", "verify", "--data-dir", &data, "--json"], &heads[..], more].concat();
        let finished = cli::run(&verify, &[]).await;
        assert_eq!(finished.code, 0, "{finished:?}");
        assert_eq!(finished.json()["heads"].as_array().unwrap().len(), 3, "{finished:?}");
    }
    // A copy that was changed is no copy.
    let entries = Path::new(&copy).join("tile/entries/002");
    let mut bytes = fs::read(&entries).unwrap();
    let place = bytes.windows(5).position(|text| text == b"ALLOW").unwrap();
    bytes[place..place + 5].copy_from_slice(b"AL1OW");
    fs::write(&entries, bytes).unwrap();
    let verify = ["audit", "verify", "--data-dir", &data, "--archive", &copy, "--json"];
    assert_eq!(cli::run(&verify, &[]).await.json_error()["reason"], "LOG_BROKEN");
    let server = scene.server("data", 11).await;
    let other = scene.at("other.evidence");
    let export = ["evidence", "export", &early, "--out", &other, "--archive", &copy];
    for believing in [&[&report[..], &["--archive", &copy]].concat()[..], &export] {
        assert_eq!(refusal(&server, believing).await["reason"], "ARCHIVE_REFUSED");
    }
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    must_mint(&agent, &open(&agent).await, &describe(), "").await;
    assert_eq!(told(&server, &["audit", "verify"]).await["minimum_index"], STEP);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_not_dropped() {
    let scene = Scene::new();
    let mut server = scene.server("data", 0).await;
    scene.fill(&server, STEP + 10).await;
    server.terminate().await;
    let server = scene.server("data", 10).await;
    let auditor = auditor(&server).await;
    let good = asking(&server, STEP).await;
    // Nothing is that old, so nothing is to be copied or dropped.
    let copied = ["audit", "archive", "--before", "2025-01-01", "--to", &scene.at("none")];
    assert_eq!(told(&server, &copied).await["added"], 0);
    let dropped = ["audit", "prune", "--before", "2025-01-01", "--without-copy"];
    assert_eq!(told(&server, &dropped).await["dropped"], 0);
    let attempt = async |change: &dyn Fn(&mut PruneLogRequest)| {
        let mut request = PruneLogRequest { request_id: fresh_id(), ..good.clone() };
        change(&mut request);
        refused(auditor.prune_log(request).await).1
    };
    assert_eq!(attempt(&|request| request.root[3] ^= 1).await, "PRUNING_REFUSED");
    assert_eq!(attempt(&|request| request.root.clear()).await, "INVALID_FIELD");
    assert_eq!(attempt(&|request| request.minimum_index = 0).await, "INVALID_FIELD");
    assert_eq!(attempt(&|request| request.minimum_index = STEP + 1).await, "INVALID_FIELD");
    assert_eq!(attempt(&|request| request.minimum_index = 2 * STEP).await, "NOT_IN_LOG");
    assert_eq!(attempt(&|request| request.archive = Some(String::new())).await, "INVALID_FIELD");
    assert_eq!(attempt(&|request| request.archive = Some("x".repeat(600))).await, "INVALID_FIELD");
    assert_eq!(attempt(&|request| request.request_id = "no id".to_owned()).await, "INVALID_FIELD");
    assert_eq!(auditor.get_checkpoint(GetCheckpointRequest::default()).await.unwrap().minimum_index, 0);
    // Asked twice under one id, it is done once.
    assert!(!auditor.prune_log(good.clone()).await.unwrap().replayed);
    assert!(auditor.prune_log(good.clone()).await.unwrap().replayed);
    assert_eq!(attempt(&|_| {}).await, "INVALID_FIELD");
}

/// The bundles of records before one, taken away.
fn without_entries(copy: &str, bundles: u64) {
    for number in 0..bundles {
        fs::remove_file(Path::new(copy).join(format!("tile/entries/{number:03}"))).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tiles_without_their_first_records_verify_only_if_a_record_tells_of_it() {
    let scene = Scene::new();
    let mut server = scene.server("data", 0).await;
    scene.fill(&server, STEP + 10).await;
    server.terminate().await;
    let mut server = scene.server("data", 10).await;
    let (copy, key) = (scene.at("copy"), format!("@{}", scene.at("data/keys/dev/log.pub")));
    let archive = ["audit", "archive", "--to", &copy, "--before", "2026-02-01"];
    told(&server, &archive).await;
    let keep = image(Path::new(&copy));
    let verify =
        async |dir: &str| cli::run(&["audit", "verify", "--tiles", dir, "--log-key", &key, "--json"], &[]).await;
    without_entries(&copy, 2);
    let untold = verify(&copy).await;
    assert!(untold.stdout.contains("no record says that they were dropped"), "{untold:?}");
    assert_eq!(untold.json_error()["reason"], "LOG_BROKEN");
    let damaged = refusal(&server, &["audit", "prune", "--before", "2026-01-05", "--archive", &copy]).await;
    assert_eq!(damaged["reason"], "LOG_BROKEN");
    fs::remove_dir_all(&copy).unwrap();
    write_out(&keep, Path::new(&copy));
    told(&server, &["audit", "prune", "--before", "2026-01-05", "--archive", &copy]).await;
    scene.fill(&server, 2 * STEP + 5).await;
    assert_eq!(told(&server, &archive).await["added"], STEP);
    server.terminate().await;
    assert_eq!(verify(&copy).await.json()["minimum_index"], 0);
    without_entries(&copy, 4);
    let told = verify(&copy).await;
    assert_eq!((told.code, &told.json()["minimum_index"]), (0, &STEP.into()), "{told:?}");
    fs::remove_file(PathBuf::from(&copy).join("tile/entries/004")).unwrap();
    assert_eq!(verify(&copy).await.json_error()["reason"], "LOG_BROKEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_records_are_dropped_leaves_all_of_them_or_the_record_that_tells_of_it() {
    let scene = Scene::new();
    let mut server = scene.server("data", 0).await;
    scene.fill(&server, STEP + 10).await;
    server.terminate().await;
    let data = image(&scene.dir.path().join("data"));
    for round in 0..6 {
        let name = format!("data{round}");
        write_out(&data, &scene.dir.path().join(&name));
        let mut server = scene.server(&name, 10).await;
        let request = asking(&server, STEP).await;
        let asker = auditor(&server).await;
        let asked = tokio::spawn(async move { asker.prune_log(request).await });
        // Wherever it is after so many other calls: every outcome is right, and each is checked.
        for _ in 0..round {
            log_size(&server).await;
        }
        server.kill().await;
        let answered = asked.await.unwrap().is_ok();
        server.restart().await;
        let minimum =
            auditor(&server).await.get_checkpoint(GetCheckpointRequest::default()).await.unwrap().minimum_index;
        let told = as_auditor(&server, &["audit", "search", "--kind", "log_pruned"]).await;
        assert_eq!((minimum == STEP, minimum == 0), (!told.stdout.is_empty(), told.stdout.is_empty()), "{told:?}");
        assert!(minimum == STEP || !answered, "what was answered is not so");
        server.terminate().await;
        server.log_verifies_offline().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_dropped_that_is_to_be_published_and_was_not() {
    let published = Published::new();
    // What lies there is of no log, so nothing is ever published.
    fs::create_dir_all(published.tiles()).unwrap();
    fs::write(published.tiles().join("checkpoint"), "not a checkpoint").unwrap();
    let server = published.start("data", "keep_days = 1").await;
    let agent = published.agent(&server).await;
    let session = open(&agent).await;
    let (left, operation) = (STEP + 10, describe());
    let decided = futures::stream::iter(0..left).map(|_| decide(&agent, &session, &operation));
    assert!(decided.buffer_unordered(32).all(async |decided| decided.is_ok()).await);
    let auditor = server.client_of(&published.acme.issuer.token("aaron")).await;
    let refused = auditor.prune_log(asking_of(&auditor, STEP).await).await.unwrap_err();
    assert!(refused.to_string().contains("0 are published yet"), "{refused:?}");
}
