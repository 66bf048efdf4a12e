//! The time that decides.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use countersign_core::{Clock, Timestamp};

use crate::error::Error;

/// How far the wall clock may be from where it should be before that is called a jump.
pub const TOLERANCE: Duration = Duration::from_secs(2);

/// How much faster or slower than the monotonic clock the wall clock may run for ever, as one part in so many. Time
/// synchronization that does not step slews both alike (`adjtimex(2)`), so what is left is far less.
const SLEW: u128 = 1_000;

/// A wall clock that never goes back and refuses to jump (I13): once it jumped, every reading is an error until a restart,
/// because what was decided by a wrong time cannot be told from what was not.
///
/// A jump is measured from the start on and not between two readings, or a clock that is set back a little before each
/// reading would stand still for ever, and every deadline with it.
pub struct Time {
    clock: Box<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    last: Timestamp,
    /// The wall time at which the monotonic clock showed nothing, as it is believed.
    origin: Timestamp,
    /// Up to when `origin` was allowed to follow the wall clock.
    followed: Duration,
    jumped: Option<i64>,
}

impl Time {
    /// Starts from `clock`. `floor` is a time that decided about something that is stored: a clock behind it is wrong.
    ///
    /// # Errors
    /// [`Error::ClockJumped`] if the clock is behind `floor` by more than [`TOLERANCE`].
    pub fn start(clock: Box<dyn Clock>, floor: Option<Timestamp>) -> Result<Self, Error> {
        let (wall, followed) = (clock.wall(), clock.monotonic());
        let floor = floor.unwrap_or(wall);
        if wall.plus(TOLERANCE) < floor {
            return Err(Error::ClockJumped(seconds(wall.millis().saturating_sub(floor.millis()))));
        }
        let origin = moved(wall, millis(followed).saturating_neg());
        let state = State { last: wall.max(floor), origin, followed, jumped: None };
        Ok(Self { clock, state: Mutex::new(state) })
    }

    /// The time, never before an earlier reading.
    ///
    /// # Errors
    /// [`Error::ClockJumped`] from the first jump on.
    pub fn now(&self) -> Result<Timestamp, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(by) = state.jumped {
            return Err(Error::ClockJumped(by));
        }
        let (wall, monotonic) = (self.clock.wall(), self.clock.monotonic());
        let by = wall.millis().saturating_sub(state.origin.plus(monotonic).millis());
        if by.unsigned_abs() > TOLERANCE.as_millis().try_into().unwrap_or(0) {
            state.jumped = Some(seconds(by));
            return Err(Error::ClockJumped(seconds(by)));
        }
        let slew = i64::try_from(monotonic.saturating_sub(state.followed).as_millis() / SLEW).unwrap_or(i64::MAX);
        if slew > 0 {
            state.origin = moved(state.origin, by.clamp(slew.saturating_neg(), slew));
            // What is less than a millisecond counts for the next time.
            let used = Duration::from_millis(u64::try_from(slew).unwrap_or(0)).saturating_mul(1_000);
            state.followed = state.followed.saturating_add(used).min(monotonic);
        }
        state.last = state.last.max(wall);
        Ok(state.last)
    }
}

fn moved(time: Timestamp, by: i64) -> Timestamp {
    Timestamp::from_millis(time.millis().saturating_add(by))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

const fn seconds(millis: i64) -> i64 {
    millis / 1_000
}

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Time").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use countersign_core::time::ManualClock;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_clock_that_jumps_stops_the_service_for_good() {
        for jump in [86_400_000, -3_600_000] {
            let clock = Arc::new(ManualClock::new(at(1_000_000_000)));
            let time = Time::start(Box::new(clock.clone()), None).unwrap();
            clock.advance(Duration::from_secs(3_600));
            let before = time.now().unwrap();
            clock.jump_to(at(before.millis() + jump));
            assert!(matches!(time.now(), Err(Error::ClockJumped(by)) if by == jump / 1_000));
            clock.jump_to(before);
            assert!(matches!(time.now(), Err(Error::ClockJumped(_))), "it jumped back, and is still not believed");
        }
    }

    #[test]
    fn a_small_step_back_is_not_seen() {
        let clock = Arc::new(ManualClock::new(at(1_000_000)));
        let time = Time::start(Box::new(clock.clone()), None).unwrap();
        clock.jump_to(at(999_500));
        assert_eq!(time.now().unwrap(), at(1_000_000));
    }

    #[test]
    fn small_steps_that_add_up_are_a_jump() {
        for step in [-100, 100] {
            let clock = Arc::new(ManualClock::new(at(1_000_000_000)));
            let time = Time::start(Box::new(clock.clone()), None).unwrap();
            let steps = (1..=60).find(|number| {
                clock.advance(Duration::from_secs(1));
                clock.jump_to(at(1_000_000_000 + number * (1_000 + step)));
                time.now().is_err()
            });
            assert_eq!(steps, Some(21), "two seconds in steps of a tenth");
        }
    }

    #[test]
    fn a_clock_that_runs_a_little_fast_or_slow_is_followed() {
        for parts_per_million in [-900, 900] {
            let clock = Arc::new(ManualClock::new(at(1_000_000_000)));
            let time = Time::start(Box::new(clock.clone()), None).unwrap();
            for minute in 1..=30 * 24 * 60 {
                clock.advance(Duration::from_secs(60));
                clock.jump_to(at(1_000_000_000 + minute * 60_000 + minute * 60 * parts_per_million / 1_000));
                time.now().unwrap();
            }
        }
    }

    #[test]
    fn a_clock_behind_what_was_decided_refuses_to_start() {
        let clock = || Box::new(ManualClock::new(at(1_000_000)));
        assert!(Time::start(clock(), Some(at(1_010_000))).is_err());
        assert_eq!(Time::start(clock(), Some(at(1_001_000))).unwrap().now().unwrap(), at(1_001_000));
    }
}
