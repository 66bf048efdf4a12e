//! Whether whoever presents a capability is the one that it is bound to.

use countersign_core::{Digest, Holder};
use countersign_token::{About, shown};

use crate::engine::Scene;
use crate::error::Error;

/// What is presented, and what its holder signed for it.
pub(crate) struct Shows<'a> {
    /// The token.
    pub(crate) token: &'a str,
    /// The digest, as recomputed from what is about to happen.
    pub(crate) digest: Digest,
    /// The enforcement point.
    pub(crate) audience: &'a str,
    /// The proof; empty if there is none.
    pub(crate) proof: &'a str,
}

/// The holder that a capability is bound to, if whoever presents it is shown to be that one: by the connection's certificate, or by
/// a proof over this token, action, audience and attempt, by the clock that decides (I13).
///
/// # Errors
/// [`Error::Holder`], and [`Error::InvalidField`] for a proof where nobody is bound.
pub(crate) fn shown_holder(scene: &Scene, bound: Option<Holder>, shows: &Shows<'_>) -> Result<Option<Holder>, Error> {
    let Shows { token, digest, audience, proof } = *shows;
    let Some(bound) = bound else {
        if proof.is_empty() {
            return Ok(None);
        }
        // Whoever signs one believes that the token is worth nothing to a thief.
        let reason = "the capability is bound to nobody; send none, or decide with a `holder`";
        return Err(Error::field("holder_proof", reason));
    };
    let about = About {
        token: Digest::of(token.as_bytes()),
        digest,
        audience,
        request_id: scene.call.request.as_ref().map(|request| request.id.as_str()).unwrap_or_default(),
        now: scene.now,
    };
    Ok(Some(shown(bound, scene.call.certificate, proof, &about)?))
}
