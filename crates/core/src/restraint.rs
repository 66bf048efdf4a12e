//! What keeps asking from wearing people out: a budget of questions for each principal, and a cool-down after a deny.
//!
//! Neither ever allows anything: both only refuse to put a question.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::claimed::{Claimed, groups_at};
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::ApprovalId;
use crate::time::{Span, Timestamp};

/// How far back questions are counted.
pub const WINDOW: Duration = Duration::from_secs(60 * 60);

/// How much one principal may ask, for each person that it acts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskingBudget {
    /// Questions that wait for votes at once.
    pub pending: u32,
    /// Questions within [`WINDOW`], whatever became of them.
    pub per_hour: u32,
}

impl Default for AskingBudget {
    fn default() -> Self {
        Self { pending: 20, per_hour: 60 }
    }
}

/// Why a question was not put.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestraintError {
    /// Too many wait already.
    #[error(
        "{principal} has {pending} questions that wait for people, as many as one principal may; wait for answers, or cancel some"
    )]
    Pending {
        /// Who asks too much.
        principal: EntityRef,
        /// How many wait.
        pending: u32,
    },
    /// Too many were put of late.
    #[error("{principal} has put {asked} questions within an hour, as many as one principal may; ask again in {}", Span(*.again_in))]
    PerHour {
        /// Who asks too much.
        principal: EntityRef,
        /// How many were put.
        asked: u32,
        /// After how long the first of them does not count any more.
        again_in: Duration,
    },
    /// People said no.
    #[error(
        "{} denied `{}` on {} for {}, and it cools down; ask again in {}, or after {} persons who may answer have lifted that: \
         `countersign approvals lift {}`",
        .0.by, .0.operation, .0.resource, .0.owner, Span(*.1), .0.lifts_needed, .0.denied
    )]
    CoolingDown(Box<CoolDown>, Duration),
    /// There is no cool-down to lift.
    #[error("no cool-down holds because of this request; ask again")]
    NotCoolingDown,
    /// Another deny of the same holds by now.
    #[error("a later deny holds the same back by now; lift that: `countersign approvals lift {0}`")]
    DeniedAgain(ApprovalId),
    /// The person has lifted it already.
    #[error("{0} has lifted it already; a person counts once, and others must join")]
    AlreadyLifted(EntityRef),
}

/// One principal's questions of late, for one person: how many in each minute that counts, and those that may wait for votes still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedOfLate {
    /// Who asked.
    pub principal: EntityRef,
    /// For whom. What an agent asks for one person takes nothing from what it may ask for another.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operator: Option<EntityRef>,
    waiting: Vec<Waiting>,
    /// Minutes since 1970, ascending, and how many were asked in each.
    minutes: Vec<(i64, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Waiting {
    approval: ApprovalId,
    /// After that it does not wait for votes any more.
    until: Timestamp,
}

/// In whole minutes: what was asked in one counts until the same second of [`WINDOW`] later, at most.
const MINUTE: i64 = 60_000;

fn counts_until(minute: i64) -> Timestamp {
    Timestamp::from_millis(minute.saturating_mul(MINUTE)).plus(WINDOW)
}

impl AskedOfLate {
    /// Nothing asked.
    #[must_use]
    pub const fn new(principal: EntityRef, operator: Option<EntityRef>) -> Self {
        Self { principal, operator, waiting: Vec::new(), minutes: Vec::new() }
    }

    /// The requests that may be pending still. Whether they are, they know themselves.
    pub fn perhaps_pending(&self, now: Timestamp) -> impl Iterator<Item = ApprovalId> + '_ {
        self.waiting.iter().filter(move |asked| !now.reached(asked.until)).map(|asked| asked.approval)
    }

    /// Counts one more question, which may be pending until `until`. `pending` are those that are.
    ///
    /// # Errors
    /// [`RestraintError::Pending`], [`RestraintError::PerHour`]; nothing was counted then.
    pub fn spend(
        &mut self,
        approval: ApprovalId,
        until: Timestamp,
        pending: &BTreeSet<ApprovalId>,
        budget: AskingBudget,
        now: Timestamp,
    ) -> Result<(), RestraintError> {
        let waiting = u32::try_from(pending.len()).unwrap_or(u32::MAX);
        if waiting >= budget.pending {
            return Err(RestraintError::Pending { principal: self.principal.clone(), pending: waiting });
        }
        let counted = |(minute, _): &&(i64, u32)| !now.reached(counts_until(*minute));
        let asked = self.minutes.iter().filter(counted).fold(0_u32, |sum, (_, asked)| sum.saturating_add(*asked));
        if asked >= budget.per_hour {
            // The budget may have been larger once: so many minutes must be over until there is room.
            let mut left = asked;
            let room = self.minutes.iter().filter(counted).find(|(_, asked)| {
                left = left.saturating_sub(*asked);
                left < budget.per_hour
            });
            let again_in = room.map_or(WINDOW, |(minute, _)| counts_until(*minute).since(now));
            return Err(RestraintError::PerHour { principal: self.principal.clone(), asked, again_in });
        }
        self.minutes.retain(|minute| counted(&minute));
        let minute = now.millis().div_euclid(MINUTE);
        match self.minutes.last_mut().filter(|(last, _)| *last >= minute) {
            Some((_, asked)) => *asked = asked.saturating_add(1),
            None => self.minutes.push((minute, 1)),
        }
        self.waiting.retain(|waiting| pending.contains(&waiting.approval));
        self.waiting.push(Waiting { approval, until });
        Ok(())
    }

    /// Whether nothing in it can count any more.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.minutes.iter().all(|(minute, _)| now.reached(counts_until(*minute)))
            && self.waiting.iter().all(|waiting| now.reached(waiting.until))
    }
}

/// After a deny, nobody asks for the same for a while: the same operation on the same resource, for whatever one owner is
/// answerable for. A digest would not do: one changed byte has another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoolDown {
    /// Who is answerable for the principal: its owner, or itself.
    pub owner: EntityRef,
    /// The operation.
    pub operation: String,
    /// The resource.
    pub resource: EntityRef,
    /// The request that was denied.
    pub denied: ApprovalId,
    /// Who denied it.
    pub by: EntityRef,
    /// Everyone whose deny it holds, or held until people lifted it: none of them begins another as long as it lasts.
    pub deniers: BTreeSet<EntityRef>,
    /// Who could not answer any of the denied requests, and therefore does not lift either.
    pub excluded: BTreeSet<EntityRef>,
    /// Since when it holds.
    pub since: Timestamp,
    /// Until when it holds, unless it is lifted.
    pub until: Timestamp,
    /// How many distinct persons lift it: more than it takes to approve, so that one who denies everything stops nobody for
    /// long, and nobody lifts alone what one denied.
    pub lifts_needed: u32,
    lifted_by: BTreeSet<EntityRef>,
    /// The groups that some of them were in by their credentials when they lifted it, and not by the directory.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    claimed: Vec<(EntityRef, Claimed)>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    lifted_at: Option<Timestamp>,
}

/// A deny, as far as it cools down.
#[derive(Debug, Clone)]
pub struct Denial {
    /// Who is answerable for the principal.
    pub owner: EntityRef,
    /// The operation.
    pub operation: String,
    /// The resource.
    pub resource: EntityRef,
    /// The request that was denied.
    pub denied: ApprovalId,
    /// Who denied it.
    pub by: EntityRef,
    /// Who could not answer the denied request.
    pub excluded: BTreeSet<EntityRef>,
    /// How many persons would have had to approve.
    pub quorum: u32,
    /// How long the rules say that it cools down.
    pub lasts: Duration,
}

impl CoolDown {
    /// What a deny leads to, beside what an earlier one left: the later end of both. `None` if nothing changes: the rules do
    /// not say that it cools down, or this is the deny once more of somebody whose deny counts already, or whose deny people
    /// have lifted. One person's denies, however many, are one cool-down.
    #[must_use]
    pub fn start(denial: Denial, earlier: Option<&Self>, now: Timestamp) -> Option<Self> {
        let Denial { owner, operation, resource, denied, by, mut excluded, quorum, lasts } = denial;
        let earlier = earlier.filter(|earlier| !now.reached(earlier.until));
        if lasts.is_zero() || earlier.is_some_and(|earlier| earlier.deniers.contains(&by)) {
            return None;
        }
        let until = earlier.map_or(now, |earlier| earlier.until).max(now.plus(lasts));
        let mut deniers = BTreeSet::from([by.clone()]);
        if let Some(earlier) = earlier {
            deniers.extend(earlier.deniers.iter().cloned());
            excluded.extend(earlier.excluded.iter().cloned());
        }
        Some(Self {
            owner,
            operation,
            resource,
            denied,
            by,
            deniers,
            excluded,
            since: now,
            until,
            lifts_needed: quorum.saturating_add(1),
            lifted_by: BTreeSet::new(),
            claimed: Vec::new(),
            lifted_at: None,
        })
    }

    /// What it is about, in one value: rows are found by it.
    #[must_use]
    pub fn subject(owner: &EntityRef, operation: &str, resource: &EntityRef) -> Digest {
        Digest::of_parts(&[
            owner.kind().as_bytes(),
            owner.id().as_bytes(),
            operation.as_bytes(),
            resource.kind().as_bytes(),
            resource.id().as_bytes(),
        ])
    }

    /// Whether it refuses questions at `now`.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.lifted_at.is_none() && !now.reached(self.until)
    }

    /// Whether it weighs on anything at `now`: one that was lifted is remembered as long as it would have held.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now.reached(self.until)
    }

    /// Refuses a question while it holds.
    ///
    /// # Errors
    /// [`RestraintError::CoolingDown`].
    pub fn require_over(&self, now: Timestamp) -> Result<(), RestraintError> {
        if self.holds(now) {
            return Err(RestraintError::CoolingDown(Box::new(self.clone()), self.until.since(now)));
        }
        Ok(())
    }

    /// Who has lifted it so far.
    #[must_use]
    pub const fn lifted_by(&self) -> &BTreeSet<EntityRef> {
        &self.lifted_by
    }

    /// A person lifts it, in the groups that they claim. `eligible` says whether somebody may answer the denied request's rules
    /// now, with such groups; it is asked for everyone who lifted it before, too. Returns whether that was enough.
    ///
    /// # Errors
    /// [`RestraintError::NotCoolingDown`], [`RestraintError::AlreadyLifted`].
    pub fn lift(
        &mut self,
        person: EntityRef,
        claimed: Option<Claimed>,
        eligible: impl Fn(&EntityRef, &BTreeSet<EntityRef>) -> bool,
        now: Timestamp,
    ) -> Result<bool, RestraintError> {
        if !self.holds(now) {
            return Err(RestraintError::NotCoolingDown);
        }
        let faded = |(who, claimed): &(EntityRef, Claimed)| *who == person && now.reached(claimed.until());
        if self.lifted_by.contains(&person) && !self.claimed.iter().any(faded) {
            return Err(RestraintError::AlreadyLifted(person));
        }
        self.claimed.retain(|(who, _)| *who != person);
        self.claimed.extend(claimed.map(|claimed| (person.clone(), claimed)));
        self.lifted_by.insert(person);
        let counts = |who: &&EntityRef| !self.excluded.contains(*who) && eligible(who, self.groups_of(who, now));
        let count = self.lifted_by.iter().filter(counts).count();
        if u32::try_from(count).unwrap_or(u32::MAX) >= self.lifts_needed {
            self.lifted_at = Some(now);
        }
        Ok(self.lifted_at.is_some())
    }

    /// The groups that the credential of somebody who lifted it adds to those of the directory, as long as it does.
    fn groups_of(&self, person: &EntityRef, now: Timestamp) -> &BTreeSet<EntityRef> {
        let claimed = self.claimed.iter().find(|(who, _)| who == person);
        groups_at(claimed.map(|(_, claimed)| claimed), now)
    }

    /// From when on it is over, or fewer of those who lifted it count, though nobody does anything.
    #[must_use]
    pub fn lapses_at(&self, now: Timestamp) -> Timestamp {
        self.claimed.iter().filter_map(|(_, claimed)| claimed.lapses_at(now)).fold(self.until, Ord::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: AskingBudget = AskingBudget { pending: 2, per_hour: 3 };
    const HOUR: i64 = 3_600_000;

    fn id(n: u8) -> ApprovalId {
        ApprovalId::from_bytes([n; 16])
    }

    fn person(id: &str) -> EntityRef {
        EntityRef::new("Person", id).unwrap()
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn ask(asked: &mut AskedOfLate, n: u8, pending: &[u8], now: i64) -> Result<(), RestraintError> {
        let pending = pending.iter().map(|n| id(*n)).collect();
        asked.spend(id(n), at(now + 1_000), &pending, BUDGET, at(now))
    }

    #[test]
    fn only_so_many_wait_at_once() {
        let mut asked = AskedOfLate::new(person("a"), None);
        ask(&mut asked, 1, &[], 0).unwrap();
        ask(&mut asked, 2, &[1], 1).unwrap();
        let refused = ask(&mut asked, 3, &[1, 2], 2);
        assert_eq!(refused, Err(RestraintError::Pending { principal: person("a"), pending: 2 }));
        // One of them was answered.
        ask(&mut asked, 3, &[2], 3).unwrap();
        assert_eq!(asked.perhaps_pending(at(1_000)).collect::<Vec<_>>(), [id(2), id(3)]);
    }

    #[test]
    fn only_so_many_are_asked_within_an_hour() {
        let mut asked = AskedOfLate::new(person("a"), None);
        for n in 1..=3 {
            ask(&mut asked, n, &[], i64::from(n) * MINUTE + 7_000).unwrap();
        }
        let refused = ask(&mut asked, 4, &[], 3 * MINUTE + 30_000);
        let again_in = Duration::from_millis(3_600_000 - 150_000);
        assert_eq!(refused, Err(RestraintError::PerHour { principal: person("a"), asked: 3, again_in }));
        assert!(ask(&mut asked, 4, &[], HOUR + MINUTE - 1).is_err());
        ask(&mut asked, 4, &[], HOUR + MINUTE).unwrap();
        assert!(ask(&mut asked, 5, &[], HOUR + MINUTE + 1).is_err());
        assert!(!asked.is_over(at(2 * HOUR)));
        assert!(asked.is_over(at(2 * HOUR + MINUTE)));
        let text = serde_json::to_string(&asked).unwrap();
        assert_eq!(serde_json::from_str::<AskedOfLate>(&text).unwrap(), asked);
    }

    #[test]
    fn a_budget_that_was_lowered_says_when_there_is_room() {
        let mut asked = AskedOfLate::new(person("a"), None);
        for n in 1..=3 {
            ask(&mut asked, n, &[], i64::from(n) * MINUTE).unwrap();
        }
        let one = AskingBudget { per_hour: 1, ..BUDGET };
        let refused = asked.spend(id(4), at(0), &BTreeSet::new(), one, at(4 * MINUTE));
        let again_in = Duration::from_millis(3_600_000 - 60_000);
        assert_eq!(refused, Err(RestraintError::PerHour { principal: person("a"), asked: 3, again_in }));
    }

    fn denial(by: &str) -> Denial {
        Denial {
            owner: person("olivia"),
            operation: "export".into(),
            resource: EntityRef::new("Dataset", "docs").unwrap(),
            denied: id(1),
            by: person(by),
            excluded: BTreeSet::from([person("olivia")]),
            quorum: 1,
            lasts: Duration::from_millis(100),
        }
    }

    #[test]
    fn a_deny_cools_down_for_as_long_as_its_rules_say() {
        let down = CoolDown::start(denial("dana"), None, at(0)).unwrap();
        assert!(down.require_over(at(99)).is_err());
        assert_eq!(down.require_over(at(100)), Ok(()));
        assert_eq!(CoolDown::start(Denial { lasts: Duration::ZERO, ..denial("dana") }, None, at(0)), None);
        // A shorter one does not shorten it.
        let again = Denial { lasts: Duration::from_millis(10), ..denial("dave") };
        assert_eq!(CoolDown::start(again, Some(&down), at(50)).unwrap().until, at(100));
    }

    #[test]
    fn more_persons_than_the_quorum_lift_it() {
        let mut down = CoolDown::start(denial("dana"), None, at(0)).unwrap();
        assert_eq!(down.lift(person("dave"), None, |_, _| true, at(1)), Ok(false));
        assert_eq!(
            down.lift(person("dave"), None, |_, _| true, at(2)),
            Err(RestraintError::AlreadyLifted(person("dave")))
        );
        // Dave may not answer any more.
        assert_eq!(down.lift(person("eve"), None, |who, _| who.id() != "dave", at(3)), Ok(false));
        assert!(down.holds(at(3)));
        assert_eq!(down.lift(person("fay"), None, |who, _| who.id() != "dave", at(4)), Ok(true));
        assert!(!down.holds(at(4)));
        assert_eq!(down.lift(person("gus"), None, |_, _| true, at(5)), Err(RestraintError::NotCoolingDown));
    }

    #[test]
    fn whose_deny_was_lifted_begins_no_other_while_it_would_have_held() {
        let mut down = CoolDown::start(denial("dana"), None, at(0)).unwrap();
        down.lift(person("dave"), None, |_, _| true, at(1)).unwrap();
        assert!(down.lift(person("eve"), None, |_, _| true, at(1)).unwrap());
        assert_eq!(CoolDown::start(denial("dana"), Some(&down), at(50)), None);
        assert!(CoolDown::start(denial("dana"), Some(&down), at(100)).is_some());
        // Another one's no is another no; dana's stays lifted beside it.
        let mut others = CoolDown::start(denial("gus"), Some(&down), at(50)).unwrap();
        assert!(others.holds(at(50)) && others.lifted_by().is_empty());
        others.lift(person("dave"), None, |_, _| true, at(51)).unwrap();
        assert!(others.lift(person("eve"), None, |_, _| true, at(51)).unwrap());
        assert_eq!(CoolDown::start(denial("dana"), Some(&others), at(60)), None);
    }

    #[test]
    fn one_persons_denies_neither_prolong_it_nor_undo_what_others_have_lifted() {
        let mut down = CoolDown::start(denial("dana"), None, at(0)).unwrap();
        down.lift(person("dave"), None, |_, _| true, at(1)).unwrap();
        assert_eq!(CoolDown::start(Denial { denied: id(2), ..denial("dana") }, Some(&down), at(50)), None);
        assert_eq!((down.lifted_by().len(), down.until), (1, at(100)));
    }

    #[test]
    fn who_could_not_answer_any_of_the_denied_requests_does_not_lift() {
        let down = CoolDown::start(denial("dana"), None, at(0)).unwrap();
        let other = Denial { excluded: BTreeSet::from([person("eve")]), ..denial("gus") };
        let mut down = CoolDown::start(other, Some(&down), at(1)).unwrap();
        for (who, lifted) in [("olivia", false), ("eve", false), ("dave", false), ("fay", true)] {
            assert_eq!(down.lift(person(who), None, |_, _| true, at(2)), Ok(lifted), "{who}");
        }
    }
}
