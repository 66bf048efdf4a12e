//! Capabilities as [Biscuit](https://www.biscuitsec.org) tokens: keys, mint, verify. The only crate that knows Biscuit.
//!
//! A capability is one sealed authority block that [`mint`] writes from [`Claims`]. [`verify`] accepts exactly what
//! [`mint`] writes, byte for byte, and nothing else that the format could express: no further blocks, no third-party
//! blocks, no rules, no other spelling. So a holder cannot change, extend or re-encode a capability, and a hostile token
//! is refused before any Datalog runs. [`Verified::authorize`] then lets the checks inside the token decide about the
//! action that is presented.
//!
//! What this crate does not decide: whether a capability was spent or revoked, whether its mint epoch is current, and
//! whether a development token may be used. Those need state; the claims carry what is compared.

mod claims;
mod error;
mod key;
mod mint;
mod signing;
mod verify;
mod wire;

pub use claims::{Claims, VERSION};
pub use error::{KeyError, MintError, TokenError};
pub use key::{KeyId, KeyRing, KeyState, PublicKey, SigningKey};
pub use mint::{PREFIX, Token, mint};
pub use signing::Unsigned;
pub use verify::{Limits, MAX_TEXT_BYTES, Presented, Verified, verify};
