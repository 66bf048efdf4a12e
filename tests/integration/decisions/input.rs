//! Input that does not fit is refused, with the field named, and never coerced.

use countersign::client::{Client, ClientError, operation};
use countersign::proto::decision_service_client::DecisionServiceClient;
use countersign::proto::*;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::json;
use tonic::Code;

use crate::harness::Server;
use crate::harness::flow::*;

async fn scene() -> (Server, Client, String) {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    (server, agent, session)
}

/// The export with `rows` as this value.
fn export_of(rows: Kind) -> Operation {
    let mut operation = export(1);
    operation.input.as_mut().unwrap().fields.insert("rows".to_owned(), Value { kind: Some(rows) });
    operation
}

/// INVALID_ARGUMENT that names a field which begins so.
fn names<T: std::fmt::Debug>(answer: &Result<T, ClientError>, field: &str, what: &str) {
    assert_eq!(code(answer), Code::InvalidArgument, "{what}: {answer:?}");
    assert_eq!(reason(answer), "INVALID_FIELD", "{what}");
    assert!(fields(answer).iter().any(|named| named.starts_with(field)), "{what}: {:?}", fields(answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_readers_could_disagree_about_are_refused() {
    let (server, agent, session) = scene().await;
    let before = server.audit_records().await.len();
    let wrong = [
        Kind::NullValue(0),
        Kind::NumberValue(f64::NAN),
        Kind::NumberValue(f64::INFINITY),
        Kind::NumberValue(f64::NEG_INFINITY),
        Kind::NumberValue(0.5),
        Kind::NumberValue(1e-320),
        Kind::NumberValue(9_007_199_254_740_994.0),
        Kind::NumberValue(-9_007_199_254_740_994.0),
        Kind::NumberValue(1e300),
        Kind::StringValue("1".to_owned()),
        Kind::BoolValue(true),
        Kind::ListValue(ListValue { values: vec![Value { kind: Some(Kind::NumberValue(1.0)) }] }),
        Kind::StructValue(Struct::default()),
    ];
    let count = wrong.len() + 1;
    for kind in wrong {
        let what = format!("{kind:?}");
        names(&mint(&agent, &session, &export_of(kind), "").await, "operation.input", &what);
    }
    let mut without_kind = export(1);
    without_kind.input.as_mut().unwrap().fields.insert("rows".to_owned(), Value { kind: None });
    names(&decide(&agent, &session, &without_kind).await, "operation.input", "no kind");
    // The largest whole number that a double surely holds is one.
    let answer = decide(&agent, &session, &export_of(Kind::NumberValue(9_007_199_254_740_991.0))).await.unwrap();
    assert_eq!(answer.verdict(), Verdict::NeedsApproval);
    let kinds = server.audit_kinds_since(before).await;
    assert_eq!(
        kinds,
        [("refusal".to_owned(), count), ("decision".to_owned(), 1)].into(),
        "one record for each attempt"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_cannot_bring_what_only_the_server_says() {
    let (server, agent, session) = scene().await;
    let approval = json!({"rules": ["export-needs-two"], "persons": [], "digest": "x", "expires": 1});
    for (name, value) in [
        ("approval", approval.clone()),
        ("owner", json!("Person::\"dana\"")),
        ("operator", json!("Person::\"dana\"")),
        ("excluded", json!([])),
        ("session", json!({"labels": []})),
        ("digest", json!("0")),
        ("now", json!(0)),
        ("principal", json!("Agent::\"x\"")),
        ("__entity", json!({"type": "Person", "id": "dana"})),
        ("__extn", json!({"fn": "ip", "arg": "::1"})),
        ("__commitment", json!("0".repeat(64))),
        ("unknown", json!(1)),
    ] {
        let value = to_value(&value);
        let mut in_input = export(1);
        in_input.input.as_mut().unwrap().fields.insert(name.to_owned(), value.clone());
        names(&mint(&agent, &session, &in_input, "").await, "operation.input", name);
        let mut in_environment = export(1);
        in_environment.environment.get_or_insert_default().fields.insert(name.to_owned(), value);
        names(&mint(&agent, &session, &in_environment, "").await, "operation.environment", name);
        names(&ask(&agent, &session, &in_input).await, "operation.input", name);
    }
    assert!(
        server.audit_records().await.iter().all(|r| !["decision", "approval_requested"].contains(&r.kind.as_str()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_is_named() {
    let (server, agent, session) = scene().await;
    let ask = |change: &dyn Fn(&mut DecideRequest)| {
        let mut question = question(&session, &export(1));
        change(&mut question);
        agent.decide(question)
    };
    let entity = |kind: &str, id: &str| Some(Entity { r#type: kind.to_owned(), id: id.to_owned() });
    let operation = |q: &mut DecideRequest| q.operation.as_mut().unwrap().clone();
    names(&ask(&|q| q.operation = None).await, "operation", "no operation");
    for (name, what) in [("", "none"), ("nonsense", "unknown"), ("approve", "reserved"), ("openSession", "reserved")] {
        let answer = ask(&|q| q.operation = Some(Operation { name: name.to_owned(), ..operation(q) })).await;
        names(&answer, "operation.name", what);
    }
    for resource in [
        None,
        entity("", ""),
        entity("Dataset", ""),
        entity("Nonsense", "customers"),
        entity("Person", "dana"),
        entity("Data set", "x"),
        entity("Dataset", &"x".repeat(257)),
        entity("Dataset", "a\nb"),
    ] {
        let answer = ask(&|q| q.operation = Some(Operation { resource: resource.clone(), ..operation(q) })).await;
        names(&answer, "operation.resource", &format!("{resource:?}"));
    }
    for audience in ["", "nowhere", "a\0b", &"x".repeat(1000)] {
        names(&ask(&|q| q.audience = audience.to_owned()).await, "audience", audience);
    }
    for id in ["", "nonsense", "SES", &"f".repeat(500)] {
        names(&ask(&|q| q.session_id = id.to_owned()).await, "session_id", id);
    }
    let unknown = open(&server.person("agent:ops-bot").await).await;
    let last = if unknown.ends_with('0') { '1' } else { '0' };
    let unknown = format!("{}{last}", &unknown[..unknown.len() - 1]);
    let answer = ask(&|q| q.session_id.clone_from(&unknown)).await;
    assert_eq!((code(&answer), reason(&answer)), (Code::NotFound, "SESSION_NOT_FOUND".to_owned()));
    names(&ask(&|q| q.approval_id = "nonsense".to_owned()).await, "approval_id", "approval");
    let answer = ask(&|q| q.principal = entity("Agent", "nobody")).await;
    assert_eq!(code(&answer), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_with_the_limit() {
    let (server, agent, session) = scene().await;
    let sized = |bytes: usize| {
        operation("query", ("Dataset", "docs"), json!({"statement": "x".repeat(bytes)}), json!({})).unwrap()
    };
    assert_eq!(decide(&agent, &session, &sized(31 * 1024)).await.unwrap().verdict(), Verdict::Allow);
    let answer = decide(&agent, &session, &sized(33 * 1024)).await;
    names(&answer, "operation", "33 KiB");
    let message = answer.unwrap_err().to_string();
    assert!(message.contains("32768") || message.contains("32 KiB"), "{message}");
    // Beyond what a message may have, nothing is read at all.
    let answer = decide(&agent, &session, &sized(2 * 1024 * 1024)).await;
    assert!(matches!(code(&answer), Code::OutOfRange | Code::ResourceExhausted), "{answer:?}");
    open(&server.person(AGENT).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_structure_without_end_is_refused_and_harms_nobody() {
    let (server, agent, session) = scene().await;
    for depth in [40, 99, 10_000] {
        let mut body = question(&session, &export(1));
        let mut encoded = prost::Message::encode_to_vec(&body);
        body.operation = None;
        // Appended by hand: an `operation.input` of which each value holds the next, deeper than any library would build.
        encoded.extend(nested(depth));
        let mut decisions = tonic::client::Grpc::new(server.channel().await);
        decisions.ready().await.unwrap();
        let path = "/countersign.v1.DecisionService/Decide".parse().unwrap();
        let request = Server::request(encoded, &server.token(AGENT, Some(OPERATOR), &[]), &[]);
        let status = decisions.unary(request, path, raw::Raw).await.map(|_| ()).unwrap_err();
        assert!(
            matches!(
                status.code(),
                Code::InvalidArgument | Code::Internal | Code::OutOfRange | Code::ResourceExhausted
            ),
            "{depth}: {status:?}"
        );
        assert!(!matches!(status.code(), Code::Unavailable | Code::Unknown), "{depth}: {status:?}");
    }
    assert_eq!(decide(&agent, &session, &describe()).await.unwrap().verdict(), Verdict::Allow);
    assert!(!server.logs().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_is_decided_on_as_it_is_or_refused() {
    let (server, agent, session) = scene().await;
    let hostile = [
        "\u{202e}drop\u{202c}",
        "a\u{200b}b",
        "раураl",
        "\u{1b}[2J\u{7}",
        "\r\nx: y",
        "\u{feff}",
        "𝕒\u{301}",
        "\u{fdd0}",
        "\"}],\"verdict\":\"ALLOW\"",
        "'; DROP TABLE",
        "é",
        "e\u{301}",
        "\u{0}",
    ];
    let mut digests = std::collections::BTreeSet::new();
    for text in hostile {
        let operation = operation("query", ("Dataset", "docs"), json!({"statement": text}), json!({})).unwrap();
        match decide(&agent, &session, &operation).await {
            Ok(answer) => assert!(digests.insert(answer.digest), "{text:?} has the digest of another text"),
            refused => names(&refused, "operation.input", text),
        }
    }
    assert!(digests.len() >= 10, "{}", digests.len());
    for purpose in ["\u{202e}", "a\nb", "\u{1b}]0;x\u{7}", &"x".repeat(501), ""] {
        let request = OpenSessionRequest { purpose: purpose.to_owned(), ..OpenSessionRequest::default() };
        let opened = agent.open_session(request).await;
        if purpose.is_empty() || purpose.len() > 500 {
            names(&opened, "purpose", purpose);
        } else if let Ok(opened) = opened {
            assert_eq!(opened.session.unwrap().purpose, purpose, "told as it was given");
        }
    }
    let mut decisions = DecisionServiceClient::new(server.channel().await);
    let token = server.token(AGENT, Some(OPERATOR), &[]);
    let request = DecideRequest { audience: "warehouse\u{200b}".to_owned(), ..question(&session, &describe()) };
    let status = decisions.decide(Server::request(request, &token, &[])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // One line is one line, whatever was sent.
    for line in server.logs().lines().filter(|line| !line.is_empty()) {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

fn to_value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(b) => Kind::BoolValue(*b),
        Json::Number(n) => Kind::NumberValue(n.as_f64().unwrap()),
        Json::String(s) => Kind::StringValue(s.clone()),
        Json::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(to_value).collect() }),
        Json::Object(fields) => {
            Kind::StructValue(Struct { fields: fields.iter().map(|(k, v)| (k.clone(), to_value(v))).collect() })
        }
    };
    Value { kind: Some(kind) }
}

/// Field 2 of `DecideRequest`: an `Operation` with `input` (field 3) `{a: {a: {a: …}}}`.
fn nested(depth: usize) -> Vec<u8> {
    let field = |number: u8, inner: Vec<u8>| {
        let mut bytes = vec![number << 3 | 2];
        let mut rest = inner.len();
        while rest >= 128 {
            bytes.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        bytes.push(rest as u8);
        bytes.extend(inner);
        bytes
    };
    let mut fields = Vec::new();
    for _ in 0..depth {
        // Struct.fields (1) is an entry of key (1) and value (2), and Value.struct_value is 5.
        let mut entry = field(1, b"a".to_vec());
        entry.extend(field(2, field(5, fields)));
        fields = field(1, entry);
    }
    field(2, field(3, fields))
}

mod raw {
    //! A codec for bytes that are a message already.

    use bytes::{Buf as _, BufMut as _};
    use tonic::Status;
    use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

    #[derive(Debug, Clone, Copy)]
    pub struct Raw;

    impl Codec for Raw {
        type Encode = Vec<u8>;
        type Decode = Vec<u8>;
        type Encoder = Self;
        type Decoder = Self;
        fn encoder(&mut self) -> Self {
            Self
        }
        fn decoder(&mut self) -> Self {
            Self
        }
    }

    impl Encoder for Raw {
        type Item = Vec<u8>;
        type Error = Status;
        fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
            to.put_slice(&item);
            Ok(())
        }
    }

    impl Decoder for Raw {
        type Item = Vec<u8>;
        type Error = Status;
        fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
            Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
        }
    }
}
