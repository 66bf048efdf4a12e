//! Who is a person, and who only says so.

use countersign::proto::decision_service_client::DecisionServiceClient;
use countersign::proto::session_service_client::SessionServiceClient;
use countersign::proto::*;
use serde_json::json;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::{AUDITOR, Server};

#[tokio::test(flavor = "multi_thread")]
async fn agents_services_and_whoever_acts_for_a_person_do_not_vote() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let pending = ask(&agent, &session, &export(5)).await.unwrap();
    let before = server.audit_records().await.len();
    let voters: [(&str, Option<&str>, &[&str]); 6] = [
        ("agent:etl-bot", None, &[]),
        ("service:ci", None, &[]),
        ("service:warehouse-gateway", None, &[]),
        // With the credentials of people who may answer, but in somebody else's hands.
        ("agent:chat-bot", Some("dana"), &[]),
        ("agent:ops-bot", Some("dave"), &["service:ci"]),
        ("dave", Some("dana"), &[]),
    ];
    for (subject, operator, via) in voters {
        let client = server.client(subject, operator, via).await;
        for verdict in [VoteVerdict::Approve, VoteVerdict::Deny] {
            let vote = client.cast_vote(ballot(&pending, verdict)).await;
            assert_eq!(refused(vote).0, Code::PermissionDenied, "{subject} for {operator:?}");
        }
    }
    let after = show(&agent, &pending.approval_id).await.unwrap();
    assert_eq!((after.state(), after.votes.len()), (ApprovalState::Pending, 0));
    let kinds = server.audit_kinds_since(before).await;
    assert_eq!(kinds, [("refusal".to_owned(), 12)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_is_recorded_with_the_credential_it_came_by_and_found_by_that() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let pending = ask(&agent, &session, &export(5)).await.unwrap();
    vote(&server.person("dana").await, &pending.approval_id, VoteVerdict::Approve).await.unwrap();
    let records = server.audit_records().await;
    let cast = records.iter().find(|record| record.kind == "vote").unwrap();
    let mut channel = cast.content["channel"].clone();
    let authenticated = channel["authenticated_at"].take().as_i64().unwrap();
    assert!(0 < authenticated && authenticated <= cast.content["at"].as_i64().unwrap(), "{authenticated}");
    assert_eq!(
        channel,
        json!({
            "kind": "grpc", "rpc": "CastVote", "issuer": "https://dev.countersign.invalid",
            "audience": "countersign-approve", "authenticated_at": null, "amr": ["dev"],
        })
    );
    let token = server.token(AUDITOR, None, &[]);
    for (name, found) in [("grpc", 1), ("https://dev.countersign.invalid", 1), ("https://login.example.com", 0)] {
        let search = server.cli(&token, &["audit", "search", "--channel", name, "--json"]).await;
        assert_eq!((search.code, search.stdout.lines().count()), (0, found), "{name}: {search:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_says_about_identity_is_ignored() {
    let server = Server::dev().await;
    let claimed = [
        ("x-forwarded-user", "dana"),
        ("x-remote-user", "dana"),
        ("x-countersign-principal", "Person::\"dana\""),
        ("x-countersign-tenant", "other"),
        ("x-forwarded-client-cert", "Subject=\"CN=dana\""),
        ("x-forwarded-authorization", "Bearer x"),
        ("forwarded", "for=dana;by=gateway"),
        ("cookie", "session=dana"),
    ];
    let request = || OpenSessionRequest {
        purpose: "a test".to_owned(),
        request_id: crate::harness::fresh_id(),
        ..OpenSessionRequest::default()
    };
    let mut sessions = SessionServiceClient::new(server.channel().await);
    let nobody = sessions.open_session(Server::request(request(), "", &claimed)).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let token = server.token(AGENT, Some(OPERATOR), &[]);
    let session = sessions.open_session(Server::request(request(), &token, &claimed)).await.unwrap();
    let session = session.into_inner().session.unwrap();
    assert_eq!(session.principal.unwrap().id, "etl-bot");
    assert_eq!(session.operator.unwrap().id, "olivia");
    // Two credentials are none: whoever stands between may have read the other one.
    let twice = format!("Bearer {token}");
    let both = sessions.open_session(Server::request(request(), &token, &[("authorization", &twice)])).await;
    assert_eq!(both.unwrap_err().code(), Code::Unauthenticated);
    let kinds = server.audit_kinds_since(0).await;
    assert_eq!(kinds.get("session_opened"), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn naming_somebody_else_takes_a_policy() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let other = Entity { r#type: "Agent".to_owned(), id: "etl-bot".to_owned() };
    let asking = DecideRequest { principal: Some(other.clone()), ..question(&session, &describe()) };
    for (subject, allowed) in [("agent:ops-bot", false), ("olivia", false), ("alice", false), ("service:gateway", true)]
    {
        let client = server.person(subject).await;
        let answer = client.decide(DecideRequest { request_id: String::new(), ..asking.clone() }).await;
        if allowed {
            assert_eq!(answer.unwrap().verdict(), Verdict::Allow, "{subject}");
        } else {
            assert_eq!(refused(answer), (Code::PermissionDenied, "ACT_FOR_DENIED".to_owned()), "{subject}");
        }
    }
    // A session of one agent is of no use to another.
    let stranger = server.client("agent:ops-bot", Some(OPERATOR), &[]).await;
    let answer = decide(&stranger, &session, &describe()).await;
    assert_eq!(refused(answer), (Code::PermissionDenied, "SESSION_MISMATCH".to_owned()));
    let alone = server.client("agent:etl-bot", Some("dana"), &[]).await;
    let answer = decide(&alone, &session, &describe()).await;
    assert_eq!(refused(answer), (Code::PermissionDenied, "SESSION_MISMATCH".to_owned()));
    let mut decisions = DecisionServiceClient::new(server.channel().await);
    let both = DecideRequest { principal_credential: server.token(AGENT, None, &[]), ..asking };
    let gateway = server.token("service:gateway", None, &[]);
    let status = decisions.decide(Server::request(both, &gateway, &[])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
