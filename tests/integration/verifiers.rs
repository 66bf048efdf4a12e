//! Enforcement points in other languages verify our tokens offline, with the official Biscuit libraries (`clients/`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::client::{Client, holder_of, operation};
use countersign::proto::*;
use countersign_core::{Digest, EntityRef, SessionId, Timestamp, TokenId};
use countersign_token::{
    Claims, HolderKey, KeyId, Narrowing, SigningKey, holder_of_certificate, narrow, unverified_claims,
};
use serde_json::{Value, json};

use crate::approvals::shared::failed;
use crate::harness::flow::{open, refused};
use crate::harness::{Bundle, Server, fresh_id};

const POINT: &str = "vault";
const CERTIFICATE: &[u8] = b"the DER of a client certificate";

/// What a holder might append who wants more than there is.
const WIDENING: [&str; 8] = [
    "check if true;",
    "digest(hex:00);",
    "presented_audience(\"elsewhere\");",
    "holder(\"key\", hex:00);",
    "presented_audience($audience) <- audience($audience);",
    "check if now($now), $now > 1;",
    "check if now($now), $now < 1 or true;",
    "check all presented_audience($audience), $audience == \"vault\";",
];

/// A case, the name of it first, and last what must come of it.
struct Case(&'static str, Value, &'static str);

struct Scene {
    server: Server,
    agent: Client,
    session: String,
    now: Timestamp,
    /// As somebody decided it who is none of ours.
    strangers: (SigningKey, SigningKey, SigningKey),
    /// One that verifiers trust, and that signs here what the server does not mint in this scene.
    another: SigningKey,
    keys: Value,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::with_bundle(Bundle::shipped("holders")).await;
        let agent = server.person("agent:bot").await;
        let session = open(&agent).await;
        let key = |id| SigningKey::generate(KeyId(id)).unwrap();
        // One whose key nobody knows, one whose key is not trusted any more, and one who takes the id of ours.
        let strangers = (key(77), key(78), key(1));
        let listed = server.cli(&server.token("agent:bot", None, &[]), &["keys", "list", "--json"]).await;
        let mut keys = listed.json();
        assert_eq!((&keys["max_age_seconds"], &keys["keys"][0]["key_id"]), (&json!(300), &json!(1)));
        let lost = json!({
            "key_id": 78, "algorithm": "Ed25519", "state": "compromised", "public_key": strangers.1.public().to_string()
        });
        let another = key(79);
        let trusted = json!({
            "key_id": 79, "algorithm": "Ed25519", "state": "retired", "public_key": another.public().to_string()
        });
        keys["keys"].as_array_mut().unwrap().extend([lost, trusted]);
        let now = server.now();
        Self { server, agent, session, now, strangers, another, keys }
    }

    async fn minted(&self, name: &str, holder: Option<Holder>, open: bool) -> String {
        let request = DecideRequest {
            session_id: self.session.clone(),
            operation: Some(operation(name, ("Secret", "signing-key"), json!({}), json!({})).unwrap()),
            audience: POINT.to_owned(),
            mint: true,
            holder,
            open,
            request_id: fresh_id(),
            ..DecideRequest::default()
        };
        self.agent.decide(request).await.unwrap().capability.unwrap().token
    }

    /// A token presented as it should be, and what the closure makes of that.
    fn presented(&self, name: &'static str, token: &str, change: impl FnOnce(&mut Value)) -> Value {
        let operation = if name.contains("bound") { "read_secret" } else { "list_secret" };
        let mut case = json!({
            "name": name, "token": token, "tenant": "dev", "audience": POINT, "session": self.session,
            "development": true, "now_millis": self.now.millis(),
            "action": {
                "tenant": "dev", "audience": POINT, "session": self.session, "chain": [], "operation": operation,
                "principal": { "type": "Agent", "id": "bot" }, "resource": { "type": "Secret", "id": "signing-key" },
                "input": {}, "environment": {},
            },
        });
        change(&mut case);
        case
    }
}

/// With other bytes in place of these, found from the end on.
fn changed(token: &str, from: &[u8], to: &[u8]) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("csn_").unwrap()).unwrap();
    let place = bytes.windows(from.len()).rposition(|window| window == from).unwrap();
    bytes[place..place + from.len()].copy_from_slice(to);
    format!("csn_{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// With one bit of its last signature changed.
fn resigned(token: &str) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("csn_").unwrap()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    format!("csn_{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Tokens of the real server, and what a verifier must say of each.
async fn cases(scene: &Scene) -> Vec<Case> {
    let (key, thief) = (HolderKey::generate().unwrap(), HolderKey::generate().unwrap());
    let thumbprint = URL_SAFE_NO_PAD.encode(holder_of_certificate(CERTIFICATE).thumbprint.as_bytes());
    let certificate = Holder { holder: Some(holder::Holder::CertificateThumbprint(thumbprint)) };
    let sealed = scene.minted("list_secret", None, false).await;
    let open = scene.minted("list_secret", None, true).await;
    let by_key = scene.minted("read_secret", Some(holder_of(&key)), false).await;
    let by_certificate = scene.minted("read_secret", Some(certificate), false).await;
    let claims = unverified_claims(&sealed).unwrap();
    let forged = |key: &SigningKey| countersign_token::mint(key, &claims).unwrap().expose().to_owned();
    let handed_on = Claims {
        exchanged: vec![TokenId::generate(), TokenId::generate()],
        sessions_above: vec![SessionId::generate(), SessionId::generate()],
        votes: vec![Digest::of(b"a vote"), Digest::of(b"another")],
        chain: vec![EntityRef::new("Agent", "planner").unwrap(), EntityRef::new("Agent", "a").unwrap()],
        ..claims.clone()
    };
    let handed_on = countersign_token::mint(&scene.another, &handed_on).unwrap();
    let soon = scene.now.plus(Duration::from_secs(30));
    let narrowing = Narrowing { expires_at: Some(soon), audience: Some(POINT.to_owned()) };
    let narrowed = narrow(&open, &narrowing).unwrap().expose().to_owned();
    let elsewhere = Narrowing { expires_at: None, audience: Some("elsewhere".to_owned()) };
    let elsewhere = narrow(&open, &elsewhere).unwrap().expose().to_owned();
    let later = |seconds: u64| json!(scene.now.plus(Duration::from_secs(seconds)).millis());
    let proof = |key: &HolderKey, request: &str| json!(key.prove(&by_key, request, scene.now).unwrap());
    let signed = |key: &HolderKey| {
        let proof = proof(key, "attempt");
        move |case: &mut Value| (case["proof"], case["request_id"]) = (proof, json!("attempt"))
    };
    let case = |name, token: &str, expected, change: &dyn Fn(&mut Value)| {
        Case(name, scene.presented(name, token, change), expected)
    };
    let mut cases = vec![
        case("sealed", &sealed, "good", &|_| {}),
        case("open", &open, "good", &|_| {}),
        case("narrowed", &narrowed, "good", &|_| {}),
        case("handed on", handed_on.expose(), "good", &|_| {}),
        case("bound to a certificate", &by_certificate, "good", &|case| {
            case["certificate"] = json!(hex::encode(CERTIFICATE))
        }),
        case("expired", &sealed, "expired", &|case| case["now_millis"] = later(600)),
        case("narrowed and expired", &narrowed, "expired", &|case| case["now_millis"] = later(30)),
        case("narrowed to another audience", &elsewhere, "checks", &|_| {}),
        case("at another audience", &sealed, "audience", &|case| {
            (case["audience"], case["action"]["audience"]) = (json!("elsewhere"), json!("elsewhere"));
        }),
        case("in another session", &sealed, "session", &|case| case["session"] = json!(format!("ses_{}", fresh_id()))),
        case("in another tenant", &sealed, "tenant", &|case| case["tenant"] = json!("other")),
        case("in production", &sealed, "development", &|case| case["development"] = json!(false)),
        case("another action", &sealed, "digest", &|case| case["action"]["operation"] = json!("read_secret")),
        case("another resource", &sealed, "digest", &|case| case["action"]["resource"]["id"] = json!("other")),
        case("another input", &sealed, "digest", &|case| case["action"]["input"] = json!({ "all": true })),
        case("of an unknown key", &forged(&scene.strangers.0), "unknown_key", &|_| {}),
        case("of a compromised key", &forged(&scene.strangers.1), "compromised_key", &|_| {}),
        case("of another key under our id", &forged(&scene.strangers.2), "signature", &|_| {}),
        case("with a changed signature", &resigned(&sealed), "signature", &|_| {}),
        case("with changed contents", &changed(&sealed, b"vault", b"fault"), "signature", &|_| {}),
        case("padded", &format!("{sealed}="), "malformed", &|_| {}),
        case("without its prefix", sealed.strip_prefix("csn_").unwrap(), "malformed", &|_| {}),
        case("bound and stolen", &by_key, "holder", &|_| {}),
        case("bound to another certificate", &by_certificate, "holder", &|case| case["certificate"] = json!("00")),
        case("bound and proved long ago", &by_key, "proof", &|case| {
            signed(&key)(case);
            case["now_millis"] = later(61);
        }),
    ];
    for (name, by, expected) in
        [("bound to a key", &key, "good"), ("bound to a key of somebody else", &thief, "holder")]
    {
        cases.push(Case(name, scene.presented(name, &by_key, signed(by)), expected));
    }
    let another = |case: &mut Value| (case["proof"], case["request_id"]) = (proof(&key, "attempt"), json!("another"));
    cases.push(Case(
        "bound, for another attempt",
        scene.presented("bound, for another attempt", &by_key, another),
        "proof",
    ));
    cases
}

/// Has a verifier play the cases, and finds that it comes to what it must. What it narrowed itself comes back.
fn played(mut command: Command, cases: &[Case], dir: &Path, keys: &Value) -> String {
    let path = dir.join("cases.json");
    let all: Vec<&Value> = cases.iter().map(|Case(_, case, _)| case).collect();
    std::fs::write(&path, json!({ "keys": keys, "cases": all, "widening": WIDENING }).to_string()).unwrap();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/canonical-form/vectors.json");
    let run =
        command.arg(&path).arg(vectors).output().expect("the verifier runs: `make setup-test` installs what it needs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    let out = String::from_utf8_lossy(&run.stdout);
    // The library of node says that it is loading.
    let answer: Value =
        serde_json::from_str(out.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {out}"));
    for Case(name, case, expected) in cases {
        let came = &answer["results"][name];
        assert_eq!(came["result"], *expected, "{name}: {came}");
        if *expected == "good" {
            let claims = unverified_claims(case["token"].as_str().unwrap()).unwrap();
            assert_eq!(came["token_id"], claims.token_id.to_string(), "{name}");
            let chain: Vec<_> = claims.chain.iter().map(|link| [link.kind(), link.id()]).collect();
            assert_eq!(came["dies_with"], json!([claims.exchanged, claims.sessions_above, chain]), "{name}");
        }
    }
    assert_eq!(answer["widened"], json!(WIDENING.map(|_| "widened")));
    assert_eq!(answer["narrowed_result"], "good");
    assert!(answer["digests"].as_u64().unwrap() >= 24, "{answer}");
    answer["narrowed"].as_str().unwrap().to_owned()
}

fn clients(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(language)
}

fn python() -> Command {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "there is no {}: run `make setup-test`, which makes it", python.display());
    let mut command = Command::new(python);
    command.arg("-B").arg(clients("python").join("test_verify.py"));
    command
}

/// Modules are looked for beside the file that imports them, so the files go where the packages are.
fn node() -> Command {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("verify");
    assert!(
        place.join("node_modules").exists(),
        "there is no {}: run `make setup-test`, which makes it",
        place.display()
    );
    for file in ["countersign-verify.mjs", "test-verify.mjs"] {
        std::fs::copy(clients("javascript").join(file), place.join(file)).unwrap();
    }
    let mut command = Command::new("node");
    command.args(["--no-warnings", "--experimental-wasm-modules"]).arg(place.join("test-verify.mjs"));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn python_and_javascript_verify_what_the_server_mints_and_nothing_else() {
    let scene = Scene::new().await;
    let cases = cases(&scene).await;
    let dir = tempfile::tempdir().unwrap();
    let by_python = played(python(), &cases, dir.path(), &scene.keys);
    let by_node = played(node(), &cases, dir.path(), &scene.keys);

    // What their libraries narrowed is the same capability to the server, once.
    let gateway = scene.server.person("service:vault-gateway").await;
    let redeem = |token: &str| RedeemRequest {
        token: token.to_owned(),
        operation: Some(operation("list_secret", ("Secret", "signing-key"), json!({}), json!({})).unwrap()),
        audience: POINT.to_owned(),
        request_id: fresh_id(),
        ..RedeemRequest::default()
    };
    assert_ne!(by_python, by_node);
    assert!(!gateway.redeem(redeem(&by_python)).await.unwrap().replayed);
    assert_eq!(refused(gateway.redeem(redeem(&by_node)).await), failed("ALREADY_REDEEMED"));
}
