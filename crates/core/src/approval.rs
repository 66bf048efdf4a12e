//! Approval requests: one question about one digest, and the votes cast on it.
//!
//! ```text
//! pending ─▶ approved ─▶ redeemed
//!    │           └─────▶ void | expired
//!    └─▶ denied | expired | cancelled | void
//! ```
//!
//! A pre-approval is redeemed by its last use, and until then stays approved; only such a request can be cancelled when it is
//! approved.
//!
//! Terminal states have no exit (I5). *Expired* is never written by whoever waits: every reader decides it from the
//! record and the time, so that a stopped sweeper keeps nothing alive.

mod asker;
mod batch;
mod charge;
mod error;
mod signed;
mod state;
mod view;
mod vote;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::capability::MAX_VOTES;
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::{ApprovalId, SessionId};
use crate::pre_approval::Bounds;
use crate::precedent::History;
use crate::revocation::is_first;
use crate::time::Timestamp;

use state::Written;

pub use asker::{AlsoAsked, MAX_ASKERS};
pub use batch::Together;
pub use charge::{Charge, Charged, KEPT_USES};
pub use error::ApprovalError;
pub use signed::{SIGNING_TOLERANCE_MILLIS, UNSIGNED, VoteSignature, VoteStatement};
pub use state::{ApprovalState, Changed, Spender, VoidCause};
pub use view::View;
pub use vote::{Tally, Verdict, Vote};

/// A rule that asks, as it was shown to the people asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskingRule {
    /// The policy id of the liftable forbid.
    pub id: String,
    /// How many distinct persons must approve.
    pub quorum: u32,
    /// Why the rule exists, in its author's words.
    pub reason: Option<String>,
    /// Whether only approvals count that their persons signed with a key of their own. Absent if not.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub signed_votes: bool,
}

/// How often one person may take an approval of the same request back, and approve again: each time everybody is told.
pub const MAX_WITHDRAWALS: usize = 3;

/// An approval request as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// The canonical text of the action that is asked about: the bytes that people are shown (I3).
    pub action: String,
    /// Their SHA-256.
    pub digest: Digest,
    /// The digest of everything shown: action, owner, rules, justification, purpose, history.
    pub view: Digest,
    /// The session it dies with.
    pub session: SessionId,
    /// The principal of the action.
    pub principal: EntityRef,
    /// Who was answerable for the principal when the question was put: its owner, or itself. Absent in requests of the first
    /// release.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<EntityRef>,
    /// What people answered before about the same operation on the same resource, when the question was put.
    #[serde(skip_serializing_if = "History::is_empty", default)]
    pub history: History,
    /// With which other questions it was put, and its place among them. Absent when it was put alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub batch: Option<Together>,
    /// Who put the question.
    pub asked_by: EntityRef,
    /// Why, in the asker's words: a stranger's text.
    pub justification: String,
    /// Who put the same question after, and why.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    also: Vec<AlsoAsked>,
    /// The labels of the session when the question was put, and those that the action would leave.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub labels: BTreeSet<String>,
    /// The purpose of the session when the question was put.
    pub purpose: String,
    /// The rules that ask.
    pub rules: Vec<AskingRule>,
    /// The bundle that asked.
    pub bundle: Digest,
    /// Who can never answer. It only grows (I2).
    pub excluded: BTreeSet<EntityRef>,
    /// When the question was put.
    pub created_at: Timestamp,
    /// How long people have to answer, and how long an approval then stays usable, if it is no pre-approval.
    pub ttl_millis: u64,
    /// What is used of a pre-approval. Absent in requests about one action.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pre_approval: Option<Charged>,
    /// When others are to be told that nobody has answered, ascending; what was told is gone.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    escalations: Vec<Timestamp>,
    /// The revocation epoch in which it was put. Absent in requests of before anything was revoked by a wider axis.
    #[serde(skip_serializing_if = "is_first", default)]
    pub epoch: u64,
    expires_at: Timestamp,
    votes: Vec<Vote>,
    /// Who took a vote back, once for each time.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    withdrawals: Vec<EntityRef>,
    #[serde(rename = "status")]
    written: Written,
}

/// What is needed to put a question.
#[derive(Debug, Clone)]
pub struct Asking {
    /// The canonical text of the action.
    pub action: String,
    /// Its digest.
    pub digest: Digest,
    /// The session.
    pub session: SessionId,
    /// The principal.
    pub principal: EntityRef,
    /// Who is answerable for it: its owner, or itself.
    pub owner: EntityRef,
    /// What people answered before.
    pub history: History,
    /// The caller that asks.
    pub asked_by: EntityRef,
    /// Its justification.
    pub justification: String,
    /// The session's purpose.
    pub purpose: String,
    /// The labels of the session, and those that the action would leave.
    pub labels: BTreeSet<String>,
    /// The rules that ask; never empty.
    pub rules: Vec<AskingRule>,
    /// The bundle that asks.
    pub bundle: Digest,
    /// Who can never answer.
    pub excluded: BTreeSet<EntityRef>,
    /// How long people have.
    pub ttl: Duration,
    /// After how long others are told that nobody has answered.
    pub escalations: BTreeSet<Duration>,
}

impl Approval {
    /// Puts the question.
    #[must_use]
    pub fn ask(id: ApprovalId, asking: Asking, now: Timestamp) -> Self {
        let Asking {
            action,
            digest,
            session,
            principal,
            owner,
            history,
            asked_by,
            justification,
            purpose,
            labels,
            rules,
            bundle,
            excluded,
            ttl,
            escalations,
        } = asking;
        let mut approval = Self {
            id,
            action,
            digest,
            view: digest,
            session,
            principal,
            owner: Some(owner),
            history,
            batch: None,
            asked_by,
            justification,
            also: Vec::new(),
            labels,
            purpose,
            rules,
            bundle,
            excluded,
            created_at: now,
            ttl_millis: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            pre_approval: None,
            escalations: escalations.into_iter().filter(|after| *after < ttl).map(|after| now.plus(after)).collect(),
            expires_at: now.plus(ttl),
            votes: Vec::new(),
            withdrawals: Vec::new(),
            epoch: 0,
            written: Written::Pending,
        };
        approval.view = approval.view_digest();
        approval
    }

    /// The same question, as one of several that are put together.
    #[must_use]
    pub fn in_batch(mut self, batch: Option<Together>) -> Self {
        self.batch = batch;
        self.view = self.view_digest();
        self
    }

    /// Makes it a question about every action that a pre-approval covers. `action` and `digest` are those of its canonical text;
    /// `wording` is of the text of the rules.
    #[must_use]
    pub fn within(mut self, bounds: Bounds, until: Timestamp, wording: Digest) -> Self {
        self.pre_approval = Some(Charged::new(bounds, until, wording));
        self.view = self.view_digest();
        self
    }

    /// The bounds, and what is used of them, if it is a pre-approval.
    #[must_use]
    pub const fn pre_approval(&self) -> Option<&Charged> {
        self.pre_approval.as_ref()
    }

    /// The digest of everything that is shown to people. Two requests that look different have different ones.
    #[must_use]
    pub fn view_digest(&self) -> Digest {
        View {
            id: self.id,
            action: &self.action,
            owner: self.owner.as_ref(),
            asked_by: &self.asked_by,
            justification: &self.justification,
            also: &self.also,
            labels: &self.labels,
            purpose: &self.purpose,
            rules: &self.rules,
            ttl_millis: self.ttl_millis,
            history: &self.history,
            batch: self.batch,
            pre_approval: self.pre_approval.as_ref().map(|pre| (*pre.bounds(), pre.until())),
        }
        .digest()
    }

    /// What it is at `now`, as far as the request alone can tell. The session's end is the engine's to add.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> ApprovalState {
        match &self.written {
            Written::Pending | Written::Approved { .. } if now.reached(self.expires_at) => ApprovalState::Expired,
            Written::Pending => ApprovalState::Pending,
            Written::Approved { .. } => ApprovalState::Approved,
            Written::Denied { by, .. } => ApprovalState::Denied { by: by.clone() },
            Written::Cancelled { by, .. } => ApprovalState::Cancelled { by: by.clone() },
            Written::Void { why, .. } => ApprovalState::Void { why: why.clone() },
            Written::Redeemed { by, .. } => ApprovalState::Redeemed { by: by.clone() },
        }
    }

    /// Whether an eligible person said no, before the quorum was met or after.
    #[must_use]
    pub const fn was_denied(&self) -> bool {
        matches!(self.written, Written::Denied { .. } | Written::Void { why: VoidCause::Denied { .. }, .. })
    }

    /// From when on it is expired, if nothing else happens.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// From when on it is something else than at `now`, or its votes count otherwise, though nobody does anything.
    #[must_use]
    pub fn lapses_at(&self, now: Timestamp) -> Option<Timestamp> {
        (!self.state(now).is_terminal()).then(|| self.fades_at(now).into_iter().fold(self.expires_at, Ord::min))
    }

    /// From when on the first of its votes may count no more, because the credential expires that it may rest on.
    #[must_use]
    pub fn fades_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.votes.iter().filter_map(|vote| vote.claimed.as_ref()?.lapses_at(now)).min()
    }

    /// The votes that stand, in the order in which they were cast.
    #[must_use]
    pub fn votes(&self) -> &[Vote] {
        &self.votes
    }

    /// The digests of the statements of the approvals that stand, in the order in which they were cast: the first [`MAX_VOTES`].
    #[must_use]
    pub fn approving(&self) -> Vec<Digest> {
        let approvals = self.votes.iter().filter(|vote| vote.verdict == Verdict::Approve);
        approvals.filter_map(|vote| vote.statement).take(MAX_VOTES).collect()
    }

    /// Who counts for each rule: distinct persons who approved, were eligible for the rule when they voted, are so now, and
    /// are not excluded now (I2). `rules` are the rules that ask *now*, which need not be those that asked then. `eligible` is
    /// asked for each vote and not for its person alone: it may rest on what a credential said.
    pub fn tally(
        &self,
        rules: &[AskingRule],
        excluded: &BTreeSet<EntityRef>,
        mut eligible: impl FnMut(&str, &Vote) -> bool,
    ) -> Vec<Tally> {
        rules
            .iter()
            .map(|rule| Tally {
                rule: rule.id.clone(),
                quorum: rule.quorum,
                persons: self
                    .votes
                    .iter()
                    .filter(|vote| {
                        vote.verdict == Verdict::Approve
                            && vote.satisfies(rule)
                            && vote.digest == self.digest
                            && vote.view == self.view
                            && vote.rules.contains(&rule.id)
                            && !self.excluded.contains(&vote.person)
                            && !excluded.contains(&vote.person)
                            && eligible(&rule.id, vote)
                    })
                    .map(|vote| vote.person.clone())
                    .collect(),
            })
            .collect()
    }

    /// Casts a vote. `eligible` says whether a voter may answer a rule now; it is asked for this one and, for the tally, for
    /// everyone who voted before. Afterwards the request is approved if every rule is met, or denied.
    ///
    /// # Errors
    /// [`ApprovalError`]; the request is unchanged then.
    pub fn vote(&mut self, mut vote: Vote, mut eligible: impl FnMut(&str, &Vote) -> bool) -> Result<(), ApprovalError> {
        let now = vote.at;
        let state = self.state(now);
        match (&state, vote.verdict) {
            (ApprovalState::Pending, _) | (ApprovalState::Approved, Verdict::Deny) => {}
            (ApprovalState::Approved, Verdict::Approve) if self.has_voted(&vote) => {
                return Err(ApprovalError::AlreadyVoted(vote.person));
            }
            (
                ApprovalState::Approved
                | ApprovalState::Denied { .. }
                | ApprovalState::Expired
                | ApprovalState::Cancelled { .. }
                | ApprovalState::Void { .. }
                | ApprovalState::Redeemed { .. },
                _,
            ) => return Err(ApprovalError::State(state.word())),
        }
        if vote.digest != self.digest {
            return Err(ApprovalError::StaleDigest);
        }
        if vote.view != self.view {
            return Err(ApprovalError::StaleView);
        }
        if self.excluded.contains(&vote.person) {
            return Err(ApprovalError::Excluded(vote.person));
        }
        vote.rules = self.rules.iter().filter(|rule| eligible(&rule.id, &vote)).map(|rule| rule.id.clone()).collect();
        if vote.rules.is_empty() {
            return Err(ApprovalError::NotEligible(vote.person));
        }
        let mut answered = self.rules.iter().filter(|rule| vote.rules.contains(&rule.id));
        if let Some(rule) = answered.find(|rule| !vote.satisfies(rule)) {
            return Err(ApprovalError::Unsigned(rule.id.clone()));
        }
        if self.has_voted(&vote) {
            return Err(ApprovalError::AlreadyVoted(vote.person));
        }
        let by = vote.person.clone();
        let verdict = vote.verdict;
        let wavered = self.withdrawals.iter().filter(|person| **person == by).count();
        if verdict == Verdict::Approve && wavered >= MAX_WITHDRAWALS {
            return Err(ApprovalError::Wavering(by));
        }
        self.votes.retain(|earlier| earlier.person != by);
        if verdict == Verdict::Deny {
            // It ends the request and is never counted again, and must not want for room.
            vote.claimed = None;
        }
        self.votes.push(vote);
        match (verdict, state) {
            (Verdict::Deny, ApprovalState::Approved) => {
                self.written = Written::Void { at: now, why: VoidCause::Denied { by } };
            }
            (Verdict::Deny, _) => self.written = Written::Denied { at: now, by },
            (Verdict::Approve, _) => {
                if self.tally(&self.rules, &self.excluded, eligible).iter().all(Tally::met) {
                    self.written = Written::Approved { at: now };
                    self.expires_at = match &self.pre_approval {
                        Some(pre) => pre.expires_at(now),
                        None => now.plus(Duration::from_millis(self.ttl_millis)),
                    };
                }
            }
        }
        Ok(())
    }

    fn has_voted(&self, vote: &Vote) -> bool {
        let same = |earlier: &&Vote| earlier.person == vote.person && earlier.verdict == vote.verdict;
        self.votes.iter().any(|earlier| same(&earlier) && !earlier.has_faded(vote.at))
    }

    /// Forgets the words of the votes, which are in the log: what was said must never be what keeps a vote from being cast.
    pub fn forget_comments(&mut self) {
        self.votes.iter_mut().for_each(|vote| vote.comment.clear());
    }

    /// A person takes an approving vote back. If the quorum had been met, the request is void.
    ///
    /// # Errors
    /// [`ApprovalError::State`] once it is over, [`ApprovalError::NoVote`] if there is none.
    pub fn withdraw(&mut self, person: &EntityRef, now: Timestamp) -> Result<(), ApprovalError> {
        let state = self.require_live(now)?;
        if !self.votes.iter().any(|vote| &vote.person == person) {
            return Err(ApprovalError::NoVote(person.clone()));
        }
        self.votes.retain(|vote| &vote.person != person);
        self.withdrawals.push(person.clone());
        if state == ApprovalState::Approved {
            self.written = Written::Void { at: now, why: VoidCause::Withdrawn { by: person.clone() } };
        }
        Ok(())
    }

    /// Whoever asked takes the question back while it is pending. A pre-approval can be ended when it is approved, too: nothing
    /// is charged to it afterwards (I6).
    ///
    /// # Errors
    /// [`ApprovalError::State`] unless it is pending, or an approved pre-approval.
    pub fn cancel(&mut self, by: EntityRef, now: Timestamp) -> Result<(), ApprovalError> {
        let state = self.require_live(now)?;
        if state != ApprovalState::Pending && self.pre_approval.is_none() {
            return Err(ApprovalError::State(state.word()));
        }
        self.written = Written::Cancelled { at: now, by };
        Ok(())
    }

    /// It is no longer good for anything.
    ///
    /// # Errors
    /// [`ApprovalError::State`] once it is over.
    pub fn void(&mut self, why: VoidCause, now: Timestamp) -> Result<(), ApprovalError> {
        self.require_live(now)?;
        self.written = Written::Void { at: now, why };
        Ok(())
    }

    /// Spends it (I1: once), or charges one use of a pre-approval; the last one spends it.
    ///
    /// # Errors
    /// [`ApprovalError::State`] unless it is approved, [`ApprovalError::UsedUp`]; it is unchanged then.
    pub fn redeem(&mut self, by: Spender, now: Timestamp) -> Result<(), ApprovalError> {
        let state = self.require_live(now)?;
        if state != ApprovalState::Approved {
            return Err(ApprovalError::State(state.word()));
        }
        let spent = match &mut self.pre_approval {
            Some(pre) => pre.charge(by.clone(), now)?,
            None => true,
        };
        if spent {
            self.written = Written::Redeemed { at: now, by };
        }
        Ok(())
    }

    /// When others are to be told next that nobody has answered. It means something only of a request that is pending.
    #[must_use]
    pub fn next_escalation(&self) -> Option<Timestamp> {
        self.escalations.first().copied()
    }

    /// When others are to be told next that nobody has answered, as long as it is pending.
    #[must_use]
    pub fn escalates_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.next_escalation().filter(|_| self.state(now) == ApprovalState::Pending)
    }

    /// Others are told that nobody has answered: whatever was to be told by `now` is told. Nothing else changes (silence is no
    /// approval). Answers whether there was anything to tell.
    pub fn escalate(&mut self, now: Timestamp) -> bool {
        let due = self.escalates_at(now).is_some_and(|at| now.reached(at));
        if due {
            self.escalations.retain(|at| !now.reached(*at));
        }
        due
    }

    fn require_live(&self, now: Timestamp) -> Result<ApprovalState, ApprovalError> {
        let state = self.state(now);
        if state.is_terminal() { Err(self.over(&state)) } else { Ok(state) }
    }

    /// Why nothing can be done with it in this state, which is terminal.
    #[must_use]
    pub fn over(&self, state: &ApprovalState) -> ApprovalError {
        match &self.pre_approval {
            Some(pre) if matches!(state, ApprovalState::Redeemed { .. }) => ApprovalError::UsedUp(pre.bounds().uses),
            Some(_) | None => ApprovalError::State(state.word()),
        }
    }
}

#[cfg(test)]
mod tests;
