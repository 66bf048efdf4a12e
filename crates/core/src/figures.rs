//! How asking goes: figures for each rule that asks, and for each person who is asked.
//!
//! Figures tell what happened. No decision reads them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::approval::Verdict;
use crate::entity::EntityRef;

/// An approval that comes so soon after its voter first saw the request is *quick*: hardly anybody reads that fast.
pub const QUICK: Duration = Duration::from_secs(3);

/// What figures are about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A rule, by its policy id.
    Rule(String),
    /// A person.
    Person(EntityRef),
}

/// Something that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A question was put: the rule asks it, or the person could answer it then.
    Asked,
    /// A vote was cast: on a question of the rule, by somebody who may answer that rule; or by the person.
    Voted {
        /// What was said.
        verdict: Verdict,
        /// How long after the question, if that is known.
        waited: Option<Duration>,
        /// How long after its voter first saw the question, if that is known.
        looked: Option<Duration>,
    },
    /// A question came to an answer: of the rule, by everybody's votes; of the person, by the person's.
    Answered(Verdict),
}

/// The figures of one rule or person, since the log began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// What they are about.
    pub subject: Subject,
    /// Questions put.
    pub asked: u64,
    /// Answers that were yes.
    pub approved: u64,
    /// Answers that were no.
    pub denied: u64,
    /// Votes that were yes.
    pub approvals: u64,
    /// Those of [`Self::approvals`] of which it is known when their voter first saw the question.
    pub sighted: u64,
    /// Those of [`Self::sighted`] that came within [`QUICK`] of it.
    pub quick: u64,
    /// How long after the question votes were cast, yes or no.
    pub waits: Waits,
}

impl Figures {
    /// Nothing happened.
    #[must_use]
    pub fn new(subject: Subject) -> Self {
        let waits = Waits::default();
        Self { subject, asked: 0, approved: 0, denied: 0, approvals: 0, sighted: 0, quick: 0, waits }
    }

    /// Counts something.
    pub fn count(&mut self, happened: Happened) {
        let one_more = |count: &mut u64| *count = count.saturating_add(1);
        match happened {
            Happened::Asked => one_more(&mut self.asked),
            Happened::Answered(Verdict::Approve) => one_more(&mut self.approved),
            Happened::Answered(Verdict::Deny) => one_more(&mut self.denied),
            Happened::Voted { verdict, waited, looked } => {
                if let Some(waited) = waited {
                    self.waits.add(waited);
                }
                if verdict == Verdict::Approve {
                    one_more(&mut self.approvals);
                    if let Some(looked) = looked {
                        one_more(&mut self.sighted);
                        if looked <= QUICK {
                            one_more(&mut self.quick);
                        }
                    }
                }
            }
        }
    }
}

/// How often something took how long, in buckets: eight to each doubling, so that a bucket's middle is within a sixteenth
/// (6.25 %) of everything in it. Below 16 ms it is exact; what takes longer than 49 days counts as that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Waits(BTreeMap<u8, u64>);

/// Each doubling has two to the power of so many buckets.
const FINE: u32 = 3;

impl Waits {
    /// Counts one.
    pub fn add(&mut self, wait: Duration) {
        let count = self.0.entry(bucket(wait)).or_default();
        *count = count.saturating_add(1);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The median, within a sixteenth; of an even number the lower one.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        let half = self.count().div_ceil(2);
        let mut seen = 0_u64;
        let found = self.0.iter().find(|(_, count)| {
            seen = seen.saturating_add(**count);
            seen >= half
        });
        found.map(|(bucket, _)| middle(*bucket))
    }
}

fn bucket(wait: Duration) -> u8 {
    let millis = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let doubling = millis.max(1).ilog2();
    let Some(shift) = doubling.checked_sub(FINE) else { return u8::try_from(millis).unwrap_or(u8::MAX) };
    // The leading bit and the three after it: 8 to 15.
    let leading = millis >> shift;
    u8::try_from(shift.saturating_mul(8).saturating_add(leading)).unwrap_or(u8::MAX)
}

fn middle(bucket: u8) -> Duration {
    let bucket = u64::from(bucket);
    let Some(shift) = (bucket >> FINE).checked_sub(1) else { return Duration::from_millis(bucket) };
    let leading = bucket.saturating_sub(shift.saturating_mul(8));
    let (least, width) = (leading << shift, 1_u64 << shift);
    Duration::from_millis(least.saturating_add(width >> 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_bucket_is_within_a_sixteenth_of_all_that_is_in_it() {
        let mut millis = 0_u32;
        while let Some(next) = millis.checked_add(millis / 97 + 1) {
            let wait = Duration::from_millis(millis.into());
            let told = middle(bucket(wait));
            let off = told.abs_diff(wait).as_millis();
            assert!(off * 16 <= u128::from(millis), "{millis} ms is told as {told:?}");
            if millis < 16 {
                assert_eq!(told, wait);
            }
            millis = next;
        }
        assert_eq!(bucket(Duration::MAX), bucket(Duration::from_millis(u32::MAX.into())));
    }

    #[test]
    fn buckets_are_in_the_order_of_what_they_hold() {
        let buckets: Vec<u8> = (0..200_000).map(|millis| bucket(Duration::from_millis(millis * 21))).collect();
        assert!(buckets.is_sorted());
    }

    #[test]
    fn the_median_is_the_lower_one() {
        let mut waits = Waits::default();
        assert_eq!(waits.median(), None);
        for seconds in [1, 600, 2, 60] {
            waits.add(Duration::from_secs(seconds));
        }
        let median = waits.median().unwrap();
        assert!(median.abs_diff(Duration::from_secs(2)) * 16 <= Duration::from_secs(2), "{median:?}");
        assert_eq!(waits.count(), 4);
        let text = serde_json::to_string(&waits).unwrap();
        assert_eq!(serde_json::from_str::<Waits>(&text).unwrap(), waits);
    }

    #[test]
    fn quick_are_the_approvals_whose_voter_had_just_seen_the_question() {
        let mut figures = Figures::new(Subject::Rule("r".into()));
        let voted = |verdict, looked: Option<u64>| Happened::Voted {
            verdict,
            waited: Some(Duration::from_secs(60)),
            looked: looked.map(Duration::from_millis),
        };
        for (verdict, looked) in [
            (Verdict::Approve, Some(3_000)),
            (Verdict::Approve, Some(3_001)),
            (Verdict::Approve, None),
            (Verdict::Deny, Some(0)),
        ] {
            figures.count(voted(verdict, looked));
        }
        assert_eq!((figures.approvals, figures.sighted, figures.quick, figures.waits.count()), (3, 2, 1, 4));
    }
}
