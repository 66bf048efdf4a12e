//! Bundles become active.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use countersign_core::approval::{Approval, VoidCause};
use countersign_core::{ApprovalId, Digest, Timestamp};
use countersign_policy::{AdminAction, Bundle, Finding, Source, View};
use countersign_store::kernel::MAX_VALUE_BYTES;
use countersign_store::repository::{BundleRow, CommitExt, Stored, TenantRow, encode};
use countersign_store::{Commit, CommitError, Kernel, Key};
use serde::{Deserialize, Serialize};

use crate::ask::require_request_id;
use crate::engine::{Active, Call, Engine, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::record::{Event, record};

/// How large a part of an archived bundle is, in bytes: below what a row takes.
const CHUNK: usize = 60 * 1024;
/// How many requests are read at once.
const PAGE: usize = 256;
/// How long a request can live: a day until it is answered, and a day after, by the longest `@ttl`; and an hour to be sure.
const LONGEST_LIFE: std::time::Duration = std::time::Duration::from_secs(49 * 60 * 60);
/// How many parts are written in one commit.
const CHUNKS_PER_COMMIT: usize = 16;

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

impl<K: Kernel> Engine<K> {
    /// Makes a bundle active at start, on the authority of whoever starts the server. A bundle that is invalid or older
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::BundleRefused`], [`Error::BundleOlder`], [`Error::Store`].
    pub async fn activate(&self, source: Source) -> Result<Published, Error> {
        let publishing = self.publishing.lock().await;
        let bundle = load(source).await?;
        let published = self.activate_bundle(bundle, None).await;
        drop(publishing);
        published
    }

    /// Makes a bundle active, if the `publish` policies of the active one permit it. A source that could not be read is
    /// told to those only who may publish.
    ///
    /// # Errors
    /// As [`Self::activate`], and [`Error::AdministrationDenied`].
    pub async fn publish(&self, call: &Call, source: Result<Source, Error>) -> Result<Replayable<Published>, Error> {
        self.require(call, require_request_id(call)).await?;
        let publishing = self.publishing.lock().await;
        let source = &source;
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(published) = self.replay::<Published>(scene).await? {
                return Ok(Replayable::replayed(published));
            }
            // Whether the caller may publish at all comes first: the findings tell what is in the bundle.
            let tenant = tenant_entity(self.tenant())?;
            let TenantRow { bundle: active, bundle_revision, .. } = scene.active.row.value;
            let digest = source.as_ref().map_or(active, Source::digest);
            let permitted = |revision| AdminAction::Publish { tenant: &tenant, digest, revision };
            self.administer(scene, permitted(bundle_revision), "publish")?;
            let source = source.as_ref().map_err(Error::repeated)?;
            let bundle = load(source.clone()).await?;
            self.administer(scene, permitted(bundle.revision()), "publish")?;
            self.activate_bundle(bundle, Some(scene)).await.map(Replayable::fresh)
        };
        let published = self.settle(call, None, attempt).await;
        drop(publishing);
        published
    }

    async fn activate_bundle(&self, bundle: Arc<Bundle>, scene: Option<&Scene>) -> Result<Published, Error> {
        let now = self.now()?;
        let before = self.repo.tenant_row().await?;
        let digest = bundle.digest();
        let mut published = Published { digest, changed: true, warnings: bundle.warnings().to_vec() };
        if let Some(before) = &before {
            // Not only some bundle: the very one, as the store has it.
            let known = self.active().is_ok_and(|active| active.row.revision == before.revision);
            if before.value.bundle == digest && known {
                published.changed = false;
                if let Some(scene) = scene {
                    self.remember(scene, &published).await?;
                }
                return Ok(published);
            }
            if bundle.revision() < before.value.bundle_revision {
                let active = before.value.bundle_revision;
                return Err(Error::BundleOlder { found: bundle.revision(), active });
            }
        }
        self.admit(&bundle).await?;
        let (entities, entity_revision) = self.stored_entities(&bundle).await?;
        self.archive(&bundle).await?;
        self.keep_excluded(now).await?;
        let mint_epoch = before.as_ref().map_or(1, |before| before.value.mint_epoch);
        let value = TenantRow { bundle: digest, bundle_revision: bundle.revision(), activated_at: now, mint_epoch };
        let commit = match scene {
            Some(scene) => self.bound(scene, Commit::new(self.tenant().clone())),
            None => Commit::new(self.tenant().clone()),
        };
        let commit = match &before {
            Some(before) => commit.update(&Stored { revision: before.revision, value: value.clone() }),
            None => commit.insert(&value),
        };
        let event = Event::BundleActivated {
            bundle: digest,
            name: bundle.name(),
            revision: bundle.revision(),
            replaces: before.as_ref().map(|before| before.value.bundle),
        };
        let committed = match scene {
            Some(scene) => self.commit(scene, commit, event, &published).await?,
            None => {
                let commit = commit.record(record(self.tenant(), now, None, None, event));
                self.repo.kernel().commit(commit).await?
            }
        };
        let row = Stored { revision: committed.revision, value };
        self.set_active(Active { bundle, row, entities, entity_revision });
        Ok(published)
    }

    /// Puts a bundle before whoever judges what becomes active. The very one that the store has as active was judged.
    async fn admit(&self, bundle: &Arc<Bundle>) -> Result<(), Error> {
        let (admission, bundle) = (Arc::clone(&self.admission), Arc::clone(bundle));
        let judged = tokio::task::spawn_blocking(move || admission.admit(&bundle)).await;
        judged.map_err(|error| Error::Internal(error.to_string()))?.map_err(Error::BundleNotAdmitted)
    }

    /// Adds to every live request whom the outgoing bundle excludes, because nobody will know later: the excluded only grow
    /// (I2). A request that is made meanwhile is made under that bundle, and knows them.
    pub(crate) async fn keep_excluded(&self, now: Timestamp) -> Result<(), Error> {
        let Ok(outgoing) = self.active() else { return Ok(()) };
        let mut before = None;
        loop {
            let page = self.repo.newest::<Approval>(before.as_ref(), PAGE).await?;
            let mut changed = Vec::new();
            for Stored { value, .. } in &page.values {
                if now.since(value.created_at) > LONGEST_LIFE {
                    self.keep_changed(changed, outgoing.view(), now).await?;
                    return Ok(());
                }
                if let Some(commit) = self.excluding(value.id, outgoing.view(), now).await? {
                    changed.push((value.id, commit));
                }
            }
            self.keep_changed(changed, outgoing.view(), now).await?;
            before = page.next;
            if before.is_none() {
                return Ok(());
            }
        }
    }

    /// Commits what a page of requests came to, for the price of one sync; who was voted on meanwhile is looked at again.
    async fn keep_changed(
        &self,
        mut changed: Vec<(ApprovalId, Commit)>,
        outgoing: View<'_>,
        now: Timestamp,
    ) -> Result<(), Error> {
        while !changed.is_empty() {
            let (ids, commits): (Vec<ApprovalId>, Vec<Commit>) = changed.into_iter().unzip();
            changed = Vec::new();
            for (id, outcome) in ids.into_iter().zip(self.repo.kernel().commit_many(commits).await) {
                match outcome {
                    Ok(_) => {}
                    Err(CommitError::Conflict { .. }) => {
                        changed.extend(self.excluding(id, outgoing, now).await?.map(|commit| (id, commit)));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The commit by which a live request comes to exclude whom `outgoing` excludes, if there is anybody to add.
    async fn excluding(&self, id: ApprovalId, outgoing: View<'_>, now: Timestamp) -> Result<Option<Commit>, Error> {
        let mut question = self.question(id).await?;
        let newly = question.exclude(outgoing)?;
        if question.state(now).is_terminal() || newly.is_empty() {
            return Ok(None);
        }
        let bundle = outgoing.bundle().digest();
        let commit = Commit::new(self.tenant().clone());
        // One request must not keep a bundle from being published: what has no room for them is put anew.
        let (event, cause) =
            (Event::ApprovalExcluded { approval: id, excluded: newly, bundle }, VoidCause::ConditionsChanged);
        let event = if encode(&question.approval.value).len() > MAX_VALUE_BYTES {
            question = self.question(id).await?;
            question.approval.value.void(cause.clone(), now)?;
            Event::ApprovalVoid { approval: id, cause: &cause }
        } else {
            event
        };
        let record = record(self.tenant(), now, None, None, event);
        Ok(Some(commit.update(&question.approval).record(record)))
    }

    /// Keeps the bundle's files, so that whatever it decides can be decided again later.
    async fn archive(&self, bundle: &Bundle) -> Result<(), Error> {
        let key = Key::bundle(self.tenant(), &bundle.digest());
        if self.repo.kernel().get(&key).await?.is_some() {
            return Ok(());
        }
        let files = serde_json::to_vec(bundle.source().files()).map_err(|e| Error::Internal(e.to_string()))?;
        let chunks: Vec<Bytes> = files.chunks(CHUNK).map(Bytes::copy_from_slice).collect();
        let mut number = 0_u32;
        for part in chunks.chunks(CHUNKS_PER_COMMIT) {
            let mut commit = Commit::new(self.tenant().clone());
            for chunk in part {
                let key = Key::bundle_chunk(self.tenant(), &bundle.digest(), number);
                // A part that an interrupted attempt left is the same part: its digest is in its key.
                if self.repo.kernel().get(&key).await?.is_none() {
                    commit = commit.create(key, chunk.clone());
                }
                number = number.saturating_add(1);
            }
            match self.repo.kernel().commit(commit).await {
                Ok(_) | Err(CommitError::Empty) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let row = BundleRow { name: bundle.name().to_owned(), revision: bundle.revision(), chunks: number };
        let commit = Commit::new(self.tenant().clone()).create(key, encode(&row));
        self.repo.kernel().commit(commit).await?;
        Ok(())
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
        let archive = self.repo.bundle_archive(row.value.bundle).await?;
        let archive = archive.ok_or_else(|| Error::Internal("the active bundle is not in the store".to_owned()))?;
        let files: BTreeMap<String, String> =
            serde_json::from_slice(&archive).map_err(|e| Error::Internal(e.to_string()))?;
        let source = Source::from_files(files).map_err(|e| Error::BundleUnreadable(e.to_string()))?;
        match Bundle::load(source) {
            Ok(bundle) if bundle.digest() == row.value.bundle => {
                let bundle = Arc::new(bundle);
                let (entities, entity_revision) = self.stored_entities(&bundle).await?;
                self.set_active(Active { bundle, row, entities, entity_revision });
            }
            Ok(_) => return Err(Error::Internal("the archived bundle has another digest than its row".to_owned())),
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

/// Loads a bundle where it holds nobody up: a large one takes seconds.
async fn load(source: Source) -> Result<Arc<Bundle>, Error> {
    let loaded = tokio::task::spawn_blocking(|| Bundle::load(source)).await;
    Ok(Arc::new(loaded.map_err(|error| Error::Internal(error.to_string()))??))
}
