//! Records as OpenTelemetry logs: `ExportLogsServiceRequest` in the JSON encoding of OTLP.

use serde_json::{Value, json};

use super::kind::Severity;
use super::told::{Control, Status, Told};

/// The attribute with the index of a record.
pub const INDEX: &str = "countersign.log.index";
/// The attribute with the leaf hash of a record.
pub const LEAF: &str = "countersign.log.leaf_hash";
/// The attribute of the resource with the name of the log.
pub const ORIGIN: &str = "countersign.log.name";

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// The request that carries these records.
pub fn request(told: &[Told], origin: &str) -> Value {
    json!({"resourceLogs": [{
        "resource": {"attributes": [
            text("service.name", "countersign"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text(ORIGIN, origin),
        ]},
        "scopeLogs": [{
            "scope": {"name": "countersign.audit"},
            "logRecords": told.iter().map(log_record).collect::<Vec<_>>(),
        }],
    }]})
}

fn log_record(told: &Told) -> Value {
    // https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
    let (number, severity) = match told.severity {
        Severity::Informational => (9, "INFO"),
        Severity::Low => (10, "INFO2"),
        Severity::Medium => (13, "WARN"),
        Severity::High => (17, "ERROR"),
    };
    // 64-bit numbers are texts in OTLP's JSON.
    let nanos = i128::from(told.at) * 1_000_000;
    let mut attributes = vec![
        json!({"key": INDEX, "value": {"intValue": told.index.to_string()}}),
        text(LEAF, &told.leaf.to_string()),
        text("countersign.tenant", &told.tenant),
        text("countersign.kind", &told.kind),
        text("countersign.message", &told.message),
        text("rpc.system.name", "grpc"),
        text("rpc.method", &told.operation),
        text(
            "countersign.status",
            match told.status {
                Status::Success => "success",
                Status::Failure => "failure",
                Status::Pending => "needs_approval",
            },
        ),
    ];
    let control = told.control.map(|control| match control {
        Control::Allowed => "allowed",
        Control::Denied => "denied",
    });
    let caller = told.caller.as_ref().map(super::told::Named::uid);
    let operator = told.operator.as_ref().map(super::told::Named::uid);
    let resource = told.resources.first().map(super::told::Named::uid);
    for (key, value) in [
        ("countersign.control", control),
        ("countersign.caller", caller.as_deref()),
        ("countersign.operator", operator.as_deref()),
        ("countersign.resource", resource.as_deref()),
        ("countersign.session", told.session.as_deref()),
        ("countersign.request_id", told.request.as_deref()),
        ("countersign.correlation", told.correlation.as_deref()),
    ] {
        attributes.extend(value.map(|value| text(key, value)));
    }
    json!({
        "timeUnixNano": nanos.to_string(),
        "observedTimeUnixNano": nanos.to_string(),
        "severityNumber": number,
        "severityText": severity,
        "eventName": format!("countersign.{}", told.kind),
        "body": {"stringValue": told.text},
        "attributes": attributes,
    })
}
