//! Reading a whole log in one go, at the speed of the disk: for whoever checks it.

use countersign_audit::{Hash, NodeId};
use countersign_core::TenantId;
use rocksdb::{DB, DBRawIteratorWithThreadMode, SnapshotWithThreadMode};

use super::RocksKernel;
use super::database::{Column, Database, between, damaged, index, log_key, node_key};
use crate::error::StoreError;
use crate::layout::Prefix;

/// How much is read ahead of the records, in bytes.
const AHEAD: usize = 4 << 20;
/// How much is read ahead of the nodes of one level, in bytes.
const NODES_AHEAD: usize = 256 << 10;

/// The stored nodes of a log, asked for in the order in which records finish them: each level from left to right.
pub struct StoredNodes<'a> {
    database: &'a Database,
    snapshot: &'a SnapshotWithThreadMode<'a, DB>,
    log: &'a TenantId,
    levels: Vec<DBRawIteratorWithThreadMode<'a, DB>>,
}

impl RocksKernel {
    /// Gives `take` every record of a log from an index on, with its index and the stored nodes, all as of one moment. Blocks.
    ///
    /// # Errors
    /// [`StoreError`], and whatever `take` says: it ends the reading.
    pub fn read_log<E: From<StoreError>>(
        &self,
        log: &TenantId,
        from: u64,
        mut take: impl FnMut(u64, &[u8], &mut StoredNodes<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.shared.running()?;
        let database = &self.shared.database;
        let snapshot = database.raw().snapshot();
        let mut nodes = StoredNodes { database, snapshot: &snapshot, log, levels: Vec::new() };
        let mut options = between(&log_key(log, from), &Prefix::tenant(log).end());
        options.set_snapshot(&snapshot);
        options.fill_cache(false);
        // Whoever reads all of a log checks what is hashed over it, which finds every change that a checksum would.
        options.set_verify_checksums(false);
        options.set_readahead_size(AHEAD);
        let mut records = database.raw().raw_iterator_cf_opt(database.column(Column::Log)?, options);
        records.seek_to_first();
        while let Some((key, record)) = records.item() {
            take(index(key)?, record, &mut nodes)?;
            records.next();
        }
        Ok(records.status().map_err(StoreError::from)?)
    }
}

impl StoredNodes<'_> {
    /// What is stored in this place.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get(&mut self, id: NodeId) -> Result<Option<Hash>, StoreError> {
        let place = usize::from(id.level);
        while self.levels.len() <= place {
            let level = u8::try_from(self.levels.len()).unwrap_or(u8::MAX);
            let end = NodeId { level: level.saturating_add(1), index: 0 };
            let mut options = between(&node_key(self.log, NodeId { level, index: 0 }), &node_key(self.log, end));
            options.set_snapshot(self.snapshot);
            options.fill_cache(false);
            options.set_verify_checksums(false);
            options.set_readahead_size(NODES_AHEAD);
            let mut nodes = self.database.raw().raw_iterator_cf_opt(self.database.column(Column::Nodes)?, options);
            nodes.seek_to_first();
            self.levels.push(nodes);
        }
        let Some(nodes) = self.levels.get_mut(place) else { return Ok(None) };
        // An iterator stays within its level: what is left of a key is the index.
        let at = |key: &[u8]| key.split_last_chunk().map(|(_, index)| u64::from_be_bytes(*index));
        if nodes.key().and_then(at).is_some_and(|index| index < id.index) {
            nodes.seek(node_key(self.log, id));
        }
        let found = match nodes.item() {
            Some((key, hash)) if at(key) == Some(id.index) => {
                let wrong = |_| damaged(format!("{id} of the log of `{}` is not a hash", self.log));
                Some(Hash::try_from(hash).map_err(wrong)?)
            }
            Some(_) | None => None,
        };
        if found.is_some() {
            nodes.next();
        }
        nodes.status()?;
        Ok(found)
    }
}
