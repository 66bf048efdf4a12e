//! The hashes of the tree (RFC 9162 §2.1.1, SHA-256).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Keeps the hash of a leaf apart from that of an interior node, so that no record can pose as a
/// pair of hashes (RFC 9162 §2.1.1).
const LEAF_PREFIX: [u8; 1] = [0x00];
const NODE_PREFIX: [u8; 1] = [0x01];

/// The root of the tree of no leaves: the SHA-256 of the empty string (RFC 9162 §2.1.1).
pub const EMPTY_ROOT: Hash = Hash([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

/// A SHA-256 hash of the tree: of a leaf, of an interior node or of a root.
///
/// The text form (`Display`, `FromStr`, serde) is 64 lowercase hex digits, and no other spelling is
/// read, so that equal hashes have equal text. Hashes are public: they are not compared in constant
/// time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; Hash::LEN]);

/// Why a text or a byte string is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HashError {
    /// The bytes are not [`Hash::LEN`] long.
    #[error("a hash is 32 bytes long, and this one is {len}")]
    Length {
        /// The length that was given, in bytes.
        len: usize,
    },
    /// The text is not 64 lowercase hex digits.
    #[error("a hash is written as 64 lowercase hex digits")]
    Text,
}

impl Hash {
    /// The length of a hash, in bytes.
    pub const LEN: usize = 32;

    /// The hash that is these bytes; nothing is computed.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// The hash of a record: SHA-256 of `0x00 || record` (RFC 9162 §2.1.1).
#[must_use]
pub fn leaf_hash(record: &[u8]) -> Hash {
    let mut digest = Sha256::new();
    digest.update(LEAF_PREFIX);
    digest.update(record);
    Hash(digest.finalize().into())
}

/// The hash of an interior node: SHA-256 of `0x01 || left || right` (RFC 9162 §2.1.1).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut digest = Sha256::new();
    digest.update(NODE_PREFIX);
    digest.update(left.0);
    digest.update(right.0);
    Hash(digest.finalize().into())
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(HashError::Text);
        }
        let mut bytes = [0; Self::LEN];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| HashError::Text)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = HashError;

    fn try_from(bytes: &[u8]) -> Result<Self, HashError> {
        bytes.try_into().map(Self).map_err(|_| HashError::Length { len: bytes.len() })
    }
}

impl TryFrom<String> for Hash {
    type Error = HashError;

    fn try_from(text: String) -> Result<Self, HashError> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl From<[u8; Hash::LEN]> for Hash {
    fn from(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_root_is_the_hash_of_the_empty_string() {
        assert_eq!(EMPTY_ROOT, Hash(Sha256::digest(b"").into()));
    }

    #[test]
    fn a_record_cannot_pose_as_an_interior_node() {
        let left = leaf_hash(b"left");
        let right = leaf_hash(b"right");
        let posing = [left.as_bytes().as_slice(), right.as_bytes()].concat();
        assert_ne!(leaf_hash(&posing), node_hash(&left, &right));
        assert_ne!(node_hash(&left, &right), node_hash(&right, &left));
    }

    #[test]
    fn serde_is_one_lowercase_hex_string_and_nothing_else() {
        let text = format!("\"{EMPTY_ROOT}\"");
        assert_eq!(serde_json::to_string(&EMPTY_ROOT).unwrap(), text);
        assert_eq!(serde_json::from_str::<Hash>(&text).unwrap(), EMPTY_ROOT);
        assert!(serde_json::from_str::<Hash>(&text.to_uppercase()).is_err());
        assert!(serde_json::from_str::<Hash>("\"e3b0\"").is_err());
        assert!(serde_json::from_str::<Hash>("[1,2]").is_err());
    }

    #[test]
    fn bytes_of_another_length_are_refused() {
        assert_eq!(Hash::try_from([7; 32].as_slice()), Ok(Hash::from_bytes([7; 32])));
        assert_eq!(Hash::try_from([7; 31].as_slice()), Err(HashError::Length { len: 31 }));
        assert_eq!(Hash::try_from([7; 33].as_slice()), Err(HashError::Length { len: 33 }));
    }
}
