//! Whether a credential is one to vote and publish with: for an audience of its own, by somebody who authenticated recently and
//! in a way that is asked for. How recently is judged later, at the moment of the vote.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_engine::NotAnswering;

use super::CLOCK_AHEAD_SECONDS;
use super::claims::{seconds, timestamp};
use super::json::{Json, Object};
use crate::config::ApprovingConfig;

/// Until when a token with these claims and audiences is good for answering, or why it is not.
pub(super) fn answers(
    payload: &Object,
    audiences: &[&str],
    approving: Option<&ApprovingConfig>,
    now: Timestamp,
) -> Result<Timestamp, NotAnswering> {
    let ApprovingConfig { audience, max_age_seconds, amr } = approving.ok_or(NotAnswering::NotTrusted)?;
    if !audiences.contains(&audience.as_str()) {
        return Err(NotAnswering::Audience);
    }
    let Ok(Some(seconds)) = seconds(payload, "auth_time") else { return Err(NotAnswering::Stale) };
    let authenticated = timestamp(seconds);
    if authenticated > now.plus(Duration::from_secs(CLOCK_AHEAD_SECONDS.into())) {
        return Err(NotAnswering::Stale);
    }
    let Some(Json::List(methods)) = payload.get("amr") else { return Err(NotAnswering::Weak) };
    if !methods.iter().any(|method| method.text().is_some_and(|method| amr.iter().any(|asked| asked == method))) {
        return Err(NotAnswering::Weak);
    }
    Ok(authenticated.plus(Duration::from_secs((*max_age_seconds).into())))
}
