//! What a vote is: one per person, on exactly what was shown, until it is taken back or the question is over.

use std::time::Duration;

use countersign::proto::*;
use countersign_core::Digest;
use futures::future::join_all;
use tonic::Code;

use super::shared::{
    Ledger, approved, denied, export_abroad, failed, half_an_hour_ago, invalid, join, not_found, unvoted,
};
use crate::harness::flow::{ask, ballot, decide, export, mint, must_mint, open, redeem, refused, show, vote};
use crate::harness::{Bundle, Options, Server};

#[tokio::test]
async fn the_same_approver_a_hundred_times_at_once_is_one_vote() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    let mut ledger = Ledger::of(&server).await;
    // Ten connections, so that one connection's order protects nothing.
    let dana = join_all((0..10).map(|_| server.person("dana"))).await;
    let attempts = (0..100).map(|n| dana[n % 10].cast_vote(ballot(&asked, VoteVerdict::Approve)));
    let (cast, again): (Vec<_>, Vec<_>) = join_all(attempts).await.into_iter().partition(Result::is_ok);
    assert_eq!(cast.len(), 1);
    for result in again {
        assert_eq!(refused(result), (Code::AlreadyExists, "ALREADY_VOTED".to_owned()));
    }
    let now = show(&agent, &asked.approval_id).await.unwrap();
    assert_eq!((now.state(), now.votes.len(), now.rules[0].persons.len()), (ApprovalState::Pending, 1, 1));
    ledger.expect(&[("vote", 1), ("refusal", 99)]).await;
}

#[tokio::test]
async fn one_vote_sent_a_hundred_times_is_answered_alike_each_time() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    let mut ledger = Ledger::of(&server).await;
    let dana = server.person("dana").await;
    let same = ballot(&asked, VoteVerdict::Approve);
    let answers = join_all((0..100).map(|_| dana.cast_vote(same.clone()))).await;
    let fresh = answers.into_iter().filter(|answer| !answer.as_ref().unwrap().replayed).count();
    assert_eq!(fresh, 1);
    // The id is taken for this body, whatever another says.
    let other = CastVoteRequest { verdict: VoteVerdict::Deny.into(), ..same };
    assert_eq!(refused(dana.cast_vote(other).await), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    ledger.expect(&[("vote", 1), ("refusal", 1)]).await;
}

#[tokio::test]
async fn a_person_with_two_accounts_is_one_vote() {
    let bundle = Bundle::example();
    super::shared::account(&bundle, "dana", "dana.second");
    let server = Server::with_bundle(bundle).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    vote(&server.person("dana").await, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    let second = server.person("dana.second").await;
    let again = vote(&second, &asked.approval_id, VoteVerdict::Approve).await;
    assert_eq!(refused(again), (Code::AlreadyExists, "ALREADY_VOTED".to_owned()));
    assert_eq!(show(&second, &asked.approval_id).await.unwrap().state(), ApprovalState::Pending);
}

#[tokio::test]
async fn a_vote_on_anything_but_what_is_shown_now_is_refused() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    let other = ask(&agent, &session, &export(6)).await.unwrap();
    let dana = server.person("dana").await;
    let mut ledger = Ledger::of(&server).await;
    let good = ballot(&asked, VoteVerdict::Approve);
    let elsewhere = Digest::of(b"elsewhere").to_string();
    for (digest, view_digest) in [
        (&other.digest, &asked.view_digest),
        (&asked.digest, &other.view_digest),
        (&asked.view_digest, &asked.digest),
        (&elsewhere, &asked.view_digest),
        (&asked.digest, &elsewhere),
    ] {
        for verdict in [VoteVerdict::Approve, VoteVerdict::Deny] {
            let (digest, view_digest, verdict) = (digest.clone(), view_digest.clone(), verdict.into());
            let stale = CastVoteRequest { digest, view_digest, verdict, ..ballot(&asked, VoteVerdict::Approve) };
            assert_eq!(refused(dana.cast_vote(stale).await), failed("VOTE_STALE"));
        }
    }
    ledger.expect(&[("refusal", 10)]).await;
    for malformed in [
        CastVoteRequest { digest: String::new(), ..good.clone() },
        CastVoteRequest { view_digest: String::new(), ..good.clone() },
        CastVoteRequest { digest: asked.digest.to_uppercase(), ..good.clone() },
        CastVoteRequest { verdict: VoteVerdict::Unspecified.into(), ..good.clone() },
        CastVoteRequest { verdict: 99, ..good.clone() },
        CastVoteRequest { comment: "x".repeat(2_001), ..good.clone() },
        CastVoteRequest { approval_id: "all".to_owned(), ..good.clone() },
    ] {
        let refusal = refused(dana.cast_vote(malformed.clone()).await);
        assert_eq!(refusal, invalid(), "{malformed:?}");
    }
    unvoted(&agent, &asked.approval_id).await;
    unvoted(&agent, &other.approval_id).await;
    // The control.
    assert_eq!(dana.cast_vote(good).await.unwrap().approval.unwrap().votes.len(), 1);
}

#[tokio::test]
async fn a_question_that_was_put_anew_takes_no_vote_on_the_old_view() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let old = ask(&agent, &session, &export(5)).await.unwrap();
    let cancel = CancelApprovalRequest { approval_id: old.approval_id.clone(), ..Default::default() };
    agent.cancel_approval(cancel).await.unwrap();
    let new = ask(&agent, &session, &export(5)).await.unwrap();
    assert_ne!(old.approval_id, new.approval_id);
    assert_eq!(old.digest, new.digest);
    let dana = server.person("dana").await;
    let mut ledger = Ledger::of(&server).await;
    let stale = CastVoteRequest { approval_id: new.approval_id.clone(), ..ballot(&old, VoteVerdict::Approve) };
    assert_eq!(refused(dana.cast_vote(stale).await), failed("VOTE_STALE"));
    let over = ballot(&old, VoteVerdict::Approve);
    assert_eq!(refused(dana.cast_vote(over).await), failed("APPROVAL_STATE"));
    unvoted(&agent, &new.approval_id).await;
    ledger.expect(&[("refusal", 2)]).await;
}

#[tokio::test]
async fn each_rule_needs_its_own_people() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export_abroad(5)).await.unwrap();
    let id = &asked.approval_id;
    let mut ledger = Ledger::of(&server).await;
    for person in ["dana", "dave"] {
        vote(&server.person(person).await, id, VoteVerdict::Approve).await.unwrap();
    }
    let now = show(&agent, id).await.unwrap();
    let met: Vec<(&str, bool)> = now.rules.iter().map(|rule| (rule.rule_id.as_str(), rule.met)).collect();
    assert_eq!(now.state(), ApprovalState::Pending);
    assert!(met.contains(&("export-needs-two", true)), "{met:?}");
    assert!(met.contains(&("export-abroad-needs-security", false)), "{met:?}");
    let early = mint(&agent, &session, &export_abroad(5), id).await.unwrap();
    assert_eq!((early.verdict(), early.capability), (Verdict::NeedsApproval, None));
    ledger.expect(&[("vote", 2), ("NEEDS_APPROVAL", 1)]).await;

    let after = vote(&server.person("sam").await, id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(after.state(), ApprovalState::Approved);
    must_mint(&agent, &session, &export_abroad(5), id).await;
    ledger.expect(&[("vote", 1), ("minted", 1)]).await;
}

#[tokio::test]
async fn a_person_of_both_groups_counts_for_each_rule_and_a_quorum_still_takes_two() {
    let bundle = Bundle::example();
    join(&bundle, "dana", "security");
    let server = Server::with_bundle(bundle).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let id = ask(&agent, &session, &export_abroad(5)).await.unwrap().approval_id;
    let after = vote(&server.person("dana").await, &id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(after.state(), ApprovalState::Pending);
    let after = vote(&server.person("sam").await, &id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(after.state(), ApprovalState::Pending, "sam answers for security only");
    let after = vote(&server.person("dave").await, &id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(after.state(), ApprovalState::Approved);
}

#[tokio::test]
async fn a_vote_is_taken_back_before_the_quorum_and_can_be_cast_again() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let id = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    let dana = server.person("dana").await;
    let withdraw = || WithdrawVoteRequest { approval_id: id.clone(), ..Default::default() };
    let mut ledger = Ledger::of(&server).await;
    assert_eq!(refused(dana.withdraw_vote(withdraw()).await), failed("APPROVAL_STATE"), "there is none yet");
    vote(&dana, &id, VoteVerdict::Approve).await.unwrap();
    dana.withdraw_vote(withdraw()).await.unwrap();
    unvoted(&agent, &id).await;
    ledger.expect(&[("refusal", 1), ("vote", 1), ("vote_withdrawn", 1)]).await;
    // What was taken back does not count beside the second person.
    let after = vote(&server.person("dave").await, &id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(after.state(), ApprovalState::Pending);
    let after = vote(&dana, &id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(after.state(), ApprovalState::Approved);
    ledger.expect(&[("vote", 2)]).await;
}

#[tokio::test]
async fn a_vote_that_is_taken_back_after_the_quorum_voids_the_request_and_its_capability() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let approval = approved(&server, &agent, &session, &export(5)).await;
    let minted = must_mint(&agent, &session, &export(5), &approval.approval_id).await;
    let mut ledger = Ledger::of(&server).await;
    let withdraw = WithdrawVoteRequest { approval_id: approval.approval_id.clone(), ..Default::default() };
    let after = server.person("dana").await.withdraw_vote(withdraw).await.unwrap().approval.unwrap();
    assert_eq!(after.state(), ApprovalState::Void);
    let spent = redeem(&server.warehouse().await, &minted.token, &export(5)).await;
    assert_eq!(refused(spent), denied("CAPABILITY_REVOKED"));
    let again = mint(&agent, &session, &export(5), &approval.approval_id).await;
    assert_eq!(refused(again), failed("APPROVAL_STATE"));
    let late = vote(&server.person("dana").await, &approval.approval_id, VoteVerdict::Approve).await;
    assert_eq!(refused(late), failed("APPROVAL_STATE"));
    ledger.expect(&[("vote_withdrawn", 1), ("refusal", 3)]).await;
}

#[tokio::test]
async fn a_deny_ends_a_pending_request_and_kills_an_approved_one() {
    let bundle = Bundle::example();
    join(&bundle, "kurt", "data-owners");
    let server = Server::with_bundle(bundle).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let kurt = server.person("kurt").await;

    // Both are asked before the deny: after it, nobody asks for the same for a while.
    let approval = approved(&server, &agent, &session, &export(6)).await;
    let pending = ask(&agent, &session, &export(5)).await.unwrap();
    let after = vote(&kurt, &pending.approval_id, VoteVerdict::Deny).await.unwrap();
    assert_eq!(after.state(), ApprovalState::Denied);
    let late = vote(&server.person("dana").await, &pending.approval_id, VoteVerdict::Approve).await;
    assert_eq!(refused(late), failed("APPROVAL_STATE"));

    let minted = must_mint(&agent, &session, &export(6), &approval.approval_id).await;
    let mut ledger = Ledger::of(&server).await;
    let after = vote(&kurt, &approval.approval_id, VoteVerdict::Deny).await.unwrap();
    assert_eq!(after.state(), ApprovalState::Void);
    let spent = redeem(&server.warehouse().await, &minted.token, &export(6)).await;
    assert_eq!(refused(spent), denied("CAPABILITY_REVOKED"));
    let again = mint(&agent, &session, &export(6), &approval.approval_id).await;
    assert_eq!(refused(again), failed("APPROVAL_STATE"));
    let plain = decide(&agent, &session, &export(6)).await.unwrap();
    assert_eq!(plain.verdict(), Verdict::NeedsApproval);
    ledger.expect(&[("vote", 1), ("refusal", 2), ("NEEDS_APPROVAL", 1)]).await;
}

#[tokio::test]
async fn only_the_parties_cancel_and_only_what_is_pending() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    let cancel = || CancelApprovalRequest { approval_id: asked.approval_id.clone(), ..Default::default() };
    let mut ledger = Ledger::of(&server).await;
    for stranger in ["dana", "sam", "alice", "wendy", "agent:chat-bot", "service:gateway"] {
        let refusal = refused(server.person(stranger).await.cancel_approval(cancel()).await);
        assert_eq!(refusal, not_found("APPROVAL_NOT_FOUND"), "{stranger}");
    }
    unvoted(&agent, &asked.approval_id).await;
    let olivia = server.person("olivia").await;
    let after = olivia.cancel_approval(cancel()).await.unwrap().approval.unwrap();
    assert_eq!(after.state(), ApprovalState::Cancelled);
    assert_eq!(refused(agent.cancel_approval(cancel()).await), failed("APPROVAL_STATE"));
    let late = vote(&server.person("dana").await, &asked.approval_id, VoteVerdict::Approve).await;
    assert_eq!(refused(late), failed("APPROVAL_STATE"));
    ledger.expect(&[("refusal", 8), ("approval_cancelled", 1)]).await;

    let second = approved(&server, &agent, &session, &export(6)).await;
    let cancel = CancelApprovalRequest { approval_id: second.approval_id, ..Default::default() };
    assert_eq!(refused(agent.cancel_approval(cancel).await), failed("APPROVAL_STATE"));
}

#[tokio::test]
async fn time_runs_out_by_the_servers_clock_for_votes_and_for_what_was_approved() {
    let data = tempfile::tempdir().unwrap();
    let begin = half_an_hour_ago();
    let at = |minutes: u64| Options {
        data_dir: Some(data.path().join("data")),
        clock: Some(begin.plus(Duration::from_secs(60 * minutes))),
        ..Options::default()
    };
    let mut server = Server::start(at(0)).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let pending = ask(&agent, &session, &export(5)).await.unwrap();
    let good = approved(&server, &agent, &session, &export(6)).await;
    // 15 minutes from the question while it waits, and from the quorum once it is met.
    let seconds = |time: &Option<prost_types::Timestamp>| time.as_ref().unwrap().seconds;
    assert_eq!(seconds(&pending.expires_at) - seconds(&pending.created_at), 900);
    let approved_at = good.votes.iter().map(|vote| seconds(&vote.cast_at)).max().unwrap();
    assert_eq!(seconds(&good.expires_at) - approved_at, 900);
    server.terminate().await;
    drop(server);

    // Sixteen minutes later by the server's clock, which is not the machine's: nobody else's clock decides anything.
    let server = Server::start(at(16)).await;
    let (agent, dana) = (server.etl_bot().await, server.person("dana").await);
    let mut ledger = Ledger::of(&server).await;
    for id in [&pending.approval_id, &good.approval_id] {
        let now = show(&agent, id).await.unwrap();
        assert_eq!(now.state(), ApprovalState::Expired, "told as expired, not as denied");
        for verdict in [VoteVerdict::Approve, VoteVerdict::Deny] {
            assert_eq!(refused(vote(&dana, id, verdict).await), failed("APPROVAL_STATE"));
        }
    }
    assert_eq!(refused(mint(&agent, &session, &export(6), &good.approval_id).await), failed("APPROVAL_STATE"));
    ledger.expect(&[("refusal", 5)]).await;
    let again = ask(&agent, &session, &export(5)).await.unwrap();
    assert_ne!(again.approval_id, pending.approval_id, "what expired is not shared");
    vote(&dana, &again.approval_id, VoteVerdict::Approve).await.unwrap();
}
