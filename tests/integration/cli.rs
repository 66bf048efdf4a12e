//! The command line, in scripts: exit codes, JSON, and nothing in colour.

use crate::harness::cli::{Finished, run, run_with_input};
use crate::harness::flow::*;
use crate::harness::{Bundle, Server};

const EXPORT: [&str; 6] = [
    "export",
    "Dataset::customers",
    "--audience",
    "warehouse",
    "--input",
    "{\"rows\": 500, \"destination\": \"s3://ours-x\"}",
];

struct Scene {
    server: Server,
    agent: String,
    session: String,
}

async fn scene() -> Scene {
    let server = Server::dev().await;
    let agent = server.token(AGENT, Some(OPERATOR), &[]);
    let opened = server.cli(&agent, &["session", "open", "--purpose", "a test", "--id-only"]).await;
    assert_eq!(opened.code, 0, "{opened:?}");
    let session = opened.stdout.trim().to_owned();
    assert!(!session.is_empty() && !session.contains(char::is_whitespace), "{opened:?}");
    Scene { server, agent, session }
}

impl Scene {
    async fn decide(&self, args: &[&str]) -> Finished {
        self.server.cli(&self.agent, &[&["decide", "--session", &self.session], args].concat()).await
    }

    async fn as_person(&self, person: &str, args: &[&str]) -> Finished {
        self.server.cli(&self.server.token(person, None, &[]), args).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_is_the_verdict() {
    let scene = scene().await;
    let describe = ["describe", "Dataset::docs", "--audience", "warehouse"];
    let payroll = ["export", "Dataset::payroll", "--audience", "warehouse", "--input", EXPORT[5]];
    for (args, code, word) in
        [(&describe[..], 0, "ALLOW"), (&payroll[..], 3, "DENY"), (&EXPORT[..], 4, "NEEDS_APPROVAL")]
    {
        let human = scene.decide(args).await;
        assert_eq!((human.code, human.stdout.contains(word)), (code, true), "{human:?}");
        assert!(!human.stdout.contains('\u{1b}') && !human.stderr.contains('\u{1b}'), "colour in a pipe: {human:?}");
        let json = scene.decide(&[args, &["--json"]].concat()).await;
        assert_eq!((json.code, json.json()["verdict"].as_str()), (code, Some(word)), "{json:?}");
        assert_eq!(json.json()["digest"].as_str().map(str::len), Some(64));
        assert!(json.stderr.is_empty(), "{json:?}");
    }
    let rules = scene.decide(&[&EXPORT[..], &["--json"]].concat()).await.json();
    assert_eq!(rules["needed_approval"]["rules"][0]["rule_id"], "export-needs-two");
    assert_eq!(rules["needed_approval"]["rules"][0]["quorum"], 2);
    assert_eq!(rules["capability"], serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_codes_of_their_own_and_are_json_where_answers_are() {
    let scene = scene().await;
    let unknown = scene.decide(&["nonsense", "Dataset::docs", "--audience", "warehouse", "--json"]).await;
    assert_eq!((unknown.code, unknown.stdout.as_str()), (1, ""));
    let error = unknown.json_error();
    assert_eq!(error["reason"], "INVALID_FIELD", "{error}");
    assert_eq!(error["fields"][0]["field"], "operation.name", "{error}");
    let usage = scene.decide(&["describe", "--json"]).await;
    assert_eq!((usage.code, usage.json_error()["reason"].as_str()), (2, Some("USAGE")));
    let doubled = scene.decide(&["describe", "Dataset::docs", "--audience", "w", "--input", "{\"a\":1,\"a\":2}"]).await;
    assert_eq!(doubled.code, 2, "{doubled:?}");
    assert!(doubled.stderr.contains("--input"), "{doubled:?}");
    let nobody = scene.server.cli("", &["session", "list", "--json"]).await;
    assert_eq!((nobody.code, nobody.json_error()["reason"].as_str()), (1, Some("CREDENTIAL_INVALID")));
    let gone = run(&["session", "list", "--json", "--endpoint", "http://127.0.0.1:1"], &[]).await;
    assert_eq!((gone.code, gone.json_error()["reason"].as_str()), (1, Some("UNREACHABLE")));
    let open = run(&["session", "list", "--json", "--endpoint", "http://example.com:1"], &[]).await;
    assert_eq!(
        (open.code, open.stdout.as_str()),
        (if open.code == 2 { 2 } else { 1 }, ""),
        "plaintext beyond loopback"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_action_goes_through_the_command_line() {
    let scene = scene().await;
    let request =
        [&["approvals", "request", "--session", &scene.session, "--justification", "x", "--json"], &EXPORT[..]]
            .concat();
    let asked = scene.server.cli(&scene.agent, &request).await;
    assert_eq!(asked.code, 0, "{asked:?}");
    let asked: serde_json::Value = serde_json::from_str(asked.stdout.lines().next().unwrap()).unwrap();
    let approval = asked["approval"]["approval_id"].as_str().unwrap();
    let digest = asked["approval"]["digest"].as_str().unwrap();

    let listed = scene.as_person("dana", &["approvals", "list", "--pending", "--json"]).await;
    assert_eq!(listed.json()["approval_id"], approval, "one line of JSON for each");
    let shown = scene.as_person("dana", &["approvals", "show", approval]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    for part in ["s3://ours-x", "500", "etl-bot", "olivia", "export-needs-two", digest] {
        assert!(shown.stdout.contains(part), "{part} is not shown: {}", shown.stdout);
    }
    // Without a terminal nobody confirms by accident, and a digest that is another one votes on nothing.
    assert_eq!(scene.as_person("dana", &["approvals", "approve", approval]).await.code, 2);
    let other = "0".repeat(64);
    let stale =
        scene.as_person("dana", &["approvals", "approve", approval, "--yes", "--digest", &other, "--json"]).await;
    assert_eq!((stale.code, stale.json_error()["reason"].as_str()), (1, Some("VOTE_STALE")));
    let operator = scene.as_person("olivia", &["approvals", "approve", approval, "--yes", "--json"]).await;
    assert_eq!((operator.code, operator.json_error()["reason"].as_str()), (1, Some("VOTER_EXCLUDED")));
    for (person, state) in [("dana", "pending"), ("dave", "approved")] {
        let voted =
            scene.as_person(person, &["approvals", "approve", approval, "--yes", "--digest", digest, "--json"]).await;
        assert_eq!((voted.code, voted.json()["state"].as_str()), (0, Some(state)), "{voted:?}");
    }

    let minted = scene.decide(&[&EXPORT[..], &["--approval", approval, "--mint", "--json"]].concat()).await.json();
    let token = minted["capability"]["token"].as_str().unwrap();
    let gateway = scene.server.token(REDEEMER, None, &[]);
    let redeem = [&["capability", "redeem", "-", "--json"], &EXPORT[..]].concat();
    let env = [("COUNTERSIGN_ENDPOINT", scene.server.endpoint()), ("COUNTERSIGN_TOKEN", gateway.as_str())];
    let spent = run_with_input(&redeem, &env, token).await;
    assert_eq!(spent.code, 0, "{spent:?}");
    assert_eq!(spent.json()["replayed"], false);
    let again = run_with_input(&redeem, &env, token).await;
    assert_eq!((again.code, again.json_error()["reason"].as_str()), (1, Some("ALREADY_REDEEMED")));
    let capability = minted["capability"]["capability_id"].as_str().unwrap();
    let done =
        scene.server.cli(&gateway, &["capability", "complete", capability, "--outcome", "succeeded", "--json"]).await;
    assert_eq!((done.code, done.json()["state"].as_str()), (0, Some("succeeded")), "{done:?}");
    let verified = scene.as_person("aaron", &["audit", "verify", "--json"]).await;
    assert_eq!((verified.code, &verified.json()["ok"]), (0, &serde_json::Value::Bool(true)), "{verified:?}");
    let proved = scene.as_person("aaron", &["audit", "prove", "0", "--json"]).await;
    assert_eq!(proved.code, 0, "{proved:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_looked_at_without_a_server_and_authorizes_nothing() {
    let mut scene = scene().await;
    let minted =
        scene.decide(&["describe", "Dataset::docs", "--audience", "warehouse", "--mint", "--json"]).await.json();
    let token = minted["capability"]["token"].as_str().unwrap().to_owned();
    let keys = scene.server.scratch().join("keys.json");
    let listed = scene.server.cli(&scene.agent, &["keys", "list", "--json"]).await;
    std::fs::write(&keys, &listed.stdout).unwrap();
    scene.server.terminate().await;
    let verify = ["capability", "verify", "-", "--keys", keys.to_str().unwrap(), "--json"];
    let looked = run_with_input(&verify, &[], &token).await;
    assert_eq!(looked.code, 0, "{looked:?}");
    let claims = looked.json();
    assert_eq!((&claims["authorizes"], claims["operation"].as_str()), (&false.into(), Some("describe")));
    assert_eq!(claims["development"], true);
    assert_eq!(claims["digest"], minted["digest"]);
    let human = run_with_input(&verify[..5], &[], &token).await;
    assert!(human.stdout.contains("authorizes nothing"), "{human:?}");
    for forged in
        [format!("{}A", &token[..token.len() - 1]), token.replace("csn_", ""), token[..40].to_owned(), String::new()]
    {
        if forged != token {
            let refused = run_with_input(&verify, &[], &forged).await;
            assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{refused:?}");
            assert_eq!(refused.json_error()["reason"], "TOKEN_REFUSED");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_bundle_is_told_by_file_and_line() {
    let good = Bundle::example();
    let checked = run(&["policy", "check", good.path().to_str().unwrap(), "--json"], &[]).await;
    assert_eq!((checked.code, &checked.json()["ok"]), (0, &true.into()), "{checked:?}");
    good.replace("policies/exports.cedar", "resource.exportable", "resource.exportible");
    let broken = run(&["policy", "check", good.path().to_str().unwrap()], &[]).await;
    assert_eq!(broken.code, 1, "{broken:?}");
    let line = 1 + good.files()["policies/exports.cedar"].lines().position(|line| line.contains("exportible")).unwrap();
    assert!(broken.stdout.contains(&format!("policies/exports.cedar:{line}:")), "{}", broken.stdout);
    assert!(!broken.stdout.contains('\u{1b}'));
    let json = run(&["policy", "check", good.path().to_str().unwrap(), "--json"], &[]).await;
    let findings = json.json();
    assert_eq!(findings["ok"], false);
    assert_eq!((findings["findings"][0]["line"].as_u64(), findings["digest"].is_null()), (Some(line as u64), true));
    assert_eq!(run(&["policy", "check", "/no/such/bundle"], &[]).await.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_effective_configuration_is_printed_and_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let acme = crate::harness::production::Tenant::new("acme");
    let toml = crate::harness::production::toml(dir.path(), &[&acme], "drain_seconds = 7");
    let path = dir.path().join("c.toml");
    std::fs::write(&path, toml.replace("{data}", "data")).unwrap();
    let shown = run(&["config", "--config", path.to_str().unwrap()], &[("COUNTERSIGN_LISTEN", "127.0.0.1:9999")]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.stdout.contains("drain_seconds = 7") && shown.stdout.contains("127.0.0.1:9999"), "{}", shown.stdout);
    // Flags win over the environment, and what is printed is a configuration.
    let args = ["config", "--config", path.to_str().unwrap(), "--listen", "127.0.0.1:8888"];
    let shown = run(&args, &[("COUNTERSIGN_LISTEN", "127.0.0.1:9999")]).await;
    assert!(shown.stdout.contains("127.0.0.1:8888"), "{}", shown.stdout);
    std::fs::write(&path, &shown.stdout).unwrap();
    let again = run(&["config", "--config", path.to_str().unwrap()], &[]).await;
    assert_eq!((again.code, again.stdout), (0, shown.stdout));
    let dev = run(&["config", "--dev", "--json"], &[]).await;
    assert_eq!(dev.json()["server"]["drain_seconds"], 20, "{dev:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_version_and_completions_are_answers() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell], &[]).await;
        assert_eq!(script.code, 0, "{shell}");
        assert!(script.stdout.contains("countersign") && script.stderr.is_empty(), "{shell}");
    }
    assert_eq!(run(&["--version"], &[]).await.stdout, format!("countersign {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(&["--help"], &[]).await;
    assert!(help.code == 0 && help.stdout.contains("Exit codes") && !help.stdout.contains('\u{1b}'), "{help:?}");
    assert_eq!(run(&[], &[]).await.code, 2);
    assert_eq!(run(&["nonsense"], &[]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn development_credentials_are_printed_for_whoever_can_read_the_directory() {
    let server = Server::dev().await;
    let dir = server.data_dir().to_str().unwrap();
    let printed = run(&["dev", "token", "agent:etl-bot", "--operator", "olivia", "--data-dir", dir], &[]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    let opened = server.cli(printed.stdout.trim(), &["session", "open", "--purpose", "x", "--json"]).await;
    assert_eq!((opened.code, opened.json()["operator"]["id"].as_str()), (0, Some("olivia")), "{opened:?}");
    for args in [&["agent:"][..], &["agent:x", "--operator", "agent:x"], &["dana", "--via", "agent:x"]] {
        let refused = run(&[&["dev", "token", "--data-dir", dir], args].concat(), &[]).await;
        assert_ne!(refused.code, 0, "{args:?}");
        assert!(refused.stdout.is_empty());
    }
}
