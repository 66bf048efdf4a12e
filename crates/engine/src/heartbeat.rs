//! Sessions that somebody keeps alive: by a heartbeat now and then, or by a stream that stands.
//!
//! A heartbeat is written beside the session, without a record: it authorizes nothing, and whoever reads the session holds it
//! against the time that decides. So no timer ends a session, and none has to run for it to be over. A stream beats for as long
//! as it stands. When its other end is gone, the session is ended like by any party; if that cannot be, or the server is gone
//! too, nobody beats any more.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::session::{Heartbeat, Session};
use countersign_core::{Digest, SessionId};
use countersign_store::Kernel;
use countersign_store::repository::{CommitExt, Stored};
use futures::Stream;
use tokio::sync::mpsc;

use crate::engine::{Call, Engine, RequestId, Scene};
use crate::error::Error;
use crate::lineage::{Lineage, RestingOn};
use crate::session::is_party;

/// A beat that comes sooner than this part of the time after the one before changes nothing.
const SOONEST: u32 = 10;
/// A stream beats so often in the time within which one must come.
const BEATS: u32 = 4;
/// How often it is tried to end a session whose holder is gone. After that its heartbeat stays away, and it is over by that.
const ATTEMPTS: u32 = 5;

impl<K: Kernel> Engine<K> {
    /// Says that a session still runs: for its parties.
    ///
    /// # Errors
    /// [`Error::SessionNotFound`] for everybody else, [`Error::NoHeartbeat`], [`Error::SessionOver`].
    pub async fn heartbeat(&self, call: &Call, id: SessionId) -> Result<Stored<Session>, Error> {
        self.beat(call, id).await.map(Lineage::stored)
    }

    async fn beat(&self, call: &Call, id: SessionId) -> Result<Lineage, Error> {
        let attempt = |scene: Scene| async move { self.beat_once(&scene, id).await };
        self.settle(call, Some(&id.to_string()), attempt).await
    }

    async fn beat_once(&self, scene: &Scene, id: SessionId) -> Result<Lineage, Error> {
        // Read before the session is: whatever is known of it there is not older.
        let last = self.repo.heartbeat(id).await?;
        let session = self.lineage(id).await?;
        if !is_party(scene, &session.value) {
            return Err(Error::SessionNotFound);
        }
        let every = session.value.heartbeat().ok_or(Error::NoHeartbeat)?;
        session.value.require_open(scene.now)?;
        if scene.now.since(session.value.seen_at()) < every / SOONEST {
            return Ok(session);
        }
        let read = last.map(|last| last.revision);
        let beat = Heartbeat { session: id, at: scene.now.max(session.value.seen_at()) };
        // Not after it is over: others may have been told so.
        let commit = self.lasting([session.value.lapses_at(scene.now)]).resting_on(&session).upsert(&beat, read);
        // To its end, whoever stops waiting for it: until then nobody may conclude that it stayed away.
        let (repo, under_way) = (self.repo.clone(), Arc::clone(&self.beating).read_owned().await);
        let beat = tokio::spawn(async move {
            let _held_until_it_is_durable = under_way;
            repo.kernel().commit(commit).await
        });
        beat.await.map_err(|error| Error::Internal(error.to_string()))??;
        self.lineage(id).await
    }

    /// Keeps a session alive for as long as the stream is read, and ends it when nobody reads it any more. It says what the session
    /// is with every heartbeat, and ends with an error when the session is over. `let_go` ends it without ending the session: for a
    /// server on its way out, whose caller goes on elsewhere.
    pub fn hold_session(
        self: Arc<Self>,
        call: Call,
        id: SessionId,
        let_go: impl Future<Output = ()> + Send + 'static,
    ) -> impl Stream<Item = Result<Stored<Session>, Error>> + Send + 'static {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut let_go = pin!(let_go);
            let held = tokio::select! {
                biased;
                () = &mut let_go => return,
                held = self.hold(&call, id, &sender) => held,
            };
            match held {
                Ok(()) => self.end_left(&call, id).await,
                // The reader may be gone; then nobody needs the error.
                Err(error) => drop(sender.send(Err(error)).await),
            }
        });
        futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
    }

    /// Beats until nobody listens any more. An error if the session is over, or never was the caller's.
    async fn hold(
        &self,
        call: &Call,
        id: SessionId,
        sender: &mpsc::Sender<Result<Stored<Session>, Error>>,
    ) -> Result<(), Error> {
        let mut ended = self.ended.subscribe();
        loop {
            let session = self.beat(call, id).await?;
            let lineage: Vec<SessionId> = session.ids().collect();
            let left = session.value.over_at().since(self.now()?);
            let mut next =
                pin!(tokio::time::sleep(session.value.heartbeat().map_or(left, |every| left.min(every / BEATS))));
            // A slow reader is not told of every beat, and they go on.
            let _told_or_not = sender.try_send(Ok(session.stored()));
            loop {
                tokio::select! {
                    biased;
                    () = sender.closed() => return Ok(()),
                    // It, or one above it: the next beat says so. Of more ends than one can follow, any may be.
                    session = ended.recv() => if session.is_ok_and(|session| !lineage.contains(&session)) { continue },
                    () = &mut next => {}
                }
                break;
            }
            // That it is over by now is what the caller is to be told, and nobody was refused anything.
            self.lineage(id).await?.value.require_open(self.now()?)?;
        }
    }

    /// Ends a session whose holder is gone.
    async fn end_left(&self, call: &Call, id: SessionId) {
        // It ends once, so that one id is enough.
        let request = RequestId { id: id.to_string(), body: Digest::of(id.as_bytes()) };
        let call = Call { request: Some(request), ..call.clone() };
        for _attempt in 0..ATTEMPTS {
            match self.end_session(&call, id).await {
                Err(Error::Store(_) | Error::OutcomeUnknown(_) | Error::Contention) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Ok(_) | Err(_) => return,
            }
        }
    }
}
