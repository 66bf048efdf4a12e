//! Why a call failed, as types.

use std::collections::HashMap;
use std::fmt;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::proto::ErrorReason;

/// Why a call has no answer. A DENY is an answer, not an error.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// What the client was given cannot be used. Nothing was sent.
    #[error("{0}")]
    Configuration(String),
    /// No connection to the server could be made.
    #[error("cannot reach `{endpoint}`: {cause}")]
    Unreachable {
        /// Where the server should be.
        endpoint: String,
        /// What the network said.
        cause: String,
    },
    /// A value cannot be sent, because readers would disagree about it. Nothing was sent.
    #[error(transparent)]
    Value(#[from] countersign_core::ValueError),
    /// An entity does not have the form of one. Nothing was sent.
    #[error(transparent)]
    Entity(#[from] countersign_core::EntityError),
    /// The server refused, or broke off.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The server's answer lacks what the protocol promises.
    #[error("the server's answer has no `{0}`; client and server are of different versions")]
    Incomplete(&'static str),
}

impl ClientError {
    /// The server's reason, if it gave one that this client knows.
    #[must_use]
    pub fn reason(&self) -> Option<ErrorReason> {
        self.refusal().and_then(Refusal::reason)
    }

    /// What the server said, if it was the server.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Configuration(_)
            | Self::Unreachable { .. }
            | Self::Value(_)
            | Self::Entity(_)
            | Self::Incomplete(_) => None,
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(Refusal::from_status(&status)))
    }
}

/// A gRPC status, with its `google.rpc` details.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: Code,
    message: String,
    reason: String,
    metadata: HashMap<String, String>,
    violations: Vec<FieldViolation>,
}

/// One field that does not fit (`google.rpc.BadRequest`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Where, such as `operation.input.rows`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl Refusal {
    /// Reads a status.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let (reason, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        Self {
            code: super::retry::code(status),
            message: status.message().to_owned(),
            reason: reason.strip_prefix(REASON_PREFIX).map(str::to_owned).unwrap_or(reason),
            metadata,
            violations: violations
                .into_iter()
                .map(|violation| FieldViolation { field: violation.field, description: violation.description })
                .collect(),
        }
    }

    /// The gRPC status code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// A sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The reason, if this client knows it.
    #[must_use]
    pub fn reason(&self) -> Option<ErrorReason> {
        ErrorReason::from_str_name(&format!("{REASON_PREFIX}{}", self.reason))
    }

    /// The reason's name, such as `VOTER_EXCLUDED`; empty if the server gave none, as when a proxy answered for it.
    #[must_use]
    pub fn reason_name(&self) -> &str {
        &self.reason
    }

    /// What the server says beside the message, for programs, such as the `operation` to ask for.
    #[must_use]
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(String::as_str)
    }

    /// The fields that do not fit.
    #[must_use]
    pub fn violations(&self) -> &[FieldViolation] {
        &self.violations
    }
}

const REASON_PREFIX: &str = "ERROR_REASON_";

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() { write!(f, "the call failed: {}", self.code) } else { f.write_str(&self.message) }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn reasons_and_fields_are_read_from_the_details() {
        let mut details = ErrorDetails::new();
        details.set_error_info("VOTER_EXCLUDED", "countersign", [("person".to_owned(), "olivia".to_owned())]);
        details.add_bad_request_violation("operation.input.rows", "is not a whole number");
        let error = ClientError::from(Status::with_error_details(Code::PermissionDenied, "you operate it", details));
        assert_eq!(error.reason(), Some(ErrorReason::VoterExcluded));
        let refusal = error.refusal().unwrap();
        assert_eq!((refusal.code(), refusal.reason_name()), (Code::PermissionDenied, "VOTER_EXCLUDED"));
        assert_eq!(refusal.violations().first().unwrap().field, "operation.input.rows");
        assert_eq!(error.to_string(), "you operate it");
    }

    #[test]
    fn both_spellings_of_a_reason_are_one() {
        let mut details = ErrorDetails::new();
        details.set_error_info("ERROR_REASON_SESSION_OVER", "countersign", [("a".to_owned(), "b".to_owned())]);
        let error = ClientError::from(Status::with_error_details(Code::PermissionDenied, "over", details));
        assert_eq!(error.reason(), Some(ErrorReason::SessionOver));
        assert_eq!(error.refusal().unwrap().reason_name(), "SESSION_OVER");
    }

    #[test]
    fn a_status_without_details_has_no_reason() {
        let error = ClientError::from(Status::unavailable(""));
        assert_eq!((error.reason(), error.refusal().unwrap().reason_name()), (None, ""));
        assert!(error.to_string().starts_with("the call failed"));
    }
}
