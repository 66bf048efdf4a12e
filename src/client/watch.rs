//! Waiting for people without polling.

use tonic::{Status, Streaming};

use super::calls::Client;
use super::error::ClientError;
use super::retry;
use crate::proto::approval_service_client::ApprovalServiceClient;
use crate::proto::{Approval, ApprovalState, GetApprovalRequest, WatchApprovalsRequest, WatchApprovalsResponse};

/// How many times more patient a watch is than a call: people take long, and a server may be replaced meanwhile.
const PATIENCE: u32 = 4;

/// Approval requests, as they are and whenever they change. A connection that breaks is made again where it broke off.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    approval_id: String,
    batch_id: String,
    resume_token: String,
    stream: Option<Streaming<WatchApprovalsResponse>>,
    failures: u32,
}

impl Watch {
    /// Where to go on after the last request that [`Self::next`] gave. Empty before the first.
    #[must_use]
    pub fn resume_token(&self) -> &str {
        &self.resume_token
    }

    /// The next request that is new or changed. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ClientError`] once the server refuses for good, or stays away for four times as many attempts as a call makes.
    pub async fn next(&mut self) -> Result<Approval, ClientError> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            match stream.message().await {
                Ok(Some(WatchApprovalsResponse { approval, resume_token })) => {
                    self.failures = 0;
                    self.resume_token = resume_token;
                    return approval.ok_or(ClientError::Incomplete("approval"));
                }
                // A server that shuts down in good order ends the stream; the next one continues it.
                Ok(None) => self.failed(Status::unavailable("the server ended the stream")).await?,
                Err(status) => self.failed(status).await?,
            }
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        let request = WatchApprovalsRequest {
            approval_id: self.approval_id.clone(),
            resume_token: self.resume_token.clone(),
            batch_id: self.batch_id.clone(),
        };
        // No timeout: a person may take the whole day.
        let request = self.client.request(request).await?;
        match ApprovalServiceClient::new(self.client.channel()).watch_approvals(request).await {
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
    /// Watches one request, or with `None` all that the caller asked or may answer. `resume_token` is empty, or where an
    /// earlier watch had arrived.
    #[must_use]
    pub fn watch_approvals(&self, approval_id: Option<&str>, resume_token: &str) -> Watch {
        Watch {
            client: self.clone(),
            approval_id: approval_id.unwrap_or_default().to_owned(),
            batch_id: String::new(),
            resume_token: resume_token.to_owned(),
            stream: None,
            failures: 0,
        }
    }

    /// Watches the requests that were put as one batch.
    #[must_use]
    pub fn watch_batch(&self, batch_id: &str, resume_token: &str) -> Watch {
        Watch { batch_id: batch_id.to_owned(), ..self.watch_approvals(None, resume_token) }
    }

    /// Waits until a request is no longer pending. APPROVED allows nothing by itself: decide again with the approval's id.
    /// Put `tokio::time::timeout` around it to wait no longer than you care to; the request's own expiry ends it anyway.
    ///
    /// # Errors
    /// [`ClientError`], as [`Watch::next`].
    pub async fn wait_for_approval(&self, approval_id: &str) -> Result<Approval, ClientError> {
        let mut watch = self.watch_approvals(Some(approval_id), "");
        // Asked once the watch stands: whatever happens after this answer is on the stream.
        while watch.stream.is_none() {
            watch.open().await?;
        }
        let request = GetApprovalRequest { approval_id: approval_id.to_owned() };
        let now = self.get_approval(request).await?.approval.ok_or(ClientError::Incomplete("approval"))?;
        if is_settled(now.state()) {
            return Ok(now);
        }
        loop {
            let approval = watch.next().await?;
            if approval.approval_id == approval_id && is_settled(approval.state()) {
                return Ok(approval);
            }
        }
    }
}

/// Whether people have answered, or no longer can. A state that this client does not know settles nothing.
const fn is_settled(state: ApprovalState) -> bool {
    match state {
        ApprovalState::Unspecified | ApprovalState::Pending => false,
        ApprovalState::Approved
        | ApprovalState::Denied
        | ApprovalState::Expired
        | ApprovalState::Cancelled
        | ApprovalState::Void
        | ApprovalState::Redeemed => true,
    }
}
