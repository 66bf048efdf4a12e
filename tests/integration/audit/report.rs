//! The figures of a period.

use serde_json::{Value, json};

use crate::harness::Server;

fn figure(report: &Value, title: &str, name: &str) -> Option<u64> {
    let sections = report["figures"].as_array().unwrap();
    let section = sections.iter().find(|section| section["title"] == title).unwrap();
    section["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).map(|row| row["value"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_counts_the_records_of_its_period_and_draws_them() {
    let server = Server::dev().await;
    super::searches::exported(&server).await;
    let auditor = server.token("aaron", None, &[]);
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("report.html");
    let period = ["audit", "report", "--from", "2020-01-01", "--to", "2100-01-01T00:00:00Z"];
    let args = [&period[..], &["--html", page.to_str().unwrap(), "--json"]].concat();
    let done = server.cli(&auditor, &args).await;
    assert_eq!(done.code, 0, "{done:?}");
    let report = done.json();
    assert_eq!((&report["from"], &report["to"]), (&json!("2020-01-01T00:00:00Z"), &json!("2100-01-01T00:00:00Z")));
    for (title, name, value) in [
        ("Decisions", "ALLOW", 1),
        ("Decisions", "DENY", 1),
        ("Rules that decided", "some-data-never-leaves", 1),
        ("Approval requests", "asked", 1),
        ("Approval requests", "approved", 1),
        ("Answers", "approved by one person alone", 0),
        ("Votes by person", "dana approve", 1),
        ("Outcomes", "redeemed", 1),
        ("Outcomes", "succeeded", 1),
        ("Outcomes", "unknown at the end of the period", 0),
    ] {
        assert_eq!(figure(&report, title, name).unwrap_or_default(), value, "{title}, {name}: {report}");
    }
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("<svg") && html.contains("dana approve") && !html.contains("<script"), "{html}");

    // Each figure names the command that lists what it was counted from, and that one runs.
    for section in report["figures"].as_array().unwrap() {
        let query: Vec<&str> = section["query"].as_str().unwrap().split(' ').skip(1).collect();
        let ran = server.cli(&auditor, &query).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let before =
        server.cli(&auditor, &["audit", "report", "--from", "2020-01-01", "--to", "2020-02-01", "--json"]).await;
    assert_eq!(figure(&before.json(), "Decisions", "DENY"), None);
    let backwards = server.cli(&auditor, &["audit", "report", "--from", "2020-02-01", "--to", "2020-01-01"]).await;
    assert_eq!(backwards.code, 2, "{backwards:?}");
    let stranger = server.token("dana", None, &[]);
    assert_eq!(server.cli(&stranger, &period).await.code, 1);
}
