use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn ed(kid: &str) -> String {
    format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{X}"}}"#)
}

fn parse(keys: &[&str], allowed: &[Algorithm]) -> Result<Keys, String> {
    Keys::parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes(), allowed)
}

#[test]
fn a_key_is_found_by_its_exact_id_only() {
    let keys = parse(&[&ed("a"), &ed("b")], &[Algorithm::EdDSA]).unwrap();
    assert!(keys.select(Some("a"), Algorithm::EdDSA).is_ok());
    for id in ["A", "a ", "c", "", "../a", "https://evil.example/a"] {
        assert_eq!(keys.select(Some(id), Algorithm::EdDSA).unwrap_err(), CredentialError::Key, "{id}");
    }
    assert_eq!(keys.select(None, Algorithm::EdDSA).unwrap_err(), CredentialError::Key);
    let one = parse(&[&ed("a")], &[Algorithm::EdDSA]).unwrap();
    assert!(one.select(None, Algorithm::EdDSA).is_ok());
    assert_eq!(one.select(Some("b"), Algorithm::EdDSA).unwrap_err(), CredentialError::Key);
}

#[test]
fn a_key_is_used_with_its_own_algorithm_only() {
    let keys = parse(&[&ed("a")], &[Algorithm::EdDSA, Algorithm::RS256]).unwrap();
    assert_eq!(keys.select(Some("a"), Algorithm::RS256).unwrap_err(), CredentialError::Algorithm);
}

#[test]
fn keys_for_other_purposes_are_left_out() {
    let encryption = ed("a").replace("\"x\"", "\"use\":\"enc\",\"x\"");
    let agreement = r#"{"kty":"OKP","crv":"X25519","x":"AAAA"}"#;
    let other = ed("c").replace("\"x\"", "\"alg\":\"ES256\",\"x\"");
    assert!(parse(&[&encryption, agreement, &other, &ed("b")], &[Algorithm::EdDSA]).is_ok());
    let problem = parse(&[&encryption, agreement, &other], &[Algorithm::EdDSA]).err().unwrap();
    assert!(problem.starts_with("none is for `EdDSA`;"), "{problem}");
}

#[test]
fn what_should_not_be_there_is_refused() {
    let private = ed("a").replace("\"x\"", "\"d\":\"secret\",\"x\"");
    let short = ed("a").replace(X, "AAAA");
    let weak = format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"}}"#, URL_SAFE_NO_PAD.encode([255; 128]));
    for (keys, expected) in [
        (vec![private.as_str()], "`keys[0]` is private or shared"),
        (vec![r#"{"kty":"oct","k":"c2VjcmV0"}"#], "`keys[0]` is private or shared"),
        (vec![short.as_str()], "`keys[0]` is incomplete or malformed"),
        (vec![weak.as_str()], "`keys[0]` is an RSA key outside 2048 to 8192 bits"),
        (vec![&ed("a"), &ed("a")], "two keys have the `kid` `a`"),
    ] {
        let problem = parse(&keys, &[Algorithm::EdDSA, Algorithm::RS256]).err().unwrap();
        assert!(problem.contains(expected), "{problem}");
        assert!(!problem.contains("secret") && !problem.contains("c2VjcmV0"), "{problem}");
    }
}

#[test]
fn pem_of_anything_but_one_public_key_is_refused() {
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    let keys = Keys::parse(public.as_bytes(), &[Algorithm::EdDSA]).ok().unwrap();
    assert!(keys.select(Some("any"), Algorithm::EdDSA).is_ok() && keys.select(None, Algorithm::EdDSA).is_ok());
    for (text, expected) in [
        (public.repeat(2), "more than one item"),
        (public.replace("PUBLIC", "PRIVATE"), "a private key"),
        (public.replace("PUBLIC KEY", "CERTIFICATE"), "not a `PUBLIC KEY`"),
        (public.replace("MCow", "AAAA"), "not a key of Ed25519"),
        ("https://idp.example.com/keys".to_owned(), "neither a JSON Web Key Set nor PEM"),
        (String::new(), "neither a JSON Web Key Set nor PEM"),
    ] {
        let problem = Keys::parse(text.as_bytes(), &[Algorithm::EdDSA]).err().unwrap();
        assert!(problem.contains(expected), "{problem}");
    }
}

/// As [`parse`], of a set that was fetched.
fn fetched(keys: &[&str], allowed: &[Algorithm]) -> Result<(Keys, Unused), String> {
    Keys::fetched(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes(), allowed)
}

#[test]
fn of_what_is_fetched_a_key_that_cannot_be_used_takes_no_other_with_it() {
    let good = ed("good");
    let private = ed("a").replace("\"x\"", "\"d\":\"secret\",\"x\"");
    let short = ed("a").replace(X, "AAAA");
    let repeated = ed("a").replace("\"x\"", "\"kid\":\"b\",\"x\"");
    let weak = format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"}}"#, URL_SAFE_NO_PAD.encode([255; 128]));
    let other = ed("c").replace("\"x\"", "\"alg\":\"ES256\",\"x\"");
    for (bad, expected, flawed) in [
        (private.as_str(), "`keys[0]` is private or shared", true),
        (&short, "`keys[0]` is incomplete or malformed", true),
        (&repeated, "`keys[0]` is not a JSON Web Key", true),
        (&weak, "`keys[0]` is an RSA key outside 2048 to 8192 bits", true),
        (r#"{"kid":"a"}"#, "`keys[0]` is not a JSON Web Key", true),
        (r#"{"kty":"RSA"}"#, "`keys[0]` is incomplete or malformed", true),
        (r#"{"kty":"RSA","key_ops":"verify"}"#, "`keys[0]` is not a JSON Web Key", true),
        (r#"{"kty":5}"#, "`keys[0]` is not a JSON Web Key", true),
        ("null", "`keys[0]` is not a JSON Web Key", true),
        (r#"{"kty":"AKP","alg":"ML-DSA-44"}"#, "`keys[0]` is of a kind that is not known here", false),
        (r#"{"kty":"RSA","use":"enc"}"#, "`keys[0]` is not for signatures", false),
        (&other, "`keys[0]` is for an algorithm that is not configured", false),
    ] {
        let (keys, unused) = fetched(&[bad, &good], &[Algorithm::EdDSA, Algorithm::RS256]).unwrap();
        assert_eq!((keys.ids().as_str(), unused.is_flawed()), ("good", flawed), "{bad}");
        assert!(unused.to_string().starts_with(expected) && !unused.to_string().contains("secret"), "{unused}");
        let problem = fetched(&[bad], &[Algorithm::EdDSA, Algorithm::RS256]).err().unwrap();
        assert!(problem.starts_with("none is for `EdDSA`") && problem.contains(expected), "{problem}");
    }
}

#[test]
fn more_keys_than_anybody_needs_are_not_kept_and_not_all_named_in_the_log() {
    let all: Vec<String> = (0..200).map(|number| ed(&format!("k{number}"))).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let problem = parse(&all, &[Algorithm::EdDSA]).err().unwrap();
    assert!(problem.starts_with("200 keys, more than the 128"), "{problem}");
    let (keys, unused) = fetched(&all, &[Algorithm::EdDSA]).unwrap();
    assert!(keys.select(Some("k127"), Algorithm::EdDSA).is_ok());
    assert_eq!(keys.select(Some("k128"), Algorithm::EdDSA).unwrap_err(), CredentialError::Key);
    assert_eq!(keys.ids(), "k0 k1 k2 k3 k4 k5 k6 k7 k8 k9 and 118 more");
    assert!(unused.to_string().ends_with("`keys[137]` is one too many; and 62 more"), "{unused}");
}

#[test]
fn of_fetched_keys_with_one_id_none_is_used() {
    let (keys, unused) = fetched(&[&ed("a"), &ed("b"), &ed("a"), &ed("a")], &[Algorithm::EdDSA]).unwrap();
    assert_eq!((keys.ids().as_str(), unused.is_flawed()), ("b", true));
    assert_eq!(unused.to_string().matches("has the `kid` of another").count(), 3);
    assert_eq!(keys.select(Some("a"), Algorithm::EdDSA).unwrap_err(), CredentialError::Key);
    assert!(fetched(&[&ed("a"), &ed("a")], &[Algorithm::EdDSA]).is_err());
}
