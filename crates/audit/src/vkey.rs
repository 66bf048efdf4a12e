//! The keys of signed notes: their names, ids and text form (C2SP signed-note; the text form of a
//! verifier key is that of golang.org/x/mod/sumdb/note).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

/// What the text of a signing key begins with.
const PRIVATE: &str = "PRIVATE+KEY+";
/// The signature type of plain Ed25519 (C2SP signed-note, "Signature types").
const ED25519: u8 = 0x01;

/// Why a key or a key name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// A key name is not empty, and has no spaces, control characters or `+`.
    #[error(
        "the key name `{name}` is not usable; \
         it needs at least one character, and no spaces, control characters or `+`"
    )]
    Name {
        /// The name that was given, cut short.
        name: String,
    },
    /// The text is not of the form `name+id+key`.
    #[error("a verifier key has the form `name+id+key`: copy the whole text that was published")]
    Form,
    /// The id in the text does not follow from the name and the key.
    #[error("the key id `{stated}` does not belong to this name and key, which give `{computed}`")]
    Id {
        /// The id in the text, cut short.
        stated: String,
        /// The id that follows from the name and the key.
        computed: KeyId,
    },
    /// The key is for an algorithm other than Ed25519.
    #[error("the key has the signature type {found}, and only Ed25519 (type 1) is supported")]
    Algorithm {
        /// The signature type byte in the text.
        found: u8,
    },
    /// The key is none for cosignatures.
    #[error("the key has the signature type {found}, and a witness's has type 4: give the key that the witness says")]
    NoCosigner {
        /// The signature type byte in the text.
        found: u8,
    },
    /// The text is not of the form `PRIVATE+KEY+name+id+key`.
    #[error("a signing key has the form `PRIVATE+KEY+name+id+key`: give the whole text of the key file")]
    PrivateForm,
    /// The bytes are not an Ed25519 public key, or are one under which many signatures hold.
    #[error("the key is not a usable Ed25519 public key")]
    PublicKey,
}

/// The short id that, with the name, tells which key made a signature.
///
/// It is not a fingerprint to trust: anyone can make a key with a wanted id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 4]);

impl KeyId {
    /// The first 4 bytes of SHA-256 of `name || 0x0a || type || key` (C2SP signed-note).
    pub(crate) fn derive(name: &str, encoded_key: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(name);
        digest.update(b"\n");
        digest.update(encoded_key);
        let [a, b, c, d, ..] = <[u8; 32]>::from(digest.finalize());
        Self([a, b, c, d])
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key that signs notes. The secret is wiped from memory on drop and is never printed.
pub struct NoteSigner {
    key: SigningKey,
    verifier: NoteVerifier,
}

/// A key that checks the signatures of notes.
///
/// Its text form is `name+id+key`: the id in 8 lowercase hex digits, the key in base64 of `0x01` and
/// the 32 bytes of the public key. That is how a log publishes its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteVerifier {
    name: String,
    id: KeyId,
    key: VerifyingKey,
}

impl NoteSigner {
    /// The signer of this name with the Ed25519 key made from this 32-byte seed (the private key of
    /// RFC 8032 §5.1.5).
    ///
    /// C2SP tlog-checkpoint asks that a log names its key as its origin.
    ///
    /// # Errors
    ///
    /// [`KeyError::Name`] when the name is not usable.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_bytes(seed);
        let verifier = NoteVerifier::from_key(name, key.verifying_key())?;
        Ok(Self { key, verifier })
    }

    /// The name of the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.verifier.name
    }

    /// The id of the key.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.verifier.id
    }

    /// The key that checks what this one signs.
    #[must_use]
    pub const fn verifier(&self) -> &NoteVerifier {
        &self.verifier
    }

    /// The key as text, to be kept secret: `PRIVATE+KEY+name+id+key`, the key in base64 of `0x01` and the seed. That is how
    /// golang.org/x/mod/sumdb/note writes it.
    #[must_use]
    pub fn private_text(&self) -> Zeroizing<String> {
        let mut encoded = Zeroizing::new(vec![ED25519]);
        encoded.extend_from_slice(self.key.as_bytes());
        let key = Zeroizing::new(STANDARD.encode(&*encoded));
        Zeroizing::new(format!("{PRIVATE}{}+{}+{}", self.name(), self.id(), *key))
    }

    /// The Ed25519 signature of the text of a note.
    pub(crate) fn sign(&self, text: &str) -> [u8; 64] {
        self.key.sign(text.as_bytes()).to_bytes()
    }
}

impl FromStr for NoteSigner {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.strip_prefix(PRIVATE).ok_or(KeyError::PrivateForm)?.splitn(3, '+');
        let (Some(name), Some(stated), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::PrivateForm);
        };
        let encoded = Zeroizing::new(STANDARD.decode(key).map_err(|_| KeyError::PrivateForm)?);
        let (algorithm, seed) = encoded.split_first().ok_or(KeyError::PrivateForm)?;
        if *algorithm != ED25519 {
            return Err(KeyError::Algorithm { found: *algorithm });
        }
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.try_into().map_err(|_| KeyError::PrivateForm)?);
        let signer = Self::from_seed(name, &seed)?;
        let computed = signer.id();
        if stated != computed.to_string() {
            return Err(KeyError::Id { stated: clip(stated), computed });
        }
        Ok(signer)
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSigner")
            .field("name", &self.verifier.name)
            .field("id", &self.verifier.id)
            .finish_non_exhaustive()
    }
}

impl NoteVerifier {
    /// The verifier of this name with this Ed25519 public key (RFC 8032 §5.1.5).
    ///
    /// # Errors
    ///
    /// [`KeyError`] when the name or the key is not usable.
    pub fn from_public_key(name: &str, key: &[u8; 32]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(key).map_err(|_| KeyError::PublicKey)?;
        Self::from_key(name, key)
    }

    fn from_key(name: &str, key: VerifyingKey) -> Result<Self, KeyError> {
        check_name(name)?;
        // Under a key of small order one signature can hold for many texts.
        if key.is_weak() {
            return Err(KeyError::PublicKey);
        }
        let id = KeyId::derive(name, &encode(&key));
        Ok(Self { name: name.to_owned(), id, key })
    }

    /// The name of the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the key.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The 32 bytes of the public key (RFC 8032 §5.1.5).
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Whether this is the signature of this text. Strict, so that all implementations agree: no
    /// points of small order.
    pub(crate) fn accepts(&self, text: &str, signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_strict(text.as_bytes(), &signature).is_ok())
    }
}

impl fmt::Display for NoteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{}", self.name, self.id, STANDARD.encode(encode(&self.key)))
    }
}

impl FromStr for NoteVerifier {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // The key is base64 and may hold a `+`; the name and the id cannot.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(stated), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Form);
        };
        check_name(name)?;
        let encoded = STANDARD.decode(key).map_err(|_| KeyError::Form)?;
        let computed = KeyId::derive(name, &encoded);
        if stated != computed.to_string() {
            return Err(KeyError::Id { stated: clip(stated), computed });
        }
        let (algorithm, key) = encoded.split_first().ok_or(KeyError::Form)?;
        if *algorithm != ED25519 {
            return Err(KeyError::Algorithm { found: *algorithm });
        }
        Self::from_public_key(name, key.try_into().map_err(|_| KeyError::PublicKey)?)
    }
}

/// The signature type and the public key, as they enter the key id and the text form.
fn encode(key: &VerifyingKey) -> [u8; 33] {
    let mut encoded = [ED25519; 33];
    for (to, from) in encoded.iter_mut().skip(1).zip(key.as_bytes()) {
        *to = *from;
    }
    encoded
}

/// Checks a key name: not empty, no Unicode spaces, no `+` (C2SP signed-note), and, beyond the
/// document, no control characters, because a name is shown to operators.
pub(crate) fn check_name(name: &str) -> Result<(), KeyError> {
    let refused = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.contains(refused) {
        return Err(KeyError::Name { name: clip(name) });
    }
    Ok(())
}

/// The user's words as an error shows them: bounded, and without what would move a terminal's cursor.
pub(crate) fn clip(text: &str) -> String {
    const LIMIT: usize = 64;
    let visible = |c: char| {
        if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }
    };
    let mut clipped: String = text.chars().take(LIMIT).map(visible).collect();
    if text.chars().nth(LIMIT).is_some() {
        clipped.push('…');
    }
    clipped
}
