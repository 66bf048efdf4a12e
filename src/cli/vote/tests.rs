use std::sync::{Arc, Mutex};

use countersign::client::ClientConfig;
use countersign::proto::approval_service_server::{ApprovalService, ApprovalServiceServer};
use countersign::proto::*;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::super::output::testing;
use super::super::view::tests::request;
use super::*;

/// Shows one request, and remembers the votes.
#[derive(Clone)]
struct Fake {
    shown: Approval,
    votes: Arc<Mutex<Vec<CastVoteRequest>>>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ApprovalService for Fake {
    type WatchApprovalsStream = tokio_stream::Empty<Result<WatchApprovalsResponse, Status>>;

    async fn get_approval(&self, _: Request<GetApprovalRequest>) -> Answer<GetApprovalResponse> {
        Ok(Response::new(GetApprovalResponse { approval: Some(self.shown.clone()) }))
    }
    async fn cast_vote(&self, request: Request<CastVoteRequest>) -> Answer<CastVoteResponse> {
        self.votes.lock().unwrap().push(request.into_inner());
        Ok(Response::new(CastVoteResponse { approval: Some(self.shown.clone()), replayed: false }))
    }
    async fn request_approval(&self, _: Request<RequestApprovalRequest>) -> Answer<RequestApprovalResponse> {
        Err(Status::unimplemented(""))
    }
    async fn list_approvals(&self, _: Request<ListApprovalsRequest>) -> Answer<ListApprovalsResponse> {
        Err(Status::unimplemented(""))
    }
    async fn cast_votes(&self, request: Request<CastVotesRequest>) -> Answer<CastVotesResponse> {
        let result = |BatchVote { approval_id, verdict, digest, view_digest, comment, signature }: BatchVote| {
            let request_id = String::new();
            let mut votes = self.votes.lock().unwrap();
            votes.push(CastVoteRequest { approval_id, verdict, digest, view_digest, comment, request_id, signature });
            let result = match votes.len() {
                2 => cast_votes_result::Result::Error(ApprovalItemError {
                    reason: "VOTE_STALE".into(),
                    ..Default::default()
                }),
                _ => cast_votes_result::Result::Response(CastVoteResponse {
                    approval: Some(self.shown.clone()),
                    replayed: false,
                }),
            };
            CastVotesResult { result: Some(result) }
        };
        Ok(Response::new(CastVotesResponse { results: request.into_inner().items.into_iter().map(result).collect() }))
    }
    async fn request_approvals(&self, _: Request<RequestApprovalsRequest>) -> Answer<RequestApprovalsResponse> {
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
    async fn watch_approvals(&self, _: Request<WatchApprovalsRequest>) -> Answer<Self::WatchApprovalsStream> {
        Err(Status::unimplemented(""))
    }
}

async fn fake(shown: Approval) -> (Fake, Client) {
    let fake = Fake { shown, votes: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(ApprovalServiceServer::new(fake.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (fake, Client::connect(ClientConfig::new(endpoint)).await.unwrap())
}

fn args(yes: bool) -> VoteArgs {
    VoteArgs {
        approvals: vec!["apr_1".into()],
        comment: "agreed".into(),
        yes,
        digest: None,
        view_digest: None,
        sign: None,
    }
}

#[tokio::test]
async fn what_is_voted_on_is_what_was_shown() {
    let shown = request("{\"rows\":500}");
    let (fake, client) = fake(shown.clone()).await;
    let (mut output, out, _) = testing::output(false);
    run(args(true), VoteVerdict::Approve, &client, &mut output).await.unwrap();
    let votes = fake.votes.lock().unwrap();
    let [vote] = votes.as_slice() else { panic!("{votes:?}") };
    assert_eq!((&vote.digest, &vote.view_digest), (&shown.digest, &shown.view_digest));
    assert_eq!((vote.verdict(), vote.comment.as_str()), (VoteVerdict::Approve, "agreed"));
    assert!(out.text().contains("rows: 500") && out.text().contains(&shown.digest), "{}", out.text());
}

#[tokio::test]
async fn programs_get_one_document() {
    let (_fake, client) = fake(request("{}")).await;
    let (mut output, out, _) = testing::output(true);
    run(args(true), VoteVerdict::Deny, &client, &mut output).await.unwrap();
    let document: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
    assert_eq!(document.pointer("/approval_id").unwrap(), &request("{}").approval_id);
}

#[tokio::test]
async fn nothing_is_voted_when_the_digest_is_of_another_action() {
    let mut lying = request("{\"rows\":500}");
    lying.digest = request("{\"rows\":5}").digest;
    let (fake, client) = fake(lying).await;
    let (mut output, out, _) = testing::output(false);
    let failure = run(args(true), VoteVerdict::Approve, &client, &mut output).await.unwrap_err();
    assert!(failure.to_human().contains("do not vote"), "{}", failure.to_human());
    assert!(fake.votes.lock().unwrap().is_empty() && out.text().is_empty());
}

#[tokio::test]
async fn nothing_is_voted_without_a_yes() {
    let (fake, client) = fake(request("{}")).await;
    let (mut output, _, _) = testing::output(false);
    let failure = run(args(false), VoteVerdict::Approve, &client, &mut output).await.unwrap_err();
    assert_eq!(failure.exit().code(), 2);
    assert!(fake.votes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_script_votes_only_on_what_it_showed() {
    let (fake, client) = fake(request("{}")).await;
    let (mut output, _, _) = testing::output(true);
    for expecting in [
        VoteArgs { digest: Some("0".repeat(64)), ..args(true) },
        VoteArgs { view_digest: Some("another".into()), ..args(true) },
    ] {
        let failure = run(expecting, VoteVerdict::Approve, &client, &mut output).await.unwrap_err();
        assert_eq!(failure.to_json().pointer("/error/reason").unwrap(), "VOTE_STALE");
    }
    assert!(fake.votes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn of_several_requests_each_is_shown_and_each_vote_has_its_own_answer() {
    let shown = request("{\"rows\":500}");
    let (fake, client) = fake(shown.clone()).await;
    let (mut output, out, _) = testing::output(false);
    let several = VoteArgs { approvals: ["apr_1", "apr_2", "apr_3"].map(Into::into).into(), ..args(true) };
    let failure = run(several, VoteVerdict::Approve, &client, &mut output).await.unwrap_err();
    assert!(failure.to_human().contains("1 of 3 votes were not cast"), "{}", failure.to_human());
    let votes = fake.votes.lock().unwrap();
    assert_eq!(votes.iter().map(|vote| vote.approval_id.as_str()).collect::<Vec<_>>(), ["apr_1", "apr_2", "apr_3"]);
    for vote in votes.iter() {
        assert_eq!((&vote.digest, &vote.view_digest), (&shown.digest, &shown.view_digest));
    }
    assert_eq!(out.text().matches("rows: 500").count(), 3, "{}", out.text());
    assert!(out.text().contains("VOTE_STALE"), "{}", out.text());
}

#[tokio::test]
async fn what_is_expected_of_one_request_is_not_expected_of_several() {
    let (fake, client) = fake(request("{}")).await;
    let (mut output, _, _) = testing::output(true);
    let several =
        VoteArgs { approvals: ["apr_1", "apr_2"].map(Into::into).into(), digest: Some("0".repeat(64)), ..args(true) };
    assert_eq!(run(several, VoteVerdict::Approve, &client, &mut output).await.unwrap_err().exit().code(), 2);
    assert!(fake.votes.lock().unwrap().is_empty());
}
