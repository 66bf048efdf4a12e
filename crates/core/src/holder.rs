//! Holders: whoever a capability is bound to, by something that a thief of the token does not have.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// How a holder proves to be the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderKind {
    /// By the client certificate of the connection (RFC 8705).
    Certificate,
    /// By a signature over what is about to happen (in the manner of RFC 9449).
    Key,
}

impl HolderKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Certificate, Self::Key];

    /// The word for it: in tokens, policies and records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Key => "key",
        }
    }

    /// The kind of that word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// Whom a capability is bound to: the SHA-256 of what they prove themselves with. Of a certificate that is the `x5t#S256` of RFC
/// 8705, of its DER; of an Ed25519 key the thumbprint of RFC 7638, of its JWK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// How they prove it.
    pub kind: HolderKind,
    /// What it is the thumbprint of.
    pub thumbprint: Digest,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.thumbprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_its_word_alone() {
        for kind in HolderKind::ALL {
            assert_eq!(HolderKind::of_word(kind.word()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
        assert_eq!(HolderKind::of_word("Key"), None);
    }
}
