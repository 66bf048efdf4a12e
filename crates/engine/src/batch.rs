//! Several questions put at once, and several votes cast at once.
//!
//! A batch is a convenience of asking and answering, and no unit of authority: each question is put, counted against the budget,
//! refused, voted on and spent as if it were alone. What is added is that people see that there are others, and find them.

use std::collections::BTreeSet;

use countersign_core::approval::Together;
use countersign_core::{ApprovalId, BatchId};
use countersign_store::Kernel;
use serde::{Deserialize, Serialize};

use crate::ask::{Ask, How, require_request_id};
use crate::engine::{Call, Engine, Replayable, RequestId, Scene};
use crate::error::Error;
use crate::read::{ApprovalView, Paged};
use crate::vote::Ballot;

/// What came of each item, in the order given. One item's failure is that item's alone.
pub type Each<T> = Vec<Result<Replayable<T>, Error>>;

/// What is kept under the request id of a batch of questions, so that a retry goes on with the same one.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Opened {
    batch: BatchId,
}

/// What is kept under the request id of several votes: what was cast is kept with each.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Bound {}

impl Call {
    /// The call that one item of this one is: its request id is this one's and its place, so a retry of the whole is a retry of
    /// each item. Bound to the body of the whole, so that no item can change its place.
    fn item(&self, place: u32) -> Self {
        let request =
            self.request.as_ref().map(|RequestId { id, body }| RequestId { id: format!("{id}/{place}"), body: *body });
        Self { request, ..self.clone() }
    }
}

impl<K: Kernel> Engine<K> {
    /// Puts several questions, one after the other: each as [`Engine::ask`] does, and shown as one of a batch. A question that
    /// is pending already is shared, and stays what it is.
    ///
    /// # Errors
    /// [`Error::InvalidField`] if there are none; otherwise what came of each is in the answer.
    pub async fn ask_together(&self, call: &Call, asks: &[Ask]) -> Result<(BatchId, Each<(ApprovalId, bool)>), Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, require_some(asks)).await?;
        let batch = self.settle(call, None, |scene| async move { self.open_batch(&scene).await }).await?;
        let of = u32::try_from(asks.len()).unwrap_or(u32::MAX);
        let mut asked = Vec::new();
        // One after the other, in the order given: the budget is spent on the first of them, whatever runs beside.
        for (place, ask) in (1..).zip(asks) {
            let together = Together { id: batch, place, of };
            let how = How { batch: Some(together), bounds: None };
            asked.push(self.put(&call.item(place), ask, how).await);
        }
        Ok((batch, asked))
    }

    async fn open_batch(&self, scene: &Scene) -> Result<BatchId, Error> {
        if let Some(Opened { batch }) = self.replay(scene).await? {
            return Ok(batch);
        }
        let batch = BatchId::generate();
        self.remember(scene, &Opened { batch }).await?;
        Ok(batch)
    }

    /// Casts several votes, one after the other: each as [`Engine::vote`] does, bound to its own digest and view. There is no
    /// vote on what is not named, so nobody approves what they were not shown.
    ///
    /// # Errors
    /// [`Error::InvalidField`] if there are none, or two on one request; otherwise what came of each is in the answer.
    pub async fn vote_together(&self, call: &Call, ballots: &[Ballot]) -> Result<Each<ApprovalId>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, require_some(ballots)).await?;
        let distinct: BTreeSet<ApprovalId> = ballots.iter().map(|ballot| ballot.approval).collect();
        if distinct.len() < ballots.len() {
            let twice = Error::field("items", "two votes on one request; say one thing about each");
            return Err(self.refuse(call, None, twice).await);
        }
        // Otherwise another body under the same id could add votes to those that were cast.
        self.settle(call, None, |scene| async move { self.bind(&scene).await }).await?;
        let mut cast = Vec::new();
        for (place, ballot) in (1..).zip(ballots) {
            cast.push(self.vote(&call.item(place), ballot).await);
        }
        Ok(cast)
    }

    /// Binds the request id of a call to its body, before any of its items is looked at.
    async fn bind(&self, scene: &Scene) -> Result<(), Error> {
        match self.replay::<Bound>(scene).await? {
            Some(Bound {}) => Ok(()),
            None => {
                // Nothing is kept for whoever cannot vote: refusals are counted, and rows would not be.
                scene.person()?;
                scene.require_answering()?;
                self.remember(scene, &Bound {}).await
            }
        }
    }

    /// The requests of a batch that the caller may see, in the order of their places, of at most `limit` that are looked at.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn approvals_of_batch(
        &self,
        call: &Call,
        batch: BatchId,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Paged<ApprovalView, u32>, Error> {
        let attempt = |scene: Scene| async move {
            let (places, more) = self.repo.batch(&batch, after, limit).await?;
            let next = places.last().map(|(place, _)| *place).filter(|_| more);
            let mut items = Vec::new();
            for (_, approval) in places {
                let question = self.question(approval).await?;
                items.extend(self.seen(&scene, question, false).await?);
            }
            Ok(Paged { items, next })
        };
        self.settle(call, None, attempt).await
    }
}

fn require_some<T>(items: &[T]) -> Result<(), Error> {
    if items.is_empty() { Err(Error::field("items", "expected at least one; there is no vote on all")) } else { Ok(()) }
}
