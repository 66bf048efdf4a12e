//! JSON Web Keys (RFC 7517), as files hold them and as issuers publish them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Key, sound};

/// Why a key of a set is not used.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unfit {
    /// It is for something else: a set may hold others.
    Other(&'static str),
    /// It should not be there so.
    Flawed(&'static str),
}

#[derive(Deserialize)]
struct Set<T> {
    keys: Vec<T>,
}

/// Something in a set of which not everything need be understood (RFC 7517 §5).
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    // On the heap: a set of a million bytes may have a million entries.
    Key(Box<Jwk>),
    NotUnderstood(IgnoredAny),
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
    d: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

/// The keys of a set in which nothing may be wrong; those for other purposes are left out.
pub(super) fn strictly(text: &str) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    for (index, jwk) in set::<Jwk>(text)?.into_iter().enumerate() {
        match key(jwk) {
            Ok(key) => keys.push(key),
            Err(Unfit::Other(_)) => {}
            Err(Unfit::Flawed(problem)) => return Err(format!("`keys[{index}]` {problem}")),
        }
    }
    Ok(keys)
}

/// The keys of a set, each by itself.
pub(super) fn leniently(text: &str) -> Result<impl Iterator<Item = Result<Key, Unfit>>, String> {
    Ok(set::<Entry>(text)?.into_iter().map(|entry| match entry {
        Entry::Key(jwk) => key(*jwk),
        Entry::NotUnderstood(IgnoredAny) => Err(Unfit::Flawed("is not a JSON Web Key")),
    }))
}

fn set<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    let set: Result<Set<T>, _> = serde_json::from_str(text);
    set.map(|set| set.keys).map_err(|error| {
        format!("not a JSON Web Key Set, at line {} column {}; save `{{\"keys\": […]}}`", error.line(), error.column())
    })
}

fn key(jwk: Jwk) -> Result<Key, Unfit> {
    if jwk.d.is_some() || jwk.k.is_some() || jwk.kty == "oct" {
        let problem = "is private or shared, and no verifier should have it; save the public keys alone";
        return Err(Unfit::Flawed(problem));
    }
    // SPIFFE bundles have a `use` of their own (SPIFFE Trust Domain and Bundle §4.2.2).
    let for_signatures = jwk.purpose.as_deref().is_none_or(|purpose| matches!(purpose, "sig" | "jwt-svid"))
        && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !for_signatures {
        return Err(Unfit::Other("is not for signatures"));
    }
    let incomplete = Unfit::Flawed("is incomplete or malformed; save the key set again");
    let exactly = |text: &Option<String>, length: usize| {
        let text = text.as_deref().ok_or(incomplete)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| incomplete)?;
        if bytes.len() == length { Ok(text.to_owned()) } else { Err(incomplete) }
    };
    // Some write a zero in front of it (RFC 7518 §6.3.1.1).
    let number = |text: Option<&String>| {
        let bytes = URL_SAFE_NO_PAD.decode(text.ok_or(incomplete)?).map_err(|_| incomplete)?;
        Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>())
    };
    let curve = |length: usize| {
        let (x, y) = (exactly(&jwk.x, length)?, exactly(&jwk.y, length)?);
        DecodingKey::from_ec_components(&x, &y).map_err(|_| incomplete)
    };
    let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => DecodingKey::from_ed_components(&exactly(&jwk.x, 32)?).map_err(|_| incomplete)?,
        ("EC", Some("P-256")) => curve(32)?,
        ("EC", Some("P-384")) => curve(48)?,
        ("RSA", None) => {
            let (modulus, exponent) = (number(jwk.n.as_ref())?, number(jwk.e.as_ref())?);
            if !sound::is_large_enough(&modulus) {
                let problem = "is an RSA key outside 2048 to 8192 bits; have the issuer use another";
                return Err(Unfit::Flawed(problem));
            }
            DecodingKey::from_rsa_raw_components(&modulus, &exponent)
        }
        _ => return Err(Unfit::Other("is of a kind that is not known here")),
    };
    let mut algorithms = sound::suits(&key).to_vec();
    if algorithms.is_empty() {
        return Err(Unfit::Flawed(
            "is no sound key of its kind; save the key set again, or have the issuer use another",
        ));
    }
    if let Some(alg) = &jwk.alg {
        algorithms.retain(|algorithm| format!("{algorithm:?}") == *alg);
    }
    Ok(Key { id: jwk.kid, algorithms, key })
}
