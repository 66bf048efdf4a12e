//! An issuer of credentials whose tokens can say anything.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::pkcs8::EncodePublicKey as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

/// An Ed25519 key with a name.
#[derive(Debug)]
pub struct Issuer {
    key: SigningKey,
    /// The `iss` of its credentials.
    pub name: String,
    /// The `aud` of its credentials.
    pub audience: String,
}

impl Issuer {
    /// A new key under this name.
    pub fn new(name: &str, audience: &str) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        Self { key: SigningKey::from_bytes(&seed), name: name.to_owned(), audience: audience.to_owned() }
    }

    /// Somebody else's key under another name: what a forger has.
    pub fn with_key_of(other: &Self, name: &str, audience: &str) -> Self {
        Self { key: other.key.clone(), name: name.to_owned(), audience: audience.to_owned() }
    }

    /// The public key in PEM.
    pub fn public_pem(&self) -> String {
        self.key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap()
    }

    /// The public key as a JSON Web Key Set.
    pub fn jwks(&self, kid: &str) -> String {
        let x = BASE64.encode(self.key.verifying_key().as_bytes());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "use": "sig", "x": x}]})
            .to_string()
    }

    /// Claims that are good for an hour, to be changed.
    pub fn claims(&self, subject: &str) -> Value {
        let now = seconds();
        json!({
            "iss": self.name, "aud": [self.audience, approving(&self.audience)], "sub": subject, "iat": now,
            "exp": now + 3600, "auth_time": now, "amr": ["hwk"],
        })
    }

    /// A credential for a subject.
    pub fn token(&self, subject: &str) -> String {
        self.sign(&json!({"alg": "EdDSA", "typ": "JWT"}), &self.claims(subject).to_string())
    }

    /// A credential for an agent that acts for an operator.
    pub fn acting(&self, subject: &str, operator: &str) -> String {
        let mut claims = self.claims(operator);
        claims["act"] = json!({"sub": subject});
        self.sign(&json!({"alg": "EdDSA", "typ": "JWT"}), &claims.to_string())
    }

    /// Whatever header and claims, signed. The claims are text, so that they need not be what a JSON library writes.
    pub fn sign(&self, header: &Value, claims: &str) -> String {
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims));
        let signature = self.key.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64.encode(signature.to_bytes()))
    }
}

/// The audience for voting and publishing beside another one.
pub fn approving(audience: &str) -> String {
    format!("{audience}-approve")
}

/// The time now, in seconds since the epoch.
pub fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
