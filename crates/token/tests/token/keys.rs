use countersign_token::{KeyError, KeyId, KeyRing, KeyState, Limits, PublicKey, SigningKey, TokenError, mint, verify};
use zeroize::Zeroizing;

use crate::fixture::{ISSUED, at, claims, key, minted};

fn read_with(ring: &KeyRing) -> Result<(), TokenError> {
    verify(minted().expose(), ring, at(ISSUED), &Limits::default()).map(drop)
}

#[test]
fn the_state_of_the_key_decides() {
    let ring = |state| KeyRing::new([(KeyId(1), key().public(), state)]).unwrap();
    assert_eq!(read_with(&ring(KeyState::Active)), Ok(()));
    assert_eq!(read_with(&ring(KeyState::Retired)), Ok(()));
    assert_eq!(read_with(&ring(KeyState::Compromised)), Err(TokenError::CompromisedKey(KeyId(1))));
    assert_eq!(read_with(&KeyRing::default()), Err(TokenError::UnknownKey(KeyId(1))));

    assert!(ring(KeyState::Active).may_mint(&key()));
    assert!(!ring(KeyState::Retired).may_mint(&key()));
    assert!(!ring(KeyState::Compromised).may_mint(&key()));
    let same_id = SigningKey::generate(KeyId(1)).unwrap();
    assert!(!ring(KeyState::Active).may_mint(&same_id));
}

#[test]
fn another_root_key_is_refused() {
    let other = SigningKey::generate(KeyId(1)).unwrap();
    let ring = KeyRing::new([(KeyId(1), other.public(), KeyState::Active)]).unwrap();
    assert_eq!(read_with(&ring), Err(TokenError::Signature));

    // The id in a token is not signed. Changed to the id of another known key, the signature fails.
    let two = SigningKey::generate(KeyId(2)).unwrap();
    let keys = [(KeyId(1), key().public(), KeyState::Compromised), (KeyId(2), two.public(), KeyState::Active)];
    let ring = KeyRing::new(keys).unwrap();
    let mut bytes = crate::fixture::decode(minted().expose());
    assert_eq!(bytes[..2], [0x08, 1]);
    bytes[1] = 2;
    let refused = verify(&crate::fixture::encode(&bytes), &ring, at(ISSUED), &Limits::default());
    assert_eq!(refused.map(drop), Err(TokenError::Signature));
}

#[test]
fn a_rotation_leaves_old_tokens_good() {
    let new = SigningKey::generate(KeyId(2)).unwrap();
    let keys = [(KeyId(1), key().public(), KeyState::Retired), (KeyId(2), new.public(), KeyState::Active)];
    let ring = KeyRing::new(keys).unwrap();
    assert_eq!(ring.active(), Some(KeyId(2)));
    assert_eq!(ring.iter().collect::<Vec<_>>(), keys);
    assert_eq!(read_with(&ring), Ok(()));
    let token = mint(&new, &claims()).unwrap();
    assert_eq!(verify(token.expose(), &ring, at(ISSUED), &Limits::default()).unwrap().key(), KeyId(2));
}

#[test]
fn a_ring_has_one_meaning() {
    let (a, b) = (key().public(), SigningKey::generate(KeyId(2)).unwrap().public());
    let (one, two) = (KeyId(1), KeyId(2));
    let refused = |keys: [(KeyId, PublicKey, KeyState); 2]| KeyRing::new(keys).unwrap_err();
    assert_eq!(refused([(one, a, KeyState::Active), (two, b, KeyState::Active)]), KeyError::TwoActive(one, two));
    assert_eq!(refused([(one, a, KeyState::Active), (one, b, KeyState::Active)]), KeyError::SameId(one));
    assert_eq!(refused([(one, a, KeyState::Active), (one, a, KeyState::Compromised)]), KeyError::SameId(one));
    assert_eq!(refused([(one, a, KeyState::Compromised), (two, a, KeyState::Active)]), KeyError::SameKey(one, two));
}

#[test]
fn a_key_survives_its_seed_and_shows_nothing() {
    let key = SigningKey::generate(KeyId(5)).unwrap();
    let again = SigningKey::from_seed(KeyId(5), key.to_seed()).unwrap();
    assert_eq!(mint(&key, &claims()).unwrap(), mint(&again, &claims()).unwrap());

    let known = SigningKey::from_seed(KeyId(5), Zeroizing::new([0xab; 32])).unwrap();
    let shown = format!("{known:?}");
    assert!(shown.contains("id: 5") && shown.contains(&known.public().fingerprint().to_string()), "{shown}");
    assert!(!shown.contains("abab") && !shown.contains("171, 171"), "{shown}");
    assert!(!shown.contains(&known.public().to_string()), "{shown}");
}

#[test]
fn a_public_key_is_read_only_as_written() {
    let public = key().public();
    let written = serde_json::to_string(&public).unwrap();
    assert_eq!(serde_json::from_str::<PublicKey>(&written).unwrap(), public);
    assert_eq!(PublicKey::parse(&public.to_string()), Ok(public));
    for bad in [public.to_string().to_uppercase(), public.to_string()[1..].into(), String::new(), "0".repeat(64)] {
        assert_eq!(PublicKey::parse(&bad), Err(KeyError::Public), "{bad}");
    }
    // The identity: under it, one signature would fit many messages.
    let mut identity = [0; 32];
    identity[0] = 1;
    assert_eq!(PublicKey::from_bytes(identity), Err(KeyError::Public));
}
