//! What can be asked of the service: calls with objects named by their number in the model.

use crate::pre::Bounds;
use crate::world::{Deed, Party, Variant};

/// Whose credential a call carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    /// Somebody's own.
    Is(Party),
    /// An agent's, acting for a person.
    For(Party, Party),
    /// A person's, by a credential that puts them into the editors, too, and expires so many minutes after the start.
    Member(Party, i64),
    /// An account that belongs to nobody in the bundle.
    Stranger,
}

impl Caller {
    /// What request ids are scoped to: the same account, whatever its credential says of groups.
    pub const fn account(self) -> Self {
        match self {
            Self::Member(party, _) => Self::Is(party),
            Self::Is(_) | Self::For(..) | Self::Stranger => self,
        }
    }
}

/// Who acts, as the caller says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acting {
    Caller,
    Named(Party),
    Credential(Caller),
}

/// One action: what makes its digest, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Action {
    pub session: usize,
    pub deed: Deed,
    pub doc: u8,
    pub n: u8,
    pub at: Party,
}

/// What a voter was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Right,
    OtherDigest,
    OtherView,
}

/// What of a redeem is not as it was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Altered {
    Nothing,
    Deed,
    Doc,
    Input,
    Audience,
    /// One character of the token.
    Token,
}

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Open {
        acting: Acting,
        operator: Option<Party>,
        seconds: u64,
    },
    Decide {
        action: Action,
        acting: Acting,
        approval: Option<usize>,
        mint: bool,
    },
    Break {
        action: Action,
        mint: bool,
    },
    Review {
        review: usize,
    },
    Ask {
        action: Action,
        acting: Acting,
    },
    /// Every action like this one.
    PreAsk {
        action: Action,
        acting: Acting,
        bounds: Bounds,
    },
    Vote {
        question: usize,
        approve: bool,
        shown: Shown,
    },
    Withdraw {
        question: usize,
    },
    Cancel {
        question: usize,
    },
    Redeem {
        capability: usize,
        altered: Altered,
    },
    Complete {
        capability: usize,
        succeeded: bool,
    },
    Revoke {
        capability: usize,
    },
    End {
        session: usize,
    },
    Publish {
        variant: Variant,
    },
    View {
        question: usize,
    },
    Look {
        capability: usize,
    },
}

impl Request {
    /// The RPC that request ids are scoped to.
    pub const fn rpc(&self) -> &'static str {
        match self {
            Self::Open { .. } => "OpenSession",
            Self::Decide { .. } => "Decide",
            Self::Break { .. } => "BreakGlass",
            Self::Review { .. } => "CloseReview",
            Self::Ask { .. } => "Ask",
            Self::PreAsk { .. } => "PreAsk",
            Self::Vote { .. } => "Vote",
            Self::Withdraw { .. } => "WithdrawVote",
            Self::Cancel { .. } => "CancelApproval",
            Self::Redeem { .. } => "Redeem",
            Self::Complete { .. } => "Complete",
            Self::Revoke { .. } => "Revoke",
            Self::End { .. } => "EndSession",
            Self::Publish { .. } => "PublishBundle",
            Self::View { .. } => "GetApproval",
            Self::Look { .. } => "GetCapability",
        }
    }
}

/// A call with its request id; the flag says whether it comes with another body than that id came with at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub caller: Caller,
    pub id: Option<usize>,
    pub other_body: bool,
    pub request: Request,
}
