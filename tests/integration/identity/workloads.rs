//! Workloads that prove themselves by client certificates (SPIFFE X.509-SVIDs).

use std::path::Path;

use countersign::proto::session_service_client::SessionServiceClient;
use countersign::proto::*;
use rcgen::KeyUsagePurpose::{self, CrlSign, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use crate::harness::production::{self, Tenant};
use crate::harness::{Mode, Options, PATIENCE, Server, fresh_id};

const ID: &str = "spiffe://prod.example.com/ns/etl/bot";

/// The authorities of a trust domain.
type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn pem(authority: &Authority) -> String {
    AsRef::<rcgen::Certificate>::as_ref(authority).pem()
}

/// A certificate with these URIs, and what the closure makes of it.
fn svid(authority: &Authority, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Identity::from_pem(params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

struct Scene {
    server: Server,
    acme: Tenant,
    ca: String,
    prod: Authority,
    other: Authority,
    dir: TempDir,
}

/// A server that believes two trust domains about their own workloads.
async fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) =
        (file("server.pem", &made.cert.pem()), file("server.key", &made.signing_key.serialize_pem()));
    let (prod, other) = (authority(), authority());
    let (prod_ca, other_ca) = (file("prod.pem", &pem(&prod)), file("other.pem", &pem(&other)));
    let mut acme = Tenant::new("acme");
    acme.bundle = acme.bundle.edit(|files| {
        let entities = files.get_mut("entities.json").unwrap();
        *entities = entities.replace("\"id\": \"etl-bot\"", &format!("\"id\": {ID:?}"));
    });
    let tls = format!("[server.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    let toml = production::toml(dir.path(), &[&acme], &tls).replace(", \"agent\", \"service\"]", "]");
    let toml = format!(
        "{toml}[[tenants.acme.trust_domains]]\nname = \"prod.example.com\"\nca = {prod_ca:?}\nkind = \"agent\"\n\
         [[tenants.acme.trust_domains]]\nname = \"other.example.com\"\nca = {other_ca:?}\nkind = \"agent\"\n"
    );
    let server = Server::start(Options { mode: Mode::Production(toml), ..Options::default() }).await;
    Scene { server, acme, ca: made.cert.pem(), prod, other, dir }
}

impl Scene {
    /// A connection with a certificate, or without one.
    fn channel(&self, identity: Option<Identity>) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca));
        let tls = identity.into_iter().fold(tls, ClientTlsConfig::identity);
        Endpoint::from_shared(self.server.endpoint().to_owned()).unwrap().tls_config(tls).unwrap().connect_lazy()
    }
}

/// Who opens a session over this connection.
async fn opens(channel: &Channel, token: &str) -> Result<Entity, Status> {
    let request =
        OpenSessionRequest { purpose: "a test".to_owned(), request_id: fresh_id(), ..OpenSessionRequest::default() };
    let mut sessions = SessionServiceClient::new(channel.clone());
    let opened = sessions.open_session(Server::request(request, token, &[])).await?;
    Ok(opened.into_inner().session.unwrap().principal.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_trust_domain_is_a_credential() {
    let scene = scene().await;
    let channel = scene.channel(Some(svid(&scene.prod, &[ID], |_| {})));
    for _ in 0..2 {
        let principal = opens(&channel, "").await.unwrap();
        assert_eq!((principal.r#type.as_str(), principal.id.as_str()), ("Agent", ID));
    }
    // A token beside it says who calls: the connection may be a proxy's.
    assert_eq!(opens(&channel, &scene.acme.issuer.token("dana")).await.unwrap().id, "dana");
    assert_eq!(opens(&channel, "nonsense").await.unwrap_err().code(), Code::Unauthenticated);
    // None is demanded of whoever has a token.
    let plain = scene.channel(None);
    assert_eq!(opens(&plain, &scene.acme.issuer.token("dana")).await.unwrap().id, "dana");
    assert_eq!(opens(&plain, "").await.unwrap_err().code(), Code::Unauthenticated);
    // Somebody whom the domain vouches for, and the bundle does not know.
    let stranger = scene.channel(Some(svid(&scene.prod, &["spiffe://prod.example.com/ns/etl/other"], |_| {})));
    assert_eq!(opens(&stranger, "").await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_its_trust_domain_does_not_vouch_for_is_refused() {
    let scene = scene().await;
    let (prod, other) = (&scene.prod, &scene.other);
    let over = |params: &mut CertificateParams| params.not_after = date_time_ymd(2026, 1, 1);
    let for_servers =
        |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let authority_of_its_own =
        |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let used = |usages: Vec<KeyUsagePurpose>| move |params: &mut CertificateParams| params.key_usages = usages;
    for (what, identity) in [
        ("a stranger's authority", svid(&authority(), &[ID], |_| {})),
        ("another domain's authority", svid(other, &[ID], |_| {})),
        ("a domain that is nobody's", svid(prod, &["spiffe://evil.example.com/ns/etl/bot"], |_| {})),
        ("a longer name of the domain", svid(prod, &["spiffe://prod.example.com.evil.example/ns/etl/bot"], |_| {})),
        ("two URIs", svid(prod, &[ID, "spiffe://prod.example.com/x"], |_| {})),
        ("no URI", svid(prod, &[], |_| {})),
        ("no path", svid(prod, &["spiffe://prod.example.com"], |_| {})),
        ("an empty part", svid(prod, &["spiffe://prod.example.com/ns//bot"], |_| {})),
        ("a dotted part", svid(prod, &["spiffe://prod.example.com/ns/../etl/bot"], |_| {})),
        ("an escape", svid(prod, &["spiffe://prod.example.com/ns/etl%2Fbot"], |_| {})),
        ("another scheme", svid(prod, &["https://prod.example.com/ns/etl/bot"], |_| {})),
        ("one that is over", svid(prod, &[ID], over)),
        ("one for servers", svid(prod, &[ID], for_servers)),
        ("an authority", svid(prod, &[ID], authority_of_its_own)),
        ("one that signs others", svid(prod, &[ID], used(vec![DigitalSignature, KeyCertSign]))),
        ("one that signs lists", svid(prod, &[ID], used(vec![DigitalSignature, CrlSign]))),
        ("one that signs nothing", svid(prod, &[ID], used(vec![KeyEncipherment]))),
    ] {
        assert!(opens(&scene.channel(Some(identity)), "").await.is_err(), "{what} is believed");
    }
    for good in [vec![], vec![DigitalSignature], vec![DigitalSignature, KeyAgreement]] {
        assert!(opens(&scene.channel(Some(svid(prod, &[ID], used(good)))), "").await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_somebody_else_secures_the_connection_and_names_nobody() {
    let scene = scene().await;
    let stranger = authority();
    let over = |params: &mut CertificateParams| params.not_after = date_time_ymd(2026, 1, 1);
    for (what, identity) in [
        ("a stranger's authority", svid(&stranger, &[ID], |_| {})),
        ("a stranger's authority, and no URI", svid(&stranger, &[], |_| {})),
        ("a stranger's domain", svid(&stranger, &["spiffe://mesh.example.com/proxy"], |_| {})),
        ("no SPIFFE ID", svid(&scene.prod, &["https://proxy.example.com/"], |_| {})),
        ("one that is over", svid(&scene.prod, &[ID], over)),
    ] {
        let channel = scene.channel(Some(identity));
        assert_eq!(opens(&channel, &scene.acme.issuer.token("dana")).await.unwrap().id, "dana", "{what}");
        assert_eq!(opens(&channel, "").await.unwrap_err().code(), Code::Unauthenticated, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_that_are_exchanged_end_what_the_old_ones_vouched_for() {
    let scene = scene().await;
    let channel = scene.channel(Some(svid(&scene.prod, &[ID], |_| {})));
    opens(&channel, "").await.unwrap();
    let newer = authority();
    std::fs::write(Path::new(scene.dir.path()).join("prod.pem"), pem(&newer)).unwrap();
    // On the connection that is open, too.
    let waiting = async { while opens(&channel, "").await.is_ok() {} };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the old authority is not believed for ever");
    assert_eq!(opens(&channel, "").await.unwrap_err().code(), Code::Unauthenticated);
    assert!(opens(&scene.channel(Some(svid(&newer, &[ID], |_| {}))), "").await.is_ok());
}
