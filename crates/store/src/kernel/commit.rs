//! What a commit holds, and what must be so for it whatever is stored.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use countersign_core::{TenantId, Timestamp};

use super::{MAX_KEY_BYTES, MAX_OPERATIONS, MAX_RECORD_BYTES, MAX_VALUE_BYTES, Revision};
use crate::error::CommitError;
use crate::layout::Key;

/// What must be so for a commit to take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// There is no such row.
    Absent(Key),
    /// The row is the one that this commit wrote.
    Revision(Key, Revision),
}

impl Guard {
    /// The row that the guard is about.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Revision(key, _) => key,
        }
    }

    /// Whether the guard holds for a row that has this revision, or is not there.
    #[must_use]
    pub(crate) fn holds(&self, current: Option<Revision>) -> bool {
        match self {
            Self::Absent(_) => current.is_none(),
            Self::Revision(_, revision) => current == Some(*revision),
        }
    }
}

/// A change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The row has this value from now on.
    Put(Key, Bytes),
    /// The row is not there from now on.
    Delete(Key),
}

impl Write {
    /// The row that is written.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Tells the time that decides; `None` when no time is to be believed.
pub type Now = Arc<dyn Fn() -> Option<Timestamp> + Send + Sync>;

/// The moment before which a commit must take its place in the order, and whose time counts.
#[derive(Clone)]
pub struct Until {
    moment: Timestamp,
    now: Now,
}

impl Until {
    fn passed(&self) -> bool {
        (self.now)().is_none_or(|now| now.reached(self.moment))
    }
}

impl fmt::Debug for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.moment, f)
    }
}

/// Rows and the records that tell of them, for one tenant: all of it takes effect, or nothing (I8).
///
/// Every written row has a guard; a row may be guarded without being written. Guard only what was read for the
/// decision, or unrelated commits conflict. A commit of records alone is allowed.
#[derive(Debug, Clone)]
pub struct Commit {
    /// What must hold.
    pub guards: Vec<Guard>,
    /// The rows that change, each at most once.
    pub writes: Vec<Write>,
    /// What is appended to the log, in this order.
    pub records: Vec<Bytes>,
    /// The records before this index are dropped from the log.
    pub prune: Option<u64>,
    /// Whose log it is; all keys are this tenant's.
    pub log: TenantId,
    /// Before when it must take effect, or not at all. A commit may wait long for its turn.
    pub until: Option<Until>,
}

impl Commit {
    /// A commit for this tenant that does nothing yet.
    #[must_use]
    pub const fn new(log: TenantId) -> Self {
        Self { guards: Vec::new(), writes: Vec::new(), records: Vec::new(), prune: None, log, until: None }
    }

    /// Requires that a row which is only read is still the one that was read.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Requires that the commit takes its place in the order before `moment`, and before every moment named earlier.
    /// What was read to be valid for a time is not changed after that time, when others may have read that it is over.
    #[must_use]
    pub fn before(mut self, moment: Timestamp, now: &Now) -> Self {
        let moment = self.until.map_or(moment, |until| until.moment.min(moment));
        self.until = Some(Until { moment, now: Arc::clone(now) });
        self
    }

    /// What must hold besides the guards, at the commit's place in the order.
    pub(crate) fn in_time(&self) -> Result<(), CommitError> {
        if self.until.as_ref().is_some_and(Until::passed) { Err(CommitError::TooLate) } else { Ok(()) }
    }

    /// Creates a row that must not be there.
    #[must_use]
    pub fn create(mut self, key: Key, value: impl Into<Bytes>) -> Self {
        self.guards.push(Guard::Absent(key.clone()));
        self.writes.push(Write::Put(key, value.into()));
        self
    }

    /// Replaces the row that was read at this revision.
    #[must_use]
    pub fn replace(mut self, key: Key, read: Revision, value: impl Into<Bytes>) -> Self {
        self.guards.push(Guard::Revision(key.clone(), read));
        self.writes.push(Write::Put(key, value.into()));
        self
    }

    /// Writes a row as it was read: at this revision, or not there.
    #[must_use]
    pub fn put(self, key: Key, read: Option<Revision>, value: impl Into<Bytes>) -> Self {
        match read {
            Some(read) => self.replace(key, read, value),
            None => self.create(key, value),
        }
    }

    /// Deletes the row that was read at this revision.
    #[must_use]
    pub fn delete(mut self, key: Key, read: Revision) -> Self {
        self.guards.push(Guard::Revision(key.clone(), read));
        self.writes.push(Write::Delete(key));
        self
    }

    /// Appends a record to the log.
    #[must_use]
    pub fn record(mut self, record: impl Into<Bytes>) -> Self {
        self.records.push(record.into());
        self
    }

    /// Drops the records before `minimum`, which is the minimum index of the log from then on. Their hashes stay: the tree, its
    /// roots and its proofs are what they were. The commit must append the record that tells of it, so that none is dropped
    /// untold.
    #[must_use]
    pub const fn prune(mut self, minimum: u64) -> Self {
        self.prune = Some(minimum);
        self
    }

    /// Checks everything that does not depend on what is stored.
    ///
    /// # Errors
    /// Every [`CommitError`] but [`CommitError::Conflict`], [`CommitError::TooLate`], [`CommitError::NothingToPrune`],
    /// [`CommitError::Unavailable`] and [`CommitError::Unknown`].
    pub fn validate(&self) -> Result<(), CommitError> {
        let operations = self.writes.len().saturating_add(self.records.len());
        if operations == 0 {
            return Err(CommitError::Empty);
        }
        if self.prune.is_some() && self.records.is_empty() {
            return Err(CommitError::PruneUntold);
        }
        for (what, count) in [("guards", self.guards.len()), ("writes and records", operations)] {
            if count > MAX_OPERATIONS {
                let limit = MAX_OPERATIONS;
                return Err(CommitError::TooMany { what, count, limit });
            }
        }
        let keys = self.guards.iter().map(Guard::key).chain(self.writes.iter().map(Write::key));
        for key in keys {
            at_most("key", key.as_bytes().len(), MAX_KEY_BYTES)?;
            if !key.belongs_to(&self.log) {
                return Err(CommitError::OtherTenant { key: key.clone() });
            }
        }
        for (index, write) in self.writes.iter().enumerate() {
            let key = write.key();
            if let Write::Put(_, value) = write {
                at_most("value", value.len(), MAX_VALUE_BYTES)?;
            }
            if !self.guards.iter().any(|guard| guard.key() == key) {
                return Err(CommitError::Unguarded { key: key.clone() });
            }
            if self.writes.iter().take(index).any(|earlier| earlier.key() == key) {
                return Err(CommitError::WrittenTwice { key: key.clone() });
            }
        }
        for record in &self.records {
            at_most("record", record.len(), MAX_RECORD_BYTES)?;
        }
        Ok(())
    }

    /// Roughly what it takes in memory and on disk, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let writes = self.writes.iter().map(|write| match write {
            Write::Put(key, value) => key.as_bytes().len().saturating_add(value.len()),
            Write::Delete(key) => key.as_bytes().len(),
        });
        writes.chain(self.records.iter().map(Bytes::len)).fold(0, usize::saturating_add)
    }
}

fn at_most(what: &'static str, bytes: usize, limit: usize) -> Result<(), CommitError> {
    if bytes > limit { Err(CommitError::TooLarge { what, bytes, limit }) } else { Ok(()) }
}
