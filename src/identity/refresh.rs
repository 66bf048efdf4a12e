//! Keeping the fetched keys of one issuer fresh: at intervals, and when a token takes a key that is not known.
//!
//! One task for each issuer does all fetching, so that no two are ever under way. Whoever meets an unknown key asks it, and
//! it decides whether it is time: however many unknown keys come, there is one fetch in [`PAUSE`], of one request or, with
//! discovery, two.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::Clock;
use countersign_core::time::SystemClock;
use reqwest::header::HeaderValue;
use reqwest::{Client, Url};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::address;
use super::fetch::{self, FetchError};
use super::held::KeySet;
use super::keys::{Keys, Unused};
use crate::config::{Algorithm, IssuerConfig, KeySource};
use crate::http::metrics as names;

/// The least time between the beginnings of two fetches that unknown keys ask for.
pub(super) const PAUSE: Duration = Duration::from_secs(5);
/// How long after a first failure it is tried again; twice that after the second, and so on up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest time between two attempts while fetching fails.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// The longest that one refresh may take, discovery and key set together.
const MAX_REFRESH: Duration = Duration::from_secs(15);
/// The most calls that wait for one issuer's keys at once. Further ones are refused at once.
const MAX_WAITING: usize = 64;

/// Fetches the keys of one issuer.
pub(super) struct Refresher {
    issuer: String,
    /// The configured address; absent: the one that is discovered.
    address: Option<String>,
    ca: Option<PathBuf>,
    token: Option<PathBuf>,
    algorithms: Vec<Algorithm>,
    refresh: Duration,
    stale: Duration,
    keys: Arc<KeySet>,
    wanted: Notify,
    progress: watch::Sender<Progress>,
    waiting: Semaphore,
}

/// How many fetches began and ended, and when the last one began.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    begun: u64,
    ended: u64,
    last: Option<Instant>,
}

impl Progress {
    /// Whether another fetch may be asked for.
    fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= PAUSE)
    }
}

impl Refresher {
    /// For an issuer whose keys are not in a local file.
    pub(super) fn new(config: &IssuerConfig) -> Option<Self> {
        let address = match config.key_source()? {
            KeySource::File(_) => return None,
            KeySource::Jwks(address) => Some(address.to_owned()),
            KeySource::Discovery => None,
        };
        Some(Self {
            issuer: config.issuer.clone(),
            address,
            ca: config.ca.clone(),
            token: config.jwks_token.clone(),
            algorithms: config.algorithms.clone(),
            refresh: config.refresh(),
            stale: config.stale(),
            keys: Arc::new(KeySet::none(FetchError::Nothing.word())),
            wanted: Notify::new(),
            progress: watch::Sender::default(),
            waiting: Semaphore::new(MAX_WAITING),
        })
    }

    /// The keys as they are now.
    pub(super) fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys)
    }

    /// Waits for newer keys. Answers at once that there are none, if the last fetch is too recent for another.
    pub(super) async fn refreshed(&self) -> bool {
        let mut progress = self.progress.subscribe();
        let now = *progress.borrow();
        let awaited = if now.begun > now.ended {
            now.begun
        } else if now.is_due() {
            self.wanted.notify_one();
            now.begun.saturating_add(1)
        } else {
            return false;
        };
        let Ok(_place) = self.waiting.try_acquire() else { return false };
        let ended = progress.wait_for(|progress| progress.ended >= awaited);
        matches!(tokio::time::timeout(MAX_REFRESH, ended).await, Ok(Ok(_)))
    }

    /// Fetches for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let (clock, mut failures, mut pause) = (SystemClock::default(), 0_u32, Duration::ZERO);
        loop {
            self.until_due(pause).await;
            self.progress.send_modify(|progress| {
                progress.begun = progress.begun.saturating_add(1);
                progress.last = Some(Instant::now());
            });
            let fetched = tokio::time::timeout(MAX_REFRESH, self.fetch()).await;
            match fetched.unwrap_or(Err(FetchError::Slow)) {
                Ok((keys, unused)) => {
                    failures = 0;
                    pause = self.refresh;
                    self.took(keys, &unused, &clock);
                }
                Err(error) => {
                    pause = FIRST_RETRY.saturating_mul(1 << failures.min(10)).min(MAX_RETRY).min(self.refresh);
                    failures = failures.saturating_add(1);
                    self.failed(&error, &clock);
                }
            }
            self.progress.send_modify(|progress| progress.ended = progress.begun);
        }
    }

    async fn until_due(&self, pause: Duration) {
        let due = tokio::time::sleep(pause);
        tokio::pin!(due);
        loop {
            tokio::select! {
                () = &mut due => return,
                () = self.wanted.notified() => {}
            }
            // It may have been asked for before the last fetch, by somebody whom that one has answered.
            if self.progress.borrow().is_due() {
                return;
            }
        }
    }

    async fn fetch(&self) -> Result<(Keys, Unused), FetchError> {
        let address = match &self.address {
            Some(address) => address::parse(address).map_err(FetchError::Address)?,
            None => {
                let document = address::discovery(&self.issuer).map_err(FetchError::Address)?;
                // What is configured is for `jwks_uri`: whoever writes the document is sent no token.
                let (client, _token) = self.prepared(&document).await?;
                fetch::discover(&client, &document, &self.issuer).await?
            }
        };
        let (client, token) = self.prepared(&address).await?;
        let body = fetch::get(&client, &address, token).await?;
        Keys::fetched(&body, &self.algorithms).map_err(FetchError::Keys)
    }

    /// What it takes to ask at `address`; whom a client believes depends on where it goes.
    async fn prepared(&self, address: &Url) -> Result<(Client, Option<HeaderValue>), FetchError> {
        let (ca, token, address) = (self.ca.clone(), self.token.clone(), address.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let client = fetch::client(&address, ca.as_deref())?;
            Ok((client, token.as_deref().map(fetch::bearer).transpose()?))
        });
        prepared.await.map_err(|error| FetchError::Tls(error.to_string()))?
    }

    fn took(&self, keys: Keys, unused: &Unused, clock: &SystemClock) {
        let (issuer, ids) = (self.issuer.as_str(), keys.ids());
        let changed = self.keys.take(keys, Some(clock.wall().plus(self.stale)));
        let result = if changed { "changed" } else { "unchanged" };
        metrics::counter!(names::ISSUER_KEYS_TOTAL, "issuer" => issuer.to_owned(), "result" => result).increment(1);
        if changed {
            tracing::info!(issuer, keys = ids, "issuer's keys fetched");
            if unused.is_flawed() {
                tracing::warn!(issuer, %unused, "some of the issuer's keys cannot be used");
            } else if !unused.is_empty() {
                tracing::info!(issuer, %unused, "some of the issuer's keys are for something else");
            }
        }
    }

    fn failed(&self, error: &FetchError, clock: &SystemClock) {
        let issuer = self.issuer.as_str();
        let result = error.label();
        metrics::counter!(names::ISSUER_KEYS_TOTAL, "issuer" => issuer.to_owned(), "result" => result).increment(1);
        if self.keys.keep(error.word(), clock.wall()) {
            tracing::warn!(issuer, %error, "issuer's keys not fetched; the last ones stay in use");
        } else {
            tracing::error!(issuer, %error, "issuer's keys not fetched, and there are none to use: its credentials are refused");
        }
    }
}

#[cfg(test)]
mod tests;
