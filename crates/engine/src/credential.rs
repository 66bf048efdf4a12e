//! What a verified credential says, before the bundle gives its names a meaning.

use std::collections::BTreeSet;

use countersign_core::{Digest, EntityRef, TenantId, Timestamp};

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
    /// What else it says of whoever acts: of the current actor, if there is one, and never of the subject then.
    pub claims: Claims,
    /// From when on it is worthless (`exp`).
    pub expires_at: Timestamp,
    /// Until when it is good for answering, or why it is not.
    pub answers: Result<Timestamp, NotAnswering>,
    /// How its issuer says that its subject authenticated.
    pub authentication: Authentication,
    /// SHA-256 of the credential: what logs and records name it by.
    pub hash: Digest,
}

impl Credential {
    /// Whether whoever presents it may answer for people at `now`: vote, and publish. A stolen or forgotten credential for
    /// everyday calls is then not one to approve with.
    ///
    /// # Errors
    /// [`NotAnswering`].
    pub fn require_answering(&self, now: Timestamp) -> Result<(), NotAnswering> {
        if now.reached(self.answers?) { Err(NotAnswering::Stale) } else { Ok(()) }
    }
}

/// What an issuer says of somebody beside who they are, as far as the configuration lets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// The groups that they are in.
    pub groups: BTreeSet<EntityRef>,
    /// The account of the person who is answerable for them: for an agent or a service.
    pub owner: Option<String>,
}

/// What a credential is for, and how its issuer says that the subject authenticated, as far as it says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authentication {
    /// The audience that it was taken for (`aud`): the one for answering, if it is for that. A certificate has none.
    pub audience: Option<String>,
    /// When (`auth_time`).
    pub at: Option<Timestamp>,
    /// How well (`acr`).
    pub context: Option<String>,
    /// By which methods (`amr`, RFC 8176).
    pub methods: Vec<String>,
}

/// Why a credential is not good for answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnswering {
    /// Nothing in the configuration says that its issuer's credentials are.
    #[error(
        "the credential's issuer is not one whose credentials vote, publish and break glass; the server's configuration would need its `approving`"
    )]
    NotTrusted,
    /// It is not for that audience.
    #[error(
        "the credential is not for voting, publishing and breaking glass, which take an audience of their own; ask its issuer for one with the \
         `approving.audience` of the server's configuration"
    )]
    Audience,
    /// It does not say when the person authenticated, or that was too long ago.
    #[error(
        "voting, publishing and breaking glass take a fresh authentication, and the credential's `auth_time` is missing or too old; log in again"
    )]
    Stale,
    /// It does not say that the person authenticated in one of the ways that are asked for.
    #[error(
        "voting, publishing and breaking glass take a stronger authentication than the credential's `amr` tells of; log in again with one of the \
         methods in `approving.amr` of the server's configuration"
    )]
    Weak,
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
