//! Notifications: what is told outside of the service of an approval request, and of the review of broken glass.
//!
//! A notification says that something happened and to which of them. It holds ids, persons, times and the digest, and neither
//! inputs nor anybody's words: it goes to places that the policies know nothing of, and whoever may see more asks for it.

use serde::{Deserialize, Serialize};

use crate::approval::{Approval, AskingRule, Changed, Verdict};
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::{ApprovalId, BatchId, NotificationId, ReviewId, SessionId};
use crate::review::Review;
use crate::time::Timestamp;

/// What the ids of the rules may take together in a notification, in bytes.
const MAX_RULES_BYTES: usize = 2 * 1024;

/// What notifications are told in the order of: one approval request, or one review. Their ids are apart, whatever kind they
/// are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line([u8; 16]);

impl Line {
    /// A line from its 16 bytes, as [`Self::as_bytes`] gave them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<ApprovalId> for Line {
    fn from(id: ApprovalId) -> Self {
        Self(*id.as_bytes())
    }
}

impl From<ReviewId> for Line {
    fn from(id: ReviewId) -> Self {
        Self(*id.as_bytes())
    }
}

/// What happened. The words are part of the wire and of the data format: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationKind {
    /// A question was put to people.
    Asked,
    /// A vote was cast.
    Voted,
    /// A vote was taken back.
    Withdrawn,
    /// The votes came to an answer: approved or denied.
    Decided,
    /// Whoever asked took the question back.
    Cancelled,
    /// The request is no longer good for anything.
    Void,
    /// Nobody has answered for a while; others may, or are to know.
    Escalated,
    /// Time ran out.
    Expired,
    /// The approval was spent.
    Redeemed,
    /// A person did without asking what others would have had to approve. They are named.
    GlassBroken,
    /// Somebody else has looked at that.
    ReviewClosed,
}

impl NotificationKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Asked,
        Self::Voted,
        Self::Withdrawn,
        Self::Decided,
        Self::Cancelled,
        Self::Void,
        Self::Escalated,
        Self::Expired,
        Self::Redeemed,
        Self::GlassBroken,
        Self::ReviewClosed,
    ];

    /// The one word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Voted => "voted",
            Self::Withdrawn => "withdrawn",
            Self::Decided => "decided",
            Self::Cancelled => "cancelled",
            Self::Void => "void",
            Self::Escalated => "escalated",
            Self::Expired => "expired",
            Self::Redeemed => "redeemed",
            Self::GlassBroken => "glass_broken",
            Self::ReviewClosed => "review_closed",
        }
    }

    /// Whether it is about a review, and not about an approval request.
    #[must_use]
    pub const fn is_of_review(self) -> bool {
        match self {
            Self::GlassBroken | Self::ReviewClosed => true,
            Self::Asked
            | Self::Voted
            | Self::Withdrawn
            | Self::Decided
            | Self::Cancelled
            | Self::Void
            | Self::Escalated
            | Self::Expired
            | Self::Redeemed => false,
        }
    }
}

/// Why a request became void, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoidWord {
    /// A person took an approving vote back after the quorum was met.
    Withdrawn,
    /// An eligible person denied after the quorum was met.
    Denied,
    /// Its session is over.
    SessionOver,
    /// It was revoked.
    Revoked,
    /// What the question rested on is no longer so.
    ConditionsChanged,
}

impl VoidWord {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Withdrawn => "withdrawn",
            Self::Denied => "denied",
            Self::SessionOver => "session_over",
            Self::Revoked => "revoked",
            Self::ConditionsChanged => "conditions_changed",
        }
    }
}

/// What happened, and through whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// What.
    pub kind: NotificationKind,
    /// Through whom; nobody when time did it, or the service.
    pub by: Option<EntityRef>,
    /// What was voted.
    pub verdict: Option<Verdict>,
    /// Why it is void.
    pub cause: Option<VoidWord>,
    /// Which of the conditions changed, if that is why.
    pub changed: Option<Changed>,
}

impl Happening {
    /// Something that one word tells.
    #[must_use]
    pub const fn new(kind: NotificationKind, by: Option<EntityRef>) -> Self {
        Self { kind, by, verdict: None, cause: None, changed: None }
    }
}

/// One notification, as it waits for delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    /// Its id: the same in every delivery, and for every sink.
    pub id: NotificationId,
    /// What happened.
    pub kind: NotificationKind,
    /// When it happened.
    pub at: Timestamp,
    /// The request; absent when it is about a review.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub approval: Option<ApprovalId>,
    /// The review of broken glass; absent when it is about a request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub review: Option<ReviewId>,
    /// What it was afterwards, in a word.
    pub state: String,
    /// The session that it belongs to.
    pub session: SessionId,
    /// The principal of the action.
    pub principal: EntityRef,
    /// The digest of the action.
    pub digest: Digest,
    /// The ids of the rules that ask, or that were lifted, as many as there is room for.
    pub rules: Vec<String>,
    /// Whether there are more of them.
    pub more_rules: bool,
    /// From when on the request is expired, if nothing else happens; a review never is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<Timestamp>,
    /// The batch that the question was put in, so that a receiver can tell of it as one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub batch: Option<BatchId>,
    /// Through whom it happened.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<EntityRef>,
    /// What was voted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verdict: Option<Verdict>,
    /// Why the request is void.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<VoidWord>,
    /// Which of the conditions changed, if that is why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub changed: Option<Changed>,
    /// Who could have answered, and was not asked because the glass was broken; as many as there is room for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub passed_over: Vec<EntityRef>,
    /// Whether there are more of them.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub more_passed_over: bool,
}

impl Notification {
    /// Tells of something that happened to a request, which `approval` is afterwards.
    #[must_use]
    pub fn of(approval: &Approval, state: &str, happening: Happening, at: Timestamp) -> Self {
        let Happening { kind, by, verdict, cause, changed } = happening;
        let rules = named(&approval.rules);
        Self {
            id: NotificationId::generate(),
            kind,
            at,
            approval: Some(approval.id),
            review: None,
            state: state.to_owned(),
            session: approval.session,
            principal: approval.principal.clone(),
            digest: approval.digest,
            more_rules: rules.len() < approval.rules.len(),
            rules,
            expires_at: Some(approval.expires_at()),
            batch: approval.batch.map(|together| together.id),
            by,
            verdict,
            cause,
            changed,
            passed_over: Vec::new(),
            more_passed_over: false,
        }
    }

    /// Tells that the glass was broken, or that this was reviewed.
    #[must_use]
    pub fn of_review(review: &Review, kind: NotificationKind, by: Option<EntityRef>, at: Timestamp) -> Self {
        let rules = named(&review.rules);
        Self {
            id: NotificationId::generate(),
            kind,
            at,
            approval: None,
            review: Some(review.id),
            state: review.word().to_owned(),
            session: review.session,
            principal: review.person.clone(),
            digest: review.digest,
            more_rules: rules.len() < review.rules.len(),
            rules,
            expires_at: None,
            batch: None,
            by,
            verdict: None,
            cause: None,
            changed: None,
            passed_over: review.passed_over.iter().cloned().collect(),
            more_passed_over: review.more_passed_over,
        }
    }

    /// What it is told in the order of. One that is about neither, which none is, has a line of its own.
    #[must_use]
    pub fn line(&self) -> Line {
        let own = || Line(*self.id.as_bytes());
        self.approval.map(Line::from).or_else(|| self.review.map(Line::from)).unwrap_or_else(own)
    }
}

/// The ids of rules, as many as there is room for.
fn named(rules: &[AskingRule]) -> Vec<String> {
    let mut room = MAX_RULES_BYTES;
    let fits = |rule: &&String| {
        let left = room.checked_sub(rule.len());
        room = left.unwrap_or(room);
        left.is_some()
    };
    rules.iter().map(|rule| &rule.id).take_while(fits).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::approval::Asking;

    fn approval(rules: usize) -> Approval {
        let rule = |n| AskingRule {
            id: format!("{n:0>200}"),
            quorum: 1,
            reason: Some("its author's words".into()),
            signed_votes: false,
        };
        let asking = Asking {
            action: "{\"input\":\"a secret\"}".into(),
            digest: Digest::of(b"{}"),
            session: SessionId::from_bytes([1; 16]),
            principal: EntityRef::new("Agent", "a").unwrap(),
            owner: EntityRef::new("Person", "olivia").unwrap(),
            history: crate::precedent::History::default(),
            asked_by: EntityRef::new("Agent", "a").unwrap(),
            justification: "a stranger's words".into(),
            labels: BTreeSet::new(),
            purpose: "the purpose".into(),
            rules: (0..rules).map(rule).collect(),
            bundle: Digest::of(b"bundle"),
            excluded: BTreeSet::new(),
            ttl: Duration::from_millis(100),
            escalations: BTreeSet::new(),
        };
        Approval::ask(ApprovalId::generate(), asking, Timestamp::from_millis(0))
    }

    #[test]
    fn a_notification_is_small_and_holds_nobodys_words() {
        let asked = Happening::new(NotificationKind::Asked, None);
        let told = Notification::of(&approval(500), "pending", asked, Timestamp::from_millis(7));
        let text = serde_json::to_string(&told).unwrap();
        assert!(text.len() < 3_000 && told.more_rules && told.rules.len() == 10, "{text}");
        for words in ["secret", "stranger", "purpose", "author"] {
            assert!(!text.contains(words), "{text}");
        }
        assert_eq!(serde_json::from_str::<Notification>(&text).unwrap(), told);
    }

    #[test]
    fn every_kind_is_written_as_its_word() {
        for kind in NotificationKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }
}
