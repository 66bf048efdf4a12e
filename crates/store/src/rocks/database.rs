//! RocksDB as it is used here: column families, options, and how rows are encoded.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use countersign_audit::{Frontier, Hash, Node, NodeId, leaf_hash, nodes_needed};
use countersign_core::TenantId;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, DB, DBCompressionType, DBPinnableSlice, DBRecoveryMode, ErrorKind,
    LogLevel, Options, ReadOptions, ReadTier, Snapshot, WriteBatch,
};

use crate::error::StoreError;
use crate::kernel::{MAX_PAGE, MAX_PAGE_BYTES, Page, PageBuilder, Revision, Row, bounds};
use crate::layout::{Key, Prefix};

/// The column families. Their names are part of the data format.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column {
    /// Format version, stamp, epoch and last revision.
    Meta,
    /// Rows by key: the revision in 8 bytes, then the value.
    Rows,
    /// Records by tenant and index.
    Log,
    /// Hashes of complete subtrees by tenant, level and index.
    Nodes,
}

impl Column {
    pub(super) const ALL: [Self; 4] = [Self::Meta, Self::Rows, Self::Log, Self::Nodes];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "default",
            Self::Rows => "rows",
            Self::Log => "log",
            Self::Nodes => "nodes",
        }
    }
}

pub(super) const FORMAT: &[u8] = b"format";
pub(super) const MODE: &[u8] = b"mode";
pub(super) const EPOCH: &[u8] = b"epoch";
pub(super) const REVISION: &[u8] = b"revision";
/// The minimum index of a tenant's log, by the tenant's name after this. Absent: 0.
const MINIMUM_INDEX: &str = "minimum index ";

/// An open database.
#[derive(Debug)]
pub(super) struct Database(DB);

/// What a read of memory alone found.
#[derive(Debug)]
pub(super) enum Cached<T> {
    Known(T),
    /// The answer is on disk.
    OnDisk,
}

impl From<rocksdb::Error> for StoreError {
    fn from(error: rocksdb::Error) -> Self {
        Self::Damaged { reason: error.into_string() }
    }
}

pub(super) fn damaged(reason: impl Into<String>) -> StoreError {
    StoreError::Damaged { reason: reason.into() }
}

/// The options that decide what is durable and what is noticed.
pub(super) fn options(cache: &Cache) -> Options {
    let mut options = Options::default();
    // Point-in-time recovery stops quietly at the first damage and loses the synced records after it (I12).
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_max_background_jobs(2);
    // Bounds how much log is replayed at a start.
    options.set_max_total_wal_size(128 << 20);
    options.set_write_buffer_size(64 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_log_level(LogLevel::Warn);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // Every new request id is looked up and not found: that must not cost a read of a table.
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    options
}

impl Database {
    pub(super) fn open(options: &Options, path: &Path) -> Result<Self, rocksdb::Error> {
        DB::open_cf_with_opts(options, path, Self::columns(options)).map(Self)
    }

    /// Opens without changing anything on disk.
    pub(super) fn open_read_only(options: &Options, path: &Path) -> Result<Self, rocksdb::Error> {
        DB::open_cf_with_opts_for_read_only(options, path, Self::columns(options), false).map(Self)
    }

    fn columns(options: &Options) -> impl Iterator<Item = (&'static str, Options)> {
        Column::ALL.into_iter().map(|column| (column.name(), options.clone()))
    }

    pub(super) const fn raw(&self) -> &DB {
        &self.0
    }

    pub(super) fn column(&self, column: Column) -> Result<&ColumnFamily, StoreError> {
        let missing = || damaged(format!("the column family `{}` is missing", column.name()));
        self.0.cf_handle(column.name()).ok_or_else(missing)
    }

    /// Reads every record and every node, which checks every checksum: a log with a hole in it is not gone on with.
    pub(super) fn read_whole_log(&self) -> Result<(), StoreError> {
        for column in [Column::Log, Column::Nodes] {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            let mut entries = self.0.raw_iterator_cf_opt(self.column(column)?, options);
            entries.seek_to_first();
            while entries.valid() {
                entries.next();
            }
            entries.status()?;
        }
        Ok(())
    }

    pub(super) fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get_cf(self.column(Column::Meta)?, key)?)
    }

    pub(super) fn meta_number(&self, key: &[u8]) -> Result<u64, StoreError> {
        number(self.meta(key)?.as_deref(), key)
    }

    /// The row, if that takes no disk.
    pub(super) fn row_in_memory(&self, key: &Key) -> Result<Cached<Option<Row>>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        match self.0.get_pinned_cf_opt(self.column(Column::Rows)?, key.as_bytes(), &options) {
            Ok(found) => found.map(|bytes| row(&bytes)).transpose().map(Cached::Known),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(Cached::OnDisk),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn row(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        let found: Option<DBPinnableSlice<'_>> = self.0.get_pinned_cf(self.column(Column::Rows)?, key.as_bytes())?;
        found.map(|bytes| row(&bytes)).transpose()
    }

    pub(super) fn page(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        before: Option<&Key>,
        limit: usize,
        newest_first: bool,
    ) -> Result<Page, StoreError> {
        let mut page = PageBuilder::new(limit);
        let Some((lower, upper)) = bounds(prefix, after, before) else {
            return Ok(page.finish());
        };
        let options = between(&lower, &upper);
        let mut rows = self.0.raw_iterator_cf_opt(self.column(Column::Rows)?, options);
        if newest_first {
            rows.seek_to_last()
        } else {
            rows.seek_to_first()
        }
        while let Some((key, value)) = rows.item() {
            let row = row(value)?;
            if !page.take(|| (Key::stored(key.to_vec()), row)) {
                break;
            }
            if newest_first { rows.prev() } else { rows.next() }
        }
        // An iterator that failed looks like one that ended.
        rows.status()?;
        Ok(page.finish())
    }

    /// Calls `visit` with every row of a prefix, all as of one moment, and returns that moment.
    pub(super) fn visit_rows(
        &self,
        prefix: Option<&Prefix>,
        mut visit: impl FnMut(&[u8], Revision) -> Result<(), StoreError>,
    ) -> Result<Revision, StoreError> {
        let snapshot = self.0.snapshot();
        // The last revision is written with each commit: in one snapshot it is the rows' moment.
        let at = snapshot.get_cf(self.column(Column::Meta)?, REVISION)?;
        let mut options = prefix.map_or_else(ReadOptions::default, |prefix| between(prefix.as_bytes(), &prefix.end()));
        options.set_snapshot(&snapshot);
        options.fill_cache(false);
        let mut rows = self.0.raw_iterator_cf_opt(self.column(Column::Rows)?, options);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            let (revision, _) = split(value)?;
            visit(key, revision)?;
            rows.next();
        }
        rows.status()?;
        number(at.as_deref(), REVISION).map(Revision::new)
    }

    /// The tenants that have a log, or of whose log records were dropped.
    pub(super) fn logs(&self) -> Result<Vec<TenantId>, StoreError> {
        let mut logs = self.pruned_logs()?;
        let mut records = self.0.raw_iterator_cf(self.column(Column::Log)?);
        records.seek_to_first();
        while let Some(key) = records.key() {
            let name = key.split(|byte| *byte == 0).next().and_then(|name| std::str::from_utf8(name).ok());
            let tenant = name.and_then(|name| TenantId::new(name).ok());
            let tenant = tenant.ok_or_else(|| damaged("a record lies under no tenant"))?;
            records.seek(Prefix::tenant(&tenant).end());
            logs.insert(tenant);
        }
        records.status()?;
        Ok(logs.into_iter().collect())
    }

    fn pruned_logs(&self) -> Result<BTreeSet<TenantId>, StoreError> {
        let mut logs = BTreeSet::new();
        let mut minimums = self.0.raw_iterator_cf(self.column(Column::Meta)?);
        minimums.seek(MINIMUM_INDEX);
        while let Some(name) = minimums.key().and_then(|key| key.strip_prefix(MINIMUM_INDEX.as_bytes())) {
            let tenant = std::str::from_utf8(name).ok().and_then(|name| TenantId::new(name).ok());
            logs.insert(tenant.ok_or_else(|| damaged("a first record is kept of no tenant"))?);
            minimums.next();
        }
        minimums.status()?;
        Ok(logs)
    }

    pub(super) fn log_size(&self, snapshot: &Snapshot<'_>, log: &TenantId) -> Result<u64, StoreError> {
        Ok(self.last_record(snapshot, log)?.map_or(0, |(index, _)| index.saturating_add(1)))
    }

    fn last_record(&self, snapshot: &Snapshot<'_>, log: &TenantId) -> Result<Option<(u64, Bytes)>, StoreError> {
        let prefix = Prefix::tenant(log);
        let mut options = between(prefix.as_bytes(), &prefix.end());
        options.set_snapshot(snapshot);
        let mut records = self.0.raw_iterator_cf_opt(self.column(Column::Log)?, options);
        records.seek_to_last();
        let last = records.item().map(|(key, record)| Ok((index(key)?, Bytes::copy_from_slice(record)))).transpose();
        records.status()?;
        last
    }

    /// The first record that is kept of a log, as it was written when those before were dropped.
    pub(super) fn minimum_index(&self, log: &TenantId) -> Result<u64, StoreError> {
        let key = minimum_key(log);
        self.meta(&key)?.map_or(Ok(0), |stored| number(Some(&stored), &key))
    }

    /// That a log begins with the record that it is said to begin with: one that lost its beginning is not one that was pruned.
    fn check_beginning(&self, snapshot: &Snapshot<'_>, log: &TenantId) -> Result<(), StoreError> {
        let minimum = self.minimum_index(log)?;
        let prefix = Prefix::tenant(log);
        let mut options = between(prefix.as_bytes(), &prefix.end());
        options.set_snapshot(snapshot);
        let mut records = self.0.raw_iterator_cf_opt(self.column(Column::Log)?, options);
        records.seek_to_first();
        let first = records.key().map(index).transpose()?;
        records.status()?;
        match first {
            Some(first) if first == minimum => Ok(()),
            Some(first) => Err(damaged(format!(
                "the log of `{log}` begins with record {first}, and record {minimum} is the first one that is kept"
            ))),
            None if minimum > 0 => Err(damaged(format!(
                "the log of `{log}` has no record, and record {minimum} is the first one that is kept"
            ))),
            None => Ok(()),
        }
    }

    /// Gives back the space of records that were dropped.
    pub(super) fn reclaim(&self, log: &TenantId, minimum: u64) -> Result<(), StoreError> {
        self.0.compact_range_cf(self.column(Column::Log)?, Some(log_key(log, 0)), Some(log_key(log, minimum)));
        Ok(())
    }

    /// The right edge of a log, restored from its stored nodes.
    pub(super) fn frontier(&self, snapshot: &Snapshot<'_>, log: &TenantId) -> Result<Frontier, StoreError> {
        let size = self.log_size(snapshot, log)?;
        self.edge(snapshot, log, size)
    }

    /// The right edge that a log had when it had so many records.
    pub(super) fn edge(&self, snapshot: &Snapshot<'_>, log: &TenantId, size: u64) -> Result<Frontier, StoreError> {
        let ids = nodes_needed(size);
        let hashes = self.nodes(snapshot, log, &ids)?;
        let nodes = ids.into_iter().zip(hashes).filter_map(|(id, hash)| hash.map(|hash| Node { id, hash }));
        Frontier::from_nodes(size, nodes).map_err(|error| damaged(format!("the log of `{log}`: {error}")))
    }

    /// Checks that a log can be appended to: it begins where it is said to, its right edge is there, and its last record is the one
    /// that was hashed.
    pub(super) fn check_log(&self, log: &TenantId) -> Result<(), StoreError> {
        let snapshot = self.0.snapshot();
        self.check_beginning(&snapshot, log)?;
        self.frontier(&snapshot, log)?;
        let Some((index, record)) = self.last_record(&snapshot, log)? else {
            return Ok(());
        };
        let stored = self.nodes(&snapshot, log, &[NodeId::leaf(index)])?.pop().flatten();
        if stored == Some(leaf_hash(&record)) {
            Ok(())
        } else {
            Err(damaged(format!("record {index} of the log of `{log}` is not the one that was hashed")))
        }
    }

    pub(super) fn nodes(
        &self,
        snapshot: &Snapshot<'_>,
        log: &TenantId,
        ids: &[NodeId],
    ) -> Result<Vec<Option<Hash>>, StoreError> {
        let column = self.column(Column::Nodes)?;
        let hash = |id: &NodeId| {
            let bytes = snapshot.get_pinned_cf(column, node_key(log, *id))?;
            let wrong = |_| damaged(format!("{id} of the log of `{log}` is not a hash"));
            bytes.map(|bytes| Hash::try_from(&*bytes).map_err(wrong)).transpose()
        };
        ids.iter().map(hash).collect()
    }

    pub(super) fn records(&self, log: &TenantId, from: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let options = between(&log_key(log, from), &Prefix::tenant(log).end());
        let mut stored = self.0.raw_iterator_cf_opt(self.column(Column::Log)?, options);
        let (mut records, mut bytes, mut expected) = (Vec::new(), 0_usize, from);
        stored.seek_to_first();
        while let Some((key, record)) = stored.item() {
            let found = index(key)?;
            if found != expected {
                // Looked up last: what was dropped while this was read is not missing.
                let minimum = self.minimum_index(log)?;
                if from < minimum {
                    return Err(StoreError::Pruned { from, minimum });
                }
                return Err(damaged(format!("record {expected} of the log of `{log}` is missing")));
            }
            if records.len() >= limit.clamp(1, MAX_PAGE) || bytes >= MAX_PAGE_BYTES {
                break;
            }
            bytes = bytes.saturating_add(record.len());
            records.push((found, Bytes::copy_from_slice(record)));
            expected = expected.saturating_add(1);
            stored.next();
        }
        stored.status()?;
        Ok(records)
    }
}

/// Adds a row to a batch.
pub(super) fn put_row(batch: &mut WriteBatch, column: &ColumnFamily, key: &Key, row: &Row) {
    let value = [&row.revision.get().to_be_bytes(), row.value.as_ref()].concat();
    batch.put_cf(column, key.as_bytes(), value);
}

pub(super) fn minimum_key(log: &TenantId) -> Vec<u8> {
    [MINIMUM_INDEX.as_bytes(), log.as_str().as_bytes()].concat()
}

pub(super) fn log_key(log: &TenantId, index: u64) -> Vec<u8> {
    [Prefix::tenant(log).as_bytes(), &index.to_be_bytes()].concat()
}

pub(super) fn node_key(log: &TenantId, id: NodeId) -> Vec<u8> {
    [Prefix::tenant(log).as_bytes(), &[id.level], &id.index.to_be_bytes()].concat()
}

pub(super) fn between(lower: &[u8], upper: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(lower);
    options.set_iterate_upper_bound(upper);
    options
}

fn split(stored: &[u8]) -> Result<(Revision, &[u8]), StoreError> {
    let (revision, value) = stored.split_first_chunk().ok_or_else(|| damaged("a row has no revision"))?;
    Ok((Revision::new(u64::from_be_bytes(*revision)), value))
}

fn row(stored: &[u8]) -> Result<Row, StoreError> {
    let (revision, value) = split(stored)?;
    Ok(Row { revision, value: Bytes::copy_from_slice(value) })
}

pub(super) fn index(key: &[u8]) -> Result<u64, StoreError> {
    let index = key.split_last_chunk().ok_or_else(|| damaged("a record has no index"))?.1;
    Ok(u64::from_be_bytes(*index))
}

fn number(stored: Option<&[u8]>, key: &[u8]) -> Result<u64, StoreError> {
    let bytes = stored.and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| damaged(format!("`{}` is missing", key.escape_ascii())))
}
