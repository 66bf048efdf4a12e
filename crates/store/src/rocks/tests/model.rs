//! The kernel on disk does what the one in memory does, across crashes.

use proptest::prelude::*;

use super::*;
use crate::contract::{acme, key};
use crate::kernel::Kernel;
use crate::{Commit, CommitError, MemoryKernel, Prefix};

/// One step. Rows are few, so that commits meet.
#[derive(Debug, Clone)]
enum Step {
    /// Writes some rows as they were read last, or one commit earlier, and tells it.
    Write {
        rows: Vec<(u64, bool)>,
        stale: bool,
        records: usize,
    },
    /// Drops the records before one, which may be dropped already, or not there yet.
    Prune(u64),
    Restart,
    Fail(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (prop::collection::vec((0..4_u64, any::<bool>()), 0..3), prop::bool::weighted(0.2), 0..3_usize)
            .prop_map(|(rows, stale, records)| Step::Write { rows, stale, records }),
        1 => (0..20_u64).prop_map(Step::Prune),
        1 => Just(Step::Restart),
        1 => (0..4_u8).prop_map(Step::Fail),
    ]
}

async fn commit(kernel: &impl Kernel, rows: &[(u64, bool)], stale: bool, records: usize) -> Commit {
    let mut commit = Commit::new(acme());
    for (number, put) in rows {
        let found = kernel.get(&key(*number)).await.unwrap().map(|row| row.revision);
        commit = match found {
            Some(revision) if stale => commit.delete(key(*number), crate::Revision::new(revision.get() - 1)),
            Some(revision) if *put => commit.replace(key(*number), revision, format!("after {revision}")),
            Some(revision) => commit.delete(key(*number), revision),
            None => commit.create(key(*number), "new"),
        };
    }
    (0..records).fold(commit, |commit, number| commit.record(format!("{number} of {records}")))
}

/// The kind of an outcome: a reason differs between backends.
fn kind<T: std::fmt::Debug>(outcome: &Result<T, CommitError>) -> String {
    match outcome {
        Ok(committed) => format!("{committed:?}"),
        Err(CommitError::Unknown { .. }) => "unknown".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

async fn same(disk: &impl Kernel, memory: &impl Kernel) {
    let all = Prefix::tenant(&acme());
    assert_eq!(disk.scan(&all, None, 100).await, memory.scan(&all, None, 100).await);
    assert_eq!(disk.log_frontier(&acme()).await, memory.log_frontier(&acme()).await);
    assert_eq!(disk.log_entries(&acme(), 0, 1000).await, memory.log_entries(&acme(), 0, 1000).await);
    let minimum = memory.log_minimum_index(&acme()).await.unwrap();
    assert_eq!(disk.log_minimum_index(&acme()).await, Ok(minimum));
    assert_eq!(disk.log_entries(&acme(), minimum, 1000).await, memory.log_entries(&acme(), minimum, 1000).await);
    assert_eq!(disk.logs().await, memory.logs().await);
}

async fn run(steps: Vec<Step>) {
    let mut disk = OnDisk::new();
    let mut memory = MemoryKernel::default();
    let fail = memory.fail_point().clone();
    for step in steps {
        let commit = match &step {
            Step::Write { rows, stale, records } => Some(commit(&memory, rows, *stale, *records).await),
            Step::Prune(minimum) => Some(Commit::new(acme()).record("told").prune(*minimum)),
            Step::Restart | Step::Fail(_) => None,
        };
        if let Some(commit) = commit {
            let outcomes = (disk.kernel().commit(commit.clone()).await, memory.commit(commit).await);
            assert_eq!(kind(&outcomes.0), kind(&outcomes.1));
            if kind(&outcomes.0) == "unknown" {
                disk.restart();
                memory = memory.restart();
            }
        }
        match step {
            Step::Write { .. } | Step::Prune(_) => {}
            Step::Restart => {
                disk.restart();
                memory = memory.restart();
            }
            Step::Fail(fault) => {
                let faults = [Fault::SyncFails, Fault::SyncFailsButKept, Fault::CrashBefore, Fault::CrashAfter];
                let fault = faults[usize::from(fault)];
                disk.fail().arm(fault);
                fail.arm(fault);
            }
        }
        same(disk.kernel(), &memory).await;
    }
}

proptest! {
    // Every case opens real databases.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn disk_and_memory_agree_on_every_outcome(steps in prop::collection::vec(step(), 1..40)) {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap().block_on(run(steps));
    }
}
