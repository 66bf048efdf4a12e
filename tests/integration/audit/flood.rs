//! A flood of refusals is bounded, and drowns nobody.

use countersign::proto::*;
use futures::StreamExt as _;
use tonic::Code;

use crate::harness::flow::*;
use crate::harness::{PATIENCE, Server};

const FLOOD: usize = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_is_counted_and_the_others_are_served() {
    let mut server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let gateway = server.person(REDEEMER).await;
    let session = open(&agent).await;
    let (running, revoked) =
        (must_mint(&agent, &session, &describe(), "").await, must_mint(&agent, &session, &describe(), "").await);
    redeem(&gateway, &running.token, &describe()).await.unwrap();
    let before = server.audit_records().await.len();

    let flooder = server.person("agent:chat-bot").await;
    let (half, reached) = tokio::sync::oneshot::channel();
    let ask = |n: usize| {
        let flooder = flooder.clone();
        let session = session.clone();
        async move {
            // Refusals, and denials, which are as cheap to ask for.
            let request = DecideRequest { request_id: String::new(), ..question(&session, &export(n as i64 + 1)) };
            let refused = flooder.decide_batch(DecideBatchRequest { items: vec![request] }).await;
            let end = EndSessionRequest { session_id: session, ..EndSessionRequest::default() };
            let ended = flooder.end_session(end).await;
            assert_eq!(code(&ended), Code::PermissionDenied);
            assert!(refused.is_ok());
        }
    };
    let flood = tokio::spawn({
        let asks: Vec<_> = (0..FLOOD).map(ask).collect();
        async move {
            let mut half = Some(half);
            let mut asks = futures::stream::iter(asks).buffer_unordered(64);
            let mut done = 0;
            while asks.next().await.is_some() {
                done += 1;
                if done == FLOOD / 2 {
                    half.take().unwrap().send(()).unwrap();
                }
            }
        }
    });
    // In the middle of it, what must work works.
    reached.await.unwrap();
    complete(&gateway, &running.capability_id).await.unwrap();
    revoke(&server.person("sam").await, &revoked.capability_id).await.unwrap();
    assert_eq!(decide(&agent, &session, &describe()).await.unwrap().verdict(), Verdict::Allow);
    tokio::time::timeout(PATIENCE * 4, flood).await.unwrap().unwrap();
    // What is counted is written by the end at the latest.
    server.terminate().await;
    server.restart().await;

    let records = server.audit_since(before).await;
    let of_flooder: Vec<_> = records
        .iter()
        .filter(|record| {
            record.text("/caller/entity/id") == "chat-bot"
                || record.text("/caller/principal/id") == "chat-bot"
                || record.bytes.windows(8).any(|w| w == b"chat-bot")
        })
        .collect();
    let counted: u64 =
        records.iter().filter(|r| r.kind == "refusals").map(|r| r.content["count"].as_u64().unwrap()).sum();
    let singly = of_flooder.iter().filter(|record| record.kind == "refusal").count();
    assert_eq!(singly as u64 + counted, 2 * FLOOD as u64, "each is accounted for");
    // A burst, what time allows on top of it, and the counts.
    assert!(records.len() < 2 * FLOOD / 3, "{} records for {} refusals", records.len(), 2 * FLOOD);
    let kinds = server.audit_kinds_since(before).await;
    assert_eq!((kinds.get("complete"), kinds.get("revoke")), (Some(&1), Some(&1)), "{kinds:?}");
    server.terminate().await;
    server.log_verifies_offline().await;
}
