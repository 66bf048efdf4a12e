//! A receiver of webhooks that does what a test says.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::harness::PATIENCE;

/// What it answers.
#[derive(Debug, Clone)]
pub enum Behaviour {
    Take,
    Answer(u16),
    /// 307 to another place.
    Redirect(String),
    /// 200 and a body without an end.
    Endless,
    /// Nothing, for ever.
    Hang,
}

/// What came.
#[derive(Debug, Clone)]
pub struct Received {
    pub headers: HeaderMap,
    pub body: String,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}")).to_str().unwrap()
    }

    pub fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// `asked`, `voted`, …
    pub fn kind(&self) -> String {
        let kind = self.event()["type"].as_str().unwrap().to_owned();
        kind.strip_prefix("countersign.approval.").unwrap().strip_suffix(".v1").unwrap().to_owned()
    }

    /// Whether one of the signatures is by this key, on what came and not on what it means.
    pub fn is_signed_by(&self, key: &[u8]) -> bool {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp")).as_bytes());
        mac.update(self.body.as_bytes());
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.header("webhook-signature").split(' ').any(|one| one == expected)
    }
}

/// A receiver on loopback; it ends with the value.
pub struct Receiver {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    received: watch::Sender<Vec<Received>>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub async fn new(behaviour: Behaviour) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), behaviour).await
    }

    pub async fn at(address: SocketAddr, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { behaviour: Mutex::new(behaviour), received: watch::Sender::new(Vec::new()) });
        let router = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, task }
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    /// A webhook to here, as a table of the configuration.
    pub fn sink(&self, name: &str, keys: &[&Path], more: &str) -> String {
        sink(name, self.address, keys, more)
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.borrow().clone()
    }

    /// Waits for so many different notifications about a request, and gives them in the order in which they came first.
    pub async fn told(&self, approval: &str, count: usize) -> Vec<Received> {
        let mut received = self.shared.received.subscribe();
        let fits = |all: &Vec<Received>| first_of_each(all, approval).len() >= count;
        let waited = tokio::time::timeout(PATIENCE, received.wait_for(fits)).await;
        assert!(waited.is_ok(), "{count} of {approval} never came: {:?}", self.received());
        drop(waited);
        first_of_each(&self.received(), approval)
    }

    /// Waits until anything was tried.
    pub async fn tried(&self) {
        let mut received = self.shared.received.subscribe();
        let waited = tokio::time::timeout(PATIENCE, received.wait_for(|all| !all.is_empty())).await;
        assert!(waited.is_ok(), "nothing came");
    }
}

pub fn sink(name: &str, address: SocketAddr, keys: &[&Path], more: &str) -> String {
    format!(
        "[[tenants.acme.sinks]]\nname = \"{name}\"\nkind = \"webhook\"\nurl = \"http://{address}/hook\"\n\
         keys = {keys:?}\n{more}\n"
    )
}

fn first_of_each(all: &[Received], approval: &str) -> Vec<Received> {
    let mut seen = std::collections::BTreeSet::new();
    let of = all.iter().filter(|one| one.event()["subject"] == approval);
    of.filter(|one| seen.insert(one.header("webhook-id").to_owned())).cloned().collect()
}

async fn receive(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let behaviour = shared.behaviour.lock().unwrap().clone();
    let body = String::from_utf8(body.to_vec()).unwrap();
    shared.received.send_modify(|all| all.push(Received { headers, body }));
    match behaviour {
        Behaviour::Take => StatusCode::NO_CONTENT.into_response(),
        Behaviour::Answer(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Behaviour::Redirect(place) => (StatusCode::TEMPORARY_REDIRECT, [("location", place)]).into_response(),
        Behaviour::Endless => {
            let chunk = || Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 64 * 1024]));
            Body::from_stream(futures::stream::repeat_with(chunk)).into_response()
        }
        Behaviour::Hang => std::future::pending().await,
    }
}

/// A key, and the file that it is in.
pub fn key_file(dir: &Path, name: &str) -> (Vec<u8>, PathBuf) {
    let mut key = vec![0; 32];
    getrandom::fill(&mut key).unwrap();
    let path = dir.join(name);
    std::fs::write(&path, format!("whsec_{}\n", STANDARD.encode(&key))).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    (key, path)
}
