//! The service's own API, authorized by the same bundle.

use countersign_core::{Digest, EntityRef, Timestamp};

use crate::answer::Answer;
use crate::bundle::Bundle;

/// May `caller` do this to the service?
#[derive(Debug, Clone)]
pub struct AdminQuery<'a> {
    /// Who made the call: an `Agent`, `Service` or `Person`.
    pub caller: &'a EntityRef,
    /// What they want.
    pub action: AdminAction<'a>,
    /// The time that decides.
    pub now: Timestamp,
}

/// What the service's own API does, with what policies may know of it.
#[derive(Debug, Clone, Copy)]
pub enum AdminAction<'a> {
    /// `openSession`: open a session for `principal`.
    OpenSession {
        /// Who is to act in it.
        principal: &'a EntityRef,
        /// What it is for.
        purpose: &'a str,
        /// The person the principal acts for.
        operator: Option<&'a EntityRef>,
        /// How long it may last.
        seconds: u32,
    },
    /// `actFor`: name `principal` as the one who acts.
    ActFor {
        /// Who is named.
        principal: &'a EntityRef,
        /// The operation.
        operation: &'a str,
        /// The person the principal acts for.
        operator: Option<&'a EntityRef>,
    },
    /// `redeem`: spend a capability at an enforcement point.
    Redeem {
        /// The audience of the capability.
        enforcement_point: &'a EntityRef,
        /// The operation.
        operation: &'a str,
        /// The issuer of the caller's credential.
        issuer: Option<&'a str>,
    },
    /// `revoke`: revoke a capability, or an approval, of `principal`.
    Revoke {
        /// Whose it is.
        principal: &'a EntityRef,
    },
    /// `endSession`: end a session of `principal`.
    EndSession {
        /// Whose it is.
        principal: &'a EntityRef,
    },
    /// `publish`: make a bundle the active one.
    Publish {
        /// The tenant.
        tenant: &'a EntityRef,
        /// The bundle's digest.
        digest: Digest,
        /// The bundle's revision.
        revision: u64,
    },
    /// `readLog`: read the audit log.
    ReadLog {
        /// The tenant.
        tenant: &'a EntityRef,
    },
    /// `readApprovals`: read approval requests.
    ReadApprovals {
        /// The tenant.
        tenant: &'a EntityRef,
    },
    /// `manageKeys`: rotate and retire signing keys.
    ManageKeys {
        /// The tenant.
        tenant: &'a EntityRef,
    },
    /// `changeEntities`: change entities outside the bundle.
    ChangeEntities {
        /// The tenant.
        tenant: &'a EntityRef,
    },
    /// `breakGlass`: act against the policies, on record.
    BreakGlass {
        /// The tenant.
        tenant: &'a EntityRef,
    },
}
