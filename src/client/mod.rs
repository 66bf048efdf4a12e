//! The client that enforcement points and callers written in Rust use.
//!
//! A [`Client`] carries the caller's credential, gives every call that needs one a request id, and retries what may be
//! retried under the *same* request id, so that a lost reply is never a second action. [`Client::enforce`] is the guard of
//! an enforcement point: it spends a capability, runs the action, and reports its outcome.
//!
//! ```no_run
//! use countersign::client::{Client, ClientConfig, Credentials, operation};
//! use countersign::proto::{DecideRequest, Verdict};
//! use serde_json::json;
//!
//! # async fn export_rows() -> Result<u64, std::io::Error> { Ok(500) }
//! # async fn example(session_id: String) -> Result<(), Box<dyn std::error::Error>> {
//! // The agent asks whether it may export these rows now, and for the capability to do so.
//! let agent = Client::connect(
//!     ClientConfig::new("https://countersign.internal:8443")
//!         .ca_pem(std::fs::read("ca.pem")?)
//!         .credentials(Credentials::file("/run/secrets/agent-token")),
//! )
//! .await?;
//! let export = operation("export", ("Dataset", "orders"), json!({"rows": 500}), json!({}))?;
//! let answer = agent
//!     .decide(DecideRequest {
//!         session_id,
//!         operation: Some(export.clone()),
//!         audience: "warehouse".into(),
//!         mint: true,
//!         ..DecideRequest::default()
//!     })
//!     .await?;
//! let Some(capability) = answer.capability.filter(|_| answer.verdict == i32::from(Verdict::Allow)) else {
//!     return Err("not allowed".into());
//! };
//!
//! // The warehouse is the enforcement point: it runs the export only if the capability is spent on exactly this.
//! let warehouse = Client::connect(
//!     ClientConfig::new("https://countersign.internal:8443")
//!         .ca_pem(std::fs::read("ca.pem")?)
//!         .credentials(Credentials::file("/run/secrets/warehouse-token")),
//! )
//! .await?;
//! let rows = warehouse.enforce(&capability.token, export, "warehouse", || async { export_rows().await }).await?;
//! # let _ = rows;
//! # Ok(())
//! # }
//! ```

mod calls;
mod config;
pub(crate) mod convert;
mod error;
mod guard;
mod hold;
mod holder;
mod retry;
mod revocations;
#[cfg(test)]
mod tests;
mod watch;

pub use calls::Client;
pub use config::{ClientConfig, Credentials};
pub use convert::{entity, operation, record_from_struct, struct_from_json, struct_from_record};
pub use error::{ClientError, FieldViolation, Refusal};
pub use guard::EnforceError;
pub use hold::Hold;
pub use holder::holder_of;
pub use revocations::RevocationWatch;
pub use watch::Watch;
