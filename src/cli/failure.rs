//! How a command ends: its exit code, and its error in words and in JSON.

use std::io;
use std::process::ExitCode;

use countersign::client::{ClientError, FieldViolation};
use countersign::proto::{ErrorReason, code_name};
use countersign_core::visible::Visible;
use serde_json::{Value, json};

use super::output::{BAD, harmless, paint};

/// How a command ended, so that scripts can branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; for a decision, ALLOW.
    Done,
    /// Something went wrong.
    Error,
    /// The command line is wrong.
    Usage,
    /// DENY.
    Deny,
    /// NEEDS_APPROVAL.
    NeedsApproval,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Deny => 3,
            Self::NeedsApproval => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    message: String,
    reason: String,
    hint: Option<String>,
    fields: Vec<FieldViolation>,
    exit: Exit,
    /// Whoever read the output went away; there is nobody to tell.
    silent: bool,
}

impl Failure {
    /// A failure in words: lowercase, with what to do next.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            reason: "FAILED".to_owned(),
            hint: None,
            fields: Vec::new(),
            exit: Exit::Error,
            silent: false,
        }
    }

    /// The command line cannot be carried out as it stands.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { reason: "USAGE".to_owned(), exit: Exit::Usage, ..Self::new(message) }
    }

    /// What to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A name that programs can branch on.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// The answer could not be written.
    pub fn from_output(error: io::Error) -> Self {
        let silent = error.kind() == io::ErrorKind::BrokenPipe;
        Self { silent, ..Self::new(format!("cannot write the output: {error}")) }
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same may be possible in a while: the server is away, or has too much to do.
    pub fn may_pass(&self) -> bool {
        matches!(
            self.reason.as_str(),
            "UNREACHABLE" | "UNAVAILABLE" | "STORE_UNAVAILABLE" | "DRAINING" | "LIMIT_REACHED" | "DEADLINE_PASSED"
        )
    }

    /// How the command ends.
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// For programs: one line.
    pub fn to_json(&self) -> Value {
        let fields: Vec<Value> = self
            .fields
            .iter()
            .map(|FieldViolation { field, description }| json!({"field": field, "problem": description}))
            .collect();
        json!({"error": {"message": self.message, "reason": self.reason, "hint": self.hint, "fields": fields}})
    }

    /// For people: what happened, what does not fit, and what to do next.
    pub fn to_human(&self) -> String {
        if self.silent {
            return String::new();
        }
        let mut text = format!("{} {}\n", paint(BAD, "error:"), harmless(&self.message));
        // The message of a single violation is the violation.
        for FieldViolation { field, description } in self.fields.iter().filter(|v| !self.message.contains(&v.field)) {
            text.push_str(&format!("  {}: {}\n", Visible::new(field), harmless(description)));
        }
        if !self.reason.is_empty() && !matches!(self.reason.as_str(), "FAILED" | "USAGE") {
            text.push_str(&format!("  reason: {}\n", Visible::cut(&self.reason, 64)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("  {hint}\n"));
        }
        text
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match &error {
            ClientError::Refused(refusal) => Self {
                reason: match refusal.reason_name() {
                    "" => code_name(refusal.code()).to_owned(),
                    name => name.to_owned(),
                },
                fields: refusal.violations().to_vec(),
                // Findings come line by line; any other refusal of a bundle says all there is to say.
                hint: refusal
                    .reason()
                    .filter(|reason| *reason != ErrorReason::BundleRefused || message.contains('\n'))
                    .and_then(hint_for)
                    .map(str::to_owned),
                ..Self::new(message)
            },
            ClientError::Unreachable { .. } => Self::new(message)
                .reason("UNREACHABLE")
                .hint("start a server with `countersign serve --dev`, or name another one with `--endpoint`"),
            ClientError::Configuration(_) | ClientError::Value(_) | ClientError::Entity(_) => {
                Self { exit: Exit::Usage, ..Self::new(message).reason("USAGE") }
            }
            ClientError::Incomplete(_) => Self::new(message),
        }
    }
}

/// What somebody at a shell does about it, where that is another thing than the message already says.
fn hint_for(reason: ErrorReason) -> Option<&'static str> {
    match reason {
        ErrorReason::CredentialInvalid => Some(
            "pass a credential with `--token-file` or COUNTERSIGN_TOKEN; in development `countersign dev token` prints one",
        ),
        ErrorReason::SessionOver => Some("open another one with `countersign session open`"),
        ErrorReason::VoteStale => Some("look again with `countersign approvals show`: what is asked has changed"),
        ErrorReason::AskingBudgetSpent => Some("see what waits with `countersign approvals list --pending`"),
        ErrorReason::NothingToAsk => Some("see what policy says with `countersign decide`"),
        ErrorReason::BundleRefused => Some("find everything that is wrong with `countersign policy check DIR`"),
        ErrorReason::RequestIdReused => Some("leave out `--request-id` to make a new attempt"),
        ErrorReason::CapabilityExpired | ErrorReason::CapabilityRevoked | ErrorReason::AlreadyRedeemed => {
            Some("decide again with `countersign decide --mint`")
        }
        ErrorReason::NotDelegable | ErrorReason::SessionTooDeep => {
            Some("see where a session was opened with `countersign session show`")
        }
        ErrorReason::NoHeartbeat => Some("open a session with `countersign session open --heartbeat 30s`"),
        ErrorReason::BundleNotFound => Some("list those that were with `countersign policy history`"),
        ErrorReason::HolderMissing => Some(
            "have its holder sign with `countersign capability prove`, and pass `--holder-proof`; or `--holder-key`, or `--client-certificate`",
        ),
        ErrorReason::HolderProofStale => Some("have its holder sign again with `countersign capability prove`"),
        ErrorReason::RevocationsMissed => Some("watch again without `--resume`"),
        ErrorReason::KeyNotFound | ErrorReason::KeyState => Some("see what each may do with `countersign keys list`"),
        ErrorReason::VoteSignatureRequired => Some(
            "make a key with `countersign approvals keygen`, have it put into the directory, and approve with `--sign`",
        ),
        ErrorReason::RecordPruned => Some(
            "see when with `countersign audit search --kind log_pruned`; verify, report and evidence read a copy with `--archive DIR`",
        ),
        ErrorReason::EntityChanged => Some("read it again with `countersign entity show`"),
        ErrorReason::Unspecified
        | ErrorReason::PrincipalUnknown
        | ErrorReason::IssuerUnavailable
        | ErrorReason::AnsweringNotTrusted
        | ErrorReason::AnsweringAudience
        | ErrorReason::AuthenticationStale
        | ErrorReason::AuthenticationWeak
        | ErrorReason::ActForDenied
        | ErrorReason::AdministrationDenied
        | ErrorReason::InvalidField
        | ErrorReason::SessionNotFound
        | ErrorReason::SessionMismatch
        | ErrorReason::ApprovalNotFound
        | ErrorReason::ApprovalState
        | ErrorReason::ApprovalMismatch
        | ErrorReason::VoterExcluded
        | ErrorReason::VoterNotEligible
        | ErrorReason::AlreadyVoted
        | ErrorReason::CoolingDown
        | ErrorReason::GlassUnneeded
        | ErrorReason::ReviewOpen
        | ErrorReason::GlassBrokenTooOften
        | ErrorReason::ReviewClosed
        | ErrorReason::ReviewNotFound
        | ErrorReason::CapabilityInvalid
        | ErrorReason::CapabilityMismatch
        | ErrorReason::PolicyDenied
        | ErrorReason::CompletionRefused
        | ErrorReason::CapabilityNotFound
        | ErrorReason::PublishNeedsApproval
        | ErrorReason::NoBundle
        | ErrorReason::StoreUnavailable
        | ErrorReason::Contention
        | ErrorReason::ClockJumped
        | ErrorReason::LimitReached
        | ErrorReason::DeadlinePassed
        | ErrorReason::Internal
        | ErrorReason::NotInLog
        | ErrorReason::Draining
        | ErrorReason::EntityNotFound
        | ErrorReason::OwnEntity
        | ErrorReason::OwnOutcome
        | ErrorReason::EntityRevision
        | ErrorReason::LedgerFull
        | ErrorReason::NotificationNotFound
        | ErrorReason::BackupRefused
        | ErrorReason::CapabilityDelegated
        | ErrorReason::HolderMismatch
        | ErrorReason::HolderProofInvalid
        | ErrorReason::VoteSignatureInvalid
        | ErrorReason::PruningRefused => None,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn refused() -> Failure {
        let mut details = ErrorDetails::new();
        details.set_error_info("INVALID_FIELD", "countersign", [("a".to_owned(), "b".to_owned())]);
        details.add_bad_request_violation("operation.input.rows", "is text\u{1b}[2J, and the schema wants Long");
        let status = tonic::Status::with_error_details(tonic::Code::InvalidArgument, "one field does not fit", details);
        ClientError::from(status).into()
    }

    #[test]
    fn the_servers_refusal_is_told_with_reason_and_fields() {
        let text = anstream::adapter::strip_str(&refused().to_human()).to_string();
        assert_eq!(
            text,
            "error: one field does not fit\n  operation.input.rows: is text\\u{1b}[2J, and the schema wants Long\n  \
             reason: INVALID_FIELD\n"
        );
        assert_eq!(refused().exit(), Exit::Error);
    }

    #[test]
    fn the_json_of_an_error_has_the_same_shape_for_all() {
        assert_eq!(
            Failure::new("no").to_json(),
            json!({"error": {"message": "no", "reason": "FAILED", "hint": null, "fields": []}})
        );
        let json = refused().to_json();
        assert_eq!(json.pointer("/error/reason"), Some(&json!("INVALID_FIELD")));
        assert_eq!(json.pointer("/error/fields/0/field"), Some(&json!("operation.input.rows")));
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes = [Exit::Done, Exit::Error, Exit::Usage, Exit::Deny, Exit::NeedsApproval].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4]);
        assert_eq!(Failure::usage("x").exit(), Exit::Usage);
    }

    #[test]
    fn a_reader_that_went_away_is_told_nothing() {
        let failure = Failure::from_output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.to_human(), failure.exit()), (String::new(), Exit::Error));
    }
}
