//! From a bearer token to a credential that the engine believes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_core::{Digest, TenantId, Timestamp};
use countersign_engine::credential::Credential;
use moka::Expiry;
use moka::sync::Cache;

use super::MAX_CREDENTIAL_BYTES;
use super::claims::{self, Demands};
use super::error::{CredentialError, IdentityError};
use super::keys::Keys;
use crate::config::{Algorithm, Config, IssuerConfig, SubjectKind};

/// Verifies credentials of every issuer in the configuration. Made once per server and shared; never blocks on I/O, and
/// asks nobody for the time.
pub struct Authenticator {
    issuers: HashMap<String, Issuer>,
    verified: Cache<Digest, Verified>,
}

struct Issuer {
    tenant: TenantId,
    audience: String,
    algorithms: Vec<Algorithm>,
    subjects: Vec<SubjectKind>,
    max_age_seconds: Option<u32>,
    keys: Keys,
}

/// What is remembered of a token, under its SHA-256. The token itself is not kept.
#[derive(Clone)]
struct Verified {
    credential: Arc<Credential>,
    holds_from: Timestamp,
    /// How long it had left when it was verified.
    left: Duration,
}

struct UntilExpiry;

impl Expiry<Digest, Verified> for UntilExpiry {
    fn expire_after_create(&self, _: &Digest, verified: &Verified, _: Instant) -> Option<Duration> {
        Some(verified.left)
    }
}

impl Authenticator {
    /// Reads the keys of all issuers. Later changes of the files are not seen until a new one is made.
    ///
    /// # Errors
    /// [`IdentityError`], naming the issuer and the file.
    pub fn new(config: &Config) -> Result<Self, IdentityError> {
        // The one implementation that is compiled in; if it is installed already, it is the same.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let mut issuers = HashMap::new();
        for (tenant, of_tenant) in &config.tenants {
            for issuer in &of_tenant.issuers {
                let IssuerConfig { issuer: name, audience, algorithms, keys: _, subjects, max_age_seconds } = issuer;
                let known = Issuer {
                    tenant: tenant.clone(),
                    audience: audience.clone(),
                    algorithms: algorithms.clone(),
                    subjects: subjects.clone(),
                    max_age_seconds: *max_age_seconds,
                    keys: Keys::read(issuer)?,
                };
                issuers.insert(name.clone(), known);
            }
        }
        let verified =
            Cache::builder().max_capacity(config.limits.cached_credentials.into()).expire_after(UntilExpiry).build();
        Ok(Self { issuers, verified })
    }

    /// The credential that `token` is at `now`. What was verified before is remembered; whether it still holds is decided
    /// every time.
    ///
    /// # Errors
    /// [`CredentialError`]; the caller is then unauthenticated.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<Credential>, CredentialError> {
        if token.len() > MAX_CREDENTIAL_BYTES {
            return Err(CredentialError::TooLong);
        }
        let hash = Digest::of(token.as_bytes());
        if let Some(known) = self.verified.get(&hash) {
            claims::in_time(known.credential.expires_at, known.holds_from, now)?;
            return Ok(known.credential);
        }
        let verified = self.verify_anew(token, hash, now)?;
        let credential = Arc::clone(&verified.credential);
        self.verified.insert(hash, verified);
        Ok(credential)
    }

    fn verify_anew(&self, token: &str, hash: Digest, now: Timestamp) -> Result<Verified, CredentialError> {
        let malformed = CredentialError::Malformed;
        let parts = || {
            let (signed, signature) = token.rsplit_once('.')?;
            let (header, payload) = signed.split_once('.')?;
            (!payload.contains('.')).then_some((signed, header, payload, signature))
        };
        let (signed, header, payload, signature) = parts().ok_or(malformed("it does not have three parts"))?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("a part is not base64url"));
        let header = claims::header(&decode(header)?)?;
        let payload = claims::payload(&decode(payload)?)?;

        let (name, issuer) = self.issuers.get_key_value(claims::issuer(&payload)?).ok_or(CredentialError::Issuer)?;
        if !issuer.algorithms.contains(&header.algorithm) {
            return Err(CredentialError::Algorithm);
        }
        let key = issuer.keys.select(header.key_id.as_deref(), header.algorithm)?;
        match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), key, algorithm(header.algorithm)) {
            Ok(true) => {}
            Ok(false) | Err(_) => return Err(CredentialError::Signature),
        }

        let demands = Demands {
            issuer: name,
            audience: &issuer.audience,
            subjects: &issuer.subjects,
            max_age_seconds: issuer.max_age_seconds,
        };
        let claims = claims::check(&payload, &demands, now)?;
        let credential = Credential {
            tenant: issuer.tenant.clone(),
            issuer: name.clone(),
            subject: claims.subject,
            actors: claims.actors,
            expires_at: claims.expires_at,
            hash,
        };
        Ok(Verified {
            left: claims.expires_at.since(now),
            holds_from: claims.holds_from,
            credential: Arc::new(credential),
        })
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("issuers", &self.issuers.len()).finish_non_exhaustive()
    }
}

const fn algorithm(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
    }
}

#[cfg(test)]
mod tests;
