//! What policy authors ask of a bundle on the command line: a directory alone, or against what a server recorded.

use crate::harness::cli::{Finished, run, solver};
use crate::harness::flow::*;
use crate::harness::{AUDITOR, Bundle, Server};

async fn policy(args: &[&str]) -> Finished {
    run(&[&["policy"], args].concat(), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_bundle_passes_every_check_that_there_is() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("first-steps");
    let dir = dir.to_str().unwrap();
    let written = policy(&["new", dir]).await;
    assert_eq!(written.code, 0, "{written:?}");
    for command in ["check", "test"] {
        let done = policy(&[command, dir, "--json"]).await;
        assert_eq!((done.code, &done.json()["ok"]), (0, &true.into()), "{done:?}");
    }
    let proved = policy(&["prove", dir, "--solver", &solver(), "--json"]).await;
    assert_eq!((proved.code, &proved.json()["ok"]), (0, &true.into()), "{proved:?}");
    let again = policy(&["new", dir]).await;
    assert_eq!(again.code, 2, "{again:?}");
}

/// Whoever follows the README compares digests with those on their terminal.
#[tokio::test(flavor = "multi_thread")]
async fn the_readme_shows_the_digest_of_the_example_as_it_is() {
    let checked = policy(&["check", "policies/ai-platform", "--json"]).await.json();
    let digest = checked["digest"].as_str().unwrap();
    let shown = |line: &str| {
        line.trim_start().starts_with("bundle  ")
            || line.strip_prefix("  digest ").is_some_and(|of_a_bundle| !of_a_bundle.starts_with(' '))
    };
    let lines: Vec<&str> = include_str!("../../README.md").lines().filter(|line| shown(line)).collect();
    assert!(lines.len() >= 3 && lines.iter().all(|line| line.ends_with(digest)), "{digest}: {lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_explained_without_a_server() {
    let bundle = Bundle::example();
    let dir = bundle.path().to_str().unwrap();
    let input = r#"{"rows": 500, "destination": "s3://elsewhere"}"#;
    let question = |resource: &'static str| {
        [dir, "export", resource, "--principal", "Agent::etl-bot", "--operator", "Person::olivia", "--input", input]
            .map(str::to_owned)
    };
    let ask = async |command: &str, resource: &'static str, more: &[&str]| {
        let question = question(resource);
        let question: Vec<&str> = question.iter().map(String::as_str).collect();
        policy(&[&[command], &question[..], more].concat()).await
    };
    let denied = ask("explain", "Dataset::payroll", &[]).await;
    assert_eq!(denied.code, 0, "{denied:?}");
    for said in [
        "DENY: a policy forbids it, and no approval lifts that",
        "some-data-never-leaves  forbid  policies/exports.cedar:6",
        "yes  !resource.exportable",
        "resource.exportable is false",
        "no people have approved it",
    ] {
        assert!(denied.stdout.contains(said), "{said} is not in:\n{}", denied.stdout);
    }
    assert!(!denied.stdout.contains('\u{1b}'), "colour in a pipe");
    let json = ask("explain", "Dataset::telemetry", &["--json"]).await.json();
    assert_eq!(json["verdict"], "NEEDS_APPROVAL");
    assert_eq!(json["determining"], serde_json::json!(["export-abroad-needs-security"]));
    assert_eq!((&json["policies"][0]["decided"], &json["policies"][0]["asks"]), (&true.into(), &true.into()));

    let who = ask("who", "Dataset::telemetry", &["--audience", "warehouse", "--json"]).await.json();
    assert_eq!(who["rules"][0]["persons"], serde_json::json!(["Person::\"sam\"", "Person::\"sue\""]));
    assert_eq!(who["excluded"], serde_json::json!(["Person::\"olivia\"", "Person::\"wendy\""]));
    let nobody = ask("who", "Dataset::docs", &[]).await;
    assert!(nobody.stdout.starts_with("ALLOW"), "{nobody:?}");

    let can = policy(&["can", dir, "--principal", "Agent::etl-bot", "--operation", "export"]).await;
    assert!(can.stdout.contains("asks 2 persons  export-needs-two") && !can.stdout.contains("payroll"), "{can:?}");
    let all = policy(&["can", dir, "--principal", "Agent::etl-bot", "--operation", "export", "--json"]).await;
    let never: Vec<serde_json::Value> = all.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(never.iter().any(|line| line["prospect"] == "never" && line["resource"] == "Dataset::\"payroll\""));

    for (args, said) in [
        (&["explain", dir][..], "nothing is asked"),
        (&["explain", dir, "--scenario", "deploy"], "4 scenarios have `deploy`"),
        (&["explain", dir, "--scenario", "no such thing"], "no scenario has"),
        (&["can", dir], "nobody acts"),
        (&["can", dir, "--principal", "Agent::etl-bot", "--operation", "fly"], "no such operation"),
        (&["explain", dir, "export", "Dataset::docs", "--principal", "Agent::etl-bot"], "does not fit the schema"),
    ] {
        let refused = policy(args).await;
        assert_eq!((refused.code, refused.stderr.contains(said)), (2, true), "{args:?}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_decisions_are_compared_with_what_another_bundle_would_say() {
    let mut server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    for operation in [describe(), describe(), export(1), forbidden()] {
        decide(&agent, &session, &operation).await.unwrap();
    }
    let reader = server.token(AUDITOR, None, &[]);
    let dir = server.bundle().path().to_str().unwrap().to_owned();
    let same = server.cli(&reader, &["policy", "diff", &dir]).await;
    assert_eq!(same.code, 0, "{same:?}");
    assert!(same.stdout.starts_with("4 decisions, 0 would be answered otherwise"), "{same:?}");

    let stricter = Bundle::example();
    stricter.replace(
        "policies/reads.cedar",
        "permit (principal, action in Action::\"reads\", resource);",
        "permit (principal, action in Action::\"reads\", resource) when { context.now.hour > 23 };",
    );
    let other = stricter.path().to_str().unwrap().to_owned();
    let differs = server.cli(&reader, &["policy", "diff", &other, "--json"]).await;
    assert_eq!(differs.code, 1, "{differs:?}");
    let told = differs.json();
    assert_eq!((&told["decisions"], &told["same"], &told["different"]), (&4.into(), &2.into(), &2.into()), "{told}");
    let difference = &told["differences"][0];
    assert_eq!((&difference["operation"], &difference["number"]), (&"describe".into(), &2.into()), "{told}");
    assert_eq!((&difference["was"]["verdict"], &difference["now"]["verdict"]), (&"ALLOW".into(), &"DENY".into()));
    let none = server.cli(&reader, &["policy", "diff", &other, "--until", "2020-01-01T00:00:00Z"]).await;
    assert!(none.code == 0 && none.stdout.starts_with("0 decisions"), "{none:?}");

    // One of them, explained from its record.
    let index = difference["examples"][0]["index"].to_string();
    let why = server.cli(&reader, &["policy", "explain", &other, "--record", &index]).await;
    assert_eq!(why.code, 0, "{why:?}");
    assert!(why.stdout.starts_with("DENY") && why.stdout.contains("no   context.now.hour > 23"), "{why:?}");
    assert!(why.stderr.contains("was ALLOW") && why.stderr.contains("it was made by the bundle"), "{why:?}");
    let session = server.cli(&reader, &["policy", "explain", &other, "--record", "0"]).await;
    assert!(session.code == 2 && session.stderr.contains("not a decision"), "{session:?}");

    // And without a server.
    server.terminate().await;
    let data = server.data_dir().to_str().unwrap();
    let offline = policy(&["diff", &other, "--data-dir", data]).await;
    assert_eq!(offline.code, 1, "{offline:?}");
    assert!(offline.stdout.starts_with("4 decisions, 2 would be answered otherwise"), "{offline:?}");
}
