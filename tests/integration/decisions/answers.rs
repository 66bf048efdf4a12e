//! Verdicts: the same however they are asked for, and DENY whenever a policy fails.

use countersign::client::{Client, operation};
use countersign::proto::decide_batch_result::Result as Item;
use countersign::proto::*;
use futures::future::join_all;
use serde_json::json;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::{Bundle, Server};

/// What an answer says, without what is new in each: ids and times.
fn essence(answer: &DecideResponse) -> (Verdict, String, Vec<Reason>, String, Vec<AskingRule>) {
    let rules = answer.needed_approval.clone().unwrap_or_default().rules;
    (answer.verdict(), answer.digest.clone(), answer.reasons.clone(), answer.bundle_digest.clone(), rules)
}

/// Questions of every kind, all of one agent.
fn questions(session: &str) -> Vec<DecideRequest> {
    let mut operations = vec![describe(), forbidden()];
    operations.extend((1..=20).map(export));
    for (name, kind, id) in
        [("query", "Dataset", "docs"), ("query", "Dataset", "customers"), ("describe", "Role", "admin")]
    {
        let input = if name == "query" { json!({"statement": "select 1"}) } else { json!({}) };
        operations.push(operation(name, (kind, id), input, json!({})).unwrap());
    }
    operations.push(
        operation("export", ("Dataset", "customers"), json!({"rows": 1, "destination": "s3://partner"}), json!({}))
            .unwrap(),
    );
    operations
        .push(operation("deploy", ("System", "checkout"), json!({"image": "a", "commit": "b"}), json!({})).unwrap());
    let ask = |operation| DecideRequest { request_id: String::new(), ..question(session, operation) };
    operations.iter().map(ask).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_by_one_in_a_batch_and_all_at_once_give_the_same_answers() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let questions = questions(&session);
    let before = server.audit_records().await.len();
    let mut serial = Vec::new();
    for question in &questions {
        serial.push(essence(&agent.decide(question.clone()).await.unwrap()));
    }
    for verdict in [Verdict::Allow, Verdict::Deny, Verdict::NeedsApproval] {
        assert!(serial.iter().any(|answer| answer.0 == verdict), "no {verdict:?} among the questions");
    }
    let batch = agent.decide_batch(DecideBatchRequest { items: questions.clone() }).await.unwrap();
    let batch: Vec<_> = batch
        .results
        .into_iter()
        .map(|result| match result.result.unwrap() {
            Item::Response(answer) => essence(&answer),
            Item::Error(error) => panic!("{error:?}"),
        })
        .collect();
    assert_eq!(batch, serial);
    for _ in 0..4 {
        let parallel = join_all(questions.iter().map(|question| agent.decide(question.clone()))).await;
        let parallel: Vec<_> = parallel.into_iter().map(|answer| essence(&answer.unwrap())).collect();
        assert_eq!(parallel, serial);
    }
    let kinds = server.audit_kinds_since(before).await;
    assert_eq!(kinds, [("decision".to_owned(), questions.len() * 6)].into(), "one record for each, and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_item_of_a_batch_is_that_items_matter() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let mut items =
        vec![question(&session, &describe()), question(&session, &export(1)), question(&session, &describe())];
    items[1].audience = String::new();
    items[2].session_id = "nonsense".to_owned();
    items.push(DecideRequest { request_id: "nonsense".to_owned(), ..question(&session, &describe()) });
    items.push(DecideRequest { mint: true, ..question(&session, &describe()) });
    let results = agent.decide_batch(DecideBatchRequest { items }).await.unwrap().results;
    let told: Vec<_> = results
        .iter()
        .map(|result| match result.result.as_ref().unwrap() {
            Item::Response(answer) => (answer.verdict().as_str_name(), answer.capability.is_some()),
            Item::Error(error) => (error.reason.as_str(), Code::from(error.code) != Code::InvalidArgument),
        })
        .collect();
    let bad = ("INVALID_FIELD", false);
    assert_eq!(told, [("VERDICT_ALLOW", false), bad, bad, bad, ("VERDICT_ALLOW", true)]);
    for count in [0, 101] {
        let items = vec![question(&session, &describe()); count];
        let answer = agent.decide_batch(DecideBatchRequest { items }).await;
        assert_eq!(fields(&answer), ["items"], "{count}");
    }
}

/// The rows are multiplied beyond what a Long holds, which is an error of evaluation and not of validation.
const ERRING: &str = "@id(\"erring\")\nforbid (principal, action == Action::\"export\", resource)\n\
    when { context.input.rows * 9223372036854775807 == 1 };\n";

fn public_export(rows: i64) -> Operation {
    operation("export", ("Dataset", "docs"), json!({"rows": rows, "destination": "s3://x"}), json!({})).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbid_that_cannot_be_evaluated_denies_what_a_permit_allows() {
    let bundle = Bundle::example().edit(|files| {
        files.insert("policies/erring.cedar".to_owned(), ERRING.to_owned());
    });
    let server = Server::with_bundle(bundle).await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let fine = decide(&agent, &session, &public_export(1)).await.unwrap();
    assert_eq!(fine.verdict(), Verdict::Allow, "{fine:?}");
    let before = server.audit_records().await.len();
    let answer = mint(&agent, &session, &public_export(2), "").await.unwrap();
    assert_eq!((answer.verdict(), answer.capability), (Verdict::Deny, None));
    // Where people could lift another rule they are not asked either: an error is no reason to ask.
    let answer = decide(&agent, &session, &export(2)).await.unwrap();
    assert_eq!((answer.verdict(), answer.needed_approval), (Verdict::Deny, None));
    let asked = ask(&agent, &session, &export(2)).await;
    assert_eq!(refused(asked), (Code::FailedPrecondition, "NOTHING_TO_ASK".to_owned()));
    let records = server.audit_since(before).await;
    let kinds: Vec<_> = records.iter().map(|r| (r.kind.as_str(), r.text("/verdict"))).collect();
    assert_eq!(kinds, [("decision", "DENY"), ("decision", "DENY"), ("refusal", "")]);
    assert!(records[0].text("/errors/0").contains("erring"), "{:?}", records[0].content);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_comes_after_people_approved_denies() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let pending = ask(&agent, &session, &export(2)).await.unwrap();
    for person in ["dana", "dave"] {
        vote(&server.person(person).await, &pending.approval_id, VoteVerdict::Approve).await.unwrap();
    }
    server.bundle().change(|files| {
        files.insert("policies/erring.cedar".to_owned(), ERRING.to_owned());
    });
    server.bundle().set_revision(2);
    reload(&server.person("alice").await).await.unwrap();
    match mint(&agent, &session, &export(2), &pending.approval_id).await {
        Ok(answer) => assert_eq!((answer.verdict(), answer.capability), (Verdict::Deny, None)),
        // An approval under another bundle may also be void.
        Err(error) => assert_eq!(error.refusal().unwrap().code(), Code::FailedPrecondition, "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_for_everything_lets_nobody_approve_or_administer() {
    let bundle = Bundle::example().edit(|files| {
        files.insert(
            "policies/open.cedar".to_owned(),
            "@id(\"open\")\npermit (principal, action, resource);\n".to_owned(),
        );
    });
    let server = Server::with_bundle(bundle).await;
    let agent = server.client("agent:chat-bot", None, &[]).await;
    let session = open(&agent).await;
    let pending = ask(&agent, &session, &export(5)).await.unwrap();
    for (person, reason) in
        [("aaron", "VOTER_NOT_ELIGIBLE"), ("alice", "VOTER_NOT_ELIGIBLE"), ("wendy", "VOTER_EXCLUDED")]
    {
        let cast = server.person(person).await.cast_vote(ballot(&pending, VoteVerdict::Approve)).await;
        assert_eq!(refused(cast), (Code::PermissionDenied, reason.to_owned()), "{person}");
    }
    for client in [&agent, &server.person("dana").await] {
        let read = client.list_records(ListRecordsRequest::default()).await;
        assert_eq!(refused(read), (Code::PermissionDenied, "ADMINISTRATION_DENIED".to_owned()));
        assert_eq!(refused(reload(client).await).0, Code::PermissionDenied);
    }
    let shown = show(&agent, &pending.approval_id).await.unwrap();
    assert_eq!((shown.state(), shown.votes.len()), (ApprovalState::Pending, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_argument_lists_that_are_one_set_are_two_actions() {
    let server = Server::dev().await;
    let agent: Client = server.client("agent:ops-bot", None, &[]).await;
    let session = open(&agent).await;
    let mut answers = Vec::new();
    for argv in [
        json!(["systemctl", "status", "bob"]),
        json!(["status", "systemctl", "bob"]),
        json!(["systemctl", "status", "bob", "bob"]),
        json!(["bob", "--to", "bob"]),
        json!(["--to", "bob"]),
    ] {
        let operation = operation("run_command", ("System", "checkout"), json!({"argv": argv}), json!({})).unwrap();
        let question = DecideRequest { audience: "prod".to_owned(), ..question(&session, &operation) };
        answers.push(agent.decide(question).await.unwrap());
    }
    let verdicts: Vec<_> = answers.iter().map(DecideResponse::verdict).collect();
    let asks = Verdict::NeedsApproval;
    assert_eq!(verdicts, [Verdict::Allow, asks, Verdict::Allow, asks, asks]);
    let digests: std::collections::BTreeSet<_> = answers.iter().map(|answer| &answer.digest).collect();
    assert_eq!(digests.len(), answers.len());
}
