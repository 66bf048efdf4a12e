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

/// One value in DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match content.len() {
        short @ 0..=127 => vec![u8::try_from(short).unwrap()],
        long => [&[0x82], &u16::try_from(long).unwrap().to_be_bytes()[..]].concat(),
    };
    [&[tag], length.as_slice(), &content].concat()
}

/// A public key in PEM, by its algorithm and its bits.
fn pem(algorithm: &[&[u8]], bits: &[u8]) -> String {
    let key = der(0x30, &[&der(0x30, algorithm), &der(3, &[&[0], bits])]);
    let key = base64::engine::general_purpose::STANDARD.encode(key);
    format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n")
}

const EVERY: &[Algorithm] = &[Algorithm::EdDSA, Algorithm::ES256, Algorithm::ES384, Algorithm::RS256, Algorithm::PS512];

#[test]
fn a_key_that_could_verify_nothing_or_anything_is_refused_when_it_is_read() {
    let rsa = |modulus: &[u8], exponent: &[u8]| {
        let numbers = der(0x30, &[&der(2, &[&[0], modulus]), &der(2, &[exponent])]);
        pem(&[&der(6, &[&[42, 134, 72, 134, 247, 13, 1, 1, 1]]), &der(5, &[])], &numbers)
    };
    let ec = |curve: &[u8], point: &str| {
        pem(&[&der(6, &[&[42, 134, 72, 206, 61, 2, 1]]), &der(6, &[curve])], &hex::decode(point).unwrap())
    };
    let (p256, k256) = (&[42, 134, 72, 206, 61, 3, 1, 7][..], &[43, 129, 4, 0, 10][..]);
    let ed = |bytes: [u8; 32]| pem(&[&der(6, &[&[43, 101, 112]])], &bytes);
    // The base points of P-256 and of secp256k1.
    let of_p256 = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                   4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
    let of_k256 = "0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798\
                   483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8";
    let (full, short) = ([255; 256], [&[0x7f][..], &[255; 255]].concat());
    let valid: [u8; 32] = URL_SAFE_NO_PAD.decode(X).unwrap().try_into().unwrap();
    for (text, good) in [
        (ec(p256, of_p256), true),
        (ec(p256, &of_p256.replace("51f5", "51f6")), false),
        (ec(k256, of_k256), false),
        (ec(p256, of_k256), false),
        (rsa(&full, &[1, 0, 1]), true),
        (rsa(&short, &[1, 0, 1]), false),
        (rsa(&full, &[1]), false),
        (rsa(&full, &[2]), false),
        (rsa(&[255; 1025], &[1, 0, 1]), false),
        (ed(valid), true),
        (ed(std::array::from_fn(|index| if index == 0 { 2 } else { 0 })), false),
        (ed(std::array::from_fn(|index| u8::from(index == 0))), false),
    ] {
        assert_eq!(Keys::parse(text.as_bytes(), EVERY).is_ok(), good, "{text}");
    }
    let (x, y) = of_p256[2..].split_at(64);
    let point = |x: &str, y: &str, curve: &str| {
        let [x, y] = [x, y].map(|number| URL_SAFE_NO_PAD.encode(hex::decode(number).unwrap()));
        format!(r#"{{"kty":"EC","crv":"{curve}","x":"{x}","y":"{y}"}}"#)
    };
    let rsa = |n: &[u8], e: &[u8]| {
        let [n, e] = [n, e].map(|number| URL_SAFE_NO_PAD.encode(number));
        format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"}}"#)
    };
    for (key, problem) in [
        (point(x, y, "P-256"), ""),
        (point(y, x, "P-256"), "is no sound key of its kind"),
        (point(x, y, "P-384"), "is incomplete or malformed"),
        (rsa(&full, &[1, 0, 1]), ""),
        (rsa(&[&[0], &full[..]].concat(), &[0, 1, 0, 1]), ""),
        (rsa(&short, &[1, 0, 1]), "is an RSA key outside 2048 to 8192 bits"),
        (rsa(&[255; 1025], &[1, 0, 1]), "is an RSA key outside 2048 to 8192 bits"),
        (rsa(&[&full[..255], &[254]].concat(), &[1, 0, 1]), "is no sound key of its kind"),
        (rsa(&full, &[1]), "is no sound key of its kind"),
        (rsa(&full, &[]), "is no sound key of its kind"),
        (rsa(&full, &[255; 9]), "is no sound key of its kind"),
        (ed_of(&[0; 32]), "is no sound key of its kind"),
    ] {
        match parse(&[&key], EVERY) {
            Ok(_) => assert_eq!(problem, "", "{key}"),
            Err(told) => assert!(!problem.is_empty() && told.contains(problem), "{key}: {told}"),
        }
    }
}

fn ed_of(bytes: &[u8]) -> String {
    format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(bytes))
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
