//! TLS of the gRPC listener, by rustls, and the rule that nothing listens beyond loopback without it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::{Identity, ServerTlsConfig};

use crate::config::TlsConfig;

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

/// What tonic serves TLS with: certificate and key, read and found to belong together. Blocks on two small files.
///
/// # Errors
/// [`TlsError`], naming the file and its problem. What is in the key file is never part of an error.
pub fn server(tls: &TlsConfig) -> Result<ServerTlsConfig, TlsError> {
    let certificate = read("server.tls.certificate", &tls.certificate)?;
    let key = read("server.tls.key", &tls.key)?;
    check_pair(tls, &certificate, &key)?;
    Ok(ServerTlsConfig::new().identity(Identity::from_pem(certificate, key)))
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { key, path: path.to_owned(), source })
}

/// Does what tonic will do, but tells which file is to blame.
fn check_pair(tls: &TlsConfig, certificate: &[u8], key: &[u8]) -> Result<(), TlsError> {
    let wrong_certificate =
        |problem: String| TlsError::Pem { key: "server.tls.certificate", path: tls.certificate.clone(), problem };
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, PemError>>()
        .map_err(|_| wrong_certificate("is not valid PEM; save the chain again".to_owned()))?;
    if chain.is_empty() {
        return Err(wrong_certificate("holds no `CERTIFICATE`; save the chain in PEM form".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
        let problem = if matches!(error, PemError::NoItemsFound) {
            "holds no private key; save it in PEM form, as PKCS#8, PKCS#1 or SEC1"
        } else {
            "is not valid PEM; save the key again, unencrypted"
        };
        TlsError::Pem { key: "server.tls.key", path: tls.key.clone(), problem: problem.to_owned() }
    })?;
    let pair = |error: rustls::Error| TlsError::Pair {
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        problem: error.to_string(),
    };
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    Ok(())
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
        server(&tls).unwrap();
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
            let text = server(&tls).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains(secret_line), "{text}");
        }
        let (_dir, mut tls) = files(&certificate, &key);
        tls.key = PathBuf::from("/nowhere/key.pem");
        let text = server(&tls).unwrap_err().to_string();
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
