//! The storage kernel: guarded commits, paged reads, watches, and the log of every tenant.
//!
//! [`Kernel`] is the one seam: [`RocksKernel`] keeps it on disk, [`MemoryKernel`] in memory, and one contract suite
//! holds both to the same semantics. Where rows lie stands in [`layout`]; what they mean is known
//! above the kernel only, in [`repository`].

pub mod asked;
pub mod error;
#[doc(hidden)]
pub mod fail;
pub mod kernel;
pub mod layout;
pub mod memory;
pub mod outbox;
pub mod questions;
pub mod repository;
pub mod revoked;
pub mod rocks;

mod heartbeat;
mod ledger;
mod review;
mod watch;

#[cfg(test)]
mod contract;

pub use error::{CommitError, OpenError, StoreError};
pub use kernel::{Change, Commit, Committed, Guard, Kernel, Now, Pace, Page, Revision, Row, Until, Write};
pub use layout::{Key, Kind, Place, Prefix};
pub use memory::MemoryKernel;
pub use rocks::{Config, FileHead, HeadKeeper, KnownHead, Mode, OutsideHead, RocksKernel, StoredNodes, copy_store};
