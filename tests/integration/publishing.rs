//! What a bundle must satisfy to become active, besides being valid: authors' signatures, and proofs.

use std::path::{Path, PathBuf};

use countersign::client::{Client, ClientError};
use countersign::proto::{
    ApprovalState, GetBundleRequest, GetShadowRequest, GetShadowResponse, ListApprovalsRequest, Verdict, VoteVerdict,
};
use tempfile::TempDir;
use tonic::Code;

use crate::harness::cli::{Finished, run, solver};
use crate::harness::flow::{AGENT, decide, describe, forbidden, open, refused, reload, vote};
use crate::harness::production::{self, Tenant};
use crate::harness::{Bundle, Mode, Options, PATIENCE, Server, field};

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
    let publishing =
        format!("bundle_name = \"ai-platform\"\nauthors = [{:?}, {:?}]\nsignatures = 2", alice.public, bob.public);
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
    assert_eq!((&signed["signed_by"], &signed["beside"]), (&"bob".into(), &serde_json::json!(["alice", "mallory"])));
    // Somebody who can write there exchanges a policy below the signatures.
    let good = tenant.bundle.files();
    tenant.bundle.replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"1\")");
    refused_saying(&client, "is of other content").await;
    assert_eq!(revision(&client).await.unwrap(), first);

    // What they signed for another tenant is not for this one.
    let staging = good.clone();
    tenant.bundle.change(|files| *files = staging);
    tenant.bundle.replace("bundle.toml", "\"ai-platform\"", "\"staging\"");
    for author in [&alice, &bob] {
        assert_eq!(author.sign(dir).await.code, 0);
    }
    refused_saying(&client, "it is called `staging`").await;
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
    // What may be half written waits for its revision.
    tenant.bundle.change(|files| *files = good);
    tenant.bundle.replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"3\")");
    let unraised = |line: &str| field(line, "error").is_some_and(|error| error.contains("raise `revision`"));
    server.log_line(unraised).await;
    assert_eq!(revision(&client).await.unwrap(), first + 1);
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
    let mut tenant = Tenant::new("acme");
    // Few kinds of request, for few and quick proofs.
    let issuer = tenant.issuer.name.clone();
    tenant.bundle = Bundle::minimal().edit(|files| {
        let entities = files.get_mut("entities.json").unwrap();
        *entities = entities.replace(countersign::config::DEV_ISSUER, &issuer);
        *files.get_mut("admin/service.cedar").unwrap() += "@id(\"alice-publishes\")\n\
            permit (principal == Person::\"alice\", action == Action::\"publish\", resource);\n";
    });
    let server = server(&place, &tenant, &format!("proofs = true\nsolver = {:?}", solver())).await;
    let client = admin(&server, &tenant).await;
    let first = revision(&client).await.unwrap();
    let (forbids, weaker) = ("forbid (principal, action", "forbid (principal is Agent, action");
    tenant.bundle.replace("policies/documents.cedar", forbids, weaker);
    tenant.bundle.set_revision(first + 1);
    refused_saying(&client, "`publishing-waits-for-an-editor` is not proved").await;
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

/// The example bundle, in which publishing waits for somebody of security. docs/authoring.md has the same.
fn governed() -> Bundle {
    Bundle::example().edit(|files| {
        let mut add = |name: &str, text: &str| files.entry(name.to_owned()).or_default().push_str(text);
        add("bundle.toml", "publish_operation = \"publish_bundle\"\n");
        add(
            "schema.cedarschema",
            "\naction publish_bundle appliesTo {\n  principal: [Person], resource: [Tenant],\n  \
             context: { input: { bundle: String, revision: Long, rollback: Bool } },\n};\n",
        );
        add(
            "policies/publishing.cedar",
            "@id(\"admins-publish-bundles\")\npermit (principal in Group::\"platform-admins\", action == \
             Action::\"publish_bundle\", resource);\n\n@id(\"publishing-needs-security\")\n@reason(\"It changes what is \
             asked of everybody\")\nforbid (principal, action == Action::\"publish_bundle\", resource)\nunless { context has \
             approval && context.approval.rules.contains(\"publishing-needs-security\") };\n",
        );
        add(
            "approve/publishing.cedar",
            "@id(\"security-answers-publishing\")\npermit (principal in Group::\"security\", action == Action::\"approve\", \
             resource is Tenant)\nwhen { context.rule == \"publishing-needs-security\" };\n",
        );
        let entities = files.get_mut("entities.json").unwrap();
        let owner = r#"{"__entity": {"type": "Person", "id": "alice"}}"#;
        let point = format!(
            r#"[{{"uid": {{"type": "EnforcementPoint", "id": "countersign"}}, "attrs": {{"owner": {owner}}}, "parents": []}},"#
        );
        *entities = entities.replacen('[', &point, 1);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_approved_is_published_and_taken_back_on_the_command_line() {
    let mut server = Server::with_bundle(governed()).await;
    let (alice, sam) = (server.token("alice", None, &[]), server.token("sam", None, &[]));
    let checked = policy(&["check", server.bundle().path().to_str().unwrap()]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    server.bundle().set_revision(2);
    let next = policy(&["check", server.bundle().path().to_str().unwrap(), "--json"]).await.json();
    let digest = next["digest"].as_str().unwrap();

    let alone = server.cli(&alice, &["policy", "reload"]).await;
    assert_eq!(alone.code, 1, "{alone:?}");
    for said in ["`publish_bundle`", "Tenant::\"dev\"", digest, "`countersign`"] {
        assert!(alone.stderr.contains(said), "{said} is not in {}", alone.stderr);
    }
    let session = server.cli(&alice, &["session", "open", "--purpose", "publish", "--json"]).await.json();
    let session = session["session_id"].as_str().unwrap();
    let approval = {
        let input = format!(r#"{{"bundle": "{digest}", "revision": 2, "rollback": false}}"#);
        let why = ["--justification", "reviewed", "--json"];
        let what = ["publish_bundle", "Tenant::dev", "--audience", "countersign", "--session", session];
        let args = [&["approvals", "request"], &what[..], &["--input", &input], &why].concat();
        let asked = server.cli(&alice, &args).await;
        assert_eq!(asked.code, 0, "{asked:?}");
        let approval = asked.json()["approval"]["approval_id"].as_str().unwrap().to_owned();
        let approved = server.cli(&sam, &["approvals", "approve", &approval, "--yes"]).await;
        assert_eq!(approved.code, 0, "{approved:?}");
        approval
    };
    let published = server.cli(&alice, &["policy", "reload", "--session", session, "--approval", &approval]).await;
    assert!(published.code == 0 && published.stdout.starts_with("now active:\n"), "{published:?}");

    let history = server.cli(&alice, &["policy", "history"]).await;
    let lines: Vec<&str> = history.stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with(&digest[..12]) && lines[0].ends_with("active"), "{history:?}");
    let (first, _) = lines[1].split_once(' ').unwrap();
    // In one command, which waits for people.
    let voter = server.person("sam").await;
    let answers = async {
        loop {
            let request = ListApprovalsRequest { states: vec![ApprovalState::Pending.into()], ..Default::default() };
            if let Some(pending) = voter.list_approvals(request).await.unwrap().approvals.first() {
                return vote(&voter, &pending.approval_id, VoteVerdict::Approve).await.unwrap();
            }
        }
    };
    let rollback = ["policy", "rollback", first, "--ask", "revision 2 locks everybody out"];
    let (rolled_back, approval) = tokio::join!(server.cli(&alice, &rollback), answers);
    assert!(rolled_back.code == 0 && rolled_back.stdout.contains("revision 1"), "{rolled_back:?}");
    assert_eq!(approval.justification, "revision 2 locks everybody out");
    // What was left still lies in the directory.
    server.restart().await;
    assert_eq!(revision(&server.person("alice").await).await.unwrap(), 1);
    assert!(server.logs().contains("a rollback left revision 2"), "{}", server.logs());
    let (kinds, audit) =
        (server.audit_records().await, server.cli(&server.token("aaron", None, &[]), &["audit", "verify"]).await);
    assert_eq!(audit.code, 0, "{audit:?}");
    let activated: Vec<_> = kinds.iter().filter(|record| record.text("/kind") == "bundle_activated").collect();
    assert_eq!(activated.len(), 3);
    for (wrong, code) in [("zz", 2), ("", 2), (&*"0".repeat(64), 1), (&*"z".repeat(64), 1)] {
        let refused = server.cli(&alice, &["policy", "rollback", wrong]).await;
        assert_eq!(refused.code, code, "{wrong}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_asked_beside_and_follows_its_directory() {
    let place = tempfile::tempdir().unwrap();
    let (tenant, next) = (Tenant::new("acme"), Tenant::new("acme"));
    next.bundle.replace("policies/exports.cedar", "!resource.exportable", "resource.exportable");
    next.bundle.set_revision(2);
    let bundle = format!("bundle = {:?}", tenant.bundle.path());
    let toml = production::toml(place.path(), &[&tenant], "");
    let toml = toml.replace(&bundle, &format!("{bundle}\nshadow = {:?}", next.bundle.path()));
    let mut server = Server::start(Options { mode: Mode::Production(toml), ..Options::default() }).await;
    server.log_line(|line| field(line, "message").as_deref() == Some("shadow bundle set")).await;
    let agent = server.client_of(&tenant.issuer.acting(AGENT, "olivia")).await;
    let session = open(&agent).await;
    assert_eq!(decide(&agent, &session, &forbidden()).await.unwrap().verdict(), Verdict::Deny);
    assert_eq!(decide(&agent, &session, &describe()).await.unwrap().verdict(), Verdict::Allow);
    let admin = tenant.issuer.token("alice");
    let client = server.client_of(&admin).await;
    let waiting = async {
        loop {
            let shadow = client.get_shadow(GetShadowRequest {}).await.unwrap();
            if shadow.same + shadow.different == 2 {
                return shadow;
            }
        }
    };
    let shadow = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert_eq!((shadow.same, shadow.different, shadow.revision), (1, 1, 2), "{shadow:?}");
    let shown = server.cli(&admin, &["policy", "shadow"]).await;
    for said in ["revision 2, as a shadow", "1 × export  DENY → NEEDS_APPROVAL", "such as"] {
        assert!(shown.stdout.contains(said), "{said} is not in:\n{}", shown.stdout);
    }
    let json = server.cli(&admin, &["policy", "shadow", "--json"]).await.json();
    assert_eq!(json["shadow"]["differences"][0]["shadow_verdict"], "NEEDS_APPROVAL");
    // A shadow that is refused leaves the one before, and the live bundle is not touched by either.
    next.bundle.replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"0\")");
    server.log_line(|line| field(line, "message").as_deref() == Some("shadow bundle refused")).await;
    let after = client.get_shadow(GetShadowRequest {}).await.unwrap();
    assert!(after.refused.contains("`0` is not a quorum"), "{after:?}");
    assert_eq!(GetShadowResponse { refused: String::new(), ..after }, shadow);
    assert_eq!(revision(&client).await.unwrap(), 1);
    assert!(server.metrics().await.contains("countersign_shadow_decisions_total"));
    // Not everybody's business.
    let refused_to = server.client_of(&tenant.issuer.token("dana")).await.get_shadow(GetShadowRequest {}).await;
    assert_eq!(refused(refused_to), (Code::PermissionDenied, "ADMINISTRATION_DENIED".to_owned()));
}
