//! One sensitive input is opened for a stranger, and no other.

use std::path::{Path, PathBuf};

use countersign::client::operation;
use countersign::proto::*;
use serde_json::{Value, json};

use super::{exported, log_key};
use crate::harness::flow::*;
use crate::harness::{Server, cli};

const SECRET: &str = "vault:signing/8-hunter2";

/// A rotation with a secret input, redeemed: the evidence of it.
async fn rotated(server: &Server, name: &str) -> PathBuf {
    let rotation = operation("rotate_key", ("Key", "staging-tls"), json!({"material_ref": SECRET}), json!({})).unwrap();
    let agent = server.person("agent:ops-bot").await;
    let session = open(&agent).await;
    let question = DecideRequest { audience: "vault".to_owned(), mint: true, ..question(&session, &rotation) };
    let minted = agent.decide(question).await.unwrap().capability.unwrap();
    let spend = RedeemRequest { audience: "vault".to_owned(), ..spending(&minted.token, &rotation) };
    server.person("service:vault-gateway").await.redeem(spend).await.unwrap();
    let file = server.scratch().join(name);
    std::fs::rename(exported(server, &minted.capability_id).await, &file).unwrap();
    file
}

/// The indices of the records of this kind.
fn record(file: &Path, kind: &str) -> String {
    let evidence: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let records = evidence["records"].as_array().unwrap().iter();
    let mut of = records.filter(|one| one["content"].as_str().unwrap().contains(&format!("\"kind\":\"{kind}\"")));
    of.next().unwrap()["index"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_commitment_is_opened_by_value_and_key_and_no_other_by_that() {
    let mut server = Server::dev().await;
    let (first, second) = (rotated(&server, "first.evidence").await, rotated(&server, "second.evidence").await);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let keys = server.scratch().join("keys.txt");
    std::fs::write(&keys, format!("log {}\n", log_key(&server))).unwrap();
    // No server is asked: the key is a file.
    server.terminate().await;
    let (data, keys) = (text(server.data_dir()), text(&keys));
    let opened = async |index: &str, input: &str, value: &Value, out: &str| {
        let (file, value) = (text(&first), value.to_string());
        let args =
            ["evidence", "open", &file, index, input, "--value", &value, "--data-dir", &data, "--out", out, "--json"];
        cli::run(&args, &[]).await
    };
    let verified = async |file: &Path, opening: &str| {
        let file = text(file);
        cli::run(&["evidence", "verify", &file, "--trust", &keys, "--opening", opening, "--json"], &[]).await
    };

    let out = text(&server.scratch().join("first.opening"));
    let decision = record(&first, "decision");
    for (index, input, value) in [
        (decision.as_str(), "material_ref", json!("vault:signing/9-hunter2")),
        (decision.as_str(), "material_ref", json!(8)),
        (decision.as_str(), "other", json!(SECRET)),
        ("4294967296", "material_ref", json!(SECRET)),
    ] {
        let refused = opened(index, input, &value, &out).await;
        assert_eq!(refused.code, 1, "{index} {input} {value}: {refused:?}");
        assert!(!Path::new(&out).exists());
    }
    let made = opened(&decision, "material_ref", &json!(SECRET), &out).await;
    assert_eq!(made.code, 0, "{made:?}");
    assert!(!made.stdout.contains("hunter2"), "{made:?}");

    let told = verified(&first, &out).await;
    assert_eq!(told.code, 0, "{told:?}");
    let story = told.json()["story"].to_string();
    assert!(story.contains("material_ref") && story.contains(SECRET), "{story}");
    let alone = cli::run(&["evidence", "verify", &text(&first), "--trust", &keys, "--json"], &[]).await;
    assert!(!alone.stdout.contains("hunter2"), "{alone:?}");

    // The same value in the same input of another action, under the index that it has there.
    let opening = std::fs::read_to_string(&out).unwrap();
    let mut moved: Value = serde_json::from_str(&opening).unwrap();
    moved["record"] = record(&second, "decision").parse::<u64>().unwrap().into();
    let mut changed: Value = serde_json::from_str(&opening).unwrap();
    changed["value"] = json!("vault:signing/9-hunter2");
    for (file, other) in [(&second, moved), (&first, changed)] {
        let path = text(&server.scratch().join("other.opening"));
        std::fs::write(&path, other.to_string()).unwrap();
        let refused = verified(file, &path).await;
        assert_eq!(refused.code, 1, "{refused:?}");
        let findings = refused.json()["findings"].as_array().unwrap().clone();
        let of = findings.iter().find(|one| one["what"] == "an opened input").unwrap();
        assert_eq!(of["verdict"], "refused", "{of}");
    }
}
