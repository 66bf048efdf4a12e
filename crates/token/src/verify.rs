//! Verifying a presented token, and letting its checks decide.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use biscuit_auth::builder::{Expression, Fact, Op, Policy, PolicyKind, Rule, Term, boolean, pred};
use biscuit_auth::error::{FailedCheck, Format, Logic, Token as BiscuitError};
use biscuit_auth::{AuthorizerBuilder, AuthorizerLimits, Biscuit};
use countersign_core::{Digest, SessionId, TenantId, Timestamp};
use zeroize::Zeroizing;

use crate::claims::{Checked, Claims, presented};
use crate::error::TokenError;
use crate::key::{KeyId, KeyRing, KeyState};
use crate::mint::{PREFIX, authority_block};
use crate::wire::Envelope;

/// The longest text that is read unless [`Limits`] say otherwise, in bytes. The longest claims make 3.2 KiB, usual ones
/// 1.3 KiB.
pub const MAX_TEXT_BYTES: usize = 4096;

/// What verifying one token may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest text that is read, in bytes.
    pub text_bytes: usize,
    /// How many facts the Datalog engine may hold. A capability and its presentation have 21.
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
    /// The time.
    pub now: Timestamp,
}

/// A token that is genuine, ours, and was not expired when it was verified. Only [`verify`] makes one. It does not yet
/// authorize anything: see [`Self::authorize`].
pub struct Verified {
    key: KeyId,
    claims: Claims,
    biscuit: Biscuit,
    limits: Limits,
}

impl Verified {
    /// What the token says. Its mint epoch and whether it is for development are the caller's to compare.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
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
        match Checked::ALL.into_iter().find(|check| !self.holds(*check, presented)) {
            None => Ok(()),
            Some(check) => Err(self.error(check)),
        }
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
        ] {
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
            FailedCheck::Block(check) => usize::try_from(check.check_id).ok(),
            FailedCheck::Authorizer(_) => None,
        });
        match failed.min().and_then(|first| Checked::ALL.get(first)) {
            Some(check) => self.error(*check),
            None => TokenError::Unevaluated,
        }
    }

    fn holds(&self, check: Checked, presented: &Presented<'_>) -> bool {
        match check {
            Checked::Tenant => self.claims.tenant == *presented.tenant,
            Checked::Session => self.claims.session == presented.session,
            Checked::Audience => self.claims.audience == presented.audience,
            Checked::Expiry => !presented.now.reached(self.claims.expires_at),
            Checked::Digest => self.claims.digest == presented.digest,
        }
    }

    const fn error(&self, check: Checked) -> TokenError {
        match check {
            Checked::Tenant => TokenError::Tenant,
            Checked::Session => TokenError::Session,
            Checked::Audience => TokenError::Audience,
            Checked::Expiry => TokenError::Expired(self.claims.expires_at),
            Checked::Digest => TokenError::DigestMismatch,
        }
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("key", &self.key).field("claims", &self.claims).finish_non_exhaustive()
    }
}

/// Reads a presented token. Accepts what [`crate::mint`] writes under a key of the ring that is not compromised, in its
/// one spelling, until it expires; nothing else. Cheap refusals come first: length, spelling and key are looked at before
/// any signature, the signature before any contents, the contents before any Datalog.
///
/// # Errors
/// [`TokenError`] says what to repair, and never repeats what was sent.
pub fn verify(text: &str, ring: &KeyRing, now: Timestamp, limits: &Limits) -> Result<Verified, TokenError> {
    if text.len() > limits.text_bytes {
        return Err(TokenError::TooLarge { bytes: text.len(), limit: limits.text_bytes });
    }
    let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Malformed("it does not begin with `csn_`"))?;
    // This engine refuses padding, other alphabets, white space and bits beyond the last byte.
    let bytes = URL_SAFE_NO_PAD
        .decode(encoded)
        .map(Zeroizing::new)
        .map_err(|_| TokenError::Malformed("it is not base64url without padding"))?;
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
    if biscuit.root_key_id() != Some(key.0) || biscuit.block_count() != 1 || !rewrites_to(&biscuit, &bytes) {
        return Err(TokenError::Malformed("it is not a token in its one encoding"));
    }

    let claims = Claims::read(envelope.block).ok_or(TokenError::NotOurs("its contents have another shape"))?;
    // Equal bytes leave no room for a rule, another check, a second fact or another spelling of the same.
    if authority_block(&claims).is_ok_and(|block| block == envelope.block) {
        if now.reached(claims.expires_at) {
            return Err(TokenError::Expired(claims.expires_at));
        }
        Ok(Verified { key, claims, biscuit, limits: *limits })
    } else {
        Err(TokenError::NotOurs("its contents are not what was minted"))
    }
}

fn rewrites_to(biscuit: &Biscuit, bytes: &[u8]) -> bool {
    biscuit.to_vec().map(Zeroizing::new).is_ok_and(|again| again.as_slice() == bytes)
}
