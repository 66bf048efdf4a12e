use countersign_core::action::{MAX_CHAIN, MAX_NAME_BYTES};
use countersign_core::capability::MAX_VOTES;
use countersign_core::entity::{MAX_ID_BYTES, MAX_TYPE_BYTES};
use countersign_core::session::MAX_DEPTH;
use countersign_core::{Digest, HolderKind, SessionId, TenantId, TokenId};
use countersign_token::{
    Claims, KeyId, Limits, MAX_TEXT_BYTES, MintError, Narrowing, PREFIX, SigningKey, Unsigned, mint, narrow,
};
use proptest::prelude::*;

use crate::fixture::{at, biscuit, claims, entity, holder, key, minted, presented, read};

#[test]
fn what_is_minted_is_read_back() {
    for change in [
        (|_| {}) as fn(&mut Claims),
        |c| c.operator = None,
        |c| c.approval = None,
        |c| (c.operator, c.approval) = (None, None),
        |c| c.development = true,
        |c| c.holder = Some(holder(HolderKind::Key)),
        |c| c.open = true,
        |c| (c.holder, c.open, c.approval, c.operator) = (Some(holder(HolderKind::Certificate)), true, None, None),
        |c| (c.shard, c.mint_epoch) = (u32::MAX, i64::MAX.unsigned_abs()),
        |c| (c.issued_at, c.expires_at) = (at(i64::MIN), at(i64::MAX)),
        // Names that Biscuit predefines or that the claims use themselves share their symbols.
        |c| (c.operation, c.audience) = ("read".into(), "presented_audience".into()),
        |c| c.resource = entity("Dataset", "x\"), development(true"),
    ] {
        let mut claims = claims();
        change(&mut claims);
        let token = mint(&key(), &claims).unwrap();
        let verified = read(token.expose()).unwrap();
        assert_eq!(*verified.claims(), claims);
        assert_eq!(verified.key(), KeyId(1));
        assert_eq!(verified.authorize(&presented(&claims)), Ok(()));
    }
}

#[test]
fn a_retry_mints_the_same_bytes() {
    assert_eq!(minted(), minted());
    let mut other = claims();
    other.token_id = TokenId::generate();
    assert_ne!(mint(&key(), &other).unwrap(), minted());
}

/// The bytes that the first releases minted for these claims: whoever kept a token or a row of one still has it.
#[test]
fn a_token_that_is_sealed_and_bound_to_nobody_is_the_bytes_that_were_released() {
    assert_eq!(minted().hash().to_string(), "e5f065503c2769a7f1be8931392a2409c9334f4b4a0c26a277b176989dd66a2f");
}

#[test]
fn older_libraries_of_other_languages_can_read_it() {
    assert_eq!(biscuit(minted().expose()).block_version(0).unwrap(), 3);
    let claims = Claims { holder: Some(holder(HolderKind::Key)), open: true, ..claims() };
    let narrowing = Narrowing { expires_at: Some(at(0)), audience: Some("other".to_owned()) };
    let token = narrow(mint(&key(), &claims).unwrap().expose(), &narrowing).unwrap();
    for block in 0..2 {
        assert_eq!(biscuit(token.expose()).block_version(block).unwrap(), 3);
    }
}

#[test]
fn the_longest_claims_fit() {
    let long = |kind: &str| {
        entity(&format!("{kind}{}", "k".repeat(MAX_TYPE_BYTES - 1)), &format!("{kind}{}", "i".repeat(MAX_ID_BYTES - 1)))
    };
    let claims = Claims {
        tenant: TenantId::new(&"t".repeat(63)).unwrap(),
        principal: long("P"),
        operator: Some(long("O")),
        operation: "o".repeat(MAX_NAME_BYTES),
        resource: long("R"),
        audience: "a".repeat(MAX_NAME_BYTES),
        shard: u32::MAX,
        mint_epoch: i64::MAX.unsigned_abs(),
        issued_at: at(i64::MIN),
        expires_at: at(-1),
        // Each another: what stands twice is written once.
        chain: "ABCDEFGH".chars().map(|letter| long(&letter.to_string())).collect(),
        exchanged: (0..MAX_DEPTH).map(|place| TokenId::from_bytes([u8::try_from(place).unwrap(); 16])).collect(),
        sessions_above: (0..MAX_DEPTH).map(|place| SessionId::from_bytes([u8::try_from(place).unwrap(); 16])).collect(),
        votes: (0..MAX_VOTES).map(|place| Digest::of(&place.to_be_bytes())).collect(),
        holder: Some(holder(HolderKind::Certificate)),
        ..claims()
    };
    let token = mint(&SigningKey::generate(KeyId(u32::MAX)).unwrap(), &claims).unwrap();
    assert_eq!(claims.chain.len(), MAX_CHAIN);
    println!("longest {} of {MAX_TEXT_BYTES} bytes, usual {}", token.expose().len(), minted().expose().len());
    assert!(token.expose().len() <= Limits::default().text_bytes);
}

#[test]
fn a_token_names_all_that_it_dies_with_from_the_nearest_on() {
    let claims = Claims {
        chain: vec![entity("Agent", "planner"), entity("Agent", "a")],
        exchanged: vec![TokenId::from_bytes([9; 16]), TokenId::from_bytes([3; 16])],
        sessions_above: vec![SessionId::from_bytes([8; 16]), SessionId::from_bytes([2; 16])],
        votes: vec![Digest::of(b"a vote"), Digest::of(b"another")],
        ..claims()
    };
    let token = mint(&key(), &claims).unwrap();
    assert_eq!(read(token.expose()).unwrap().claims(), &claims);
    let printed = biscuit(token.expose()).print();
    assert!(printed.contains(r#"chain(0, "Agent", "planner"),"#) && printed.contains(r#"chain(1, "Agent", "a"),"#));
}

#[test]
fn claims_that_could_not_be_redeemed_are_not_minted() {
    let refused = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        mint(&key(), &claims).unwrap_err()
    };
    assert_eq!(refused(|c| c.expires_at = c.issued_at), MintError::Lifetime);
    assert_eq!(refused(|c| c.operation.clear()), MintError::Name("operation"));
    assert_eq!(refused(|c| c.audience = "a".repeat(MAX_NAME_BYTES + 1)), MintError::Name("audience"));
    let most = MAX_DEPTH as usize;
    let what = "exchanged";
    assert_eq!(refused(|c| c.exchanged = vec![c.token_id; MAX_DEPTH as usize + 1]), MintError::TooMany { what, most });
    assert_eq!(refused(|c| c.mint_epoch = i64::MAX.unsigned_abs() + 1), MintError::Epoch);
}

#[test]
fn a_token_shows_nothing_of_itself() {
    let token = minted();
    let shown = format!("{token:?}{:?}", read(token.expose()).unwrap());
    let secret = token.expose().strip_prefix(PREFIX).unwrap();
    // Any eight characters of it would be more than the claims give away.
    assert!(!secret.as_bytes().windows(8).any(|part| shown.contains(std::str::from_utf8(part).unwrap())));
    assert_eq!(token.hash(), Digest::of(token.expose().as_bytes()));
    assert!(shown.contains(&token.hash().to_string()));
}

#[test]
fn the_documentation_of_claims_shows_what_is_minted() {
    let printed = biscuit(minted().expose()).print();
    let documented = include_str!("../../src/claims.rs");
    let (_, facts) = printed.split_once("facts: [\n").unwrap();
    let (facts, rest) = facts.split_once("]\n").unwrap();
    let (_, checks) = rest.split_once("checks: [\n").unwrap();
    let (checks, _) = checks.split_once("]\n").unwrap();
    for section in [facts, checks] {
        let lines: String =
            section.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| format!("///     {l}\n")).collect();
        assert!(lines.lines().count() >= 5 && documented.contains(&lines), "{lines}");
    }
}

proptest! {
    #[test]
    fn any_claims_are_read_back(
        names in prop::array::uniform3("[a-zA-Z0-9_.:/-]{1,40}"),
        id in "[^\\p{C}]{1,60}",
        (shard, epoch, issued) in (any::<u32>(), 0..i64::MAX, any::<i32>()),
        (chain, depth) in (0..=MAX_CHAIN, 0..=MAX_DEPTH as usize),
        (lives, development, digest) in (1..i64::from(u32::MAX), any::<bool>(), any::<[u8; 32]>()),
    ) {
        let issued = i64::from(issued);
        let claims = Claims {
            operation: names[0].clone(),
            audience: names[1].clone(),
            principal: entity("Agent", &names[2]),
            resource: entity("A::B", &id),
            digest: Digest::from_bytes(digest),
            shard,
            mint_epoch: epoch.unsigned_abs(),
            issued_at: at(issued),
            expires_at: at(issued + lives),
            development,
            chain: (0..chain).map(|place| entity("Agent", &format!("{place}{}", names[0]))).collect(),
            exchanged: vec![claims().token_id; depth],
            sessions_above: vec![claims().session; depth],
            ..claims()
        };
        let token = mint(&key(), &claims).unwrap();
        let now = claims.issued_at;
        let verified =
            countersign_token::verify(token.expose(), &crate::fixture::ring(), now, &Limits::default()).unwrap();
        prop_assert_eq!(verified.claims(), &claims);
        let mut presented = presented(&claims);
        presented.now = now;
        prop_assert_eq!(verified.authorize(&presented), Ok(()));
    }
}

/// Run in isolation: `cargo test -p countersign-token cost -- --ignored --nocapture --test-threads 1`.
#[test]
#[ignore = "measures; asserts nothing"]
fn cost() {
    let (key, claims, token) = (key(), claims(), minted());
    let verified = read(token.expose()).unwrap();
    let ring = crate::fixture::ring();
    let time = |what: &str, run: &dyn Fn()| {
        let mut best = u128::MAX;
        for _ in 0..10 {
            let start = std::time::Instant::now();
            (0..1000).for_each(|_| run());
            best = best.min(start.elapsed().as_nanos() / 1000);
        }
        println!("{what}: {} µs", best as f64 / 1000.0);
    };
    time("mint", &|| drop(mint(&key, &claims).unwrap()));
    let verify = || countersign_token::verify(token.expose(), &ring, at(0), &Limits::default());
    time("verify", &|| drop(verify().unwrap()));
    time("authorize", &|| verified.authorize(&presented(&claims)).unwrap());
    let malformed = token.expose().replacen("csn_", "csn_A", 1);
    time("refuse a malformed token", &|| {
        assert!(countersign_token::verify(&malformed, &ring, at(0), &Limits::default()).is_err());
    });
}

/// The root key is somewhere else: what comes back is a signature and no key.
#[test]
fn a_key_that_is_not_here_mints_the_same_bytes() {
    use ed25519_dalek::Signer as _;
    let far_away = ed25519_dalek::SigningKey::from_bytes(&key().to_seed());
    let unsigned = |secret: &[u8; 32]| Unsigned::new(KeyId(1), &claims(), secret).unwrap();
    let seed = *key().to_seed();
    let signature = far_away.sign(&unsigned(&seed).message()).to_bytes();
    let token = unsigned(&seed).signed(&key().public(), &signature).unwrap();
    assert_eq!(token, minted());
    let open = Claims { open: true, ..claims() };
    let unsealed = Unsigned::new(KeyId(1), &open, &seed).unwrap();
    let signature = far_away.sign(&unsealed.message()).to_bytes();
    assert_eq!(unsealed.signed(&key().public(), &signature).unwrap(), mint(&key(), &open).unwrap());
    // The secret that seals need not be the root key's.
    let other = unsigned(&[9; 32]);
    let signature = far_away.sign(&other.message()).to_bytes();
    let token = other.signed(&key().public(), &signature).unwrap();
    assert_ne!(token, minted());
    assert_eq!(*read(token.expose()).unwrap().claims(), claims());
    // A signature of something else makes no token.
    assert!(matches!(unsigned(&seed).signed(&key().public(), &signature), Err(MintError::NotSigned)));
}
