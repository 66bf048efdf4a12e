//! Sessions are opened and ended.

use std::time::Duration;

use countersign_core::session::{Opening, Session};
use countersign_core::{EntityRef, SessionId};
use countersign_policy::AdminAction;
use countersign_store::repository::{CommitExt, Stored};
use countersign_store::{Commit, Kernel};
use serde::{Deserialize, Serialize};

use crate::ask::{check_text, require_request_id};
use crate::engine::{Acting, Call, Engine, Identity, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::record::Event;

/// The longest purpose, in characters.
pub const MAX_PURPOSE: usize = 500;

/// A session to open.
#[derive(Debug, Clone, Default)]
pub struct OpenSession {
    /// What it is for.
    pub purpose: String,
    /// How long it lasts at most; `None` means the configured time.
    pub ttl: Option<Duration>,
    /// Who will act.
    pub acting: Acting,
    /// The person that a named principal acts for. A credential says so itself.
    pub operator: Option<EntityRef>,
    /// Whether labels count only that are left from now on.
    pub clean: bool,
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
            let session = self.repo.session(session).await?.ok_or(Error::SessionNotFound)?;
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
        let clean = opening.clean;
        let opening = Opening {
            principal,
            operator,
            chain,
            purpose: opening.purpose.clone(),
            opened_by: scene.caller.entity.clone(),
            excluded,
            owner,
            claimed,
            clean,
        };
        let session = Session::open(SessionId::generate(), opening, scene.now, scene.now.plus(ttl));
        let mut commit = self.guarded(scene, []).insert(&session);
        if clean {
            commit = self.start_clean(scene, &session, commit).await?;
        }
        let event = Event::SessionOpened {
            session: &session,
            determining: &permitted.policies,
            bundle: scene.active.bundle.digest(),
        };
        let committed = self.commit(scene, commit, event, &Done { session: session.id }).await?;
        Ok(Replayable::fresh(Stored { revision: committed.revision, value: session }))
    }

    /// Adds to the commit that opens a session that the labels of before do not count in it, if the `startClean` policies permit
    /// that.
    async fn start_clean(&self, scene: &Scene, session: &Session, commit: Commit) -> Result<Commit, Error> {
        let rules = scene.active.bundle.kept();
        let ledgers = self.ledgers(rules, session, scene.now).await?;
        // As they would count if it were not clean.
        let mut before = session.clone();
        before.clean = false;
        let standing = ledgers.standing(rules, &before, None, scene.now);
        let seconds = u32::try_from(session.deadline.since(session.opened_at).as_secs()).unwrap_or(u32::MAX);
        let start = AdminAction::StartClean {
            principal: &session.principal,
            purpose: &session.purpose,
            labels: &standing.labels,
            operator: session.operator.as_ref(),
            seconds,
        };
        self.administer(scene, start, "startClean")?;
        Ok(ledgers.start_clean(scene.now, session.deadline, commit))
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
        self.require(call, require_request_id(call)).await?;
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(Done { session }) = self.replay(scene).await? {
                let session = self.repo.session(session).await?.ok_or(Error::SessionNotFound)?;
                return Ok(Replayable::replayed(session));
            }
            let mut session = self.repo.session(id).await?.ok_or(Error::SessionNotFound)?;
            if !is_party(scene, &session.value) {
                let end = AdminAction::EndSession { principal: &session.value.principal };
                self.administer(scene, end, "endSession")?;
            }
            let lapses = session.value.lapses_at(scene.now);
            session.value.end(scene.caller.entity.clone(), scene.now)?;
            let commit = self.lasting([lapses]).update(&session);
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
            let session = self.repo.session(id).await?.ok_or(Error::SessionNotFound)?;
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
