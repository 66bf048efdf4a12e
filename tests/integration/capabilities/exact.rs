//! A capability authorizes its digest in its session at its enforcement point, and a wrong attempt does not spend it (I7).

use std::time::Duration;

use countersign::client::operation;
use countersign::proto::*;
use serde_json::json;

use crate::approvals::shared::{Ledger, approved, denied, export_abroad, half_an_hour_ago, query};
use crate::harness::flow::{AUDIENCE, capability_state, describe, export, must_mint, open, redeem, refused, spending};
use crate::harness::{Options, Server};

const MISMATCH: &str = "CAPABILITY_MISMATCH";

#[tokio::test]
async fn what_differs_from_what_was_decided_is_refused_and_spends_nothing() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let approval = approved(&server, &agent, &session, &export(5)).await;
    let minted = must_mint(&agent, &session, &export(5), &approval.approval_id).await;
    let warehouse = server.warehouse().await;
    let mut ledger = Ledger::of(&server).await;

    let good = export(5);
    let input = json!({"rows": 5, "destination": "s3://ours-reports"});
    let of = |name: &str, kind: &str, id: &str| operation(name, (kind, id), input.clone(), json!({})).unwrap();
    let others = [
        // Arguments: more, elsewhere, none, some of them.
        export(6),
        export(500_000),
        export_abroad(5),
        Operation { input: None, ..good.clone() },
        operation("export", ("Dataset", "customers"), json!({"rows": 5}), json!({})).unwrap(),
        // The digest that the token carries, echoed beside other arguments: it is recomputed and not believed.
        operation(
            "export",
            ("Dataset", "customers"),
            json!({"rows": 500_000, "destination": "s3://ours-reports", "digest": approval.digest}),
            json!({}),
        )
        .unwrap(),
        operation("export", ("Dataset", "customers"), json!({"digest": approval.digest}), json!({})).unwrap(),
        // Circumstances.
        operation("export", ("Dataset", "customers"), input.clone(), json!({"digest": approval.digest})).unwrap(),
        // Another action, another resource.
        describe(),
        query(),
        of("export", "Dataset", "telemetry"),
        of("export", "Dataset", "Customers"),
        of("export", "Role", "customers"),
        of("Export", "Dataset", "customers"),
    ];
    for other in &others {
        let result = redeem(&warehouse, &minted.token, other).await;
        assert_eq!(refused(result), denied(MISMATCH), "{other:?}");
    }
    // Another enforcement point: one may not redeem for another, and its own name does not fit the token.
    let at = |audience: &str| RedeemRequest { audience: audience.to_owned(), ..spending(&minted.token, &good) };
    let vault = server.person("service:vault-gateway").await;
    assert_eq!(refused(vault.redeem(at(AUDIENCE)).await), denied("ADMINISTRATION_DENIED"));
    assert_eq!(refused(vault.redeem(at("vault")).await), denied(MISMATCH));
    assert_eq!(refused(warehouse.redeem(at("vault")).await), denied("ADMINISTRATION_DENIED"));
    assert_eq!(refused(server.person("dana").await.redeem(at(AUDIENCE)).await), denied("ADMINISTRATION_DENIED"));
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Minted);
    ledger.expect(&[("refusal", u64::try_from(others.len()).unwrap() + 4)]).await;

    let receipt = redeem(&warehouse, &minted.token, &good).await.unwrap();
    assert_eq!((receipt.digest, receipt.replayed), (approval.digest, false));
    ledger.expect(&[("redeem", 1)]).await;
}

#[tokio::test]
async fn the_capability_of_one_session_is_for_no_action_of_another() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let (first, second) = (open(&agent).await, open(&agent).await);
    let minted = must_mint(&agent, &first, &query(), "").await;
    let twin = must_mint(&agent, &second, &query(), "").await;
    let warehouse = server.warehouse().await;
    // The session is the token's own, so the same operation is another action in each.
    let one = redeem(&warehouse, &minted.token, &query()).await.unwrap();
    let two = redeem(&warehouse, &twin.token, &query()).await.unwrap();
    assert_eq!((one.session_id, two.session_id), (first, second));
    assert_ne!(one.digest, two.digest);
}

#[tokio::test]
async fn an_expired_capability_is_worthless_also_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let begin = half_an_hour_ago();
    let at = |seconds: u64| Options {
        data_dir: Some(data.path().join("data")),
        clock: Some(begin.plus(Duration::from_secs(seconds))),
        ..Options::default()
    };
    let mut server = Server::start(at(0)).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    server.terminate().await;
    drop(server);
    // Capabilities live for five minutes.
    let server = Server::start(at(330)).await;
    let agent = server.etl_bot().await;
    let mut ledger = Ledger::of(&server).await;
    let late = redeem(&server.warehouse().await, &minted.token, &query()).await;
    assert_eq!(refused(late), denied("CAPABILITY_EXPIRED"));
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Expired);
    ledger.expect(&[("refusal", 1)]).await;
    // The session goes on, and a new one can be had.
    let fresh = must_mint(&agent, &session, &query(), "").await;
    redeem(&server.warehouse().await, &fresh.token, &query()).await.unwrap();
}
