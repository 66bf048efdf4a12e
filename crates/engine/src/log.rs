//! The tenant's log, read and proved.

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_audit::{
    Checkpoint, Hash, NodeId, NoteVerifier, ProofError, SignedCheckpoint, consistency_proof, inclusion_proof,
};
use countersign_core::Timestamp;
use countersign_policy::AdminAction;
use countersign_store::Kernel;
use countersign_store::repository::Repository;
use serde::Deserialize;

use crate::engine::{Call, Engine, Scene, tenant_entity};
use crate::error::Error;

/// The head of the log, signed.
#[derive(Debug, Clone)]
pub struct SignedHead {
    /// The checkpoint as a signed note.
    pub note: SignedCheckpoint,
    /// How to verify it.
    pub verifier: NoteVerifier,
}

/// Among how many of the last records the newest is looked for: a call that waited for its turn writes an older time than
/// one before it.
const NEWEST: u64 = 256;

/// A page of records with their indices, and where the next one begins.
pub type Records = (Vec<(u64, Bytes)>, Option<u64>);

impl<K: Kernel> Engine<K> {
    /// A page of the log.
    ///
    /// # Errors
    /// [`Error::RecordPruned`], [`Error::AdministrationDenied`], [`Error::Store`].
    pub async fn records(&self, call: &Call, start: u64, limit: usize) -> Result<Records, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            self.require_read_log(scene)?;
            let entries = self.repo.kernel().log_entries(self.tenant(), start, limit).await?;
            let size = self.repo.kernel().log_size(self.tenant()).await?;
            let next = entries.last().map(|(index, _)| index.saturating_add(1)).filter(|next| *next < size);
            Ok((entries, next))
        };
        self.settle(call, None, attempt).await
    }

    /// The head of the log as it is now, for a caller who may read the log.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], [`Error::Store`].
    pub async fn checkpoint(&self, call: &Call) -> Result<SignedHead, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            self.require_read_log(scene)?;
            self.head().await
        };
        self.settle(call, None, attempt).await
    }

    /// The head of the log as it is now. What is signed is durable: the store shows no record before its sync (I9).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn head(&self) -> Result<SignedHead, Error> {
        let frontier = self.repo.kernel().log_frontier(self.tenant()).await?;
        self.signed_head(frontier.size(), frontier.root())
    }

    /// The head that the log had at a size, for a caller who may read the log.
    ///
    /// # Errors
    /// [`Error::NotInLog`], [`Error::AdministrationDenied`], [`Error::Store`].
    pub async fn checkpoint_at(&self, call: &Call, size: u64) -> Result<SignedHead, Error> {
        let attempt = |scene: Scene| async move {
            self.require_read_log(&scene)?;
            self.require_size(size).await?;
            self.signed_head(size, self.log_root(size).await?)
        };
        self.settle(call, None, attempt).await
    }

    /// The first record of the log that is kept.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn minimum_index(&self) -> Result<u64, Error> {
        Ok(self.repo.kernel().log_minimum_index(self.tenant()).await?)
    }

    fn signed_head(&self, size: u64, root: Hash) -> Result<SignedHead, Error> {
        let note = Checkpoint::new(self.log.name(), size, root)
            .and_then(|checkpoint| SignedCheckpoint::sign(checkpoint, &[&self.log]))
            .map_err(|e| Error::Internal(e.to_string()))?;
        Ok(SignedHead { note, verifier: self.log.verifier().clone() })
    }

    /// Proves that a record is in the tree of a size: its leaf hash, and the proof.
    ///
    /// # Errors
    /// [`Error::NotInLog`], [`Error::AdministrationDenied`], [`Error::Store`].
    pub async fn inclusion(&self, call: &Call, index: u64, size: u64) -> Result<(Hash, Vec<Hash>), Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            self.require_read_log(scene)?;
            self.require_size(size).await?;
            let leaf = self.repo.kernel().log_node(self.tenant(), NodeId::leaf(index)).await?;
            let leaf = leaf.ok_or_else(|| Error::NotInLog(format!("there is no record {index}")))?;
            let proof = self.prove(|source| inclusion_proof(index, size, source)).await?;
            Ok((leaf, proof))
        };
        self.settle(call, None, attempt).await
    }

    /// Proves that the tree of one size begins that of another.
    ///
    /// # Errors
    /// [`Error::NotInLog`], [`Error::AdministrationDenied`], [`Error::Store`].
    pub async fn consistency(&self, call: &Call, old: u64, new: u64) -> Result<Vec<Hash>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            self.require_read_log(scene)?;
            self.require_size(new).await?;
            self.prove(|source| consistency_proof(old, new, source)).await
        };
        self.settle(call, None, attempt).await
    }

    pub(crate) fn require_read_log(&self, scene: &Scene) -> Result<(), Error> {
        let tenant = tenant_entity(self.tenant())?;
        self.require_read(scene, AdminAction::ReadLog { tenant: &tenant })
    }

    async fn require_size(&self, size: u64) -> Result<(), Error> {
        let has = self.repo.kernel().log_size(self.tenant()).await?;
        if size > has {
            return Err(Error::NotInLog(format!("the log has {has} records, not {size}")));
        }
        Ok(())
    }

    /// Runs a proof twice: once to learn which nodes it needs, and once with them, read in one go.
    pub(crate) async fn prove(
        &self,
        mut proof: impl FnMut(&mut dyn FnMut(NodeId) -> Result<Option<Hash>, Error>) -> Result<Vec<Hash>, ProofError<Error>>,
    ) -> Result<Vec<Hash>, Error> {
        let mut needed = Vec::new();
        proof(&mut |id| {
            needed.push(id);
            Ok(Some(countersign_audit::EMPTY_ROOT))
        })
        .map_err(not_in_log)?;
        let hashes = self.repo.kernel().log_nodes(self.tenant(), &needed).await?;
        let nodes: BTreeMap<NodeId, Hash> =
            needed.into_iter().zip(hashes).filter_map(|(id, hash)| Some((id, hash?))).collect();
        proof(&mut |id| Ok(nodes.get(&id).copied())).map_err(not_in_log)
    }
}

fn not_in_log(error: ProofError<Error>) -> Error {
    match error {
        ProofError::Source(error) => error,
        ProofError::IndexOutsideTree { .. } | ProofError::SizesReversed { .. } => Error::NotInLog(error.to_string()),
        // The store holds every node of a tree that it has the size of.
        ProofError::MissingNode { .. } => Error::Internal(error.to_string()),
    }
}

/// The time of the newest record: the service's clock must not be behind it (I13).
pub(crate) async fn newest_time<K: Kernel>(repo: &Repository<K>) -> Result<Option<Timestamp>, Error> {
    #[derive(Deserialize)]
    struct At {
        at: Timestamp,
    }
    let size = repo.kernel().log_size(repo.tenant()).await?;
    let mut next = size.saturating_sub(NEWEST).max(repo.kernel().log_minimum_index(repo.tenant()).await?);
    let mut newest = None;
    while next < size {
        for (index, bytes) in repo.kernel().log_entries(repo.tenant(), next, usize::MAX).await? {
            let At { at } =
                serde_json::from_slice(&bytes).map_err(|e| Error::Internal(format!("record {index}: {e}")))?;
            newest = newest.max(Some(at));
            next = index.saturating_add(1);
        }
    }
    Ok(newest)
}
