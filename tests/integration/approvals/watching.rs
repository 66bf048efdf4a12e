//! Nobody has to poll: neither those who answer nor those who wait.

use std::time::Duration;

use countersign::client::{Client, Watch};
use countersign::identity::DevIssuer;
use countersign::proto::*;
use tonic::Code;

use super::shared::{half_an_hour_ago, join, publish, within};
use crate::harness::flow::{ask, code, end, export, mint, open, redeem, vote};
use crate::harness::{Bundle, Options, Server};

/// The next message about any of these, whatever else comes.
async fn next(watch: &mut Watch) -> (String, ApprovalState, usize) {
    let approval = within("a message", watch.next()).await.unwrap();
    let state = approval.state();
    (approval.approval_id, state, approval.votes.len())
}

/// Waits until the watch tells of this.
async fn until(watch: &mut Watch, id: &str, state: ApprovalState) -> Approval {
    let waiting = async {
        loop {
            let approval = watch.next().await.unwrap();
            if approval.approval_id == id && approval.state() == state {
                return approval;
            }
        }
    };
    within(&format!("{id} as {state:?}"), waiting).await
}

async fn cancel(client: &Client, id: &str) {
    let request = CancelApprovalRequest { approval_id: id.to_owned(), ..CancelApprovalRequest::default() };
    client.cancel_approval(request).await.unwrap();
}

#[tokio::test]
async fn an_approver_is_told_of_new_requests_and_of_each_change() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let before = ask(&agent, &session, &export(1)).await.unwrap().approval_id;
    let dana = server.person("dana").await;
    let mut watch = dana.watch_approvals(None, "");
    assert_eq!(next(&mut watch).await, (before.clone(), ApprovalState::Pending, 0), "what is live already");

    let id = ask(&agent, &session, &export(2)).await.unwrap().approval_id;
    assert_eq!(next(&mut watch).await, (id.clone(), ApprovalState::Pending, 0));
    vote(&server.person("dave").await, &id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(next(&mut watch).await, (id.clone(), ApprovalState::Pending, 1));
    vote(&dana, &id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(next(&mut watch).await, (id.clone(), ApprovalState::Approved, 2));
    let minted = mint(&agent, &session, &export(2), &id).await.unwrap().capability.unwrap();
    redeem(&server.warehouse().await, &minted.token, &export(2)).await.unwrap();
    assert_eq!(next(&mut watch).await, (id.clone(), ApprovalState::Redeemed, 2));
    cancel(&agent, &before).await;
    assert_eq!(next(&mut watch).await, (before, ApprovalState::Cancelled, 0));
}

#[tokio::test]
async fn whoever_waits_is_told_of_every_end() {
    let bundle = Bundle::example();
    join(&bundle, "kurt", "data-owners");
    let server = Server::with_bundle(bundle).await;
    let agent = server.etl_bot().await;
    let people = [server.person("dana").await, server.person("dave").await, server.person("kurt").await];
    for (rows, ending) in [
        (1, ApprovalState::Approved),
        (2, ApprovalState::Cancelled),
        (3, ApprovalState::Void),
        // The last: nobody asks for the same right after it.
        (4, ApprovalState::Denied),
    ] {
        let session = open(&agent).await;
        let id = ask(&agent, &session, &export(rows)).await.unwrap().approval_id;
        let mut watch = agent.watch_approvals(Some(&id), "");
        assert_eq!(next(&mut watch).await.1, ApprovalState::Pending);
        let (waiter, awaited) = (agent.clone(), id.clone());
        let waiting = tokio::spawn(async move { waiter.wait_for_approval(&awaited).await });
        match ending {
            ApprovalState::Approved => {
                vote(&people[0], &id, VoteVerdict::Approve).await.unwrap();
                vote(&people[1], &id, VoteVerdict::Approve).await.unwrap();
            }
            ApprovalState::Denied => drop(vote(&people[2], &id, VoteVerdict::Deny).await.unwrap()),
            ApprovalState::Cancelled => cancel(&agent, &id).await,
            _session_ends => drop(end(&agent, &session).await.unwrap()),
        }
        let told = until(&mut watch, &id, ending).await;
        let waited = within("the answer", waiting).await.unwrap().unwrap();
        assert_eq!((waited.state(), &waited.approval_id), (ending, &told.approval_id));
    }
}

#[tokio::test]
async fn whoever_waits_is_told_when_time_runs_out() {
    let data = tempfile::tempdir().unwrap();
    let begin = half_an_hour_ago();
    let at = |seconds: u64| Options {
        data_dir: Some(data.path().join("data")),
        clock: Some(begin.plus(Duration::from_secs(seconds))),
        ..Options::default()
    };
    let mut server = Server::start(at(0)).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let id = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    server.terminate().await;
    drop(server);
    // Three seconds before the fifteen minutes are over.
    let server = Server::start(at(897)).await;
    let agent = server.etl_bot().await;
    let told = within("the end", agent.wait_for_approval(&id)).await.unwrap();
    assert_eq!(told.state(), ApprovalState::Expired);
}

#[tokio::test]
async fn whoever_waits_is_told_when_the_deadline_of_the_session_passes() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let request = OpenSessionRequest {
        purpose: "a short one".to_owned(),
        ttl: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
        ..OpenSessionRequest::default()
    };
    let session = agent.open_session(request).await.unwrap().session.unwrap().session_id;
    let id = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    // Told when it happens, not when the watch next happens to look: well before half a minute is over.
    let told = tokio::time::timeout(Duration::from_secs(15), agent.wait_for_approval(&id)).await;
    assert_eq!(told.expect("told in time").unwrap().state(), ApprovalState::Void);
}

#[tokio::test]
async fn a_watch_goes_on_where_it_broke_off_and_misses_nothing() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let (session, other) = (open(&agent).await, open(&agent).await);
    let [first, second, third] = {
        let mut ids = Vec::new();
        for rows in 1..=3 {
            let session = if rows == 3 { &other } else { &session };
            ids.push(ask(&agent, session, &export(rows)).await.unwrap().approval_id);
        }
        <[String; 3]>::try_from(ids).unwrap()
    };
    let dana = server.person("dana").await;
    let mut watch = dana.watch_approvals(None, "");
    for _ in 0..3 {
        next(&mut watch).await;
    }
    let token = watch.resume_token().to_owned();
    drop(watch);

    // Meanwhile: a vote, a cancellation, the end of a session, and a new question.
    vote(&server.person("dave").await, &first, VoteVerdict::Approve).await.unwrap();
    cancel(&agent, &second).await;
    end(&agent, &other).await.unwrap();
    let fourth = ask(&agent, &session, &export(4)).await.unwrap().approval_id;

    // On another connection, as after a network that broke.
    let mut watch = server.person("dana").await.watch_approvals(None, &token);
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < 4 {
        let (id, state, votes) = next(&mut watch).await;
        seen.insert(id, (state, votes));
    }
    let expected = [
        (first, (ApprovalState::Pending, 1)),
        (second, (ApprovalState::Cancelled, 0)),
        (third, (ApprovalState::Void, 0)),
        (fourth.clone(), (ApprovalState::Pending, 0)),
    ];
    assert_eq!(seen, expected.into_iter().collect());
    // And then it is live.
    cancel(&agent, &fourth).await;
    until(&mut watch, &fourth, ApprovalState::Cancelled).await;
    let garbage = server.person("dana").await.watch_approvals(None, "garbage").next().await;
    assert_eq!(code(&garbage), Code::InvalidArgument);
}

#[tokio::test]
async fn a_watch_that_broke_off_between_two_changes_of_one_commit_tells_of_the_second() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let old = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    let dana = server.person("dana").await;
    let mut watch = dana.watch_approvals(None, "");
    assert_eq!(next(&mut watch).await.0, old);
    // Asking under other policies voids the old request and puts the new one in one commit.
    server.bundle().replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"3\")");
    publish(&server).await;
    let new = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    let (first, ..) = next(&mut watch).await;
    let rest = if first == old { (&new, ApprovalState::Pending) } else { (&old, ApprovalState::Void) };
    let token = watch.resume_token().to_owned();
    drop(watch);
    // Whatever comes later closes the wait below, should the other have been lost.
    let mut resumed = server.person("dana").await.watch_approvals(None, &token);
    let marker = ask(&agent, &session, &export(6)).await.unwrap().approval_id;
    let mut seen: Vec<(String, ApprovalState, usize)> = Vec::new();
    while seen.last().is_none_or(|(id, ..)| *id != marker) {
        seen.push(next(&mut resumed).await);
    }
    assert!(seen.iter().any(|(id, state, _)| (id, *state) == rest), "{rest:?} is not in {seen:?}");
}

#[tokio::test]
async fn a_resumed_watch_does_not_tell_again_what_was_told_as_void() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let void = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    let dana = server.person("dana").await;
    let mut watch = dana.watch_approvals(None, "");
    next(&mut watch).await;
    end(&agent, &session).await.unwrap();
    until(&mut watch, &void, ApprovalState::Void).await;
    let second = open(&agent).await;
    let live = ask(&agent, &second, &export(6)).await.unwrap().approval_id;
    until(&mut watch, &live, ApprovalState::Pending).await;
    let token = watch.resume_token().to_owned();
    drop(watch);
    let marker = ask(&agent, &second, &export(7)).await.unwrap().approval_id;
    let mut resumed = server.person("dana").await.watch_approvals(None, &token);
    let mut seen: Vec<String> = Vec::new();
    while seen.last().is_none_or(|id| *id != marker) {
        seen.push(next(&mut resumed).await.0);
    }
    assert_eq!(seen, [marker], "only what changed since");
}

#[tokio::test]
async fn a_watch_ends_with_its_credential() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    ask(&agent, &session, &export(5)).await.unwrap();
    let issuer = DevIssuer::open_or_create(server.data_dir()).unwrap();
    let token = issuer.token("dana", None, &[], server.now(), Duration::from_secs(4)).unwrap();
    let dana = server.client_of(&token).await;
    let mut watch = dana.watch_approvals(None, "");
    next(&mut watch).await;
    let over = within("the end", watch.next()).await;
    assert_eq!(code(&over), Code::Unauthenticated);
    assert_eq!(code(&dana.watch_approvals(None, "").next().await), Code::Unauthenticated);
}

#[tokio::test]
async fn one_watch_too_many_is_refused_and_a_dropped_one_makes_room() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    ask(&agent, &session, &export(5)).await.unwrap();
    let dana = server.person("dana").await;
    let mut watches: Vec<Watch> = (0..16).map(|_| dana.watch_approvals(None, "")).collect();
    for watch in &mut watches {
        next(watch).await;
    }
    assert_eq!(code(&dana.watch_approvals(None, "").next().await), Code::ResourceExhausted);
    // Others are not concerned.
    next(&mut server.person("dave").await.watch_approvals(None, "")).await;
    drop(watches);
    let room = async {
        // The server learns of a closed stream a moment later.
        while code(&dana.watch_approvals(None, "").next().await) != Code::Ok {}
    };
    within("room", room).await;
}
