use super::*;
use crate::claimed::Claimed;
use crate::id::{DecisionId, TokenId};

fn person(id: &str) -> EntityRef {
    EntityRef::new("Person", id).unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn rule(id: &str, quorum: u32) -> AskingRule {
    AskingRule { id: id.into(), quorum, reason: None, signed_votes: false }
}

fn approval(rules: Vec<AskingRule>) -> Approval {
    let asking = Asking {
        action: "{}".into(),
        digest: Digest::of(b"{}"),
        session: SessionId::from_bytes([1; 16]),
        principal: EntityRef::new("Agent", "a").unwrap(),
        owner: person("olivia"),
        history: History::default(),
        asked_by: EntityRef::new("Agent", "a").unwrap(),
        justification: "please".into(),
        labels: BTreeSet::new(),
        purpose: "sync".into(),
        rules,
        bundle: Digest::of(b"bundle"),
        excluded: BTreeSet::from([person("olivia")]),
        ttl: Duration::from_millis(100),
        escalations: BTreeSet::new(),
    };
    Approval::ask(ApprovalId::from_bytes([2; 16]), asking, at(0))
}

fn vote(approval: &Approval, id: &str, verdict: Verdict, now: i64) -> Vote {
    Vote {
        person: person(id),
        account: format!("issuer#{id}"),
        verdict,
        rules: BTreeSet::new(),
        digest: approval.digest,
        view: approval.view,
        comment: String::new(),
        at: at(now),
        claimed: None,
        signature: None,
        statement: None,
    }
}

fn cast(approval: &mut Approval, id: &str, verdict: Verdict, now: i64) -> Result<(), ApprovalError> {
    let vote = vote(approval, id, verdict, now);
    approval.vote(vote, |_, _| true)
}

#[test]
fn a_rule_that_demands_signatures_counts_signed_approvals_alone() {
    let signed_only = AskingRule { signed_votes: true, ..rule("signed", 1) };
    let signed = |approval: &Approval, id: &str, now| Vote {
        signature: Some(VoteSignature::Ed25519 { key: "k".into(), line: "l".into(), request: "r".into(), at: at(now) }),
        ..vote(approval, id, Verdict::Approve, now)
    };
    let mut asked = approval(vec![signed_only.clone(), rule("plain", 1)]);
    assert_eq!(cast(&mut asked, "dana", Verdict::Approve, 1), Err(ApprovalError::Unsigned("signed".into())));
    assert!(asked.votes().is_empty());
    // Whoever may answer only what demands none needs none.
    let plain = vote(&asked, "dave", Verdict::Approve, 2);
    asked.vote(plain, |rule, _| rule == "plain").unwrap();
    assert_eq!(asked.state(at(3)), ApprovalState::Pending);
    let with = signed(&asked, "dana", 3);
    asked.vote(with, |_, _| true).unwrap();
    assert_eq!(asked.state(at(4)), ApprovalState::Approved);
    // Under a rule that came to demand it, what nobody signed counts no more.
    let mut before = approval(vec![rule("signed", 1)]);
    cast(&mut before, "dana", Verdict::Approve, 1).unwrap();
    let tally = before.tally(std::slice::from_ref(&signed_only), &BTreeSet::new(), |_, _| true);
    assert!(!tally[0].met(), "{tally:?}");
    // A deny takes only away.
    let mut denied = approval(vec![signed_only]);
    cast(&mut denied, "dana", Verdict::Deny, 1).unwrap();
    assert!(denied.was_denied());
    assert_ne!(denied.view_digest(), approval(vec![rule("signed", 1)]).view_digest());
}

#[test]
fn a_quorum_counts_distinct_persons() {
    let mut approval = approval(vec![rule("two", 2)]);
    assert_eq!(cast(&mut approval, "dana", Verdict::Approve, 1), Ok(()));
    assert_eq!(cast(&mut approval, "dana", Verdict::Approve, 2), Err(ApprovalError::AlreadyVoted(person("dana"))));
    assert_eq!(approval.state(at(2)), ApprovalState::Pending);
    assert_eq!(cast(&mut approval, "dave", Verdict::Approve, 3), Ok(()));
    assert_eq!(approval.state(at(3)), ApprovalState::Approved);
}

#[test]
fn two_rules_do_not_share_votes_by_accident() {
    let mut approval = approval(vec![rule("data", 2), rule("security", 1)]);
    for (id, now) in [("dana", 1), ("dave", 2)] {
        let vote = vote(&approval, id, Verdict::Approve, now);
        approval.vote(vote, |rule, _| rule == "data").unwrap();
    }
    assert_eq!(approval.state(at(2)), ApprovalState::Pending);
    let vote = vote(&approval, "sam", Verdict::Approve, 3);
    // Each person stays eligible for what they were eligible for.
    approval.vote(vote, |rule, vote| (rule == "security") == (vote.person.id() == "sam")).unwrap();
    assert_eq!(approval.state(at(3)), ApprovalState::Approved);
}

#[test]
fn a_voter_who_lost_the_role_no_longer_counts() {
    let mut approval = approval(vec![rule("two", 2)]);
    cast(&mut approval, "dana", Verdict::Approve, 1).unwrap();
    let second = vote(&approval, "dave", Verdict::Approve, 2);
    approval.vote(second, |_, vote| vote.person.id() != "dana").unwrap();
    assert_eq!(approval.state(at(2)), ApprovalState::Pending);
}

#[test]
fn the_excluded_and_the_stale_are_refused() {
    let mut approval = approval(vec![rule("one", 1)]);
    assert_eq!(cast(&mut approval, "olivia", Verdict::Approve, 1), Err(ApprovalError::Excluded(person("olivia"))));
    let mut stale = vote(&approval, "dana", Verdict::Approve, 1);
    stale.digest = Digest::of(b"another");
    assert_eq!(approval.vote(stale, |_, _| true), Err(ApprovalError::StaleDigest));
    let mut stale = vote(&approval, "dana", Verdict::Approve, 1);
    stale.view = Digest::of(b"another");
    assert_eq!(approval.vote(stale, |_, _| true), Err(ApprovalError::StaleView));
    let outsider = vote(&approval, "eve", Verdict::Deny, 1);
    assert_eq!(approval.vote(outsider, |_, _| false), Err(ApprovalError::NotEligible(person("eve"))));
    assert_eq!(approval.state(at(1)), ApprovalState::Pending);
}

#[test]
fn a_vote_counts_until_the_expiry_and_not_at_it() {
    let mut early = approval(vec![rule("one", 1)]);
    assert_eq!(cast(&mut early, "dana", Verdict::Approve, 99), Ok(()));
    let mut late = approval(vec![rule("one", 1)]);
    assert_eq!(cast(&mut late, "dana", Verdict::Approve, 100), Err(ApprovalError::State("expired")));
}

#[test]
fn one_eligible_deny_ends_it_before_and_after_the_quorum() {
    let mut before = approval(vec![rule("one", 1)]);
    cast(&mut before, "dana", Verdict::Deny, 1).unwrap();
    assert_eq!(before.state(at(1)), ApprovalState::Denied { by: person("dana") });
    let mut after = approval(vec![rule("one", 1)]);
    cast(&mut after, "dana", Verdict::Approve, 1).unwrap();
    cast(&mut after, "dave", Verdict::Deny, 2).unwrap();
    assert!(matches!(after.state(at(2)), ApprovalState::Void { why: VoidCause::Denied { .. } }));
    assert!(after.redeem(Spender::Capability(TokenId::from_bytes([0; 16])), at(3)).is_err());
}

#[test]
fn terminal_states_have_no_exit() {
    let ends: [fn(&mut Approval); 5] = [
        |a| cast(a, "dana", Verdict::Deny, 1).unwrap(),
        |a| a.cancel(person("olivia"), at(1)).unwrap(),
        |a| a.void(VoidCause::ConditionsChanged { changed: None }, at(1)).unwrap(),
        |a| {
            cast(a, "dana", Verdict::Approve, 1).unwrap();
            a.redeem(Spender::Decision(DecisionId::from_bytes([0; 16])), at(1)).unwrap();
        },
        |a| {
            cast(a, "dana", Verdict::Approve, 1).unwrap();
            a.withdraw(&person("dana"), at(1)).unwrap();
        },
    ];
    for end in ends {
        let mut over = approval(vec![rule("one", 1)]);
        end(&mut over);
        let state = over.state(at(2));
        assert!(state.is_terminal());
        assert!(cast(&mut over, "dave", Verdict::Approve, 2).is_err());
        assert!(cast(&mut over, "dave", Verdict::Deny, 2).is_err());
        assert!(over.cancel(person("olivia"), at(2)).is_err());
        assert!(over.void(VoidCause::SessionOver, at(2)).is_err());
        assert!(over.withdraw(&person("dana"), at(2)).is_err());
        assert!(over.redeem(Spender::Capability(TokenId::from_bytes([0; 16])), at(2)).is_err());
        assert_eq!(over.state(at(1_000)), state);
    }
}

#[test]
fn every_state_is_read_back_as_it_was_written() {
    let ends: [fn(&mut Approval); 6] = [
        |_| {},
        |a| cast(a, "dana", Verdict::Approve, 1).unwrap(),
        |a| cast(a, "dana", Verdict::Deny, 1).unwrap(),
        |a| a.cancel(person("olivia"), at(1)).unwrap(),
        |a| a.void(VoidCause::Withdrawn { by: person("dana") }, at(1)).unwrap(),
        |a| {
            cast(a, "dana", Verdict::Approve, 1).unwrap();
            a.redeem(Spender::Capability(TokenId::from_bytes([0; 16])), at(1)).unwrap();
        },
    ];
    for end in ends {
        let mut approval = approval(vec![rule("one", 1)]);
        end(&mut approval);
        let text = serde_json::to_string(&approval).unwrap();
        assert_eq!(serde_json::from_str::<Approval>(&text).unwrap(), approval);
        assert!(serde_json::from_str::<Approval>(&text.replacen('{', r#"{"unknown":1,"#, 1)).is_err());
    }
}

#[test]
fn no_rule_means_no_approval() {
    assert!(!Tally { rule: "r".into(), quorum: 0, persons: BTreeSet::new() }.met());
}

#[test]
fn a_vote_that_rests_on_a_credential_lapses_with_it_and_is_cast_again() {
    let mut approval = approval(vec![rule("two", 2)]);
    let groups = BTreeSet::from([EntityRef::new("Group", "owners").unwrap()]);
    let by_claim = |approval: &Approval, id, now, until| {
        let claimed = Claimed::new(groups.clone(), at(until));
        Vote { claimed, ..vote(approval, id, Verdict::Approve, now) }
    };
    let in_group = |_: &str, vote: &Vote, now: i64| vote.person.id() == "dave" || !vote.groups_at(at(now)).is_empty();
    let cast = by_claim(&approval, "dana", 1, 50);
    approval.vote(cast, |rule, vote| in_group(rule, vote, 1)).unwrap();
    assert_eq!((approval.lapses_at(at(49)), approval.lapses_at(at(50))), (Some(at(50)), Some(at(100))));
    let again = by_claim(&approval, "dana", 49, 90);
    assert_eq!(approval.vote(again, |_, _| true), Err(ApprovalError::AlreadyVoted(person("dana"))));
    let dave = vote(&approval, "dave", Verdict::Approve, 60);
    approval.vote(dave, |rule, vote| in_group(rule, vote, 60)).unwrap();
    assert_eq!(approval.state(at(60)), ApprovalState::Pending);
    let again = by_claim(&approval, "dana", 61, 90);
    approval.vote(again, |rule, vote| in_group(rule, vote, 61)).unwrap();
    assert_eq!((approval.state(at(61)), approval.votes().len()), (ApprovalState::Approved, 2));
    assert_eq!(approval.fades_at(at(61)), Some(at(90)));
    // As it is kept, and read again; what earlier releases wrote has nothing of it.
    let text = serde_json::to_string(&approval).unwrap();
    assert_eq!(serde_json::from_str::<Approval>(&text).unwrap(), approval);
    assert_eq!(text.matches("claimed").count(), 1);
    // A deny keeps nothing of it.
    let no = Vote { verdict: Verdict::Deny, ..by_claim(&approval, "mo", 62, 90) };
    approval.vote(no, |_, _| true).unwrap();
    assert!(approval.votes().iter().any(|vote| vote.person.id() == "mo" && vote.claimed.is_none()));
}
