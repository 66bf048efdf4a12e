use std::path::Path;

use countersign_engine::credential::{Claims, Subject};
use countersign_engine::{Authentication, NotAnswering};
use jsonwebtoken::EncodingKey;
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::*;
use crate::config::Overrides;

mod belonging;
mod keys;
mod subjects;

/// 2027-01-15T08:00:00Z.
const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://idp.example.com";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

/// A server that trusts one issuer for each of two tenants, both with Ed25519 keys.
struct World {
    dir: tempfile::TempDir,
    /// The key `k1` of [`ISSUER`].
    key: KeyPair,
    /// The only key of `https://other.example.com`.
    other: KeyPair,
    authenticator: Authenticator,
}

impl World {
    fn new() -> Self {
        Self::with("")
    }

    /// With more keys of the configuration for [`ISSUER`].
    fn with(more: &str) -> Self {
        Self::of(&format!("subjects = [\"person\", \"agent\"]\n{more}"))
    }

    /// With these keys of the configuration for [`ISSUER`], which say who it names.
    fn of(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let second = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let set = json!({"keys": [jwk("k1", &key), jwk("k2", &second)]});
        std::fs::write(dir.path().join("acme.json"), set.to_string()).unwrap();
        std::fs::write(dir.path().join("other.pem"), other.public_key_pem()).unwrap();
        let toml = format!(
            r#"
            [tenants.acme]
            bundle = "acme"
            log_origin = "countersign.example.com/acme"
            [[tenants.acme.issuers]]
            issuer = "{ISSUER}"
            audience = "countersign"
            algorithms = ["EdDSA"]
            keys = "acme.json"
            {more}
            [tenants.other]
            bundle = "other"
            log_origin = "countersign.example.com/other"
            [[tenants.other.issuers]]
            issuer = "https://other.example.com"
            audience = "countersign"
            algorithms = ["EdDSA"]
            keys = "other.pem"
            subjects = ["person", "agent", "service"]
            "#
        );
        let authenticator = Authenticator::new(&load(dir.path(), &toml)).unwrap();
        Self { dir, key, other, authenticator }
    }

    fn verify(&self, token: &str) -> Result<Arc<Credential>, CredentialError> {
        self.authenticator.verify(token, at(NOW))
    }

    /// Verifies the usual claims with one of them replaced, or removed by null.
    fn with_claim(&self, name: &str, value: Value) -> Result<Arc<Credential>, CredentialError> {
        let mut claims = claims();
        let members = claims.as_object_mut().unwrap();
        if value.is_null() {
            members.remove(name)
        } else {
            members.insert(name.to_owned(), value)
        };
        self.verify(&signed(&header(), &claims.to_string(), &self.key))
    }

    /// Verifies the usual claims under another header.
    fn with_header(&self, header: &Value) -> Result<Arc<Credential>, CredentialError> {
        self.verify(&signed(&header.to_string(), &claims().to_string(), &self.key))
    }
}

fn load(dir: &Path, toml: &str) -> Config {
    let path = dir.join("countersign.toml");
    std::fs::write(&path, toml).unwrap();
    Config::load(Some(&path), &Overrides::default()).unwrap()
}

fn jwk(id: &str, key: &KeyPair) -> Value {
    let x = URL_SAFE_NO_PAD.encode(key.public_key_raw());
    json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": id, "x": x})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "countersign", "sub": "alice", "iat": NOW - 10, "exp": NOW + 300})
}

fn header() -> String {
    json!({"alg": "EdDSA", "typ": "JWT", "kid": "k1"}).to_string()
}

fn unsigned(header: &str, payload: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}

fn sign(message: &str, key: &EncodingKey, algorithm: jsonwebtoken::Algorithm) -> String {
    format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap())
}

fn signed(header: &str, payload: &str, key: &KeyPair) -> String {
    let key = EncodingKey::from_ed_pem(key.serialize_pem().as_bytes()).unwrap();
    sign(&unsigned(header, payload), &key, jsonwebtoken::Algorithm::EdDSA)
}

#[test]
fn a_token_becomes_a_credential_of_its_issuers_tenant() {
    let world = World::new();
    let token = signed(&header(), &claims().to_string(), &world.key);
    let credential = world.verify(&token).unwrap();
    let expected = Credential {
        tenant: TenantId::new("acme").unwrap(),
        issuer: ISSUER.to_owned(),
        subject: Subject::Account("alice".to_owned()),
        actors: vec![],
        claims: Claims::default(),
        expires_at: at(NOW + 300),
        answers: Err(NotAnswering::NotTrusted),
        authentication: Authentication { audience: Some("countersign".to_owned()), ..Authentication::default() },
        hash: Digest::of(token.as_bytes()),
    };
    assert_eq!(*credential, expected);
    assert_eq!(world.with_claim("sub", json!("agent:bot")).unwrap().subject, Subject::Agent("bot".to_owned()));
    assert!(world.with_claim("aud", json!(["x", "countersign"])).is_ok());
    assert!(world.with_claim("email_verified", json!(1.5)).is_ok());
}

#[test]
fn no_algorithm_but_the_configured_is_accepted() {
    let world = World::new();
    let payload = claims().to_string();
    for alg in ["none", "None", "NONE", "", "HS256", "HS512", "RS256", "ES256", "ES256K", "EDDSA", "eddsa"] {
        let header = json!({"alg": alg, "kid": "k1"}).to_string();
        // The public key as a shared secret, in each of the forms in which somebody may have it.
        for secret in [world.key.public_key_raw(), world.key.public_key_pem().as_bytes()] {
            let message = unsigned(&header, &payload);
            let token = sign(&message, &EncodingKey::from_secret(secret), jsonwebtoken::Algorithm::HS256);
            assert_eq!(world.verify(&token), Err(CredentialError::Algorithm), "{alg}");
        }
        assert_eq!(world.verify(&signed(&header, &payload, &world.key)), Err(CredentialError::Algorithm), "{alg}");
        let token = format!("{}.", unsigned(&header, &payload));
        assert_eq!(world.verify(&token), Err(CredentialError::Algorithm), "{alg}");
    }
    for header in [json!({"kid": "k1"}), json!({"alg": null}), json!({"alg": ["EdDSA"]}), json!({"alg": 1})] {
        assert_eq!(world.with_header(&header), Err(CredentialError::Algorithm), "{header}");
    }
}

#[test]
fn a_key_id_is_compared_and_never_followed() {
    let world = World::new();
    for id in ["../../../../dev/null", "/etc/passwd", "https://evil.example/k1", "k1\0", "K1", "k1 ", "", "' or 1=1"] {
        let header = json!({"alg": "EdDSA", "kid": id});
        assert_eq!(world.with_header(&header), Err(CredentialError::Key), "{id}");
    }
    for id in [json!(null), json!(1), json!(["k1"]), json!({"k1": 1})] {
        assert_eq!(world.with_header(&json!({"alg": "EdDSA", "kid": id})), Err(CredentialError::Key), "{id}");
    }
    assert_eq!(world.with_header(&json!({"alg": "EdDSA"})), Err(CredentialError::Key));
    assert_eq!(world.with_header(&json!({"alg": "EdDSA", "kid": "k2"})), Err(CredentialError::Signature));
}

#[test]
fn a_token_cannot_bring_or_point_to_its_own_key() {
    let world = World::new();
    let own = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for (name, value) in [
        ("jku", json!("https://evil.example/keys")),
        ("x5u", json!("https://evil.example/chain")),
        ("jwk", jwk("k1", &own)),
        ("x5c", json!(["AAAA"])),
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
    ] {
        let mut header = json!({"alg": "EdDSA", "kid": "k1"});
        header.as_object_mut().unwrap().insert(name.to_owned(), value);
        let token = signed(&header.to_string(), &claims().to_string(), &own);
        assert_eq!(world.verify(&token), Err(CredentialError::Header(name)));
        assert_eq!(world.with_header(&header), Err(CredentialError::Header(name)));
    }
}

#[test]
fn a_token_for_another_purpose_is_refused() {
    let world = World::new();
    for kind in ["JWT", "jwt", "at+jwt", "application/at+jwt", "JOSE"] {
        assert!(world.with_header(&json!({"alg": "EdDSA", "kid": "k1", "typ": kind})).is_ok(), "{kind}");
    }
    for kind in [
        json!("jose+json"),
        json!("dpop+jwt"),
        json!("logout+jwt"),
        json!("secevent+jwt"),
        json!(""),
        json!(1),
        json!(null),
    ] {
        let header = json!({"alg": "EdDSA", "kid": "k1", "typ": kind});
        assert_eq!(world.with_header(&header), Err(CredentialError::Type), "{kind}");
    }
}

#[test]
fn times_are_whole_seconds_or_nothing() {
    let world = World::new();
    let problem = "is not a whole number of seconds from 1970 to 9999";
    for claim in ["exp", "nbf", "iat"] {
        for value in [
            "\"1800000300\"",
            "1800000300.0",
            "1.8e9",
            "-1",
            "-0",
            "9223372036854775807",
            "18446744073709551616",
            "253402300800",
            "99999999999999999999999999",
            "null",
            "true",
            "[1800000300]",
            "{}",
        ] {
            let mut usual = claims();
            usual.as_object_mut().unwrap().remove(claim);
            let payload = usual.to_string().replacen('{', &format!("{{\"{claim}\":{value},"), 1);
            let refused = world.verify(&signed(&header(), &payload, &world.key));
            assert_eq!(refused, Err(CredentialError::Claim { claim, problem }), "{claim} {value}");
        }
    }
    let missing = world.with_claim("exp", Value::Null).unwrap_err();
    assert!(matches!(missing, CredentialError::Claim { claim: "exp", .. }));
    assert!(world.with_claim("iat", Value::Null).is_ok());
}

#[test]
fn it_ends_exactly_at_exp() {
    let world = World::new();
    assert_eq!(world.with_claim("exp", json!(NOW)), Err(CredentialError::Expired));
    assert_eq!(world.with_claim("exp", json!(0)), Err(CredentialError::Expired));
    let token = signed(&header(), &claims().to_string(), &world.key);
    let last = Timestamp::from_millis((NOW + 300) * 1000 - 1);
    assert!(world.authenticator.verify(&token, last).is_ok());
    assert_eq!(world.authenticator.verify(&token, at(NOW + 300)), Err(CredentialError::Expired));
}

#[test]
fn it_begins_at_nbf_and_iat_give_or_take_five_seconds() {
    let world = World::new();
    for claim in ["nbf", "iat"] {
        assert!(world.with_claim(claim, json!(NOW + 5)).is_ok(), "{claim}");
        assert_eq!(world.with_claim(claim, json!(NOW + 6)), Err(CredentialError::NotYet), "{claim}");
    }
}

#[test]
fn what_is_remembered_expires_too() {
    let world = World::new();
    let token = signed(&header(), &claims().to_string(), &world.key);
    let first = world.verify(&token).unwrap();
    let again = world.authenticator.verify(&token, at(NOW + 299)).unwrap();
    assert!(Arc::ptr_eq(&first, &again), "it was not remembered");
    assert_eq!(world.authenticator.verify(&token, at(NOW + 300)), Err(CredentialError::Expired));
    assert_eq!(world.authenticator.verify(&token, at(NOW - 16)), Err(CredentialError::NotYet));
    let entry = world.authenticator.verified.get(&Digest::of(token.as_bytes())).unwrap();
    assert_eq!(entry.left, Duration::from_secs(300));
}

#[test]
fn a_refusal_is_not_remembered() {
    let world = World::new();
    let token = signed(&header(), &claims().to_string(), &world.key);
    assert_eq!(world.authenticator.verify(&token, at(NOW + 300)), Err(CredentialError::Expired));
    assert!(world.authenticator.verify(&token, at(NOW)).is_ok());
}

#[test]
fn another_audience_issuer_or_tenant_is_refused() {
    let world = World::new();
    for audience in [json!("Countersign"), json!("countersign "), json!("x"), json!([]), json!(["x"])] {
        assert_eq!(world.with_claim("aud", audience.clone()), Err(CredentialError::Audience), "{audience}");
    }
    for audience in [Value::Null, json!(1), json!(["countersign", 1]), json!({"countersign": 1})] {
        let refused = world.with_claim("aud", audience.clone()).unwrap_err();
        assert!(matches!(refused, CredentialError::Claim { claim: "aud", .. }), "{audience}");
    }
    for issuer in
        ["https://idp.example.com/", "https://IDP.example.com", "idp.example.com", "", crate::config::DEV_ISSUER]
    {
        assert_eq!(world.with_claim("iss", json!(issuer)), Err(CredentialError::Issuer), "{issuer}");
    }
    assert_eq!(world.with_claim("iss", json!([ISSUER])), Err(CredentialError::Issuer));
    // Each tenant's issuer is believed about its own tenant, under its own name and key.
    assert_eq!(world.with_claim("iss", json!("https://other.example.com")), Err(CredentialError::Signature));
    let stolen_name = signed(&header(), &claims().to_string(), &world.other);
    assert_eq!(world.verify(&stolen_name), Err(CredentialError::Signature));
    let mut own = claims();
    own["iss"] = json!("https://other.example.com");
    assert_eq!(world.verify(&signed(&header(), &own.to_string(), &world.other)).unwrap().tenant.as_str(), "other");
}

#[test]
fn any_changed_byte_is_refused() {
    let world = World::new();
    let token = signed(&header(), &claims().to_string(), &world.key);
    for index in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        assert!(world.verify(std::str::from_utf8(&bytes).unwrap()).is_err(), "byte {index}");
    }
    for other in
        [format!("{token}="), format!("{token}A"), format!("{token}."), format!(" {token}"), format!("{token}\n")]
    {
        assert!(world.verify(&other).is_err(), "{other:?}");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let world = World::new();
    for text in ["", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "e30.e30.", "é.é.é", "\0.\0.\0"] {
        assert!(world.verify(text).is_err(), "{text:?}");
    }
    assert_eq!(world.verify(&"a".repeat(8193)), Err(CredentialError::TooLong));
    let mut long = claims();
    long["padding"] = json!("x".repeat(7000));
    assert_eq!(world.verify(&signed(&header(), &long.to_string(), &world.key)), Err(CredentialError::TooLong));
}

#[test]
fn a_repeated_claim_is_refused() {
    let world = World::new();
    let payload = claims().to_string();
    for repeated in [r#"{"sub":"bob","#, r#"{"su\u0062":"bob","#, r#"{"x":{"a":1,"a":2},"#] {
        let payload = payload.replacen('{', repeated, 1);
        let refused = world.verify(&signed(&header(), &payload, &world.key));
        assert!(matches!(refused, Err(CredentialError::Malformed(text)) if text.contains("repeated")), "{repeated}");
    }
    let twice = r#"{"alg":"EdDSA","kid":"k1","kid":"k2"}"#;
    assert!(matches!(world.verify(&signed(twice, &payload, &world.key)), Err(CredentialError::Malformed(_))));
}

#[test]
fn a_subject_has_one_spelling() {
    let world = World::new();
    for good in ["a", "alice@example.com", "auth0|5f7c", "DOMAIN\\alice", "Zoë", "agent:a b", &"a".repeat(256)] {
        assert!(world.with_claim("sub", json!(good)).is_ok(), "{good}");
    }
    for bad in [
        "",
        " alice",
        "alice ",
        "ali\nce",
        "ali\u{0}ce",
        "alice\u{200b}",
        "\u{202e}alice",
        "ａlice",
        "ﬁn",
        "e\u{301}",
        "agent:",
        "agent: a",
        "alice\u{a0}",
        &"a".repeat(257),
    ] {
        let refused = world.with_claim("sub", json!(bad)).unwrap_err();
        assert!(matches!(refused, CredentialError::Claim { claim: "sub", .. }), "{bad:?}");
    }
    for bad in [Value::Null, json!(1), json!(["alice"])] {
        assert!(world.with_claim("sub", bad).is_err());
    }
}

#[test]
fn an_issuer_names_only_the_kinds_it_may() {
    let world = World::new();
    assert_eq!(world.with_claim("sub", json!("service:ci")), Err(CredentialError::Kind("service")));
    assert_eq!(world.with_claim("act", json!({"sub": "service:ci"})), Err(CredentialError::Kind("service")));
}

#[test]
fn a_chain_of_actors_is_read_the_current_one_first() {
    let world = World::new();
    let chain = json!({"sub": "agent:a", "iss": ISSUER, "act": {"sub": "agent:b"}});
    let credential = world.with_claim("act", chain).unwrap();
    assert_eq!(credential.subject, Subject::Account("alice".to_owned()));
    assert_eq!(credential.actors, [Subject::Agent("a".to_owned()), Subject::Agent("b".to_owned())]);
}

#[test]
fn a_chain_that_is_too_deep_loops_or_says_more_is_refused() {
    let world = World::new();
    let deep = |depth: usize| {
        (1..depth).fold(json!({"sub": "agent:0"}), |inner, n| json!({"sub": format!("agent:{n}"), "act": inner}))
    };
    assert_eq!(world.with_claim("act", deep(8)).unwrap().actors.len(), 8);
    for chain in [
        deep(9),
        deep(60),
        json!({"sub": "alice"}),
        json!({"sub": "agent:a", "act": {"sub": "agent:b", "act": {"sub": "agent:a"}}}),
        json!({"sub": "agent:a", "act": {"sub": "alice"}}),
        json!({"sub": "agent:a", "iss": "https://other.example.com"}),
        json!({"sub": "agent:a", "exp": NOW + 1}),
        json!({"sub": "agent:a", "act": null}),
        json!({"sub": "agent:a", "act": [{"sub": "agent:b"}]}),
        json!({"sub": 1}),
        json!({"act": {"sub": "agent:a"}}),
        json!({}),
        json!([{"sub": "agent:a"}]),
        json!("agent:a"),
        json!(false),
    ] {
        let refused = world.with_claim("act", chain.clone()).unwrap_err();
        assert!(matches!(refused, CredentialError::Delegation(_)), "{chain}: {refused}");
    }
}

#[test]
fn a_token_that_needs_proof_of_possession_is_refused() {
    assert_eq!(World::new().with_claim("cnf", json!({"jkt": "x"})), Err(CredentialError::Bound));
}

#[test]
fn a_life_beyond_the_allowed_is_refused() {
    let world = World::with("max_age_seconds = 600");
    assert!(world.with_claim("exp", json!(NOW + 590)).is_ok());
    assert_eq!(world.with_claim("exp", json!(NOW + 591)), Err(CredentialError::TooLongLived(600)));
    assert!(matches!(world.with_claim("iat", Value::Null), Err(CredentialError::Claim { claim: "iat", .. })));
}

#[test]
fn errors_repeat_nothing_of_the_token() {
    let world = World::new();
    let secret = "s3cr3t-marker";
    let mut refusals = vec![
        world.with_claim("iss", json!(secret)),
        world.with_claim("aud", json!(secret)),
        world.with_claim("exp", json!(secret)),
        world.with_claim("sub", json!(format!("service:{secret}"))),
        world.with_claim("act", json!({ "sub": "agent:a", secret: 1 })),
        world.with_header(&json!({"alg": secret})),
        world.with_header(&json!({"alg": "EdDSA", "kid": secret})),
        world.with_header(&json!({"alg": "EdDSA", "jku": secret})),
        world.verify(secret),
    ];
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    refusals.push(world.verify(&signed(&header(), &claims().to_string(), &other)));
    for refusal in refusals {
        let error = refusal.unwrap_err();
        let text = format!("{error} {error:?} {}", error.reason());
        assert!(!text.contains(secret), "{text}");
        let prose = error.to_string();
        assert!(prose.starts_with(char::is_lowercase) && !prose.ends_with('.'), "{prose}");
    }
}
