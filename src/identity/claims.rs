//! What a JWT claims, in the one form that is accepted. Everything here is pure: text in, claims or refusal out.

use std::collections::BTreeMap;

use countersign_core::Timestamp;
use countersign_engine::credential::Subject;
use countersign_engine::{Authentication, Claims as Said, NotAnswering};

use super::answering::{answers, authentication};
use super::belonging::Belonging;
use super::error::CredentialError;
use super::json::{Json, JsonError, Object, at, object};
use super::naming::Naming;
use super::{CLOCK_AHEAD_SECONDS, MAX_ACTORS};
use crate::config::{Algorithm, ApprovingConfig, RequiredValue};

/// The latest time that is read: 9999-12-31T23:59:59Z, in seconds since the epoch.
const LAST_SECOND: u64 = 253_402_300_799;

/// Parameters that would have the token say which key to use, or what it means (RFC 7515 §4.1, RFC 7516 §4.1,
/// RFC 7797 §3, RFC 8555 §6.4).
const REFUSED_PARAMETERS: &[&str] = &["jku", "jwk", "x5u", "x5c", "crit", "b64", "enc", "zip", "cty", "url"];

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// How it is signed.
    pub(super) algorithm: Algorithm,
    /// Which key it names.
    pub(super) key_id: Option<String>,
}

/// What the issuer's configuration demands.
pub(super) struct Demands<'a> {
    pub(super) issuer: &'a str,
    pub(super) audience: &'a str,
    pub(super) approving: Option<&'a ApprovingConfig>,
    pub(super) naming: &'a Naming,
    pub(super) belonging: &'a Belonging,
    pub(super) required: &'a BTreeMap<String, RequiredValue>,
    pub(super) max_age_seconds: Option<u32>,
}

/// What is left of the claims.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) subject: Subject,
    pub(super) actors: Vec<Subject>,
    /// What is said of whoever acts.
    pub(super) said: Said,
    pub(super) expires_at: Timestamp,
    pub(super) answers: Result<Timestamp, NotAnswering>,
    pub(super) authentication: Authentication,
    /// From when on it holds, the grace for clocks included.
    pub(super) holds_from: Timestamp,
}

/// Reads a JOSE header.
pub(super) fn header(bytes: &[u8]) -> Result<Header, CredentialError> {
    let header = object(bytes).map_err(|error| malformed(error, "its header is not a JSON object"))?;
    if let Some(name) = REFUSED_PARAMETERS.iter().find(|name| header.contains_key(**name)) {
        return Err(CredentialError::Header(name));
    }
    if let Some(kind) = header.get("typ") {
        let kind = kind.text().map(str::to_ascii_lowercase).ok_or(CredentialError::Type)?;
        // `JOSE` says only how it is written; JWT-SVIDs may have it.
        if !matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt" | "jose") {
            return Err(CredentialError::Type);
        }
    }
    let algorithm = header.get("alg").and_then(Json::text).and_then(algorithm).ok_or(CredentialError::Algorithm)?;
    let key_id = match header.get("kid") {
        None => None,
        Some(id) => Some(id.text().ok_or(CredentialError::Key)?.to_owned()),
    };
    Ok(Header { algorithm, key_id })
}

/// The algorithm of that exact name. There is no way to write `none` or a shared secret.
fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "EdDSA" => Some(Algorithm::EdDSA),
        "ES256" => Some(Algorithm::ES256),
        "ES384" => Some(Algorithm::ES384),
        "PS256" => Some(Algorithm::PS256),
        "PS384" => Some(Algorithm::PS384),
        "PS512" => Some(Algorithm::PS512),
        "RS256" => Some(Algorithm::RS256),
        "RS384" => Some(Algorithm::RS384),
        "RS512" => Some(Algorithm::RS512),
        _ => None,
    }
}

/// Reads a claims set, without believing it.
pub(super) fn payload(bytes: &[u8]) -> Result<Object, CredentialError> {
    object(bytes).map_err(|error| malformed(error, "its claims are not a JSON object"))
}

/// The `iss`, by which the configuration is chosen that the rest is then held against.
pub(super) fn issuer(payload: &Object) -> Result<&str, CredentialError> {
    payload.get("iss").and_then(Json::text).ok_or(CredentialError::Issuer)
}

/// Holds the claims of a token, whose signature was verified, against what is demanded.
pub(super) fn check(payload: &Object, demands: &Demands<'_>, now: Timestamp) -> Result<Claims, CredentialError> {
    if issuer(payload)? != demands.issuer {
        return Err(CredentialError::Issuer);
    }
    let audiences = audiences(payload)?;
    // Whoever asks an issuer for one audience at a time has one token for answering, which is as good for looking.
    let approving = demands.approving.map(|approving| approving.audience.as_str());
    if !audiences.iter().any(|audience| *audience == demands.audience || Some(*audience) == approving) {
        return Err(CredentialError::Audience);
    }
    if payload.contains_key("cnf") {
        return Err(CredentialError::Bound);
    }
    let expires = seconds(payload, "exp")?
        .ok_or(CredentialError::Claim { claim: "exp", problem: "is missing, and nothing is trusted for ever" })?;
    let (not_before, issued) = (seconds(payload, "nbf")?, seconds(payload, "iat")?);
    if let Some(most) = demands.max_age_seconds {
        let problem = "is missing, and needed to know how long it lives";
        let issued = issued.ok_or(CredentialError::Claim { claim: "iat", problem })?;
        if expires.saturating_sub(issued) > u64::from(most) {
            return Err(CredentialError::TooLongLived(most));
        }
    }
    let from = not_before.unwrap_or(0).max(issued.unwrap_or(0)).saturating_sub(u64::from(CLOCK_AHEAD_SECONDS));
    let (expires_at, holds_from) = (timestamp(expires), timestamp(from));
    in_time(expires_at, holds_from, now)?;
    required(payload, demands.required)?;
    let subject = demands.naming.subject(payload)?;
    let actors = actors(payload, &subject, demands)?;
    // What a token says is said of its subject (RFC 8693 §4.1), unless it says of whom.
    let said = match (payload.get("act"), actors.first()) {
        (Some(Json::Object(actor)), Some(who)) => demands.belonging.read(actor, who)?,
        _direct => demands.belonging.read(payload, &subject)?,
    };
    let authentication = authentication(payload, &audiences, demands.audience, demands.approving);
    let answers = answers(&authentication, demands.approving, now);
    Ok(Claims { subject, actors, said, expires_at, answers, authentication, holds_from })
}

/// Whether a credential holds at `now`: from `holds_from` on, and before `expires_at`.
pub(super) fn in_time(expires_at: Timestamp, holds_from: Timestamp, now: Timestamp) -> Result<(), CredentialError> {
    if now.reached(expires_at) {
        Err(CredentialError::Expired)
    } else if !now.reached(holds_from) {
        Err(CredentialError::NotYet)
    } else {
        Ok(())
    }
}

fn malformed(error: JsonError, what: &'static str) -> CredentialError {
    CredentialError::Malformed(match error {
        JsonError::Syntax | JsonError::NotAnObject => what,
        JsonError::Repeated => "a name in it is repeated, and readers would disagree about it",
    })
}

/// The claims that must have exactly these values.
fn required(payload: &Object, required: &BTreeMap<String, RequiredValue>) -> Result<(), CredentialError> {
    let holds = |(claim, value): &(&String, &RequiredValue)| match (at(payload, claim), value) {
        (Some(Json::Text(text)), RequiredValue::Text(value)) => text == value,
        (Some(Json::Natural(number)), RequiredValue::Number(value)) => number == value,
        (Some(Json::Bool(truth)), RequiredValue::Truth(value)) => truth == value,
        (_, RequiredValue::Text(_) | RequiredValue::Number(_) | RequiredValue::Truth(_)) => false,
    };
    match required.iter().find(|claim| !holds(claim)) {
        None => Ok(()),
        Some((claim, _)) => Err(CredentialError::Required(claim.clone())),
    }
}

/// What a token is for (RFC 7519 §4.1.3).
fn audiences(payload: &Object) -> Result<Vec<&str>, CredentialError> {
    let wrong = |problem| CredentialError::Claim { claim: "aud", problem };
    match payload.get("aud") {
        Some(Json::Text(audience)) => Ok(vec![audience]),
        Some(Json::List(audiences)) => audiences
            .iter()
            .map(|audience| audience.text().ok_or(wrong("holds something that is not a string")))
            .collect(),
        _ => Err(wrong("is missing or not a string or a list of them")),
    }
}

/// A NumericDate (RFC 7519 §2), whole seconds only.
pub(super) fn seconds(payload: &Object, claim: &'static str) -> Result<Option<u64>, CredentialError> {
    match payload.get(claim) {
        None => Ok(None),
        Some(Json::Natural(seconds)) if *seconds <= LAST_SECOND => Ok(Some(*seconds)),
        Some(_) => {
            let problem = "is not a whole number of seconds from 1970 to 9999";
            Err(CredentialError::Claim { claim, problem })
        }
    }
}

/// The moment that is so many seconds after 1970 began.
pub(super) fn timestamp(seconds: u64) -> Timestamp {
    // At most LAST_SECOND, so that it fits; should it ever not, then the epoch, at which everything has expired.
    Timestamp::from_millis(i64::try_from(seconds.saturating_mul(1000)).unwrap_or(0))
}

/// The `act` chain (RFC 8693 §4.1), the current actor first.
fn actors(payload: &Object, of: &Subject, demands: &Demands<'_>) -> Result<Vec<Subject>, CredentialError> {
    let mut actors = Vec::new();
    let mut next = payload.get("act");
    while let Some(actor) = next {
        let Json::Object(actor) = actor else {
            return Err(CredentialError::Delegation("has something that is not an object"));
        };
        if actors.len() >= MAX_ACTORS {
            return Err(CredentialError::Delegation("has more than 8 actors"));
        }
        // Of the current actor it may say more.
        let read = |name: &str| actors.is_empty() && demands.belonging.reads(name);
        if actor.keys().any(|name| !matches!(name.as_str(), "sub" | "act" | "iss") && !read(name)) {
            return Err(CredentialError::Delegation(
                "has members other than `sub`, `iss`, `act`, and for the current actor the configured claims",
            ));
        }
        if actor.get("iss").is_some_and(|issuer| issuer.text() != Some(demands.issuer)) {
            return Err(CredentialError::Delegation("names an actor of another issuer"));
        }
        let Some(Json::Text(name)) = actor.get("sub") else {
            return Err(CredentialError::Delegation("has an actor without `sub`"));
        };
        let actor_subject = demands.naming.actor(name)?;
        if actor_subject == *of || actors.contains(&actor_subject) {
            return Err(CredentialError::Delegation("names one of its subjects twice"));
        }
        actors.push(actor_subject);
        next = actor.get("act");
    }
    Ok(actors)
}
