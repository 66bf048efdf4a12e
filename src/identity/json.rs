//! JSON of strangers, read without the two ways in which readers come to disagree about it: repeated names, and numbers
//! that are rounded.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

/// A JSON object whose names are all different.
pub(super) type Object = BTreeMap<String, Json>;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Json {
    /// A whole number from 0 to 2^64 − 1, written without fraction and exponent.
    Natural(u64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object.
    Object(Object),
    /// A truth value.
    Bool(bool),
    /// Null, or another number: nothing that is read here.
    Other,
}

/// Why a text is not a JSON object as it is wanted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonError {
    /// It is not JSON, or nested too deep.
    Syntax,
    /// It is JSON, and not an object.
    NotAnObject,
    /// An object in it has one name twice.
    Repeated,
}

/// Reads a JSON object.
pub(super) fn object(bytes: &[u8]) -> Result<Object, JsonError> {
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(Json::Natural(_) | Json::Text(_) | Json::List(_) | Json::Bool(_) | Json::Other) => {
            Err(JsonError::NotAnObject)
        }
        Err(error) => Err(match error.classify() {
            // The visitor takes every value, so that this is its only complaint.
            Category::Data => JsonError::Repeated,
            Category::Io | Category::Syntax | Category::Eof => JsonError::Syntax,
        }),
    }
}

/// The member of that name; of a name that begins with `/`, the one that the JSON pointer (RFC 6901) of objects leads to.
pub(super) fn at<'a>(object: &'a Object, name: &str) -> Option<&'a Json> {
    let Some(path) = name.strip_prefix('/') else { return object.get(name) };
    let mut names = path.split('/').map(|name| name.replace("~1", "/").replace("~0", "~"));
    let first = object.get(&names.next()?)?;
    names.try_fold(first, |value, name| match value {
        Json::Object(object) => object.get(&name),
        Json::Natural(_) | Json::Text(_) | Json::List(_) | Json::Bool(_) | Json::Other => None,
    })
}

impl Json {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Natural(_) | Self::List(_) | Self::Object(_) | Self::Bool(_) | Self::Other => None,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Json, E> {
        Ok(Json::Bool(truth))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Natural(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(u64::try_from(number).map_or(Json::Other, Json::Natural))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Object::new();
        while let Some((name, value)) = entries.next_entry()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a repeated name"));
            }
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_name_is_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, r#"{"a":[{"b":1,"b":2}]}"#, r#"{"a":1,"\u0061":2}"#]
        {
            assert_eq!(object(text.as_bytes()), Err(JsonError::Repeated), "{text}");
        }
    }

    #[test]
    fn only_natural_numbers_are_numbers() {
        let read = |number: &str| object(format!(r#"{{"n":{number}}}"#).as_bytes()).unwrap().remove("n").unwrap();
        assert_eq!(read("0"), Json::Natural(0));
        assert_eq!(read("18446744073709551615"), Json::Natural(u64::MAX));
        assert_eq!(read("true"), Json::Bool(true));
        for other in ["-1", "-0", "1.0", "1e3", "18446744073709551616", "1e400", "null"] {
            if let Ok(Some(value)) = object(format!(r#"{{"n":{other}}}"#).as_bytes()).map(|mut o| o.remove("n")) {
                assert_eq!(value, Json::Other, "{other}");
            }
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["[]", "1", "\"a\"", "null"] {
            assert_eq!(object(text.as_bytes()), Err(JsonError::NotAnObject), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
        for text in ["", "{", "{} {}", "{\"a\":01}", "{\"a\":NaN}", "\u{feff}{}", deep.as_str()] {
            assert_eq!(object(text.as_bytes()), Err(JsonError::Syntax), "{}", &text[..text.len().min(20)]);
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(JsonError::Syntax));
    }
}
