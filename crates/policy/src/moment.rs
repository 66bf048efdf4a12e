//! Time as policies see it.

use std::cell::RefCell;

use cedar_policy::RestrictedExpression;
use countersign_core::Timestamp;
use jiff::civil::{DateTime, Weekday};
use jiff::tz::Offset;

/// A moment in UTC that Cedar can hold: of the years 0 to 9999.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    millis: i64,
    civil: DateTime,
}

/// How many of a thread's latest times are kept as Cedar's. Making one takes Cedar a multiple of evaluating a policy, and
/// those of a session come again with each of its actions. A prime, since such times lie whole seconds apart and would
/// share a place otherwise.
const KEPT: u64 = 61;

thread_local! {
    /// Each time has one place, which is a matter of its milliseconds alone.
    static RECENT: RefCell<Vec<Option<(i64, RestrictedExpression)>>> = const { RefCell::new(Vec::new()) };
}

impl Moment {
    pub(crate) fn new(time: Timestamp) -> Option<Self> {
        let millis = time.millis();
        let civil = Offset::UTC.to_datetime(jiff::Timestamp::from_millisecond(millis).ok()?);
        (0..=9999).contains(&civil.year()).then_some(Self { millis, civil })
    }

    /// RFC 3339, with milliseconds.
    pub(crate) fn text(self) -> String {
        let t = self.civil;
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            t.year(),
            t.month(),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.millisecond()
        )
    }

    pub(crate) fn weekday(self) -> &'static str {
        match self.civil.weekday() {
            Weekday::Monday => "monday",
            Weekday::Tuesday => "tuesday",
            Weekday::Wednesday => "wednesday",
            Weekday::Thursday => "thursday",
            Weekday::Friday => "friday",
            Weekday::Saturday => "saturday",
            Weekday::Sunday => "sunday",
        }
    }

    pub(crate) fn hour(self) -> i64 {
        i64::from(self.civil.hour())
    }

    pub(crate) fn minute(self) -> i64 {
        i64::from(self.civil.minute())
    }

    /// As Cedar's `datetime`.
    pub(crate) fn instant(self) -> RestrictedExpression {
        RECENT.with_borrow_mut(|recent| {
            let place = usize::try_from(self.millis.unsigned_abs() % KEPT).unwrap_or(0);
            if recent.len() <= place {
                recent.resize(place + 1, None);
            }
            match recent.get_mut(place) {
                Some(Some((millis, instant))) if *millis == self.millis => instant.clone(),
                Some(kept) => {
                    let instant = RestrictedExpression::new_datetime(self.text());
                    *kept = Some((self.millis, instant.clone()));
                    instant
                }
                None => RestrictedExpression::new_datetime(self.text()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_utc() {
        // 2026-11-20T17:04:05.006Z, a Friday.
        let moment = Moment::new(Timestamp::from_millis(1_795_194_245_006)).unwrap();
        assert_eq!(moment.text(), "2026-11-20T17:04:05.006Z");
        assert_eq!((moment.weekday(), moment.hour(), moment.minute()), ("friday", 17, 4));
    }

    #[test]
    fn times_that_share_a_place_are_told_apart() {
        let seen = |moment: Moment| {
            let context = cedar_policy::Context::from_pairs([("t".to_owned(), moment.instant())]);
            context.unwrap().to_string()
        };
        for millis in [5, 5 + 61, -5, 5, 5 + 122] {
            let moment = Moment::new(Timestamp::from_millis(millis)).unwrap();
            assert!(seen(moment).contains(&moment.text()), "{} is not {}", seen(moment), moment.text());
        }
    }

    #[test]
    fn times_that_cedar_cannot_hold_are_none() {
        assert!(Moment::new(Timestamp::from_millis(i64::MAX)).is_none());
        assert!(Moment::new(Timestamp::from_millis(i64::MIN)).is_none());
    }
}
