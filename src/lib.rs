//! countersign: a policy decision and capability minting service.
//!
//! The library half of the binary: the [`client`] that enforcement points use, the wire messages in [`proto`], and the
//! server's parts, which meet in [`wiring`] only.

pub mod authors;
pub mod bundle_dir;
pub mod client;
mod command;
pub mod config;
mod custody;
pub mod evidence;
pub mod grpc;
mod head;
pub mod html;
pub mod http;
pub mod identity;
pub mod keystore;
pub mod listen;
pub mod outgoing;
pub mod proto;
pub mod reload;
pub mod sinks;
pub mod telemetry;
pub mod tlog;
pub mod tls;
pub mod wiring;
