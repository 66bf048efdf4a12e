//! The one table from errors to the wire. Every variant stands in it, so that a new one does not compile until somebody has
//! decided what callers are told.

use countersign_core::approval::ApprovalError;
use countersign_core::capability::CapabilityError;
use countersign_core::ledger::LedgerError;
use countersign_core::restraint::RestraintError;
use countersign_core::review::GlassError;
use countersign_core::session::SessionError;
use countersign_engine::{Error, KeyFault, NotAnswering, PublishAction};
use countersign_token::{HolderError, TokenError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::identity::CredentialError;
use crate::proto::ErrorReason;

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "countersign";

/// Why an RPC failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The use case failed, and recorded it.
    #[error(transparent)]
    Engine(#[from] Error),
    /// The message is not one that a use case can be made of. Not recorded yet.
    #[error("`{field}`: {reason}")]
    Message {
        /// The field.
        field: String,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// The credential is not good.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The server is on its way out.
    #[error("the server is shutting down and ends its streams; connect again, and resume")]
    Draining,
    /// The call's deadline passed.
    #[error("the deadline of the call passed before the answer was durable; retry with the same request id")]
    Deadline,
}

impl Failure {
    /// A field that does not fit.
    pub fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Message { field: field.into(), reason: reason.into() }
    }

    /// Records what no use case has recorded: a message that none could be made of is a refusal too (I8).
    pub async fn recorded(self, engine: &super::call::ServedEngine, call: &countersign_engine::Call) -> Self {
        match self {
            Self::Message { field, reason } => {
                Self::Engine(engine.refuse(call, None, Error::InvalidField { field, reason }).await)
            }
            Self::Engine(_) | Self::Credential(_) | Self::Draining | Self::Deadline => self,
        }
    }

    /// The code and the reason that callers branch on.
    #[must_use]
    pub const fn classify(&self) -> (Code, ErrorReason) {
        match self {
            Self::Engine(error) => classify(error),
            Self::Message { .. } => (Code::InvalidArgument, ErrorReason::InvalidField),
            Self::Credential(error) => credential(error),
            Self::Draining => (Code::Unavailable, ErrorReason::Draining),
            Self::Deadline => (Code::DeadlineExceeded, ErrorReason::DeadlinePassed),
        }
    }

    /// What callers are told. A fault of ours is named and not told: its detail is in the server's log.
    #[must_use]
    pub fn told(&self) -> String {
        if matches!(self, Self::Engine(Error::Internal(_))) {
            return "a fault of the server; nothing was authorized, and its log has the detail".to_owned();
        }
        self.to_string()
    }
}

const fn classify(error: &Error) -> (Code, ErrorReason) {
    match error {
        Error::PrincipalUnknown(_) | Error::OwnerUnknown(_) => (Code::PermissionDenied, ErrorReason::PrincipalUnknown),
        Error::ActForDenied { .. } => (Code::PermissionDenied, ErrorReason::ActForDenied),
        Error::AdministrationDenied { .. } => (Code::PermissionDenied, ErrorReason::AdministrationDenied),
        Error::CredentialExpired => (Code::Unauthenticated, ErrorReason::CredentialInvalid),
        Error::InvalidField { .. } => (Code::InvalidArgument, ErrorReason::InvalidField),
        Error::OwnEntity(_) => (Code::PermissionDenied, ErrorReason::OwnEntity),
        Error::EntityNotFound(_) => (Code::NotFound, ErrorReason::EntityNotFound),
        Error::EntityChanged(_) => (Code::FailedPrecondition, ErrorReason::EntityChanged),
        Error::EntityRevision { .. } => (Code::FailedPrecondition, ErrorReason::EntityRevision),
        Error::RequestIdReused => (Code::AlreadyExists, ErrorReason::RequestIdReused),
        Error::SessionNotFound => (Code::NotFound, ErrorReason::SessionNotFound),
        Error::SessionOver(error) => session(*error),
        Error::NoHeartbeat => (Code::FailedPrecondition, ErrorReason::NoHeartbeat),
        Error::NotDelegable(_) => (Code::FailedPrecondition, ErrorReason::NotDelegable),
        Error::SessionMismatch(_) => (Code::PermissionDenied, ErrorReason::SessionMismatch),
        Error::ApprovalNotFound => (Code::NotFound, ErrorReason::ApprovalNotFound),
        Error::Approval(error) => approval(error),
        Error::Restraint(error) => restraint(error),
        Error::Ledger(error) => ledger(error),
        Error::Glass(error) => glass(error),
        Error::ReviewNotFound => (Code::NotFound, ErrorReason::ReviewNotFound),
        Error::ApprovalMismatch => (Code::PermissionDenied, ErrorReason::ApprovalMismatch),
        Error::NotAPerson(_) => (Code::PermissionDenied, ErrorReason::VoterNotEligible),
        Error::NotAnswering(error) => answering(error),
        Error::NothingToAsk(_) | Error::NotPreApprovable(_) => (Code::FailedPrecondition, ErrorReason::NothingToAsk),
        Error::NotificationNotFound => (Code::NotFound, ErrorReason::NotificationNotFound),
        Error::Token(error) => token(error),
        Error::Holder(error) => holder(error),
        Error::TokenDead(_) => (Code::PermissionDenied, ErrorReason::CapabilityRevoked),
        Error::Key(error) => key(error),
        Error::Backup(_) => (Code::FailedPrecondition, ErrorReason::BackupRefused),
        Error::Capability(error) => capability(error),
        Error::ApprovalGone(_) => (Code::PermissionDenied, ErrorReason::CapabilityRevoked),
        Error::PolicyDenied(_) => (Code::PermissionDenied, ErrorReason::PolicyDenied),
        Error::CapabilityNotFound => (Code::NotFound, ErrorReason::CapabilityNotFound),
        Error::BundleRefused(_)
        | Error::BundleUnreadable(_)
        | Error::BundleNotAdmitted(_)
        | Error::EntityMisfit(_)
        | Error::BundleOlder { .. }
        | Error::BundleNotRaised(_)
        | Error::BundleRolledBack { .. } => (Code::FailedPrecondition, ErrorReason::BundleRefused),
        Error::BundleNotFound(_) => (Code::NotFound, ErrorReason::BundleNotFound),
        Error::PublishAsks(_) => (Code::FailedPrecondition, ErrorReason::PublishNeedsApproval),
        Error::PublishDenied(_) => (Code::PermissionDenied, ErrorReason::PolicyDenied),
        Error::NoBundle => (Code::Unavailable, ErrorReason::NoBundle),
        Error::Store(_) | Error::OutcomeUnknown(_) => (Code::Unavailable, ErrorReason::StoreUnavailable),
        Error::Contention => (Code::Aborted, ErrorReason::Contention),
        Error::ClockJumped(_) => (Code::Unavailable, ErrorReason::ClockJumped),
        Error::LimitReached(_) => (Code::ResourceExhausted, ErrorReason::LimitReached),
        Error::NotInLog(_) => (Code::OutOfRange, ErrorReason::NotInLog),
        Error::RecordPruned { .. } => (Code::OutOfRange, ErrorReason::RecordPruned),
        Error::PruningRefused(_) => (Code::FailedPrecondition, ErrorReason::PruningRefused),
        Error::RevocationsMissed => (Code::OutOfRange, ErrorReason::RevocationsMissed),
        Error::Internal(_) => (Code::Internal, ErrorReason::Internal),
    }
}

const fn credential(error: &CredentialError) -> (Code, ErrorReason) {
    match error {
        CredentialError::IssuerUnavailable(_) => (Code::Unavailable, ErrorReason::IssuerUnavailable),
        CredentialError::Absent
        | CredentialError::Repeated
        | CredentialError::Scheme
        | CredentialError::TooLong
        | CredentialError::Malformed(_)
        | CredentialError::Header(_)
        | CredentialError::Type
        | CredentialError::Issuer
        | CredentialError::Algorithm
        | CredentialError::Key
        | CredentialError::Signature
        | CredentialError::Audience
        | CredentialError::Claim { .. }
        | CredentialError::Subject(_)
        | CredentialError::Groups(_)
        | CredentialError::Owner(_)
        | CredentialError::Required(_)
        | CredentialError::Certificate(_)
        | CredentialError::Expired
        | CredentialError::NotYet
        | CredentialError::TooLongLived(_)
        | CredentialError::Kind(_)
        | CredentialError::Delegation(_)
        | CredentialError::Bound => (Code::Unauthenticated, ErrorReason::CredentialInvalid),
    }
}

const fn answering(error: &NotAnswering) -> (Code, ErrorReason) {
    let reason = match error {
        NotAnswering::NotTrusted => ErrorReason::AnsweringNotTrusted,
        NotAnswering::Audience => ErrorReason::AnsweringAudience,
        NotAnswering::Stale => ErrorReason::AuthenticationStale,
        NotAnswering::Weak => ErrorReason::AuthenticationWeak,
    };
    (Code::PermissionDenied, reason)
}

const fn approval(error: &ApprovalError) -> (Code, ErrorReason) {
    match error {
        ApprovalError::State(_) | ApprovalError::NoVote(_) | ApprovalError::Wavering(_) | ApprovalError::UsedUp(_) => {
            (Code::FailedPrecondition, ErrorReason::ApprovalState)
        }
        ApprovalError::StaleDigest | ApprovalError::StaleView => (Code::FailedPrecondition, ErrorReason::VoteStale),
        ApprovalError::Excluded(_) => (Code::PermissionDenied, ErrorReason::VoterExcluded),
        ApprovalError::NotEligible(_) => (Code::PermissionDenied, ErrorReason::VoterNotEligible),
        ApprovalError::Signature(_) => (Code::PermissionDenied, ErrorReason::VoteSignatureInvalid),
        ApprovalError::Unsigned(_) => (Code::FailedPrecondition, ErrorReason::VoteSignatureRequired),
        ApprovalError::AlreadyVoted(_) => (Code::AlreadyExists, ErrorReason::AlreadyVoted),
    }
}

const fn ledger(error: &LedgerError) -> (Code, ErrorReason) {
    match error {
        LedgerError::Labels | LedgerError::Reserved | LedgerError::Running => {
            (Code::ResourceExhausted, ErrorReason::LedgerFull)
        }
    }
}

const fn restraint(error: &RestraintError) -> (Code, ErrorReason) {
    match error {
        RestraintError::Pending { .. } | RestraintError::PerHour { .. } => {
            (Code::ResourceExhausted, ErrorReason::AskingBudgetSpent)
        }
        RestraintError::CoolingDown(..) => (Code::FailedPrecondition, ErrorReason::CoolingDown),
        RestraintError::NotCoolingDown | RestraintError::DeniedAgain(_) => {
            (Code::FailedPrecondition, ErrorReason::ApprovalState)
        }
        RestraintError::AlreadyLifted(_) => (Code::AlreadyExists, ErrorReason::AlreadyVoted),
    }
}

const fn glass(error: &GlassError) -> (Code, ErrorReason) {
    match error {
        GlassError::Unneeded => (Code::FailedPrecondition, ErrorReason::GlassUnneeded),
        GlassError::ReviewOpen { .. } => (Code::FailedPrecondition, ErrorReason::ReviewOpen),
        GlassError::TooOften { .. } => (Code::ResourceExhausted, ErrorReason::GlassBrokenTooOften),
        GlassError::Closed(_) => (Code::FailedPrecondition, ErrorReason::ReviewClosed),
        GlassError::Own(_) | GlassError::Excluded(_) => (Code::PermissionDenied, ErrorReason::VoterExcluded),
    }
}

const fn session(error: SessionError) -> (Code, ErrorReason) {
    match error {
        SessionError::Ended | SessionError::Expired | SessionError::Lapsed | SessionError::ParentOver => {
            (Code::PermissionDenied, ErrorReason::SessionOver)
        }
        SessionError::TooDeep => (Code::FailedPrecondition, ErrorReason::SessionTooDeep),
    }
}

const fn token(error: &TokenError) -> (Code, ErrorReason) {
    match error {
        TokenError::Malformed(_)
        | TokenError::TooLarge { .. }
        | TokenError::Signature
        | TokenError::UnknownKey(_)
        | TokenError::NotOurs(_) => (Code::PermissionDenied, ErrorReason::CapabilityInvalid),
        TokenError::Holder => (Code::PermissionDenied, ErrorReason::HolderMissing),
        TokenError::CompromisedKey(_) => (Code::PermissionDenied, ErrorReason::CapabilityRevoked),
        TokenError::Expired(_) => (Code::PermissionDenied, ErrorReason::CapabilityExpired),
        TokenError::Tenant | TokenError::Session | TokenError::Audience | TokenError::DigestMismatch => {
            (Code::PermissionDenied, ErrorReason::CapabilityMismatch)
        }
        TokenError::Unevaluated => (Code::Unavailable, ErrorReason::Internal),
    }
}

const fn holder(error: &HolderError) -> (Code, ErrorReason) {
    let reason = match error {
        HolderError::Missing(_) => ErrorReason::HolderMissing,
        HolderError::OtherCertificate | HolderError::OtherKey | HolderError::Signature => ErrorReason::HolderMismatch,
        HolderError::Malformed(_)
        | HolderError::OtherToken
        | HolderError::OtherAction
        | HolderError::OtherAudience
        | HolderError::OtherRequest => ErrorReason::HolderProofInvalid,
        HolderError::Stale(_) => ErrorReason::HolderProofStale,
    };
    (Code::PermissionDenied, reason)
}

const fn key(error: &KeyFault) -> (Code, ErrorReason) {
    match error {
        KeyFault::Unknown(_) => (Code::NotFound, ErrorReason::KeyNotFound),
        KeyFault::Active(_) | KeyFault::Already(..) | KeyFault::TokensLive(..) => {
            (Code::FailedPrecondition, ErrorReason::KeyState)
        }
    }
}

const fn capability(error: &CapabilityError) -> (Code, ErrorReason) {
    match error {
        CapabilityError::AlreadyRedeemed => (Code::FailedPrecondition, ErrorReason::AlreadyRedeemed),
        CapabilityError::Delegated => (Code::FailedPrecondition, ErrorReason::CapabilityDelegated),
        CapabilityError::Revoked | CapabilityError::ParentGone => {
            (Code::PermissionDenied, ErrorReason::CapabilityRevoked)
        }
        CapabilityError::Expired => (Code::PermissionDenied, ErrorReason::CapabilityExpired),
        CapabilityError::AlreadyCompleted
        | CapabilityError::NotRedeemed
        | CapabilityError::StillRunning
        | CapabilityError::AlreadyResolved(_) => (Code::FailedPrecondition, ErrorReason::CompletionRefused),
        CapabilityError::OwnOutcome(_) => (Code::PermissionDenied, ErrorReason::OwnOutcome),
        CapabilityError::NotTheRedeemer(_) => (Code::PermissionDenied, ErrorReason::CompletionRefused),
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let (code, reason) = failure.classify();
        let mut details = ErrorDetails::with_error_info(reason_name(reason), DOMAIN, []);
        match &failure {
            Failure::Engine(Error::InvalidField { field, reason }) | Failure::Message { field, reason } => {
                details.add_bad_request_violation(field, reason);
            }
            Failure::Engine(Error::PublishAsks(action)) => {
                let PublishAction { operation, resource, input, given: _ } = &**action;
                let metadata = [
                    ("operation", operation.as_str()),
                    ("resource_type", resource.kind()),
                    ("resource_id", resource.id()),
                    ("audience", countersign_policy::PUBLISH_AUDIENCE),
                    ("input", input),
                ];
                let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
                details.set_error_info(reason_name(reason), DOMAIN, metadata);
            }
            Failure::Engine(Error::Restraint(RestraintError::PerHour { again_in, .. })) => {
                details.set_retry_info(Some(*again_in));
            }
            Failure::Engine(Error::Restraint(RestraintError::CoolingDown(down, left))) => {
                let metadata = [
                    ("denied_approval_id".to_owned(), down.denied.to_string()),
                    ("lifts_needed".to_owned(), down.lifts_needed.to_string()),
                ];
                details.set_error_info(reason_name(reason), DOMAIN, metadata);
                details.set_retry_info(Some(*left));
            }
            Failure::Engine(Error::RecordPruned { minimum_index, .. }) => {
                let metadata = [("minimum_index".to_owned(), minimum_index.to_string())];
                details.set_error_info(reason_name(reason), DOMAIN, metadata);
            }
            Failure::Engine(Error::Glass(GlassError::ReviewOpen { review, .. })) => {
                let metadata = [("review_id".to_owned(), review.to_string())];
                details.set_error_info(reason_name(reason), DOMAIN, metadata);
            }
            Failure::Engine(Error::Glass(GlassError::TooOften { again_in, .. })) => {
                details.set_retry_info(Some(*again_in));
            }
            Failure::Engine(Error::Contention | Error::LimitReached(_)) => {
                details.set_retry_info(Some(std::time::Duration::from_millis(100)));
            }
            Failure::Engine(_) | Failure::Credential(_) | Failure::Draining | Failure::Deadline => {}
        }
        Self::with_error_details(code, failure.told(), details)
    }
}

/// The reason as `ErrorInfo` carries it: without the enum's prefix, as the field's conventions are (AIP-193).
#[must_use]
pub fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}
