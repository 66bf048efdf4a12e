//! Pages, the same on every backend.

use bytes::Bytes;

use super::{MAX_PAGE, MAX_PAGE_BYTES, Page, Row};
use crate::layout::{Key, Prefix};

/// Fills a page up to its limits.
pub(crate) struct PageBuilder {
    rows: Vec<(Key, Row)>,
    limit: usize,
    bytes: usize,
    more: bool,
}

impl PageBuilder {
    pub(crate) fn new(limit: usize) -> Self {
        Self { rows: Vec::new(), limit: limit.clamp(1, MAX_PAGE), bytes: 0, more: false }
    }

    /// Takes the next row, or notes that there is one when the page is full; whether there is room for another.
    pub(crate) fn take(&mut self, row: impl FnOnce() -> (Key, Row)) -> bool {
        if self.rows.len() >= self.limit || self.bytes >= MAX_PAGE_BYTES {
            self.more = true;
            return false;
        }
        let row = row();
        self.bytes = self.bytes.saturating_add(row.1.value.len());
        self.rows.push(row);
        true
    }

    pub(crate) fn finish(self) -> Page {
        let last = self.rows.last().map(|(key, _)| key.clone());
        Page { next: last.filter(|_| self.more), rows: self.rows }
    }
}

/// The first key of a scan, and the first one after it; `None`: there can be no row between.
pub(crate) fn bounds(prefix: &Prefix, after: Option<&Key>, before: Option<&Key>) -> Option<(Bytes, Bytes)> {
    let mut lower = Bytes::copy_from_slice(prefix.as_bytes());
    if let Some(after) = after {
        // The next key in order is the same one with a zero byte.
        lower = lower.max([after.as_bytes(), &[0]].concat().into());
    }
    let mut upper = prefix.end();
    if let Some(before) = before {
        upper = upper.min(Bytes::copy_from_slice(before.as_bytes()));
    }
    (lower < upper).then_some((lower, upper))
}
