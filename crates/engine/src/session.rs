//! Sessions are opened and ended.

use std::time::Duration;

use countersign_core::session::{Opening, Session};
use countersign_core::{Axis, EntityRef, SessionId};
use countersign_policy::AdminAction;
use countersign_store::repository::{CommitExt, Stored};
use countersign_store::{Commit, Kernel};
use serde::{Deserialize, Serialize};

use crate::ask::{check_text, require_request_id};
use crate::caller::Caller;
use crate::engine::{Acting, Call, Engine, Identity, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::lineage::{Lineage, RestingOn};
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

/// How a session is opened, if it does not stand alone until its deadline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// The session that it is opened in: one of the caller's, for a sub-agent that the caller names.
    pub parent: Option<SessionId>,
    /// Without a heartbeat for so long it is over.
    pub heartbeat: Option<Duration>,
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
        self.open_session_on(call, opening, Terms::default()).await
    }

    /// As [`Self::open_session`]: in another session, or with a heartbeat.
    ///
    /// # Errors
    /// Also [`Error::SessionMismatch`] if the parent is not the caller's, and [`Error::SessionOver`] if it is over.
    pub async fn open_session_on(
        &self,
        call: &Call,
        opening: &OpenSession,
        terms: Terms,
    ) -> Result<Replayable<Stored<Session>>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, check_text("purpose", &opening.purpose, 1, MAX_PURPOSE)).await?;
        let max = self.limits.max_session_ttl;
        let ttl = opening.ttl.unwrap_or(self.limits.session_ttl);
        for (field, asked) in [("ttl", Some(ttl)), ("heartbeat", terms.heartbeat)] {
            if asked.is_some_and(|asked| asked < Duration::from_secs(1) || asked > max) {
                let range = Error::field(field, format!("expected 1 to {} seconds", max.as_secs()));
                return Err(self.refuse(call, None, range).await);
            }
        }
        self.settle(call, None, |scene| async move { self.open_once(&scene, opening, terms, ttl).await }).await
    }

    async fn open_once(
        &self,
        scene: &Scene,
        opening: &OpenSession,
        terms: Terms,
        ttl: Duration,
    ) -> Result<Replayable<Stored<Session>>, Error> {
        if let Some(Done { session }) = self.replay(scene).await? {
            return Ok(Replayable::replayed(self.lineage(session).await?.stored()));
        }
        let parent = match terms.parent {
            Some(parent) => Some(self.parent(scene, parent, &opening.acting).await?),
            None => None,
        };
        let above = parent.as_ref().map(|parent| parent.value.require_open(scene.now)).transpose()?;
        let above_operator = above.and_then(|above| above.session().hands_down());
        let named = opening.operator.as_ref();
        let Identity { principal, operator, chain, owner, claimed } =
            self.identity(scene, &opening.acting, named.or(above_operator), "openSession")?;
        let operator = match (operator, named) {
            (Some(own), Some(named)) if own != *named => return Err(Error::SessionMismatch("operator")),
            (Some(own), _) => Some(own),
            (None, Some(named)) => Some(self.named_operator(scene, &opening.acting, named)?),
            (None, None) => None,
        };
        // A child's are its parent's, whoever else a credential or the caller names.
        if above.is_some() && operator.is_some() && operator.as_ref() != above_operator {
            return Err(Error::SessionMismatch("operator"));
        }
        let open = AdminAction::OpenSession {
            principal: &principal,
            purpose: &opening.purpose,
            operator: operator.as_ref().or(above_operator),
            seconds: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
            depth: above.map_or(0, |above| above.session().depth().saturating_add(1)),
        };
        let permitted = self.administer(scene, open, "openSession")?;
        let mut excluded = scene.caller.behind(scene.view());
        excluded.extend(owner.clone());
        let clean = opening.clean;
        let opening = Opening {
            principal,
            operator,
            chain: chain.clone(),
            purpose: opening.purpose.clone(),
            opened_by: scene.caller.entity.clone(),
            excluded,
            owner,
            claimed,
            clean,
        };
        let (id, deadline) = (SessionId::generate(), scene.now.plus(ttl));
        let session = match above {
            Some(above) => Session::open_in(id, opening, above, deadline)?,
            None => Session::open(id, opening, scene.now, deadline),
        };
        if !chain.is_empty() && chain != session.chain {
            return Err(Error::SessionMismatch("delegation chain"));
        }
        countersign_core::action::check_chain(&session.principal, session.operator.as_ref(), &session.chain)?;
        let session = session.with_heartbeat(terms.heartbeat).in_epoch(scene.epoch());
        let event = Event::SessionOpened {
            session: &session,
            determining: &permitted.policies,
            bundle: scene.active.bundle.digest(),
        };
        let lapses = [above.and_then(|above| above.session().lapses_at(scene.now))];
        let mut commit = self.guarded(scene, lapses).insert(&session);
        if let Some(parent) = &parent {
            commit = commit.resting_on(parent);
        }
        if clean {
            commit = self.start_clean(scene, &session, commit).await?;
        }
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

    /// The session that a sub-agent's is opened in: one whose principal the caller is. It names whom it hands on to, and is trusted
    /// to by `actFor`; nobody opens a session in another's, and nobody one for themselves in their own.
    async fn parent(&self, scene: &Scene, id: SessionId, acting: &Acting) -> Result<Lineage, Error> {
        let parent = self.session_of(scene, id, &Acting::Caller, "openSession").await?;
        let named = match acting {
            Acting::Caller => None,
            Acting::Named(principal) => Some(principal.clone()),
            Acting::Credential(credential) => Some(Caller::resolve(credential, scene.view())?.entity),
        };
        let sub_agent = |named: &EntityRef| *named != parent.value.principal && named.kind() != "Person";
        if !named.as_ref().is_some_and(sub_agent) {
            return Err(Error::field(
                "principal",
                "a session in another is for a sub-agent: name an agent or service other than yourself by `principal` or \
                 `principal_credential`",
            ));
        }
        Ok(parent)
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
    /// this returns, no redeem in it or in any session below it commits (I6): every redeem guards the rows of its session and of all
    /// above that.
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
                return Ok(Replayable::replayed(self.lineage(session).await?.stored()));
            }
            let mut session = self.lineage(id).await?.stored();
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
            let session = self.lineage(id).await?.stored();
            let may = is_party(scene, &session.value) || self.may_read_log(scene)?;
            if may { Ok(session) } else { Err(Error::SessionNotFound) }
        };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    /// Whether the caller may read everything that happened. To be asked where nothing else lets them look.
    pub(crate) fn may_read_log(&self, scene: &Scene) -> Result<bool, Error> {
        let tenant = tenant_entity(self.tenant())?;
        let read = AdminAction::ReadLog { tenant: &tenant };
        // It is the same for everything in a list.
        let answer = scene.reads_log.get_or_init(|| self.may_administer(scene, read));
        Ok(scene.looks_by(read.name(), answer))
    }
}

/// The principal, the person it acts for, and whoever opened the session.
pub(crate) fn is_party(scene: &Scene, session: &Session) -> bool {
    scene.caller.is_among(session.operator.as_ref(), [&session.principal, &session.opened_by])
}
