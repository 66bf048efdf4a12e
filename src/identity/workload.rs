//! Workloads that prove themselves by a client certificate: SPIFFE X.509-SVIDs, each trust domain by its own authorities.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_core::{Digest, TenantId, Timestamp};
use countersign_engine::credential::{Claims, Credential, Subject};
use countersign_engine::{Authentication, NotAnswering};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer as _, GeneralName, KeyUsage, X509Certificate};

use super::error::CredentialError;
use crate::config::{SubjectKind, TrustDomainConfig};
use crate::reload::Followed;

/// The longest SPIFFE ID that is an id of an entity, in bytes.
const MAX_ID_BYTES: usize = 256;

/// One trust domain.
pub(super) struct TrustDomain {
    tenant: TenantId,
    /// `spiffe://NAME`.
    issuer: String,
    kind: SubjectKind,
    id_prefix: String,
    ca: PathBuf,
    authorities: ArcSwap<Authorities>,
}

/// The authorities of one trust domain, as they are now.
pub(super) struct Authorities {
    verifier: Arc<dyn ClientCertVerifier>,
    text: Digest,
}

/// What a certificate is worth.
pub(super) struct Proved {
    pub(super) credential: Credential,
    pub(super) holds_from: Timestamp,
    pub(super) authorities: Weak<Authorities>,
}

impl Authorities {
    fn read(path: &Path) -> Result<Self, String> {
        let wrong = |problem: &str| format!("`{}`: {problem}", path.display());
        let pem = std::fs::read(path).map_err(|error| wrong(&error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|_| wrong("not valid PEM; save the authorities again"))?;
            roots.add(certificate).map_err(|error| wrong(&format!("not an authority: {error}")))?;
        }
        if roots.is_empty() {
            return Err(wrong("holds no `CERTIFICATE`; save the authorities in PEM form"));
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()));
        let verifier = verifier.build().map_err(|error| wrong(&error.to_string()))?;
        Ok(Self { verifier, text: Digest::of(&pem) })
    }

    fn vouch(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), rustls::Error> {
        let missing = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let (own, others) = chain.split_first().ok_or_else(missing)?;
        self.verifier.verify_client_cert(own, others, now).map(drop)
    }
}

impl TrustDomain {
    /// Blocks on a small file.
    pub(super) fn new(tenant: &TenantId, config: &TrustDomainConfig) -> Result<Self, String> {
        let TrustDomainConfig { name, ca, kind, id_prefix } = config;
        Ok(Self {
            tenant: tenant.clone(),
            issuer: format!("spiffe://{name}"),
            kind: *kind,
            id_prefix: id_prefix.clone(),
            ca: ca.clone(),
            authorities: ArcSwap::from_pointee(Authorities::read(ca)?),
        })
    }

    /// Whose it is, as an issuer.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whether these authorities are still the ones that vouch.
    pub(super) fn still(&self, authorities: &Weak<Authorities>) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.authorities.load()), authorities.as_ptr())
    }

    /// What follows the file.
    pub(super) fn followed(self: &Arc<Self>) -> Followed {
        let domain = Arc::clone(self);
        let read = move || {
            let newer = Authorities::read(&domain.ca)?;
            let changed = newer.text != domain.authorities.load().text;
            if changed {
                domain.authorities.store(Arc::new(newer));
            }
            Ok(changed)
        };
        Followed { key: "tenants.*.trust_domains.ca", paths: vec![self.ca.clone()], read: Arc::new(read) }
    }

    /// Who the bearer of this chain is at `now`. That they hold its key the handshake has shown.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        svid: Svid,
        hash: Digest,
        now: Timestamp,
    ) -> Result<Proved, CredentialError> {
        let authorities = self.authorities.load_full();
        let seconds = Duration::from_secs(u64::try_from(now.millis().div_euclid(1000)).unwrap_or(0));
        authorities.vouch(chain, UnixTime::since_unix_epoch(seconds)).map_err(|_| {
            CredentialError::Certificate("is not one that the authorities of its trust domain vouch for")
        })?;
        let id = format!("{}{}", self.id_prefix, svid.id);
        let credential = Credential {
            tenant: self.tenant.clone(),
            issuer: self.issuer.clone(),
            subject: if self.kind == SubjectKind::Agent { Subject::Agent(id) } else { Subject::Service(id) },
            actors: Vec::new(),
            claims: Claims::default(),
            expires_at: svid.not_after,
            answers: Err(NotAnswering::NotTrusted),
            authentication: Authentication::default(),
            hash,
        };
        Ok(Proved { credential, holds_from: svid.not_before, authorities: Arc::downgrade(&authorities) })
    }
}

/// What an X.509-SVID says.
#[derive(Debug)]
pub(super) struct Svid {
    /// Its SPIFFE ID.
    id: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Svid {
    /// Reads a certificate, which has exactly one URI and signs no others, as SPIFFE wants it (X509-SVID §2, §4.3). That it is no
    /// authority by its basic constraints, whoever verifies the chain sees.
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Result<Self, CredentialError> {
        let wrong = CredentialError::Certificate;
        let (_, read) = X509Certificate::from_der(certificate).map_err(|_| wrong("cannot be read"))?;
        let names = read.subject_alternative_name().map_err(|_| wrong("has names that cannot be read"))?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
        let (Some(id), None) = (uris.next(), uris.next()) else { return Err(wrong("has not exactly one URI")) };
        let path = id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).map(|(_, path)| path);
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let whole = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(letters);
        if id.len() > MAX_ID_BYTES || !path.is_some_and(|path| path.split('/').all(whole)) {
            return Err(wrong("has a URI that is no SPIFFE ID of a workload"));
        }
        let usage = read.key_usage().map_err(|_| wrong("has a key usage that cannot be read"))?;
        let for_workloads = |usage: &KeyUsage| usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign();
        if usage.is_some_and(|usage| !for_workloads(usage.value)) {
            return Err(wrong("has the key usage of an authority, or none for signatures"));
        }
        let time = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1000));
        let validity = read.validity();
        Ok(Self {
            id: id.to_owned(),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }

    /// Its trust domain, as an issuer: `spiffe://NAME`.
    pub(super) fn issuer(&self) -> &str {
        let end = self.id.match_indices('/').nth(2).map_or(self.id.len(), |(at, _)| at);
        self.id.get(..end).unwrap_or_default()
    }
}

/// Asks callers for a certificate, and has them prove that they hold its key. One is not demanded. Whose it is, is not decided
/// here: of a caller with a token it is nobody's business, and no other is believed before [`TrustDomain::verify`] has found
/// that their trust domain vouches for it.
#[derive(Debug)]
pub(super) struct Possession {
    provider: CryptoProvider,
}

impl Possession {
    pub(super) fn new() -> Self {
        Self { provider: provider() }
    }
}

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Authorities come and go; whoever has one certificate offers it.
        &[]
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

#[cfg(test)]
mod tests;
