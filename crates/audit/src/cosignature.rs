//! Cosignatures: what a witness says of a checkpoint (C2SP tlog-cosignature, Ed25519).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::note::{Note, NoteSignature};
use crate::vkey::{KeyError, KeyId, check_name, clip};

/// The signature type of Ed25519 cosignatures (C2SP tlog-cosignature, "Format").
const COSIGNATURE: u8 = 0x04;
/// What the text of a signing key begins with.
const PRIVATE: &str = "PRIVATE+KEY+";

/// Why a cosignature was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CosignatureError {
    /// There is none of this key.
    #[error("`{name}` has not cosigned")]
    Missing {
        /// The name of the key.
        name: String,
    },
    /// The line says that it is of this key, and is not.
    #[error("the cosignature of `{name}` does not hold for this checkpoint")]
    Bad {
        /// The name of the key.
        name: String,
    },
}

/// A key that cosigns. The secret is wiped from memory on drop and is never printed.
pub struct Cosigner {
    key: SigningKey,
    verifier: CosignatureVerifier,
}

/// A key that checks cosignatures. Its text form is that of a note's verifier key, with the type of cosignatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignatureVerifier {
    name: String,
    id: KeyId,
    key: VerifyingKey,
}

impl Cosigner {
    /// The cosigner of this name with the Ed25519 key made from this 32-byte seed. The key must sign nothing else: what it signs
    /// does not say its name.
    ///
    /// # Errors
    ///
    /// [`KeyError::Name`] when the name is not usable.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_bytes(seed);
        let verifier = CosignatureVerifier::from_key(name, key.verifying_key())?;
        Ok(Self { key, verifier })
    }

    /// The key that checks what this one signs.
    #[must_use]
    pub const fn verifier(&self) -> &CosignatureVerifier {
        &self.verifier
    }

    /// The key as text, to be kept secret.
    #[must_use]
    pub fn private_text(&self) -> Zeroizing<String> {
        let mut encoded = Zeroizing::new(vec![COSIGNATURE]);
        encoded.extend_from_slice(self.key.as_bytes());
        let key = Zeroizing::new(STANDARD.encode(&*encoded));
        Zeroizing::new(format!("{PRIVATE}{}+{}+{}", self.verifier.name, self.verifier.id, *key))
    }

    /// Says that at `seconds` since 1970 this checkpoint was the largest consistent one seen of its log. `text` is the text of
    /// the note, with its last line feed.
    #[must_use]
    pub fn cosign(&self, text: &str, seconds: u64) -> NoteSignature {
        let signature = self.key.sign(message(text, seconds).as_bytes()).to_bytes();
        let bytes = [&seconds.to_be_bytes()[..], &signature].concat();
        NoteSignature::new(self.verifier.name.clone(), self.verifier.id, bytes)
    }
}

impl fmt::Debug for Cosigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cosigner").field("name", &self.verifier.name).finish_non_exhaustive()
    }
}

impl FromStr for Cosigner {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.strip_prefix(PRIVATE).ok_or(KeyError::PrivateForm)?.splitn(3, '+');
        let (Some(name), Some(stated), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::PrivateForm);
        };
        let encoded = Zeroizing::new(STANDARD.decode(key).map_err(|_| KeyError::PrivateForm)?);
        let (algorithm, seed) = encoded.split_first().ok_or(KeyError::PrivateForm)?;
        if *algorithm != COSIGNATURE {
            return Err(KeyError::NoCosigner { found: *algorithm });
        }
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.try_into().map_err(|_| KeyError::PrivateForm)?);
        let cosigner = Self::from_seed(name, &seed)?;
        same_id(stated, cosigner.verifier.id)?;
        Ok(cosigner)
    }
}

impl CosignatureVerifier {
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

    /// The 32 bytes of the public key (RFC 8032 §5.1.5).
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Whether the line says that it is of this key.
    #[must_use]
    pub fn made(&self, signature: &NoteSignature) -> bool {
        signature.name() == self.name && signature.id() == self.id
    }

    /// Checks one line for the text of a checkpoint; answers when it was made, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`CosignatureError`] when it is of another key, or does not hold.
    pub fn check(&self, text: &str, line: &NoteSignature) -> Result<u64, CosignatureError> {
        if !self.made(line) {
            return Err(CosignatureError::Missing { name: self.name.clone() });
        }
        let bad = || CosignatureError::Bad { name: self.name.clone() };
        let (seconds, signature) = line.bytes().split_first_chunk::<8>().ok_or_else(bad)?;
        let seconds = u64::from_be_bytes(*seconds);
        let signature = Signature::from_slice(signature).map_err(|_| bad())?;
        if i64::try_from(seconds).is_err() {
            return Err(bad());
        }
        self.key.verify_strict(message(text, seconds).as_bytes(), &signature).map_err(|_| bad())?;
        Ok(seconds)
    }

    /// Checks what this key says of a checkpoint's note; answers when it said so, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`CosignatureError::Missing`] when it says nothing, [`CosignatureError::Bad`] when a line of it does not hold.
    pub fn verify(&self, note: &Note) -> Result<u64, CosignatureError> {
        let mut newest = Err(CosignatureError::Missing { name: self.name.clone() });
        for line in note.signatures().iter().filter(|line| self.made(line)) {
            let at = self.check(note.text(), line)?;
            newest = Ok(newest.map_or(at, |newest: u64| newest.max(at)));
        }
        newest
    }
}

impl fmt::Display for CosignatureVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{}", self.name, self.id, STANDARD.encode(encode(&self.key)))
    }
}

impl FromStr for CosignatureVerifier {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(stated), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Form);
        };
        check_name(name)?;
        let encoded = STANDARD.decode(key).map_err(|_| KeyError::Form)?;
        let (algorithm, key) = encoded.split_first().ok_or(KeyError::Form)?;
        if *algorithm != COSIGNATURE {
            return Err(KeyError::NoCosigner { found: *algorithm });
        }
        let key: &[u8; 32] = key.try_into().map_err(|_| KeyError::PublicKey)?;
        let verifier = Self::from_key(name, VerifyingKey::from_bytes(key).map_err(|_| KeyError::PublicKey)?)?;
        same_id(stated, verifier.id)?;
        Ok(verifier)
    }
}

fn same_id(stated: &str, computed: KeyId) -> Result<(), KeyError> {
    if stated == computed.to_string() { Ok(()) } else { Err(KeyError::Id { stated: clip(stated), computed }) }
}

fn message(text: &str, seconds: u64) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

fn encode(key: &VerifyingKey) -> Vec<u8> {
    [&[COSIGNATURE][..], key.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vkey::NoteSigner;

    const TEXT: &str = "example.com/log\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    fn cosigner() -> Cosigner {
        Cosigner::from_seed("witness.example/w1", &[7; 32]).unwrap()
    }

    fn note() -> Note {
        Note::sign(TEXT, &[&NoteSigner::from_seed("example.com/log", &[1; 32]).unwrap()]).unwrap()
    }

    #[test]
    fn a_cosignature_holds_for_its_text_its_time_and_its_key() {
        let (cosigner, note) = (cosigner(), note());
        assert!(matches!(cosigner.verifier().verify(&note), Err(CosignatureError::Missing { .. })));
        let line = cosigner.cosign(note.text(), 1_679_315_147);
        let cosigned = note.clone().with_signatures(vec![line.clone()]).unwrap();
        let cosigned = Note::parse(cosigned.to_string().as_bytes()).unwrap();
        assert_eq!(cosigner.verifier().verify(&cosigned), Ok(1_679_315_147));
        // The log's own signature stays what it is.
        assert_eq!(cosigned.signatures().len(), 2);
        let other = Cosigner::from_seed("witness.example/w1", &[8; 32]).unwrap();
        assert!(matches!(other.verifier().verify(&cosigned), Err(CosignatureError::Missing { .. })));
        assert!(cosigner.verifier().check(&note.text().replace("20852163", "20852164"), &line).is_err());
        for at in 0..line.bytes().len() {
            let mut bytes = line.bytes().to_vec();
            bytes[at] ^= 1;
            let changed = NoteSignature::new(line.name().to_owned(), line.id(), bytes);
            assert!(cosigner.verifier().check(note.text(), &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn keys_have_texts_that_are_read_back_and_are_none_of_a_log() {
        let cosigner = cosigner();
        let public = cosigner.verifier().to_string();
        assert_eq!(&public.parse::<CosignatureVerifier>().unwrap(), cosigner.verifier());
        assert_eq!(cosigner.private_text().parse::<Cosigner>().unwrap().verifier(), cosigner.verifier());
        let log = NoteSigner::from_seed("witness.example/w1", &[7; 32]).unwrap();
        assert!(matches!(
            log.verifier().to_string().parse::<CosignatureVerifier>(),
            Err(KeyError::NoCosigner { found: 1 })
        ));
        assert!(public.parse::<crate::NoteVerifier>().is_err());
        assert!(log.private_text().parse::<Cosigner>().is_err());
        assert!(public.replace("w1", "w2").parse::<CosignatureVerifier>().is_err());
    }

    /// The checkpoint and cosignature that C2SP tlog-cosignature shows. Its key is not given there, so what is held against it is
    /// the form: the name, and when it was made.
    #[test]
    fn the_documents_example_is_read() {
        let note = format!(
            "{TEXT}\n— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
        );
        let note = Note::parse(note.as_bytes()).unwrap();
        let [line] = note.signatures() else { panic!("one line") };
        assert_eq!(line.name(), "witness.example.com/w1");
        assert_eq!(line.bytes()[..8], 1_679_315_147_u64.to_be_bytes());
        assert_eq!(line.bytes().len(), 72);
    }
}
