//! What a record tells, apart from the form in which it is told.

use countersign_audit::{Hash, leaf_hash};
use countersign_core::EntityRef;
use serde_json::Value;

use super::kind::{Activity, Kind, Severity};

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Success,
    Failure,
    /// Neither: people are to be asked.
    Pending,
}

/// What a control did about an action, where one did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    Allowed,
    Denied,
}

/// An entity of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub kind: String,
    pub id: String,
}

impl Named {
    fn of(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self { kind: text("type")?, id: text("id")? })
    }

    fn new(kind: &str, id: &str) -> Self {
        Self { kind: kind.to_owned(), id: id.to_owned() }
    }

    /// As Cedar writes it.
    pub fn uid(&self) -> String {
        let Self { kind, id } = self;
        EntityRef::new(kind, id).map_or_else(|_| format!("{kind}::{id:?}"), |entity| entity.to_string())
    }
}

/// A record, told.
#[derive(Debug)]
pub struct Told {
    pub index: u64,
    pub kind: String,
    /// Milliseconds since 1970.
    pub at: i64,
    pub tenant: String,
    pub request: Option<String>,
    pub caller: Option<Named>,
    pub operator: Option<Named>,
    pub session: Option<String>,
    /// What belongs together: the approval, the capability or the session.
    pub correlation: Option<String>,
    pub activity: Activity,
    pub operation: String,
    pub severity: Severity,
    pub status: Status,
    pub control: Option<Control>,
    pub resources: Vec<Named>,
    pub message: String,
    pub record: Value,
    /// The bytes that are hashed; JSON is UTF-8.
    pub text: String,
    pub leaf: Hash,
}

impl Told {
    /// Reads a record. What is no JSON object, or of a kind that this version does not know, is told as what it is, and never
    /// left out.
    pub fn read(index: u64, content: &[u8]) -> Self {
        let record: Value = serde_json::from_slice(content).unwrap_or_default();
        let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let word = text("/kind").unwrap_or_else(|| "unreadable".to_owned());
        let kind = Kind::parse(&word);
        let (activity, operation, severity) = match kind {
            Some(kind) => kind.row(),
            None => (Activity::Other, word.as_str(), Severity::Medium),
        };
        let operation = operation.to_owned();
        let session = text("/session").or_else(|| text("/session/id")).or_else(|| text("/context/session/id"));
        let mut told = Self {
            index,
            at: record.get("at").and_then(Value::as_i64).unwrap_or_default(),
            tenant: text("/tenant").unwrap_or_default(),
            request: text("/request_id"),
            caller: record.pointer("/caller/entity").and_then(Named::of),
            operator: record.pointer("/caller/operator").and_then(Named::of),
            correlation: text("/approval")
                .or_else(|| text("/capability"))
                .or_else(|| text("/minted/id"))
                .or_else(|| session.clone()),
            session,
            activity,
            operation,
            severity,
            status: Status::Success,
            control: None,
            resources: Vec::new(),
            message: String::new(),
            text: String::from_utf8_lossy(content).into_owned(),
            leaf: leaf_hash(content),
            kind: word,
            record: Value::Null,
        };
        told.details(kind, &record);
        told.record = record;
        told
    }

    /// What depends on more than the kind.
    fn details(&mut self, kind: Option<Kind>, record: &Value) {
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        let named = |kind: &str, name: &str| record.get(name).and_then(Value::as_str).map(|id| Named::new(kind, id));
        let action = || serde_json::from_str::<Value>(text("action")).unwrap_or_default();
        let about = |action: &Value| {
            let operation = action.get("operation").and_then(Value::as_str).unwrap_or("an action").to_owned();
            (operation, action.get("resource").and_then(Named::of))
        };
        match kind {
            Some(Kind::Decision) => {
                let (operation, resource) = about(&action());
                self.verdict(text("verdict"));
                if record.get("minted").is_some() {
                    self.activity = Activity::Create;
                }
                if record.get("glass_broken").is_some() {
                    (self.operation, self.severity) = ("BreakGlass".to_owned(), Severity::High);
                }
                self.message = format!("{} of {operation}", text("verdict"));
                self.on(resource);
            }
            Some(Kind::ApprovalRequested) => {
                let (operation, resource) = about(&action());
                self.message = format!("asked for {operation}");
                self.on(resource);
            }
            Some(Kind::Redeem | Kind::Delegated) => {
                let (operation, resource) = about(&action());
                self.control = Some(Control::Allowed);
                self.message =
                    format!("{} {operation}", if kind == Some(Kind::Redeem) { "redeemed" } else { "handed on" });
                self.on(resource);
                self.resources.extend(named("Capability", "capability"));
            }
            Some(Kind::Vote) => {
                self.message = format!("voted {}; the request is {}", text("verdict"), text("state"));
                self.resources.extend(named("Approval", "approval"));
            }
            Some(Kind::VoteWithdrawn) => {
                self.message = format!("took a vote back; the request is {}", text("state"));
                self.resources.extend(named("Approval", "approval"));
            }
            Some(
                Kind::CoolDownLift
                | Kind::ApprovalCancelled
                | Kind::ApprovalEscalated
                | Kind::ApprovalExcluded
                | Kind::ApprovalVoid,
            ) => {
                self.message = self.kind.replace('_', " ");
                self.resources.extend(named("Approval", "approval"));
            }
            Some(Kind::Complete) => {
                if text("outcome") == "failed" {
                    (self.status, self.severity) = (Status::Failure, Severity::Low);
                }
                self.message = format!("the action {}", text("outcome"));
                self.resources.extend(named("Capability", "capability"));
            }
            Some(Kind::OutcomeResolved) => {
                self.message = format!("found that the action {}", text("finding"));
                self.resources.extend(named("Capability", "capability"));
            }
            Some(Kind::Revoke) => {
                self.message = "revoked a capability".to_owned();
                self.resources.extend(named("Capability", "capability"));
            }
            Some(Kind::Revocation) => {
                self.message = format!("revoked by {}", text("axis"));
                let of = record.get("of");
                let id = of.and_then(Value::as_str).map(|id| Named::new(text("axis"), id));
                self.resources.extend(of.and_then(Named::of).or(id));
            }
            Some(Kind::SessionOpened | Kind::SessionEnded) => {
                self.message = self.kind.replace('_', " ");
                self.resources.extend(self.session.as_deref().map(|id| Named::new("Session", id)));
            }
            Some(Kind::ReviewClosed) => {
                self.message = "closed the review of broken glass".to_owned();
                self.resources.extend(named("Review", "review"));
            }
            Some(Kind::BundleActivated | Kind::BundleSigned) => {
                if record.get("rollback").and_then(Value::as_bool) == Some(true) {
                    (self.operation, self.severity) = ("RollbackBundle".to_owned(), Severity::Medium);
                }
                self.message = self.kind.replace('_', " ");
                self.resources.extend(named("Bundle", "bundle"));
            }
            Some(Kind::EntitiesChanged) => {
                self.message = "entities changed".to_owned();
                let changed = record.get("entities").and_then(Value::as_array).into_iter().flatten();
                self.resources.extend(changed.filter_map(|change| change.get("entity").and_then(Named::of)));
            }
            Some(Kind::NotificationRetried | Kind::NotificationDropped) => {
                self.message = self.kind.replace('_', " ");
                self.resources.extend(named("Notification", "notification"));
            }
            Some(Kind::Key) => self.key(record),
            Some(Kind::Restored) => "the store was restored from a copy".clone_into(&mut self.message),
            Some(Kind::BackedUp) => {
                self.message = "a backup was made".to_owned();
                self.resources.extend(named("Backup", "backup"));
            }
            Some(Kind::LogPruned) => {
                let number = |field: &str| record.get(field).and_then(Value::as_u64).unwrap_or_default();
                let (from, minimum) = (number("from"), number("minimum_index"));
                self.message = format!("the records from {from} to before {minimum} were dropped from the log");
            }
            Some(Kind::Refusal) => {
                (self.status, self.control) = (Status::Failure, Some(Control::Denied));
                text("rpc").clone_into(&mut self.operation);
                text("error").clone_into(&mut self.message);
            }
            Some(Kind::Refusals) => {
                (self.status, self.control) = (Status::Failure, Some(Control::Denied));
                let count = record.get("count").and_then(Value::as_u64).unwrap_or_default();
                self.caller = record.get("who").and_then(Named::of);
                self.message = format!("{count} refusals and denials too fast to be recorded singly");
            }
            Some(Kind::Access) => {
                self.control = Some(Control::Allowed);
                let count = record.get("count").and_then(Value::as_u64).unwrap_or_default();
                let rpcs = record.get("rpcs").and_then(Value::as_array).into_iter().flatten();
                // What was called in more than one way has no one operation.
                if let [Some(only)] = rpcs.map(Value::as_str).collect::<Vec<_>>().as_slice() {
                    (*only).clone_into(&mut self.operation);
                }
                self.message = format!("{count} reads by {}", text("reserved_action"));
                self.resources.extend(named("ReservedAction", "reserved_action"));
            }
            None => self.message = format!("a record of a kind that this version does not know: {}", self.kind),
        }
    }

    fn key(&mut self, record: &Value) {
        let state = record.get("state").and_then(Value::as_str).unwrap_or_default();
        match state {
            "active" => (self.activity, self.operation) = (Activity::Create, "RotateKey".to_owned()),
            "retired" => "RetireKey".clone_into(&mut self.operation),
            "compromised" => {
                (self.operation, self.severity) = ("MarkKeyCompromised".to_owned(), Severity::High);
            }
            _ => {}
        }
        self.message = format!("a signing key is {state}");
        let id = record.get("key").and_then(Value::as_u64).map(|id| id.to_string());
        self.resources.extend(id.map(|id| Named::new("Key", &id)));
    }

    fn verdict(&mut self, verdict: &str) {
        match verdict {
            "ALLOW" => self.control = Some(Control::Allowed),
            "NEEDS_APPROVAL" => self.status = Status::Pending,
            // Whatever is none of these allows nothing.
            _ => {
                (self.status, self.control, self.severity) = (Status::Failure, Some(Control::Denied), Severity::Low);
            }
        }
    }

    fn on(&mut self, resource: Option<Named>) {
        if let Some(resource) = resource {
            self.message = format!("{} on {}", self.message, resource.uid());
            self.resources.push(resource);
        }
    }
}
