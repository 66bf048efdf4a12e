//! Capabilities that are bound to a holder: a stolen one is worthless, and trying it is on record.

use countersign::client::{Client, ClientConfig, Credentials, holder_of, operation};
use countersign::proto::*;
use countersign_core::Clock as _;
use countersign_core::time::SystemClock;
use countersign_token::{HolderKey, holder_of_certificate};
use futures::future::join_all;
use serde_json::json;

use crate::approvals::shared::{denied, failed, invalid};
use crate::harness::flow::{capability_state, describe, open, refused};
use crate::harness::production::{self, Tenant};
use crate::harness::{Bundle, Mode, Options, PATIENCE, Server, fresh_id, records_of};

const POINT: &str = "vault";

fn read_secret() -> Operation {
    operation("read_secret", ("Secret", "signing-key"), json!({}), json!({})).unwrap()
}

fn list_secret() -> Operation {
    operation("list_secret", ("Secret", "signing-key"), json!({}), json!({})).unwrap()
}

struct Scene {
    server: Server,
    agent: Client,
    gateway: Client,
    session: String,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::with_bundle(Bundle::shipped("holders")).await;
        let (agent, gateway) = (server.person("agent:bot").await, server.person("service:vault-gateway").await);
        let session = open(&agent).await;
        Self { server, agent, gateway, session }
    }

    fn question(&self, operation: Operation) -> DecideRequest {
        DecideRequest {
            session_id: self.session.clone(),
            operation: Some(operation),
            audience: POINT.to_owned(),
            mint: true,
            request_id: fresh_id(),
            ..DecideRequest::default()
        }
    }

    async fn minted(&self, request: DecideRequest) -> MintedCapability {
        self.agent.decide(request).await.unwrap().capability.unwrap()
    }

    async fn records(&self, kind: &str) -> Vec<crate::harness::AuditRecord> {
        let records = records_of(&self.server.person("kim").await).await;
        records.into_iter().filter(|record| record.kind == kind).collect()
    }
}

fn spending(token: &str, operation: Operation) -> RedeemRequest {
    RedeemRequest {
        token: token.to_owned(),
        operation: Some(operation),
        audience: POINT.to_owned(),
        request_id: fresh_id(),
        ..RedeemRequest::default()
    }
}

/// A redeem with what the key signs for it now.
fn proved(key: &HolderKey, request: RedeemRequest) -> RedeemRequest {
    let proof = key.prove(&request.token, &request.request_id, SystemClock::default().wall()).unwrap();
    RedeemRequest { holder_proof: proof, ..request }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_capability_without_its_key_is_refused_and_recorded_and_not_spent() {
    let scene = Scene::new().await;
    let (key, thief) = (HolderKey::generate().unwrap(), HolderKey::generate().unwrap());
    let bound = DecideRequest { holder: Some(holder_of(&key)), ..scene.question(read_secret()) };
    let minted = scene.minted(bound).await;
    let token = minted.token.as_str();
    let stolen = spending(token, read_secret());
    assert_eq!(refused(scene.gateway.redeem(stolen.clone()).await), denied("HOLDER_MISSING"));
    let by_thief = proved(&thief, spending(token, read_secret()));
    assert_eq!(refused(scene.gateway.redeem(by_thief).await), denied("HOLDER_MISMATCH"));
    // The holder's own proof, for another attempt and for another action.
    let own = proved(&key, spending(token, read_secret()));
    let elsewhere = RedeemRequest { request_id: fresh_id(), ..own.clone() };
    assert_eq!(refused(scene.gateway.redeem(elsewhere).await), denied("HOLDER_PROOF_INVALID"));
    let other = RedeemRequest { operation: Some(list_secret()), ..own.clone() };
    assert_eq!(refused(scene.gateway.redeem(other).await), denied("HOLDER_PROOF_INVALID"));
    let minute_ago = countersign_core::Timestamp::from_millis(SystemClock::default().wall().millis() - 61_000);
    let stale = spending(token, read_secret());
    let stale = RedeemRequest { holder_proof: key.prove(token, &stale.request_id, minute_ago).unwrap(), ..stale };
    assert_eq!(refused(scene.gateway.redeem(stale).await), denied("HOLDER_PROOF_STALE"));
    assert_eq!(capability_state(&scene.agent, &minted.capability_id).await.unwrap(), CapabilityState::Minted);

    let receipt = scene.gateway.redeem(proved(&key, spending(token, read_secret()))).await.unwrap();
    assert_eq!((receipt.capability_id.as_str(), receipt.replayed), (minted.capability_id.as_str(), false));
    let refusals = scene.records("refusal").await;
    assert_eq!(refusals.len(), 5);
    let hash = countersign_core::Digest::of(token.as_bytes());
    assert!(refusals.iter().all(|refusal| refusal.text("/about") == format!("token {hash}")), "{refusals:?}");
    let redeem = scene.records("redeem").await.pop().unwrap();
    assert_eq!(redeem.text("/holder/kind"), "key");
    assert_eq!(redeem.text("/holder/thumbprint"), key.holder().thumbprint.to_string());
    // Neither token nor proof is in the log.
    let texts: String =
        records_of(&scene.server.person("kim").await).await.iter().map(|r| r.content.to_string()).collect();
    assert!(!texts.contains(token) && !texts.contains("eyJ"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_asked_for_again_with_a_newer_proof() {
    let scene = Scene::new().await;
    let key = HolderKey::generate().unwrap();
    let bound = DecideRequest { holder: Some(holder_of(&key)), ..scene.question(read_secret()) };
    let minted = scene.minted(bound).await;
    let attempt = spending(&minted.token, read_secret());
    let first = scene.gateway.redeem(proved(&key, attempt.clone())).await.unwrap();
    // Signed a second later, and by then also without: what is answered was answered before.
    let later = SystemClock::default().wall().plus(std::time::Duration::from_secs(1));
    let proof = key.prove(&minted.token, &attempt.request_id, later).unwrap();
    for holder_proof in [proof, String::new()] {
        let again = scene.gateway.redeem(RedeemRequest { holder_proof, ..attempt.clone() }).await.unwrap();
        assert_eq!(again, RedeemResponse { replayed: true, log_index: None, ..first.clone() });
    }
    let other = RedeemRequest { operation: Some(list_secret()), ..proved(&key, attempt) };
    assert_eq!(refused(scene.gateway.redeem(other).await).1, "REQUEST_ID_REUSED");
    assert_eq!(scene.records("redeem").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_demand_a_holder_and_say_who_may_narrow() {
    let scene = Scene::new().await;
    let bearer = scene.agent.decide(scene.question(read_secret())).await.unwrap();
    assert_eq!(bearer.verdict(), Verdict::Deny);
    assert_eq!(bearer.reasons[0].policy_id, "secrets-are-bound");
    // Nor is an answer without a capability bound to anybody.
    let key = HolderKey::generate().unwrap();
    let bound = DecideRequest { holder: Some(holder_of(&key)), ..scene.question(read_secret()) };
    let unminted = DecideRequest { mint: false, ..bound.clone() };
    assert_eq!(refused(scene.agent.decide(unminted).await), invalid());
    let nobody = DecideRequest { holder: Some(Holder { holder: None }), ..bound.clone() };
    assert_eq!(refused(scene.agent.decide(nobody).await), invalid());
    // A certificate's capability stays sealed here, as does everything where no policy says otherwise.
    let certificate = Holder { holder: Some(holder::Holder::CertificateThumbprint("A".repeat(43))) };
    let unsealed = DecideRequest { holder: Some(certificate), open: true, ..scene.question(read_secret()) };
    assert_eq!(refused(scene.agent.decide(unsealed).await), denied("ADMINISTRATION_DENIED"));
    let minted = scene.minted(DecideRequest { open: true, ..bound }).await;
    let request = GetCapabilityRequest { capability_id: minted.capability_id };
    let shown = scene.agent.get_capability(request).await.unwrap().capability.unwrap();
    assert!(shown.open && shown.holder.is_some());

    let example = Server::dev().await;
    let bot = example.etl_bot().await;
    let sealed = DecideRequest {
        session_id: open(&bot).await,
        operation: Some(describe()),
        audience: "warehouse".to_owned(),
        mint: true,
        open: true,
        request_id: fresh_id(),
        ..DecideRequest::default()
    };
    assert_eq!(refused(bot.decide(sealed).await), denied("ADMINISTRATION_DENIED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_narrowed_copies_at_once_are_redeemed_once() {
    let scene = Scene::new().await;
    let minted = scene.minted(DecideRequest { open: true, ..scene.question(list_secret()) }).await;
    let end = SystemClock::default().wall().plus(std::time::Duration::from_secs(200));
    let copy = |n: u64| {
        let expires_at = Some(end.plus(std::time::Duration::from_millis(n)));
        let narrowing = countersign_token::Narrowing { expires_at, audience: Some(POINT.to_owned()) };
        countersign_token::narrow(&minted.token, &narrowing).unwrap().expose().to_owned()
    };
    let copies: Vec<String> = (0..50).map(copy).collect();
    let attempts = copies.iter().map(|token| scene.gateway.redeem(spending(token, list_secret())));
    let (spent, others): (Vec<_>, Vec<_>) = join_all(attempts).await.into_iter().partition(Result::is_ok);
    assert_eq!(spent.len(), 1);
    for other in others {
        assert_eq!(refused(other), failed("ALREADY_REDEEMED"));
    }
    assert_eq!(scene.records("redeem").await.len(), 1);
}

/// What a certificate of somebody is, and how they connect with it.
struct Certified {
    certificate: String,
    key: String,
    holder: Holder,
}

fn certified() -> Certified {
    let made = rcgen::generate_simple_self_signed(vec!["bot.example.com".to_owned()]).unwrap();
    let thumbprint = holder_of_certificate(made.cert.der()).thumbprint;
    let thumbprint = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, thumbprint.as_bytes());
    let holder = Holder { holder: Some(holder::Holder::CertificateThumbprint(thumbprint)) };
    Certified { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), holder }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_that_is_bound_to_a_certificate_is_redeemed_over_its_connection_alone() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) =
        (file("server.pem", &made.cert.pem()), file("server.key", &made.signing_key.serialize_pem()));
    let tls = format!("[server.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    let acme = Tenant::new("acme");
    let toml = production::toml(dir.path(), &[&acme], &tls);
    let server = Server::start(Options { mode: Mode::Production(toml), ..Options::default() }).await;
    let connect = async |subject: &str, identity: Option<&Certified>| {
        let credentials = Credentials::bearer(acme.issuer.token(subject));
        let config = ClientConfig::new(server.endpoint()).ca_pem(made.cert.pem()).credentials(credentials).attempts(1);
        let config = match identity {
            Some(own) => config.identity_pem(&own.certificate, &own.key),
            None => config,
        };
        Client::connect(config.timeout(PATIENCE)).await.unwrap()
    };
    let (own, other) = (certified(), certified());
    let agent = connect("agent:etl-bot", None).await;
    let session = open(&agent).await;
    let question = DecideRequest {
        session_id: session,
        operation: Some(describe()),
        audience: "warehouse".to_owned(),
        mint: true,
        holder: Some(own.holder.clone()),
        request_id: fresh_id(),
        ..DecideRequest::default()
    };
    let minted = agent.decide(question).await.unwrap().capability.unwrap();
    let redeem = || RedeemRequest { audience: "warehouse".to_owned(), ..spending(&minted.token, describe()) };
    let bare = connect("service:warehouse-gateway", None).await;
    assert_eq!(refused(bare.redeem(redeem()).await), denied("HOLDER_MISSING"));
    let wrong = connect("service:warehouse-gateway", Some(&other)).await;
    assert_eq!(refused(wrong.redeem(redeem()).await), denied("HOLDER_MISMATCH"));
    let right = connect("service:warehouse-gateway", Some(&own)).await;
    let other = RedeemRequest { operation: Some(crate::approvals::shared::query()), ..redeem() };
    assert_eq!(refused(right.redeem(other).await), denied("CAPABILITY_MISMATCH"));
    // By the command line, as the holder.
    let (ca, certificate, key) =
        (file("ca.pem", &made.cert.pem()), file("own.pem", &own.certificate), file("own.key", &own.key));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let env = [
        ("COUNTERSIGN_ENDPOINT", server.endpoint()),
        ("COUNTERSIGN_TOKEN", &acme.issuer.token("service:warehouse-gateway")),
        ("COUNTERSIGN_CA", ca.to_str().unwrap()),
    ];
    let redeem = ["capability", "redeem", &minted.token, "describe", "Dataset::docs", "--audience", "warehouse"];
    let bare = crate::harness::cli::run(&[&redeem[..], &["--json"]].concat(), &env).await;
    assert_eq!((bare.code, &bare.json_error()["reason"]), (1, &json!("HOLDER_MISSING")), "{bare:?}");
    let with = ["--client-certificate", certificate, "--client-key", key];
    let redeemed = crate::harness::cli::run(&[&redeem[..], &with].concat(), &env).await;
    assert_eq!(redeemed.code, 0, "{redeemed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_work_from_the_command_line_and_narrow_without_a_server() {
    let scene = Scene::new().await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // As `openssl genpkey -algorithm ed25519` writes it.
    let made = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(path("agent.pem"), made.serialize_pem()).unwrap();
    let (agent, gateway) =
        (scene.server.token("agent:bot", None, &[]), scene.server.token("service:vault-gateway", None, &[]));
    let what = ["read_secret", "Secret::signing-key", "--audience", POINT];
    let decide = [&["decide"], &what[..], &["--session", &scene.session, "--mint", "--open", "--json"]].concat();
    let decided = scene.server.cli(&agent, &[&decide[..], &["--holder-key", &path("agent.pem")]].concat()).await;
    assert_eq!(decided.code, 0, "{decided:?}");
    std::fs::write(path("token"), decided.json()["capability"]["token"].as_str().unwrap()).unwrap();
    let keys = scene.server.cli(&agent, &["keys", "list", "--json"]).await;
    std::fs::write(path("keys.json"), &keys.stdout).unwrap();

    // No server from here.
    let at = |name: &str| format!("@{}", path(name));
    let offline =
        async |args: &[&str]| crate::harness::cli::run(args, &[("COUNTERSIGN_ENDPOINT", "http://127.0.0.1:1")]).await;
    let narrowed =
        offline(&["capability", "attenuate", &at("token"), "--expires-in", "30s", "--audience", POINT]).await;
    assert_eq!(narrowed.code, 0, "{narrowed:?}");
    std::fs::write(path("narrowed"), narrowed.stdout.trim()).unwrap();
    let verified = offline(&["capability", "verify", &at("narrowed"), "--keys", &path("keys.json"), "--json"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let said = verified.json();
    assert_eq!((&said["narrowed"], &said["open"], &said["holder"]["kind"]), (&json!(1), &json!(true), &json!("key")));
    let elsewhere = offline(&["capability", "attenuate", &at("token"), "--audience", "elsewhere"]).await;
    assert_eq!(elsewhere.code, 2, "{elsewhere:?}");
    let nothing = offline(&["capability", "attenuate", &at("token")]).await;
    assert_eq!(nothing.code, 2, "{nothing:?}");

    // The agent signs, and the gateway redeems; or the agent's key is at hand.
    let token = at("narrowed");
    let redeem = [&["capability", "redeem", token.as_str()][..], &what[..]].concat();
    let stolen = scene.server.cli(&gateway, &[&redeem[..], &["--json"]].concat()).await;
    assert_eq!((stolen.code, &stolen.json_error()["reason"]), (1, &json!("HOLDER_MISSING")), "{stolen:?}");
    let proof = offline(&["capability", "prove", &token, "--holder-key", &path("agent.pem"), "--json"]).await;
    let proof = proof.json();
    let (proof, request_id) = (proof["holder_proof"].as_str().unwrap(), proof["request_id"].as_str().unwrap());
    let with = ["--holder-proof", proof, "--request-id", request_id];
    let redeemed = scene.server.cli(&gateway, &[&redeem[..], &with].concat()).await;
    assert_eq!(redeemed.code, 0, "{redeemed:?}");
    let again =
        scene.server.cli(&gateway, &[&redeem[..], &["--holder-key", &path("agent.pem"), "--json"]].concat()).await;
    assert_eq!((again.code, &again.json_error()["reason"]), (1, &json!("ALREADY_REDEEMED")), "{again:?}");
}
