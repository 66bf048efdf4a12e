//! One tenant's engine: what the use cases share.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use countersign_audit::{NoteSigner, SignedCheckpoint};
use countersign_core::claimed::groups_at;
use countersign_core::restraint::AskingBudget;
use countersign_core::review::GlassBudget;
use countersign_core::session::Session;
use countersign_core::{
    Action, Canonical, Claimed, Clock, Digest, EntityRef, Record, Revocations, SessionId, TenantId, Timestamp,
};
use countersign_policy::{AdminAction, AdminQuery, Answer, Bundle, Entities, Reads, View};
use countersign_store::repository::{Repository, Stored, TenantRow};
use countersign_store::{Kernel, Revision};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::access::{Accesses, Looked};
use crate::admission::Admission;
use crate::caller::{self, Caller};
use crate::credential::Credential;
use crate::error::Error;
use crate::keys::Keys;
use crate::ledger::Turns;
use crate::lineage::Lineage;
use crate::outbox::{Outbox, SinkSettings};
use crate::pending::Pending;
use crate::refusal::Refusals;
use crate::revocations::Revoking;
use crate::shadow::Shadow;
use crate::sights::Sights;
use crate::tidy::Tidied;
use crate::time::Time;

/// How often a use case starts over because what it read was changed by others.
const MAX_ATTEMPTS: usize = 64;
/// After so many it is looked whether what decides here is what the store says.
const CATCH_UP_AFTER: usize = 16;

/// What bounds the use cases.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a capability lives.
    pub token_ttl: Duration,
    /// How long an enforcement point has to report the outcome.
    pub completion_ttl: Duration,
    /// How long a session lasts when nothing else is asked for.
    pub session_ttl: Duration,
    /// How long a session may last.
    pub max_session_ttl: Duration,
    /// How much one principal may ask people.
    pub asking: AskingBudget,
    /// How often one person may break the glass.
    pub glass: GlassBudget,
    /// How long what is over is kept at least: an answer is given again under its request id for a day, and may tell of it.
    pub kept: Duration,
    /// How long each record of the log is kept at least. `None`: for ever, and nobody drops one.
    pub keep_records: Option<Duration>,
    /// Whether the log is published: then no record is dropped before it was.
    pub publishes: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            token_ttl: Duration::from_secs(300),
            completion_ttl: Duration::from_secs(900),
            session_ttl: Duration::from_secs(3_600),
            max_session_ttl: Duration::from_secs(86_400),
            asking: AskingBudget::default(),
            glass: GlassBudget::default(),
            kept: Duration::from_secs(25 * 60 * 60),
            keep_records: None,
            publishes: false,
        }
    }
}

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// The tenant.
    pub tenant: TenantId,
    /// What bounds it.
    pub limits: Limits,
    /// Its signing keys; the one with the highest id becomes active in a new store.
    pub signing: Vec<countersign_token::SigningKey>,
    /// Salts commitments to sensitive inputs.
    pub commitment: Zeroizing<[u8; 32]>,
    /// Signs the heads of the log; its name is the log's origin.
    pub log: NoteSigner,
    /// Whether tokens are stamped as development.
    pub development: bool,
    /// What bundles must satisfy to become active.
    pub admission: Arc<dyn Admission>,
    /// Where notifications go.
    pub sinks: Vec<SinkSettings>,
}

/// One tenant's engine.
#[derive(Debug)]
pub struct Engine<K> {
    pub(crate) repo: Repository<K>,
    pub(crate) limits: Limits,
    pub(crate) keys: ArcSwap<Keys>,
    pub(crate) log: NoteSigner,
    pub(crate) development: bool,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) refusals: Refusals,
    pub(crate) accesses: Accesses,
    pub(crate) publishing: tokio::sync::Mutex<()>,
    pub(crate) changing_keys: tokio::sync::Mutex<()>,
    /// Held while the log is pruned.
    pub(crate) pruning: tokio::sync::Mutex<()>,
    pub(crate) shadow: Shadow,
    pub(crate) outbox: Outbox,
    pub(crate) pending: Pending,
    pub(crate) revoking: Revoking,
    pub(crate) sights: Sights,
    /// Whose turn it is to change what is kept of those who act.
    pub(crate) turns: Turns,
    pub(crate) tidied: Tidied,
    /// Held by heartbeats until they are durable: whoever finds that one stayed away waits for those that are under way.
    pub(crate) beating: Arc<tokio::sync::RwLock<()>>,
    /// Tells watchers that a session ended: what depended on it is over without a commit of its own.
    pub(crate) ended: tokio::sync::broadcast::Sender<SessionId>,
    /// Tells that a bundle became active, or a stored entity changed.
    pub(crate) activated: tokio::sync::watch::Sender<()>,
    active: ArcSwapOption<Active>,
    /// The head of the log that others can see.
    pub(crate) published: ArcSwapOption<SignedCheckpoint>,
    commitment: Zeroizing<[u8; 32]>,
    pub(crate) time: Arc<Time>,
}

/// The bundle that decides, with the row that says so, and the stored entities at one moment.
#[derive(Debug)]
pub struct Active {
    /// The bundle.
    pub bundle: Arc<Bundle>,
    /// The tenant's row, as it was when the bundle became active.
    pub row: Stored<TenantRow>,
    /// The stored entities.
    pub entities: Entities,
    /// The commit that changed an entity last; 0 if none ever did.
    pub entity_revision: u64,
    /// What was revoked by a wider axis: everything that the tenant's row counts. Whatever is bound to that row knows of all.
    pub revoked: Arc<Revocations>,
}

impl Active {
    /// What questions are answered from, when nothing is made of the answers.
    pub(crate) fn view(&self) -> View<'_> {
        self.bundle.with(&self.entities, None)
    }
}

/// A call, before it is known what its names mean.
#[derive(Debug, Clone)]
pub struct Call {
    /// Whose it is.
    pub credential: Arc<Credential>,
    /// The RPC: request ids are scoped to it.
    pub rpc: &'static str,
    /// The SHA-256 of the client certificate that the caller proved to hold, if they did: whatever it was believed for.
    pub certificate: Option<Digest>,
    /// The request id, if one was given.
    pub request: Option<RequestId>,
}

/// A request id and the digest of the body it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId {
    /// The id: a UUID.
    pub id: String,
    /// The digest of the whole request.
    pub body: Digest,
}

/// What an enforcement point executes, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The operation.
    pub name: String,
    /// What is acted upon.
    pub resource: EntityRef,
    /// The arguments.
    pub input: Record,
    /// The circumstances.
    pub environment: Record,
}

/// Who acts, when a caller may speak for others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Acting {
    /// The caller.
    #[default]
    Caller,
    /// Somebody whom the caller names.
    Named(EntityRef),
    /// Somebody whose credential the caller presents.
    Credential(Arc<Credential>),
}

/// The revisions that a decision read (I10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revisions {
    /// Of the session's row.
    pub session: u64,
    /// Of the tenant's row.
    pub tenant: u64,
    /// Of the approval's row.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub approval: Option<u64>,
    /// Of the newest change of an entity; absent if none was ever stored.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub entities: Option<u64>,
}

/// An answer, and whether it is a stored one. A replay authorizes nothing anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayable<T> {
    /// The answer.
    pub answer: T,
    /// Whether it was given before.
    pub replayed: bool,
}

impl<T> Replayable<T> {
    pub(crate) const fn fresh(answer: T) -> Self {
        Self { answer, replayed: false }
    }

    pub(crate) const fn replayed(answer: T) -> Self {
        Self { answer, replayed: true }
    }
}

impl<K: Kernel> Engine<K> {
    /// Opens a tenant's engine on a store. If a bundle was active, it is active again.
    ///
    /// # Errors
    /// [`Error::ClockJumped`] if the clock is behind the newest record, [`Error::Store`] and [`Error::Internal`] if what is
    /// stored does not fit the parts.
    pub async fn open(kernel: Arc<K>, clock: Box<dyn Clock>, parts: Parts) -> Result<Self, Error> {
        let Parts { tenant, limits, signing, commitment, log, development, admission, sinks } = parts;
        let repo = Repository::new(kernel, tenant);
        let time = Arc::new(Time::start(clock, crate::log::newest_time(&repo).await?)?);
        let keys = Keys::load(&repo, signing, time.now()?).await?;
        let engine = Self {
            repo,
            limits,
            keys: ArcSwap::from_pointee(keys),
            log,
            development,
            admission,
            refusals: Refusals::default(),
            accesses: Accesses::default(),
            publishing: tokio::sync::Mutex::new(()),
            changing_keys: tokio::sync::Mutex::new(()),
            pruning: tokio::sync::Mutex::new(()),
            shadow: Shadow::default(),
            outbox: Outbox::new(sinks)?,
            pending: Pending::default(),
            revoking: Revoking::default(),
            sights: Sights::since(time.now()?),
            turns: Turns::default(),
            tidied: Tidied::default(),
            beating: Arc::default(),
            ended: tokio::sync::broadcast::channel(64).0,
            activated: tokio::sync::watch::Sender::new(()),
            active: ArcSwapOption::empty(),
            published: ArcSwapOption::empty(),
            commitment,
            time,
        };
        engine.restore_bundle().await?;
        Ok(engine)
    }

    /// The tenant.
    pub const fn tenant(&self) -> &TenantId {
        self.repo.tenant()
    }

    /// The time that decides.
    ///
    /// # Errors
    /// [`Error::ClockJumped`].
    pub fn now(&self) -> Result<Timestamp, Error> {
        self.time.now()
    }

    /// The bundle that decides now. Whoever holds it keeps it: a decision is made on one bundle.
    ///
    /// # Errors
    /// [`Error::NoBundle`].
    pub fn active(&self) -> Result<Arc<Active>, Error> {
        self.active.load_full().ok_or(Error::NoBundle)
    }

    /// Whether the caller is somebody here.
    ///
    /// # Errors
    /// [`Error::PrincipalUnknown`], [`Error::NoBundle`].
    pub fn require_known(&self, call: &Call) -> Result<(), Error> {
        self.scene(call).map(drop)
    }

    pub(crate) fn set_active(&self, active: Active) {
        self.active.store(Some(Arc::new(active)));
        self.activated.send_replace(());
    }

    /// Runs a use case until no other changed what it read, and records it if it was refused.
    pub(crate) async fn settle<T, F>(
        &self,
        call: &Call,
        about: Option<&str>,
        attempt: impl Fn(Scene) -> F + Send + Sync,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let (mut result, mut looked) = (Err(Error::Contention), Looked::default());
        for number in 1..=MAX_ATTEMPTS {
            result = match self.scene(call) {
                Ok(scene) => {
                    looked = scene.looked.clone();
                    attempt(scene).await
                }
                Err(error) => Err(error),
            };
            let again = match &result {
                Err(Error::Contention) => true,
                Err(error) if error.is_refusal() => self.answered_meanwhile(call).await,
                _ => false,
            };
            if !again {
                break;
            }
            if number % CATCH_UP_AFTER == 0 {
                self.catch_up().await?;
            }
            tokio::task::yield_now().await;
        }
        match result {
            Ok(answer) => {
                self.accesses.count(&looked);
                Ok(answer)
            }
            Err(error) if error.is_refusal() => Err(self.refuse(call, about, error).await),
            Err(error) => Err(error),
        }
    }

    /// Whether an attempt under the same request id was answered since this one looked: what refused this one may have been
    /// that one's success, and its answer is this one's too.
    async fn answered_meanwhile(&self, call: &Call) -> bool {
        let Ok(scene) = self.scene(call) else { return false };
        matches!(self.replay::<serde_json::Value>(&scene).await, Ok(Some(_)))
    }

    /// What must hold before anything is read; a call that is refused here is recorded like any other.
    pub(crate) async fn require(&self, call: &Call, checked: Result<(), Error>) -> Result<(), Error> {
        match checked {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refuse(call, None, error).await),
        }
    }

    pub(crate) fn scene(&self, call: &Call) -> Result<Scene, Error> {
        let active = self.active()?;
        let reads = Reads::default();
        let caller = Caller::resolve(&call.credential, active.bundle.with(&active.entities, Some(&reads)))?;
        Ok(Scene {
            now: self.now()?,
            active,
            caller,
            call: call.clone(),
            reads,
            reads_approvals: OnceLock::new(),
            reads_log: OnceLock::new(),
            looked: Looked::default(),
        })
    }

    /// Whether the administration policies permit a call.
    pub(crate) fn administer(
        &self,
        scene: &Scene,
        action: AdminAction<'_>,
        name: &'static str,
    ) -> Result<Answer, Error> {
        let answer = self.may_administer(scene, action);
        if answer.permitted {
            return Ok(answer);
        }
        Err(Error::AdministrationDenied { caller: scene.caller.entity.to_string(), action: name })
    }

    pub(crate) fn may_administer(&self, scene: &Scene, action: AdminAction<'_>) -> Answer {
        let Scene { caller, now, .. } = scene;
        if governs(action) && !caller.acts_directly() {
            return Answer::default();
        }
        scene.own_view().administer(&AdminQuery { caller: &caller.entity, action, now: *now })
    }

    /// The session of an action, after checking that whoever acts is its principal.
    pub(crate) async fn session_of(
        &self,
        scene: &Scene,
        id: SessionId,
        acting: &Acting,
        operation: &str,
    ) -> Result<Lineage, Error> {
        let mut session = self.lineage(id).await?;
        let identity = self.identity(scene, acting, session.value.operator.as_ref(), operation)?;
        let Identity { principal, operator, chain, owner, claimed: _ } = identity;
        if principal != session.value.principal {
            return Err(Error::SessionMismatch("principal"));
        }
        // A credential that names an operator or a chain must name the session's; one that names none leaves the
        // session's in force, so that leaving them out frees nobody.
        if operator.is_some() && operator != session.value.operator {
            return Err(Error::SessionMismatch("operator"));
        }
        if !chain.is_empty() && chain != session.value.chain {
            return Err(Error::SessionMismatch("delegation chain"));
        }
        // Whoever is answerable by the credential of now is behind what is done now, if not behind the session as it is kept. The
        // groups of now are not its principal's: whoever redeems has the session's alone.
        session.value.excluded.extend(owner);
        Ok(session)
    }

    /// Who acts. A caller who speaks for somebody else needs `actFor` for them and the operation.
    pub(crate) fn identity(
        &self,
        scene: &Scene,
        acting: &Acting,
        operator: Option<&EntityRef>,
        operation: &str,
    ) -> Result<Identity, Error> {
        let own = |caller: &Caller| Identity {
            principal: caller.entity.clone(),
            operator: caller.operator.clone(),
            chain: caller.chain.clone(),
            owner: caller.owner.clone(),
            claimed: caller.claimed.clone(),
        };
        let identity = match acting {
            Acting::Caller => return Ok(own(&scene.caller)),
            Acting::Named(principal) if *principal == scene.caller.entity => return Ok(own(&scene.caller)),
            // Of somebody who is only named nothing is known by a credential.
            Acting::Named(principal) => {
                Identity { principal: principal.clone(), operator: None, chain: Vec::new(), owner: None, claimed: None }
            }
            Acting::Credential(credential) if credential.tenant != *self.tenant() => {
                return Err(Error::field("principal_credential", "it is of another tenant"));
            }
            Acting::Credential(credential) => own(&Caller::resolve(credential, scene.view())?),
        };
        let operator = identity.operator.as_ref().or(operator);
        let action = AdminAction::ActFor { principal: &identity.principal, operation, operator };
        let known = scene.view().contains(&identity.principal);
        if !known || !self.may_administer(scene, action).permitted {
            return Err(Error::ActForDenied {
                caller: scene.caller.entity.to_string(),
                principal: identity.principal.to_string(),
            });
        }
        Ok(identity)
    }

    /// The action that an operation is in a session, and its canonical form. The enforcement point must be known, because
    /// its owner cannot answer for the action.
    pub(crate) fn action(
        &self,
        scene: &Scene,
        session: &Session,
        operation: &Operation,
        audience: &str,
    ) -> Result<(Action, Canonical), Error> {
        let bundle = &scene.active.bundle;
        if !scene.view().contains(&enforcement_point(audience)?) {
            return Err(Error::field("audience", "there is no such `EnforcementPoint`"));
        }
        let Operation { name, resource, input, environment } = operation.clone();
        let action = Action {
            tenant: self.tenant().clone(),
            audience: audience.to_owned(),
            session: session.id,
            principal: session.principal.clone(),
            operator: session.operator.clone(),
            chain: session.chain.clone(),
            operation: name,
            resource,
            input,
            environment,
        };
        // Checked before anything is replaced: a caller cannot send what looks like a commitment.
        let plain = action.canonical()?;
        let sensitive = bundle.sensitive(&action.operation);
        if sensitive.is_empty() {
            return Ok((action, plain));
        }
        let mut committed = action.clone();
        committed.commit(sensitive, &self.commitment);
        let canonical = committed.canonical()?;
        Ok((action, canonical))
    }

    /// The persons who can never answer for an action (I2).
    pub(crate) fn excluded(
        &self,
        scene: &Scene,
        session: &Session,
        action: &Action,
    ) -> Result<BTreeSet<EntityRef>, Error> {
        let point = enforcement_point(&action.audience)?;
        let parties = [&action.principal, &point].into_iter().chain(&action.operator).chain(&action.chain);
        let mut excluded = &caller::excluded(scene.view(), parties) | &session.excluded;
        excluded.extend(scene.caller.behind(scene.view()));
        Ok(excluded)
    }
}

/// Who acts, as a credential or a trusted caller says it.
pub struct Identity {
    pub(crate) principal: EntityRef,
    pub(crate) operator: Option<EntityRef>,
    pub(crate) chain: Vec<EntityRef>,
    /// Who is answerable for the principal by its own credential.
    pub(crate) owner: Option<EntityRef>,
    /// The groups that the principal is in by its own credential.
    pub(crate) claimed: Option<Claimed>,
}

/// One attempt at a use case: who calls, on which bundle, when.
#[derive(Debug)]
pub struct Scene {
    pub(crate) call: Call,
    pub(crate) caller: Caller,
    pub(crate) active: Arc<Active>,
    pub(crate) now: Timestamp,
    /// The stored entities that were read so far.
    pub(crate) reads: Reads,
    /// Whether the caller may read every approval request, once that was asked.
    pub(crate) reads_approvals: OnceLock<Answer>,
    /// Whether the caller may read everything that happened, once that was asked.
    pub(crate) reads_log: OnceLock<Answer>,
    /// What administration policies let the caller look at.
    pub(crate) looked: Looked,
}

impl Scene {
    /// The person who calls, and acts directly.
    pub(crate) fn person(&self) -> Result<&EntityRef, Error> {
        self.caller.as_person().ok_or_else(|| Error::NotAPerson(self.caller.entity.to_string()))
    }

    /// That the caller may answer for people with this credential: vote, publish, roll back, break the glass, review that.
    pub(crate) fn require_answering(&self) -> Result<(), Error> {
        Ok(self.call.credential.require_answering(self.now)?)
    }

    /// What questions are answered from. What is read of the store is noted, and what is committed is bound to it.
    pub(crate) fn view(&self) -> View<'_> {
        self.active.bundle.with(&self.active.entities, Some(&self.reads))
    }

    /// As [`Self::view`], for questions about the caller: with the caller in the groups that the credential says.
    pub(crate) fn own_view(&self) -> View<'_> {
        self.view().claiming(&self.caller.entity, self.claimed())
    }

    /// The groups that the caller's credential adds to those of the directory now.
    pub(crate) fn claimed(&self) -> &BTreeSet<EntityRef> {
        groups_at(self.caller.claimed.as_ref(), self.now)
    }

    /// What was read.
    pub(crate) fn revisions(&self, session: &Lineage, approval: Option<Revision>) -> Revisions {
        Revisions {
            session: session.revision.get(),
            tenant: self.active.row.revision.get(),
            approval: approval.map(Revision::get),
            entities: Some(self.active.entity_revision).filter(|revision| *revision > 0),
        }
    }
}

/// What changes the rules for everybody, or goes past them: only for whoever acts directly, never for somebody else.
const fn governs(action: AdminAction<'_>) -> bool {
    match action {
        AdminAction::Publish { .. }
        | AdminAction::ManageKeys { .. }
        | AdminAction::TakeBackup { .. }
        | AdminAction::PruneLog { .. }
        | AdminAction::ChangeEntities { .. }
        | AdminAction::ManageNotifications { .. }
        | AdminAction::BreakGlass { .. }
        | AdminAction::ReviewBreakGlass { .. }
        | AdminAction::RevokeAll { .. }
        | AdminAction::ResolveOutcome { .. } => true,
        AdminAction::OpenSession { .. }
        | AdminAction::StartClean { .. }
        | AdminAction::ActFor { .. }
        | AdminAction::Redeem { .. }
        | AdminAction::StayOpen { .. }
        | AdminAction::Revoke { .. }
        | AdminAction::ReadRevocations { .. }
        | AdminAction::EndSession { .. }
        | AdminAction::ReadLog { .. }
        | AdminAction::ReadEntities { .. }
        | AdminAction::ReadApprovals { .. } => false,
    }
}

/// The entity of an audience.
pub(crate) fn enforcement_point(audience: &str) -> Result<EntityRef, Error> {
    EntityRef::new("EnforcementPoint", audience).map_err(|e| Error::field("audience", e.to_string()))
}

/// The entity of a tenant.
pub(crate) fn tenant_entity(tenant: &TenantId) -> Result<EntityRef, Error> {
    EntityRef::new("Tenant", tenant.as_str()).map_err(|e| Error::Internal(e.to_string()))
}
