//! Calls of a holder: whoever has the key that a capability is bound to.

use countersign_core::Clock as _;
use countersign_core::time::SystemClock;
use countersign_token::HolderKey;
use uuid::Uuid;

use super::calls::Client;
use super::error::ClientError;
use crate::proto::{DelegateRequest, DelegateResponse, Holder, RedeemRequest, RedeemResponse, holder};

impl Client {
    /// Spends a capability that is bound to this key, as an enforcement point that is its holder. A proof is signed for the
    /// request id of this call; when it is empty a new one is made.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::reason`] tells the cases apart.
    pub async fn redeem_as(&self, key: &HolderKey, mut request: RedeemRequest) -> Result<RedeemResponse, ClientError> {
        if request.request_id.is_empty() {
            request.request_id = Uuid::now_v7().to_string();
        }
        let proof = key.prove(&request.token, &request.request_id, SystemClock::default().wall());
        request.holder_proof = proof.map_err(|error| ClientError::Configuration(error.to_string()))?;
        self.redeem(request).await
    }

    /// Exchanges a capability that is bound to this key for a sub-agent's, as [`Client::redeem_as`] spends one.
    ///
    /// # Errors
    /// As [`Client::redeem_as`].
    pub async fn delegate_as(
        &self,
        key: &HolderKey,
        mut request: DelegateRequest,
    ) -> Result<DelegateResponse, ClientError> {
        if request.request_id.is_empty() {
            request.request_id = Uuid::now_v7().to_string();
        }
        let proof = key.prove(&request.token, &request.request_id, SystemClock::default().wall());
        request.holder_proof = proof.map_err(|error| ClientError::Configuration(error.to_string()))?;
        self.delegate(request).await
    }
}

/// The holder of a key, for `DecideRequest`.
#[must_use]
pub fn holder_of(key: &HolderKey) -> Holder {
    Holder { holder: Some(holder::Holder::PublicKey(key.public().to_vec())) }
}
