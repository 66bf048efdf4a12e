//! The log in the forms that others read: each record once, and none of a log that is not the one it was.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use countersign::proto::*;
use countersign_audit::leaf_hash;
use serde_json::Value;

use super::tiles::copy;
use crate::harness::cli::Finished;
use crate::harness::flow::*;
use crate::harness::schema::Schema;
use crate::harness::{Options, PATIENCE, Server};

/// A server with an action of every outcome in its log.
async fn busy() -> Server {
    let server = Server::dev().await;
    act(&server).await;
    server.whole_log().await;
    server
}

/// Somebody answers no. After this, nobody asks for the same for a while.
async fn deny(server: &Server) {
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let pending = ask(&agent, &session, &export(6)).await.unwrap();
    vote(&server.person("dana").await, &pending.approval_id, VoteVerdict::Deny).await.unwrap();
}

/// Asks, votes, mints, redeems, completes, revokes, is refused and denied.
async fn act(server: &Server) {
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let gateway = server.person(REDEEMER).await;
    let session = open(&agent).await;
    decide(&agent, &session, &describe()).await.unwrap();
    decide(&agent, &session, &forbidden()).await.unwrap();
    decide(&agent, &session, &export(5)).await.unwrap();
    let pending = ask(&agent, &session, &export(5)).await.unwrap();
    assert!(vote(&server.person(OPERATOR).await, &pending.approval_id, VoteVerdict::Approve).await.is_err());
    for person in ["dana", "dave"] {
        vote(&server.person(person).await, &pending.approval_id, VoteVerdict::Approve).await.unwrap();
    }
    let minted = must_mint(&agent, &session, &export(5), &pending.approval_id).await;
    redeem(&gateway, &minted.token, &export(5)).await.unwrap();
    complete(&gateway, &minted.capability_id).await.unwrap();
    let minted = must_mint(&agent, &session, &describe(), "").await;
    revoke(&agent, &minted.capability_id).await.unwrap();
    end(&agent, &session).await.unwrap();
}

/// `countersign audit export`, as the auditor.
async fn run(server: &Server, args: &[&str]) -> Finished {
    server.cli(&server.token("aaron", None, &[]), &[&["audit", "export", "--format"], args].concat()).await
}

async fn done(server: &Server, args: &[&str]) -> Finished {
    let finished = run(server, args).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    finished
}

fn lines(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn indices(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event.pointer("/metadata/sequence").unwrap().as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_whole_run_fit_the_class_of_ocsf() {
    let server = busy().await;
    deny(&server).await;
    let schema = Schema::parse(include_str!("ocsf-api-activity.json"));
    let records = server.whole_log().await;
    let events = lines(&done(&server, &["ocsf"]).await.stdout);
    assert_eq!(events.len(), records.len());
    for (event, record) in events.iter().zip(&records) {
        assert_eq!(schema.faults(event), Vec::<String>::new(), "{event}");
        assert_eq!(event["metadata"]["sequence"], record.index);
        assert_eq!(event["metadata"]["event_code"], *record.kind);
        assert_eq!(event["type_uid"], 600_300 + event["activity_id"].as_u64().unwrap());
        let raw = event["raw_data"].as_str().unwrap().as_bytes();
        assert_eq!(raw, record.bytes, "what was hashed is there as it was");
        assert_eq!(event["unmapped"]["leaf_hash"], leaf_hash(raw).to_string());
    }
    let of = |kind: &'static str| events.iter().filter(move |event| event["metadata"]["event_code"] == kind);
    let denied = of("decision").find(|event| event["action_id"] == 2).unwrap();
    assert_eq!((&denied["status"], &denied["disposition"]), (&"Failure".into(), &"Blocked".into()));
    assert_eq!(denied["resources"][0]["uid"], "Dataset::\"payroll\"");
    assert_eq!(denied["actor"]["user"]["uid"], "Person::\"olivia\"");
    assert_eq!(denied["actor"]["app_uid"], "Agent::\"etl-bot\"");
    assert_eq!(of("refusal").next().unwrap()["api"]["operation"], "CastVote");
    let kinds: BTreeSet<&str> = events.iter().map(|e| e["metadata"]["event_code"].as_str().unwrap()).collect();
    assert!(kinds.len() >= 10, "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn opentelemetry_gets_one_log_record_for_each() {
    let server = busy().await;
    let records = server.whole_log().await;
    let requests = lines(&done(&server, &["otel"]).await.stdout);
    assert_eq!(requests.len(), records.len());
    for (request, record) in requests.iter().zip(&records) {
        let log = request.pointer("/resourceLogs/0/scopeLogs/0/logRecords/0").unwrap();
        assert_eq!(log["body"]["stringValue"].as_str().unwrap().as_bytes(), record.bytes);
        assert_eq!(log["timeUnixNano"], format!("{}000000", record.content["at"]));
        assert!((1..=24).contains(&log["severityNumber"].as_u64().unwrap()));
        let attributes = log["attributes"].as_array().unwrap();
        let index = attributes.iter().find(|one| one["key"] == "countersign.log.index").unwrap();
        assert_eq!(index["value"]["intValue"], record.index.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_on_where_it_was_cut_off_with_and_without_its_cursor() {
    let server = busy().await;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (file, cursor) = (at("log.ndjson"), at("log.ndjson.cursor"));
    let to = file.to_str().unwrap();
    for format in ["ocsf", "otel"] {
        done(&server, &[format, "--to", to, "--batch", "7"]).await;
        let whole = fs::read(&file).unwrap();
        let kept = fs::read(&cursor).unwrap();
        assert_eq!(String::from_utf8(whole.clone()).unwrap(), done(&server, &[format]).await.stdout);
        let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(n, _)| n + 1).collect();
        for cut in [1, ends[0] - 1, ends[0], ends[3], ends[3] + 1, ends[8] + 700, whole.len() - 1] {
            for with_cursor in [true, false] {
                fs::write(&file, &whole[..cut]).unwrap();
                if with_cursor && cut >= ends[0] {
                    fs::write(&cursor, &kept).unwrap();
                } else {
                    let _ = fs::remove_file(&cursor);
                }
                done(&server, &[format, "--to", to]).await;
                assert!(fs::read(&file).unwrap() == whole, "cut at {cut}, cursor {with_cursor}");
            }
        }
        // A file that was moved away goes on in the next one.
        fs::rename(&file, at("moved")).unwrap();
        act(&server).await;
        done(&server, &[format, "--to", to]).await;
        let both = [fs::read(at("moved")).unwrap(), fs::read(&file).unwrap()].concat();
        assert_eq!(String::from_utf8(both).unwrap(), done(&server, &[format]).await.stdout);
        fs::remove_file(&file).unwrap();
        fs::remove_file(&cursor).unwrap();
    }
    fs::write(&file, "my notes").unwrap();
    assert_eq!(run(&server, &["ocsf", "--to", to]).await.code, 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "my notes");
}

/// Starts an export and kills it after a while; whether it ended by itself before.
async fn killed_after(server: &Server, args: &[&str], after: Duration) -> bool {
    let mut command = tokio::process::Command::from(crate::harness::executable());
    command.args([&["audit", "export", "--format"], args].concat()).kill_on_drop(true);
    command.env("COUNTERSIGN_ENDPOINT", server.endpoint()).env("COUNTERSIGN_TOKEN", server.token("aaron", None, &[]));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let ended = tokio::time::timeout(after, child.wait()).await;
    let _ = child.kill().await;
    ended.is_ok_and(|status| status.unwrap().success())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_killed_at_any_point_has_neither_gap_nor_double() {
    let server = busy().await;
    act(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log.ndjson");
    let to = file.to_str().unwrap();
    let args = ["ocsf", "--to", to, "--batch", "1"];
    for round in 0..40 {
        if killed_after(&server, &args, Duration::from_millis(15 + round * 5)).await {
            break;
        }
    }
    done(&server, &args).await;
    let text = fs::read_to_string(&file).unwrap();
    let records = server.whole_log().await;
    assert_eq!(indices(&lines(&text)), (0..records.len() as u64).collect::<Vec<_>>());
}

/// A receiver of batches: what it was sent, by key, and what it answers, the first answer first; then 200.
#[derive(Debug, Default)]
struct Inbox {
    batches: Vec<(String, String)>,
    tokens: BTreeSet<String>,
    answers: Vec<u16>,
}

type Shared = Arc<Mutex<Inbox>>;

async fn take(State(inbox): State<Shared>, headers: HeaderMap, body: String) -> StatusCode {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    assert_eq!(text("content-type"), "application/x-ndjson");
    let mut inbox = inbox.lock().unwrap();
    inbox.tokens.insert(text("authorization"));
    inbox.batches.push((text("idempotency-key"), body));
    let answer = if inbox.answers.is_empty() { 200 } else { inbox.answers.remove(0) };
    StatusCode::from_u16(answer).unwrap()
}

async fn receiver(answers: &[u16]) -> (Shared, String) {
    let inbox = Shared::default();
    inbox.lock().unwrap().answers = answers.to_vec();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/audit", listener.local_addr().unwrap());
    let router = Router::new().route("/audit", post(take)).with_state(inbox.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (inbox, url)
}

/// What a receiver has that takes each key once.
fn received(inbox: &Shared) -> Vec<u64> {
    let mut seen = std::collections::BTreeMap::new();
    let mut events = Vec::new();
    for (key, body) in &inbox.lock().unwrap().batches {
        match seen.get(key) {
            None => {
                events.extend(lines(body));
                seen.insert(key.clone(), body.clone());
            }
            Some(before) => assert_eq!(before, body, "the same key, and another batch: {key}"),
        }
    }
    indices(&events)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_each_batch_once_by_its_key_whatever_it_answered() {
    let server = busy().await;
    let dir = tempfile::tempdir().unwrap();
    let cursor = dir.path().join("cursor");
    let cursor = cursor.to_str().unwrap();
    // It takes the first batch and loses its answer, takes the third and says no for good.
    let (inbox, url) = receiver(&[500, 429, 200, 200, 400]).await;
    let args = ["ocsf", "--to", &url, "--cursor", cursor, "--batch", "5"];
    let refused = run(&server, &args).await;
    assert!(refused.code == 1 && refused.stderr.contains("RECEIVER_REFUSED"), "{refused:?}");
    // Meanwhile the log grows: what was sent is sent again as it was.
    act(&server).await;
    done(&server, &[&args[..4], &[cursor, "--batch", "50"]].concat()).await;
    let records = server.whole_log().await;
    assert_eq!(received(&inbox), (0..records.len() as u64).collect::<Vec<_>>());
    let before = inbox.lock().unwrap().batches.len();
    assert!(inbox.lock().unwrap().batches[0].0.ends_with(":0-5\""), "{:?}", inbox.lock().unwrap().batches[0].0);
    done(&server, &args).await;
    assert_eq!(inbox.lock().unwrap().batches.len(), before, "nothing is left to send");
    assert_eq!(inbox.lock().unwrap().tokens, BTreeSet::from([String::new()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_to_nobody_in_the_open_and_not_without_a_cursor() {
    let server = Server::dev().await;
    let dir = tempfile::tempdir().unwrap();
    let cursor = dir.path().join("cursor");
    let cursor = ["--cursor", cursor.to_str().unwrap()];
    for to in ["http://collector.example.com/", "http://localhost:1/", "https://me:secret@collector.example.com/"] {
        let finished = run(&server, &[&["ocsf", "--to", to], &cursor[..]].concat()).await;
        assert_eq!(finished.code, 2, "{to}: {finished:?}");
    }
    assert_eq!(run(&server, &["ocsf", "--to", "http://127.0.0.1:1/"]).await.code, 2, "without a cursor");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_forked_or_went_back_is_not_exported() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    let start = |data: PathBuf| Server::start(Options { data_dir: Some(data), ..Options::default() });
    let mut server = start(at("one")).await;
    act(&server).await;
    server.terminate().await;
    copy(&at("one"), &at("back"));
    copy(&at("one"), &at("fork"));
    server.restart().await;
    act(&server).await;
    let file = at("log.ndjson");
    let to = file.to_str().unwrap();
    done(&server, &["ocsf", "--to", to]).await;
    let exported = fs::read(&file).unwrap();
    server.terminate().await;
    // One of its records is another; one has fewer records; of each, with the cursor and with the file alone.
    let back = start(at("back")).await;
    let fork = start(at("fork")).await;
    act(&fork).await;
    act(&fork).await;
    let kept = fs::read(at("log.ndjson.cursor")).unwrap();
    for other in [&back, &fork] {
        for with_cursor in [true, false] {
            if with_cursor {
                fs::write(at("log.ndjson.cursor"), &kept).unwrap();
            } else {
                fs::remove_file(at("log.ndjson.cursor")).unwrap();
            }
            let refused = run(other, &["ocsf", "--to", to, "--json"]).await;
            assert_eq!((refused.code, refused.json_error()["reason"].as_str()), (1, Some("LOG_BROKEN")), "{refused:?}");
            assert!(fs::read(&file).unwrap() == exported);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_follows() {
    let server = busy().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log.ndjson");
    let mut command = tokio::process::Command::from(crate::harness::executable());
    command
        .args(["audit", "export", "--format", "ocsf", "--follow", "--to", file.to_str().unwrap()])
        .kill_on_drop(true);
    command.env("COUNTERSIGN_ENDPOINT", server.endpoint()).env("COUNTERSIGN_TOKEN", server.token("aaron", None, &[]));
    let _following = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    for _ in 0..2 {
        let size = server.whole_log().await.len();
        let waiting = async {
            while fs::read_to_string(Path::new(&file)).map_or(0, |text| text.lines().count()) < size {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap();
        act(&server).await;
    }
}
