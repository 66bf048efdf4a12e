//! A caller that waits no longer gets no ALLOW, and nothing twice.

use countersign::client::ClientError;
use countersign::proto::decision_service_client::DecisionServiceClient;
use countersign::proto::*;
use tonic::Code;

use crate::harness::Server;
use crate::harness::flow::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_has_passed_gives_no_verdict_and_a_retry_gives_one() {
    let server = Server::dev().await;
    let token = server.token(AGENT, Some(OPERATOR), &[]);
    let agent = server.client_of(&token).await;
    let session = open(&agent).await;
    let mut decisions = DecisionServiceClient::new(server.channel().await);
    let mut expired = 0;
    for timeout in ["1n", "1u", "100u", "300u", "1m", "2m", "5m"] {
        for _ in 0..5 {
            let request = DecideRequest { mint: true, ..question(&session, &describe()) };
            let first = decisions.decide(Server::request(request.clone(), &token, &[("grpc-timeout", timeout)])).await;
            match first {
                Ok(answer) => assert_eq!(answer.into_inner().verdict(), Verdict::Allow),
                Err(status) => {
                    // The client library's own clock says CANCELLED.
                    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
                    expired += 1;
                }
            }
            // Whatever became of it, the same request id is the same attempt.
            let again = agent.decide(request.clone()).await.unwrap();
            assert_eq!(again.verdict(), Verdict::Allow);
            let third = agent.decide(request).await.unwrap();
            assert!(third.replayed);
            assert_eq!(third.capability, again.capability);
        }
    }
    assert!(expired >= 5, "no deadline ever passed");
    let request = ListCapabilitiesRequest { session_id: session, page_size: 200, ..Default::default() };
    let minted = agent.list_capabilities(request).await.unwrap().capabilities;
    assert_eq!(minted.len(), 35, "one for each request id");
    let kinds = server.audit_kinds_since(0).await;
    assert_eq!(kinds.get("decision"), Some(&35));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_is_no_time_is_no_way_around_the_servers_own() {
    let server = Server::dev().await;
    let token = server.token(AGENT, Some(OPERATOR), &[]);
    let agent = server.client_of(&token).await;
    let session = open(&agent).await;
    let mut decisions = DecisionServiceClient::new(server.channel().await);
    for timeout in ["", "S", "-1S", "1", "999999999S", "1x", "99999999H", "١S"] {
        if timeout.is_ascii() {
            let request = Server::request(question(&session, &describe()), &token, &[("grpc-timeout", timeout)]);
            let answer = decisions.decide(request).await.map_err(ClientError::from);
            assert!(
                matches!(code(&answer), Code::Ok | Code::InvalidArgument | Code::Cancelled),
                "{timeout}: {answer:?}"
            );
        }
    }
}
