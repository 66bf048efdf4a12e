//! TLS of the gRPC listener, by rustls, and the rule that nothing listens beyond loopback without it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::config::TlsConfig;
use crate::reload::Followed;

/// Why TLS cannot be served, or plaintext may not be.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read `{}`, which `{key}` names: {source}", path.display())]
    Read {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("`{}`, which `{key}` names, {problem}", path.display())]
    Pem {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key are readable and do not go together.
    #[error(
        "the certificate in `{}` and the key in `{}` cannot be used together: {problem}; \
         put the server's own certificate first, and the key that it was issued for", certificate.display(), key.display()
    )]
    Pair {
        /// The file with the certificate chain.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// What rustls says.
        problem: String,
    },
    /// Credentials would cross a network in plaintext.
    #[error("`{listen}` is not loopback, and without TLS nothing else is listened on; set `server.tls`")]
    Plaintext {
        /// The address.
        listen: SocketAddr,
    },
}

/// Refuses a plaintext listener that could be reached over a network. An address that only maps to loopback
/// (`::ffff:127.0.0.1`) counts as a network's.
///
/// # Errors
/// [`TlsError::Plaintext`].
pub fn check_listener(listen: SocketAddr, tls: Option<&TlsConfig>) -> Result<(), TlsError> {
    if tls.is_some() || listen.ip().is_loopback() { Ok(()) } else { Err(TlsError::Plaintext { listen }) }
}

/// What the listener serves TLS with. Its certificate can be exchanged while it serves.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsConfig,
    current: Arc<Current>,
    /// For the acceptor.
    pub config: Arc<ServerConfig>,
}

/// The certificate that is served now: whoever connects next gets the newest.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ServerTls {
    /// Certificate and key, read and found to belong together. With `callers`, those are asked for certificates. Blocks on two small files.
    ///
    /// # Errors
    /// [`TlsError`], naming the file and its problem. What is in the key file is never part of an error.
    pub fn read(files: &TlsConfig, callers: Option<Arc<dyn ClientCertVerifier>>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let current = Arc::new(Current(ArcSwap::from_pointee(certified(files, &provider)?)));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| pair(files, &error))?;
        let config = match callers {
            Some(callers) => config.with_client_cert_verifier(callers),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { files: files.clone(), current, config: Arc::new(config) })
    }

    /// What follows the files.
    #[must_use]
    pub fn followed(&self) -> Followed {
        let (files, current) = (self.files.clone(), Arc::clone(&self.current));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let read = move || {
            let newer = certified(&files, &provider).map_err(|error| error.to_string())?;
            let changed = newer.cert != current.0.load().cert;
            current.0.store(Arc::new(newer));
            Ok(changed)
        };
        let paths = vec![self.files.certificate.clone(), self.files.key.clone()];
        Followed { key: "server.tls", paths, read: Arc::new(read) }
    }
}

fn read(key: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    std::fs::read(path).map(Zeroizing::new).map_err(|source| TlsError::Read { key, path: path.to_owned(), source })
}

fn pair(files: &TlsConfig, error: &rustls::Error) -> TlsError {
    TlsError::Pair { certificate: files.certificate.clone(), key: files.key.clone(), problem: error.to_string() }
}

/// The chain and its key, or which file is to blame.
fn certified(files: &TlsConfig, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let certificate = read("server.tls.certificate", &files.certificate)?;
    let key = read("server.tls.key", &files.key)?;
    let wrong_certificate =
        |problem: String| TlsError::Pem { key: "server.tls.certificate", path: files.certificate.clone(), problem };
    let chain = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<Vec<_>, PemError>>()
        .map_err(|_| wrong_certificate("is not valid PEM; save the chain again".to_owned()))?;
    if chain.is_empty() {
        return Err(wrong_certificate("holds no `CERTIFICATE`; save the chain in PEM form".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
        let problem = if matches!(error, PemError::NoItemsFound) {
            "holds no private key; save it in PEM form, as PKCS#8, PKCS#1 or SEC1"
        } else {
            "is not valid PEM; save the key again, unencrypted"
        };
        TlsError::Pem { key: "server.tls.key", path: files.key.clone(), problem: problem.to_owned() }
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| pair(files, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(certificate: &str, key: &str) -> (tempfile::TempDir, TlsConfig) {
        let dir = tempfile::tempdir().unwrap();
        let tls = TlsConfig { certificate: dir.path().join("c.pem"), key: dir.path().join("k.pem") };
        std::fs::write(&tls.certificate, certificate).unwrap();
        std::fs::write(&tls.key, key).unwrap();
        (dir, tls)
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_and_its_key_are_served() {
        let (certificate, key) = pair();
        let (_dir, tls) = files(&certificate, &key);
        ServerTls::read(&tls, None).unwrap();
    }

    #[test]
    fn a_new_pair_is_taken_and_a_bad_one_is_not() {
        let (certificate, key) = pair();
        let (_dir, tls) = files(&certificate, &key);
        let server = ServerTls::read(&tls, None).unwrap();
        let followed = server.followed();
        let first = server.current.0.load_full();
        assert_eq!((followed.read)(), Ok(false));
        let (newer, newer_key) = pair();
        std::fs::write(&tls.certificate, &newer).unwrap();
        let problem = (followed.read)().unwrap_err();
        assert!(problem.contains("cannot be used together"), "{problem}");
        assert_eq!(server.current.0.load().cert, first.cert);
        std::fs::write(&tls.key, &newer_key).unwrap();
        assert_eq!((followed.read)(), Ok(true));
        assert_ne!(server.current.0.load().cert, first.cert);
    }

    #[test]
    fn the_file_to_blame_is_named_and_its_content_is_not() {
        let (certificate, key) = pair();
        let (_, other_key) = pair();
        let secret_line = key.lines().nth(1).unwrap();
        for (certificate, key, expected) in [
            (certificate.as_str(), other_key.as_str(), "cannot be used together"),
            (certificate.as_str(), "", "k.pem`, which `server.tls.key` names, holds no private key"),
            ("", key.as_str(), "c.pem`, which `server.tls.certificate` names, holds no `CERTIFICATE`"),
            (key.as_str(), key.as_str(), "c.pem`, which `server.tls.certificate` names, holds no `CERTIFICATE`"),
            (certificate.as_str(), "-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n", "is not valid PEM"),
        ] {
            let (_dir, tls) = files(certificate, key);
            let text = ServerTls::read(&tls, None).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains(secret_line), "{text}");
        }
        let (_dir, mut tls) = files(&certificate, &key);
        tls.key = PathBuf::from("/nowhere/key.pem");
        let text = ServerTls::read(&tls, None).unwrap_err().to_string();
        assert!(text.starts_with("cannot read `/nowhere/key.pem`, which `server.tls.key` names: "), "{text}");
    }

    #[test]
    fn plaintext_stays_on_loopback() {
        let (_dir, tls) = files("", "");
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
            assert!(check_listener(loopback.parse().unwrap(), None).is_ok(), "{loopback}");
        }
        for network in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:127.0.0.1]:1", "169.254.0.1:1"] {
            assert!(check_listener(network.parse().unwrap(), None).is_err(), "{network}");
            assert!(check_listener(network.parse().unwrap(), Some(&tls)).is_ok(), "{network}");
        }
    }
}
