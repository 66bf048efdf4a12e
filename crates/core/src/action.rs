//! The action and its canonical form (docs/design/canonical-form.md).

mod opening;

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::{SessionId, TenantId};
use crate::value::{Record, Value, ValueError, check_record};
use crate::visible::Visible;

pub use opening::Opening;

/// The version of the canonical form. A change of form is a new number; a digest never changes its meaning.
pub const CANONICAL_VERSION: u32 = 1;
/// The largest canonical form, in bytes. Larger content is referred to by its hash.
pub const MAX_CANONICAL_BYTES: usize = 32 * 1024;
/// The longest delegation chain.
pub const MAX_CHAIN: usize = 8;
/// The longest operation and the longest audience, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Principal + operation + resource + input + environment, inside a session, for an audience.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// The tenant it happens in.
    pub tenant: TenantId,
    /// The enforcement point that the capability is for.
    pub audience: String,
    /// The session it happens in.
    pub session: SessionId,
    /// Who acts.
    pub principal: EntityRef,
    /// The person the principal acts for; absent when nobody delegated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<EntityRef>,
    /// The links between operator and principal, the one next to the principal first (RFC 8693 §4.1 order).
    pub chain: Vec<EntityRef>,
    /// The Cedar action's id, such as `export`.
    pub operation: String,
    /// What is acted upon.
    pub resource: EntityRef,
    /// The arguments.
    pub input: Record,
    /// The circumstances that the enforcement point vouches for.
    pub environment: Record,
}

/// The canonical bytes of an action, and their digest. Displayed, voted, minted and redeemed are compared by it (I3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical {
    text: String,
    digest: Digest,
}

/// Why an action has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// The operation's name does not fit.
    #[error("`{0}` is not an operation: expected 1 to 128 of the characters A-Z, a-z, 0-9 and `_.:/-`")]
    Operation(String),
    /// The audience's name does not fit.
    #[error(
        "`{0}` is not an audience: expected 1 to 128 printable ASCII characters without spaces, quotes and backslashes"
    )]
    Audience(String),
    /// A value in the input or environment does not fit.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The delegation chain is too long.
    #[error("the delegation chain has {0} links, at most {MAX_CHAIN} are allowed")]
    ChainTooLong(usize),
    /// Somebody stands twice in the delegation chain.
    #[error("the delegation chain returns to {0}; a loop has no one answerable")]
    ChainLoop(String),
    /// The canonical form is too large.
    #[error(
        "the action is {0} bytes in canonical form, at most {MAX_CANONICAL_BYTES} are allowed; send large content as its SHA-256 hash"
    )]
    TooLarge(usize),
}

impl Action {
    /// Checks every part and writes the canonical form.
    ///
    /// # Errors
    /// [`ActionError`] names the part that does not fit. Values committed by [`Self::commit`] pass.
    pub fn canonical(&self) -> Result<Canonical, ActionError> {
        if self.operation.is_empty()
            || self.operation.len() > MAX_NAME_BYTES
            || !self.operation.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b))
        {
            return Err(ActionError::Operation(Visible::cut(&self.operation, 64).to_string()));
        }
        if self.audience.is_empty()
            || self.audience.len() > MAX_NAME_BYTES
            || !self.audience.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
        {
            return Err(ActionError::Audience(Visible::cut(&self.audience, 64).to_string()));
        }
        check_chain(&self.principal, self.operator.as_ref(), &self.chain)?;
        check_record(&self.input, "input", 0)?;
        check_record(&self.environment, "environment", 0)?;

        // Cannot fail: the types hold JSON values only.
        let text = serde_json_canonicalizer::to_string(&Form::of(self)).unwrap_or_default();
        if text.is_empty() || text.len() > MAX_CANONICAL_BYTES {
            return Err(ActionError::TooLarge(text.len()));
        }
        Ok(Canonical::of(text))
    }

    /// Replaces the named top-level input fields by salted commitments, so that a guess cannot be tested against the
    /// digest. The salt comes from `key` and from everything else in the action, so the same action gives the same digest
    /// when it is redeemed, and opening one commitment opens no other.
    pub fn commit(&mut self, sensitive: &[String], key: &[u8; 32]) {
        let present: Vec<&String> = sensitive.iter().filter(|name| self.input.contains_key(*name)).collect();
        if present.is_empty() {
            return;
        }
        let mut rest = self.clone();
        rest.input.retain(|name, _| !sensitive.contains(name));
        let scope = scope_of(&rest);
        for name in present {
            if let Some(value) = self.input.get_mut(name) {
                *value = Value::Commitment(committed(&salt_of(key, &scope, name, value), value));
            }
        }
    }
}

/// What the canonical form is written from. Spelt out and not flattened: flattening keeps a copy of everything on the way.
#[derive(Serialize)]
struct Form<'a> {
    version: u32,
    tenant: &'a TenantId,
    audience: &'a str,
    session: SessionId,
    principal: &'a EntityRef,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<&'a EntityRef>,
    chain: &'a [EntityRef],
    operation: &'a str,
    resource: &'a EntityRef,
    input: &'a Record,
    environment: &'a Record,
}

impl<'a> Form<'a> {
    const fn of(action: &'a Action) -> Self {
        let Action { tenant, audience, session, principal, operator, chain, operation, resource, input, environment } =
            action;
        Self {
            version: CANONICAL_VERSION,
            tenant,
            audience: audience.as_str(),
            session: *session,
            principal,
            operator: operator.as_ref(),
            chain: chain.as_slice(),
            operation: operation.as_str(),
            resource,
            input,
            environment,
        }
    }
}

/// Commitment = SHA-256(salt ‖ value): whoever is given salt and value can check one commitment and learns nothing of another.
fn committed(salt: &Digest, value: &Value) -> Digest {
    Digest::of_parts(&[salt.as_bytes(), value.canonical().as_bytes()])
}

/// Salt = HMAC-SHA256(key, scope ‖ name ‖ value).
fn salt_of(key: &[u8; 32], scope: &[u8], name: &str, value: &Value) -> Digest {
    let value = value.canonical();
    hmac(key, &Digest::of_parts(&[b"countersign/commitment/v1", scope, name.as_bytes(), value.as_bytes()]))
}

/// What a commitment is made in: an action without its sensitive inputs.
fn scope_of(rest: &Action) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(rest).unwrap_or_default()
}

fn hmac(key: &[u8; 32], of: &Digest) -> Digest {
    // HMAC takes a key of any length, so this cannot fail; a zero salt would still not reveal the value's length.
    let mut mac = match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_never) => return Digest::of(of.as_bytes()),
    };
    mac.update(of.as_bytes());
    Digest::from_bytes(mac.finalize().into_bytes().into())
}

/// A chain has at most [`MAX_CHAIN`] links and nobody stands in it twice, the principal and the operator included.
///
/// # Errors
/// [`ActionError::ChainTooLong`], [`ActionError::ChainLoop`].
pub fn check_chain(
    principal: &EntityRef,
    operator: Option<&EntityRef>,
    chain: &[EntityRef],
) -> Result<(), ActionError> {
    if chain.len() > MAX_CHAIN {
        return Err(ActionError::ChainTooLong(chain.len()));
    }
    let mut seen: Vec<&EntityRef> = Vec::with_capacity(chain.len() + 2);
    for link in std::iter::once(principal).chain(chain).chain(operator) {
        if seen.contains(&link) {
            return Err(ActionError::ChainLoop(link.to_string()));
        }
        seen.push(link);
    }
    Ok(())
}

impl Action {
    /// Reads an action back from its canonical text, as it was stored.
    ///
    /// # Errors
    /// [`NotCanonical`] unless the text is byte for byte what [`Action::canonical`] writes: a text with another digest than
    /// its action is no evidence of anything.
    pub fn from_canonical(text: &str) -> Result<Self, NotCanonical> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
            #[serde(flatten)]
            action: Action,
        }
        let read: Versioned = serde_json::from_str(text).map_err(|_| NotCanonical)?;
        let canonical = read.action.canonical().map_err(|_| NotCanonical)?;
        if read.version == CANONICAL_VERSION && canonical.text == text { Ok(read.action) } else { Err(NotCanonical) }
    }
}

/// A text that is not the canonical form of any action, or of any pre-approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is neither an action nor a pre-approval in canonical form, version {CANONICAL_VERSION}")]
pub struct NotCanonical;

impl Canonical {
    /// Of a text that is one.
    pub(crate) fn of(text: String) -> Self {
        let digest = Digest::of(text.as_bytes());
        Self { text, digest }
    }

    /// The canonical JSON text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its SHA-256.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entity(kind: &str, id: &str) -> EntityRef {
        EntityRef::new(kind, id).unwrap()
    }

    fn action() -> Action {
        Action {
            tenant: TenantId::new("acme").unwrap(),
            audience: "warehouse".into(),
            session: SessionId::from_bytes([1; 16]),
            principal: entity("Agent", "etl-bot"),
            operator: Some(entity("Person", "alice")),
            chain: vec![],
            operation: "export".into(),
            resource: entity("Dataset", "customers"),
            input: Record::from([
                ("rows".into(), Value::Long(500)),
                ("password".into(), Value::String("hunter2".into())),
            ]),
            environment: Record::new(),
        }
    }

    #[test]
    fn every_part_is_in_the_digest() {
        let base = action().canonical().unwrap().digest();
        let changes: [fn(&mut Action); 10] = [
            |a| a.tenant = TenantId::new("other").unwrap(),
            |a| a.audience.push('2'),
            |a| a.session = SessionId::from_bytes([2; 16]),
            |a| a.principal = entity("Agent", "etl-bo"),
            |a| a.operator = None,
            |a| a.chain.push(entity("Agent", "planner")),
            |a| a.operation.push('s'),
            |a| a.resource = entity("Dataset", "customer"),
            |a| drop(a.input.insert("rows".into(), Value::Long(501))),
            |a| drop(a.environment.insert("network".into(), Value::String("vpn".into()))),
        ];
        for change in changes {
            let mut other = action();
            change(&mut other);
            assert_ne!(other.canonical().unwrap().digest(), base, "{other:?}");
        }
    }

    #[test]
    fn lists_that_are_one_set_are_two_digests() {
        let with = |list: &[&str]| {
            let mut action = action();
            let list = list.iter().map(|s| Value::String((*s).into())).collect();
            action.input.insert("argv".into(), Value::List(list));
            action.canonical().unwrap().digest()
        };
        assert_ne!(with(&["bob", "--to", "bob"]), with(&["--to", "bob"]));
    }

    #[test]
    fn a_sensitive_input_cannot_be_guessed_from_the_digest() {
        let committed = |key: u8, password: &str| {
            let mut action = action();
            action.input.insert("password".into(), Value::String(password.into()));
            action.commit(&["password".into(), "absent".into()], &[key; 32]);
            action.canonical().unwrap()
        };
        assert!(!committed(1, "hunter2").text().contains("hunter2"));
        assert_eq!(committed(1, "hunter2"), committed(1, "hunter2"));
        assert_ne!(committed(1, "hunter2").digest(), committed(1, "hunter3").digest());
        assert_ne!(committed(1, "hunter2").digest(), committed(2, "hunter2").digest());
    }

    #[test]
    fn the_canonical_text_is_read_back_and_no_other() {
        let mut action = action();
        action.commit(&["password".into()], &[7; 32]);
        let text = action.canonical().unwrap().text().to_owned();
        assert_eq!(Action::from_canonical(&text), Ok(action));
        for other in [format!(" {text}"), text.replace("\"version\":1", "\"version\":2"), text.replace("500", "5e2")] {
            assert_eq!(Action::from_canonical(&other), Err(NotCanonical), "{other}");
        }
    }

    #[test]
    fn loops_and_endless_chains_are_refused() {
        let mut looped = action();
        looped.chain = vec![entity("Agent", "planner"), entity("Agent", "etl-bot")];
        assert!(matches!(looped.canonical(), Err(ActionError::ChainLoop(_))));
        let mut long = action();
        long.chain = (0..9).map(|i| entity("Agent", &i.to_string())).collect();
        assert_eq!(long.canonical(), Err(ActionError::ChainTooLong(9)));
    }

    #[test]
    fn what_is_too_large_is_refused_and_not_cut() {
        let mut large = action();
        large.input.insert("blob".into(), Value::String("x".repeat(MAX_CANONICAL_BYTES)));
        assert!(matches!(large.canonical(), Err(ActionError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn equal_actions_and_only_they_share_a_digest(a in ".{0,20}", b in ".{0,20}") {
            let with = |text: &str| {
                let mut action = action();
                action.input.insert("text".into(), Value::String(text.into()));
                action.canonical().unwrap().digest()
            };
            prop_assert_eq!(with(&a) == with(&b), a == b);
        }
    }
}
