//! Evidence of every kind of action: exported from a real server, and checked by the command and by the independent script, which
//! must agree.

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign::client::operation;
use countersign::evidence::Evidence;
use countersign::proto::*;
use serde_json::{Value, json};

use super::{approve, done, exported, log_key, scene};
use crate::approvals::shared::{half_an_hour_ago, query};
use crate::audit::tiles::Published;
use crate::audit::witnesses::{Running, made};
use crate::harness::flow::*;
use crate::harness::{Bundle, Options, Server, cli, fresh_id};

/// What the two verifiers answer, which is the same: the command's document, if nothing was refused.
async fn both(file: &Path, keys: &str, flags: &[&str]) -> Option<Value> {
    let trust = file.with_extension("keys");
    std::fs::write(&trust, keys).unwrap();
    let (file, trust) = (file.to_str().unwrap(), trust.to_str().unwrap());
    let finished = cli::run(&[&["evidence", "verify", file, "--trust", trust, "--json"], flags].concat(), &[]).await;
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new(root.join(".venv/bin/python"));
    python.arg("-B").arg(root.join("clients/python/countersign_evidence.py")).args([file, trust]).args(flags);
    let ran = python.output().unwrap();
    assert_eq!(ran.status.success(), finished.code == 0, "{finished:?}\n{ran:?}");
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{ran:?}");
    (finished.code == 0).then(|| finished.json())
}

fn came<'a>(told: &'a Value, what: &str) -> Vec<&'a str> {
    let findings = told["findings"].as_array().unwrap().iter().filter(|finding| finding["what"] == what);
    findings.map(|finding| finding["verdict"].as_str().unwrap()).collect()
}

/// Exports and checks with the log's key alone.
async fn holds(server: &Server, subject: &str) -> Value {
    let file = exported(server, subject).await;
    let told = both(&file, &format!("log {}\n", log_key(server)), &[]).await;
    std::fs::rename(&file, file.with_extension("before")).unwrap();
    told.unwrap_or_else(|| panic!("{subject} is refused"))
}

fn change(hosts: i64) -> Operation {
    let input = json!({"key": "pool", "value": "64", "blast_radius": hosts});
    operation("change_config", ("System", "checkout"), input, json!({})).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_that_was_answered_with_one_key() {
    let (server, key, public, _keys) = scene().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let question = |rows| BatchQuestion {
        session_id: session.clone(),
        operation: Some(export(rows)),
        audience: AUDIENCE.to_owned(),
        justification: "the monthly reports".to_owned(),
        ..BatchQuestion::default()
    };
    let request = RequestApprovalsRequest { items: vec![question(1), question(2)], request_id: fresh_id() };
    let asked = agent.request_approvals(request).await.unwrap();
    let approvals: Vec<String> = asked
        .results
        .into_iter()
        .map(|asked| match asked.result {
            Some(request_approvals_result::Result::Response(asked)) => asked.approval.unwrap().approval_id,
            other => panic!("{other:?}"),
        })
        .collect();
    let key = format!("@{key}");
    let [first, second] = &approvals[..] else { panic!("{approvals:?}") };
    let args = ["approvals", "approve", first, second, "--yes", "--json", "--sign", &key];
    assert_eq!(server.cli(&server.token("dana", None, &[]), &args).await.code, 0);
    let args = ["approvals", "approve", first, second, "--yes", "--json"];
    assert_eq!(server.cli(&server.token("dave", None, &[]), &args).await.code, 0);
    let minted = must_mint(&agent, &session, &export(2), second).await;
    redeem(&server.person(REDEEMER).await, &minted.token, &export(2)).await.unwrap();
    let file = exported(&server, &minted.capability_id).await;
    let keys = format!("log {}\nvoter {public}\n", log_key(&server));
    let told = both(&file, &keys, &[]).await.unwrap();
    assert_eq!(came(&told, "the view digest of each vote"), ["holds"], "{told:#}");
    assert_eq!(told["votes"], json!({"cast": 2, "unsigned": 1, "unvouched": 0}));
    // dave's is not signed, and now it must be.
    assert!(both(&file, &keys, &["--require-signed-votes"]).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_of_two_executions_of_the_same_action() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let mut minted = Vec::new();
    for _ in 0..2 {
        let approval = ask(&agent, &session, &export(500)).await.unwrap().approval_id;
        for person in ["dana", "dave"] {
            vote(&server.person(person).await, &approval, VoteVerdict::Approve).await.unwrap();
        }
        let capability = must_mint(&agent, &session, &export(500), &approval).await;
        redeem(&server.person(REDEEMER).await, &capability.token, &export(500)).await.unwrap();
        minted.push(capability.capability_id);
    }
    for capability in &minted {
        let told = holds(&server, capability).await;
        assert_eq!(came(&told, "the quorum of each rule"), ["holds"], "{told:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_deny_and_of_nothing() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let denied = decide(&agent, &session, &forbidden()).await.unwrap();
    assert_eq!(denied.verdict(), Verdict::Deny);
    let told = holds(&server, &denied.decision_id).await;
    assert_eq!(came(&told, "the policies decide the same again"), ["holds"], "{told:#}");
    assert!(told["story"].to_string().contains("DENY"), "{told:#}");
    // What people said no to.
    let approval = ask(&agent, &session, &export(1)).await.unwrap().approval_id;
    vote(&server.person("dana").await, &approval, VoteVerdict::Deny).await.unwrap();
    let told = holds(&server, &approval).await;
    assert_eq!(told["votes"]["unsigned"], 1, "{told:#}");

    let out = server.scratch().join("none").display().to_string();
    let absent = "cap_01a1f788-73ea-74cf-9461-4a295bc421e2";
    let auditor = server.token("aaron", None, &[]);
    let finished = server.cli(&auditor, &["evidence", "export", absent, "--out", &out]).await;
    assert!(finished.code == 1 && finished.stderr.contains("the log has nothing about"), "{finished:?}");
    assert!(!Path::new(&out).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_was_handed_on_to_a_session_in_another() {
    let bundle = Bundle::example().edit(|files| {
        files.get_mut("admin/service.cedar").unwrap().push_str(
            "\n@id(\"etl-bot-hands-on\")\npermit (principal == Agent::\"etl-bot\", action in [Action::\"openSession\", \
             Action::\"actFor\"], resource == Agent::\"chat-bot\");\n",
        );
        let entities = files.get_mut("entities.json").unwrap();
        let owned = r#""attrs": {"owner": {"__entity": {"type": "Person", "id": "olivia"}}}, "parents": ["#;
        let chat_bot = format!(r#""id": "chat-bot"}}, {owned}"#);
        assert!(entities.contains(&chat_bot));
        *entities = entities.replace(&chat_bot, &format!(r#"{chat_bot}{{"type": "Group", "id": "data-readers"}}"#));
    });
    let server = Server::with_bundle(bundle).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let request = OpenSessionRequest {
        purpose: "part of it".to_owned(),
        parent_session_id: session.clone(),
        principal: Some(Entity { r#type: "Agent".to_owned(), id: "chat-bot".to_owned() }),
        ..OpenSessionRequest::default()
    };
    let child = agent.open_session(request).await.unwrap().session.unwrap().session_id;
    let given = must_mint(&agent, &session, &query(), "").await;
    let request = DelegateRequest {
        token: given.token.clone(),
        operation: Some(query()),
        audience: AUDIENCE.to_owned(),
        session_id: child,
        request_id: fresh_id(),
        ..DelegateRequest::default()
    };
    let handed = agent.delegate(request).await.unwrap().decision.unwrap().capability.unwrap();
    let point = server.warehouse().await;
    redeem(&point, &handed.token, &query()).await.unwrap();
    complete(&point, &handed.capability_id).await.unwrap();
    for subject in [&handed.capability_id, &given.capability_id] {
        let told = holds(&server, subject).await;
        assert!(came(&told, "minted, spent and reported") == ["holds"], "{told:#}");
        assert!(told["story"].to_string().contains("delegated"), "{told:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_pre_approval_and_its_uses() {
    let server = Server::dev().await;
    let agent = server.person("agent:ops-bot").await;
    let session = open(&agent).await;
    let request = RequestApprovalRequest {
        session_id: session.clone(),
        operation: Some(change(5)),
        audience: "prod".to_owned(),
        justification: "incident 4711".to_owned(),
        pre_approval: Some(PreApprovalBounds {
            uses: 3,
            duration: Some(prost_types::Duration { seconds: 1_800, nanos: 0 }),
        }),
        ..RequestApprovalRequest::default()
    };
    let approval = agent.request_approval(request).await.unwrap().approval.unwrap().approval_id;
    vote(&server.person("nick").await, &approval, VoteVerdict::Approve).await.unwrap();
    let mut minted = Vec::new();
    for hosts in 1..=2 {
        let request = DecideRequest {
            audience: "prod".to_owned(),
            approval_id: approval.clone(),
            mint: true,
            ..question(&session, &change(hosts))
        };
        let capability = agent.decide(request).await.unwrap().capability.unwrap();
        let request = RedeemRequest { audience: "prod".to_owned(), ..spending(&capability.token, &change(hosts)) };
        agent.redeem(request).await.unwrap();
        minted.push(capability.capability_id);
    }
    for subject in minted.iter().chain([&approval]) {
        let told = holds(&server, subject).await;
        assert_eq!(came(&told, "the view digest of each vote"), ["holds"], "{told:#}");
        assert_eq!(came(&told, "the policies decide the same again").first(), Some(&"holds"), "{told:#}");
        assert_eq!(came(&told, "who was eligible"), ["holds"], "{told:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_broken_glass() {
    let server = Server::dev().await;
    let nick = server.person("nick").await;
    let session = open(&nick).await;
    let request = BreakGlassRequest {
        session_id: session,
        operation: Some(change(10)),
        audience: "prod".to_owned(),
        reason: "checkout is down, and nobody answers".to_owned(),
        mint: true,
        request_id: fresh_id(),
    };
    let capability = nick.break_glass(request).await.unwrap().decision.unwrap().capability.unwrap();
    let request = RedeemRequest { audience: "prod".to_owned(), ..spending(&capability.token, &change(10)) };
    server.person("service:ci").await.redeem(request).await.unwrap();
    let told = holds(&server, &capability.capability_id).await;
    assert_eq!(came(&told, "the policies decide the same again"), ["holds"], "{told:#}");
    assert!(told["story"].to_string().contains("broke the glass"), "{told:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_token_it_is_held_against_the_keys_of_the_log_and_of_the_stranger() {
    let (server, key, public, _keys) = scene().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let approval = ask(&agent, &session, &export(500)).await.unwrap().approval_id;
    approve(&server, "dana", &approval, Some(&key)).await.json();
    approve(&server, "dave", &approval, None).await.json();
    let minted = must_mint(&agent, &session, &export(500), &approval).await;
    let token = server.scratch().join("token");
    std::fs::write(&token, &minted.token).unwrap();
    let (token, file) = (format!("@{}", token.display()), server.scratch().join("with.evidence"));
    let out = file.display().to_string();
    let auditor = server.token("aaron", None, &[]);
    let args = ["evidence", "export", &minted.capability_id, "--out", &out, "--with-token", &token];
    let early = server.cli(&auditor, &args).await;
    assert!(early.code == 2 && early.stderr.contains("whoever has the file could use it"), "{early:?}");
    redeem(&server.person(REDEEMER).await, &minted.token, &export(500)).await.unwrap();
    assert_eq!(server.cli(&auditor, &args).await.code, 0);

    let log = format!("log {}\nvoter {public}\n", log_key(&server));
    let told = both(&file, &log, &[]).await.unwrap();
    assert_eq!(came(&told, "the token"), ["holds"], "{told:#}");
    assert!(told["findings"].to_string().contains("which the log vouches for"), "{told:#}");
    let listed = server.cli(&auditor, &["keys", "list", "--json"]).await.json();
    let (id, ours) = (&listed["keys"][0]["key_id"], listed["keys"][0]["public_key"].as_str().unwrap());
    let told = both(&file, &format!("{log}token {id} {ours}\n"), &[]).await.unwrap();
    assert!(told["findings"].to_string().contains("which you trust"), "{told:#}");
    let other = countersign_token::SigningKey::generate(countersign_token::KeyId(1)).unwrap().public();
    let other: String = other.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(both(&file, &format!("{log}token {id} {other}\n"), &[]).await.is_none(), "another key is trusted");

    // Every byte of the token, and of what people were shown.
    let whole = Evidence::from_bytes(&std::fs::read(&file).unwrap()).unwrap();
    let changed = file.with_extension("changed");
    for at in [4, 6, 40, minted.token.len() / 2, minted.token.len() - 2] {
        let mut evidence = whole.clone();
        let letter = if evidence.tokens[0].as_bytes()[at] == b'A' { "B" } else { "A" };
        evidence.tokens[0].replace_range(at..=at, letter);
        std::fs::write(&changed, evidence.to_bytes().unwrap()).unwrap();
        assert!(both(&changed, &log, &[]).await.is_none(), "a token changed at {at}");
    }
    let mut evidence = whole.clone();
    let (digest, view) = evidence.views.pop_first().unwrap();
    evidence.views.insert(digest, view.replace("the monthly report", "the weekly report"));
    std::fs::write(&changed, evidence.to_bytes().unwrap()).unwrap();
    assert!(both(&changed, &log, &[]).await.is_none(), "another view");
    let mut evidence = whole;
    evidence.views.clear();
    std::fs::write(&changed, evidence.to_bytes().unwrap()).unwrap();
    let told = both(&changed, &log, &[]).await.unwrap();
    assert_eq!(came(&told, "the view digest of each vote"), ["not_checked"], "{told:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn is_refused_by_wrong_keys_and_an_unvouched_vote_if_all_must_be_vouched_for() {
    let (server, key, public, keys) = scene().await;
    let subject = done(&server, &key).await;
    let file = exported(&server, &subject).await;
    let log = log_key(&server);
    let other = keys.path().join("other").display().to_string();
    let other = cli::run(&["approvals", "keygen", "dana", "--out", &other], &[]).await.stdout.trim().to_owned();
    assert!(both(&file, &format!("log {log}\n"), &[]).await.is_some());
    for wrong in [format!("voter {public}\n"), format!("log {other}\n"), format!("log {log}\nvoter {other}\n")] {
        assert!(both(&file, &wrong, &[]).await.is_none(), "{wrong}");
    }
    let told = both(&file, &format!("log {log}\n"), &[]).await.unwrap();
    assert_eq!(told["votes"], json!({"cast": 2, "unsigned": 1, "unvouched": 1}), "{told:#}");
    let keys = file.with_extension("keys");
    let args = ["evidence", "verify", file.to_str().unwrap(), "--trust", keys.to_str().unwrap()];
    let text = cli::run(&args, &[]).await.stdout;
    let head = text.lines().next().unwrap();
    assert!(
        head.contains("NOT CHECKED") && head.contains("NO SIGNATURE") && head.contains("NOBODY BUT THE LOG"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_that_is_signed_at_another_time_is_refused() {
    let (bundle, key, _public, _keys) = super::signing().await;
    let server = Server::start(Options { bundle, clock: Some(half_an_hour_ago()), ..Options::default() }).await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let approval = ask(&agent, &session, &export(500)).await.unwrap().approval_id;
    // Signed by the machine's clock, half an hour from the server's.
    let error = approve(&server, "dana", &approval, Some(&key)).await.json_error();
    assert_eq!(error["reason"], "VOTE_SIGNATURE_INVALID", "{error}");
    assert!(error.to_string().contains("minutes from the server's"), "{error}");
    assert!(show(&agent, &approval).await.unwrap().votes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_demands_signed_votes_counts_no_others() {
    let (bundle, key, public, _keys) = super::signing().await;
    bundle.replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"1\") @signed_votes");
    let server = Server::with_bundle(bundle).await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let preview = decide(&agent, &session, &export(500)).await.unwrap();
    assert!(preview.needed_approval.unwrap().rules[0].signed_votes);
    let approval = ask(&agent, &session, &export(500)).await.unwrap().approval_id;
    for who in ["dave", "dana"] {
        let error = approve(&server, who, &approval, None).await.json_error();
        assert_eq!(error["reason"], "VOTE_SIGNATURE_REQUIRED", "{error}");
        assert!(error.to_string().contains("--sign"), "{error}");
    }
    let shown = show(&agent, &approval).await.unwrap();
    assert!(shown.votes.is_empty() && shown.rules[0].signed_votes);
    approve(&server, "dana", &approval, Some(&key)).await.json();
    let minted = must_mint(&agent, &session, &export(500), &approval).await;
    redeem(&server.person(REDEEMER).await, &minted.token, &export(500)).await.unwrap();
    let file = exported(&server, &minted.capability_id).await;
    let keys = format!("log {}\nvoter {public}\n", log_key(&server));
    let told = both(&file, &keys, &["--require-signed-votes"]).await.unwrap();
    assert_eq!(told["votes"], json!({"cast": 1, "unsigned": 0, "unvouched": 0}), "{told:#}");
    let asked = server.audit_records().await;
    let asked = asked.iter().find(|record| record.kind == "approval_requested").unwrap();
    assert_eq!(asked.content.pointer("/rules/0/signed_votes"), Some(&Value::Bool(true)));
    // A deny needs no key.
    let again = ask(&agent, &session, &export(501)).await.unwrap().approval_id;
    let denied = vote(&server.person("dave").await, &again, VoteVerdict::Deny).await.unwrap();
    assert_eq!(denied.state(), ApprovalState::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn says_which_witnesses_cosigned_the_head_and_when() {
    let published: Published = made().await;
    let witness = Running::start(&published.at("w1"), &published.key("data"), "127.0.0.1:0").await;
    let server = published.start("data", &witness.configured()).await;
    let agent = published.agent(&server).await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &describe(), "").await;
    published.until(published.log_size(&server).await, &server).await;
    let file = published.at("witnessed.evidence");
    let out = file.display().to_string();
    let auditor = published.acme.issuer.token("aaron");
    let export = ["evidence", "export", &minted.capability_id, "--out", &out, "--witnesses"];
    let few = server.cli(&auditor, &[&export[..], &["2"]].concat()).await;
    assert!(few.code == 1 && few.stderr.contains("1 witnesses cosigned"), "{few:?}");
    let exported = server.cli(&auditor, &[&export[..], &["1"]].concat()).await;
    assert_eq!(exported.code, 0, "{exported:?}");

    let log = std::fs::read_to_string(published.at("data/keys/acme/log.pub")).unwrap();
    let (log, keys) = (format!("log {log}\n"), format!("log {log}\nwitness {}\n", witness.key));
    let told = both(&file, &keys, &["--witnesses", "1"]).await.unwrap();
    assert_eq!(came(&told, "the witnesses of the head"), ["holds"], "{told:#}");
    let year = format!("cosigned it at {}", &jiff::Timestamp::now().to_string()[..4]);
    assert!(told["findings"].to_string().contains(&year), "{told:#}");
    assert!(both(&file, &keys, &["--witnesses", "2"]).await.is_none(), "too few");
    // A signature that nobody vouches for.
    assert!(both(&file, &log, &[]).await.is_none(), "the witness is nobody's");
    let other = countersign_audit::Cosigner::from_seed("w.example", &[9; 32]).unwrap().verifier().to_string();
    assert!(both(&file, &format!("{log}witness {other}\n"), &[]).await.is_none());
    // Every byte of the head.
    let whole = std::fs::read(&file).unwrap();
    let trust = countersign::evidence::Trust::read(&keys).unwrap();
    let (from, to) = (whole.iter().position(|byte| *byte == 0xe2).unwrap(), whole.len().min(900));
    let mut bytes = whole.clone();
    for position in from..to {
        bytes[position] ^= 1;
        assert!(super::is_refused(&bytes, &trust), "a changed byte at {position} went unnoticed");
        bytes[position] ^= 1;
    }
    let at = whole.windows(7).position(|window| window == b"witness").unwrap_or(from + 20);
    bytes[at] ^= 1;
    let changed = file.with_extension("changed");
    std::fs::write(&changed, &bytes).unwrap();
    assert!(both(&changed, &keys, &[]).await.is_none());
}
