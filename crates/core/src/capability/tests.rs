use super::*;

#[test]
fn what_is_cut_off_after_it_was_exchanged_takes_the_other_along() {
    let mut capability = capability();
    let child = TokenId::from_bytes([9; 16]);
    capability.delegate(agent("a"), child, at(1)).unwrap();
    assert_eq!(capability.require_delegated_to(child), Ok(()));
    capability.cut_off(agent("a"), "stop".into(), at(2));
    assert_eq!(capability.require_delegated_to(child), Err(CapabilityError::ParentGone));
}

fn agent(id: &str) -> EntityRef {
    EntityRef::new("Agent", id).unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn capability() -> Capability {
    let grant = Grant {
        id: TokenId::from_bytes([1; 16]),
        session: SessionId::from_bytes([2; 16]),
        principal: agent("a"),
        operator: None,
        operation: "read".into(),
        resource: EntityRef::new("Dataset", "d").unwrap(),
        digest: Digest::of(b"{}"),
        audience: "warehouse".into(),
        approval: None,
        review: None,
        holder: None,
        open: false,
        issued_at: at(0),
        expires_at: at(10),
        shard: 0,
        mint_epoch: 1,
        key: 1,
        parent: None,
        chain: Vec::new(),
        grandparents: Vec::new(),
        sessions_above: Vec::new(),
        votes: Vec::new(),
    };
    Capability::mint(grant, DecisionId::from_bytes([3; 16]), Digest::of(b"bundle"))
}

#[test]
fn capabilities_of_before_the_glass_could_be_broken_are_read() {
    let old = serde_json::to_value(capability()).unwrap();
    for since in ["/grant/review", "/grant/parent", "/grant/chain"] {
        assert_eq!(old.pointer(since), None);
    }
    assert_eq!(serde_json::from_value::<Capability>(old).unwrap(), capability());
}

#[test]
fn a_capability_is_redeemed_once() {
    let mut capability = capability();
    assert_eq!(capability.redeem(agent("a"), at(9), at(20)), Ok(()));
    assert_eq!(capability.redeem(agent("a"), at(9), at(20)), Err(CapabilityError::AlreadyRedeemed));
    assert_eq!(capability.revoke(agent("a"), String::new(), at(9)), Err(CapabilityError::AlreadyRedeemed));
}

#[test]
fn the_expired_and_the_revoked_are_not_redeemed() {
    assert_eq!(capability().redeem(agent("a"), at(10), at(20)), Err(CapabilityError::Expired));
    let mut revoked = capability();
    revoked.revoke(agent("o"), "stop".into(), at(1)).unwrap();
    assert_eq!(revoked.redeem(agent("a"), at(2), at(20)), Err(CapabilityError::Revoked));
    assert_eq!(revoked.complete(&agent("a"), Outcome::Failed, None, at(2)), Err(CapabilityError::Revoked));
}

#[test]
fn every_state_is_read_back_as_it_was_written() {
    let ends: [fn(&mut Capability); 5] = [
        |_| {},
        |c| c.delegate(agent("a"), TokenId::from_bytes([9; 16]), at(1)).unwrap(),
        |c| c.redeem(agent("a"), at(1), at(20)).unwrap(),
        |c| {
            c.redeem(agent("a"), at(1), at(20)).unwrap();
            c.complete(&agent("a"), Outcome::Failed, Some(Digest::of(b"r")), at(2)).unwrap();
        },
        |c| c.revoke(agent("o"), "stop".into(), at(1)).unwrap(),
    ];
    for end in ends {
        let mut capability = capability();
        end(&mut capability);
        let text = serde_json::to_string(&capability).unwrap();
        assert_eq!(serde_json::from_str::<Capability>(&text).unwrap(), capability);
    }
}

#[test]
fn a_capability_is_exchanged_once_and_revoked_afterwards_while_it_lasts() {
    let (child, mut capability) = (TokenId::from_bytes([9; 16]), capability());
    capability.delegate(agent("a"), child, at(1)).unwrap();
    assert_eq!(capability.state(at(99)), CapabilityState::Delegated);
    assert_eq!(capability.redeem(agent("a"), at(2), at(20)), Err(CapabilityError::Delegated));
    assert_eq!(capability.delegate(agent("a"), child, at(2)), Err(CapabilityError::Delegated));
    assert_eq!(capability.require_delegated_to(child), Ok(()));
    let other = TokenId::from_bytes([8; 16]);
    assert_eq!(capability.require_delegated_to(other), Err(CapabilityError::ParentGone));
    assert_eq!(capability.revoke(agent("o"), "stop".into(), at(10)), Err(CapabilityError::Expired));
    capability.revoke(agent("o"), "stop".into(), at(9)).unwrap();
    assert_eq!(capability.state(at(9)), CapabilityState::Revoked);
    assert_eq!(capability.require_delegated_to(child), Err(CapabilityError::ParentGone));
    assert_eq!(
        (capability.delegated_to(), capability.exchanged_for()),
        (None, Some(child)),
        "it is told of all the same"
    );
}

#[test]
fn only_the_redeemer_completes_and_once() {
    let mut capability = capability();
    assert_eq!(capability.complete(&agent("a"), Outcome::Succeeded, None, at(1)), Err(CapabilityError::NotRedeemed));
    capability.redeem(agent("a"), at(1), at(20)).unwrap();
    assert_eq!(
        capability.complete(&agent("b"), Outcome::Succeeded, None, at(2)),
        Err(CapabilityError::NotTheRedeemer(agent("a")))
    );
    capability.complete(&agent("a"), Outcome::Succeeded, None, at(2)).unwrap();
    assert_eq!(capability.complete(&agent("a"), Outcome::Failed, None, at(3)), Err(CapabilityError::AlreadyCompleted));
}

#[test]
fn a_person_resolves_what_nobody_reported_in_time_and_that_stands() {
    let mut capability = capability();
    let resolve = |capability: &mut Capability, at_millis| {
        capability.resolve(agent("r"), Finding::NeverRan, "seen".into(), at(at_millis))
    };
    assert_eq!(resolve(&mut capability, 1), Err(CapabilityError::NotRedeemed));
    capability.redeem(agent("a"), at(1), at(20)).unwrap();
    assert_eq!(resolve(&mut capability, 19), Err(CapabilityError::StillRunning));
    resolve(&mut capability, 20).unwrap();
    assert_eq!(capability.state(at(21)), CapabilityState::Resolved(Finding::NeverRan));
    assert_eq!(capability.redeemer(), Some(&agent("a")));
    let late = capability.complete(&agent("a"), Outcome::Succeeded, None, at(30));
    assert_eq!(late, Err(CapabilityError::AlreadyResolved(agent("r"))));
    assert_eq!(resolve(&mut capability, 30), Err(CapabilityError::AlreadyResolved(agent("r"))));
    assert_eq!(capability.redeem(agent("a"), at(2), at(20)), Err(CapabilityError::AlreadyRedeemed));
    let text = serde_json::to_string(&capability).unwrap();
    assert_eq!(serde_json::from_str::<Capability>(&text).unwrap(), capability);
}

#[test]
fn a_missed_deadline_is_an_unknown_outcome_until_it_is_told() {
    let mut capability = capability();
    capability.redeem(agent("a"), at(1), at(20)).unwrap();
    assert_eq!(capability.state(at(20)), CapabilityState::OutcomeUnknown);
    capability.complete(&agent("a"), Outcome::Succeeded, None, at(30)).unwrap();
    assert_eq!(capability.state(at(30)), CapabilityState::Completed(Outcome::Succeeded));
}
