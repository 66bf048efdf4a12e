//! Broken glass through the public API and the command line: who breaks it, what it lifts, who is told, and who reviews it.

use countersign::client::{Client, ClientError, operation};
use countersign::proto::*;
use serde_json::json;
use tonic::Code;

use super::shared::{Ledger, denied, failed, join, leave, not_found, publish};
use crate::harness::flow::{code, open, reason, refused};
use crate::harness::{Server, fresh_id};

/// A change of one production system: needs one of the SREs.
fn change(hosts: i64) -> Operation {
    let input = json!({"key": "pool", "value": "64", "blast_radius": hosts});
    operation("change_config", ("System", "checkout"), input, json!({})).unwrap()
}

fn breaking(session: &str, operation: &Operation) -> BreakGlassRequest {
    BreakGlassRequest {
        session_id: session.to_owned(),
        operation: Some(operation.clone()),
        audience: "prod".to_owned(),
        reason: "checkout is down, and nobody answers".to_owned(),
        mint: true,
        request_id: fresh_id(),
    }
}

fn closing(review: &str) -> CloseReviewRequest {
    CloseReviewRequest { review_id: review.to_owned(), comment: "was right".to_owned(), request_id: fresh_id() }
}

async fn redeem(server: &Server, token: &str, operation: &Operation) -> Result<RedeemResponse, ClientError> {
    let request = RedeemRequest {
        token: token.to_owned(),
        operation: Some(operation.clone()),
        audience: "prod".to_owned(),
        request_id: fresh_id(),
        ..RedeemRequest::default()
    };
    server.person("service:ci").await.redeem(request).await
}

/// Breaks the glass, or fails the test.
async fn must_break(nick: &Client, session: &str) -> (String, MintedCapability) {
    let answer = nick.break_glass(breaking(session, &change(10))).await.unwrap();
    let decision = answer.decision.unwrap();
    assert_eq!(decision.verdict(), Verdict::Allow, "{decision:?}");
    (answer.review_id, decision.capability.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_with_act_breaks_no_glass() {
    let server = Server::dev().await;
    let nick = server.person("nick").await;
    let session = open(&nick).await;
    let mut ledger = Ledger::of(&server).await;
    for (who, operator) in [
        ("agent:ops-bot", Some("nick")),
        ("service:gateway", Some("nick")),
        ("agent:ops-bot", None),
        ("service:ci", None),
    ] {
        let client = server.client(who, operator, &[]).await;
        let answer = client.break_glass(breaking(&session, &change(10))).await;
        assert_eq!(refused(answer), denied("VOTER_NOT_ELIGIBLE"), "{who} for {operator:?}");
    }
    // Nor in a session of its own that acts for the person.
    let bot = server.client("agent:ops-bot", Some("nick"), &[]).await;
    let own = open(&bot).await;
    assert_eq!(refused(bot.break_glass(breaking(&own, &change(10))).await), denied("VOTER_NOT_ELIGIBLE"));
    ledger.expect(&[("refusal", 5), ("session_opened", 1)]).await;
    must_break(&nick, &session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_permitted_breaks_no_glass_and_a_wide_change_waits_for_people() {
    let server = Server::dev().await;
    let alice = server.person("alice").await;
    let session = open(&alice).await;
    let refusal = refused(alice.break_glass(breaking(&session, &change(10))).await);
    assert_eq!(refusal, denied("ADMINISTRATION_DENIED"));
    let nick = server.person("nick").await;
    let session = open(&nick).await;
    let refusal = refused(nick.break_glass(breaking(&session, &change(51))).await);
    assert_eq!(refusal, denied("ADMINISTRATION_DENIED"));
    let refusal = refused(alice.break_glass(breaking(&session, &change(10))).await);
    assert_eq!(refusal, denied("SESSION_MISMATCH"));
    let staging = operation(
        "change_config",
        ("System", "checkout-staging"),
        json!({"key": "pool", "value": "64", "blast_radius": 1}),
        json!({}),
    );
    let allowed = nick.break_glass(breaking(&session, &staging.unwrap())).await;
    assert_eq!(refused(allowed), failed("GLASS_UNNEEDED"));
    let wordless = BreakGlassRequest { reason: String::new(), ..breaking(&session, &change(10)) };
    assert_eq!(code(&nick.break_glass(wordless).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_forbid_is_not_lifted_by_breaking_glass() {
    let server = Server::dev().await;
    let nick = server.person("nick").await;
    let session = open(&nick).await;
    let own_role = json!({"grantee": "Person::\"nick\"", "expires_in": "1h"});
    let grant = operation("grant_role", ("Role", "admin"), own_role, json!({})).unwrap();
    let request = BreakGlassRequest { audience: "iam".to_owned(), ..breaking(&session, &grant) };
    let answer = nick.break_glass(request).await.unwrap();
    let decision = answer.decision.unwrap();
    assert_eq!((decision.verdict(), answer.review_id.as_str()), (Verdict::Deny, ""));
    assert!(decision.capability.is_none());
    assert!(decision.reasons.iter().any(|reason| reason.policy_id == "never-ones-own-role"), "{decision:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_review_blocks_the_next_break_glass_also_after_a_crash() {
    let mut server = Server::dev().await;
    let nick = server.person("nick").await;
    let session = open(&nick).await;
    let mut ledger = Ledger::of(&server).await;
    let (review, capability) = must_break(&nick, &session).await;
    ledger.expect(&[("minted", 1)]).await;
    redeem(&server, &capability.token, &change(10)).await.unwrap();
    server.kill().await;
    server.restart().await;
    let nick = server.person("nick").await;
    let blocked = nick.break_glass(breaking(&session, &change(10))).await;
    assert_eq!((code(&blocked), reason(&blocked)), failed("REVIEW_OPEN"));
    assert!(blocked.unwrap_err().to_string().contains(&format!("countersign reviews close {review}")));

    server.person("sam").await.close_review(closing(&review)).await.unwrap();
    must_break(&nick, &session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_broke_the_glass_cannot_close_the_review() {
    let server = Server::dev().await;
    let nick = server.person("nick").await;
    let session = open(&nick).await;
    let (review, _) = must_break(&nick, &session).await;
    assert_eq!(refused(nick.close_review(closing(&review)).await), denied("VOTER_EXCLUDED"));
    // rolf owns the enforcement point; nina was passed over, and dana knows of it, as everybody here may.
    assert_eq!(refused(server.person("rolf").await.close_review(closing(&review)).await), denied("VOTER_EXCLUDED"));
    for who in ["nina", "dana"] {
        let closed = server.person(who).await.close_review(closing(&review)).await;
        assert_eq!(refused(closed), denied("ADMINISTRATION_DENIED"), "{who}");
    }
    let hidden = server.client("agent:ops-bot", Some("sam"), &[]).await;
    let hidden = hidden.get_review(GetReviewRequest { review_id: review.clone() }).await;
    assert_eq!(refused(hidden), not_found("REVIEW_NOT_FOUND"));
    let through = server.client("agent:ops-bot", Some("sam"), &[]).await.close_review(closing(&review)).await;
    assert_eq!(refused(through), denied("VOTER_NOT_ELIGIBLE"));
    let sam = server.person("sam").await;
    let shown = sam.get_review(GetReviewRequest { review_id: review.clone() }).await.unwrap().review.unwrap();
    assert!(shown.caller_may_close && shown.state() == ReviewState::Open);
    assert_eq!(shown.passed_over.iter().map(|person| person.id.as_str()).collect::<Vec<_>>(), ["nina"]);
    let closed = sam.close_review(closing(&review)).await.unwrap().review.unwrap();
    assert_eq!((closed.state(), closed.closed_by.unwrap().id.as_str()), (ReviewState::Closed, "sam"));
    assert_eq!(refused(sam.close_review(closing(&review)).await), failed("REVIEW_CLOSED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_glass_is_bounded_in_rate() {
    let server = Server::dev().await;
    let (nick, sam) = (server.person("nick").await, server.person("sam").await);
    let session = open(&nick).await;
    for _time in 0..3 {
        let (review, _) = must_break(&nick, &session).await;
        sam.close_review(closing(&review)).await.unwrap();
    }
    let often = nick.break_glass(breaking(&session, &change(10))).await;
    assert_eq!((code(&often), reason(&often).as_str()), (Code::ResourceExhausted, "GLASS_BROKEN_TOO_OFTEN"));
    let open = ListReviewsRequest { states: vec![ReviewState::Open.into()], ..ListReviewsRequest::default() };
    assert!(sam.list_reviews(open).await.unwrap().reviews.is_empty());
    assert_eq!(sam.list_reviews(ListReviewsRequest::default()).await.unwrap().reviews.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_capability_dies_when_the_policy_stops_permitting_break_glass() {
    let server = Server::dev().await;
    let nick = server.person("nick").await;
    let session = open(&nick).await;
    let (_, capability) = must_break(&nick, &session).await;
    // He still answers what SREs are asked.
    join(server.bundle(), "nick", "sre");
    leave(server.bundle(), "nick", "on-call");
    publish(&server).await;
    assert_eq!(refused(redeem(&server, &capability.token, &change(10)).await), denied("POLICY_DENIED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_breaks_the_glass_and_reviews_it_and_the_log_shows_both() {
    let server = Server::dev().await;
    let (nick, sam) = (server.token("nick", None, &[]), server.token("sam", None, &[]));
    let opened = server.cli(&nick, &["session", "open", "--purpose", "incident 4711", "--json"]).await.json();
    let session = opened["session_id"].as_str().unwrap().to_owned();
    let args = [
        "break-glass",
        "change_config",
        "System::checkout",
        "--audience",
        "prod",
        "--session",
        &session,
        "--input",
        r#"{"key": "pool", "value": "64", "blast_radius": 10}"#,
        "--reason",
        "down\u{1b}[2J",
        "--mint",
    ];
    let broken = server.cli(&nick, &[&args[..], &["--json"]].concat()).await;
    assert_eq!(broken.code, 0, "{broken:?}");
    let broken = broken.json();
    let review = broken["review_id"].as_str().unwrap();
    assert_eq!(broken["decision"]["verdict"], "ALLOW");
    let again = server.cli(&nick, &args).await;
    assert!(again.code == 1 && again.stderr.contains("REVIEW_OPEN") && again.stderr.contains(review), "{again:?}");

    let listed = server.cli(&sam, &["reviews", "list", "--open"]).await;
    assert!(listed.stdout.contains(review) && !listed.stdout.contains('\u{1b}'), "{listed:?}");
    let shown = server.cli(&sam, &["reviews", "show", review]).await;
    assert!(shown.stdout.contains("production-change-needs-sre") && shown.stdout.contains("nina"), "{shown:?}");
    let own = server.cli(&nick, &["reviews", "close", review, "--comment", "fine", "--json"]).await;
    assert_eq!(own.json_error()["reason"], "VOTER_EXCLUDED");
    let closed = server.cli(&sam, &["reviews", "close", review, "--comment", "was right", "--json"]).await;
    assert_eq!((closed.code, closed.json()["state"].as_str()), (0, Some("closed")), "{closed:?}");
    let none = server.cli(&sam, &["reviews", "list", "--open", "--json"]).await;
    assert_eq!((none.code, none.stdout.as_str()), (0, ""));

    let aaron = server.token("aaron", None, &[]);
    let log = server.cli(&aaron, &["audit", "list", "--kind", "review_closed", "--full"]).await;
    assert!(log.stdout.contains(review) && log.stdout.contains("was right"), "{log:?}");
    let decisions = server.cli(&aaron, &["audit", "list", "--kind", "decision", "--full"]).await;
    assert!(decisions.stdout.contains("glass_broken"), "{decisions:?}");
    let verified = server.cli(&aaron, &["audit", "verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
}
