//! What a server refuses to start with, and what production refuses of development.

use std::path::Path;

use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::production::{self, Tenant};
use crate::harness::{Exited, Mode, Options, Server, cli};

/// Why a server does not start.
async fn refuses(options: Options) -> Exited {
    let exited = Server::try_start(options).await.map(|server| server.logs()).unwrap_err();
    assert_eq!(exited.status.code(), Some(1), "{exited:?}");
    exited
}

fn toml(text: &str) -> Options {
    Options { mode: Mode::Production(text.to_owned()), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_nobody_to_trust_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let finished = cli::run(&["serve", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"], &[]).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stderr.contains("issuer") && finished.stderr.contains("--dev"), "{}", finished.stderr);
    assert!(!data.exists(), "nothing is made before the configuration is good");
    let exited = refuses(toml("[server]\ndata_dir = \"{data}\"\n")).await;
    assert!(exited.stderr.contains("issuer"), "{}", exited.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_configuration_does_not_know_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let acme = Tenant::new("acme");
    for (more, named) in [
        ("drain_secnods = 1", "drain_secnods"),
        ("[limits]\nmessage_byte = 70000", "message_byte"),
        ("[tokens]\nttl_seconds = 999999", "tokens.ttl_seconds"),
        ("[server.tls]\ncertificate = \"x.pem\"", "key"),
    ] {
        let exited = refuses(production::options(dir.path(), &[&acme], more)).await;
        assert!(exited.stderr.contains(named), "{named}: {}", exited.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_beyond_loopback_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let acme = Tenant::new("acme");
    let mut options = production::options(dir.path(), &[&acme], "");
    options.args = vec!["--listen".to_owned(), "0.0.0.0:0".to_owned()];
    let Err(exited) = Server::try_start(options).await else { panic!("serves plaintext to everybody") };
    assert!(!exited.status.success(), "{exited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_development_issuer_cannot_be_configured() {
    let dir = tempfile::tempdir().unwrap();
    let mut acme = Tenant::new("acme");
    acme.issuer.name = countersign::config::DEV_ISSUER.to_owned();
    let exited = refuses(production::options(dir.path(), &[&acme], "")).await;
    assert!(exited.stderr.contains("tenants.acme.issuers[0].issuer"), "{}", exited.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn production_and_development_refuse_each_others_directories() {
    let dir = tempfile::tempdir().unwrap();
    let (dev, live) = (dir.path().join("dev"), dir.path().join("live"));
    let at = |dir: &Path, options: Options| Options { data_dir: Some(dir.to_owned()), ..options };
    let acme = Tenant::new("acme");
    let production = || production::options(dir.path(), &[&acme], "");
    Server::start(at(&dev, Options::default())).await.terminate().await;
    Server::start(at(&live, production())).await.terminate().await;

    let exited = refuses(at(&dev, production())).await;
    assert!(exited.stderr.contains("development"), "{}", exited.stderr);
    let exited = refuses(at(&live, Options::default())).await;
    assert!(exited.stderr.contains("production"), "{}", exited.stderr);
    // Refusing harmed neither.
    Server::start(at(&dev, Options::default())).await.terminate().await;
    Server::start(at(&live, production())).await.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn development_credentials_and_capabilities_are_worthless_in_production() {
    let dir = tempfile::tempdir().unwrap();
    let acme = Tenant::new("acme");
    let dev = Server::dev().await;
    let live = Server::start(production::options(dir.path(), &[&acme], "")).await;
    let agent = dev.person(AGENT).await;
    let session = open(&agent).await;
    let minted = must_mint(&agent, &session, &describe(), "").await;

    let token = dev.token(AGENT, None, &[]);
    let opened = live.client_of(&token).await.open_session(Default::default()).await;
    assert_eq!(refused(opened).0, Code::Unauthenticated);
    let gateway = live.client_of(&acme.issuer.token(REDEEMER)).await;
    let spent = redeem(&gateway, &minted.token, &describe()).await;
    assert_eq!(refused(spent), (Code::PermissionDenied, "CAPABILITY_INVALID".to_owned()));
    // At home it is still good: trying elsewhere spends nothing.
    redeem(&dev.person(REDEEMER).await, &minted.token, &describe()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = Some(dir.path().join("data"));
    let first = Server::start(Options { data_dir: data_dir.clone(), ..Options::default() }).await;
    let exited = refuses(Options { data_dir, ..Options::default() }).await;
    assert!(exited.stderr.contains("in use"), "{}", exited.stderr);
    open(&first.person(AGENT).await).await;
}
