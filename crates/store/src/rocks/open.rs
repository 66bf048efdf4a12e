//! Creating and opening a data directory: everything that must be so before a decision rests on it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_audit::Frontier;
use countersign_core::TenantId;
use rocksdb::{Cache, ErrorKind, WriteBatch, WriteOptions};

use super::database::{Column, Database, EPOCH, FORMAT, MODE, REVISION, options};
use super::head::{Found, Head, HeadError};
use super::outside::{HeadKeeper, Keeping, KnownHead, OutsideHead};
use super::{Config, Mode, Shared, wal};
use crate::error::{OpenError, StoreError};
use crate::kernel::Revision;

/// The format that is written.
const FORMAT_VERSION: u32 = 1;

/// A data directory that may be used.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) head: Head,
    pub(super) revision: Revision,
    /// The last revision that was there.
    pub(super) found: Revision,
    pub(super) epoch: u64,
}

/// Makes a new store in a directory that is empty or not there yet.
pub(super) fn create(path: &Path, config: &Config) -> Result<(), OpenError> {
    let failed = |error: io::Error| OpenError::Io { path: path.into(), reason: error.to_string() };
    fs::create_dir_all(path).map_err(failed)?;
    if fs::read_dir(path).map_err(failed)?.next().is_some() {
        return Err(OpenError::NotEmpty { path: path.into() });
    }
    // The head comes first: a store without one has lost it.
    let mut head = Head::create(path).map_err(|error| headless(path, error))?;
    head.begin(Revision::ZERO).map_err(failed)?;
    let mut options = options(&Cache::new_lru_cache(config.cache_bytes));
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_error_if_exists(true);
    let database = Database::open(&options, path).map_err(|error| refused(path, error))?;
    let unreadable = |error| broken(path, error);
    let meta = database.column(Column::Meta).map_err(unreadable)?;
    let mut batch = WriteBatch::default();
    batch.put_cf(meta, FORMAT, FORMAT_VERSION.to_be_bytes());
    batch.put_cf(meta, MODE, config.mode.to_string());
    batch.put_cf(meta, EPOCH, 1_u64.to_be_bytes());
    batch.put_cf(meta, REVISION, 0_u64.to_be_bytes());
    database.raw().write_opt(batch, &synced()).map_err(|error| refused(path, error))?;
    // A relative name of one part lies in the current directory.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    Ok(())
}

/// Opens the store that is there. Nothing in it is changed before everything was checked.
pub(super) fn open(path: &Path, config: &Config) -> Result<Opened, OpenError> {
    let failed = |error: io::Error| OpenError::Io { path: path.into(), reason: error.to_string() };
    if !fs::exists(path.join("CURRENT")).map_err(failed)? {
        return Err(OpenError::Missing { path: path.into() });
    }
    let (head, acknowledged) = match Head::open(path) {
        // The empty file proves nothing to an ordinary start, should this one not come to its end.
        Err(HeadError::Missing) if config.restored => Head::create(path).map(|head| (head, Found::Nothing)),
        opened => opened,
    }
    .map_err(|error| headless(path, error))?;
    let options = options(&Cache::new_lru_cache(config.cache_bytes));
    let names = rocksdb::DB::list_cf(&options, path).map_err(|error| refused(path, error))?;
    if let Some(name) = names.iter().find(|name| Column::ALL.iter().all(|column| column.name() != *name)) {
        return Err(format(path, format!("the column family `{name}`")));
    }
    if let Some(reason) = wal::damage(path).map_err(failed)? {
        return Err(damaged(path, reason));
    }

    // Opening for writing replays the log into tables and deletes it. What is refused is left as it was found, so
    // everything is looked at first.
    let database = Database::open_read_only(&options, path).map_err(|error| refused(path, error))?;
    let (found, epoch) = check(path, config.mode, &database)?;
    let outside = config.outside.as_ref().map(|outside| known(path, outside, config.restored)).transpose()?.flatten();
    if let (Some(head), Some(OutsideHead { keeper, .. }), false) = (&outside, &config.outside, config.restored) {
        proved(path, &**keeper, head, &database, found, epoch)?;
    }
    drop(database);
    let acknowledged = match acknowledged {
        Found::Revision(revision) => revision,
        Found::Nothing if config.restored => found,
        Found::Nothing => return Err(OpenError::NoHead { path: path.into() }),
    };
    if found < acknowledged && !config.restored {
        return Err(OpenError::Lost { path: path.into(), head: acknowledged.get(), found: found.get() });
    }

    let database = Database::open(&options, path).map_err(|error| refused(path, error))?;
    let mut opened = Opened { database, head, revision: found, found, epoch };
    if config.restored {
        // No revision is given out twice, not even one that was lost (I11).
        let (newest, raised) = outside.map_or((found, epoch), |head| (head.revision.max(found), head.epoch.max(epoch)));
        opened.revision = newest.max(acknowledged).next();
        opened.epoch = raised.saturating_add(1);
        let meta = opened.database.column(Column::Meta).map_err(|error| broken(path, error))?;
        let mut batch = WriteBatch::default();
        batch.put_cf(meta, EPOCH, opened.epoch.to_be_bytes());
        batch.put_cf(meta, REVISION, opened.revision.get().to_be_bytes());
        opened.database.raw().write_opt(batch, &synced()).map_err(|error| refused(path, error))?;
    }
    opened.head.begin(opened.revision).map_err(failed)?;
    Ok(opened)
}

/// Looks at everything that a decision could rest on, and returns the last revision and the epoch.
fn check(path: &Path, mode: Mode, database: &Database) -> Result<(Revision, u64), OpenError> {
    let unreadable = |error| broken(path, error);
    let version = database.meta(FORMAT).map_err(unreadable)?;
    let Some(version) = version else {
        return Err(damaged(path, "its creation did not finish"));
    };
    if version != FORMAT_VERSION.to_be_bytes() {
        let number = version.as_slice().try_into().map(u32::from_be_bytes);
        return Err(format(path, number.map_or_else(|_| "an unknown format".to_owned(), |n| format!("format {n}"))));
    }
    let stamp = database.meta(MODE).map_err(unreadable)?.unwrap_or_default();
    let stamped = [Mode::Production, Mode::Development].into_iter().find(|mode| mode.to_string().as_bytes() == stamp);
    let stamped = stamped.ok_or_else(|| damaged(path, "its stamp is not readable"))?;
    if stamped != mode {
        return Err(OpenError::OtherMode { path: path.into(), stamped, asked: mode });
    }
    let epoch = database.meta_number(EPOCH).map_err(unreadable)?;
    let last = database.meta_number(REVISION).map(Revision::new).map_err(unreadable)?;
    let newer = |key: &[u8], revision: Revision| {
        if revision <= last {
            return Ok(());
        }
        let key = crate::layout::Key::stored(key.to_vec());
        Err(StoreError::Damaged { reason: format!("the row {key:?} is from revision {revision}, after {last}") })
    };
    // Reading every row checks every checksum on the way.
    database.visit_rows(None, newer).map_err(unreadable)?;
    database.read_whole_log().map_err(unreadable)?;
    for log in database.logs().map_err(unreadable)? {
        database.check_log(&log).map_err(unreadable)?;
    }
    Ok((last, epoch))
}

/// The head that is kept outside. Only one that is begun, and a restored store's, may be missing.
fn known(path: &Path, outside: &OutsideHead, restored: bool) -> Result<Option<KnownHead>, OpenError> {
    let OutsideHead { keeper, every: _, begin } = outside;
    match keeper.read() {
        Ok(None) if *begin || restored => Ok(None),
        Ok(Some(head)) => Ok(Some(head)),
        Ok(None) => Err(outside_problem(
            path,
            &**keeper,
            "is missing, so nothing proves that the store is not an old copy: name the right place, or restore a backup with \
             `countersign restore`; where none was kept so far, `countersign init --begin-head` begins it",
        )),
        Err(error) => Err(outside_problem(
            path,
            &**keeper,
            &format!(
                "cannot be read ({error}): see to it, or restore a backup with `countersign restore` after it was put aside"
            ),
        )),
    }
}

/// That a store has all that the head outside knows of, and the same of it.
fn proved(
    path: &Path,
    keeper: &dyn HeadKeeper,
    head: &KnownHead,
    database: &Database,
    found: Revision,
    epoch: u64,
) -> Result<(), OpenError> {
    let behind = |what: String| Err(OpenError::Behind { path: path.into(), place: keeper.place(), what });
    if head.epoch > epoch {
        return behind(format!("epoch {}, and the store is of epoch {epoch}", head.epoch));
    }
    if head.revision > found {
        return behind(format!("revision {}, and the store ends with {}", head.revision.get(), found.get()));
    }
    if head.epoch < epoch {
        // It was restored, in the knowledge of this head; what was handed out before is dead.
        return Ok(());
    }
    let unreadable = |error| broken(path, error);
    let snapshot = database.raw().snapshot();
    for (log, (size, root)) in &head.logs {
        let has = database.log_size(&snapshot, log).map_err(unreadable)?;
        if *size > has {
            return behind(format!("{size} records of the log of `{log}`, and the store has {has}"));
        }
        if database.edge(&snapshot, log, *size).map_err(unreadable)?.root() != *root {
            let (path, place, log, size) = (path.into(), keeper.place(), log.clone(), *size);
            return Err(OpenError::OtherHistory { path, place, log, size });
        }
    }
    Ok(())
}

/// A store is made new only where no head says that there was one.
pub(super) fn require_no_head(path: &Path, outside: &OutsideHead) -> Result<(), OpenError> {
    let keeper = &*outside.keeper;
    match keeper.read() {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(outside_problem(
            path,
            keeper,
            "is that of a store, which is not here: restore it with `countersign restore`; for a new one, name another place",
        )),
        Err(error) => Err(outside_problem(path, keeper, &format!("cannot be read ({error}): name another place"))),
    }
}

/// Begins to keep the head outside, with what was opened. A restored store's is kept once it is at its place.
pub(super) fn keep_head(
    path: &Path,
    config: &Config,
    revision: Revision,
    shared: &Arc<Shared>,
) -> Result<(HashMap<TenantId, Frontier>, Keeping), OpenError> {
    let outside = config.outside.as_ref().filter(|_| !config.restored);
    let Some(OutsideHead { keeper, .. }) = outside else { return Ok((HashMap::new(), Keeping::Not)) };
    let edges = || -> Result<HashMap<TenantId, Frontier>, StoreError> {
        let snapshot = shared.database.raw().snapshot();
        let edge = |log: TenantId| Ok((log.clone(), shared.database.frontier(&snapshot, &log)?));
        shared.database.logs()?.into_iter().map(edge).collect()
    };
    let frontiers = edges().map_err(|error| broken(path, error))?;
    let head = KnownHead::of(revision, shared.epoch.load(Ordering::Acquire), &frontiers);
    let keeping = Keeping::start(outside, &head, shared).map_err(|error| {
        outside_problem(path, &**keeper, &format!("cannot be written ({error}): see to its place, and its permissions"))
    })?;
    Ok((frontiers, keeping))
}

fn outside_problem(path: &Path, keeper: &dyn HeadKeeper, problem: &str) -> OpenError {
    OpenError::Outside { path: path.into(), place: keeper.place(), problem: problem.to_owned() }
}

/// Durable when it returns.
pub(super) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

fn headless(path: &Path, error: HeadError) -> OpenError {
    match error {
        HeadError::Missing => OpenError::NoHead { path: path.into() },
        HeadError::Locked => OpenError::InUse { path: path.into() },
        HeadError::Io(error) => OpenError::Io { path: path.into(), reason: error.to_string() },
    }
}

fn damaged(path: &Path, reason: impl Into<String>) -> OpenError {
    OpenError::Damaged { path: path.into(), reason: reason.into() }
}

fn format(path: &Path, found: String) -> OpenError {
    OpenError::Format { path: path.into(), found, known: FORMAT_VERSION }
}

fn broken(path: &Path, error: StoreError) -> OpenError {
    match error {
        StoreError::Damaged { reason } => damaged(path, reason),
        StoreError::Pruned { .. } | StoreError::Overloaded | StoreError::Stopped { .. } | StoreError::ShutDown => {
            damaged(path, error.to_string())
        }
    }
}

fn refused(path: &Path, error: rocksdb::Error) -> OpenError {
    let kind = error.kind();
    let reason = error.into_string();
    // RocksDB keeps a lock of its own.
    if kind == ErrorKind::IOError && reason.contains("LOCK") {
        OpenError::InUse { path: path.into() }
    } else if kind == ErrorKind::IOError {
        OpenError::Io { path: path.into(), reason }
    } else {
        damaged(path, reason)
    }
}
