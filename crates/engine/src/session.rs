//! Sessions are opened and ended.

use std::time::Duration;

use countersign_core::session::{Opening, Session};
use countersign_core::{Axis, EntityRef, SessionId};
use countersign_policy::AdminAction;
use countersign_store::Kernel;
use countersign_store::repository::{CommitExt, Stored};
use serde::{Deserialize, Serialize};

use crate::ask::{check_text, require_request_id};
use crate::engine::{Acting, Call, Engine, Identity, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::record::Event;

/// The longest purpose, in characters.
pub const MAX_PURPOSE: usize = 500;

/// A session to open.
#[derive(Debug, Clone)]
pub struct OpenSession {
    /// What it is for.
    pub purpose: String,
    /// How long it lasts at most; `None` means the configured time.
    pub ttl: Option<Duration>,
    /// Who will act.
    pub acting: Acting,
    /// The person that a named principal acts for. A credential says so itself.
    pub operator: Option<EntityRef>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Done {
    session: SessionId,
}

impl<K: Kernel> Engine<K> {
    /// Opens a session, if the `openSession` policies permit it.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], [`Error::ActForDenied`], [`Error::InvalidField`].
    pub async fn open_session(&self, call: &Call, opening: &OpenSession) -> Result<Replayable<Stored<Session>>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, check_text("purpose", &opening.purpose, 1, MAX_PURPOSE)).await?;
        let ttl = opening.ttl.unwrap_or(self.limits.session_ttl);
        let max = self.limits.max_session_ttl;
        if ttl < Duration::from_secs(1) || ttl > max {
            let range = Error::field("ttl", format!("expected 1 to {} seconds", max.as_secs()));
            return Err(self.refuse(call, None, range).await);
        }
        self.settle(call, None, |scene| async move { self.open_once(&scene, opening, ttl).await }).await
    }

    async fn open_once(
        &self,
        scene: &Scene,
        opening: &OpenSession,
        ttl: Duration,
    ) -> Result<Replayable<Stored<Session>>, Error> {
        if let Some(Done { session }) = self.replay(scene).await? {
            let session = self.session_row(session).await?.ok_or(Error::SessionNotFound)?;
            return Ok(Replayable::replayed(session));
        }
        let named = opening.operator.as_ref();
        let Identity { principal, operator, chain, owner, claimed } =
            self.identity(scene, &opening.acting, named, "openSession")?;
        let operator = match (operator, named) {
            (Some(own), Some(named)) if own != *named => return Err(Error::SessionMismatch("operator")),
            (Some(own), _) => Some(own),
            (None, Some(named)) => Some(self.named_operator(scene, &opening.acting, named)?),
            (None, None) => None,
        };
        countersign_core::action::check_chain(&principal, operator.as_ref(), &chain)?;
        let open = AdminAction::OpenSession {
            principal: &principal,
            purpose: &opening.purpose,
            operator: operator.as_ref(),
            seconds: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
        };
        let permitted = self.administer(scene, open, "openSession")?;
        let mut excluded = scene.caller.behind(scene.view());
        excluded.extend(owner.clone());
        let opening = Opening {
            principal,
            operator,
            chain,
            purpose: opening.purpose.clone(),
            opened_by: scene.caller.entity.clone(),
            excluded,
            owner,
            claimed,
        };
        let session =
            Session::open(SessionId::generate(), opening, scene.now, scene.now.plus(ttl)).in_epoch(scene.epoch());
        let event = Event::SessionOpened {
            session: &session,
            determining: &permitted.policies,
            bundle: scene.active.bundle.digest(),
        };
        let commit = self.guarded(scene, []).insert(&session);
        let committed = self.commit(scene, commit, event, &Done { session: session.id }).await?;
        Ok(Replayable::fresh(Stored { revision: committed.revision, value: session }))
    }

    /// An operator is named only for a principal that is named too: nobody gives themselves another's authority.
    fn named_operator(&self, scene: &Scene, acting: &Acting, operator: &EntityRef) -> Result<EntityRef, Error> {
        match acting {
            Acting::Named(principal) if *principal != scene.caller.entity => {}
            Acting::Named(_) | Acting::Caller | Acting::Credential(_) => {
                return Err(Error::field(
                    "operator",
                    "only for a named `principal`; a credential names its operator by `act`",
                ));
            }
        }
        if operator.kind() != "Person" || !scene.view().contains(operator) {
            return Err(Error::field("operator", "expected a `Person` that is known"));
        }
        Ok(operator.clone())
    }

    /// Ends a session: for its principal, its operator, whoever opened it, and whom the `endSession` policies permit. Once
    /// this returns, no redeem in it commits (I6): every redeem guards the session's row.
    ///
    /// # Errors
    /// [`Error::SessionNotFound`], [`Error::AdministrationDenied`], [`Error::SessionOver`].
    pub async fn end_session(&self, call: &Call, id: SessionId) -> Result<Replayable<Stored<Session>>, Error> {
        self.end_session_for(call, id, None).await
    }

    /// As [`Self::end_session`], with a reason to be recorded.
    pub(crate) async fn end_session_for(
        &self,
        call: &Call,
        id: SessionId,
        reason: Option<&str>,
    ) -> Result<Replayable<Stored<Session>>, Error> {
        self.require(call, require_request_id(call)).await?;
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(Done { session }) = self.replay(scene).await? {
                let session = self.session_row(session).await?.ok_or(Error::SessionNotFound)?;
                return Ok(Replayable::replayed(session));
            }
            let mut session = self.session_row(id).await?.ok_or(Error::SessionNotFound)?;
            let mut determining = Vec::new();
            if !is_party(scene, &session.value) {
                let end = AdminAction::EndSession { principal: &session.value.principal };
                determining = self.administer(scene, end, "endSession")?.policies;
            }
            let lapses = session.value.lapses_at(scene.now);
            session.value.end(scene.caller.entity.clone(), scene.now)?;
            let mut commit = self.lasting([lapses]).update(&session);
            if let Some(reason) = reason {
                let (axis, bundle) = (&Axis::Session(id), scene.active.bundle.digest());
                let why = Event::Revocation { axis, reason, epoch: None, determining: &determining, bundle };
                commit = self.noting(scene, commit, why)?;
            }
            let event = Event::SessionEnded { session: id };
            let committed = self.commit(scene, commit, event, &Done { session: id }).await?;
            // Nobody may be watching.
            let _watchers = self.ended.send(id);
            Ok(Replayable::fresh(Stored { revision: committed.revision, value: session.value }))
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    /// One session, for whoever is part of it or may read the log.
    ///
    /// # Errors
    /// [`Error::SessionNotFound`], also for everybody else.
    pub async fn session(&self, call: &Call, id: SessionId) -> Result<Stored<Session>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            let session = self.session_row(id).await?.ok_or(Error::SessionNotFound)?;
            let may = is_party(scene, &session.value) || self.may_read_log(scene)?;
            if may { Ok(session) } else { Err(Error::SessionNotFound) }
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    /// Whether the caller may read everything that happened.
    pub(crate) fn may_read_log(&self, scene: &Scene) -> Result<bool, Error> {
        let tenant = tenant_entity(self.tenant())?;
        Ok(self.may_administer(scene, AdminAction::ReadLog { tenant: &tenant }).permitted)
    }
}

/// The principal, the person it acts for, and whoever opened the session.
pub(crate) fn is_party(scene: &Scene, session: &Session) -> bool {
    scene.caller.is_among(session.operator.as_ref(), [&session.principal, &session.opened_by])
}
