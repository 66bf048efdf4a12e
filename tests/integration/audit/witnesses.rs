//! Witnesses that cosign the heads of a log, each a process of its own.

use std::fs;
use std::path::Path;

use countersign_audit::CosignatureVerifier;

use super::tiles::{Published, copy};
use crate::harness::flow::*;
use crate::harness::{Options, Process, Server, cli, field, production};

/// A running `countersign witness`.
pub struct Running {
    process: Process,
    endpoint: String,
    pub key: String,
}

impl Running {
    pub async fn start(state: &Path, log_key: &str, listen: &str) -> Self {
        let args = ["witness", "--state", state.to_str().unwrap(), "--log-key", log_key, "--listen", listen];
        let mut process = Process::spawn(&args.map(str::to_owned), &[], None);
        let line = process.line(|line| field(line, "message").as_deref() == Some("witnessing")).await.unwrap();
        let (endpoint, key) = (field(&line, "endpoint").unwrap(), field(&line, "key").unwrap());
        Self { process, endpoint, key }
    }

    /// For `[log]`.
    pub fn configured(&self) -> String {
        format!("[[log.witnesses]]\nurl = {:?}\nkey = {:?}\ntimeout_seconds = 5\n", self.endpoint, self.key)
    }

    fn address(&self) -> String {
        self.endpoint.trim_start_matches("http://").to_owned()
    }
}

/// A service that was made and has not served yet, so that its key is known.
pub async fn made() -> Published {
    let published = Published::new();
    let options = production::options(published.dir.path(), &[&published.acme], "");
    let mut server = Server::start(Options { data_dir: Some(published.at("data")), ..options }).await;
    server.terminate().await;
    published
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_head_is_cosigned_and_a_witness_that_is_gone_delays_no_decision() {
    let published = made().await;
    let key = published.key("data");
    let mut witness = Running::start(&published.at("w1"), &key, "127.0.0.1:0").await;
    let mut server = published.start("data", &witness.configured()).await;
    let agent = published.agent(&server).await;
    let session = open(&agent).await;
    published.until(published.log_size(&server).await, &server).await;
    let verifier: CosignatureVerifier = witness.key.parse().unwrap();
    verifier.verify(published.checkpoint().unwrap().note()).unwrap();
    assert_eq!(published.verify("data", &["--witness-key", &witness.key]).await.code, 0);
    let other = countersign_audit::Cosigner::from_seed("w.example", &[9; 32]).unwrap().verifier().to_string();
    let finished = published.verify("data", &["--witness-key", &other]).await;
    assert!(finished.code == 1 && finished.stdout.contains("has not cosigned"), "{finished:?}");
    // What others can see is told over gRPC, too.
    let auditor = published.acme.issuer.token("aaron");
    let told = server.cli(&auditor, &["audit", "checkpoint", "--published"]).await;
    assert!(told.stdout.contains(verifier.name()), "{told:?}");

    witness.process.kill().await;
    let before = published.size();
    decide(&agent, &session, &export(1)).await.unwrap();
    must_mint(&agent, &session, &describe(), "").await;
    server.log_line(|line| line.contains("the log is not published") && line.contains("witnesses")).await;
    assert_eq!(published.size(), before, "nothing is published that they have not seen");

    // It comes back with what it remembers, and the same key.
    let again = Running::start(&published.at("w1"), &key, &witness.address()).await;
    assert_eq!(again.key, witness.key);
    published.until(published.log_size(&server).await, &server).await;
    assert_eq!(published.verify("data", &["--witness-key", &witness.key]).await.code, 0);
    server.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_cosigns_no_second_history_whatever_is_published_where() {
    let published = made().await;
    let key = published.key("data");
    copy(&published.at("data"), &published.at("old"));
    let witness = Running::start(&published.at("w1"), &key, "127.0.0.1:0").await;
    let mut server = published.start("data", &witness.configured()).await;
    let agent = published.agent(&server).await;
    let session = open(&agent).await;
    for n in 0..10 {
        decide(&agent, &session, &export(n + 1)).await.unwrap();
    }
    published.until(published.log_size(&server).await, &server).await;
    let size = published.size();
    server.terminate().await;

    // The same service from an older copy, and nobody there who knows what was published.
    fs::rename(published.at("tiles"), published.at("elsewhere")).unwrap();
    let mut server = published.start("old", &witness.configured()).await;
    server.log_line(|line| line.contains("the log is not published") && line.contains("more than this log has")).await;
    let agent = published.agent(&server).await;
    let session = open(&agent).await;
    for n in 0..size as i64 + 5 {
        decide(&agent, &session, &export(n + 1)).await.unwrap();
    }
    server.log_line(|line| line.contains("the log is not published") && line.contains("422")).await;
    server.terminate().await;
    assert_eq!(published.size(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_says_what_is_wrong_with_a_question() {
    let published = made().await;
    let witness = Running::start(&published.at("w1"), &published.key("data"), "127.0.0.1:0").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |body: &'static str| {
        let asking = client.post(format!("{}/add-checkpoint", witness.endpoint)).body(body).send();
        async { asking.await.unwrap().status().as_u16() }
    };
    assert_eq!(ask("").await, 400);
    assert_eq!(
        ask("old 0\n\nother.example\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— other.example AAAAAAAA\n")
            .await,
        404
    );
    let own =
        "old 0\n\ncountersign.example.com/acme\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— x AAAAAAAA\n";
    assert_eq!(ask(own).await, 403);
    let key = client.get(&witness.endpoint).send().await.unwrap().text().await.unwrap();
    assert_eq!(key.trim(), witness.key);
    let state = published.at("w1");
    let second =
        ["witness", "--state", state.to_str().unwrap(), "--log-key", &published.key("data"), "--listen", "127.0.0.1:0"];
    let finished = cli::run(&second, &[]).await;
    assert!(finished.code == 1 && finished.stderr.contains("another witness's"), "{finished:?}");
}
