//! Sessions that a stream keeps alive.

use std::pin::Pin;
use std::sync::Arc;

use countersign_core::SessionId;
use countersign_engine::Error;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified};
use super::convert::{id, session};
use super::errors::Failure;
use crate::proto::{HoldSessionRequest, HoldSessionResponse};

/// What the caller is told while its stream stands.
pub type Held = Pin<Box<dyn Stream<Item = Result<HoldSessionResponse, Status>> + Send>>;

/// Keeps a session alive for as long as the stream is read. What ends the stream, and not the session, is that the credential
/// expires and that the server is on its way out: the caller goes on with another, within the heartbeat's time.
pub async fn hold(backend: &Backend, request: Request<HoldSessionRequest>) -> Result<Response<Held>, Status> {
    let (verified, permits) = backend.watch("HoldSession", &request)?;
    let HoldSessionRequest { session_id } = request.into_inner();
    let held = match id::<SessionId>("session_id", &session_id) {
        Ok(id) => id,
        Err(failure) => return Err(Failure::recorded(failure, &verified.engine, &verified.call).await.into()),
    };
    let Verified { engine, call, .. } = verified;
    let left = call.credential.expires_at.since(backend.wall());
    let draining = backend.clone().draining();
    let let_go = async move {
        tokio::select! {
            () = tokio::time::sleep(left) => Failure::Engine(Error::CredentialExpired),
            () = draining => Failure::Draining,
        }
    };
    // Both ends of the stream wait for it, and each is told.
    let (told, telling) = tokio::sync::oneshot::channel();
    let let_go = let_go.map(|failure| drop(told.send(failure)));
    let beats = Arc::clone(&engine).hold_session(call, held, let_go).map(move |beat| {
        let _held_as_long_as_the_stream_lives = &permits;
        let beat = beat.map_err(Failure::Engine)?;
        let now = engine.now().map_err(Failure::Engine)?;
        Ok(HoldSessionResponse { session: Some(session(&beat.value, now)) })
    });
    // Nothing is sent here when the session is over, or its holder gone.
    let let_go = futures::stream::once(telling).filter_map(async |told| told.ok().map(|failure| Err(failure.into())));
    Ok(Response::new(Box::pin(beats.chain(let_go))))
}
