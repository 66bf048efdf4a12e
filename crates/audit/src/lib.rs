//! The Merkle log over opaque bytes: append, checkpoint, prove, verify.
//!
//! A record is a byte string; the log is the ordered list of records, hashed into the tree of
//! RFC 9162 §2.1 (the same tree as RFC 6962). Nothing here reads or writes storage, and nothing
//! here knows what a record means: the caller stores what [`Frontier::append`] returns, and hands
//! stored nodes back through a closure when a proof is wanted.
//!
//! The parts:
//! - [`leaf_hash`], [`node_hash`], [`EMPTY_ROOT`]: the hashes of the tree;
//! - [`Frontier`]: the right edge of the tree, all that a writer must hold to append;
//! - [`inclusion_proof`], [`consistency_proof`] and their verification;
//! - [`Note`], [`Checkpoint`], [`SignedCheckpoint`]: the C2SP text formats that sign a tree head;
//! - [`TileId`] and [`bundle`]: the tree and the records as files (C2SP tlog-tiles);
//! - [`Cosigner`], [`AddCheckpoint`]: what witnesses say of a head, and how they are asked (C2SP tlog-cosignature, tlog-witness);
//! - [`LogVerifier`]: checks a whole log, record by record, in memory that grows with its logarithm.

mod checkpoint;
mod cosignature;
mod frontier;
mod fsck;
mod hash;
mod note;
mod proof;
mod tile;
mod vkey;
mod witness;

pub use checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint};
pub use cosignature::{CosignatureError, CosignatureVerifier, Cosigner};
pub use frontier::{Frontier, FrontierError, MAX_SIZE, Node, NodeId, nodes_needed};
pub use fsck::{FsckError, LogVerifier, check_node};
pub use hash::{EMPTY_ROOT, Hash, HashError, leaf_hash, node_hash};
pub use note::{MAX_NOTE_BYTES, MAX_SIGNATURES, Note, NoteError, NoteSignature};
pub use proof::{
    ProofError, VerifyError, consistency_proof, frontier_before, inclusion_proof, verify_consistency, verify_inclusion,
};
pub use tile::{BundleError, EntryForm, TILE_WIDTH, TileId, bundle, split_bundle, tiles_between, tiles_of_level};
pub use vkey::{KeyError, KeyId, NoteSigner, NoteVerifier};
pub use witness::{AddCheckpoint, MalformedQuestion, Refusal};
