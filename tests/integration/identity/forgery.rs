//! Credentials that nobody issued, or that say too much. Each is unauthenticated, and leaves nothing behind.

use countersign::client::Client;
use countersign::proto::{ListSessionsRequest, OpenSessionRequest};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::production::{self, Tenant};
use crate::harness::{Issuer, Server};

const AGENT: &str = "agent:etl-bot";

struct Scene {
    server: Server,
    acme: Tenant,
    globex: Tenant,
    _dir: TempDir,
}

/// A production server: acme's issuer has one key without an id, globex's a key set with the id `k1`.
async fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let (acme, globex) = (Tenant::new("acme"), Tenant::with_key_id("globex", "k1"));
    let server = Server::start(production::options(dir.path(), &[&acme, &globex], "")).await;
    Scene { server, acme, globex, _dir: dir }
}

impl Scene {
    /// Everybody of these is unauthenticated, and neither tenant's log nor sessions show that they were here.
    async fn refuses(&self, tokens: Vec<(&str, String)>) {
        let mut before = Vec::new();
        for tenant in [&self.acme, &self.globex] {
            before.push(self.log_length(tenant).await);
        }
        for (what, token) in tokens {
            let client = self.server.client_of(&token).await;
            let opened = client.open_session(open_request()).await;
            assert_eq!(refused(opened), (Code::Unauthenticated, "CREDENTIAL_INVALID".to_owned()), "{what}");
        }
        for (tenant, before) in [&self.acme, &self.globex].into_iter().zip(before) {
            assert_eq!(self.log_length(tenant).await, before, "{}", tenant.name);
            let agent = self.server.client_of(&tenant.issuer.token(AGENT)).await;
            let sessions = agent.list_sessions(ListSessionsRequest::default()).await.unwrap().sessions;
            assert!(sessions.is_empty(), "{sessions:?}");
        }
    }

    async fn log_length(&self, tenant: &Tenant) -> usize {
        self.auditor(tenant).await.len()
    }

    async fn auditor(&self, tenant: &Tenant) -> Vec<crate::harness::AuditRecord> {
        crate::harness::records_of(&self.server.client_of(&tenant.issuer.token("aaron")).await).await
    }
}

fn open_request() -> OpenSessionRequest {
    OpenSessionRequest { purpose: "a test".to_owned(), ..OpenSessionRequest::default() }
}

fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "JWT"})
}

fn with(mut base: Value, name: &str, value: Value) -> Value {
    base[name] = value;
    base
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_credential_of_each_issuer_is_believed() {
    let scene = scene().await;
    for tenant in [&scene.acme, &scene.globex] {
        let client: Client = scene.server.client_of(&tenant.issuer.token(AGENT)).await;
        open(&client).await;
        let named = tenant.issuer.sign(&with(header(), "kid", json!("k1")), &tenant.issuer.claims(AGENT).to_string());
        open(&scene.server.client_of(&named).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_algorithm_that_the_issuer_does_not_use_is_refused() {
    let scene = scene().await;
    let issuer = &scene.acme.issuer;
    let claims = issuer.claims(AGENT);
    let good = issuer.token(AGENT);
    let (signed, _) = good.rsplit_once('.').unwrap();
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    // The confusion: the public key, which everybody has, taken for a shared secret.
    let shared = |secret: &[u8], algorithm| {
        jsonwebtoken::encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret)).unwrap()
    };
    let pem = issuer.public_pem();
    let none = issuer.sign(&with(header(), "alg", json!("none")), &claims.to_string());
    let mut tokens = vec![
        ("HS256 with the public key", shared(pem.as_bytes(), Algorithm::HS256)),
        ("HS512 with the public key", shared(pem.trim_end().as_bytes(), Algorithm::HS512)),
        ("HS256 with nothing", shared(b"", Algorithm::HS256)),
        ("no signature", format!("{signed}.")),
        ("no third part", signed.to_owned()),
        ("alg none, unsigned", format!("{}.", none.rsplit_once('.').unwrap().0)),
        ("alg none, signed", none),
        ("somebody else's key", Issuer::with_key_of(&scene.globex.issuer, &issuer.name, &issuer.audience).token(AGENT)),
        ("another's signature", format!("{signed}.{}", issuer.token("agent:ops-bot").rsplit_once('.').unwrap().1)),
    ];
    for alg in ["None", "NONE", "nOnE", "", "eddsa", "EdDSA ", "Ed25519", "ES256", "RS256", "HS256", "EdDSA\0"] {
        tokens.push((alg, issuer.sign(&with(header(), "alg", json!(alg)), &claims.to_string())));
    }
    for alg in [Value::Null, json!(["EdDSA"]), json!(1), json!({"EdDSA": true})] {
        tokens.push(("an alg that is no text", issuer.sign(&with(header(), "alg", alg), &claims.to_string())));
    }
    scene.refuses(tokens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_does_not_say_where_its_key_is() {
    let scene = scene().await;
    let issuer = &scene.globex.issuer;
    let claims = issuer.claims(AGENT).to_string();
    // Whoever is asked for a key would be seen here.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/keys.json", listener.local_addr().unwrap());
    let mut tokens = Vec::new();
    for kid in [
        "../../../../../../etc/passwd",
        "/dev/null",
        "k1/../k1",
        "k1\0",
        "",
        " k1",
        "K1",
        "k1' OR '1'='1",
        "file:///k1",
        "k2",
        &url,
    ] {
        tokens.push(("kid", issuer.sign(&with(header(), "kid", json!(kid)), &claims)));
    }
    tokens.push(("a kid that is no text", issuer.sign(&with(header(), "kid", json!(1)), &claims)));
    let own = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    for (name, value) in [
        ("jku", json!(url)),
        ("x5u", json!(url)),
        ("jwk", own),
        ("x5c", json!(["MIIB"])),
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("url", json!(url)),
    ] {
        // Signed by the right key, so that nothing else is wrong with it.
        tokens.push((name, issuer.sign(&with(header(), name, value), &claims)));
    }
    scene.refuses(tokens).await;
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock, "somebody fetched keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_are_no_times_are_refused() {
    let scene = scene().await;
    let issuer = &scene.acme.issuer;
    let mut tokens = Vec::new();
    for claim in ["exp", "nbf", "iat"] {
        let mut wrong = vec![
            json!("1999999999"),
            json!(1_999_999_999.5),
            json!(-1),
            json!(u64::MAX),
            json!(true),
            json!([]),
            Value::Null,
            json!(253_402_300_800_u64),
        ];
        if claim == "exp" {
            wrong.extend([json!(0), json!(1), json!(crate::harness::seconds() - 1)]);
        } else {
            wrong.push(json!(crate::harness::seconds() + 600));
        }
        for value in wrong {
            let claims = with(issuer.claims(AGENT), claim, value);
            tokens.push((claim, issuer.sign(&header(), &claims.to_string())));
        }
    }
    let mut eternal = issuer.claims(AGENT);
    eternal.as_object_mut().unwrap().remove("exp");
    tokens.push(("no exp", issuer.sign(&header(), &eternal.to_string())));
    // What a JSON library does not write: numbers beyond any type, and two of a kind.
    let good = issuer.claims(AGENT).to_string();
    for (what, more) in [
        ("an exp beyond a float", "\"exp\":1e400,"),
        ("an exp as a power", "\"exp\":2e9,"),
        ("two exp", "\"exp\":1,"),
        ("two sub", "\"sub\":\"agent:ops-bot\","),
    ] {
        tokens.push((what, issuer.sign(&header(), &good.replacen('{', &format!("{{{more}"), 1))));
    }
    scene.refuses(tokens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_issuer_or_subject_that_is_not_ours_is_refused() {
    let scene = scene().await;
    let (acme, globex) = (&scene.acme.issuer, &scene.globex.issuer);
    let sign = |claims: Value| acme.sign(&header(), &claims.to_string());
    let mut tokens = vec![
        ("globex's name under acme's key", sign(globex.claims(AGENT))),
        ("a stranger", Issuer::new("https://evil.example.com", "countersign").token(AGENT)),
        ("the development issuer", {
            let dev = Issuer::with_key_of(acme, countersign::config::DEV_ISSUER, "countersign");
            dev.token(AGENT)
        }),
    ];
    for aud in [
        json!("Countersign"),
        json!("countersign "),
        json!(["other"]),
        json!(["countersign", 1]),
        json!({}),
        Value::Null,
    ] {
        tokens.push(("aud", sign(with(acme.claims(AGENT), "aud", aud))));
    }
    for iss in [json!(format!("{}/", acme.name)), json!(acme.name.to_uppercase()), json!([acme.name]), Value::Null] {
        tokens.push(("iss", sign(with(acme.claims(AGENT), "iss", iss))));
    }
    for sub in
        [json!(""), json!(" dana"), json!("dana "), json!("ｄａｎａ"), json!("da\u{200b}na"), json!("agent:"), json!(7)]
    {
        tokens.push(("sub", sign(with(acme.claims(AGENT), "sub", sub))));
    }
    // Bound to a key of the holder (RFC 7800): a bearer of it has proved nothing.
    tokens.push(("cnf", sign(with(acme.claims(AGENT), "cnf", json!({"jkt": "x"})))));
    scene.refuses(tokens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_delegation_that_loops_or_never_ends_is_refused() {
    let scene = scene().await;
    let issuer = &scene.acme.issuer;
    let deep = (0..9).fold(json!({"sub": "agent:a"}), |inner, n| json!({"sub": format!("agent:a{n}"), "act": inner}));
    let bottomless = (0..200).fold(json!({"sub": "agent:a"}), |inner, _| json!({"sub": "agent:b", "act": inner}));
    let tokens = [
        ("the operator again", json!({"sub": "olivia"})),
        ("an agent twice", json!({"sub": AGENT, "act": {"sub": "agent:ops-bot", "act": {"sub": AGENT}}})),
        ("ten links", deep),
        ("two hundred links", bottomless),
        ("no object", json!(AGENT)),
        ("no sub", json!({})),
        ("another issuer's actor", json!({"sub": AGENT, "iss": scene.globex.issuer.name})),
        ("a claim inside", json!({"sub": AGENT, "exp": 1})),
    ];
    let tokens = tokens
        .map(|(what, act)| (what, issuer.sign(&header(), &with(issuer.claims("olivia"), "act", act).to_string())));
    scene.refuses(tokens.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_nobody_is_refused_and_recorded() {
    let scene = scene().await;
    let (before, theirs) = (scene.log_length(&scene.acme).await, scene.log_length(&scene.globex).await);
    for subject in ["nobody", "Dana", "agent:unknown", "service:unknown"] {
        let client = scene.server.client_of(&scene.acme.issuer.token(subject)).await;
        let opened = client.open_session(open_request()).await;
        assert_eq!(refused(opened), (Code::PermissionDenied, "PRINCIPAL_UNKNOWN".to_owned()), "{subject}");
    }
    let records = scene.auditor(&scene.acme).await.split_off(before);
    assert_eq!(records.iter().map(|r| r.kind.as_str()).collect::<Vec<_>>(), ["refusal"; 4]);
    assert_eq!(scene.log_length(&scene.globex).await, theirs, "the other tenant's log knows nothing of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_write_nothing_into_the_servers_log() {
    let mut scene = scene().await;
    // Afterwards somebody who is known is refused, which is logged: then everything before it is there.
    let known = scene.server.client_of(&scene.acme.issuer.token("agent:nobody")).await;
    for token in ["nonsense", &scene.globex.issuer.sign(&json!({"alg": "EdDSA", "kid": "k2"}), "{}")] {
        let client = scene.server.client_of(token).await;
        let opened = client.open_session(open_request()).await;
        assert_eq!(refused(opened).0, Code::Unauthenticated);
    }
    assert_eq!(refused(known.open_session(open_request()).await).0, Code::PermissionDenied);
    scene.server.log_line(|line| line.contains("call refused")).await;
    let logs = scene.server.logs();
    assert!(!logs.contains("CREDENTIAL_INVALID"), "{logs}");
    assert!(scene.server.metrics().await.contains("countersign_credentials_refused_total{reason=\"malformed\"}"));
}
