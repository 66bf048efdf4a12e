//! Walking through the segments that may hold what is asked for.

use std::collections::VecDeque;

use countersign_core::Timestamp;
use countersign_store::Kernel;
use countersign_store::questions::{SegmentTimes, ValueHash};
use countersign_store::repository::Repository;

use crate::error::Error;

/// The first look ahead, in rows, and the furthest.
const FIRST: usize = 8;
const FURTHEST: usize = 1_024;

/// In which records of a segment: all of them, if nothing is known.
pub type Places = Option<Vec<u16>>;

/// The next segment in which something may be.
pub enum Next<T> {
    /// This one.
    At(T),
    /// There is none.
    Nowhere,
    /// Enough was read for now: it goes on with this segment.
    Later(u64),
}

/// What the segments are looked for by.
pub enum By {
    /// They have a value in a field.
    Value(u8, ValueHash),
    /// They have records of a time.
    Time { from: Option<Timestamp>, until: Option<Timestamp> },
}

/// The segments that one part of a question leaves, in the order asked for.
pub struct Strand {
    by: By,
    newest: bool,
    ahead: VecDeque<(u64, Places)>,
    /// Where the rows go on that are not read yet; `None` when there are none.
    rest: Option<u64>,
    look: usize,
}

impl Strand {
    /// The strand from a segment on, or from it back.
    pub const fn new(by: By, newest: bool, from: u64) -> Self {
        Self { by, newest, ahead: VecDeque::new(), rest: Some(from), look: FIRST }
    }

    /// The first segment that is not before `segment`; how many rows were read for it is added to `read`, of at most about `most`.
    pub async fn seek<K: Kernel>(
        &mut self,
        repo: &Repository<K>,
        segment: u64,
        read: &mut usize,
        most: usize,
    ) -> Result<Next<(u64, Places)>, Error> {
        let newest = self.newest;
        let before = |one: u64| if newest { one > segment } else { one < segment };
        loop {
            while self.ahead.front().is_some_and(|(one, _)| before(*one)) {
                self.ahead.pop_front();
            }
            if let Some(found) = self.ahead.front() {
                return Ok(Next::At(found.clone()));
            }
            let Some(rest) = self.rest else { return Ok(Next::Nowhere) };
            let from = if before(rest) { segment } else { rest };
            if *read >= most {
                return Ok(Next::Later(from));
            }
            self.read(repo, from, read).await?;
        }
    }

    async fn read<K: Kernel>(&mut self, repo: &Repository<K>, from: u64, read: &mut usize) -> Result<(), Error> {
        let (last, more, rows) = match &self.by {
            By::Value(field, value) => {
                let (rows, more) = repo.postings(*field, value, from, self.newest, self.look).await?;
                let (last, number) = (rows.last().map(|(segment, _)| *segment), rows.len());
                self.ahead.extend(rows.into_iter().map(|(segment, places)| (segment, Some(places))));
                (last, more, number)
            }
            By::Time { from: begin, until } => {
                let (rows, more) = repo.segment_times(from, self.newest, self.look).await?;
                let (last, number) = (rows.last().map(|(segment, _)| *segment), rows.len());
                let touches = |SegmentTimes { first, last }: &SegmentTimes| {
                    begin.is_none_or(|begin| *last >= begin) && until.is_none_or(|until| *first < until)
                };
                let rows = rows.into_iter().filter(|(_, times)| touches(times));
                self.ahead.extend(rows.map(|(segment, _)| (segment, None)));
                (last, more, number)
            }
        };
        *read = read.saturating_add(rows.max(1));
        let next = |last: u64| if self.newest { last.checked_sub(1) } else { last.checked_add(1) };
        self.rest = last.filter(|_| more).and_then(next);
        self.look = self.look.saturating_mul(4).min(FURTHEST);
        Ok(())
    }
}

/// What is in both.
pub fn both(one: Places, other: Places) -> Places {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.into_iter().filter(|place| other.binary_search(place).is_ok()).collect()),
        (Some(one), None) => Some(one),
        (None, other) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_both_is_in_each() {
        assert_eq!(both(Some(vec![1, 2, 5]), Some(vec![2, 3, 5])), Some(vec![2, 5]));
        assert_eq!(both(None, Some(vec![7])), Some(vec![7]));
        assert_eq!(both(Some(vec![7]), None), Some(vec![7]));
        assert_eq!(both(None, None), None);
        assert_eq!(both(Some(vec![1]), Some(vec![])), Some(vec![]));
    }
}
