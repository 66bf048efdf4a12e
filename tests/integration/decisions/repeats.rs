//! The same request id is the same attempt.

use countersign::proto::*;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::{Server, fresh_id};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_gets_the_same_answer_and_authorizes_nothing_anew() {
    let mut server = Server::dev().await;
    let token = server.token(AGENT, Some(OPERATOR), &[]);
    let agent = server.client_of(&token).await;
    let session = open(&agent).await;
    let before = server.audit_records().await.len();
    let request = DecideRequest { mint: true, ..question(&session, &describe()) };
    let first = agent.decide(request.clone()).await.unwrap();
    assert!(!first.replayed && first.log_index.is_some());
    let stored = DecideResponse { replayed: true, log_index: None, ..first.clone() };
    assert_eq!(agent.decide(request.clone()).await.unwrap(), stored);
    server.restart().await;
    let agent = server.client_of(&token).await;
    assert_eq!(agent.decide(request.clone()).await.unwrap(), stored, "after a restart too, to the byte");
    assert_eq!(server.audit_kinds_since(before).await.get("decision"), Some(&1));
    // Another body under the same id is refused and changes nothing.
    let other = DecideRequest { operation: Some(export(1)), ..request.clone() };
    assert_eq!(refused(agent.decide(other).await), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    let unminted = DecideRequest { mint: false, ..request.clone() };
    assert_eq!(refused(agent.decide(unminted).await).0, Code::AlreadyExists);
    assert_eq!(agent.decide(request).await.unwrap(), stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_under_one_request_id_are_one() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let before = server.audit_records().await.len();
    let request = DecideRequest { mint: true, ..question(&session, &describe()) };
    let answers = futures::future::join_all((0..100).map(|_| agent.decide(request.clone()))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.capability == answers[0].capability));
    assert_eq!(server.audit_kinds_since(before).await, [("decision".to_owned(), 1)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_callers_request_id_is_its_own() {
    let server = Server::dev().await;
    let (one, other) = (server.person("agent:etl-bot").await, server.person("agent:ops-bot").await);
    let (mine, theirs) = (open(&one).await, open(&other).await);
    let request_id = fresh_id();
    let ask =
        |session: &str| DecideRequest { mint: true, request_id: request_id.clone(), ..question(session, &describe()) };
    let first = one.decide(ask(&mine)).await.unwrap();
    let second = other.decide(ask(&theirs)).await.unwrap();
    assert!(!second.replayed);
    assert_ne!(first.capability, second.capability);
    // The same agent for another person is another caller.
    let delegated = server.client("agent:etl-bot", Some("dana"), &[]).await;
    let third = delegated.decide(ask(&open(&delegated).await)).await.unwrap();
    assert!(!third.replayed);
    // Also where the body is the very same: it gets its own refusal and not the token.
    let stolen = other.decide(ask(&mine)).await;
    assert!(matches!(code(&stolen), Code::AlreadyExists | Code::PermissionDenied), "{stolen:?}");
    let fresh = server.person("agent:chat-bot").await.decide(ask(&mine)).await;
    assert_eq!(refused(fresh), (Code::PermissionDenied, "SESSION_MISMATCH".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_a_uuid_and_is_there_where_it_must_be() {
    let server = Server::dev().await;
    let token = server.token(AGENT, Some(OPERATOR), &[]);
    let agent = server.client_of(&token).await;
    let session = open(&agent).await;
    let long = "0".repeat(10_000);
    for id in [
        "nonsense",
        "00000000-0000-0000-0000-000000000000",
        "0191F3A0-0000-7000-8000-000000000001",
        "{0191f3a0-0000-7000-8000-000000000001}",
        "0191f3a0000070008000000000000001",
        " 0191f3a0-0000-7000-8000-000000000001",
        "urn:uuid:0191f3a0-0000-7000-8000-000000000001",
        &long,
    ] {
        let request = DecideRequest { request_id: id.to_owned(), ..question(&session, &describe()) };
        let answer = agent.decide(request).await;
        assert_eq!((code(&answer), fields(&answer)), (Code::InvalidArgument, vec!["request_id".to_owned()]), "{id}");
    }
    // The generated client, because ours would make one.
    let mut decisions = decision_service_client::DecisionServiceClient::new(server.channel().await);
    let mut sessions = session_service_client::SessionServiceClient::new(server.channel().await);
    let bare = DecideRequest { request_id: String::new(), mint: true, ..question(&session, &describe()) };
    let status = decisions.decide(Server::request(bare.clone(), &token, &[])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let unminted = DecideRequest { mint: false, ..bare };
    decisions.decide(Server::request(unminted, &token, &[])).await.unwrap();
    let open = OpenSessionRequest { purpose: "x".to_owned(), ..OpenSessionRequest::default() };
    assert_eq!(
        sessions.open_session(Server::request(open, &token, &[])).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let end = EndSessionRequest { session_id: session, request_id: String::new() };
    assert_eq!(
        sessions.end_session(Server::request(end, &token, &[])).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}
