//! From a bearer token to a credential that the engine believes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_core::{Digest, TenantId, Timestamp};
use countersign_engine::credential::Credential;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use moka::Expiry;
use moka::sync::Cache;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;

use super::MAX_CREDENTIAL_BYTES;
use super::belonging::Belonging;
use super::claims::{self, Demands};
use super::error::{CredentialError, IdentityError};
use super::held::KeySet;
use super::keys::{KeyFileError, Keys};
use super::naming::Naming;
use super::refresh::Refresher;
use super::workload::{Authorities, Possession, Proved, Svid, TrustDomain};
use crate::config::{Algorithm, ApprovingConfig, Config, IssuerConfig, KeySource, RequiredValue};
use crate::reload::Followed;

/// Verifies credentials of every issuer in the configuration. Made once per server and shared; asks nobody for the time.
pub struct Authenticator {
    issuers: HashMap<String, Issuer>,
    domains: Vec<Arc<TrustDomain>>,
    verified: Cache<Digest, Verified>,
}

struct Issuer {
    tenant: TenantId,
    audience: String,
    algorithms: Vec<Algorithm>,
    approving: Option<ApprovingConfig>,
    naming: Naming,
    belonging: Belonging,
    required: BTreeMap<String, RequiredValue>,
    max_age_seconds: Option<u32>,
    keys: Arc<KeySet>,
    /// The file that they lie in, if they do.
    file: Option<PathBuf>,
    /// Who fetches the keys, if they are fetched.
    refresher: Option<Arc<Refresher>>,
}

/// Why a token is refused, and who could be asked for the key that it takes.
struct Refusal<'a> {
    error: CredentialError,
    newer_keys: Option<&'a Refresher>,
}

impl From<CredentialError> for Refusal<'_> {
    fn from(error: CredentialError) -> Self {
        Self { error, newer_keys: None }
    }
}

impl Issuer {
    fn new(tenant: &TenantId, config: &IssuerConfig) -> Result<Self, IdentityError> {
        let IssuerConfig { issuer: name, audience, algorithms, max_age_seconds, .. } = config;
        let refresher = Refresher::new(config).map(Arc::new);
        let keys = match config.key_source() {
            Some(KeySource::File(path)) => Arc::new(KeySet::of(read(name, path, algorithms)?)),
            Some(KeySource::Jwks(_) | KeySource::Discovery) | None => {
                refresher.as_ref().map_or_else(|| Arc::new(KeySet::none("none are configured")), |r| r.keys())
            }
        };
        Ok(Self {
            tenant: tenant.clone(),
            audience: audience.clone(),
            algorithms: algorithms.clone(),
            approving: config.approving.clone(),
            naming: Naming::new(config),
            belonging: Belonging::new(config),
            required: config.required.clone(),
            max_age_seconds: *max_age_seconds,
            keys,
            file: config.keys.clone(),
            refresher,
        })
    }

    fn followed(&self, path: &Path) -> Followed {
        let (keys, algorithms, file) = (Arc::clone(&self.keys), self.algorithms.clone(), path.to_owned());
        let read = move || {
            let newer = Keys::read(&file, &algorithms).map_err(|error| format!("`{}`: {error}", file.display()))?;
            Ok(keys.take(newer, None))
        };
        Followed { key: "tenants.*.issuers.keys", paths: vec![path.to_owned()], read: Arc::new(read) }
    }
}

fn read(issuer: &str, path: &Path, algorithms: &[Algorithm]) -> Result<Keys, IdentityError> {
    Keys::read(path, algorithms).map_err(|error| match error {
        KeyFileError::Read(source) => IdentityError::Read { issuer: issuer.to_owned(), path: path.to_owned(), source },
        KeyFileError::Content(problem) => {
            IdentityError::Keys { issuer: issuer.to_owned(), path: path.to_owned(), problem }
        }
    })
}

/// What is remembered of a token, under its SHA-256. The token itself is not kept.
#[derive(Clone)]
struct Verified {
    credential: Arc<Credential>,
    holds_from: Timestamp,
    basis: Basis,
    /// How long it had left when it was verified.
    left: Duration,
}

/// What somebody was verified by, and who says whether that still counts. Keys that are not in use any more are not kept for those
/// whom they verified.
#[derive(Clone)]
enum Basis {
    Keys(Arc<KeySet>, Weak<Keys>),
    Authorities(Arc<TrustDomain>, Weak<Authorities>),
}

impl Basis {
    fn holds(&self, now: Timestamp) -> bool {
        match self {
            Self::Keys(issuer, keys) => issuer.still(keys, now),
            Self::Authorities(domain, authorities) => domain.still(authorities),
        }
    }
}

struct UntilExpiry;

impl Expiry<Digest, Verified> for UntilExpiry {
    fn expire_after_create(&self, _: &Digest, verified: &Verified, _: Instant) -> Option<Duration> {
        Some(verified.left)
    }
}

impl Authenticator {
    /// Reads the keys that lie in files; those of other issuers are there when [`Self::upkeep`] has fetched them.
    ///
    /// # Errors
    /// [`IdentityError`], naming the issuer and the file.
    pub fn new(config: &Config) -> Result<Self, IdentityError> {
        // The one implementation that is compiled in; if it is installed already, it is the same.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let (mut issuers, mut domains) = (HashMap::new(), Vec::new());
        for (tenant, of_tenant) in &config.tenants {
            for issuer in &of_tenant.issuers {
                issuers.insert(issuer.issuer.clone(), Issuer::new(tenant, issuer)?);
            }
            for domain in &of_tenant.trust_domains {
                let read = TrustDomain::new(tenant, domain);
                domains.push(Arc::new(read.map_err(|why| IdentityError::TrustDomain(domain.name.clone(), why))?));
            }
        }
        let verified =
            Cache::builder().max_capacity(config.limits.cached_credentials.into()).expire_after(UntilExpiry).build();
        Ok(Self { issuers, domains, verified })
    }

    /// What keeps the keys fresh: tasks that run as long as the server. Key sets are fetched again, and files that change are read
    /// again.
    pub fn upkeep(&self) -> Vec<BoxFuture<'static, ()>> {
        let upkeep = |issuer: &Issuer| match (&issuer.refresher, &issuer.file) {
            (Some(refresher), _) => Some(Arc::clone(refresher).run().boxed()),
            (None, Some(path)) => Some(issuer.followed(path).follow().boxed()),
            (None, None) => None,
        };
        let domains = self.domains.iter().map(|domain| domain.followed().follow().boxed());
        self.issuers.values().filter_map(upkeep).chain(domains).collect()
    }

    /// Who asks for client certificates in TLS handshakes, also where no trust domain is configured: a capability may be bound to a
    /// certificate, whoever issued it. That a certificate was taken there says nothing of whose it is: that is up to
    /// [`Self::workload`].
    pub fn client_verifier() -> Arc<dyn ClientCertVerifier> {
        Arc::new(Possession::new())
    }

    /// The credential of whoever proved in a handshake to hold the key of this chain's first certificate.
    ///
    /// # Errors
    /// [`CredentialError`]; the caller is then unauthenticated.
    pub fn workload(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Arc<Credential>, CredentialError> {
        let own = chain.first().ok_or(CredentialError::Absent)?;
        // Under another digest than any token has: those are of their bytes alone.
        let hash = Digest::of_parts(&[b"certificate", own]);
        if let Some(known) = self.verified.get(&hash).filter(|known| known.basis.holds(now)) {
            claims::in_time(known.credential.expires_at, known.holds_from, now)?;
            return Ok(known.credential);
        }
        let svid = Svid::read(own)?;
        let domain =
            self.domains.iter().find(|domain| domain.issuer() == svid.issuer()).ok_or(CredentialError::Issuer)?;
        let Proved { credential, holds_from, authorities } = domain.verify(chain, svid, hash, now)?;
        claims::in_time(credential.expires_at, holds_from, now)?;
        let credential = Arc::new(credential);
        let left = credential.expires_at.since(now);
        let basis = Basis::Authorities(Arc::clone(domain), authorities);
        self.verified.insert(hash, Verified { credential: Arc::clone(&credential), holds_from, basis, left });
        Ok(credential)
    }

    /// The credential that `token` is. As [`Self::verify`], but when its issuer is to be asked for newer keys, waits for them.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub async fn authenticate(
        &self,
        token: &str,
        now: impl Fn() -> Timestamp,
    ) -> Result<Arc<Credential>, CredentialError> {
        match self.try_verify(token, now()) {
            Ok(credential) => Ok(credential),
            Err(Refusal { error, newer_keys: Some(issuer) }) => {
                if issuer.refreshed().await {
                    self.verify(token, now())
                } else {
                    Err(error)
                }
            }
            Err(Refusal { error, newer_keys: None }) => Err(error),
        }
    }

    /// The credential that `token` is at `now`. What was verified before is remembered; whether it still holds is decided
    /// every time. Never blocks, and fetches nothing.
    ///
    /// # Errors
    /// [`CredentialError`]; the caller is then unauthenticated.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<Credential>, CredentialError> {
        self.try_verify(token, now).map_err(|refusal| refusal.error)
    }

    fn try_verify(&self, token: &str, now: Timestamp) -> Result<Arc<Credential>, Refusal<'_>> {
        if token.len() > MAX_CREDENTIAL_BYTES {
            return Err(CredentialError::TooLong.into());
        }
        let hash = Digest::of(token.as_bytes());
        // What was verified by keys that are not in use any more is verified by those that are.
        if let Some(known) = self.verified.get(&hash).filter(|known| known.basis.holds(now)) {
            claims::in_time(known.credential.expires_at, known.holds_from, now)?;
            return Ok(known.credential);
        }
        let verified = self.verify_anew(token, hash, now)?;
        let credential = Arc::clone(&verified.credential);
        self.verified.insert(hash, verified);
        Ok(credential)
    }

    fn verify_anew(&self, token: &str, hash: Digest, now: Timestamp) -> Result<Verified, Refusal<'_>> {
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
            return Err(CredentialError::Algorithm.into());
        }
        let newer = |error| Refusal { error, newer_keys: issuer.refresher.as_deref() };
        let keys = issuer.keys.usable(now).map_err(newer)?;
        let id = header.key_id.as_deref();
        // Where the token does not name one of the keys, the one that it means may be newer than they are.
        let refused = |error: CredentialError| if keys.has(id) { error.into() } else { newer(error) };
        let key = keys.select(id, header.algorithm).map_err(refused)?;
        match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), key, algorithm(header.algorithm)) {
            Ok(true) => {}
            Ok(false) | Err(_) => return Err(refused(CredentialError::Signature)),
        }

        let demands = Demands {
            issuer: name,
            audience: &issuer.audience,
            approving: issuer.approving.as_ref(),
            naming: &issuer.naming,
            belonging: &issuer.belonging,
            required: &issuer.required,
            max_age_seconds: issuer.max_age_seconds,
        };
        let claims = claims::check(&payload, &demands, now)?;
        let credential = Credential {
            tenant: issuer.tenant.clone(),
            issuer: name.clone(),
            subject: claims.subject,
            actors: claims.actors,
            claims: claims.said,
            expires_at: claims.expires_at,
            answers: claims.answers,
            authentication: claims.authentication,
            hash,
        };
        Ok(Verified {
            left: claims.expires_at.since(now),
            holds_from: claims.holds_from,
            credential: Arc::new(credential),
            basis: Basis::Keys(Arc::clone(&issuer.keys), Arc::downgrade(&keys)),
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
