//! What the tests stand on: servers as child processes, bundles to edit, credentials, and the steps that many tests share.
//!
//! - [`Server`] runs the built executable on ports of its own and in a directory of its own; it is killed when dropped.
//! - [`Bundle`] is a copy of a shipped bundle that a test may edit.
//! - [`flow`] has the steps of an action (open, decide, ask, vote, redeem, complete) with the errors left to the test.
//! - [`cli`] runs the command line.
//! - [`Issuer`] signs credentials of any shape, for production configurations and for forgeries.
//!
//! Everything is bounded by [`PATIENCE`]; whoever waits longer panics and says for what.

#![allow(dead_code, unused_imports, reason = "every test module uses another part")]

mod audit;
mod bundle;
pub mod cli;
pub mod flow;
mod issuer;
mod process;
pub mod production;
mod provider;
pub mod schema;
mod server;

use std::time::Duration;

pub use audit::{AUDITOR, AuditRecord, RECORDS, records_of, whole_log_of};
pub use bundle::Bundle;
pub use issuer::{Issuer, approving, seconds};
pub use process::{Exited, Process, executable};
pub use provider::{Person, Provider};
pub use server::{Mode, Options, Server, field};

/// The longest that anything may take, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A request id that nobody used before.
pub fn fresh_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
