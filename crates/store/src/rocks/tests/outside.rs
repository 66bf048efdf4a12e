//! The head that is kept outside: an old copy does not open, and nothing that is as it should be is refused.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::contract::{acme, create, done};
use crate::kernel::{Commit, Kernel as _, Revision};
use crate::rocks::{FileHead, HeadKeeper, KnownHead, OutsideHead, copy_store};
use crate::{CommitError, OpenError};

fn with_head(head: &Path) -> Config {
    let keeper = Arc::new(FileHead::new(head.to_owned()));
    Config { outside: Some(OutsideHead { keeper, every: None, begin: false }), ..Config::new(Mode::Production) }
}

fn record(text: &'static str) -> Commit {
    Commit::new(acme()).record(text)
}

/// Everything, as `cp -a` would take it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_whole_directory_is_refused_until_it_is_restored() {
    let root = tempfile::tempdir().unwrap();
    let (data, old, head) = (root.path().join("data"), root.path().join("old"), root.path().join("head"));
    let kernel = RocksKernel::create(&data, &with_head(&head)).unwrap();
    done(&kernel, create(1, "a")).await;
    kernel.shutdown();
    drop(kernel);
    copy(&data, &old);

    let kernel = RocksKernel::open(&data, &with_head(&head)).unwrap();
    done(&kernel, create(2, "b")).await;
    kernel.commit(record("what the copy does not know")).await.unwrap();
    drop(kernel);
    // A start changes nothing that the head would be ahead of.
    drop(RocksKernel::open(&data, &with_head(&head)).unwrap());

    let refused = RocksKernel::open(&old, &with_head(&head)).unwrap_err();
    assert!(matches!(refused, OpenError::Behind { .. }), "{refused}");
    assert!(refused.to_string().contains("countersign restore"), "{refused}");
    // Without the head it would pass unseen.
    drop(RocksKernel::open(&old, &Config::new(Mode::Production)).unwrap());

    let place = root.path().join("restored");
    copy_store(&old, &place).unwrap();
    let restored = RocksKernel::open(&place, &Config { restored: true, ..with_head(&head) }).unwrap();
    let known = FileHead::new(head.clone()).read().unwrap().unwrap();
    assert_eq!(restored.epoch(), 2);
    let next = restored.commit(record("restored")).await.unwrap().revision;
    assert!(next > known.revision, "no revision is given out twice");
    drop(restored);
    assert_eq!(FileHead::new(head.clone()).read().unwrap(), Some(known), "not before it is at its place");
    drop(RocksKernel::open(&place, &with_head(&head)).unwrap());
    // The one that it replaces is no longer the store.
    let refused = RocksKernel::open(&data, &with_head(&head)).unwrap_err();
    assert!(matches!(refused, OpenError::Behind { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_went_on_by_itself_is_another_history() {
    let root = tempfile::tempdir().unwrap();
    let (data, other, head) = (root.path().join("data"), root.path().join("other"), root.path().join("head"));
    let kernel = RocksKernel::create(&data, &with_head(&head)).unwrap();
    kernel.commit(record("one")).await.unwrap();
    kernel.shutdown();
    drop(kernel);
    copy(&data, &other);
    let kernel = RocksKernel::open(&data, &with_head(&head)).unwrap();
    kernel.commit(record("two")).await.unwrap();
    drop(kernel);
    let kernel = RocksKernel::open(&other, &Config::new(Mode::Production)).unwrap();
    for text in ["another two", "another three"] {
        kernel.commit(record(text)).await.unwrap();
    }
    drop(kernel);
    let refused = RocksKernel::open(&other, &with_head(&head)).unwrap_err();
    assert!(matches!(refused, OpenError::OtherHistory { size: 2, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_head_is_not_a_fresh_start_and_a_head_without_a_store_is_not_one_either() {
    let root = tempfile::tempdir().unwrap();
    let (data, head) = (root.path().join("data"), root.path().join("head"));
    drop(RocksKernel::create(&data, &Config::new(Mode::Production)).unwrap());
    let refused = RocksKernel::open(&data, &with_head(&head)).unwrap_err();
    assert!(matches!(&refused, OpenError::Outside { problem, .. } if problem.contains("missing")), "{refused}");
    // It is begun where somebody says so.
    let mut begin = with_head(&head);
    begin.outside.as_mut().unwrap().begin = true;
    drop(RocksKernel::open(&data, &begin).unwrap());
    drop(RocksKernel::open(&data, &with_head(&head)).unwrap());
    let refused = RocksKernel::create(&root.path().join("new"), &with_head(&head)).unwrap_err();
    assert!(matches!(refused, OpenError::Outside { .. }), "{refused}");
    fs::write(&head, "nonsense").unwrap();
    let refused = RocksKernel::open(&data, &with_head(&head)).unwrap_err();
    assert!(matches!(&refused, OpenError::Outside { problem, .. } if problem.contains("cannot be read")), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_store_and_the_head_opens_and_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (data, head) = (root.path().join("data"), root.path().join("head"));
    let config = with_head(&head);
    let kernel = RocksKernel::create(&data, &config).unwrap();
    done(&kernel, create(1, "a")).await;
    config.fail.arm(Fault::CrashAfter);
    // Durable, and neither answered nor in the head.
    assert!(kernel.commit(create(2, "b")).await.is_err());
    drop(kernel);
    let before = FileHead::new(head.clone()).read().unwrap().unwrap();
    let kernel = RocksKernel::open(&data, &with_head(&head)).unwrap();
    assert!(matches!(kernel.commit(create(2, "b")).await, Err(CommitError::Conflict { .. })), "it is there");
    assert!(FileHead::new(head).read().unwrap().unwrap().revision > before.revision);
}

/// Keeps the newest revision in memory, unless it is told to fail.
#[derive(Debug, Default)]
struct Fallible {
    fails: AtomicBool,
    revision: AtomicU64,
}

impl HeadKeeper for Fallible {
    fn read(&self) -> io::Result<Option<KnownHead>> {
        Ok(None)
    }
    fn write(&self, head: &KnownHead) -> io::Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the other volume is gone"));
        }
        self.revision.store(head.revision.get(), Ordering::SeqCst);
        Ok(())
    }
    fn place(&self) -> String {
        "memory".to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_answered_whose_commit_the_head_does_not_know() {
    let root = tempfile::tempdir().unwrap();
    let keeper = Arc::new(Fallible::default());
    let outside = Some(OutsideHead { keeper: keeper.clone(), every: None, begin: true });
    let config = Config { outside, ..Config::new(Mode::Production) };
    let kernel = RocksKernel::create(&root.path().join("data"), &config).unwrap();
    let revision = kernel.commit(create(1, "a")).await.unwrap().revision;
    assert_eq!(Revision::new(keeper.revision.load(Ordering::SeqCst)), revision);
    keeper.fails.store(true, Ordering::SeqCst);
    assert!(matches!(kernel.commit(create(2, "b")).await, Err(CommitError::Unknown { .. })));
    assert!(kernel.health().is_err(), "nothing is answered any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_at_an_interval_has_everything_when_the_store_ends_in_order() {
    let root = tempfile::tempdir().unwrap();
    let keeper = Arc::new(Fallible::default());
    let outside = Some(OutsideHead { keeper: keeper.clone(), every: Some(Duration::from_secs(3_600)), begin: true });
    let config = Config { outside, ..Config::new(Mode::Production) };
    let kernel = RocksKernel::create(&root.path().join("data"), &config).unwrap();
    let mut revision = Revision::ZERO;
    for number in 1..10 {
        revision = kernel.commit(create(number, "x")).await.unwrap().revision;
    }
    kernel.shutdown();
    assert_eq!(Revision::new(keeper.revision.load(Ordering::SeqCst)), revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_store_in_use_opens_as_a_restored_one_only() {
    let store = OnDisk::new();
    let revision = done(store.kernel(), create(1, "a")).await.revision;
    let backup = store.directory.path().join("backup");
    assert_eq!(store.kernel().checkpoint(&backup).unwrap(), revision);
    done(store.kernel(), create(2, "b")).await;
    assert!(store.kernel().checkpoint(&backup).is_err(), "nothing is written over a backup");
    let config = Config::new(Mode::Production);
    assert!(matches!(RocksKernel::open(&backup, &config), Err(OpenError::NoHead { .. })));
    assert!(matches!(copy_store(&store.path(), &store.directory.path().join("x")), Err(OpenError::InUse { .. })));
    let restored = RocksKernel::open(&backup, &Config { restored: true, ..config }).unwrap();
    assert_eq!((restored.epoch(), restored.found()), (2, revision));
}
