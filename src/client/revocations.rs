//! Being told of every revocation, for whoever caches.

use tonic::{Status, Streaming};

use super::calls::Client;
use super::error::ClientError;
use super::retry;
use crate::proto::revocation_service_client::RevocationServiceClient;
use crate::proto::{WatchRevocationsRequest, WatchRevocationsResponse};

/// How many times more patient a watch is than a call: a server may be replaced meanwhile.
const PATIENCE: u32 = 4;

/// Every revocation, and signs of life. A connection that breaks is made again where it broke off.
#[derive(Debug)]
pub struct RevocationWatch {
    client: Client,
    resume_token: String,
    stream: Option<Streaming<WatchRevocationsResponse>>,
    failures: u32,
}

impl RevocationWatch {
    /// Where to go on after the last message that [`Self::next`] gave. Empty before the first.
    #[must_use]
    pub fn resume_token(&self) -> &str {
        &self.resume_token
    }

    /// The next message. Dropping the future loses nothing. Whoever caches relies on nothing while this waits for longer than the
    /// ten seconds after which a sign of life is due.
    ///
    /// # Errors
    /// [`ClientError`] once the server refuses for good, or stays away for four times as many attempts as a call makes. After
    /// `REVOCATIONS_MISSED`, whoever caches forgets everything, and begins a new watch without a resume token.
    pub async fn next(&mut self) -> Result<WatchRevocationsResponse, ClientError> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    self.failures = 0;
                    self.resume_token.clone_from(&message.resume_token);
                    return Ok(message);
                }
                // A server that shuts down in good order ends the stream; the next one continues it.
                Ok(None) => self.failed(Status::unavailable("the server ended the stream")).await?,
                Err(status) => self.failed(status).await?,
            }
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        let request = WatchRevocationsRequest { resume_token: self.resume_token.clone() };
        // No timeout: it goes on as long as anybody caches.
        let request = self.client.request(request).await?;
        match RevocationServiceClient::new(self.client.channel()).watch_revocations(request).await {
            Ok(response) => {
                self.stream = Some(response.into_inner());
                Ok(())
            }
            Err(status) => self.failed(status).await,
        }
    }

    async fn failed(&mut self, status: Status) -> Result<(), ClientError> {
        self.stream = None;
        self.failures += 1;
        if !retry::may_retry(&status) || self.failures >= self.client.attempts().saturating_mul(PATIENCE) {
            return Err(status.into());
        }
        retry::pause(self.failures).await;
        Ok(())
    }
}

impl Client {
    /// Watches every revocation, from now on, or from where an earlier watch was.
    #[must_use]
    pub fn watch_revocations(&self, resume_token: &str) -> RevocationWatch {
        RevocationWatch { client: self.clone(), resume_token: resume_token.to_owned(), stream: None, failures: 0 }
    }
}
