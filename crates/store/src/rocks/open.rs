//! Creating and opening a data directory: everything that must be so before a decision rests on it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rocksdb::{Cache, ErrorKind, WriteBatch, WriteOptions};

use super::database::{Column, Database, EPOCH, FORMAT, MODE, REVISION, options};
use super::head::{Found, Head, HeadError};
use super::{Config, Mode, wal};
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
    let mut opened = Opened { database, head, revision: found, epoch };
    if config.restored {
        // No revision is given out twice, not even one that was lost (I11).
        opened.revision = found.max(acknowledged).next();
        opened.epoch = epoch.saturating_add(1);
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
        StoreError::Overloaded | StoreError::Stopped { .. } | StoreError::ShutDown => damaged(path, error.to_string()),
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
