//! Addresses that keys are fetched from. Only the configuration, and the discovery document of an issuer in it, name any.

use reqwest::Url;

/// Reads an address: `https`, or `http` to an address of this machine.
pub(crate) fn parse(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "not a URL; write `https://HOST/PATH`")?;
    if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("has a fragment or credentials in it; write `https://HOST/PATH` alone");
    }
    match url.scheme() {
        "https" if url.has_host() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err("neither `https` nor `http` to a loopback address such as `http://127.0.0.1:8080`: \
                  whoever stands between could exchange the keys"),
    }
}

/// An address and not a name: what a name means is up to whoever answers for it.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Where the discovery document of an issuer is (OpenID Connect Discovery 1.0 §4).
pub(crate) fn discovery(issuer: &str) -> Result<Url, &'static str> {
    if issuer.contains('?') {
        return Err("has a query, and an issuer that is discovered has none");
    }
    parse(&format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer)))
}
