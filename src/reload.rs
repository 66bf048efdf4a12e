//! Files that are read again when they change, without a restart.
//!
//! A file is looked at every few seconds, through links, since Kubernetes exchanges a link and not a file; on SIGHUP it is read
//! at once. What cannot be used changes nothing, and is said loudly.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::http::metrics as names;

/// How often files are looked at. What has changed must look the same twice: it may still be being written.
const LOOK: Duration = Duration::from_secs(2);

/// What tells whether a file is another one than before: device, inode, size, and the time of its last change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Files that belong together.
pub struct Followed {
    /// The key of the configuration that names them.
    pub key: &'static str,
    /// Where they are.
    pub paths: Vec<PathBuf>,
    /// Reads them and takes what they hold. Answers whether it is something else than before, or what is wrong with it. May block.
    pub read: Arc<dyn Fn() -> Result<bool, String> + Send + Sync>,
}

impl Followed {
    /// Follows them for ever.
    pub async fn follow(self) {
        let mut hangup = hangup();
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What changed since it was read at the start is noticed too: nothing was seen yet.
        let (mut seen, mut noticed) = (None, None);
        let mut told = String::new();
        loop {
            let at_once = tokio::select! {
                _ = ticks.tick() => false,
                () = signalled(&mut hangup) => true,
            };
            let now = Some(self.stamps().await);
            let settled = now == noticed;
            noticed.clone_from(&now);
            if !at_once && (now == seen || !settled) {
                continue;
            }
            seen = now;
            self.read_again(&mut told).await;
        }
    }

    async fn stamps(&self) -> Vec<Stamp> {
        let paths = self.paths.clone();
        let look = move || paths.iter().map(|path| stamp(path)).collect();
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    async fn read_again(&self, told: &mut String) {
        let read = Arc::clone(&self.read);
        let result = tokio::task::spawn_blocking(move || read()).await.unwrap_or_else(|error| Err(error.to_string()));
        let key = self.key;
        match result {
            Ok(changed) => {
                if changed {
                    tracing::info!(key, paths = ?self.paths, "changed files are in use");
                }
                told.clear();
            }
            Err(problem) => {
                metrics::counter!(names::FILES_REFUSED_TOTAL, "key" => key).increment(1);
                if problem != *told {
                    tracing::error!(key, problem, "changed files are refused; what was read before stays in use");
                }
                *told = problem;
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
}

fn hangup() -> Option<Signal> {
    let waiting = signal(SignalKind::hangup());
    waiting.inspect_err(|error| tracing::warn!(%error, "cannot wait for SIGHUP; files are looked at all the same")).ok()
}

async fn signalled(hangup: &mut Option<Signal>) {
    let received = match hangup {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending().await
    }
}
