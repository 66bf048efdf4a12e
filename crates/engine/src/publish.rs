//! Bundles become active.

use std::sync::Arc;

use countersign_core::{Digest, Timestamp};
use countersign_policy::{AdminAction, Bundle, Finding, Source};
use countersign_store::repository::{BundleRow, CommitExt, Stored, TenantRow, encode};
use countersign_store::{Commit, Committed, Kernel, Key};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::admission::Admitted;
use crate::ask::require_request_id;
use crate::consent::Consent;
use crate::decide::Decided;
use crate::engine::{Active, Call, Engine, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::record::{Event, record};

/// What publishing led to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Published {
    /// The bundle that is active now.
    pub digest: Digest,
    /// Whether it is another one than before.
    pub changed: bool,
    /// What its author should know.
    #[serde(skip)]
    pub warnings: Vec<Finding>,
}

/// The active bundle, told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: u64,
    /// Its operations.
    pub operations: Vec<String>,
    /// When it became active.
    pub activated_at: Timestamp,
}

/// A bundle that is about to become active.
pub(crate) struct Proposal {
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) revision: RevisionRule,
}

impl Proposal {
    /// Whether it comes from the archive, and may be older than what is active.
    pub(crate) fn is_rollback(&self) -> bool {
        self.revision == RevisionRule::Any
    }
}

impl Authority<'_> {
    /// The administration policies that permit it.
    fn determining(&self) -> &[String] {
        match self {
            Self::Operator => &[],
            Self::Caller { determining, .. } => determining,
        }
    }
}

/// What a proposal would change.
enum Due {
    /// Nothing: it is active.
    Nothing,
    /// It is active, and signed by others now.
    Signatures(Stored<BundleRow>),
    /// It would become active.
    Activation(Box<Activation>),
}

/// What a bundle becomes active upon.
struct Activation {
    before: Option<Stored<TenantRow>>,
    archived: Option<Stored<BundleRow>>,
    decided: Option<Decided>,
}

/// What the revision of a bundle must be, next to that of the active one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevisionRule {
    /// The same or higher: somebody says that it is to be published as it is.
    NotLower,
    /// Higher: nobody says so, and what is half written may be fit to decide. Raising it says that all is there.
    Raised,
    /// Any: it comes from the archive.
    Any,
}

/// On whose authority a bundle becomes active.
pub(crate) enum Authority<'a> {
    /// Whoever starts the server, or can write where it watches.
    Operator,
    /// A caller, and what was decided about it.
    Caller { scene: &'a Scene, determining: Vec<String>, consent: Consent },
}

impl<K: Kernel> Engine<K> {
    /// Makes a bundle active on the authority of whoever starts the server, or can write where it looks. A bundle that is
    /// invalid or older changes nothing.
    ///
    /// # Errors
    /// [`Error::BundleRefused`], [`Error::BundleNotAdmitted`], [`Error::BundleOlder`], [`Error::BundleRolledBack`],
    /// [`Error::BundleNotRaised`], [`Error::PublishAsks`], [`Error::Store`].
    pub async fn activate(&self, source: Source, revision: RevisionRule) -> Result<Published, Error> {
        let proposal = Proposal { bundle: load(source).await?, revision };
        self.activate_bundle(&proposal, &Authority::Operator, &OnceCell::new()).await
    }

    /// Makes a bundle active, if the `publish` policies of the active one permit it, and what it asks for besides is given.
    /// `read` is called once at most, and only for a caller who may publish: nobody else is told even that it failed.
    ///
    /// # Errors
    /// As [`Self::activate`], [`Error::AdministrationDenied`], [`Error::NotAnswering`], [`Error::PublishDenied`].
    pub async fn publish<F>(
        &self,
        call: &Call,
        read: impl Fn() -> F + Send + Sync,
        consent: Consent,
    ) -> Result<Replayable<Published>, Error>
    where
        F: Future<Output = Result<Source, Error>> + Send,
    {
        self.require(call, require_request_id(call)).await?;
        let (read, source, admitted) = (&read, &OnceCell::new(), &OnceCell::new());
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(published) = self.replay::<Published>(scene).await? {
                return Ok(Replayable::replayed(published));
            }
            let TenantRow { bundle: active, bundle_revision, .. } = scene.active.row.value;
            self.publishing_by(scene, active, bundle_revision)?;
            let source = source.get_or_init(read).await.as_ref().map_err(Error::repeated)?;
            self.publishing_by(scene, source.digest(), bundle_revision)?;
            self.propose(scene, source.clone(), RevisionRule::NotLower, consent, admitted).await
        };
        self.settle(call, None, attempt).await
    }

    /// Makes a bundle active that was active before, whatever its revision. What it was asked for then, it is asked for again.
    ///
    /// # Errors
    /// As [`Self::publish`], and [`Error::BundleNotFound`].
    pub async fn rollback(
        &self,
        call: &Call,
        digest: Digest,
        consent: Consent,
    ) -> Result<Replayable<Published>, Error> {
        self.require(call, require_request_id(call)).await?;
        let admitted = &OnceCell::new();
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(published) = self.replay::<Published>(scene).await? {
                return Ok(Replayable::replayed(published));
            }
            let TenantRow { bundle: active, bundle_revision, .. } = scene.active.row.value;
            self.publishing_by(scene, digest, bundle_revision)?;
            let was_active = self.repo.bundle(digest).await?.is_some_and(|row| row.value.activated_at.is_some());
            let archived = if was_active || digest == active { self.archived(digest).await? } else { None };
            let source = archived.ok_or(Error::BundleNotFound(digest))?;
            self.propose(scene, source, RevisionRule::Any, consent, admitted).await
        };
        self.settle(call, Some(&digest.to_string()), attempt).await
    }

    /// Makes active what a caller proposes, who may publish this very bundle.
    async fn propose(
        &self,
        scene: &Scene,
        source: Source,
        revision: RevisionRule,
        consent: Consent,
        admitted: &OnceCell<Admitted>,
    ) -> Result<Replayable<Published>, Error> {
        let proposal = Proposal { bundle: load(source).await?, revision };
        let determining = self.publishing_by(scene, proposal.bundle.digest(), proposal.bundle.revision())?;
        let authority = Authority::Caller { scene, determining, consent };
        self.activate_bundle(&proposal, &authority, admitted).await.map(Replayable::fresh)
    }

    /// By which policies the caller publishes a bundle, with a credential that is good for it.
    fn publishing_by(&self, scene: &Scene, digest: Digest, revision: u64) -> Result<Vec<String>, Error> {
        let policies = self.may_publish(scene, digest, revision)?;
        scene.require_answering()?;
        Ok(policies)
    }

    /// By which policies the caller may publish a bundle, whatever the credential.
    pub(crate) fn may_publish(&self, scene: &Scene, digest: Digest, revision: u64) -> Result<Vec<String>, Error> {
        let tenant = tenant_entity(self.tenant())?;
        let action = AdminAction::Publish { tenant: &tenant, digest, revision };
        self.administer(scene, action, "publish").map(|answer| answer.policies)
    }

    /// What is due is looked at before anything that takes long, and again when it is this bundle's turn; in between it is
    /// judged, which holds nobody up.
    async fn activate_bundle(
        &self,
        proposal: &Proposal,
        authority: &Authority<'_>,
        admitted: &OnceCell<Admitted>,
    ) -> Result<Published, Error> {
        let Proposal { bundle, .. } = proposal;
        let (digest, warnings) = (bundle.digest(), bundle.warnings().to_vec());
        match self.due(proposal, authority, &Admitted::default()).await? {
            Due::Nothing => {}
            Due::Signatures(_) | Due::Activation(_) => {
                admitted.get_or_try_init(|| self.admit(bundle)).await?;
            }
        }
        let turn = self.publishing.lock().await;
        let judged = admitted.get();
        let due = self.due(proposal, authority, judged.unwrap_or(&Admitted::default())).await?;
        let published = |changed| Published { digest, changed, warnings };
        let published = match (due, judged) {
            (Due::Nothing, _) => {
                let published = published(false);
                if let Authority::Caller { scene, .. } = authority {
                    self.remember(scene, &published).await?;
                }
                published
            }
            (Due::Signatures(archived), Some(admitted)) => {
                let published = published(false);
                self.sign(proposal, authority, admitted, archived, &published).await?;
                published
            }
            (Due::Activation(due), Some(admitted)) => {
                let published = published(true);
                self.replace_active(proposal, authority, admitted, *due, &published).await?;
                published
            }
            // Somebody else published meanwhile.
            (Due::Signatures(_) | Due::Activation(_), None) => return Err(Error::Contention),
        };
        drop(turn);
        Ok(published)
    }

    /// What a proposal would change, if it may: it is new enough, and whoever has to approve it has.
    async fn due(&self, proposal: &Proposal, authority: &Authority<'_>, admitted: &Admitted) -> Result<Due, Error> {
        let Proposal { bundle, revision } = proposal;
        let before = self.repo.tenant_row().await?;
        let archived = self.repo.bundle(bundle.digest()).await?;
        if let Some(before) = &before {
            // Not only some bundle: the very one, as the store has it.
            let known = self.active().is_ok_and(|active| active.row.revision == before.revision);
            if before.value.bundle == bundle.digest() && known {
                let signatures = bundle.source().signatures();
                let other =
                    |row: &Stored<BundleRow>| signatures.is_some() && row.value.signatures.as_deref() != signatures;
                return Ok(archived.filter(other).map_or(Due::Nothing, Due::Signatures));
            }
            let was_active = archived.as_ref().is_some_and(|row| row.value.activated_at.is_some());
            newer(bundle, &before.value, *revision, was_active)?;
        }
        let decided = self.consented(proposal, authority, admitted, before.as_ref()).await?;
        Ok(Due::Activation(Box::new(Activation { before, archived, decided })))
    }

    /// Keeps what more authors have signed of the bundle that is active, for when it is taken up again.
    async fn sign(
        &self,
        proposal: &Proposal,
        authority: &Authority<'_>,
        admitted: &Admitted,
        archived: Stored<BundleRow>,
        published: &Published,
    ) -> Result<(), Error> {
        let digest = published.digest;
        let signatures = proposal.bundle.source().signatures().map(str::to_owned);
        let kept = BundleRow { signatures, ..archived.value };
        let key = Key::bundle(self.tenant(), &digest);
        let commit = Commit::new(self.tenant().clone()).replace(key, archived.revision, encode(&kept));
        let event = Event::BundleSigned { bundle: digest, admitted, determining: authority.determining() };
        self.commit_for(authority, self.now()?, commit, event, published).await.map(drop)
    }

    /// Commits on somebody's authority: what a caller does is bound to what was read for it, and kept under the request id.
    async fn commit_for(
        &self,
        authority: &Authority<'_>,
        now: Timestamp,
        commit: Commit,
        event: Event<'_>,
        published: &Published,
    ) -> Result<Committed, Error> {
        match authority {
            Authority::Operator => {
                Ok(self.repo.kernel().commit(commit.record(record(self.tenant(), now, None, None, event))).await?)
            }
            Authority::Caller { scene, .. } => {
                // As `guarded`: what the caller may by groups that the credential says, it may as long as that lasts.
                let claimed = scene.caller.claimed.as_ref().and_then(|claimed| claimed.lapses_at(scene.now));
                let commit = self.lasting_also(self.bound(&scene.active, &scene.reads, commit), [claimed]);
                self.commit(scene, commit, event, published).await
            }
        }
    }

    /// Archive, and then one commit.
    async fn replace_active(
        &self,
        proposal: &Proposal,
        authority: &Authority<'_>,
        admitted: &Admitted,
        due: Activation,
        published: &Published,
    ) -> Result<(), Error> {
        let (bundle, rollback) = (&proposal.bundle, proposal.is_rollback());
        let Activation { before, archived, decided } = due;
        let digest = bundle.digest();
        let (entities, entity_revision) = self.stored_entities(bundle).await?;
        // Read after the tenant's row, so that whatever that counts is among them.
        let revoked = Arc::new(self.repo.revocations().await?);
        let chunks = match &archived {
            Some(row) => row.value.chunks,
            None => self.archive(bundle).await?,
        };
        // A large bundle takes its time; a caller whose moment has passed starts over.
        let now = self.now()?;
        self.keep_excluded(now).await?;

        let value = TenantRow {
            bundle: digest,
            bundle_revision: bundle.revision(),
            activated_at: now,
            mint_epoch: before.as_ref().map_or(1, |before| before.value.mint_epoch),
            rolled_back: before.as_ref().and_then(|Stored { value: before, .. }| {
                before.rolled_back.max(rollback.then_some(before.bundle_revision))
            }),
            revocation_epoch: before.as_ref().map_or(0, |before| before.value.revocation_epoch),
        };
        let commit = Commit::new(self.tenant().clone()).upsert(&value, before.as_ref().map(|before| before.revision));
        let kept = BundleRow {
            name: bundle.name().to_owned(),
            revision: bundle.revision(),
            chunks,
            signatures: bundle.source().signatures().map(str::to_owned),
            activated_at: Some(now),
        };
        let key = Key::bundle(self.tenant(), &digest);
        let commit = commit.put(key, archived.map(|row| row.revision), encode(&kept));
        let commit = self.dated(before.as_ref().map(|before| &before.value), digest, commit).await?;
        let commit = match (authority, &decided) {
            (Authority::Caller { scene, .. }, Some(decided)) => self.spending(scene, decided, commit)?,
            (Authority::Caller { .. } | Authority::Operator, _) => commit,
        };
        let event = Event::BundleActivated {
            bundle: digest,
            name: bundle.name(),
            revision: bundle.revision(),
            replaces: before.as_ref().map(|before| before.value.bundle),
            rollback,
            admitted,
            determining: authority.determining(),
            decision: decided.as_ref().map(Decided::id),
        };
        let committed = self.commit_for(authority, now, commit, event, published).await?;
        let row = Stored { revision: committed.revision, value };
        self.set_active(Active { bundle: Arc::clone(bundle), row, entities, entity_revision, revoked });
        Ok(())
    }

    /// The first release did not write down when a bundle became active; of the one that goes it is still known.
    async fn dated(&self, before: Option<&TenantRow>, digest: Digest, commit: Commit) -> Result<Commit, Error> {
        let Some(before) = before.filter(|before| before.bundle != digest) else { return Ok(commit) };
        let row = self.repo.bundle(before.bundle).await?.filter(|row| row.value.activated_at.is_none());
        let Some(row) = row else { return Ok(commit) };
        let value = BundleRow { activated_at: Some(before.activated_at), ..row.value };
        Ok(commit.replace(Key::bundle(self.tenant(), &before.bundle), row.revision, encode(&value)))
    }

    /// Puts a bundle before whoever judges what becomes active.
    async fn admit(&self, bundle: &Arc<Bundle>) -> Result<Admitted, Error> {
        let (admission, bundle) = (Arc::clone(&self.admission), Arc::clone(bundle));
        let judged = tokio::task::spawn_blocking(move || admission.admit(&bundle)).await;
        judged.map_err(|error| Error::Internal(error.to_string()))?.map_err(Error::BundleNotAdmitted)
    }

    /// Makes active what the store says, if that is something else than what decides here: a publish that was broken off
    /// after its commit would otherwise have everything that authorizes start over for ever.
    pub(crate) async fn catch_up(&self) -> Result<(), Error> {
        // Whoever is changing it right now sees to it.
        let Ok(_publishing) = self.publishing.try_lock() else { return Ok(()) };
        let stored = self.repo.tenant_row().await?.map(|row| row.revision);
        let head = self.repo.kernel().get(&Key::entity_head(self.tenant())).await?.map_or(0, |row| row.revision.get());
        match self.active() {
            Ok(active) if Some(active.row.revision) == stored && active.entity_revision == head => Ok(()),
            Ok(_) | Err(_) => self.restore_bundle().await,
        }
    }

    /// The bundle that was active when the store was closed is active again.
    pub(crate) async fn restore_bundle(&self) -> Result<(), Error> {
        let Some(row) = self.repo.tenant_row().await? else { return Ok(()) };
        let source = self.archived(row.value.bundle).await?;
        let source = source.ok_or_else(|| Error::Internal("the active bundle is not in the store".to_owned()))?;
        match Bundle::load(source) {
            Ok(bundle) => {
                let bundle = Arc::new(bundle);
                let (entities, entity_revision) = self.stored_entities(&bundle).await?;
                // Read after the tenant's row, so that whatever that counts is among them.
                let revoked = Arc::new(self.repo.revocations().await?);
                self.set_active(Active { bundle, row, entities, entity_revision, revoked });
            }
            // A release may refuse what an older one took. Nothing is decided then until a good bundle is published.
            Err(refused) => tracing::error!(%refused, "the bundle that was active is refused by this release"),
        }
        Ok(())
    }

    /// The active bundle.
    ///
    /// # Errors
    /// [`Error::NoBundle`].
    pub fn bundle_info(&self) -> Result<BundleInfo, Error> {
        let active = self.active()?;
        Ok(BundleInfo {
            digest: active.bundle.digest(),
            name: active.bundle.name().to_owned(),
            revision: active.bundle.revision(),
            operations: active.bundle.operations().map(str::to_owned).collect(),
            activated_at: active.row.value.activated_at,
        })
    }
}

/// Whether a bundle may follow on what is active. One that a rollback left, or passed over, is not taken again from where it
/// lies, so that no restart undoes the rollback.
const fn newer(bundle: &Bundle, active: &TenantRow, revision: RevisionRule, was_active: bool) -> Result<(), Error> {
    let found = bundle.revision();
    match (revision, active.rolled_back) {
        (RevisionRule::Any, _) => Ok(()),
        _ if found < active.bundle_revision => Err(Error::BundleOlder { found, active: active.bundle_revision }),
        (RevisionRule::Raised, _) if found == active.bundle_revision => Err(Error::BundleNotRaised(found)),
        (_, Some(rolled_back)) if was_active && found <= rolled_back => {
            Err(Error::BundleRolledBack { found, rolled_back })
        }
        (RevisionRule::Raised | RevisionRule::NotLower, _) => Ok(()),
    }
}

/// Loads a bundle where it holds nobody up: a large one takes seconds.
pub(crate) async fn load(source: Source) -> Result<Arc<Bundle>, Error> {
    let loaded = tokio::task::spawn_blocking(|| Bundle::load(source)).await;
    Ok(Arc::new(loaded.map_err(|error| Error::Internal(error.to_string()))??))
}
