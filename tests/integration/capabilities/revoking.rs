//! Revocation by every axis: once it is acknowledged, nothing that came to be before is redeemed (I6). And whoever caches is told.

use countersign::client::{Client, ClientError, RevocationWatch};
use countersign::proto::revocation_target::Axis;
use countersign::proto::*;
use tonic::Code;

use crate::approvals::shared::{Ledger, approved, denied, invalid, not_found, query, within};
use crate::harness::flow::{
    OPERATOR, ask, capability_state, code, decide, end, export, must_mint, open, redeem, refused, reload, revoke, show,
};
use crate::harness::{Server, fresh_id};

fn named(kind: &str, id: &str) -> Entity {
    Entity { r#type: kind.to_owned(), id: id.to_owned() }
}

async fn revoke_all(client: &Client, axis: Axis) -> Result<RevokeAllResponse, ClientError> {
    let target = Some(RevocationTarget { axis: Some(axis) });
    client.revoke_all(RevokeAllRequest { target, reason: "a test".to_owned(), request_id: fresh_id() }).await
}

async fn bundle(client: &Client) -> String {
    client.get_bundle(GetBundleRequest {}).await.unwrap().bundle.unwrap().digest
}

#[tokio::test(flavor = "multi_thread")]
async fn no_redeem_starts_after_a_revocation_by_any_axis_is_acknowledged() {
    let server = Server::dev().await;
    let (agent, sam, warehouse) = (server.etl_bot().await, server.person("sam").await, server.warehouse().await);
    let bundle = bundle(&sam).await;
    let (mut redeemed, mut raced) = (0, 0);
    for round in 0..48 {
        let session = open(&agent).await;
        let mut tokens = Vec::new();
        for _ in 0..4 {
            tokens.push(must_mint(&agent, &session, &query(), "").await);
        }
        let late = tokens.pop().unwrap();
        let axis = match round % 6 {
            0 => Axis::CapabilityId(late.capability_id.clone()),
            1 => Axis::SessionId(session.clone()),
            2 => Axis::Principal(named("Agent", "etl-bot")),
            3 => Axis::Operator(named("Person", OPERATOR)),
            4 => Axis::BundleDigest(bundle.clone()),
            _ => Axis::Everything(true),
        };
        let operation = query();
        let revoking = async {
            revoke_all(&sam, axis.clone()).await.unwrap();
            // The acknowledgement is there, so this one cannot succeed, whatever is still under way.
            redeem(&warehouse, &late.token, &operation).await
        };
        let at_once = tokens.iter().map(|minted| redeem(&warehouse, &minted.token, &operation));
        let (after, results) = tokio::join!(revoking, futures::future::join_all(at_once));
        let over = refused(after);
        assert!(over == denied("CAPABILITY_REVOKED") || over == denied("SESSION_OVER"), "{axis:?}: {over:?}");
        for result in results {
            raced += 1;
            if code(&result) == Code::Ok {
                redeemed += 1;
            } else {
                assert_ne!(round % 6, 0, "another capability: {result:?}");
                assert_eq!(code(&result), Code::PermissionDenied, "{axis:?}: {result:?}");
            }
        }
        // What is decided afterwards is good.
        let again = open(&agent).await;
        let minted = must_mint(&agent, &again, &query(), "").await;
        redeem(&warehouse, &minted.token, &query()).await.unwrap();
    }
    let records = server.audit_records().await;
    let logged = records.iter().filter(|record| record.kind == "redeem").count();
    assert_eq!((logged, raced), (redeemed + 48, 144));
}

#[tokio::test]
async fn an_approved_approval_is_revoked_by_its_parties_and_by_security_with_what_rests_on_it() {
    let server = Server::dev().await;
    let (agent, warehouse) = (server.etl_bot().await, server.warehouse().await);
    let session = open(&agent).await;
    for (rows, revoker) in [(1, agent.clone()), (2, server.person("olivia").await), (3, server.person("sam").await)] {
        let approval = approved(&server, &agent, &session, &export(rows)).await.approval_id;
        let minted = must_mint(&agent, &session, &export(rows), &approval).await;
        for stranger in ["dana", "service:warehouse-gateway"] {
            let result = revoke_all(&server.person(stranger).await, Axis::ApprovalId(approval.clone())).await;
            assert_eq!(refused(result), not_found("APPROVAL_NOT_FOUND"), "{stranger}");
        }
        revoke_all(&revoker, Axis::ApprovalId(approval.clone())).await.unwrap();
        assert_eq!(refused(redeem(&warehouse, &minted.token, &export(rows)).await), denied("CAPABILITY_REVOKED"));
        let now = show(&agent, &approval).await.unwrap();
        assert_eq!(now.state(), ApprovalState::Void);
        assert!(now.state_detail.contains("revoked it"), "{}", now.state_detail);
    }
}

#[tokio::test]
async fn strangers_revoke_nothing_wide_and_the_request_must_make_sense() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let bundle = bundle(&agent).await;
    let mut ledger = Ledger::of(&server).await;
    for stranger in ["dana", "alice", "agent:chat-bot", "service:warehouse-gateway"] {
        let stranger = server.person(stranger).await;
        for axis in [
            Axis::Principal(named("Agent", "etl-bot")),
            Axis::Operator(named("Person", OPERATOR)),
            Axis::BundleDigest(bundle.clone()),
            Axis::Everything(true),
        ] {
            assert_eq!(refused(revoke_all(&stranger, axis).await), denied("ADMINISTRATION_DENIED"));
        }
    }
    // The agent acts for olivia here, and has no say over what it does for others.
    let own = revoke_all(&agent, Axis::Principal(named("Agent", "etl-bot"))).await;
    assert_eq!(refused(own), denied("ADMINISTRATION_DENIED"));
    let sam = server.person("sam").await;
    for axis in [
        Axis::Everything(false),
        Axis::Principal(named("Dataset", "docs")),
        Axis::Operator(named("Agent", "etl-bot")),
        Axis::BundleDigest("no digest".to_owned()),
        Axis::CapabilityId("cap_".to_owned()),
    ] {
        assert_eq!(refused(revoke_all(&sam, axis).await), invalid());
    }
    let unknown = revoke_all(&sam, Axis::BundleDigest("ab".repeat(32))).await;
    assert_eq!(refused(unknown), not_found("BUNDLE_NOT_FOUND"));
    let without = RevokeAllRequest { target: None, reason: "x".to_owned(), request_id: fresh_id() };
    assert_eq!(refused(sam.revoke_all(without).await), invalid());
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Minted);
    ledger.expect(&[("refusal", 24)]).await;
    // Olivia herself takes back what is done for her.
    revoke_all(&server.person(OPERATOR).await, Axis::Operator(named("Person", OPERATOR))).await.unwrap();
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Revoked);
    ledger.expect(&[("revocation", 1)]).await;
}

#[tokio::test]
async fn what_was_revoked_stays_so_after_a_kill_and_a_new_bundle() {
    let mut server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let pending = ask(&agent, &session, &export(7)).await.unwrap().approval_id;
    revoke_all(&server.person("sam").await, Axis::Everything(true)).await.unwrap();
    server.kill().await;
    server.restart().await;
    let (agent, warehouse) = (server.etl_bot().await, server.warehouse().await);
    for _ in 0..2 {
        assert_eq!(refused(redeem(&warehouse, &minted.token, &query()).await), denied("SESSION_OVER"));
        assert_eq!(refused(decide(&agent, &session, &query()).await), denied("SESSION_OVER"));
        assert_eq!(show(&agent, &pending).await.unwrap().state(), ApprovalState::Void);
        server.bundle().change(|files| {
            let manifest = files.get_mut("bundle.toml").unwrap();
            *manifest = manifest
                .lines()
                .map(|line| if line.starts_with("revision") { "revision = 9000" } else { line })
                .collect::<Vec<_>>()
                .join("\n");
        });
        reload(&server.person("alice").await).await.unwrap();
    }
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    redeem(&warehouse, &minted.token, &query()).await.unwrap();
}

/// The next revocation, whatever signs of life there are.
async fn next(watch: &mut RevocationWatch) -> Axis {
    let waiting = async {
        loop {
            if let Some(revocation) = watch.next().await.unwrap().revocation {
                return revocation.target.unwrap().axis.unwrap();
            }
        }
    };
    within("a revocation", waiting).await
}

#[tokio::test]
async fn an_enforcement_point_is_told_of_every_revocation_also_of_those_while_it_was_away() {
    let mut server = Server::dev().await;
    let (agent, sam) = (server.etl_bot().await, server.person("sam").await);
    let mut watch = server.warehouse().await.watch_revocations("");
    let begin = within("where it begins", watch.next()).await.unwrap();
    assert_eq!(begin.revocation, None);

    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    revoke(&agent, &minted.capability_id).await.unwrap();
    assert_eq!(next(&mut watch).await, Axis::CapabilityId(minted.capability_id));
    let approval = approved(&server, &agent, &session, &export(1)).await.approval_id;
    revoke_all(&agent, Axis::ApprovalId(approval.clone())).await.unwrap();
    assert_eq!(next(&mut watch).await, Axis::ApprovalId(approval));
    end(&agent, &session).await.unwrap();
    assert_eq!(next(&mut watch).await, Axis::SessionId(session));
    let principal = Axis::Principal(named("Agent", "etl-bot"));
    let sequence = revoke_all(&sam, principal.clone()).await.unwrap().sequence;
    assert_eq!(next(&mut watch).await, principal);
    // A little later it is said that this was all of it.
    let confirmed = within("a sign of life", watch.next()).await.unwrap();
    assert_eq!((confirmed.revocation, confirmed.complete_through), (None, sequence));

    let away = watch.resume_token().to_owned();
    drop(watch);
    let everything = revoke_all(&sam, Axis::Everything(true)).await.unwrap().sequence;
    assert!(everything > sequence);
    server.restart().await;
    let mut back = server.warehouse().await.watch_revocations(&away);
    assert_eq!(next(&mut back).await, Axis::Everything(true));

    let stranger = server.person("dana").await.watch_revocations("").next().await;
    assert_eq!(refused(stranger), denied("ADMINISTRATION_DENIED"));
    let nonsense = server.warehouse().await.watch_revocations("nonsense").next().await;
    assert_eq!(refused(nonsense), invalid());
    // A store of another life cannot say what it was told.
    let (_, rest) = away.split_once('.').unwrap();
    let other = server.warehouse().await.watch_revocations(&format!("77.{rest}")).next().await;
    assert_eq!(refused(other), (Code::OutOfRange, "REVOCATIONS_MISSED".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_are_told_soon() {
    let server = Server::dev().await;
    let sam = server.person("sam").await;
    let mut watches = Vec::new();
    for _ in 0..16 {
        let mut watch = server.warehouse().await.watch_revocations("");
        within("where it begins", watch.next()).await.unwrap();
        watches.push(watch);
    }
    revoke_all(&sam, Axis::Everything(true)).await.unwrap();
    for watch in &mut watches {
        assert_eq!(next(watch).await, Axis::Everything(true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_revokes_by_every_axis_and_watches() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    let token = server.token("sam", None, &[]);
    let principal = ["revoke", "--principal", "Agent::etl-bot", "--reason", "it behaves oddly", "--json"];
    let revoked = server.cli(&token, &principal).await;
    assert_eq!(
        (revoked.code, revoked.json()["revoked"]["principal"]["id"].as_str()),
        (0, Some("etl-bot")),
        "{revoked:?}"
    );
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Revoked);
    let human = server.cli(&token, &["revoke", "--everything", "--reason", "incident"]).await;
    assert_eq!((human.code, human.stdout.contains("REVOKED")), (0, true), "{human:?}");
    for wrong in [&["revoke", "--reason", "x"][..], &["revoke", "--everything", "--session", "s", "--reason", "x"]] {
        assert_eq!(server.cli(&token, wrong).await.code, 2, "{wrong:?}");
    }
    let denied = server.cli(&server.token("dana", None, &[]), &["revocations", "watch", "--json"]).await;
    assert_eq!((denied.code, denied.json_error()["reason"].as_str()), (1, Some("ADMINISTRATION_DENIED")), "{denied:?}");
}
