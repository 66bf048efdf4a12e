//! The private keys of a tenant, as files that only the service's user can read.
//!
//! They are made once, before the store holds anything of the tenant. From then on a missing one is an error and never made
//! anew: a new key would silently end every capability, or start a log that nobody can compare with the old one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use countersign_audit::{NoteSigner, NoteVerifier};
use countersign_core::TenantId;
use countersign_token::{KeyId, SigningKey};
use zeroize::Zeroizing;

/// A tenant's keys.
#[derive(Debug)]
pub struct TenantKeys {
    /// Sign capabilities.
    pub signing: Vec<SigningKey>,
    /// Salts commitments to sensitive inputs.
    pub commitment: Zeroizing<[u8; 32]>,
    /// Signs the heads of the log.
    pub log: NoteSigner,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// The operating system refused.
    #[error("cannot use the key file `{}`: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A key is not there, though the store needs it.
    #[error("the key file `{}` is missing, though the store holds what it signed; restore it from a copy", .0.display())]
    Missing(PathBuf),
    /// A key file does not hold a key.
    #[error("the key file `{}` does not hold 64 hexadecimal digits; restore it from a copy", .0.display())]
    Malformed(PathBuf),
    /// The log's key, or its origin, is not the one that signed the log so far.
    #[error("the log's key or `log_origin` is not the one in `{}`, under which its heads were signed so far; restore it",
        .0.display())]
    OtherLogKey(PathBuf),
    /// Others can read a key.
    #[error("the key file `{}` can be read by others; if nobody did, `chmod 600` it", .0.display())]
    Exposed(PathBuf),
    /// There is no randomness, or a name is not one.
    #[error("cannot make keys: {0}")]
    Make(String),
}

const TOKEN_KEY: &str = "token-1.key";
const COMMITMENT_KEY: &str = "commitment.key";
const LOG_KEY: &str = "log.key";
const LOG_PUBLIC: &str = "log.pub";

/// Opens a tenant's keys under `data_dir`, or makes them if `fresh` says that the store holds nothing of the tenant.
///
/// # Errors
/// [`KeystoreError`].
pub fn open(data_dir: &Path, tenant: &TenantId, origin: &str, fresh: bool) -> Result<TenantKeys, KeystoreError> {
    let dir = directory(data_dir, tenant);
    if fresh {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at(&dir))?;
        for name in [TOKEN_KEY, COMMITMENT_KEY, LOG_KEY] {
            make(&dir.join(name))?;
        }
    }
    let log =
        NoteSigner::from_seed(origin, &*read(&dir.join(LOG_KEY))?).map_err(|e| KeystoreError::Make(e.to_string()))?;
    let public = dir.join(LOG_PUBLIC);
    if !fresh && public.exists() && log_verifier(data_dir, tenant)? != *log.verifier() {
        return Err(KeystoreError::OtherLogKey(public));
    }
    write_atomically(&public, format!("{}\n", log.verifier()).as_bytes(), 0o644).map_err(at(&public))?;
    let signing = SigningKey::from_seed(KeyId(1), read(&dir.join(TOKEN_KEY))?);
    Ok(TenantKeys {
        signing: vec![signing.map_err(|e| KeystoreError::Make(e.to_string()))?],
        commitment: read(&dir.join(COMMITMENT_KEY))?,
        log,
    })
}

/// The public key of a tenant's log, for offline checks.
///
/// # Errors
/// [`KeystoreError`].
pub fn log_verifier(data_dir: &Path, tenant: &TenantId) -> Result<NoteVerifier, KeystoreError> {
    let path = directory(data_dir, tenant).join(LOG_PUBLIC);
    let text = fs::read_to_string(&path).map_err(at(&path))?;
    text.trim_end().parse().map_err(|_| KeystoreError::Malformed(path))
}

fn directory(data_dir: &Path, tenant: &TenantId) -> PathBuf {
    data_dir.join("keys").join(tenant.as_str())
}

/// Makes a key, unless an interrupted start made it already.
fn make(path: &Path) -> Result<(), KeystoreError> {
    if path.exists() {
        return Ok(());
    }
    let mut seed = Zeroizing::new([0_u8; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|e| KeystoreError::Make(e.to_string()))?;
    let text = Zeroizing::new(format!("{}\n", hex::encode(seed.as_slice())));
    write_atomically(path, text.as_bytes(), 0o600).map_err(at(path))
}

fn read(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    use std::os::unix::fs::PermissionsExt;
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(KeystoreError::Missing(path.to_owned())),
        Err(e) => return Err(at(path)(e)),
    };
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(KeystoreError::Exposed(path.to_owned()));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(at(path))?);
    let mut seed = Zeroizing::new([0_u8; 32]);
    hex::decode_to_slice(text.trim_end(), seed.as_mut_slice())
        .map_err(|_| KeystoreError::Malformed(path.to_owned()))?;
    Ok(seed)
}

/// Writes a file whole or not at all, and durably: into a neighbour, synced, renamed, directory synced.
///
/// # Errors
/// What the operating system says.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let neighbour = path.with_extension("new");
    let _absent_is_fine = fs::remove_file(&neighbour);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&neighbour)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&neighbour, path)?;
    fs::File::open(parent)?.sync_all()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> KeystoreError {
    let path = path.to_owned();
    move |source| KeystoreError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn tenant() -> TenantId {
        TenantId::new("acme").unwrap()
    }

    #[test]
    fn keys_are_made_once_and_stay_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let made = open(dir.path(), &tenant(), "log.example/acme", true).unwrap();
        let read = open(dir.path(), &tenant(), "log.example/acme", false).unwrap();
        assert_eq!(made.signing[0].public(), read.signing[0].public());
        assert_eq!(made.commitment, read.commitment);
        assert_eq!(log_verifier(dir.path(), &tenant()).unwrap(), *read.log.verifier());
    }

    #[test]
    fn a_missing_key_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open(dir.path(), &tenant(), "log.example/acme", false), Err(KeystoreError::Missing(_))));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), &tenant(), "log.example/acme", true).unwrap();
        let path = dir.path().join("keys/acme/token-1.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let opened = open(dir.path(), &tenant(), "log.example/acme", false);
        assert!(matches!(opened, Err(KeystoreError::Exposed(_))));
    }
}
