//! What must not be found anywhere.

use base64::Engine as _;
use countersign::client::operation;
use countersign::proto::*;
use countersign_core::Digest;
use serde_json::json;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::{Mode, Options, Server};

const SECRET: &str = "vault:signing/8-hunter2-very-secret";

fn rotation(secret: &str) -> Operation {
    operation("rotate_key", ("Key", "staging-tls"), json!({"material_ref": secret}), json!({})).unwrap()
}

/// Decides, mints and redeems a rotation; the digest and everything that was told.
async fn rotate(server: &Server, secret: &str) -> (String, Vec<String>) {
    let agent = server.person("agent:ops-bot").await;
    let session = open(&agent).await;
    let question = DecideRequest { audience: "vault".to_owned(), mint: true, ..question(&session, &rotation(secret)) };
    let answer = agent.decide(question).await.unwrap();
    assert_eq!(answer.verdict(), Verdict::Allow, "{answer:?}");
    let token = answer.capability.clone().unwrap().token;
    let spend = RedeemRequest { audience: "vault".to_owned(), ..spending(&token, &rotation(secret)) };
    let receipt = server.person("service:vault-gateway").await.redeem(spend).await.unwrap();
    assert_eq!(receipt.digest, answer.digest, "recomputed from the plain input");
    let records = server.audit_records().await;
    let told = records.iter().map(|record| String::from_utf8(record.bytes.clone()).unwrap()).collect();
    (answer.digest, told)
}

/// The commitment that the decision's record has in place of the secret.
fn commitment(told: &[String]) -> String {
    let decision = told.iter().rev().find(|text| text.contains("\"kind\":\"decision\"")).unwrap();
    let decision: serde_json::Value = serde_json::from_str(decision).unwrap();
    let action: serde_json::Value = serde_json::from_str(decision["action"].as_str().unwrap()).unwrap();
    action["input"]["material_ref"]["__commitment"].as_str().unwrap_or_else(|| panic!("{action}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensitive_input_is_known_by_a_salted_commitment_only() {
    let server = Server::dev().await;
    let (first, told) = rotate(&server, SECRET).await;
    let one = commitment(&told);
    assert!(told.iter().all(|text| !text.contains("hunter2")), "it stands in a record");
    assert!(!server.logs().contains("hunter2"));
    // Nobody who guesses the value can confirm the guess, neither by its hash nor by the one of another server.
    for guess in [SECRET.to_owned(), format!("\"{SECRET}\"")] {
        assert_ne!(one, Digest::of(guess.as_bytes()).to_string());
    }
    let elsewhere = Server::dev().await;
    let (_, told) = rotate(&elsewhere, SECRET).await;
    assert_ne!(commitment(&told), one);
    // Redeeming recomputes it, so another value is another action.
    let agent = server.person("agent:ops-bot").await;
    let session = open(&agent).await;
    let question = DecideRequest { audience: "vault".to_owned(), mint: true, ..question(&session, &rotation(SECRET)) };
    let answer = agent.decide(question).await.unwrap();
    assert_ne!(answer.digest, first, "another session");
    let token = answer.capability.unwrap().token;
    let spend = RedeemRequest { audience: "vault".to_owned(), ..spending(&token, &rotation("vault:evil")) };
    let spent = server.person("service:vault-gateway").await.redeem(spend).await;
    assert_eq!(refused(spent), (Code::PermissionDenied, "CAPABILITY_MISMATCH".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_credential_or_key_is_in_logs_errors_metrics_or_the_audit_log() {
    // As talkative as it can be made.
    let options = Options { args: vec!["--log".to_owned(), "trace".to_owned()], ..Options::default() };
    assert!(matches!(options.mode, Mode::Development));
    let mut server = Server::start(options).await;
    let credentials =
        [server.token(AGENT, Some(OPERATOR), &[]), server.token(REDEEMER, None, &[]), server.token("sam", None, &[])];
    let agent = server.client_of(&credentials[0]).await;
    let gateway = server.client_of(&credentials[1]).await;
    let security = server.client_of(&credentials[2]).await;
    let session = open(&agent).await;
    let mut tokens = Vec::new();
    let mut errors = Vec::new();
    for _ in 0..3 {
        tokens.push(must_mint(&agent, &session, &describe(), "").await);
    }
    redeem(&gateway, &tokens[0].token, &describe()).await.unwrap();
    revoke(&security, &tokens[1].capability_id).await.unwrap();
    for minted in &tokens {
        for operation in [describe(), export(1)] {
            errors.extend(
                redeem(&gateway, &minted.token, &operation).await.err().map(|error| format!("{error} {error:?}")),
            );
        }
        let cut = &minted.token[..minted.token.len() - 8];
        errors.push(format!("{:?}", redeem(&gateway, cut, &describe()).await.unwrap_err()));
    }
    let forged = format!("{}x", credentials[0]);
    errors.push(format!("{:?}", decide(&server.client_of(&forged).await, &session, &describe()).await.unwrap_err()));
    let request = OpenSessionRequest {
        purpose: "x".to_owned(),
        principal_credential: credentials[2].clone(),
        ..OpenSessionRequest::default()
    };
    errors.extend(gateway.open_session(request).await.err().map(|error| format!("{error:?}")));
    let records = server.audit_records().await;
    let audit: Vec<String> = records.iter().map(|record| String::from_utf8(record.bytes.clone()).unwrap()).collect();
    let metrics = server.metrics().await;
    server.terminate().await;

    let mut needles = Vec::new();
    for secret in
        credentials.iter().map(String::as_str).chain(tokens.iter().map(|t| t.token.trim_start_matches("csn_")))
    {
        // Any part of a signature or body is too much.
        let bytes = secret.as_bytes();
        needles.push(secret.to_owned());
        needles.push(String::from_utf8(bytes[bytes.len() - 40..].to_vec()).unwrap());
        needles.push(String::from_utf8(bytes[bytes.len() / 2..bytes.len() / 2 + 40].to_vec()).unwrap());
    }
    let keys = server.data_dir().join("keys/dev");
    for name in ["token-1.key", "commitment.key", "log.key"] {
        let hex = std::fs::read_to_string(keys.join(name)).unwrap().trim().to_owned();
        let bytes: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        needles.push(hex);
        needles.push(base64::engine::general_purpose::STANDARD_NO_PAD.encode(&bytes));
        needles.push(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&bytes));
    }
    let pem = std::fs::read_to_string(server.data_dir().join("dev-issuer.pem")).unwrap();
    needles.push(pem.lines().nth(1).unwrap().to_owned());
    for needle in needles {
        let in_audit = audit.iter().find(|text| text.contains(&needle));
        assert!(in_audit.is_none(), "{needle} is in the audit log: {in_audit:?}");
        assert!(!server.logs().contains(&needle), "{needle} is in the server's log");
        assert!(!metrics.contains(&needle), "{needle} is in the metrics");
        assert!(!errors.iter().any(|error| error.contains(&needle)), "{needle} is in an error");
        // At rest neither: what is stored is enough to mint it again and not the token itself.
        let stored = files_with(&server.data_dir().join("store"), needle.as_bytes());
        assert!(stored.is_empty(), "{needle} is in {stored:?}");
    }
}

fn files_with(dir: &std::path::Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if std::fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle) {
            found.push(path);
        }
    }
    found
}
