//! `[[tenants.NAME.issuers]]`: whom a tenant believes, about whom, and by which keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[[tenants.NAME.issuers]]`: one issuer of credentials. It belongs to this tenant alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The exact `iss` of its credentials.
    pub issuer: String,
    /// What the `aud` of its credentials must contain.
    pub audience: String,
    /// The signature algorithms that it uses. At least one.
    pub algorithms: Vec<Algorithm>,
    /// A local file with its public keys: a JSON Web Key Set (RFC 7517), or one `PUBLIC KEY` in PEM. Read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<PathBuf>,
    /// Where its JSON Web Key Set is fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// Whether it says itself where its key set is (OpenID Connect Discovery 1.0).
    #[serde(default, skip_serializing_if = "is_false")]
    pub discovery: bool,
    /// PEM file with the authorities that its HTTPS certificate may come from. Absent: those of the operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A file with the bearer token that is sent to `jwks_uri`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_token: Option<PathBuf>,
    /// How often the key set is fetched, in seconds.
    #[serde(default = "default_refresh")]
    pub refresh_seconds: u32,
    /// How long a key set stays in use that cannot be fetched again, in seconds.
    #[serde(default = "default_stale")]
    pub stale_seconds: u32,
    /// The kinds of subjects that it may name by prefix. At least one, unless `subject` says of which kind they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<SubjectKind>,
    /// Put in front of the id of every agent and service that it names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id_prefix: String,
    /// The longest life (`exp` − `iat`) that is accepted, in seconds; `iat` is then required. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u32>,
    /// Which claim names the subject, and of which kind it is. Absent: `sub`, by its prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectConfig>,
    /// Which claim says in which groups its subjects are. Absent: only the directory does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupsConfig>,
    /// Which claim says who is answerable for its agents and services. Absent: only the directory does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerConfig>,
    /// Claims that must have exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub required: BTreeMap<String, RequiredValue>,
    /// What makes its credentials good for voting and publishing. Absent: nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approving: Option<ApprovingConfig>,
}

/// `[[tenants.NAME.trust_domains]]`: a SPIFFE trust domain, whose workloads prove themselves by client certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustDomainConfig {
    /// Its name, without `spiffe://`.
    pub name: String,
    /// PEM file with its authorities, which vouch for this domain alone. Read again when it changes.
    pub ca: PathBuf,
    /// What its workloads are: agents or services.
    pub kind: SubjectKind,
    /// Put in front of the SPIFFE ID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id_prefix: String,
}

/// `subject` of an issuer: who is named by a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectConfig {
    /// The one kind of subject.
    pub kind: SubjectKind,
    /// The claim, whose exact value is the name; beginning with `/`, a JSON pointer (RFC 6901).
    #[serde(default = "default_claim")]
    pub claim: String,
    /// How the value must begin.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub starts_with: String,
    /// The kind of those in `act`, whose `sub` is their name. Absent: a token with `act` is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actors: Option<SubjectKind>,
}

/// `groups` of an issuer: in which groups a token says that its bearer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupsConfig {
    /// The claim: a text, or a list of them. Beginning with `/`, a JSON pointer (RFC 6901).
    pub claim: String,
    /// What its exact values mean: the id of a group each. Whatever is not here means nothing.
    pub map: BTreeMap<String, String>,
}

/// `owner` of an issuer: who a token says is answerable for its bearer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerConfig {
    /// The claim, whose exact value is the subject of the account. Beginning with `/`, a JSON pointer (RFC 6901).
    pub claim: String,
    /// The issuer of the account. Absent: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

/// The value of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a text, a whole number from 0 on, or a truth value")]
pub enum RequiredValue {
    /// A string.
    Text(String),
    /// A whole number.
    Number(u64),
    /// True or false.
    Truth(bool),
}

/// `approving` of an issuer: which of its credentials vote and publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovingConfig {
    /// What the `aud` must contain: another one than for everything else.
    pub audience: String,
    /// How long ago the person may have authenticated (`auth_time`), in seconds, at the moment of the vote.
    pub max_age_seconds: u32,
    /// How they must have authenticated: one of these methods in `amr` (RFC 8176).
    pub amr: Vec<String>,
}

/// The default of `refresh_seconds`.
pub(super) const REFRESH_SECONDS: u32 = 300;
/// The default of `stale_seconds`.
pub(super) const STALE_SECONDS: u32 = 3600;

fn default_claim() -> String {
    "sub".to_owned()
}

fn default_refresh() -> u32 {
    REFRESH_SECONDS
}

fn default_stale() -> u32 {
    STALE_SECONDS
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// Where the keys of an issuer come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource<'a> {
    /// A local file.
    File(&'a Path),
    /// This address.
    Jwks(&'a str),
    /// The address that its discovery document names.
    Discovery,
}

impl IssuerConfig {
    /// Where its keys come from; none if it does not say, or says it more than once.
    #[must_use]
    pub fn key_source(&self) -> Option<KeySource<'_>> {
        match (&self.keys, &self.jwks_uri, self.discovery) {
            (Some(path), None, false) => Some(KeySource::File(path)),
            (None, Some(uri), false) => Some(KeySource::Jwks(uri)),
            (None, None, true) => Some(KeySource::Discovery),
            (None, None, false) | (Some(_), Some(_), _) | (Some(_), _, true) | (_, Some(_), true) => None,
        }
    }

    /// How often its key set is fetched.
    #[must_use]
    pub const fn refresh(&self) -> Duration {
        Duration::from_secs(self.refresh_seconds as u64)
    }

    /// How long a key set stays in use that cannot be fetched again.
    #[must_use]
    pub const fn stale(&self) -> Duration {
        Duration::from_secs(self.stale_seconds as u64)
    }
}

/// A signature algorithm (RFC 7518 §3.1, RFC 8037). Asymmetric ones only: a shared secret would let the verifier forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519.
    EdDSA,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
}

/// A kind of subject that an issuer may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    /// An account of a human: every `sub` without one of the prefixes below.
    Person,
    /// A software agent: `agent:NAME`.
    Agent,
    /// A service: `service:NAME`.
    Service,
}
