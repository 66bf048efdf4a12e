//! Verifying a presented token, and letting its checks decide.

use std::fmt;
use std::time::Duration;

use biscuit_auth::builder::{Expression, Fact, Op, Policy, PolicyKind, Rule, Term, boolean, pred};
use biscuit_auth::datalog::SymbolTable;
use biscuit_auth::error::{FailedCheck, Format, Logic, Token as BiscuitError};
use biscuit_auth::{AuthorizerBuilder, AuthorizerLimits, Biscuit};
use countersign_core::{Digest, Holder, SessionId, TenantId, Timestamp};
use zeroize::Zeroizing;

use crate::claims::{Checked, Claims, presented};
use crate::error::TokenError;
use crate::key::{KeyId, KeyRing, KeyState};
use crate::mint::authority_block;
use crate::narrow::{Narrowed, Narrowing, bytes};
use crate::wire::{Envelope, Facts};

/// The longest text that is read unless [`Limits`] say otherwise, in bytes. The longest claims make 9 KiB, usual ones
/// 1.3 KiB.
pub const MAX_TEXT_BYTES: usize = 12_288;

/// What verifying one token may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest text that is read, in bytes.
    pub text_bytes: usize,
    /// How many facts the Datalog engine may hold. A capability and its presentation have at most 24.
    pub facts: u64,
    /// How many rounds of rules it may run. There are no rules, so one round finds nothing.
    pub iterations: u64,
    /// How long the checks may take, in wall time. Only a backstop, because what runs was compared byte for byte before:
    /// far above the 50 µs that they take, so that a busy machine refuses nobody. The library's own limit is 1 ms.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { text_bytes: MAX_TEXT_BYTES, facts: 64, iterations: 4, time: Duration::from_millis(250) }
    }
}

/// What is about to happen, as the verifier knows it. Nothing of it may be taken from the token.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// The tenant in which the token was presented.
    pub tenant: &'a TenantId,
    /// The session in which it was presented.
    pub session: SessionId,
    /// The enforcement point that presented it, by its credential.
    pub audience: &'a str,
    /// The digest recomputed from what is about to run.
    pub digest: Digest,
    /// Who is shown to hold it: what [`crate::shown`] was satisfied with. `None` if nobody showed anything.
    pub holder: Option<Holder>,
    /// The time.
    pub now: Timestamp,
}

/// A token that is genuine, ours, and was not expired when it was verified. Only [`verify`] makes one. It does not yet
/// authorize anything: see [`Self::authorize`].
pub struct Verified {
    key: KeyId,
    claims: Claims,
    narrowings: Vec<Narrowing>,
    biscuit: Biscuit,
    limits: Limits,
}

impl Verified {
    /// What the token says. Its mint epoch and whether it is for development are the caller's to compare.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What its holder demanded beside, the first first. Empty of a sealed token.
    #[must_use]
    pub fn narrowings(&self) -> &[Narrowing] {
        &self.narrowings
    }

    /// From when on it is worthless: what the claims say, or what its holder narrowed that to.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        let narrowed = self.narrowings.iter().filter_map(|narrowing| narrowing.expires_at);
        narrowed.fold(self.claims.expires_at, Timestamp::min)
    }

    /// The key that signed it.
    #[must_use]
    pub const fn key(&self) -> KeyId {
        self.key
    }

    /// Lets the checks inside the token decide whether it is for what is presented.
    ///
    /// # Errors
    /// The first that differs, in this order: [`TokenError::Tenant`], [`TokenError::Session`], [`TokenError::Audience`],
    /// [`TokenError::Expired`], [`TokenError::DigestMismatch`]. [`TokenError::Unevaluated`] if the checks did not finish.
    pub fn authorize(&self, presented: &Presented<'_>) -> Result<(), TokenError> {
        match self.run_checks(presented) {
            Ok(_) => {}
            Err(BiscuitError::FailedLogic(Logic::Unauthorized { checks, .. })) => {
                return Err(self.blame(&checks));
            }
            Err(_) => return Err(TokenError::Unevaluated),
        }
        // The same once more without Datalog. Both must agree, so that a fault in either one alone admits nothing.
        if let Some(check) = Checked::ALL.into_iter().find(|check| !self.holds(*check, presented)) {
            return Err(self.error(check));
        }
        if presented.now.reached(self.expires_at()) {
            return Err(TokenError::Expired(self.expires_at()));
        }
        let other = |narrowing: &Narrowing| narrowing.audience.as_ref().is_some_and(|a| *a != presented.audience);
        if self.narrowings.iter().any(other) { Err(TokenError::Audience) } else { Ok(()) }
    }

    fn run_checks(&self, presented: &Presented<'_>) -> Result<usize, BiscuitError> {
        let limits = AuthorizerLimits {
            max_facts: self.limits.facts,
            max_iterations: self.limits.iterations,
            max_time: self.limits.time,
        };
        let mut authorizer = AuthorizerBuilder::new().set_limits(limits);
        for fact in [
            presented::tenant(presented.tenant),
            presented::session(presented.session),
            presented::audience(presented.audience),
            presented::digest(presented.digest),
            presented::now(presented.now),
        ]
        .into_iter()
        .chain(presented.holder.map(presented::holder))
        {
            authorizer = authorizer.fact(Fact::new(fact.name, fact.terms))?;
        }
        // Biscuit wants a policy beside the checks. This one holds always: the token's checks are what decides.
        let truth = Expression { ops: vec![Op::Value(boolean(true))] };
        let always = Rule::new(pred::<Term>("query", &[]), vec![], vec![truth], vec![]);
        let allow = Policy { queries: vec![always], kind: PolicyKind::Allow };
        authorizer.policy(allow)?.build(&self.biscuit)?.authorize()
    }

    fn blame(&self, failed: &[FailedCheck]) -> TokenError {
        let failed = failed.iter().filter_map(|check| match check {
            FailedCheck::Block(check) => Some((check.block_id.try_into().ok()?, check.check_id.try_into().ok()?)),
            FailedCheck::Authorizer(_) => None,
        });
        let error = failed.min().and_then(|(block, check): (usize, usize)| {
            let Some(appended) = block.checked_sub(1) else { return Some(self.error(*Checked::ALL.get(check)?)) };
            Some(match self.narrowings.get(appended)?.checked().nth(check)? {
                Narrowed::Expiry => TokenError::Expired(self.expires_at()),
                Narrowed::Audience => TokenError::Audience,
            })
        });
        error.unwrap_or(TokenError::Unevaluated)
    }

    fn holds(&self, check: Checked, presented: &Presented<'_>) -> bool {
        match check {
            Checked::Tenant => self.claims.tenant == *presented.tenant,
            Checked::Session => self.claims.session == presented.session,
            Checked::Audience => self.claims.audience == presented.audience,
            Checked::Expiry => !presented.now.reached(self.claims.expires_at),
            Checked::Digest => self.claims.digest == presented.digest,
            Checked::Holder => self.claims.holder.is_none() || self.claims.holder == presented.holder,
        }
    }

    const fn error(&self, check: Checked) -> TokenError {
        match check {
            Checked::Tenant => TokenError::Tenant,
            Checked::Session => TokenError::Session,
            Checked::Audience => TokenError::Audience,
            Checked::Expiry => TokenError::Expired(self.claims.expires_at),
            Checked::Digest => TokenError::DigestMismatch,
            Checked::Holder => TokenError::Holder,
        }
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("key", &self.key).field("claims", &self.claims).finish_non_exhaustive()
    }
}

/// Reads a presented token. Accepts what [`crate::mint`] writes under a key of the ring that is not compromised, in its
/// one spelling, and what [`crate::narrow`] makes of it if it was minted open, until it expires; nothing else. Cheap
/// refusals come first: length, spelling and key are looked at before any signature, the signatures before any contents,
/// the contents before any Datalog.
///
/// # Errors
/// [`TokenError`] says what to repair, and never repeats what was sent.
pub fn verify(text: &str, ring: &KeyRing, now: Timestamp, limits: &Limits) -> Result<Verified, TokenError> {
    let bytes = bytes(text, limits)?;
    let envelope = Envelope::read(&bytes)?;

    let key = KeyId(envelope.root_key_id);
    let public = match ring.get(key) {
        Some((public, KeyState::Active | KeyState::Retired)) => public,
        Some((_, KeyState::Compromised)) => return Err(TokenError::CompromisedKey(key)),
        None => return Err(TokenError::UnknownKey(key)),
    };
    let biscuit = Biscuit::from(bytes.as_slice(), public.point()).map_err(|error| {
        if matches!(error, BiscuitError::Format(Format::Signature(_))) {
            TokenError::Signature
        } else {
            TokenError::Malformed("the token library cannot read it")
        }
    })?;
    // Two readers saw the bytes. What the library understood must be all that is there.
    if biscuit.root_key_id() != Some(key.0)
        || biscuit.block_count() != envelope.appended.len() + 1
        || !rewrites_to(&biscuit, &bytes)
    {
        return Err(TokenError::Malformed("it is not a token in its one encoding"));
    }

    let (claims, narrowings) = authority(&envelope)?;
    let verified = Verified { key, claims, narrowings, biscuit, limits: *limits };
    if now.reached(verified.expires_at()) { Err(TokenError::Expired(verified.expires_at())) } else { Ok(verified) }
}

/// What the blocks of a token say, if they are what is written.
pub(crate) fn authority(envelope: &Envelope<'_>) -> Result<(Claims, Vec<Narrowing>), TokenError> {
    let facts = Facts::read(envelope.block).ok_or(TokenError::NotOurs("its contents have another shape"))?;
    let claims = Claims::read(&facts).ok_or(TokenError::NotOurs("its contents have another shape"))?;
    // Equal bytes leave no room for a rule, another check, a second fact or another spelling of the same.
    if !authority_block(&claims).is_ok_and(|block| block == envelope.block) {
        return Err(TokenError::NotOurs("its contents are not what was minted"));
    }
    match (claims.open, envelope.sealed) {
        (true, false) | (false, true) => {}
        (false, false) if envelope.appended.is_empty() => return Err(TokenError::NotOurs("it is not sealed")),
        (false, false) => return Err(TokenError::NotOurs("blocks were appended to it")),
        (true, true) => return Err(TokenError::NotOurs("it was sealed by somebody else")),
    }
    let mut symbols: SymbolTable = facts.symbols().clone();
    let narrowings = envelope.appended.iter().map(|block| Narrowing::read(block, &mut symbols));
    let narrowings: Option<Vec<Narrowing>> = narrowings.collect();
    Ok((claims, narrowings.ok_or(TokenError::NotOurs("what was appended to it does not only narrow it"))?))
}

fn rewrites_to(biscuit: &Biscuit, bytes: &[u8]) -> bool {
    biscuit.to_vec().map(Zeroizing::new).is_ok_and(|again| again.as_slice() == bytes)
}
