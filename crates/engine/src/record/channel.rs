//! How a vote came.

use countersign_core::{Digest, Timestamp};
use serde::Serialize;

use crate::credential::Authentication;
use crate::engine::Call;

/// How a vote came: what was verified of that, and nothing that a client says of itself.
#[derive(Debug, Serialize)]
pub struct ChannelRecord<'a> {
    /// Over what.
    kind: &'static str,
    /// The RPC.
    rpc: &'static str,
    /// The issuer of the credential.
    issuer: &'a str,
    /// The audience that the credential was taken for.
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<&'a str>,
    /// When the voter authenticated, as the issuer says.
    #[serde(skip_serializing_if = "Option::is_none")]
    authenticated_at: Option<Timestamp>,
    /// How well, as the issuer says.
    #[serde(skip_serializing_if = "Option::is_none")]
    acr: Option<&'a str>,
    /// By which methods, as the issuer says.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    amr: &'a [String],
    /// The client certificate whose key was shown to be held, whoever vouches for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Digest>,
}

impl<'a> From<&'a Call> for ChannelRecord<'a> {
    fn from(call: &'a Call) -> Self {
        let Authentication { audience, at, context, methods } = &call.credential.authentication;
        Self {
            kind: "grpc",
            rpc: call.rpc,
            issuer: &call.credential.issuer,
            audience: audience.as_deref(),
            authenticated_at: *at,
            acr: context.as_deref(),
            amr: methods,
            certificate: call.certificate,
        }
    }
}
