//! An OpenID Provider that somebody else wrote (npm's `oidc-provider`), on loopback.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use reqwest::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Response, Url};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::PATIENCE;

/// The resource whose tokens are for everyday calls.
const USE: &str = "https://countersign.example.com/use";
/// The resource whose tokens are for voting and publishing.
const APPROVE: &str = "https://countersign.example.com/approve";
const DONE: &str = "http://127.0.0.1/done";

/// Somebody who logs in, and how.
#[derive(Debug, Clone, Copy)]
pub struct Person<'a> {
    /// Who.
    pub sub: &'a str,
    /// By which method.
    pub amr: &'a str,
    /// How long ago, in seconds.
    pub age: u32,
    /// Whether for voting and publishing, or for everyday calls.
    pub approves: bool,
}

/// A running provider; killed when dropped.
#[derive(Debug)]
pub struct Provider {
    process: Option<Child>,
    port: u16,
    client: Client,
}

impl Provider {
    /// A provider that does not run yet.
    pub fn new() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().tls_certs_only([]);
        Self { process: None, port, client: client.build().unwrap() }
    }

    /// A running one.
    pub async fn start() -> Self {
        let mut provider = Self::new();
        provider.run().await;
        provider
    }

    /// Its `iss`.
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Runs it, with new keys, until it takes requests.
    pub async fn run(&mut self) {
        let modules = modules();
        assert!(modules.exists(), "there is no {}: run `make setup-test`, which makes it", modules.display());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oidc/provider.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(self.port.to_string()).env("NODE_PATH", modules).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("`node` runs: `make setup-test` installs it");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let started = async { while lines.next_line().await.unwrap().unwrap() != self.issuer() {} };
        tokio::time::timeout(PATIENCE, started).await.expect("the provider starts");
        // What it says afterwards nobody waits for, but it must be able to say it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.process = Some(process);
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }

    /// Has it sign with a new key, and forget the old one.
    pub async fn rotate(&self) {
        let answer = self.client.get(format!("{}/rotate", self.issuer())).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// A token for an agent or service, by client credentials.
    pub async fn machine(&self, client_id: &str) -> String {
        let form =
            [("grant_type", "client_credentials"), ("client_id", client_id), ("resource", USE), ("scope", "use")];
        self.token(&form).await
    }

    /// A token for a person, by the authorization code flow.
    pub async fn person(&self, person: Person<'_>) -> String {
        self.member(person, &[]).await
    }

    /// A token for a person that says that they are in these groups of the provider.
    pub async fn member(&self, person: Person<'_>, groups: &[&str]) -> String {
        let Person { sub, amr, age, approves } = person;
        let resource = if approves { APPROVE } else { USE };
        let hint = json!({"sub": sub, "amr": [amr], "age": age, "groups": groups}).to_string();
        let query = encoded(&[
            ("client_id", "console"),
            ("response_type", "code"),
            ("redirect_uri", DONE),
            ("scope", "openid use"),
            ("resource", resource),
            ("login_hint", &hint),
        ]);
        let base = Url::parse(&self.issuer()).unwrap();
        let (mut at, mut cookies) = (base.join(&format!("/auth?{query}")).unwrap(), Vec::new());
        while !at.as_str().starts_with(DONE) {
            let answer = self.client.get(at.clone()).header(COOKIE, cookies.join("; ")).send().await.unwrap();
            let set = answer.headers().get_all(SET_COOKIE).iter();
            cookies.extend(set.filter_map(|cookie| cookie.to_str().unwrap().split(';').next()).map(str::to_owned));
            at = at.join(&redirected(answer).await).unwrap();
        }
        let (_, code) = at.query_pairs().find(|(name, _)| name == "code").unwrap();
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", "console"),
            ("redirect_uri", DONE),
            ("resource", resource),
            ("code", &*code),
        ];
        self.token(&form).await
    }

    async fn token(&self, form: &[(&str, &str)]) -> String {
        let body = encoded(&[form, &[("client_secret", "secret")]].concat());
        let request = self.client.post(format!("{}/token", self.issuer())).body(body);
        let answer = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").send().await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned()
    }
}

/// Where `make setup-test` installs the provider: beside what is built.
fn modules() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("oidc/node_modules")
}

async fn redirected(answer: Response) -> String {
    let to = answer.headers().get(LOCATION).map(|to| to.to_str().unwrap().to_owned());
    match to {
        Some(to) => to,
        None => panic!("no redirect: {}", answer.text().await.unwrap()),
    }
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://form/").unwrap();
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap().to_owned()
}
