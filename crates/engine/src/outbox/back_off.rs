//! How long to wait before something is tried again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Draws a fraction, in parts of 65,536. A test gives a constant.
pub type Jitter = Arc<dyn Fn() -> u16 + Send + Sync>;

/// Exponential back-off with jitter: each wait is twice the one before, up to the longest, and a random part of its second
/// half is left out, so that what failed together is not tried again together.
#[derive(Clone)]
pub struct BackOff {
    /// The first wait.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// What is random.
    pub jitter: Jitter,
}

impl fmt::Debug for BackOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackOff").field("first", &self.first).field("longest", &self.longest).finish_non_exhaustive()
    }
}

impl BackOff {
    /// The wait after so many failures in a row, from 1.
    #[must_use]
    pub fn wait(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let whole = self.first.saturating_mul(1_u32 << doublings).min(self.longest);
        let half = whole / 2;
        let drawn = half.saturating_mul(u32::from((self.jitter)())) / (u32::from(u16::MAX).saturating_add(1));
        whole.saturating_sub(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(jitter: u16) -> Vec<u64> {
        let back_off = BackOff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(10),
            jitter: Arc::new(move || jitter),
        };
        [1, 2, 3, 4, 5, 6, 100, u32::MAX].map(|n| u64::try_from(back_off.wait(n).as_millis()).unwrap()).to_vec()
    }

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_takes_up_to_half() {
        assert_eq!(waits(0), [1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000, 10_000]);
        assert_eq!(waits(1 << 15), [750, 1_500, 3_000, 6_000, 7_500, 7_500, 7_500, 7_500]);
        assert!(waits(u16::MAX).into_iter().zip(waits(0)).all(|(drawn, whole)| drawn >= whole / 2 && drawn < whole));
    }
}
