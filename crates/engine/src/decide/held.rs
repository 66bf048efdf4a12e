//! Whom a capability is bound to, and whether it stays open.

use countersign_core::Holder;
use countersign_policy::AdminAction;
use countersign_store::Kernel;

use super::Decide;
use crate::engine::{Engine, Scene, enforcement_point};
use crate::error::Error;

/// Whom a capability is bound to, and whether they may narrow it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    pub(super) holder: Option<Holder>,
    pub(super) open: bool,
}

impl Decide {
    /// That a holder is named for a capability only: an ALLOW without one is bound to nobody, and policies that demand a holder
    /// must not be told of one.
    pub(super) fn require_mint_for_holder(&self) -> Result<(), Error> {
        let field = match (self.mint, &self.holder, self.open) {
            (false, _, true) => "open",
            (false, Some(_), false) => "holder",
            (true, _, _) | (false, None, false) => return Ok(()),
        };
        Err(Error::field(field, "only with `mint`; set it too"))
    }
}

impl<K: Kernel> Engine<K> {
    /// That the policies let the caller have a capability that its holder may narrow, if that is asked for.
    pub(super) fn require_stay_open(&self, scene: &Scene, ask: &Decide) -> Result<(), Error> {
        if !ask.open {
            return Ok(());
        }
        let point = enforcement_point(&ask.audience)?;
        let stay = AdminAction::StayOpen {
            enforcement_point: &point,
            operation: &ask.operation.name,
            holder: ask.holder.map(|holder| holder.kind),
        };
        self.administer(scene, stay, "stayOpen").map(drop)
    }
}
