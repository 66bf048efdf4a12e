//! The log as others see it: tiles that any static file server serves, witnesses that are asked, and a witness to run elsewhere
//! (C2SP tlog-tiles, tlog-witness, tlog-cosignature).

mod archive;
mod directory;
mod publisher;
pub mod witness;
mod witnesses;

pub use archive::{Archive, ArchiveError, archived};
pub use directory::TileDirectory;
pub(crate) use publisher::Publisher;
pub(crate) use witnesses::WitnessClient;
