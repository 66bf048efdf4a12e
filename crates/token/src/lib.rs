//! Capabilities as [Biscuit](https://www.biscuitsec.org) tokens: keys, mint, verify. The only crate that knows Biscuit.
//!
//! A capability is one sealed authority block that [`mint`] writes from [`Claims`]. [`verify`] accepts exactly what
//! [`mint`] writes, byte for byte, and nothing else that the format could express: no third-party blocks, no rules, no
//! other spelling, and no further blocks but those with which the holder of a token that was minted open may [`narrow`]
//! it. So a holder cannot change, widen or re-encode a capability, and a hostile token is refused before any Datalog
//! runs. [`Verified::authorize`] then lets the checks inside the token decide about the action that is presented.
//!
//! A capability that is bound to a holder is worth nothing without what the holder proves themselves with: [`shown`].
//!
//! What this crate does not decide: whether a capability was spent or revoked, whether its mint epoch is current, and
//! whether a development token may be used. Those need state; the claims carry what is compared.
//!
//! # An enforcement point that looks before it asks
//!
//! This crate is enough to refuse offline what the server would refuse too. It never replaces the redeem, which alone spends.
//!
//! ```
//! use countersign_core::{Action, Digest, EntityRef, SessionId, TenantId, Timestamp};
//! use countersign_token::{About, KeyId, KeyRing, KeyState, Limits, Presented, PublicKey, TokenError, shown, verify};
//!
//! /// What the server's `ListPublicKeys` answered, kept for as long as its `max_age` says.
//! fn ring(keys: &[(u32, [u8; 32])]) -> Result<KeyRing, countersign_token::KeyError> {
//!     let keys = keys.iter().map(|(id, key)| Ok((KeyId(*id), PublicKey::from_bytes(*key)?, KeyState::Retired)));
//!     KeyRing::new(keys.collect::<Result<Vec<_>, countersign_token::KeyError>>()?)
//! }
//!
//! /// Whether the token is for this very action, here and now, presented by whom it is bound to.
//! fn looks_good(
//!     token: &str,
//!     holder_proof: &str,
//!     request_id: &str,
//!     action: &Action,
//!     ring: &KeyRing,
//!     now: Timestamp,
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     let verified = verify(token, ring, now, &Limits::default())?;
//!     // Of what is about to run, and never of what the token says of itself.
//!     let digest = action.canonical()?.digest();
//!     let about = About { token: Digest::of(token.as_bytes()), digest, audience: &action.audience, request_id, now };
//!     let holder = verified.claims().holder.map(|bound| shown(bound, None, holder_proof, &about)).transpose()?;
//!     let (tenant, session, audience) = (&action.tenant, action.session, action.audience.as_str());
//!     Ok(verified.authorize(&Presented { tenant, session, audience, digest, holder, now })?)
//! }
//! # use countersign_token::{Claims, HolderKey, Narrowing, SigningKey, mint, narrow};
//! # let now = Timestamp::from_millis(1_767_225_600_000);
//! # let root = SigningKey::generate(KeyId(1))?;
//! # let ring = ring(&[(1, *root.public().as_bytes())])?;
//! # let holder = HolderKey::generate()?;
//! # let action = Action {
//! #     tenant: TenantId::new("acme")?, audience: "warehouse".into(), session: SessionId::from_bytes([1; 16]),
//! #     principal: EntityRef::new("Agent", "etl-bot")?, operator: None, chain: vec![], operation: "export".into(),
//! #     resource: EntityRef::new("Dataset", "customers")?, input: Default::default(), environment: Default::default(),
//! # };
//! # let minted = mint(&root, &Claims {
//! #     token_id: countersign_core::TokenId::from_bytes([2; 16]), tenant: action.tenant.clone(), session: action.session,
//! #     exchanged: vec![], sessions_above: vec![], votes: vec![], principal: action.principal.clone(), operator: None, chain: vec![], operation: action.operation.clone(),
//! #     resource: action.resource.clone(), digest: action.canonical()?.digest(), audience: action.audience.clone(),
//! #     approval: None, holder: Some(holder.holder()), open: true, issued_at: now,
//! #     expires_at: Timestamp::from_millis(now.millis() + 60_000), shard: 0, mint_epoch: 1, development: false,
//! # })?;
//! # // Its holder narrows it before handing it over, and proves to be the holder.
//! # let soon = Timestamp::from_millis(now.millis() + 5_000);
//! # let token = narrow(minted.expose(), &Narrowing { expires_at: Some(soon), audience: None })?;
//! # let proof = holder.prove(token.expose(), "attempt", now)?;
//! # looks_good(token.expose(), &proof, "attempt", &action, &ring, now)?;
//! # assert!(looks_good(token.expose(), "", "attempt", &action, &ring, now).is_err());
//! # assert!(looks_good(token.expose(), &proof, "attempt", &action, &ring, soon).is_err());
//! # let other = Action { operation: "delete".into(), ..action };
//! # assert!(looks_good(token.expose(), &proof, "attempt", &other, &ring, now).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod claims;
mod error;
mod key;
mod mint;
mod narrow;
mod proof;
mod signing;
mod verify;
mod wire;

pub use claims::{Claims, VERSION};
pub use error::{HolderError, HolderKeyError, KeyError, MintError, NarrowError, TokenError};
pub use key::{KeyId, KeyRing, KeyState, PublicKey, SigningKey};
pub use mint::{PREFIX, Token, mint};
pub use narrow::{MAX_NARROWINGS, Narrowing, narrow, unverified_claims};
pub use proof::{
    About, HolderKey, MAX_AGE, MAX_AHEAD, MAX_PROOF_BYTES, holder_of_certificate, holder_of_key, holder_of_pem, shown,
};
pub use signing::Unsigned;
pub use verify::{Limits, MAX_TEXT_BYTES, Presented, Verified, verify};
