//! Open tokens, narrowed by their holder: without the server, and never wider.
//!
//! A token that was minted open holds a key to append blocks with. One closed shape of block is read: a check that it is before a
//! moment, a check that the audience is one, or both in this order, written as mint writes its own. Checks only ever add to those
//! that are there, so no chain of them widens anything. Whoever holds a narrowed copy may narrow it further.
//!
//! All copies are one capability: single use and revocation are keyed by the token id, so whichever copy is redeemed first is the
//! only one that ever is.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use biscuit_auth::UnverifiedBiscuit;
use biscuit_auth::builder::{BlockBuilder, Check};
use biscuit_auth::datalog::SymbolTable;
use biscuit_auth::format::schema::{self, op, term};
use countersign_core::Timestamp;
use countersign_core::action::MAX_NAME_BYTES;
use prost_of_biscuit::Message as _;
use zeroize::Zeroizing;

use crate::claims::{Claims, check_before, check_if, presented};
use crate::error::{NarrowError, TokenError};
use crate::mint::{PREFIX, Token, block, key_pair};
use crate::verify::{Limits, authority};
use crate::wire::Envelope;

/// How many blocks may be appended to a token.
pub const MAX_NARROWINGS: usize = 4;

/// What one appended block demands beside all that was demanded before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// That it is before this moment.
    pub expires_at: Option<Timestamp>,
    /// That it is presented to this enforcement point.
    pub audience: Option<String>,
}

/// The checks of a block, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Narrowed {
    Expiry,
    Audience,
}

impl Narrowing {
    /// Which checks it has.
    pub(crate) fn checked(&self) -> impl Iterator<Item = Narrowed> {
        let expiry = self.expires_at.map(|_| Narrowed::Expiry);
        expiry.into_iter().chain(self.audience.as_ref().map(|_| Narrowed::Audience))
    }

    fn checks(&self) -> Vec<Check> {
        let expiry = self.expires_at.map(check_before);
        let audience = self.audience.as_deref().map(|audience| check_if(presented::audience(audience), vec![]));
        expiry.into_iter().chain(audience).collect()
    }

    /// Whether it demands something, and nothing that no audience could be.
    fn is_sound(&self) -> bool {
        let audience = self.audience.as_ref();
        (self.expires_at.is_some() || audience.is_some())
            && audience.is_none_or(|audience| !audience.is_empty() && audience.len() <= MAX_NAME_BYTES)
    }

    /// Reads an appended block that goes on from these symbols, and adds its own to them; `None` unless it is, byte for byte, what
    /// [`narrow`] writes.
    pub(crate) fn read(bytes: &[u8], symbols: &mut SymbolTable) -> Option<Self> {
        let read = schema::Block::decode(bytes).ok()?;
        let mut known = symbols.clone();
        known.extend(&SymbolTable::from(read.symbols).ok()?).ok()?;
        let mut narrowing = Self::default();
        for check in &read.checks {
            let [query] = check.queries.as_slice() else { return None };
            match (query.expressions.as_slice(), query.body.as_slice()) {
                ([before], _) => narrowing.expires_at = Some(moment(before)?),
                ([], [audience]) => narrowing.audience = Some(text(audience, &known)?),
                (_, _) => return None,
            }
        }
        // What was understood is written anew: equal bytes leave no room for anything else that a block could say.
        let again = block(&[], &narrowing.checks(), symbols);
        (narrowing.is_sound() && again == bytes).then_some(narrowing)
    }
}

/// The moment in `$now < moment`.
fn moment(expression: &schema::Expression) -> Option<Timestamp> {
    let Some(op::Content::Value(value)) = &expression.ops.get(1)?.content else { return None };
    let Some(term::Content::Integer(millis)) = value.content else { return None };
    Some(Timestamp::from_millis(millis))
}

/// The text in `presented_audience("text")`.
fn text(predicate: &schema::Predicate, symbols: &SymbolTable) -> Option<String> {
    let Some(term::Content::String(symbol)) = predicate.terms.first()?.content else { return None };
    symbols.get_symbol(symbol).map(str::to_owned)
}

/// Narrows an open token: the copy that comes back demands what this one does, and `narrowing` too. Needs neither the server nor
/// its keys, so nothing is known afterwards of whether the token is genuine.
///
/// # Errors
/// [`NarrowError`] for a token that is not open, has as many blocks as it may, or would be too long, and for a narrowing that
/// demands nothing.
pub fn narrow(token: &str, narrowing: &Narrowing) -> Result<Token, NarrowError> {
    if !narrowing.is_sound() {
        return Err(NarrowError::Nothing);
    }
    let bytes = bytes(token, &Limits::default())?;
    let envelope = Envelope::read(&bytes)?;
    let (claims, _) = authority(&envelope)?;
    if !claims.open {
        return Err(NarrowError::Sealed);
    }
    if envelope.appended.len() >= MAX_NARROWINGS {
        return Err(NarrowError::Often);
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|_| NarrowError::Random)?;
    let next = key_pair(&seed).map_err(|_| NarrowError::Build)?;
    let mut block = BlockBuilder::new();
    for check in narrowing.checks() {
        block = block.check(check).map_err(|_| NarrowError::Build)?;
    }
    let narrowed = UnverifiedBiscuit::from(bytes.as_slice())
        .and_then(|token| token.append_with_keypair(&next, block))
        .and_then(|token| token.to_vec())
        .map(Zeroizing::new)
        .map_err(|_| NarrowError::Build)?;
    let token = Token::of_bytes(&narrowed);
    let (length, limit) = (token.expose().len(), Limits::default().text_bytes);
    if length > limit {
        return Err(NarrowError::Token(TokenError::TooLarge { bytes: length, limit }));
    }
    Ok(token)
}

/// What a token says of itself, signatures unchecked: for its holder, who has nobody else's word for it. Nothing that is granted may
/// rest on it.
///
/// # Errors
/// [`TokenError`] if it is not of the form that is minted.
pub fn unverified_claims(token: &str) -> Result<Claims, TokenError> {
    let bytes = bytes(token, &Limits::default())?;
    authority(&Envelope::read(&bytes)?).map(|(claims, _)| claims)
}

/// The bytes of a token in its one spelling.
pub(crate) fn bytes(text: &str, limits: &Limits) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    if text.len() > limits.text_bytes {
        return Err(TokenError::TooLarge { bytes: text.len(), limit: limits.text_bytes });
    }
    let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Malformed("it does not begin with `csn_`"))?;
    // This engine refuses padding, other alphabets, white space and bits beyond the last byte.
    URL_SAFE_NO_PAD
        .decode(encoded)
        .map(Zeroizing::new)
        .map_err(|_| TokenError::Malformed("it is not base64url without padding"))
}
