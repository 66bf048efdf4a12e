//! Which keys verify, which newer ones are asked for, and what becomes of older ones.

use rcgen::RsaKeySize;

use super::*;

#[test]
fn keys_that_are_not_in_use_any_more_are_not_kept_for_what_they_verified() {
    let world = World::new();
    let token = signed(&header(), &claims().to_string(), &world.key);
    world.verify(&token).unwrap();
    let keys = &world.authenticator.issuers[ISSUER].keys;
    let before = Arc::downgrade(&keys.usable(at(NOW)).unwrap());
    let set = json!({"keys": [jwk("k1", &world.key)]}).to_string();
    assert!(keys.take(Keys::parse(set.as_bytes(), &[Algorithm::EdDSA]).unwrap(), None));
    assert!(before.upgrade().is_none() && world.authenticator.verified.get(&Digest::of(token.as_bytes())).is_some());
    // By the ones that are in use now.
    world.verify(&token).unwrap();
}

#[test]
fn newer_keys_are_asked_for_where_a_token_names_none_of_those_there_are() {
    let world = World::new();
    let toml = format!(
        "[tenants.a]\nbundle = \"b\"\nlog_origin = \"o\"\n[[tenants.a.issuers]]\nissuer = \"{ISSUER}\"\n\
         audience = \"countersign\"\nalgorithms = [\"EdDSA\", \"ES256\"]\njwks_uri = \"https://idp.example.com/keys\"\n\
         subjects = [\"person\"]\n"
    );
    let nameless = |key: &KeyPair| {
        let mut jwk = jwk("", key);
        jwk.as_object_mut().unwrap().remove("kid");
        jwk
    };
    let (own, other) = (&world.key, &world.other);
    let (k1, none) = (json!({"alg": "EdDSA", "kid": "k1"}), json!({"alg": "EdDSA"}));
    for (set, header, refused, asks) in [
        (json!([jwk("k1", other)]), &k1, CredentialError::Signature, false),
        (json!([jwk("k1", own)]), &json!({"alg": "ES256", "kid": "k1"}), CredentialError::Algorithm, false),
        (json!([jwk("k2", other)]), &k1, CredentialError::Key, true),
        (json!([nameless(other)]), &k1, CredentialError::Signature, true),
        (json!([nameless(other)]), &none, CredentialError::Signature, true),
        (json!([jwk("k2", other)]), &none, CredentialError::Signature, true),
        (json!([jwk("k1", own), jwk("k2", other)]), &none, CredentialError::Key, true),
        (json!([nameless(own)]), &json!({"alg": "ES256", "kid": "k1"}), CredentialError::Algorithm, true),
    ] {
        let authenticator = Authenticator::new(&load(world.dir.path(), &toml)).unwrap();
        let text = json!({ "keys": set }).to_string();
        let (keys, _) = Keys::fetched(text.as_bytes(), &[Algorithm::EdDSA, Algorithm::ES256]).unwrap();
        authenticator.issuers[ISSUER].keys.take(keys, Some(at(NOW + 60)));
        let token = signed(&header.to_string(), &claims().to_string(), own);
        let Refusal { error, newer_keys } = authenticator.try_verify(&token, at(NOW)).map(drop).unwrap_err();
        assert_eq!((error, newer_keys.is_some()), (refused, asks), "{set} {header}");
    }
}

#[test]
fn every_configurable_algorithm_works_and_keeps_to_itself() {
    use jsonwebtoken::Algorithm as A;
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let world = World::new();
    let ed = EncodingKey::from_ed_pem(world.key.serialize_pem().as_bytes()).unwrap();
    let of_rsa = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap();
    let of_p256 = EncodingKey::from_ec_pem(p256.serialize_pem().as_bytes()).unwrap();
    let of_p384 = EncodingKey::from_ec_pem(p384.serialize_pem().as_bytes()).unwrap();
    let cases = [
        (A::EdDSA, &world.key, &ed),
        (A::ES256, &p256, &of_p256),
        (A::ES384, &p384, &of_p384),
        (A::PS256, &rsa, &of_rsa),
        (A::PS384, &rsa, &of_rsa),
        (A::PS512, &rsa, &of_rsa),
        (A::RS256, &rsa, &of_rsa),
        (A::RS384, &rsa, &of_rsa),
        (A::RS512, &rsa, &of_rsa),
    ];
    let token = |algorithm: A, key: &EncodingKey| {
        let header = json!({"alg": format!("{algorithm:?}")}).to_string();
        sign(&unsigned(&header, &claims().to_string()), key, algorithm)
    };
    for (algorithm, pair, _) in &cases {
        std::fs::write(world.dir.path().join("key.pem"), pair.public_key_pem()).unwrap();
        let toml = format!(
            "[tenants.a]\nbundle = \"b\"\nlog_origin = \"o\"\n[[tenants.a.issuers]]\nissuer = \"{ISSUER}\"\n\
             audience = \"countersign\"\nalgorithms = [\"{algorithm:?}\"]\nkeys = \"key.pem\"\nsubjects = [\"person\"]\n"
        );
        let authenticator = Authenticator::new(&load(world.dir.path(), &toml)).unwrap();
        for (other, _, key) in &cases {
            let verified = authenticator.verify(&token(*other, key), at(NOW));
            assert_eq!(verified.is_ok(), other == algorithm, "{other:?} where {algorithm:?} is configured");
        }
    }
}
