//! The client against a server that loses replies, over real gRPC.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::proto::approval_service_server::{ApprovalService, ApprovalServiceServer};
use crate::proto::capability_service_server::{CapabilityService, CapabilityServiceServer};
use crate::proto::*;

/// What the server was sent, and how often it still breaks off.
#[derive(Default)]
struct Heard {
    redeems: Vec<RedeemRequest>,
    completes: Vec<CompleteRequest>,
    watches: Vec<WatchApprovalsRequest>,
    credentials: Vec<String>,
    lose_replies: u32,
    refuse_completes: bool,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Heard>>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl CapabilityService for Fake {
    /// Spends at the first call with a request id, and answers later ones with a replay, as the real server does.
    async fn redeem(&self, request: Request<RedeemRequest>) -> Answer<RedeemResponse> {
        let mut heard = self.0.lock().unwrap();
        let credential = request.metadata().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        heard.credentials.push(credential.unwrap_or_default());
        let request = request.into_inner();
        let replayed = heard.redeems.iter().any(|earlier| earlier.request_id == request.request_id);
        heard.redeems.push(request);
        if heard.lose_replies > 0 {
            heard.lose_replies -= 1;
            return Err(Status::unavailable("the connection broke"));
        }
        Ok(Response::new(RedeemResponse { capability_id: "cap_1".into(), replayed, ..RedeemResponse::default() }))
    }
    async fn complete(&self, request: Request<CompleteRequest>) -> Answer<CompleteResponse> {
        let mut heard = self.0.lock().unwrap();
        heard.completes.push(request.into_inner());
        if heard.refuse_completes {
            Err(Status::internal("no"))
        } else {
            Ok(Response::new(CompleteResponse::default()))
        }
    }
    async fn revoke(&self, _: Request<RevokeRequest>) -> Answer<RevokeResponse> {
        Err(Status::unimplemented(""))
    }
    async fn get_capability(&self, _: Request<GetCapabilityRequest>) -> Answer<GetCapabilityResponse> {
        Err(Status::unimplemented(""))
    }
    async fn list_capabilities(&self, _: Request<ListCapabilitiesRequest>) -> Answer<ListCapabilitiesResponse> {
        Err(Status::unimplemented(""))
    }
    async fn list_public_keys(&self, _: Request<ListPublicKeysRequest>) -> Answer<ListPublicKeysResponse> {
        Err(Status::aborted("always"))
    }
    async fn delegate(&self, _: Request<DelegateRequest>) -> Answer<DelegateResponse> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl ApprovalService for Fake {
    type WatchApprovalsStream = tokio_stream::Iter<std::vec::IntoIter<Result<WatchApprovalsResponse, Status>>>;

    /// Breaks off after the first message; the second watch brings the answer.
    async fn watch_approvals(&self, request: Request<WatchApprovalsRequest>) -> Answer<Self::WatchApprovalsStream> {
        let mut heard = self.0.lock().unwrap();
        heard.watches.push(request.into_inner());
        let with = |state: ApprovalState, resume: &str| {
            let approval = Approval { approval_id: "apr_1".into(), state: state.into(), ..Approval::default() };
            Ok(WatchApprovalsResponse { approval: Some(approval), resume_token: resume.into() })
        };
        let messages = if heard.watches.len() == 1 {
            vec![with(ApprovalState::Pending, "first"), Err(Status::unavailable("going away"))]
        } else {
            vec![with(ApprovalState::Approved, "second")]
        };
        Ok(Response::new(tokio_stream::iter(messages)))
    }
    async fn get_approval(&self, request: Request<GetApprovalRequest>) -> Answer<GetApprovalResponse> {
        let approval_id = request.into_inner().approval_id;
        let state = if approval_id == "apr_settled" { ApprovalState::Denied } else { ApprovalState::Pending };
        let approval = Approval { approval_id, state: state.into(), ..Approval::default() };
        Ok(Response::new(GetApprovalResponse { approval: Some(approval) }))
    }
    async fn request_approval(&self, _: Request<RequestApprovalRequest>) -> Answer<RequestApprovalResponse> {
        Err(Status::unimplemented(""))
    }
    async fn list_approvals(&self, _: Request<ListApprovalsRequest>) -> Answer<ListApprovalsResponse> {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Err(Status::unimplemented(""))
    }
    async fn cast_vote(&self, _: Request<CastVoteRequest>) -> Answer<CastVoteResponse> {
        Err(Status::unimplemented(""))
    }
    async fn request_approvals(&self, _: Request<RequestApprovalsRequest>) -> Answer<RequestApprovalsResponse> {
        Err(Status::unimplemented(""))
    }
    async fn cast_votes(&self, _: Request<CastVotesRequest>) -> Answer<CastVotesResponse> {
        Err(Status::unimplemented(""))
    }
    async fn get_approval_figures(&self, _: Request<GetApprovalFiguresRequest>) -> Answer<GetApprovalFiguresResponse> {
        Err(Status::unimplemented(""))
    }
    async fn withdraw_vote(&self, _: Request<WithdrawVoteRequest>) -> Answer<WithdrawVoteResponse> {
        Err(Status::unimplemented(""))
    }
    async fn lift_cool_down(&self, _: Request<LiftCoolDownRequest>) -> Answer<LiftCoolDownResponse> {
        Err(Status::unimplemented(""))
    }
    async fn cancel_approval(&self, _: Request<CancelApprovalRequest>) -> Answer<CancelApprovalResponse> {
        Err(Status::unimplemented(""))
    }
}

async fn fake() -> (Fake, Client) {
    let fake = Fake::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(CapabilityServiceServer::new(fake.clone()))
        .add_service(ApprovalServiceServer::new(fake.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let config = ClientConfig::new(endpoint).credentials(Credentials::bearer("a.b.c")).timeout(Duration::from_secs(1));
    (fake, Client::connect(config).await.unwrap())
}

fn export() -> Operation {
    operation("export", ("Dataset", "orders"), json!({"rows": 500}), json!({})).unwrap()
}

type Ran = Result<&'static str, std::io::Error>;

#[tokio::test]
async fn an_action_runs_once_its_capability_is_spent_and_is_reported() {
    let (fake, client) = fake().await;
    let done = client.enforce("csn_x", export(), "warehouse", || async { Ran::Ok("rows") }).await;
    assert_eq!(done.unwrap(), "rows");
    let heard = fake.0.lock().unwrap();
    assert_eq!(heard.redeems.len(), 1);
    assert_eq!(heard.credentials, ["Bearer a.b.c"]);
    assert_eq!(heard.redeems[0].operation, Some(export()));
    assert_eq!(heard.completes[0].outcome(), Outcome::Succeeded);
    assert_eq!(heard.completes[0].capability_id, "cap_1");
    assert_ne!(heard.completes[0].request_id, heard.redeems[0].request_id);
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_under_the_same_request_id_and_never_runs_the_action() {
    let (fake, client) = fake().await;
    fake.0.lock().unwrap().lose_replies = 1;
    let mut ran = false;
    let refused = client
        .enforce("csn_x", export(), "warehouse", || {
            ran = true;
            async { Ran::Ok("rows") }
        })
        .await;
    assert!(matches!(refused, Err(EnforceError::Replayed { .. })), "{refused:?}");
    assert!(!ran);
    let heard = fake.0.lock().unwrap();
    let ids: Vec<&str> = heard.redeems.iter().map(|redeem| redeem.request_id.as_str()).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1] && uuid::Uuid::try_parse(ids[0]).is_ok(), "{ids:?}");
    assert!(heard.completes.is_empty());
}

#[tokio::test]
async fn a_failed_action_is_reported_as_failed() {
    let (fake, client) = fake().await;
    let failed = client.enforce("csn_x", export(), "warehouse", || async { Ran::Err(std::io::Error::other("full")) });
    assert!(matches!(failed.await, Err(EnforceError::Failed(error)) if error.to_string() == "full"));
    assert_eq!(fake.0.lock().unwrap().completes[0].outcome(), Outcome::Failed);
}

#[tokio::test]
async fn an_outcome_that_cannot_be_reported_is_not_lost() {
    let (fake, client) = fake().await;
    fake.0.lock().unwrap().refuse_completes = true;
    let done = client.enforce("csn_x", export(), "warehouse", || async { Ran::Ok("rows") }).await;
    assert!(matches!(done, Err(EnforceError::Unreported { result: Ok("rows"), .. })), "{done:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_call_is_made_again() {
    let fake = Fake::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(CapabilityServiceServer::new(fake.clone()));
    tokio::spawn(async move {
        for _ in 0..2 {
            let (mut broken, _) = listener.accept().await.unwrap();
            // Only once the request is on its way.
            let _ = tokio::io::AsyncReadExt::read(&mut broken, &mut [0; 4096]).await;
            drop(broken);
        }
        server.serve_with_incoming(TcpListenerStream::new(listener)).await
    });
    let client = Client::connect_lazy(ClientConfig::new(endpoint)).unwrap();
    client.redeem(RedeemRequest::default()).await.unwrap();
}

#[tokio::test]
async fn retries_end() {
    let (fake, client) = fake().await;
    fake.0.lock().unwrap().lose_replies = u32::MAX;
    let refused = client.redeem(RedeemRequest::default()).await.unwrap_err();
    assert_eq!(refused.refusal().unwrap().code(), tonic::Code::Unavailable);
    assert_eq!(fake.0.lock().unwrap().redeems.len(), 5);
    assert!(client.list_public_keys(ListPublicKeysRequest {}).await.is_err());
}

#[tokio::test]
async fn a_call_takes_no_longer_than_it_may() {
    let (_fake, client) = fake().await;
    let slow = tokio::time::timeout(Duration::from_secs(10), client.list_approvals(ListApprovalsRequest::default()));
    assert!(slow.await.unwrap().is_err());
}

#[tokio::test]
async fn waiting_goes_on_where_the_stream_broke_off() {
    let (fake, client) = fake().await;
    let approval = client.wait_for_approval("apr_1").await.unwrap();
    assert_eq!(approval.state(), ApprovalState::Approved);
    let heard = fake.0.lock().unwrap();
    let resumed: Vec<&str> = heard.watches.iter().map(|watch| watch.resume_token.as_str()).collect();
    assert_eq!(resumed, ["", "first"]);
}

#[tokio::test]
async fn what_is_settled_already_is_not_waited_for() {
    let (_fake, client) = fake().await;
    assert_eq!(client.wait_for_approval("apr_settled").await.unwrap().state(), ApprovalState::Denied);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let error = Client::connect(ClientConfig::new("http://127.0.0.1:1").attempts(2)).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot reach `http://127.0.0.1:1`"), "{error}");
}
