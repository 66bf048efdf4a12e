//! The public keys of one issuer, each pinned to the algorithms that it may be used with.

use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_core::Digest;
use countersign_core::visible::Visible;
use jsonwebtoken::{AlgorithmFamily, DecodingKey};
use serde::Deserialize;

use super::error::CredentialError;
use crate::config::Algorithm;

/// The largest key file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

const RSA: &[Algorithm] =
    &[Algorithm::PS256, Algorithm::PS384, Algorithm::PS512, Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error(transparent)]
    Read(#[from] std::io::Error),
    #[error("{0}")]
    Content(String),
}

/// One public key.
struct Key {
    /// Its `kid`: an opaque text, compared and never interpreted.
    id: Option<String>,
    /// What it may verify: what suits it, and its issuer is configured for. Not empty.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The keys of one issuer. Not empty, and no two have one id.
pub(super) struct Keys {
    keys: Vec<Key>,
    /// What they were read from.
    text: Digest,
}

impl Keys {
    /// Reads a file.
    pub(super) fn read(path: &Path, allowed: &[Algorithm]) -> Result<Self, KeyFileError> {
        Self::parse(&read(path)?, allowed).map_err(KeyFileError::Content)
    }

    /// Whether they are the same keys: from the same text.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.text == other.text
    }

    /// Their ids, to be shown.
    pub(super) fn ids(&self) -> String {
        let ids: Vec<String> =
            self.keys.iter().map(|key| Visible::cut(key.id.as_deref().unwrap_or("-"), 64).to_string()).collect();
        ids.join(" ")
    }

    /// Reads a JSON Web Key Set or PEM.
    pub(super) fn parse(bytes: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
            return Err(format!("the file is larger than {MAX_FILE_BYTES} bytes; save the key set alone"));
        }
        let text =
            std::str::from_utf8(bytes).map_err(|_| "it is not text; save a JSON Web Key Set or PEM".to_owned())?;
        let found = if text.trim_start().starts_with('{') { from_set(text)? } else { vec![from_pem(text)?] };
        let mut keys: Vec<Key> = Vec::new();
        for mut key in found {
            key.algorithms.retain(|algorithm| allowed.contains(algorithm));
            if key.algorithms.is_empty() {
                continue;
            }
            if let Some(id) = &key.id
                && keys.iter().any(|other| other.id.as_ref() == Some(id))
            {
                return Err(format!("two keys have the `kid` `{}`; keep one of them", Visible::cut(id, 64)));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            let names: Vec<String> = allowed.iter().map(|algorithm| format!("`{algorithm:?}`")).collect();
            return Err(format!(
                "none is for {}; save the issuer's signature keys, or correct its `algorithms`",
                names.join(" or ")
            ));
        }
        Ok(Self { keys, text: Digest::of(bytes) })
    }

    /// The key for a token with that `kid`. A key without an id is used for any, but only where it is the only one.
    pub(super) fn select(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&DecodingKey, CredentialError> {
        let named = match (id, self.keys.as_slice()) {
            (Some(_), [only]) if only.id.is_none() => Some(only),
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
            (None, keys) => {
                let mut suitable = keys.iter().filter(|key| key.algorithms.contains(&algorithm));
                // Guessing among several would let a token choose by leaving out its `kid`.
                suitable.next().filter(|_| suitable.next().is_none())
            }
        };
        let key = named.ok_or(CredentialError::Key)?;
        if key.algorithms.contains(&algorithm) { Ok(&key.key) } else { Err(CredentialError::Algorithm) }
    }
}

/// The whole file, but not much more than may be in it.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn from_pem(text: &str) -> Result<Key, String> {
    let begins: Vec<&str> = text.lines().filter(|line| line.starts_with("-----BEGIN ")).map(str::trim_end).collect();
    match begins.as_slice() {
        ["-----BEGIN PUBLIC KEY-----"] => {}
        [] => return Err("neither a JSON Web Key Set nor PEM; save one of them".to_owned()),
        [one] if one.contains("PRIVATE") => {
            return Err("a private key, which no verifier should have; save its public half".to_owned());
        }
        [_] => return Err("not a `PUBLIC KEY`; save the public key alone, in PEM form".to_owned()),
        _ => return Err("more than one item in PEM; several keys need ids, so save a JSON Web Key Set".to_owned()),
    }
    let pem = text.as_bytes();
    let (key, algorithms) = DecodingKey::from_ed_pem(pem)
        .or_else(|_| DecodingKey::from_ec_pem(pem))
        .or_else(|_| DecodingKey::from_rsa_pem(pem))
        .ok()
        .and_then(|key| {
            let bytes = key.try_get_as_bytes().ok()?.len();
            let algorithms = match (key.family(), bytes) {
                (AlgorithmFamily::Ed, 32) => vec![Algorithm::EdDSA],
                (AlgorithmFamily::Ec, 65) => vec![Algorithm::ES256],
                (AlgorithmFamily::Ec, 97) => vec![Algorithm::ES384],
                // The DER of a modulus of 2048 bits with its exponent is at least that long.
                (AlgorithmFamily::Rsa, 262..) => RSA.to_vec(),
                (AlgorithmFamily::Ed | AlgorithmFamily::Ec | AlgorithmFamily::Rsa | AlgorithmFamily::Hmac, _) => {
                    return None;
                }
            };
            Some((key, algorithms))
        })
        .ok_or("not a key of Ed25519, P-256, P-384 or RSA from 2048 bits on; save another key of the issuer")?;
    Ok(Key { id: None, algorithms, key })
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

/// A JSON Web Key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2), as far as it is looked at.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<serde::de::IgnoredAny>,
    k: Option<serde::de::IgnoredAny>,
}

fn from_set(text: &str) -> Result<Vec<Key>, String> {
    let set: Set = serde_json::from_str(text).map_err(|error| {
        format!("not a JSON Web Key Set, at line {} column {}; save `{{\"keys\": […]}}`", error.line(), error.column())
    })?;
    let mut keys = Vec::new();
    for (index, jwk) in set.keys.iter().enumerate() {
        keys.extend(from_jwk(jwk).map_err(|problem| format!("`keys[{index}]` {problem}"))?);
    }
    Ok(keys)
}

/// The key, or none if it is not for signatures that are known here: a set may hold others.
fn from_jwk(jwk: &Jwk) -> Result<Option<Key>, &'static str> {
    if jwk.d.is_some() || jwk.k.is_some() || jwk.kty == "oct" {
        return Err("is private or shared, and no verifier should have it; save the public keys alone");
    }
    // SPIFFE bundles have a `use` of their own (SPIFFE Trust Domain and Bundle §4.2.2).
    let for_signatures = jwk.purpose.as_deref().is_none_or(|purpose| matches!(purpose, "sig" | "jwt-svid"))
        && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !for_signatures {
        return Ok(None);
    }
    let incomplete = "is incomplete or malformed; save the key set again";
    let exactly = |text: &Option<String>, length: usize| {
        let text = text.as_deref().ok_or(incomplete)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| incomplete)?;
        if bytes.len() == length { Ok(text.to_owned()) } else { Err(incomplete) }
    };
    let curve = |length: usize| {
        let (x, y) = (exactly(&jwk.x, length)?, exactly(&jwk.y, length)?);
        DecodingKey::from_ec_components(&x, &y).map_err(|_| incomplete)
    };
    let (key, mut algorithms) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => {
            let key = DecodingKey::from_ed_components(&exactly(&jwk.x, 32)?).map_err(|_| incomplete)?;
            (key, vec![Algorithm::EdDSA])
        }
        ("EC", Some("P-256")) => (curve(32)?, vec![Algorithm::ES256]),
        ("EC", Some("P-384")) => (curve(48)?, vec![Algorithm::ES384]),
        ("RSA", None) => {
            let (n, e) = (jwk.n.as_deref().ok_or(incomplete)?, jwk.e.as_deref().ok_or(incomplete)?);
            let modulus = URL_SAFE_NO_PAD.decode(n).map_err(|_| incomplete)?;
            if !(256..=1024).contains(&modulus.iter().skip_while(|byte| **byte == 0).count()) {
                return Err("is an RSA key outside 2048 to 8192 bits; have the issuer use another");
            }
            (DecodingKey::from_rsa_components(n, e).map_err(|_| incomplete)?, RSA.to_vec())
        }
        _ => return Ok(None),
    };
    if let Some(alg) = &jwk.alg {
        algorithms.retain(|algorithm| format!("{algorithm:?}") == *alg);
    }
    Ok(Some(Key { id: jwk.kid.clone(), algorithms, key }))
}

#[cfg(test)]
mod tests {
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
}
