//! What the crate promises, tested from outside, with the Biscuit library in the hands of an attacker.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that fails should fail at the line that was wrong"
)]

mod authorize;
mod fixture;
mod keys;
mod mint;
mod narrow;
mod shape;
mod spelling;
