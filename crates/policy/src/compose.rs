//! The author's schema, composed with the reserved one.
//!
//! Composition works on Cedar's JSON form of schemas: the reserved types and actions are added, and the context of each of
//! the author's actions gets the reserved fields, so that the kernel validates strictly whatever the author declares.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Schema, SchemaFragment};
use serde_json::{Map, Value, json};

use crate::finding::{Finding, from_cedar, locate};
use crate::source::SCHEMA;

const RESERVED: &str = include_str!("reserved.cedarschema");
/// The common types of the reserved schema begin so, and those of authors must not.
const RESERVED_PREFIX: &str = "Countersign";
/// The reserved action of the `approve` set. All other reserved actions are of the `admin` set.
pub(crate) const APPROVE: &str = "approve";
/// Who can be the principal of an author's action.
const PRINCIPALS: [&str; 3] = ["Agent", "Service", "Person"];
/// The annotations that a schema may carry. The list is closed, since a misspelt `@sensitive` would publish a secret.
const ANNOTATIONS: [&str; 2] = ["sensitive", "doc"];

/// The composed schema, whole and for each policy set. A set is validated against the actions that it can be asked about,
/// so that an unscoped policy for work need not fit the contexts of the reserved actions.
pub(crate) struct Composed {
    /// Its JSON form.
    pub json: Value,
    /// In Cedar's schema syntax, for people and for ordinary Cedar tools.
    pub text: String,
    /// All actions.
    pub full: Schema,
    /// The author's actions.
    pub work: Schema,
    /// `approve`.
    pub approve: Schema,
    /// The reserved actions but `approve`.
    pub admin: Schema,
    /// The author's actions that apply to something, each with its sensitive input fields.
    pub operations: BTreeMap<String, Vec<String>>,
    /// The names of the reserved actions.
    pub reserved: BTreeSet<String>,
}

/// Composes, or tells everything that hinders it.
/// `counters` become attributes of `context.session.counters`.
pub(crate) fn compose<'a>(
    text: &str,
    counters: impl IntoIterator<Item = &'a String>,
) -> Result<Composed, Vec<Finding>> {
    let author = parse(SCHEMA, text)?;
    let mut reserved = parse("reserved.cedarschema", RESERVED)?;
    let kept = counters.into_iter().map(|name| (name.clone(), json!({ "type": "EntityOrCommon", "name": "Long" })));
    let counters = ["", "commonTypes", "CountersignCounters", "attributes"];
    if let Some(attributes) = counters.into_iter().try_fold(&mut reserved, |at, key| at.get_mut(key)) {
        *attributes = Value::Object(kept.collect());
    }
    let mut composer = Composer { text, findings: Vec::new(), operations: BTreeMap::new() };
    composer.check_names(&author, &reserved);
    let authored = names(&author, "actions");
    let reserved_actions = names(&reserved, "actions");
    let json = composer.merge(author, reserved);
    if !composer.findings.is_empty() {
        return Err(composer.findings);
    }
    let schema = |keep: &dyn Fn(&str) -> bool| build(&json, keep);
    let full = schema(&|_| true)?;
    Ok(Composed {
        text: printed(&json)?,
        full,
        work: schema(&|name| authored.contains(name))?,
        approve: schema(&|name| name == APPROVE)?,
        admin: schema(&|name| name != APPROVE && reserved_actions.contains(name))?,
        operations: composer.operations,
        reserved: reserved_actions,
        json,
    })
}

fn parse(file: &str, text: &str) -> Result<Value, Vec<Finding>> {
    let (fragment, _warnings) =
        SchemaFragment::from_cedarschema_str(text).map_err(|error| vec![from_cedar(file, text, &error)])?;
    fragment.to_json_value().map_err(|error| vec![from_cedar(file, text, &error)])
}

fn build(json: &Value, keep: &dyn Fn(&str) -> bool) -> Result<Schema, Vec<Finding>> {
    let mut json = json.clone();
    if let Some(Value::Object(actions)) = json.get_mut("").and_then(|ns| ns.get_mut("actions")) {
        actions.retain(|name, _| keep(name));
    }
    Schema::from_json_value(json).map_err(|error| vec![from_cedar(SCHEMA, "", &error)])
}

fn printed(json: &Value) -> Result<String, Vec<Finding>> {
    let fragment =
        SchemaFragment::from_json_value(json.clone()).map_err(|error| vec![from_cedar(SCHEMA, "", &error)])?;
    fragment.to_cedarschema().map_err(|error| vec![from_cedar(SCHEMA, "", &error)])
}

/// The names declared in the empty namespace.
fn names(json: &Value, section: &str) -> BTreeSet<String> {
    object(json, &["", section]).map(|declared| declared.keys().cloned().collect()).unwrap_or_default()
}

fn object<'a>(json: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    path.iter().try_fold(json, |at, key| at.get(*key)).and_then(Value::as_object)
}

struct Composer<'a> {
    text: &'a str,
    findings: Vec<Finding>,
    operations: BTreeMap<String, Vec<String>>,
}

impl Composer<'_> {
    fn refuse(&mut self, word: &str, message: String, hint: &str) {
        self.findings.push(Finding::error(SCHEMA, message).at(locate(self.text, word)).hint(hint));
    }

    fn check_names(&mut self, author: &Value, reserved: &Value) {
        for section in ["entityTypes", "commonTypes", "actions"] {
            let taken: BTreeSet<String> = match section {
                "actions" => names(reserved, "actions"),
                _type => names(reserved, "entityTypes").union(&names(reserved, "commonTypes")).cloned().collect(),
            };
            for name in names(author, section) {
                if taken.contains(&name) {
                    let hint = "it comes with every bundle; remove the declaration and use it, or choose another name";
                    self.refuse(&name, format!("`{name}` is reserved"), hint);
                } else if section != "actions" && name.starts_with(RESERVED_PREFIX) {
                    let hint = "choose another name";
                    self.refuse(&name, format!("`{name}` begins with `{RESERVED_PREFIX}`, which is reserved"), hint);
                }
            }
        }
        for (namespace, contents) in author.as_object().into_iter().flatten() {
            let actions = object(contents, &["actions"]).map(|a| a.keys().cloned().collect::<Vec<_>>());
            for name in actions.unwrap_or_default().iter().filter(|_| !namespace.is_empty()) {
                let hint = "declare actions outside of namespaces; an operation is named by its action's id alone";
                self.refuse(name, format!("the action `{name}` is declared in the namespace `{namespace}`"), hint);
            }
        }
    }

    fn merge(&mut self, mut author: Value, reserved: Value) -> Value {
        if let Some(all) = author.as_object_mut() {
            all.entry("").or_insert_with(|| json!({ "entityTypes": {}, "actions": {} }));
        }
        let common = object(&author, &["", "commonTypes"]).cloned().unwrap_or_default();
        let injected = object(&reserved, &["", "commonTypes", "CountersignContext", "attributes"]).cloned();
        let injected = injected.unwrap_or_default();
        let reserved_actions = names(&reserved, "actions");
        let mut resources = BTreeSet::new();
        if let Some(Value::Object(actions)) = author.get_mut("").and_then(|ns| ns.get_mut("actions")) {
            for (name, action) in actions {
                self.check_parents(name, action, &reserved_actions);
                self.compose_action(name, action, &common, &injected, &mut resources);
            }
        }
        self.check_annotations(&author);
        self.restore_sensitive(&mut author);
        for section in ["entityTypes", "commonTypes", "actions"] {
            let declared = object(&reserved, &["", section]).cloned().unwrap_or_default();
            if let Some(all) = author.get_mut("").and_then(Value::as_object_mut) {
                let target = all.entry(section).or_insert_with(|| json!({}));
                if let Some(target) = target.as_object_mut() {
                    // What the author declared twice was refused; keep theirs, so that it is not hidden from Cedar either.
                    for (name, value) in declared {
                        target.entry(name).or_insert(value);
                    }
                }
            }
        }
        if !resources.is_empty()
            && let Some(types) = author
                .get_mut("")
                .and_then(|ns| ns.get_mut("actions"))
                .and_then(|actions| actions.get_mut(APPROVE))
                .and_then(|approve| approve.get_mut("appliesTo"))
                .and_then(|applies| applies.get_mut("resourceTypes"))
        {
            *types = resources.into_iter().map(Value::String).collect();
        }
        author
    }

    /// An action below a reserved one would be granted by the policies about that one.
    fn check_parents(&mut self, name: &str, action: &Value, reserved: &BTreeSet<String>) {
        for parent in action.get("memberOf").and_then(Value::as_array).into_iter().flatten() {
            let parent = parent.get("id").and_then(Value::as_str).unwrap_or_default();
            if reserved.contains(parent) {
                let hint = "remove it from `in [...]`";
                self.refuse(name, format!("the action `{name}` is a member of the reserved action `{parent}`"), hint);
            }
        }
    }

    fn compose_action(
        &mut self,
        name: &str,
        action: &mut Value,
        common: &Map<String, Value>,
        injected: &Map<String, Value>,
        resources: &mut BTreeSet<String>,
    ) {
        let Some(applies) = action.get_mut("appliesTo").and_then(Value::as_object_mut) else {
            return;
        };
        let types = |key: &str| -> Vec<String> {
            let list = applies.get(key).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let (principals, applied) = (types("principalTypes"), types("resourceTypes"));
        if principals.is_empty() && applied.is_empty() {
            return; // a group of actions, which nobody can ask for
        }
        for principal in principals.iter().filter(|p| !PRINCIPALS.contains(&p.as_str())) {
            let message = format!("`{principal}` cannot be the principal of `{name}`");
            self.refuse(name, message, "principals are `Agent`, `Service` and `Person`");
        }
        if name.is_empty()
            || name.len() > 128
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b))
        {
            let hint = "use 1 to 128 of the characters A-Z, a-z, 0-9 and `_.:/-`";
            self.refuse(name, format!("`{}` cannot be an operation", name.escape_debug()), hint);
        }
        resources.extend(applied);

        let context = match applies.get("context") {
            None => json!({ "type": "Record", "attributes": {} }),
            Some(context) => named(context, common).unwrap_or(context).clone(),
        };
        let Some(own) = object(&context, &["attributes"]).cloned() else {
            let hint = "write it as a record: `context: { input: {...}, environment: {...} }`";
            self.refuse(name, format!("the context of `{name}` is not a record declared here"), hint);
            return;
        };
        let mut fields = injected.clone();
        for (field, mut declared) in own {
            if injected.contains_key(&field) {
                let hint = "the service fills it in; remove it from the action, and read it in policies as `context.";
                self.refuse(
                    &field,
                    format!("the context field `{field}` of `{name}` is reserved"),
                    &format!("{hint}{field}`"),
                );
            } else if field != "input" && field != "environment" {
                let hint =
                    "a context has `input` for the arguments and `environment` for the circumstances; move it there";
                self.refuse(&field, format!("`{name}` has an unknown context field `{field}`"), hint);
            } else if declared.get("required") == Some(&Value::Bool(false)) {
                let hint = format!("write `{field}` without `?`; it is empty when a caller sends nothing");
                self.refuse(&field, format!("`{field}` of `{name}` is optional"), &hint);
            } else {
                if field == "input" {
                    let sensitive = take_sensitive(&mut declared);
                    self.operations.insert(name.to_owned(), sensitive);
                }
                fields.insert(field, declared);
            }
        }
        for field in ["input", "environment"] {
            fields.entry(field).or_insert_with(|| json!({ "type": "Record", "attributes": {} }));
        }
        self.operations.entry(name.to_owned()).or_default();
        applies.insert("context".into(), json!({ "type": "Record", "attributes": fields }));
    }

    /// The printed schema carries the marks too.
    fn restore_sensitive(&self, author: &mut Value) {
        for (operation, fields) in &self.operations {
            for field in fields {
                let path =
                    ["", "actions", operation, "appliesTo", "context", "attributes", "input", "attributes", field];
                let marked = path.into_iter().try_fold(&mut *author, |at, key| at.get_mut(key));
                if let Some(marked) = marked.and_then(Value::as_object_mut) {
                    let annotations = marked.entry("annotations").or_insert_with(|| json!({}));
                    if let Some(annotations) = annotations.as_object_mut() {
                        annotations.insert("sensitive".into(), json!(""));
                    }
                }
            }
        }
    }

    /// What `@sensitive` is left over stands where it protects nothing.
    fn check_annotations(&mut self, author: &Value) {
        let mut found = BTreeSet::new();
        for namespace in author.as_object().into_iter().flat_map(Map::values) {
            annotations(namespace, &mut found);
            for declared in ["commonTypes", "entityTypes", "actions"] {
                let declared = object(namespace, &[declared]).into_iter().flat_map(Map::values);
                declared.for_each(|declared| annotations(declared, &mut found));
            }
        }
        for annotation in found {
            if annotation == "sensitive" {
                let hint =
                    "it protects fields directly inside the `input` of an action's context; mark the whole field there";
                self.refuse("@sensitive", "`@sensitive` stands where it has no effect".into(), hint);
            } else if !ANNOTATIONS.contains(&annotation.as_str()) {
                let hint = "a schema may carry `@sensitive` and `@doc`";
                self.refuse(&annotation, format!("`@{annotation}` is not known"), hint);
            }
        }
    }
}

/// The names of the annotations of something declared, and of the types inside it.
fn annotations(declared: &Value, found: &mut BTreeSet<String>) {
    let mut rest = vec![declared];
    while let Some(at) = rest.pop() {
        found.extend(object(at, &["annotations"]).into_iter().flat_map(Map::keys).cloned());
        let inside =
            [at.get("shape"), at.get("tags"), at.get("element"), at.get("appliesTo").and_then(|a| a.get("context"))];
        rest.extend(inside.into_iter().flatten());
        rest.extend(object(at, &["attributes"]).into_iter().flat_map(Map::values));
    }
}

/// The common type of the empty namespace that `declared` names.
fn named<'a>(declared: &Value, common: &'a Map<String, Value>) -> Option<&'a Value> {
    let kind = declared.get("type").and_then(Value::as_str)?;
    let name = if kind == "EntityOrCommon" { declared.get("name").and_then(Value::as_str)? } else { kind };
    common.get(name)
}

/// The fields of an input that are marked sensitive, and takes the marks away: what is left over is misplaced.
fn take_sensitive(input: &mut Value) -> Vec<String> {
    let mut found = Vec::new();
    let fields = input.get_mut("attributes").and_then(Value::as_object_mut);
    for (name, field) in fields.into_iter().flatten() {
        if let Some(annotations) = field.get_mut("annotations").and_then(Value::as_object_mut)
            && annotations.remove("sensitive").is_some()
        {
            found.push(name.clone());
        }
    }
    found
}
