//! Questions to the log: which records are about somebody, something, or a time.
//!
//! An index follows the log, segment by segment, and no use case writes to it. A question is answered from the index as far as
//! that goes and from the log where it does not, so that what is found is complete up to the size that is told with it. Each record
//! that the index names is read and compared before it is shown: the index only says where to look.

mod facts;
mod walk;

use bytes::Bytes;
use countersign_core::Timestamp;
use countersign_store::questions::{Postings, SEGMENT, SegmentTimes};
use countersign_store::{CommitError, Kernel};

use crate::engine::{Call, Engine, Scene};
use crate::error::Error;

use facts::{Facts, hash};
use walk::{By, Next, Places, Strand, both};

pub use facts::{Field, entity_value, is_mark};

/// So many rows of the index are read for one page, about.
const ROWS: usize = 16_384;
/// So many records are read for one page, about.
const RECORDS: usize = 4_096;
/// A page ends with the record that brings it to this many bytes.
const PAGE_BYTES: usize = 2 * 1_024 * 1_024;
/// So many neighbouring records are read at once.
const RUN: u64 = 64;
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
    fn wants(&self, facts: &Facts) -> bool {
        let in_time = (self.from.is_none() && self.until.is_none())
            || facts
                .at
                .is_some_and(|at| self.from.is_none_or(|from| at >= from) && self.until.is_none_or(|until| at < until));
        in_time && self.values.iter().all(|value| facts.values.contains(value))
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
}

/// One page in the making.
struct Search<'a> {
    question: &'a Question,
    limit: usize,
    /// Looked at next: the index itself for the oldest first, the one after it for the newest first.
    place: u64,
    size: u64,
    found: Vec<(u64, Bytes)>,
    bytes: usize,
    records: usize,
    rows: usize,
}

impl Search<'_> {
    /// Whether the page is full, or took enough work.
    const fn over(&self) -> bool {
        self.found.len() >= self.limit || self.bytes >= PAGE_BYTES || self.records >= RECORDS || self.rows >= ROWS
    }

    /// The segment of the place; `None` when there is nothing more.
    fn segment(&self) -> Option<u64> {
        let index = if self.question.oldest_first {
            Some(self.place).filter(|place| *place < self.size)
        } else {
            self.place.checked_sub(1)
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
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn index_log(&self) -> Result<(), Error> {
        if self.repo.drop_old_index().await.map_err(kept)? {
            tracing::info!(tenant = %self.tenant(), "the index of the log has an old form, and is made anew");
        }
        let mut told = None;
        loop {
            let full = self.repo.kernel().log_size(self.tenant()).await? / SEGMENT;
            let segment = self.repo.indexed().await?;
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
            let (postings, times) = self.index_of(segment).await?;
            self.repo.index_segment(segment, &postings, times).await.map_err(kept)?;
            tokio::task::yield_now().await;
        }
    }

    /// What the index holds of a segment.
    async fn index_of(&self, segment: u64) -> Result<(Postings, Option<SegmentTimes>), Error> {
        let begin = segment.saturating_mul(SEGMENT);
        let end = begin.saturating_add(SEGMENT);
        let (mut next, mut postings, mut times) = (begin, Postings::new(), None);
        while next < end {
            let records = self.read_records(next, end).await?;
            let Some((last, _)) = records.last() else { break };
            next = last.saturating_add(1);
            for (number, (index, record)) in (1_usize..).zip(&records) {
                let Facts { at, values } = Facts::of(record);
                let place = u16::try_from(index.saturating_sub(begin)).unwrap_or(u16::MAX);
                for (field, value) in values {
                    postings.entry((field as u8, hash(&value))).or_default().push(place);
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
        Ok((postings, times))
    }

    /// Records from an index on, and before another.
    async fn read_records(&self, from: u64, end: u64) -> Result<Vec<(u64, Bytes)>, Error> {
        let limit = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut records = self.repo.kernel().log_entries(self.tenant(), from, limit).await?;
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
        // What is indexed is in the log: the size is read after it.
        let indexed = self.repo.indexed().await?;
        let size = self.repo.kernel().log_size(self.tenant()).await?;
        let place = match place {
            None if question.oldest_first => 0,
            None => size,
            Some(place) => place.min(size),
        };
        let (found, bytes, records, rows) = (Vec::new(), 0, 0, 0);
        let mut search = Search { question, limit, place, size, found, bytes, records, rows };
        let mut strands: Option<Vec<Strand>> = None;
        while let Some(segment) = search.segment() {
            if search.over() {
                return Ok(Answers { records: search.found, next: Some(search.place), log_size: size });
            }
            if segment >= indexed {
                self.look(&mut search, segment, None).await?;
                continue;
            }
            let strands = strands.get_or_insert_with(|| question.strands(segment));
            match self.leap(&mut search, strands, segment).await? {
                // A segment beyond is not indexed as a whole yet.
                Next::At((found, places)) if found < indexed => {
                    search.go_to(found);
                    self.look(&mut search, found, places).await?;
                }
                Next::At(_) | Next::Nowhere => search.leave_index(indexed),
                Next::Later(segment) => search.go_to(segment),
            }
        }
        Ok(Answers { records: search.found, next: None, log_size: size })
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
            let next = if search.question.oldest_first { segment.checked_add(1) } else { segment.checked_sub(1) };
            let Some(next) = next else { return Ok(Next::Nowhere) };
            segment = next;
        }
    }

    /// Looks at records of a segment until the page is over, and goes past the segment if it is not.
    async fn look(&self, search: &mut Search<'_>, segment: u64, places: Places) -> Result<(), Error> {
        let oldest = search.question.oldest_first;
        for run in search.runs(segment, places) {
            let (Some(one), Some(other)) = (run.first(), run.last()) else { continue };
            let (mut next, end) = (*one.min(other), one.max(other).saturating_add(1));
            let mut read = Vec::new();
            while next < end {
                let records = self.read_records(next, end).await?;
                let Some((last, _)) = records.last() else { break };
                next = last.saturating_add(1);
                read.extend(records);
            }
            for index in run {
                let Ok(at) = read.binary_search_by_key(&index, |(index, _)| *index) else { continue };
                let Some((_, record)) = read.get(at) else { continue };
                search.records = search.records.saturating_add(1);
                if search.question.wants(&Facts::of(record)) {
                    search.bytes = search.bytes.saturating_add(record.len());
                    search.found.push((index, record.clone()));
                }
                search.place = if oldest { index.saturating_add(1) } else { index };
                if search.over() {
                    return Ok(());
                }
            }
            tokio::task::yield_now().await;
        }
        search.go_past(segment);
        Ok(())
    }
}

/// A segment that could not be written is written the next time.
fn kept(error: CommitError) -> Error {
    error.into()
}
