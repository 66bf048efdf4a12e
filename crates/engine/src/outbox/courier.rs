//! The courier of one sink: takes what waits for it there, in order, again and again until the sink has it.
//!
//! At least once: a notification's row goes after the sink has taken it. Whoever dies in between delivers it once more, with
//! the same id.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::visible::Visible;
use countersign_core::{Line, Notification, NotificationId, Timestamp};
use countersign_store::outbox::{DeadRow, QueuedRow};
use countersign_store::repository::{Stored, stored};
use countersign_store::{Change, Commit, CommitError, Kernel, Key, Place, Prefix, Revision, StoreError};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};

use super::queue::Queue;
use super::{Shelf, named};
use crate::engine::Engine;
use crate::error::Error;

/// How many attempts of one sink run at once.
const AT_ONCE: usize = 4;
/// How many notifications are given up at once.
const BURIED_AT_ONCE: usize = 64;
/// The longest error that is kept, in characters.
const LONGEST_ERROR: usize = 200;
/// How often it is looked what is too old.
const LOOK_FOR_OLD: Duration = Duration::from_secs(1);
/// The longest time after which it is looked again what is too old, in a sink for which nothing else happens.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Where notifications go.
pub trait Sink: Send + Sync + fmt::Debug + 'static {
    /// Hands a notification over. When this is done, the other side has it. It may be dropped at any time, and called again
    /// with the same notification.
    fn deliver<'a>(&'a self, notification: &'a Notification) -> BoxFuture<'a, Result<(), Undelivered>>;
}

/// Why a sink did not take a notification: for the operator, and without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Undelivered(pub String);

type Changes = Pin<Box<dyn Stream<Item = Result<Change, StoreError>> + Send>>;

/// Delivers what waits for one sink. There is one for each; two would deliver everything twice.
pub struct Courier<K: Kernel> {
    engine: Arc<Engine<K>>,
    sink: Arc<dyn Sink>,
    shelf: Arc<Shelf>,
    queue: Queue,
    dead: BTreeMap<NotificationId, Timestamp>,
    /// When it was last looked what is too old.
    looked_at: Timestamp,
    queued_changes: Changes,
    dead_changes: Changes,
}

impl<K: Kernel> fmt::Debug for Courier<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Courier").field("sink", &self.shelf.settings.name).finish_non_exhaustive()
    }
}

impl<K: Kernel> Engine<K> {
    /// The courier for a sink of this name; `None` if none is configured.
    pub fn courier(self: &Arc<Self>, name: &str, sink: Arc<dyn Sink>) -> Option<Courier<K>> {
        let shelf = Arc::clone(self.outbox.shelf(name)?);
        let watch = |prefix: Prefix| -> Changes { Box::pin(self.repo.kernel().watch(&prefix, Revision::ZERO)) };
        Some(Courier {
            engine: Arc::clone(self),
            sink,
            shelf,
            queue: Queue::default(),
            dead: BTreeMap::new(),
            looked_at: Timestamp::from_millis(i64::MIN),
            queued_changes: watch(Prefix::queue(self.tenant(), name)),
            dead_changes: watch(Prefix::dead_letters(self.tenant(), Some(name))),
        })
    }
}

/// How an attempt ended.
struct Attempt {
    line: Line,
    place: Place,
    /// What was tried; nothing if it was gone.
    row: Option<Stored<QueuedRow>>,
    result: Result<(), String>,
}

type UnderWay = FuturesUnordered<BoxFuture<'static, Result<Attempt, Error>>>;

impl<K: Kernel> Courier<K> {
    /// Delivers until it is dropped, or the store or the clock fails.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::ClockJumped`].
    pub async fn run(mut self) -> Result<(), Error> {
        let mut under_way = UnderWay::new();
        loop {
            let now = self.engine.now()?;
            self.clear(now).await?;
            self.start(now, &under_way);
            self.tell();
            let wait = self.queue.wake(AT_ONCE).map_or(LOOK_AGAIN, |at| at.since(now).min(LOOK_AGAIN));
            tokio::select! {
                Some(attempt) = under_way.next() => self.settle(attempt?).await?,
                change = self.queued_changes.next() => self.queued(change.ok_or(StoreError::ShutDown)??)?,
                change = self.dead_changes.next() => self.buried(change.ok_or(StoreError::ShutDown)??)?,
                () = tokio::time::sleep(wait) => {}
            }
            self.take_changes()?;
        }
    }

    /// Tries once whatever is due, waits until all of it is answered, and says when something is due next: for whoever has
    /// time in their own hands.
    ///
    /// # Errors
    /// As [`Self::run`].
    #[doc(hidden)]
    pub async fn step(&mut self) -> Result<Option<Timestamp>, Error> {
        let mut under_way = UnderWay::new();
        self.take_changes()?;
        let now = self.engine.now()?;
        self.clear(now).await?;
        self.start(now, &under_way);
        while let Some(attempt) = under_way.next().await {
            self.settle(attempt?).await?;
        }
        self.take_changes()?;
        self.tell();
        Ok(self.queue.wake(AT_ONCE))
    }

    /// Takes in what has changed already.
    fn take_changes(&mut self) -> Result<(), Error> {
        while let Some(Some(change)) = self.queued_changes.next().now_or_never() {
            self.queued(change?)?;
        }
        while let Some(Some(change)) = self.dead_changes.next().now_or_never() {
            self.buried(change?)?;
        }
        Ok(())
    }

    fn queued(&mut self, change: Change) -> Result<(), Error> {
        let Some((line, place)) = change.key.queued_place() else { return Ok(()) };
        match change.row {
            Some(row) => {
                let since = stored::<QueuedRow>(&change.key, &row)?.value.queued_at;
                self.queue.put(line, place, since);
            }
            None => self.queue.remove(line, place),
        }
        Ok(())
    }

    fn buried(&mut self, change: Change) -> Result<(), Error> {
        let Some(id) = change.key.parts().last_chunk::<16>().map(|id| NotificationId::from_bytes(*id)) else {
            return Ok(());
        };
        match change.row {
            Some(row) => self.dead.insert(id, stored::<DeadRow>(&change.key, &row)?.value.died_at),
            None => self.dead.remove(&id),
        };
        Ok(())
    }

    fn start(&mut self, now: Timestamp, under_way: &UnderWay) {
        for (line, place) in self.queue.start(now, AT_ONCE) {
            let (engine, sink, shelf) = (Arc::clone(&self.engine), Arc::clone(&self.sink), Arc::clone(&self.shelf));
            under_way.push(Box::pin(async move {
                let settings = &shelf.settings;
                // What an operator took away, or a courier before this one delivered, is not delivered.
                let Some(row) = engine.repo.queued(&settings.name, line, place).await? else {
                    return Ok(Attempt { line, place, row: None, result: Ok(()) });
                };
                let delivering = sink.deliver(&row.value.notification);
                let result = match tokio::time::timeout(settings.timeout, delivering).await {
                    Ok(delivered) => {
                        delivered.map_err(|Undelivered(why)| Visible::cut(&why, LONGEST_ERROR).to_string())
                    }
                    Err(_elapsed) => Err(format!("no answer within {} s", settings.timeout.as_secs_f32())),
                };
                Ok(Attempt { line, place, row: Some(row), result })
            }));
        }
    }

    async fn settle(&mut self, attempt: Attempt) -> Result<(), Error> {
        let Attempt { line, place, row, result } = attempt;
        let Some(row) = row else {
            self.queue.gone(line, place);
            return Ok(());
        };
        let now = self.engine.now()?;
        let (tenant, sink) = named(self.engine.tenant(), &self.shelf);
        let Notification { id, kind, .. } = &row.value.notification;
        let error = match result {
            Ok(()) => {
                let key = Key::queued(self.engine.tenant(), sink, line, place);
                let commit = Commit::new(self.engine.tenant().clone()).delete(key, row.revision);
                match self.engine.repo.kernel().commit(commit).await {
                    Ok(_) | Err(CommitError::Conflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                self.queue.delivered(line, place);
                let back = self.shelf.state(|state| {
                    state.last_delivered = Some(now);
                    state.delivered = state.delivered.saturating_add(1);
                    std::mem::take(&mut state.down)
                });
                if back {
                    tracing::info!(tenant, sink, "the sink takes notifications again");
                }
                return Ok(());
            }
            Err(error) => error,
        };
        let settings = &self.shelf.settings;
        let attempts = self.queue.failed(line, now, &settings.back_off);
        let down = self.queue.is_down();
        let went_down = self.shelf.state(|state| {
            state.last_failure = Some((now, error.clone()));
            state.failed = state.failed.saturating_add(1);
            down && !std::mem::replace(&mut state.down, down)
        });
        if went_down {
            tracing::error!(tenant, sink, error, "the sink takes no notifications; they wait");
        } else {
            tracing::warn!(tenant, sink, notification = %id, kind = kind.word(), attempts, error, "notification not delivered");
        }
        let old = now.reached(row.value.queued_at.plus(settings.max_age));
        if attempts >= settings.attempts || old {
            self.bury(now, vec![(line, place, attempts)], &error).await?;
        }
        Ok(())
    }

    /// Gives up what is hopeless, and forgets what is too old. Looks through all of it, so not at every turn.
    async fn clear(&mut self, now: Timestamp) -> Result<(), Error> {
        let settings = &self.shelf.settings;
        let crowded = self.queue.len() > settings.backlog || self.dead.len() > settings.dead_letters;
        if !crowded && !now.reached(self.looked_at.plus(LOOK_FOR_OLD)) {
            return Ok(());
        }
        self.looked_at = now;
        self.bury_hopeless(now).await?;
        self.forget_dead(now).await
    }

    /// Gives up what has waited for too long in vain, and what is too much.
    async fn bury_hopeless(&mut self, now: Timestamp) -> Result<(), Error> {
        let settings = &self.shelf.settings;
        let hopeless = self.queue.hopeless(now, settings.max_age, settings.backlog);
        let last = self.shelf.state(|state| state.last_failure.as_ref().map(|(_, error)| error.clone()));
        let error = last.unwrap_or_else(|| format!("more than {} notifications waited", settings.backlog));
        for part in hopeless.chunks(BURIED_AT_ONCE) {
            self.bury(now, part.to_vec(), &error).await?;
        }
        Ok(())
    }

    /// Makes dead letters. What follows of the same request goes on: its end must not be kept back by its beginning.
    async fn bury(&mut self, now: Timestamp, what: Vec<(Line, Place, u32)>, error: &str) -> Result<(), Error> {
        let (engine, name) = (&self.engine, self.shelf.settings.name.clone());
        let (mut commits, mut buried) = (Vec::new(), Vec::new());
        for (line, place, attempts) in what {
            let Some(row) = engine.repo.queued(&name, line, place).await? else {
                self.queue.remove(line, place);
                continue;
            };
            let notification = row.value.notification;
            let id = notification.id;
            let (sink, error) = (name.clone(), error.to_owned());
            let dead = DeadRow { sink, place, died_at: now, attempts, error, notification };
            let key = Key::queued(engine.tenant(), &name, line, place);
            commits.push(Commit::new(engine.tenant().clone()).delete(key, row.revision).bury(&dead));
            buried.push((line, place, id));
        }
        for (outcome, (line, place, id)) in engine.repo.kernel().commit_many(commits).await.into_iter().zip(buried) {
            match outcome {
                Ok(_) => {
                    self.queue.remove(line, place);
                    self.dead.insert(id, now);
                    self.shelf.state(|state| state.given_up = state.given_up.saturating_add(1));
                    let (tenant, sink) = named(engine.tenant(), &self.shelf);
                    tracing::error!(tenant, sink, notification = %id, error, "notification given up");
                }
                // It is being taken away; the change comes.
                Err(CommitError::Conflict { .. }) => self.queue.remove(line, place),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Forgets the dead letters that are too old, and the oldest beyond the most that are kept.
    async fn forget_dead(&mut self, now: Timestamp) -> Result<(), Error> {
        let settings = &self.shelf.settings;
        let too_many = self.dead.len().saturating_sub(settings.dead_letters);
        let old = |died_at: Timestamp| now.reached(died_at.plus(settings.dead_letter_age));
        let gone = self.dead.iter().enumerate().filter(|(n, (_, died_at))| *n < too_many || old(**died_at));
        let gone: Vec<NotificationId> = gone.map(|(_, (id, _))| *id).collect();
        let (engine, name) = (&self.engine, &settings.name);
        for id in gone {
            self.dead.remove(&id);
            let Some(row) = engine.repo.dead_letter(name, &id).await? else { continue };
            let key = Key::dead_letter(engine.tenant(), name, &id);
            match engine.repo.kernel().commit(Commit::new(engine.tenant().clone()).delete(key, row.revision)).await {
                Ok(_) => {
                    self.shelf.state(|state| state.forgotten = state.forgotten.saturating_add(1));
                    let (tenant, sink) = named(engine.tenant(), &self.shelf);
                    tracing::error!(tenant, sink, notification = %id, "dead letter forgotten, for its age or want of room");
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Tells how much there is.
    fn tell(&self) {
        let (backlog, dead_letters) = (self.queue.len(), self.dead.len());
        self.shelf.state(|state| (state.backlog, state.dead_letters) = (backlog, dead_letters));
    }
}
