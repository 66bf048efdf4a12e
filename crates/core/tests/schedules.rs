//! Calls that race for one request, in every order that a scheduler finds: whatever comes first, there is one end, and at most one
//! authority, and only where people gave it (I1, I2, I5, I13).
//!
//! The store is the smallest that keeps the kernel's promise: a commit happens if nothing that it read was changed meanwhile, and
//! before its last moment. The use cases are the loops that the engine makes of the same state machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_core::approval::{Approval, ApprovalError, ApprovalState, Asking, AskingRule, Spender, Verdict, Vote};
use countersign_core::capability::{Capability, Grant};
use countersign_core::precedent::History;
use countersign_core::{ApprovalId, DecisionId, Digest, EntityRef, SessionId, Timestamp, TokenId};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

const QUORUM: u32 = 2;
const EXPIRES: Timestamp = Timestamp::from_millis(100);

#[derive(Clone)]
struct Row<T> {
    revision: u64,
    value: T,
}

struct Rows {
    now: Timestamp,
    approval: Row<Approval>,
    capability: Option<Row<Capability>>,
    /// What the request was before and after each commit that changed it.
    ends: Vec<(ApprovalState, ApprovalState)>,
    redeemed: usize,
}

#[derive(Clone)]
struct Store(Arc<Mutex<Rows>>);

/// Somebody else was faster, or it is too late by now.
struct Again;

impl Store {
    fn asked() -> Self {
        let rule = AskingRule { id: "two".into(), quorum: QUORUM, reason: None, signed_votes: false };
        let asking = Asking {
            action: "{}".into(),
            digest: Digest::of(b"{}"),
            session: SessionId::from_bytes([1; 16]),
            principal: agent(),
            owner: person("olivia"),
            history: History::default(),
            asked_by: agent(),
            justification: "because".into(),
            labels: BTreeSet::new(),
            purpose: "x".into(),
            rules: vec![rule],
            bundle: Digest::of(b"bundle"),
            excluded: BTreeSet::from([person("olivia")]),
            ttl: Duration::from_millis(100),
            escalations: BTreeSet::new(),
        };
        let value = Approval::ask(ApprovalId::from_bytes([2; 16]), asking, Timestamp::from_millis(0));
        assert_eq!(value.expires_at(), EXPIRES);
        let approval = Row { revision: 1, value };
        let rows = Rows { now: Timestamp::from_millis(1), approval, capability: None, ends: Vec::new(), redeemed: 0 };
        Self(Arc::new(Mutex::new(rows)))
    }

    fn now(&self) -> Timestamp {
        self.0.lock().unwrap().now
    }

    fn approval(&self) -> Row<Approval> {
        self.0.lock().unwrap().approval.clone()
    }

    fn capability(&self) -> Option<Row<Capability>> {
        self.0.lock().unwrap().capability.clone()
    }

    /// Replaces the request, and the capability if there is one, if both are as they were read and neither has lapsed.
    fn commit(
        &self,
        approval: &Row<Approval>,
        capability: Option<(&Row<Capability>, Timestamp)>,
        lapses: Option<Timestamp>,
    ) -> Result<(), Again> {
        let mut rows = self.0.lock().unwrap();
        let late = lapses.into_iter().chain(capability.map(|(_, at)| at)).any(|at| rows.now.reached(at));
        let read = |row: &Row<Capability>| rows.capability.as_ref().is_some_and(|now| now.revision == row.revision);
        if late || rows.approval.revision != approval.revision || !capability.is_none_or(|(row, _)| read(row)) {
            return Err(Again);
        }
        let (now, revision) = (rows.now, approval.revision + 1);
        let end = (rows.approval.value.state(now), approval.value.state(now));
        rows.ends.push(end);
        rows.approval = Row { revision, ..approval.clone() };
        if let Some((row, _)) = capability {
            rows.capability = Some(Row { revision: row.revision + 1, ..row.clone() });
            rows.redeemed += 1;
        }
        Ok(())
    }

    /// Mints while the request is as it was read.
    fn mint(&self, approval: &Row<Approval>, capability: Capability) -> Result<(), Again> {
        let mut rows = self.0.lock().unwrap();
        if rows.now.reached(approval.value.expires_at()) || rows.approval.revision != approval.revision {
            return Err(Again);
        }
        rows.capability = Some(Row { revision: 1, value: capability });
        Ok(())
    }
}

fn person(id: &str) -> EntityRef {
    EntityRef::new("Person", id).unwrap()
}

fn agent() -> EntityRef {
    EntityRef::new("Agent", "bot").unwrap()
}

/// Changes the request until that is done, or refused.
fn change(store: &Store, change: impl Fn(&mut Approval, Timestamp) -> Result<(), ApprovalError>) -> bool {
    loop {
        let (now, mut approval) = (store.now(), store.approval());
        let lapses = approval.value.lapses_at(now);
        if change(&mut approval.value, now).is_err() {
            return false;
        }
        if store.commit(&approval, None, lapses).is_ok() {
            return true;
        }
    }
}

fn vote(store: &Store, who: &str, verdict: Verdict) -> bool {
    change(store, |approval, now| {
        let vote = Vote {
            person: person(who),
            account: who.into(),
            verdict,
            rules: BTreeSet::new(),
            digest: approval.digest,
            view: approval.view,
            comment: String::new(),
            at: now,
            claimed: None,
            signature: None,
            statement: None,
        };
        approval.vote(vote, |_, _| true)
    })
}

/// Decides with the approval and redeems what that mints, as an enforcement point would: twice, in case a reply was lost.
fn act(store: &Store) -> bool {
    let approval = store.approval();
    if approval.value.state(store.now()) != ApprovalState::Approved {
        return false;
    }
    let grant = Grant {
        id: TokenId::from_bytes([3; 16]),
        session: approval.value.session,
        principal: agent(),
        operator: None,
        operation: "export".into(),
        resource: EntityRef::new("Dataset", "docs").unwrap(),
        digest: approval.value.digest,
        audience: "gate".into(),
        approval: Some(approval.value.id),
        review: None,
        holder: None,
        open: false,
        issued_at: store.now(),
        expires_at: approval.value.expires_at(),
        shard: 0,
        mint_epoch: 0,
        key: 1,
        parent: None,
        chain: Vec::new(),
        grandparents: Vec::new(),
        sessions_above: Vec::new(),
        votes: Vec::new(),
    };
    if store.mint(&approval, Capability::mint(grant, DecisionId::generate(), approval.value.bundle)).is_err() {
        return false;
    }
    let redeemers: Vec<_> = (0..2)
        .map(|_| {
            thread::spawn({
                let store = store.clone();
                move || redeem(&store)
            })
        })
        .collect();
    redeemers.into_iter().map(|redeemer| redeemer.join().unwrap()).filter(|redeemed| *redeemed).count() == 1
}

fn redeem(store: &Store) -> bool {
    loop {
        let (now, mut approval, mut capability) = (store.now(), store.approval(), store.capability().unwrap());
        let (lapses, expires) = (approval.value.lapses_at(now), capability.value.grant.expires_at);
        let spender = Spender::Capability(capability.value.grant.id);
        let spent =
            approval.value.redeem(spender, now).is_ok() && capability.value.redeem(agent(), now, expires).is_ok();
        if !spent {
            return false;
        }
        if store.commit(&approval, Some((&capability, expires)), lapses).is_ok() {
            return true;
        }
    }
}

/// How often which end came about: schedules that never redeem prove nothing.
type Ends = std::sync::Mutex<BTreeMap<&'static str, usize>>;

/// Everybody at once, and what must hold of whatever came of it.
fn race(ends: &Ends) {
    let store = Store::asked();
    let run = |what: fn(&Store) -> bool| {
        thread::spawn({
            let store = store.clone();
            move || what(&store)
        })
    };
    let dana = run(|store| vote(store, "dana", Verdict::Approve));
    let dave = run(|store| vote(store, "dave", Verdict::Approve));
    let mo = run(|store| vote(store, "mo", Verdict::Deny));
    let cancel = run(|store| change(store, |approval, now| approval.cancel(agent(), now)));
    let withdraw = run(|store| change(store, |approval, now| approval.withdraw(&person("dana"), now)));
    let acts = [run(act), run(act)];
    let clock = run(|store| {
        store.0.lock().unwrap().now = EXPIRES;
        true
    });
    let [_, _, denied, cancelled, _, _] = [dana, dave, mo, cancel, withdraw, clock].map(|who| who.join().unwrap());
    let acted = acts.map(|act| act.join().unwrap()).into_iter().filter(|acted| *acted).count();

    let rows = store.0.lock().unwrap();
    assert!(rows.ends.iter().all(|(before, _)| !before.is_terminal()), "an end had an exit (I5): {:?}", rows.ends);
    assert!(rows.redeemed <= 1 && acted <= 1, "redeemed {} times (I1)", rows.redeemed);
    for (before, after) in &rows.ends {
        if matches!(after, ApprovalState::Redeemed { .. }) {
            assert_eq!(*before, ApprovalState::Approved, "spent without being approved (I2)");
            let voters: BTreeSet<_> = rows.approval.value.votes().iter().map(|vote| &vote.person).collect();
            assert!(voters.len() >= QUORUM as usize, "approved by {voters:?} (I2)");
        }
    }
    let end = rows.approval.value.state(rows.now);
    *ends.lock().unwrap().entry(end.word()).or_default() += 1;
    assert!(
        !denied || matches!(end, ApprovalState::Denied { .. } | ApprovalState::Void { .. }),
        "a no was lost: {end:?}"
    );
    assert!(!cancelled || matches!(end, ApprovalState::Cancelled { .. }), "taken back, and {end:?}");
}

#[test]
fn whatever_comes_first_there_is_one_end_and_one_authority() {
    let ends: &'static Ends = Box::leak(Box::default());
    shuttle::check_random(|| race(ends), 10_000);
    shuttle::check_pct(|| race(ends), 10_000, 4);
    let ends = ends.lock().unwrap();
    // Each comes about in hundreds of them, so that missing one is no bad luck.
    for end in ["denied", "cancelled", "expired", "void", "redeemed"] {
        assert!(ends.contains_key(end), "never {end}: {ends:?}");
    }
}
