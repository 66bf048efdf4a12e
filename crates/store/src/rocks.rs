//! The kernel on disk: RocksDB, one writing thread, and reads that wait for nobody.

mod copy;
mod database;
mod head;
mod open;
mod outside;
mod reading;
#[cfg(test)]
mod tests;
mod wal;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bytes::Bytes;
use countersign_audit::{Frontier, Hash, NodeId};
use countersign_core::TenantId;
use futures::Stream;
use tokio::sync::{broadcast, oneshot};

use crate::error::{CommitError, OpenError, StoreError};
use crate::fail::{FailPoint, lock};
use crate::kernel::{Change, Changes, Commit, Committed, Kernel, Pace, Page, Revision, Row};
use crate::layout::{Key, Prefix};
use crate::watch::{self, Changed, LIVE_GROUPS, Source};
pub use copy::copy_store;
use database::{Cached, Database};
use open::Opened;
pub use outside::{FileHead, HeadKeeper, KnownHead, OutsideHead};
pub use reading::StoredNodes;
use writer::{Command, Outcome, Writer, bytes_of};

/// What a data directory is for. Stamped at its creation and never changed: what was written without the safeguards of
/// production is not taken for production later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The real thing.
    Production,
    /// Local trials, with built-in keys and the like.
    Development,
}

impl Mode {
    /// How to start the service on a directory of this mode.
    pub(crate) const fn advice(self) -> &'static str {
        match self {
            Self::Production => "start without `--dev`",
            Self::Development => "start with `--dev`",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Production => "production",
            Self::Development => "development",
        })
    }
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Config {
    /// The mode; the directory's stamp must be the same.
    pub mode: Mode,
    /// Opens what was restored from a copy, or lost what it had acknowledged: raises the epoch, so that everything that
    /// was given out before is dead (I11), and goes on from what is there. Damage is refused all the same.
    pub restored: bool,
    /// The head that is kept outside of the directory, if one is. With `restored` it is read and not written: it is begun when
    /// the restored store is opened at its place.
    pub outside: Option<OutsideHead>,
    /// The memory for blocks of tables, in bytes.
    pub cache_bytes: usize,
    /// How many calls may wait to be written before the store says that it is overloaded.
    pub queue: usize,
    /// How many bytes may wait to be written before the store says that it is overloaded.
    pub queue_bytes: usize,
    /// Faults for tests.
    #[doc(hidden)]
    pub fail: FailPoint,
}

impl Config {
    /// The usual settings.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            restored: false,
            outside: None,
            cache_bytes: 64 << 20,
            queue: 4096,
            queue_bytes: 64 << 20,
            fail: FailPoint::default(),
        }
    }
}

/// The kernel on disk.
///
/// What is refused at the start, with nothing changed: a directory that another process holds, that has another stamp
/// or a newer format; a damaged record of the write-ahead log that is not a torn tail; any row, record or node whose
/// checksum does not hold (all are read); a log whose right edge is incomplete or whose last record is not the one that
/// was hashed; less than what the file `HEAD` says was acknowledged. Not noticed at the start: records or nodes that were
/// replaced with good checksums (noticed by checking the log); a loss of the very last second of commits, if the
/// machine lost power in that second and its disk then lost synced data; and a whole directory that was replaced by an
/// older copy of itself, which only a head kept outside shows ([`OutsideHead`]).
#[derive(Debug)]
pub struct RocksKernel {
    shared: Arc<Shared>,
    commands: SyncSender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    queue_bytes: usize,
    found: Revision,
}

/// What readers and the writer share.
#[derive(Debug)]
struct Shared {
    database: Database,
    /// Set once, when nothing is answered any more.
    stopped: OnceLock<StoreError>,
    epoch: AtomicU64,
    /// Bytes in the queue.
    queued: AtomicUsize,
    /// Taken away when nothing more will change, which ends the watches.
    changes: Mutex<Option<broadcast::Sender<Changes>>>,
}

impl Shared {
    fn running(&self) -> Result<(), StoreError> {
        self.stopped.get().cloned().map_or(Ok(()), Err)
    }

    fn stop(&self, why: StoreError) {
        // The first reason stays.
        let _ = self.stopped.set(why);
        lock(&self.changes).take();
    }

    fn publish(&self, changes: Vec<Change>) {
        if let Some(sender) = lock(&self.changes).as_ref() {
            // Nobody watching is no failure.
            let _ = sender.send(changes.into());
        }
    }
}

/// Runs a read off the runtime's threads, and only on a store that is running when it ends, too.
async fn read<T: Send + 'static>(
    shared: &Arc<Shared>,
    read: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    shared.running()?;
    let task = Arc::clone(shared);
    let found = tokio::task::spawn_blocking(move || read(&task.database)).await;
    shared.running()?;
    // A read that was not run: the runtime is ending.
    found.unwrap_or(Err(StoreError::ShutDown))
}

async fn get(shared: &Arc<Shared>, key: &Key) -> Result<Option<Row>, StoreError> {
    shared.running()?;
    match shared.database.row_in_memory(key)? {
        Cached::Known(row) => shared.running().map(|()| row),
        Cached::OnDisk => {
            let key = key.clone();
            read(shared, move |database| database.row(&key)).await
        }
    }
}

impl RocksKernel {
    /// Makes a new store in a directory that is empty or not there yet, and opens it. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]. A creation that did not finish leaves a directory that neither opens nor is created again:
    /// remove it.
    pub fn create(path: &Path, config: &Config) -> Result<Self, OpenError> {
        if let Some(outside) = &config.outside {
            open::require_no_head(path, outside)?;
        }
        open::create(path, config)?;
        let outside = config.outside.clone().map(|outside| OutsideHead { begin: true, ..outside });
        Self::open(path, &Config { outside, ..config.clone() })
    }

    /// Opens the store that is there. Blocks: reads every row.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path, config: &Config) -> Result<Self, OpenError> {
        let Opened { database, head, revision, found, epoch } = open::open(path, config)?;
        let shared = Arc::new(Shared {
            database,
            stopped: OnceLock::new(),
            epoch: AtomicU64::new(epoch),
            queued: AtomicUsize::new(0),
            changes: Mutex::new(Some(broadcast::Sender::new(LIVE_GROUPS))),
        });
        let (frontiers, outside) = open::keep_head(path, config, revision, &shared)?;
        let (commands, receiver) = sync_channel(config.queue.max(1));
        let writer = Writer {
            shared: Arc::clone(&shared),
            commands: receiver,
            head,
            revision,
            fail: config.fail.clone(),
            frontiers,
            outside,
            head_synced: Instant::now(),
        };
        let thread = thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(|error| OpenError::Io { path: path.into(), reason: error.to_string() })?;
        Ok(Self { shared, commands, thread: Mutex::new(Some(thread)), queue_bytes: config.queue_bytes, found })
    }

    /// Writes what waits, flushes, and ends. Blocks. Later calls are answered with [`StoreError::ShutDown`]; the
    /// directory is free when the kernel is dropped and the reads that are still running have ended.
    pub fn shutdown(&self) {
        let Some(thread) = lock(&self.thread).take() else {
            return;
        };
        // A writer that has already ended takes no command.
        let _ = self.commands.send(Command::Shutdown);
        if thread.join().is_err() {
            self.shared.stop(StoreError::Stopped { reason: "the writing thread broke off".to_owned() });
        }
    }

    /// Whether the store still answers; the reason if not. For health checks.
    ///
    /// # Errors
    /// Why it does not: [`StoreError::Stopped`] or [`StoreError::ShutDown`].
    pub fn health(&self) -> Result<(), StoreError> {
        self.shared.running()
    }

    /// Makes a copy of the whole store in a directory that is not there yet, as of one moment, while it is in use; answers
    /// its revision. It has no `HEAD`: it opens as a restored one only. Blocks.
    ///
    /// # Errors
    /// [`StoreError`]. What was begun may be left there.
    pub fn checkpoint(&self, path: &Path) -> Result<Revision, StoreError> {
        self.shared.running()?;
        copy::checkpoint(&self.shared.database, path)
    }

    /// The last revision that was there when the store was opened.
    #[must_use]
    pub const fn found(&self) -> Revision {
        self.found
    }

    /// How many bytes wait to be written.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.shared.queued.load(Ordering::Relaxed)
    }

    /// Hands a command to the writer without waiting for room.
    fn send(&self, command: Command) -> Result<(), StoreError> {
        self.shared.running()?;
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Overloaded,
            TrySendError::Disconnected(_) => self.shared.running().err().unwrap_or_else(|| {
                let why = StoreError::Stopped { reason: "the writing thread broke off".to_owned() };
                self.shared.stop(why.clone());
                why
            }),
        })
    }

    async fn write(&self, commits: Vec<Commit>) -> Result<Vec<Outcome>, CommitError> {
        let bytes = bytes_of(&commits);
        let prune = |(place, commit): (usize, &Commit)| Some((place, commit.log.clone(), commit.prune?));
        let prunes: Vec<_> = commits.iter().enumerate().filter_map(prune).collect();
        let queued = self.shared.queued.fetch_add(bytes, Ordering::Relaxed);
        // One call always fits into an empty queue.
        let room = queued == 0 || queued.saturating_add(bytes) <= self.queue_bytes;
        let (answer, outcomes) = oneshot::channel();
        let command = Command::Commit { commits, bytes, answer };
        let sent = if room { self.send(command) } else { Err(StoreError::Overloaded) };
        if let Err(error) = sent {
            self.shared.queued.fetch_sub(bytes, Ordering::Relaxed);
            return Err(error.into());
        }
        let outcomes = outcomes.await.map_err(|_| unanswered())?;
        for (_, log, minimum) in prunes.into_iter().filter(|(place, ..)| matches!(outcomes.get(*place), Some(Ok(_)))) {
            // They are dropped; only their space is not given back yet if this breaks off.
            if let Err(error) = read(&self.shared, move |database| database.reclaim(&log, minimum)).await {
                tracing::warn!(%error, "the space of dropped records is not given back yet");
            }
        }
        Ok(outcomes)
    }
}

fn unanswered() -> CommitError {
    CommitError::Unknown { reason: "the writing thread ended without an answer".to_owned() }
}

impl Drop for RocksKernel {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Kernel for RocksKernel {
    async fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        get(&self.shared, key).await
    }

    async fn scan(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let (prefix, after) = (prefix.clone(), after.cloned());
        read(&self.shared, move |database| database.page(&prefix, after.as_ref(), None, limit, false)).await
    }

    async fn scan_newest(&self, prefix: &Prefix, before: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let (prefix, before) = (prefix.clone(), before.cloned());
        read(&self.shared, move |database| database.page(&prefix, None, before.as_ref(), limit, true)).await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        commit.validate()?;
        self.write(vec![commit]).await?.pop().unwrap_or_else(|| Err(unanswered()))
    }

    async fn commit_many(&self, commits: Vec<Commit>) -> Vec<Outcome> {
        let checked: Vec<Result<(), CommitError>> = commits.iter().map(Commit::validate).collect();
        let valid: Vec<Commit> =
            commits.into_iter().zip(&checked).filter(|(_, check)| check.is_ok()).map(|(commit, _)| commit).collect();
        let answered = if valid.is_empty() { Ok(Vec::new()) } else { self.write(valid).await };
        let (mut outcomes, missing) = match answered {
            Ok(outcomes) => (outcomes.into_iter(), unanswered()),
            Err(error) => (Vec::new().into_iter(), error),
        };
        checked
            .into_iter()
            .map(|check| check.and_then(|()| outcomes.next().unwrap_or_else(|| Err(missing.clone()))))
            .collect()
    }

    fn changes(
        &self,
        prefix: &Prefix,
        from: Revision,
        pace: Pace,
    ) -> impl Stream<Item = Result<Option<Change>, StoreError>> + Send + 'static + use<> {
        let live = lock(&self.shared.changes).as_ref().map(broadcast::Sender::subscribe);
        // Without a sender the receiver is closed from the start, and the watch ends as it should.
        let live = live.unwrap_or_else(|| broadcast::channel(1).1);
        watch::changes(Watched(Arc::downgrade(&self.shared)), prefix.clone(), from, live, pace)
    }

    fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    async fn raise_epoch(&self) -> Result<u64, CommitError> {
        let (answer, outcome) = oneshot::channel();
        self.send(Command::RaiseEpoch { answer })?;
        outcome.await.unwrap_or_else(|_| Err(unanswered()))
    }

    async fn logs(&self) -> Result<Vec<TenantId>, StoreError> {
        read(&self.shared, Database::logs).await
    }

    async fn log_frontier(&self, log: &TenantId) -> Result<Frontier, StoreError> {
        let log = log.clone();
        read(&self.shared, move |database| database.frontier(&database.raw().snapshot(), &log)).await
    }

    async fn log_size(&self, log: &TenantId) -> Result<u64, StoreError> {
        let log = log.clone();
        read(&self.shared, move |database| database.log_size(&database.raw().snapshot(), &log)).await
    }

    async fn log_minimum_index(&self, log: &TenantId) -> Result<u64, StoreError> {
        let log = log.clone();
        read(&self.shared, move |database| database.minimum_index(&log)).await
    }

    async fn log_entries(&self, log: &TenantId, from: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let log = log.clone();
        read(&self.shared, move |database| database.records(&log, from, limit)).await
    }

    async fn log_nodes(&self, log: &TenantId, ids: &[NodeId]) -> Result<Vec<Option<Hash>>, StoreError> {
        let (log, ids) = (log.clone(), ids.to_vec());
        read(&self.shared, move |database| database.nodes(&database.raw().snapshot(), &log, &ids)).await
    }
}

/// A watcher's view: it does not keep the database open.
struct Watched(Weak<Shared>);

impl Watched {
    fn shared(&self) -> Result<Arc<Shared>, StoreError> {
        self.0.upgrade().ok_or(StoreError::ShutDown)
    }
}

impl Source for Watched {
    async fn changed(&self, prefix: &Prefix, after: Revision) -> Result<Changed, StoreError> {
        let prefix = prefix.clone();
        let changed = move |database: &Database| {
            let mut rows = Vec::new();
            let at = database.visit_rows(Some(&prefix), |key, revision| {
                if revision > after {
                    rows.push((revision, Key::stored(key.to_vec())));
                }
                Ok(())
            })?;
            rows.sort();
            Ok(Changed { at, rows: rows.into() })
        };
        read(&self.shared()?, changed).await
    }

    async fn row(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        get(&self.shared()?, key).await
    }

    fn ended(&self) -> Option<StoreError> {
        self.0.upgrade()?.running().err().filter(|why| *why != StoreError::ShutDown)
    }
}
