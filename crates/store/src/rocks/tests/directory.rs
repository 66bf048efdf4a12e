//! Which directories are opened.

use std::fs;

use rocksdb::{DB, Options};

use super::*;
use crate::OpenError;
use crate::contract::{create, done, value};
use crate::kernel::Kernel as _;

fn refused(path: &std::path::Path, config: &Config) -> OpenError {
    let error = RocksKernel::open(path, config).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()) && !text.ends_with('.'), "{text}");
    error
}

#[tokio::test]
async fn a_directory_is_opened_only_in_the_mode_it_is_stamped_with() {
    let root = tempfile::tempdir().unwrap();
    for (stamped, other) in [(Mode::Production, Mode::Development), (Mode::Development, Mode::Production)] {
        let path = root.path().join(stamped.to_string());
        drop(RocksKernel::create(&path, &Config::new(stamped)).unwrap());
        let error = refused(&path, &Config::new(other));
        assert!(matches!(error, OpenError::OtherMode { .. }), "{error}");
        assert!(error.to_string().contains(stamped.advice()), "{error}");
        drop(RocksKernel::open(&path, &Config::new(stamped)).unwrap());
    }
}

#[tokio::test]
async fn a_store_is_created_only_where_nothing_is_and_opened_only_where_one_is() {
    let root = tempfile::tempdir().unwrap();
    let config = Config::new(Mode::Production);
    let path = root.path().join("deep").join("data");
    assert!(matches!(refused(&path, &config), OpenError::Missing { .. }));
    drop(RocksKernel::create(&path, &config).unwrap());
    assert!(matches!(RocksKernel::create(&path, &config), Err(OpenError::NotEmpty { .. })));

    let foreign = root.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("notes.txt"), "mine").unwrap();
    assert!(matches!(refused(&foreign, &config), OpenError::Missing { .. }));
    assert!(matches!(RocksKernel::create(&foreign, &config), Err(OpenError::NotEmpty { .. })));
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
}

#[tokio::test]
async fn one_process_has_a_directory() {
    let store = OnDisk::new();
    assert!(matches!(refused(&store.path(), &store.config), OpenError::InUse { .. }));
    done(store.kernel(), create(1, "still here")).await;
}

#[tokio::test]
async fn a_newer_or_unknown_format_is_refused() {
    let mut store = OnDisk::new();
    store.kernel = None;
    let columns = ["default", "rows", "log", "nodes"];
    let database = DB::open_cf(&Options::default(), store.path(), columns).unwrap();
    database.put("format", 2_u32.to_be_bytes()).unwrap();
    drop(database);
    let error = refused(&store.path(), &store.config);
    assert!(matches!(&error, OpenError::Format { found, known: 1, .. } if found == "format 2"), "{error}");

    let mut database = DB::open_cf(&Options::default(), store.path(), columns).unwrap();
    database.put("format", 1_u32.to_be_bytes()).unwrap();
    database.create_cf("future", &Options::default()).unwrap();
    drop(database);
    let error = refused(&store.path(), &store.config);
    assert!(matches!(&error, OpenError::Format { found, .. } if found.contains("`future`")), "{error}");
}

#[tokio::test]
async fn a_creation_that_did_not_finish_is_no_store() {
    let mut store = OnDisk::new();
    store.kernel = None;
    let database = DB::open_cf(&Options::default(), store.path(), ["default", "rows", "log", "nodes"]).unwrap();
    database.delete("format").unwrap();
    drop(database);
    let error = refused(&store.path(), &store.config);
    assert!(matches!(&error, OpenError::Damaged { reason, .. } if reason.contains("creation")), "{error}");
}

#[tokio::test]
async fn what_was_opened_as_restored_has_a_raised_epoch() {
    let mut store = OnDisk::new();
    let before = done(store.kernel(), create(1, "x")).await.revision;
    store.kernel = None;
    // A copy that was made by RocksDB's own means has no head.
    fs::remove_file(store.path().join("HEAD")).unwrap();
    let error = refused(&store.path(), &store.config);
    assert!(matches!(&error, OpenError::NoHead { .. }), "{error}");
    // A start as restored that is refused for another reason proves nothing to the ordinary one after it.
    let other = Config { restored: true, ..Config::new(Mode::Development) };
    assert!(matches!(refused(&store.path(), &other), OpenError::OtherMode { .. }));
    let error = refused(&store.path(), &store.config);
    assert!(matches!(&error, OpenError::NoHead { .. }), "{error}");
    store.config.restored = true;
    store.restart();
    assert_eq!(store.kernel().epoch(), 2);
    assert_eq!(value(store.kernel(), 1).await.unwrap(), "x");
    assert!(done(store.kernel(), create(2, "x")).await.revision > before.next());
    store.config.restored = false;
    store.restart();
    assert_eq!(store.kernel().epoch(), 2);
}
