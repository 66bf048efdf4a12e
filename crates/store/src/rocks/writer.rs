//! The one thread that changes anything.
//!
//! Sole ownership is what makes commits linear: guards are checked against what this thread has already put into the
//! batch and then against the database, and nobody else writes in between. Many waiting commits share one sync.
//!
//! Why an answer may leave after the write: with `sync` set, RocksDB appends a batch to the write-ahead log and syncs
//! it before it inserts the batch into its tables in memory and raises the sequence number that reads go by
//! (`DBImpl::WriteImpl`; neither pipelined nor unordered writes nor two queues are set). So no read sees a row that is
//! not durable, and every read that begins after the answer sees it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use countersign_audit::{Frontier, leaf_hash};
use countersign_core::TenantId;
use rocksdb::WriteBatch;
use tokio::sync::oneshot;

use super::Shared;
use super::database::{Column, Database, EPOCH, REVISION, log_key, minimum_key, node_key, put_row};
use super::head::Head;
use super::open::synced;
use super::outside::{Keeping, KnownHead};
use crate::error::{CommitError, StoreError};
use crate::fail::{FailPoint, Fault};
use crate::kernel::{Change, Commit, Committed, Guard, Revision, Row, Write};
use crate::layout::Key;

/// No more calls are taken into one group than this. A call of several commits is never divided.
const GROUP_CALLS: usize = 256;
/// No more calls are taken into a group that has this many bytes.
const GROUP_BYTES: usize = 4 << 20;
/// How far the synced head may be behind.
const HEAD_LAG: Duration = Duration::from_secs(1);

pub(super) type Outcome = Result<Committed, CommitError>;

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Commit { commits: Vec<Commit>, bytes: usize, answer: oneshot::Sender<Vec<Outcome>> },
    RaiseEpoch { answer: oneshot::Sender<Result<u64, CommitError>> },
    Shutdown,
}

/// The thread's own.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Receiver<Command>,
    pub(super) head: Head,
    pub(super) revision: Revision,
    pub(super) fail: FailPoint,
    pub(super) frontiers: HashMap<TenantId, Frontier>,
    pub(super) head_synced: Instant,
    pub(super) outside: Keeping,
}

/// What a group will have changed once it is durable. Until then it is seen by the guards of the same group only.
#[derive(Default)]
struct Staged {
    batch: WriteBatch,
    revision: Revision,
    rows: HashMap<Key, Option<Revision>>,
    frontiers: HashMap<TenantId, Frontier>,
    minimums: HashMap<TenantId, u64>,
    changes: Vec<Change>,
}

/// How a group ended.
enum Ended {
    Durable,
    /// Whether it is durable only a restart tells.
    Unknown(String),
    /// The process is gone, as far as a test is concerned.
    Crashed,
}

/// A call whose commits are in a group, and where its answer goes.
type Waiting = (oneshot::Sender<Vec<Outcome>>, Vec<Outcome>);

impl Writer {
    /// Works until it is told to stop, until nobody is left to tell it, or until a write fails.
    pub(super) fn run(mut self) {
        while let Some(first) = self.receive() {
            self.fail.wait();
            if !self.turn(first) {
                break;
            }
        }
        self.finish();
    }

    /// The next command. While there is none, the head is synced.
    fn receive(&mut self) -> Option<Command> {
        if self.head.is_dirty() {
            match self.commands.recv_timeout(HEAD_LAG.saturating_sub(self.head_synced.elapsed())) {
                Ok(command) => return Some(command),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.sync_head(),
            }
        }
        self.commands.recv().ok()
    }

    /// Takes what waits into one group and writes it; whether to go on.
    fn turn(&mut self, first: Command) -> bool {
        // A turn for who else is ready to run on this core, so that more calls share the sync. A core that has nothing else
        // to do gives it back at once: a call that is alone waits for nobody.
        thread::yield_now();
        let (mut group, mut size, mut last) = (Vec::new(), 0_usize, None);
        let mut next = Some(first);
        while let Some(command) = next.take() {
            match command {
                Command::Commit { commits, bytes, answer } => {
                    self.shared.queued.fetch_sub(bytes, Ordering::Relaxed);
                    size = size.saturating_add(bytes);
                    group.push((commits, answer));
                }
                other @ (Command::RaiseEpoch { .. } | Command::Shutdown) => {
                    last = Some(other);
                    break;
                }
            }
            if group.len() < GROUP_CALLS && size < GROUP_BYTES {
                next = self.commands.try_recv().ok();
            }
        }
        if !self.group(group) {
            return false;
        }
        match last {
            None => true,
            Some(Command::RaiseEpoch { answer }) => self.raise_epoch(answer),
            Some(Command::Shutdown | Command::Commit { .. }) => {
                self.close();
                false
            }
        }
    }

    /// Writes a group and answers it; whether to go on.
    fn group(&mut self, calls: Vec<(Vec<Commit>, oneshot::Sender<Vec<Outcome>>)>) -> bool {
        let mut staged = Staged { revision: self.revision, ..Staged::default() };
        let waiting: Vec<Waiting> = calls
            .into_iter()
            .map(|(commits, answer)| {
                (answer, commits.into_iter().map(|commit| self.stage(&mut staged, commit)).collect())
            })
            .collect();
        let ended = if staged.revision == self.revision { Ended::Durable } else { self.write(staged) };
        match ended {
            Ended::Durable => {
                for (answer, outcomes) in waiting {
                    // A caller that went away has its outcome unknown, as documented.
                    let _ = answer.send(outcomes);
                }
                self.shared.running().is_ok()
            }
            Ended::Unknown(reason) => {
                for (answer, outcomes) in waiting {
                    let _ = answer.send(outcomes.into_iter().map(|outcome| unsure(outcome, &reason)).collect());
                }
                false
            }
            Ended::Crashed => false,
        }
    }

    /// Adds a commit to the group, if its guards hold.
    fn stage(&mut self, staged: &mut Staged, commit: Commit) -> Outcome {
        let shared = Arc::clone(&self.shared);
        let database = &shared.database;
        commit.in_time()?;
        for guard in &commit.guards {
            if !guard.holds(current(staged, database, guard)?) {
                return Err(CommitError::Conflict { key: guard.key().clone() });
            }
        }
        // Everything that can fail comes before the first change to the batch.
        let (rows, log) = (database.column(Column::Rows)?, database.column(Column::Log)?);
        let (nodes, meta) = (database.column(Column::Nodes)?, database.column(Column::Meta)?);
        let mut frontier = self.frontier(staged, &commit.log)?;
        let dropped = commit.prune.map(|prune| dropped(staged, database, &commit.log, prune, frontier.size()));
        let dropped = dropped.transpose()?;

        let revision = staged.revision.next();
        staged.revision = revision;
        for write in commit.writes {
            let (key, row) = match write {
                Write::Put(key, value) => {
                    let row = Row { revision, value };
                    put_row(&mut staged.batch, rows, &key, &row);
                    (key, Some(row))
                }
                Write::Delete(key) => {
                    staged.batch.delete_cf(rows, key.as_bytes());
                    (key, None)
                }
            };
            staged.rows.insert(key.clone(), row.is_some().then_some(revision));
            staged.changes.push(Change { revision, key, row });
        }
        if let Some((from, minimum)) = dropped {
            staged.batch.delete_range_cf(log, log_key(&commit.log, from), log_key(&commit.log, minimum));
            staged.batch.put_cf(meta, minimum_key(&commit.log), minimum.to_be_bytes());
            staged.minimums.insert(commit.log.clone(), minimum);
        }
        let first_log_index = frontier.size();
        for record in commit.records {
            staged.batch.put_cf(log, log_key(&commit.log, frontier.size()), &record);
            for node in frontier.append(leaf_hash(&record)) {
                staged.batch.put_cf(nodes, node_key(&commit.log, node.id), node.hash.as_bytes());
            }
        }
        let log_size = frontier.size();
        staged.frontiers.insert(commit.log, frontier);
        Ok(Committed { revision, first_log_index, log_size })
    }

    /// A copy of the right edge of a log, as the group has left it so far.
    fn frontier(&self, staged: &Staged, log: &TenantId) -> Result<Frontier, StoreError> {
        if let Some(frontier) = staged.frontiers.get(log).or_else(|| self.frontiers.get(log)) {
            return Ok(frontier.clone());
        }
        let database = &self.shared.database;
        database.frontier(&database.raw().snapshot(), log)
    }

    /// Makes a group durable and, only then, part of what this thread knows.
    fn write(&mut self, mut staged: Staged) -> Ended {
        let meta = match self.shared.database.column(Column::Meta) {
            Ok(meta) => meta,
            Err(error) => return self.stop(error.to_string()),
        };
        staged.batch.put_cf(meta, REVISION, staged.revision.get().to_be_bytes());
        match self.sync(staged.batch) {
            Ended::Durable => {}
            ended @ (Ended::Unknown(_) | Ended::Crashed) => return ended,
        }
        self.revision = staged.revision;
        self.frontiers.extend(staged.frontiers);
        self.note_head();
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if let Err(error) = self.outside.note(|| KnownHead::of(self.revision, epoch, &self.frontiers)) {
            // It is durable, and the proof of it is not: nobody is told that it took effect.
            return self.stop(format!("the head could not be kept outside: {error}"));
        }
        self.shared.publish(staged.changes);
        Ended::Durable
    }

    fn sync(&mut self, batch: WriteBatch) -> Ended {
        let fault = self.fail.take();
        match fault {
            Some(Fault::SyncFails) => return self.stop("a fault was asked for".to_owned()),
            Some(Fault::CrashBefore) => return self.crash(),
            Some(Fault::SyncFailsButKept | Fault::CrashAfter) | None => {}
        }
        if let Err(error) = self.shared.database.raw().write_opt(batch, &synced()) {
            return self.stop(error.into_string());
        }
        match fault {
            Some(Fault::SyncFailsButKept) => self.stop("a fault was asked for".to_owned()),
            Some(Fault::CrashAfter) => self.crash(),
            Some(Fault::SyncFails | Fault::CrashBefore) | None => Ended::Durable,
        }
    }

    /// After a failed write or sync nothing is known about the disk: what it would show on a second try may be lost at
    /// the next crash. So nothing is read or written any more.
    fn stop(&self, reason: String) -> Ended {
        tracing::error!(%reason, "the store stopped: a write failed");
        self.shared.stop(StoreError::Stopped { reason: reason.clone() });
        Ended::Unknown(reason)
    }

    fn crash(&self) -> Ended {
        self.shared.stop(StoreError::Stopped { reason: "a crash was asked for".to_owned() });
        Ended::Crashed
    }

    /// Notes the revision beside the database. It is durable already, so a failure takes nothing back; but without a
    /// head a later loss would pass unseen, so the store stops after this group.
    fn note_head(&mut self) {
        if let Err(error) = self.head.write(self.revision) {
            let _ = self.stop(format!("the head could not be written: {error}"));
        } else if self.head_synced.elapsed() >= HEAD_LAG {
            self.sync_head();
        }
    }

    fn sync_head(&mut self) {
        if let Err(error) = self.head.sync() {
            let _ = self.stop(format!("the head could not be synced: {error}"));
        }
        self.head_synced = Instant::now();
    }

    /// Raises the epoch; whether to go on.
    fn raise_epoch(&mut self, answer: oneshot::Sender<Result<u64, CommitError>>) -> bool {
        let epoch = self.shared.epoch.load(Ordering::Acquire).saturating_add(1);
        let meta = match self.shared.database.column(Column::Meta) {
            Ok(meta) => meta,
            Err(error) => {
                let _ = answer.send(Err(error.into()));
                return true;
            }
        };
        let mut batch = WriteBatch::default();
        batch.put_cf(meta, EPOCH, epoch.to_be_bytes());
        match self.write(Staged { batch, revision: self.revision.next(), ..Staged::default() }) {
            Ended::Durable => {
                self.shared.epoch.store(epoch, Ordering::Release);
                let _ = answer.send(Ok(epoch));
                self.shared.running().is_ok()
            }
            Ended::Unknown(reason) => {
                let _ = answer.send(Err(CommitError::Unknown { reason }));
                false
            }
            Ended::Crashed => false,
        }
    }

    /// Ends in order: with its tables on disk, the next start has no log to replay.
    fn close(&mut self) {
        self.shared.stop(StoreError::ShutDown);
        let database = &self.shared.database;
        for column in Column::ALL {
            let flushed = database.column(column).and_then(|column| Ok(database.raw().flush_cf(column)?));
            if let Err(error) = flushed {
                tracing::warn!(%error, "the store could not flush its tables; the next start replays the log");
            }
        }
        if let Err(error) = self.head.sync() {
            tracing::warn!(%error, "the head could not be synced");
        }
    }

    /// Tells everyone who still waits that nothing was done for them.
    fn finish(self) {
        self.outside.end();
        let reason = self.shared.running().err().unwrap_or(StoreError::ShutDown);
        self.shared.stop(reason.clone());
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Commit { commits, bytes, answer } => {
                    self.shared.queued.fetch_sub(bytes, Ordering::Relaxed);
                    let _ = answer.send(commits.iter().map(|_| Err(reason.clone().into())).collect());
                }
                Command::RaiseEpoch { answer } => {
                    let _ = answer.send(Err(reason.clone().into()));
                }
                Command::Shutdown => {}
            }
        }
    }
}

/// The revision of a row as the group has left it so far.
fn current(staged: &Staged, database: &Database, guard: &Guard) -> Result<Option<Revision>, StoreError> {
    match staged.rows.get(guard.key()) {
        Some(revision) => Ok(*revision),
        None => Ok(database.row(guard.key())?.map(|row| row.revision)),
    }
}

/// From where to where records would be dropped.
fn dropped(
    staged: &Staged,
    database: &Database,
    log: &TenantId,
    prune: u64,
    size: u64,
) -> Result<(u64, u64), CommitError> {
    let minimum = staged.minimums.get(log).map_or_else(|| database.minimum_index(log), |minimum| Ok(*minimum))?;
    if prune <= minimum || prune > size {
        return Err(CommitError::NothingToPrune { prune, minimum, size });
    }
    Ok((minimum, prune))
}

/// The outcome of a commit in a group that may be lost. A refusal stands: nothing was written for it. But a conflict
/// may have been with a row that never came to be.
fn unsure(outcome: Outcome, reason: &str) -> Outcome {
    match outcome {
        Ok(_) => Err(CommitError::Unknown { reason: reason.to_owned() }),
        Err(CommitError::Conflict { .. }) => Err(StoreError::Stopped { reason: reason.to_owned() }.into()),
        Err(error) => Err(error),
    }
}

/// The bytes of a call's commits.
pub(super) fn bytes_of(commits: &[Commit]) -> usize {
    commits.iter().map(Commit::bytes).fold(0, usize::saturating_add)
}
