//! Outcomes that nobody reported in time: listed for people, and resolved by somebody who does not stand behind them.

use std::time::Duration;

use countersign::client::{Client, ClientError};
use countersign::proto::*;

use crate::approvals::shared::{denied, failed, half_an_hour_ago, invalid, query};
use crate::harness::flow::{capability_state, complete, must_mint, open, redeem, refused};
use crate::harness::{Options, Server, fresh_id};

async fn unresolved(client: &Client) -> Vec<(String, bool)> {
    let request = ListUnresolvedOutcomesRequest::default();
    let page = client.list_unresolved_outcomes(request).await.unwrap();
    page.outcomes.into_iter().map(|found| (found.capability.unwrap().capability_id, found.caller_may_resolve)).collect()
}

fn resolving(capability: &str) -> ResolveOutcomeRequest {
    ResolveOutcomeRequest {
        capability_id: capability.to_owned(),
        finding: OutcomeFinding::NeverRan.into(),
        note: "the warehouse has no such job".to_owned(),
        request_id: fresh_id(),
    }
}

async fn resolve(client: &Client, capability: &str) -> Result<Capability, ClientError> {
    Ok(client.resolve_outcome(resolving(capability)).await?.capability.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reported_is_listed_and_resolved_by_security_and_by_nobody_behind_it() {
    let begin = half_an_hour_ago();
    let dir = tempfile::tempdir().unwrap();
    let at = |seconds| Options {
        data_dir: Some(dir.path().join("data")),
        clock: Some(begin.plus(Duration::from_secs(seconds))),
        ..Options::default()
    };
    let mut server = Server::start(at(0)).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let minted = must_mint(&agent, &session, &query(), "").await;
        redeem(&server.warehouse().await, &minted.token, &query()).await.unwrap();
        ids.push(minted.capability_id);
    }
    complete(&server.warehouse().await, &ids[0]).await.unwrap();
    let sam = server.person("sam").await;
    assert_eq!(unresolved(&sam).await, []);
    assert_eq!(refused(resolve(&sam, &ids[1]).await), failed("COMPLETION_REFUSED"));
    server.terminate().await;
    drop(server);

    let server = Server::start(at(16 * 60)).await;
    let (agent, sam, warehouse) = (server.etl_bot().await, server.person("sam").await, server.warehouse().await);
    assert_eq!(unresolved(&sam).await, [(ids[1].clone(), true), (ids[2].clone(), true)]);
    assert_eq!(unresolved(&agent).await, [(ids[1].clone(), false), (ids[2].clone(), false)]);
    assert_eq!(unresolved(&server.person("dana").await).await, []);
    assert_eq!(refused(resolve(&server.person("olivia").await, &ids[1]).await), denied("OWN_OUTCOME"));
    assert_eq!(refused(resolve(&server.person("dana").await, &ids[1]).await), denied("ADMINISTRATION_DENIED"));
    assert_eq!(refused(resolve(&agent, &ids[1]).await), denied("VOTER_NOT_ELIGIBLE"));
    for malformed in [
        ResolveOutcomeRequest { finding: OutcomeFinding::Unspecified.into(), ..resolving(&ids[1]) },
        ResolveOutcomeRequest { note: String::new(), ..resolving(&ids[1]) },
        ResolveOutcomeRequest { capability_id: "cap_".to_owned(), ..resolving(&ids[1]) },
    ] {
        assert_eq!(refused(sam.resolve_outcome(malformed).await), invalid());
    }

    let resolved = resolve(&sam, &ids[1]).await.unwrap();
    assert_eq!((resolved.state(), resolved.complete_by), (CapabilityState::Resolved, None));
    assert_eq!(resolved.redeemed_by.unwrap().id, "warehouse-gateway");
    let resolution = resolved.resolution.unwrap();
    assert_eq!(
        (resolution.finding(), resolution.resolved_by.unwrap().id),
        (OutcomeFinding::NeverRan, "sam".to_owned())
    );
    assert_eq!(refused(complete(&warehouse, &ids[1]).await), failed("COMPLETION_REFUSED"));
    assert_eq!(refused(resolve(&sam, &ids[1]).await), failed("COMPLETION_REFUSED"));
    // A late truth is taken as long as nobody resolved it.
    complete(&warehouse, &ids[2]).await.unwrap();
    assert_eq!(capability_state(&agent, &ids[2]).await.unwrap(), CapabilityState::Succeeded);
    assert_eq!(unresolved(&sam).await, []);
    let record = server.audit_records().await.into_iter().find(|record| record.kind == "outcome_resolved").unwrap();
    assert_eq!((record.text("/capability"), record.text("/finding")), (ids[1].as_str(), "never_ran"));

    let token = server.token("sam", None, &[]);
    let none = server.cli(&token, &["outcomes", "list"]).await;
    assert_eq!((none.code, none.stdout.as_str()), (0, ""), "{none:?}");
    let again = ["outcomes", "resolve", &ids[1], "--finding", "never-ran", "--note", "looked", "--json"];
    let again = server.cli(&token, &again).await;
    assert_eq!((again.code, again.json_error()["reason"].as_str()), (1, Some("COMPLETION_REFUSED")), "{again:?}");
}
