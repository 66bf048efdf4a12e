//! The kernel in memory: the same semantics, nothing kept. For tests, and as the model that the one on disk is held
//! against.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use countersign_audit::{Frontier, Hash, NodeId, leaf_hash};
use countersign_core::TenantId;
use futures::Stream;
use tokio::sync::broadcast;

use crate::error::{CommitError, StoreError};
use crate::fail::{FailPoint, Fault, lock};
use crate::kernel::{
    Change, Changes, Commit, Committed, Kernel, MAX_PAGE, MAX_PAGE_BYTES, Pace, Page, PageBuilder, Revision, Row,
    Write, bounds,
};
use crate::layout::{Key, Prefix};
use crate::watch::{self, Changed, LIVE_GROUPS, Source};

/// A kernel that forgets everything when it is dropped. Clones are the same store.
#[derive(Debug, Clone)]
pub struct MemoryKernel {
    state: Arc<Mutex<State>>,
    fail: FailPoint,
}

#[derive(Debug, Clone)]
struct State {
    rows: BTreeMap<Key, Row>,
    logs: BTreeMap<TenantId, Log>,
    revision: Revision,
    epoch: u64,
    stopped: Option<StoreError>,
    /// Taken away when nothing more will change, which ends the watches.
    changes: Option<broadcast::Sender<Changes>>,
}

#[derive(Debug, Clone, Default)]
struct Log {
    frontier: Frontier,
    /// The index of the first of the records.
    minimum: u64,
    records: Vec<Bytes>,
    nodes: HashMap<NodeId, Hash>,
}

impl Default for MemoryKernel {
    fn default() -> Self {
        Self::new(FailPoint::default())
    }
}

impl MemoryKernel {
    /// An empty store. Give it `FailPoint::default()` unless faults are wanted.
    #[must_use]
    pub fn new(fail: FailPoint) -> Self {
        let state = State {
            rows: BTreeMap::new(),
            logs: BTreeMap::new(),
            revision: Revision::ZERO,
            epoch: 1,
            stopped: None,
            changes: Some(broadcast::Sender::new(LIVE_GROUPS)),
        };
        Self { state: Arc::new(Mutex::new(state)), fail }
    }

    /// What a new process would find: everything that was committed, and nothing of this one's life.
    #[must_use]
    pub fn restart(&self) -> Self {
        let mut state = lock(&self.state).clone();
        state.stopped = None;
        state.changes = Some(broadcast::Sender::new(LIVE_GROUPS));
        Self { state: Arc::new(Mutex::new(state)), fail: self.fail.clone() }
    }

    /// The faults of this store.
    #[doc(hidden)]
    #[must_use]
    pub const fn fail_point(&self) -> &FailPoint {
        &self.fail
    }

    /// Ends every watch; nothing is answered any more.
    pub fn shutdown(&self) {
        lock(&self.state).stop(StoreError::ShutDown);
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let state = lock(&self.state);
        state.running()?;
        read(&state)
    }

    fn page(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        before: Option<&Key>,
        limit: usize,
        newest_first: bool,
    ) -> Result<Page, StoreError> {
        self.read(|state| {
            let mut page = PageBuilder::new(limit);
            let Some((lower, upper)) = bounds(prefix, after, before) else {
                return Ok(page.finish());
            };
            let range = (Bound::Included(Key::stored(lower)), Bound::Excluded(Key::stored(upper)));
            let mut rows = state.rows.range(range);
            let mut next = || if newest_first { rows.next_back() } else { rows.next() };
            while let Some((key, row)) = next() {
                if !page.take(|| (key.clone(), row.clone())) {
                    break;
                }
            }
            Ok(page.finish())
        })
    }

    fn write(&self, commits: Vec<Commit>) -> Vec<Result<Committed, CommitError>> {
        let mut state = lock(&self.state);
        if let Err(error) = state.running() {
            return commits.iter().map(|_| Err(error.clone().into())).collect();
        }
        let mut next = state.clone();
        let mut changes = Vec::new();
        let outcomes: Vec<_> = commits.into_iter().map(|commit| next.apply(commit, &mut changes)).collect();
        if next.revision == state.revision {
            return outcomes;
        }
        match self.fail.take() {
            None => {
                *state = next;
                if let Some(sender) = &state.changes {
                    // Nobody watching is no failure.
                    let _ = sender.send(changes.into());
                }
                outcomes
            }
            Some(fault) => {
                let kept = matches!(fault, Fault::SyncFailsButKept | Fault::CrashAfter);
                if kept {
                    *state = next;
                }
                let reason = "a fault was asked for".to_owned();
                state.stop(StoreError::Stopped { reason: reason.clone() });
                let unsure = |outcome: Result<Committed, CommitError>| match outcome {
                    Ok(_) => Err(CommitError::Unknown { reason: reason.clone() }),
                    Err(error) => Err(error),
                };
                outcomes.into_iter().map(unsure).collect()
            }
        }
    }
}

impl State {
    fn running(&self) -> Result<(), StoreError> {
        self.stopped.clone().map_or(Ok(()), Err)
    }

    fn stop(&mut self, why: StoreError) {
        self.stopped.get_or_insert(why);
        self.changes = None;
    }

    fn apply(&mut self, commit: Commit, changes: &mut Vec<Change>) -> Result<Committed, CommitError> {
        commit.validate()?;
        commit.in_time()?;
        let broken =
            commit.guards.iter().find(|guard| !guard.holds(self.rows.get(guard.key()).map(|row| row.revision)));
        if let Some(guard) = broken {
            return Err(CommitError::Conflict { key: guard.key().clone() });
        }
        if let Some(prune) = commit.prune {
            let (minimum, size) = self.logs.get(&commit.log).map_or((0, 0), |log| (log.minimum, log.frontier.size()));
            if prune <= minimum || prune > size {
                return Err(CommitError::NothingToPrune { prune, minimum, size });
            }
        }
        let revision = self.revision.next();
        self.revision = revision;
        for write in commit.writes {
            let (key, row) = match write {
                Write::Put(key, value) => {
                    let row = Row { revision, value };
                    self.rows.insert(key.clone(), row.clone());
                    (key, Some(row))
                }
                Write::Delete(key) => {
                    self.rows.remove(&key);
                    (key, None)
                }
            };
            changes.push(Change { revision, key, row });
        }
        // A tenant has a log from its first record on.
        let first_log_index = self.logs.get(&commit.log).map_or(0, |log| log.frontier.size());
        if commit.records.is_empty() {
            return Ok(Committed { revision, first_log_index, log_size: first_log_index });
        }
        let log = self.logs.entry(commit.log).or_default();
        if let Some(minimum) = commit.prune {
            let dropped = usize::try_from(minimum.saturating_sub(log.minimum)).unwrap_or(usize::MAX);
            log.records.drain(..dropped.min(log.records.len()));
            log.minimum = minimum;
        }
        for record in commit.records {
            let nodes = log.frontier.append(leaf_hash(&record));
            log.nodes.extend(nodes.into_iter().map(|node| (node.id, node.hash)));
            log.records.push(record);
        }
        Ok(Committed { revision, first_log_index, log_size: log.frontier.size() })
    }
}

impl Kernel for MemoryKernel {
    async fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        self.read(|state| Ok(state.rows.get(key).cloned()))
    }

    async fn scan(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.page(prefix, after, None, limit, false)
    }

    async fn scan_newest(&self, prefix: &Prefix, before: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.page(prefix, None, before, limit, true)
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let outcome = self.write(vec![commit]).pop();
        outcome.unwrap_or_else(|| Err(CommitError::Unknown { reason: "there was no answer".to_owned() }))
    }

    async fn commit_many(&self, commits: Vec<Commit>) -> Vec<Result<Committed, CommitError>> {
        self.write(commits)
    }

    fn changes(
        &self,
        prefix: &Prefix,
        from: Revision,
        pace: Pace,
    ) -> impl Stream<Item = Result<Option<Change>, StoreError>> + Send + 'static + use<> {
        // Without a sender the receiver is closed from the start, and the watch ends as it should.
        let live =
            lock(&self.state).changes.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe);
        watch::changes(Watched(Arc::downgrade(&self.state)), prefix.clone(), from, live, pace)
    }

    fn epoch(&self) -> u64 {
        lock(&self.state).epoch
    }

    async fn raise_epoch(&self) -> Result<u64, CommitError> {
        let mut state = lock(&self.state);
        state.running()?;
        state.epoch = state.epoch.saturating_add(1);
        Ok(state.epoch)
    }

    async fn logs(&self) -> Result<Vec<TenantId>, StoreError> {
        self.read(|state| Ok(state.logs.keys().cloned().collect()))
    }

    async fn log_frontier(&self, log: &TenantId) -> Result<Frontier, StoreError> {
        self.read(|state| Ok(state.logs.get(log).map(|log| log.frontier.clone()).unwrap_or_default()))
    }

    async fn log_size(&self, log: &TenantId) -> Result<u64, StoreError> {
        Ok(self.log_frontier(log).await?.size())
    }

    async fn log_minimum_index(&self, log: &TenantId) -> Result<u64, StoreError> {
        self.read(|state| Ok(state.logs.get(log).map_or(0, |log| log.minimum)))
    }

    async fn log_entries(&self, log: &TenantId, from: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.read(|state| {
            let log = state.logs.get(log);
            let (minimum, records) = log.map_or((0, &[][..]), |log| (log.minimum, log.records.as_slice()));
            let start = from.checked_sub(minimum).ok_or(StoreError::Pruned { from, minimum })?;
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            let records = records.get(start..).unwrap_or_default().iter().zip(from..);
            let mut bytes = 0_usize;
            let page = records.take(limit.clamp(1, MAX_PAGE)).take_while(|(record, _)| {
                let room = bytes < MAX_PAGE_BYTES;
                bytes = bytes.saturating_add(record.len());
                room
            });
            Ok(page.map(|(record, index)| (index, record.clone())).collect())
        })
    }

    async fn log_nodes(&self, log: &TenantId, ids: &[NodeId]) -> Result<Vec<Option<Hash>>, StoreError> {
        self.read(|state| {
            let log = state.logs.get(log);
            Ok(ids.iter().map(|id| log.and_then(|log| log.nodes.get(id).copied())).collect())
        })
    }
}

struct Watched(Weak<Mutex<State>>);

impl Watched {
    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, StoreError> {
        let state = self.0.upgrade().ok_or(StoreError::ShutDown)?;
        let state = lock(&state);
        state.running()?;
        Ok(read(&state))
    }
}

impl Source for Watched {
    async fn changed(&self, prefix: &Prefix, after: Revision) -> Result<Changed, StoreError> {
        self.read(|state| {
            let rows = state.rows.range(Key::stored(Bytes::copy_from_slice(prefix.as_bytes()))..);
            let rows = rows.take_while(|(key, _)| prefix.matches(key)).filter(|(_, row)| row.revision > after);
            let mut found: Vec<_> = rows.map(|(key, row)| (row.revision, key.clone())).collect();
            found.sort();
            Changed { at: state.revision, rows: found.into() }
        })
    }

    async fn row(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        self.read(|state| state.rows.get(key).cloned())
    }

    fn ended(&self) -> Option<StoreError> {
        let state = self.0.upgrade()?;
        let stopped = lock(&state).stopped.clone();
        stopped.filter(|why| *why != StoreError::ShutDown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Backend;

    pub(crate) struct InMemory(MemoryKernel);

    impl Backend for InMemory {
        type Kernel = MemoryKernel;

        fn new() -> Self {
            Self(MemoryKernel::default())
        }

        fn kernel(&self) -> &MemoryKernel {
            &self.0
        }

        fn fail(&self) -> &FailPoint {
            &self.0.fail
        }

        fn shutdown(&self) {
            self.0.shutdown();
        }

        fn restart(&mut self) {
            self.0 = self.0.restart();
        }
    }

    crate::contract::contract!(InMemory);
}
