//! What is told of a capability that was handed on.

use countersign_core::{ApprovalId, Digest, EntityRef, SessionId, TokenId};
use countersign_policy::Evaluated;
use serde::Serialize;

use super::{TallyRecord, UseRecord};
use crate::engine::Revisions;

/// A capability that was exchanged for a sub-agent's.
#[derive(Debug, Serialize)]
pub struct DelegatedRecord<'a> {
    /// The capability that was given up.
    pub capability: TokenId,
    /// Its session.
    pub session: SessionId,
    /// Its digest, recomputed from what was presented.
    pub digest: Digest,
    /// The canonical text it was recomputed from.
    pub action: &'a str,
    /// The approval that was spent with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
    /// Who counted for each rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tally: Vec<TallyRecord<'a>>,
    /// The policies that allowed it now.
    pub determining: &'a [String],
    /// The bundle they are of.
    pub bundle: Digest,
    /// The revisions that were read.
    pub revisions: Revisions,
    /// The evaluated context.
    pub context: &'a Evaluated<'a>,
    /// That the approval is a pre-approval, and which of its uses this was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_approval: Option<UseRecord>,
    /// The capability that it was exchanged for.
    pub to: TokenId,
    /// That one's session.
    pub to_session: SessionId,
    /// Who acts by that one.
    pub to_principal: &'a EntityRef,
}
