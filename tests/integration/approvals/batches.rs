//! Several questions, and several votes, in one call: each on its own.

use countersign::proto::*;
use countersign_core::ApprovalId;
use tonic::Code;

use super::shared::{Ledger, failed};
use crate::harness::flow::{self, AUDIENCE, code, export, fields, must_mint, open, reason, show};
use crate::harness::{Server, fresh_id};

type Asked = request_approvals_result::Result;
type Cast = cast_votes_result::Result;

fn questions(session: &str, operations: &[Operation]) -> RequestApprovalsRequest {
    let items = operations.iter().map(|operation| BatchQuestion {
        session_id: session.to_owned(),
        operation: Some(operation.clone()),
        audience: AUDIENCE.to_owned(),
        justification: "the monthly reports".to_owned(),
        ..BatchQuestion::default()
    });
    RequestApprovalsRequest { items: items.collect(), request_id: fresh_id() }
}

fn put(asked: RequestApprovalsResponse) -> (String, Vec<Approval>) {
    let approval = |result: RequestApprovalsResult| match result.result {
        Some(Asked::Response(response)) => response.approval.unwrap(),
        other => panic!("{other:?}"),
    };
    (asked.batch_id, asked.results.into_iter().map(approval).collect())
}

fn ballot(shown: &Approval, verdict: VoteVerdict) -> BatchVote {
    BatchVote {
        approval_id: shown.approval_id.clone(),
        verdict: verdict.into(),
        digest: shown.digest.clone(),
        view_digest: shown.view_digest.clone(),
        comment: "seen".to_owned(),
        signature: None,
    }
}

fn votes(items: &[BatchVote]) -> CastVotesRequest {
    CastVotesRequest { items: items.to_vec(), request_id: fresh_id() }
}

fn state(result: &CastVotesResult) -> ApprovalState {
    match &result.result {
        Some(Cast::Response(response)) => response.approval.as_ref().unwrap().state(),
        other => panic!("{other:?}"),
    }
}

fn error(result: &CastVotesResult) -> (Code, String) {
    match &result.result {
        Some(Cast::Error(ApprovalItemError { code, message: _, reason })) => (Code::from(*code), reason.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_batch_gets_a_verdict_for_each_item() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let mut ledger = Ledger::of(&server).await;
    let request = questions(&session, &[export(1), flow::describe(), export(2), export(3)]);
    let answer = agent.request_approvals(request.clone()).await.unwrap();
    // What needs nobody is no question, and hinders no other.
    match &answer.results[1].result {
        Some(Asked::Error(error)) => assert_eq!((error.code, error.reason.as_str()), (9, "NOTHING_TO_ASK")),
        other => panic!("{other:?}"),
    }
    let asked: Vec<Approval> = [0, 2, 3]
        .map(|n| match &answer.results[n].result {
            Some(Asked::Response(response)) => response.approval.clone().unwrap(),
            other => panic!("{other:?}"),
        })
        .into();
    let places: Vec<(u32, u32)> =
        asked.iter().map(|asked| asked.batch.as_ref().map(|b| (b.place, b.of)).unwrap()).collect();
    assert_eq!(places, [(1, 4), (3, 4), (4, 4)]);
    // Whoever votes finds them by the batch.
    let (dana, dave) = (server.person("dana").await, server.person("dave").await);
    let list = ListApprovalsRequest { batch_id: answer.batch_id.clone(), ..ListApprovalsRequest::default() };
    let listed = dana.list_approvals(list).await.unwrap().approvals;
    assert_eq!(
        listed.iter().map(|approval| &approval.approval_id).collect::<Vec<_>>(),
        asked.iter().map(|approval| &approval.approval_id).collect::<Vec<_>>()
    );
    let said = [VoteVerdict::Approve, VoteVerdict::Deny, VoteVerdict::Approve];
    let items: Vec<BatchVote> = listed.iter().zip(said).map(|(shown, verdict)| ballot(shown, verdict)).collect();
    let request_of_dana = votes(&items);
    let cast = dana.cast_votes(request_of_dana.clone()).await.unwrap().results;
    let states: Vec<ApprovalState> = cast.iter().map(state).collect();
    assert_eq!(states, [ApprovalState::Pending, ApprovalState::Denied, ApprovalState::Pending]);
    // One of dave's votes is on what was denied meanwhile.
    let cast =
        dave.cast_votes(votes(&listed.iter().map(|l| ballot(l, VoteVerdict::Approve)).collect::<Vec<_>>())).await;
    let cast = cast.unwrap().results;
    assert_eq!(
        (state(&cast[0]), error(&cast[1]), state(&cast[2])),
        (ApprovalState::Approved, failed("APPROVAL_STATE"), ApprovalState::Approved)
    );
    must_mint(&agent, &session, &export(1), &asked[0].approval_id).await;
    must_mint(&agent, &session, &export(3), &asked[2].approval_id).await;
    // A lost reply is asked for again, as a whole.
    let again = agent.request_approvals(request).await.unwrap();
    assert_eq!(again.batch_id, answer.batch_id);
    assert!(matches!(&again.results[0].result, Some(Asked::Response(response)) if response.replayed));
    let again = dana.cast_votes(request_of_dana).await.unwrap().results;
    assert!(again.iter().all(|cast| matches!(&cast.result, Some(Cast::Response(response)) if response.replayed)));
    ledger.expect(&[("approval_requested", 3), ("refusal", 3), ("vote", 5), ("minted", 2)]).await;
}

#[tokio::test]
async fn a_batch_does_not_get_round_the_budget() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let operations: Vec<Operation> = (0..60).map(export).collect();
    let (_, asked) = put(agent.request_approvals(questions(&session, &operations)).await.unwrap());
    assert_eq!(asked.len(), 60);
    let operations: Vec<Operation> = (100..160).map(export).collect();
    let answer = agent.request_approvals(questions(&session, &operations)).await.unwrap();
    let refused = answer.results.iter().filter(|result| match &result.result {
        Some(Asked::Error(error)) => error.code == 8 && error.reason == "ASKING_BUDGET_SPENT",
        _ => false,
    });
    assert_eq!(refused.count(), 20, "`approvals.pending_per_principal` of a development server is 100");
    let too_many: Vec<Operation> = (200..301).map(export).collect();
    let answer = agent.request_approvals(questions(&session, &too_many)).await;
    assert_eq!((code(&answer), fields(&answer)), (Code::InvalidArgument, vec!["items".to_owned()]));
}

#[tokio::test]
async fn nobody_approves_all() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let (batch, asked) = put(agent.request_approvals(questions(&session, &[export(1), export(2)])).await.unwrap());
    let dana = server.person("dana").await;
    let mut ledger = Ledger::of(&server).await;
    let whole: Vec<BatchVote> = asked.iter().map(|shown| ballot(shown, VoteVerdict::Approve)).collect();
    let with = |change: fn(&mut BatchVote)| {
        let mut items = whole.clone();
        change(&mut items[1]);
        items
    };
    let attempts: [(Vec<BatchVote>, &str); 9] = [
        (vec![], "items"),
        (with(|vote| vote.approval_id = "*".to_owned()), "items[1].approval_id"),
        (with(|vote| vote.approval_id = "all".to_owned()), "items[1].approval_id"),
        (with(|vote| vote.approval_id.clear()), "items[1].approval_id"),
        (with(|vote| vote.digest.clear()), "items[1].digest"),
        (with(|vote| vote.view_digest.clear()), "items[1].view_digest"),
        (with(|vote| vote.verdict = 0), "items[1].verdict"),
        (vec![whole[0].clone(), whole[0].clone()], "items"),
        (vec![BatchVote { approval_id: batch.clone(), ..whole[0].clone() }], "items[0].approval_id"),
    ];
    for (items, field) in attempts {
        let cast = dana.cast_votes(votes(&items)).await;
        assert_eq!((code(&cast), fields(&cast)), (Code::InvalidArgument, vec![field.to_owned()]), "{items:?}");
    }
    ledger.expect(&[("refusal", 9)]).await;
    for approval in &asked {
        assert!(show(&agent, &approval.approval_id).await.unwrap().votes.is_empty());
    }
    // Nor does the command line know such a word.
    let voted = server.cli(&server.token("dana", None, &[]), &["approvals", "approve", "all", "--yes"]).await;
    assert_ne!(voted.code, 0, "{voted:?}");
}

#[tokio::test]
async fn a_vote_in_a_batch_on_a_stale_view_fails_alone() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let (_, asked) =
        put(agent.request_approvals(questions(&session, &[export(1), export(2), export(3)])).await.unwrap());
    let mut items: Vec<BatchVote> = asked.iter().map(|shown| ballot(shown, VoteVerdict::Approve)).collect();
    // The digest of one, and the view of another.
    items[1].view_digest = asked[0].view_digest.clone();
    let unknown = BatchVote { approval_id: ApprovalId::generate().to_string(), ..items[2].clone() };
    items.push(unknown);
    let cast = server.person("dana").await.cast_votes(votes(&items)).await.unwrap().results;
    assert_eq!((state(&cast[0]), state(&cast[2])), (ApprovalState::Pending, ApprovalState::Pending));
    assert_eq!(error(&cast[1]), failed("VOTE_STALE"));
    assert_eq!(error(&cast[3]).0, Code::NotFound);
    let counted: Vec<usize> = futures::future::join_all(asked.iter().map(|a| show(&agent, &a.approval_id)))
        .await
        .into_iter()
        .map(|shown| shown.unwrap().votes.len())
        .collect();
    assert_eq!(counted, [1, 0, 1]);
    // Whoever asks cannot answer, in a batch as little as alone.
    let own = server.person("olivia").await.cast_votes(votes(&items[..1])).await.unwrap().results;
    assert_eq!(error(&own[0]), (Code::PermissionDenied, "VOTER_EXCLUDED".to_owned()));
    // Whoever cannot vote at all is told so once.
    let by_agent = agent.cast_votes(votes(&items[..1])).await;
    assert_eq!((code(&by_agent), &*reason(&by_agent)), (Code::PermissionDenied, "VOTER_NOT_ELIGIBLE"));
}

#[tokio::test]
async fn a_batch_is_put_shown_and_answered_on_the_command_line() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let file = server.scratch().join("questions.json");
    let question = |rows: u32| {
        format!(
            "{{\"operation\":\"export\",\"resource\":\"Dataset::customers\",\
             \"input\":{{\"rows\":{rows},\"destination\":\"s3://ours-reports\"}}}}"
        )
    };
    std::fs::write(&file, format!("[{},{}]", question(1), question(2))).unwrap();
    let token = server.token("agent:etl-bot", Some("olivia"), &[]);
    let at = format!("@{}", file.display());
    let args = ["approvals", "request-batch", &at, "--session", &session, "--audience", AUDIENCE];
    let refused_for_want = server.cli(&token, &args).await;
    assert!(
        refused_for_want.code == 2 && refused_for_want.stderr.contains("`justification` is missing"),
        "{refused_for_want:?}"
    );
    let put = server.cli(&token, &[&args[..], &["--justification", "reports", "--json"]].concat()).await;
    assert_eq!(put.code, 0, "{put:?}");
    let lines: Vec<serde_json::Value> = put.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    let batch = lines[0]["batch_id"].as_str().unwrap();
    assert_eq!(lines[1]["approval"]["batch"]["place"], 2);
    let ids: Vec<&str> = lines.iter().map(|line| line["approval"]["approval_id"].as_str().unwrap()).collect();

    // Whoever watches is told of the batch, and of nothing else.
    let other = flow::ask(&agent, &session, &export(9)).await.unwrap();
    let watcher = server.person("dana").await;
    let mut watch = watcher.watch_batch(batch, "");
    for id in &ids {
        assert_eq!(watch.next().await.unwrap().approval_id, *id);
    }
    let both = WatchApprovalsRequest {
        approval_id: other.approval_id.clone(),
        batch_id: batch.to_owned(),
        ..WatchApprovalsRequest::default()
    };
    let token = format!("Bearer {}", server.token("dana", None, &[]));
    let mut raw = approval_service_client::ApprovalServiceClient::new(server.channel().await);
    let mut both = tonic::Request::new(both);
    both.metadata_mut().insert("authorization", token.parse().unwrap());
    assert_eq!(raw.watch_approvals(both).await.unwrap_err().code(), Code::InvalidArgument);

    let dana = server.token("dana", None, &[]);
    let listed = server.cli(&dana, &["approvals", "list", "--batch", batch]).await;
    assert!(ids.iter().all(|id| listed.stdout.contains(id)) && listed.stdout.lines().count() == 2, "{listed:?}");
    let shown = server.cli(&dana, &["approvals", "show", "--batch", batch]).await;
    assert!(shown.stdout.contains(&format!("1 of 2, in {batch}")), "{shown:?}");
    assert!(shown.stdout.contains("rows: 1\n") && shown.stdout.contains("rows: 2\n"), "{shown:?}");
    // Each is shown before it is voted on, and without a yes nothing is.
    let unconfirmed = server.cli(&dana, &["approvals", "approve", ids[0], ids[1]]).await;
    assert!(unconfirmed.code == 2 && unconfirmed.stdout.contains("rows: 1"), "{unconfirmed:?}");
    let voted = server.cli(&dana, &["approvals", "approve", ids[0], ids[1], "--yes"]).await;
    assert!(voted.code == 0 && voted.stdout.matches("voted: approve").count() == 2, "{voted:?}");
    assert!(voted.stdout.contains("1 of 2\n") && voted.stdout.contains("rows: 2\n"), "{voted:?}");
    let again = server.cli(&dana, &["approvals", "approve", ids[0], ids[1], "--yes", "--json"]).await;
    assert!(again.code == 1 && again.stdout.contains("ALREADY_VOTED"), "{again:?}");
}
