//! Delegation: whoever holds a capability hands the same action on to a sub-agent, in a session below its own.
//!
//! It is an exchange. What is given up is judged as if it were redeemed, and is spent; what is handed out is decided afresh, with
//! the sub-agent as principal, and needs an approval of its own where people are asked, because they were shown another action. So
//! there is one authority before and one after (I1), and the second is allowed by what the first was and by what holds for whoever
//! has it now. It dies with the first: every redeem of it reads and binds to the rows of all that it came from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_core::approval::{Approval, Spender};
use countersign_core::capability::{Capability, CapabilityError};
use countersign_core::ledger::{Amounts, Standing};
use countersign_core::session::MAX_DEPTH;
use countersign_core::{Action, ApprovalId, Canonical, EntityRef, Holder, SessionId, TokenId};
use countersign_store::repository::{CommitExt, KeyRow, Stored};
use countersign_store::{Commit, Kernel};
use countersign_token::{KeyId, Presented, TokenError};

use super::held::Held;
use super::{Decide, Decision, Outcome, Verdict, Weighed, because, needed, shortest_ttl};
use crate::ask::require_request_id;
use crate::engine::{Acting, Call, Engine, Operation, Replayable, Scene};
use crate::error::Error;
use crate::holder::{Shows, shown_holder};
use crate::judge::{Facts, Judgement, Permit, Ruling, answer_query, answerers, judge};
use crate::keys::COMPROMISED;
use crate::ledger::{Ledgers, Taking};
use crate::lineage::{Lineage, RestingOn};
use crate::record::{DelegatedRecord, Event, TallyRecord, UseRecord};

/// A capability to hand on.
#[derive(Debug, Clone)]
pub struct Delegate {
    /// The token that is given up.
    pub token: String,
    /// What it is for, and what the other one will be for.
    pub operation: Operation,
    /// The enforcement point of both.
    pub audience: String,
    /// The sub-agent's session, opened in the capability's.
    pub session: SessionId,
    /// The approval to use for the sub-agent's action.
    pub approval: Option<ApprovalId>,
    /// How long the sub-agent's capability lives at most. It never outlives the one that is given up.
    pub ttl: Option<Duration>,
    /// What the holder signed, if the capability that is given up is bound to a key; empty otherwise.
    pub holder_proof: String,
    /// Whom the sub-agent's capability is bound to.
    pub holder: Option<Holder>,
}

/// What a capability was exchanged for step by step, the nearest first, and the keys that signed it: as long as all of it stands,
/// the capability may.
#[derive(Debug)]
pub(crate) struct Descent {
    above: Vec<Stored<Capability>>,
    keys: BTreeMap<u32, Stored<KeyRow>>,
}

impl Descent {
    /// Requires that all of it stands as it was read, beside what the commit itself requires of `keys`.
    pub(crate) fn bind(&self, commit: Commit, keys: &[&Stored<KeyRow>]) -> Commit {
        let others = self.keys.values().filter(|row| keys.iter().all(|key| key.value.id != row.value.id));
        others.fold(self.above.iter().fold(commit, CommitExt::unchanged), CommitExt::unchanged)
    }

    /// What is above, the nearest first.
    fn ids(&self) -> impl Iterator<Item = TokenId> {
        self.above.iter().map(|above| above.value.grant.id)
    }
}

/// What is given up, judged.
struct Given {
    capability: Stored<Capability>,
    /// The key that signed its token.
    key: Stored<KeyRow>,
    session: Lineage,
    descent: Descent,
    action: Action,
    canonical: Canonical,
    approval: Option<Stored<Approval>>,
    excluded: BTreeSet<EntityRef>,
    ledgers: Ledgers,
    standing: Standing,
    judgement: Judgement,
}

impl Given {
    fn facts<'a>(&'a self, scene: &'a Scene) -> Result<Facts<'a>, Error> {
        Ok(Facts {
            view: scene.view(),
            session: self.session.value.require_open(scene.now)?,
            action: &self.action,
            canonical: &self.canonical,
            approval: self.approval.as_ref().map(|approval| &approval.value),
            standing: &self.standing,
            excluded: &self.excluded,
            holder: self.capability.value.grant.holder.map(|holder| holder.kind),
            now: scene.now,
        })
    }
}

impl<K: Kernel> Engine<K> {
    /// Exchanges a capability for a sub-agent's, for whoever acts by it. A DENY or `NEEDS_APPROVAL` spends nothing.
    ///
    /// # Errors
    /// As [`Engine::redeem`] about what is given up, and as [`Engine::decide`] about what is asked for; [`Error::NotDelegable`].
    pub async fn delegate(&self, call: &Call, delegate: &Delegate) -> Result<Replayable<Decision>, Error> {
        self.require(call, require_request_id(call)).await?;
        if delegate.ttl.is_some_and(|ttl| ttl < Duration::from_secs(1)) {
            return Err(self.refuse(call, None, Error::field("ttl", "expected at least 1 second")).await);
        }
        let about = format!("token {}", countersign_core::Digest::of(delegate.token.as_bytes()));
        self.settle(call, Some(&about), |scene| async move { self.delegate_once(&scene, delegate).await }).await
    }

    async fn delegate_once(&self, scene: &Scene, delegate: &Delegate) -> Result<Replayable<Decision>, Error> {
        if let Some(decision) = self.replay::<Decision>(scene).await? {
            return self.reissue(decision).await.map(Replayable::replayed);
        }
        let given = self.given(scene, delegate).await?;
        let child = self.session_row(delegate.session).await?.ok_or(Error::SessionNotFound)?;
        if child.value.parent != Some(given.session.value.id) {
            return Err(Error::NotDelegable("it is handed on to a session that was opened in its own; open one there"));
        }
        let ask = Decide {
            session: delegate.session,
            operation: delegate.operation.clone(),
            audience: delegate.audience.clone(),
            acting: Acting::Named(child.value.principal),
            approval: delegate.approval,
            mint: true,
            holder: delegate.holder,
            open: false,
            entity_revision: None,
        };
        // What is given up has reserved what is asked for: it is free when that is decided.
        let given_up = Some(given.capability.value.grant.id);
        let (weighed, ruling) = self.weigh(scene, &ask, &given.excluded, given_up).await?;
        let context = weighed.facts(scene)?.evaluated(weighed.counted.as_ref());
        let outcome = weighed.outcome(&context);
        let mut decision = weighed.decision(scene, Verdict::Deny { because: String::new() });
        let answered = match ruling {
            Ruling::Deny { cause, errors } => {
                decision.verdict = Verdict::Deny { because: because(cause).to_owned() };
                self.answer(scene, decision, &outcome, &errors, std::convert::identity).await
            }
            Ruling::NeedsApproval(rules) => {
                let query = answer_query(&weighed.action, &weighed.excluded, None, scene.now);
                decision.verdict = Verdict::NeedsApproval {
                    would_expire_at: scene.now.plus(shortest_ttl(&rules)),
                    rules: rules.iter().map(needed).collect(),
                    persons: answerers(scene.view(), rules.iter().map(|rule| rule.id.as_str()), &query),
                };
                self.answer(scene, decision, &outcome, &[], std::convert::identity).await
            }
            Ruling::Allow(permit) => self.exchange(scene, permit, given, &weighed, &outcome, decision, delegate).await,
        }?;
        Ok(Replayable::fresh(answered))
    }

    /// Whether a capability is worth what it says, judged like a redeem of it: nobody hands on what they have not.
    async fn given(&self, scene: &Scene, delegate: &Delegate) -> Result<Given, Error> {
        let now = scene.now;
        let (token, key, capability) = self.presented(scene, &delegate.token).await?;
        let grant = &capability.value.grant;
        let session = self.session_of(scene, grant.session, &Acting::Caller, &delegate.operation.name).await?;
        let descent = self.descent(&capability.value).await?;
        let open = session.value.require_open(now)?;
        let (action, canonical) = self.action(scene, &session.value, &delegate.operation, &delegate.audience)?;
        let shows = Shows {
            token: &delegate.token,
            digest: canonical.digest(),
            audience: &delegate.audience,
            proof: &delegate.holder_proof,
        };
        let holder = shown_holder(scene, token.claims().holder, &shows)?;
        token.authorize(&Presented {
            tenant: self.tenant(),
            session: session.value.id,
            audience: &delegate.audience,
            digest: canonical.digest(),
            holder,
            now,
        })?;
        capability.value.require_minted(now)?;
        if grant.review.is_some() {
            return Err(Error::NotDelegable("the glass was broken for it, by a person who acts themselves"));
        }
        let approval = match grant.approval {
            Some(id) => Some(self.spendable(id, now).await?),
            None => None,
        };
        let mut excluded = self.excluded(scene, &session.value, &action)?;
        excluded.extend(approval.iter().flat_map(|approval| approval.value.excluded.iter().cloned()));
        let rules = scene.active.bundle.kept();
        let ledgers = self.ledgers(rules, &session.value, now).await?;
        let standing = ledgers.standing(rules, &session.value, Some(grant.id), now);
        let judgement = judge(Facts {
            view: scene.view(),
            session: open,
            action: &action,
            canonical: &canonical,
            approval: approval.as_ref().map(|approval| &approval.value),
            standing: &standing,
            excluded: &excluded,
            holder: grant.holder.map(|holder| holder.kind),
            now,
        })?;
        match judgement.ruling {
            // It is given up with the capability.
            Ruling::Allow(Permit { .. }) => {}
            Ruling::NeedsApproval(_) | Ruling::Deny { .. } => return Err(Error::PolicyDenied(judgement.determining)),
        }
        Ok(Given {
            capability,
            key,
            session,
            descent,
            action,
            canonical,
            approval,
            excluded,
            ledgers,
            standing,
            judgement,
        })
    }

    /// Spends one authority and hands out another, in one commit.
    #[allow(clippy::too_many_arguments, reason = "both sides of an exchange, as they were judged")]
    async fn exchange(
        &self,
        scene: &Scene,
        permit: Permit,
        mut given: Given,
        weighed: &Weighed,
        outcome: &Outcome<'_>,
        mut decision: Decision,
        Delegate { ttl, holder, .. }: &Delegate,
    ) -> Result<Decision, Error> {
        let Permit { .. } = permit;
        let (now, approved) = (scene.now, weighed.approved.as_ref());
        let parent = given.capability.value.grant.clone();
        let keys = self.keys.load_full();
        let held = Held { holder: *holder, open: false };
        let mut grant = self.granted(scene, outcome, approved, None, held, &keys)?;
        grant.parent = Some(parent.id);
        grant.grandparents = given.descent.ids().collect();
        grant.expires_at =
            ttl.map(|ttl| now.plus(ttl)).into_iter().fold(grant.expires_at.min(parent.expires_at), Ord::min);
        let token = keys.issue(&grant, self.tenant(), self.development)?;
        // Neither what is given up nor what is handed out is of a key that goes meanwhile.
        let key = keys.row(KeyId(grant.key))?.clone();
        decision.verdict = Verdict::Allow { capability: Some((grant.id, grant.expires_at)) };

        let lapses = [
            given.capability.value.lapses_at(now),
            given.session.value.lapses_at(now),
            given.approval.as_ref().and_then(|approval| approval.value.lapses_at(now)),
        ];
        given.capability.value.delegate(scene.caller.entity.clone(), grant.id, now)?;
        let capability = Capability::mint(grant, decision.id, decision.bundle).in_epoch(scene.epoch());
        let mut commit = self.lasting_also(self.guarded(scene, lapses), outcome.lapses(scene, approved));
        commit = commit.resting_on(&given.session).resting_on(outcome.session).unchanged(&key);
        if given.key != key {
            commit = commit.unchanged(&given.key);
        }
        commit = given.descent.bind(commit, &[&key, &given.key]).update(&given.capability).insert(&capability);
        let until = capability.grant.expires_at;
        let exchange = Taking::Exchange { given_up: parent.id, token: capability.grant.id, until };
        commit = outcome.taking(scene, &exchange, commit)?;
        // Whoever acts in the session of what is given up acts in the other one, too; that session itself does not.
        let (rules, rests) = (scene.active.bundle.kept(), scene.active.bundle.rests_on_kept(&parent.operation));
        let (own, release) = (given.ledgers.of_session(), Taking::Release(parent.id));
        commit = own.settle(rules, &Amounts::new(), &release, rests, now, commit)?;
        if let Some(approval) = approved {
            commit = self.widening(scene, weighed, approval, commit);
        }
        // One approval is good for one authority: what it was given for is handed on, and not kept.
        let mut charged = None;
        if let Some(approval) = &given.approval {
            let mut spent = approval.clone();
            spent.value.redeem(Spender::Capability(parent.id), now)?;
            charged = UseRecord::charged(&spent.value);
            commit = commit.update(&spent);
        }
        let facts = given.facts(scene)?;
        let context = facts.evaluated(given.judgement.counted.as_ref());
        let delegated = Event::Delegated(DelegatedRecord {
            capability: parent.id,
            session: parent.session,
            digest: parent.digest,
            action: given.canonical.text(),
            approval: parent.approval,
            tally: given.judgement.tally.iter().map(TallyRecord::from).collect(),
            determining: &given.judgement.determining,
            bundle: decision.bundle,
            revisions: scene.revisions(&given.session, given.approval.as_ref().map(|approval| approval.revision)),
            context: &context,
            pre_approval: charged,
            to: capability.grant.id,
            to_session: capability.grant.session,
            to_principal: &capability.grant.principal,
        });
        let commit = self.noting(scene, commit, delegated)?;
        let before = u64::try_from(commit.records.len()).unwrap_or(u64::MAX);
        let named = approved.and_then(|approval| UseRecord::minted(&approval.value));
        let event = outcome.event(&decision, &[], Some(&capability.grant)).approved(capability.grant.approval, named);
        let committed = self.commit(scene, commit, event, &decision).await?;
        // The records of what was given up come before it.
        decision.log_index = Some(committed.first_log_index.saturating_add(before));
        decision.token = Some(token);
        Ok(decision)
    }

    /// Whom what was given up excluded, what is handed out excludes as well, also when it is spent (I2).
    fn widening(&self, scene: &Scene, weighed: &Weighed, approval: &Stored<Approval>, commit: Commit) -> Commit {
        let newly = &weighed.excluded - &approval.value.excluded;
        if newly.is_empty() {
            return commit.unchanged(approval);
        }
        let mut widened = approval.clone();
        widened.value.excluded.extend(newly.iter().cloned());
        let bundle = scene.active.bundle.digest();
        let event = Event::ApprovalExcluded { approval: approval.value.id, excluded: newly, bundle };
        commit.update(&widened).record(self.record(scene, event))
    }

    /// What a capability came from, if it was handed on: each of it exchanged for the next, and not revoked since.
    pub(crate) async fn descent(&self, capability: &Capability) -> Result<Descent, Error> {
        let signed = self.keys.load_full();
        let (mut above, mut keys): (Vec<Stored<Capability>>, BTreeMap<_, _>) = (Vec::new(), BTreeMap::new());
        let (mut child, mut next) = (capability.grant.id, capability.grant.parent);
        while let Some(id) = next {
            if above.len() >= MAX_DEPTH as usize {
                return Err(CapabilityError::ParentGone.into());
            }
            let row = self.capability_row(id).await?.ok_or(CapabilityError::ParentGone)?;
            row.value.require_delegated_to(child)?;
            // Whoever had its key could have made what it was exchanged for.
            let key = KeyId(row.value.grant.key);
            let signer = signed.row(key)?;
            if signer.value.state == COMPROMISED {
                return Err(TokenError::CompromisedKey(key).into());
            }
            keys.insert(key.0, signer.clone());
            (child, next) = (id, row.value.grant.parent);
            above.push(row);
        }
        Ok(Descent { above, keys })
    }
}
