//! Addresses that keys are fetched from. Only the configuration, and the discovery document of an issuer in it, name any.

use reqwest::Url;

use crate::outgoing;

/// Reads an address: `https`, or `http` to an address of this machine.
pub(crate) fn parse(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "not a URL; write `https://HOST/PATH`")?;
    if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("has a fragment or credentials in it; write `https://HOST/PATH` alone");
    }
    if outgoing::is_protected(&url) {
        return Ok(url);
    }
    Err("neither `https` nor `http` to a loopback address such as `http://127.0.0.1:8080`: \
         whoever stands between could exchange the keys")
}

/// Where the discovery document of an issuer is (OpenID Connect Discovery 1.0 §4).
pub(crate) fn discovery(issuer: &str) -> Result<Url, &'static str> {
    if issuer.contains('?') {
        return Err("has a query, and an issuer that is discovered has none");
    }
    parse(&format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer)))
}
