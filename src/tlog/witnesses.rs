//! Witnesses, asked to cosign (C2SP tlog-witness, as a client).

use std::time::Duration;

use countersign_audit::{AddCheckpoint, CosignatureVerifier, NoteSignature, SignedCheckpoint};
use countersign_engine::{Engine, Error};
use countersign_store::RocksKernel;
use http::StatusCode;
use reqwest::{Client, Response, Url};

use crate::config::WitnessConfig;
use crate::outgoing::{self, AuthoritiesError};

/// How much of an answer is read, in bytes: a few signature lines.
const MAX_ANSWER: usize = 64 * 1024;

/// Why a witness did not cosign.
#[derive(Debug, thiserror::Error)]
pub enum WitnessTrouble {
    /// It was not reached, or broke off.
    #[error("not reached: {0}")]
    Unreached(String),
    /// It has seen a larger log than this one is.
    #[error(
        "it has cosigned {size} records, which is more than this log has: the log was restored from an older copy, or there are two of it"
    )]
    Ahead {
        /// The size that it cosigned.
        size: u64,
    },
    /// It refuses.
    #[error("it answered {status}{}", hint(*.status))]
    Refused {
        /// The status of HTTP.
        status: u16,
    },
    /// What it answers is no cosignature of its key.
    #[error("its answer holds no cosignature of its key; check `key`")]
    NoCosignature,
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] Error),
}

/// What a status of the protocol means for whoever reads the log.
const fn hint(status: u16) -> &'static str {
    match status {
        403 => ": it knows another key of this log",
        404 => ": it does not watch this log; have its operator add the log's key",
        409 => ": it has cosigned another history of this log",
        422 => ": it does not take the log to continue what it cosigned",
        _ => "",
    }
}

/// What came of asking one witness.
pub struct Asked {
    /// The name of its key.
    pub name: String,
    /// Its cosignature.
    pub answer: Result<NoteSignature, WitnessTrouble>,
}

/// A witness.
#[derive(Debug)]
pub struct WitnessClient {
    url: Url,
    key: CosignatureVerifier,
    client: Client,
    timeout: Duration,
    /// The size that it cosigned last, as far as is known.
    known: Option<u64>,
}

impl WitnessClient {
    /// The witness that the configuration names.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn new(config: &WitnessConfig) -> Result<Self, String> {
        let WitnessConfig { url, key, ca, timeout_seconds } = config;
        let url = Url::parse(&format!("{}/add-checkpoint", url.trim_end_matches('/'))).map_err(|e| e.to_string())?;
        let key = key.parse().map_err(|error| format!("its key: {error}"))?;
        let timeout = Duration::from_secs((*timeout_seconds).into());
        let client = outgoing::client(&url, ca.as_deref()).map_err(|error| match error {
            AuthoritiesError::Read(error) => format!("its `ca` cannot be read: {error}"),
            AuthoritiesError::Pem => "its `ca` is not valid PEM".to_owned(),
            AuthoritiesError::None => "its `ca` holds no `CERTIFICATE`".to_owned(),
        })?;
        let client = client
            .retry(reqwest::retry::never())
            .https_only(url.scheme() == "https")
            .connect_timeout(timeout)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { url, key, client, timeout, known: None })
    }

    /// Has it cosign a checkpoint of the log. `published` is the size that others can see, which it has probably cosigned.
    pub async fn cosign(&mut self, engine: &Engine<RocksKernel>, published: u64, note: &SignedCheckpoint) -> Asked {
        let name = self.key.name().to_owned();
        let asking = self.ask(engine, published, note);
        let answer = match tokio::time::timeout(self.timeout, asking).await {
            Ok(Ok((line, size))) => {
                self.known = Some(size);
                Ok(line)
            }
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(WitnessTrouble::Unreached("no answer in time".to_owned())),
        };
        Asked { name, answer }
    }

    async fn ask(
        &self,
        engine: &Engine<RocksKernel>,
        published: u64,
        note: &SignedCheckpoint,
    ) -> Result<(NoteSignature, u64), WitnessTrouble> {
        let size = note.unverified().size();
        let mut old = self.known.unwrap_or(published).min(size);
        // It says once what it has; if it then has something else, somebody else asks it, too, and the next turn is soon.
        for told in [false, true] {
            let proof = engine.log_continues(old, size).await?;
            let body = AddCheckpoint { old_size: old, proof, checkpoint: note.clone() }.to_string();
            let sending = self.client.post(self.url.clone()).body(body).send();
            let response = sending.await.map_err(|error| WitnessTrouble::Unreached(cause(&error.without_url())))?;
            let status = response.status();
            let sized =
                response.headers().get(http::header::CONTENT_TYPE).is_some_and(|kind| kind == "text/x.tlog.size");
            if status == StatusCode::CONFLICT && sized && !told {
                let has: Option<u64> = text(response).await?.trim_end_matches('\n').parse().ok();
                match has {
                    Some(has) if has > size => return Err(WitnessTrouble::Ahead { size: has }),
                    Some(has) if has != old => {
                        old = has;
                        continue;
                    }
                    Some(_) | None => return Err(WitnessTrouble::Refused { status: status.as_u16() }),
                }
            }
            if status != StatusCode::OK {
                return Err(WitnessTrouble::Refused { status: status.as_u16() });
            }
            let answer = text(response).await?;
            let lines = answer.lines().filter_map(NoteSignature::parse);
            let own = lines.into_iter().find(|line| self.key.check(note.note().text(), line).is_ok());
            return own.map(|line| (line, size)).ok_or(WitnessTrouble::NoCosignature);
        }
        Err(WitnessTrouble::Refused { status: StatusCode::CONFLICT.as_u16() })
    }
}

/// The beginning of an answer, as far as one is read.
async fn text(mut response: Response) -> Result<String, WitnessTrouble> {
    let mut body = Vec::new();
    let broken = |error: reqwest::Error| WitnessTrouble::Unreached(cause(&error.without_url()));
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err(WitnessTrouble::Unreached("its answer is too long".to_owned()));
        }
    }
    String::from_utf8(body).map_err(|_| WitnessTrouble::NoCosignature)
}

/// The innermost cause, which says what went wrong.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
