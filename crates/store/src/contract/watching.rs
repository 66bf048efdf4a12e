//! Watches.

use std::pin::pin;

use futures::{FutureExt as _, StreamExt as _};

use super::*;
use crate::watch::LIVE_GROUPS;
use crate::{Change, Kind, Pace, Prefix, StoreError};

fn sessions() -> Prefix {
    Prefix::kind(&acme(), Kind::Session)
}

/// The number of the row, the commit, and the value; no value: deleted.
fn told(change: Option<Result<Change, StoreError>>) -> (Key, Revision, Option<String>) {
    let Change { revision, key, row } = change.unwrap().unwrap();
    let value = row.map(|row| {
        assert_eq!(row.revision, revision);
        String::from_utf8(row.value.to_vec()).unwrap()
    });
    (key, revision, value)
}

pub(crate) async fn a_watch_shows_what_changed_and_then_what_changes<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let first = done(kernel, create(5, "old")).await.revision;
    let second = done(kernel, create(1, "kept")).await.revision;
    let third = done(kernel, replace(5, first, "new")).await.revision;
    let short = done(kernel, create(2, "gone")).await.revision;
    done(kernel, Commit::new(acme()).delete(key(2), short)).await;
    done(kernel, Commit::new(acme()).create(Key::tenant(&acme()), "another kind")).await;

    let mut watch = pin!(kernel.watch(&sessions(), Revision::ZERO));
    assert_eq!(told(watch.next().await), (key(1), second, Some("kept".to_owned())));
    assert_eq!(told(watch.next().await), (key(5), third, Some("new".to_owned())));
    assert!(watch.next().now_or_never().is_none());

    let pair =
        create(6, "six").create(key(7), "seven").create(Key::bundle(&acme(), &countersign_core::Digest::of(b"")), "");
    let pair = done(kernel, pair).await.revision;
    let gone = done(kernel, Commit::new(acme()).delete(key(6), pair)).await.revision;
    assert_eq!(told(watch.next().await), (key(6), pair, Some("six".to_owned())));
    assert_eq!(told(watch.next().await), (key(7), pair, Some("seven".to_owned())));
    assert_eq!(told(watch.next().await), (key(6), gone, None));
}

pub(crate) async fn a_watch_resumes_after_the_last_revision_seen<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let mut revisions = Vec::new();
    for number in 0..5 {
        // Descending keys: the order is that of the commits, else resuming would skip some.
        revisions.push(done(kernel, create(100 - number, "x")).await.revision);
    }
    for (seen, from) in revisions.iter().enumerate() {
        let mut watch = pin!(kernel.watch(&sessions(), *from));
        for (number, expected) in (0..).zip(&revisions).skip(seen + 1) {
            let (changed, revision, _) = told(watch.next().await);
            assert_eq!((changed, revision), (key(100 - number), *expected));
        }
        assert!(watch.next().now_or_never().is_none());
    }
    let row = key(98);
    let mut one = pin!(kernel.watch(&Prefix::row(&row), Revision::ZERO));
    assert_eq!(told(one.next().await).0, row);
    assert!(one.next().now_or_never().is_none());
}

pub(crate) async fn a_watch_that_fell_behind_is_caught_up<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let mut last = done(kernel, create(1, "0")).await.revision;
    let mut watch = pin!(kernel.watch(&sessions(), Revision::ZERO));
    assert_eq!(told(watch.next().await).1, last);
    let other = done(kernel, create(2, "once")).await.revision;
    let changes = LIVE_GROUPS * 2;
    for count in 1..=changes {
        last = done(kernel, replace(1, last, &count.to_string())).await.revision;
    }
    assert_eq!(told(watch.next().await), (key(2), other, Some("once".to_owned())));
    assert_eq!(told(watch.next().await), (key(1), last, Some(changes.to_string())));
    assert!(watch.next().now_or_never().is_none());
    let next = done(kernel, create(3, "live again")).await.revision;
    assert_eq!(told(watch.next().await), (key(3), next, Some("live again".to_owned())));
}

pub(crate) async fn whoever_does_not_wait_is_told_when_there_is_no_more<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let mut last = done(kernel, create(1, "0")).await.revision;
    let mut news = pin!(kernel.changes(&sessions(), Revision::ZERO, Pace::Ready));
    let mut next = async || news.next().await.unwrap().unwrap();
    assert_eq!(next().await.map(|change| change.revision), Some(last));
    assert_eq!(next().await, None);
    assert_eq!(next().await, None, "there is still none, and nobody waits for one");
    done(kernel, Commit::new(acme()).create(Key::tenant(&acme()), "another kind")).await;
    assert_eq!(next().await, None);
    // A few, and so many that they are looked up.
    for changes in [3, LIVE_GROUPS * 2] {
        for count in 0..changes {
            last = done(kernel, replace(1, last, &count.to_string())).await.revision;
        }
        let mut newest = None;
        while let Some(change) = next().await {
            newest = Some(change.revision);
        }
        assert_eq!(newest, Some(last), "all that was answered before");
    }
    store.shutdown();
    assert_eq!(news.next().await, None);
}

pub(crate) async fn a_watch_ends_with_the_store<B: Backend>() {
    let store = B::new();
    done(store.kernel(), create(1, "x")).await;
    let mut watch = pin!(store.kernel().watch(&sessions(), Revision::ZERO));
    assert!(watch.next().await.unwrap().is_ok());
    store.shutdown();
    assert_eq!(watch.next().await, None);

    let store = B::new();
    done(store.kernel(), create(1, "x")).await;
    let mut watch = pin!(store.kernel().watch(&sessions(), Revision::ZERO));
    assert!(watch.next().await.unwrap().is_ok());
    store.fail().arm(crate::fail::Fault::SyncFails);
    assert!(store.kernel().commit(create(2, "x")).await.is_err());
    assert!(matches!(watch.next().await, Some(Err(StoreError::Stopped { .. }))));
    assert_eq!(watch.next().await, None);
}
