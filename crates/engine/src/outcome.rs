//! Outcomes that nobody reported in time: listed for people, and resolved by them.
//!
//! What is redeemed *runs*, until its outcome is told: by whoever redeemed, in time or late, or by a person once it is overdue.
//! That it runs is a row of its own, by when the outcome is due, so that what is overdue is found without looking at the rest.
//! Where it begins and where it stops stands here, each once.

use std::collections::BTreeSet;

use countersign_core::capability::{Capability, CapabilityError, CapabilityState, Finding};
use countersign_core::{EntityRef, Timestamp, TokenId};
use countersign_policy::AdminAction;
use countersign_store::repository::{CommitExt, Stored};
use countersign_store::revoked::RevokedExt;
use countersign_store::{Commit, Kernel};
use serde::{Deserialize, Serialize};

use crate::ask::{check_text, require_request_id};
use crate::caller;
use crate::engine::{Call, Engine, Replayable, Scene};
use crate::error::Error;
use crate::read::Paged;
use crate::record::Event;

/// The longest note, in characters.
pub const MAX_NOTE: usize = 2_000;

/// An unknown outcome to resolve.
#[derive(Debug, Clone)]
pub struct Resolve {
    /// The capability.
    pub capability: TokenId,
    /// What was found.
    pub finding: Finding,
    /// How the person knows, in their words.
    pub note: String,
}

/// A capability whose outcome nobody reported in time.
#[derive(Debug, Clone)]
pub struct Unresolved {
    /// The capability.
    pub capability: Stored<Capability>,
    /// Whether the viewer could resolve it now.
    pub may_resolve: bool,
}

/// Where a page of them ends.
type Place = (Timestamp, TokenId);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Done {
    capability: TokenId,
}

impl<K: Kernel> Engine<K> {
    /// A capability that was just redeemed runs from now on.
    pub(crate) fn starts_running(&self, capability: &Capability, commit: Commit) -> Commit {
        match capability.running() {
            Some((_, complete_by)) => commit.run(complete_by, &capability.grant.id),
            None => commit,
        }
    }

    /// A capability that runs, as it was read, does not any more.
    pub(crate) async fn stops_running(&self, ran: &Stored<Capability>, commit: Commit) -> Result<Commit, Error> {
        let Some((_, complete_by)) = ran.value.running() else { return Ok(commit) };
        let id = ran.value.grant.id;
        Ok(match self.repo.running(complete_by, id).await? {
            Some(read) => commit.stop(complete_by, &id, read),
            // An earlier release redeemed it.
            None => commit,
        })
    }

    /// What was redeemed and whose outcome nobody reported in time, what was due first before the rest, of at most `limit` that are
    /// looked at: for whoever may resolve it, is part of it, or may read the log.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn unresolved(
        &self,
        call: &Call,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Paged<Unresolved, Place>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            let (due, next) = self.repo.outcomes_due(scene.now, after, limit).await?;
            let mut items = Vec::new();
            for id in due {
                // Told meanwhile, it is listed no more.
                let Some(capability) = self.repo.capability(id).await? else { continue };
                if capability.value.state(scene.now) != CapabilityState::OutcomeUnknown {
                    continue;
                }
                let behind = self.behind(scene, &capability.value).await?;
                let resolve = resolving(&capability.value, &behind);
                let may_resolve = scene.caller.as_person().is_some_and(|person| !behind.contains(person))
                    && self.may_read(scene, resolve);
                if may_resolve || self.may_see(scene, &capability.value)? {
                    items.push(Unresolved { capability, may_resolve });
                }
            }
            Ok(Paged { items, next })
        };
        self.settle(call, None, attempt).await
    }

    /// The calling person says what came of an action whose outcome nobody reported in time: somebody who does not stand behind it,
    /// and whom the `resolveOutcome` policies permit it.
    ///
    /// # Errors
    /// [`Error::NotAPerson`]; [`Error::NotAnswering`]; [`Error::CapabilityNotFound`]; [`Error::Capability`];
    /// [`Error::AdministrationDenied`].
    pub async fn resolve(&self, call: &Call, resolve: &Resolve) -> Result<Replayable<TokenId>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, check_text("note", &resolve.note, 1, MAX_NOTE)).await?;
        let about = resolve.capability.to_string();
        self.settle(call, Some(&about), |scene| async move { self.resolve_once(&scene, resolve).await }).await
    }

    async fn resolve_once(&self, scene: &Scene, resolve: &Resolve) -> Result<Replayable<TokenId>, Error> {
        if let Some(Done { capability }) = self.replay(scene).await? {
            return Ok(Replayable::replayed(capability));
        }
        let person = scene.person()?.clone();
        scene.require_answering()?;
        let ran = self.repo.capability(resolve.capability).await?.ok_or(Error::CapabilityNotFound)?;
        let behind = self.behind(scene, &ran.value).await?;
        // Said twice, on purpose: by the kernel's policies, and here.
        if behind.contains(&person) {
            return Err(CapabilityError::OwnOutcome(person).into());
        }
        let permitted = self.administer(scene, resolving(&ran.value, &behind), "resolveOutcome")?;
        let mut resolved = ran.clone();
        resolved.value.resolve(person, resolve.finding, resolve.note.clone(), scene.now)?;
        let commit = self.stops_running(&ran, self.guarded(scene, []).update(&resolved)).await?;
        let commit = self.finished(resolved.value.grant.session, resolve.capability, commit).await?;
        let id = resolve.capability;
        let event = Event::OutcomeResolved {
            capability: id,
            finding: resolve.finding,
            note: &resolve.note,
            determining: &permitted.policies,
            bundle: scene.active.bundle.digest(),
        };
        self.commit(scene, commit, event, &Done { capability: id }).await?;
        Ok(Replayable::fresh(id))
    }

    /// The persons behind an action: of the principal, whom it acts for and through whom, and of whoever opened its session. Whoever
    /// owns the enforcement point is none of them: they are the first who could know.
    async fn behind(&self, scene: &Scene, capability: &Capability) -> Result<BTreeSet<EntityRef>, Error> {
        let grant = &capability.grant;
        let parties = [&grant.principal].into_iter().chain(&grant.operator).chain(&grant.chain);
        let mut behind = caller::excluded(scene.view(), parties);
        behind.extend(capability.behind().cloned());
        // What an earlier release redeemed does not name them. Its session may be gone before its outcome is known.
        if let Some(session) = self.repo.session(grant.session).await? {
            let links = caller::excluded(scene.view(), &session.value.chain);
            behind.extend(links.into_iter().chain(session.value.excluded).chain(session.value.owner));
        }
        Ok(behind)
    }
}

const fn resolving<'a>(capability: &'a Capability, persons: &'a BTreeSet<EntityRef>) -> AdminAction<'a> {
    let grant = &capability.grant;
    AdminAction::ResolveOutcome { principal: &grant.principal, operation: grant.operation.as_str(), persons }
}
