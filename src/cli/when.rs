//! Times, for people and for programs.

use std::time::Duration;

use countersign_core::time::Span;
use jiff::Timestamp;

/// RFC 3339 in UTC; `None` when there is none, or it is no time that a calendar has.
pub fn rfc3339(time: Option<&prost_types::Timestamp>) -> Option<String> {
    time.and_then(read).map(|time| time.to_string())
}

/// How far away, and when exactly: `in 14m 30s (2026-03-04T05:06:07Z)`.
pub fn relative(time: Option<&prost_types::Timestamp>) -> String {
    relative_to(time, Timestamp::now())
}

fn relative_to(time: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    let Some(time) = time.and_then(read) else { return "unknown".to_owned() };
    let seconds = time.duration_since(now).as_secs();
    let span = words(seconds.unsigned_abs());
    let away = match seconds {
        0 => "now".to_owned(),
        1.. => format!("in {span}"),
        _ => format!("{span} ago"),
    };
    format!("{away} ({time})")
}

/// Whether it lies behind, by the clock of this machine.
pub fn passed(time: Option<&prost_types::Timestamp>) -> bool {
    time.and_then(read).is_some_and(|time| time <= Timestamp::now())
}

/// The two largest units.
pub fn words(seconds: u64) -> String {
    Span(Duration::from_secs(seconds)).to_string()
}

fn read(time: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn times_are_told_from_now_and_exactly() {
        let now = Timestamp::new(1_000_000, 0).unwrap();
        for (seconds, text) in [
            (1_000_870, "in 14m 30s (1970-01-12T14:01:10Z)"),
            (999_955, "45s ago (1970-01-12T13:45:55Z)"),
            (1_000_000, "now (1970-01-12T13:46:40Z)"),
        ] {
            assert_eq!(relative_to(Some(&at(seconds)), now), text);
        }
        assert_eq!(relative_to(None, now), "unknown");
        assert_eq!(relative_to(Some(&at(i64::MAX)), now), "unknown");
    }

    #[test]
    fn spans_have_two_units() {
        assert_eq!([59, 60, 3_599, 5_400, 90_000].map(words), ["59s", "1m 0s", "59m 59s", "1h 30m", "1d 1h"]);
    }

    #[test]
    fn programs_get_rfc_3339() {
        assert_eq!(rfc3339(Some(&at(0))).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!((rfc3339(None), rfc3339(Some(&at(i64::MIN)))), (None, None));
    }
}
