//! The log as its publisher reads it. Nobody's call: what is read here is what the log shows to those who may read it anyway.

use bytes::Bytes;
use countersign_audit::{
    Checkpoint, Frontier, Hash, Node, NodeId, NoteVerifier, SignedCheckpoint, consistency_proof, nodes_needed,
};
use countersign_store::Kernel;

use crate::engine::{Call, Engine, Scene};
use crate::error::Error;
use crate::log::SignedHead;

/// How a log stands to a head that was published before. Only one that continues it may be published (I9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStanding {
    /// It begins with what the head is of.
    Continues,
    /// It has fewer records.
    Behind,
    /// It has other records.
    Forked,
}

impl<K: Kernel> Engine<K> {
    /// How heads of the log are verified.
    pub fn log_verifier(&self) -> &NoteVerifier {
        self.log.verifier()
    }

    /// Records from an index on, as many as one read gives.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn log_records(&self, from: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, Error> {
        Ok(self.repo.kernel().log_entries(self.tenant(), from, limit).await?)
    }

    /// The hashes of these places of the tree.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Internal`] when one is not there.
    pub async fn log_hashes(&self, ids: &[NodeId]) -> Result<Vec<Hash>, Error> {
        let hashes = self.repo.kernel().log_nodes(self.tenant(), ids).await?;
        let missing = || Error::Internal("a node of the log is not stored".to_owned());
        hashes.into_iter().map(|hash| hash.ok_or_else(missing)).collect()
    }

    /// The root that the log had at a size.
    ///
    /// # Errors
    /// As [`Self::log_hashes`].
    pub async fn log_root(&self, size: u64) -> Result<Hash, Error> {
        let ids = nodes_needed(size);
        let hashes = self.log_hashes(&ids).await?;
        let nodes = ids.into_iter().zip(hashes).map(|(id, hash)| Node { id, hash });
        let frontier = Frontier::from_nodes(size, nodes).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(frontier.root())
    }

    /// How the log, which has `size` records by now, stands to a head of it that was published before.
    ///
    /// # Errors
    /// As [`Self::log_hashes`].
    pub async fn standing_to(&self, published: &Checkpoint, size: u64) -> Result<LogStanding, Error> {
        if size < published.size() {
            return Ok(LogStanding::Behind);
        }
        let same = self.log_root(published.size()).await? == *published.root();
        Ok(if same { LogStanding::Continues } else { LogStanding::Forked })
    }

    /// That the log of one size begins that of another.
    ///
    /// # Errors
    /// As [`Self::consistency`], for nobody.
    pub async fn log_continues(&self, old: u64, new: u64) -> Result<Vec<Hash>, Error> {
        // Of nothing, nothing is to be shown.
        if old == 0 { Ok(Vec::new()) } else { self.prove(|source| consistency_proof(old, new, source)).await }
    }

    /// Tells which checkpoint others can see.
    pub fn tell_published(&self, note: SignedCheckpoint) {
        self.published.store(Some(note.into()));
    }

    /// The checkpoint that was published last, with what witnesses say of it, for a caller who may read the log.
    ///
    /// # Errors
    /// [`Error::NotInLog`] when none was, [`Error::AdministrationDenied`], [`Error::Store`].
    pub async fn published(&self, call: &Call) -> Result<SignedHead, Error> {
        let attempt = |scene: Scene| async move {
            self.require_read_log(&scene)?;
            let none =
                || Error::NotInLog("no checkpoint was published; a server with `log.tiles` publishes".to_owned());
            let note = self.published.load_full().ok_or_else(none)?;
            Ok(SignedHead { note: (*note).clone(), verifier: self.log_verifier().clone() })
        };
        self.settle(call, None, attempt).await
    }
}
