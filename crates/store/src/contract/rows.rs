//! Guards, atomicity, order.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::time::ManualClock;
use countersign_core::{Clock as _, Timestamp};
use futures::future::join_all;

use super::*;
use crate::kernel::{MAX_OPERATIONS, MAX_PAGE_BYTES, MAX_RECORD_BYTES, MAX_VALUE_BYTES};
use crate::{CommitError, Guard, Kind, Now, Prefix, Row, Write};

pub(crate) async fn a_row_is_read_back_with_the_revision_of_its_commit<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    assert_eq!(kernel.get(&key(1)).await.unwrap(), None);
    let first = done(kernel, create(1, "one")).await;
    let second = done(kernel, create(2, "two")).await;
    assert!(first.revision > Revision::ZERO && second.revision > first.revision);
    let row = Row { revision: first.revision, value: "one".into() };
    assert_eq!(kernel.get(&key(1)).await.unwrap(), Some(row));
    let empty = done(kernel, replace(1, first.revision, "")).await;
    assert_eq!(kernel.get(&key(1)).await.unwrap().unwrap().revision, empty.revision);
    assert_eq!(value(kernel, 1).await.unwrap(), "");
    done(kernel, Commit::new(acme()).delete(key(1), empty.revision)).await;
    assert_eq!(kernel.get(&key(1)).await.unwrap(), None);
}

pub(crate) async fn a_write_without_a_guard_is_refused<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    for write in [Write::Put(key(1), "x".into()), Write::Delete(key(1))] {
        let mut commit = create(2, "guarded").record("told");
        commit.writes.push(write);
        assert_eq!(kernel.commit(commit).await, Err(CommitError::Unguarded { key: key(1) }));
    }
    assert_eq!(value(kernel, 2).await, None);
    assert_eq!(kernel.log_size(&acme()).await.unwrap(), 0);
}

pub(crate) async fn a_guard_that_does_not_hold_changes_nothing<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let old = done(kernel, create(1, "old")).await.revision;
    let new = done(kernel, replace(1, old, "new")).await.revision;
    for guard in [
        Guard::Absent(key(1)),
        Guard::Revision(key(1), old),
        Guard::Revision(key(1), new.next()),
        Guard::Revision(key(9), new),
    ] {
        let conflict = Err(CommitError::Conflict { key: guard.key().clone() });
        let commit = create(2, "never").record("never").guard(guard);
        assert_eq!(kernel.commit(commit).await, conflict);
    }
    assert_eq!(value(kernel, 1).await.unwrap(), "new");
    assert_eq!(value(kernel, 2).await, None);
    assert_eq!(kernel.log_size(&acme()).await.unwrap(), 0);
    assert_eq!(done(kernel, replace(1, new, "newer")).await.first_log_index, 0);
}

pub(crate) async fn a_guard_on_a_row_that_is_only_read_counts<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let read = done(kernel, create(1, "policy")).await.revision;
    done(kernel, create(2, "under it").guard(Guard::Revision(key(1), read))).await;
    done(kernel, replace(1, read, "other policy")).await;
    let late = create(3, "under it").guard(Guard::Revision(key(1), read));
    assert_eq!(kernel.commit(late).await, Err(CommitError::Conflict { key: key(1) }));
}

pub(crate) async fn a_row_that_was_deleted_and_made_again_is_another_one<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let first = done(kernel, create(1, "same")).await.revision;
    done(kernel, Commit::new(acme()).delete(key(1), first)).await;
    let again = done(kernel, create(1, "same")).await.revision;
    assert!(again > first);
    assert_eq!(kernel.commit(replace(1, first, "late")).await, Err(CommitError::Conflict { key: key(1) }));
}

pub(crate) async fn a_commit_that_comes_too_late_changes_nothing<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let at = Timestamp::from_millis;
    let clock = Arc::new(ManualClock::new(at(1_000)));
    let now: Now = Arc::new({
        let clock = Arc::clone(&clock);
        move || Some(clock.wall())
    });
    done(kernel, create(1, "in time").before(at(1_001), &now)).await;
    // The earlier of two moments counts, and at the moment itself it is too late.
    let late = create(2, "late").record("late").before(at(9_000), &now).before(at(2_000), &now).before(at(8_000), &now);
    clock.advance(Duration::from_secs(1));
    assert_eq!(kernel.commit(late).await, Err(CommitError::TooLate));
    let unbelieved: Now = Arc::new(|| None);
    assert_eq!(kernel.commit(create(2, "when").before(at(9_000), &unbelieved)).await, Err(CommitError::TooLate));
    assert_eq!(value(kernel, 2).await, None);
    assert_eq!(kernel.log_size(&acme()).await.unwrap(), 0);
}

pub(crate) async fn commits_of_one_call_have_outcomes_of_their_own<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let outcomes = kernel
        .commit_many(vec![
            create(1, "first").record("a"),
            create(1, "second").record("never"),
            Commit::new(acme()),
            create(2, "third").record("b").record("c"),
            Commit::new(acme()).record("d"),
        ])
        .await;
    let [Ok(first), conflict, empty, Ok(third), Ok(fourth)] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    assert_eq!(*conflict, Err(CommitError::Conflict { key: key(1) }));
    assert_eq!(*empty, Err(CommitError::Empty));
    assert!(first.revision < third.revision && third.revision < fourth.revision);
    assert_eq!((first.first_log_index, first.log_size), (0, 1));
    assert_eq!((third.first_log_index, third.log_size), (1, 3));
    assert_eq!((fourth.first_log_index, fourth.log_size), (3, 4));
    assert_eq!(value(kernel, 1).await.unwrap(), "first");
    assert_eq!(kernel.commit_many(Vec::new()).await, []);
}

pub(crate) async fn what_exceeds_a_limit_is_refused_before_anything_happens<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let most = u64::try_from(MAX_OPERATIONS).unwrap();
    let fill = |count: u64| (1..=count).fold(Commit::new(acme()), |commit, n| commit.create(key(n), "x"));

    let too_many = kernel.commit(fill(most).record("one more")).await;
    assert!(matches!(too_many, Err(CommitError::TooMany { count: 65, .. })), "{too_many:?}");
    let guards = kernel.commit(fill(most).guard(Guard::Absent(key(99)))).await;
    assert!(matches!(guards, Err(CommitError::TooMany { what: "guards", .. })), "{guards:?}");
    let value_bytes = kernel.commit(create(1, &"x".repeat(MAX_VALUE_BYTES + 1))).await;
    assert!(matches!(value_bytes, Err(CommitError::TooLarge { what: "value", .. })), "{value_bytes:?}");
    let record = kernel.commit(create(1, "x").record(vec![0; MAX_RECORD_BYTES + 1])).await;
    assert!(matches!(record, Err(CommitError::TooLarge { what: "record", .. })), "{record:?}");
    let long = Key::new(&acme(), Kind::Session, &[&[0; 600]]);
    let long = kernel.commit(Commit::new(acme()).create(long, "x")).await;
    assert!(matches!(long, Err(CommitError::TooLarge { what: "key", .. })), "{long:?}");
    let twice = create(1, "x").create(key(1), "y");
    assert_eq!(kernel.commit(twice).await, Err(CommitError::WrittenTwice { key: key(1) }));
    assert_eq!(kernel.commit(Commit::new(acme())).await, Err(CommitError::Empty));
    let check = Commit::new(acme()).guard(Guard::Absent(key(1)));
    assert_eq!(kernel.commit(check).await, Err(CommitError::Empty));

    assert_eq!(kernel.scan(&Prefix::tenant(&acme()), None, 10).await.unwrap().rows, []);
    assert_eq!(kernel.log_size(&acme()).await.unwrap(), 0);
    done(kernel, fill(most)).await;
    done(kernel, Commit::new(acme()).record(vec![0; MAX_RECORD_BYTES])).await;
    done(kernel, create(100, &"x".repeat(MAX_VALUE_BYTES))).await;
}

pub(crate) async fn a_commit_stays_within_its_tenant<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let other = Key::session(&TenantId::new("acme-2").unwrap(), &session(1));
    let written = Commit::new(acme()).create(other.clone(), "x");
    assert_eq!(kernel.commit(written).await, Err(CommitError::OtherTenant { key: other.clone() }));
    let read = create(1, "x").guard(Guard::Absent(other.clone()));
    assert_eq!(kernel.commit(read).await, Err(CommitError::OtherTenant { key: other }));
}

pub(crate) async fn scans_are_in_order_and_paged_both_ways<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let neighbour = TenantId::new("acme-2").unwrap();
    done(kernel, Commit::new(neighbour.clone()).create(Key::session(&neighbour, &session(4)), "x")).await;
    done(kernel, Commit::new(acme()).create(Key::tenant(&acme()), "x")).await;
    let approval = Key::approval(&acme(), &countersign_core::ApprovalId::from_bytes([0; 16]));
    done(kernel, Commit::new(acme()).create(approval, "x")).await;
    for number in [7, 3, 5, 1, 9, 2] {
        done(kernel, create(number, "x")).await;
    }
    let gone = kernel.get(&key(5)).await.unwrap().unwrap().revision;
    done(kernel, Commit::new(acme()).delete(key(5), gone)).await;

    let prefix = Prefix::kind(&acme(), Kind::Session);
    let expected: Vec<Key> = [1, 2, 3, 7, 9].map(key).to_vec();
    for limit in [1, 2, 4, 5, 6] {
        for newest_first in [false, true] {
            let (mut seen, mut from) = (Vec::new(), None);
            loop {
                let page = if newest_first {
                    kernel.scan_newest(&prefix, from.as_ref(), limit).await.unwrap()
                } else {
                    kernel.scan(&prefix, from.as_ref(), limit).await.unwrap()
                };
                assert!(page.rows.len() <= limit);
                assert!(page.next.is_none() || page.rows.len() == limit);
                seen.extend(page.rows.into_iter().map(|(key, _)| key));
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
            if newest_first {
                seen.reverse();
            }
            assert_eq!(seen, expected, "limit {limit}, newest first {newest_first}");
        }
    }
    // From a row that is not there, and from beyond the prefix on either side.
    let keys = |page: crate::Page| page.rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(kernel.scan(&prefix, Some(&key(4)), 9).await.unwrap()), [7, 9].map(key));
    assert_eq!(keys(kernel.scan_newest(&prefix, Some(&key(4)), 9).await.unwrap()), [3, 2, 1].map(key));
    assert_eq!(keys(kernel.scan(&prefix, Some(&Key::tenant(&acme())), 9).await.unwrap()).len(), 5);
    assert_eq!(keys(kernel.scan_newest(&prefix, Some(&Key::tenant(&acme())), 9).await.unwrap()), []);
    let beyond = Key::approval(&acme(), &countersign_core::ApprovalId::from_bytes([1; 16]));
    assert_eq!(keys(kernel.scan(&prefix, Some(&beyond), 9).await.unwrap()), []);
    assert_eq!(keys(kernel.scan_newest(&prefix, Some(&beyond), 9).await.unwrap()).len(), 5);
}

pub(crate) async fn a_page_ends_when_it_has_enough_bytes<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let value = "x".repeat(MAX_VALUE_BYTES);
    let rows = MAX_PAGE_BYTES / MAX_VALUE_BYTES + 1;
    let commits: Vec<Commit> = (0..u64::try_from(rows).unwrap()).map(|number| create(number, &value)).collect();
    assert!(kernel.commit_many(commits).await.iter().all(Result::is_ok));
    let prefix = Prefix::tenant(&acme());
    let page = kernel.scan(&prefix, None, usize::MAX).await.unwrap();
    assert_eq!(page.rows.len(), rows - 1);
    let rest = kernel.scan(&prefix, page.next.as_ref(), usize::MAX).await.unwrap();
    assert_eq!((rest.rows.len(), rest.next), (1, None));
}

pub(crate) async fn concurrent_increments_are_all_counted<B: Backend>() {
    const TASKS: u64 = 8;
    const EACH: u64 = 25;
    let store = B::new();
    let kernel = store.kernel();
    done(kernel, create(1, "0")).await;
    let increment = async || {
        for _ in 0..EACH {
            loop {
                let row = kernel.get(&key(1)).await.unwrap().unwrap();
                let count: u64 = std::str::from_utf8(&row.value).unwrap().parse().unwrap();
                let next = replace(1, row.revision, &(count + 1).to_string()).record(count.to_string());
                match kernel.commit(next).await {
                    Ok(_) => break,
                    Err(error) => assert_eq!(error, CommitError::Conflict { key: key(1) }),
                }
                tokio::task::yield_now().await;
            }
        }
    };
    join_all((0..TASKS).map(|_| increment())).await;
    assert_eq!(value(kernel, 1).await.unwrap(), (TASKS * EACH).to_string());
    // The log tells each count once, in the order in which they took effect.
    let records = kernel.log_entries(&acme(), 0, 1000).await.unwrap();
    let told: Vec<String> = records.iter().map(|(_, record)| String::from_utf8(record.to_vec()).unwrap()).collect();
    assert_eq!(told, (0..TASKS * EACH).map(|count| count.to_string()).collect::<Vec<_>>());
}

pub(crate) async fn of_many_that_spend_one_row_one_succeeds<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    for round in 0..20 {
        let minted = done(kernel, create(round, "minted")).await.revision;
        let spend = |n: u64| kernel.commit(replace(round, minted, &format!("redeemed by {n}")).record("redeemed"));
        let outcomes = join_all((0..10).map(spend)).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    }
    assert_eq!(kernel.log_size(&acme()).await.unwrap(), 20);
}
