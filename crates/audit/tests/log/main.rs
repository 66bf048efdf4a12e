//! The log as a caller sees it: known vectors, properties, and the errors that name what is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "helpers of tests fail where they should: at the line that was wrong"
)]

mod checkpoint;
mod fsck;
mod note;
mod proofs;
mod reference;
mod vectors;

use std::collections::HashMap;
use std::convert::Infallible;

use countersign_audit::{Frontier, Hash, NodeId, leaf_hash};

/// A log that keeps all of its nodes, as a store would.
pub(crate) struct Log {
    pub(crate) leaves: Vec<Hash>,
    pub(crate) nodes: HashMap<NodeId, Hash>,
    /// The root at each size, from 0.
    pub(crate) roots: Vec<Hash>,
}

impl Log {
    pub(crate) fn of<R: AsRef<[u8]>>(records: impl IntoIterator<Item = R>) -> Self {
        let mut frontier = Frontier::empty();
        let mut log = Self { leaves: Vec::new(), nodes: HashMap::new(), roots: vec![frontier.root()] };
        for record in records {
            let leaf = leaf_hash(record.as_ref());
            log.leaves.push(leaf);
            log.nodes.extend(frontier.append(leaf).into_iter().map(|node| (node.id, node.hash)));
            log.roots.push(frontier.root());
        }
        log
    }

    /// A log whose records are all different.
    pub(crate) fn counting(size: u64) -> Self {
        Self::of((0..size).map(u64::to_be_bytes))
    }

    pub(crate) fn src(&self) -> impl FnMut(NodeId) -> Result<Option<Hash>, Infallible> {
        |id| Ok(self.nodes.get(&id).copied())
    }
}
