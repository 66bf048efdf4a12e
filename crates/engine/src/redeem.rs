//! Redeem: the one moment at which authority is spent.

use countersign_core::approval::{Approval, ApprovalState, Spender};
use countersign_core::capability::{Capability, CapabilityError};
use countersign_core::{Digest, EntityRef, SessionId, Timestamp, TokenId};
use countersign_policy::AdminAction;
use countersign_store::Kernel;
use countersign_store::repository::{CommitExt, KeyRow, Stored};
use countersign_token::{Limits, Presented, Verified};
use serde::{Deserialize, Serialize};

use crate::ask::require_request_id;
use crate::engine::{Call, Engine, Operation, Replayable, Scene, enforcement_point, tenant_entity};
use crate::error::Error;
use crate::holder::{Shows, shown_holder};
use crate::judge::{Facts, Judgement, Permit, Ruling, judge, judge_lifting};
use crate::keys::claims;
use crate::ledger::Taking;
use crate::lineage::RestingOn;
use crate::record::{Event, TallyRecord, UseRecord};

/// A capability to spend, and what is about to be executed.
#[derive(Debug, Clone)]
pub struct Redeem {
    /// The token.
    pub token: String,
    /// What is about to be executed.
    pub operation: Operation,
    /// The enforcement point that executes it.
    pub audience: String,
    /// What the holder signed, if the capability is bound to a key; empty otherwise.
    pub holder_proof: String,
}

/// The receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The capability.
    pub capability: TokenId,
    /// The digest, as recomputed.
    pub digest: Digest,
    /// The session.
    pub session: SessionId,
    /// Who acts.
    pub principal: EntityRef,
    /// When it was spent.
    pub redeemed_at: Timestamp,
    /// By when the outcome is due.
    pub complete_by: Timestamp,
    /// The bundle that allowed it.
    pub bundle: Digest,
    /// Where it stands in the log; absent in a stored receipt.
    #[serde(skip)]
    pub log_index: Option<u64>,
}

impl<K: Kernel> Engine<K> {
    /// Spends a capability for exactly what is presented.
    ///
    /// # Errors
    /// [`Error`]: nothing was spent then, unless it is [`Error::OutcomeUnknown`].
    pub async fn redeem(&self, call: &Call, redeem: &Redeem) -> Result<Replayable<Receipt>, Error> {
        self.require(call, require_request_id(call)).await?;
        // A record names a token by its hash: what is refused may be a genuine one.
        let about = format!("token {}", Digest::of(redeem.token.as_bytes()));
        self.settle(call, Some(&about), |scene| async move { self.redeem_once(&scene, redeem).await }).await
    }

    async fn redeem_once(&self, scene: &Scene, redeem: &Redeem) -> Result<Replayable<Receipt>, Error> {
        if let Some(receipt) = self.replay::<Receipt>(scene).await? {
            return Ok(Replayable::replayed(receipt));
        }
        let now = scene.now;
        let (token, key, mut capability) = self.presented(scene, &redeem.token).await?;
        let point = enforcement_point(&redeem.audience)?;
        let spend = AdminAction::Redeem {
            enforcement_point: &point,
            operation: &redeem.operation.name,
            issuer: Some(&scene.caller.issuer),
        };
        self.administer(scene, spend, "redeem")?;

        let session = self.lineage(capability.value.grant.session).await?;
        let descent = self.descent(&capability.value).await?;
        let open = session.value.require_open(now)?;
        let (action, canonical) = self.action(scene, &session.value, &redeem.operation, &redeem.audience)?;
        let shows = Shows {
            token: &redeem.token,
            digest: canonical.digest(),
            audience: &redeem.audience,
            proof: &redeem.holder_proof,
        };
        let holder = shown_holder(scene, token.claims().holder, &shows)?;
        token.authorize(&Presented {
            tenant: self.tenant(),
            session: session.value.id,
            audience: &redeem.audience,
            digest: canonical.digest(),
            holder,
            now,
        })?;
        capability.value.require_minted(now)?;

        let approval = match capability.value.grant.approval {
            Some(id) => Some(self.spendable(id, now).await?),
            None => None,
        };
        let review = match capability.value.grant.review {
            Some(id) => Some(self.repo.review(id).await?.ok_or_else(|| Error::Internal(format!("{id} is missing")))?),
            None => None,
        };
        let mut excluded = self.excluded(scene, &session.value, &action)?;
        excluded.extend(approval.iter().flat_map(|approval| approval.value.excluded.iter().cloned()));
        excluded.extend(review.iter().flat_map(|review| review.value.excluded.iter().cloned()));
        let (bundle, id) = (&scene.active.bundle, capability.value.grant.id);
        let _turn = self.turn(scene.view(), &session.value, &redeem.operation).await;
        let ledgers = self.ledgers(bundle.kept(), &session.value, now).await?;
        let standing = ledgers.standing(bundle.kept(), &session.value, Some(id), now);
        let facts = Facts {
            standing: &standing,
            view: scene.view(),
            session: open,
            action: &action,
            canonical: &canonical,
            approval: approval.as_ref().map(|approval| &approval.value),
            excluded: &excluded,
            holder: holder.map(|holder| holder.kind),
            now,
        };
        let judgement = match &review {
            // What was lifted never changes, so the review's row is not guarded; who may lift it is asked again.
            Some(review) => {
                judge_lifting(facts, &review.value.lifted(), &tenant_entity(self.tenant())?)?
                    .ok_or_else(|| Error::PolicyDenied(vec!["no `breakGlass` policy permits it".to_owned()]))?
                    .0
            }
            None => judge(facts)?,
        };
        let Judgement { ruling, determining, counted, tally } = judgement;
        let Ruling::Allow(permit) = ruling else { return Err(Error::PolicyDenied(determining)) };

        let Permit { .. } = permit;
        let complete_by = now.plus(self.limits.completion_ttl);
        let lapses = [
            capability.value.lapses_at(now),
            session.value.lapses_at(now),
            approval.as_ref().and_then(|approval| approval.value.lapses_at(now)),
        ];
        capability.value.redeem(scene.caller.entity.clone(), now, complete_by)?;
        let named = session.value.excluded.iter().chain(&session.value.owner).cloned();
        capability.value = capability.value.with_behind(named);
        let mut commit = self.guarded(scene, lapses).resting_on(&session).unchanged(&key).update(&capability);
        commit = self.starts_running(&capability.value, descent.bind(commit, &[&key]));
        let taking = Taking::Redeem(id, scene.view().labels_of(&action.resource));
        let rests = approval.is_some() || bundle.rests_on_kept(&action.operation);
        let amounts = bundle.kept().amounts(&action.operation, &action.input);
        commit = ledgers.settle(bundle.kept(), &amounts, &taking, rests, now, commit)?;
        let mut charged = None;
        if let Some(approval) = &approval {
            let mut spent = approval.clone();
            spent.value.redeem(Spender::Capability(capability.value.grant.id), now)?;
            charged = UseRecord::charged(&spent.value);
            commit = commit.update(&spent);
        }
        let mut receipt = Receipt {
            capability: capability.value.grant.id,
            digest: canonical.digest(),
            session: session.value.id,
            principal: action.principal.clone(),
            redeemed_at: now,
            complete_by,
            bundle: scene.active.bundle.digest(),
            log_index: None,
        };
        let event = Event::Redeem {
            capability: receipt.capability,
            session: receipt.session,
            digest: receipt.digest,
            action: canonical.text(),
            approval: approval.as_ref().map(|approval| approval.value.id),
            review: capability.value.grant.review,
            tally: tally.iter().map(TallyRecord::from).collect(),
            determining: &determining,
            bundle: receipt.bundle,
            revisions: scene.revisions(&session, approval.as_ref().map(|approval| approval.revision)),
            context: &facts.evaluated(counted.as_ref()),
            complete_by,
            pre_approval: charged,
            holder,
        };
        let committed = self.commit(scene, commit, event, &receipt).await?;
        receipt.log_index = Some(committed.first_log_index);
        Ok(Replayable::fresh(receipt))
    }

    /// A genuine token, the row of its key, and of the capability that it is of: it says what was minted under its id, and by the key
    /// that signed that. Whoever got hold of an older copy of the store could sign others.
    pub(crate) async fn presented(
        &self,
        scene: &Scene,
        text: &str,
    ) -> Result<(Verified, Stored<KeyRow>, Stored<Capability>), Error> {
        let (token, key) = self.genuine(scene, text)?;
        let capability = self.capability_row(token.claims().token_id).await?.ok_or(Error::CapabilityNotFound)?;
        let grant = &capability.value.grant;
        if token.key().0 != grant.key || *token.claims() != claims(grant, self.tenant(), self.development) {
            return Err(Error::TokenDead("it is not what was minted under its id; decide again"));
        }
        Ok((token, key, capability))
    }

    /// A token that this tenant's keys signed, of this kind of server and this mint epoch, and the row of its key.
    fn genuine(&self, scene: &Scene, text: &str) -> Result<(Verified, Stored<KeyRow>), Error> {
        let keys = self.keys.load();
        let token = countersign_token::verify(text, keys.ring(), scene.now, &Limits::default())?;
        let claims = token.claims();
        if claims.tenant != *self.tenant() {
            return Err(countersign_token::TokenError::Tenant.into());
        }
        if claims.development != self.development {
            return Err(Error::TokenDead("it was minted for development, or this server is and it was not"));
        }
        if claims.mint_epoch != scene.active.row.value.mint_epoch {
            return Err(Error::TokenDead("it is of another mint epoch; decide again"));
        }
        let key = keys.row(token.key())?.clone();
        // Whatever a retired key signed that outlives it was not minted here.
        if key.value.verifies_until.is_some_and(|until| claims.expires_at > until) {
            return Err(Error::TokenDead("its key was retired before it can have been minted; decide again"));
        }
        Ok((token, key))
    }

    /// The approval that a capability rests on, still approved.
    pub(crate) async fn spendable(
        &self,
        id: countersign_core::ApprovalId,
        now: Timestamp,
    ) -> Result<Stored<Approval>, Error> {
        let approval = self.approval_row(id).await?.ok_or(Error::ApprovalNotFound)?;
        match approval.value.state(now) {
            ApprovalState::Approved => Ok(approval),
            // The capability was not, but there is no use left for it.
            over @ ApprovalState::Redeemed { .. } if approval.value.pre_approval().is_some() => {
                Err(approval.value.over(&over).into())
            }
            ApprovalState::Redeemed { .. } => Err(CapabilityError::AlreadyRedeemed.into()),
            over @ (ApprovalState::Pending
            | ApprovalState::Denied { .. }
            | ApprovalState::Expired
            | ApprovalState::Cancelled { .. }
            | ApprovalState::Void { .. }) => Err(Error::ApprovalGone(over.word())),
        }
    }
}
