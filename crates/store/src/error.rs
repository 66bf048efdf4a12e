//! What can go wrong, and what the caller may conclude from it.

use std::path::PathBuf;

use thiserror::Error;

use crate::layout::Key;
use crate::rocks::Mode;

/// Why the store does not answer. In every case nothing was changed by the call that got it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Too much is waiting to be written.
    #[error("the store has too much waiting to be written: try again later")]
    Overloaded,
    /// A write or sync failed earlier. What is on disk is no longer known, so nothing is decided from it until a
    /// restart has checked it.
    #[error("the store stopped and answers nothing until a restart has checked it: {reason}")]
    Stopped {
        /// What failed.
        reason: String,
    },
    /// The store was shut down.
    #[error("the store is shut down: start the service again")]
    ShutDown,
    /// Records were asked for that were dropped from the log. The store is well.
    #[error("record {from} was dropped from the log, and {minimum} is the first one that is kept")]
    Pruned {
        /// The first index that was asked for.
        from: u64,
        /// The minimum index of the log.
        minimum: u64,
    },
    /// Something could not be read, or is not what was written.
    #[error("the store could not be read: {reason}: check the disk, and restore the store if it is damaged")]
    Damaged {
        /// What could not be read.
        reason: String,
    },
}

/// Why a commit has no [`Committed`](crate::kernel::Committed).
///
/// Only [`CommitError::Unknown`] leaves open whether the commit took effect; after every other one it did not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommitError {
    /// A guard does not hold: the row is not as it was when it was read. Read again and decide again.
    #[error("the row {key:?} changed since it was read: read it and decide again")]
    Conflict {
        /// The key of the first guard that does not hold.
        key: Key,
    },
    /// A row would be written without a guard on it. A blind write that is retried late undoes what others did since
    /// (I1, I6), so there is none.
    #[error("the row {key:?} would be written without a guard: name its revision or its absence")]
    Unguarded {
        /// The key that no guard names.
        key: Key,
    },
    /// One commit writes one row twice.
    #[error("the row {key:?} is written twice in one commit: write it once")]
    WrittenTwice {
        /// The key that is written twice.
        key: Key,
    },
    /// A commit touches a row that does not belong to the tenant whose log records it.
    #[error("the row {key:?} belongs to another tenant than the log: commit for one tenant at a time")]
    OtherTenant {
        /// The foreign key.
        key: Key,
    },
    /// The moment before which it had to take effect has passed. Nothing was committed.
    #[error("the commit came too late: read again, decide again")]
    TooLate,
    /// There is neither a write nor a record.
    #[error("the commit changes nothing: give it a write or a record")]
    Empty,
    /// Records would be dropped from the log, and no record tells of it.
    #[error("the commit drops records and appends none that tells of it: give it one")]
    PruneUntold,
    /// The records that would be dropped are dropped already, or are not in the log yet.
    #[error("the records before {prune} cannot be dropped from a log that has those from {minimum} to below {size}")]
    NothingToPrune {
        /// What would be the minimum index.
        prune: u64,
        /// What it is.
        minimum: u64,
        /// The size of the log, in records.
        size: u64,
    },
    /// More guards, or more writes and records, than one commit may hold.
    #[error("the commit has {count} {what}, and at most {limit} are allowed: split it")]
    TooMany {
        /// `guards`, or `writes and records`.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A key, value or record is longer than it may be.
    #[error("a {what} has {bytes} bytes, and at most {limit} are allowed: refer to larger content by its digest")]
    TooLarge {
        /// `key`, `value` or `record`.
        what: &'static str,
        /// How long it is, in bytes.
        bytes: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// The store does not answer. Nothing was committed.
    #[error("nothing was committed: {0}")]
    Unavailable(#[from] StoreError),
    /// The commit may or may not have taken effect, and only a restart tells. Retry with the same identity only: the
    /// guards then see whether it did.
    #[error("the outcome of the commit is unknown: {reason}: retry with the same request id")]
    Unknown {
        /// What failed.
        reason: String,
    },
}

/// Why a data directory is not opened. It is left as it was found, except where `create` itself failed halfway.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no store where one was expected.
    #[error("there is no store in `{}`: name the data directory of a server; a new one is made with `countersign init`, and one that was \
         lost comes back with `countersign restore`", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// A store would be created over something.
    #[error("`{}` is not empty: name a new directory, or open the store that is there", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A process has the store open.
    #[error("the data directory `{}` is in use by another process: stop that one first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The store was created for the other mode.
    #[error("the data directory `{}` is stamped {stamped}, and {asked} refuses it: {}, or name another directory",
        path.display(), stamped.advice())]
    OtherMode {
        /// The directory.
        path: PathBuf,
        /// The stamp that it carries.
        stamped: Mode,
        /// The mode that was asked for.
        asked: Mode,
    },
    /// The store was written by a newer release.
    #[error("the data directory `{}` has {found}, and this release knows format {known}: use the release that wrote it",
        path.display())]
    Format {
        /// The directory.
        path: PathBuf,
        /// What was found, in words.
        found: String,
        /// The newest format known here.
        known: u32,
    },
    /// Less is there than was acknowledged (I8, I9, I12).
    #[error(
        "the data directory `{}` lost what it had acknowledged: its head names revision {head}, and revision {found} \
         is all that is there: keep it as it is, as evidence, and restore a \
         copy of it, or a backup, with `countersign restore`", path.display())]
    Lost {
        /// The directory.
        path: PathBuf,
        /// The revision that was acknowledged.
        head: u64,
        /// The revision that is there.
        found: u64,
    },
    /// What was acknowledged cannot be proved (I11).
    #[error(
        "the data directory `{}` has no readable file `HEAD`, so nothing proves that it has all that it had \
         acknowledged: keep it as it is, as evidence, and restore a copy of it, or a backup, with `countersign restore`", path.display())]
    NoHead {
        /// The directory.
        path: PathBuf,
    },
    /// The head outside knows of more than is there (I11).
    #[error(
        "the store `{}` is older than the head that is kept at `{place}`, which knows of {what}: it is an old copy, or lost \
         what it had acknowledged, and what was spent since would be worth something again: restore it, or a newer backup, with \
         `countersign restore`, which makes everything dead that was handed out before", path.display())]
    Behind {
        /// The directory.
        path: PathBuf,
        /// Where the head is kept.
        place: String,
        /// What the head knows, and what is there.
        what: String,
    },
    /// The head outside is of another history.
    #[error(
        "the log of `{log}` in the store `{}` is not the one that the head at `{place}` saw: its first {size} records are others: \
         keep it as it is, as evidence, and restore a backup with `countersign restore`", path.display())]
    OtherHistory {
        /// The directory.
        path: PathBuf,
        /// Where the head is kept.
        place: String,
        /// The log.
        log: countersign_core::TenantId,
        /// The size of it that the head saw.
        size: u64,
    },
    /// The head outside cannot be used.
    #[error("the head of the store `{}` that is kept outside, at `{place}`, {problem}", path.display())]
    Outside {
        /// The directory.
        path: PathBuf,
        /// Where the head is kept.
        place: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Something is not what was written.
    #[error("the data directory `{}` is damaged: {reason}: keep it as it is, as evidence, and \
         start with a new data directory", path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The operating system refused.
    #[error("the data directory `{}` cannot be used: {reason}: check its permissions and the disk", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
}
