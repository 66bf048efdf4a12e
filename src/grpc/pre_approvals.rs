//! Pre-approvals between the wire and the domain.

use countersign_core::approval::{Charge, Charged, Spender};
use countersign_core::pre_approval::Bounds;

use super::convert::{duration, required, timestamp};
use super::errors::Failure;
use crate::proto;

/// The bounds that are asked for. Whether they reach too far is the rules' to say.
pub fn bounds(bounds: proto::PreApprovalBounds) -> Result<Bounds, Failure> {
    let proto::PreApprovalBounds { uses, duration: length } = bounds;
    let field = "pre_approval.duration";
    let length = duration(field, required(field, length)?)?;
    let bounds = Bounds { uses, seconds: length.as_secs() };
    if length.subsec_nanos() != 0 {
        return Err(Failure::field(field, "expected whole seconds"));
    }
    if !bounds.are_sound() {
        return Err(Failure::field("pre_approval", "expected 1 to 100 uses, and 1 second to 24 hours"));
    }
    Ok(bounds)
}

/// Bounds, for the wire.
pub fn bounds_to_wire(bounds: &Bounds) -> proto::PreApprovalBounds {
    let Bounds { uses, seconds: _ } = bounds;
    proto::PreApprovalBounds { uses: *uses, duration: prost_types::Duration::try_from(bounds.duration()).ok() }
}

/// A pre-approval and what is used of it, for the wire.
pub fn pre_approval(charged: &Charged) -> proto::PreApproval {
    proto::PreApproval {
        bounds: Some(bounds_to_wire(charged.bounds())),
        until: Some(timestamp(charged.until())),
        charged: charged.charged(),
        last_uses: charged.last().iter().map(last_use).collect(),
    }
}

fn last_use(charge: &Charge) -> proto::PreApprovalUse {
    let Charge { number, by, at } = charge;
    let (capability_id, decision_id) = match by {
        Spender::Capability(id) => (id.to_string(), String::new()),
        Spender::Decision(id) => (String::new(), id.to_string()),
    };
    proto::PreApprovalUse { number: *number, capability_id, decision_id, used_at: Some(timestamp(*at)) }
}
