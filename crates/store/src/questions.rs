//! The index of the log: which records have a value in a field.
//!
//! It is made of segments of consecutive records, each written when the log has all of it. Rows of a segment say the same whoever
//! writes them, and count from when the head says so: whatever breaks off is written again.

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_core::{TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::{CommitError, StoreError};
use crate::kernel::{Commit, Kernel, MAX_OPERATIONS, MAX_PAGE};
use crate::layout::{Key, Kind, Prefix};
use crate::repository::{CommitExt, Repository, Stored, Value, encode, stored};

pub use crate::layout::ValueHash;

/// The records of a segment.
pub const SEGMENT: u64 = 1_024;
/// The form of the rows and of what they are made from: rows of another one are thrown away and written anew.
const FORMAT: u32 = 1;
/// The version of a row of postings.
const POSTING_VERSION: u8 = 1;
/// So many commits are handed over at once: decisions wait for no more than that.
const COMMITS: usize = 8;

/// How far the log is indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionsHead {
    format: u32,
    /// The first segment that is not indexed.
    pub next: u64,
}

impl Value for QuestionsHead {
    const KIND: Kind = Kind::QuestionsHead;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::questions_head(tenant)
    }
}

/// The earliest and the latest time of the records of a segment. A later record may bear an earlier time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentTimes {
    /// The earliest.
    pub first: Timestamp,
    /// The latest.
    pub last: Timestamp,
}

/// The records of a segment that have a value in a field, by their places in it.
pub type Postings = BTreeMap<(u8, ValueHash), Vec<u16>>;

/// What is found in some segments, in the order asked for; whether there may be more.
pub type Segments<T> = (Vec<(u64, T)>, bool);

impl<K: Kernel> Repository<K> {
    /// The first segment that is not indexed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn indexed(&self) -> Result<u64, StoreError> {
        Ok(self.current_head().await?.map_or(0, |head| head.value.next))
    }

    async fn current_head(&self) -> Result<Option<Stored<QuestionsHead>>, StoreError> {
        let head: Option<Stored<QuestionsHead>> = self.read(&Key::questions_head(self.tenant())).await?;
        Ok(head.filter(|head| head.value.format == FORMAT))
    }

    /// The segments from `from` on, or from `from` back, in which a value stands in a field.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn postings(
        &self,
        field: u8,
        value: &ValueHash,
        from: u64,
        newest: bool,
        limit: usize,
    ) -> Result<Segments<Vec<u16>>, StoreError> {
        let key = |segment| Key::posting(self.tenant(), field, value, segment);
        let page = self.segments(&Prefix::postings(self.tenant(), field, value), key, from, newest, limit).await?;
        let places = |(key, row): &(Key, crate::kernel::Row)| {
            let places = read_places(&row.value).ok_or_else(|| StoreError::Damaged {
                reason: format!("the row {key:?} is not of a version that this release reads"),
            })?;
            Ok((key.segment().unwrap_or_default(), places))
        };
        Ok((page.rows.iter().map(places).collect::<Result<_, StoreError>>()?, page.next.is_some()))
    }

    /// The times of the segments from `from` on, or from `from` back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn segment_times(
        &self,
        from: u64,
        newest: bool,
        limit: usize,
    ) -> Result<Segments<SegmentTimes>, StoreError> {
        let key = |segment| Key::segment_times(self.tenant(), segment);
        let prefix = Prefix::kind(self.tenant(), Kind::SegmentTimes);
        let page = self.segments(&prefix, key, from, newest, limit).await?;
        let times =
            |(key, row): &(Key, crate::kernel::Row)| Ok((key.segment().unwrap_or_default(), stored(key, row)?.value));
        Ok((page.rows.iter().map(times).collect::<Result<_, StoreError>>()?, page.next.is_some()))
    }

    async fn segments(
        &self,
        prefix: &Prefix,
        key: impl Fn(u64) -> Key,
        from: u64,
        newest: bool,
        limit: usize,
    ) -> Result<crate::kernel::Page, StoreError> {
        if newest {
            let before = from.checked_add(1).map(key);
            self.kernel().scan_newest(prefix, before.as_ref(), limit).await
        } else {
            let after = from.checked_sub(1).map(key);
            self.kernel().scan(prefix, after.as_ref(), limit).await
        }
    }

    /// Writes the rows of a segment, and then that it is indexed. Segments are written in their order, from the `first` that is kept; one
    /// that another has written is left alone.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn index_segment(
        &self,
        first: u64,
        segment: u64,
        postings: &Postings,
        times: Option<SegmentTimes>,
    ) -> Result<(), CommitError> {
        let head = self.current_head().await?;
        if head.as_ref().map_or(first, |head| head.value.next.max(first)) != segment {
            return Ok(());
        }
        let tenant = self.tenant();
        let postings = postings
            .iter()
            .map(|((field, value), places)| (Key::posting(tenant, *field, value, segment), write_places(places)));
        let times = times.map(|times| (Key::segment_times(tenant, segment), encode(&times)));
        let rows: Vec<(Key, Bytes)> = postings.chain(times).collect();
        for some in rows.chunks(MAX_OPERATIONS.saturating_mul(COMMITS)) {
            let create = |rows: &[(Key, Bytes)]| {
                rows.iter()
                    .fold(Commit::new(tenant.clone()), |commit, (key, value)| commit.create(key.clone(), value.clone()))
            };
            let written = self.kernel().commit_many(some.chunks(MAX_OPERATIONS).map(create).collect()).await;
            for (rows, written) in some.chunks(MAX_OPERATIONS).zip(written) {
                match written {
                    Ok(_) => {}
                    // Somebody began, and did not come to the end.
                    Err(CommitError::Conflict { .. }) => self.complete(rows).await?,
                    Err(error) => return Err(error),
                }
            }
        }
        let read = match head {
            Some(head) => Some(head.revision),
            // There may be one of another form.
            None => self.kernel().get(&Key::questions_head(tenant)).await?.map(|row| row.revision),
        };
        let next = QuestionsHead { format: FORMAT, next: segment.saturating_add(1) };
        match self.kernel().commit(Commit::new(tenant.clone()).upsert(&next, read)).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes those of the rows that are not there.
    async fn complete(&self, rows: &[(Key, Bytes)]) -> Result<(), CommitError> {
        for (key, value) in rows {
            let commit = Commit::new(self.tenant().clone()).create(key.clone(), value.clone());
            match self.kernel().commit(commit).await {
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Throws away an index of another form. What the log holds is indexed anew afterwards.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn drop_old_index(&self) -> Result<bool, CommitError> {
        let head: Option<Stored<QuestionsHead>> = self.read(&Key::questions_head(self.tenant())).await?;
        let Some(head) = head.filter(|head| head.value.format != FORMAT) else { return Ok(false) };
        for kind in [Kind::Posting, Kind::SegmentTimes] {
            loop {
                let page = self.kernel().scan(&Prefix::kind(self.tenant(), kind), None, MAX_PAGE).await?;
                if page.rows.is_empty() {
                    break;
                }
                let delete = |rows: &[(Key, crate::kernel::Row)]| {
                    rows.iter().fold(Commit::new(self.tenant().clone()), |commit, (key, row)| {
                        commit.delete(key.clone(), row.revision)
                    })
                };
                let commits = page.rows.chunks(MAX_OPERATIONS).map(delete).collect();
                for deleted in self.kernel().commit_many(commits).await {
                    match deleted {
                        Ok(_) | Err(CommitError::Conflict { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        let key = Key::questions_head(self.tenant());
        match self.kernel().commit(Commit::new(self.tenant().clone()).delete(key, head.revision)).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn write_places(places: &[u16]) -> Bytes {
    let mut bytes = vec![POSTING_VERSION];
    bytes.extend(places.iter().flat_map(|place| place.to_be_bytes()));
    bytes.into()
}

fn read_places(bytes: &[u8]) -> Option<Vec<u16>> {
    let (&POSTING_VERSION, places) = bytes.split_first()? else { return None };
    let (places, rest) = places.as_chunks::<2>();
    rest.is_empty().then(|| places.iter().map(|place| u16::from_be_bytes(*place)).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::MemoryKernel;

    fn repository() -> Repository<MemoryKernel> {
        Repository::new(Arc::new(MemoryKernel::default()), TenantId::new("acme").unwrap())
    }

    fn postings(number: u8) -> Postings {
        (0..number).map(|place| ((1, [place; 16]), vec![u16::from(place), 1_023])).collect()
    }

    #[test]
    fn places_are_read_as_they_were_written_and_nothing_else_is() {
        for places in [vec![], vec![0], vec![0, 1, 256, 1_023]] {
            assert_eq!(read_places(&write_places(&places)), Some(places));
        }
        for bad in [&[][..], &[2], &[1, 0], &[0, 0, 1]] {
            assert_eq!(read_places(bad), None);
        }
    }

    #[tokio::test]
    async fn a_segment_that_was_begun_is_written_to_its_end() {
        let repo = repository();
        let begun = postings(5).into_iter().next_back().unwrap();
        let key = Key::posting(repo.tenant(), 1, &begun.0.1, 0);
        repo.kernel().commit(Commit::new(repo.tenant().clone()).create(key, write_places(&begun.1))).await.unwrap();
        repo.index_segment(0, 0, &postings(200), None).await.unwrap();
        assert_eq!(repo.indexed().await.unwrap(), 1);
        for place in 0..200 {
            let (found, more) = repo.postings(1, &[place; 16], 0, false, 10).await.unwrap();
            assert_eq!((found, more), (vec![(0, vec![u16::from(place), 1_023])], false));
        }
        // Neither one that is written nor one whose turn has not come.
        repo.index_segment(0, 0, &postings(1), None).await.unwrap();
        repo.index_segment(0, 2, &postings(1), None).await.unwrap();
        assert_eq!(repo.indexed().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn segments_are_found_from_both_ends() {
        let repo = repository();
        for segment in 0..5 {
            repo.index_segment(0, segment, &postings(1), None).await.unwrap();
        }
        let segments = async |from, newest, limit| {
            let (found, more) = repo.postings(1, &[0; 16], from, newest, limit).await.unwrap();
            (found.into_iter().map(|(segment, _)| segment).collect::<Vec<_>>(), more)
        };
        assert_eq!(segments(0, false, 9).await, (vec![0, 1, 2, 3, 4], false));
        assert_eq!(segments(2, false, 2).await, (vec![2, 3], true));
        assert_eq!(segments(3, true, 2).await, (vec![3, 2], true));
        assert_eq!(segments(u64::MAX, true, 9).await, (vec![4, 3, 2, 1, 0], false));
    }

    #[tokio::test]
    async fn an_index_of_another_form_is_thrown_away() {
        let repo = repository();
        let times = SegmentTimes { first: Timestamp::from_millis(1), last: Timestamp::from_millis(2) };
        repo.index_segment(0, 0, &postings(100), Some(times)).await.unwrap();
        assert!(!repo.drop_old_index().await.unwrap());
        let head: Stored<QuestionsHead> = repo.read(&Key::questions_head(repo.tenant())).await.unwrap().unwrap();
        let other = QuestionsHead { format: FORMAT + 1, next: 1 };
        let commit = Commit::new(repo.tenant().clone()).upsert(&other, Some(head.revision));
        repo.kernel().commit(commit).await.unwrap();
        assert_eq!(repo.indexed().await.unwrap(), 0);
        assert!(repo.drop_old_index().await.unwrap());
        for kind in [Kind::Posting, Kind::SegmentTimes, Kind::QuestionsHead] {
            let rows = repo.kernel().scan(&Prefix::kind(repo.tenant(), kind), None, 10).await.unwrap().rows;
            assert!(rows.is_empty());
        }
        repo.index_segment(0, 0, &postings(1), Some(times)).await.unwrap();
        assert_eq!(repo.segment_times(0, false, 9).await.unwrap(), (vec![(0, times)], false));
    }
}
