//! Failed syncs, crashes, restarts.

use super::*;
use crate::fail::Fault;
use crate::{CommitError, Guard, Prefix, StoreError};

/// A commit that meets the fault, and everything after it until the restart.
async fn struck<B: Backend>(fault: Fault) -> B {
    let mut store = B::new();
    let first = done(store.kernel(), create(1, "before").record("before")).await.revision;
    store.fail().arm(fault);
    let commits = vec![replace(1, first, "struck").record("struck"), create(1, "conflict"), create(2, "struck")];
    let outcomes = store.kernel().commit_many(commits).await;
    assert!(matches!(outcomes[0], Err(CommitError::Unknown { .. })), "{outcomes:?}");
    assert!(matches!(outcomes[2], Err(CommitError::Unknown { .. })), "{outcomes:?}");
    // Nothing is decided from a store whose disk is in doubt (I12).
    assert!(matches!(store.kernel().get(&key(1)).await, Err(StoreError::Stopped { .. })));
    assert!(matches!(store.kernel().scan(&Prefix::tenant(&acme()), None, 9).await, Err(StoreError::Stopped { .. })));
    assert!(matches!(store.kernel().log_size(&acme()).await, Err(StoreError::Stopped { .. })));
    let later = store.kernel().commit(create(3, "later")).await;
    assert!(matches!(later, Err(CommitError::Unavailable(StoreError::Stopped { .. }))), "{later:?}");
    store.restart();
    assert_eq!(value(store.kernel(), 3).await, None);
    store
}

async fn nothing_is_there<B: Backend>(store: &B) {
    assert_eq!(value(store.kernel(), 1).await.unwrap(), "before");
    assert_eq!(value(store.kernel(), 2).await, None);
    assert_eq!(store.kernel().log_size(&acme()).await.unwrap(), 1);
    goes_on(store).await;
}

async fn everything_is_there<B: Backend>(store: &B) {
    assert_eq!(value(store.kernel(), 1).await.unwrap(), "struck");
    assert_eq!(value(store.kernel(), 2).await.unwrap(), "struck");
    assert_eq!(store.kernel().log_size(&acme()).await.unwrap(), 2);
    goes_on(store).await;
}

async fn goes_on<B: Backend>(store: &B) {
    let size = store.kernel().log_size(&acme()).await.unwrap();
    let row = store.kernel().get(&key(1)).await.unwrap().unwrap();
    let committed = done(store.kernel(), replace(1, row.revision, "after").record("after")).await;
    assert!(committed.revision > row.revision);
    assert_eq!(committed.first_log_index, size);
}

pub(crate) async fn a_failed_sync_stops_the_store<B: Backend>() {
    nothing_is_there(&struck::<B>(Fault::SyncFails).await).await;
}

pub(crate) async fn what_a_failed_sync_kept_is_there_after_a_restart<B: Backend>() {
    everything_is_there(&struck::<B>(Fault::SyncFailsButKept).await).await;
}

pub(crate) async fn a_crash_before_the_write_leaves_nothing<B: Backend>() {
    nothing_is_there(&struck::<B>(Fault::CrashBefore).await).await;
}

pub(crate) async fn a_crash_after_the_write_leaves_everything<B: Backend>() {
    everything_is_there(&struck::<B>(Fault::CrashAfter).await).await;
}

pub(crate) async fn a_restart_keeps_everything<B: Backend>() {
    let mut store = B::new();
    for number in 0..50 {
        done(store.kernel(), create(number, &number.to_string()).record(number.to_string())).await;
    }
    let prefix = Prefix::tenant(&acme());
    let rows = store.kernel().scan(&prefix, None, 100).await.unwrap();
    let records = store.kernel().log_entries(&acme(), 0, 100).await.unwrap();
    let frontier = store.kernel().log_frontier(&acme()).await.unwrap();
    store.restart();
    assert_eq!(store.kernel().scan(&prefix, None, 100).await.unwrap(), rows);
    assert_eq!(store.kernel().log_entries(&acme(), 0, 100).await.unwrap(), records);
    assert_eq!(store.kernel().log_frontier(&acme()).await.unwrap(), frontier);
    let last = rows.rows.last().unwrap().1.revision;
    let guarded = create(99, "x").guard(Guard::Revision(key(49), last));
    assert!(done(store.kernel(), guarded).await.revision > last);
}

pub(crate) async fn a_raised_epoch_stays_raised<B: Backend>() {
    let mut store = B::new();
    assert_eq!(store.kernel().epoch(), 1);
    done(store.kernel(), create(1, "x")).await;
    assert_eq!(store.kernel().raise_epoch().await, Ok(2));
    assert_eq!(store.kernel().epoch(), 2);
    done(store.kernel(), create(2, "x")).await;
    store.restart();
    assert_eq!(store.kernel().epoch(), 2);
    assert_eq!(store.kernel().raise_epoch().await, Ok(3));
}

pub(crate) async fn an_orderly_end_answers_that_it_ended<B: Backend>() {
    let mut store = B::new();
    done(store.kernel(), create(1, "x")).await;
    store.shutdown();
    assert_eq!(store.kernel().get(&key(1)).await, Err(StoreError::ShutDown));
    assert_eq!(store.kernel().commit(create(2, "x")).await, Err(StoreError::ShutDown.into()));
    assert_eq!(store.kernel().raise_epoch().await, Err(StoreError::ShutDown.into()));
    store.restart();
    assert_eq!(value(store.kernel(), 1).await.unwrap(), "x");
    assert_eq!(value(store.kernel(), 2).await, None);
}
