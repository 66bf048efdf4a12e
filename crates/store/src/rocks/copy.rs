//! Copies of a store: of one that is in use, and of one that is not.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rocksdb::checkpoint::Checkpoint;

use super::database::{Database, REVISION};
use super::head::{Head, HeadError};
use crate::error::{OpenError, StoreError};
use crate::kernel::Revision;

/// As [`super::RocksKernel::checkpoint`]. On the same volume the large files are linked and not copied; what is linked never
/// changes.
pub(super) fn checkpoint(database: &Database, path: &Path) -> Result<Revision, StoreError> {
    Checkpoint::new(database.raw())?.create_checkpoint(path)?;
    sync_all(path).map_err(|error| StoreError::Stopped { reason: format!("cannot sync the backup: {error}") })?;
    // What was acknowledged when this is read may be more than what was copied; the copy says it itself.
    let options = super::database::options(&rocksdb::Cache::new_lru_cache(0));
    let copy = Database::open_read_only(&options, path)?;
    copy.meta_number(REVISION).map(Revision::new)
}

/// Copies a store that nobody has open into a directory that is not there yet, durably.
///
/// # Errors
/// [`OpenError::InUse`], [`OpenError::Missing`], [`OpenError::Io`].
pub fn copy_store(from: &Path, to: &Path) -> Result<(), OpenError> {
    let failed = |error: io::Error| OpenError::Io { path: from.into(), reason: error.to_string() };
    if !fs::exists(from.join("CURRENT")).map_err(failed)? {
        return Err(OpenError::Missing { path: from.into() });
    }
    // The lock is held to the end. A backup has none.
    let _held = match Head::open(from) {
        Ok((head, _)) => Some(head),
        Err(HeadError::Missing) => None,
        // Where nobody can write, nobody has it open.
        Err(HeadError::Io(error)) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => None,
        Err(HeadError::Locked) => return Err(OpenError::InUse { path: from.into() }),
        Err(HeadError::Io(error)) => return Err(failed(error)),
    };
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if entry.file_type().map_err(failed)?.is_file() && name != "LOCK" {
            fs::copy(entry.path(), to.join(&name)).map_err(failed)?;
        }
    }
    sync_all(to).map_err(failed)
}

/// Syncs every file of a directory, and the directory.
fn sync_all(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(path)?.sync_all()
}
