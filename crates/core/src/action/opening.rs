//! Opening one commitment: who has the key and the value makes an opening, and whoever is given that needs no key.

use serde::{Deserialize, Serialize};

use super::{Action, committed, salt_of, scope_of};
use crate::digest::Digest;
use crate::value::Value;

/// What shows that one commitment in an action is of one value. It opens no other, whether of another input or of another action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// The input.
    pub input: String,
    /// Its value.
    pub value: Value,
    /// What the value was salted with.
    pub salt: Digest,
}

impl Opening {
    /// Opens the commitment of an input in an action as it is kept; `None` if there is none, or if it is of another value. Whoever has
    /// the key can try values until one fits, so the key stays where it is, and an opening goes out.
    #[must_use]
    pub fn of(action: &Action, input: &str, value: Value, key: &[u8; 32]) -> Option<Self> {
        let mut rest = action.clone();
        rest.input.retain(|_, value| !matches!(value, Value::Commitment(_)));
        let salt = salt_of(key, &scope_of(&rest), input, &value);
        let opening = Self { input: input.to_owned(), value, salt };
        opening.fits(action).then_some(opening)
    }

    /// Whether it opens the commitment of its input in an action as it is kept.
    #[must_use]
    pub fn fits(&self, action: &Action) -> bool {
        let Self { input, value, salt } = self;
        action.input.get(input) == Some(&Value::Commitment(committed(salt, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EntityRef, SessionId, TenantId};

    const KEY: [u8; 32] = [7; 32];

    fn raw(rows: i64) -> Action {
        let text = |text: &str| Value::String(text.to_owned());
        let input = [("password", text("hunter2")), ("pin", text("hunter2")), ("rows", Value::Long(rows))];
        Action {
            tenant: TenantId::new("acme").unwrap(),
            audience: "vault".to_owned(),
            session: SessionId::from_bytes([1; 16]),
            principal: EntityRef::new("Agent", "bot").unwrap(),
            operator: None,
            chain: Vec::new(),
            operation: "rotate".to_owned(),
            resource: EntityRef::new("Key", "tls").unwrap(),
            input: input.map(|(name, value)| (name.to_owned(), value)).into(),
            environment: Default::default(),
        }
    }

    /// As it stands in a record.
    fn kept(rows: i64) -> Action {
        let mut action = raw(rows);
        action.commit(&["password".to_owned(), "pin".to_owned()], &KEY);
        Action::from_canonical(action.canonical().unwrap().text()).unwrap()
    }

    fn value() -> Value {
        Value::String("hunter2".to_owned())
    }

    #[test]
    fn the_value_opens_its_commitment_and_no_other_does() {
        let kept = kept(1);
        let opening = Opening::of(&kept, "password", value(), &KEY).unwrap();
        assert!(opening.fits(&kept));
        for other in ["hunter3", "", "Hunter2"] {
            let other = Value::String(other.to_owned());
            assert_eq!(Opening::of(&kept, "password", other.clone(), &KEY), None);
            assert!(!Opening { value: other, ..opening.clone() }.fits(&kept));
        }
        assert_eq!(Opening::of(&kept, "password", value(), &[8; 32]), None, "with another key");
        assert_eq!(Opening::of(&kept, "rows", Value::Long(1), &KEY), None, "what is not committed");
        assert_eq!(Opening::of(&kept, "nothing", value(), &KEY), None);
    }

    #[test]
    fn one_that_is_opened_opens_no_other_though_the_value_be_the_same() {
        let (kept_one, kept_other) = (kept(1), kept(2));
        let opening = Opening::of(&kept_one, "password", value(), &KEY).unwrap();
        assert!(!opening.fits(&kept_other), "the same input of another action");
        let other_input = Opening { input: "pin".to_owned(), ..opening };
        assert!(!other_input.fits(&kept_one), "another input of the same action");
        assert!(Opening::of(&kept_one, "pin", value(), &KEY).unwrap().fits(&kept_one));
    }

    #[test]
    fn an_opening_is_read_as_it_was_written() {
        let opening = Opening::of(&kept(1), "pin", value(), &KEY).unwrap();
        let text = serde_json::to_string(&opening).unwrap();
        assert_eq!(serde_json::from_str::<Opening>(&text).unwrap(), opening);
    }
}
