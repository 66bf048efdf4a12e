//! The kinds of records, each with what it is told as.

/// Declares the kinds once, so that none is missing where they are listed, written or read.
macro_rules! kinds {
    ($($name:ident = $word:literal),+ $(,)?) => {
        /// A kind of record (docs/records.md).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($name),+
        }

        impl Kind {
            /// All of them.
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The kind that a record names; `None` for one of a newer server.
            pub fn parse(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// As records name it.
            #[cfg(test)]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word),+
                }
            }
        }
    };
}

kinds! {
    Decision = "decision",
    ReviewClosed = "review_closed",
    SessionOpened = "session_opened",
    SessionEnded = "session_ended",
    ApprovalRequested = "approval_requested",
    ApprovalExcluded = "approval_excluded",
    Vote = "vote",
    CoolDownLift = "cool_down_lift",
    VoteWithdrawn = "vote_withdrawn",
    ApprovalCancelled = "approval_cancelled",
    ApprovalEscalated = "approval_escalated",
    ApprovalVoid = "approval_void",
    Redeem = "redeem",
    Delegated = "delegated",
    Complete = "complete",
    Revoke = "revoke",
    Revocation = "revocation",
    OutcomeResolved = "outcome_resolved",
    BundleActivated = "bundle_activated",
    BundleSigned = "bundle_signed",
    EntitiesChanged = "entities_changed",
    NotificationRetried = "notification_retried",
    NotificationDropped = "notification_dropped",
    Key = "key",
    Restored = "restored",
    BackedUp = "backed_up",
    LogPruned = "log_pruned",
    Refusal = "refusal",
    Refusals = "refusals",
    Access = "access",
}

/// What a call did, in the words of OCSF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    Create,
    Read,
    Update,
    Delete,
    /// None of these; the event is then named after the kind.
    Other,
}

/// How much it should worry whoever watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Informational,
    Low,
    Medium,
    High,
}

impl Kind {
    /// The table: what each kind does, the RPC that does it, and how much it should worry. What depends on the rest of the
    /// record is in [`super::told`].
    pub const fn row(self) -> (Activity, &'static str, Severity) {
        use Activity::{Create, Delete, Other, Read, Update};
        use Severity::{High, Informational, Low, Medium};
        match self {
            Self::Decision => (Read, "Decide", Informational),
            Self::ReviewClosed => (Update, "CloseReview", Informational),
            Self::SessionOpened => (Create, "OpenSession", Informational),
            Self::SessionEnded => (Update, "EndSession", Informational),
            Self::ApprovalRequested => (Create, "RequestApproval", Informational),
            Self::ApprovalExcluded => (Update, "approval_excluded", Informational),
            Self::Vote => (Create, "CastVote", Informational),
            Self::CoolDownLift => (Update, "LiftCoolDown", Low),
            Self::VoteWithdrawn => (Delete, "WithdrawVote", Informational),
            Self::ApprovalCancelled => (Delete, "CancelApproval", Informational),
            Self::ApprovalEscalated => (Update, "approval_escalated", Low),
            Self::ApprovalVoid => (Update, "approval_void", Informational),
            Self::Redeem => (Update, "Redeem", Informational),
            Self::Delegated => (Update, "Delegate", Informational),
            Self::Complete => (Update, "Complete", Informational),
            Self::Revoke => (Delete, "Revoke", Low),
            Self::Revocation => (Delete, "RevokeAll", Medium),
            Self::OutcomeResolved => (Update, "ResolveOutcome", Low),
            Self::BundleActivated => (Update, "ReloadBundle", Low),
            Self::BundleSigned => (Update, "ReloadBundle", Low),
            Self::EntitiesChanged => (Update, "ChangeEntities", Low),
            Self::NotificationRetried => (Update, "RetryNotification", Informational),
            Self::NotificationDropped => (Delete, "DropNotification", Medium),
            Self::Key => (Update, "key", Medium),
            Self::Restored => (Update, "restored", High),
            Self::BackedUp => (Create, "CreateBackup", Low),
            Self::LogPruned => (Delete, "PruneLog", Medium),
            Self::Refusal => (Other, "refusal", Low),
            Self::Refusals => (Other, "refusals", Medium),
            Self::Access => (Read, "access", Informational),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What may stand in the log is what `record.rs` can write: a kind that is added there is missed here.
    #[test]
    fn every_kind_that_a_server_writes_is_mapped() {
        let source = include_str!("../../../../crates/engine/src/record.rs");
        let (_, events) = source.split_once("pub enum Event<'a> {").unwrap();
        let (events, _) = events.split_once("\n}").unwrap();
        let mut written = Vec::new();
        for line in events.lines().filter(|line| line.starts_with("    ") && line.as_bytes()[4].is_ascii_uppercase()) {
            let name: String = line.trim().chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
            let mut word = String::new();
            for c in name.chars() {
                if c.is_ascii_uppercase() && !word.is_empty() {
                    word.push('_');
                }
                word.push(c.to_ascii_lowercase());
            }
            written.push(word);
        }
        let mapped: Vec<&str> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(written, mapped);
    }

    #[test]
    fn a_kind_is_what_its_word_says() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.word()), Some(*kind));
        }
        assert_eq!(Kind::parse("of tomorrow"), None);
    }
}
