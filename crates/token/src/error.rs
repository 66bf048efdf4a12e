//! Errors, by who is to blame. None of them carries bytes of a token or a key: they end up in logs and replies.

use countersign_core::{HolderKind, Timestamp};

use crate::key::KeyId;

/// Why a key or a ring of keys was refused. The operator's to repair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes; no key was made, try again")]
    Random,
    /// The bytes are no Ed25519 public key, or one that makes forging easy (small order).
    #[error("not an Ed25519 public key: expected 64 lowercase hexadecimal digits of a point of large order")]
    Public,
    /// The bytes are no Ed25519 seed.
    #[error("not an Ed25519 seed: expected 32 bytes")]
    Seed,
    /// Two keys have one id, so a token could not say which one signed it.
    #[error("key id {0} is given twice; give every key an id of its own and never use one again")]
    SameId(KeyId),
    /// One key has two ids, so that marking one of them compromised would leave it trusted by the other.
    #[error("key ids {0} and {1} hold the same key; keep one of them")]
    SameKey(KeyId, KeyId),
    /// More than one key would mint.
    #[error("key ids {0} and {1} are both active; retire one of them")]
    TwoActive(KeyId, KeyId),
}

/// Why nothing was minted. The service's own fault: claims come from a decision, not from a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// A name in the claims is empty or longer than [`countersign_core::action::MAX_NAME_BYTES`].
    #[error("the {0} is empty or too long for a capability; decide on an action with a canonical form")]
    Name(&'static str),
    /// It rests on more than a token can carry.
    #[error("the capability names {what} with more than {most} entries; open a session further up and decide there")]
    TooMany {
        /// Which claim.
        what: &'static str,
        /// How many it can carry.
        most: usize,
    },
    /// The capability would expire before it is issued, or at once.
    #[error("the capability would expire as it is issued; give it a later deadline")]
    Lifetime,
    /// The mint epoch does not fit a signed 64-bit integer, the only integer that Biscuit has.
    #[error("the mint epoch is beyond 2^63 - 1; this store cannot mint any more")]
    Epoch,
    /// The Biscuit library refused to build the token.
    #[error("the token library refused to build the capability; report this as a bug")]
    Build,
    /// What was signed elsewhere is something else, or by another key.
    #[error("the signature that was made elsewhere is not this key's of this capability; look at what signs")]
    NotSigned,
}

/// Why a presented token does not authorize. The holder's to repair unless the variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is not the one spelling of a token.
    #[error("the capability is malformed, {0}; send it exactly as it was issued")]
    Malformed(&'static str),
    /// The text is longer than [`crate::Limits::text_bytes`]. Nothing of it was read.
    #[error("the capability has {bytes} bytes, at most {limit} are read; send it exactly as it was issued")]
    TooLarge {
        /// The length of the text, in bytes.
        bytes: usize,
        /// The limit that it exceeds, in bytes.
        limit: usize,
    },
    /// A signature does not match: the token was changed, or another key signed it.
    #[error(
        "the capability's signature does not match its key; send it exactly as it was issued, to the service that issued it"
    )]
    Signature,
    /// The ring has no key of this id. The id is what the token claims, not proven.
    #[error(
        "the capability names root key {0}, which is unknown here; send it to the service that issued it, or ask for a new decision"
    )]
    UnknownKey(KeyId),
    /// The key is marked compromised, so nothing that it signed is believed. The id is what the token claims, not proven.
    #[error("the capability names root key {0}, which is no longer trusted; ask for a new decision")]
    CompromisedKey(KeyId),
    /// The token is a Biscuit, but not one that this service writes: blocks were added, it is not sealed, or its
    /// contents have another shape. If the signature matched (the text then speaks of contents), then whoever holds the
    /// root key signed something else with it, which is an incident.
    #[error("the capability is not of the form that this service issues, {0}; send it exactly as it was issued")]
    NotOurs(&'static str),
    /// Its deadline has been reached.
    #[error("the capability expired at {} ms since 1970; ask for a new decision", .0.millis())]
    Expired(Timestamp),
    /// It belongs to another tenant.
    #[error("the capability belongs to another tenant; present it in the tenant that issued it")]
    Tenant,
    /// It belongs to another session.
    #[error("the capability belongs to another session; present it in its own, or ask for a new decision in this one")]
    Session,
    /// It is for another enforcement point.
    #[error("the capability is for another audience; present it to the enforcement point that it was issued for")]
    Audience,
    /// It is for another action: something of what is about to run differs from what was decided.
    #[error("the capability is for another action; run exactly what was decided, or ask for a new decision")]
    DigestMismatch,
    /// It is bound to a holder, and nobody is shown to be that holder.
    #[error("the capability is bound to a holder, who is not shown to present it; verify the holder's proof first")]
    Holder,
    /// Its checks were not evaluated within [`crate::Limits`], or not at all. The service's fault, and nothing was
    /// authorized.
    #[error("the capability's checks could not be evaluated in time; present it again")]
    Unevaluated,
}

/// Why a token was not narrowed. The holder's to repair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarrowError {
    /// It is no token of ours, or would not be one any more.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It was minted sealed.
    #[error("the capability is sealed; decide again with `open`, which the `stayOpen` policies must permit")]
    Sealed,
    /// It has as many blocks as it may.
    #[error(
        "the capability was narrowed {} times, as often as one may be; narrow an earlier copy",
        crate::MAX_NARROWINGS
    )]
    Often,
    /// Nothing is demanded, or an audience that nobody can have.
    #[error(
        "nothing would be narrowed; name an earlier end, or an audience of 1 to {} bytes",
        countersign_core::action::MAX_NAME_BYTES
    )]
    Nothing,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes; nothing was narrowed, try again")]
    Random,
    /// The Biscuit library refused to build the token.
    #[error("the token library refused to narrow the capability; report this as a bug")]
    Build,
}

/// Why nobody is shown to hold a capability. The holder's to repair; the capability is as good as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    /// Nothing was shown.
    #[error("the capability is bound to a {}, and {}", .0.word(), match .0 {
        HolderKind::Certificate => "the connection has no client certificate; connect with the holder's",
        HolderKind::Key => "no `holder_proof` was sent; have its holder sign one",
    })]
    Missing(HolderKind),
    /// The connection has another certificate.
    #[error("the capability is bound to another client certificate than the connection's; connect with the holder's")]
    OtherCertificate,
    /// The proof is signed with another key.
    #[error("the capability is bound to another key than the one that signed the proof; have its holder sign")]
    OtherKey,
    /// The signature does not match.
    #[error("the signature of the holder's proof does not match its key; sign it anew")]
    Signature,
    /// It is not a proof.
    #[error("the holder's proof is malformed, {0}; sign it anew")]
    Malformed(&'static str),
    /// It is about another capability, or another copy of this one.
    #[error("the holder's proof is of another token; sign one over the very token that is presented")]
    OtherToken,
    /// It is about another action.
    #[error("the holder's proof is of another action than the one that is about to run; have its holder sign that one")]
    OtherAction,
    /// It is for another enforcement point.
    #[error("the holder's proof is for another audience; have its holder sign for this enforcement point")]
    OtherAudience,
    /// It is for another attempt.
    #[error("the holder's proof is for another request id; send the one that it was signed for")]
    OtherRequest,
    /// It is too old, or from the future.
    #[error("the holder's proof is {0}; sign a new one, with a right clock")]
    Stale(&'static str),
}

/// Why a key of a holder cannot be used. The holder's to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HolderKeyError {
    /// The text is no private key of the kind.
    #[error("not an Ed25519 private key in PKCS#8 PEM form; make one with `openssl genpkey -algorithm ed25519`")]
    Private,
    /// The bytes are no public key, or a weak one.
    #[error("not an Ed25519 public key: expected 32 bytes of a point of large order")]
    Public,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes; no key was made, try again")]
    Random,
}
