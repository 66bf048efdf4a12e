use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::approval::{Approval, ApprovalState, Asking, AskingRule, Verdict, VoidCause, Vote};
use crate::entity::EntityRef;
use crate::id::{ApprovalId, DecisionId, SessionId, TokenId};
use crate::precedent::History;

/// When the session is over.
const UNTIL: i64 = 100_000;

fn person(id: &str) -> EntityRef {
    EntityRef::new("Person", id).unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn asked(uses: u32, seconds: u64) -> Approval {
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
        rules: vec![AskingRule { id: "one".into(), quorum: 1, reason: None, signed_votes: false }],
        bundle: Digest::of(b"bundle"),
        excluded: BTreeSet::from([person("olivia")]),
        ttl: Duration::from_millis(100),
        escalations: BTreeSet::new(),
    };
    Approval::ask(ApprovalId::from_bytes([2; 16]), asking, at(0)).within(
        Bounds { uses, seconds },
        at(UNTIL),
        Digest::of(b"rules"),
    )
}

fn cast(approval: &mut Approval, id: &str, verdict: Verdict, now: i64) -> Result<(), ApprovalError> {
    let vote = Vote {
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
    };
    approval.vote(vote, |_, _| true)
}

fn approved(uses: u32, seconds: u64) -> Approval {
    let mut approval = asked(uses, seconds);
    cast(&mut approval, "dana", Verdict::Approve, 10).unwrap();
    approval
}

fn token(number: u8) -> Spender {
    Spender::Capability(TokenId::from_bytes([number; 16]))
}

#[test]
fn it_is_good_for_its_uses_and_not_one_more() {
    let mut approval = approved(3, 60);
    for number in 1..=3 {
        assert_eq!(approval.state(at(20)), ApprovalState::Approved);
        approval.redeem(token(number), at(20)).unwrap();
    }
    assert_eq!(approval.state(at(20)), ApprovalState::Redeemed { by: token(3) });
    assert_eq!(approval.redeem(token(4), at(20)), Err(ApprovalError::UsedUp(3)));
    let pre = approval.pre_approval().unwrap();
    assert_eq!((pre.charged(), pre.left()), (3, 0));
    assert_eq!(pre.last().iter().map(|charge| charge.number).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn it_is_over_after_its_time_and_with_its_session() {
    let mut short = approved(3, 60);
    assert_eq!(short.expires_at(), at(60_010));
    assert_eq!(short.redeem(token(1), at(60_009)), Ok(()));
    assert_eq!(short.redeem(token(2), at(60_010)), Err(ApprovalError::State("expired")));
    // People have as long to answer as for any question, however long it lasts then.
    assert_eq!(cast(&mut asked(3, 60), "dana", Verdict::Approve, 100), Err(ApprovalError::State("expired")));
    let long = approved(3, 3_600);
    assert_eq!(long.expires_at(), at(UNTIL));
}

#[test]
fn nothing_is_charged_after_a_vote_was_withdrawn_or_it_was_ended() {
    let ends: [fn(&mut Approval); 4] = [
        |a| a.withdraw(&person("dana"), at(20)).unwrap(),
        |a| cast(a, "dave", Verdict::Deny, 20).unwrap(),
        |a| a.cancel(person("olivia"), at(20)).unwrap(),
        |a| a.void(VoidCause::ConditionsChanged { changed: None }, at(20)).unwrap(),
    ];
    for end in ends {
        let mut approval = approved(3, 60);
        approval.redeem(token(1), at(15)).unwrap();
        end(&mut approval);
        let over = approval.state(at(21));
        assert!(over.is_terminal());
        assert_eq!(approval.redeem(token(2), at(21)), Err(ApprovalError::State(over.word())));
        assert_eq!(approval.pre_approval().unwrap().charged(), 1);
    }
}

#[test]
fn only_a_pre_approval_is_ended_when_it_is_approved() {
    let mut one = asked(3, 60);
    one.pre_approval = None;
    one.view = one.view_digest();
    cast(&mut one, "dana", Verdict::Approve, 10).unwrap();
    assert_eq!(one.cancel(person("olivia"), at(20)), Err(ApprovalError::State("approved")));
    assert_eq!(approved(3, 60).cancel(person("olivia"), at(20)), Ok(()));
}

#[test]
fn its_bounds_are_part_of_what_is_shown() {
    let base = asked(3, 60);
    let mut plain = base.clone();
    plain.pre_approval = None;
    let mut later = base.clone();
    later.pre_approval = Some(Charged::new(Bounds { uses: 3, seconds: 60 }, at(UNTIL + 1), Digest::of(b"rules")));
    for other in [&asked(4, 60), &asked(3, 61), &plain, &later] {
        assert_ne!(other.view_digest(), base.view_digest());
    }
    // What is used of it is not: it is voted on once.
    let mut used = approved(3, 60);
    used.redeem(token(1), at(20)).unwrap();
    assert_eq!(used.view_digest(), base.view_digest());
}

#[test]
fn what_is_used_is_read_back_as_it_was_written() {
    let mut approval = approved(100, 60);
    for number in 0..60 {
        approval.redeem(token(number), at(20)).unwrap();
    }
    approval.redeem(Spender::Decision(DecisionId::from_bytes([9; 16])), at(20)).unwrap();
    let text = serde_json::to_string(&approval).unwrap();
    assert_eq!(serde_json::from_str::<Approval>(&text).unwrap(), approval);
    let pre = approval.pre_approval().unwrap();
    assert_eq!((pre.charged(), pre.last().len()), (61, KEPT_USES));
    assert_eq!(pre.last().last().unwrap().number, 61);
    // The room that a request leaves for them.
    assert!(serde_json::to_string(pre).unwrap().len() < 6 * 1024, "{text}");
}

proptest! {
    /// Whatever is tried in whatever order, no more is charged than there was, and nothing once it was over.
    #[test]
    fn never_more_is_charged_than_was_approved(
        uses in 1_u32..8,
        seconds in 1_u64..80,
        steps in proptest::collection::vec((0_u8..16, 0_i64..12_000), 1..40),
    ) {
        let mut approval = approved(uses, seconds);
        let (mut now, mut charged, mut over) = (10, 0, false);
        for (step, pass) in steps {
            now += pass;
            let terminal = approval.state(at(now)).is_terminal();
            prop_assert!(terminal || !over, "a terminal state has an exit");
            over = terminal;
            match step {
                0 => drop(approval.withdraw(&person("dana"), at(now))),
                1 => drop(approval.cancel(person("olivia"), at(now))),
                2 => drop(cast(&mut approval, "dave", Verdict::Deny, now)),
                _ => {
                    let done = approval.redeem(token(step), at(now)).is_ok();
                    prop_assert_eq!(done, !terminal && charged < uses && now < UNTIL);
                    charged += u32::from(done);
                }
            }
            prop_assert_eq!(approval.pre_approval().unwrap().charged(), charged);
            prop_assert!(charged <= uses);
        }
    }
}
