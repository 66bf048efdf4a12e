//! One method for each RPC, with credential, request id and retries.

use std::future::Future;

use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::config::ClientConfig;
use super::error::ClientError;
use super::retry;
use crate::proto::approval_service_client::ApprovalServiceClient;
use crate::proto::audit_service_client::AuditServiceClient;
use crate::proto::backup_service_client::BackupServiceClient;
use crate::proto::break_glass_service_client::BreakGlassServiceClient;
use crate::proto::capability_service_client::CapabilityServiceClient;
use crate::proto::decision_service_client::DecisionServiceClient;
use crate::proto::entity_service_client::EntityServiceClient;
use crate::proto::key_service_client::KeyServiceClient;
use crate::proto::notification_service_client::NotificationServiceClient;
use crate::proto::outcome_service_client::OutcomeServiceClient;
use crate::proto::policy_service_client::PolicyServiceClient;
use crate::proto::revocation_service_client::RevocationServiceClient;
use crate::proto::session_service_client::SessionServiceClient;
use crate::proto::*;

/// A caller's connection to the server. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    config: ClientConfig,
}

impl Client {
    /// Connects, or says why that is impossible.
    ///
    /// # Errors
    /// [`ClientError::Configuration`] and [`ClientError::Unreachable`].
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let endpoint = config.endpoint()?;
        let mut attempt = 1;
        loop {
            match endpoint.connect().await {
                Ok(channel) => return Ok(Self { channel, config }),
                Err(_) if attempt < config.attempts => retry::pause(attempt).await,
                Err(error) => {
                    return Err(ClientError::Unreachable { endpoint: config.endpoint, cause: root_cause(&error) });
                }
            }
            attempt += 1;
        }
    }

    /// A client that connects at its first call: for an enforcement point that may start before the server does. Must be
    /// called within a Tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Configuration`].
    pub fn connect_lazy(config: ClientConfig) -> Result<Self, ClientError> {
        Ok(Self { channel: config.endpoint()?.connect_lazy(), config })
    }

    /// The same connection for another caller.
    #[must_use]
    pub fn with_credentials(&self, credentials: super::Credentials) -> Self {
        Self { channel: self.channel.clone(), config: self.config.clone().credentials(credentials) }
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(super) fn attempts(&self) -> u32 {
        self.config.attempts.max(1)
    }

    pub(super) async fn request<M>(&self, message: M) -> Result<Request<M>, ClientError> {
        let mut request = Request::new(message);
        if let Some(header) = self.config.credentials.header().await? {
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }

    /// Sends a message until it is answered, refused for good, or was attempted often enough.
    async fn call<M, R, F>(&self, message: M, send: impl Fn(Channel, Request<M>) -> F) -> Result<R, ClientError>
    where
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut attempt = 1;
        loop {
            let mut request = self.request(message.clone()).await?;
            request.set_timeout(self.config.timeout);
            match send(self.channel(), request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if retry::may_retry(&status) && attempt < self.attempts() => retry::pause(attempt).await,
                Err(status) => return Err(status.into()),
            }
            attempt += 1;
        }
    }
}

fn root_cause(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Calls that change something: a request id is made when the message has none.
macro_rules! changing {
    ($($(#[$doc:meta])* $name:ident: $service:ident, $request:ty => $response:ty;)*) => {
        impl Client {$(
            $(#[$doc])*
            ///
            /// When `request_id` is empty a new one is made, and every retry bears it.
            ///
            /// # Errors
            /// [`ClientError`]; [`ClientError::reason`] tells the cases apart.
            pub async fn $name(&self, mut request: $request) -> Result<$response, ClientError> {
                if request.request_id.is_empty() {
                    request.request_id = Uuid::now_v7().to_string();
                }
                self.call(request, |channel, request| async move { $service::new(channel).$name(request).await }).await
            }
        )*}
    };
}

/// Calls that only read.
macro_rules! reading {
    ($($(#[$doc:meta])* $name:ident: $service:ident, $request:ty => $response:ty;)*) => {
        impl Client {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`ClientError`]; [`ClientError::reason`] tells the cases apart.
            pub async fn $name(&self, request: $request) -> Result<$response, ClientError> {
                self.call(request, |channel, request| async move { $service::new(channel).$name(request).await }).await
            }
        )*}
    };
}

changing! {
    /// Decides one action, and mints the capability for it if `mint` is set and the answer is ALLOW. Without `mint` an ALLOW
    /// is itself the authority: act only if it is not `replayed`.
    decide: DecisionServiceClient, DecideRequest => DecideResponse;
    /// Does one action although people would have to approve it: for a person who acts directly, on record. Without `mint` an ALLOW
    /// is itself the authority: act only if it is not `replayed`.
    break_glass: BreakGlassServiceClient, BreakGlassRequest => BreakGlassResponse;
    /// Closes the review of that, as somebody else.
    close_review: BreakGlassServiceClient, CloseReviewRequest => CloseReviewResponse;
    /// Puts the question about one action to people.
    request_approval: ApprovalServiceClient, RequestApprovalRequest => RequestApprovalResponse;
    /// Puts several questions at once.
    request_approvals: ApprovalServiceClient, RequestApprovalsRequest => RequestApprovalsResponse;
    /// Casts several votes of the calling person at once, each on exactly what it names.
    cast_votes: ApprovalServiceClient, CastVotesRequest => CastVotesResponse;
    /// Casts the calling person's vote on exactly what the request names.
    cast_vote: ApprovalServiceClient, CastVoteRequest => CastVoteResponse;
    /// Takes the calling person's vote back.
    withdraw_vote: ApprovalServiceClient, WithdrawVoteRequest => WithdrawVoteResponse;
    /// Lifts the cool-down that a deny began, as one of several persons.
    lift_cool_down: ApprovalServiceClient, LiftCoolDownRequest => LiftCoolDownResponse;
    /// Takes the question back.
    cancel_approval: ApprovalServiceClient, CancelApprovalRequest => CancelApprovalResponse;
    /// Spends a capability. Execute only if the answer is not `replayed`; [`Client::enforce`] sees to that.
    redeem: CapabilityServiceClient, RedeemRequest => RedeemResponse;
    /// Reports the outcome of what was redeemed.
    complete: CapabilityServiceClient, CompleteRequest => CompleteResponse;
    /// Makes a capability worthless.
    revoke: CapabilityServiceClient, RevokeRequest => RevokeResponse;
    /// Exchanges a capability for one of the same action that a sub-agent acts by.
    delegate: CapabilityServiceClient, DelegateRequest => DelegateResponse;
    /// Makes a new signing key active, and retires the one before.
    rotate_key: KeyServiceClient, RotateKeyRequest => RotateKeyResponse;
    /// Takes a retired signing key out of service.
    retire_key: KeyServiceClient, RetireKeyRequest => RetireKeyResponse;
    /// Makes everything dead that a signing key signed.
    mark_key_compromised: KeyServiceClient, MarkKeyCompromisedRequest => MarkKeyCompromisedResponse;
    /// Has a backup of the store made.
    create_backup: BackupServiceClient, CreateBackupRequest => CreateBackupResponse;
    /// Drops the oldest records of the log.
    prune_log: AuditServiceClient, PruneLogRequest => PruneLogResponse;
    /// Opens a session.
    open_session: SessionServiceClient, OpenSessionRequest => OpenSessionResponse;
    /// Ends a session, and everything in it.
    end_session: SessionServiceClient, EndSessionRequest => EndSessionResponse;
    /// Changes stored entities, all of them or none.
    change_entities: EntityServiceClient, ChangeEntitiesRequest => ChangeEntitiesResponse;
    /// Lets the server read its bundle directory again.
    reload_bundle: PolicyServiceClient, ReloadBundleRequest => ReloadBundleResponse;
    /// Makes a bundle active that was active before.
    rollback_bundle: PolicyServiceClient, RollbackBundleRequest => RollbackBundleResponse;
    /// Has a dead letter tried again.
    retry_notification: NotificationServiceClient, RetryNotificationRequest => RetryNotificationResponse;
    /// Lets a dead letter go.
    drop_notification: NotificationServiceClient, DropNotificationRequest => DropNotificationResponse;
    /// Makes worthless whatever a target names, as far as it came to be before.
    revoke_all: RevocationServiceClient, RevokeAllRequest => RevokeAllResponse;
    /// Says, as a person, what came of an action whose outcome nobody reported in time.
    resolve_outcome: OutcomeServiceClient, ResolveOutcomeRequest => ResolveOutcomeResponse;
}

reading! {
    /// One approval request, with all that voters are shown.
    get_approval: ApprovalServiceClient, GetApprovalRequest => GetApprovalResponse;
    /// A page of the requests that the caller asked or may answer.
    list_approvals: ApprovalServiceClient, ListApprovalsRequest => ListApprovalsResponse;
    /// A page of figures of how asking goes.
    get_approval_figures: ApprovalServiceClient, GetApprovalFiguresRequest => GetApprovalFiguresResponse;
    /// The review of one time that somebody broke the glass.
    get_review: BreakGlassServiceClient, GetReviewRequest => GetReviewResponse;
    /// A page of the reviews that concern the caller.
    list_reviews: BreakGlassServiceClient, ListReviewsRequest => ListReviewsResponse;
    /// One capability, without its token.
    get_capability: CapabilityServiceClient, GetCapabilityRequest => GetCapabilityResponse;
    /// A page of the capabilities of a session.
    list_capabilities: CapabilityServiceClient, ListCapabilitiesRequest => ListCapabilitiesResponse;
    /// A page of the bundles that were active, the last one first.
    list_bundles: PolicyServiceClient, ListBundlesRequest => ListBundlesResponse;
    /// What the shadow bundle would have answered otherwise.
    get_shadow: PolicyServiceClient, GetShadowRequest => GetShadowResponse;
    /// The public keys that tokens are signed with.
    list_public_keys: CapabilityServiceClient, ListPublicKeysRequest => ListPublicKeysResponse;
    /// Says that a session with a heartbeat still runs.
    heartbeat: SessionServiceClient, HeartbeatRequest => HeartbeatResponse;
    /// One session.
    get_session: SessionServiceClient, GetSessionRequest => GetSessionResponse;
    /// A page of the caller's sessions.
    list_sessions: SessionServiceClient, ListSessionsRequest => ListSessionsResponse;
    /// One stored entity.
    get_entity: EntityServiceClient, GetEntityRequest => GetEntityResponse;
    /// A page of the stored entities.
    list_entities: EntityServiceClient, ListEntitiesRequest => ListEntitiesResponse;
    /// The active bundle.
    get_bundle: PolicyServiceClient, GetBundleRequest => GetBundleResponse;
    /// Where notifications go, and how it stands with that.
    list_sinks: NotificationServiceClient, ListSinksRequest => ListSinksResponse;
    /// A page of the notifications that were given up.
    list_dead_letters: NotificationServiceClient, ListDeadLettersRequest => ListDeadLettersResponse;
    /// A page of the audit log.
    list_records: AuditServiceClient, ListRecordsRequest => ListRecordsResponse;
    /// A page of the records that are about somebody or something.
    search_records: AuditServiceClient, SearchRecordsRequest => SearchRecordsResponse;
    /// The signed head of the audit log.
    get_checkpoint: AuditServiceClient, GetCheckpointRequest => GetCheckpointResponse;
    /// Proves that a record is in the log.
    get_inclusion_proof: AuditServiceClient, GetInclusionProofRequest => GetInclusionProofResponse;
    /// Proves that one state of the log continues another.
    get_consistency_proof: AuditServiceClient, GetConsistencyProofRequest => GetConsistencyProofResponse;
    /// A page of the outcomes that nobody reported in time.
    list_unresolved_outcomes: OutcomeServiceClient, ListUnresolvedOutcomesRequest => ListUnresolvedOutcomesResponse;
}

impl Client {
    /// Decides several actions, each on its own. Items without a request id get one each.
    ///
    /// # Errors
    /// [`ClientError`] when there is no answer at all; the failure of one item is in its result.
    pub async fn decide_batch(&self, mut request: DecideBatchRequest) -> Result<DecideBatchResponse, ClientError> {
        for item in request.items.iter_mut().filter(|item| item.request_id.is_empty()) {
            item.request_id = Uuid::now_v7().to_string();
        }
        self.call(
            request,
            |channel, request| async move { DecisionServiceClient::new(channel).decide_batch(request).await },
        )
        .await
    }
}
