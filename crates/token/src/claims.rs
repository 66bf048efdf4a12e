//! What a capability says, and how it is written in Datalog.

use std::iter::Peekable;

use biscuit_auth::BiscuitBuilder;
use biscuit_auth::builder::{
    Binary, Check, CheckKind, Expression, Fact, Op, Predicate, Rule, Term as Value, boolean, bytes, fact, int, pred,
    string, var,
};
use countersign_core::action::{MAX_CHAIN, MAX_NAME_BYTES};
use countersign_core::capability::MAX_VOTES;
use countersign_core::session::MAX_DEPTH;
use countersign_core::{ApprovalId, Digest, EntityRef, Holder, HolderKind, SessionId, TenantId, Timestamp, TokenId};

use crate::error::MintError;
use crate::wire::{Facts, Term};

/// The version of the form below, in the fact `countersign`. Another form is another number, read beside this one until
/// the last token of the old form has expired.
pub const VERSION: i64 = 1;

/// What a capability says: one action in one session, for one audience, until one moment.
///
/// In the token there is one fact per claim, in this order, and then five checks. `operator` and `approval` are left out
/// when there is none, and so are `vote(0, hex:…)`, `holder("key", hex:…)` and `open(true)`, which stand after `approval`. A capability that was
/// handed on has `exchanged(0, "cap_…")`, `exchanged(1, …)` after `token_id`; one in a session below others `session_above(0, "ses_…")`
/// after `session`; one whose principal acts through others `chain(0, "Agent", "planner")` after `operator`. They are numbered from
/// the nearest, because facts are a set. A token that is bound to a
/// holder has a sixth check, `check if presented_holder("key", hex:…)`: a verifier that knows of no holders does not state that
/// fact, and refuses. Ids are written as everywhere else, times are milliseconds since 1970 (Biscuit's own dates are
/// whole seconds). This is what `Biscuit::print` shows of a minted token (symbols, and what is empty, left out):
///
/// ```text
/// version: 3
/// facts: [
///     countersign(1),
///     token_id("cap_019b76da-a800-7d5c-9f0e-3b1c8a6f2e41"),
///     tenant("acme"),
///     session("ses_019b76da-9c48-7a11-8e0b-52d4f7c01b9e"),
///     principal("Agent", "etl-bot"),
///     operator("Person", "alice"),
///     operation("export"),
///     resource("Dataset", "customers"),
///     digest(hex:8a6724851f0eb2aa1c7a34261dae400fa211418ebacd4987e1727822457b7db2),
///     audience("warehouse"),
///     approval("apr_019b76da-a418-7c33-b7a9-0d1e6f5a4c28"),
///     issued_at(1767225600000),
///     expires_at(1767225660000),
///     shard(3),
///     mint_epoch(12),
///     development(false)
/// ]
/// rules: []
/// checks: [
///     check if presented_tenant("acme"),
///     check if presented_session("ses_019b76da-9c48-7a11-8e0b-52d4f7c01b9e"),
///     check if presented_audience("warehouse"),
///     check if now($now), $now < 1767225660000,
///     check if presented_digest(hex:8a6724851f0eb2aa1c7a34261dae400fa211418ebacd4987e1727822457b7db2)
/// ]
/// ```
///
/// Whoever verifies states what is about to happen as `presented_tenant`, `presented_session`, `presented_audience`,
/// `presented_digest` and `now`. The names differ from those of the claims, since a check also sees the facts of its own
/// block and would otherwise be content with what the token says of itself. Nothing newer than Datalog 3.0 is used, so
/// that the Biscuit libraries of other languages evaluate the same checks.
///
/// Shown as text, Datalog does not escape what is inside quotes; ids of entities are chosen by strangers. Read claims
/// from here, never from the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `token_id(string)`. Single use and revocation are keyed by it, never by Biscuit's revocation ids.
    pub token_id: TokenId,
    /// `exchanged(integer, string)`: what it was exchanged for, and that in turn, from the nearest on. It dies with any of them. At
    /// most [`MAX_DEPTH`].
    pub exchanged: Vec<TokenId>,
    /// `tenant(string)`, checked against `presented_tenant`.
    pub tenant: TenantId,
    /// `session(string)`, checked against `presented_session`.
    pub session: SessionId,
    /// `session_above(integer, string)`: the sessions that it was opened in, from the nearest on. It dies with any of them. At most
    /// [`MAX_DEPTH`].
    pub sessions_above: Vec<SessionId>,
    /// `principal(type, id)`: who acts.
    pub principal: EntityRef,
    /// `operator(type, id)`: the person it acts for, if any.
    pub operator: Option<EntityRef>,
    /// `chain(integer, type, id)`: through whom it acts, from the nearest on. It dies with any of them being revoked. At most
    /// [`MAX_CHAIN`].
    pub chain: Vec<EntityRef>,
    /// `operation(string)`: the Cedar action's id. 1 to [`MAX_NAME_BYTES`] bytes.
    pub operation: String,
    /// `resource(type, id)`: what is acted upon.
    pub resource: EntityRef,
    /// `digest(bytes)`: SHA-256 of the action's canonical form, checked against `presented_digest`. All of the above is
    /// in it; the facts beside it are for reading.
    pub digest: Digest,
    /// `audience(string)`: the enforcement point, checked against `presented_audience`. 1 to [`MAX_NAME_BYTES`] bytes.
    pub audience: String,
    /// `approval(string)`: the approval that this spends, if any.
    pub approval: Option<ApprovalId>,
    /// `vote(integer, bytes)`: the digests of the statements of the votes that it rests on. At most [`MAX_VOTES`].
    pub votes: Vec<Digest>,
    /// `holder(string, bytes)`: kind and thumbprint of whom it is bound to, if anybody, checked against `presented_holder`.
    pub holder: Option<Holder>,
    /// `open(boolean)`: whether its holder may append blocks that narrow it. It is sealed otherwise.
    pub open: bool,
    /// `issued_at(integer)`, in milliseconds. Informs; clocks of replicas differ, so nothing is checked against it.
    pub issued_at: Timestamp,
    /// `expires_at(integer)`, in milliseconds, checked against `now`: at this moment it has expired.
    pub expires_at: Timestamp,
    /// `shard(integer)`: where the session's state lies.
    pub shard: u32,
    /// `mint_epoch(integer)`: tokens of an earlier epoch than the store's are dead. At most 2^63 - 1.
    pub mint_epoch: u64,
    /// `development(boolean)`: minted without the guarantees of production, and refused there.
    pub development: bool,
}

/// The checks, in the order in which they are written. What fails is named by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Tenant,
    Session,
    Audience,
    Expiry,
    Digest,
    /// Of a token that is bound to a holder only.
    Holder,
}

impl Checked {
    pub(crate) const ALL: [Self; 6] =
        [Self::Tenant, Self::Session, Self::Audience, Self::Expiry, Self::Digest, Self::Holder];
}

impl Claims {
    /// Whether these are claims that a token can carry.
    pub(crate) fn check(&self) -> Result<(), MintError> {
        for (what, name) in [("operation", &self.operation), ("audience", &self.audience)] {
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                return Err(MintError::Name(what));
            }
        }
        let bounds = [
            ("chain", self.chain.len(), MAX_CHAIN),
            ("exchanged", self.exchanged.len(), MAX_DEPTH as usize),
            ("sessions_above", self.sessions_above.len(), MAX_DEPTH as usize),
            ("votes", self.votes.len(), MAX_VOTES),
        ];
        if let Some((what, _, most)) = bounds.into_iter().find(|(_, length, most)| length > most) {
            return Err(MintError::TooMany { what, most });
        }
        if self.issued_at.reached(self.expires_at) {
            return Err(MintError::Lifetime);
        }
        i64::try_from(self.mint_epoch).map(drop).map_err(|_| MintError::Epoch)
    }

    /// The authority block of these claims. Equal claims give equal bytes.
    pub(crate) fn datalog(&self) -> Result<BiscuitBuilder, MintError> {
        self.check()?;
        let mut block = BiscuitBuilder::new();
        for fact in self.facts()? {
            block = block.fact(fact).map_err(|_| MintError::Build)?;
        }
        for check in self.checks() {
            block = block.check(check).map_err(|_| MintError::Build)?;
        }
        Ok(block)
    }

    pub(crate) fn checks(&self) -> Vec<Check> {
        Checked::ALL.into_iter().filter_map(|check| self.datalog_check(check)).collect()
    }

    pub(crate) fn facts(&self) -> Result<Vec<Fact>, MintError> {
        let entity = |name, entity: &EntityRef| fact(name, &[string(entity.kind()), string(entity.id())]);
        let numbered = |name, place, id: &str| fact(name, &[int(place), string(id)]);
        let mut facts =
            vec![fact("countersign", &[int(VERSION)]), fact("token_id", &[string(&self.token_id.to_string())])];
        facts.extend((0_i64..).zip(&self.exchanged).map(|(place, id)| numbered("exchanged", place, &id.to_string())));
        facts.extend([
            fact("tenant", &[string(self.tenant.as_str())]),
            fact("session", &[string(&self.session.to_string())]),
        ]);
        let above = (0_i64..).zip(&self.sessions_above);
        facts.extend(above.map(|(place, id)| numbered("session_above", place, &id.to_string())));
        facts.push(entity("principal", &self.principal));
        facts.extend(self.operator.as_ref().map(|operator| entity("operator", operator)));
        let link =
            |(place, link): (i64, &EntityRef)| fact("chain", &[int(place), string(link.kind()), string(link.id())]);
        facts.extend((0..).zip(&self.chain).map(link));
        facts.extend([
            fact("operation", &[string(&self.operation)]),
            entity("resource", &self.resource),
            fact("digest", &[bytes(self.digest.as_bytes())]),
            fact("audience", &[string(&self.audience)]),
        ]);
        facts.extend(self.approval.map(|approval| fact("approval", &[string(&approval.to_string())])));
        let votes = (0_i64..).zip(&self.votes);
        facts.extend(votes.map(|(place, vote)| fact("vote", &[int(place), bytes(vote.as_bytes())])));
        facts.extend(
            self.holder
                .map(|holder| fact("holder", &[string(holder.kind.word()), bytes(holder.thumbprint.as_bytes())])),
        );
        facts.extend(self.open.then(|| fact("open", &[boolean(true)])));
        facts.extend([
            fact("issued_at", &[int(self.issued_at.millis())]),
            fact("expires_at", &[int(self.expires_at.millis())]),
            fact("shard", &[int(i64::from(self.shard))]),
            fact("mint_epoch", &[int(i64::try_from(self.mint_epoch).map_err(|_| MintError::Epoch)?)]),
            fact("development", &[boolean(self.development)]),
        ]);
        Ok(facts)
    }

    fn datalog_check(&self, check: Checked) -> Option<Check> {
        Some(match check {
            Checked::Tenant => check_if(presented::tenant(&self.tenant), vec![]),
            Checked::Session => check_if(presented::session(self.session), vec![]),
            Checked::Audience => check_if(presented::audience(&self.audience), vec![]),
            Checked::Digest => check_if(presented::digest(self.digest), vec![]),
            Checked::Expiry => check_before(self.expires_at),
            Checked::Holder => check_if(presented::holder(self.holder?), vec![]),
        })
    }

    /// Reads the facts of an authority block; `None` unless each claim stands there once, in its place and of its type.
    /// The caller must compare the whole block with what would be minted: checks are not read here.
    pub(crate) fn read(facts: &Facts<'_>) -> Option<Self> {
        let facts = &mut facts.iter().peekable();
        take(facts, "countersign").filter(|version| *version == [Term::Int(VERSION)])?;
        Some(Self {
            token_id: text(take(facts, "token_id")?)?.parse().ok()?,
            exchanged: take_all(facts, "exchanged", |[place, id]| Some((place, text([id])?.parse().ok()?)))?,
            tenant: TenantId::new(text(take(facts, "tenant")?)?).ok()?,
            session: text(take(facts, "session")?)?.parse().ok()?,
            sessions_above: take_all(facts, "session_above", |[place, id]| Some((place, text([id])?.parse().ok()?)))?,
            principal: entity(take(facts, "principal")?)?,
            operator: match take(facts, "operator") {
                Some(operator) => Some(entity(operator)?),
                None => None,
            },
            chain: take_all(facts, "chain", |[place, kind, id]| Some((place, entity([kind, id])?)))?,
            operation: text(take(facts, "operation")?)?.to_owned(),
            resource: entity(take(facts, "resource")?)?,
            digest: match take(facts, "digest")? {
                [Term::Bytes(bytes)] => Digest::from_bytes(bytes.try_into().ok()?),
                _ => return None,
            },
            audience: text(take(facts, "audience")?)?.to_owned(),
            approval: match take(facts, "approval") {
                Some(approval) => Some(text(approval)?.parse().ok()?),
                None => None,
            },
            votes: take_all(facts, "vote", |[place, vote]| {
                let Term::Bytes(bytes) = vote else { return None };
                Some((place, Digest::from_bytes(bytes.try_into().ok()?)))
            })?,
            holder: match take(facts, "holder") {
                Some([Term::Str(kind), Term::Bytes(thumbprint)]) => Some(Holder {
                    kind: HolderKind::of_word(kind)?,
                    thumbprint: Digest::from_bytes(thumbprint.try_into().ok()?),
                }),
                Some(_) => return None,
                None => None,
            },
            // `open(false)` is not what is written of one that is not, and the comparison of the blocks refuses it.
            open: matches!(take(facts, "open"), Some([Term::Bool(true)])),
            issued_at: Timestamp::from_millis(integer(take(facts, "issued_at")?)?),
            expires_at: Timestamp::from_millis(integer(take(facts, "expires_at")?)?),
            shard: integer(take(facts, "shard")?)?.try_into().ok()?,
            mint_epoch: integer(take(facts, "mint_epoch")?)?.try_into().ok()?,
            development: match take(facts, "development")? {
                [Term::Bool(development)] => development,
                _ => return None,
            },
        })
    }
}

/// That it is before a moment.
pub(crate) fn check_before(moment: Timestamp) -> Check {
    let before = [Op::Value(var("now")), Op::Value(int(moment.millis())), Op::Binary(Binary::LessThan)];
    check_if(pred("now", &[var("now")]), vec![Expression { ops: before.into() }])
}

pub(crate) fn check_if(predicate: Predicate, expressions: Vec<Expression>) -> Check {
    let query = Rule::new(pred::<Value>("query", &[]), vec![predicate], expressions, vec![]);
    Check { queries: vec![query], kind: CheckKind::One }
}

/// The terms of the next fact, if it is called `name` and has this many.
fn take<'a, const N: usize>(
    facts: &mut Peekable<impl Iterator<Item = Option<(&'a str, Vec<Term<'a>>)>>>,
    name: &str,
) -> Option<[Term<'a>; N]> {
    let (_, terms) = facts.next_if(|fact| fact.as_ref().is_some_and(|(called, _)| *called == name))??;
    terms.try_into().ok()
}

/// The facts that are called `name`, which number themselves from 0 on.
fn take_all<'a, const N: usize, T>(
    facts: &mut Peekable<impl Iterator<Item = Option<(&'a str, Vec<Term<'a>>)>>>,
    name: &str,
    read: impl Fn([Term<'a>; N]) -> Option<(Term<'a>, T)>,
) -> Option<Vec<T>> {
    let mut all = Vec::new();
    while let Some(terms) = take(facts, name) {
        let (place, it) = read(terms)?;
        if integer([place])? != i64::try_from(all.len()).ok()? {
            return None;
        }
        all.push(it);
    }
    Some(all)
}

const fn text<'a>([term]: [Term<'a>; 1]) -> Option<&'a str> {
    if let Term::Str(text) = term { Some(text) } else { None }
}

const fn integer([term]: [Term<'_>; 1]) -> Option<i64> {
    if let Term::Int(integer) = term { Some(integer) } else { None }
}

fn entity(terms: [Term<'_>; 2]) -> Option<EntityRef> {
    let [Term::Str(kind), Term::Str(id)] = terms else { return None };
    EntityRef::new(kind, id).ok()
}

/// What the verifier states: named here once, for the checks and for the facts that they ask for.
pub(crate) mod presented {
    use super::{Digest, Holder, Predicate, SessionId, TenantId, Timestamp, bytes, int, pred, string};

    pub(crate) fn tenant(tenant: &TenantId) -> Predicate {
        pred("presented_tenant", &[string(tenant.as_str())])
    }

    pub(crate) fn session(session: SessionId) -> Predicate {
        pred("presented_session", &[string(&session.to_string())])
    }

    pub(crate) fn audience(audience: &str) -> Predicate {
        pred("presented_audience", &[string(audience)])
    }

    pub(crate) fn digest(digest: Digest) -> Predicate {
        pred("presented_digest", &[bytes(digest.as_bytes())])
    }

    pub(crate) fn holder(holder: Holder) -> Predicate {
        pred("presented_holder", &[string(holder.kind.word()), bytes(holder.thumbprint.as_bytes())])
    }

    pub(crate) fn now(now: Timestamp) -> Predicate {
        pred("now", &[int(now.millis())])
    }
}
