//! Key sets that lie elsewhere than the document that names them.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use countersign::proto::GetBundleRequest;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::production::{self, Tenant};
use crate::harness::{Mode, Options, PATIENCE, Server};

/// Answers every request with this, over TLS.
async fn secured(listener: TcpListener, config: ServerConfig, body: String) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_on_loopback_can_name_a_key_set_that_the_systems_authorities_vouch_for() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let authorities = dir.path().join("authorities.pem");
    std::fs::write(&authorities, made.cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (documents, keys) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let mut acme = Tenant::new("acme");
    acme.issuer.name = format!("http://{}", documents.local_addr().unwrap());
    acme.bundle = acme.bundle.edit(|files| {
        let entities = files.get_mut("entities.json").unwrap();
        *entities = entities.replace("https://acme.example.com", &acme.issuer.name);
    });
    let document = serde_json::json!({
        "issuer": acme.issuer.name, "jwks_uri": format!("https://{}/keys", keys.local_addr().unwrap()),
    });
    let document = document.to_string();
    let router = Router::new().route("/.well-known/openid-configuration", get(async || document));
    let served = [
        tokio::spawn(async move { axum::serve(documents, router).await.unwrap() }),
        tokio::spawn(secured(keys, config, acme.issuer.jwks("k1"))),
    ];
    let toml = production::toml(dir.path(), &[&acme], "");
    let lines: Vec<&str> =
        toml.lines().map(|line| if line.starts_with("keys = ") { "discovery = true" } else { line }).collect();
    let env = vec![("SSL_CERT_FILE".to_owned(), authorities.to_str().unwrap().to_owned())];
    let server = Server::start(Options { mode: Mode::Production(lines.join("\n")), env, ..Options::default() }).await;
    let client = server.client_of(&acme.issuer.token("dana")).await;
    let waiting = async { while client.get_bundle(GetBundleRequest {}).await.is_err() {} };
    let believed = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(believed.is_ok(), "{}", server.logs());
    served.iter().for_each(tokio::task::JoinHandle::abort);
}
