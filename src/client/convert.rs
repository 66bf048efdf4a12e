//! Between the wire's `Struct` and the values that actions are made of. What cannot be carried exactly is refused.

use countersign_core::value::{MAX_DEPTH, check_record, child_path};
use countersign_core::{EntityRef, Record, Value, ValueError};
use prost_types::value::Kind;

use super::error::ClientError;
use crate::proto::{Entity, Operation};

/// An entity, for the wire.
#[must_use]
pub fn entity(entity: &EntityRef) -> Entity {
    Entity { r#type: entity.kind().to_owned(), id: entity.id().to_owned() }
}

/// What is to be done: its name, the resource as type and id, and its input and environment as JSON objects.
///
/// # Errors
/// [`ClientError::Entity`] and [`ClientError::Value`], before anything is sent.
pub fn operation(
    name: impl Into<String>,
    resource: (&str, &str),
    input: serde_json::Value,
    environment: serde_json::Value,
) -> Result<Operation, ClientError> {
    let (kind, id) = resource;
    Ok(Operation {
        name: name.into(),
        resource: Some(entity(&EntityRef::new(kind, id)?)),
        input: Some(struct_from_json(input, "input")?),
        environment: Some(struct_from_json(environment, "environment")?),
    })
}

/// A JSON object for the wire. `path` is how errors call it, such as `input`.
///
/// # Errors
/// [`ClientError::Configuration`] if it is no object or holds a null, a fraction or a number beyond 2^53;
/// [`ClientError::Value`] if a name is reserved or it is nested too deeply.
pub fn struct_from_json(json: serde_json::Value, path: &str) -> Result<prost_types::Struct, ClientError> {
    let value: Value =
        serde_json::from_value(json).map_err(|error| ClientError::Configuration(format!("`{path}`: {error}")))?;
    match value {
        Value::Record(record) => Ok(struct_from_record(&record, path)?),
        Value::Bool(_) | Value::Long(_) | Value::String(_) | Value::List(_) | Value::Commitment(_) => {
            Err(ClientError::Configuration(format!("`{path}` is not a JSON object; write it as `{{\"name\": …}}`")))
        }
    }
}

/// A record for the wire. `path` is how errors call it, such as `input`.
///
/// # Errors
/// [`ValueError`] for what the server would refuse: reserved names, numbers beyond 2^53, too deep nesting, commitments.
pub fn struct_from_record(record: &Record, path: &str) -> Result<prost_types::Struct, ValueError> {
    check_record(record, path, 0)?;
    to_struct(record, path)
}

fn to_struct(record: &Record, path: &str) -> Result<prost_types::Struct, ValueError> {
    let fields = record.iter().map(|(name, value)| {
        let kind = to_kind(value, &child_path(path, name))?;
        Ok((name.clone(), prost_types::Value { kind: Some(kind) }))
    });
    Ok(prost_types::Struct { fields: fields.collect::<Result<_, ValueError>>()? })
}

fn to_kind(value: &Value, path: &str) -> Result<Kind, ValueError> {
    Ok(match value {
        Value::Bool(b) => Kind::BoolValue(*b),
        // Exact: the record was checked, and every whole number up to 2^53 is a double.
        #[allow(clippy::cast_precision_loss, reason = "the magnitude was checked to be below 2^53")]
        Value::Long(n) => Kind::NumberValue(*n as f64),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::List(items) => {
            let values = items.iter().enumerate().map(|(i, item)| {
                let kind = to_kind(item, &format!("{path}[{i}]"))?;
                Ok(prost_types::Value { kind: Some(kind) })
            });
            Kind::ListValue(prost_types::ListValue { values: values.collect::<Result<_, ValueError>>()? })
        }
        Value::Record(fields) => Kind::StructValue(to_struct(fields, path)?),
        // Only the server makes commitments; one from outside would let the sender choose what the digest covers.
        Value::Commitment(_) => return Err(ValueError::Reserved { path: path.to_owned() }),
    })
}

/// The record in a `Struct` from the wire. `path` is how errors call it, such as `input`.
///
/// # Errors
/// [`ValueError`] for a null, a fraction, a number beyond 2^53, a reserved name or too deep nesting.
pub fn record_from_struct(fields: &prost_types::Struct, path: &str) -> Result<Record, ValueError> {
    let record = from_struct(fields, path, 0)?;
    check_record(&record, path, 0)?;
    Ok(record)
}

fn from_struct(fields: &prost_types::Struct, path: &str, depth: usize) -> Result<Record, ValueError> {
    let entries = fields.fields.iter().map(|(name, value)| {
        let path = child_path(path, name);
        Ok((name.clone(), from_value(value, &path, depth + 1)?))
    });
    entries.collect()
}

fn from_value(value: &prost_types::Value, path: &str, depth: usize) -> Result<Value, ValueError> {
    if depth > MAX_DEPTH {
        return Err(ValueError::TooDeep { path: path.to_owned() });
    }
    Ok(match &value.kind {
        None | Some(Kind::NullValue(_)) => return Err(ValueError::Null { path: path.to_owned() }),
        Some(Kind::BoolValue(b)) => Value::Bool(*b),
        Some(Kind::NumberValue(n)) => Value::from_double(*n, path)?,
        Some(Kind::StringValue(s)) => Value::String(s.clone()),
        Some(Kind::ListValue(list)) => {
            let items = list.values.iter().enumerate();
            let items = items.map(|(i, item)| from_value(item, &format!("{path}[{i}]"), depth + 1));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Some(Kind::StructValue(fields)) => Value::Record(from_struct(fields, path, depth)?),
    })
}

#[cfg(test)]
mod tests {
    use countersign_core::value::record_from_json;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_sent() {
        let text = r#"{"a":true,"b":-9007199254740991,"c":"x","d":[1,"y",[]],"e":{"f":{}}}"#;
        let record = record_from_json(text).unwrap();
        let wire = struct_from_record(&record, "input").unwrap();
        assert_eq!(record_from_struct(&wire, "input").unwrap(), record);
    }

    #[test]
    fn what_cannot_be_carried_is_refused_with_its_place() {
        for (json, place) in [
            (json!({"a": null}), "null"),
            (json!({"a": 0.5}), "whole number"),
            (json!({"a": 9_007_199_254_740_993_u64}), "2^53"),
            (json!({"a": {"__b": 1}}), "input.a.__b"),
            (json!({"a": {"__commitment": "0".repeat(64)}}), "input.a"),
            (json!([1]), "not a JSON object"),
        ] {
            let error = struct_from_json(json.clone(), "input").unwrap_err().to_string();
            assert!(error.contains(place), "{json}: {error}");
        }
    }

    #[test]
    fn a_value_of_no_kind_is_no_value() {
        let wire = prost_types::Struct { fields: [("a".to_owned(), prost_types::Value { kind: None })].into() };
        assert_eq!(record_from_struct(&wire, "input"), Err(ValueError::Null { path: "input.a".into() }));
    }

    #[test]
    fn an_operation_is_made_of_json() {
        let operation = operation("export", ("Dataset", "customers"), json!({"rows": 500}), json!({})).unwrap();
        assert_eq!(operation.resource.unwrap().id, "customers");
        assert_eq!(operation.input.unwrap().fields.len(), 1);
        assert!(super::operation("export", ("Data set", "x"), json!({}), json!({})).is_err());
    }
}
