//! The right edge of the tree: what a writer must hold to append.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hash::{EMPTY_ROOT, Hash, node_hash};

/// The largest tree that [`Frontier::from_nodes`] restores, in leaves.
///
/// Far above what a log can reach, and low enough that no count of leaves or nodes computed from it
/// overflows.
pub const MAX_SIZE: u64 = 1 << 62;

/// The place of a complete subtree: the one over the leaves from `index * 2^level` up to, but not
/// including, `(index + 1) * 2^level`.
///
/// A complete subtree never changes once the log holds all of its leaves, so its hash can be stored
/// under this place for good. Level 0 is the leaves. The order is by level, then by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId {
    /// The height of the subtree: it holds `2^level` leaves.
    pub level: u8,
    /// The position from the left among the subtrees of this level, from 0.
    pub index: u64,
}

/// A complete subtree and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where the subtree is.
    pub id: NodeId,
    /// The hash of the subtree; at level 0 the hash of the leaf.
    pub hash: Hash,
}

/// Why stored nodes do not make a frontier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrontierError {
    /// The size is above [`MAX_SIZE`].
    #[error("a tree of {size} leaves is larger than a log can be; the stored size is damaged")]
    TooLarge {
        /// The size that was given, in leaves.
        size: u64,
    },
    /// A node is missing, or another one stands in its place.
    #[error("a tree of {size} leaves needs {expected}, and the stored nodes do not give it there")]
    Missing {
        /// The size that was given, in leaves.
        size: u64,
        /// The node that must come next.
        expected: NodeId,
    },
    /// There are more nodes than the tree has on its right edge.
    #[error("a tree of {size} leaves has no use for {found}; load only the nodes that it needs")]
    Extra {
        /// The size that was given, in leaves.
        size: u64,
        /// The first node that is too many.
        found: NodeId,
    },
}

/// The compact range of a tree from its first leaf: the roots of the largest complete subtrees, from
/// left to right.
///
/// It holds one hash per set bit of the size, at most 64, so a writer can clone it, append to the
/// copy, commit what the appends returned, and adopt the copy only once the commit is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// From the largest subtree (leftmost) to the smallest; as many as `size` has set bits.
    nodes: Vec<Hash>,
}

impl NodeId {
    /// The place of the leaf with this index.
    #[must_use]
    pub const fn leaf(index: u64) -> Self {
        Self { level: 0, index }
    }

    /// Whether a tree of `size` leaves holds every leaf of this subtree, so that the node has its
    /// final hash and must be stored.
    #[must_use]
    pub fn is_complete_in(self, size: u64) -> bool {
        // A shift by 64 or more leaves no subtree at all.
        self.index < size.checked_shr(u32::from(self.level)).unwrap_or(0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the node at level {}, index {}", self.level, self.index)
    }
}

/// The nodes to load to restore the frontier of a tree of `size` leaves, from left to right: the
/// largest subtree first.
#[must_use]
pub fn nodes_needed(size: u64) -> Vec<NodeId> {
    subtrees(0, size).collect()
}

/// The largest complete subtrees that make up the leaves from `start` up to `end`, from left to
/// right.
///
/// `start` must be a multiple of a power of two that is not below `end - start`; the ranges of
/// RFC 9162 §2.1.1 all are.
pub(crate) fn subtrees(start: u64, end: u64) -> impl DoubleEndedIterator<Item = NodeId> {
    let len = end.saturating_sub(start);
    (0..=63u8).rev().filter(move |level| (len >> level) & 1 == 1).map(move |level| {
        // The subtrees before this one are those of the higher bits of the length.
        let before = (len >> level) & !1;
        NodeId { level, index: (start >> level) | before }
    })
}

impl Frontier {
    /// The frontier of the tree of no leaves.
    #[must_use]
    pub const fn empty() -> Self {
        Self { size: 0, nodes: Vec::new() }
    }

    /// Restores the frontier of a tree of `size` leaves from the nodes that [`nodes_needed`] names,
    /// in that order.
    ///
    /// Whether the hashes are the right ones shows only against a trusted root: compare
    /// [`Frontier::root`] with the checkpoint of that size.
    ///
    /// # Errors
    ///
    /// [`FrontierError`] when the size is above [`MAX_SIZE`], or the nodes are not exactly those.
    pub fn from_nodes(size: u64, nodes: impl IntoIterator<Item = Node>) -> Result<Self, FrontierError> {
        if size > MAX_SIZE {
            return Err(FrontierError::TooLarge { size });
        }
        let mut given = nodes.into_iter();
        let mut hashes = Vec::new();
        for expected in subtrees(0, size) {
            match given.next() {
                Some(node) if node.id == expected => hashes.push(node.hash),
                Some(_) | None => return Err(FrontierError::Missing { size, expected }),
            }
        }
        match given.next() {
            None => Ok(Self { size, nodes: hashes }),
            Some(node) => Err(FrontierError::Extra { size, found: node.id }),
        }
    }

    /// Appends the leaf with this hash (see [`leaf_hash`](crate::leaf_hash)) and returns every
    /// complete subtree that it finishes: the leaf itself first, then upwards.
    ///
    /// The returned nodes, stored from the first leaf on, are all that the proofs need.
    pub fn append(&mut self, leaf: Hash) -> Vec<Node> {
        let mut node = Node { id: NodeId::leaf(self.size), hash: leaf };
        let mut created = vec![node];
        // A right child closes its parent: one subtree of this level is on the edge for each set low
        // bit of the size, so there is one to take for each turn.
        while node.id.index & 1 == 1
            && let Some(left) = self.nodes.pop()
        {
            node.id.level += 1;
            node.id.index >>= 1;
            node.hash = node_hash(&left, &node.hash);
            created.push(node);
        }
        self.nodes.push(node.hash);
        self.size += 1;
        created
    }

    /// The root hash of the tree (RFC 9162 §2.1.1); [`EMPTY_ROOT`] when there are no leaves.
    #[must_use]
    pub fn root(&self) -> Hash {
        fold(self.nodes.iter().copied()).unwrap_or(EMPTY_ROOT)
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The nodes of the right edge, from left to right, as [`Frontier::from_nodes`] takes them.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        let ids = subtrees(0, self.size);
        ids.zip(&self.nodes).map(|(id, hash)| Node { id, hash: *hash }).collect()
    }
}

impl Default for Frontier {
    fn default() -> Self {
        Self::empty()
    }
}

/// The hash of the tree whose largest complete subtrees, from left to right, have these hashes.
pub(crate) fn fold(hashes: impl DoubleEndedIterator<Item = Hash>) -> Option<Hash> {
    hashes.rev().reduce(|right, left| node_hash(&left, &right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;

    fn grown(size: u64) -> (Frontier, Vec<Node>) {
        let mut frontier = Frontier::empty();
        let mut nodes = Vec::new();
        for index in 0..size {
            nodes.extend(frontier.append(leaf_hash(&index.to_be_bytes())));
        }
        (frontier, nodes)
    }

    #[test]
    fn append_returns_each_complete_subtree_once_and_no_other() {
        for size in 0..70 {
            let (_, nodes) = grown(size);
            let mut ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
            ids.sort();
            let mut expected = Vec::new();
            for level in 0..8 {
                expected.extend((0..size >> level).map(|index| NodeId { level, index }));
            }
            assert_eq!(ids, expected, "size {size}");
            assert!(ids.iter().all(|id| id.is_complete_in(size)));
        }
    }

    #[test]
    fn the_nodes_needed_restore_the_frontier_that_appends_on() {
        for size in 0..70 {
            let (mut frontier, nodes) = grown(size);
            let wanted = nodes_needed(size);
            let loaded = wanted.iter().map(|id| *nodes.iter().find(|node| node.id == *id).unwrap());
            let mut restored = Frontier::from_nodes(size, loaded).unwrap();
            assert_eq!(restored, frontier);
            assert_eq!(restored.nodes().len(), wanted.len());
            assert_eq!(restored.append(EMPTY_ROOT), frontier.append(EMPTY_ROOT));
            assert_eq!(restored.root(), frontier.root());
        }
    }

    #[test]
    fn a_copy_that_is_thrown_away_leaves_the_frontier_as_it_was() {
        let (frontier, _) = grown(11);
        let before = frontier.root();
        let mut copy = frontier.clone();
        copy.append(leaf_hash(b"never committed"));
        assert_eq!((frontier.size(), frontier.root()), (11, before));
        assert_ne!(copy.root(), before);
    }

    #[test]
    fn nodes_that_do_not_fit_the_size_are_refused() {
        let (frontier, _) = grown(11);
        let nodes = frontier.nodes();
        let short = nodes.iter().copied().take(2);
        let expected = NodeId { level: 0, index: 10 };
        assert_eq!(Frontier::from_nodes(11, short), Err(FrontierError::Missing { size: 11, expected }));
        let swapped = nodes.iter().copied().rev();
        assert!(matches!(
            Frontier::from_nodes(11, swapped),
            Err(FrontierError::Missing { expected: NodeId { level: 3, index: 0 }, .. })
        ));
        assert_eq!(Frontier::from_nodes(10, nodes), Err(FrontierError::Extra { size: 10, found: expected }));
        assert_eq!(Frontier::from_nodes(u64::MAX, []), Err(FrontierError::TooLarge { size: u64::MAX }));
    }

    #[test]
    fn a_node_of_an_impossible_level_is_in_no_tree() {
        assert!(!NodeId { level: 64, index: 0 }.is_complete_in(u64::MAX));
        assert!(!NodeId { level: 255, index: 0 }.is_complete_in(u64::MAX));
        assert!(NodeId { level: 63, index: 0 }.is_complete_in(u64::MAX));
        assert!(!NodeId { level: 63, index: 1 }.is_complete_in(u64::MAX));
    }
}
