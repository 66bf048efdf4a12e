//! Identifiers. Ids made here are UUIDv7 (RFC 9562 §5.7): time-ordered, so that rows of one kind lie in order of
//! creation and pages of them are stable.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Why a text is not the id that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The tenant name does not have the form of a DNS label.
    #[error("a tenant is 1 to 63 of the characters a-z, 0-9 and `-`, beginning and ending with a letter or digit")]
    Tenant,
    /// The id is not a UUID behind its prefix.
    #[error("`{text}` is not {article} id: expected `{prefix}_` and a lowercase UUID")]
    Uuid {
        /// What was given, cut to 64 characters and visibly escaped.
        text: String,
        /// The word for what the id names, with its article.
        article: &'static str,
        /// The prefix that such ids carry.
        prefix: &'static str,
    },
}

/// The outermost boundary: tenants share no key, log, policy or id. A DNS label (RFC 1035 §2.3.1, digits first allowed).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TenantId(String);

impl TenantId {
    /// Reads a tenant name.
    ///
    /// # Errors
    /// [`IdError::Tenant`] unless it is a lowercase DNS label.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let ok = (1..=63).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !text.starts_with('-')
            && !text.ends_with('-');
        if ok { Ok(Self(text.to_owned())) } else { Err(IdError::Tenant) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $article:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id. Unique across processes and machines by its random part.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// An id from its 16 bytes, as [`Self::as_bytes`] gave them.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes; their order is the order of creation.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.hyphenated())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = || IdError::Uuid {
                    text: crate::visible::Visible::cut(text, 64).to_string(),
                    article: $article,
                    prefix: $prefix,
                };
                let uuid = text.strip_prefix(concat!($prefix, "_")).ok_or_else(wrong)?;
                let id = Self(Uuid::try_parse(uuid).map_err(|_| wrong())?);
                // Braced, URN and upper-case spellings are other names for one thing.
                if id.to_string() == text { Ok(id) } else { Err(wrong()) }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// One bounded run of a principal for one stated purpose.
    SessionId, "ses", "a session"
);
uuid_id!(
    /// One answer of Decide.
    DecisionId, "dec", "a decision"
);
uuid_id!(
    /// One approval request.
    ApprovalId, "apr", "an approval"
);
uuid_id!(
    /// Questions that were put together.
    BatchId, "bat", "a batch"
);
uuid_id!(
    /// One capability. Single use and revocation are keyed by it.
    TokenId, "cap", "a capability"
);
uuid_id!(
    /// One notification of one change, the same for every sink: a receiver knows by it what it has received before.
    NotificationId, "ntf", "a notification"
);
uuid_id!(
    /// What is told of one revocation.
    RevocationId, "rvk", "a revocation"
);
uuid_id!(
    /// The review of one time that somebody broke the glass.
    ReviewId, "rev", "a review"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_only_as_written() {
        let id = SessionId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        for other in [
            id.to_string().to_uppercase(),
            id.to_string().replace("ses_", "apr_"),
            id.to_string().replace('-', ""),
            format!("{id} "),
            String::new(),
        ] {
            assert!(other.parse::<SessionId>().is_err(), "{other}");
        }
    }

    #[test]
    fn a_tenant_is_a_dns_label() {
        for good in ["acme", "a", "acme-2", "7up"] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Acme", "-a", "a-", "a/b", "a b", "ä", &"a".repeat(64)] {
            assert_eq!(TenantId::new(bad), Err(IdError::Tenant), "{bad}");
        }
    }
}
