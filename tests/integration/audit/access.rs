//! The log says who read what by an administration policy.

use countersign::proto::*;
use serde_json::json;

use crate::harness::flow::*;
use crate::harness::{AUDITOR, AuditRecord, PATIENCE, Server, whole_log_of};

/// What the log says of reads.
async fn accesses(server: &Server) -> Vec<AuditRecord> {
    let mut records = whole_log_of(&server.person(AUDITOR).await).await;
    records.retain(|record| record.kind == "access");
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_finds_who_read_the_log_and_the_requests() {
    let mut server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    // The request is dana's to answer, and none of aaron's business but by policy.
    show(&server.person("dana").await, &asked.approval_id).await.unwrap();
    let aaron = server.person(AUDITOR).await;
    for _ in 0..3 {
        aaron.list_records(ListRecordsRequest::default()).await.unwrap();
    }
    show(&aaron, &asked.approval_id).await.unwrap();
    aaron.get_checkpoint(GetCheckpointRequest::default()).await.unwrap();
    // What is counted is written by the end at the latest.
    server.terminate().await;
    server.restart().await;

    let told = accesses(&server).await;
    assert!(told.iter().all(|record| record.text("/caller/entity/id") == AUDITOR), "{told:?}");
    let permits =
        |record: &AuditRecord| record.content["determining"].as_array().unwrap().contains(&json!("auditors-read"));
    assert!(told.iter().all(permits), "{told:?}");
    let of = |action: &'static str| told.iter().filter(move |record| record.text("/reserved_action") == action);
    let count = |action| of(action).map(|record| record.content["count"].as_u64().unwrap()).sum::<u64>();
    assert_eq!((count("readLog"), count("readApprovals")), (4, 1), "{told:?}");
    let mut rpcs: Vec<_> = of("readLog").flat_map(|record| record.content["rpcs"].as_array().unwrap()).collect();
    rpcs.sort_by_key(|rpc| rpc.to_string());
    rpcs.dedup();
    assert_eq!(rpcs, [&json!("GetCheckpoint"), &json!("ListRecords")]);
    // The one at the start of each, and one at the stop.
    assert!(told.len() <= 4, "{told:?}");

    let search = ["audit", "search", "--kind", "access", "--caller", "Person::aaron", "--operation", "readApprovals"];
    let found = server.cli(&server.token(AUDITOR, None, &[]), &[&search[..], &["--json"]].concat()).await;
    assert_eq!((found.code, found.stdout.lines().count()), (0, 1), "{found:?}");
    server.terminate().await;
    server.log_verifies_offline().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_follows_the_log_comes_to_its_end() {
    let server = Server::dev().await;
    let aaron = server.person(AUDITOR).await;
    let end = async || {
        let mut request = ListRecordsRequest { page_size: 1_000, ..ListRecordsRequest::default() };
        loop {
            let page = aaron.list_records(request.clone()).await.unwrap();
            if page.next_page_token.is_empty() {
                return page.records.last().unwrap().index;
            }
            request.page_token = page.next_page_token;
        }
    };
    // The first read is recorded, and none of those that look for that.
    let before = end().await;
    let recorded = async {
        while end().await == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, recorded).await.unwrap();
    for _ in 0..50 {
        assert_eq!(end().await, before + 1);
    }
}
