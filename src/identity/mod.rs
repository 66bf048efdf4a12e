//! Who calls: credentials are verified here, and nowhere else.
//!
//! A credential is a signed JWT (RFC 7519) that a caller sends as a bearer token. [`Authenticator`] believes it only if an
//! issuer of the configuration signed it, with an algorithm and a key that the configuration names for that issuer, for
//! the audience that the configuration names, and only while it lasts. Keys come from a local file or from where the
//! configuration says: nothing in a token makes the service look anywhere else.

pub(crate) mod address;
mod answering;
mod authenticator;
mod belonging;
mod claims;
mod dev;
mod error;
mod fetch;
mod held;
mod json;
mod keys;
mod naming;
mod refresh;
mod workload;

pub use authenticator::Authenticator;
pub use dev::{DevIssuer, DevIssuerError};
pub use error::{CredentialError, IdentityError};
pub(crate) use naming::spelled;

use http::HeaderMap;

/// The longest credential that is looked at, in bytes.
pub const MAX_CREDENTIAL_BYTES: usize = 8 * 1024;
/// The most actors in one `act` chain.
pub const MAX_ACTORS: usize = 8;
/// How far the issuer's clock may be ahead of ours where it says from when on a credential holds (`nbf`, `iat`), in
/// seconds. There is no such grace at the end: at `exp` a credential is worthless.
pub const CLOCK_AHEAD_SECONDS: u32 = 5;

/// The bearer token (RFC 6750 §2.1) among the headers of a request.
///
/// # Errors
/// [`CredentialError::Absent`], [`CredentialError::Repeated`] or [`CredentialError::Scheme`].
pub fn bearer(headers: &HeaderMap) -> Result<&str, CredentialError> {
    let mut values = headers.get_all("authorization").iter();
    let value = values.next().ok_or(CredentialError::Absent)?;
    if values.next().is_some() {
        // Whoever stands between may have read the other one.
        return Err(CredentialError::Repeated);
    }
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(CredentialError::Scheme)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains([' ', '\t', ',']) {
        return Err(CredentialError::Scheme);
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("authorization", value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn one_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c"] {
            assert_eq!(bearer(&with(&[value])), Ok("a.b.c"));
        }
    }

    #[test]
    fn two_credentials_are_none() {
        assert_eq!(bearer(&with(&["Bearer a.b.c", "Bearer d.e.f"])), Err(CredentialError::Repeated));
        assert_eq!(bearer(&with(&["Bearer a.b.c", "Bearer a.b.c"])), Err(CredentialError::Repeated));
        assert_eq!(bearer(&with(&["Bearer a.b.c, Bearer d.e.f"])), Err(CredentialError::Scheme));
    }

    #[test]
    fn other_schemes_are_refused() {
        assert_eq!(bearer(&with(&[])), Err(CredentialError::Absent));
        for value in
            ["", "Bearer", "Bearer ", "a.b.c", "Basic YTpi", "DPoP a.b.c", "Bearer  a.b.c", "Bearer a.b c", "Bearer ä"]
        {
            assert_eq!(bearer(&with(&[value])), Err(CredentialError::Scheme), "{value}");
        }
    }
}
