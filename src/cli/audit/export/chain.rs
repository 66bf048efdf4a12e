//! That what is exported is the log, and one log: each batch continues what was exported before, and is in the signed head.

use countersign::client::Client;
use countersign::proto::{GetConsistencyProofRequest, GetInclusionProofRequest};
use countersign_audit::{
    Checkpoint, Frontier, Hash, Node, leaf_hash, node_hash, nodes_needed, verify_consistency, verify_inclusion,
};

use crate::cli::Failure;

/// The log from its first record up to what was exported, as a few hashes.
#[derive(Debug, Clone)]
pub struct Chain {
    frontier: Frontier,
    /// The leaf hash of the last record.
    last: Option<Hash>,
}

impl Chain {
    /// The log of this size, proved to be what `head` begins with. With `root`, it must be the one that was seen before.
    pub async fn at(client: &Client, size: u64, root: Option<Hash>, head: &Checkpoint) -> Result<Self, Failure> {
        if size > head.size() {
            return Err(broken(&format!("it has {} records, and {size} were exported", head.size())));
        }
        let Some(index) = size.checked_sub(1) else {
            return Ok(Self { frontier: Frontier::empty(), last: None });
        };
        let proof = client.get_inclusion_proof(GetInclusionProofRequest { index, tree_size: size }).await?;
        let leaf = hash(&proof.leaf_hash)?;
        let hashes = proof.hashes.iter().map(|bytes| hash(bytes)).collect::<Result<Vec<_>, _>>()?;
        let frontier = edge(size, leaf, &hashes)?;
        verify_inclusion(&leaf, index, size, &hashes, &frontier.root()).map_err(|error| broken(&error))?;
        if root.is_some_and(|root| root != frontier.root()) {
            return Err(broken(&format!("its first {size} records are not those that were exported")));
        }
        let chain = Self { frontier, last: Some(leaf) };
        chain.leads_to(client, head).await?;
        Ok(chain)
    }

    /// How many records it has.
    pub const fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Its root.
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// The leaf hash of its last record.
    pub const fn last(&self) -> Option<Hash> {
        self.last
    }

    /// The log with these records after it, proved to be what `head` begins with.
    pub async fn with(
        &self,
        client: &Client,
        records: impl Iterator<Item = &[u8]>,
        head: &Checkpoint,
    ) -> Result<Self, Failure> {
        let mut longer = self.clone();
        for record in records {
            let leaf = leaf_hash(record);
            longer.frontier.append(leaf);
            longer.last = Some(leaf);
        }
        longer.leads_to(client, head).await?;
        Ok(longer)
    }

    async fn leads_to(&self, client: &Client, head: &Checkpoint) -> Result<(), Failure> {
        let (old, new) = (self.size(), head.size());
        let mut hashes = Vec::new();
        if 0 < old && old < new {
            let request = GetConsistencyProofRequest { old_tree_size: old, new_tree_size: new };
            let proof = client.get_consistency_proof(request).await?;
            hashes = proof.hashes.iter().map(|bytes| hash(bytes)).collect::<Result<Vec<_>, _>>()?;
        }
        verify_consistency(old, &self.root(), new, head.root(), &hashes).map_err(|error| broken(&error))
    }
}

/// The right edge of a tree, from the way of its last leaf to the root: all that stands beside that way stands to its left.
fn edge(size: u64, leaf: Hash, hashes: &[Hash]) -> Result<Frontier, Failure> {
    let short = || Failure::new("the server's proof is malformed").reason("LOG_BROKEN");
    let (within, beside) = hashes.split_at_checked(size.trailing_zeros() as usize).ok_or_else(short)?;
    let smallest = within.iter().fold(leaf, |right, left| node_hash(left, &right));
    let ids = nodes_needed(size);
    let edge = beside.iter().rev().copied().chain([smallest]);
    let nodes = ids.iter().zip(edge).map(|(id, hash)| Node { id: *id, hash });
    if beside.len() + 1 != ids.len() {
        return Err(short());
    }
    Frontier::from_nodes(size, nodes).map_err(|_| short())
}

fn hash(bytes: &[u8]) -> Result<Hash, Failure> {
    Hash::try_from(bytes).map_err(|error| Failure::new(format!("the server's proof is malformed: {error}")))
}

/// The log is not the one that it was.
fn broken(problem: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("the log does not continue what was exported: {problem}"))
        .reason("LOG_BROKEN")
        .hint("nothing was exported of it; keep what was, and compare it with `countersign audit verify --since`")
}

#[cfg(test)]
mod tests {
    use countersign_audit::inclusion_proof;

    use super::*;

    #[test]
    fn the_right_edge_of_a_tree_is_on_the_way_of_its_last_leaf() {
        let mut frontier = Frontier::empty();
        let mut nodes = std::collections::HashMap::new();
        for size in 1..=130_u64 {
            let leaf = leaf_hash(&size.to_be_bytes());
            for node in frontier.append(leaf) {
                nodes.insert((node.id.level, node.id.index), node.hash);
            }
            let proof = inclusion_proof(size - 1, size, |id| {
                Ok::<_, std::convert::Infallible>(nodes.get(&(id.level, id.index)).copied())
            });
            let proof = proof.unwrap();
            assert_eq!(edge(size, leaf, &proof).unwrap(), frontier, "{size}");
            if let Some((_, short)) = proof.split_last() {
                assert!(edge(size, leaf, short).is_err(), "{size}");
            }
        }
    }
}
