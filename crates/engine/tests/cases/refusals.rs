//! Refusals that come too fast are counted, and each is in the log once.

use std::sync::Arc;

use countersign_core::{ApprovalId, TenantId};
use countersign_store::fail::FailPoint;
use countersign_store::{Config, Kernel, Mode, RocksKernel};

use crate::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_whose_writing_nobody_waited_for_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let fail = FailPoint::default();
    let config = Config { fail: fail.clone(), ..Config::new(Mode::Development) };
    let kernel = Arc::new(RocksKernel::create(&dir.path().join("store"), &config).unwrap());
    let world = World::on(Arc::clone(&kernel)).await;
    let tenant = TenantId::new("acme").unwrap();
    let size = || async { kernel.log_size(&tenant).await.unwrap() };
    let unknown = ApprovalId::from_bytes([9; 16]);
    let before = size().await;
    // The clock stands still, so the burst is all that comes singly.
    for _ in 0..300 {
        world.engine.cancel(&call("agent:bot", "CancelApproval"), unknown).await.unwrap_err();
    }
    let singly = size().await - before;
    assert!(singly < 300, "{singly} of 300 came singly");

    let held = fail.hold();
    let mut interrupted = Box::pin(world.engine.flush_refusals());
    while kernel.queued_bytes() == 0 {
        assert!(futures::poll!(&mut interrupted).is_pending());
        tokio::task::yield_now().await;
    }
    drop(interrupted);
    drop(held);
    world.engine.flush_refusals().await.unwrap();
    assert_eq!(size().await, before + singly + 1);
}
