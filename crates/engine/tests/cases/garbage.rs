//! Rows that go by themselves: a store under constant load holds what is alive, and no more.

use std::time::Duration;

use countersign_core::approval::ApprovalState;
use countersign_core::capability::{CapabilityState, Outcome};
use countersign_engine::{Complete, Delegate, Terms};
use countersign_store::{Kind, Prefix};

use crate::children::{named, world};
use crate::*;

const HOUR: Duration = Duration::from_secs(3_600);

impl<K: Kernel> World<K> {
    async fn rows(&self, kind: Kind) -> usize {
        let (mut rows, mut after) = (0, None);
        loop {
            let prefix = Prefix::kind(self.engine.tenant(), kind);
            let page = self.kernel().scan(&prefix, after.as_ref(), usize::MAX).await.unwrap();
            rows += page.rows.len();
            after = page.next;
            if after.is_none() {
                return rows;
            }
        }
    }

    async fn census(&self) -> BTreeMap<Kind, usize> {
        let mut census = BTreeMap::new();
        for kind in Kind::ALL {
            census.insert(kind, self.rows(kind).await);
        }
        census
    }

    async fn complete(&self, decision: &Decision) {
        let report = Complete { capability: minted(decision), outcome: Outcome::Succeeded, result: None };
        self.engine.complete(&call("service:gate", "Complete"), report).await.unwrap();
    }

    /// What agents do all day: sessions, some in sessions, some with a heartbeat; actions that are allowed, handed on, completed,
    /// revoked and left; questions that are approved, denied and never answered.
    async fn a_round(&mut self) {
        let opening = OpenSession {
            purpose: "x".to_owned(),
            ttl: Some(HOUR),
            acting: Acting::Caller,
            operator: None,
            ..OpenSession::default()
        };
        let terms = Terms { parent: None, heartbeat: Some(Duration::from_secs(60)) };
        let opened = self.engine.open_session_on(&call("agent:bot", "OpenSession"), &opening, terms).await.unwrap();
        self.session = opened.answer.value.id;
        self.clock.advance(Duration::from_secs(30));
        self.engine.heartbeat(&call("agent:bot", "Heartbeat"), self.session).await.unwrap();
        let child = self.child().await;
        let used = self.decide("query", "docs", None).await.unwrap();
        self.redeem_it(&used).await.unwrap();
        self.complete(&used).await;
        self.decide("query", "docs", None).await.unwrap();
        let given = self.decide("query", "docs", None).await.unwrap();
        let delegate = Delegate {
            token: given.token.as_ref().unwrap().expose().to_owned(),
            operation: operation("query", "docs"),
            audience: "gate".to_owned(),
            session: child,
            approval: None,
            ttl: None,
            holder_proof: String::new(),
            holder: None,
        };
        let handed = self.engine.delegate(&call("agent:bot", "Delegate"), &delegate).await.unwrap().answer;
        self.redeem_it(&handed).await.unwrap();
        self.complete(&handed).await;
        let asked = self.ask().await;
        self.vote("dana", asked).await.unwrap();
        let lifted = self.decide("export", "docs", Some(asked)).await.unwrap();
        self.engine.revoke(&call("agent:bot", "Revoke"), minted(&lifted), "not needed").await.unwrap();
        self.ask_in("agent:sub", child).await.unwrap();
        self.end("agent:bot", self.session).await;
    }
}

#[tokio::test]
async fn a_store_under_constant_load_holds_what_is_alive_and_no_more() {
    let mut world = world().await;
    let mut seen = Vec::new();
    for hour in 0..200 {
        world.a_round().await;
        world.clock.advance(HOUR);
        world.engine.tidy().await.unwrap();
        world.engine.tidy_revocations().await.unwrap();
        if hour % 20 == 19 {
            seen.push(world.census().await);
        }
    }
    // From some day on it is the same day after day, and of every kind there is something to lose.
    let last = seen.last().unwrap();
    for census in &seen[4..] {
        assert_eq!(census, last);
    }
    let day = 26;
    assert!(last[&Kind::Capability] <= 5 * day && last[&Kind::Capability] > 0, "{last:?}");
    assert!(last[&Kind::Approval] <= 2 * day && last[&Kind::PendingDigest] <= 2 * day, "{last:?}");
    assert!(last[&Kind::Session] <= 2 * (day + 27) && last[&Kind::Heartbeat] <= last[&Kind::Session], "{last:?}");
    // Without load nothing is left but what was there at the beginning.
    world.clock.advance(60 * HOUR);
    world.engine.tidy().await.unwrap();
    world.engine.tidy_revocations().await.unwrap();
    for kind in [
        Kind::Session,
        Kind::Heartbeat,
        Kind::Approval,
        Kind::PendingDigest,
        Kind::Capability,
        Kind::Request,
        Kind::AskedOfLate,
        Kind::CoolDown,
        Kind::Revocation,
    ] {
        assert_eq!(world.rows(kind).await, 0, "{kind:?}");
    }
    // And everything goes on.
    world.a_round().await;
}

#[tokio::test]
async fn what_an_answer_may_tell_of_is_kept_for_as_long_as_the_answer() {
    let world = world().await;
    let (caller, opening) = (
        call("agent:bot", "OpenSession"),
        OpenSession {
            purpose: "x".to_owned(),
            ttl: Some(HOUR),
            acting: Acting::Caller,
            operator: None,
            ..OpenSession::default()
        },
    );
    let session = world.engine.open_session(&caller, &opening).await.unwrap().answer.value.id;
    let approval = world.ask_in("agent:bot", session).await.unwrap();
    let decide = call("agent:bot", "Decide");
    let ask = Decide {
        session,
        operation: operation("query", "docs"),
        audience: "gate".to_owned(),
        acting: Acting::Caller,
        approval: None,
        mint: true,
        entity_revision: None,
        holder: None,
        open: false,
    };
    let minted = world.engine.decide(&decide, &ask).await.unwrap().answer;
    world.clock.advance(24 * HOUR - Duration::from_secs(1));
    world.engine.tidy().await.unwrap();
    world.engine.tidy_revocations().await.unwrap();
    assert!(world.engine.open_session(&caller, &opening).await.unwrap().replayed);
    let again = world.engine.decide(&decide, &ask).await.unwrap();
    assert!(again.replayed && again.answer.token.unwrap().expose() == minted.token.unwrap().expose());
    // A request is told of as long as it is there, and its session is there as long.
    for _ in 0..60 {
        world.clock.advance(HOUR);
        world.engine.tidy().await.unwrap();
        world.engine.tidy_revocations().await.unwrap();
        let listed = world.engine.approvals(&call("agent:bot", "ListApprovals"), None, 10).await.unwrap();
        assert!(
            listed.items.iter().all(|view| matches!(view.state, ApprovalState::Void { .. } | ApprovalState::Expired))
        );
    }
    let gone = world.engine.approval(&call("agent:bot", "GetApproval"), approval).await;
    assert!(matches!(gone, Err(Error::ApprovalNotFound)), "{gone:?}");
}

#[tokio::test]
async fn a_spent_token_whose_row_is_gone_is_worth_nothing_and_an_unknown_outcome_stays_longer() {
    let world = world().await;
    let unused = world.decide("query", "docs", None).await.unwrap();
    let used = world.decide("query", "docs", None).await.unwrap();
    world.redeem_it(&used).await.unwrap();
    world.clock.advance(26 * HOUR);
    world.engine.tidy().await.unwrap();
    world.engine.tidy_revocations().await.unwrap();
    assert_eq!(world.rows(Kind::Capability).await, 1);
    assert!(world.redeem_it(&unused).await.is_err() && world.redeem_it(&used).await.is_err());
    let state = world.engine.peek(minted(&used)).await.unwrap().value.state(world.engine.now().unwrap());
    assert_eq!(state, CapabilityState::OutcomeUnknown);
    world.complete(&used).await;
    world.clock.advance(24 * HOUR);
    world.engine.tidy().await.unwrap();
    world.engine.tidy_revocations().await.unwrap();
    assert_eq!(world.rows(Kind::Capability).await, 1);
    world.clock.advance(2 * HOUR);
    world.engine.tidy().await.unwrap();
    world.engine.tidy_revocations().await.unwrap();
    assert_eq!(world.rows(Kind::Capability).await, 0);
}

#[tokio::test]
async fn the_child_of_a_session_that_was_tidied_away_is_over() {
    let world = world().await;
    let child = world.child().await;
    world.clock.advance(200 * HOUR);
    world.engine.tidy().await.unwrap();
    world.engine.tidy_revocations().await.unwrap();
    assert_eq!(world.rows(Kind::Session).await, 0);
    let decided = world.decide_in("agent:sub", child, "query", None).await;
    assert!(matches!(decided, Err(Error::SessionNotFound)), "{decided:?}");
    // Whoever is named in the session of nobody opens none.
    let opened = world.open_child(&call("agent:bot", "OpenSession"), world.session, named("sub"), None).await;
    assert!(matches!(opened, Err(Error::SessionNotFound)), "{opened:?}");
}
