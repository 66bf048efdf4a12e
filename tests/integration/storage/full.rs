//! A disk that takes no more: nothing is acknowledged that is not there, and nothing is allowed.

use countersign::proto::*;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::{Options, Server, fresh_id};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_write_allows_nothing_and_keeps_what_it_acknowledged() {
    let unavailable = (Code::Unavailable, "STORE_UNAVAILABLE".to_owned());
    let mut server = Server::start(Options { largest_file: Some(1 << 20), ..Options::default() }).await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let gateway = server.person(REDEEMER).await;
    let session = open(&agent).await;
    let mut spent: Vec<(RedeemRequest, RedeemResponse)> = Vec::new();
    let mut unspent = None;
    let first = loop {
        let capability = match mint(&agent, &session, &describe(), "").await {
            Ok(answer) => answer.capability.unwrap(),
            Err(error) => break error,
        };
        let request = spending(&capability.token, &describe());
        match gateway.redeem(request.clone()).await {
            Ok(receipt) => spent.push((request, receipt)),
            Err(error) => {
                unspent = Some(request);
                break error;
            }
        }
        assert!(spent.len() < 10_000, "the limit of a megabyte was never reached");
    };
    assert_eq!(refused::<()>(Err(first)), unavailable, "after {} redeems", spent.len());
    assert!(spent.len() > 10);

    // Nothing is answered from memory either: what is shown could be decided upon.
    assert_eq!(refused(decide(&agent, &session, &describe()).await), unavailable);
    assert_eq!(refused(mint(&agent, &session, &describe(), "").await), unavailable);
    assert_eq!(refused(ask(&agent, &session, &export(1)).await), unavailable);
    assert_eq!(
        refused(agent.open_session(OpenSessionRequest { purpose: "x".into(), ..Default::default() }).await),
        unavailable
    );
    let (request, _) = spent.last().unwrap();
    let anew = RedeemRequest { request_id: fresh_id(), ..request.clone() };
    assert_eq!(refused(gateway.redeem(anew).await), unavailable);
    server.until_ready(false).await;

    server.kill().await;
    server.make_room();
    server.restart().await;
    server.until_ready(true).await;
    let gateway = server.person(REDEEMER).await;
    for (request, receipt) in &spent {
        let again = gateway.redeem(request.clone()).await.unwrap();
        assert_eq!(again, RedeemResponse { replayed: true, log_index: None, ..receipt.clone() });
    }
    if let Some(request) = unspent {
        // Whether the last one happened nobody knows. The same id settles it, and it happens once.
        let settled = gateway.redeem(request.clone()).await.unwrap();
        assert!(gateway.redeem(request.clone()).await.unwrap().replayed);
        let anew = RedeemRequest { request_id: fresh_id(), ..request };
        assert_eq!(refused(gateway.redeem(anew).await).1, "ALREADY_REDEEMED");
        spent.push((RedeemRequest::default(), settled));
    }
    assert!(server.terminate().await.status.success());
    server.log_verifies_offline().await;
    server.restart().await;
    let records = server.audit_records().await;
    assert_eq!(records.iter().filter(|record| record.kind == "redeem").count(), spent.len(), "one record of each");
}
