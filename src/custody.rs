//! What the service keeps on its machine besides the store: key files, and backups.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_core::TenantId;
use countersign_engine::{Backup, Error};
use countersign_store::RocksKernel;
use countersign_token::{KeyId, SigningKey};
use serde::{Deserialize, Serialize};

use crate::keystore::{self, KeyCipher};

/// How the name of a backup ends that is not finished.
pub const PARTIAL: &str = ".partial";
/// What a backup says of itself.
pub const MANIFEST: &str = "backup.json";
/// The version of that.
const VERSION: u32 = 1;

/// What the service keeps.
#[derive(Debug)]
pub struct Custody {
    /// The data directory.
    pub data_dir: PathBuf,
    /// What key files are encrypted with.
    pub cipher: KeyCipher,
    /// The store.
    pub kernel: Arc<RocksKernel>,
    /// Where backups go.
    pub backups: Option<PathBuf>,
}

/// What a backup says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this form.
    pub version: u32,
    /// The revision that it holds.
    pub revision: u64,
    /// Whether the private keys are in it.
    pub keys: bool,
}

impl Custody {
    /// Makes a signing key, durably.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn make_signing_key(self: &Arc<Self>, tenant: &TenantId, least: KeyId) -> Result<SigningKey, Error> {
        let (custody, tenant) = (Arc::clone(self), tenant.clone());
        let make = move || keystore::make_signing_key(&custody.data_dir, &tenant, least, &custody.cipher);
        blocking(make).await?.map_err(|error| Error::Internal(error.to_string()))
    }

    /// Deletes the private half of one.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn discard_signing_key(self: &Arc<Self>, tenant: &TenantId, id: KeyId) -> Result<(), Error> {
        let (custody, tenant) = (Arc::clone(self), tenant.clone());
        let discard = move || keystore::discard_signing_key(&custody.data_dir, &tenant, id);
        blocking(discard).await?.map_err(|error| Error::Internal(error.to_string()))
    }

    /// Makes a backup: whole, or under a name that says that it is not.
    ///
    /// # Errors
    /// [`Error::Backup`].
    pub async fn back_up(self: &Arc<Self>, name: &str) -> Result<Backup, Error> {
        let (custody, name) = (Arc::clone(self), name.to_owned());
        blocking(move || custody.write_backup(&name)).await?.map_err(Error::Backup)
    }

    fn write_backup(&self, name: &str) -> Result<Backup, String> {
        let directory = self.backups.as_ref().ok_or("no directory is configured; name one as `backup.directory`")?;
        let failed = |path: &Path, error: &dyn std::fmt::Display| format!("`{}`: {error}", path.display());
        create_private(directory).map_err(|error| failed(directory, &error))?;
        let (path, partial) = (directory.join(name), directory.join(format!("{name}{PARTIAL}")));
        if path.exists() {
            return Err(failed(&path, &"there is one of that name; choose another"));
        }
        // What an earlier one left that did not come to its end.
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(|error| failed(&partial, &error))?;
        }
        create_private(&partial).map_err(|error| failed(&partial, &error))?;
        // Before the store, so that it continues them.
        let checkpoints = self.data_dir.join("checkpoints");
        if checkpoints.exists() {
            copy_tree(&checkpoints, &partial.join("checkpoints"), &|_| true).map_err(|e| failed(&partial, &e))?;
        }
        let revision = self.kernel.checkpoint(&partial.join("store")).map_err(|error| failed(&partial, &error))?.get();
        // In the open they do not leave the data directory.
        let keys =
            self.cipher.encrypts() && keystore::all_encrypted(&self.data_dir).map_err(|error| error.to_string())?;
        let wanted = |path: &Path| keys || path.extension().is_none_or(|e| e != "key");
        copy_tree(&self.data_dir.join("keys"), &partial.join("keys"), &wanted).map_err(|e| failed(&partial, &e))?;
        let manifest = serde_json::to_vec_pretty(&Manifest { version: VERSION, revision, keys });
        let manifest = manifest.map_err(|error| error.to_string())?;
        keystore::write_atomically(&partial.join(MANIFEST), &manifest, 0o600).map_err(|e| failed(&partial, &e))?;
        fs::rename(&partial, &path)
            .and_then(|()| fs::File::open(directory)?.sync_all())
            .map_err(|error| failed(&path, &error))?;
        Ok(Backup { path: path.display().to_string(), revision, keys })
    }
}

/// Copies files and directories, durably, with their permissions; only those files that are wanted.
///
/// # Errors
/// What the operating system says.
pub fn copy_tree(from: &Path, to: &Path, wanted: &impl Fn(&Path) -> bool) -> io::Result<()> {
    create_private(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&path, &target, wanted)?;
        } else if kind.is_file() && wanted(&path) {
            fs::copy(&path, &target)?;
            fs::File::open(&target)?.sync_all()?;
        }
    }
    fs::File::open(to)?.sync_all()
}

/// Makes a directory that only its owner reads, unless it is there.
///
/// # Errors
/// What the operating system says.
pub fn create_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))
}
