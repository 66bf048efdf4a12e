//! The gRPC API: one thin service for each subject. A service takes a message apart, calls one use case and puts the answer
//! together; what all calls share (credential, limits, deadline, trace, errors) stands in [`call`] once.

pub mod call;
pub mod convert;
pub mod errors;

mod approvals;
mod audit;
mod batch;
mod break_glass;
mod capabilities;
mod decisions;
mod entities;
mod figures;
mod gate;
mod hold;
mod holder;
mod keys;
mod notifications;
mod outcomes;
mod policies;
mod pre_approvals;
mod questions;
mod revocations;
mod sessions;
mod signed;

pub use approvals::Approvals;
pub use audit::Audit;
pub use break_glass::BreakGlasses;
pub use call::{Backend, Tenants};
pub use capabilities::Capabilities;
pub use decisions::Decisions;
pub use entities::StoredEntities;
pub use errors::Failure;
pub use gate::Gated;
pub use keys::{Backups, SigningKeys};
pub use notifications::Notifications;
pub use outcomes::Outcomes;
pub use policies::Policies;
pub use revocations::Revocations;
pub use sessions::Sessions;
