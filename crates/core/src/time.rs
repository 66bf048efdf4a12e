//! Time, injected.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted (POSIX).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Later by `duration`; saturates, so that an absurd duration never wraps into the past.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whether a deadline has been reached: at the deadline itself it has.
    #[must_use]
    pub const fn reached(self, deadline: Self) -> bool {
        self.0 >= deadline.0
    }
}

/// How long something takes, for people: its two largest units, such as `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds}s"),
            (0, 0, m) => write!(f, "{m}m {}s", seconds % 60),
            (0, h, m) => write!(f, "{h}h {m}m"),
            (d, h, _) => write!(f, "{d}d {h}h"),
        }
    }
}

/// Where time comes from. Two readings, because a wall clock alone cannot tell a jump from a wait.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn wall(&self) -> Timestamp;
    /// Time since an arbitrary start that never goes back and does not follow the wall clock.
    fn monotonic(&self) -> Duration;
}

/// The clocks of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The system's clock, shifted: for development servers that rehearse another time.
#[derive(Debug)]
pub struct ShiftedClock {
    system: SystemClock,
    start: Timestamp,
}

impl ShiftedClock {
    /// A clock that shows `start` now, and goes on from there.
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self { system: SystemClock::default(), start }
    }
}

impl Clock for ShiftedClock {
    fn wall(&self) -> Timestamp {
        self.start.plus(self.system.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn wall(&self) -> Timestamp {
        (**self).wall()
    }
    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }
}

/// A clock that stands still until it is told otherwise: for tests, and for rehearsing rules that depend on the time.
#[derive(Debug)]
pub struct ManualClock {
    wall: std::sync::atomic::AtomicI64,
    monotonic: std::sync::atomic::AtomicI64,
}

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self { wall: std::sync::atomic::AtomicI64::new(now.0), monotonic: std::sync::atomic::AtomicI64::new(0) }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.wall.fetch_add(millis, std::sync::atomic::Ordering::SeqCst);
        self.monotonic.fetch_add(millis, std::sync::atomic::Ordering::SeqCst);
    }

    /// Moves the wall clock alone, as an operator or a broken time server would.
    pub fn jump_to(&self, wall: Timestamp) {
        self.wall.store(wall.0, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.wall.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.monotonic.load(std::sync::atomic::Ordering::SeqCst)).unwrap_or(0))
    }
}
