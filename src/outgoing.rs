//! What the server itself connects to: addresses that its configuration names, or a document at such an address does.

use std::path::Path;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Url};

/// Why a file of authorities cannot be used.
#[derive(Debug)]
pub enum AuthoritiesError {
    /// It cannot be read.
    Read(std::io::Error),
    /// It is not PEM.
    Pem,
    /// It holds no certificate.
    None,
}

/// Whether nobody in between can read or change what goes there: `https`, or `http` to an address of this machine.
pub fn is_protected(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => is_loopback(url),
        _ => false,
    }
}

/// An address and not a name: what a name means is up to whoever answers for it.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A client that goes where it is told and nowhere else: neither a redirect nor a proxy of the environment takes it to where
/// nobody configured. It believes the authorities in `ca`, or else the system's. Blocks on a small file.
///
/// # Errors
/// [`AuthoritiesError`].
pub fn client(url: &Url, ca: Option<&Path>) -> Result<ClientBuilder, AuthoritiesError> {
    let client = Client::builder()
        .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .no_proxy();
    Ok(match ca {
        Some(path) => client.tls_certs_only(authorities(path)?),
        // On loopback nothing is secured, and a machine without authorities is no reason to fail.
        None if url.scheme() == "http" => client.tls_certs_only([]),
        None => client,
    })
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, AuthoritiesError> {
    let pem = std::fs::read(path).map_err(AuthoritiesError::Read)?;
    let authorities = Certificate::from_pem_bundle(&pem).map_err(|_| AuthoritiesError::Pem)?;
    if authorities.is_empty() { Err(AuthoritiesError::None) } else { Ok(authorities) }
}
