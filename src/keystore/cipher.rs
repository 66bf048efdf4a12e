//! Key files at rest: encrypted under a key that lies elsewhere.
//!
//! A file is one line: `countersign-key-1 aes-256-gcm NONCE SEALED`, both in hexadecimal digits. What is authenticated with
//! it is the title, the tenant and the file's name, so that no file passes for another.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use countersign_core::TenantId;
use zeroize::Zeroizing;

use super::KeystoreError;
use crate::command;
use crate::config::{KeysConfig, SecretSource};

const TITLE: &str = "countersign-key-1 aes-256-gcm ";

/// What key files are encrypted with, if with anything. Holds no secret that it shows.
pub struct KeyCipher {
    current: Option<LessSafeKey>,
    previous: Option<LessSafeKey>,
}

impl KeyCipher {
    /// Key files lie in the open.
    #[must_use]
    pub const fn none() -> Self {
        Self { current: None, previous: None }
    }

    /// As the configuration says. Reads files and runs commands.
    ///
    /// # Errors
    /// [`KeystoreError::Unavailable`].
    pub fn configured(config: &KeysConfig) -> Result<Self, KeystoreError> {
        let KeysConfig { encryption, previous_encryption } = config;
        let key = |source: &Option<SecretSource>| {
            source.as_ref().map(|source| fetch(source).and_then(|key| key_of(&key))).transpose()
        };
        Ok(Self { current: key(encryption)?, previous: key(previous_encryption)? })
    }

    /// With these keys.
    #[cfg(test)]
    pub fn of(current: [u8; 32], previous: Option<[u8; 32]>) -> Self {
        Self { current: key_of(&current).ok(), previous: previous.and_then(|key| key_of(&key).ok()) }
    }

    /// Whether key files are encrypted.
    #[must_use]
    pub const fn encrypts(&self) -> bool {
        self.current.is_some()
    }

    /// The content of a key file.
    pub(super) fn seal(
        &self,
        tenant: &TenantId,
        name: &str,
        seed: &[u8; 32],
    ) -> Result<Zeroizing<String>, KeystoreError> {
        let Some(key) = &self.current else { return Ok(Zeroizing::new(format!("{}\n", hex::encode(seed)))) };
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|e| KeystoreError::Make(e.to_string()))?;
        let mut sealed = Zeroizing::new(seed.to_vec());
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(about(tenant, name)), &mut *sealed)
            .map_err(|_| KeystoreError::Make("the key does not encrypt".to_owned()))?;
        Ok(Zeroizing::new(format!("{TITLE}{} {}\n", hex::encode(nonce), hex::encode(&*sealed))))
    }

    /// The key in an encrypted file, and whether it is encrypted with what is configured now.
    pub(super) fn open(
        &self,
        tenant: &TenantId,
        name: &str,
        text: &str,
        path: &Path,
    ) -> Result<(Zeroizing<[u8; 32]>, bool), KeystoreError> {
        if self.current.is_none() && self.previous.is_none() {
            return Err(KeystoreError::Encrypted(path.to_owned()));
        }
        let malformed = || KeystoreError::WrongKey(path.to_owned());
        let (nonce, sealed) =
            text.trim_end().strip_prefix(TITLE).and_then(|rest| rest.split_once(' ')).ok_or_else(malformed)?;
        let mut given = [0; NONCE_LEN];
        hex::decode_to_slice(nonce, &mut given).map_err(|_| malformed())?;
        let sealed = hex::decode(sealed).map_err(|_| malformed())?;
        for (key, current) in [(&self.current, true), (&self.previous, false)] {
            let Some(key) = key else { continue };
            let mut bytes = Zeroizing::new(sealed.clone());
            let nonce = Nonce::assume_unique_for_key(given);
            if let Ok(opened) = key.open_in_place(nonce, Aad::from(about(tenant, name)), &mut bytes) {
                let mut seed = Zeroizing::new([0; 32]);
                if opened.len() != seed.len() {
                    return Err(malformed());
                }
                seed.copy_from_slice(opened);
                return Ok((seed, current || self.current.is_none()));
            }
        }
        Err(malformed())
    }
}

impl std::fmt::Debug for KeyCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyCipher").field("encrypts", &self.encrypts()).finish_non_exhaustive()
    }
}

/// Whether a key file is an encrypted one.
pub(super) fn is_encrypted(text: &str) -> bool {
    text.starts_with("countersign-key-")
}

fn about(tenant: &TenantId, name: &str) -> Vec<u8> {
    format!("{TITLE}\n{tenant}\n{name}").into_bytes()
}

fn key_of(key: &[u8; 32]) -> Result<LessSafeKey, KeystoreError> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|e| KeystoreError::Unavailable(e.to_string()))?;
    Ok(LessSafeKey::new(key))
}

/// The key from where it lies: 64 hexadecimal digits. What is wrong with it is told, and never what it is.
fn fetch(source: &SecretSource) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let unavailable = KeystoreError::Unavailable;
    let (text, place) = match source {
        SecretSource::File(file) => {
            use std::os::unix::fs::PermissionsExt;
            let failed = |e: std::io::Error| unavailable(format!("`{}`: {e}", file.display()));
            if std::fs::metadata(file).map_err(failed)?.permissions().mode() & 0o077 != 0 {
                return Err(KeystoreError::Exposed(file.clone()));
            }
            (Zeroizing::new(std::fs::read_to_string(file).map_err(failed)?), format!("`{}`", file.display()))
        }
        SecretSource::Variable(variable) => {
            let value = std::env::var(variable)
                .map_err(|_| unavailable(format!("the environment variable `{variable}` is not set to a text")))?;
            (Zeroizing::new(value), format!("the environment variable `{variable}`"))
        }
        SecretSource::Command(command) => {
            let output = command::run(command, "").map_err(unavailable)?;
            (output, format!("the output of `{}`", command.first().map_or("", String::as_str)))
        }
    };
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), key.as_mut_slice()).map_err(|_| {
        unavailable(format!("{place} is not 64 hexadecimal digits; `openssl rand -hex 32` makes such a key"))
    })?;
    Ok(key)
}
