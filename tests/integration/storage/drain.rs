//! SIGTERM: what runs ends, nothing new begins, and the exit is a good one.

use std::collections::BTreeSet;

use countersign::proto::approval_service_client::ApprovalServiceClient;
use countersign::proto::*;
use futures::StreamExt as _;
use tonic::Code;

use crate::harness::Server;
use crate::harness::flow::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_was_answered_and_the_exit_code_is_zero() {
    let mut server = Server::dev().await;
    let mut running = Vec::new();
    let (first, answered) = tokio::sync::watch::channel(0_usize);
    let first = std::sync::Arc::new(first);
    for _ in 0..4 {
        let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
        let session = open(&agent).await;
        let first = std::sync::Arc::clone(&first);
        running.push(tokio::spawn(async move {
            let one = || {
                let (agent, session, first) = (agent.clone(), session.clone(), first.clone());
                async move {
                    let answer = mint(&agent, &session, &describe(), "").await;
                    first.send_modify(|n| *n += 1);
                    answer
                }
            };
            futures::stream::iter((0..2_000).map(|_| one())).buffer_unordered(32).collect::<Vec<_>>().await
        }));
    }
    let mut answered = answered.clone();
    answered.wait_for(|n| *n >= 200).await.unwrap();
    let exited = server.terminate().await;
    assert_eq!(exited.status.code(), Some(0), "{exited:?}");
    assert!(!exited.stderr.contains("cut off"), "{}", exited.stderr);
    let mut told = BTreeSet::new();
    let mut turned_away = 0;
    for client in running {
        for answer in client.await.unwrap() {
            match answer {
                Ok(answer) => assert!(told.insert(answer.decision_id)),
                Err(error) => {
                    assert_eq!(error.refusal().unwrap().code(), Code::Unavailable, "{error}");
                    turned_away += 1;
                }
            }
        }
    }
    assert!(told.len() >= 200 && turned_away > 0, "{} and {turned_away}", told.len());
    server.log_verifies_offline().await;
    server.restart().await;
    let records = server.audit_records().await;
    let decided: BTreeSet<_> =
        records.iter().filter(|r| r.kind == "decision").map(|r| r.text("/decision").to_owned()).collect();
    assert_eq!(decided, told, "whoever was decided about was told, and nobody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_does_not_hold_the_server_up() {
    let mut server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let pending = ask(&agent, &session, &export(1)).await.unwrap();
    let mut approvals = ApprovalServiceClient::new(server.channel().await);
    let token = server.token("dana", None, &[]);
    let watching = approvals.watch_approvals(Server::request(WatchApprovalsRequest::default(), &token, &[])).await;
    let mut watching = watching.unwrap().into_inner();
    let first = watching.message().await.unwrap().unwrap();
    assert_eq!(first.approval.unwrap().approval_id, pending.approval_id);
    let exited = server.terminate().await;
    assert_eq!(exited.status.code(), Some(0), "{exited:?}");
    assert!(!exited.stderr.contains("cut off"), "the stream was ended in good order: {}", exited.stderr);
    // It ends, so that the client goes elsewhere.
    while let Ok(Some(_)) = watching.message().await {}
    server.restart().await;
    let dana = server.person("dana").await;
    let mut resumed = dana.watch_approvals(None, &first.resume_token);
    vote(&dana, &pending.approval_id, VoteVerdict::Approve).await.unwrap();
    let next = tokio::time::timeout(crate::harness::PATIENCE, resumed.next()).await.unwrap().unwrap();
    assert_eq!((next.approval_id, next.votes.len()), (pending.approval_id, 1), "where it broke off");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_liveness_are_told() {
    let mut server = Server::dev().await;
    assert_eq!(server.get("/livez").await.0, 200);
    server.until_ready(true).await;
    assert_eq!(server.get("/nonsense").await.0, 404);
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    open(&agent).await;
    let metrics = server.metrics().await;
    assert!(metrics.contains("rpc") && metrics.contains("OpenSession"), "{metrics}");
    server.terminate().await;
    assert!(server.logs().contains("stopped"));
}
