//! What can go wrong in a use case, by who can do something about it. A DENY is an answer and not in here.

use countersign_core::ActionError;
use countersign_core::approval::ApprovalError;
use countersign_core::capability::CapabilityError;
use countersign_core::ledger::LedgerError;
use countersign_core::restraint::RestraintError;
use countersign_core::review::GlassError;
use countersign_core::session::SessionError;
use countersign_policy::{QueryError, Refused};
use countersign_store::{CommitError, StoreError};
use countersign_token::{HolderError, MintError, TokenError};

use crate::credential::NotAnswering;
use crate::rotate::KeyFault;

/// Why a use case gave no answer. Nothing was authorized.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's account belongs to nobody in the bundle.
    #[error("{0} is not in the active bundle; add it to the bundle's entities, or use another credential")]
    PrincipalUnknown(String),
    /// The credential names an owner who is nobody in the bundle.
    #[error(
        "the credential says that the account `{0}` is answerable for its bearer, and that is nobody in the active bundle; add it to \
         the `accounts` of that person, or use another credential"
    )]
    OwnerUnknown(String),
    /// The caller named somebody else without being trusted to.
    #[error("{caller} may not act for {principal}; an `actFor` policy of the bundle would have to permit it")]
    ActForDenied {
        /// The caller.
        caller: String,
        /// Who was named.
        principal: String,
    },
    /// The administration policies do not permit the call.
    #[error(
        "no administration policy permits {caller} to `{action}` here; a policy in the bundle's `admin` folder would have to"
    )]
    AdministrationDenied {
        /// The caller.
        caller: String,
        /// The reserved action.
        action: &'static str,
    },
    /// The credential expired while it was in use.
    #[error("the credential has expired; call again with a new one")]
    CredentialExpired,
    /// A field of the request does not fit.
    #[error("`{field}`: {reason}")]
    InvalidField {
        /// The field.
        field: String,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// The change would bind whoever makes it.
    #[error(
        "{0} would change what binds themselves, or their owner: their person, their groups, or what they own; somebody else must"
    )]
    OwnEntity(String),
    /// There is no such stored entity.
    #[error("{0} is not stored")]
    EntityNotFound(String),
    /// An entity is another one than the caller read.
    #[error("{0} was changed since it was read; read it again")]
    EntityChanged(String),
    /// An entity that is stored does not fit a bundle.
    #[error("a stored entity does not fit the bundle: {0}")]
    EntityMisfit(countersign_policy::EntityMisfit),
    /// The caller knows of a change that this service does not.
    #[error(
        "entity revision {asked} was asked for, and {newest} is the newest; wait for it, or ask the service that gave it out"
    )]
    EntityRevision {
        /// What was asked for.
        asked: u64,
        /// What there is.
        newest: u64,
    },
    /// The request id was used with another body.
    #[error("the request id was used before with another body; use a new one for another request")]
    RequestIdReused,
    /// No such session, or none that the caller may know of.
    #[error("there is no such session")]
    SessionNotFound,
    /// The session takes no more part.
    #[error(transparent)]
    SessionOver(#[from] SessionError),
    /// The session is somebody else's.
    #[error("the session belongs to another {0}; open one of your own")]
    SessionMismatch(&'static str),
    /// The session was opened without a heartbeat.
    #[error("the session has no heartbeat; open it with `heartbeat` to keep it alive")]
    NoHeartbeat,
    /// The capability is not exchanged for that.
    #[error("the capability cannot be delegated so: {0}")]
    NotDelegable(&'static str),
    /// No such approval request, or none that the caller may know of.
    #[error("there is no such approval request")]
    ApprovalNotFound,
    /// The approval request refused.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
    /// The question is not put, so that people are not worn out.
    #[error(transparent)]
    Restraint(#[from] RestraintError),
    /// Nothing more can be kept of what is done.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The glass was not broken, or the review of that not closed.
    #[error(transparent)]
    Glass(#[from] GlassError),
    /// No such review, or none that the caller may know of.
    #[error("there is no such review")]
    ReviewNotFound,
    /// The approval is for another action.
    #[error("the approval is for another action, session or principal; ask for this one")]
    ApprovalMismatch,
    /// Only a person who acts directly votes, breaks the glass or reviews that.
    #[error("only a person who acts directly can do this; {0} is an agent, a service, or acts for somebody")]
    NotAPerson(String),
    /// The credential is not one to vote or publish with.
    #[error(transparent)]
    NotAnswering(#[from] NotAnswering),
    /// There is nothing that people could answer.
    #[error("there is nothing to ask: the action is {0}")]
    NothingToAsk(&'static str),
    /// It can be asked about, and not beforehand.
    #[error("{0} cannot be pre-approved; ask about this one action, without `pre_approval`")]
    NotPreApprovable(String),
    /// No such notification was given up.
    #[error("there is no such dead letter; `countersign notifications list` shows those there are")]
    NotificationNotFound,
    /// The token is not one that is worth anything here.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Nobody is shown to hold the capability. It is not spent.
    #[error(transparent)]
    Holder(#[from] HolderError),
    /// The token is genuine, but dead.
    #[error("the capability is dead: {0}")]
    TokenDead(&'static str),
    /// The signing keys do not change so.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// No backup was made.
    #[error("no backup was made: {0}")]
    Backup(String),
    /// The capability refused.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The approval that the capability needed is no longer good.
    #[error("the approval that the capability rests on is {0}; decide again")]
    ApprovalGone(&'static str),
    /// The active policies do not allow the action any more.
    #[error("the active policies no longer allow the action ({}); decide again", if .0.is_empty() { "no permit".to_owned() } else { .0.join(", ") })]
    PolicyDenied(Vec<String>),
    /// No such capability, or none that the caller may know of.
    #[error("there is no such capability")]
    CapabilityNotFound,
    /// Revocations were told that the watcher has not seen, and cannot any more.
    #[error(
        "not everything since then can be told any more; forget what you cached, and watch without a `resume_token`"
    )]
    RevocationsMissed,
    /// The bundle was refused; the active one stays.
    #[error("the bundle was refused, and whatever is active stays:\n{0}")]
    BundleRefused(#[from] Refused),
    /// The bundle could not be read; the active one stays.
    #[error("the bundle was refused, and whatever is active stays: it could not be read: {0}")]
    BundleUnreadable(String),
    /// The bundle lacks what the configuration asks for; the active one stays.
    #[error("the bundle was refused, and whatever is active stays: {0}")]
    BundleNotAdmitted(String),
    /// The bundle is older than the active one.
    #[error("the bundle has revision {found}, older than the active {active}; raise `revision` in `bundle.toml`")]
    BundleOlder {
        /// Its revision.
        found: u64,
        /// The active one's.
        active: u64,
    },
    /// The bundle changed, and its revision did not.
    #[error(
        "the bundle was changed and has the revision {0} of the active one; raise `revision` in `bundle.toml` when all is written, and it \
         is published"
    )]
    BundleNotRaised(u64),
    /// The bundle was rolled back.
    #[error(
        "the bundle of revision {found} was active, and a rollback left revision {rolled_back}; publish another one, or roll back to \
         this one's digest"
    )]
    BundleRolledBack {
        /// Its revision.
        found: u64,
        /// The highest that a rollback left.
        rolled_back: u64,
    },
    /// No such bundle was ever active.
    #[error("no bundle of the digest {0} was ever active here")]
    BundleNotFound(countersign_core::Digest),
    /// The active bundle asks for an approval of publishing.
    #[error(
        "publishing is the action `{}` here, and people have to approve it: ask for it in a session of yours, on {}, for the \
         audience `countersign`, with the input {}; then publish with that session and approval{}",
        .0.operation, .0.resource, .0.input, .0.given
    )]
    PublishAsks(Box<PublishAction>),
    /// The active policies do not let the bundle be published.
    #[error("the active policies do not allow publishing it ({})", if .0.is_empty() { "no permit".to_owned() } else { .0.join(", ") })]
    PublishDenied(Vec<String>),
    /// No bundle is active.
    #[error("no bundle is loaded yet; nothing can be decided")]
    NoBundle,
    /// The store does not answer.
    #[error(transparent)]
    Store(StoreError),
    /// Nobody knows whether the commit took effect.
    #[error("the outcome is unknown ({0}); retry with the same request id")]
    OutcomeUnknown(String),
    /// What was read changed again and again.
    #[error("others changed what the call read, again and again; retry with the same request id")]
    Contention,
    /// The clock cannot be trusted.
    #[error("the server's clock jumped by {0} s; it serves nothing until it is restarted with a right clock")]
    ClockJumped(i64),
    /// Too much at once.
    #[error("{0}")]
    LimitReached(String),
    /// The index or size is not in the log.
    #[error("{0}")]
    NotInLog(String),
    /// A record was dropped from the log.
    #[error(
        "record {from} was dropped from the log, as a record of the kind `log_pruned` in it says, and {minimum_index} is the first one that is \
         kept; begin there, or read a copy of those before"
    )]
    RecordPruned {
        /// The first index that was asked for.
        from: u64,
        /// The first record that is kept.
        minimum_index: u64,
    },
    /// The records are to be kept.
    #[error("no record was dropped: {0}")]
    PruningRefused(String),
    /// A fault of ours.
    #[error("internal fault: {0}")]
    Internal(String),
}

/// What publishing is, where people have to approve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishAction {
    /// The operation.
    pub operation: String,
    /// The tenant.
    pub resource: countersign_core::EntityRef,
    /// The input, as JSON.
    pub input: String,
    /// Why the approval that was given is not enough, to be appended; empty if none was given.
    pub given: String,
}

impl Error {
    /// A field that does not fit.
    pub fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidField { field: field.into(), reason: reason.into() }
    }

    /// The error of a bundle's source once more, for each attempt that meets it.
    pub(crate) fn repeated(error: &Self) -> Self {
        if let Self::BundleUnreadable(reason) = error {
            return Self::BundleUnreadable(reason.clone());
        }
        Self::Internal(error.to_string())
    }

    /// Whether somebody was refused something: such attempts are recorded (I8). Faults of the server are not refusals.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::PrincipalUnknown(_)
            | Self::OwnerUnknown(_)
            | Self::ActForDenied { .. }
            | Self::AdministrationDenied { .. }
            | Self::InvalidField { .. }
            | Self::OwnEntity(_)
            | Self::EntityNotFound(_)
            | Self::EntityChanged(_)
            | Self::EntityMisfit(_)
            | Self::EntityRevision { .. }
            | Self::RequestIdReused
            | Self::SessionNotFound
            | Self::SessionOver(_)
            | Self::SessionMismatch(_)
            | Self::NoHeartbeat
            | Self::NotDelegable(_)
            | Self::ApprovalNotFound
            | Self::Approval(_)
            | Self::Restraint(_)
            | Self::Ledger(_)
            | Self::Glass(_)
            | Self::ReviewNotFound
            | Self::ApprovalMismatch
            | Self::NotAPerson(_)
            | Self::NotAnswering(_)
            | Self::NothingToAsk(_)
            | Self::NotPreApprovable(_)
            | Self::NotificationNotFound
            | Self::Token(_)
            | Self::Holder(_)
            | Self::TokenDead(_)
            | Self::Key(_)
            | Self::Backup(_)
            | Self::Capability(_)
            | Self::ApprovalGone(_)
            | Self::PolicyDenied(_)
            | Self::CapabilityNotFound
            | Self::BundleRefused(_)
            | Self::BundleUnreadable(_)
            | Self::BundleNotAdmitted(_)
            | Self::BundleOlder { .. }
            | Self::BundleNotRaised(_)
            | Self::BundleRolledBack { .. }
            | Self::BundleNotFound(_)
            | Self::PublishAsks(_)
            | Self::PublishDenied(_)
            | Self::PruningRefused(_) => true,
            Self::CredentialExpired
            | Self::NoBundle
            | Self::Store(_)
            | Self::OutcomeUnknown(_)
            | Self::Contention
            | Self::ClockJumped(_)
            | Self::LimitReached(_)
            | Self::NotInLog(_)
            | Self::RecordPruned { .. }
            | Self::RevocationsMissed
            | Self::Internal(_) => false,
        }
    }
}

impl From<ActionError> for Error {
    fn from(error: ActionError) -> Self {
        let field = match &error {
            ActionError::Operation(_) => "operation.name",
            ActionError::Audience(_) => "audience",
            ActionError::ChainTooLong(_) | ActionError::ChainLoop(_) => "credential",
            ActionError::Value(_) | ActionError::TooLarge(_) => "operation",
        };
        Self::field(field, error.to_string())
    }
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Self {
        let field = match &error {
            QueryError::UnknownOperation { .. } => "operation.name".to_owned(),
            QueryError::Principal { .. } => "principal".to_owned(),
            QueryError::Resource { .. } => "operation.resource".to_owned(),
            QueryError::Invalid { field, .. } => format!("operation.{field}"),
        };
        Self::field(field, error.to_string())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Pruned { from, minimum } => Self::RecordPruned { from, minimum_index: minimum },
            StoreError::Overloaded | StoreError::Stopped { .. } | StoreError::ShutDown | StoreError::Damaged { .. } => {
                Self::Store(error)
            }
        }
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } | CommitError::TooLate => Self::Contention,
            CommitError::Unavailable(reason) => Self::Store(reason),
            CommitError::Unknown { reason } => Self::OutcomeUnknown(reason),
            CommitError::Unguarded { .. }
            | CommitError::WrittenTwice { .. }
            | CommitError::OtherTenant { .. }
            | CommitError::Empty
            | CommitError::PruneUntold
            | CommitError::NothingToPrune { .. }
            | CommitError::TooMany { .. }
            | CommitError::TooLarge { .. } => Self::Internal(error.to_string()),
        }
    }
}

impl From<MintError> for Error {
    fn from(error: MintError) -> Self {
        Self::Internal(error.to_string())
    }
}
