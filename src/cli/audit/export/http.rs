//! A receiver over HTTP: batches by POST, each with a key that says which batch it is.

use std::path::Path;
use std::time::Duration;

use countersign::outgoing::{self, AuthoritiesError};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::Value;
use zeroize::Zeroizing;

use super::Format;
use crate::cli::Failure;

/// The variable with the receiver's bearer token.
pub const TOKEN_VARIABLE: &str = "COUNTERSIGN_EXPORT_TOKEN";
/// How long a receiver may take for a batch.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long is waited before a batch is sent again, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// How much of an answer is looked at.
const ANSWER: usize = 64 * 1_024;

/// Where batches are posted.
pub struct Receiver {
    client: Client,
    url: Url,
    token: Option<Zeroizing<String>>,
    format: Format,
    /// How often a batch is sent before the export fails; without end if absent.
    attempts: Option<u32>,
}

/// Why a batch was not taken.
enum Refused {
    /// It may be taken later.
    ForNow(String),
    /// It will not be taken.
    ForGood(String),
}

impl Receiver {
    /// The receiver at `url`, which is reached over TLS or on this machine.
    pub fn new(url: Url, ca: Option<&Path>, format: Format, attempts: Option<u32>) -> Result<Self, Failure> {
        if !outgoing::is_protected(&url) {
            return Err(Failure::usage("`--to`: records go over `https`, or over `http` to a loopback address"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Failure::usage(format!("`--to`: put the credential in {TOKEN_VARIABLE}, not in the URL")));
        }
        let client = outgoing::client(&url, ca).map_err(|error| {
            let path = ca.unwrap_or(Path::new("")).display();
            Failure::usage(match error {
                AuthoritiesError::Read(error) => format!("cannot read `{path}`: {error}"),
                AuthoritiesError::Pem => format!("`{path}` is not valid PEM"),
                AuthoritiesError::None => format!("`{path}` holds no `CERTIFICATE`"),
            })
        })?;
        let client = client
            .retry(reqwest::retry::never())
            .https_only(url.scheme() == "https")
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| Failure::new(format!("cannot make a client: {}", cause(&error))))?;
        let token = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()).map(Zeroizing::new);
        Ok(Self { client, url, token, format, attempts })
    }

    /// Posts a batch until it is acknowledged.
    pub async fn post(&self, key: &str, body: &str, mut remark: impl FnMut(&str)) -> Result<(), Failure> {
        let (mut wait, longest) = WAIT;
        let mut attempt = 1;
        loop {
            let problem = match self.send(key, body).await {
                Ok(()) => return Ok(()),
                Err(Refused::ForGood(problem)) => {
                    return Err(Failure::new(format!("the receiver does not take the batch: {problem}"))
                        .reason("RECEIVER_REFUSED")
                        .hint("mend it there, and export again: it goes on with the same batch"));
                }
                Err(Refused::ForNow(problem)) => problem,
            };
            if self.attempts.is_some_and(|attempts| attempt >= attempts) {
                return Err(Failure::new(format!("the receiver cannot take the batch: {problem}"))
                    .reason("RECEIVER_UNAVAILABLE")
                    .hint("export again later: it goes on with the same batch"));
            }
            remark(&format!("the receiver did not take the batch: {problem}; trying again"));
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
            attempt += 1;
        }
    }

    async fn send(&self, key: &str, body: &str) -> Result<(), Refused> {
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, self.format.content_type())
            .header("idempotency-key", format!("\"{key}\""))
            .body(body.to_owned());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.as_str());
        }
        let answer = request.send().await;
        let answer = answer.map_err(|error| Refused::ForNow(cause(&error.without_url())))?;
        match answer.status() {
            status if status.is_success() => match self.format {
                Format::Ocsf => Ok(()),
                Format::Otel => whole(answer).await,
            },
            status if status.is_redirection() => {
                Err(Refused::ForGood(format!("it answered {}; no redirect is followed", status.as_u16())))
            }
            status
                if status.is_server_error()
                    || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) =>
            {
                Err(Refused::ForNow(format!("it answered {}", status.as_u16())))
            }
            status => Err(Refused::ForGood(format!("it answered {}", status.as_u16()))),
        }
    }
}

/// A collector that took a part says so in its answer, and asks that nothing is sent again.
async fn whole(mut answer: Response) -> Result<(), Refused> {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        if bytes.len() + chunk.len() > ANSWER {
            break;
        }
        bytes.extend_from_slice(&chunk);
    }
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let rejected = answer.pointer("/partialSuccess/rejectedLogRecords");
    match rejected.map(|count| count.as_str().map_or_else(|| count.to_string(), str::to_owned)) {
        Some(count) if count != "0" && count != "null" => {
            Err(Refused::ForGood(format!("it rejected {} of its records", count.escape_debug())))
        }
        Some(_) | None => Ok(()),
    }
}

/// The innermost cause, which says what went wrong.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
