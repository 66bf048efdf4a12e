//! The values that an action's input and environment are made of.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::visible::Visible;

/// The largest magnitude of a whole number: 2^53 − 1, up to which every JSON reader agrees (RFC 7493 §2.2).
pub const MAX_LONG: i64 = (1 << 53) - 1;
/// The deepest nesting of lists and records.
pub const MAX_DEPTH: usize = 32;
/// The key under which a commitment is written in the canonical form.
pub const COMMITMENT_KEY: &str = "__commitment";

/// Named values, in the order of their names.
pub type Record = BTreeMap<String, Value>;

/// One value. There is no null and no fraction: both would be read differently by different readers, so they are refused
/// where they come in and never coerced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number within ±[`MAX_LONG`].
    Long(i64),
    /// Text.
    String(String),
    /// A list: its order and repetitions are part of the action.
    List(Vec<Value>),
    /// Named values.
    Record(Record),
    /// Stands for a value that the schema marks sensitive: a salted hash, so that it cannot be guessed from the digest.
    Commitment(Digest),
}

/// Why a value was refused. `path` is where, such as `input.rows[2]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Null was given.
    #[error("`{path}` is null; leave the field out instead")]
    Null {
        /// Where.
        path: String,
    },
    /// A number with a fraction, an infinity or not a number.
    #[error("`{path}` is not a whole number; write decimals as a string")]
    Fraction {
        /// Where.
        path: String,
    },
    /// A whole number that not every JSON reader can hold.
    #[error("`{path}` is beyond ±(2^53 − 1); write larger numbers as a string")]
    TooLarge {
        /// Where.
        path: String,
    },
    /// A reserved name.
    #[error("`{path}` begins with `__`, which is reserved; rename the field")]
    Reserved {
        /// Where.
        path: String,
    },
    /// Nested too deeply.
    #[error("`{path}` is nested deeper than {MAX_DEPTH} levels; flatten it, or refer to it by its hash")]
    TooDeep {
        /// Where.
        path: String,
    },
}

/// `path.name`, visibly escaped, for errors.
#[must_use]
pub fn child_path(path: &str, name: &str) -> String {
    format!("{path}.{}", Visible::cut(name, 64))
}

impl Value {
    /// A whole number from a JSON number that was carried as a double, as protobuf's `Struct` does.
    ///
    /// # Errors
    /// [`ValueError::Fraction`] and [`ValueError::TooLarge`].
    pub fn from_double(number: f64, path: &str) -> Result<Self, ValueError> {
        if !number.is_finite() || number.fract() != 0.0 {
            return Err(ValueError::Fraction { path: path.to_owned() });
        }
        // `as` is exact here: every double of this magnitude without a fraction is an i64.
        #[allow(clippy::cast_possible_truncation, reason = "the range was checked on this line")]
        let whole = if number.abs() <= 9_007_199_254_740_991.0 { Some(number as i64) } else { None };
        whole.map(Self::Long).ok_or_else(|| ValueError::TooLarge { path: path.to_owned() })
    }

    /// Checks what no caller may send: reserved names, numbers out of range, nesting. `depth` is the depth of this value.
    ///
    /// # Errors
    /// [`ValueError`], naming the first place that does not fit.
    pub fn check(&self, path: &str, depth: usize) -> Result<(), ValueError> {
        if depth > MAX_DEPTH {
            return Err(ValueError::TooDeep { path: path.to_owned() });
        }
        match self {
            Self::Bool(_) | Self::String(_) | Self::Commitment(_) => Ok(()),
            Self::Long(n) if (-MAX_LONG..=MAX_LONG).contains(n) => Ok(()),
            Self::Long(_) => Err(ValueError::TooLarge { path: path.to_owned() }),
            Self::List(items) => {
                items.iter().enumerate().try_for_each(|(i, item)| item.check(&format!("{path}[{i}]"), depth + 1))
            }
            Self::Record(fields) => check_record(fields, path, depth),
        }
    }

    /// The canonical form of this value alone (RFC 8785).
    #[must_use]
    pub fn canonical(&self) -> String {
        // Cannot fail: every variant is a JSON value with string keys and whole numbers.
        serde_json_canonicalizer::to_string(self).unwrap_or_default()
    }
}

/// Checks a whole record, as [`Value::check`] does for one value.
///
/// # Errors
/// [`ValueError`], naming the first field that does not fit.
pub fn check_record(fields: &Record, path: &str, depth: usize) -> Result<(), ValueError> {
    fields.iter().try_for_each(|(name, value)| {
        if name.starts_with("__") {
            return Err(ValueError::Reserved { path: child_path(path, name) });
        }
        // Most values can only be too deep, and writing a path costs more than looking at them.
        let plain = match value {
            Value::Bool(_) | Value::String(_) | Value::Commitment(_) => true,
            Value::Long(_) | Value::List(_) | Value::Record(_) => false,
        };
        if plain && depth < MAX_DEPTH { Ok(()) } else { value.check(&child_path(path, name), depth + 1) }
    })
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(b) => serializer.serialize_bool(*b),
            Self::Long(n) => serializer.serialize_i64(*n),
            Self::String(s) => serializer.serialize_str(s),
            Self::List(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| seq.serialize_element(item))?;
                seq.end()
            }
            Self::Record(fields) => serializer.collect_map(fields),
            Self::Commitment(digest) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(COMMITMENT_KEY, digest)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    /// Reads JSON strictly: null, fractions, numbers out of range and duplicate names are errors. A commitment is read
    /// back, so this is for trusted text too; what a stranger sent is then put through [`Value::check`] by the action.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Strict)
    }
}

/// Reads a record from JSON text, strictly (see [`Value`]'s `Deserialize`).
///
/// # Errors
/// The place in the text and what was wrong there.
pub fn record_from_json(text: &str) -> Result<Record, serde_json::Error> {
    let Value::Record(fields) = serde_json::from_str(text)? else {
        return Err(serde_json::Error::custom("expected a JSON object"));
    };
    Ok(fields)
}

struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean, a whole number, a string, a list or an object")
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }
    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Value, E> {
        if (-MAX_LONG..=MAX_LONG).contains(&n) {
            Ok(Value::Long(n))
        } else {
            Err(E::custom(format!("{n} is beyond ±(2^53 − 1); write larger numbers as a string")))
        }
    }
    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Value, E> {
        i64::try_from(n)
            .map_err(|_| E::custom(format!("{n} is beyond ±(2^53 − 1); write larger numbers as a string")))
            .and_then(|n| self.visit_i64(n))
    }
    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Value, E> {
        // JSON text keeps whole numbers whole, unless they are too large for it.
        if n.is_finite() && n.fract() == 0.0 && n.abs() > 9_007_199_254_740_991.0 {
            return Err(E::custom(format!("{n} is beyond ±(2^53 − 1); write larger numbers as a string")));
        }
        Err(E::custom(format!("{n} is not a whole number; write decimals as a string")))
    }
    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(Value::String(s.to_owned()))
    }
    fn visit_string<E>(self, s: String) -> Result<Value, E> {
        Ok(Value::String(s))
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Err(E::custom("null is not accepted; leave the field out instead"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Record::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if let Some(_first) = fields.insert(name.clone(), value) {
                return Err(A::Error::custom(format!("the name `{}` stands twice", Visible::cut(&name, 64))));
            }
        }
        if let (1, Some(Value::String(hex))) = (fields.len(), fields.get(COMMITMENT_KEY)) {
            return Digest::parse(hex).map(Value::Commitment).map_err(A::Error::custom);
        }
        Ok(Value::Record(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_readers_disagree_about_is_refused() {
        for (text, why) in [
            (r#"{"a":null}"#, "null"),
            (r#"{"a":1.5}"#, "whole number"),
            (r#"{"a":9007199254740992}"#, "2^53"),
            (r#"{"a":-9007199254740992}"#, "2^53"),
            (r#"{"a":18446744073709551615}"#, "2^53"),
            (r#"{"a":100000000000000000000}"#, "2^53"),
            (r#"{"a":1,"a":2}"#, "twice"),
            (r#"{"a":NaN}"#, "expected"),
            ("[1]", "object"),
        ] {
            let error = record_from_json(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert_eq!(record_from_json(r#"{"a":9007199254740991}"#).unwrap()["a"], Value::Long(MAX_LONG));
    }

    #[test]
    fn doubles_become_whole_numbers_or_are_refused() {
        assert_eq!(Value::from_double(3.0, "x"), Ok(Value::Long(3)));
        assert_eq!(Value::from_double(-0.0, "x"), Ok(Value::Long(0)));
        assert_eq!(Value::from_double(9_007_199_254_740_991.0, "x"), Ok(Value::Long(MAX_LONG)));
        for bad in [0.5, f64::NAN, f64::INFINITY, 9_007_199_254_740_992.0, -1e300] {
            assert!(Value::from_double(bad, "x").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_caller_cannot_forge_a_commitment_or_an_escape() {
        for name in ["__commitment", "__entity", "__extn"] {
            let input = Record::from([(name.to_owned(), Value::String("x".into()))]);
            assert!(matches!(check_record(&input, "input", 0), Err(ValueError::Reserved { .. })), "{name}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut value = Value::Bool(true);
        for _ in 0..=MAX_DEPTH {
            value = Value::List(vec![value]);
        }
        assert!(matches!(value.check("input.a", 0), Err(ValueError::TooDeep { .. })));
    }
}
