//! Inclusion and consistency proofs: making them from stored nodes, and checking them.

use thiserror::Error;

use crate::frontier::{Frontier, FrontierError, Node, NodeId, fold, nodes_needed, subtrees};
use crate::hash::{EMPTY_ROOT, Hash, node_hash};

/// Why a proof could not be made. `E` is the error of the node source.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProofError<E> {
    /// The tree has no leaf of this index.
    #[error("a tree of {size} leaves has no leaf {index}; ask for a larger tree or an earlier leaf")]
    IndexOutsideTree {
        /// The leaf that was asked for, from 0.
        index: u64,
        /// The size of the tree, in leaves.
        size: u64,
    },
    /// The old tree is larger than the new one.
    #[error("a tree of {new} leaves cannot continue one of {old}; give the smaller size first")]
    SizesReversed {
        /// The size of the old tree, in leaves.
        old: u64,
        /// The size of the new tree, in leaves.
        new: u64,
    },
    /// The source does not have a node that a tree of this size holds.
    #[error("{id} is not stored; check the log, and rebuild its nodes from the records")]
    MissingNode {
        /// The node that is missing.
        id: NodeId,
    },
    /// The source failed.
    #[error("the stored nodes could not be read")]
    Source(#[source] E),
}

/// Why a proof was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// The tree has no leaf of this index.
    #[error("a tree of {size} leaves has no leaf {index}")]
    IndexOutsideTree {
        /// The leaf that the proof is said to be of, from 0.
        index: u64,
        /// The size of the tree, in leaves.
        size: u64,
    },
    /// The old tree is larger than the new one: the log has lost leaves.
    #[error("a tree of {new} leaves cannot continue one of {old}")]
    SizesReversed {
        /// The size of the old tree, in leaves.
        old: u64,
        /// The size of the new tree, in leaves.
        new: u64,
    },
    /// The proof has fewer hashes than the place in the tree asks for.
    #[error("the proof ends after {len} hashes, before it reaches the root")]
    TooShort {
        /// The length of the proof, in hashes.
        len: usize,
    },
    /// The proof has more hashes than the place in the tree asks for.
    #[error("the proof has {len} hashes, more than the path to the root is long")]
    TooLong {
        /// The length of the proof, in hashes.
        len: usize,
    },
    /// The proof leads to another root for the tree, or the new tree.
    #[error("the proof leads to the root `{computed}`, and `{expected}` is claimed")]
    RootMismatch {
        /// The root that is claimed.
        expected: Hash,
        /// The root that follows from the proof.
        computed: Hash,
    },
    /// The proof leads to another root for the old tree: the log was rewritten.
    #[error("the proof leads to the old root `{computed}`, and `{expected}` was seen before")]
    OldRootMismatch {
        /// The old root that is claimed.
        expected: Hash,
        /// The old root that follows from the proof.
        computed: Hash,
    },
}

/// The proof that leaf `index` is in the tree of the first `size` leaves (RFC 9162 §2.1.3.1), from
/// the leaf upwards.
///
/// `src` gives the stored hash of a complete subtree. It is asked for at most 128 nodes, each one
/// complete in a tree of `size` leaves, so nodes stored for a larger tree serve as well.
///
/// # Errors
///
/// [`ProofError`] when the leaf is outside the tree, a node is not stored, or the source fails.
pub fn inclusion_proof<E>(
    index: u64,
    size: u64,
    mut src: impl FnMut(NodeId) -> Result<Option<Hash>, E>,
) -> Result<Vec<Hash>, ProofError<E>> {
    if index >= size {
        return Err(ProofError::IndexOutsideTree { index, size });
    }
    let (mut start, mut end) = (0, size);
    let mut proof = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(range_hash(middle, end, &mut src)?);
            end = middle;
        } else {
            proof.push(range_hash(start, middle, &mut src)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of the first `new` leaves continues the one of the first `old` leaves
/// (RFC 9162 §2.1.4.1).
///
/// The RFC leaves two cases out, in which there is nothing to prove beyond the roots: for `old == 0`
/// and for `old == new` the proof is empty.
///
/// `src` is as for [`inclusion_proof`].
///
/// # Errors
///
/// [`ProofError`] when `old` is above `new`, a node is not stored, or the source fails.
pub fn consistency_proof<E>(
    old: u64,
    new: u64,
    mut src: impl FnMut(NodeId) -> Result<Option<Hash>, E>,
) -> Result<Vec<Hash>, ProofError<E>> {
    if old > new {
        return Err(ProofError::SizesReversed { old, new });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut start, mut end) = (0, new);
    let mut proof = Vec::new();
    while old < end {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(range_hash(middle, end, &mut src)?);
            end = middle;
        } else {
            proof.push(range_hash(start, middle, &mut src)?);
            start = middle;
        }
    }
    // The range now ends where the old tree ends. If it also starts where that starts, it is the old
    // tree, whose root the verifier holds.
    if start != 0 {
        proof.push(range_hash(start, end, &mut src)?);
    }
    proof.reverse();
    Ok(proof)
}

/// The largest power of two below `len`, which must be at least 2 (RFC 9162 §2.1.1).
fn split(len: u64) -> u64 {
    1 << (len - 1).ilog2()
}

/// The hash of the tree over the leaves from `start` up to `end`, from the stored subtrees.
fn range_hash<E>(
    start: u64,
    end: u64,
    src: &mut impl FnMut(NodeId) -> Result<Option<Hash>, E>,
) -> Result<Hash, ProofError<E>> {
    let mut hashes = Vec::new();
    for id in subtrees(start, end) {
        let stored = src(id).map_err(ProofError::Source)?;
        hashes.push(stored.ok_or(ProofError::MissingNode { id })?);
    }
    Ok(fold(hashes.into_iter()).unwrap_or(EMPTY_ROOT))
}

/// Checks that the leaf with this hash is leaf `index` of the tree of `size` leaves with this root
/// (RFC 9162 §2.1.3.2).
///
/// The size and the root must come from one checkpoint: a root does not say which size it is of, and
/// some proofs fit more than one.
///
/// # Errors
///
/// [`VerifyError`] when the leaf is outside the tree, the proof is not of the exact length, or it
/// leads to another root.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), VerifyError> {
    if index >= size {
        return Err(VerifyError::IndexOutsideTree { index, size });
    }
    let mut path = Path { node: index, last: size - 1 };
    let mut computed = *leaf;
    for sibling in proof {
        if path.last == 0 {
            return Err(VerifyError::TooLong { len: proof.len() });
        }
        computed = if path.sibling_is_left() { node_hash(sibling, &computed) } else { node_hash(&computed, sibling) };
        path.climb();
    }
    if path.last != 0 {
        return Err(VerifyError::TooShort { len: proof.len() });
    }
    same_root(*root, computed)
}

/// The tree of the leaves before leaf `index`, from the proof that the leaf is in a tree of `size` leaves: the hashes of the proof that
/// stand to the left of the path are the right edge of that tree.
///
/// Whoever has the records from `index` on, and not those before, goes on from here
/// ([`LogVerifier::resume`](crate::LogVerifier::resume)). Nothing needs to be believed of the proof for that: a
/// wrong hash in it does not lead to the root that is signed for the whole.
///
/// # Errors
///
/// [`VerifyError`] when the leaf is outside the tree, or the proof is not of the exact length.
pub fn frontier_before(index: u64, size: u64, proof: &[Hash]) -> Result<Frontier, VerifyError> {
    if index >= size {
        return Err(VerifyError::IndexOutsideTree { index, size });
    }
    let mut path = Path { node: index, last: size - 1 };
    let mut left = Vec::new();
    for sibling in proof {
        if path.last == 0 {
            return Err(VerifyError::TooLong { len: proof.len() });
        }
        if path.sibling_is_left() {
            left.push(*sibling);
        }
        path.climb();
    }
    if path.last != 0 {
        return Err(VerifyError::TooShort { len: proof.len() });
    }
    // One stands to the left for each set bit of the index, the smallest subtree first.
    let nodes = nodes_needed(index).into_iter().zip(left.into_iter().rev()).map(|(id, hash)| Node { id, hash });
    Frontier::from_nodes(index, nodes).map_err(|error| match error {
        FrontierError::Missing { .. } => VerifyError::TooShort { len: proof.len() },
        FrontierError::TooLarge { .. } | FrontierError::Extra { .. } => VerifyError::TooLong { len: proof.len() },
    })
}

/// Checks that the tree of `new_size` leaves with the root `new_root` continues the one of
/// `old_size` leaves with the root `old_root` (RFC 9162 §2.1.4.2).
///
/// For equal sizes, and for an old tree of no leaves, the proof must be empty, equal trees must have
/// equal roots, and a tree of no leaves must have [`EMPTY_ROOT`].
///
/// # Errors
///
/// [`VerifyError`] when the old tree is the larger one, the proof is not of the exact length, or it
/// leads to another root for either tree.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), VerifyError> {
    if old_size > new_size {
        return Err(VerifyError::SizesReversed { old: old_size, new: new_size });
    }
    if old_size == 0 {
        same_old_root(*old_root, EMPTY_ROOT)?;
    }
    if old_size == 0 || old_size == new_size {
        if !proof.is_empty() {
            return Err(VerifyError::TooLong { len: proof.len() });
        }
        return if old_size == new_size { same_root(*new_root, *old_root) } else { Ok(()) };
    }
    let mut path = Path { node: old_size - 1, last: new_size - 1 };
    // The walk starts at the largest subtree that ends where the old tree ends.
    let skip = path.node.trailing_ones();
    path.node >>= skip;
    path.last >>= skip;
    // The old tree is that subtree when its size is a power of two: the proof then leaves it out.
    let mut hashes = proof.iter();
    let first = if old_size.is_power_of_two() { Some(old_root) } else { hashes.next() };
    let Some(first) = first else {
        return Err(VerifyError::TooShort { len: proof.len() });
    };
    let (mut old, mut new) = (*first, *first);
    for sibling in hashes {
        if path.last == 0 {
            return Err(VerifyError::TooLong { len: proof.len() });
        }
        if path.sibling_is_left() {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
        } else {
            new = node_hash(&new, sibling);
        }
        path.climb();
    }
    if path.last != 0 {
        return Err(VerifyError::TooShort { len: proof.len() });
    }
    same_old_root(*old_root, old)?;
    same_root(*new_root, new)
}

/// Where a walk to the root stands: `fn` and `sn` of RFC 9162 §2.1.3.2.
struct Path {
    /// The index, at this level, of the node walked from.
    node: u64,
    /// The index, at this level, of the last node; 0 once the walk is at the root.
    last: u64,
}

impl Path {
    /// Whether the next hash of the proof stands to the left of the hash computed so far.
    fn sibling_is_left(&self) -> bool {
        self.node & 1 == 1 || self.node == self.last
    }

    /// Goes to the parent, past the levels at which the node is the last one and has no sibling.
    fn climb(&mut self) {
        if self.node & 1 == 0 && self.node == self.last {
            // At node 0 the shift is all the way: the walk is at the root.
            let levels = self.node.trailing_zeros();
            self.node = self.node.checked_shr(levels).unwrap_or(0);
            self.last = self.last.checked_shr(levels).unwrap_or(0);
        }
        self.node >>= 1;
        self.last >>= 1;
    }
}

fn same_root(expected: Hash, computed: Hash) -> Result<(), VerifyError> {
    if expected == computed { Ok(()) } else { Err(VerifyError::RootMismatch { expected, computed }) }
}

fn same_old_root(expected: Hash, computed: Hash) -> Result<(), VerifyError> {
    if expected == computed { Ok(()) } else { Err(VerifyError::OldRootMismatch { expected, computed }) }
}
