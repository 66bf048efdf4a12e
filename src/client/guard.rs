//! The guard of an enforcement point.

use std::future::Future;

use super::calls::Client;
use super::error::ClientError;
use crate::proto::{CompleteRequest, Operation, Outcome, RedeemRequest};

/// What became of an action that was not plainly done.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError<T, E> {
    /// The capability was not spent by this call. The action did not run.
    #[error("the action did not run: {0}")]
    Refused(ClientError),
    /// The capability was spent, but the receipt is a replay: the reply to an earlier attempt was lost, and a replay never
    /// authorizes. The action did not run, and cannot with this capability: decide again.
    #[error("the action did not run: the receipt of `{capability_id}` is a replay, which authorizes nothing")]
    Replayed {
        /// The capability that is spent.
        capability_id: String,
    },
    /// The action ran and failed; that was reported.
    #[error("the action failed: {0}")]
    Failed(E),
    /// The action ran, but its outcome could not be reported. The server lists it as *outcome unknown* once the deadline
    /// has passed; until then it can be reported with [`Client::complete`].
    #[error("the action ran, but its outcome could not be reported: {report}")]
    Unreported {
        /// The capability that was spent.
        capability_id: String,
        /// What the action itself returned.
        result: Result<T, E>,
        /// Why the report failed.
        report: ClientError,
    },
}

impl Client {
    /// Runs an action only if its capability is spent on exactly that: redeem, refuse a replay, run, report the outcome.
    ///
    /// `operation` is what is about to run, taken from what will be executed and not from what was asked for; `audience` is
    /// this enforcement point's own name. If the future is dropped, or `run` panics, while the action runs, no outcome is
    /// reported, which is the truth: nobody knows it.
    ///
    /// # Errors
    /// [`EnforceError`]; the action ran only with [`EnforceError::Failed`] and [`EnforceError::Unreported`].
    pub async fn enforce<T, E, F>(
        &self,
        token: &str,
        operation: Operation,
        audience: &str,
        run: impl FnOnce() -> F,
    ) -> Result<T, EnforceError<T, E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let redeem = RedeemRequest {
            token: token.to_owned(),
            operation: Some(operation),
            audience: audience.to_owned(),
            ..RedeemRequest::default()
        };
        self.enforce_redeem(redeem, run).await
    }

    /// As [`Client::enforce`], for a capability that is bound to a key: with the proof that its holder signed, and the request id
    /// that it was signed for.
    ///
    /// # Errors
    /// As [`Client::enforce`].
    pub async fn enforce_redeem<T, E, F>(
        &self,
        redeem: RedeemRequest,
        run: impl FnOnce() -> F,
    ) -> Result<T, EnforceError<T, E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let receipt = self.redeem(redeem).await.map_err(EnforceError::Refused)?;
        if receipt.replayed {
            return Err(EnforceError::Replayed { capability_id: receipt.capability_id });
        }
        let result = run().await;
        let complete = CompleteRequest {
            capability_id: receipt.capability_id.clone(),
            outcome: if result.is_ok() { Outcome::Succeeded } else { Outcome::Failed }.into(),
            ..CompleteRequest::default()
        };
        match (self.complete(complete).await, result) {
            (Ok(_reported), Ok(done)) => Ok(done),
            (Ok(_reported), Err(error)) => Err(EnforceError::Failed(error)),
            (Err(report), result) => {
                Err(EnforceError::Unreported { capability_id: receipt.capability_id, result, report })
            }
        }
    }
}
