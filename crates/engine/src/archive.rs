//! The bundles that were active once: kept whole, listed, and taken up again.

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_core::{Digest, Timestamp};
use countersign_policy::{AdminAction, Bundle, Source};
use countersign_store::repository::{BundleRow, Stored, TenantRow};
use countersign_store::{Commit, CommitError, Kernel, Key};

use crate::engine::{Call, Engine, Scene, tenant_entity};
use crate::error::Error;
use crate::read::Paged;

/// How large a part of an archived bundle is, in bytes: below what a row takes.
const CHUNK: usize = 60 * 1024;
/// How many parts are written in one commit.
const CHUNKS_PER_COMMIT: usize = 16;

/// A bundle that was active once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedBundle {
    /// Its digest.
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: u64,
    /// When it last became active; absent if it is active since the first release.
    pub activated_at: Option<Timestamp>,
    /// Whether it is active now.
    pub active: bool,
}

/// Where a bundle stands in the list: the last that became active come first.
pub type ArchivePlace = (Option<Timestamp>, Digest);

impl<K: Kernel> Engine<K> {
    /// The bundles that were active, the last one first, for whoever may publish or read the log.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], [`Error::Store`].
    pub async fn bundles(
        &self,
        call: &Call,
        after: Option<ArchivePlace>,
        limit: usize,
    ) -> Result<Paged<ArchivedBundle, ArchivePlace>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            let TenantRow { bundle: active, bundle_revision, .. } = scene.active.row.value;
            let tenant = tenant_entity(self.tenant())?;
            let publish = AdminAction::Publish { tenant: &tenant, digest: active, revision: bundle_revision };
            if !self.may_read(scene, publish) {
                self.require_read_log(scene)?;
            }
            let mut all = self.repo.bundles().await?;
            all.retain(|(digest, row)| row.activated_at.is_some() || *digest == active);
            all.sort_by_key(|(digest, row)| std::cmp::Reverse((row.activated_at, *digest)));
            let place = |(digest, row): &(Digest, BundleRow)| (row.activated_at, *digest);
            let rest = all.iter().skip_while(|bundle| after.is_some_and(|after| place(bundle) >= after));
            let mut page: Vec<_> = rest.take(limit.saturating_add(1)).collect();
            let more = page.len() > limit;
            page.truncate(limit);
            let next = page.last().filter(|_| more).map(|last| place(last));
            let told = |(digest, row): &(Digest, BundleRow)| ArchivedBundle {
                digest: *digest,
                name: row.name.clone(),
                revision: row.revision,
                activated_at: row.activated_at,
                active: *digest == active,
            };
            Ok(Paged { items: page.into_iter().map(told).collect(), next })
        };
        self.settle(call, None, attempt).await
    }

    /// The files of a bundle that was active once.
    pub(crate) async fn archived(&self, digest: Digest) -> Result<Option<Source>, Error> {
        let Some(Stored { value, .. }) = self.repo.bundle(digest).await? else { return Ok(None) };
        let bytes = self.repo.bundle_files(digest, value.chunks).await?;
        let damaged = |reason: String| Error::Internal(format!("the archived bundle {digest} is damaged: {reason}"));
        let files: BTreeMap<String, String> = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let source = Source::from_files(files).map_err(|e| damaged(e.to_string()))?;
        if source.digest() != digest {
            return Err(damaged("its files have another digest".to_owned()));
        }
        Ok(Some(source.with_signatures(value.signatures)))
    }

    /// Keeps the bundle's files, so that whatever it decides can be decided again later, and answers with the number of parts.
    /// Nothing tells of them before the bundle is active: what was only about to become active was never allowed to.
    pub(crate) async fn archive(&self, bundle: &Bundle) -> Result<u32, Error> {
        let digest = bundle.digest();
        let source = bundle.source().clone().with_signatures(None);
        let files = serde_json::to_vec(source.files()).map_err(|e| Error::Internal(e.to_string()))?;
        let chunks: Vec<Bytes> = files.chunks(CHUNK).map(Bytes::copy_from_slice).collect();
        let mut number = 0_u32;
        for part in chunks.chunks(CHUNKS_PER_COMMIT) {
            let mut commit = Commit::new(self.tenant().clone());
            for chunk in part {
                let key = Key::bundle_chunk(self.tenant(), &digest, number);
                // What an interrupted attempt left may be another: scenarios and properties are not in the digest.
                let left = self.repo.kernel().get(&key).await?;
                if left.as_ref().is_none_or(|left| left.value != *chunk) {
                    commit = commit.put(key, left.map(|left| left.revision), chunk.clone());
                }
                number = number.saturating_add(1);
            }
            match self.repo.kernel().commit(commit).await {
                Ok(_) | Err(CommitError::Empty) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(number)
    }
}
