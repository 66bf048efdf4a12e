//! Fetching a key set: one GET to an address of the configuration, bounded in time and size, that follows nobody.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Client, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::address;
use crate::outgoing::{self, AuthoritiesError};

/// The largest document that is read, in bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// The longest that connecting may take, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest that one request may take, from the name of the host to the last byte.
const REQUEST: Duration = Duration::from_secs(10);
/// The largest bearer token that is sent, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Why a document could not be fetched, or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("nothing was fetched yet")]
    Nothing,
    #[error("cannot read the file that `{key}` names: {source}")]
    File { key: &'static str, source: std::io::Error },
    #[error("the file that `ca` names holds no certificate in PEM")]
    Authorities,
    #[error("the file that `jwks_token` names does not hold a token")]
    Token,
    #[error("TLS cannot be used: {0}")]
    Tls(String),
    #[error("no answer from `{address}`: {reason}")]
    Connect { address: Url, reason: String },
    #[error("`{0}` did not answer within {REQUEST:?}")]
    TimedOut(Url),
    #[error("discovery and key set together took too long")]
    Slow,
    #[error("`{address}` answers with the HTTP status {status}{}", if *.status / 100 == 3 { ", and redirects are not followed" } else { "" })]
    Status { address: Url, status: u16 },
    #[error("what `{0}` answers is larger than {MAX_BYTES} bytes")]
    TooLarge(Url),
    #[error("what `{0}` answers is not a discovery document with `issuer` and `jwks_uri`")]
    NoDiscovery(Url),
    #[error("the discovery document names the issuer `{}`, which is not the configured one", countersign_core::visible::Visible::cut(.0, 300))]
    OtherIssuer(String),
    #[error("the `jwks_uri` of the discovery document is {0}")]
    Address(&'static str),
    #[error("the key set cannot be used: {0}")]
    Keys(String),
}

impl FetchError {
    /// A word for metrics, and for callers, who are not told more: addresses are nobody's business.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Nothing => "not fetched yet",
            Self::File { .. } | Self::Authorities | Self::Token => "a file that is needed to fetch them cannot be used",
            Self::Tls(_) => "TLS cannot be used",
            Self::Connect { .. } => "the issuer cannot be reached",
            Self::TimedOut(_) | Self::Slow => "the issuer does not answer in time",
            Self::Status { .. } => "the issuer answers with an error or a redirect",
            Self::TooLarge(_) => "the issuer's answer is too large",
            Self::NoDiscovery(_) | Self::Address(_) => "its discovery document cannot be used",
            Self::OtherIssuer(_) => "its discovery document names another issuer",
            Self::Keys(_) => "its key set cannot be used",
        }
    }

    /// The value of the label `result` of the metric.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::File { .. } | Self::Authorities | Self::Token => "file",
            Self::Tls(_) => "tls",
            Self::Connect { .. } => "connect",
            Self::TimedOut(_) | Self::Slow => "timed_out",
            Self::Status { .. } => "status",
            Self::TooLarge(_) => "too_large",
            Self::NoDiscovery(_) | Self::OtherIssuer(_) | Self::Address(_) => "discovery",
            Self::Keys(_) => "keys",
        }
    }
}

/// The members of a discovery document that are looked at (OpenID Connect Discovery 1.0 §3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Where the key set of `issuer` is, as its discovery document at `at` says.
pub(super) async fn discover(client: &Client, at: &Url, issuer: &str) -> Result<Url, FetchError> {
    let document = get(client, at, None).await?;
    let Discovery { issuer: named, jwks_uri } =
        serde_json::from_slice(&document).map_err(|_| FetchError::NoDiscovery(at.clone()))?;
    if named != issuer {
        return Err(FetchError::OtherIssuer(named));
    }
    let keys = address::parse(&jwks_uri).map_err(FetchError::Address)?;
    if at.scheme() == "https" && keys.scheme() != "https" {
        return Err(FetchError::Address("plain `http`, though the issuer is not"));
    }
    Ok(keys)
}

/// A client for one request to `address`: nothing is kept open, and a new `ca` file counts at once. Blocks on small
/// files.
pub(super) fn client(address: &Url, ca: Option<&Path>) -> Result<Client, FetchError> {
    let client = outgoing::client(address, ca).map_err(|error| match error {
        AuthoritiesError::Read(source) => FetchError::File { key: "ca", source },
        AuthoritiesError::Pem | AuthoritiesError::None => FetchError::Authorities,
    })?;
    let client = client.connect_timeout(CONNECT).timeout(REQUEST).pool_max_idle_per_host(0);
    client.build().map_err(|error| FetchError::Tls(reason(&error)))
}

/// The bearer token in a file. Blocks on a small file.
pub(super) fn bearer(path: &Path) -> Result<HeaderValue, FetchError> {
    let text = std::fs::read_to_string(path).map_err(|source| FetchError::File { key: "jwks_token", source })?;
    let text = Zeroizing::new(text);
    let token = text.trim();
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES || token.contains(char::is_whitespace) {
        return Err(FetchError::Token);
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| FetchError::Token)?;
    header.set_sensitive(true);
    Ok(header)
}

/// The body of the answer with status 200, and nothing else.
pub(super) async fn get(client: &Client, url: &Url, bearer: Option<HeaderValue>) -> Result<Vec<u8>, FetchError> {
    let failed = |error: reqwest::Error| {
        if error.is_timeout() {
            FetchError::TimedOut(url.clone())
        } else {
            FetchError::Connect { address: url.clone(), reason: reason(&error.without_url()) }
        }
    };
    let mut request = client.get(url.clone()).header(ACCEPT, "application/json");
    if let Some(bearer) = bearer {
        request = request.header(AUTHORIZATION, bearer);
    }
    let mut response = request.send().await.map_err(failed)?;
    if response.status() != 200 {
        return Err(FetchError::Status { address: url.clone(), status: response.status().as_u16() });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len().saturating_add(chunk.len()) > MAX_BYTES {
            return Err(FetchError::TooLarge(url.clone()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What went wrong, with what is behind it: a library's own words are often only that something did.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
