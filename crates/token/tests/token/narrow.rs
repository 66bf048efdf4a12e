//! Open tokens, narrowed by their holder: whatever is appended, nothing becomes possible that was not.

use biscuit_auth::builder::{BlockBuilder, Scope};
use biscuit_auth::{Biscuit, KeyPair};
use countersign_core::{Digest, HolderKind, SessionId, TenantId, Timestamp};
use countersign_token::{
    Claims, Limits, MAX_NARROWINGS, MAX_TEXT_BYTES, NarrowError, Narrowing, Presented, Token, TokenError, mint, narrow,
    unverified_claims, verify,
};
use proptest::prelude::*;

use crate::fixture::{
    EXPIRES, ISSUED, at, biscuit, claims, encode, holder, key, minted, presented, read, ring, sealed,
};

fn open_claims() -> Claims {
    Claims { open: true, ..claims() }
}

fn open() -> Token {
    mint(&key(), &open_claims()).unwrap()
}

fn until(millis: i64) -> Narrowing {
    Narrowing { expires_at: Some(at(millis)), audience: None }
}

fn audience(name: &str) -> Narrowing {
    Narrowing { expires_at: None, audience: Some(name.to_owned()) }
}

#[test]
fn a_narrowed_token_ends_earlier() {
    let token = narrow(open().expose(), &until(ISSUED + 10)).unwrap();
    let claims = open_claims();
    let verified = read(token.expose()).unwrap();
    assert_eq!((verified.claims(), verified.expires_at()), (&claims, at(ISSUED + 10)));
    assert_eq!(verified.narrowings(), [until(ISSUED + 10)]);
    let authorized = |millis| verified.authorize(&Presented { now: at(millis), ..presented(&claims) });
    assert_eq!(authorized(ISSUED + 9), Ok(()));
    assert_eq!(authorized(ISSUED + 10), Err(TokenError::Expired(at(ISSUED + 10))));
    let late = verify(token.expose(), &ring(), at(ISSUED + 10), &Limits::default()).map(drop);
    assert_eq!(late, Err(TokenError::Expired(at(ISSUED + 10))));
    // The first copy is as it was, and is the same capability.
    assert_eq!(read(open().expose()).unwrap().expires_at(), at(EXPIRES));
}

#[test]
fn a_later_end_and_the_same_audience_change_nothing() {
    let claims = open_claims();
    let narrowed = Narrowing { expires_at: Some(at(i64::MAX)), audience: Some("warehouse".to_owned()) };
    let verified = read(narrow(open().expose(), &narrowed).unwrap().expose()).unwrap();
    assert_eq!(verified.expires_at(), at(EXPIRES));
    assert_eq!(verified.authorize(&presented(&claims)), Ok(()));
    let late = Presented { now: at(EXPIRES), ..presented(&claims) };
    assert_eq!(verified.authorize(&late), Err(TokenError::Expired(at(EXPIRES))));
}

#[test]
fn another_audience_leaves_nothing() {
    let claims = open_claims();
    let verified = read(narrow(open().expose(), &audience("elsewhere")).unwrap().expose()).unwrap();
    assert_eq!(verified.authorize(&presented(&claims)), Err(TokenError::Audience));
    let there = Presented { audience: "elsewhere", ..presented(&claims) };
    assert_eq!(verified.authorize(&there), Err(TokenError::Audience));
}

#[test]
fn what_was_not_minted_open_is_not_narrowed() {
    assert_eq!(narrow(minted().expose(), &until(ISSUED)), Err(NarrowError::Sealed));
    assert_eq!(narrow(open().expose(), &Narrowing::default()), Err(NarrowError::Nothing));
    assert_eq!(narrow(open().expose(), &audience("")), Err(NarrowError::Nothing));
    assert!(matches!(narrow("csn_", &until(ISSUED)), Err(NarrowError::Token(TokenError::Malformed(_)))));
}

#[test]
fn a_token_is_narrowed_so_often_and_grows_so_long_and_no_more() {
    let mut token = open();
    for _ in 0..MAX_NARROWINGS {
        token = narrow(token.expose(), &until(ISSUED + 10)).unwrap();
        assert!(read(token.expose()).is_ok());
    }
    println!("open {}, narrowed {} of {MAX_TEXT_BYTES} bytes", open().expose().len(), token.expose().len());
    assert_eq!(narrow(token.expose(), &until(ISSUED + 10)), Err(NarrowError::Often));
    let more = append(&biscuit(token.expose()), "check if now($now), $now < 1");
    assert_eq!(refused(&more), "more blocks were appended to it than may be");
}

#[test]
fn the_claims_of_a_narrowed_token_are_read_without_keys() {
    let token = narrow(open().expose(), &until(ISSUED + 10)).unwrap();
    assert_eq!(unverified_claims(token.expose()), Ok(open_claims()));
}

#[test]
fn a_bound_token_is_nothing_without_its_holder() {
    let bound = holder(HolderKind::Key);
    let claims = Claims { holder: Some(bound), ..open_claims() };
    let token = narrow(mint(&key(), &claims).unwrap().expose(), &until(ISSUED + 10)).unwrap();
    let verified = read(token.expose()).unwrap();
    assert_eq!(verified.authorize(&presented(&claims)), Ok(()));
    let mut other = bound;
    other.thumbprint = Digest::of(b"another");
    for wrong in [None, Some(other), Some(holder(HolderKind::Certificate))] {
        let presented = Presented { holder: wrong, ..presented(&claims) };
        assert_eq!(verified.authorize(&presented), Err(TokenError::Holder), "{wrong:?}");
    }
}

fn append(token: &Biscuit, source: &str) -> String {
    let block = BlockBuilder::new().code(source).unwrap();
    encode(&token.append(block).unwrap().to_vec().unwrap())
}

fn refused(text: &str) -> &'static str {
    match read(text) {
        Err(TokenError::NotOurs(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Its holder has the key to append whatever Biscuit can say.
#[test]
fn what_is_appended_only_narrows_or_is_refused() {
    let token = biscuit(open().expose());
    let before = format!("check if now($now), $now < {}", ISSUED + 10);
    assert!(read(&append(&token, &before)).is_ok());
    assert!(read(&append(&token, "check if presented_audience(\"warehouse\")")).is_ok());
    assert!(read(&append(&token, &format!("{before}; check if presented_audience(\"elsewhere\")"))).is_ok());
    for source in [
        "",
        "check if true",
        "digest(hex:00)",
        "presented_digest(hex:00)",
        "presented_tenant(\"other\") <- tenant($t)",
        "check if now($now), $now <= 1",
        "check if now($now), $now > 1",
        "check if now($now), 1 < $now",
        "check if now($n), $n < 1767225600010",
        "check if now($now), $now < 1767225600010 or true",
        "check if now($now), $now < 1767225600010, true",
        "check if time($now), $now < 2030-01-01T00:00:00Z",
        "check all now($now), $now < 1767225600010",
        "check if now($now), $now < 1767225600010; now(1)",
        "check if now($now), $now < 1767225600010; check if now($now), $now < 1767225600010",
        "check if presented_audience(\"warehouse\"); check if now($now), $now < 1767225600010",
        "check if presented_audience(\"warehouse\"); check if presented_audience(\"warehouse\")",
        "check if presented_audience(\"\")",
        "check if presented_audience($audience)",
        "check if presented_audience(1)",
        "check if presented_audience(\"warehouse\") trusting previous",
        "check if presented_session(\"warehouse\")",
        "check if audience(\"warehouse\")",
    ] {
        assert_eq!(refused(&append(&token, source)), "what was appended to it does not only narrow it", "{source}");
    }
    let block = BlockBuilder::new().code("check if presented_audience(\"warehouse\")").unwrap();
    for block in [block.clone().scope(Scope::Previous), block.context("more".into())] {
        let appended = encode(&token.append(block).unwrap().to_vec().unwrap());
        assert_eq!(refused(&appended), "what was appended to it does not only narrow it");
    }
    // Newer Datalog is signed in another way.
    let newer = append(&token, "reject if now($now), $now < 1767225600010");
    assert_eq!(refused(&newer), "blocks were appended to it");
    // After a good one, too, and a good one after a bad one.
    let narrowed = biscuit(narrow(open().expose(), &until(ISSUED + 10)).unwrap().expose());
    assert_eq!(refused(&append(&narrowed, "check if true")), "what was appended to it does not only narrow it");
    let bad = token.append(BlockBuilder::new().code("check if true").unwrap()).unwrap();
    assert_eq!(refused(&append(&bad, &before)), "what was appended to it does not only narrow it");
}

#[test]
fn an_open_token_that_is_sealed_or_has_a_strangers_block_is_refused() {
    let token = biscuit(open().expose());
    assert_eq!(refused(&sealed(&token)), "it was sealed by somebody else");
    let stranger = KeyPair::new();
    let request = token.third_party_request().unwrap();
    let check = BlockBuilder::new().code("check if now($now), $now < 1767225600010").unwrap();
    let block = request.create_block(&stranger.private(), check).unwrap();
    let appended = token.append_third_party(stranger.public(), block).unwrap();
    assert_eq!(refused(&encode(&appended.to_vec().unwrap())), "blocks were appended to it");
}

#[test]
fn every_flipped_bit_of_a_narrowed_token_is_refused() {
    let token = narrow(open().expose(), &until(ISSUED + 10)).unwrap();
    let bytes = crate::fixture::decode(token.expose());
    for (place, bit) in (0..bytes.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
        let mut changed = bytes.clone();
        changed[place] ^= 1 << bit;
        assert!(read(&encode(&changed)).is_err(), "bit {bit} of byte {place}");
    }
}

/// What could be presented: right, or wrong in one thing or another.
fn presentations() -> impl Strategy<Value = (usize, usize, usize, usize, bool, i64)> {
    (0..3_usize, 0..2_usize, 0..2_usize, 0..2_usize, any::<bool>(), ISSUED - 20..EXPIRES + 20)
}

fn narrowings() -> impl Strategy<Value = Vec<Narrowing>> {
    let audience = prop::option::of(prop::sample::select(vec!["warehouse", "elsewhere", "presented_audience", "now"]));
    let time = prop::option::of(ISSUED - 20..EXPIRES + 20);
    let one = (time, audience).prop_map(|(time, audience)| Narrowing {
        expires_at: time.map(Timestamp::from_millis),
        audience: audience.map(str::to_owned),
    });
    prop::collection::vec(one, 0..=MAX_NARROWINGS)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// I7: whatever chain of narrowings, what a copy authorizes, every copy before it does.
    #[test]
    fn no_chain_of_narrowings_widens_rights(
        chain in narrowings(),
        (audience, session, digest, tenant, held, now) in presentations(),
        bound in any::<bool>(),
    ) {
        let bound = bound.then(|| holder(HolderKind::Key));
        let claims = Claims { holder: bound, ..open_claims() };
        let other = TenantId::new("other").unwrap();
        let shown = Presented {
            tenant: if tenant == 0 { &claims.tenant } else { &other },
            session: if session == 0 { claims.session } else { SessionId::from_bytes([9; 16]) },
            audience: ["warehouse", "elsewhere", "now"][audience],
            digest: if digest == 0 { claims.digest } else { Digest::of(b"another") },
            holder: bound.filter(|_| held),
            now: at(now),
        };
        let authorizes = |text: &str| {
            verify(text, &ring(), shown.now, &Limits::default()).and_then(|verified| verified.authorize(&shown)).is_ok()
        };
        let mut token = mint(&key(), &claims).unwrap();
        let mut before = authorizes(token.expose());
        let right = audience == 0 && session == 0 && digest == 0 && tenant == 0 && (held || bound.is_none());
        prop_assert_eq!(before, right && now < EXPIRES);
        let mut wanted = before;
        for narrowing in chain {
            token = match narrow(token.expose(), &narrowing) {
                Ok(narrowed) => narrowed,
                Err(NarrowError::Nothing) => continue,
                Err(other) => panic!("{other}"),
            };
            let after = authorizes(token.expose());
            prop_assert!(before || !after, "{narrowing:?} widened");
            wanted = wanted
                && narrowing.expires_at.is_none_or(|end| !shown.now.reached(end))
                && narrowing.audience.is_none_or(|only| only == shown.audience);
            prop_assert_eq!(after, wanted);
            before = after;
        }
    }
}
