//! Searches of the log, and the questions that are made of them.

use std::time::Duration;

use countersign::proto::*;
use serde_json::Value;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::{Server, cli};

fn person(id: &str) -> Option<Entity> {
    Some(Entity { r#type: "Person".into(), id: id.into() })
}

/// An export that dana and dave approve, redeemed; the capability and the approval.
pub(super) async fn exported(server: &Server) -> (String, String) {
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(7)).await.unwrap();
    for voter in ["dana", "dave"] {
        vote(&server.person(voter).await, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    }
    let minted = must_mint(&agent, &session, &export(7), &asked.approval_id).await;
    let gateway = server.client(REDEEMER, None, &[]).await;
    redeem(&gateway, &minted.token, &export(7)).await.unwrap();
    complete(&gateway, &minted.capability_id).await.unwrap();
    decide(&agent, &session, &forbidden()).await.unwrap();
    (minted.capability_id, asked.approval_id)
}

fn kinds(answer: &SearchRecordsResponse) -> Vec<&str> {
    answer.records.iter().map(|record| record.kind.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_found_by_who_and_what_and_only_by_who_may_read_the_log() {
    let mut server = Server::dev().await;
    let (capability, approval) = exported(&server).await;
    let none = SearchRecordsRequest::default;
    let found = async |server: &Server, request| server.person("aaron").await.search_records(request).await.unwrap();
    let of_capability = SearchRecordsRequest { capability_id: capability.clone(), oldest_first: true, ..none() };
    assert_eq!(kinds(&found(&server, of_capability.clone()).await), ["decision", "redeem", "complete"]);
    let of_approval = SearchRecordsRequest { approval_id: approval, oldest_first: true, ..none() };
    assert_eq!(kinds(&found(&server, of_approval).await), ["approval_requested", "vote", "vote", "decision", "redeem"]);
    let by_dana = SearchRecordsRequest { approver: person("dana"), kind: "vote".into(), ..none() };
    assert_eq!(kinds(&found(&server, by_dana).await), ["vote"]);
    let denied = SearchRecordsRequest { verdict: "DENY".into(), operation: "export".into(), ..none() };
    assert_eq!(kinds(&found(&server, denied.clone()).await), ["decision"]);
    let later = SearchRecordsRequest { from: Some(prost_types::Timestamp { seconds: 1 << 40, nanos: 0 }), ..denied };
    assert_eq!(kinds(&found(&server, later).await), Vec::<&str>::new());

    let client = server.person("dana").await;
    let (code, reason) = refused(client.search_records(none()).await);
    assert_eq!((code, reason.as_str()), (Code::PermissionDenied, "ADMINISTRATION_DENIED"));

    // Page by page, and with the token of this search only.
    let auditor = server.person("aaron").await;
    let all = server.whole_log().await.len();
    let (mut indices, mut request) = (Vec::new(), SearchRecordsRequest { page_size: 3, ..none() });
    loop {
        let page = auditor.search_records(request.clone()).await.unwrap();
        indices.extend(page.records.iter().map(|record| record.index));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(indices, (0..all as u64).rev().collect::<Vec<_>>());
    let other = SearchRecordsRequest { kind: "vote".into(), ..request };
    assert_eq!(refused(auditor.search_records(other).await).0, Code::InvalidArgument);

    server.restart().await;
    assert_eq!(kinds(&found(&server, of_capability).await), ["decision", "redeem", "complete"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_segment_is_indexed_in_the_background_and_answers_the_same() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let (capability, _) = exported(&server).await;
    let deciding = (0..1_100).map(|_| async { decide(&agent, &session, &describe()).await.unwrap() });
    futures::future::join_all(deciding).await;
    let search = SearchRecordsRequest { capability_id: capability, ..SearchRecordsRequest::default() };
    let before = server.person("aaron").await.search_records(search.clone()).await.unwrap();
    // It is looked every two seconds whether a segment is full.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = server.person("aaron").await.search_records(search).await.unwrap();
    assert_eq!(before.records, after.records);
    assert_eq!(kinds(&after), ["complete", "redeem", "decision"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn auditors_questions_are_answered_and_say_what_was_searched() {
    let server = Server::dev().await;
    let (capability, _) = exported(&server).await;
    let auditor = server.token("aaron", None, &[]);
    let asked = async |args: &[&str]| {
        let answer = server.cli(&auditor, &[&["--json", "audit"], args].concat()).await;
        assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
        let lines = answer.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
        (lines.collect::<Vec<Value>>(), answer.stderr)
    };
    let (found, _) = asked(&["search", "--capability", &capability, "--kind", "redeem"]).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["content"]["capability"], capability.as_str());

    // Two approved it, so nobody did alone.
    let (found, told) = asked(&["questions", "approved-alone"]).await;
    assert_eq!(found.len(), 0);
    assert!(told.contains("countersign audit search --kind redeem --mark approved"), "{told}");
    let (found, _) = asked(&["questions", "approvals-within", "--seconds", "3600"]).await;
    assert_eq!(found.len(), 2);
    assert!(found[0]["because"]["after_millis"].is_number());
    let (found, _) = asked(&["questions", "by-approver", "Person::dana"]).await;
    assert!(found.iter().any(|answer| answer["record"]["kind"] == "vote"));
    let (found, _) = asked(&["questions", "denials"]).await;
    assert_eq!(found[0]["record"]["content"]["verdict"], "DENY");
    for nothing in ["break-glass", "outcomes-unknown"] {
        assert_eq!(asked(&["questions", nothing]).await.0.len(), 0, "{nothing}");
    }
    let bundle = server.bundle().path().to_str().unwrap().to_owned();
    let (unused, _) = asked(&["questions", "rules-never-used", &bundle]).await;
    let rules: Vec<&str> = unused.iter().map(|answer| answer["rule"].as_str().unwrap()).collect();
    assert!(!rules.contains(&"export-needs-two") && !rules.is_empty(), "{rules:?}");

    let people = server.cli(&auditor, &["audit", "search", "--approver", "Person::dana", "--vote", "approve"]).await;
    assert!(people.stdout.contains("vote") && people.stdout.contains("Person::\"dana\"  approve"), "{}", people.stdout);
    let refused = cli::run(&["audit", "search", "--decision", "deny", "--vote", "deny"], &[]).await;
    assert_eq!(refused.code, 2);
}
