//! A bundle's directory, looked at and read where it holds nobody up.

use std::path::Path;

use countersign_engine::Error;
use countersign_policy::{Source, Stamp};
use tokio::task::spawn_blocking;

/// The files; with `stamp`, as they were when they looked like that.
///
/// # Errors
/// [`Error::BundleUnreadable`].
pub async fn read(dir: &Path, stamp: Option<&Stamp>) -> Result<Source, Error> {
    let (dir, stamp) = (dir.to_owned(), stamp.cloned());
    let read = spawn_blocking(move || match stamp {
        Some(stamp) => Source::read_as(&dir, &stamp),
        None => Source::read_dir(&dir),
    });
    let source = read.await.map_err(|error| Error::Internal(error.to_string()))?;
    source.map_err(|error| Error::BundleUnreadable(error.to_string()))
}

/// What the files look like from outside; nothing if they cannot be listed.
pub async fn stamp(dir: &Path) -> Option<Stamp> {
    let dir = dir.to_owned();
    spawn_blocking(move || Source::stamp(&dir).ok()).await.ok().flatten()
}
