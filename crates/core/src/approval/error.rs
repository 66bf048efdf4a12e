//! Why a request refuses what is tried on it.

use super::MAX_WITHDRAWALS;
use crate::entity::EntityRef;

/// Why a request refused what was tried on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// It is in a state in which this cannot happen.
    #[error("the approval request is {0}; ask again with a new request if the action is still wanted")]
    State(&'static str),
    /// The vote names another digest than the request's.
    #[error("the vote names another action's digest; read the request again and vote on what it shows")]
    StaleDigest,
    /// The vote names another view than the one shown now.
    #[error("what the request shows has changed since it was read; read it again and vote on what it shows")]
    StaleView,
    /// The person is part of the question.
    #[error("{0} asked, operates, owns or enforces this action and cannot answer for it; another person must")]
    Excluded(EntityRef),
    /// No policy lets the person answer any of the rules that ask.
    #[error("no policy lets {0} answer for this action; `countersign approvals show` lists who can")]
    NotEligible(EntityRef),
    /// The person has said the same already.
    #[error("{0} has already voted; a person counts once")]
    AlreadyVoted(EntityRef),
    /// The person has approved and taken it back too often.
    #[error("{0} has taken an approval of this request back {MAX_WITHDRAWALS} times; deny it, or leave it to others")]
    Wavering(EntityRef),
    /// The vote is signed, and not so that it can be believed.
    #[error("the signature of the vote does not hold: {0}; nothing was voted")]
    Signature(String),
    /// A rule demands signed votes, and this one bears no signature.
    #[error(
        "the rule `{0}` counts only approvals that are signed with a key of the voter's own; sign it with `--sign`, or as \
         docs/signed-votes.md says; a deny needs no signature"
    )]
    Unsigned(String),
    /// There is no vote to take back.
    #[error("{0} has no vote on this request")]
    NoVote(EntityRef),
    /// Every use of a pre-approval is charged.
    #[error("all {0} uses of the pre-approval are charged; ask again for what is left to do")]
    UsedUp(u32),
}
