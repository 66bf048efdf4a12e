//! Webhooks: signed, in order, and there after everything.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::receiver::sink;
use super::*;
use crate::harness::seconds;

fn kinds(told: &[Received]) -> Vec<String> {
    told.iter().map(Received::kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told_in_order_and_signed_by_both_keys() {
    let (dir, receiver) = (tempfile::tempdir().unwrap(), Receiver::new(Behaviour::Take).await);
    let ((old, old_file), (new, new_file)) = (key_file(dir.path(), "old.key"), key_file(dir.path(), "new.key"));
    let scene = Scene::new(dir, &receiver.sink("hook", &[&old_file, &new_file], "")).await;
    let approval = scene.approved(5).await;
    let told = receiver.told(&approval, 4).await;
    assert_eq!(kinds(&told), APPROVED);
    for one in &told {
        assert!(one.is_signed_by(&old) && one.is_signed_by(&new) && !one.is_signed_by(&[7; 32]), "{one:?}");
        assert_eq!(one.header("content-type"), "application/cloudevents+json");
        let event = one.event();
        assert_eq!((&event["specversion"], &event["source"]), (&json!("1.0"), &json!("countersign.example.com/acme")));
        assert_eq!(event["id"], one.header("webhook-id"));
        assert_eq!(event["data"]["principal"], json!({"type": "Agent", "id": "etl-bot"}));
        let sent: u64 = one.header("webhook-timestamp").parse().unwrap();
        assert!(sent.abs_diff(seconds()) < 120);
        // Nothing of the input, and nobody's words.
        for words in ["ours-reports", "customers", "monthly report", "a test"] {
            assert!(!one.body.contains(words), "{words}: {}", one.body);
        }
    }
    let last = told.last().unwrap().event();
    assert_eq!((&last["data"]["state"], &last["data"]["by"]["id"]), (&json!("approved"), &json!("dave")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_tells_afterwards_what_it_could_not_before() {
    let (dir, receiver) = (tempfile::tempdir().unwrap(), Receiver::new(Behaviour::Answer(500)).await);
    let (key, file) = key_file(dir.path(), "hook.key");
    let mut scene = Scene::new(dir, &receiver.sink("hook", &[&file], "")).await;
    let approval = scene.approved(5).await;
    receiver.tried().await;
    scene.server.kill().await;
    receiver.behave(Behaviour::Take);
    scene.server.restart().await;
    let told = receiver.told(&approval, 4).await;
    assert_eq!(kinds(&told), APPROVED);
    assert!(receiver.received().iter().all(|one| one.is_signed_by(&key)));
    // What was tried before is the same notification, and not another one.
    let first: Vec<String> = receiver.received().iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert_eq!(first.first(), first.iter().rfind(|id| **id == told[0].header("webhook-id")));

    // What was delivered is not delivered again by yet another process.
    scene.until_sinks(|sinks| sinks[0].backlog == 0).await;
    let count = receiver.received().len();
    scene.server.kill().await;
    scene.server.restart().await;
    let another = scene.approved(6).await;
    receiver.told(&another, 4).await;
    assert_eq!(receiver.received().len(), count + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_receiver_decisions_go_on_and_when_it_comes_it_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (_key, file) = key_file(dir.path(), "hook.key");
    // An address where nobody listens.
    let address = Receiver::new(Behaviour::Take).await.address;
    let scene = Scene::new(dir, &sink("hook", address, &[&file], "")).await;
    let mut approvals = Vec::new();
    for rows in 1..=5 {
        approvals.push(scene.approved(rows).await);
    }
    let sinks = scene.until_sinks(|sinks| sinks[0].failed > 0 && sinks[0].backlog == 20).await;
    assert!(sinks[0].last_error.contains("refused"), "{sinks:?}");
    assert_eq!(scene.server.get("/readyz").await.0, 200);
    let receiver = Receiver::at(address, Behaviour::Take).await;
    for approval in approvals {
        assert_eq!(kinds(&receiver.told(&approval, 4).await), APPROVED);
    }
    let sinks = scene.until_sinks(|sinks| sinks[0].backlog == 0).await;
    assert_eq!((sinks[0].down, sinks[0].delivered, sinks[0].dead_letters), (false, 20, 0));
}

/// The receiver of the documentation, as a process.
struct PythonReceiver {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    port: u16,
}

impl Drop for PythonReceiver {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

impl PythonReceiver {
    fn start(dir: &Path, key: &Path) -> Self {
        let text = include_str!("../../../docs/notifications.md");
        let code = text.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
        let script = dir.join("receiver.py");
        std::fs::write(&script, code).unwrap();
        let mut child = Command::new("python3")
            .args(["-B", script.to_str().unwrap(), key.to_str().unwrap(), "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a python3");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let port = u16::try_from(listening[1].as_u64().unwrap()).unwrap();
        Self { child, lines, port }
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }

    /// Posts something, and gives the status.
    fn post(&self, id: &str, seconds: u64, signature: &str, body: &str) -> u16 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\nwebhook-id: {id}\r\nwebhook-timestamp: {seconds}\r\n\
             webhook-signature: {signature}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = String::new();
        BufReader::new(stream).read_line(&mut status).unwrap();
        status.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_of_the_documentation_takes_what_is_genuine_and_each_id_once() {
    let dir = tempfile::tempdir().unwrap();
    let (key, file) = key_file(dir.path(), "hook.key");
    let mut python = PythonReceiver::start(dir.path(), &file);
    let address = format!("127.0.0.1:{}", python.port).parse().unwrap();
    let scene = Scene::new(dir, &sink("hook", address, &[&file], "")).await;
    let approval = scene.approved(5).await;
    let (mut python, seen) = tokio::task::spawn_blocking(move || {
        let seen: Vec<Value> = (0..4).map(|_| python.next()).collect();
        (python, seen)
    })
    .await
    .unwrap();
    let types: Vec<String> = APPROVED.iter().map(|kind| format!("countersign.approval.{kind}.v1")).collect();
    assert_eq!(seen.iter().map(|line| line[0].as_str().unwrap().to_owned()).collect::<Vec<_>>(), types);
    assert!(seen.iter().all(|line| line[1] == approval.as_str()), "{seen:?}");

    let sign = |id: &str, at: u64, body: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{id}.{at}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    let body = |id: &str| json!({"id": id, "type": "t", "subject": "s", "data": {"state": "pending"}}).to_string();
    let now = seconds();
    let known = seen[0][3].as_str().unwrap();
    assert_eq!(python.post(known, now, &sign(known, now, &body(known)), &body(known)), 200, "it came before");
    let old = now - 3_600;
    for (id, at, signature, sent) in [
        ("forged", now, "v1,AAAA".to_owned(), body("forged")),
        ("forged", now, sign("forged", now, &body("other")), body("forged")),
        ("forged", now, sign("other", now, &body("forged")), body("forged")),
        ("forged", old, sign("forged", old, &body("forged")), body("forged")),
        ("forged", now, String::new(), body("forged")),
    ] {
        assert_eq!(python.post(id, at, &signature, &sent), 401, "{id} {at} {signature}");
    }
    let rotated = format!("v1,AAAA {}", sign("new", now, &body("new")));
    assert_eq!(python.post("new", now, &rotated, &body("new")), 200);
    assert_eq!(python.next()[3], "new", "nothing of what was refused or repeated was put to use");
}
