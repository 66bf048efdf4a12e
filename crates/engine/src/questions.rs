//! Questions to the log: which records are about somebody, something, or a time.
//!
//! An index follows the log, segment by segment, and no use case writes to it. A question is answered from the index as far as
//! that goes and from the log where it does not, so that what is found is complete up to the size that is told with it. Each record
//! that the index names is read and compared before it is shown: the index only says where to look.

mod facts;
mod walk;

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use countersign_core::Timestamp;
use countersign_store::questions::{Postings, SEGMENT, SegmentTimes};
use countersign_store::{CommitError, Kernel};

use crate::engine::{Call, Engine, Scene};
use crate::error::Error;

use facts::{Facts, hash, may_say, time_of};
use walk::{By, Next, Places, Strand, both};

pub use facts::{Field, entity_value, is_mark};

/// So many rows of the index are read for one page, about: many more than it takes to look for each part of a question once, so that
/// every page gets further.
const ROWS: usize = 16_384;
/// So many records are read for one page, about.
const RECORDS: usize = 4_096;
/// A page ends with the record that brings it to this many bytes.
const PAGE_BYTES: usize = 2 * 1_024 * 1_024;
/// Records that are so near to each other are read in one go, and so many goes are made side by side.
const RUN: u64 = 16;
const READS: usize = 8;
/// From so many segments is gathered what is read.
const GATHER: usize = 32;
/// How many times longer indexing in the background rests than it works: a fifth of one processor is what it takes.
const RESTS: u32 = 4;
/// Between so many records that are taken apart, others have their turn.
const TURN: usize = 32;
/// How often is told how far the index is, in segments.
const TELL: u64 = 512;

/// What is asked for. All of it must be so.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The values of fields.
    pub values: Vec<(Field, String)>,
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Before this.
    pub until: Option<Timestamp>,
    /// The oldest first, in the order of the log, instead of the newest.
    pub oldest_first: bool,
}

impl Question {
    /// Whether a record is asked for.
    fn wants(&self, record: &[u8]) -> bool {
        if !self.values.iter().all(|value| may_say(record, value)) || !self.in_time(record) {
            return false;
        }
        let Facts { at: _, values } = Facts::of(record);
        self.values.iter().all(|value| values.contains(value))
    }

    fn in_time(&self, record: &[u8]) -> bool {
        if self.from.is_none() && self.until.is_none() {
            return true;
        }
        time_of(record)
            .is_some_and(|at| self.from.is_none_or(|from| at >= from) && self.until.is_none_or(|until| at < until))
    }

    /// The segment after this one, in the order asked for.
    const fn after(&self, segment: u64) -> Option<u64> {
        if self.oldest_first { segment.checked_add(1) } else { segment.checked_sub(1) }
    }

    /// What leaves segments out: all of it must be so in a segment.
    fn strands(&self, from: u64) -> Vec<Strand> {
        let newest = !self.oldest_first;
        let mut strands: Vec<_> = self
            .values
            .iter()
            .map(|(field, value)| Strand::new(By::Value(*field as u8, hash(value)), newest, from))
            .collect();
        if self.from.is_some() || self.until.is_some() {
            strands.push(Strand::new(By::Time { from: self.from, until: self.until }, newest, from));
        }
        strands
    }
}

/// Some of what was found.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// The records with their indices, in the order asked for. There may be none although there are more to come.
    pub records: Vec<(u64, Bytes)>,
    /// Where the search goes on; `None` when all was looked at.
    pub next: Option<u64>,
    /// The size of the log up to which the answer is complete, with the pages before and after it.
    pub log_size: u64,
    /// The first record that is kept: of those before it, none is found.
    pub minimum_index: u64,
}

/// One page in the making.
struct Search<'a> {
    question: &'a Question,
    limit: usize,
    /// Looked at next: the index itself for the oldest first, the one after it for the newest first.
    place: u64,
    size: u64,
    minimum: u64,
    found: Vec<(u64, Bytes)>,
    bytes: usize,
    records: usize,
    rows: usize,
}

impl Search<'_> {
    /// Whether the page is full, or enough records were read for it.
    const fn full(&self) -> bool {
        self.found.len() >= self.limit || self.bytes >= PAGE_BYTES || self.records >= RECORDS
    }

    /// Whether the page ends here. Of the index enough may be read before the records that it names are.
    const fn over(&self) -> bool {
        self.full() || self.rows >= ROWS
    }

    fn answers(self, more: bool) -> Answers {
        let next = more.then_some(self.place);
        Answers { records: self.found, next, log_size: self.size, minimum_index: self.minimum }
    }

    /// The segment of the place; `None` when there is nothing more.
    fn segment(&self) -> Option<u64> {
        let index = if self.question.oldest_first {
            Some(self.place).filter(|place| *place < self.size)
        } else {
            self.place.checked_sub(1).filter(|index| *index >= self.minimum)
        };
        index.and_then(|index| index.checked_div(SEGMENT))
    }

    /// Goes to the first record of a segment, in the order asked for, if that is further.
    fn go_to(&mut self, segment: u64) {
        let begin = segment.saturating_mul(SEGMENT);
        self.place = if self.question.oldest_first {
            self.place.max(begin)
        } else {
            self.place.min(begin.saturating_add(SEGMENT))
        };
    }

    /// Goes past everything that is indexed.
    fn leave_index(&mut self, indexed: u64) {
        if self.question.oldest_first {
            self.go_to(indexed);
        } else {
            self.place = 0;
        }
    }

    /// Goes past a segment.
    fn go_past(&mut self, segment: u64) {
        let begin = segment.saturating_mul(SEGMENT);
        self.place = if self.question.oldest_first { begin.saturating_add(SEGMENT) } else { begin };
    }

    /// The places of a segment that are yet to be looked at, in the order asked for, in runs of neighbours.
    fn runs(&self, segment: u64, places: Places) -> Vec<Vec<u64>> {
        let begin = segment.saturating_mul(SEGMENT);
        let all: Vec<u64> = match places {
            Some(places) => places.into_iter().map(|place| begin.saturating_add(u64::from(place))).collect(),
            None => (begin..begin.saturating_add(SEGMENT)).collect(),
        };
        let oldest = self.question.oldest_first;
        let left = |index: &u64| *index < self.size && if oldest { *index >= self.place } else { *index < self.place };
        let mut left: Vec<u64> = all.into_iter().filter(left).collect();
        if !oldest {
            left.reverse();
        }
        let mut runs: Vec<Vec<u64>> = Vec::new();
        for index in left {
            match runs.last_mut() {
                Some(run) if run.first().is_some_and(|first| first.abs_diff(index) < RUN) => run.push(index),
                Some(_) | None => runs.push(vec![index]),
            }
        }
        runs
    }
}

impl<K: Kernel> Engine<K> {
    /// Indexes the segments of the log that are full and not indexed. Whatever breaks it off, the next one goes on from there.
    /// Gently: it rests after each segment [`RESTS`] times as long as that took, so that decisions have the processor.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn index_log(&self, gently: bool) -> Result<(), Error> {
        if self.repo.drop_old_index().await.map_err(kept)? {
            tracing::info!(tenant = %self.tenant(), "the index of the log has an old form, and is made anew");
        }
        let mut told = None;
        loop {
            let full = self.repo.kernel().log_size(self.tenant()).await? / SEGMENT;
            let first = self.minimum_index().await? / SEGMENT;
            let segment = self.repo.indexed().await?.max(first);
            if segment >= full {
                if let Some(first) = told {
                    tracing::info!(tenant = %self.tenant(), segments = full.saturating_sub(first), "the log is indexed");
                }
                return Ok(());
            }
            if full.saturating_sub(segment) > 1 && (told.is_none() || segment.is_multiple_of(TELL)) {
                tracing::info!(tenant = %self.tenant(), indexed = segment, of = full, "indexing the log, in segments");
                told.get_or_insert(segment);
            }
            let begun = Instant::now();
            let (postings, times) = self.index_of(segment).await?;
            self.repo.index_segment(first, segment, &postings, times).await.map_err(kept)?;
            if gently {
                tokio::time::sleep(begun.elapsed().saturating_mul(RESTS)).await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// What the index holds of a segment.
    async fn index_of(&self, segment: u64) -> Result<(Postings, Option<SegmentTimes>), Error> {
        let begin = segment.saturating_mul(SEGMENT);
        let end = begin.saturating_add(SEGMENT);
        let (mut next, mut places, mut times) = (begin, HashMap::<_, Vec<u16>>::new(), None);
        while next < end {
            let records = self.read_records(next, end).await?;
            let Some((last, _)) = records.last() else { break };
            next = last.saturating_add(1);
            for (number, (index, record)) in (1_usize..).zip(&records) {
                let Facts { at, values } = Facts::of(record);
                let place = u16::try_from(index.saturating_sub(begin)).unwrap_or(u16::MAX);
                for value in values {
                    places.entry(value).or_default().push(place);
                }
                if let Some(at) = at {
                    let SegmentTimes { first, last } = times.unwrap_or(SegmentTimes { first: at, last: at });
                    times = Some(SegmentTimes { first: first.min(at), last: last.max(at) });
                }
                if number.is_multiple_of(TURN) {
                    tokio::task::yield_now().await;
                }
            }
        }
        let mut postings = Postings::new();
        for ((field, value), mut places) in places {
            // Two values of one hash, which nobody has seen, share a row.
            let row = postings.entry((field as u8, hash(&value))).or_default();
            row.append(&mut places);
            row.sort_unstable();
            row.dedup();
        }
        Ok((postings, times))
    }

    /// Records from an index on, and before another.
    async fn read_records(&self, from: u64, end: u64) -> Result<Vec<(u64, Bytes)>, Error> {
        let limit = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut records = self.log_records(from, limit).await?;
        records.retain(|(index, _)| *index < end);
        Ok(records)
    }

    /// A page of the records that a question asks for, from `place` on as the page before told it.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], [`Error::Store`].
    pub async fn search(
        &self,
        call: &Call,
        question: &Question,
        place: Option<u64>,
        limit: usize,
    ) -> Result<Answers, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            self.require_read_log(scene)?;
            self.find(question, place, limit).await
        };
        self.settle(call, None, attempt).await
    }

    async fn find(&self, question: &Question, place: Option<u64>, limit: usize) -> Result<Answers, Error> {
        let minimum = self.minimum_index().await?;
        // What is indexed is in the log: the size is read after it.
        let indexed = self.repo.indexed().await?;
        let size = self.repo.kernel().log_size(self.tenant()).await?;
        let place = match place {
            None if question.oldest_first => minimum,
            None => size,
            Some(place) => place.max(minimum).min(size),
        };
        let (found, bytes, records, rows) = (Vec::new(), 0, 0, 0);
        let mut search = Search { question, limit, place, size, minimum, found, bytes, records, rows };
        let mut strands: Option<Vec<Strand>> = None;
        while let Some(segment) = search.segment() {
            if search.over() {
                return Ok(search.answers(true));
            }
            if segment >= indexed {
                self.look(&mut search, vec![(segment, None)]).await?;
                continue;
            }
            let strands = strands.get_or_insert_with(|| question.strands(segment));
            let (gathered, then) = self.gather(&mut search, strands, segment, indexed).await?;
            if !self.look(&mut search, gathered).await? {
                continue;
            }
            match then {
                Next::At(()) => {}
                Next::Nowhere => search.leave_index(indexed),
                Next::Later(segment) => search.go_to(segment),
            }
        }
        Ok(search.answers(false))
    }

    /// The next segments in which everything may be that is asked for, enough for a page if every record is one; and whether there are
    /// more.
    async fn gather(
        &self,
        search: &mut Search<'_>,
        strands: &mut [Strand],
        mut segment: u64,
        indexed: u64,
    ) -> Result<(Vec<(u64, Places)>, Next<()>), Error> {
        let (mut gathered, mut places) = (Vec::new(), 0_usize);
        let left = search.limit.saturating_sub(search.found.len());
        loop {
            match self.leap(search, strands, segment).await? {
                // A segment beyond is not indexed as a whole yet, and one before the first that is kept is not there any more.
                Next::At((found, _)) if found >= indexed || found < search.minimum / SEGMENT => {
                    return Ok((gathered, Next::Nowhere));
                }
                Next::At((found, these)) => {
                    places = places.saturating_add(these.as_ref().map_or(usize::MAX, Vec::len));
                    gathered.push((found, these));
                    let Some(next) = search.question.after(found) else { return Ok((gathered, Next::Nowhere)) };
                    segment = next;
                }
                Next::Nowhere => return Ok((gathered, Next::Nowhere)),
                Next::Later(segment) => return Ok((gathered, Next::Later(segment))),
            }
            if gathered.len() >= GATHER || places >= left {
                return Ok((gathered, Next::At(())));
            }
        }
    }

    /// The next segment from `segment` on in which everything may be that is asked for.
    async fn leap(
        &self,
        search: &mut Search<'_>,
        strands: &mut [Strand],
        mut segment: u64,
    ) -> Result<Next<(u64, Places)>, Error> {
        'segments: loop {
            let mut places = None;
            for strand in strands.iter_mut() {
                match strand.seek(&self.repo, segment, &mut search.rows, ROWS).await? {
                    Next::At((at, _)) if at != segment => {
                        segment = at;
                        continue 'segments;
                    }
                    Next::At((_, these)) => places = both(places, these),
                    nothing @ (Next::Nowhere | Next::Later(_)) => return Ok(nothing),
                }
            }
            if places.as_ref().is_none_or(|places| !places.is_empty()) {
                return Ok(Next::At((segment, places)));
            }
            let Some(next) = search.question.after(segment) else { return Ok(Next::Nowhere) };
            segment = next;
        }
    }

    /// Looks at records of segments, and goes past the segments; or only until the page is over: whether it came to their end.
    async fn look(&self, search: &mut Search<'_>, segments: Vec<(u64, Places)>) -> Result<bool, Error> {
        let oldest = search.question.oldest_first;
        let last = segments.last().map(|(segment, _)| *segment);
        let runs: Vec<Vec<u64>> =
            segments.into_iter().flat_map(|(segment, places)| search.runs(segment, places)).collect();
        for some in runs.chunks(READS) {
            let read = futures::future::try_join_all(some.iter().map(|run| self.read_run(run))).await?;
            for (index, record) in read.into_iter().flatten() {
                search.records = search.records.saturating_add(1);
                search.place = if oldest { index.saturating_add(1) } else { index };
                if search.question.wants(&record) {
                    search.bytes = search.bytes.saturating_add(record.len());
                    search.found.push((index, record));
                }
                if search.full() {
                    return Ok(false);
                }
            }
            tokio::task::yield_now().await;
        }
        if let Some(last) = last {
            search.go_past(last);
        }
        Ok(true)
    }

    /// The records of a run, in its order.
    async fn read_run(&self, run: &[u64]) -> Result<Vec<(u64, Bytes)>, Error> {
        let (Some(one), Some(other)) = (run.first(), run.last()) else { return Ok(Vec::new()) };
        let (mut next, end) = (*one.min(other), one.max(other).saturating_add(1));
        let mut read = Vec::with_capacity(run.len());
        while next < end {
            let records = self.read_records(next, end).await?;
            let Some((last, _)) = records.last() else { break };
            next = last.saturating_add(1);
            read.extend(records.into_iter().filter(|(index, _)| run.contains(index)));
        }
        if one > other {
            read.reverse();
        }
        Ok(read)
    }
}

/// A segment that could not be written is written the next time.
fn kept(error: CommitError) -> Error {
    error.into()
}
