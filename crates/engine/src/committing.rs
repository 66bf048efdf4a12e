//! What commits of the use cases are made of: the answer under the request id, the record, what is told, and what must not have
//! changed meanwhile.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_policy::Reads;
use countersign_store::repository::{CommitExt, RequestRow, encode};
use countersign_store::{Commit, Committed, Guard, Kernel, Key, Now, Revision};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{Active, Engine, RequestId, Scene};
use crate::error::Error;
use crate::record::{Event, record};

/// How long an answer is kept under its request id.
const REQUEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long what was decided may wait to be committed; after that it is decided again, by the time that it is then.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// So many entities are bound one by one; whoever read more is bound to all there are, and decides again when any changes.
const MOST_GUARDED: usize = 32;

impl<K: Kernel> Engine<K> {
    /// What a request id was answered with before, if anything.
    pub(crate) async fn replay<T: DeserializeOwned>(&self, scene: &Scene) -> Result<Option<T>, Error> {
        let Some(RequestId { id, body }) = &scene.call.request else { return Ok(None) };
        let Some(row) = self.repo.request(&scene.caller.key(), scene.call.rpc, id).await? else { return Ok(None) };
        if row.value.body != *body {
            return Err(Error::RequestIdReused);
        }
        let answer = serde_json::from_value(row.value.answer).map_err(|e| Error::Internal(e.to_string()))?;
        Ok(Some(answer))
    }

    /// The record of something that a caller did.
    pub(crate) fn record(&self, scene: &Scene, event: Event<'_>) -> bytes::Bytes {
        scene.looked.forget();
        let id = scene.call.request.as_ref().map(|request| request.id.as_str());
        record(self.tenant(), scene.now, Some(&scene.caller), id, event)
    }

    /// Adds to a commit that something happened: its record, and what is to be told of it.
    pub(crate) fn noting(&self, scene: &Scene, commit: Commit, event: Event<'_>) -> Result<Commit, Error> {
        let commit = self.telling(commit, &event, Some(&scene.caller.entity), scene.now)?;
        Ok(commit.record(self.record(scene, event)))
    }

    /// Commits a change with its record, and the answer under its request id: all or nothing (I8).
    pub(crate) async fn commit<T: Serialize>(
        &self,
        scene: &Scene,
        commit: Commit,
        event: Event<'_>,
        answer: &T,
    ) -> Result<Committed, Error> {
        let commit = self.remembering(scene, self.noting(scene, commit, event)?, answer)?;
        let commit = commit.before(scene.now.plus(LONGEST_WAIT), &self.clock());
        Ok(self.repo.kernel().commit(commit).await?)
    }

    /// Keeps the answer to a call that changed nothing: asked again later, when it would change something, it does not.
    pub(crate) async fn remember<T: Serialize>(&self, scene: &Scene, answer: &T) -> Result<(), Error> {
        if scene.call.request.is_none() {
            return Ok(());
        }
        let commit = self.remembering(scene, Commit::new(self.tenant().clone()), answer)?;
        self.repo.kernel().commit(commit).await.map(drop).map_err(Error::from)
    }

    fn remembering<T: Serialize>(&self, scene: &Scene, commit: Commit, answer: &T) -> Result<Commit, Error> {
        let Some(RequestId { id, body }) = &scene.call.request else { return Ok(commit) };
        let answer = serde_json::to_value(answer).map_err(|e| Error::Internal(e.to_string()))?;
        let row = RequestRow { body: *body, answer, expires_at: scene.now.plus(REQUEST_TTL) };
        let key = self.repo.request_key(&scene.caller.key(), scene.call.rpc, id);
        Ok(commit.create(key, encode(&row)))
    }

    /// A commit that takes effect only while the same bundle decides, while the entities that were read are the same, and
    /// while what it rests on lasts.
    pub(crate) fn guarded<const N: usize>(&self, scene: &Scene, lapses: [Option<Timestamp>; N]) -> Commit {
        // What the caller may by groups that the credential says, it may as long as that lasts.
        let claimed = scene.caller.claimed.as_ref().and_then(|claimed| claimed.lapses_at(scene.now));
        let commit = self.lasting_also(self.lasting(lapses), [claimed]);
        self.bound(&scene.active, &scene.reads, commit.unchanged(&scene.active.row))
    }

    /// A commit that takes effect only while the entities that were read are the same.
    pub(crate) fn bound(&self, active: &Active, reads: &Reads, commit: Commit) -> Commit {
        let reads = reads.all();
        if reads.len() > MOST_GUARDED {
            let head = Key::entity_head(self.tenant());
            let newest = Some(active.entity_revision).filter(|revision| *revision > 0);
            return commit.guard(guard(head, newest));
        }
        reads.iter().fold(commit, |commit, (entity, revision)| {
            commit.guard(guard(Key::entity(self.tenant(), entity), *revision))
        })
    }

    /// A commit that takes effect only while what it rests on lasts, however long it waits for its turn: meanwhile others
    /// may have been told that it is over (I13).
    pub(crate) fn lasting<const N: usize>(&self, lapses: [Option<Timestamp>; N]) -> Commit {
        self.lasting_also(Commit::new(self.tenant().clone()), lapses)
    }

    /// As [`Self::lasting`], of a commit that has something in it.
    pub(crate) fn lasting_also<const N: usize>(&self, commit: Commit, lapses: [Option<Timestamp>; N]) -> Commit {
        let clock = self.clock();
        lapses.into_iter().flatten().fold(commit, |commit, lapses| commit.before(lapses, &clock))
    }

    /// The clock, for the writer of the store.
    fn clock(&self) -> Now {
        let time = Arc::clone(&self.time);
        Arc::new(move || time.now().ok())
    }
}

fn guard(key: Key, revision: Option<u64>) -> Guard {
    match revision {
        Some(revision) => Guard::Revision(key, Revision::new(revision)),
        None => Guard::Absent(key),
    }
}
