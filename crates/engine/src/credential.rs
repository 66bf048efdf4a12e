//! What a verified credential says, before the bundle gives its names a meaning.

use countersign_core::{Digest, TenantId, Timestamp};

/// A credential whose signature, issuer, audience and times were verified. Only whoever verifies makes one; the engine
/// believes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The tenant that the issuer belongs to.
    pub tenant: TenantId,
    /// The issuer (`iss`).
    pub issuer: String,
    /// The subject (`sub`): the human, where somebody acts for them (RFC 8693 §4.1).
    pub subject: Subject,
    /// Who acts for the subject (`act`), the current actor first. Empty when the subject acts directly.
    pub actors: Vec<Subject>,
    /// From when on it is worthless (`exp`).
    pub expires_at: Timestamp,
    /// SHA-256 of the credential: what logs and records name it by.
    pub hash: Digest,
}

/// A name that an issuer gave, and what kind of name it is in the issuer's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A software agent: `Agent::"…"`.
    Agent(String),
    /// A service: `Service::"…"`.
    Service(String),
    /// An account of a human; the bundle maps it to a person.
    Account(String),
}
