//! The private keys of a tenant, as files that only the service's user can read.
//!
//! They are made once, before the store holds anything of the tenant. From then on a missing one is an error and never made
//! anew: a new key would silently end every capability, or start a log that nobody can compare with the old one.

mod cipher;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use countersign_audit::{NoteSigner, NoteVerifier};
use countersign_core::TenantId;
use countersign_token::{KeyId, SigningKey};
use zeroize::Zeroizing;

pub use cipher::KeyCipher;

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
    /// A key is encrypted, and nothing is configured to decrypt it with.
    #[error("the key file `{}` is encrypted; say in the configuration by `[keys] encryption` what with", .0.display())]
    Encrypted(PathBuf),
    /// A key does not open with the key that is configured.
    #[error(
        "the key file `{}` does not open with the key that `[keys] encryption` gives; give the one that it was encrypted \
         with, or restore the file from a copy", .0.display())]
    WrongKey(PathBuf),
    /// The key for the key files is not to be had.
    #[error("the key that key files are encrypted with is not to be had: {0}")]
    Unavailable(String),
    /// There is no randomness, or a name is not one.
    #[error("cannot make keys: {0}")]
    Make(String),
}

const COMMITMENT_KEY: &str = "commitment.key";
const LOG_KEY: &str = "log.key";
const LOG_PUBLIC: &str = "log.pub";

/// Opens a tenant's keys under `data_dir`, or makes them if `fresh` says that the store holds nothing of the tenant.
///
/// What is not encrypted, and is to be, is encrypted where it lies.
///
/// # Errors
/// [`KeystoreError`].
pub fn open(
    data_dir: &Path,
    tenant: &TenantId,
    origin: &str,
    fresh: bool,
    cipher: &KeyCipher,
) -> Result<TenantKeys, KeystoreError> {
    let dir = directory(data_dir, tenant);
    let store = Files { dir: &dir, tenant, cipher };
    if fresh {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at(&dir))?;
        for name in [&token_key(1), COMMITMENT_KEY, LOG_KEY] {
            store.make(name)?;
        }
    }
    let log = NoteSigner::from_seed(origin, &*store.read(LOG_KEY)?).map_err(|e| KeystoreError::Make(e.to_string()))?;
    let public = dir.join(LOG_PUBLIC);
    if !fresh && public.exists() && log_verifier(data_dir, tenant)? != *log.verifier() {
        return Err(KeystoreError::OtherLogKey(public));
    }
    write_atomically(&public, format!("{}\n", log.verifier()).as_bytes(), 0o644).map_err(at(&public))?;
    let ids = token_keys(&dir)?;
    if ids.is_empty() {
        return Err(KeystoreError::Missing(dir.join(token_key(1))));
    }
    let signing = ids.into_iter().map(|id| store.signing(id)).collect::<Result<_, _>>()?;
    Ok(TenantKeys { signing, commitment: store.read(COMMITMENT_KEY)?, log })
}

/// Makes another signing key, durably, with the id `least` or the next one that no file has.
///
/// # Errors
/// [`KeystoreError`].
pub fn make_signing_key(
    data_dir: &Path,
    tenant: &TenantId,
    least: KeyId,
    cipher: &KeyCipher,
) -> Result<SigningKey, KeystoreError> {
    let dir = directory(data_dir, tenant);
    // An id is never used again for another key, also where a file is left of a change that was not committed.
    let newest = token_keys(&dir)?.last().copied().unwrap_or(0);
    let id = least.0.max(newest.saturating_add(1));
    let store = Files { dir: &dir, tenant, cipher };
    store.make(&token_key(id))?;
    store.signing(id)
}

/// Deletes the private half of a signing key that is out of service. One that is gone already is none.
///
/// # Errors
/// [`KeystoreError::Io`].
pub fn discard_signing_key(data_dir: &Path, tenant: &TenantId, id: KeyId) -> Result<(), KeystoreError> {
    let dir = directory(data_dir, tenant);
    let path = dir.join(token_key(id.0));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
        Ok(()) | Err(_) => fs::File::open(&dir).and_then(|dir| dir.sync_all()).map_err(at(&dir)),
    }
}

/// Whether every private key below a data directory is encrypted.
///
/// # Errors
/// [`KeystoreError::Io`].
pub fn all_encrypted(data_dir: &Path) -> Result<bool, KeystoreError> {
    let keys = data_dir.join("keys");
    for tenant in fs::read_dir(&keys).map_err(at(&keys))? {
        let dir = tenant.map_err(at(&keys))?.path();
        for file in fs::read_dir(&dir).map_err(at(&dir))? {
            let path = file.map_err(at(&dir))?.path();
            if path.extension().is_some_and(|e| e == "key") {
                let text = Zeroizing::new(fs::read_to_string(&path).map_err(at(&path))?);
                if !cipher::is_encrypted(&text) {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

fn token_key(id: u32) -> String {
    format!("token-{id}.key")
}

/// The ids of the signing keys that lie there, in order.
fn token_keys(dir: &Path) -> Result<Vec<u32>, KeystoreError> {
    let mut ids = Vec::new();
    let files = match fs::read_dir(dir) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ids),
        Err(error) => return Err(at(dir)(error)),
    };
    for file in files {
        let name = file.map_err(at(dir))?.file_name();
        let id = |name: &str| name.strip_prefix("token-")?.strip_suffix(".key")?.parse::<u32>().ok();
        ids.extend(name.to_str().and_then(id));
    }
    ids.sort_unstable();
    Ok(ids)
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

/// The key that salts a tenant's commitments to sensitive inputs, for whoever opens one. The file stays as it is.
///
/// # Errors
/// [`KeystoreError`].
pub fn commitment_key(
    data_dir: &Path,
    tenant: &TenantId,
    cipher: &KeyCipher,
) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let dir = directory(data_dir, tenant);
    Files { dir: &dir, tenant, cipher }.look(COMMITMENT_KEY).map(|(key, _)| key)
}

fn directory(data_dir: &Path, tenant: &TenantId) -> PathBuf {
    data_dir.join("keys").join(tenant.as_str())
}

/// The key files of a tenant.
struct Files<'a> {
    dir: &'a Path,
    tenant: &'a TenantId,
    cipher: &'a KeyCipher,
}

impl Files<'_> {
    /// Makes a key, unless an interrupted start made it already.
    fn make(&self, name: &str) -> Result<(), KeystoreError> {
        if self.dir.join(name).exists() {
            return Ok(());
        }
        let mut seed = Zeroizing::new([0_u8; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|e| KeystoreError::Make(e.to_string()))?;
        self.write(name, &seed)
    }

    fn write(&self, name: &str, seed: &[u8; 32]) -> Result<(), KeystoreError> {
        let path = self.dir.join(name);
        let text = self.cipher.seal(self.tenant, name, seed)?;
        write_atomically(&path, text.as_bytes(), 0o600).map_err(at(&path))
    }

    /// A key, which is encrypted where it lies if it is to be and is not.
    fn read(&self, name: &str) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let (seed, current) = self.look(name)?;
        if !current {
            self.write(name, &seed)?;
            tracing::info!(file = %self.dir.join(name).display(), "key file encrypted");
        }
        Ok(seed)
    }

    /// A key, and whether its file is as it is to be.
    fn look(&self, name: &str) -> Result<(Zeroizing<[u8; 32]>, bool), KeystoreError> {
        use std::os::unix::fs::PermissionsExt;
        let path = &self.dir.join(name);
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(KeystoreError::Missing(path.clone())),
            Err(e) => return Err(at(path)(e)),
        };
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(KeystoreError::Exposed(path.clone()));
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(at(path))?);
        if cipher::is_encrypted(&text) {
            self.cipher.open(self.tenant, name, &text, path)
        } else {
            let mut seed = Zeroizing::new([0_u8; 32]);
            hex::decode_to_slice(text.trim_end(), seed.as_mut_slice())
                .map_err(|_| KeystoreError::Malformed(path.clone()))?;
            Ok((seed, !self.cipher.encrypts()))
        }
    }

    fn signing(&self, id: u32) -> Result<SigningKey, KeystoreError> {
        let seed = self.read(&token_key(id))?;
        SigningKey::from_seed(KeyId(id), seed).map_err(|e| KeystoreError::Make(e.to_string()))
    }
}

/// Writes a file whole or not at all, and durably: into a neighbour, synced, renamed, directory synced.
///
/// # Errors
/// What the operating system says.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Behind the whole name: files that differ in their extension have neighbours of their own.
    let mut neighbour = path.as_os_str().to_owned();
    neighbour.push(".new");
    let neighbour = PathBuf::from(neighbour);
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
        let made = open(dir.path(), &tenant(), "log.example/acme", true, &KeyCipher::none()).unwrap();
        let read = open(dir.path(), &tenant(), "log.example/acme", false, &KeyCipher::none()).unwrap();
        assert_eq!(made.signing[0].public(), read.signing[0].public());
        assert_eq!(made.commitment, read.commitment);
        assert_eq!(log_verifier(dir.path(), &tenant()).unwrap(), *read.log.verifier());
    }

    #[test]
    fn a_missing_key_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            open(dir.path(), &tenant(), "log.example/acme", false, &KeyCipher::none()),
            Err(KeystoreError::Missing(_))
        ));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), &tenant(), "log.example/acme", true, &KeyCipher::none()).unwrap();
        let path = dir.path().join("keys/acme/token-1.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let opened = open(dir.path(), &tenant(), "log.example/acme", false, &KeyCipher::none());
        assert!(matches!(opened, Err(KeystoreError::Exposed(_))));
    }

    #[test]
    fn keys_are_encrypted_where_they_lie_and_open_with_their_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let open = |cipher: &KeyCipher| open(dir.path(), &tenant(), "log.example/acme", false, cipher);
        let plain = super::open(dir.path(), &tenant(), "log.example/acme", true, &KeyCipher::none()).unwrap();
        assert!(!all_encrypted(dir.path()).unwrap());
        let encrypted = open(&KeyCipher::of([7; 32], None)).unwrap();
        assert_eq!(encrypted.signing[0].public(), plain.signing[0].public());
        assert!(all_encrypted(dir.path()).unwrap());
        let text = fs::read_to_string(dir.path().join("keys/acme/log.key")).unwrap();
        assert!(text.starts_with("countersign-key-1 "), "{text}");
        assert!(matches!(open(&KeyCipher::none()), Err(KeystoreError::Encrypted(_))));
        assert!(matches!(open(&KeyCipher::of([8; 32], None)), Err(KeystoreError::WrongKey(_))));
        // A file in the place of another does not open either.
        let at = |name: &str| dir.path().join("keys/acme").join(name);
        fs::copy(at("commitment.key"), at("token-2.key")).unwrap();
        assert!(matches!(open(&KeyCipher::of([7; 32], None)), Err(KeystoreError::WrongKey(_))));
        fs::remove_file(at("token-2.key")).unwrap();
        // Another key takes over.
        open(&KeyCipher::of([9; 32], Some([7; 32]))).unwrap();
        open(&KeyCipher::of([9; 32], None)).unwrap();
    }

    #[test]
    fn whoever_opens_a_commitment_reads_its_key_and_changes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let made = open(dir.path(), &tenant(), "log.example/acme", true, &KeyCipher::none()).unwrap();
        let encrypts = KeyCipher::of([7; 32], None);
        assert_eq!(commitment_key(dir.path(), &tenant(), &encrypts).unwrap(), made.commitment);
        assert!(!all_encrypted(dir.path()).unwrap());
        open(dir.path(), &tenant(), "log.example/acme", false, &encrypts).unwrap();
        assert_eq!(commitment_key(dir.path(), &tenant(), &encrypts).unwrap(), made.commitment);
        let refused = commitment_key(dir.path(), &tenant(), &KeyCipher::none());
        assert!(matches!(refused, Err(KeystoreError::Encrypted(_))));
    }

    #[test]
    fn another_signing_key_never_takes_an_id_that_was_used() {
        let dir = tempfile::tempdir().unwrap();
        let cipher = KeyCipher::none();
        open(dir.path(), &tenant(), "log.example/acme", true, &cipher).unwrap();
        let make = |least| make_signing_key(dir.path(), &tenant(), KeyId(least), &cipher).unwrap().id();
        assert_eq!((make(2), make(2), make(7)), (KeyId(2), KeyId(3), KeyId(7)));
        discard_signing_key(dir.path(), &tenant(), KeyId(3)).unwrap();
        discard_signing_key(dir.path(), &tenant(), KeyId(3)).unwrap();
        let opened = open(dir.path(), &tenant(), "log.example/acme", false, &cipher).unwrap();
        assert_eq!(opened.signing.iter().map(SigningKey::id).collect::<Vec<_>>(), [1, 2, 7].map(KeyId));
    }
}
