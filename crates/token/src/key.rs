//! Root keys and the ring that says which of them are believed.

use std::collections::BTreeMap;
use std::fmt;

use biscuit_auth::{Algorithm, KeyPair, PrivateKey};
use countersign_core::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::error::KeyError;

/// Which root key signed a token: Biscuit's `root_key_id`, outside the signed contents and therefore only a hint. An id
/// is never used again for another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub u32);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a key is good for. Keys go from active to retired to gone; compromised is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Mints and verifies. At most one key of a ring.
    Active,
    /// Verifies what it minted until that expires; mints nothing. Remove it once the longest deadline has passed.
    Retired,
    /// Verifies nothing, whenever it was minted: the thief chooses the date. Stays in the ring, so that the refusal says
    /// why and the key is not taken up again.
    Compromised,
}

/// A root key: Ed25519 (RFC 8032) with its id. Not `Clone`, and wiped from memory on drop.
pub struct SigningKey {
    id: KeyId,
    seed: Zeroizing<[u8; 32]>,
    pair: KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// A new key from the operating system's random source.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate(id: KeyId) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|_| KeyError::Random)?;
        Self::from_seed(id, seed)
    }

    /// The key of an RFC 8032 seed, as [`Self::to_seed`] gave it.
    ///
    /// # Errors
    /// [`KeyError::Seed`] if the library refuses it; every 32 bytes are a seed.
    pub fn from_seed(id: KeyId, seed: Zeroizing<[u8; 32]>) -> Result<Self, KeyError> {
        let private = PrivateKey::from_bytes(seed.as_slice(), Algorithm::Ed25519).map_err(|_| KeyError::Seed)?;
        let pair = KeyPair::from(&private);
        let bytes: [u8; 32] = pair.public().to_bytes().try_into().map_err(|_| KeyError::Seed)?;
        Ok(Self { id, seed, pair, public: PublicKey::from_bytes(bytes)? })
    }

    /// The seed, to be stored where only this service reads it. It is the whole key.
    #[must_use]
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        self.seed.clone()
    }

    /// The id that its tokens carry.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The key that verifies its tokens.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) const fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id.0)
            .field("public_sha256", &self.public.fingerprint())
            .finish_non_exhaustive()
    }
}

/// The public half of a root key: 32 bytes (RFC 8032 §5.1.5), written as 64 lowercase hexadecimal digits.
#[derive(Clone, Copy)]
pub struct PublicKey {
    bytes: [u8; 32],
    // Decompressed once: a ring is read for every token.
    point: biscuit_auth::PublicKey,
}

impl PublicKey {
    /// A public key from its 32 bytes.
    ///
    /// # Errors
    /// [`KeyError::Public`] if they are no point of the curve, or one of small order, under which anything verifies.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let point = ed25519_dalek::VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Public)?;
        if point.is_weak() {
            return Err(KeyError::Public);
        }
        let point = biscuit_auth::PublicKey::from_bytes(&bytes, Algorithm::Ed25519).map_err(|_| KeyError::Public)?;
        Ok(Self { bytes, point })
    }

    /// Reads the written form.
    ///
    /// # Errors
    /// [`KeyError::Public`] unless it is 64 lowercase hexadecimal digits of such a key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(KeyError::Public);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyError::Public)?;
        Self::from_bytes(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The SHA-256 of the 32 bytes: names the key in logs without inviting anyone to compare half of it by eye.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    pub(crate) const fn point(&self) -> biscuit_auth::PublicKey {
        self.point
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for PublicKey {}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The keys that are known, and what each is good for. Changed by building another one.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    keys: BTreeMap<KeyId, (PublicKey, KeyState)>,
    active: Option<KeyId>,
}

impl KeyRing {
    /// A ring of these keys. An empty ring believes nothing.
    ///
    /// # Errors
    /// [`KeyError::SameId`], [`KeyError::SameKey`], [`KeyError::TwoActive`].
    pub fn new(keys: impl IntoIterator<Item = (KeyId, PublicKey, KeyState)>) -> Result<Self, KeyError> {
        let mut ring = Self::default();
        for (id, public, state) in keys {
            if let Some((other, _)) = ring.keys.iter().find(|(other, (known, _))| **other != id && *known == public) {
                return Err(KeyError::SameKey(*other, id));
            }
            if state == KeyState::Active
                && let Some(other) = ring.active.replace(id)
            {
                return Err(if other == id { KeyError::SameId(id) } else { KeyError::TwoActive(other, id) });
            }
            if ring.keys.insert(id, (public, state)).is_some() {
                return Err(KeyError::SameId(id));
            }
        }
        Ok(ring)
    }

    /// The key that mints, if there is one.
    #[must_use]
    pub const fn active(&self) -> Option<KeyId> {
        self.active
    }

    /// Whether this very key is the active one. Ask before minting: [`crate::mint`] knows no ring.
    #[must_use]
    pub fn may_mint(&self, key: &SigningKey) -> bool {
        self.get(key.id()) == Some((key.public(), KeyState::Active))
    }

    /// A key and its state.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<(PublicKey, KeyState)> {
        self.keys.get(&id).copied()
    }

    /// All keys, by id.
    pub fn iter(&self) -> impl Iterator<Item = (KeyId, PublicKey, KeyState)> + '_ {
        self.keys.iter().map(|(id, (public, state))| (*id, *public, *state))
    }
}
