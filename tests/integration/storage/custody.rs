//! What an operator keeps: keys, heads, backups; and what is dead when a copy comes back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use countersign::client::Client;
use countersign::proto::*;
use tempfile::TempDir;
use tonic::Code;

use crate::harness::cli::{self, Finished};
use crate::harness::flow::{refused, *};
use crate::harness::production::{self, Tenant};
use crate::harness::{AUDITOR, Mode, Options, Server, records_of};

/// A production service with one tenant, whose places outlive its server.
struct Service {
    root: TempDir,
    tenant: Tenant,
    more: String,
}

impl Service {
    fn new(more: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let more = more.replace("{root}", root.path().to_str().unwrap());
        Self { tenant: Tenant::new("acme"), root, more }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn options(&self) -> Options {
        let options = production::options(self.root.path(), &[&self.tenant], &self.more);
        Options { data_dir: Some(self.at("data")), ..options }
    }

    /// The configuration as a file, for commands.
    fn config(&self) -> PathBuf {
        let toml = production::toml(self.root.path(), &[&self.tenant], &self.more);
        let toml = toml.replace("{data}", self.at("data").to_str().unwrap());
        let path = self.at("countersign.toml");
        fs::write(&path, toml).unwrap();
        path
    }

    async fn command(&self, args: &[&str]) -> Finished {
        let config = self.config();
        let args: Vec<&str> = args.iter().copied().chain(["--config", config.to_str().unwrap()]).collect();
        cli::run(&args, &[]).await
    }

    async fn start(&self) -> Server {
        Server::start(self.options()).await
    }

    async fn client(&self, server: &Server, subject: &str) -> Client {
        server.client_of(&self.tenant.issuer.token(subject)).await
    }
}

/// A session with a token that is not spent, and an approval request that waits.
struct HandedOut {
    session: String,
    token: String,
    approval: String,
}

async fn hand_out(service: &Service, server: &Server) -> HandedOut {
    let agent = server.client_of(&service.tenant.issuer.acting(AGENT, OPERATOR)).await;
    let session = open(&agent).await;
    let token = must_mint(&agent, &session, &describe(), "").await.token;
    let approval = ask(&agent, &session, &export(5)).await.unwrap().approval_id;
    HandedOut { session, token, approval }
}

/// Everything in a directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            let _bytes = fs::copy(entry.path(), target).unwrap();
        }
    }
}

const HEAD: &str = "[head]\nfile = \"{root}/elsewhere.head\"\n[backup]\ndirectory = \"{root}/backups\"\n";

/// The head outside knows what the copy lost, and nothing that was spent since becomes worth something again.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_is_refused_until_it_is_restored_and_then_its_tokens_are_dead() {
    let service = Service::new(HEAD);
    let mut server = service.start().await;
    let handed = hand_out(&service, &server).await;
    server.terminate().await;
    copy(&service.at("data"), &service.at("old"));
    let mut server = service.start().await;
    // It is spent after the copy was made.
    let gateway = service.client(&server, REDEEMER).await;
    redeem(&gateway, &handed.token, &describe()).await.unwrap();
    server.kill().await;

    fs::rename(service.at("data"), service.at("newer")).unwrap();
    copy(&service.at("old"), &service.at("data"));
    let exited = Server::try_start(service.options()).await.map(|server| server.logs()).unwrap_err();
    assert!(exited.stderr.contains("countersign restore") && exited.stderr.contains("older"), "{}", exited.stderr);

    // Nothing is restored over what is there.
    let old = service.at("old");
    let old = old.to_str().unwrap();
    let occupied = service.command(&["restore", old]).await;
    assert!(occupied.code != 0 && occupied.stderr.contains("not empty"), "{occupied:?}");
    fs::remove_dir_all(service.at("data")).unwrap();
    // The head knows of records that the copy has not: the log cannot go on under its name.
    let forked = service.command(&["restore", old]).await;
    assert!(forked.code != 0 && forked.stderr.contains("log_origin"), "{forked:?}");
    let missing = Server::try_start(service.options()).await.map(|server| server.logs()).unwrap_err();
    assert!(missing.stderr.contains("run `countersign restore` again"), "{}", missing.stderr);

    let origin = "countersign.example.com/acme";
    let renamed = Service { more: service.more.clone(), ..service };
    let toml = |text: String| text.replace(origin, "countersign.example.com/acme-2");
    let config = renamed.config();
    fs::write(&config, toml(fs::read_to_string(&config).unwrap())).unwrap();
    let done = cli::run(&["restore", old, "--config", config.to_str().unwrap(), "--json"], &[]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!((done.json()["epoch"].as_u64(), done.json()["sessions"].as_u64()), (Some(2), Some(1)), "{done:?}");

    let options = renamed.options();
    let Mode::Production(text) = options.mode else { panic!("not production") };
    let mode = Mode::Production(toml(text));
    let server = Server::start(Options { mode, data_dir: Some(renamed.at("data")), ..Options::default() }).await;
    let gateway = renamed.client(&server, REDEEMER).await;
    assert_eq!(refused(redeem(&gateway, &handed.token, &describe()).await).0, Code::PermissionDenied);
    let agent = renamed.client(&server, AGENT).await;
    assert_eq!(refused(mint(&agent, &handed.session, &describe(), "").await).1, "SESSION_OVER");
    assert_eq!(show(&agent, &handed.approval).await.unwrap().state(), ApprovalState::Void);
    // It serves, and its log says what happened.
    let session = open(&agent).await;
    let token = must_mint(&agent, &session, &describe(), "").await.token;
    redeem(&gateway, &token, &describe()).await.unwrap();
    let records = records_of(&renamed.client(&server, AUDITOR).await).await;
    assert!(records.iter().any(|record| record.kind == "restored"), "{records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_in_use_and_what_it_brings_back_is_dead() {
    let service = Service::new("[backup]\ndirectory = \"{root}/backups\"\n");
    let mut server = service.start().await;
    let handed = hand_out(&service, &server).await;
    let agent = service.client(&server, AGENT).await;
    let request = |name: &str| CreateBackupRequest { name: name.to_owned(), request_id: String::new() };
    assert_eq!(refused(agent.create_backup(request("mine")).await).1, "ADMINISTRATION_DENIED");
    let admin = service.client(&server, "alice").await;
    for name in ["../up", "", ".hidden", "a/b", "x.partial"] {
        assert_eq!(refused(admin.create_backup(request(name)).await).1, "INVALID_FIELD", "{name}");
    }
    let made = admin.create_backup(request("monday")).await.unwrap();
    assert!(!made.keys && Path::new(&made.path) == service.at("backups/monday"), "{made:?}");
    assert!(!service.at("backups/monday/keys/acme/token-1.key").exists(), "keys in the open stay where they are");
    assert_eq!(refused(admin.create_backup(request("monday")).await).1, "BACKUP_REFUSED");
    redeem(&service.client(&server, REDEEMER).await, &handed.token, &describe()).await.unwrap();
    server.kill().await;

    fs::rename(service.at("data"), service.at("lost")).unwrap();
    let (backup, keys) = (service.at("backups/monday"), service.at("lost/keys"));
    let (backup, keys) = (backup.to_str().unwrap(), keys.to_str().unwrap());
    // It is no data directory: served as it is, it is refused.
    copy(Path::new(backup), &service.at("data"));
    copy(Path::new(keys), &service.at("data/keys"));
    let exited = Server::try_start(service.options()).await.map(|server| server.logs()).unwrap_err();
    assert!(exited.stderr.contains("countersign restore"), "{}", exited.stderr);
    fs::remove_dir_all(service.at("data")).unwrap();
    let without = service.command(&["restore", backup]).await;
    assert!(without.code != 0, "{without:?}");
    let done = service.command(&["restore", backup, "--keys", keys]).await;
    assert_eq!(done.code, 0, "{done:?}");

    let server = service.start().await;
    let gateway = service.client(&server, REDEEMER).await;
    assert_eq!(refused(redeem(&gateway, &handed.token, &describe()).await).0, Code::PermissionDenied);
    let states = gateway.list_public_keys(ListPublicKeysRequest {}).await.unwrap().keys;
    let states: Vec<KeyState> = states.iter().map(PublicKey::state).collect();
    assert_eq!(states, [KeyState::Retired, KeyState::Active]);
}

/// SIGKILL at any moment leaves a head that the store is not behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_starts_again_beside_its_head() {
    for every in ["", "every_seconds = 1\n"] {
        let service = Service::new(&HEAD.replace("[backup]", &format!("{every}[backup]")));
        let mut server = service.start().await;
        for _life in 0..4 {
            let agent = service.client(&server, AGENT).await;
            let opening = tokio::spawn(async move {
                let opening =
                    || OpenSessionRequest { purpose: "until it ends".to_owned(), ..OpenSessionRequest::default() };
                let mut opened = Vec::new();
                while let Ok(answer) = agent.open_session(opening()).await {
                    opened.push(answer.session.unwrap().session_id);
                }
                opened
            });
            server.log_line(|line| line.contains("serving")).await;
            server.metrics().await;
            server.kill().await;
            let opened = opening.await.unwrap();
            server.restart().await;
            let agent = service.client(&server, AGENT).await;
            for session_id in opened {
                agent.get_session(GetSessionRequest { session_id }).await.unwrap();
            }
        }
        server.terminate().await;
    }
}

/// The head beside the store shows an older store too, if not one that took the head along.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_behind_the_head_beside_it_is_refused() {
    let service = Service::new("");
    let mut server = service.start().await;
    let handed = hand_out(&service, &server).await;
    server.terminate().await;
    copy(&service.at("data").join("store"), &service.at("older-store"));
    let mut server = service.start().await;
    redeem(&service.client(&server, REDEEMER).await, &handed.token, &describe()).await.unwrap();
    server.terminate().await;
    fs::remove_dir_all(service.at("data").join("store")).unwrap();
    copy(&service.at("older-store"), &service.at("data").join("store"));
    let exited = Server::try_start(service.options()).await.map(|server| server.logs()).unwrap_err();
    assert!(
        exited.stderr.contains("checkpoints") && exited.stderr.contains("countersign restore"),
        "{}",
        exited.stderr
    );

    // Nor does its log go on under the name that the head was signed for.
    fs::rename(service.at("data"), service.at("behind")).unwrap();
    let forked = service.command(&["restore", service.at("behind").to_str().unwrap()]).await;
    assert!(forked.code != 0 && forked.stderr.contains("log_origin"), "{forked:?}");
}

/// Half a service is one that neither `init` nor `serve` would accept afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_fails_leaves_nothing_behind() {
    let service = Service::new("[head]\nfile = \"{root}/volume/elsewhere.head\"\n");
    // The other volume is not mounted.
    let failed = service.command(&["init"]).await;
    assert!(failed.code != 0 && failed.stderr.contains("elsewhere.head"), "{failed:?}");
    fs::create_dir(service.at("volume")).unwrap();
    let done = service.command(&["init"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    drop(service.start().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_takes_a_directory_of_keys_and_an_interrupted_one_is_not_served() {
    let service = Service::new("");
    let mut server = service.start().await;
    server.terminate().await;
    fs::rename(service.at("data"), service.at("old")).unwrap();
    fs::create_dir(service.at("nothing")).unwrap();
    let (old, nothing) = (service.at("old"), service.at("nothing"));
    let args = ["restore", old.to_str().unwrap(), "--keys", nothing.to_str().unwrap()];
    let refused = service.command(&args).await;
    assert!(refused.code != 0 && refused.stderr.contains("TENANT/log.key"), "{refused:?}");
    assert!(!service.at("data").join("store").exists());

    // What a restore leaves that is killed before the store is in its place.
    fs::create_dir_all(service.at("data").join("restoring")).unwrap();
    let exited = Server::try_start(service.options()).await.map(|server| server.logs()).unwrap_err();
    assert!(exited.stderr.contains("run `countersign restore` again"), "{}", exited.stderr);
    let done = service.command(&["restore", old.to_str().unwrap()]).await;
    assert_eq!(done.code, 0, "{done:?}");
    drop(service.start().await);
}

/// A production server never makes a store by itself, and `init` makes none over anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_store_is_not_a_fresh_start() {
    let service = Service::new(HEAD);
    let refused = service.command(&["serve"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("countersign init"), "{refused:?}");
    assert!(!service.at("data").exists() && !service.at("elsewhere.head").exists(), "nothing is made");
    let done = service.command(&["init"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let again = service.command(&["init"]).await;
    assert!(again.code != 0, "{again:?}");
    let mut server = service.start().await;
    server.terminate().await;
    // Neither is a missing head.
    fs::remove_file(service.at("elsewhere.head")).unwrap();
    let exited = Server::try_start(service.options()).await.map(|server| server.logs()).unwrap_err();
    assert!(exited.stderr.contains("elsewhere.head"), "{}", exited.stderr);
    let begun = service.command(&["init", "--begin-head"]).await;
    assert_eq!(begun.code, 0, "{begun:?}");
    drop(service.start().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_encrypted_at_a_start_and_a_wrong_key_refuses_the_next() {
    let service = Service::new("");
    let mut server = service.start().await;
    let handed = hand_out(&service, &server).await;
    server.terminate().await;
    let key = |digit: &str| {
        let path = service.at(&format!("kek-{digit}"));
        fs::write(&path, digit.repeat(64)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let with = |key: &Path| {
        let more = format!("[keys.encryption]\nfile = {key:?}\n");
        let options = production::options(service.root.path(), &[&service.tenant], &more);
        Options { data_dir: Some(service.at("data")), ..options }
    };
    let mut server = Server::start(with(&key("a"))).await;
    let file = service.at("data/keys/acme/token-1.key");
    assert!(fs::read_to_string(&file).unwrap().starts_with("countersign-key-1 "));
    redeem(&service.client(&server, REDEEMER).await, &handed.token, &describe()).await.unwrap();
    server.terminate().await;
    for (options, says) in [(with(&key("b")), "keys] encryption"), (service.options(), "is encrypted")] {
        let exited = Server::try_start(options).await.map(|server| server.logs()).unwrap_err();
        assert!(exited.stderr.contains(says) && exited.stderr.contains(".key"), "{}", exited.stderr);
        assert!(!exited.stderr.contains(&"b".repeat(64)), "the key is told");
    }
    drop(Server::start(with(&key("a"))).await);
}

/// By the command line, against a server that goes on serving.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_and_called_compromised_without_a_restart() {
    let mut server = Server::dev().await;
    let agent = server.person(AGENT).await;
    let session = open(&agent).await;
    let admin = server.token("alice", None, &[]);
    let old = must_mint(&agent, &session, &describe(), "").await.token;
    let rotated = server.cli(&admin, &["keys", "rotate", "--json"]).await;
    assert_eq!((rotated.code, rotated.json()["active_key_id"].as_u64()), (0, Some(2)), "{rotated:?}");
    let gateway = server.person(REDEEMER).await;
    redeem(&gateway, &old, &describe()).await.unwrap();
    let dead = must_mint(&agent, &session, &describe(), "").await.token;
    let called = server.cli(&admin, &["keys", "compromised", "2", "--reason", "a laptop was stolen"]).await;
    assert_eq!(called.code, 0, "{called:?}");
    assert_eq!(
        refused(redeem(&gateway, &dead, &describe()).await),
        (Code::PermissionDenied, "CAPABILITY_REVOKED".into())
    );
    let retired = server.cli(&admin, &["keys", "retire", "1"]).await;
    assert!(retired.code != 0 && retired.stderr.contains("live for"), "{retired:?}");
    let nobody = server.cli(&server.token("olivia", None, &[]), &["keys", "rotate"]).await;
    assert!(nobody.code != 0, "{nobody:?}");
    // What was changed stays, and what minted last mints.
    server.kill().await;
    server.restart().await;
    let listed = server.cli(&admin, &["keys", "list", "--json"]).await.json();
    let states: Vec<&str> = listed["keys"].as_array().unwrap().iter().filter_map(|key| key["state"].as_str()).collect();
    assert_eq!(states, ["retired", "compromised", "active"]);
    let (agent, gateway) = (server.person(AGENT).await, server.person(REDEEMER).await);
    assert!(redeem(&gateway, &dead, &describe()).await.is_err());
    let new = must_mint(&agent, &session, &describe(), "").await.token;
    redeem(&gateway, &new, &describe()).await.unwrap();
}
