//! Where the server is, who calls, and whom to trust.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Uri};

use super::error::ClientError;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection in use is probed, so that a watch notices a peer that went away without a word.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a probe may go unanswered.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What [`super::Client::connect`] needs.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    pub(super) endpoint: String,
    pub(super) credentials: Credentials,
    pub(super) ca_pem: Option<Vec<u8>>,
    pub(super) identity: Option<Identity>,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
}

impl ClientConfig {
    /// The server at `endpoint`, such as `https://countersign.internal:8443`, without a credential. Plain `http` is for
    /// loopback only: a bearer credential on an open wire is everybody's.
    #[must_use]
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            credentials: Credentials::none(),
            ca_pem: None,
            identity: None,
            timeout: Duration::from_secs(10),
            attempts: 5,
        }
    }

    /// Who calls.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// The certificate authorities, in PEM, that the server's certificate must lead to. `https` needs them: no other
    /// authority is trusted.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// The certificate chain and its private key, both in PEM, that the connection proves itself with: who calls, in a trust domain
    /// of the server, or whom capabilities are bound to.
    #[must_use]
    pub fn identity_pem(mut self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.identity = Some(Identity::from_pem(certificate, key));
        self
    }

    /// How long one attempt of a call may take; 10 seconds unless said otherwise. Watching is not bounded by it.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often a call is attempted at most while the server is unavailable or asks to try again; 5 unless said
    /// otherwise, at least 1.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    pub(super) fn endpoint(&self) -> Result<Endpoint, ClientError> {
        let wrong = |what: String| ClientError::Configuration(what);
        let uri: Uri = self
            .endpoint
            .parse()
            .map_err(|_| wrong(format!("`{}` is not a URL; write it as `https://host:port`", self.endpoint)))?;
        let endpoint = Endpoint::from(uri.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .tcp_nodelay(true);
        match (uri.scheme_str(), &self.ca_pem) {
            (Some("http"), _) if self.identity.is_some() => Err(wrong(
                "a client certificate proves something over `https` only; write `https://host:port`".to_owned(),
            )),
            (Some("http"), _) if uri.host().is_some_and(is_loopback) => Ok(endpoint),
            (Some("http"), _) => Err(wrong(format!(
                "`{}` would send the credential in the clear; use `https`, or an address on loopback",
                self.endpoint
            ))),
            (Some("https"), Some(pem)) => {
                let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
                let tls = match &self.identity {
                    Some(identity) => tls.identity(identity.clone()),
                    None => tls,
                };
                let unusable =
                    |error| wrong(format!("the certificate authority, or the client's own, cannot be used: {error}"));
                endpoint.tls_config(tls).map_err(unusable)
            }
            (Some("https"), None) => {
                Err(wrong("`https` needs the certificate authority to trust; give its PEM file".to_owned()))
            }
            (_, _) => {
                Err(wrong(format!("`{}` is neither `http` nor `https`; write `https://host:port`", self.endpoint)))
            }
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The caller's bearer credential, or where to find it. Never in `Debug`.
#[derive(Clone)]
pub struct Credentials(Source);

#[derive(Clone)]
enum Source {
    None,
    Bearer(Arc<str>),
    File(PathBuf),
    Ask(Arc<dyn Fn() -> std::io::Result<String> + Send + Sync>),
}

impl Credentials {
    /// No credential: for the calls that need none.
    #[must_use]
    pub const fn none() -> Self {
        Self(Source::None)
    }

    /// This JWT.
    #[must_use]
    pub fn bearer(token: impl Into<Arc<str>>) -> Self {
        Self(Source::Bearer(token.into()))
    }

    /// The JWT in this file, read again for every call, so that whoever rotates it needs to tell nobody.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// The JWT that `ask` gives. Called for every attempt and must not block: let it answer from memory.
    #[must_use]
    pub fn from_fn(ask: impl Fn() -> std::io::Result<String> + Send + Sync + 'static) -> Self {
        Self(Source::Ask(Arc::new(ask)))
    }

    /// The value of the `authorization` header.
    pub(super) async fn header(&self) -> Result<Option<MetadataValue<Ascii>>, ClientError> {
        let token = match &self.0 {
            Source::None => return Ok(None),
            Source::Bearer(token) => token.to_string(),
            Source::File(path) => tokio::fs::read_to_string(path).await.map_err(|error| {
                ClientError::Configuration(format!("cannot read the credential from `{}`: {error}", path.display()))
            })?,
            Source::Ask(ask) => ask()
                .map_err(|error| ClientError::Configuration(format!("the credential could not be had: {error}")))?,
        };
        let malformed =
            || ClientError::Configuration("the credential is not a JWT: it has characters of no JWT".into());
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim()).parse().map_err(|_| malformed())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::None => f.write_str("Credentials(none)"),
            Source::Bearer(_) => f.write_str("Credentials(bearer)"),
            Source::File(path) => write!(f, "Credentials(file {})", path.display()),
            Source::Ask(_) => f.write_str("Credentials(from_fn)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_never_travels_in_the_clear() {
        for good in ["http://127.0.0.1:8443", "http://localhost:1", "http://[::1]:8443"] {
            assert!(ClientConfig::new(good).endpoint().is_ok(), "{good}");
        }
        for bad in ["http://10.0.0.1:8443", "http://127.0.0.1.example.com:80", "ftp://127.0.0.1", "127.0.0.1:8443", ""]
        {
            assert!(matches!(ClientConfig::new(bad).endpoint(), Err(ClientError::Configuration(_))), "{bad}");
        }
    }

    #[test]
    fn https_trusts_only_the_authority_that_was_named() {
        let error = ClientConfig::new("https://countersign.internal").endpoint().unwrap_err();
        assert!(error.to_string().contains("certificate authority"), "{error}");
    }

    #[tokio::test]
    async fn a_credential_is_sent_whole_and_shown_to_nobody() {
        let credentials = Credentials::bearer("secret.jwt.text\n");
        let header = credentials.header().await.unwrap().unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer secret.jwt.text");
        assert!(!format!("{credentials:?} {header:?}").contains("secret"));
        assert!(Credentials::bearer("a\nb").header().await.is_err());
    }
}
