//! References to Cedar entities, such as `Agent::"deploy-bot"`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::visible::Visible;

/// The longest entity type, in bytes.
pub const MAX_TYPE_BYTES: usize = 128;
/// The longest entity id, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// A Cedar entity by type and id. Ordered by type, then id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Unchecked")]
pub struct EntityRef {
    #[serde(rename = "type")]
    kind: String,
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    #[serde(rename = "type")]
    kind: String,
    id: String,
}

impl TryFrom<Unchecked> for EntityRef {
    type Error = EntityError;
    fn try_from(raw: Unchecked) -> Result<Self, EntityError> {
        Self::new(raw.kind, raw.id)
    }
}

/// Why something is not an entity reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntityError {
    /// The type is not a Cedar name.
    #[error("`{0}` is not an entity type: expected letters, digits and `_`, parts joined by `::`, at most 128 bytes")]
    Type(String),
    /// The id is empty, too long, or holds control characters.
    #[error("`{0}` is not an entity id: expected 1 to 256 bytes without control characters")]
    Id(String),
    /// The written form is not `Type::"id"`.
    #[error("`{0}` is not an entity: write it as `Type::\"id\"`")]
    Form(String),
}

impl EntityRef {
    /// An entity reference whose parts have the form that Cedar reads.
    ///
    /// # Errors
    /// [`EntityError`] names the part that does not fit.
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Result<Self, EntityError> {
        let (kind, id) = (kind.into(), id.into());
        let ident = |part: &str| {
            part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if kind.len() > MAX_TYPE_BYTES || !kind.split("::").all(ident) {
            return Err(EntityError::Type(Visible::cut(&kind, 64).to_string()));
        }
        if id.is_empty() || id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) {
            return Err(EntityError::Id(Visible::cut(&id, 64).to_string()));
        }
        Ok(Self { kind, id })
    }

    /// Reads the form that [`fmt::Display`] writes, for ids without quotes and backslashes.
    ///
    /// # Errors
    /// [`EntityError`] if the text has another form.
    pub fn parse(text: &str) -> Result<Self, EntityError> {
        let form = || EntityError::Form(Visible::cut(text, 64).to_string());
        let (kind, rest) = text.split_once("::\"").ok_or_else(form)?;
        let id = rest.strip_suffix('"').ok_or_else(form)?;
        if id.contains(['"', '\\']) {
            return Err(form());
        }
        Self::new(kind, id)
    }

    /// The type, such as `Agent`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The id, such as `deploy-bot`. Chosen by strangers: show it through [`Visible`].
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for EntityRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A quote in an id must not look like the end of it.
        write!(f, "{}::\"{}\"", self.kind, Visible::new(&self.id).to_string().replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cedar_would_not_read_is_refused() {
        assert!(EntityRef::new("Agent", "deploy-bot").is_ok());
        assert!(EntityRef::new("Ops::Agent", "東京").is_ok());
        for (kind, id) in
            [("", "x"), ("Agent", ""), ("A::", "x"), ("1A", "x"), ("A b", "x"), ("A", "a\u{0}"), ("A", "a\n")]
        {
            assert!(EntityRef::new(kind, id).is_err(), "{kind} {id}");
        }
        assert!(EntityRef::new("A", "x".repeat(257)).is_err());
    }

    #[test]
    fn an_id_cannot_pose_as_more_than_an_id() {
        let posing = EntityRef::new("Dataset", "a\"; resource Dataset::\"b").unwrap();
        assert_eq!(posing.to_string(), r#"Dataset::"a\"; resource Dataset::\"b""#);
    }

    #[test]
    fn the_written_form_is_read_back() {
        let alice = EntityRef::new("Person", "alice").unwrap();
        assert_eq!(EntityRef::parse(&alice.to_string()), Ok(alice));
        for bad in ["alice", "Person::alice", "Person::\"a\"b\"", "Person::\"alice"] {
            assert!(EntityRef::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stored_references_are_checked_on_reading() {
        assert!(serde_json::from_str::<EntityRef>(r#"{"type":"A b","id":"x"}"#).is_err());
        assert!(serde_json::from_str::<EntityRef>(r#"{"type":"A","id":"x","more":1}"#).is_err());
    }
}
