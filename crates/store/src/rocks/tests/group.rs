//! Several commits in one sync.

use futures::FutureExt as _;
use futures::future::join_all;

use super::*;
use crate::contract::{acme, create, done, replace, value};
use crate::kernel::Kernel as _;
use crate::{Commit, CommitError, StoreError};

#[tokio::test]
async fn commits_that_wait_together_share_one_sync_and_see_each_other() {
    let store = OnDisk::new();
    let kernel = store.kernel();
    let first = done(kernel, create(1, "0")).await.revision;
    let hold = store.fail().hold();
    // The fault would meet the second write: one group makes only one.
    store.fail().arm_nth(2, Fault::CrashBefore);
    let spend = |n: u64| kernel.commit(replace(1, first, &n.to_string()).record(n.to_string()));
    let fresh = |n: u64| kernel.commit(create(100 + n, "x").record("x"));
    let all = async {
        let (spent, made, ()) =
            futures::join!(join_all((0..10).map(spend)), join_all((0..10).map(fresh)), async { drop(hold) });
        (spent, made)
    };
    let (spent, made) = all.await;
    assert_eq!(spent.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(spent.iter().skip(1).all(|outcome| matches!(outcome, Err(CommitError::Conflict { .. }))));
    assert!(made.iter().all(Result::is_ok));
    assert_eq!(value(kernel, 1).await.unwrap(), "0");
    assert_eq!(kernel.log_size(&acme()).await.unwrap(), 11);
    assert!(matches!(kernel.commit(create(999, "x")).await, Err(CommitError::Unknown { .. })));
}

#[tokio::test]
async fn a_conflict_with_a_row_that_never_came_to_be_is_not_reported_as_one() {
    let store = OnDisk::new();
    store.fail().arm(Fault::SyncFails);
    let outcomes = store.kernel().commit_many(vec![create(1, "a"), create(1, "b")]).await;
    assert!(matches!(outcomes[0], Err(CommitError::Unknown { .. })));
    assert!(matches!(outcomes[1], Err(CommitError::Unavailable(StoreError::Stopped { .. }))));
}

#[tokio::test]
async fn a_full_queue_is_overloaded_at_once_and_commits_nothing() {
    let mut store = OnDisk::new();
    store.config.queue = 2;
    store.restart();
    let kernel = store.kernel();
    let hold = store.fail().hold();
    // The writer may have taken one of them out of the queue already.
    let mut waiting: Vec<_> = (0..4).map(|n| Box::pin(kernel.commit(create(n, "x")))).collect();
    let early: Vec<_> = waiting.iter_mut().map(|commit| commit.now_or_never()).collect();
    let refused = early.iter().flatten().count();
    assert!((1..=2).contains(&refused), "{early:?}");
    drop(hold);
    for (number, (early, commit)) in (0..).zip(early.into_iter().zip(waiting)) {
        match early {
            Some(outcome) => {
                assert_eq!(outcome, Err(StoreError::Overloaded.into()));
                assert_eq!(value(kernel, number).await, None);
            }
            None => assert!(commit.await.is_ok()),
        }
    }
}

#[tokio::test]
async fn too_many_waiting_bytes_are_overloaded() {
    let mut store = OnDisk::new();
    store.config.queue_bytes = 1000;
    store.restart();
    let kernel = store.kernel();
    let big = |n: u64| Commit::new(acme()).record(vec![0; 900]).create(crate::contract::key(n), "x");
    let hold = store.fail().hold();
    let mut outcomes: Vec<_> = (0..3).map(|n| Box::pin(kernel.commit(big(n)))).collect();
    let refused: usize = outcomes.iter_mut().filter_map(|commit| commit.now_or_never()).count();
    assert!(refused >= 1);
    drop(hold);
    // What was refused does not count as waiting for good.
    for n in 10..15 {
        while kernel.commit(big(n)).await == Err(StoreError::Overloaded.into()) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_commit_whose_caller_went_away_is_made_all_the_same() {
    let mut store = OnDisk::new();
    let hold = store.fail().hold();
    assert!(Box::pin(store.kernel().commit(create(1, "x"))).now_or_never().is_none());
    drop(hold);
    store.shutdown();
    store.restart();
    assert_eq!(value(store.kernel(), 1).await.unwrap(), "x");
}

#[tokio::test]
#[ignore = "measures; run with --ignored --nocapture"]
async fn what_a_sync_costs() {
    let store = OnDisk::new();
    let kernel = store.kernel();
    for batch in [1_u64, 8, 64, 256] {
        let rounds = 100_u64;
        let start = std::time::Instant::now();
        for round in 0..rounds {
            let commits =
                (0..batch).map(|n| create(batch << 32 | round << 16 | n, &"x".repeat(500)).record(vec![1; 1000]));
            assert!(kernel.commit_many(commits.collect()).await.iter().all(Result::is_ok));
        }
        let each = start.elapsed() / u32::try_from(rounds).unwrap();
        println!("commit_many of {batch}: {each:?}");
    }
    for tasks in [1_u64, 16, 64, 256] {
        let start = std::time::Instant::now();
        let task = async |task: u64| {
            for round in 0..50_u64 {
                done(
                    kernel,
                    create(1 << 60 | tasks << 40 | task << 20 | round, &"x".repeat(500)).record(vec![1; 1000]),
                )
                .await;
            }
        };
        join_all((0..tasks).map(task)).await;
        let each = start.elapsed() / u32::try_from(tasks * 50).unwrap();
        println!("{tasks} tasks: {each:?} a commit");
    }
    let start = std::time::Instant::now();
    for n in 0..10_000 {
        kernel.get(&crate::contract::key(n)).await.unwrap();
    }
    println!("get: {:?}", start.elapsed() / 10_000);
}
