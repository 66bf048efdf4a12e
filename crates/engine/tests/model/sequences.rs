//! Random sequences, on both stores.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::Instant;

use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::backend::{Backend, InMemory, OnDisk};
use crate::driver::{Tally, World};
use crate::operation::{Op, operations};

/// How many steps are run by default, in memory and on disk. `COUNTERSIGN_MODEL_STEPS` sets the number for memory, and a
/// fifth of it for the disk. Raise it for a night; the default fits the time of `make test`.
const STEPS_IN_MEMORY: usize = 110_000;
const STEPS_ON_DISK: usize = 22_000;
/// The longest sequence. Below the burst of refusals that are recorded singly, which is tested where it is written.
const LONGEST: usize = 160;

/// Everything that must have come about in all sequences together: a model that never approves proves nothing.
const REACHED: &[&str] = &[
    "OpenSession ok session",
    "OpenSession ok session (replay)",
    "OpenSession err ActForDenied",
    "OpenSession err RequestIdReused",
    "OpenIn ok session",
    "OpenIn err SessionMismatch operator",
    "OpenIn err InvalidField principal",
    "Delegate ok ALLOW minted",
    "Delegate ok ALLOW minted (replay)",
    "Delegate ok NEEDS_APPROVAL",
    "Delegate err NotDelegable",
    "Delegate err SessionMismatch principal",
    "Redeem err Capability delegated",
    "Redeem err Capability parent gone",
    "Decide err SessionOver parent",
    "Decide ok ALLOW",
    "Decide ok ALLOW minted",
    "Decide ok ALLOW minted (replay)",
    "Decide ok ALLOW minted approved",
    "Decide ok ALLOW minted approved (replay)",
    "Decide ok DENY",
    "Decide ok NEEDS_APPROVAL",
    "Decide err Approval expired",
    "Decide err Approval redeemed",
    "Decide err Approval void",
    "Decide err ApprovalMismatch",
    "Decide err SessionMismatch operator",
    "Decide err SessionMismatch principal",
    "Decide err SessionOver ended",
    "Decide err SessionOver expired",
    "Decide met CrashAfter",
    "Decide met CrashBefore",
    "Decide met SyncFails",
    "Decide met SyncFailsButKept",
    "BreakGlass ok ALLOW broken",
    "BreakGlass ok ALLOW minted broken",
    "BreakGlass ok ALLOW minted broken (replay)",
    "BreakGlass ok DENY",
    "BreakGlass err AdministrationDenied breakGlass",
    "BreakGlass err Glass review open",
    "BreakGlass err Glass unneeded",
    "BreakGlass err NotAPerson",
    "BreakGlass met CrashAfter",
    "BreakGlass met CrashBefore",
    "CloseReview ok closed",
    "CloseReview err AdministrationDenied reviewBreakGlass",
    "CloseReview err Glass closed",
    "CloseReview err Glass excluded",
    "CloseReview err Glass own",
    "CloseReview err NotAPerson",
    "Redeem ok glass",
    "Ask ok new",
    "Ask ok new (replay)",
    "Ask ok shared",
    "Ask err NothingToAsk",
    "PreAsk ok new",
    "PreAsk ok shared",
    "PreAsk err NothingToAsk",
    "PreAsk err NotPreApprovable",
    "PreAsk err InvalidField pre_approval.uses",
    "PreAsk err InvalidField pre_approval.duration",
    "Decide err Approval used up",
    "Vote ok pending",
    "Vote ok approved",
    "Vote ok approved (replay)",
    "Vote ok denied",
    "Vote ok void",
    "Vote err Approval already voted",
    "Vote err Approval excluded",
    "Vote err Approval expired",
    "Vote err Approval not eligible",
    "Vote err Approval redeemed",
    "Vote err Approval stale digest",
    "Vote err Approval stale view",
    "Vote err Approval void: its session is over",
    "Vote err NotAPerson",
    "Vote err PrincipalUnknown",
    "Vote met CrashAfter",
    "Vote met CrashBefore",
    "Vote met SyncFails",
    "Vote met SyncFailsButKept",
    "WithdrawVote ok pending",
    "WithdrawVote ok void",
    "CancelApproval ok cancelled",
    "CancelApproval err ApprovalNotFound",
    "Redeem ok approved",
    "Redeem ok pre-approved",
    "Redeem err Approval used up",
    "Redeem ok free",
    "Redeem ok free (replay)",
    "Redeem err AdministrationDenied redeem",
    "Redeem err ApprovalGone void",
    "Redeem err Capability already redeemed",
    "Redeem err Capability revoked",
    "Redeem err Holder action",
    "Redeem err Holder missing",
    "Redeem err Holder other",
    "Redeem err InvalidField holder_proof",
    "Redeem err PolicyDenied",
    "Redeem err SessionOver ended",
    "Redeem err Token audience",
    "Redeem err Token bad",
    "Redeem err Token digest",
    "Redeem err Token expired",
    "Redeem met CrashAfter",
    "Redeem met CrashBefore",
    "Redeem met SyncFails",
    "Redeem met SyncFailsButKept",
    "Complete ok completed",
    "Complete err Capability already completed",
    "Complete err Capability not the redeemer",
    "Revoke ok revoked",
    "Revoke err AdministrationDenied revoke",
    "Revoke err Capability already redeemed",
    "RevokeAll ok revoked",
    "RevokeAll ok revoked (replay)",
    "RevokeAll err AdministrationDenied revoke",
    "EndSession ok session",
    "EndSession err AdministrationDenied endSession",
    "PublishBundle ok changed",
    "PublishBundle ok unchanged",
    "PublishBundle err BundleOlder",
    "PublishBundle err BundleRefused",
    "GetApproval ok void",
    "GetCapability ok redeemed",
    "restart",
];
/// The steps that all of it takes: the rarest is then met dozens of times, so that missing it is no bad luck.
const ENOUGH_FOR_ALL: usize = 100_000;
/// What must have come about in shorter runs, such as the one on disk.
const REACHED_SOON: &[&str] = &[
    "Decide ok ALLOW minted approved",
    "PublishBundle ok changed",
    "Redeem ok approved",
    "Redeem ok free",
    "Vote ok approved",
    "WithdrawVote ok void",
    "restart",
];
const ENOUGH_FOR_SOME: usize = 20_000;

fn steps(default: usize, share: usize) -> usize {
    let asked = std::env::var("COUNTERSIGN_MODEL_STEPS").ok();
    asked.map_or(default, |text| text.parse::<usize>().expect("COUNTERSIGN_MODEL_STEPS is a number") / share)
}

async fn play<B: Backend>(ops: &[Op]) -> (Result<(), String>, Tally, usize) {
    let mut world = World::<B>::new().await;
    for (number, op) in ops.iter().enumerate() {
        if let Err(why) = world.step(*op).await {
            let why = format!("step {number}, {op:?}, under {:?}: {why}", world.variant());
            return (Err(why), world.tally, world.steps);
        }
    }
    (world.read_back().await, world.tally, world.steps)
}

fn run<B: Backend>(wanted: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let total = RefCell::new((Tally::new(), 0_usize));
    let started = Instant::now();
    while total.borrow().1 < wanted {
        // Few sequences at a time, so that the steps are counted as they come.
        let config = Config { cases: 16, failure_persistence: None, max_shrink_iters: 4_000, ..Config::default() };
        let outcome = TestRunner::new(config).run(&operations(LONGEST), |ops| {
            let (outcome, tally, steps) = runtime.block_on(play::<B>(&ops));
            let mut total = total.borrow_mut();
            for (what, times) in tally {
                *total.0.entry(what).or_default() += times;
            }
            total.1 += steps;
            outcome.map_err(TestCaseError::fail)
        });
        if let Err(error) = outcome {
            panic!("{}: {error}", B::NAME);
        }
    }
    let (tally, steps) = total.into_inner();
    let mut summary = format!("model on {}: {steps} steps in {:.1} s\n", B::NAME, started.elapsed().as_secs_f64());
    for (what, times) in &tally {
        summary.push_str(&format!("{times:>8} {what}\n"));
    }
    // Past the capture of tests: the summary is for whoever watches, and nothing depends on it.
    let _unwatched = std::io::stderr().write_all(summary.as_bytes());
    let required = match steps {
        ENOUGH_FOR_ALL.. => REACHED,
        ENOUGH_FOR_SOME.. => REACHED_SOON,
        _ => &[],
    };
    let missing: Vec<_> = required.iter().filter(|what| !tally.contains_key(**what)).collect();
    assert!(missing.is_empty(), "never reached: {missing:?}");
}

#[test]
fn the_service_in_memory_does_what_the_model_says() {
    run::<InMemory>(steps(STEPS_IN_MEMORY, 1));
}

#[test]
fn the_service_on_disk_does_what_the_model_says() {
    run::<OnDisk>(steps(STEPS_ON_DISK, 5));
}

/// A publish that changes two questions meets a fault at each of its writes.
#[test]
fn questions_that_a_publish_changes_together_are_one_write() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for nth in [0, 3] {
        let ops = [
            Op::Decide { session: 0, what: 0, by: 0, mint: false, approval: None },
            Op::Open { who: 92, seconds: 0 },
            Op::Ask { session: 0, what: 94, by: 0 },
            Op::Ask { session: 0, what: 62, by: 0 },
            Op::Publish { variant: 157, by: 84 },
            Op::Arm { fault: 0, nth },
            Op::Publish { variant: 14, by: 0 },
        ];
        let (outcome, tally, _) = runtime.block_on(play::<InMemory>(&ops));
        assert_eq!(outcome, Ok(()), "{nth}: {tally:?}");
        assert_eq!((tally["Ask ok new"], tally["PublishBundle met CrashAfter"]), (2, 1), "{nth}: {tally:?}");
    }
}

/// What the model knows of a view comes from answers, and here there is none until the retry.
#[test]
fn a_question_that_is_joined_by_a_call_of_unknown_outcome_shows_the_other_words() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let joined = [
        Op::Ask { session: 0, what: 0, by: 0 },
        Op::PreAsk { session: 0, what: 0, by: 27, bounds: 88 },
        Op::Open { who: 0, seconds: 0 },
        Op::Arm { fault: 3, nth: 105 },
        Op::PreAsk { session: 0, what: 0, by: 16, bounds: 107 },
    ];
    runtime.block_on(play::<InMemory>(&joined)).0.unwrap();
}
