//! Checking a whole log, record by record.

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::frontier::{Frontier, Node, NodeId};
use crate::hash::{Hash, leaf_hash};

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FsckError {
    /// There is a gap before this record.
    #[error("record {expected} is missing: the next one stored is {found}")]
    MissingRecord {
        /// The index that had to come next, from 0.
        expected: u64,
        /// The index that came instead.
        found: u64,
    },
    /// The record comes a second time, or too late.
    #[error("record {found} is stored out of order: record {expected} had to come next")]
    RepeatedRecord {
        /// The index that had to come next, from 0.
        expected: u64,
        /// The index that came instead.
        found: u64,
    },
    /// The stored leaf hash is not the hash of the stored record.
    #[error(
        "record {index} is not the one that was hashed: the stored leaf hash is `{stored}`, \
         and the stored bytes give `{computed}`"
    )]
    LeafMismatch {
        /// The index of the record, from 0.
        index: u64,
        /// The hash that is stored.
        stored: Hash,
        /// The hash of the stored bytes.
        computed: Hash,
    },
    /// A stored interior node does not follow from the records below it.
    #[error("{id} is stored as `{stored}`, and the records below it give `{computed}`")]
    NodeMismatch {
        /// The place of the node.
        id: NodeId,
        /// The hash that is stored.
        stored: Hash,
        /// The hash that follows from the records.
        computed: Hash,
    },
    /// A node that the records finish is not stored.
    #[error("{id} is not stored; rebuild the nodes from the records")]
    MissingNode {
        /// The place of the node.
        id: NodeId,
    },
    /// A stored node lies outside the tree that the records make up.
    #[error("{id} is stored, and the {size} records of the log do not reach it")]
    StrayNode {
        /// The place of the node.
        id: NodeId,
        /// The number of records.
        size: u64,
    },
    /// The checkpoint covers records that are not stored: the end of the log is lost.
    #[error(
        "the checkpoint covers {checkpoint} records and the log has {records}: \
         record {records} is the first one missing"
    )]
    CheckpointAhead {
        /// The number of records in the log.
        records: u64,
        /// The size that the checkpoint signs.
        checkpoint: u64,
    },
    /// The checkpoint does not cover the last records.
    #[error(
        "the checkpoint covers {checkpoint} records and the log has {records}: \
         record {checkpoint} is the first one not covered"
    )]
    CheckpointBehind {
        /// The number of records in the log.
        records: u64,
        /// The size that the checkpoint signs.
        checkpoint: u64,
    },
    /// The records do not give the root that was signed.
    #[error(
        "the first {size} records give the root `{computed}`, and the checkpoint signs `{signed}`: \
         a record below {size} is not the one that was signed"
    )]
    RootMismatch {
        /// The size that the checkpoint signs.
        size: u64,
        /// The root that the checkpoint signs.
        signed: Hash,
        /// The root that the records give.
        computed: Hash,
    },
}

/// Recomputes the tree from the records, in order, and holds it against what is stored and signed.
///
/// It holds no more than a [`Frontier`], so the memory grows with the logarithm of the log. A whole
/// check goes:
/// 1. for each stored record, [`LogVerifier::push_at`], and for each node that returns,
///    [`check_node`] with what the store has there;
/// 2. whenever [`LogVerifier::size`] is the size of a stored checkpoint whose signature holds,
///    [`LogVerifier::compare`];
/// 3. at the end, [`LogVerifier::compare`] with the newest checkpoint, and
///    [`LogVerifier::check_stray`] for the stored nodes.
///
/// A record that differs from its stored leaf hash still counts, with the hash of its bytes: the
/// caller may go on and collect every difference. If the root then matches the checkpoint, the
/// records are the signed ones and only the stored nodes are damaged.
#[derive(Debug, Clone, Default)]
pub struct LogVerifier {
    frontier: Frontier,
}

impl LogVerifier {
    /// Starts at the first record.
    #[must_use]
    pub const fn new() -> Self {
        Self { frontier: Frontier::empty() }
    }

    /// Goes on after the records of a frontier, whose root the caller must have compared with a
    /// checkpoint that it trusts.
    #[must_use]
    pub const fn resume(frontier: Frontier) -> Self {
        Self { frontier }
    }

    /// Takes the next record and returns the nodes that it finishes, the leaf first, to be held
    /// against the stored ones with [`check_node`].
    pub fn push(&mut self, record: &[u8]) -> Vec<Node> {
        self.push_leaf(leaf_hash(record))
    }

    /// Like [`LogVerifier::push`], for a record of which only the leaf hash is left.
    pub fn push_leaf(&mut self, leaf: Hash) -> Vec<Node> {
        self.frontier.append(leaf)
    }

    /// Like [`LogVerifier::push`], for a record that is stored under `index`.
    ///
    /// # Errors
    ///
    /// [`FsckError::MissingRecord`] or [`FsckError::RepeatedRecord`] when another index had to come
    /// next; the record is then not taken.
    pub fn push_at(&mut self, index: u64, record: &[u8]) -> Result<Vec<Node>, FsckError> {
        let expected = self.size();
        if index > expected {
            return Err(FsckError::MissingRecord { expected, found: index });
        }
        if index < expected {
            return Err(FsckError::RepeatedRecord { expected, found: index });
        }
        Ok(self.push(record))
    }

    /// Compares the records taken so far with a checkpoint, whose signature the caller must have
    /// checked ([`SignedCheckpoint::verify`](crate::SignedCheckpoint::verify)).
    ///
    /// # Errors
    ///
    /// [`FsckError::CheckpointAhead`] or [`FsckError::CheckpointBehind`] when it is of another size,
    /// [`FsckError::RootMismatch`] when it signs another root.
    pub fn compare(&self, checkpoint: &Checkpoint) -> Result<(), FsckError> {
        let (records, size) = (self.size(), checkpoint.size());
        if size > records {
            return Err(FsckError::CheckpointAhead { records, checkpoint: size });
        }
        if size < records {
            return Err(FsckError::CheckpointBehind { records, checkpoint: size });
        }
        let (signed, computed) = (*checkpoint.root(), self.frontier.root());
        if signed != computed {
            return Err(FsckError::RootMismatch { size, signed, computed });
        }
        Ok(())
    }

    /// Checks that a stored node lies within the tree of the records taken so far.
    ///
    /// # Errors
    ///
    /// [`FsckError::StrayNode`] when the records do not fill the subtree.
    pub fn check_stray(&self, id: NodeId) -> Result<(), FsckError> {
        let size = self.size();
        if id.is_complete_in(size) { Ok(()) } else { Err(FsckError::StrayNode { id, size }) }
    }

    /// The number of records taken so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The tree of the records taken so far.
    #[must_use]
    pub const fn frontier(&self) -> &Frontier {
        &self.frontier
    }
}

/// Holds a node that the records gave against what is stored in its place.
///
/// # Errors
///
/// [`FsckError::MissingNode`] when nothing is stored, [`FsckError::LeafMismatch`] or
/// [`FsckError::NodeMismatch`] when another hash is.
pub fn check_node(computed: &Node, stored: Option<Hash>) -> Result<(), FsckError> {
    let Node { id, hash } = *computed;
    match stored {
        None => Err(FsckError::MissingNode { id }),
        Some(stored) if stored == hash => Ok(()),
        Some(stored) if id.level == 0 => Err(FsckError::LeafMismatch { index: id.index, stored, computed: hash }),
        Some(stored) => Err(FsckError::NodeMismatch { id, stored, computed: hash }),
    }
}
