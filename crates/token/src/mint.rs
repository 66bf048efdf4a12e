//! Minting, and the text form of a token.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use biscuit_auth::builder::{Check, Convert as _, Fact};
use biscuit_auth::datalog::SymbolTable;
use biscuit_auth::format::convert::{token_check_to_proto_check, token_fact_to_proto_fact};
use biscuit_auth::format::schema;
use biscuit_auth::{Algorithm, KeyPair, PrivateKey};
use countersign_core::{Digest, TokenId};
use hkdf::Hkdf;
use prost_of_biscuit::Message as _;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::claims::Claims;
use crate::error::MintError;
use crate::key::SigningKey;
use crate::wire::BLOCK_VERSION;

/// What every token begins with, so that secret scanners find one that leaked: `csn_[A-Za-z0-9_-]{300,}`. The rest is
/// the Biscuit in base64url without padding (RFC 4648 §5). Remove the prefix to read it with another Biscuit library.
pub const PREFIX: &str = "csn_";

/// Separates the next keys from anything else that might ever be derived from a root seed.
const NEXT_KEY_SALT: &[u8] = b"countersign/token/next-key/v1";

/// A minted capability: a bearer secret until it is spent. Wiped from memory on drop, absent from `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// The text form, to be handed to the holder and to nobody else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        // Room for all of it at once: a string that grows leaves its beginnings behind in memory.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len().div_ceil(3) * 4));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        Self(text)
    }

    /// The SHA-256 of the text form: names the token in logs. Of a token that was found somewhere,
    /// `printf %s "$token" | sha256sum` gives the same.
    #[must_use]
    pub fn hash(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("sha256", &self.hash()).finish_non_exhaustive()
    }
}

/// Writes the capability of these claims, sealed, so that nothing can be appended to it, unless they say that it stays open.
///
/// Deterministic: Ed25519 is, and the key that seals, or that an open token holds to append with, is derived from the root
/// seed and the token id. So a retry mints the identical token from the claims that were stored, and no bearer token need
/// lie at rest. A token id must therefore be given to one set of claims only.
///
/// Whether this key may mint is the ring's to say: [`crate::KeyRing::may_mint`].
///
/// # Errors
/// [`MintError`] if the claims cannot be carried.
pub fn mint(key: &SigningKey, claims: &Claims) -> Result<Token, MintError> {
    let next = next_key_of(key.seed(), claims.token_id)?;
    let bytes = claims
        .datalog()?
        .root_key_id(key.id().0)
        .build_with_key_pair(key.pair(), SymbolTable::new(), &next)
        .and_then(|token| if claims.open { Ok(token) } else { token.seal() })
        .and_then(|token| token.to_vec())
        .map(Zeroizing::new)
        .map_err(|_| MintError::Build)?;
    Ok(Token::of_bytes(&bytes))
}

/// HKDF-SHA256 (RFC 5869) of the root seed, with the token id's 16 bytes as info.
pub(crate) fn next_key_of(secret: &[u8; 32], token_id: TokenId) -> Result<KeyPair, MintError> {
    let mut seed = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(NEXT_KEY_SALT), secret)
        .expand(token_id.as_bytes(), seed.as_mut_slice())
        .map_err(|_| MintError::Build)?;
    key_pair(&seed)
}

pub(crate) fn key_pair(seed: &[u8; 32]) -> Result<KeyPair, MintError> {
    let private = PrivateKey::from_bytes(seed, Algorithm::Ed25519).map_err(|_| MintError::Build)?;
    Ok(KeyPair::from(&private))
}

/// The bytes of the authority block that [`mint`] writes for these claims, from the same parts of the library but without
/// the signature that its builder makes on the way.
pub(crate) fn authority_block(claims: &Claims) -> Result<Vec<u8>, MintError> {
    claims.check()?;
    Ok(block(&claims.facts()?, &claims.checks(), &mut SymbolTable::new()))
}

/// The bytes of a block that goes on from these symbols, and adds its own to them.
pub(crate) fn block(facts: &[Fact], checks: &[Check], symbols: &mut SymbolTable) -> Vec<u8> {
    let before = symbols.current_offset();
    let facts = facts.iter().map(|fact| token_fact_to_proto_fact(&fact.convert(symbols))).collect();
    let checks = checks.iter().map(|check| token_check_to_proto_check(&check.convert(symbols))).collect();
    let block = schema::Block {
        symbols: symbols.strings().split_off(before),
        context: None,
        version: Some(BLOCK_VERSION),
        facts,
        rules: Vec::new(),
        checks,
        scope: Vec::new(),
        public_keys: Vec::new(),
    };
    block.encode_to_vec()
}
