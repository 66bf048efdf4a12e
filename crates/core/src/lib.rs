//! The words of countersign as types.
//!
//! Everything that the other crates must agree on stands here once: identifiers, the [`Action`] and its canonical
//! form, the state machines of sessions, approval requests and capabilities, and time. No I/O, no async, no policy
//! engine, no token format and no storage engine may be named here.

pub mod action;
pub mod approval;
pub mod capability;
pub mod claimed;
pub mod digest;
pub mod entity;
pub mod figures;
pub mod holder;
pub mod id;
pub mod ledger;
pub mod notification;
pub mod pre_approval;
pub mod precedent;
pub mod restraint;
pub mod review;
pub mod revocation;
pub mod session;
pub mod time;
pub mod value;
pub mod visible;

pub use action::{Action, ActionError, Canonical};
pub use claimed::Claimed;
pub use digest::Digest;
pub use entity::{EntityError, EntityRef};
pub use holder::{Holder, HolderKind};
pub use id::{ApprovalId, BatchId, DecisionId, NotificationId, ReviewId, RevocationId, SessionId, TenantId, TokenId};
pub use notification::{Line, Notification, NotificationKind};
pub use pre_approval::PreApproval;
pub use revocation::{Axis, Revocation, Revocations};
pub use time::{Clock, Timestamp};
pub use value::{Record, Value, ValueError};
