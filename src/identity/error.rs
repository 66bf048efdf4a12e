//! Why a caller is not believed, and why nobody could be.

use std::path::PathBuf;

use super::{CLOCK_AHEAD_SECONDS, MAX_CREDENTIAL_BYTES};

/// Why a credential is refused. Says what to do; never repeats anything of the credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The request has none.
    #[error("the request has no credential; send the metadata `authorization: Bearer TOKEN`")]
    Absent,
    /// The request has several.
    #[error("the request has more than one `authorization`; send exactly one")]
    Repeated,
    /// The metadata is not a bearer token.
    #[error("the `authorization` is not a bearer token; send `Bearer TOKEN`")]
    Scheme,
    /// It is longer than [`MAX_CREDENTIAL_BYTES`].
    #[error("the credential is longer than {MAX_CREDENTIAL_BYTES} bytes; ask its issuer for one with fewer claims")]
    TooLong,
    /// It is not a signed JWT.
    #[error("the credential is not a signed JWT: {0}; ask its issuer for a new one")]
    Malformed(&'static str),
    /// Its header says something that is not accepted.
    #[error(
        "the credential's header has `{0}`, which is not accepted: keys, algorithms and meaning come from the server's \
         configuration alone; ask its issuer for a plain signed JWT"
    )]
    Header(&'static str),
    /// It is a JWT for another purpose.
    #[error(
        "the credential's `typ` says that it is for another purpose; send an access token: `JWT`, `at+jwt` or `JOSE`"
    )]
    Type,
    /// Nobody with that `iss` is configured.
    #[error("the credential's issuer is not trusted here; use a credential of an issuer in the server's configuration")]
    Issuer,
    /// It is signed with an algorithm that its issuer may not use.
    #[error(
        "the credential's algorithm is not one that the server's configuration names for its issuer and key; \
         correct the issuer, or its `algorithms`"
    )]
    Algorithm,
    /// None of its issuer's keys is the one that it names.
    #[error(
        "the credential names no key that the server knows of its issuer; if the issuer has just changed its keys, try again in some \
         seconds, and where they lie in a file, update the one that `keys` names"
    )]
    Key,
    /// Its issuer's keys could not be fetched, or not for too long, so that nothing of it can be verified.
    #[error("the keys of the credential's issuer are not there ({0}), so it cannot be verified now; try again")]
    IssuerUnavailable(&'static str),
    /// The signature does not hold.
    #[error("the credential's signature does not hold; ask its issuer for a new one")]
    Signature,
    /// It is for somebody else.
    #[error(
        "the credential is not for this audience; ask its issuer for one with the `audience` of the server's configuration"
    )]
    Audience,
    /// A claim is missing or has the wrong form.
    #[error("the credential's `{claim}` {problem}; ask its issuer for a correct one")]
    Claim {
        /// The claim.
        claim: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The claim that names the subject has the wrong form.
    #[error("the claim of the credential that names its subject {0}; ask its issuer for a correct one")]
    Subject(&'static str),
    /// The claim that names groups has the wrong form.
    #[error("the claim of the credential that names groups {0}; ask its issuer for a correct one")]
    Groups(&'static str),
    /// The claim that names who is answerable has the wrong form, or is not there.
    #[error(
        "the claim of the credential that names who is answerable for its bearer {0}; ask its issuer for a correct one"
    )]
    Owner(&'static str),
    /// The client certificate does not prove who the caller is.
    #[error("the client certificate {0}; get a new one from the trust domain's authority, or send a bearer token")]
    Certificate(&'static str),
    /// A claim has not the value that the configuration requires.
    #[error(
        "the credential's claim `{0}` is not what the server's configuration requires (`required`); use another credential"
    )]
    Required(String),
    /// It is over.
    #[error("the credential has expired; get a new one from its issuer")]
    Expired,
    /// It is not valid yet, by more than [`CLOCK_AHEAD_SECONDS`].
    #[error(
        "the credential is not valid yet, by more than the {CLOCK_AHEAD_SECONDS} seconds allowed for clocks; wait, or \
         correct the clock of its issuer or of the server"
    )]
    NotYet,
    /// It lives longer than the configuration allows.
    #[error("the credential lives longer than the {0} seconds that its issuer is allowed; ask for a shorter one")]
    TooLongLived(u32),
    /// Its issuer may not name subjects of that kind.
    #[error("the credential's issuer may not name subjects of the kind `{0}`; add it to its `subjects`, if it should")]
    Kind(&'static str),
    /// The chain of actors is not one.
    #[error("the credential's `act` chain {0}; ask its issuer for a correct one")]
    Delegation(&'static str),
    /// It proves nothing without a key that the caller holds.
    #[error(
        "the credential is bound to a key of its holder (`cnf`), which is not checked here, so a thief could use it; \
         ask its issuer for a plain bearer token"
    )]
    Bound,
}

impl CredentialError {
    /// A stable word for it, for metrics and error details.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Repeated => "repeated",
            Self::Scheme => "scheme",
            Self::TooLong => "too_long",
            Self::Malformed(_) => "malformed",
            Self::Header(_) => "header",
            Self::Type => "type",
            Self::Issuer => "issuer",
            Self::Algorithm => "algorithm",
            Self::Key => "key",
            Self::IssuerUnavailable(_) => "issuer_unavailable",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Claim { .. } => "claim",
            Self::Subject(_) => "subject",
            Self::Groups(_) => "groups",
            Self::Owner(_) => "owner",
            Self::Certificate(_) => "certificate",
            Self::Required(_) => "required",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::TooLongLived(_) => "too_long_lived",
            Self::Kind(_) => "kind",
            Self::Delegation(_) => "delegation",
            Self::Bound => "bound",
        }
    }
}

/// Why an issuer of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Its keys cannot be read.
    #[error("cannot read the keys of the issuer `{issuer}` from `{}`: {source}", path.display())]
    Read {
        /// The issuer.
        issuer: String,
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The authorities of a trust domain cannot be used.
    #[error("the authorities of the trust domain `{0}` cannot be used: {1}")]
    TrustDomain(String, String),
    /// Its keys are not usable.
    #[error("the keys of the issuer `{issuer}` in `{}` cannot be used: {problem}", path.display())]
    Keys {
        /// The issuer.
        issuer: String,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
}
