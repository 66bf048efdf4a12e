//! Approval requests: one question about one digest, and the votes cast on it.
//!
//! ```text
//! pending ─▶ approved ─▶ redeemed
//!    │           └─────▶ void | expired
//!    └─▶ denied | expired | cancelled | void
//! ```
//!
//! Terminal states have no exit (I5). *Expired* is never written by whoever waits: every reader decides it from the
//! record and the time, so that a stopped sweeper keeps nothing alive.

mod batch;
mod view;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::claimed::{Claimed, groups_at};
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::{ApprovalId, DecisionId, SessionId, TokenId};
use crate::precedent::History;
use crate::time::Timestamp;

pub use batch::Together;
pub use view::View;

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
}

/// What one person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes, to exactly this.
    Approve,
    /// No. One from an eligible person ends the request.
    Deny,
}

/// One person's vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// The canonical human; accounts do not vote, persons do.
    pub person: EntityRef,
    /// The account that was used: issuer and subject.
    pub account: String,
    /// What was said.
    pub verdict: Verdict,
    /// The asking rules that the person was eligible for when voting.
    pub rules: BTreeSet<String>,
    /// The digest that was shown.
    pub digest: Digest,
    /// The digest of everything that was shown.
    pub view: Digest,
    /// The person's words: a stranger's text.
    pub comment: String,
    /// When, by the server's clock.
    pub at: Timestamp,
    /// The groups that the voter was in by their credential and not by the directory: while they count, the vote may rest on
    /// them. Absent in a deny, which nothing counts again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub claimed: Option<Claimed>,
}

impl Vote {
    /// The groups that the voter's credential adds to those of the directory, as long as it does.
    #[must_use]
    pub fn groups_at(&self, now: Timestamp) -> &BTreeSet<EntityRef> {
        groups_at(self.claimed.as_ref(), now)
    }

    /// Whether it was cast with groups of a credential that has expired: it may not count any more, and can be cast again.
    fn has_faded(&self, now: Timestamp) -> bool {
        self.claimed.as_ref().is_some_and(|claimed| now.reached(claimed.until()))
    }
}

/// Why a request became void.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum VoidCause {
    /// A person took an approving vote back after the quorum was met.
    Withdrawn {
        /// Who.
        by: EntityRef,
    },
    /// An eligible person denied after the quorum was met.
    Denied {
        /// Who.
        by: EntityRef,
    },
    /// The session it belongs to is over.
    SessionOver,
    /// What the question rested on is no longer so.
    ConditionsChanged {
        /// What changed. Absent in what earlier releases wrote.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        changed: Option<Changed>,
    },
}

/// What is no longer as it was when a question was put, or answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changed {
    /// The policies deny the action now, whoever approves it.
    Denied,
    /// The policies allow the action now without anybody's approval.
    Allowed,
    /// Other rules ask now, or they ask it otherwise.
    Rules,
    /// The votes that approved it do not suffice any more: a voter lost the role, the credential that it was claimed by
    /// expired, or a voter came to be excluded.
    Votes,
    /// The action does not fit the schema any more.
    Schema,
    /// So many persons came to be excluded that the request has no room for them.
    Excluded,
}

impl Changed {
    /// The one word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Allowed => "allowed",
            Self::Rules => "rules",
            Self::Votes => "votes",
            Self::Schema => "schema",
            Self::Excluded => "excluded",
        }
    }
}

/// What a request is, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
enum Written {
    Pending,
    Approved { at: Timestamp },
    Denied { at: Timestamp, by: EntityRef },
    Cancelled { at: Timestamp, by: EntityRef },
    Void { at: Timestamp, why: VoidCause },
    Redeemed { at: Timestamp, by: Spender },
}

/// What spent an approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spender {
    /// The redeem of a capability.
    Capability(TokenId),
    /// An ALLOW that was answered without a capability.
    Decision(DecisionId),
}

/// What a request is at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApprovalState {
    /// Waiting for votes.
    Pending,
    /// Every rule that asks is met; usable until it expires.
    Approved,
    /// Ended by one eligible deny.
    Denied {
        /// Who denied.
        by: EntityRef,
    },
    /// Time ran out, before or after the quorum was met. Nobody said no.
    Expired,
    /// Taken back by whoever asked.
    Cancelled {
        /// Who cancelled.
        by: EntityRef,
    },
    /// No longer good for anything.
    Void {
        /// Why.
        why: VoidCause,
    },
    /// Spent.
    Redeemed {
        /// By what.
        by: Spender,
    },
}

impl ApprovalState {
    /// The one word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied { .. } => "denied",
            Self::Expired => "expired",
            Self::Cancelled { .. } => "cancelled",
            Self::Void { .. } => "void",
            Self::Redeemed { .. } => "redeemed",
        }
    }

    /// Whether there is no way out of it.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        !matches!(self, Self::Pending | Self::Approved)
    }
}

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
    /// There is no vote to take back.
    #[error("{0} has no vote on this request")]
    NoVote(EntityRef),
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
    /// How long people have to answer, and how long an approval then stays usable.
    pub ttl_millis: u64,
    /// When others are to be told that nobody has answered, ascending; what was told is gone.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    escalations: Vec<Timestamp>,
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

/// How far one rule is from being met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// The rule.
    pub rule: String,
    /// How many distinct persons it wants.
    pub quorum: u32,
    /// Who counts for it.
    pub persons: BTreeSet<EntityRef>,
}

impl Tally {
    /// Whether the quorum is met. A quorum of zero is never met: nobody has answered.
    #[must_use]
    pub fn met(&self) -> bool {
        self.quorum > 0 && u32::try_from(self.persons.len()).unwrap_or(u32::MAX) >= self.quorum
    }
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
            purpose,
            rules,
            bundle,
            excluded,
            created_at: now,
            ttl_millis: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            escalations: escalations.into_iter().filter(|after| *after < ttl).map(|after| now.plus(after)).collect(),
            expires_at: now.plus(ttl),
            votes: Vec::new(),
            withdrawals: Vec::new(),
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

    /// The digest of everything that is shown to people. Two requests that look different have different ones.
    #[must_use]
    pub fn view_digest(&self) -> Digest {
        View {
            id: self.id,
            action: &self.action,
            owner: self.owner.as_ref(),
            asked_by: &self.asked_by,
            justification: &self.justification,
            purpose: &self.purpose,
            rules: &self.rules,
            ttl_millis: self.ttl_millis,
            history: &self.history,
            batch: self.batch,
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
                    self.expires_at = now.plus(Duration::from_millis(self.ttl_millis));
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

    /// Whoever asked takes the question back while it is pending.
    ///
    /// # Errors
    /// [`ApprovalError::State`] unless it is pending.
    pub fn cancel(&mut self, by: EntityRef, now: Timestamp) -> Result<(), ApprovalError> {
        let state = self.require_live(now)?;
        if state != ApprovalState::Pending {
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

    /// Spends it (I1: once).
    ///
    /// # Errors
    /// [`ApprovalError::State`] unless it is approved.
    pub fn redeem(&mut self, by: Spender, now: Timestamp) -> Result<(), ApprovalError> {
        let state = self.require_live(now)?;
        if state != ApprovalState::Approved {
            return Err(ApprovalError::State(state.word()));
        }
        self.written = Written::Redeemed { at: now, by };
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
        if state.is_terminal() { Err(ApprovalError::State(state.word())) } else { Ok(state) }
    }
}

#[cfg(test)]
mod tests;
