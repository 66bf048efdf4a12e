//! Signatures under votes, to the wire and back.

use countersign_core::Timestamp;
use countersign_core::approval::VoteSignature;
use countersign_engine::Signed;

use super::convert::timestamp;
use super::errors::Failure;
use crate::proto;
use crate::proto::vote_signature::Signature;

/// A signature that comes with a vote of the call with this request id.
pub fn signed(signature: Option<proto::VoteSignature>, request: String) -> Result<Option<Signed>, Failure> {
    let Some(proto::VoteSignature { signed_at, signature }) = signature else { return Ok(None) };
    let at = signed_at.and_then(|at| at.seconds.checked_mul(1_000)?.checked_add(i64::from(at.nanos) / 1_000_000));
    let at = Timestamp::from_millis(at.ok_or_else(|| Failure::field("signature.signed_at", "missing, or no time"))?);
    match signature {
        Some(Signature::Ed25519(line)) => Ok(Some(Signed { line, request, at })),
        None => {
            Err(Failure::field("signature", "missing; sign with a key of a kind that this server knows: `ed25519`"))
        }
    }
}

pub fn to_wire(signature: &VoteSignature) -> proto::VoteSignature {
    let VoteSignature::Ed25519 { key: _, line, request: _, at } = signature;
    proto::VoteSignature { signed_at: Some(timestamp(*at)), signature: Some(Signature::Ed25519(line.clone())) }
}

pub fn key(signature: &VoteSignature) -> String {
    let VoteSignature::Ed25519 { key, .. } = signature;
    key.clone()
}

pub fn request(signature: &VoteSignature) -> String {
    let VoteSignature::Ed25519 { request, .. } = signature;
    request.clone()
}
