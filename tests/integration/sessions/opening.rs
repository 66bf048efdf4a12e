//! Sessions are opened for a purpose, by whom policy permits, once for each attempt.

use countersign::client::Client;
use countersign::proto::*;
use tonic::Code;

use crate::approvals::shared::{Ledger, denied, invalid, not_found};
use crate::harness::flow::{end, open, refused};
use crate::harness::{Bundle, Server, fresh_id};

fn opening(purpose: &str, seconds: i64) -> OpenSessionRequest {
    OpenSessionRequest {
        purpose: purpose.to_owned(),
        ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        request_id: fresh_id(),
        ..OpenSessionRequest::default()
    }
}

async fn sessions(client: &Client) -> Vec<String> {
    let (mut found, mut request) = (Vec::new(), ListSessionsRequest { page_size: 2, ..Default::default() });
    loop {
        let page = client.list_sessions(request.clone()).await.unwrap();
        found.extend(page.sessions.into_iter().map(|session| session.session_id));
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_session_that_policy_does_not_permit_is_not_opened() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let mut ledger = Ledger::of(&server).await;
    // The example bundle permits four hours.
    let long = agent.open_session(opening("a long one", 14_401)).await;
    let told = long.as_ref().unwrap_err().to_string();
    assert!(told.contains("openSession") && told.contains("etl-bot"), "{told}");
    assert_eq!(refused(long), denied("ADMINISTRATION_DENIED"));
    ledger.expect(&[("refusal", 1)]).await;
    assert_eq!(sessions(&agent).await, Vec::<String>::new());
    agent.open_session(opening("as long as may be", 14_400)).await.unwrap();
    ledger.expect(&[("session_opened", 1)]).await;
}

#[tokio::test]
async fn nobody_opens_sessions_where_no_policy_permits_any() {
    let bundle = Bundle::example();
    bundle.replace(
        "admin/service.cedar",
        "when { principal == resource && context.seconds <= 14400 };",
        "when { context.purpose == \"none\" };",
    );
    let server = Server::with_bundle(bundle).await;
    for name in ["agent:etl-bot", "alice", "service:ci"] {
        let result = server.person(name).await.open_session(opening("mine", 60)).await;
        assert_eq!(refused(result), denied("ADMINISTRATION_DENIED"), "{name}");
    }
}

#[tokio::test]
async fn purpose_and_time_are_bounded() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    for purpose in ["", &"x".repeat(501), &"é".repeat(501), &"😀".repeat(501)] {
        assert_eq!(refused(agent.open_session(opening(purpose, 60)).await), invalid(), "{}", purpose.len());
    }
    for seconds in [0, -1, 86_401, i64::MAX] {
        assert_eq!(refused(agent.open_session(opening("a test", seconds)).await), invalid(), "{seconds}");
    }
    let nanos = prost_types::Duration { seconds: 0, nanos: 999_999_999 };
    let short = OpenSessionRequest { ttl: Some(nanos), ..opening("a test", 1) };
    assert_eq!(refused(agent.open_session(short).await), invalid());
    assert_eq!(sessions(&agent).await, Vec::<String>::new());
    // Characters count, and not bytes; and the text comes back as it was sent.
    for purpose in ["x", &"x".repeat(500), &"😀".repeat(500), "a\u{1b}[2J\u{202e}\n"] {
        let session = agent.open_session(opening(purpose, 60)).await.unwrap().session.unwrap();
        assert_eq!(session.purpose, purpose);
    }
}

#[tokio::test]
async fn a_refused_opening_is_recorded_whatever_refused_it() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let mut ledger = Ledger::of(&server).await;
    for refusable in [opening("", 60), opening("a test", 0), opening("a test", -1), opening("a test", 86_401)] {
        assert_eq!(refused(agent.open_session(refusable).await), invalid());
    }
    ledger.expect(&[("refusal", 4)]).await;
}

#[tokio::test]
async fn one_attempt_opens_one_session() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let mut ledger = Ledger::of(&server).await;
    let request = opening("a test", 60);
    let answers = futures::future::join_all((0..20).map(|_| agent.open_session(request.clone()))).await;
    let answers: Vec<OpenSessionResponse> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    let id = answers[0].session.clone().unwrap().session_id;
    assert!(answers.iter().all(|answer| answer.session.as_ref().unwrap().session_id == id));
    ledger.expect(&[("session_opened", 1)]).await;
    let other = OpenSessionRequest { purpose: "another".to_owned(), ..request.clone() };
    assert_eq!(refused(agent.open_session(other).await), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    // The id is the caller's own: another caller's is another attempt.
    let theirs = server.person("agent:deploy-bot").await.open_session(request.clone()).await.unwrap();
    assert!(!theirs.replayed && theirs.session.unwrap().session_id != id);
    ledger.expect(&[("refusal", 1), ("session_opened", 1)]).await;
    // And a replay opens nothing that has ended since.
    end(&agent, &id).await.unwrap();
    let again = agent.open_session(request).await.unwrap();
    assert_eq!((again.replayed, again.session.unwrap().state()), (true, SessionState::Ended));
}

#[tokio::test]
async fn sessions_are_seen_by_their_parties_page_by_page() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let mut opened = Vec::new();
    for _ in 0..5 {
        opened.push(open(&agent).await);
    }
    open(&server.person("agent:deploy-bot").await).await;
    let newest_first: Vec<String> = opened.iter().rev().cloned().collect();
    assert_eq!(sessions(&agent).await, newest_first);
    assert_eq!(sessions(&server.person("olivia").await).await, newest_first);
    assert_eq!(sessions(&server.person("aaron").await).await.len(), 6, "who reads the log reads everything");
    let mut ledger = Ledger::of(&server).await;
    for stranger in ["dana", "wendy", "agent:chat-bot"] {
        let stranger = server.person(stranger).await;
        let request = GetSessionRequest { session_id: opened[0].clone() };
        assert_eq!(refused(stranger.get_session(request).await), not_found("SESSION_NOT_FOUND"));
        assert_eq!(sessions(&stranger).await, Vec::<String>::new());
    }
    ledger.expect(&[("refusal", 3)]).await;
}
