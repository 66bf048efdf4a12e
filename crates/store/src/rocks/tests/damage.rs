//! Flipped bits, lost ends, lost files: nothing that was acknowledged is silently gone.

use std::fs;
use std::path::Path;

use super::*;
use crate::OpenError;
use crate::contract::{acme, create, done, value};
use crate::kernel::Kernel as _;

/// The write-ahead log with something in it.
fn wal(directory: &Path) -> PathBuf {
    let logs = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> = logs
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter(|path| fs::metadata(path).unwrap().len() > 0)
        .collect();
    assert_eq!(logs.len(), 1);
    logs.pop().unwrap()
}

fn tables(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
}

/// A store that crashed with ten commits in its write-ahead log.
async fn crashed() -> OnDisk {
    let mut store = OnDisk::new();
    for number in 0..10 {
        done(store.kernel(), create(number, "spent").record("spent")).await;
    }
    store.crash().await;
    store
}

fn open(store: &OnDisk) -> Result<RocksKernel, OpenError> {
    RocksKernel::open(&store.path(), &store.config)
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_acknowledged() {
    let mut store = crashed().await;
    store.restart();
    for number in 0..10 {
        assert_eq!(value(store.kernel(), number).await.unwrap(), "spent");
    }
    assert_eq!(store.kernel().log_size(&acme()).await.unwrap(), 10);
}

#[tokio::test]
async fn a_crash_loses_nothing_that_fills_several_blocks_and_logs() {
    let mut store = OnDisk::new();
    // More than one table in memory holds, so that the write-ahead log is begun anew on the way.
    for number in 0..12_u8 {
        let big = || crate::Commit::new(acme()).record(vec![number; 250_000]).record(vec![number; 40_000]);
        assert!(store.kernel().commit_many((0..6).map(|_| big()).collect()).await.iter().all(Result::is_ok));
    }
    let frontier = store.kernel().log_frontier(&acme()).await.unwrap();
    assert_eq!(frontier.size(), 144);
    store.crash().await;
    store.restart();
    assert_eq!(store.kernel().log_frontier(&acme()).await.unwrap(), frontier);
    let (mut read, mut from) = (0, 0);
    while from < 144 {
        let page = store.kernel().log_entries(&acme(), from, 1000).await.unwrap();
        read += page.iter().map(|(_, record)| record.len()).sum::<usize>();
        from = page.last().unwrap().0 + 1;
    }
    assert_eq!(read, 72 * 290_000);
}

#[tokio::test]
async fn no_flipped_bit_in_the_write_ahead_log_loses_a_commit() {
    let store = crashed().await;
    let wal = wal(&store.path());
    let whole = fs::read(&wal).unwrap();
    for (at, bit) in (0..whole.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        fs::write(&wal, &bytes).unwrap();
        let error = open(&store).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. } | OpenError::Lost { .. }), "byte {at} bit {bit}: {error}");
    }
    // A refusal leaves everything as it was found.
    fs::write(&wal, &whole).unwrap();
    drop(open(&store).unwrap());
}

#[tokio::test]
async fn a_record_that_was_being_written_is_dropped() {
    let mut store = crashed().await;
    let wal = wal(&store.path());
    let mut bytes = fs::read(&wal).unwrap();
    // The beginning of a frame, cut short.
    let torn = bytes[..40].to_vec();
    bytes.extend(torn);
    fs::write(&wal, &bytes).unwrap();
    store.restart();
    assert_eq!(store.kernel().log_size(&acme()).await.unwrap(), 10);
    done(store.kernel(), create(99, "x")).await;
}

#[tokio::test]
async fn a_lost_end_of_the_write_ahead_log_is_refused_until_it_is_accepted() {
    let mut store = crashed().await;
    let wal = wal(&store.path());
    let bytes = fs::read(&wal).unwrap();
    fs::write(&wal, &bytes[..bytes.len() - 1]).unwrap();
    let error = open(&store).unwrap_err();
    assert!(matches!(error, OpenError::Lost { head: 10, found: 9, .. }), "{error}");
    let error = open(&store).unwrap_err();
    assert!(matches!(error, OpenError::Lost { head: 10, found: 9, .. }), "{error}");

    store.config.restored = true;
    store.restart();
    assert_eq!(store.kernel().epoch(), 2);
    assert_eq!(store.kernel().log_size(&acme()).await.unwrap(), 9);
    // The lost commit's revision is not given out again.
    let committed = done(store.kernel(), create(9, "again").record("again")).await;
    assert!(committed.revision.get() > 11);
    assert_eq!(committed.first_log_index, 9);
}

#[tokio::test]
async fn a_lost_write_ahead_log_is_refused() {
    let store = crashed().await;
    fs::remove_file(wal(&store.path())).unwrap();
    let error = open(&store).unwrap_err();
    assert!(matches!(error, OpenError::Lost { .. } | OpenError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn no_flipped_bit_in_a_table_changes_a_row() {
    let mut store = OnDisk::new();
    for number in 0..10 {
        done(store.kernel(), create(number, "spent").record("spent")).await;
    }
    store.kernel = None;
    let expected = async |kernel: &RocksKernel| {
        for number in 0..10 {
            assert_eq!(value(kernel, number).await.unwrap(), "spent");
        }
        for (_, record) in kernel.log_entries(&acme(), 0, 10).await.unwrap() {
            assert_eq!(record.as_ref(), b"spent");
        }
        assert_eq!(kernel.log_size(&acme()).await.unwrap(), 10);
    };
    let mut refused = 0;
    for table in tables(&store.path()) {
        let whole = fs::read(&table).unwrap();
        for at in (0..whole.len()).step_by(13) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            // A copy each time: a store that opens may rewrite its tables.
            let copy = tempfile::tempdir().unwrap();
            for file in fs::read_dir(store.path()).unwrap().map(Result::unwrap) {
                fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
            }
            fs::write(copy.path().join(table.file_name().unwrap()), &bytes).unwrap();
            match RocksKernel::open(copy.path(), &store.config) {
                Ok(kernel) => expected(&kernel).await,
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
                }
            }
        }
    }
    assert!(refused > 0);
    drop(open(&store).unwrap());
}

#[tokio::test]
async fn a_record_that_was_replaced_is_refused() {
    let mut store = OnDisk::new();
    done(store.kernel(), create(1, "x").record("the truth")).await;
    store.kernel = None;
    let columns = ["default", "rows", "log", "nodes"];
    let database = rocksdb::DB::open_cf(&rocksdb::Options::default(), store.path(), columns).unwrap();
    let log = database.cf_handle("log").unwrap();
    database.put_cf(log, super::super::database::log_key(&acme(), 0), "a lie").unwrap();
    drop(database);
    let error = open(&store).unwrap_err();
    assert!(matches!(&error, OpenError::Damaged { reason, .. } if reason.contains("record 0")), "{error}");
}

#[tokio::test]
async fn a_log_without_its_right_edge_is_refused() {
    let mut store = OnDisk::new();
    for _ in 0..3 {
        done(store.kernel(), crate::Commit::new(acme()).record("x")).await;
    }
    store.kernel = None;
    let columns = ["default", "rows", "log", "nodes"];
    let database = rocksdb::DB::open_cf(&rocksdb::Options::default(), store.path(), columns).unwrap();
    let nodes = database.cf_handle("nodes").unwrap();
    let pair = countersign_audit::NodeId { level: 1, index: 0 };
    database.delete_cf(nodes, super::super::database::node_key(&acme(), pair)).unwrap();
    drop(database);
    assert!(matches!(open(&store), Err(OpenError::Damaged { .. })));
}

#[tokio::test]
async fn a_log_that_lost_its_beginning_is_no_pruned_one() {
    for pruned in [false, true] {
        let mut store = OnDisk::new();
        for _ in 0..3 {
            done(store.kernel(), crate::Commit::new(acme()).record("x")).await;
        }
        if pruned {
            done(store.kernel(), crate::Commit::new(acme()).record("told").prune(1)).await;
        }
        store.kernel = None;
        drop(open(&store).unwrap());
        let columns = ["default", "rows", "log", "nodes"];
        let database = rocksdb::DB::open_cf(&rocksdb::Options::default(), store.path(), columns).unwrap();
        let log = database.cf_handle("log").unwrap();
        database.delete_cf(log, super::super::database::log_key(&acme(), u64::from(pruned))).unwrap();
        drop(database);
        let error = open(&store).unwrap_err();
        assert!(
            matches!(&error, OpenError::Damaged { reason, .. } if reason.contains("begins with record")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_log_of_which_nothing_but_its_minimum_index_is_left_is_damaged() {
    let mut store = OnDisk::new();
    done(store.kernel(), crate::Commit::new(acme()).record("x")).await;
    done(store.kernel(), crate::Commit::new(acme()).record("told").prune(1)).await;
    store.kernel = None;
    drop(open(&store).unwrap());
    let columns = ["default", "rows", "log", "nodes"];
    let database = rocksdb::DB::open_cf(&rocksdb::Options::default(), store.path(), columns).unwrap();
    database.delete_cf(database.cf_handle("log").unwrap(), super::super::database::log_key(&acme(), 1)).unwrap();
    drop(database);
    let error = open(&store).unwrap_err();
    assert!(matches!(&error, OpenError::Damaged { reason, .. } if reason.contains("has no record")), "{error}");
}

#[tokio::test]
async fn a_pruned_log_gives_back_its_space() {
    let store = OnDisk::new();
    let record = |number: u32| countersign_core::Digest::of(&number.to_be_bytes()).to_string().repeat(500);
    for number in 0..200 {
        done(store.kernel(), crate::Commit::new(acme()).record(record(number))).await;
    }
    let size = |dir: &Path| tables(dir).iter().map(|table| fs::metadata(table).unwrap().len()).sum::<u64>();
    // Dropping flushes, so that what is left of few records shows beside many.
    done(store.kernel(), crate::Commit::new(acme()).record("told").prune(1)).await;
    let before = size(&store.path());
    done(store.kernel(), crate::Commit::new(acme()).record("told").prune(200)).await;
    assert!(size(&store.path()) < before / 2, "{before} to {}", size(&store.path()));
}
