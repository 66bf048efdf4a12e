//! What the log holds: one JSON document for each thing that happened (docs/records.md). Tokens and credentials never stand
//! in it, only their hashes and ids.

mod channel;
mod delegated;

use std::collections::BTreeSet;

use bytes::Bytes;
use countersign_core::approval::{
    Approval, AskingRule, Tally, Together, Verdict as VoteVerdict, VoidCause, VoteSignature,
};
use countersign_core::capability::{Finding, Grant, Outcome};
use countersign_core::pre_approval::Bounds;
use countersign_core::{
    ApprovalId, Axis, DecisionId, Digest, EntityRef, Holder, NotificationId, NotificationKind, ReviewId, SessionId,
    TenantId, Timestamp, TokenId,
};
use countersign_policy::{EntityData, Evaluated};
use serde::Serialize;

use crate::admission::Admitted;
use crate::caller::{Caller, CallerRecord};
use crate::engine::Revisions;
use crate::entity::EntityChange;

pub use channel::ChannelRecord;
pub use delegated::DelegatedRecord;

/// The version of the records that are written now. Old versions stay readable.
pub const RECORD_VERSION: u32 = 1;

/// One entry of the log.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    v: u32,
    at: Timestamp,
    tenant: &'a TenantId,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<CallerRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(flatten)]
    event: Event<'a>,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event<'a> {
    /// An action was decided; with a capability, it was minted too.
    Decision {
        /// The decision.
        decision: DecisionId,
        /// ALLOW, DENY or `NEEDS_APPROVAL`.
        verdict: &'static str,
        /// The canonical text of the action.
        action: &'a str,
        /// Its digest.
        digest: Digest,
        /// The policies that decided.
        determining: &'a [String],
        /// Evaluation errors, if that is why.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        errors: &'a [String],
        /// The bundle that decided.
        bundle: Digest,
        /// The revisions that were read.
        revisions: Revisions,
        /// The evaluated context: with the bundle, everything that is needed to decide again.
        context: &'a Evaluated<'a>,
        /// The approval that was used.
        #[serde(skip_serializing_if = "Option::is_none")]
        approval: Option<ApprovalId>,
        /// The capability that was minted.
        #[serde(skip_serializing_if = "Option::is_none")]
        minted: Option<&'a Grant>,
        /// That the approval is a pre-approval, and which of its uses this was; none yet if a capability was minted.
        #[serde(skip_serializing_if = "Option::is_none")]
        pre_approval: Option<UseRecord>,
        /// The sessions above the action's, the nearest first, if it is a child.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        sessions_above: Vec<SessionId>,
        /// How the glass was broken, without which it would have needed approval.
        #[serde(skip_serializing_if = "Option::is_none")]
        glass_broken: Option<GlassRecord<'a>>,
    },
    /// Somebody else closed the review of broken glass.
    ReviewClosed {
        /// The review.
        review: ReviewId,
        /// Who broke the glass.
        person: &'a EntityRef,
        /// The reviewer's words.
        comment: &'a str,
        /// The administration policies that permitted it.
        determining: &'a [String],
        /// The bundle they are of.
        bundle: Digest,
    },
    /// A session was opened.
    SessionOpened {
        /// The session.
        session: &'a countersign_core::session::Session,
        /// The administration policies that permitted it.
        determining: &'a [String],
        /// The bundle they are of.
        bundle: Digest,
    },
    /// A session was ended.
    SessionEnded {
        /// The session.
        session: SessionId,
    },
    /// A question was put to people.
    ApprovalRequested {
        /// The request.
        approval: ApprovalId,
        /// The digest asked about.
        digest: Digest,
        /// The digest of what is shown.
        view: Digest,
        /// The canonical text of the action.
        action: &'a str,
        /// The asker's words.
        justification: &'a str,
        /// The rules that ask.
        rules: &'a [AskingRule],
        /// Who can never answer.
        excluded: Vec<&'a EntityRef>,
        /// The bundle that asks.
        bundle: Digest,
        /// From when on it is expired.
        expires_at: Timestamp,
        /// An earlier request about the same digest that this one replaces.
        #[serde(skip_serializing_if = "Option::is_none")]
        replaces: Option<ApprovalId>,
        /// Who could answer when the question was put, as many as are named. Absent when somebody joined one.
        #[serde(skip_serializing_if = "Option::is_none")]
        asked: Option<&'a [EntityRef]>,
        /// Whether somebody joined a question that was pending.
        #[serde(skip_serializing_if = "is_false")]
        joined: bool,
        /// Whether people are asked again, since they are shown what another asker says; the votes of before count no more.
        #[serde(skip_serializing_if = "is_false")]
        asked_again: bool,
        /// The labels of the session.
        #[serde(skip_serializing_if = "BTreeSet::is_empty")]
        labels: &'a BTreeSet<String>,
        /// The batch that it was put in.
        #[serde(skip_serializing_if = "Option::is_none")]
        batch: Option<Together>,
        /// The bounds, if it is a question about every action that a pre-approval covers.
        #[serde(skip_serializing_if = "Option::is_none")]
        pre_approval: Option<Bounds>,
    },
    /// More persons can never answer a request, because a bundle says so that is about to be replaced, or has since come.
    ApprovalExcluded {
        /// The request.
        approval: ApprovalId,
        /// Who came to be excluded.
        excluded: BTreeSet<EntityRef>,
        /// The bundle that excludes them.
        bundle: Digest,
    },
    /// A vote was cast.
    Vote {
        /// The request.
        approval: ApprovalId,
        /// The voter.
        person: &'a EntityRef,
        /// What was said.
        verdict: VoteVerdict,
        /// The digest voted on.
        digest: Digest,
        /// The view voted on.
        view: Digest,
        /// The rules that the voter was eligible for.
        rules: Vec<&'a str>,
        /// The voter's words.
        comment: &'a str,
        /// The state that this led to.
        state: &'static str,
        /// The bundle that made the voter eligible.
        bundle: Digest,
        /// Until when nobody asks for the same again, if a deny began that.
        #[serde(skip_serializing_if = "Option::is_none")]
        cools_down_until: Option<Timestamp>,
        /// When the voter was first sent the request, if that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        seen_at: Option<Timestamp>,
        /// What the voter signed it with, if they did.
        #[serde(skip_serializing_if = "Option::is_none")]
        signature: Option<&'a VoteSignature>,
        /// The digest of the statement of the vote, which capabilities that rest on it name.
        statement: Digest,
        /// How it came.
        channel: ChannelRecord<'a>,
    },
    /// A person lifted the cool-down that a denied request began, alone or as one of several.
    CoolDownLift {
        /// The denied request.
        approval: ApprovalId,
        /// Who.
        person: &'a EntityRef,
        /// Everyone who has.
        lifted_by: &'a BTreeSet<EntityRef>,
        /// How many it takes.
        lifts_needed: u32,
        /// Whether it is lifted now.
        lifted: bool,
        /// The bundle that made them eligible.
        bundle: Digest,
    },
    /// A vote was taken back.
    VoteWithdrawn {
        /// The request.
        approval: ApprovalId,
        /// The voter.
        person: &'a EntityRef,
        /// The state that this led to.
        state: &'static str,
    },
    /// A question was taken back.
    ApprovalCancelled {
        /// The request.
        approval: ApprovalId,
    },
    /// Nobody has answered for a while, and others are told.
    ApprovalEscalated {
        /// The request.
        approval: ApprovalId,
    },
    /// A request is no longer good for anything.
    ApprovalVoid {
        /// The request.
        approval: ApprovalId,
        /// Why.
        cause: &'a VoidCause,
    },
    /// A capability was spent.
    Redeem {
        /// The capability.
        capability: TokenId,
        /// The session.
        session: SessionId,
        /// The digest, recomputed from what was presented.
        digest: Digest,
        /// The canonical text it was recomputed from.
        action: &'a str,
        /// The approval that was spent with it.
        #[serde(skip_serializing_if = "Option::is_none")]
        approval: Option<ApprovalId>,
        /// The review of the broken glass that it rests on.
        #[serde(skip_serializing_if = "Option::is_none")]
        review: Option<ReviewId>,
        /// Who counted for each rule.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tally: Vec<TallyRecord<'a>>,
        /// The policies that allowed it now.
        determining: &'a [String],
        /// The bundle they are of.
        bundle: Digest,
        /// The revisions that were read.
        revisions: Revisions,
        /// The evaluated context.
        context: &'a Evaluated<'a>,
        /// By when the outcome is due.
        complete_by: Timestamp,
        /// That the approval is a pre-approval, and which of its uses this was.
        #[serde(skip_serializing_if = "Option::is_none")]
        pre_approval: Option<UseRecord>,
        /// Who was shown to hold it.
        #[serde(skip_serializing_if = "Option::is_none")]
        holder: Option<Holder>,
    },
    /// A capability was exchanged for a sub-agent's, which the decision beside this record minted: it was spent by that.
    Delegated(DelegatedRecord<'a>),
    /// An outcome was reported.
    Complete {
        /// The capability.
        capability: TokenId,
        /// What came of it.
        outcome: Outcome,
        /// The hash of the result.
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Digest>,
        /// Whether it came after its deadline.
        late: bool,
    },
    /// A capability was revoked.
    Revoke {
        /// The capability.
        capability: TokenId,
        /// Why.
        reason: &'a str,
    },
    /// More than one capability was revoked, or a session was ended for a reason.
    Revocation {
        /// What, with `of` which.
        #[serde(flatten)]
        axis: &'a Axis,
        /// Why.
        reason: &'a str,
        /// What carries a lower epoch is cut off; of the wider axes.
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        /// The administration policies that permitted it. None if it was the caller's own.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        determining: &'a [String],
        /// The bundle they are of.
        bundle: Digest,
    },
    /// A person said what came of an action whose outcome nobody reported in time.
    OutcomeResolved {
        /// The capability.
        capability: TokenId,
        /// What they found.
        finding: Finding,
        /// How they know.
        note: &'a str,
        /// The administration policies that permitted it.
        determining: &'a [String],
        /// The bundle they are of.
        bundle: Digest,
    },
    /// A bundle became active.
    BundleActivated {
        /// Its digest.
        bundle: Digest,
        /// Its name.
        name: &'a str,
        /// Its revision.
        revision: u64,
        /// The one before.
        #[serde(skip_serializing_if = "Option::is_none")]
        replaces: Option<Digest>,
        /// Whether it was taken from the archive, and may be older than the one before.
        #[serde(skip_serializing_if = "is_false")]
        rollback: bool,
        /// What was asked of it, and holds.
        #[serde(flatten)]
        admitted: &'a Admitted,
        /// The administration policies that permitted it. None if nobody called for it.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        determining: &'a [String],
        /// The decision that allowed it, where the bundle before asked for one.
        #[serde(skip_serializing_if = "Option::is_none")]
        decision: Option<DecisionId>,
    },
    /// The active bundle was signed by others than before.
    BundleSigned {
        /// Its digest.
        bundle: Digest,
        /// What was asked of it, and holds.
        #[serde(flatten)]
        admitted: &'a Admitted,
        /// The administration policies that permitted it. None if nobody called for it.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        determining: &'a [String],
    },
    /// Stored entities changed.
    EntitiesChanged {
        /// Which, and what they are now.
        entities: Vec<EntityRecord<'a>>,
        /// The administration policies that permitted it.
        determining: &'a [String],
        /// The bundle they are of.
        bundle: Digest,
    },
    /// A notification that a sink did not take waits for it again.
    NotificationRetried {
        /// The sink.
        sink: &'a str,
        /// The notification.
        notification: NotificationId,
        /// The request that it tells of.
        #[serde(skip_serializing_if = "Option::is_none")]
        approval: Option<ApprovalId>,
        /// The review that it tells of.
        #[serde(skip_serializing_if = "Option::is_none")]
        review: Option<ReviewId>,
        /// What happened to it.
        #[serde(rename = "event")]
        kind: NotificationKind,
    },
    /// A notification that a sink did not take was let go: nobody is told.
    NotificationDropped {
        /// The sink.
        sink: &'a str,
        /// The notification.
        notification: NotificationId,
        /// The request that it would have told of.
        #[serde(skip_serializing_if = "Option::is_none")]
        approval: Option<ApprovalId>,
        /// The review that it would have told of.
        #[serde(skip_serializing_if = "Option::is_none")]
        review: Option<ReviewId>,
        /// What happened to it.
        #[serde(rename = "event")]
        kind: NotificationKind,
    },
    /// A signing key changed.
    Key {
        /// Its id.
        key: u32,
        /// Its public half, 64 hexadecimal digits.
        public: &'a str,
        /// `active`, `retired`, `removed` or `compromised`.
        state: &'a str,
        /// From when on it verifies nothing, if it was retired.
        #[serde(skip_serializing_if = "Option::is_none")]
        verifies_until: Option<Timestamp>,
        /// Why, in the words of whoever called it compromised.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        /// The administration policies that permitted it. None if nobody called for it.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        determining: &'a [String],
    },
    /// The store was restored from a copy: what was handed out before is dead, and what happened after the copy is not known.
    Restored {
        /// The epoch from now on.
        epoch: u64,
        /// The revision that the copy had.
        revision: u64,
        /// The newest revision that is known to have been acknowledged, if a head that was kept outside says so.
        #[serde(skip_serializing_if = "Option::is_none")]
        acknowledged: Option<u64>,
        /// Tokens of an older mint epoch are dead.
        mint_epoch: u64,
        /// How many sessions were open in the copy, and are ended.
        sessions: u64,
    },
    /// A backup of the whole store was made.
    BackedUp {
        /// Its name.
        backup: &'a str,
        /// The revision that it holds.
        revision: u64,
        /// The administration policies that permitted it.
        determining: &'a [String],
    },
    /// The records before `minimum_index` were dropped from the log.
    LogPruned {
        /// The first that was dropped.
        from: u64,
        /// The first that is kept.
        minimum_index: u64,
        /// The root of all before that one.
        root: String,
        /// When the newest of those that were dropped was recorded.
        newest: Timestamp,
        /// Where a copy is, in the words of whoever dropped them.
        #[serde(skip_serializing_if = "Option::is_none")]
        archive: Option<&'a str>,
        /// The administration policies that permitted it.
        determining: &'a [String],
    },
    /// Somebody was refused.
    Refusal {
        /// The RPC.
        rpc: &'a str,
        /// The error's sentence.
        error: &'a str,
        /// What it was about, as far as known.
        #[serde(skip_serializing_if = "Option::is_none")]
        about: Option<&'a str>,
    },
    /// Refusals and denials of one caller that came too fast to be recorded singly.
    Refusals {
        /// Who.
        who: &'a EntityRef,
        /// How many.
        count: u64,
        /// Since when.
        since: Timestamp,
    },
    /// What somebody read because an administration policy lets them, counted.
    Access {
        /// The reserved action that the policy permits.
        reserved_action: &'a str,
        /// The RPCs that were called.
        rpcs: &'a BTreeSet<&'static str>,
        /// How many of them were answered.
        count: u64,
        /// When the first was.
        since: Timestamp,
        /// When the last was.
        until: Timestamp,
        /// The administration policies that permitted them.
        determining: &'a BTreeSet<String>,
        /// The bundle they are of.
        bundle: Digest,
    },
}

/// A use of a pre-approval.
#[derive(Debug, Serialize)]
pub struct UseRecord {
    /// Which one; absent where a capability was minted, whose redeem is the use.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    number: Option<u32>,
    /// Of how many.
    of: u32,
}

impl UseRecord {
    /// The use that was just charged, if this is a pre-approval.
    #[must_use]
    pub fn charged(approval: &Approval) -> Option<Self> {
        approval.pre_approval().map(|pre| Self { number: Some(pre.charged()), of: pre.bounds().uses })
    }

    /// A use that a capability was minted for, if this is a pre-approval.
    #[must_use]
    pub fn minted(approval: &Approval) -> Option<Self> {
        approval.pre_approval().map(|pre| Self { number: None, of: pre.bounds().uses })
    }
}

/// How the glass was broken: by whom, why, and past whom.
#[derive(Debug, Serialize)]
pub struct GlassRecord<'a> {
    /// The review that it opens.
    pub review: ReviewId,
    /// Who broke it.
    pub person: &'a EntityRef,
    /// In their words.
    pub reason: &'a str,
    /// The rules that were lifted.
    pub rules: BTreeSet<&'a str>,
    /// The `breakGlass` policies that permitted it.
    pub determining: &'a [String],
    /// Who could have answered, as many as there is room for.
    pub passed_over: &'a BTreeSet<EntityRef>,
    /// Whether there are more of them.
    #[serde(skip_serializing_if = "is_false")]
    pub more_passed_over: bool,
}

/// A changed entity.
#[derive(Debug, Serialize)]
pub struct EntityRecord<'a> {
    entity: &'a EntityRef,
    /// What it is from now on; absent when it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a EntityData>,
}

impl<'a> From<&'a EntityChange> for EntityRecord<'a> {
    fn from(change: &'a EntityChange) -> Self {
        Self { entity: &change.entity, data: change.data.as_ref() }
    }
}

/// Who counted for a rule.
#[derive(Debug, Serialize)]
pub struct TallyRecord<'a> {
    rule: &'a str,
    quorum: u32,
    persons: Vec<&'a EntityRef>,
}

impl<'a> From<&'a Tally> for TallyRecord<'a> {
    fn from(tally: &'a Tally) -> Self {
        Self { rule: &tally.rule, quorum: tally.quorum, persons: tally.persons.iter().collect() }
    }
}

/// Writes a record.
#[must_use]
pub fn record(
    tenant: &TenantId,
    at: Timestamp,
    caller: Option<&Caller>,
    request_id: Option<&str>,
    event: Event<'_>,
) -> Bytes {
    let record = Record { v: RECORD_VERSION, at, tenant, caller: caller.map(Caller::record), request_id, event };
    // String keys only, so this cannot fail; an empty record would be refused by whoever reads the log.
    serde_json::to_vec(&record).unwrap_or_default().into()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests;
