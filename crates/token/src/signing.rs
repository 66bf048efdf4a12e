//! Minting with a private key that is not here: in a key management service, which signs and gives nothing out.
//!
//! [`Unsigned::new`] says what to sign, whoever has the key signs [`Unsigned::message`], and [`Unsigned::signed`] makes the token
//! of it. In between there may be a network. The bytes are those of [`crate::mint`].

use biscuit_auth::format::schema;
use biscuit_auth::{Algorithm, KeyPair};
use prost_of_biscuit::Message as _;
use zeroize::Zeroizing;

use crate::claims::Claims;
use crate::error::MintError;
use crate::key::{KeyId, PublicKey};
use crate::mint::{Token, authority_block, next_key_of};

/// A capability whose root signature is still to be made.
pub struct Unsigned {
    root_key_id: u32,
    block: Vec<u8>,
    next: KeyPair,
    open: bool,
}

impl Unsigned {
    /// What these claims are minted as under the key `root`. The key that seals it is derived from `secret`, which stays the
    /// same for a root key, or a retry would not give the same bytes; who has it can seal nothing without a root signature.
    ///
    /// # Errors
    /// [`MintError`] if the claims cannot be carried.
    pub fn new(root: KeyId, claims: &Claims, secret: &[u8; 32]) -> Result<Self, MintError> {
        let block = authority_block(claims)?;
        Ok(Self { root_key_id: root.0, block, next: next_key_of(secret, claims.token_id)?, open: claims.open })
    }

    /// What the root key signs, by Ed25519 as it is (RFC 8032): not hashed before.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        [&self.block, ALGORITHM.as_slice(), &self.next.public().to_bytes()].concat()
    }

    /// The token, with the signature of [`Self::message`] under `root`.
    ///
    /// # Errors
    /// [`MintError::NotSigned`] if it is not one.
    pub fn signed(self, root: &PublicKey, signature: &[u8; 64]) -> Result<Token, MintError> {
        let message = self.message();
        let verifier = ed25519_dalek::VerifyingKey::from_bytes(root.as_bytes()).map_err(|_| MintError::Build)?;
        let made = ed25519_dalek::Signature::from_bytes(signature);
        verifier.verify_strict(&message, &made).map_err(|_| MintError::NotSigned)?;
        let sealed = [message.as_slice(), signature].concat();
        let seal = self.next.sign(&sealed).map_err(|_| MintError::Build)?;
        let Self { root_key_id, block, next, open } = self;
        let next_key = schema::PublicKey { algorithm: Algorithm::Ed25519 as i32, key: next.public().to_bytes() };
        let authority = schema::SignedBlock {
            block,
            next_key,
            signature: signature.to_vec(),
            external_signature: None,
            version: None,
        };
        let content = if open {
            schema::proof::Content::NextSecret(next.private().to_bytes().to_vec())
        } else {
            schema::proof::Content::FinalSignature(seal.to_bytes().to_vec())
        };
        let proof = schema::Proof { content: Some(content) };
        let token = schema::Biscuit { root_key_id: Some(root_key_id), authority, blocks: Vec::new(), proof };
        Ok(Token::of_bytes(&Zeroizing::new(token.encode_to_vec())))
    }
}

/// Biscuit's number for Ed25519, as it is signed.
const ALGORITHM: [u8; 4] = (Algorithm::Ed25519 as i32).to_le_bytes();

impl std::fmt::Debug for Unsigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unsigned").field("root_key_id", &self.root_key_id).finish_non_exhaustive()
    }
}
