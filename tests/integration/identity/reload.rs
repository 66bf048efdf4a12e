//! Keys and certificates that change while the server runs.

use std::path::Path;

use countersign::client::{Client, ClientConfig, Credentials};
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::production::{self, AUDIENCE, Tenant};
use crate::harness::{Issuer, PATIENCE, Server, field};

fn certificate(dir: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("server.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("server.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}

async fn connects(server: &Server, token: &str, ca: &str) -> bool {
    let config = ClientConfig::new(server.endpoint()).credentials(Credentials::bearer(token)).ca_pem(ca).attempts(1);
    Client::connect(config).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_without_a_restart_and_a_bad_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let acme = Tenant::new("acme");
    let first = certificate(dir.path());
    let tls = format!(
        "[server.tls]\ncertificate = {:?}\nkey = {:?}\n",
        dir.path().join("server.pem"),
        dir.path().join("server.key")
    );
    let mut server = Server::start(production::options(dir.path(), &[&acme], &tls)).await;
    let token = acme.issuer.token(AGENT);
    assert!(connects(&server, &token, &first).await);

    std::fs::write(dir.path().join("server.key"), "nonsense").unwrap();
    server.hang_up();
    let refused = |line: &str| field(line, "message").is_some_and(|text| text.starts_with("changed files are refused"));
    let told = server.log_line(refused).await;
    assert!(told.contains("server.key") && !told.contains("nonsense"), "{told}");
    assert!(connects(&server, &token, &first).await, "what was read before is no longer served");

    // Nobody says so: it is noticed.
    let second = certificate(dir.path());
    let waiting = async { while !connects(&server, &token, &second).await {} };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the new certificate is served");
    assert!(!connects(&server, &token, &first).await);
    assert!(server.metrics().await.contains("countersign_files_refused_total{key=\"server.tls\"}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_file_counts_and_what_the_old_key_signed_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let acme = Tenant::new("acme");
    let server = Server::start(production::options(dir.path(), &[&acme], "")).await;
    let old = server.client_of(&acme.issuer.token(AGENT)).await;
    open(&old).await;
    let newer = Issuer::new(&acme.issuer.name, AUDIENCE);
    // As Kubernetes does it: another file comes in its place.
    std::fs::write(dir.path().join("newer"), newer.public_pem()).unwrap();
    std::fs::rename(dir.path().join("newer"), dir.path().join("acme.keys")).unwrap();
    let client = server.client_of(&newer.token(AGENT)).await;
    let waiting = async {
        loop {
            if client.list_sessions(Default::default()).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the new key counts");
    let opened = old.list_sessions(Default::default()).await;
    assert_eq!(refused(opened), (Code::Unauthenticated, "CREDENTIAL_INVALID".to_owned()));
}
