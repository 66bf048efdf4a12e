//! `SessionService`.

use std::sync::Arc;

use countersign_engine::{OpenSession, Replayable, Terms};
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified, to_its_end};
use super::convert::{acting, duration, entity, id, optional_id, page_size, session, standing};
use super::hold::{Held, hold};
use crate::proto;
use crate::proto::session_service_server::SessionService;
use crate::proto::{
    EndSessionRequest, EndSessionResponse, GetSessionRequest, GetSessionResponse, HeartbeatRequest, HeartbeatResponse,
    HoldSessionRequest, ListSessionsRequest, ListSessionsResponse, OpenSessionRequest, OpenSessionResponse,
};

/// Opens and ends sessions.
#[derive(Clone)]
pub struct Sessions(pub Backend);

#[tonic::async_trait]
impl SessionService for Sessions {
    type HoldSessionStream = Held;

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let OpenSessionRequest {
                purpose,
                ttl,
                principal,
                principal_credential,
                request_id: _,
                operator,
                clean,
                parent_session_id,
                heartbeat,
            } = message;
            let terms = Terms {
                parent: optional_id("parent_session_id", &parent_session_id)?,
                heartbeat: heartbeat.map(|every| duration("heartbeat", every)).transpose()?,
            };
            let opening = OpenSession {
                purpose,
                ttl: ttl.map(|ttl| duration("ttl", ttl)).transpose()?,
                acting: acting(principal, &principal_credential, &self.0).await?,
                operator: operator.map(|operator| entity("operator", operator)).transpose()?,
                clean,
            };
            let Replayable { answer, replayed } =
                verified.engine.open_session_on(&verified.call, &opening, terms).await?;
            tracing::info!(session = %answer.value.id, replayed, "session opened");
            let session = Some(session(&answer.value, verified.engine.now()?));
            Ok(OpenSessionResponse { session, replayed })
        };
        self.0.handle("OpenSession", request, |m| &m.request_id, run).await
    }

    async fn get_session(&self, request: Request<GetSessionRequest>) -> Result<Response<GetSessionResponse>, Status> {
        let run = |verified: Verified, GetSessionRequest { session_id }: GetSessionRequest| async move {
            let verified = &verified;
            let stored = verified.engine.session(&verified.call, id("session_id", &session_id)?).await?;
            let kept = verified.engine.standing(&stored.value).await?.map(standing);
            let session = session(&stored.value, verified.engine.now()?);
            Ok(GetSessionResponse { session: Some(proto::Session { standing: kept, ..session }) })
        };
        self.0.handle("GetSession", request, |_| "", run).await
    }

    async fn end_session(&self, request: Request<EndSessionRequest>) -> Result<Response<EndSessionResponse>, Status> {
        let run = |verified: Verified, EndSessionRequest { session_id, request_id: _ }: EndSessionRequest| async move {
            let verified = &verified;
            let id = id("session_id", &session_id)?;
            let (engine, call) = (Arc::clone(&verified.engine), verified.call.clone());
            let ended = to_its_end(async move { engine.end_session(&call, id).await }).await;
            let Replayable { answer, replayed } = ended?;
            tracing::info!(session = %answer.value.id, replayed, "session ended");
            let session = Some(session(&answer.value, verified.engine.now()?));
            Ok(EndSessionResponse { session, replayed })
        };
        self.0.handle("EndSession", request, |m| &m.request_id, run).await
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ListSessionsRequest { page_size: size, page_token } = message;
            let before = optional_id("page_token", &page_token)?;
            let page = verified.engine.sessions(&verified.call, before, page_size(size, 50, 200)?).await?;
            let now = verified.engine.now()?;
            let sessions = page.items.iter().map(|stored| session(&stored.value, now)).collect();
            let next_page_token = page.next.map(|id| id.to_string()).unwrap_or_default();
            Ok(ListSessionsResponse { sessions, next_page_token })
        };
        self.0.handle("ListSessions", request, |_| "", run).await
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let run = |verified: Verified, HeartbeatRequest { session_id }: HeartbeatRequest| async move {
            let verified = &verified;
            let stored = verified.engine.heartbeat(&verified.call, id("session_id", &session_id)?).await?;
            Ok(HeartbeatResponse { session: Some(session(&stored.value, verified.engine.now()?)) })
        };
        self.0.handle("Heartbeat", request, |_| "", run).await
    }

    async fn hold_session(&self, request: Request<HoldSessionRequest>) -> Result<Response<Held>, Status> {
        hold(&self.0, request).await
    }
}
