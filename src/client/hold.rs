//! Keeping a session alive by a stream that stands.

use tonic::{Status, Streaming};

use super::calls::Client;
use super::error::ClientError;
use super::retry;
use crate::proto::session_service_client::SessionServiceClient;
use crate::proto::{HoldSessionRequest, HoldSessionResponse, Session};

/// A session that lives as long as this does. Dropped, or with its connection gone, the session ends at once. Only a server that
/// shuts down lets go of it without ending it; then it is held again at the next one, if that is there in time.
#[derive(Debug)]
pub struct Hold {
    client: Client,
    session_id: String,
    stream: Option<Streaming<HoldSessionResponse>>,
    failures: u32,
}

impl Hold {
    /// The session, as it is at one of the next heartbeats. It lives as well while nobody asks.
    ///
    /// # Errors
    /// [`ClientError`] once the session is over, or the server stays away.
    pub async fn next(&mut self) -> Result<Session, ClientError> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            match stream.message().await {
                Ok(Some(HoldSessionResponse { session })) => {
                    self.failures = 0;
                    return session.ok_or(ClientError::Incomplete("session"));
                }
                Ok(None) => self.failed(Status::unavailable("the server ended the stream")).await?,
                Err(status) => self.failed(status).await?,
            }
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        // No timeout: it stands as long as the session does.
        let request = self.client.request(HoldSessionRequest { session_id: self.session_id.clone() }).await?;
        match SessionServiceClient::new(self.client.channel()).hold_session(request).await {
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
        if !retry::may_retry(&status) || self.failures >= self.client.attempts() {
            return Err(status.into());
        }
        retry::pause(self.failures).await;
        Ok(())
    }
}

impl Client {
    /// Keeps a session with a heartbeat alive until the answer is dropped, which ends the session.
    #[must_use]
    pub fn hold_session(&self, session_id: &str) -> Hold {
        Hold { client: self.clone(), session_id: session_id.to_owned(), stream: None, failures: 0 }
    }
}
