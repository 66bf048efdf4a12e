//! The types of an operation's input and environment, compiled once, and how values become Cedar's by them.

use std::collections::BTreeMap;

use cedar_policy::{Context, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use countersign_core::value::child_path;
use countersign_core::{EntityRef, Record, Value};
use serde_json::Value as Json;

/// The deepest nesting of a schema's types; Cedar refuses cycles, so this bounds only what somebody wrote out.
const MAX_DEPTH: usize = 32;

/// What a value must be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    Bool,
    Long,
    String,
    Entity(EntityTypeName),
    Extension(Extension),
    Set(Box<Shape>),
    Record(Fields),
}

/// The fields of a record: for each its shape, and whether it is required.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Fields(BTreeMap<String, (Shape, bool)>);

/// A type that is written as a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extension {
    Decimal,
    Datetime,
    Duration,
    Ipaddr,
}

/// A value that is not what its shape says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// Where, from the record that was converted: `.rows`, `.a[2]`; empty for the record itself.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

/// Why a type of the schema has no shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unknown(pub String);

impl Shape {
    /// Compiles a type of a composed schema in JSON form. `namespace` is the one it stands in.
    pub(crate) fn compile(schema: &Json, namespace: &str, declared: &Json, depth: usize) -> Result<Self, Unknown> {
        if depth > MAX_DEPTH {
            return Err(Unknown(format!("types are nested deeper than {MAX_DEPTH} levels")));
        }
        let text = |key: &str| declared.get(key).and_then(Json::as_str);
        let kind = text("type").unwrap_or_default();
        match kind {
            "Record" => Fields::compile(schema, namespace, declared, depth).map(Self::Record),
            "Set" => {
                let element = declared.get("element").ok_or_else(|| Unknown("a set has no element type".into()))?;
                Ok(Self::Set(Box::new(Self::compile(schema, namespace, element, depth + 1)?)))
            }
            "EntityOrCommon" | "Entity" | "Extension" => {
                Self::named(schema, namespace, text("name").unwrap_or_default(), depth)
            }
            name => Self::named(schema, namespace, name, depth),
        }
    }

    fn named(schema: &Json, namespace: &str, name: &str, depth: usize) -> Result<Self, Unknown> {
        let (path, base) = name.rsplit_once("::").unwrap_or(("", name));
        // A name without a namespace means the one it stands in before it means the empty one.
        let candidates = if path.is_empty() { vec![namespace, ""] } else { vec![path] };
        for space in candidates {
            let section = |section: &str| schema.get(space).and_then(|s| s.get(section)).and_then(|s| s.get(base));
            if let Some(common) = section("commonTypes") {
                return Self::compile(schema, space, common, depth + 1);
            }
            if section("entityTypes").is_some() {
                let full = if space.is_empty() { base.to_owned() } else { format!("{space}::{base}") };
                return full.parse().map(Self::Entity).map_err(|_| Unknown(format!("`{full}` is not a type")));
            }
        }
        match (path, base) {
            ("" | "__cedar", "Bool" | "Boolean") => Ok(Self::Bool),
            ("" | "__cedar", "Long") => Ok(Self::Long),
            ("" | "__cedar", "String") => Ok(Self::String),
            ("" | "__cedar", "decimal") => Ok(Self::Extension(Extension::Decimal)),
            ("" | "__cedar", "datetime") => Ok(Self::Extension(Extension::Datetime)),
            ("" | "__cedar", "duration") => Ok(Self::Extension(Extension::Duration)),
            ("" | "__cedar", "ipaddr") => Ok(Self::Extension(Extension::Ipaddr)),
            _unknown => Err(Unknown(format!("`{name}` is not a type that a caller's values can have"))),
        }
    }

    /// The value as Cedar's, if it is what the shape says.
    fn convert(&self, value: &Value) -> Result<RestrictedExpression, Misfit> {
        match (self, value) {
            (Self::Bool, Value::Bool(b)) => Ok(RestrictedExpression::new_bool(*b)),
            (Self::Long, Value::Long(n)) => Ok(RestrictedExpression::new_long(*n)),
            (Self::String, Value::String(s)) => Ok(RestrictedExpression::new_string(s.clone())),
            // Two argument lists may be one set, so a list is a set only where the schema says so; elsewhere it is text.
            (Self::String, Value::List(_)) => Ok(RestrictedExpression::new_string(value.canonical())),
            (Self::Entity(kind), Value::String(s)) => entity(kind, s),
            (Self::Extension(extension), Value::String(s)) => extension.convert(s),
            (Self::Set(element), Value::List(items)) => {
                let items = items
                    .iter()
                    .enumerate()
                    .map(|(i, item)| element.convert(item).map_err(|misfit| misfit.below(&format!("[{i}]"))));
                items.collect::<Result<Vec<_>, _>>().map(RestrictedExpression::new_set)
            }
            (Self::Record(fields), Value::Record(record)) => fields.convert(record),
            (_, Value::Commitment(_)) => {
                Err(Misfit::here("is only a commitment; deciding needs the value itself, send it again"))
            }
            (wanted, Value::Bool(_) | Value::Long(_) | Value::String(_) | Value::List(_) | Value::Record(_)) => {
                Err(Misfit::here(format!("must be {}, not {}", wanted.words(), words_for(value))))
            }
        }
    }

    fn named_in(&self, value: &Value, named: &mut Vec<EntityUid>) {
        match (self, value) {
            (Self::Entity(kind), Value::String(text)) => {
                if let Ok(entity) = EntityRef::parse(text) {
                    named.push(EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(entity.id())));
                }
            }
            (Self::Record(fields), Value::Record(record)) => fields.named_in(record, named),
            _nothing_to_go_on_from => {}
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Long => "a whole number".into(),
            Self::String => "a string, or a list that is then read as its JSON text".into(),
            Self::Entity(kind) => format!("a string of the form `{kind}::\"id\"`"),
            Self::Extension(extension) => extension.words().into(),
            Self::Set(element) => format!("a list of which each element is {}", element.words()),
            Self::Record(_) => "an object".into(),
        }
    }
}

impl Fields {
    /// Compiles a record type.
    pub(crate) fn compile(schema: &Json, namespace: &str, declared: &Json, depth: usize) -> Result<Self, Unknown> {
        if declared.get("type").and_then(Json::as_str) != Some("Record") {
            return match Shape::compile(schema, namespace, declared, depth)? {
                Shape::Record(fields) => Ok(fields),
                Shape::Bool | Shape::Long | Shape::String | Shape::Entity(_) | Shape::Extension(_) | Shape::Set(_) => {
                    Err(Unknown("`input` and `environment` must be records".into()))
                }
            };
        }
        let attributes = declared.get("attributes").and_then(Json::as_object);
        let fields = attributes.into_iter().flatten().map(|(name, field)| {
            let required = field.get("required") != Some(&Json::Bool(false));
            Ok((name.clone(), (Shape::compile(schema, namespace, field, depth + 1)?, required)))
        });
        fields.collect::<Result<_, _>>().map(Self)
    }

    /// The entities that a record names, outside of sets: policies can go on from these.
    pub(crate) fn named_in(&self, record: &Record, named: &mut Vec<EntityUid>) {
        for (name, value) in record {
            if let Some((shape, _)) = self.0.get(name) {
                shape.named_in(value, named);
            }
        }
    }

    /// Whether a field is a whole number, and always there.
    pub(crate) fn is_long(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some((Shape::Long, true)))
    }

    /// The record as Cedar's, if it has the fields that it must have and no others.
    pub(crate) fn convert(&self, record: &Record) -> Result<RestrictedExpression, Misfit> {
        if let Some((missing, _)) = self.0.iter().find(|(name, (_, required))| *required && !record.contains_key(*name))
        {
            return Err(Misfit { path: child_path("", missing), reason: "is missing".into() });
        }
        let fields = record.iter().map(|(name, value)| match self.0.get(name) {
            Some((shape, _)) => match shape.convert(value) {
                Ok(converted) => Ok((name.clone(), converted)),
                Err(misfit) => Err(misfit.below(&child_path("", name))),
            },
            None => {
                let known: Vec<String> = self.0.keys().map(|known| format!("`{known}`")).collect();
                let known =
                    if known.is_empty() { "none is accepted".into() } else { format!("expected {}", known.join(", ")) };
                Err(Misfit { path: child_path("", name), reason: format!("is not known; {known}") })
            }
        });
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        RestrictedExpression::new_record(fields).map_err(|error| Misfit::here(error.to_string()))
    }
}

impl Extension {
    fn convert(self, text: &str) -> Result<RestrictedExpression, Misfit> {
        let expression = match self {
            Self::Decimal => RestrictedExpression::new_decimal(text),
            Self::Datetime => RestrictedExpression::new_datetime(text),
            Self::Duration => RestrictedExpression::new_duration(text),
            Self::Ipaddr => RestrictedExpression::new_ip(text),
        };
        // Cedar reads the text only when the context is made, and then does not say which field it was.
        match Context::from_pairs([(String::new(), expression.clone())]) {
            Ok(_readable) => Ok(expression),
            Err(_unreadable) => Err(Misfit::here(format!("must be {}", self.words()))),
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Decimal => "a decimal number as a string, such as `\"12.50\"`",
            Self::Datetime => "a time as a string, such as `\"2026-01-31T12:00:00Z\"`",
            Self::Duration => "a duration as a string, such as `\"1h30m\"`",
            Self::Ipaddr => "an IP address or range as a string, such as `\"10.0.0.0/8\"`",
        }
    }
}

impl Misfit {
    fn here(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into() }
    }

    fn below(mut self, parent: &str) -> Self {
        self.path.insert_str(0, parent);
        self
    }
}

fn entity(kind: &EntityTypeName, text: &str) -> Result<RestrictedExpression, Misfit> {
    let wanted = || Misfit::here(format!("must be a string of the form `{kind}::\"id\"`"));
    let entity = EntityRef::parse(text).map_err(|_| wanted())?;
    // Comparing names as text is enough: both are in their one normal form.
    if entity.kind() != kind.to_string() {
        return Err(wanted());
    }
    Ok(RestrictedExpression::new_entity_uid(EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(entity.id()))))
}

const fn words_for(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "a boolean",
        Value::Long(_) => "a number",
        Value::String(_) => "this string",
        Value::List(_) => "a list",
        Value::Record(_) => "an object",
        Value::Commitment(_) => "a commitment",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields() -> Fields {
        let schema = json!({
            "": { "entityTypes": { "Person": {} }, "commonTypes": { "Rows": { "type": "Long" } } },
            "N": { "entityTypes": { "Host": {} }, "commonTypes": { "H": { "type": "EntityOrCommon", "name": "Host" } } },
        });
        let declared = json!({ "type": "Record", "attributes": {
            "rows": { "type": "EntityOrCommon", "name": "Rows" },
            "argv": { "type": "EntityOrCommon", "name": "String", "required": false },
            "tags": { "type": "Set", "element": { "type": "EntityOrCommon", "name": "String" }, "required": false },
            "who": { "type": "EntityOrCommon", "name": "Person", "required": false },
            "host": { "type": "EntityOrCommon", "name": "N::H", "required": false },
            "price": { "type": "EntityOrCommon", "name": "decimal", "required": false },
            "deep": { "type": "Record", "required": false, "attributes": {
                "list": { "type": "Set", "element": { "type": "EntityOrCommon", "name": "__cedar::Bool" } },
            } },
        } });
        Fields::compile(&schema, "", &declared, 0).unwrap()
    }

    fn converted(json: Json) -> Result<String, (String, String)> {
        let mut record: Record = serde_json::from_value(json).unwrap();
        record.entry("rows".into()).or_insert(Value::Long(1));
        fields()
            .convert(&record)
            .map(|e| Context::from_pairs([("c".to_owned(), e)]).unwrap().to_string())
            .map_err(|m| (m.path, m.reason))
    }

    #[test]
    fn what_fits_the_schema_is_converted() {
        let all = json!({ "rows": 5, "argv": "ls", "tags": ["a", "b", "a"], "who": "Person::\"alice\"",
            "host": "N::Host::\"db\"", "price": "12.50", "deep": { "list": [true] } });
        let text = converted(all).unwrap();
        for part in ["rows: 5", "Person::\"alice\"", "N::Host::\"db\"", "decimal(\"12.50\")"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_list_is_a_set_only_where_the_schema_says_so() {
        let argv = |list: Json| converted(json!({ "argv": list })).unwrap();
        assert_ne!(argv(json!(["bob", "--to", "bob"])), argv(json!(["--to", "bob"])));
        let tags = |list: Json| converted(json!({ "tags": list })).unwrap();
        assert_eq!(tags(json!(["bob", "--to", "bob"])), tags(json!(["--to", "bob"])));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (input, path, reason) in [
            (json!({ "rows": "5" }), ".rows", "a whole number"),
            (json!({ "row": 5 }), ".row", "not known"),
            (json!({ "argv": 5 }), ".argv", "a string"),
            (json!({ "tags": "a" }), ".tags", "a list"),
            (json!({ "tags": ["a", 5] }), ".tags[1]", "a string"),
            (json!({ "who": "alice" }), ".who", "Person::"),
            (json!({ "who": "Agent::\"alice\"" }), ".who", "Person::"),
            (json!({ "price": "cheap" }), ".price", "decimal"),
            (json!({ "deep": {} }), ".deep.list", "missing"),
            (json!({ "deep": { "list": [1] } }), ".deep.list[0]", "true or false"),
        ] {
            let (at, why) = converted(input.clone()).unwrap_err();
            assert_eq!(at, path, "{input}");
            assert!(why.contains(reason), "{input}: {why}");
        }
        assert_eq!(fields().convert(&Record::new()).unwrap_err().path, ".rows");
    }
}
