//! A checker of JSON Schema 2020-12, of as much of it as the schemas here use. What it does not know, it refuses.

use serde_json::Value;

/// A schema with what it refers to.
#[derive(Debug)]
pub struct Schema {
    root: Value,
    /// Whether an object may have only the members that its schema names, unless that says otherwise.
    closed: bool,
}

impl Schema {
    pub fn parse(text: &str) -> Self {
        Self { root: serde_json::from_str(text).unwrap(), closed: false }
    }

    /// For who writes what the schema describes: a member that it does not name is one that was forgotten there.
    pub fn closed(text: &str) -> Self {
        Self { closed: true, ..Self::parse(text) }
    }

    /// The document itself.
    pub const fn document(&self) -> &Value {
        &self.root
    }

    /// What of the value does not fit, each with its place.
    pub fn faults(&self, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(&self.root, value, "", &mut faults);
        faults
    }

    fn fits(&self, schema: &Value, value: &Value) -> bool {
        let mut faults = Vec::new();
        self.check(schema, value, "", &mut faults);
        faults.is_empty()
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let schema = match schema {
            Value::Bool(true) => return,
            Value::Bool(false) => return faults.push(format!("{at}: is not allowed")),
            Value::Object(schema) => schema,
            other => panic!("no schema: {other}"),
        };
        let list = |value: &Value| value.as_array().unwrap().clone();
        if self.closed
            && !schema.contains_key("additionalProperties")
            && let (Some(known), Some(members)) = (schema.get("properties"), value.as_object())
        {
            let unknown = members.keys().filter(|name| known.get(name).is_none());
            faults.extend(unknown.map(|name| format!("{at}/{name}: is not in the schema")));
        }
        for (keyword, says) in schema {
            match keyword.as_str() {
                "$schema" | "$id" | "$comment" | "$defs" | "title" | "description" | "then" => {}
                "$ref" => {
                    let target = says.as_str().unwrap().strip_prefix('#').unwrap();
                    let target = self.root.pointer(target).unwrap_or_else(|| panic!("{says} is nowhere"));
                    self.check(target, value, at, faults);
                }
                "type" => {
                    let types = if says.is_array() { list(says) } else { vec![says.clone()] };
                    if !types.iter().any(|name| is(name.as_str().unwrap(), value)) {
                        faults.push(format!("{at}: is not {says}: {value}"));
                    }
                }
                "const" if says != value => faults.push(format!("{at}: is not {says}: {value}")),
                "enum" if !list(says).contains(value) => faults.push(format!("{at}: is none of {says}: {value}")),
                "const" | "enum" => {}
                "minimum" => {
                    if value.as_f64().is_some_and(|n| n < says.as_f64().unwrap()) {
                        faults.push(format!("{at}: is below {says}: {value}"));
                    }
                }
                "minLength" => {
                    if value.as_str().is_some_and(|text| (text.chars().count() as u64) < says.as_u64().unwrap()) {
                        faults.push(format!("{at}: is too short"));
                    }
                }
                "minItems" => {
                    if value.as_array().is_some_and(|items| (items.len() as u64) < says.as_u64().unwrap()) {
                        faults.push(format!("{at}: has too few items"));
                    }
                }
                "pattern" => {
                    if value.as_str().is_some_and(|text| !matches(says.as_str().unwrap(), text)) {
                        faults.push(format!("{at}: does not match {says}: {value}"));
                    }
                }
                "required" => {
                    for name in list(says) {
                        if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                            faults.push(format!("{at}: {name} is missing"));
                        }
                    }
                }
                "properties" => {
                    for (name, schema) in says.as_object().unwrap() {
                        if let Some(member) = value.get(name) {
                            self.check(schema, member, &format!("{at}/{name}"), faults);
                        }
                    }
                }
                "additionalProperties" => {
                    let known = schema.get("properties").and_then(Value::as_object);
                    for (name, member) in value.as_object().into_iter().flatten() {
                        if !known.is_some_and(|known| known.contains_key(name)) {
                            self.check(says, member, &format!("{at}/{name}"), faults);
                        }
                    }
                }
                "items" => {
                    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(says, item, &format!("{at}/{n}"), faults);
                    }
                }
                "allOf" => list(says).iter().for_each(|schema| self.check(schema, value, at, faults)),
                "anyOf" => {
                    if !list(says).iter().any(|schema| self.fits(schema, value)) {
                        faults.push(format!("{at}: fits none of {says}: {value}"));
                    }
                }
                "oneOf" => {
                    let fitting = list(says).iter().filter(|schema| self.fits(schema, value)).count();
                    if fitting != 1 {
                        faults.push(format!("{at}: fits {fitting} of the forms: {value}"));
                    }
                }
                "if" => {
                    // A condition looks at what it names, and not at the rest.
                    let named = says.get("properties").and_then(Value::as_object).into_iter().flatten();
                    let holds =
                        { named }.all(|(name, one)| value.get(name).is_none_or(|member| self.fits(one, member)));
                    assert_eq!(says.as_object().unwrap().len(), 1, "the checker knows conditions on properties only");
                    if let Some(then) = schema.get("then").filter(|_| holds) {
                        self.check(then, value, at, faults);
                    }
                }
                other => panic!("the checker does not know `{other}`"),
            }
        }
    }
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the checker does not know the type `{other}`"),
    }
}

/// The patterns that the schemas use: hexadecimal digits, and ids with their prefix.
fn matches(pattern: &str, text: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if let Some(digits) = pattern.strip_prefix("^[0-9a-f]{").and_then(|rest| rest.strip_suffix("}$")) {
        return text.len() == digits.parse::<usize>().unwrap() && hex(text);
    }
    let prefix = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix("[0-9a-f-]{36}$"));
    let prefix = prefix.unwrap_or_else(|| panic!("the checker does not know the pattern `{pattern}`"));
    text.strip_prefix(prefix).is_some_and(|id| id.len() == 36 && hex(&id.replace('-', "")))
}
