//! The issuer of a development server: a key in the data directory, with which whoever can read it may be anybody. A
//! production configuration refuses its name, and thereby all that it signs.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_core::Timestamp;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::belonging::Belonging;
use super::claims::{self, Demands};
use super::error::CredentialError;
use super::naming::Naming;
use crate::config::{DEV_APPROVING_AUDIENCE, DEV_AUDIENCE, DEV_ISSUER, DEV_METHOD, DEV_PUBLIC_KEY_FILE};

/// The private key, in the data directory.
const PRIVATE_KEY_FILE: &str = "dev-issuer.pem";
/// No key file is larger, in bytes.
const MAX_FILE_BYTES: u64 = 4096;

/// Why the development issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DevIssuerError {
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Others may read the key.
    #[error("`{}` can be read by others (mode {mode:03o}), who could be anybody; remove it, and a new one is made", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file does not hold a key.
    #[error("`{}` does not hold an Ed25519 key; remove it, and a new one is made", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The operating system has no random numbers.
    #[error("the operating system gave no random numbers; try again")]
    Random,
    /// Nobody would believe such a token.
    #[error("such a credential would be refused: {0}")]
    Refused(CredentialError),
    /// A chain without somebody for whom its members act.
    #[error("a chain of actors acts for somebody; name the operator")]
    ChainWithoutOperator,
    /// The token could not be signed.
    #[error("cannot sign with `{}`; remove it, and a new one is made", path.display())]
    Sign {
        /// The file of the key.
        path: PathBuf,
    },
}

/// The issuer [`DEV_ISSUER`], with the audiences [`DEV_AUDIENCE`] and [`DEV_APPROVING_AUDIENCE`]: its credentials vote and publish.
pub struct DevIssuer {
    key: EncodingKey,
    path: PathBuf,
}

impl DevIssuer {
    /// The issuer of the data directory `dir`. The first call makes directory and key; when several do at once, they come
    /// to one key. The public key lies beside it, where the development configuration expects it. Blocks on small files.
    ///
    /// # Errors
    /// [`DevIssuerError`]; also when others may read the key.
    pub fn open_or_create(dir: &Path) -> Result<Self, DevIssuerError> {
        // The one implementation that is compiled in; if it is installed already, it is the same.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| file("create the directory", dir, source))?;
        let path = dir.join(PRIVATE_KEY_FILE);
        let pem = match read(&path)? {
            Some(pem) => pem,
            None => {
                create(dir, &path)?;
                // Whoever was first has decided.
                read(&path)?.ok_or_else(|| file("read", &path, io::ErrorKind::NotFound.into()))?
            }
        };
        let wrong = || DevIssuerError::Key { path: path.clone() };
        let pair = SigningKey::from_pkcs8_pem(&pem).map_err(|_| wrong())?;
        let public = pair.verifying_key().to_public_key_pem(LineEnding::LF).map_err(|_| wrong())?;
        let public_path = dir.join(DEV_PUBLIC_KEY_FILE);
        if fs::read(&public_path).ok().as_deref() != Some(public.as_bytes()) {
            let temporary = temporary(dir, DEV_PUBLIC_KEY_FILE)?;
            write(&temporary, public.as_bytes(), 0o644)?;
            fs::rename(&temporary, &public_path).map_err(|source| file("write", &public_path, source))?;
        }
        let key = EncodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| wrong())?;
        Ok(Self { key, path })
    }

    /// A credential for `subject` (`agent:NAME`, `service:NAME`, or an account), from `now` on for `ttl` (whole seconds, at
    /// least one). With an `operator` (an account), the subject acts for them, and `chain` names who acted before it, the
    /// nearest first (RFC 8693 §4.1).
    ///
    /// # Errors
    /// [`DevIssuerError`], among others if the server would refuse it.
    pub fn token(
        &self,
        subject: &str,
        operator: Option<&str>,
        chain: &[&str],
        now: Timestamp,
        ttl: Duration,
    ) -> Result<String, DevIssuerError> {
        let issued = now.millis().div_euclid(1000);
        let expires = issued.saturating_add(i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX));
        let mut payload = json!({
            "iss": DEV_ISSUER,
            "aud": [DEV_AUDIENCE, DEV_APPROVING_AUDIENCE],
            "iat": issued,
            "auth_time": issued,
            "amr": [DEV_METHOD],
            "exp": expires,
            "sub": operator.unwrap_or(subject),
        });
        if operator.is_some() {
            let inner = chain.iter().rev().fold(None, |inner, name| Some(actor(name, inner)));
            if let Some(payload) = payload.as_object_mut() {
                payload.insert("act".to_owned(), actor(subject, inner));
            }
        } else if !chain.is_empty() {
            return Err(DevIssuerError::ChainWithoutOperator);
        }
        // Told here, where it can be mended, and not by the server later.
        let demands = Demands {
            issuer: DEV_ISSUER,
            audience: DEV_AUDIENCE,
            approving: None,
            naming: &Naming::anybody(),
            belonging: &Belonging::default(),
            required: &BTreeMap::new(),
            max_age_seconds: None,
        };
        claims::payload(payload.to_string().as_bytes())
            .and_then(|payload| claims::check(&payload, &demands, now))
            .map_err(DevIssuerError::Refused)?;
        jsonwebtoken::encode(&Header::new(jsonwebtoken::Algorithm::EdDSA), &payload, &self.key)
            .map_err(|_| DevIssuerError::Sign { path: self.path.clone() })
    }
}

impl fmt::Debug for DevIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevIssuer").field("path", &self.path).finish_non_exhaustive()
    }
}

fn actor(name: &str, inner: Option<Value>) -> Value {
    match inner {
        Some(inner) => json!({ "sub": name, "act": inner }),
        None => json!({ "sub": name }),
    }
}

/// The private key, or none if there is no file.
fn read(path: &Path) -> Result<Option<Zeroizing<String>>, DevIssuerError> {
    let opened = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|source| file("read", path, source))?,
    };
    let mode = opened.metadata().map_err(|source| file("read", path, source))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(DevIssuerError::Open { path: path.to_owned(), mode });
    }
    let mut pem = Zeroizing::new(String::new());
    opened.take(MAX_FILE_BYTES).read_to_string(&mut pem).map_err(|source| file("read", path, source))?;
    Ok(Some(pem))
}

/// Makes a key at `path`, whole or not at all, unless there is one.
fn create(dir: &Path, path: &Path) -> Result<(), DevIssuerError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|_| DevIssuerError::Random)?;
    let pem = SigningKey::from_bytes(&seed)
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|_| DevIssuerError::Key { path: path.to_owned() })?;
    let temporary = temporary(dir, PRIVATE_KEY_FILE)?;
    write(&temporary, pem.as_bytes(), 0o600)?;
    // Linking, unlike renaming, never replaces.
    let linked = fs::hard_link(&temporary, path);
    let removed = fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(file("write", path, error)),
        Ok(()) | Err(_) => {}
    }
    removed.map_err(|source| file("remove", &temporary, source))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| file("write", dir, source))
}

/// A name beside `name` that nobody else uses.
fn temporary(dir: &Path, name: &str) -> Result<PathBuf, DevIssuerError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| DevIssuerError::Random)?;
    Ok(dir.join(format!("{name}.{:016x}.tmp", u64::from_be_bytes(random))))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DevIssuerError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(|source| file("write", path, source))
}

fn file(action: &'static str, path: &Path, source: io::Error) -> DevIssuerError {
    DevIssuerError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};
    use crate::identity::Authenticator;
    use countersign_engine::credential::Subject;
    use std::os::unix::fs::PermissionsExt as _;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_500);
    const HOUR: Duration = Duration::from_secs(3600);

    fn authenticator(dir: &Path) -> Authenticator {
        let config = Config::development(dir, Path::new("policies"), &Overrides::default()).unwrap();
        Authenticator::new(&config).unwrap()
    }

    #[test]
    fn its_credentials_are_believed_by_a_development_server() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = DevIssuer::open_or_create(dir.path()).unwrap();
        let authenticator = authenticator(dir.path());

        let token = issuer.token("alice@example.com", None, &[], NOW, HOUR).unwrap();
        let alice = authenticator.verify(&token, NOW).unwrap();
        assert_eq!(alice.subject, Subject::Account("alice@example.com".to_owned()));
        assert_eq!((alice.tenant.as_str(), alice.issuer.as_str()), ("dev", DEV_ISSUER));
        assert!(alice.actors.is_empty());
        assert_eq!(alice.expires_at, Timestamp::from_millis(1_800_003_600_000));

        let token = issuer.token("agent:a", Some("alice@example.com"), &["agent:b", "service:c"], NOW, HOUR).unwrap();
        let agent = authenticator.verify(&token, NOW).unwrap();
        assert_eq!(agent.subject, Subject::Account("alice@example.com".to_owned()));
        let chain = [Subject::Agent("a".into()), Subject::Agent("b".into()), Subject::Service("c".into())];
        assert_eq!(agent.actors, chain);
    }

    #[test]
    fn the_key_is_made_once_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("deep/data");
        let first = DevIssuer::open_or_create(&data).unwrap();
        let pem = fs::read_to_string(data.join(PRIVATE_KEY_FILE)).unwrap();
        assert_eq!(fs::metadata(data.join(PRIVATE_KEY_FILE)).unwrap().mode() & 0o777, 0o600);
        DevIssuer::open_or_create(&data).unwrap();
        assert_eq!(fs::read_to_string(data.join(PRIVATE_KEY_FILE)).unwrap(), pem);
        let mut names: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [PRIVATE_KEY_FILE, DEV_PUBLIC_KEY_FILE]);
        assert!(!format!("{first:?}").contains(pem.lines().nth(1).unwrap()));
    }

    #[test]
    fn all_who_come_first_get_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let tokens: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let issuer = DevIssuer::open_or_create(dir.path()).unwrap();
                        issuer.token("alice", None, &[], NOW, HOUR).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // Ed25519 is deterministic: one key, one signature.
        assert!(tokens.iter().all(|token| *token == tokens[0]));
        authenticator(dir.path()).verify(&tokens[0], NOW).unwrap();
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        DevIssuer::open_or_create(dir.path()).unwrap();
        let path = dir.path().join(PRIVATE_KEY_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let text = DevIssuer::open_or_create(dir.path()).unwrap_err().to_string();
        assert!(text.contains("can be read by others (mode 640)"), "{text}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "nonsense").unwrap();
        let text = DevIssuer::open_or_create(dir.path()).unwrap_err().to_string();
        assert!(text.contains("does not hold an Ed25519 key; remove it"), "{text}");
    }

    #[test]
    fn what_the_server_would_refuse_is_not_issued() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = DevIssuer::open_or_create(dir.path()).unwrap();
        let nine = ["agent:1", "agent:2", "agent:3", "agent:4", "agent:5", "agent:6", "agent:7", "agent:8"];
        for (subject, operator, chain) in [
            ("", None, &[] as &[&str]),
            ("agent:", None, &[]),
            ("agent:a", Some("agent:a"), &[]),
            ("agent:a", Some("alice"), &["agent:a"]),
            ("agent:a", Some("alice"), &nine),
        ] {
            let error = issuer.token(subject, operator, chain, NOW, HOUR).unwrap_err();
            assert!(matches!(error, DevIssuerError::Refused(_)), "{error}");
        }
        let error = issuer.token("agent:a", None, &["agent:b"], NOW, HOUR).unwrap_err();
        assert!(matches!(error, DevIssuerError::ChainWithoutOperator));
    }

    #[test]
    fn another_server_does_not_believe_it() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let token = DevIssuer::open_or_create(one.path()).unwrap().token("alice", None, &[], NOW, HOUR).unwrap();
        DevIssuer::open_or_create(other.path()).unwrap();
        assert_eq!(authenticator(other.path()).verify(&token, NOW), Err(CredentialError::Signature));
    }
}
