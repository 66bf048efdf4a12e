//! The tokens in evidence: each signed by a key that the log names, and minted as its record says.

use std::collections::BTreeMap;

use countersign_core::capability::Grant;
use countersign_core::{TenantId, Timestamp};
use countersign_engine::token_claims;
use countersign_token::{KeyId, KeyRing, KeyState, Limits, PublicKey, TokenError, verify};
use serde::Deserialize as _;

use super::Evidence;
use super::check::{Outcome, Read};
use super::trust::Trust;

const WHAT: &str = "the token";

/// The keys that records of the log name, and which record called one compromised.
#[derive(Default)]
struct Keys {
    named: BTreeMap<KeyId, (PublicKey, u64)>,
    compromised: BTreeMap<KeyId, u64>,
}

pub(super) fn tokens(evidence: &Evidence, records: &[Read<'_>], trust: &Trust, outcome: &mut Outcome) {
    let keys = match keys(records, trust) {
        Ok(keys) => keys,
        Err(why) => return outcome.tell(WHAT, Err(why)),
    };
    for (number, text) in (1..).zip(&evidence.tokens) {
        match one(text, &keys, records, trust) {
            Ok((told, None)) => outcome.tell(WHAT, Ok(told)),
            Ok((_, Some(compromised))) => outcome.skip(
                WHAT,
                &format!("record {compromised} calls the key compromised that signed it: anybody may have"),
            ),
            Err(why) => outcome.tell(WHAT, Err(format!("number {number}: {why}"))),
        }
    }
    if evidence.tokens.is_empty() && records.iter().any(|record| record.json.get("minted").is_some()) {
        outcome.skip(
            WHAT,
            "it is not in the file, since tokens are in no record: whoever holds it gives it to `evidence export --with-token`. \
             That it was minted for this digest is what the records say",
        );
    }
}

fn keys(records: &[Read<'_>], trust: &Trust) -> Result<Keys, String> {
    let mut keys = Keys::default();
    for record in records.iter().filter(|record| record.kind() == "key") {
        let index = record.index;
        let id = record.number("/key").and_then(|id| u32::try_from(id).ok());
        let id = KeyId(id.ok_or_else(|| format!("record {index}: the key has no id"))?);
        let public = PublicKey::parse(record.text("/public")).map_err(|error| format!("record {index}: {error}"))?;
        if keys.named.get(&id).is_some_and(|(known, _)| *known != public) {
            return Err(format!("record {index}: there are two keys of the id {}", id.0));
        }
        if trust.tokens.iter().any(|(trusted, key)| *trusted == id && *key != public) {
            return Err(format!("record {index}: the key {} is another than the one that is trusted", id.0));
        }
        keys.named.entry(id).or_insert((public, index));
        if record.text("/state") == "compromised" {
            keys.compromised.insert(id, index);
        }
    }
    Ok(keys)
}

/// What there is to say of one token, and the record that calls its key compromised.
fn one(text: &str, keys: &Keys, records: &[Read<'_>], trust: &Trust) -> Result<(String, Option<u64>), String> {
    // The record of a key is among the first of a log, and the first to be dropped: whoever trusts the key needs no record of it.
    let trusted = trust.tokens.iter().map(|(id, key)| (*id, *key));
    let known: BTreeMap<_, _> = trusted.chain(keys.named.iter().map(|(id, (key, _))| (*id, *key))).collect();
    let ring = KeyRing::new(known.into_iter().map(|(id, key)| (id, key, KeyState::Retired)));
    let ring = ring.map_err(|error| error.to_string())?;
    // Long before it expired: whether it was spent in time is what the records of the redeem are checked for.
    let verified = verify(text, &ring, Timestamp::from_millis(0), &Limits::default()).map_err(|error| {
        if let TokenError::UnknownKey(KeyId(id)) = error {
            format!("no record in the file names the key {id}; give it as `token ID KEY`, or export with `--archive` if its record was dropped")
        } else {
            error.to_string()
        }
    })?;
    let (id, key) = (verified.claims().token_id.to_string(), verified.key());
    let minted = records.iter().find(|record| record.text("/minted/id") == id);
    let minted = minted.ok_or_else(|| format!("no record says that `{id}` was minted"))?;
    let grant = minted.json.get("minted").map(Grant::deserialize).transpose().map_err(|error| error.to_string())?;
    let grant = grant.ok_or("nothing was minted")?;
    let tenant = TenantId::new(minted.text("/tenant")).map_err(|error| error.to_string())?;
    if grant.key != key.0 || token_claims(&grant, &tenant, verified.claims().development) != *verified.claims() {
        return Err(format!("it says something else than record {}, which minted it", minted.index));
    }
    let by = if trust.tokens.iter().any(|(trusted, _)| *trusted == key) {
        "which you trust".to_owned()
    } else {
        let named = keys.named.get(&key).map(|(_, index)| *index).unwrap_or_default();
        format!("which the log vouches for, by record {named}; give it as `token ID KEY` to trust it yourself")
    };
    let told = format!("`{id}` is signed by the key {}, {by}; it says what record {} minted", key.0, minted.index);
    Ok((told, keys.compromised.get(&key).copied()))
}
