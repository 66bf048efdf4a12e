//! The public keys of one issuer, each pinned to the algorithms that it may be used with.

mod jwk;
mod sound;

use std::collections::HashSet;
use std::fmt;
use std::io::Read as _;
use std::path::Path;

use countersign_core::Digest;
use countersign_core::visible::Visible;
use jsonwebtoken::DecodingKey;

use self::jwk::Unfit;
use super::error::CredentialError;
use crate::config::Algorithm;

/// The largest key file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The most keys that are used of one issuer.
const MAX_KEYS: usize = 128;
/// The most keys that a line of the log is about.
const MAX_TOLD: usize = 10;

const RSA: &[Algorithm] =
    &[Algorithm::PS256, Algorithm::PS384, Algorithm::PS512, Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error(transparent)]
    Read(#[from] std::io::Error),
    #[error("{0}")]
    Content(String),
}

/// One public key.
struct Key {
    /// Its `kid`: an opaque text, compared and never interpreted.
    id: Option<String>,
    /// What it may verify: what suits it, and its issuer is configured for. Not empty.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl Key {
    /// The key for these algorithms alone; none if it is for no one of them.
    fn only_for(mut self, allowed: &[Algorithm]) -> Option<Self> {
        self.algorithms.retain(|algorithm| allowed.contains(algorithm));
        (!self.algorithms.is_empty()).then_some(self)
    }
}

/// The keys of a set that are not used, and why: to be logged.
#[derive(Debug, Clone, Default)]
pub(super) struct Unused {
    told: Vec<String>,
    more: usize,
    flawed: bool,
}

impl Unused {
    fn note(&mut self, index: usize, unfit: Unfit) {
        let (Unfit::Other(why) | Unfit::Flawed(why)) = unfit;
        self.flawed |= matches!(unfit, Unfit::Flawed(_));
        if self.told.len() < MAX_TOLD {
            self.told.push(format!("`keys[{index}]` {why}"));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Whether one is among them that its issuer should not have published so.
    pub(super) fn is_flawed(&self) -> bool {
        self.flawed
    }
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told.join("; "))?;
        if self.more == 0 { Ok(()) } else { write!(f, "; and {} more", self.more) }
    }
}

/// The keys of one issuer. Not empty, and no two have one id.
pub(super) struct Keys {
    keys: Vec<Key>,
    /// What they were read from.
    text: Digest,
}

impl Keys {
    /// Reads a file.
    pub(super) fn read(path: &Path, allowed: &[Algorithm]) -> Result<Self, KeyFileError> {
        Self::parse(&read(path)?, allowed).map_err(KeyFileError::Content)
    }

    /// Whether they are the same keys: from the same text.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.text == other.text
    }

    /// Their ids, to be shown.
    pub(super) fn ids(&self) -> String {
        let shown = |key: &Key| Visible::cut(key.id.as_deref().unwrap_or("-"), 64).to_string();
        let ids: Vec<String> = self.keys.iter().take(MAX_TOLD).map(shown).collect();
        match self.keys.len().saturating_sub(MAX_TOLD) {
            0 => ids.join(" "),
            more => format!("{} and {more} more", ids.join(" ")),
        }
    }

    /// Reads a JSON Web Key Set or PEM that somebody has put here: what is wrong in it is for them to correct.
    pub(super) fn parse(bytes: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        let text = text(bytes)?;
        let found = if text.trim_start().starts_with('{') { jwk::strictly(text)? } else { vec![from_pem(text)?] };
        let mut keys: Vec<Key> = Vec::new();
        let mut ids = HashSet::new();
        for key in found.into_iter().filter_map(|key| key.only_for(allowed)) {
            if let Some(id) = &key.id
                && !ids.insert(id.clone())
            {
                return Err(format!("two keys have the `kid` `{}`; keep one of them", Visible::cut(id, 64)));
            }
            keys.push(key);
        }
        if keys.len() > MAX_KEYS {
            return Err(format!("{} keys, more than the {MAX_KEYS} that may be; save those that sign", keys.len()));
        }
        Self::of(keys, bytes, allowed)
    }

    /// Reads a JSON Web Key Set that was fetched. A key that cannot be used is left out and told (RFC 7517 §5): were the
    /// whole set, those that its issuer has withdrawn would stay in use.
    pub(super) fn fetched(bytes: &[u8], allowed: &[Algorithm]) -> Result<(Self, Unused), String> {
        let mut unused = Unused::default();
        let (mut keys, mut ids, mut repeated) = (Vec::new(), HashSet::new(), HashSet::new());
        for (index, read) in jwk::leniently(text(bytes)?)?.enumerate() {
            match read
                .and_then(|key| key.only_for(allowed).ok_or(Unfit::Other("is for an algorithm that is not configured")))
            {
                Ok(key) => {
                    if let Some(id) = &key.id
                        && !ids.insert(id.clone())
                    {
                        repeated.insert(id.clone());
                    }
                    keys.push((index, key));
                }
                Err(unfit) => unused.note(index, unfit),
            }
        }
        keys.retain(|(index, key)| {
            let once = key.id.as_ref().is_none_or(|id| !repeated.contains(id));
            if !once {
                // Which of them a token means, nobody can tell.
                unused.note(*index, Unfit::Flawed("has the `kid` of another"));
            }
            once
        });
        // The others count as if they were not there: were the set refused, its withdrawn keys would stay in use.
        for (index, _) in keys.split_off(MAX_KEYS.min(keys.len())) {
            unused.note(index, Unfit::Flawed("is one too many"));
        }
        let keys = Self::of(keys.into_iter().map(|(_, key)| key).collect(), bytes, allowed);
        match keys {
            Ok(keys) => Ok((keys, unused)),
            Err(problem) if unused.is_empty() => Err(problem),
            Err(problem) => Err(format!("{problem} ({unused})")),
        }
    }

    fn of(keys: Vec<Key>, bytes: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        if keys.is_empty() {
            let names: Vec<String> = allowed.iter().map(|algorithm| format!("`{algorithm:?}`")).collect();
            return Err(format!(
                "none is for {}; save the issuer's signature keys, or correct its `algorithms`",
                names.join(" or ")
            ));
        }
        Ok(Self { keys, text: Digest::of(bytes) })
    }

    /// Whether one of them has exactly that id.
    pub(super) fn has(&self, id: Option<&str>) -> bool {
        id.is_some_and(|id| self.keys.iter().any(|key| key.id.as_deref() == Some(id)))
    }

    /// The key for a token with that `kid`. A key without an id is used for any, but only where it is the only one.
    pub(super) fn select(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&DecodingKey, CredentialError> {
        let named = match (id, self.keys.as_slice()) {
            (Some(_), [only]) if only.id.is_none() => Some(only),
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
            (None, keys) => {
                let mut suitable = keys.iter().filter(|key| key.algorithms.contains(&algorithm));
                // Guessing among several would let a token choose by leaving out its `kid`.
                suitable.next().filter(|_| suitable.next().is_none())
            }
        };
        let key = named.ok_or(CredentialError::Key)?;
        if key.algorithms.contains(&algorithm) { Ok(&key.key) } else { Err(CredentialError::Algorithm) }
    }
}

/// The whole file, but not much more than may be in it.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(format!("the file is larger than {MAX_FILE_BYTES} bytes; save the key set alone"));
    }
    std::str::from_utf8(bytes).map_err(|_| "it is not text; save a JSON Web Key Set or PEM".to_owned())
}

fn from_pem(text: &str) -> Result<Key, String> {
    let begins: Vec<&str> = text.lines().filter(|line| line.starts_with("-----BEGIN ")).map(str::trim_end).collect();
    match begins.as_slice() {
        ["-----BEGIN PUBLIC KEY-----"] => {}
        [] => return Err("neither a JSON Web Key Set nor PEM; save one of them".to_owned()),
        [one] if one.contains("PRIVATE") => {
            return Err("a private key, which no verifier should have; save its public half".to_owned());
        }
        [_] => return Err("not a `PUBLIC KEY`; save the public key alone, in PEM form".to_owned()),
        _ => return Err("more than one item in PEM; several keys need ids, so save a JSON Web Key Set".to_owned()),
    }
    let pem = text.as_bytes();
    let (algorithms, key) = DecodingKey::from_ed_pem(pem)
        .or_else(|_| DecodingKey::from_ec_pem(pem))
        .or_else(|_| DecodingKey::from_rsa_pem(pem))
        .ok()
        .map(|key| (sound::suits(&key).to_vec(), key))
        .filter(|(algorithms, _)| !algorithms.is_empty())
        .ok_or("not a key of Ed25519, P-256, P-384 or RSA of 2048 to 8192 bits; save another key of the issuer")?;
    Ok(Key { id: None, algorithms, key })
}

#[cfg(test)]
mod tests;
