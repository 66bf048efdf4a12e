use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Router;
use axum::http::{StatusCode, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_core::Timestamp;
use jsonwebtoken::EncodingKey;
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Overrides};
use crate::identity::{Authenticator, CredentialError};

/// The longest that anything may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is answered at one path: a status, where it redirects to, and a body.
type Answer = (StatusCode, String, String);

/// An issuer that serves what it is told to, and counts who asks.
struct Provider {
    address: SocketAddr,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
    served: tokio::task::JoinHandle<()>,
}

impl Provider {
    async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    async fn at(address: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers: Arc<Mutex<BTreeMap<String, Answer>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (known, log) = (Arc::clone(&answers), Arc::clone(&asked));
        let answer = move |uri: Uri| {
            log.lock().unwrap().push(uri.path().to_owned());
            let nothing = (StatusCode::NOT_FOUND, String::new(), String::new());
            let (status, to, body) = known.lock().unwrap().get(uri.path()).cloned().unwrap_or(nothing);
            async move { (status, [(header::LOCATION, to)], body) }
        };
        let router = Router::new().fallback(answer);
        let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, answers, asked, served }
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    fn answer(&self, path: &str, status: u16, to: &str, body: &str) {
        let answer = (StatusCode::from_u16(status).unwrap(), to.to_owned(), body.to_owned());
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn serves_keys(&self, keys: &[(&str, &KeyPair)]) {
        self.answer("/keys", 200, "", &jwks(keys));
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.served.abort();
    }
}

fn jwks(keys: &[(&str, &KeyPair)]) -> String {
    let key = |(id, key): &(&str, &KeyPair)| {
        let x = URL_SAFE_NO_PAD.encode(key.public_key_raw());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": id, "x": x})
    };
    json!({"keys": keys.iter().map(key).collect::<Vec<_>>()}).to_string()
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}

fn now() -> Timestamp {
    SystemClock::default().wall()
}

fn token(issuer: &str, id: &str, key: &KeyPair) -> String {
    let seconds = now().millis() / 1000;
    let header = json!({"alg": "EdDSA", "kid": id}).to_string();
    let claims = json!({"iss": issuer, "aud": "countersign", "sub": "alice", "exp": seconds + 3600}).to_string();
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_ed_pem(key.serialize_pem().as_bytes()).unwrap();
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::EdDSA).unwrap();
    format!("{message}.{signature}")
}

/// Who believes one issuer, with its tasks; they end with it.
struct World {
    authenticator: Arc<Authenticator>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl World {
    fn new(issuer: &str, keys: &str) -> Self {
        Self::changed(issuer, keys, |_| {})
    }

    /// With what a configuration file could not say, because a test would have to wait for it.
    fn changed(issuer: &str, keys: &str, change: impl Fn(&mut IssuerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let toml = format!(
            "[tenants.acme]\nbundle = \"acme\"\nlog_origin = \"o\"\n[[tenants.acme.issuers]]\nissuer = \"{issuer}\"\n\
             audience = \"countersign\"\nalgorithms = [\"EdDSA\"]\nsubjects = [\"person\"]\n{keys}\n"
        );
        let path = dir.path().join("c.toml");
        std::fs::write(&path, toml).unwrap();
        let mut config = Config::load(Some(&path), &Overrides::default()).unwrap();
        config.tenants.values_mut().flat_map(|tenant| &mut tenant.issuers).for_each(change);
        let authenticator = Arc::new(Authenticator::new(&config).unwrap());
        let tasks = authenticator.upkeep().into_iter().map(tokio::spawn).collect();
        Self { authenticator, tasks }
    }

    async fn verify(&self, token: &str) -> Result<(), CredentialError> {
        self.authenticator.authenticate(token, now).await.map(drop)
    }

    async fn until(&self, token: &str, expected: Result<(), CredentialError>) {
        let waiting = async {
            while self.verify(token).await != expected {
                tokio::task::yield_now().await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(seen.is_ok(), "never {expected:?}, but {:?}", self.verify(token).await);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn discovery(issuer: &str, jwks_uri: &str) -> String {
    json!({"issuer": issuer, "jwks_uri": jwks_uri, "response_types_supported": ["code"]}).to_string()
}

const DOCUMENT: &str = "/.well-known/openid-configuration";

#[tokio::test]
async fn keys_are_fetched_from_where_the_configuration_or_its_issuer_says() {
    let (provider, key, stolen) = (Provider::start().await, key(), key());
    let issuer = provider.issuer();
    provider.serves_keys(&[("k1", &key)]);
    provider.answer(DOCUMENT, 200, "", &discovery(&issuer, &format!("{issuer}/keys")));
    for keys in [format!("jwks_uri = \"{issuer}/keys\""), "discovery = true".to_owned()] {
        let world = World::new(&issuer, &keys);
        // The first one waits for the first fetch.
        assert_eq!(world.verify(&token(&issuer, "k1", &key)).await, Ok(()), "{keys}");
        assert_eq!(world.verify(&token(&issuer, "k1", &stolen)).await, Err(CredentialError::Signature));
    }
}

#[tokio::test]
async fn a_flood_of_unknown_keys_makes_one_fetch_and_delays_nobody() {
    let (provider, key) = (Provider::start().await, key());
    let issuer = provider.issuer();
    provider.serves_keys(&[("k1", &key)]);
    let world = World::new(&issuer, &format!("jwks_uri = \"{issuer}/keys\""));
    let known = token(&issuer, "k1", &key);
    assert_eq!(world.verify(&known).await, Ok(()));
    let begun = std::time::Instant::now();
    let mut flood = Vec::new();
    for number in 0..1000 {
        let (authenticator, token) =
            (Arc::clone(&world.authenticator), token(&issuer, &format!("made-up-{number}"), &key));
        flood.push(tokio::spawn(async move { authenticator.authenticate(&token, now).await.map(drop) }));
        // Nothing to wait for: no task of the runtime runs in between.
        assert!(world.authenticator.verify(&known, now()).is_ok());
    }
    for refused in flood {
        assert_eq!(refused.await.unwrap(), Err(CredentialError::Key));
    }
    // One at the start, and then one for each pause that the flood lasted.
    let pauses = usize::try_from(begun.elapsed().as_secs() / PAUSE.as_secs()).unwrap();
    assert!(provider.asked("/keys") <= 2 + pauses, "{} fetches", provider.asked("/keys"));
}

#[tokio::test]
async fn a_key_that_comes_is_fetched_when_it_is_used_and_one_that_goes_ends_what_it_verified() {
    let (provider, first, second) = (Provider::start().await, key(), key());
    let issuer = provider.issuer();
    provider.serves_keys(&[("k1", &first)]);
    let world = World::new(&issuer, &format!("jwks_uri = \"{issuer}/keys\""));
    let (old, new) = (token(&issuer, "k1", &first), token(&issuer, "k2", &second));
    assert_eq!(world.verify(&old).await, Ok(()));
    provider.serves_keys(&[("k2", &second)]);
    world.until(&new, Ok(())).await;
    // It was remembered as verified, by a key that is no longer one.
    assert_eq!(world.verify(&old).await, Err(CredentialError::Key));
}

#[tokio::test]
async fn a_key_that_is_withdrawn_goes_though_another_in_the_set_cannot_be_used() {
    let (provider, first, second) = (Provider::start().await, key(), key());
    let issuer = provider.issuer();
    provider.serves_keys(&[("k1", &first), ("k2", &second)]);
    let change = |config: &mut IssuerConfig| config.refresh_seconds = 1;
    let world = World::changed(&issuer, &format!("jwks_uri = \"{issuer}/keys\""), change);
    let (stolen, good) = (token(&issuer, "k1", &first), token(&issuer, "k2", &second));
    assert_eq!(world.verify(&stolen).await, Ok(()));
    let mut set: Value = serde_json::from_str(&jwks(&[("k2", &second)])).unwrap();
    let unusable = [json!({"kty": "EC", "crv": "P-256", "kid": "k3"}), json!({"kty": "RSA", "n": 5}), json!(null)];
    set["keys"].as_array_mut().unwrap().extend(unusable);
    provider.answer("/keys", 200, "", &set.to_string());
    world.until(&stolen, Err(CredentialError::Key)).await;
    assert_eq!(world.verify(&good).await, Ok(()));
}

#[tokio::test]
async fn a_key_that_comes_without_an_id_is_fetched_when_it_is_used() {
    let (provider, first, second) = (Provider::start().await, key(), key());
    let issuer = provider.issuer();
    let nameless = |key: &KeyPair| jwks(&[("k", key)]).replace("\"kid\":\"k\",", "");
    provider.answer("/keys", 200, "", &nameless(&first));
    let world = World::new(&issuer, &format!("jwks_uri = \"{issuer}/keys\""));
    assert_eq!(world.verify(&token(&issuer, "any", &first)).await, Ok(()));
    provider.answer("/keys", 200, "", &nameless(&second));
    world.until(&token(&issuer, "any", &second), Ok(())).await;
}

#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_is_unavailable_until_it_is_up() {
    let key = key();
    let address = Provider::start().await.address;
    let issuer = format!("http://{address}");
    let world = World::new(&issuer, &format!("jwks_uri = \"{issuer}/keys\""));
    let token = token(&issuer, "k1", &key);
    world.until(&token, Err(CredentialError::IssuerUnavailable("the issuer cannot be reached"))).await;
    let provider = Provider::at(address).await;
    provider.serves_keys(&[("k1", &key)]);
    world.until(&token, Ok(())).await;
}

#[tokio::test]
async fn what_was_fetched_is_used_while_fetching_fails_and_not_for_ever() {
    let (provider, key) = (Provider::start().await, key());
    let issuer = provider.issuer();
    provider.serves_keys(&[("k1", &key)]);
    let change = |config: &mut IssuerConfig| (config.refresh_seconds, config.stale_seconds) = (1, 3600);
    let world = World::changed(&issuer, &format!("jwks_uri = \"{issuer}/keys\""), change);
    let token = token(&issuer, "k1", &key);
    assert_eq!(world.verify(&token).await, Ok(()));
    let fetched_before = now();
    provider.answer("/keys", 500, "", "");
    let asked = provider.asked("/keys");
    let failing = async {
        while provider.asked("/keys") < asked + 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, failing).await.unwrap();
    assert_eq!(world.verify(&token).await, Ok(()));
    // At the bound of the last good fetch, which was not after this.
    let bound = fetched_before.plus(Duration::from_secs(3599));
    let refused = world.authenticator.verify(&token, bound.plus(Duration::from_secs(1)));
    assert_eq!(
        refused.map(drop),
        Err(CredentialError::IssuerUnavailable("the issuer answers with an error or a redirect"))
    );
    // They are good again with the next fetch.
    provider.serves_keys(&[("k1", &key)]);
    world.until(&token, Ok(())).await;
}

#[tokio::test]
async fn what_an_issuer_may_not_answer_is_refused() {
    let (provider, elsewhere, key) = (Provider::start().await, Provider::start().await, key());
    let (issuer, other) = (provider.issuer(), elsewhere.issuer());
    elsewhere.serves_keys(&[("k1", &key)]);
    let good = jwks(&[("k1", &key)]);
    let large = format!("{}{}", " ".repeat(1024 * 1024), good);
    let to = format!("{other}/keys");
    for (status, to, body, expected) in [
        (302, to.as_str(), "", "the issuer answers with an error or a redirect"),
        (307, to.as_str(), "", "the issuer answers with an error or a redirect"),
        (404, "", &good, "the issuer answers with an error or a redirect"),
        (204, "", "", "the issuer answers with an error or a redirect"),
        (200, "", &large, "the issuer's answer is too large"),
        (200, "", "", "its key set cannot be used"),
        (200, "", "{\"keys\": []}", "its key set cannot be used"),
        (200, "", &good[..good.len() - 1], "its key set cannot be used"),
    ] {
        provider.answer("/keys", status, to, body);
        let world = World::new(&issuer, &format!("jwks_uri = \"{issuer}/keys\""));
        world.until(&token(&issuer, "k1", &key), Err(CredentialError::IssuerUnavailable(expected))).await;
    }
    for (document, expected) in [
        (discovery(&other, &format!("{issuer}/keys")), "its discovery document names another issuer"),
        (discovery(&format!("{issuer}/"), &format!("{issuer}/keys")), "its discovery document names another issuer"),
        (discovery(&issuer, "http://10.0.0.1/keys"), "its discovery document cannot be used"),
        (discovery(&issuer, "file:///etc/passwd"), "its discovery document cannot be used"),
        (json!({"issuer": issuer}).to_string(), "its discovery document cannot be used"),
        (Value::Null.to_string(), "its discovery document cannot be used"),
    ] {
        provider.answer(DOCUMENT, 200, "", &document);
        let world = World::new(&issuer, "discovery = true");
        world.until(&token(&issuer, "k1", &key), Err(CredentialError::IssuerUnavailable(expected))).await;
    }
    assert_eq!(elsewhere.asked("/keys"), 0, "a redirect was followed");
}

#[tokio::test]
async fn nobody_is_asked_because_a_token_says_so() {
    let (provider, evil, key) = (Provider::start().await, Provider::start().await, key());
    let issuer = provider.issuer();
    provider.serves_keys(&[("k1", &key)]);
    evil.serves_keys(&[("k2", &key)]);
    let world = World::new(&issuer, &format!("jwks_uri = \"{issuer}/keys\""));
    assert_eq!(world.verify(&token(&issuer, "k1", &key)).await, Ok(()));
    let asked = provider.asked("/keys");
    let stranger = token(&evil.issuer(), "k2", &key);
    assert_eq!(world.verify(&stranger).await, Err(CredentialError::Issuer));
    assert_eq!(evil.asked.lock().unwrap().len(), 0);
    assert_eq!(provider.asked("/keys"), asked);
}
