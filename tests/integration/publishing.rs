//! What a bundle must satisfy to become active, besides being valid: authors' signatures, and proofs.

use std::path::{Path, PathBuf};

use countersign::client::{Client, ClientError};
use countersign::proto::GetBundleRequest;
use tempfile::TempDir;
use tonic::Code;

use crate::harness::cli::{Finished, run};
use crate::harness::flow::{refused, reload};
use crate::harness::production::{self, Tenant};
use crate::harness::{Bundle, PATIENCE, Server, field};

async fn policy(args: &[&str]) -> Finished {
    run(&[&["policy"], args].concat(), &[]).await
}

fn at(path: &Path) -> String {
    format!("@{}", path.display())
}

/// An author: where the secret key is, and the public one.
struct Author {
    secret: PathBuf,
    public: String,
}

impl Author {
    async fn new(place: &TempDir, name: &str) -> Self {
        let secret = place.path().join(format!("{name}.key"));
        let made = policy(&["author", name, "--out", secret.to_str().unwrap()]).await;
        assert_eq!(made.code, 0, "{made:?}");
        Self { secret, public: made.stdout.trim().to_owned() }
    }

    async fn sign(&self, dir: &Path) -> Finished {
        policy(&["sign", dir.to_str().unwrap(), "--key", &at(&self.secret), "--json"]).await
    }
}

/// A production server with one tenant, `acme`, and its `[tenants.acme.publishing]`.
async fn server(place: &TempDir, tenant: &Tenant, publishing: &str) -> Server {
    let table = format!("[tenants.acme.publishing]\n{publishing}\n");
    Server::start(production::options(place.path(), &[tenant], &table)).await
}

async fn admin(server: &Server, tenant: &Tenant) -> Client {
    server.client_of(&tenant.issuer.token("alice")).await
}

async fn revision(client: &Client) -> Result<u64, ClientError> {
    Ok(client.get_bundle(GetBundleRequest {}).await?.bundle.unwrap().revision)
}

async fn until_revision(client: &Client, wanted: u64) {
    let waiting = async { while revision(client).await.ok() != Some(wanted) {} };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("revision {wanted} is never active"));
}

const REFUSED: (Code, &str) = (Code::FailedPrecondition, "BUNDLE_REFUSED");

async fn refused_saying(client: &Client, said: &str) {
    let answer = reload(client).await;
    let message = format!("{}", answer.as_ref().unwrap_err());
    assert_eq!(refused(answer), (REFUSED.0, REFUSED.1.to_owned()), "{message}");
    assert!(message.contains(said), "{said:?} is not in {message:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_enough_authors_signed_becomes_active() {
    let place = tempfile::tempdir().unwrap();
    let (alice, bob, mallory) =
        (Author::new(&place, "alice").await, Author::new(&place, "bob").await, Author::new(&place, "mallory").await);
    let tenant = Tenant::new("acme");
    let dir = tenant.bundle.path();
    for author in [&alice, &bob] {
        let signed = author.sign(dir).await;
        assert_eq!(signed.code, 0, "{signed:?}");
    }
    let publishing = format!("authors = [{:?}, {:?}]\nsignatures = 2", alice.public, bob.public);
    let mut server = server(&place, &tenant, &publishing).await;
    let client = admin(&server, &tenant).await;
    let first = revision(&client).await.unwrap();

    // The signatures that are there are of what was there before.
    tenant.bundle.set_revision(first + 1);
    refused_saying(&client, "is of other content").await;
    tenant.bundle.change(|files| drop(files.remove("bundle.sig")));
    refused_saying(&client, "it has no `bundle.sig`").await;
    alice.sign(dir).await;
    refused_saying(&client, "signed by 1, and 2").await;
    mallory.sign(dir).await;
    refused_saying(&client, "signed by 1, and 2").await;
    let signed = bob.sign(dir).await.json();
    assert_eq!(signed["signed_by"], serde_json::json!(["alice", "mallory", "bob"]));
    // Somebody who can write there exchanges a policy below the signatures.
    let good = tenant.bundle.files();
    tenant.bundle.replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"1\")");
    refused_saying(&client, "is of other content").await;
    assert_eq!(revision(&client).await.unwrap(), first);

    tenant.bundle.change(|files| *files = good);
    assert!(reload(&client).await.unwrap().changed);
    assert_eq!(revision(&client).await.unwrap(), first + 1);
    // A start asks as much as a reload, and keeps what was active.
    tenant.bundle.set_revision(first + 2);
    server.restart().await;
    let client = admin(&server, &tenant).await;
    assert_eq!(revision(&client).await.unwrap(), first + 1);
    assert!(server.logs().contains("is of other content"));

    let check = |authors: &[&Author]| {
        let keys: Vec<String> = authors.iter().flat_map(|who| ["--author".to_owned(), who.public.clone()]).collect();
        let dir = dir.to_str().unwrap().to_owned();
        async move {
            run(&[&["policy", "check", &dir], &keys.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat(), &[])
                .await
        }
    };
    let unsigned = check(&[&alice, &bob]).await;
    assert!(unsigned.code == 1 && unsigned.stderr.contains("not signed as it must be"), "{unsigned:?}");
    alice.sign(dir).await;
    assert_eq!(check(&[&alice]).await.code, 0);
    assert_eq!(check(&[&alice, &bob]).await.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_watched_directory_is_published_and_a_bad_one_is_told() {
    let place = tempfile::tempdir().unwrap();
    let tenant = Tenant::new("acme");
    let mut server = server(&place, &tenant, "watch = true").await;
    let client = admin(&server, &tenant).await;
    let first = revision(&client).await.unwrap();
    tenant.bundle.set_revision(first + 1);
    until_revision(&client, first + 1).await;
    let good = tenant.bundle.files();
    tenant.bundle.replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"0\")");
    let refused = |line: &str| field(line, "message").as_deref() == Some("bundle refused");
    let told = server.log_line(refused).await;
    assert!(field(&told, "error").is_some_and(|error| error.contains("exports.cedar")), "{told}");
    assert_eq!(revision(&client).await.unwrap(), first + 1);
    tenant.bundle.change(|files| *files = good);
    tenant.bundle.set_revision(first + 2);
    until_revision(&client, first + 2).await;
    assert!(server.metrics().await.contains("countersign_bundle_refused_total"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_watched_a_directory_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (watched, still) = (Tenant::new("acme"), Tenant::new("globex"));
    let table = "[tenants.acme.publishing]\nwatch = true\n";
    let server = Server::start(production::options(place.path(), &[&watched, &still], table)).await;
    let (client, other) = (admin(&server, &watched).await, admin(&server, &still).await);
    let first = revision(&other).await.unwrap();
    still.bundle.set_revision(first + 1);
    watched.bundle.set_revision(first + 1);
    until_revision(&client, first + 1).await;
    // Both directories were looked at in between, if both are.
    watched.bundle.set_revision(first + 2);
    until_revision(&client, first + 2).await;
    assert_eq!(revision(&other).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn demanded_proofs_keep_a_hole_from_becoming_active() {
    let place = tempfile::tempdir().unwrap();
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "there is no {}: run `make setup-prove`, which makes it", python.display());
    let mut tenant = Tenant::new("acme");
    // Few kinds of request, for few and quick proofs.
    let issuer = tenant.issuer.name.clone();
    tenant.bundle = Bundle::minimal().edit(|files| {
        let entities = files.get_mut("entities.json").unwrap();
        *entities = entities.replace(countersign::config::DEV_ISSUER, &issuer);
        *files.get_mut("admin/service.cedar").unwrap() += "@id(\"alice-publishes\")\n\
            permit (principal == Person::\"alice\", action == Action::\"publish\", resource);\n";
    });
    let server = server(&place, &tenant, &format!("proofs = true\nsolver = {python:?}")).await;
    let client = admin(&server, &tenant).await;
    let first = revision(&client).await.unwrap();
    let (forbids, weaker) = ("forbid (principal, action", "forbid (principal is Agent, action");
    tenant.bundle.replace("policies/documents.cedar", forbids, weaker);
    tenant.bundle.set_revision(first + 1);
    refused_saying(&client, "`publishing-waits-for-an-editor` not proved").await;
    assert_eq!(revision(&client).await.unwrap(), first);
    tenant.bundle.replace("policies/documents.cedar", weaker, forbids);
    assert!(reload(&client).await.unwrap().changed);
    assert_eq!(revision(&client).await.unwrap(), first + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_solver_for_demanded_proofs_nothing_becomes_active() {
    let place = tempfile::tempdir().unwrap();
    let tenant = Tenant::new("acme");
    let server = server(&place, &tenant, "proofs = true\nsolver = \"/nowhere/cvc5\"").await;
    server.until_ready(false).await;
    let opened = revision(&admin(&server, &tenant).await).await;
    assert_eq!(refused(opened), (Code::Unavailable, "NO_BUNDLE".to_owned()));
    assert!(server.logs().contains("/nowhere/cvc5"), "{}", server.logs());
}
