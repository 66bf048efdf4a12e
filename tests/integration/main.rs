//! Integration tests: the built executable as a process, reached as its users reach it.
//!
//! Nothing here sleeps to see something happen, depends on order, or leaves loopback; see `harness`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

mod approvals;
mod audit;
mod authoring;
mod capabilities;
mod cli;
mod decisions;
mod evidence;
mod harness;
mod identity;
mod notifications;
mod proving;
mod publishing;
mod scenarios;
mod sessions;
mod storage;
mod verifiers;
