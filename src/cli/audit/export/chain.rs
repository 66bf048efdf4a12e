//! That what is exported is the log, and one log: each batch continues what was exported before, and is in the signed head.

use countersign::client::Client;
use countersign::proto::{GetConsistencyProofRequest, GetInclusionProofRequest};
use countersign_audit::{Checkpoint, Frontier, Hash, frontier_before, leaf_hash, verify_consistency, verify_inclusion};

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
        let mut frontier = frontier_before(index, size, &hashes).map_err(|error| broken(&error))?;
        frontier.append(leaf);
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

fn hash(bytes: &[u8]) -> Result<Hash, Failure> {
    Hash::try_from(bytes).map_err(|error| Failure::new(format!("the server's proof is malformed: {error}")))
}

/// The log is not the one that it was.
fn broken(problem: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("the log does not continue what was exported: {problem}"))
        .reason("LOG_BROKEN")
        .hint("nothing was exported of it; keep what was, and compare it with `countersign audit verify --since`")
}
