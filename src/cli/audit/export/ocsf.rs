//! Records as OCSF 1.8 API Activity (class 6003): <https://schema.ocsf.io/1.8.0/classes/api_activity>.

use serde_json::{Map, Value, json};

use super::kind::{Activity, Severity};
use super::told::{Control, Named, Status, Told};

/// The version of the schema.
const VERSION: &str = "1.8.0";
/// API Activity.
const CLASS: u32 = 6003;

/// The event. Nothing in it depends on when or where it is made: the same record gives the same bytes again.
pub fn event(told: &Told, origin: &str) -> Value {
    let (activity_id, activity) = match told.activity {
        Activity::Create => (1, "Create"),
        Activity::Read => (2, "Read"),
        Activity::Update => (3, "Update"),
        Activity::Delete => (4, "Delete"),
        Activity::Other => (99, told.kind.as_str()),
    };
    let (severity_id, severity) = match told.severity {
        Severity::Informational => (1, "Informational"),
        Severity::Low => (2, "Low"),
        Severity::Medium => (3, "Medium"),
        Severity::High => (4, "High"),
    };
    let (status_id, status) = match told.status {
        Status::Success => (1, "Success"),
        Status::Failure => (2, "Failure"),
        Status::Pending => (99, "Needs Approval"),
    };
    let mut event = json!({
        // First, so that the beginning of a line says what it is.
        "activity_id": activity_id,
        "activity_name": activity,
        "actor": actor(told),
        "api": api(told),
        "category_name": "Application Activity",
        "category_uid": 6,
        "class_name": "API Activity",
        "class_uid": CLASS,
        "message": told.message,
        "metadata": metadata(told, origin),
        "raw_data": told.text,
        "severity": severity,
        "severity_id": severity_id,
        "src_endpoint": source(told),
        "status": status,
        "status_id": status_id,
        "time": told.at,
        "type_name": format!("API Activity: {}", if told.activity == Activity::Other { "Other" } else { activity }),
        "type_uid": CLASS * 100 + activity_id,
        "unmapped": unmapped(told),
    });
    if let Value::Object(event) = &mut event {
        if !told.resources.is_empty() {
            event.insert("resources".to_owned(), told.resources.iter().map(resource).collect());
        }
        if let Some(control) = told.control {
            let (action_id, action, disposition_id, disposition) = match control {
                Control::Allowed => (1, "Allowed", 1, "Allowed"),
                Control::Denied => (2, "Denied", 2, "Blocked"),
            };
            event.insert("action_id".to_owned(), action_id.into());
            event.insert("action".to_owned(), action.into());
            event.insert("disposition_id".to_owned(), disposition_id.into());
            event.insert("disposition".to_owned(), disposition.into());
        }
    }
    event
}

/// Who called: the person that it is done for as the user, and the agent or service that does it as the application.
fn actor(told: &Told) -> Value {
    let mut actor = Map::new();
    match &told.caller {
        None => {
            actor.insert("app_name".to_owned(), "countersign".into());
        }
        Some(caller) => {
            if caller.kind != "Person" {
                actor.insert("app_name".to_owned(), caller.id.clone().into());
                actor.insert("app_uid".to_owned(), caller.uid().into());
            }
            actor.insert("user".to_owned(), user(told, told.operator.as_ref().unwrap_or(caller)));
        }
    }
    if let Some(session) = &told.session {
        actor.insert("session".to_owned(), json!({"uid": session}));
    }
    Value::Object(actor)
}

fn user(told: &Told, who: &Named) -> Value {
    let (type_id, kind) = match who.kind.as_str() {
        "Person" => (1, "User"),
        "Service" => (4, "Service"),
        other => (99, other),
    };
    let mut user = json!({"name": who.id, "type": kind, "type_id": type_id, "uid": who.uid()});
    if let Value::Object(user) = &mut user {
        if let Some(account) = told.record.pointer("/caller/account") {
            user.insert("account".to_owned(), json!({"uid": account}));
        }
        if let Some(credential) = told.record.pointer("/caller/credential") {
            user.insert("credential_uid".to_owned(), credential.clone());
        }
    }
    user
}

fn api(told: &Told) -> Value {
    let mut api = json!({"operation": told.operation, "service": {"name": "countersign.v1"}});
    if let Value::Object(api) = &mut api {
        if let Some(request) = &told.request {
            api.insert("request".to_owned(), json!({"uid": request}));
        }
        if told.status == Status::Failure {
            api.insert("response".to_owned(), json!({"error": told.kind, "error_message": told.message}));
        }
    }
    api
}

fn metadata(told: &Told, origin: &str) -> Value {
    let mut metadata = json!({
        "event_code": told.kind,
        "log_name": origin,
        "log_provider": "countersign",
        "product": {"name": "countersign", "vendor_name": "countersign", "version": env!("CARGO_PKG_VERSION")},
        "sequence": told.index,
        "tenant_uid": told.tenant,
        "uid": format!("{origin}#{}", told.index),
        "version": VERSION,
    });
    if let Value::Object(metadata) = &mut metadata {
        if let Some(correlation) = &told.correlation {
            metadata.insert("correlation_uid".to_owned(), correlation.clone().into());
        }
        if told.control.is_some() {
            metadata.insert("profiles".to_owned(), json!(["security_control"]));
        }
    }
    metadata
}

/// The log holds no network address: where it came from is who called, or the service itself.
fn source(told: &Told) -> Value {
    match &told.caller {
        Some(caller) => json!({"svc_name": caller.id, "uid": caller.uid()}),
        None => json!({"svc_name": "countersign"}),
    }
}

fn resource(named: &Named) -> Value {
    json!({"name": named.id, "type": named.kind, "uid": named.uid()})
}

/// What the class has no place for; the action and the context, which are large, stand in `raw_data` only.
fn unmapped(told: &Told) -> Value {
    let mut rest = Map::new();
    for (name, value) in told.record.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "action" | "context" | "kind" | "at" | "tenant" | "request_id") {
            rest.insert(name.clone(), value.clone());
        }
    }
    json!({"leaf_hash": told.leaf, "record": rest})
}
