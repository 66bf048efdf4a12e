//! Where notifications go: each sink hands them over in a form of its own. What is told, in which order and how often it is
//! tried is the engine's.

mod event;
mod log;
mod signing;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::TenantId;
use countersign_engine::Sink;

use crate::config::{SinkConfig, SinkKind};

pub use event::Events;
use log::LogSink;
use signing::Signer;
use webhook::Webhook;

/// Why a sink cannot be used. Never shows what is in a key.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A file cannot be read.
    #[error("cannot read `{}`, which the sink `{sink}` needs: {source}", path.display())]
    Read {
        /// The sink.
        sink: String,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Others can read a key.
    #[error("the key file `{}` of the sink `{sink}` can be read by others; if nobody did, `chmod 600` it", path.display())]
    Exposed {
        /// The sink.
        sink: String,
        /// The file.
        path: PathBuf,
    },
    /// A key file does not hold a key.
    #[error(
        "the key file `{}` of the sink `{sink}` does not hold `whsec_` and 24 to 64 bytes in base64; make one with \
         `echo whsec_$(openssl rand -base64 32)`", path.display()
    )]
    Malformed {
        /// The sink.
        sink: String,
        /// The file.
        path: PathBuf,
    },
    /// The authorities cannot be used.
    #[error("the sink `{sink}` cannot speak TLS: {problem}; name a PEM file with the receiver's authority as `ca`")]
    Tls {
        /// The sink.
        sink: String,
        /// Why.
        problem: String,
    },
}

/// Makes a sink of a tenant ready. `origin` is the name of the tenant's log, which is unique in the world.
///
/// # Errors
/// [`SinkError`].
pub fn open(tenant: &TenantId, origin: &str, config: &SinkConfig) -> Result<Arc<dyn Sink>, SinkError> {
    let events = Events::new(tenant, origin);
    match config.kind {
        SinkKind::Log => Ok(Arc::new(LogSink::new(events, &config.name))),
        SinkKind::Webhook => {
            let signer = Signer::read(&config.name, &config.keys)?;
            let timeout = Duration::from_secs(config.timeout_seconds.into());
            Ok(Arc::new(Webhook::new(events, signer, config, timeout)?))
        }
    }
}
