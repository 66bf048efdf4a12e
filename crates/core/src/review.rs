//! Broken glass: how often one person may break it, and the review that each time opens.
//!
//! ```text
//! open ─▶ closed
//! ```
//!
//! A review has no deadline: it stays open until somebody else closes it, and as long as it is open, whoever broke the glass
//! does not break it again. *Closed* has no exit (I5).

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::approval::AskingRule;
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::{DecisionId, ReviewId, SessionId, TokenId};
use crate::time::{Span, Timestamp};

/// What the names of those who were passed over may take together, in bytes: some hundreds of them.
const MAX_NAMES_BYTES: usize = 12 * 1024;

/// How often one person may break the glass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlassBudget {
    /// So many times.
    pub times: u32,
    /// Within so long.
    pub within: Duration,
}

impl Default for GlassBudget {
    fn default() -> Self {
        Self { times: 3, within: Duration::from_secs(24 * 60 * 60) }
    }
}

/// Why the glass was not broken, or a review not closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GlassError {
    /// Nothing keeps the action from being allowed.
    #[error("the action is allowed without breaking the glass; use Decide, or `countersign decide`")]
    Unneeded,
    /// The person has not answered for the last time yet.
    #[error(
        "{person} broke the glass before, and the review {review} of that is open; somebody else must close it first: \
         `countersign reviews close {review} --comment TEXT`"
    )]
    ReviewOpen {
        /// Who.
        person: EntityRef,
        /// The review.
        review: ReviewId,
    },
    /// The person has broken it too often of late.
    #[error(
        "{person} broke the glass {times} times within {}, as often as one person may; it can be broken again in {}",
        Span(*.within), Span(*.again_in)
    )]
    TooOften {
        /// Who.
        person: EntityRef,
        /// How often.
        times: u32,
        /// Within how long.
        within: Duration,
        /// After how long the first of these times does not count any more.
        again_in: Duration,
    },
    /// The review is over.
    #[error("the review is closed already, by {0}")]
    Closed(EntityRef),
    /// Nobody reviews what they did themselves.
    #[error("{0} broke the glass, and cannot close the review of that; another person must")]
    Own(EntityRef),
    /// The person is part of what was done.
    #[error(
        "{0} owns or enforces the action that the glass was broken for, and cannot close the review; another person must"
    )]
    Excluded(EntityRef),
}

/// When a person broke the glass of late, and whether that is reviewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokenGlass {
    /// Who.
    pub person: EntityRef,
    /// Each time that may count, ascending.
    times: Vec<Timestamp>,
    /// The review that is open.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    open: Option<ReviewId>,
}

impl BrokenGlass {
    /// Never yet.
    #[must_use]
    pub const fn new(person: EntityRef) -> Self {
        Self { person, times: Vec::new(), open: None }
    }

    /// The person breaks the glass once more, which opens `review`. What closes reviews gives nothing of the budget back.
    ///
    /// # Errors
    /// [`GlassError::ReviewOpen`], [`GlassError::TooOften`]; nothing was counted then.
    pub fn break_it(&mut self, review: ReviewId, budget: GlassBudget, now: Timestamp) -> Result<(), GlassError> {
        if let Some(review) = self.open {
            return Err(GlassError::ReviewOpen { person: self.person.clone(), review });
        }
        let over = |at: &Timestamp| now.reached(at.plus(budget.within));
        let counted: Vec<Timestamp> = self.times.iter().filter(|at| !over(at)).copied().collect();
        let times = u32::try_from(counted.len()).unwrap_or(u32::MAX);
        if times >= budget.times {
            // The budget may have been larger once: so many must be over until there is room.
            let last_that_must_go = times.saturating_sub(budget.times);
            let must_go = usize::try_from(last_that_must_go).ok().and_then(|last| counted.get(last));
            let again_in = must_go.map_or(budget.within, |at| at.plus(budget.within).since(now));
            let (person, within) = (self.person.clone(), budget.within);
            return Err(GlassError::TooOften { person, times, within, again_in });
        }
        self.times = counted;
        self.times.push(now);
        self.open = Some(review);
        Ok(())
    }

    /// A review was closed.
    pub fn reviewed(&mut self, review: ReviewId) {
        self.open = self.open.filter(|open| *open != review);
    }

    /// Whether nothing in it can count any more.
    #[must_use]
    pub fn is_over(&self, budget: GlassBudget, now: Timestamp) -> bool {
        self.open.is_none() && self.times.iter().all(|at| now.reached(at.plus(budget.within)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", deny_unknown_fields)]
enum Written {
    Open,
    Closed { at: Timestamp, by: EntityRef, comment: String },
}

/// How a review was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing<'a> {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: &'a EntityRef,
    /// In the reviewer's words: a stranger's text.
    pub comment: &'a str,
}

/// The review of one time that somebody broke the glass, as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// Its id.
    pub id: ReviewId,
    /// Who broke the glass.
    pub person: EntityRef,
    /// Why, in their words: a stranger's text.
    pub reason: String,
    /// The decision that came of it.
    pub decision: DecisionId,
    /// The capability, if one was minted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub capability: Option<TokenId>,
    /// The session.
    pub session: SessionId,
    /// The canonical text of the action.
    pub action: String,
    /// Its SHA-256.
    pub digest: Digest,
    /// The rules that were lifted: these, and no others.
    pub rules: Vec<AskingRule>,
    /// Who could have answered them, and was not asked; as many as there is room for.
    pub passed_over: BTreeSet<EntityRef>,
    /// Whether there are more of them.
    pub more_passed_over: bool,
    /// Who could not have answered for the action, and closes no review of it either.
    pub excluded: BTreeSet<EntityRef>,
    /// The `breakGlass` policies that permitted it.
    pub permitted_by: Vec<String>,
    /// The bundle that they and the rules are of.
    pub bundle: Digest,
    /// When the glass was broken.
    pub opened_at: Timestamp,
    #[serde(rename = "status")]
    written: Written,
}

/// What opens a review.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Who broke the glass.
    pub person: EntityRef,
    /// Why.
    pub reason: String,
    /// The decision.
    pub decision: DecisionId,
    /// The capability, if one was minted.
    pub capability: Option<TokenId>,
    /// The session.
    pub session: SessionId,
    /// The canonical text of the action.
    pub action: String,
    /// Its digest.
    pub digest: Digest,
    /// The rules that were lifted.
    pub rules: Vec<AskingRule>,
    /// Who could have answered them.
    pub passed_over: BTreeSet<EntityRef>,
    /// Whether there are more than were looked for.
    pub more_passed_over: bool,
    /// Who could not have answered.
    pub excluded: BTreeSet<EntityRef>,
    /// The policies that permitted it.
    pub permitted_by: Vec<String>,
    /// Their bundle.
    pub bundle: Digest,
}

impl Review {
    /// Opens a review. Only so many are named who were passed over as there is always room for, whatever else is in it.
    #[must_use]
    pub fn open(id: ReviewId, opening: Opening, now: Timestamp) -> Self {
        let Opening { passed_over, more_passed_over, .. } = opening;
        let all = passed_over.len();
        let mut room = MAX_NAMES_BYTES;
        let fits = |person: &EntityRef| {
            // As JSON has it, at most: each byte escaped, and the words around.
            let takes = (person.kind().len() + person.id().len()).saturating_mul(2).saturating_add(32);
            let left = room.checked_sub(takes);
            room = left.unwrap_or(room);
            left.is_some()
        };
        let passed_over: BTreeSet<EntityRef> = passed_over.into_iter().take_while(fits).collect();
        Self {
            id,
            person: opening.person,
            reason: opening.reason,
            decision: opening.decision,
            capability: opening.capability,
            session: opening.session,
            action: opening.action,
            digest: opening.digest,
            rules: opening.rules,
            more_passed_over: more_passed_over || passed_over.len() < all,
            passed_over,
            excluded: opening.excluded,
            permitted_by: opening.permitted_by,
            bundle: opening.bundle,
            opened_at: now,
            written: Written::Open,
        }
    }

    /// How it was closed, if it was.
    #[must_use]
    pub fn closing(&self) -> Option<Closing<'_>> {
        match &self.written {
            Written::Open => None,
            Written::Closed { at, by, comment } => Some(Closing { at: *at, by, comment }),
        }
    }

    /// The one word for what it is.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self.written {
            Written::Open => "open",
            Written::Closed { .. } => "closed",
        }
    }

    /// The ids of the rules that were lifted.
    #[must_use]
    pub fn lifted(&self) -> BTreeSet<String> {
        self.rules.iter().map(|rule| rule.id.clone()).collect()
    }

    /// A person closes it. `excluded` are those who are excluded from the action now, beside those who were then.
    ///
    /// # Errors
    /// [`GlassError::Closed`], [`GlassError::Own`], [`GlassError::Excluded`]; it is unchanged then.
    pub fn close(
        &mut self,
        by: EntityRef,
        excluded: &BTreeSet<EntityRef>,
        comment: String,
        now: Timestamp,
    ) -> Result<(), GlassError> {
        if let Some(closing) = self.closing() {
            return Err(GlassError::Closed(closing.by.clone()));
        }
        if by == self.person {
            return Err(GlassError::Own(by));
        }
        if self.excluded.contains(&by) || excluded.contains(&by) {
            return Err(GlassError::Excluded(by));
        }
        self.written = Written::Closed { at: now, by, comment };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: GlassBudget = GlassBudget { times: 2, within: Duration::from_secs(60) };

    fn id(n: u8) -> ReviewId {
        ReviewId::from_bytes([n; 16])
    }

    fn person(id: &str) -> EntityRef {
        EntityRef::new("Person", id).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn review(passed_over: BTreeSet<EntityRef>) -> Review {
        let opening = Opening {
            person: person("nick"),
            reason: "the shop is down".into(),
            decision: DecisionId::from_bytes([1; 16]),
            capability: None,
            session: SessionId::from_bytes([2; 16]),
            action: "{}".into(),
            digest: Digest::of(b"{}"),
            rules: vec![AskingRule { id: "asks".into(), quorum: 2, reason: None, signed_votes: false }],
            passed_over,
            more_passed_over: false,
            excluded: BTreeSet::from([person("nick"), person("rolf")]),
            permitted_by: vec!["on-call".into()],
            bundle: Digest::of(b"bundle"),
        };
        Review::open(id(1), opening, at(0))
    }

    #[test]
    fn an_open_review_blocks_the_next_time_whenever_that_is() {
        let mut broken = BrokenGlass::new(person("nick"));
        broken.break_it(id(1), BUDGET, at(0)).unwrap();
        let open = Err(GlassError::ReviewOpen { person: person("nick"), review: id(1) });
        assert_eq!(broken.break_it(id(2), BUDGET, at(1)), open);
        assert_eq!(broken.break_it(id(2), BUDGET, at(1_000_000)), open);
        // Another one's end is none of it.
        broken.reviewed(id(7));
        assert_eq!(broken.break_it(id(2), BUDGET, at(1)), open);
        assert!(!broken.is_over(BUDGET, at(1_000_000)));
        broken.reviewed(id(1));
        broken.break_it(id(2), BUDGET, at(1)).unwrap();
        let text = serde_json::to_string(&broken).unwrap();
        assert_eq!(serde_json::from_str::<BrokenGlass>(&text).unwrap(), broken);
    }

    #[test]
    fn reviews_that_are_closed_quickly_give_no_more_times() {
        let mut broken = BrokenGlass::new(person("nick"));
        for n in [1, 2] {
            broken.break_it(id(n), BUDGET, at(i64::from(n))).unwrap();
            broken.reviewed(id(n));
        }
        let again_in = |seconds| {
            let (within, again_in) = (BUDGET.within, Duration::from_secs(seconds));
            Err(GlassError::TooOften { person: person("nick"), times: 2, within, again_in })
        };
        assert_eq!(broken.break_it(id(3), BUDGET, at(3)), again_in(58));
        assert_eq!(broken.break_it(id(3), BUDGET, at(60)), again_in(1));
        // A budget that was lowered says when there is room.
        let once = GlassBudget { times: 1, ..BUDGET };
        assert_eq!(broken.break_it(id(3), once, at(60)), again_in(2));
        broken.break_it(id(3), BUDGET, at(61)).unwrap();
        broken.reviewed(id(3));
        assert!(!broken.is_over(BUDGET, at(120)) && broken.is_over(BUDGET, at(121)));
    }

    #[test]
    fn somebody_else_closes_a_review_once() {
        let (mut review, nobody) = (review(BTreeSet::new()), BTreeSet::new());
        let untouched = review.clone();
        let close = |review: &mut Review, who: &str, excluded: &BTreeSet<EntityRef>| {
            review.close(person(who), excluded, "seen".into(), at(5))
        };
        assert_eq!(close(&mut review, "nick", &nobody), Err(GlassError::Own(person("nick"))));
        assert_eq!(close(&mut review, "rolf", &nobody), Err(GlassError::Excluded(person("rolf"))));
        let now = BTreeSet::from([person("nina")]);
        assert_eq!(close(&mut review, "nina", &now), Err(GlassError::Excluded(person("nina"))));
        assert_eq!((review.word(), &review), ("open", &untouched));
        close(&mut review, "nina", &nobody).unwrap();
        assert_eq!(close(&mut review, "sam", &nobody), Err(GlassError::Closed(person("nina"))));
        let closing = Closing { at: at(5), by: &person("nina"), comment: "seen" };
        assert_eq!((review.closing(), review.word()), (Some(closing), "closed"));
    }

    #[test]
    fn a_review_is_read_back_as_it_was_written() {
        let mut review = review(BTreeSet::from([person("dana")]));
        for _state in 0..2 {
            let text = serde_json::to_string(&review).unwrap();
            assert_eq!(serde_json::from_str::<Review>(&text).unwrap(), review);
            review.close(person("sam"), &BTreeSet::new(), "fine".into(), at(1)).unwrap_or_default();
        }
    }

    #[test]
    fn however_many_were_passed_over_there_is_room_for_the_rest() {
        let many: BTreeSet<EntityRef> = (0..5_000).map(|n| person(&format!("\"person{n}\""))).collect();
        let crowded = review(many);
        let named = serde_json::to_string(&crowded.passed_over).unwrap().len();
        assert!(named <= MAX_NAMES_BYTES && named > MAX_NAMES_BYTES / 2, "{named}");
        assert!(crowded.more_passed_over);
        assert!(!review(BTreeSet::from([person("dana")])).more_passed_over);
    }
}
