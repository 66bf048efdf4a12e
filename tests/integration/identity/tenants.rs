//! Two tenants on one server, who know nothing of each other.

use countersign::client::{Client, ClientConfig, Credentials};
use countersign::proto::*;
use tempfile::TempDir;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::production::{self, Tenant};
use crate::harness::{Server, records_of};

struct Scene {
    server: Server,
    acme: Tenant,
    globex: Tenant,
    _dir: TempDir,
}

async fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let (acme, globex) = (Tenant::new("acme"), Tenant::new("globex"));
    let server = Server::start(production::options(dir.path(), &[&acme, &globex], "")).await;
    Scene { server, acme, globex, _dir: dir }
}

impl Scene {
    async fn client(&self, tenant: &Tenant, subject: &str) -> Client {
        self.server.client_of(&tenant.issuer.token(subject)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_one_tenant_is_found_by_another() {
    let scene = scene().await;
    let agent = scene.client(&scene.acme, AGENT).await;
    let session = open(&agent).await;
    let pending = ask(&agent, &session, &export(5)).await.unwrap();
    let minted = must_mint(&agent, &session, &describe(), "").await;

    let theirs = scene.client(&scene.globex, AGENT).await;
    let before = records_of(&scene.client(&scene.globex, "aaron").await).await.len();
    let found = theirs.get_session(GetSessionRequest { session_id: session.clone() }).await;
    assert_eq!(refused(found).0, Code::NotFound);
    assert_eq!(refused(end(&theirs, &session).await).0, Code::NotFound);
    assert_eq!(refused(decide(&theirs, &session, &describe()).await).0, Code::NotFound);
    assert_eq!(refused(ask(&theirs, &session, &export(5)).await).0, Code::NotFound);
    for person in ["dana", "aaron"] {
        let person = scene.client(&scene.globex, person).await;
        assert_eq!(refused(show(&person, &pending.approval_id).await).0, Code::NotFound);
        let vote = person.cast_vote(ballot(&pending, VoteVerdict::Approve)).await;
        assert_eq!(refused(vote).0, Code::NotFound);
    }
    assert_eq!(refused(capability_state(&theirs, &minted.capability_id).await).0, Code::NotFound);
    let security = scene.client(&scene.globex, "sam").await;
    assert_eq!(refused(revoke(&security, &minted.capability_id).await).0, Code::NotFound);
    let gateway = scene.client(&scene.globex, REDEEMER).await;
    let spent = redeem(&gateway, &minted.token, &describe()).await;
    assert_eq!(refused(spent), (Code::PermissionDenied, "CAPABILITY_INVALID".to_owned()));

    let request = ListCapabilitiesRequest { session_id: session.clone(), ..ListCapabilitiesRequest::default() };
    assert!(theirs.list_capabilities(request).await.unwrap_or_default().capabilities.is_empty());
    assert!(theirs.list_sessions(ListSessionsRequest::default()).await.unwrap().sessions.is_empty());
    let dana = scene.client(&scene.globex, "dana").await;
    assert!(dana.list_approvals(ListApprovalsRequest::default()).await.unwrap().approvals.is_empty());

    // All of it is in the log of whoever tried, and the ids in nobody else's.
    let records = records_of(&scene.client(&scene.globex, "aaron").await).await.split_off(before);
    assert!(records.iter().all(|record| record.kind == "refusal"), "{records:?}");
    let acme = records_of(&scene.client(&scene.acme, "aaron").await).await;
    assert!(acme.iter().all(|record| record.kind != "refusal" && record.text("/tenant") == "acme"), "{acme:?}");
    // And nothing has happened to what they tried to reach.
    assert_eq!(capability_state(&agent, &minted.capability_id).await.unwrap(), CapabilityState::Minted);
    assert_eq!(show(&agent, &pending.approval_id).await.unwrap().state(), ApprovalState::Pending);
    redeem(&scene.client(&scene.acme, REDEEMER).await, &minted.token, &describe()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_share_no_key_and_no_log() {
    let scene = scene().await;
    let mut keys = Vec::new();
    let mut heads = Vec::new();
    for tenant in [&scene.acme, &scene.globex] {
        let auditor = scene.client(tenant, "aaron").await;
        keys.push(auditor.list_public_keys(ListPublicKeysRequest {}).await.unwrap().keys[0].public_key.clone());
        let head = auditor.get_checkpoint(GetCheckpointRequest::default()).await.unwrap();
        assert!(head.note.starts_with(&format!("countersign.example.com/{}\n", tenant.name)), "{}", head.note);
        heads.push(head.verifier_key);
    }
    assert_ne!(keys[0], keys[1]);
    assert_ne!(heads[0], heads[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_of_another_tenant_speaks_for_nobody_here() {
    let scene = scene().await;
    let gateway = scene.client(&scene.acme, "service:gateway").await;
    let open_for = |credential: String| OpenSessionRequest {
        purpose: "a test".to_owned(),
        principal_credential: credential,
        ..OpenSessionRequest::default()
    };
    let own = gateway.open_session(open_for(scene.acme.issuer.token(AGENT))).await.unwrap();
    assert_eq!(own.session.unwrap().principal.unwrap().id, "etl-bot");
    let foreign = gateway.open_session(open_for(scene.globex.issuer.token(AGENT))).await;
    assert_eq!(fields(&foreign), ["principal_credential"]);
    assert_eq!(refused(foreign).0, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_to_whoever_trusts_the_right_authority_only() {
    let dir = tempfile::tempdir().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    let (certificate, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let acme = Tenant::new("acme");
    let tls = format!("[server.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    let server = Server::start(production::options(dir.path(), &[&acme], &tls)).await;
    assert!(server.endpoint().starts_with("https://"), "{}", server.endpoint());

    let credentials = Credentials::bearer(acme.issuer.token(AGENT));
    let config =
        |endpoint: &str, ca: &str| ClientConfig::new(endpoint).credentials(credentials.clone()).ca_pem(ca).attempts(1);
    let client = Client::connect(config(server.endpoint(), &made.cert.pem())).await.unwrap();
    open(&client).await;

    let other = rcgen::generate_simple_self_signed(names).unwrap();
    assert!(Client::connect(config(server.endpoint(), &other.cert.pem())).await.is_err());
    let plain = server.endpoint().replace("https://", "http://");
    let opened = match Client::connect(ClientConfig::new(plain).credentials(credentials.clone()).attempts(1)).await {
        Ok(client) => client.list_sessions(ListSessionsRequest::default()).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(opened.is_err(), "plaintext was answered");
    // Garbage where a handshake should be takes nothing from the others.
    let address = server.endpoint().trim_start_matches("https://").to_owned();
    for _ in 0..20 {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        std::io::Write::write_all(&mut stream, &[0xff; 512]).unwrap();
    }
    open(&client).await;
}
