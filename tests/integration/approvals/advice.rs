//! What the log tells of asking: figures, and what to do about them.

use countersign::proto::*;
use serde_json::Value;

use super::shared::within;
use crate::harness::flow::{ask, decide, export, open, vote};
use crate::harness::{AUDITOR, Bundle, Server, cli};

/// Asks, after deciding has said that people are needed, and two persons say yes.
async fn approved(server: &Server, session: &str, rows: i64) {
    let agent = server.etl_bot().await;
    assert_eq!(decide(&agent, session, &export(rows)).await.unwrap().verdict(), Verdict::NeedsApproval);
    let asked = ask(&agent, session, &export(rows)).await.unwrap().approval_id;
    for who in ["dana", "dave"] {
        vote(&server.person(who).await, &asked, VoteVerdict::Approve).await.unwrap();
    }
}

/// What is advised about exports of customer data that stay with us.
async fn advice(server: &Server, minimum: &str) -> Value {
    let dir = server.bundle().path().to_str().unwrap();
    let args = ["approvals", "advise", dir, "--minimum", minimum, "--json"];
    let advised = server.cli(&server.token(AUDITOR, None, &[]), &args).await;
    assert_eq!(advised.code, 0, "{advised:?}");
    let lines: Vec<Value> = advised.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!((&line["rule_id"], &line["operation"]), (&"export-needs-two".into(), &"export".into()));
    line.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn advice_never_widens_what_was_denied() {
    let server = Server::with_bundle(Bundle::example()).await;
    let agent = server.etl_bot().await;
    for rows in [5, 20, 10] {
        approved(&server, &open(&agent).await, rows).await;
    }
    let seldom = advice(&server, "4").await;
    assert_eq!(
        (&seldom["advice"], &seldom["no_change"]["because"]),
        (&"no_change".into(), &"answered 3 times, fewer than 4".into())
    );
    let narrower = advice(&server, "3").await;
    assert_eq!(narrower["advice"], "narrower_rule", "{narrower}");
    assert_eq!((&narrower["evidence"]["approved"], &narrower["evidence"]["denied"]), (&3.into(), &0.into()));
    let proposed = &narrower["narrower_rule"];
    assert_eq!(proposed["principal"], "Agent::\"etl-bot\"");
    assert_eq!(proposed["rehearsed"]["needs_approval_to_allow"], 3);
    assert_eq!(proposed["rehearsed"]["deny_to_allow"], 0);
    let exception = proposed["unless"].as_str().unwrap();
    for part in [
        "resource == Dataset::\"customers\"",
        "context.input.rows >= 5",
        "context.input.rows <= 20",
        "s3://ours-reports",
    ] {
        assert!(exception.contains(part), "{exception}");
    }
    // Written into the bundle, it does what the rehearsal said, and `policy diff` says the same.
    let changed = Bundle::example();
    let closed = "unless { context has approval && context.approval.rules.contains(\"export-needs-two\") }";
    changed.replace("policies/exports.cedar", closed, &format!("{closed}\nunless {{ {exception} }}"));
    let dir = changed.path().to_str().unwrap();
    let diff = server.cli(&server.token(AUDITOR, None, &[]), &["policy", "diff", dir, "--json"]).await;
    assert_eq!(diff.json()["different"], 3, "{diff:?}");
    assert_eq!(diff.json()["differences"][0]["now"]["verdict"], "ALLOW");

    // One no, and nothing is proposed any more.
    let session = open(&agent).await;
    let denied = ask(&agent, &session, &export(7)).await.unwrap().approval_id;
    vote(&server.person("dana").await, &denied, VoteVerdict::Deny).await.unwrap();
    let after = advice(&server, "3").await;
    assert_eq!((&after["advice"], &after["no_change"]["because"]), (&"no_change".into(), &"denied 1 of 4".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_again_and_again_in_a_session_is_to_be_pre_approved() {
    let mut server = Server::with_bundle(Bundle::example()).await;
    let session = open(&server.etl_bot().await).await;
    for rows in [1, 2, 3, 4] {
        approved(&server, &session, rows).await;
    }
    let advised = advice(&server, "4").await;
    assert_eq!(advised["advice"], "pre_approval", "{advised}");
    let bounds = &advised["pre_approval"];
    assert_eq!((&bounds["uses"], &bounds["sessions"], &bounds["questions_spared"]), (&4.into(), &1.into(), &3.into()));
    assert_eq!(bounds["within_seconds"].as_u64().unwrap() % 60, 0);
    // The same from the data directory of a server that is not running, in words.
    server.kill().await;
    let (dir, data) = (server.bundle().path().to_str().unwrap(), server.data_dir().to_str().unwrap());
    let offline = cli::run(&["approvals", "advise", dir, "--minimum", "4", "--data-dir", data], &[]).await;
    assert!(offline.code == 0 && offline.stdout.contains("at most 4 times within"), "{offline:?}");
}

#[tokio::test]
async fn figures_are_read_by_rule_and_person_and_kept_over_a_crash() {
    let mut server = Server::with_bundle(Bundle::example()).await;
    let session = open(&server.etl_bot().await).await;
    approved(&server, &session, 1).await;
    let token = server.token("dana", None, &[]);
    let shown = server.cli(&token, &["approvals", "figures", "--json"]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    let find = |stdout: &str, pointer: &str, name: &str| {
        let mut lines = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.find(|line| line.pointer(pointer).is_some_and(|found| found == name)).unwrap()
    };
    let rule = find(&shown.stdout, "/rule_id", "export-needs-two");
    assert_eq!((&rule["asked"], &rule["approved"], &rule["approving_votes"]), (&1.into(), &1.into(), &2.into()));
    // Both were sent it and voted at once, as scripts do.
    assert_eq!((&rule["sighted_approvals"], &rule["quick_approvals"]), (&2.into(), &2.into()));
    let dave = find(&shown.stdout, "/person/id", "dave");
    assert_eq!((&dave["asked"], &dave["approved"], &dave["denied"]), (&1.into(), &1.into(), &0.into()));
    server.kill().await;
    server.restart().await;
    approved(&server, &session, 2).await;
    let shown = server.cli(&token, &["approvals", "figures", "--rules", "--json"]).await;
    let rule = find(&shown.stdout, "/rule_id", "export-needs-two");
    assert_eq!((&rule["asked"], &rule["quick_approvals"]), (&2.into(), &4.into()));
    // A server that starts counts what is there; what came since is counted a moment later.
    let asked = "countersign_approval_rule_asked_total{tenant=\"dev\",rule=\"export-needs-two\"}";
    within("the rule in the metrics", async { while !server.metrics().await.contains(asked) {} }).await;
    let text = server.cli(&token, &["approvals", "figures", "--persons"]).await;
    assert!(text.stdout.contains("Person::\"dana\"") && !text.stdout.contains("Rules"), "{text:?}");
}
