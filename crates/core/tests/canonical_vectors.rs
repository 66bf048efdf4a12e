//! The test vectors of the canonical form (docs/canonical-form/vectors.json). `canonical.py` beside them is an independent
//! implementation that checks the same file: a digest that only one of the two computes is a bug in one of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use countersign_core::entity::EntityError;
use countersign_core::id::IdError;
use countersign_core::pre_approval::Bounds;
use countersign_core::value::record_from_json;
use countersign_core::{Action, ActionError, Digest, EntityRef, PreApproval, TenantId, Timestamp, Value, ValueError};
use hmac::Mac as _;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    version: u32,
    #[serde(rename = "about")]
    _about: String,
    base: Map<String, Json>,
    accepted: Vec<Accepted>,
    refused: Vec<Refused>,
    commitments: Vec<Committed>,
    pre_approvals: Vec<PreApproved>,
    doubles: Vec<Double>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    name: String,
    #[serde(default)]
    with: Map<String, Json>,
    fill: Option<Fill>,
    canonical: Option<String>,
    bytes: usize,
    digest: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    name: String,
    #[serde(default)]
    with: Map<String, Json>,
    fill: Option<Fill>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Committed {
    name: String,
    with: Map<String, Json>,
    key: String,
    sensitive: Vec<String>,
    salts: BTreeMap<String, Digest>,
    canonical: String,
    digest: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PreApproved {
    name: String,
    #[serde(default)]
    with: Map<String, Json>,
    rules: BTreeSet<String>,
    uses: u32,
    seconds: u64,
    until_millis: i64,
    canonical: Option<String>,
    digest: Option<Digest>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Double {
    double: String,
    long: Option<i64>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fill {
    name: String,
    text: String,
    times: usize,
}

fn vectors() -> Vectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/canonical-form/vectors.json");
    let vectors: Vectors = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(vectors.version, countersign_core::action::CANONICAL_VERSION);
    vectors
}

/// The action of a vector, or the word for why it is none.
fn action(base: &Map<String, Json>, with: &Map<String, Json>, fill: Option<&Fill>) -> Result<Action, &'static str> {
    let mut all = base.clone();
    all.extend(with.clone());
    let text = |name: &str| all[name].as_str().unwrap().to_owned();
    let entity = |json: &Json| {
        EntityRef::new(json["type"].as_str().unwrap(), json["id"].as_str().unwrap()).map_err(|error| match error {
            EntityError::Type(_) => "entity_type",
            EntityError::Id(_) => "entity_id",
            EntityError::Form(_) => panic!("{error}"),
        })
    };
    let record = |name: &str| {
        record_from_json(&text(name)).map_err(|error| {
            let error = error.to_string();
            // The words of the reader's own errors; what it takes over from serde_json is all about syntax.
            [
                ("null is not accepted", "null"),
                ("is not a whole number", "fraction"),
                ("is beyond", "magnitude"),
                ("stands twice", "duplicate_name"),
                ("expected a JSON object", "not_an_object"),
            ]
            .into_iter()
            .find_map(|(words, reason)| error.contains(words).then_some(reason))
            .unwrap_or("syntax")
        })
    };
    let mut action = Action {
        tenant: TenantId::new(&text("tenant")).map_err(|_| "tenant")?,
        audience: text("audience"),
        session: text("session").parse().map_err(|_: IdError| "session")?,
        principal: entity(&all["principal"])?,
        operator: Some(&all["operator"]).filter(|json| !json.is_null()).map(entity).transpose()?,
        chain: all["chain"].as_array().unwrap().iter().map(entity).collect::<Result<_, _>>()?,
        operation: text("operation"),
        resource: entity(&all["resource"])?,
        input: record("input")?,
        environment: record("environment")?,
    };
    if let Some(Fill { name, text, times }) = fill {
        action.input.insert(name.clone(), Value::String(text.repeat(*times)));
    }
    Ok(action)
}

fn reason(error: &ActionError) -> &'static str {
    match error {
        ActionError::Operation(_) => "operation",
        ActionError::Audience(_) => "audience",
        ActionError::Value(error) => value_reason(error),
        ActionError::ChainTooLong(_) => "chain_too_long",
        ActionError::ChainLoop(_) => "chain_loop",
        ActionError::TooLarge(_) => "too_large",
    }
}

fn value_reason(error: &ValueError) -> &'static str {
    match error {
        ValueError::Null { .. } => "null",
        ValueError::Fraction { .. } => "fraction",
        ValueError::TooLarge { .. } => "magnitude",
        ValueError::Reserved { .. } => "reserved_name",
        ValueError::TooDeep { .. } => "too_deep",
    }
}

#[test]
fn accepted_vectors_have_their_text_and_digest_and_are_read_back() {
    let Vectors { base, accepted, .. } = vectors();
    let mut digests = BTreeMap::<Digest, String>::new();
    for Accepted { name, with, fill, canonical: text, bytes, digest } in accepted {
        let action = action(&base, &with, fill.as_ref()).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        let canonical = action.canonical().unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(text) = text {
            assert_eq!(canonical.text(), text, "{name}");
        }
        assert_eq!((canonical.text().len(), canonical.digest()), (bytes, digest), "{name}");
        assert_eq!(Action::from_canonical(canonical.text()), Ok(action), "{name}");
        if let Some(other) = digests.insert(digest, canonical.text().to_owned()) {
            assert_eq!(other, canonical.text(), "{name}: one digest for two texts");
        }
    }
}

#[test]
fn refused_vectors_are_refused_for_their_reason() {
    let Vectors { base, refused, .. } = vectors();
    for Refused { name, with, fill, reason: wanted } in refused {
        let found = match action(&base, &with, fill.as_ref()) {
            Err(reason) => reason,
            Ok(action) => match action.canonical() {
                Err(error) => reason(&error),
                Ok(canonical) => panic!("{name}: accepted as {}", canonical.text()),
            },
        };
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn commitments_hide_their_values_and_open_with_value_and_salt_alone() {
    let Vectors { base, commitments, .. } = vectors();
    for Committed { name, with, key, sensitive, salts, canonical: text, digest } in commitments {
        let raw = action(&base, &with, None).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        let mut key_bytes = [0; 32];
        hex::decode_to_slice(&key, &mut key_bytes).unwrap();
        let mut committed = raw.clone();
        committed.commit(&sensitive, &key_bytes);
        let canonical = committed.canonical().unwrap();
        assert_eq!((canonical.text(), canonical.digest()), (text.as_str(), digest), "{name}");
        for (field, salt) in salts {
            let value = raw.input[&field].canonical();
            let opened = Digest::of_parts(&[salt.as_bytes(), value.as_bytes()]);
            assert_eq!(committed.input[&field], Value::Commitment(opened), "{name}: {field}");

            let mut scope = raw.clone();
            scope.input.retain(|name, _| !sensitive.contains(name));
            let scope = serde_json_canonicalizer::to_vec(&scope).unwrap();
            let parts: [&[u8]; 4] = [b"countersign/commitment/v1", &scope, field.as_bytes(), value.as_bytes()];
            let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&key_bytes).unwrap();
            mac.update(Digest::of_parts(&parts).as_bytes());
            assert_eq!(salt.as_bytes()[..], mac.finalize().into_bytes()[..], "{name}: the salt of {field}");
        }
    }
}

#[test]
fn pre_approvals_have_their_text_and_digest_and_are_read_back() {
    let Vectors { base, pre_approvals, .. } = vectors();
    for vector in pre_approvals {
        let PreApproved { name, with, rules, uses, seconds, until_millis, canonical: text, digest, reason: wanted } =
            vector;
        let action = action(&base, &with, None).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        let bounds = Bounds { uses, seconds };
        let pre = PreApproval::like(&action, rules, bounds, Timestamp::from_millis(until_millis));
        if !bounds.are_sound() {
            assert_eq!(wanted.as_deref(), Some("bounds"), "{name}");
            let text = pre.canonical().unwrap();
            assert!(PreApproval::from_canonical(text.text()).is_err(), "{name}");
            continue;
        }
        match pre.canonical() {
            Err(error) => assert_eq!(Some(reason(&error)), wanted.as_deref(), "{name}"),
            Ok(canonical) => {
                let found = (Some(canonical.text().to_owned()), Some(canonical.digest()), None);
                assert_eq!(found, (text, digest, wanted), "{name}");
                assert_eq!(PreApproval::from_canonical(canonical.text()), Ok(pre), "{name}");
            }
        }
    }
}

#[test]
fn doubles_from_the_wire_become_their_number_or_are_refused() {
    for Double { double, long, reason } in vectors().doubles {
        let found = Value::from_double(double.parse().unwrap(), "input.x");
        match (long, reason) {
            (Some(long), None) => assert_eq!(found, Ok(Value::Long(long)), "{double}"),
            (None, Some(reason)) => assert_eq!(value_reason(&found.expect_err(&double)), reason, "{double}"),
            _ => panic!("{double}: the vector has a number or a reason"),
        }
    }
}
