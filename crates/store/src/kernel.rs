//! The kernel: an ordered key-value store whose every change is guarded, and the log that records each change.
//!
//! Strict serializability is the one semantics. There is one order of all commits; an answer is given only when its
//! commit is durable; a read that starts after an answer sees that commit; a commit is compared with the rows as they
//! are at its place in that order. Everything else (sessions, approvals, single use) is built from guarded commits.

mod commit;
mod page;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use countersign_audit::{Frontier, Hash, NodeId};
use countersign_core::TenantId;
use futures::{Stream, StreamExt as _};

use crate::error::{CommitError, StoreError};
use crate::layout::{Key, Prefix};

pub use commit::{Commit, Guard, Now, Until, Write};
pub(crate) use page::{PageBuilder, bounds};

/// How many guards a commit may have, and how many writes and records together. Set by what etcd takes in one
/// transaction, so that no commit that works here fails there.
pub const MAX_OPERATIONS: usize = 64;
/// The longest value of a row, in bytes.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;
/// The longest record of the log, in bytes.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;
/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// The most rows or records of one page; a larger limit is cut to it.
pub const MAX_PAGE: usize = 1024;
/// A page ends after the entry that brings its values to this many bytes, whatever its limit.
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The place of a commit in the one order of all commits of a store, from 1.
///
/// A row carries the revision of the commit that wrote it. No two commits share one, and none is given out again, not
/// even after a row was deleted: a guard on a revision holds only for exactly the row that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Revision(u64);

impl Revision {
    /// Before the first commit: watching from here shows every row.
    pub const ZERO: Self = Self(0);

    /// From the number, as [`Self::get`] gave it.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision of the next commit. Saturates: 2^64 commits are out of reach.
    #[must_use]
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A row as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The commit that wrote it; what a guard names.
    pub revision: Revision,
    /// What was written.
    pub value: Bytes,
}

/// Some rows of a scan, in its order. All rows of one page are from one moment; two pages are from two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The rows.
    pub rows: Vec<(Key, Row)>,
    /// Where the next page begins: give it as `after` of the next call. `None`: there is nothing more.
    pub next: Option<Key>,
}

/// A commit that is durable and visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The revision that the written rows carry.
    pub revision: Revision,
    /// The index of the first record of the commit in the tenant's log, from 0. For a commit without records: the
    /// index that the next record will have.
    pub first_log_index: u64,
    /// The size of the tenant's log after the commit, in records.
    pub log_size: u64,
}

/// One row that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The commit that changed it.
    pub revision: Revision,
    /// The row's key.
    pub key: Key,
    /// The row as that commit left it; `None`: deleted.
    pub row: Option<Row>,
}

/// What a stream of changes does when it has told of all there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It waits for the next one.
    Waiting,
    /// It says so, and waits for nothing.
    Ready,
}

/// Commits that became durable together, as they are handed to the watchers.
pub(crate) type Changes = Arc<[Change]>;

/// The ordered key-value store, see the module.
///
/// A future of [`Kernel::commit`] that is dropped leaves its outcome unknown: the commit may take effect later.
pub trait Kernel: Send + Sync + 'static {
    /// The row of this key, as of some moment between call and answer.
    ///
    /// # Errors
    /// [`StoreError`]; a store that stopped answers no read, as what it shows could be decided upon.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Row>, StoreError>> + Send;

    /// The rows with this prefix, in ascending order of their keys, from the first one after `after`; at most
    /// `limit`, [`MAX_PAGE`] and about [`MAX_PAGE_BYTES`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn scan(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Like [`Kernel::scan`], in descending order: from the last row before `before`. As ids lie in order of
    /// creation, the newest come first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn scan_newest(
        &self,
        prefix: &Prefix,
        before: Option<&Key>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Makes a commit. When it answers, the commit is durable and visible (I8).
    ///
    /// # Errors
    /// [`CommitError`].
    fn commit(&self, commit: Commit) -> impl Future<Output = Result<Committed, CommitError>> + Send;

    /// Makes several commits in this order, each with an outcome of its own, for the price of one sync.
    fn commit_many(&self, commits: Vec<Commit>) -> impl Future<Output = Vec<Result<Committed, CommitError>>> + Send;

    /// The changes of the rows with this prefix that were committed after `from`, in order of their revisions; then
    /// those to come.
    ///
    /// There is no history: a row that changed several times before the watch began is shown as it is, and one that
    /// was deleted is not shown. A watcher that falls behind is caught up in the same way. Resume from the last
    /// revision seen. An error is the last item; a stream that ended was shut down.
    fn watch(
        &self,
        prefix: &Prefix,
        from: Revision,
    ) -> impl Stream<Item = Result<Change, StoreError>> + Send + 'static + use<Self> {
        self.changes(prefix, from, Pace::Waiting).filter_map(async |change| change.transpose())
    }

    /// As [`Self::watch`], for whoever keeps something up to date and must know when it is: at [`Pace::Ready`] the stream
    /// waits for no change to come. It says `None` instead when it has told of every commit that was answered before it
    /// was asked.
    fn changes(
        &self,
        prefix: &Prefix,
        from: Revision,
        pace: Pace,
    ) -> impl Stream<Item = Result<Option<Change>, StoreError>> + Send + 'static + use<Self>;

    /// The epoch of the store, from 1. It rises whenever the store cannot prove that it is the newest (I11); what
    /// carries an older one is dead.
    fn epoch(&self) -> u64;

    /// Raises the epoch by one, durably, and returns it.
    ///
    /// # Errors
    /// [`CommitError::Unavailable`] or [`CommitError::Unknown`].
    fn raise_epoch(&self) -> impl Future<Output = Result<u64, CommitError>> + Send;

    /// The tenants that have a log, in ascending order.
    ///
    /// # Errors
    /// [`StoreError`].
    fn logs(&self) -> impl Future<Output = Result<Vec<TenantId>, StoreError>> + Send;

    /// The right edge of a tenant's log: its size and root. Empty for a tenant that has no log.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_frontier(&self, log: &TenantId) -> impl Future<Output = Result<Frontier, StoreError>> + Send;

    /// The number of records of a tenant's log.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_size(&self, log: &TenantId) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// The minimum index of a tenant's log (C2SP tlog-tiles, Pruning): the first record that is kept. 0 unless it was pruned
    /// ([`Commit::prune`]).
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_minimum_index(&self, log: &TenantId) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Records of a tenant's log with their indices, from `from` on; at most `limit`, [`MAX_PAGE`] and about
    /// [`MAX_PAGE_BYTES`], and at least one if there is one.
    ///
    /// # Errors
    /// [`StoreError::Pruned`] below the minimum index, never fewer records instead; every other one, also when an index is missing.
    fn log_entries(
        &self,
        log: &TenantId,
        from: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(u64, Bytes)>, StoreError>> + Send;

    /// The stored hashes of complete subtrees of a tenant's log, in the order asked for; `None` for one that is not
    /// complete. All are from one moment. Those of records that were pruned stay, so that what is proved by them stays so.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_nodes(
        &self,
        log: &TenantId,
        ids: &[NodeId],
    ) -> impl Future<Output = Result<Vec<Option<Hash>>, StoreError>> + Send;

    /// The hash of one complete subtree, see [`Kernel::log_nodes`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_node(&self, log: &TenantId, id: NodeId) -> impl Future<Output = Result<Option<Hash>, StoreError>> + Send {
        async move { Ok(self.log_nodes(log, &[id]).await?.pop().flatten()) }
    }
}

impl<K: Kernel> Kernel for Arc<K> {
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Row>, StoreError>> + Send {
        (**self).get(key)
    }

    fn scan(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send {
        (**self).scan(prefix, after, limit)
    }

    fn scan_newest(
        &self,
        prefix: &Prefix,
        before: Option<&Key>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send {
        (**self).scan_newest(prefix, before, limit)
    }

    fn commit(&self, commit: Commit) -> impl Future<Output = Result<Committed, CommitError>> + Send {
        (**self).commit(commit)
    }

    fn commit_many(&self, commits: Vec<Commit>) -> impl Future<Output = Vec<Result<Committed, CommitError>>> + Send {
        (**self).commit_many(commits)
    }

    fn changes(
        &self,
        prefix: &Prefix,
        from: Revision,
        pace: Pace,
    ) -> impl Stream<Item = Result<Option<Change>, StoreError>> + Send + 'static + use<K> {
        (**self).changes(prefix, from, pace)
    }

    fn epoch(&self) -> u64 {
        (**self).epoch()
    }

    fn raise_epoch(&self) -> impl Future<Output = Result<u64, CommitError>> + Send {
        (**self).raise_epoch()
    }

    fn logs(&self) -> impl Future<Output = Result<Vec<TenantId>, StoreError>> + Send {
        (**self).logs()
    }

    fn log_frontier(&self, log: &TenantId) -> impl Future<Output = Result<Frontier, StoreError>> + Send {
        (**self).log_frontier(log)
    }

    fn log_size(&self, log: &TenantId) -> impl Future<Output = Result<u64, StoreError>> + Send {
        (**self).log_size(log)
    }

    fn log_minimum_index(&self, log: &TenantId) -> impl Future<Output = Result<u64, StoreError>> + Send {
        (**self).log_minimum_index(log)
    }

    fn log_entries(
        &self,
        log: &TenantId,
        from: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(u64, Bytes)>, StoreError>> + Send {
        (**self).log_entries(log, from, limit)
    }

    fn log_nodes(
        &self,
        log: &TenantId,
        ids: &[NodeId],
    ) -> impl Future<Output = Result<Vec<Option<Hash>>, StoreError>> + Send {
        (**self).log_nodes(log, ids)
    }
}
