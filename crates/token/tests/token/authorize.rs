use std::time::Duration;

use biscuit_auth::{AuthorizerBuilder, AuthorizerLimits};
use countersign_core::{Digest, SessionId, TenantId};
use countersign_token::{Claims, Limits, Presented, TokenError, mint, verify};

use crate::fixture::{EXPIRES, ISSUED, at, biscuit, claims, key, minted, presented, read, ring};

#[test]
fn it_is_good_for_its_own_action_only() {
    let claims = claims();
    let verified = read(minted().expose()).unwrap();
    let other = TenantId::new("other").unwrap();
    let right = presented(&claims);
    assert_eq!(verified.authorize(&right), Ok(()));

    let mut wrong = right;
    wrong.digest = Digest::of(b"something else");
    assert_eq!(verified.authorize(&wrong), Err(TokenError::DigestMismatch));
    wrong.audience = "warehouse2";
    assert_eq!(verified.authorize(&wrong), Err(TokenError::Audience));
    wrong.session = SessionId::generate();
    assert_eq!(verified.authorize(&wrong), Err(TokenError::Session));
    wrong.tenant = &other;
    assert_eq!(verified.authorize(&wrong), Err(TokenError::Tenant));
}

#[test]
fn each_difference_alone_refuses() {
    let claims = claims();
    let verified = read(minted().expose()).unwrap();
    let other = TenantId::new("acm").unwrap();
    let right = presented(&claims);
    for (wrong, error) in [
        (Presented { tenant: &other, ..right }, TokenError::Tenant),
        (Presented { session: SessionId::from_bytes([0; 16]), ..right }, TokenError::Session),
        (Presented { audience: "", ..right }, TokenError::Audience),
        (Presented { audience: "WAREHOUSE", ..right }, TokenError::Audience),
        (Presented { now: at(EXPIRES), ..right }, TokenError::Expired(at(EXPIRES))),
        (Presented { digest: Digest::from_bytes([0; 32]), ..right }, TokenError::DigestMismatch),
    ] {
        assert_eq!(verified.authorize(&wrong), Err(error));
    }
}

#[test]
fn it_expires_at_the_very_millisecond() {
    let token = minted();
    let claims = claims();
    let verified = read(token.expose()).unwrap();
    let authorized = |millis| {
        let mut presented = presented(&claims);
        presented.now = at(millis);
        verified.authorize(&presented)
    };
    let reads = |millis| verify(token.expose(), &ring(), at(millis), &Limits::default()).map(drop);
    for millis in [ISSUED, EXPIRES - 1] {
        assert_eq!(reads(millis), Ok(()));
        assert_eq!(authorized(millis), Ok(()));
    }
    for millis in [EXPIRES, EXPIRES + 1, i64::MAX] {
        assert_eq!(reads(millis), Err(TokenError::Expired(at(EXPIRES))));
        assert_eq!(authorized(millis), Err(TokenError::Expired(at(EXPIRES))));
    }
}

#[test]
fn checks_that_did_not_finish_authorize_nothing() {
    let token = minted();
    let claims = claims();
    let limits = Limits { time: Duration::ZERO, ..Limits::default() };
    let verified = verify(token.expose(), &ring(), at(ISSUED), &limits).unwrap();
    assert_eq!(verified.authorize(&presented(&claims)), Err(TokenError::Unevaluated));
}

#[test]
fn a_token_of_other_claims_is_another_token() {
    let base = claims();
    let changes: [fn(&mut Claims); 4] = [
        |c| c.digest = Digest::of(b"other"),
        |c| c.session = SessionId::from_bytes([9; 16]),
        |c| c.audience = "other".into(),
        |c| c.tenant = TenantId::new("other").unwrap(),
    ];
    for change in changes {
        let mut other = claims();
        change(&mut other);
        let verified = read(mint(&key(), &other).unwrap().expose()).unwrap();
        assert!(verified.authorize(&presented(&base)).is_err());
        assert_eq!(verified.authorize(&presented(&other)), Ok(()));
    }
}

/// What somebody else's verifier would do with the public key and any Biscuit library: state the facts, run the checks.
#[test]
fn the_checks_inside_the_token_decide_alone() {
    let token = biscuit(minted().expose());
    let claims = claims();
    let authorizes = |facts: &[String]| {
        let code = facts.join(";\n") + ";\nallow if true;";
        let limits = AuthorizerLimits { max_time: Duration::from_secs(5), ..AuthorizerLimits::default() };
        let builder = AuthorizerBuilder::new().set_limits(limits).code(code).unwrap();
        builder.build(&token).unwrap().authorize().is_ok()
    };
    let right = [
        "presented_tenant(\"acme\")".to_owned(),
        format!("presented_session(\"{}\")", claims.session),
        "presented_audience(\"warehouse\")".to_owned(),
        format!("presented_digest(hex:{})", claims.digest),
        format!("now({})", EXPIRES - 1),
    ];
    assert!(authorizes(&right));
    let wrong = [
        "presented_tenant(\"other\")".to_owned(),
        format!("presented_session(\"{}\")", SessionId::generate()),
        "presented_audience(\"warehouse2\")".to_owned(),
        format!("presented_digest(hex:{})", Digest::of(b"other")),
        format!("now({EXPIRES})"),
    ];
    for place in 0..right.len() {
        let mut facts = right.to_vec();
        facts[place].clone_from(&wrong[place]);
        assert!(!authorizes(&facts), "{}", wrong[place]);
        facts.remove(place);
        assert!(!authorizes(&facts), "without {}", right[place]);
    }
}
