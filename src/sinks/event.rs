//! Notifications as CloudEvents 1.0 in JSON (docs/notifications.md).

use countersign_core::approval::Verdict;
use countersign_core::{EntityRef, Notification, TenantId, Timestamp};
use serde::Serialize;

/// Writes one tenant's notifications as events.
#[derive(Debug, Clone)]
pub struct Events {
    tenant: TenantId,
    source: String,
}

#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    r#type: String,
    subject: String,
    time: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    tenant: &'a TenantId,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    review_id: Option<String>,
    state: &'a str,
    session_id: String,
    principal: &'a EntityRef,
    digest: String,
    rules: &'a [String],
    more_rules: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a EntityRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    passed_over: &'a [EntityRef],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more_passed_over: bool,
}

impl Events {
    /// For a tenant whose log has this name.
    #[must_use]
    pub fn new(tenant: &TenantId, origin: &str) -> Self {
        Self { tenant: tenant.clone(), source: reference(origin) }
    }

    /// The type of an event. A form that breaks receivers gets another version, and another type.
    #[must_use]
    pub fn kind(notification: &Notification) -> String {
        let about = if notification.kind.is_of_review() { "" } else { "approval." };
        format!("countersign.{about}{}.v1", notification.kind.word())
    }

    /// The event, as it is signed and sent.
    #[must_use]
    pub fn json(&self, notification: &Notification) -> String {
        let approval_id = notification.approval.map(|id| id.to_string());
        let review_id = notification.review.map(|id| id.to_string());
        let event = Event {
            specversion: "1.0",
            id: notification.id.to_string(),
            source: &self.source,
            r#type: Self::kind(notification),
            subject: approval_id.clone().or_else(|| review_id.clone()).unwrap_or_default(),
            time: rfc3339(notification.at),
            datacontenttype: "application/json",
            data: Data {
                tenant: &self.tenant,
                approval_id,
                review_id,
                state: &notification.state,
                session_id: notification.session.to_string(),
                principal: &notification.principal,
                digest: notification.digest.to_string(),
                rules: &notification.rules,
                more_rules: notification.more_rules,
                expires_at: notification.expires_at.map(rfc3339),
                batch_id: notification.batch.map(|batch| batch.to_string()),
                by: notification.by.as_ref(),
                verdict: notification.verdict,
                cause: notification.cause.map(countersign_core::notification::VoidWord::word),
                changed: notification.changed.map(countersign_core::approval::Changed::word),
                passed_over: &notification.passed_over,
                more_passed_over: notification.more_passed_over,
            },
        };
        // String keys only, so this cannot fail; an empty event is refused by every receiver.
        serde_json::to_string(&event).unwrap_or_default()
    }
}

fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.millis()).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// The origin as a URI reference (RFC 3986): what may not stand in one is percent-encoded.
fn reference(origin: &str) -> String {
    let mut reference = String::with_capacity(origin.len());
    for byte in origin.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => reference.push(char::from(byte)),
            b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => reference.push(char::from(byte)),
            _ => reference.push_str(&format!("%{byte:02X}")),
        }
    }
    reference
}

#[cfg(test)]
pub(super) mod tests {
    use countersign_core::notification::VoidWord;
    use countersign_core::{ApprovalId, BatchId, Digest, NotificationId, NotificationKind, ReviewId, SessionId};

    use super::*;

    /// A notification with everything that one can have.
    pub fn notification() -> Notification {
        Notification {
            id: NotificationId::from_bytes([1; 16]),
            kind: NotificationKind::Void,
            at: Timestamp::from_millis(1_795_154_344_201),
            approval: Some(ApprovalId::from_bytes([2; 16])),
            review: None,
            state: "void".to_owned(),
            session: SessionId::from_bytes([3; 16]),
            principal: EntityRef::new("Agent", "etl-bot").unwrap(),
            digest: Digest::of(b"{}"),
            rules: vec!["export-needs-two".to_owned()],
            more_rules: false,
            expires_at: Some(Timestamp::from_millis(1_795_155_000_000)),
            batch: Some(BatchId::from_bytes([4; 16])),
            by: Some(EntityRef::new("Person", "dana").unwrap()),
            verdict: Some(Verdict::Deny),
            cause: Some(VoidWord::Denied),
            changed: None,
            passed_over: Vec::new(),
            more_passed_over: false,
        }
    }

    #[test]
    fn an_event_is_the_one_that_is_documented() {
        let acme = TenantId::new("acme").unwrap();
        let event = Events::new(&acme, "countersign.example.com/acme").json(&notification());
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        let expected = serde_json::json!({
            "specversion": "1.0",
            "id": "ntf_01010101-0101-0101-0101-010101010101",
            "source": "countersign.example.com/acme",
            "type": "countersign.approval.void.v1",
            "subject": "apr_02020202-0202-0202-0202-020202020202",
            "time": "2026-11-20T05:59:04.201Z",
            "datacontenttype": "application/json",
            "data": {
                "tenant": "acme",
                "approval_id": "apr_02020202-0202-0202-0202-020202020202",
                "state": "void",
                "session_id": "ses_03030303-0303-0303-0303-030303030303",
                "principal": {"type": "Agent", "id": "etl-bot"},
                "digest": Digest::of(b"{}").to_string(),
                "rules": ["export-needs-two"],
                "more_rules": false,
                "expires_at": "2026-11-20T06:10:00Z",
                "batch_id": "bat_04040404-0404-0404-0404-040404040404",
                "by": {"type": "Person", "id": "dana"},
                "verdict": "deny",
                "cause": "denied",
            },
        });
        assert_eq!(event, expected);
    }

    #[test]
    fn broken_glass_is_told_as_the_event_that_is_documented() {
        let acme = TenantId::new("acme").unwrap();
        let told = Notification {
            kind: NotificationKind::GlassBroken,
            approval: None,
            review: Some(ReviewId::from_bytes([4; 16])),
            state: "open".to_owned(),
            principal: EntityRef::new("Person", "nick").unwrap(),
            rules: vec!["production-change-needs-sre".to_owned()],
            expires_at: None,
            batch: None,
            by: Some(EntityRef::new("Person", "nick").unwrap()),
            verdict: None,
            cause: None,
            passed_over: vec![EntityRef::new("Person", "nina").unwrap()],
            ..notification()
        };
        let event: serde_json::Value = serde_json::from_str(&Events::new(&acme, "a").json(&told)).unwrap();
        assert_eq!(event["type"], "countersign.glass_broken.v1");
        assert_eq!(event["subject"], "rev_04040404-0404-0404-0404-040404040404");
        let expected = serde_json::json!({
            "tenant": "acme",
            "review_id": "rev_04040404-0404-0404-0404-040404040404",
            "state": "open",
            "session_id": "ses_03030303-0303-0303-0303-030303030303",
            "principal": {"type": "Person", "id": "nick"},
            "digest": Digest::of(b"{}").to_string(),
            "rules": ["production-change-needs-sre"],
            "more_rules": false,
            "by": {"type": "Person", "id": "nick"},
            "passed_over": [{"type": "Person", "id": "nina"}],
        });
        assert_eq!(event["data"], expected);
    }

    #[test]
    fn a_source_is_a_uri_reference_whatever_the_origin() {
        assert_eq!(reference("countersign.example.com/acme"), "countersign.example.com/acme");
        assert_eq!(reference("a<b>%\"\u{e9}"), "a%3Cb%3E%25%22%C3%A9");
    }
}
