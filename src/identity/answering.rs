//! Whether a credential is one to vote and publish with: for an audience of its own, by somebody who authenticated recently and
//! in a way that is asked for. How recently is judged later, at the moment of the vote.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_engine::{Authentication, NotAnswering};

use super::CLOCK_AHEAD_SECONDS;
use super::claims::{seconds, timestamp};
use super::json::{Json, Object};
use crate::config::ApprovingConfig;

/// What a token with these claims and audiences is for, and how its subject authenticated.
pub(super) fn authentication(
    payload: &Object,
    audiences: &[&str],
    audience: &str,
    approving: Option<&ApprovingConfig>,
) -> Authentication {
    let approving = approving.map(|approving| approving.audience.as_str());
    let methods = match payload.get("amr") {
        Some(Json::List(methods)) => methods.iter().filter_map(Json::text).map(str::to_owned).collect(),
        _none => Vec::new(),
    };
    Authentication {
        audience: Some(approving.filter(|approving| audiences.contains(approving)).unwrap_or(audience).to_owned()),
        at: seconds(payload, "auth_time").ok().flatten().map(timestamp),
        context: payload.get("acr").and_then(Json::text).map(str::to_owned),
        methods,
    }
}

/// Until when whoever authenticated like this is good for answering, or why not.
pub(super) fn answers(
    authentication: &Authentication,
    approving: Option<&ApprovingConfig>,
    now: Timestamp,
) -> Result<Timestamp, NotAnswering> {
    let ApprovingConfig { audience, max_age_seconds, amr } = approving.ok_or(NotAnswering::NotTrusted)?;
    if authentication.audience.as_ref() != Some(audience) {
        return Err(NotAnswering::Audience);
    }
    let authenticated = authentication.at.ok_or(NotAnswering::Stale)?;
    if authenticated > now.plus(Duration::from_secs(CLOCK_AHEAD_SECONDS.into())) {
        return Err(NotAnswering::Stale);
    }
    if !authentication.methods.iter().any(|method| amr.contains(method)) {
        return Err(NotAnswering::Weak);
    }
    Ok(authenticated.plus(Duration::from_secs((*max_age_seconds).into())))
}
