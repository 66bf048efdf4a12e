//! The model of the service, and the service held against it: random sequences of calls, of passing time and of crashes,
//! on every store; and what must hold of the log and the rows whatever happened.
//!
//! Sequences shrink: what a failure prints is the shortest sequence of operations that was found to fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::missing_docs_in_private_items,
    missing_docs,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

mod audit;
mod backend;
mod clocks;
mod driver;
mod faults;
mod hand;
mod known;
mod operation;
mod pairs;
mod pre;
mod races;
mod reference;
mod request;
mod sequences;
mod service;
mod told;
mod world;
