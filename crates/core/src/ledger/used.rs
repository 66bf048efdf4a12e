//! What was charged to one counter.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Into so many parts a window is cut. A charge counts until the window after the part that it was made in is over, so at most
/// by that much too long, and never too short.
const PARTS: u64 = 16;

/// So many parts are kept, the last ones; the others are one. More than a window has, for bundles that come with a longer one.
const KEPT: usize = 20;

/// Charges, those of one part of the window together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Used(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    /// When it is over, and a new part begins.
    end: Timestamp,
    amount: u64,
}

impl Used {
    /// Charges, and tells until when that counts.
    pub(super) fn add(&mut self, amount: u64, window: Option<Duration>, now: Timestamp) -> Timestamp {
        let Some(window) = window else {
            // For as long as the ledger lasts.
            match self.0.first_mut() {
                Some(part) => part.amount = part.amount.saturating_add(amount),
                None => self.0.push(Part { end: now, amount }),
            }
            return now;
        };
        let length = i64::try_from(window.as_millis() / u128::from(PARTS)).unwrap_or(i64::MAX).max(1);
        let end = Timestamp::from_millis(now.millis().div_euclid(length).saturating_add(1).saturating_mul(length));
        match self.0.last_mut() {
            Some(part) if part.end >= end => part.amount = part.amount.saturating_add(amount),
            Some(_) | None => self.0.push(Part { end, amount }),
        }
        while self.0.len() > KEPT {
            let oldest = self.0.remove(0);
            if let Some(next) = self.0.first_mut() {
                next.amount = next.amount.saturating_add(oldest.amount);
            }
        }
        end.plus(window)
    }

    /// How much counts.
    pub(super) fn within(&self, window: Option<Duration>, now: Timestamp) -> u64 {
        let counting = self.0.iter().filter(|part| part.counts(window, now));
        counting.fold(0, |sum, part| sum.saturating_add(part.amount))
    }

    /// Forgets what does not count any more. Answers whether anything is left.
    pub(super) fn tidy(&mut self, window: Option<Duration>, now: Timestamp) -> bool {
        self.0.retain(|part| part.counts(window, now));
        !self.0.is_empty()
    }
}

impl Part {
    fn counts(&self, window: Option<Duration>, now: Timestamp) -> bool {
        window.is_none_or(|window| !now.reached(self.end.plus(window)))
    }
}
