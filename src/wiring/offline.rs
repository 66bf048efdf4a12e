//! The logs of a data directory that no server has open.

use std::path::Path;
use std::sync::Arc;

use countersign_audit::{Frontier, FrontierError, Hash, Node, NodeId, NoteVerifier, nodes_needed};
use countersign_core::TenantId;
use countersign_store::{Config as StoreConfig, Kernel, Mode, OpenError, RocksKernel, StoreError, StoredNodes};

use super::beside;
use super::{WiringError, store_path};
use crate::keystore;

/// One tenant's log, read without a server.
#[derive(Debug)]
pub struct OfflineLog {
    kernel: Arc<RocksKernel>,
    tenant: TenantId,
    verifier: NoteVerifier,
    checkpoint: Option<String>,
}

/// The logs of a data directory that no server has open. Needs a multi-threaded tokio runtime.
///
/// # Errors
/// [`WiringError`] if the store does not open: that alone may show damage, and says where.
pub fn offline_logs(data_dir: &Path) -> Result<Vec<OfflineLog>, WiringError> {
    let path = store_path(data_dir);
    let kernel = match RocksKernel::open(&path, &StoreConfig::new(Mode::Production)) {
        Err(OpenError::OtherMode { stamped, .. }) => RocksKernel::open(&path, &StoreConfig::new(stamped)),
        other => other,
    }?;
    let kernel = Arc::new(kernel);
    let tenants = wait(kernel.logs()).map_err(|e| damaged(&e))?;
    let log = |tenant: TenantId| {
        let verifier = keystore::log_verifier(data_dir, &tenant)?;
        let checkpoint = match std::fs::read_to_string(beside::path(data_dir, &tenant)) {
            Ok(checkpoint) => Some(checkpoint),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            // One that cannot be read is not one that was never written.
            Err(error) => return Err(WiringError::Os { what: "cannot read the head", reason: error.to_string() }),
        };
        Ok(OfflineLog { kernel: Arc::clone(&kernel), tenant, verifier, checkpoint })
    };
    tenants.into_iter().map(log).collect()
}

fn damaged(error: &dyn std::fmt::Display) -> WiringError {
    WiringError::Os { what: "cannot read the log", reason: error.to_string() }
}

/// Waits on a thread of the runtime: for a command that does nothing else meanwhile.
fn wait<F: Future>(future: F) -> F::Output {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

impl OfflineLog {
    /// Whose it is.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The key that signs its heads, as it lies beside the store. A stranger brings their own copy.
    #[must_use]
    pub const fn verifier(&self) -> &NoteVerifier {
        &self.verifier
    }

    /// The newest head that was written beside the store.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&str> {
        self.checkpoint.as_deref()
    }

    /// The first record that is kept; those before it were dropped.
    ///
    /// # Errors
    /// What the store says.
    pub fn minimum_index(&self) -> Result<u64, StoreError> {
        wait(self.kernel.log_minimum_index(&self.tenant))
    }

    /// What is stored in a place of the tree.
    ///
    /// # Errors
    /// What the store says.
    pub fn node(&self, id: NodeId) -> Result<Option<Hash>, StoreError> {
        wait(self.kernel.log_node(&self.tenant, id))
    }

    /// The right edge that the log had at a size, from the stored nodes.
    ///
    /// # Errors
    /// What the store says, also when a node is missing.
    pub fn edge(&self, size: u64) -> Result<Frontier, StoreError> {
        let damaged = |error: FrontierError| StoreError::Damaged { reason: error.to_string() };
        let ids = nodes_needed(size);
        let hashes = wait(self.kernel.log_nodes(&self.tenant, &ids))?;
        let nodes = ids.into_iter().zip(hashes).filter_map(|(id, hash)| Some(Node { id, hash: hash? }));
        Frontier::from_nodes(size, nodes).map_err(damaged)
    }

    /// Gives `take` every record from an index on, in order, with the stored nodes. An error of either ends it. Blocks.
    ///
    /// # Errors
    /// What the store says, or `take`.
    pub fn read<E: From<StoreError>>(
        &self,
        from: u64,
        take: impl FnMut(u64, &[u8], &mut StoredNodes<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        tokio::task::block_in_place(|| self.kernel.read_log(&self.tenant, from, take))
    }
}
