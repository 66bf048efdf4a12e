//! Signed votes, and the evidence of one action: written, checked by a stranger, and refused when anything in it was changed.

mod forged;
mod kinds;
mod opening;

use std::path::PathBuf;
use std::process::Command;

use countersign::evidence::{Evidence, Gather, Trust, Verdict as Came, html, verify};
use serde_json::Value;

use crate::harness::flow::*;
use crate::harness::{Bundle, Server, cli};

/// A bundle whose directory has a key of dana's, where the secret lies, the public key, and the directory of both.
async fn signing() -> (Bundle, String, String, tempfile::TempDir) {
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("dana.key").display().to_string();
    let made = cli::run(&["approvals", "keygen", "dana", "--out", &file, "--json"], &[]).await;
    let public = made.json()["public_key"].as_str().unwrap().to_owned();
    let bundle = Bundle::example();
    bundle.replace(
        "entities.json",
        "\"id\": \"dana\"}, \"attrs\"",
        &format!("\"id\": \"dana\"}}, \"tags\": {{\"vote-key\": \"{public}\"}}, \"attrs\""),
    );
    (bundle, file, public, keys)
}

/// A server with such a bundle.
async fn scene() -> (Server, String, String, tempfile::TempDir) {
    let (bundle, file, public, keys) = signing().await;
    (Server::with_bundle(bundle).await, file, public, keys)
}

async fn approve(server: &Server, who: &str, approval: &str, key: Option<&str>) -> cli::Finished {
    let key = key.map(|key| format!("@{key}"));
    let mut args = vec!["approvals", "approve", approval, "--yes", "--json", "--comment", "agreed: \"fine\""];
    args.extend(key.iter().flat_map(|key| ["--sign", key]));
    server.cli(&server.token(who, None, &[]), &args).await
}

/// A whole action: asked, answered by dana with her key and by dave, minted, spent and reported. Its capability.
async fn done(server: &Server, key: &str) -> String {
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    decide(&agent, &session, &export(500)).await.unwrap();
    let approval = ask(&agent, &session, &export(500)).await.unwrap().approval_id;
    let voted = approve(server, "dana", &approval, Some(key)).await.json();
    assert!(voted.pointer("/votes/0/signature/ed25519").is_some_and(Value::is_string), "{voted}");
    approve(server, "dave", &approval, None).await.json();
    let minted = must_mint(&agent, &session, &export(500), &approval).await;
    let point = server.person(REDEEMER).await;
    redeem(&point, &minted.token, &export(500)).await.unwrap();
    complete(&point, &minted.capability_id).await.unwrap();
    minted.capability_id
}

async fn exported(server: &Server, subject: &str) -> PathBuf {
    let file = server.scratch().join("action.evidence");
    let bundle = server.bundle().path().display().to_string();
    let out = file.display().to_string();
    let args = ["evidence", "export", subject, "--out", &out, "--bundle", &bundle, "--json"];
    server.cli(&server.token("aaron", None, &[]), &args).await.json();
    // What was searched for is what whoever reads all of the log finds.
    let mut gather = Gather::default();
    server.audit_records().await.iter().for_each(|record| gather.record(record.index, &record.bytes));
    let evidence = Evidence::from_bytes(&std::fs::read(&file).unwrap()).unwrap();
    let indices: Vec<u64> = evidence.records.iter().map(|record| record.index).collect();
    assert_eq!(indices, gather.about(subject), "{subject}");
    file
}

fn log_key(server: &Server) -> String {
    std::fs::read_to_string(server.data_dir().join("keys/dev/log.pub")).unwrap().trim().to_owned()
}

fn is_refused(bytes: &[u8], trust: &Trust) -> bool {
    verify(bytes, trust).map_or(true, |outcome| !outcome.holds())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_is_taken_only_with_a_signature_that_holds() {
    let (server, key, public, _keys) = scene().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let approval = ask(&agent, &session, &export(500)).await.unwrap().approval_id;
    // With a key that the directory does not have of the voter, and with a key of somebody else's.
    let error = approve(&server, "dave", &approval, Some(&key)).await.json_error();
    assert_eq!(error["reason"], "VOTE_SIGNATURE_INVALID", "{error}");
    let other = format!("{key}.other");
    cli::run(&["approvals", "keygen", "dana", "--out", &other], &[]).await;
    let error = approve(&server, "dana", &approval, Some(&other)).await.json_error();
    assert_eq!(error["reason"], "VOTE_SIGNATURE_INVALID", "{error}");
    assert!(show(&agent, &approval).await.unwrap().votes.is_empty());
    approve(&server, "dana", &approval, Some(&key)).await.json();
    let shown = show(&agent, &approval).await.unwrap();
    assert_eq!(shown.votes[0].signing_key, public);
    let records = server.audit_records().await;
    let vote = records.iter().find(|record| record.kind == "vote").unwrap();
    assert_eq!(vote.text("/signature/key"), public);
    assert_eq!(vote.text("/signature/kind"), "ed25519");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_convinces_whoever_has_the_keys_and_no_changed_byte_does() {
    let (server, key, public, _keys) = scene().await;
    let subject = done(&server, &key).await;
    // Another action, which is none of this one's evidence.
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    must_mint(&agent, &session, &describe(), "").await;
    let file = exported(&server, &subject).await;
    let keys = server.scratch().join("keys.txt");
    std::fs::write(&keys, format!("# ours\nlog {}\nvoter {public}\n", log_key(&server))).unwrap();
    let (path, keys_path) = (file.display().to_string(), keys.display().to_string());
    let told = cli::run(&["evidence", "verify", &path, "--trust", &keys_path, "--json"], &[]).await.json();
    assert_eq!(told["ok"], true, "{told:#}");

    let bytes = std::fs::read(&file).unwrap();
    let trust = Trust::read(&std::fs::read_to_string(&keys).unwrap()).unwrap();
    let outcome = verify(&bytes, &trust).unwrap();
    let came = |what: &str| outcome.findings.iter().find(|finding| finding.what == what).map(|finding| finding.verdict);
    assert_eq!(came("the policies decide the same again"), Some(Came::Holds), "{outcome:#?}");
    assert_eq!(came("the votes"), Some(Came::Holds));
    assert_eq!(came("who was eligible"), Some(Came::Holds));
    assert_eq!(came("signatures of votes"), Some(Came::NotChecked), "dave's bears none");
    assert_eq!(came("keys of voters"), None, "dana's is trusted");
    assert!(outcome.story.iter().any(|line| line.contains("signed with a key of their own")));
    let page = html(&outcome);
    assert!(!page.contains("<script") && !page.contains("http://") && page.contains("&quot;"), "{page}");
    let evidence = Evidence::from_bytes(&bytes).unwrap();
    let kinds: Vec<&str> = evidence
        .records
        .iter()
        .filter_map(|record| record.content.split("\"kind\":\"").nth(1)?.split('"').next())
        .collect();
    for kind in
        ["key", "bundle_activated", "session_opened", "approval_requested", "vote", "decision", "redeem", "complete"]
    {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    // The token that was spent names both votes.
    let minted = evidence.records.iter().find(|record| record.content.contains("\"minted\":")).unwrap();
    let minted: Value = serde_json::from_str(&minted.content).unwrap();
    assert_eq!(minted.pointer("/minted/votes").and_then(Value::as_array).map(Vec::len), Some(2), "{minted:#}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "session_opened").count(), 1, "{kinds:?}");

    // Every byte of the file.
    let lanes = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (mut bytes, trust) = (bytes.clone(), &trust);
            scope.spawn(move || {
                for position in (lane..bytes.len()).step_by(lanes) {
                    bytes[position] ^= 1;
                    assert!(is_refused(&bytes, trust), "a changed byte at {position} went unnoticed");
                    bytes[position] ^= 1;
                }
            });
        }
    });
    assert!(is_refused(&bytes[..bytes.len() - 1], &trust));
    assert!(is_refused(&bytes, &Trust::default()), "nobody's keys");
    assert!(is_refused(&bytes, &Trust { quorum: 1, ..trust.clone() }), "no witness");

    // Without a record that a later one rests on, it does not hold, though what is there is proved.
    for kind in ["\"kind\":\"vote\"", "\"kind\":\"approval_requested\"", "\"kind\":\"redeem\""] {
        let mut less = evidence.clone();
        let at = less.records.iter().position(|record| record.content.contains(kind)).unwrap();
        less.records.remove(at);
        assert!(is_refused(&less.to_bytes().unwrap(), &trust), "without {kind}");
    }
    // The proof of one record under another.
    let mut swapped = evidence.clone();
    swapped.records[0].proof = evidence.records[1].proof.clone();
    assert!(is_refused(&swapped.to_bytes().unwrap(), &trust));
    // About something else.
    let other = Evidence { subject: "cap_01a1f788-73ea-74cf-9461-4a295bc421e2".to_owned(), ..evidence };
    assert!(is_refused(&other.to_bytes().unwrap(), &trust));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_script_agrees() {
    let (server, key, public, _keys) = scene().await;
    let subject = done(&server, &key).await;
    let file = exported(&server, &subject).await;
    let keys = server.scratch().join("keys.txt");
    std::fs::write(&keys, format!("log {}\nvoter {public}\n", log_key(&server))).unwrap();
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python/evidence.py");
    let ran = Command::new(python).arg(script).arg(&file).arg(&keys).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
