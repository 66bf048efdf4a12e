//! A witness to run elsewhere (C2SP tlog-witness): it cosigns a checkpoint only if it continues the one before, and remembers
//! that it did before it answers.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use countersign_audit::{AddCheckpoint, Checkpoint, Cosigner, MAX_NOTE_BYTES, NoteVerifier, Refusal, SignedCheckpoint};
use countersign_core::Clock as _;
use countersign_core::time::SystemClock;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::keystore::write_atomically;

/// The longest question, in bytes: a note, and a proof of 63 lines.
const MAX_QUESTION: usize = MAX_NOTE_BYTES + 8 * 1024;
/// How long one question may take to come, so that nobody holds connections by being slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no witness.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The directory cannot be used.
    #[error("`{path}`: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Another witness uses the directory.
    #[error(
        "`{0}` is another witness's, who is running: two that share a key and do not know of each other would cosign two histories"
    )]
    InUse(PathBuf),
    /// What was remembered is gone.
    #[error(
        "`{0}` is missing beside a key that has cosigned: without it, the key would cosign whatever comes first. Make a new witness"
    )]
    Forgotten(PathBuf),
    /// A file is not what it should be.
    #[error("`{path}` is damaged: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The key has another name.
    #[error("the key in `{path}` is of `{found}`; leave out `--name`, or make another witness")]
    OtherName {
        /// The file.
        path: PathBuf,
        /// Its name.
        found: String,
    },
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] countersign_audit::KeyError),
    /// There is no randomness.
    #[error("there is no randomness: {0}")]
    Randomness(String),
}

/// What was cosigned last, of each log.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    version: u32,
    /// The log's checkpoint as it came, by its origin.
    logs: BTreeMap<String, String>,
}

const VERSION: u32 = 1;

/// A witness: a key, the logs that it watches, and what it remembers of them.
#[derive(Debug)]
pub struct Witness {
    cosigner: Cosigner,
    logs: Vec<NoteVerifier>,
    path: PathBuf,
    /// Held from looking at what was cosigned until the next is durable: two questions at once are one after the other.
    latest: Mutex<BTreeMap<String, SignedCheckpoint>>,
    /// Held as long as the witness lives.
    _lock: File,
}

/// What comes of a question.
#[derive(Debug)]
pub enum Answered {
    /// The cosignature line.
    Cosigned(String),
    /// Why not.
    Refused(Refusal),
    /// It cannot be remembered, so it is not said.
    Failed(io::Error),
}

impl Witness {
    /// The witness whose key and memory are in a directory; made there the first time, under this name.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn open(dir: &Path, name: Option<&str>, logs: Vec<NoteVerifier>) -> Result<Self, WitnessError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| WitnessError::Io { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let lock = dir.join("lock");
        let held =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock).map_err(at(&lock))?;
        held.try_lock().map_err(|_| WitnessError::InUse(dir.to_owned()))?;
        let (key, path) = (dir.join("key"), dir.join("witnessed.json"));
        if !key.exists() {
            // The memory first: a key without one is never used, and one that has cosigned nothing needs none yet.
            write_remembered(&path, &BTreeMap::new()).map_err(at(&path))?;
            let mut seed = zeroize::Zeroizing::new([0; 32]);
            getrandom::fill(&mut *seed).map_err(|error| WitnessError::Randomness(error.to_string()))?;
            let made = Cosigner::from_seed(name.unwrap_or("countersign-witness"), &seed)?;
            let text = zeroize::Zeroizing::new(format!("{}\n", *made.private_text()));
            write_atomically(&key, text.as_bytes(), 0o600).map_err(at(&key))?;
        }
        let text = zeroize::Zeroizing::new(fs::read_to_string(&key).map_err(at(&key))?);
        let cosigner: Cosigner = text
            .trim()
            .parse()
            .map_err(|error| WitnessError::Damaged { path: key.clone(), problem: format!("{error}") })?;
        if name.is_some_and(|name| name != cosigner.verifier().name()) {
            return Err(WitnessError::OtherName { path: key, found: cosigner.verifier().name().to_owned() });
        }
        if !path.exists() {
            return Err(WitnessError::Forgotten(path));
        }
        let latest = read_remembered(&path)?;
        Ok(Self { cosigner, logs, path, latest: Mutex::new(latest), _lock: held })
    }

    /// How its cosignatures are verified.
    #[must_use]
    pub fn verifier(&self) -> String {
        self.cosigner.verifier().to_string()
    }

    /// Answers a question. Blocks until what it cosigns is durable.
    pub fn answer(&self, question: &AddCheckpoint, seconds: u64) -> Answered {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = question.checkpoint.unverified().origin();
        let judged = question.judge(&self.logs, latest.get(origin).map(SignedCheckpoint::unverified));
        let new: &Checkpoint = match judged {
            Ok(new) => new,
            Err(refusal) => return Answered::Refused(refusal),
        };
        let known = latest.get(origin).is_some_and(|known| known.unverified().size() == new.size());
        if !known {
            let mut next = latest.clone();
            next.insert(origin.to_owned(), question.checkpoint.clone());
            // If this fails, it may be there or not; what is believed here is the older one, which refuses more.
            if let Err(error) = write_remembered(&self.path, &next) {
                return Answered::Failed(error);
            }
            *latest = next;
        }
        Answered::Cosigned(format!("{}\n", self.cosigner.cosign(question.checkpoint.note().text(), seconds)))
    }
}

fn write_remembered(path: &Path, latest: &BTreeMap<String, SignedCheckpoint>) -> io::Result<()> {
    let logs = latest.iter().map(|(origin, note)| (origin.clone(), note.to_string())).collect();
    let text = serde_json::to_vec_pretty(&Remembered { version: VERSION, logs })?;
    write_atomically(path, &text, 0o600)
}

fn read_remembered(path: &Path) -> Result<BTreeMap<String, SignedCheckpoint>, WitnessError> {
    let damaged = |problem: String| WitnessError::Damaged { path: path.to_owned(), problem };
    let text = fs::read(path).map_err(|source| WitnessError::Io { path: path.to_owned(), source })?;
    let remembered: Remembered = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if remembered.version != VERSION {
        return Err(damaged(format!("it has the version {}", remembered.version)));
    }
    let parse = |(origin, note): (String, String)| {
        let note = SignedCheckpoint::parse(note.as_bytes()).map_err(|error| damaged(error.to_string()))?;
        if note.unverified().origin() == origin {
            Ok((origin, note))
        } else {
            Err(damaged("a log is under another's name".to_owned()))
        }
    };
    remembered.logs.into_iter().map(parse).collect()
}

/// Serves a witness in plain HTTP until `shutdown` is done: a proxy in front of it speaks TLS. Nothing of it is secret, and what
/// it answers is signed.
///
/// # Errors
/// What the operating system says when the listener fails.
pub async fn serve(
    listener: TcpListener,
    witness: Arc<Witness>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/", get(async |State(witness): State<Arc<Witness>>| format!("{}\n", witness.verifier())))
        .with_state(witness);
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

async fn add_checkpoint(State(witness): State<Arc<Witness>>, request: Request<Body>) -> Response {
    let body = match tokio::time::timeout(PATIENCE, to_bytes(request.into_body(), MAX_QUESTION)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return refused(StatusCode::PAYLOAD_TOO_LARGE, "the question is too long, or broke off"),
        Err(_elapsed) => return refused(StatusCode::REQUEST_TIMEOUT, "the question did not come in time"),
    };
    let question = match AddCheckpoint::parse(&body) {
        Ok(question) => question,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let seconds = u64::try_from(SystemClock::default().wall().millis().div_euclid(1_000)).unwrap_or_default();
    let answering = tokio::task::spawn_blocking(move || {
        let answered = witness.answer(&question, seconds);
        let checkpoint = question.checkpoint.unverified();
        let (origin, size) = (checkpoint.origin().to_owned(), checkpoint.size());
        (answered, origin, size)
    });
    match answering.await {
        Ok((Answered::Cosigned(lines), origin, size)) => {
            tracing::info!(origin, size, "cosigned");
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], lines).into_response()
        }
        Ok((Answered::Refused(refusal), origin, size)) => {
            tracing::warn!(origin, size, %refusal, "refused");
            refusal_of(&refusal)
        }
        Ok((Answered::Failed(error), ..)) => {
            tracing::error!(%error, "cannot remember a checkpoint, so it is not cosigned");
            refused(StatusCode::INTERNAL_SERVER_ERROR, "the checkpoint cannot be remembered, so it is not cosigned")
        }
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "the answer broke off"),
    }
}

fn refusal_of(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::UnknownLog { .. } => StatusCode::NOT_FOUND,
        Refusal::NotTheLogs(_) => StatusCode::FORBIDDEN,
        Refusal::OldAbove { .. } => StatusCode::BAD_REQUEST,
        Refusal::OtherSize { size } => {
            let kind = [(header::CONTENT_TYPE, "text/x.tlog.size")];
            return (StatusCode::CONFLICT, kind, format!("{size}\n")).into_response();
        }
        Refusal::OtherRoot { .. } => StatusCode::CONFLICT,
        Refusal::NotContinued(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    refused(status, &refusal.to_string())
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{why}\n")).into_response()
}

#[cfg(test)]
mod tests;
