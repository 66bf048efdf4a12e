//! What ends a capability: its outcome, or its revocation.

use countersign_core::capability::{Capability, CapabilityState, Outcome};
use countersign_core::{Digest, TokenId};
use countersign_policy::AdminAction;
use countersign_store::Kernel;
use countersign_store::repository::{CommitExt, Stored};
use serde::{Deserialize, Serialize};

use crate::ask::{check_text, require_request_id};
use crate::engine::{Call, Engine, Replayable, Scene};
use crate::error::Error;
use crate::record::Event;

/// The longest reason, in characters.
pub const MAX_REASON: usize = 500;

/// An outcome to report.
#[derive(Debug, Clone, Copy)]
pub struct Complete {
    /// The capability.
    pub capability: TokenId,
    /// What came of it.
    pub outcome: Outcome,
    /// The hash of the result.
    pub result: Option<Digest>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Done {
    capability: TokenId,
}

impl<K: Kernel> Engine<K> {
    /// Reports the outcome: for whoever redeemed.
    ///
    /// # Errors
    /// [`Error::Capability`], [`Error::CapabilityNotFound`].
    pub async fn complete(&self, call: &Call, report: Complete) -> Result<Replayable<TokenId>, Error> {
        self.require(call, require_request_id(call)).await?;
        let id = report.capability;
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(Done { capability }) = self.replay(scene).await? {
                return Ok(Replayable::replayed(capability));
            }
            let mut capability = self.capability_row(id).await?.ok_or(Error::CapabilityNotFound)?;
            let late = capability.value.state(scene.now) == CapabilityState::OutcomeUnknown;
            let ran = capability.clone();
            let lapses = capability.value.lapses_at(scene.now);
            capability.value.complete(&scene.caller.entity, report.outcome, report.result, scene.now)?;
            let Complete { outcome, result, .. } = report;
            let event = Event::Complete { capability: id, outcome, result, late };
            let commit = self.stops_running(&ran, self.lasting([lapses]).update(&capability)).await?;
            let commit = self.finished(capability.value.grant.session, id, commit).await?;
            self.commit(scene, commit, event, &Done { capability: id }).await?;
            Ok(Replayable::fresh(id))
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    /// Makes a capability worthless: for its principal, its operator, and whom the `revoke` policies permit.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], [`Error::Capability`], [`Error::CapabilityNotFound`].
    pub async fn revoke(&self, call: &Call, id: TokenId, reason: &str) -> Result<Replayable<TokenId>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, check_text("reason", reason, 1, MAX_REASON)).await?;
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(Done { capability }) = self.replay(scene).await? {
                return Ok(Replayable::replayed(capability));
            }
            let mut capability = self.capability_row(id).await?.ok_or(Error::CapabilityNotFound)?;
            let grant = &capability.value.grant;
            // Giving up what is one's own needs no permission: it can only take authority away.
            if !scene.caller.is_among(grant.operator.as_ref(), [&grant.principal]) {
                self.administer(scene, AdminAction::Revoke { principal: &grant.principal }, "revoke")?;
            }
            let lapses = capability.value.lapses_at(scene.now);
            capability.value.revoke(scene.caller.entity.clone(), reason.to_owned(), scene.now)?;
            let commit = self.lasting([lapses]).update(&capability);
            let commit = self.released(scene, &capability.value.grant, commit).await?;
            let event = Event::Revoke { capability: id, reason };
            self.commit(scene, commit, event, &Done { capability: id }).await?;
            Ok(Replayable::fresh(id))
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    /// One capability, for whoever is part of it or may read the log.
    ///
    /// # Errors
    /// [`Error::CapabilityNotFound`], also for everybody else.
    pub async fn capability(&self, call: &Call, id: TokenId) -> Result<Stored<Capability>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            let capability = self.capability_row(id).await?.ok_or(Error::CapabilityNotFound)?;
            if self.may_see(scene, &capability.value)? { Ok(capability) } else { Err(Error::CapabilityNotFound) }
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    /// One capability, for a caller that has just changed it.
    ///
    /// # Errors
    /// [`Error::CapabilityNotFound`].
    pub async fn peek(&self, id: TokenId) -> Result<Stored<Capability>, Error> {
        self.capability_row(id).await?.ok_or(Error::CapabilityNotFound)
    }

    pub(crate) fn may_see(&self, scene: &Scene, capability: &Capability) -> Result<bool, Error> {
        let grant = &capability.grant;
        let redeemed = capability.redeemer() == Some(&scene.caller.entity);
        let party = scene.caller.is_among(grant.operator.as_ref(), [&grant.principal]);
        Ok(party || redeemed || self.may_read_log(scene)?)
    }
}
