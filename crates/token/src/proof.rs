//! Holders, and how they prove to be the ones that a capability is bound to.
//!
//! A proof is a JWS in compact form (RFC 7515, RFC 8037), made in the manner of DPoP (RFC 9449), so that every JOSE library can
//! write one. It says what is about to happen, and is good for that alone, for [`MAX_AGE`]:
//!
//! ```text
//! header   { "typ": "countersign-proof+jwt", "alg": "EdDSA", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": … } }
//! payload  { "ath": SHA-256 of the token's text, base64url without padding,
//!            "digest": the action's digest, 64 hexadecimal digits,
//!            "aud": the enforcement point,
//!            "jti": the request id of the redeem,
//!            "iat": the time, in seconds since 1970 }
//! ```
//!
//! Nothing more may stand in it. The key in the header is the holder's, if its thumbprint (RFC 7638) is the one in the token.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_core::{Digest, Holder, HolderKind, Timestamp};
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{HolderError, HolderKeyError, TokenError};
use crate::narrow::unverified_claims;

/// How old a proof may be.
pub const MAX_AGE: Duration = Duration::from_secs(60);
/// How far the holder's clock may be ahead.
pub const MAX_AHEAD: Duration = Duration::from_secs(5);
/// The longest proof that is read, in bytes.
pub const MAX_PROOF_BYTES: usize = 2048;

const TYPE: &str = "countersign-proof+jwt";

/// What a proof is about: as the holder means it, or as the verifier knows it. Nothing of it may be taken from the proof.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The SHA-256 of the token's text.
    pub token: Digest,
    /// The digest of what is about to run; recomputed by the verifier.
    pub digest: Digest,
    /// The enforcement point.
    pub audience: &'a str,
    /// The request id of the redeem.
    pub request_id: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// The private key of a holder: Ed25519. Wiped from memory on drop.
pub struct HolderKey(SigningKey);

impl HolderKey {
    /// A new one from the operating system's random source.
    ///
    /// # Errors
    /// [`HolderKeyError::Random`].
    pub fn generate() -> Result<Self, HolderKeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|_| HolderKeyError::Random)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// The key of an RFC 8032 seed; every 32 bytes are one.
    #[must_use]
    pub fn from_seed(seed: &Zeroizing<[u8; 32]>) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads one in PKCS#8 PEM form (RFC 8410), as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// [`HolderKeyError::Private`].
    pub fn from_pem(pem: &str) -> Result<Self, HolderKeyError> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| HolderKeyError::Private)
    }

    /// The 32 bytes of the public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Whom a capability is bound to that is bound to this key.
    #[must_use]
    pub fn holder(&self) -> Holder {
        Holder { kind: HolderKind::Key, thumbprint: thumbprint(&self.public()) }
    }

    /// Signs a proof for redeeming a token under this request id: of the action and for the audience that the token is for.
    ///
    /// # Errors
    /// [`TokenError`] if it is no token.
    pub fn prove(&self, token: &str, request_id: &str, now: Timestamp) -> Result<String, TokenError> {
        let claims = unverified_claims(token)?;
        let (digest, audience) = (claims.digest, claims.audience.as_str());
        Ok(self.sign(&About { token: Digest::of(token.as_bytes()), digest, audience, request_id, now }))
    }

    /// Signs a proof.
    #[must_use]
    pub fn sign(&self, about: &About<'_>) -> String {
        let About { token, digest, audience, request_id, now } = about;
        let x = URL_SAFE_NO_PAD.encode(self.public());
        let header =
            Header { typ: TYPE.into(), alg: Algorithm::EdDsa, jwk: Jwk { kty: Kty::Okp, crv: Crv::Ed25519, x } };
        let payload = Payload {
            ath: URL_SAFE_NO_PAD.encode(token.as_bytes()),
            digest: digest.to_string(),
            aud: (*audience).to_owned(),
            jti: (*request_id).to_owned(),
            iat: now.millis().div_euclid(1_000),
        };
        let signed = format!("{}.{}", part(&header), part(&payload));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()).to_bytes());
        format!("{signed}.{signature}")
    }
}

impl fmt::Debug for HolderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HolderKey").field("holder", &self.holder()).finish_non_exhaustive()
    }
}

/// Whom a capability is bound to that is bound to this public key.
///
/// # Errors
/// [`HolderKeyError::Public`] for what is no key, or one under which anything verifies.
pub fn holder_of_key(public: &[u8]) -> Result<Holder, HolderKeyError> {
    let bytes: [u8; 32] = public.try_into().map_err(|_| HolderKeyError::Public)?;
    let sound = VerifyingKey::from_bytes(&bytes).is_ok_and(|key| !key.is_weak());
    if !sound {
        return Err(HolderKeyError::Public);
    }
    Ok(Holder { kind: HolderKind::Key, thumbprint: thumbprint(&bytes) })
}

/// Whom a capability is bound to that is bound to the key in this PEM text: the private one (PKCS#8), or the public one alone.
///
/// # Errors
/// [`HolderKeyError`].
pub fn holder_of_pem(pem: &str) -> Result<Holder, HolderKeyError> {
    match VerifyingKey::from_public_key_pem(pem) {
        Ok(key) => holder_of_key(key.as_bytes()),
        Err(_) => HolderKey::from_pem(pem).map(|key| key.holder()),
    }
}

/// Whom a capability is bound to that is bound to the client certificate of this DER.
#[must_use]
pub fn holder_of_certificate(der: &[u8]) -> Holder {
    Holder { kind: HolderKind::Certificate, thumbprint: Digest::of(der) }
}

/// Whether whoever presents a capability is the one that it is bound to: the connection has this certificate, if any, and this
/// proof was sent, or an empty one. Returns the holder, for [`crate::Presented`].
///
/// # Errors
/// [`HolderError`], by what is to be repaired first.
pub fn shown(
    bound: Holder,
    certificate: Option<Digest>,
    proof: &str,
    about: &About<'_>,
) -> Result<Holder, HolderError> {
    match (bound.kind, certificate) {
        (HolderKind::Certificate, None) => Err(HolderError::Missing(bound.kind)),
        (HolderKind::Certificate, Some(other)) if other != bound.thumbprint => Err(HolderError::OtherCertificate),
        (HolderKind::Certificate, Some(_)) => Ok(bound),
        (HolderKind::Key, _) if proof.is_empty() => Err(HolderError::Missing(bound.kind)),
        (HolderKind::Key, _) => verify(proof, bound.thumbprint, about).map(|()| bound),
    }
}

/// What was signed is looked at after the signature only, and what is said in it last: whoever does not hold the key learns
/// nothing.
fn verify(proof: &str, bound: Digest, about: &About<'_>) -> Result<(), HolderError> {
    if proof.len() > MAX_PROOF_BYTES {
        return Err(HolderError::Malformed("it is too long"));
    }
    let (signed, signature) = proof.rsplit_once('.').ok_or(HolderError::Malformed("it is no compact JWS"))?;
    let (header, payload) = signed.split_once('.').ok_or(HolderError::Malformed("it is no compact JWS"))?;
    let Header { typ, alg: Algorithm::EdDsa | Algorithm::Ed25519, jwk } =
        parsed(header).ok_or(HolderError::Malformed("its header is not one of a proof"))?;
    let Jwk { kty: Kty::Okp, crv: Crv::Ed25519, x } = jwk;
    if typ != TYPE {
        return Err(HolderError::Malformed("its `typ` is not `countersign-proof+jwt`"));
    }
    let public: Option<[u8; 32]> = URL_SAFE_NO_PAD.decode(x).ok().and_then(|bytes| bytes.try_into().ok());
    let public = public.ok_or(HolderError::Malformed("its `jwk` is no Ed25519 key"))?;
    if thumbprint(&public) != bound {
        return Err(HolderError::OtherKey);
    }
    let key = VerifyingKey::from_bytes(&public).map_err(|_| HolderError::Malformed("its `jwk` is no Ed25519 key"))?;
    let signature: Option<[u8; 64]> = URL_SAFE_NO_PAD.decode(signature).ok().and_then(|bytes| bytes.try_into().ok());
    let signature = Signature::from_bytes(&signature.ok_or(HolderError::Signature)?);
    key.verify_strict(signed.as_bytes(), &signature).map_err(|_| HolderError::Signature)?;

    let Payload { ath, digest, aud, jti, iat } =
        parsed(payload).ok_or(HolderError::Malformed("its payload is not that of a proof"))?;
    if ath != URL_SAFE_NO_PAD.encode(about.token.as_bytes()) {
        return Err(HolderError::OtherToken);
    }
    if digest != about.digest.to_string() {
        return Err(HolderError::OtherAction);
    }
    if aud != about.audience {
        return Err(HolderError::OtherAudience);
    }
    if jti != about.request_id {
        return Err(HolderError::OtherRequest);
    }
    let made = Timestamp::from_millis(iat.saturating_mul(1_000));
    if made > about.now.plus(MAX_AHEAD) {
        return Err(HolderError::Stale("from the future"));
    }
    if about.now > made.plus(MAX_AGE) {
        return Err(HolderError::Stale("too old"));
    }
    Ok(())
}

/// The thumbprint of RFC 7638 of an Ed25519 key as a JWK (RFC 8037 §A.3).
fn thumbprint(public: &[u8; 32]) -> Digest {
    let x = URL_SAFE_NO_PAD.encode(public);
    Digest::of(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes())
}

fn part(part: &impl Serialize) -> String {
    // Serializing strings and a number into memory does not fail.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).unwrap_or_default())
}

fn parsed<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: Algorithm,
    jwk: Jwk,
}

/// Two names of one algorithm: RFC 8037, and RFC 9864, which says it more exactly.
#[derive(Serialize, Deserialize)]
enum Algorithm {
    #[serde(rename = "EdDSA")]
    EdDsa,
    Ed25519,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: Kty,
    crv: Crv,
    x: String,
}

#[derive(Serialize, Deserialize)]
enum Kty {
    #[serde(rename = "OKP")]
    Okp,
}

#[derive(Serialize, Deserialize)]
enum Crv {
    Ed25519,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    ath: String,
    digest: String,
    aud: String,
    jti: String,
    iat: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_225_600_000;

    fn key(seed: u8) -> HolderKey {
        HolderKey(SigningKey::from_bytes(&[seed; 32]))
    }

    fn about() -> About<'static> {
        About {
            token: Digest::of(b"token"),
            digest: Digest::of(b"action"),
            audience: "warehouse",
            request_id: "019b76da-a800-7d5c-9f0e-3b1c8a6f2e41",
            now: Timestamp::from_millis(NOW),
        }
    }

    fn told(proof: &str, about: &About<'_>) -> Result<Holder, HolderError> {
        shown(key(1).holder(), None, proof, about)
    }

    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        // RFC 8037 §A.3.
        let x = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let holder = holder_of_key(&x).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(holder.thumbprint.as_bytes()), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(holder_of_key(&[0; 32]), Err(HolderKeyError::Public));
        assert_eq!(holder_of_key(&[1; 31]), Err(HolderKeyError::Public));
    }

    #[test]
    fn a_proof_is_good_for_what_it_is_about_and_nothing_else() {
        let proof = key(1).sign(&about());
        assert_eq!(told(&proof, &about()), Ok(key(1).holder()));
        for (other, error) in [
            (About { token: Digest::of(b"another"), ..about() }, HolderError::OtherToken),
            (About { digest: Digest::of(b"another"), ..about() }, HolderError::OtherAction),
            (About { audience: "another", ..about() }, HolderError::OtherAudience),
            (About { request_id: "another", ..about() }, HolderError::OtherRequest),
        ] {
            assert_eq!(told(&proof, &other), Err(error));
        }
        assert_eq!(told(&key(2).sign(&about()), &about()), Err(HolderError::OtherKey));
        assert_eq!(told("", &about()), Err(HolderError::Missing(HolderKind::Key)));
    }

    #[test]
    fn a_proof_lasts_a_minute_by_the_verifiers_clock() {
        let proof = key(1).sign(&about());
        let at = |millis: i64| told(&proof, &About { now: Timestamp::from_millis(NOW + millis), ..about() }).map(drop);
        for millis in [-5_000, 0, 60_000] {
            assert_eq!(at(millis), Ok(()), "{millis}");
        }
        assert_eq!(at(-5_001), Err(HolderError::Stale("from the future")));
        assert_eq!(at(60_001), Err(HolderError::Stale("too old")));
    }

    #[test]
    fn whatever_is_changed_of_a_proof_it_is_none() {
        let proof = key(1).sign(&about());
        for place in 0..proof.len() {
            let mut changed = proof.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            assert!(told(std::str::from_utf8(&changed).unwrap(), &about()).is_err(), "{place}");
        }
        for changed in [format!("{proof}="), format!("{proof}.AA"), proof.replace('.', ""), "x".repeat(3_000)] {
            assert!(told(&changed, &about()).is_err(), "{changed}");
        }
    }

    /// As somebody with another library might write it, and who wants more of it than it says.
    #[test]
    fn a_proof_says_everything_and_nothing_more() {
        let x = URL_SAFE_NO_PAD.encode(key(1).public());
        let written = |header: &str, payload: &str| {
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
            let signature = URL_SAFE_NO_PAD.encode(key(1).0.sign(signed.as_bytes()).to_bytes());
            told(&format!("{signed}.{signature}"), &about()).map(drop)
        };
        let header = format!(
            r#"{{"alg":"Ed25519", "jwk":{{"x":"{x}","crv":"Ed25519","kty":"OKP"}}, "typ":"countersign-proof+jwt"}}"#
        );
        let payload = format!(
            r#"{{"iat":1767225600,"jti":"{}","aud":"warehouse","digest":"{}","ath":"{}"}}"#,
            about().request_id,
            about().digest,
            URL_SAFE_NO_PAD.encode(about().token.as_bytes())
        );
        assert_eq!(written(&header, &payload), Ok(()));
        for (from, to) in [
            ("Ed25519\", \"jwk", "none\", \"jwk"),
            ("Ed25519\", \"jwk", "HS256\", \"jwk"),
            ("countersign-proof+jwt", "dpop+jwt"),
            ("countersign-proof+jwt", "JWT"),
            (", \"typ\"", ", \"kid\":\"1\", \"typ\""),
            (", \"typ\"", ", \"crit\":[], \"typ\""),
            ("\"kty\"", "\"d\":\"x\",\"kty\""),
            (", \"typ\":\"countersign-proof+jwt\"", ""),
        ] {
            assert!(header.contains(from), "{from}");
            assert!(matches!(written(&header.replacen(from, to, 1), &payload), Err(HolderError::Malformed(_))), "{to}");
        }
        for (from, to) in [
            ("1767225600", "1767225600.0"),
            ("1767225600", "\"1767225600\""),
            ("\"iat\"", "\"exp\":1,\"iat\""),
            ("\"iat\":1767225600,", ""),
            ("\"iat\":1767225600,", "\"iat\":1767225600,\"iat\":1767225600,"),
        ] {
            assert!(payload.contains(from), "{from}");
            assert!(matches!(written(&header, &payload.replacen(from, to, 1)), Err(HolderError::Malformed(_))), "{to}");
        }
    }

    #[test]
    fn a_certificate_is_shown_by_the_connection_alone() {
        let bound = holder_of_certificate(b"der");
        let shown = |certificate| shown(bound, certificate, &key(1).sign(&about()), &about());
        assert_eq!(shown(Some(bound.thumbprint)), Ok(bound));
        assert_eq!(shown(None), Err(HolderError::Missing(HolderKind::Certificate)));
        assert_eq!(shown(Some(Digest::of(b"another"))), Err(HolderError::OtherCertificate));
    }

    #[test]
    fn a_key_shows_nothing_of_itself() {
        let key = key(9);
        assert!(!format!("{key:?}").contains(&hex::encode([9; 4])));
        assert!(matches!(HolderKey::from_pem("-----BEGIN PRIVATE KEY-----"), Err(HolderKeyError::Private)));
    }
}
