//! What is told of revocations, so that an enforcement point that caches can forget.
//!
//! Each revocation of any axis writes a row in its own commit, and the revision of that commit is its sequence: one order, which
//! survives a restart. One task follows these rows, as long as anybody watches, and keeps the newest of them; a watcher has a place
//! among these and nothing else, so a thousand slow ones cost little more than one. Who falls behind what is kept is told to
//! start over, which is always safe: with nothing cached, there is nothing to forget.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use countersign_core::{Revocation, Timestamp};
use countersign_policy::AdminAction;
use countersign_store::repository::stored;
use countersign_store::{Change, Commit, CommitError, Kernel, Pace, Prefix, Revision, StoreError};
use futures::{Stream, StreamExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::engine::{Call, Engine, Scene, tenant_entity};
use crate::error::Error;

/// How many revocations are kept for watchers that are slow, or come back.
const KEPT: usize = 65_536;
/// How many messages may wait for a slow reader before its watch waits too.
const BUFFER: usize = 16;
/// How many are taken at a time.
const AT_ONCE: usize = 64;
/// How often a watcher is told that all is quiet, and looked at whether it may still watch.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How soon after a revocation it is said that it was all of its commit.
const CONFIRM: Duration = Duration::from_secs(1);
/// For how long at least a revocation can be told. Longer than any capability lives, it concerns nothing that is cached.
const TOLD_FOR: Duration = Duration::from_secs(60 * 60);
/// A commit may take its place a little later than the time that it bears.
const LATE: Duration = Duration::from_secs(60);
/// For how long a revocation by a wider axis is kept: longer than any session may last.
const WIDE_FOR: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// How many rows one commit deletes.
const CHUNK: usize = 32;

/// A revocation, at its place in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiding {
    /// Its place: that of its commit. A commit may hold several.
    pub sequence: u64,
    /// What was revoked.
    pub revocation: Revocation,
}

/// One message to a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What was revoked; nothing in a heartbeat.
    pub tiding: Option<Arc<Tiding>>,
    /// Up to which sequence the watcher has been told everything.
    pub complete_through: u64,
    /// Where to resume: after that.
    pub resume: RevocationToken,
}

/// Where a watcher was: in which life of the store, up to where it had been told everything, and when that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevocationToken {
    epoch: u64,
    sequence: u64,
    /// When there was nothing else to tell; of a watcher that is behind, when what it was told last was revoked.
    at: Timestamp,
}

impl std::fmt::Display for RevocationToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.sequence, self.at.millis())
    }
}

impl FromStr for RevocationToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let mut parts = text.split('.');
            let (epoch, sequence) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Some(Self { epoch, sequence, at: Timestamp::from_millis(parts.next()?.parse().ok()?) })
        };
        let bad = || Error::field("resume_token", "not one of this service's; leave it out to start over");
        parse().filter(|token| token.to_string() == text).ok_or_else(bad)
    }
}

/// Whoever watches shares one hub; it goes with the last of them.
#[derive(Debug, Default)]
pub(crate) struct Tidings(Mutex<Weak<Hub>>);

/// What there is to tell.
#[derive(Debug)]
struct Hub {
    ring: Mutex<Ring>,
    news: watch::Sender<State>,
    /// Dropped with the hub, which ends the task that fills it.
    _alive: oneshot::Sender<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What was acknowledged before is not all here yet.
    Filling,
    /// There are so many.
    Filled(u64),
    /// The store tells nothing more.
    Failed,
}

#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<Arc<Tiding>>,
    /// How many are not kept any more.
    gone: u64,
    /// The sequence of the newest of those.
    floor: u64,
}

impl Ring {
    fn push(&mut self, tiding: Tiding) -> u64 {
        self.kept.push_back(Arc::new(tiding));
        if self.kept.len() > KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            self.gone = self.gone.saturating_add(1);
            self.floor = oldest.sequence;
        }
        self.number()
    }

    /// How many there were.
    fn number(&self) -> u64 {
        self.gone.saturating_add(u64::try_from(self.kept.len()).unwrap_or(u64::MAX))
    }

    fn last(&self) -> u64 {
        self.kept.back().map_or(self.floor, |newest| newest.sequence)
    }

    /// Where the first one behind a sequence stands.
    fn behind(&self, sequence: u64) -> Result<u64, Error> {
        if sequence < self.floor {
            return Err(Error::RevocationsMissed);
        }
        let place = self.kept.partition_point(|tiding| tiding.sequence <= sequence);
        Ok(self.gone.saturating_add(u64::try_from(place).unwrap_or(u64::MAX)))
    }

    fn from(&self, place: u64) -> Result<Vec<Arc<Tiding>>, Error> {
        let skipped = place.checked_sub(self.gone).ok_or(Error::RevocationsMissed)?;
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        Ok(self.kept.iter().skip(skipped).take(AT_ONCE).cloned().collect())
    }
}

impl Hub {
    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, change: &Change) -> Result<Option<u64>, StoreError> {
        let Some(row) = &change.row else { return Ok(None) };
        let revocation = stored::<Revocation>(&change.key, row)?.value;
        Ok(Some(self.ring().push(Tiding { sequence: change.revision.get(), revocation })))
    }
}

type Changes<T> = Pin<Box<dyn Stream<Item = Result<T, StoreError>> + Send>>;

impl Tidings {
    /// The hub, new if nobody watches. `begin` gives what was acknowledged before it is called, and what comes.
    fn hub(&self, begin: impl FnOnce() -> (Changes<Option<Change>>, Changes<Change>)) -> Arc<Hub> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = shared.upgrade().filter(|hub| *hub.news.borrow() != State::Failed) {
            return hub;
        }
        let (alive, gone) = oneshot::channel();
        let news = watch::Sender::new(State::Filling);
        let hub = Arc::new(Hub { ring: Mutex::default(), news, _alive: alive });
        *shared = Arc::downgrade(&hub);
        let (before, coming) = begin();
        tokio::spawn(fill(Arc::downgrade(&hub), gone, before, coming));
        hub
    }
}

/// Fills a hub until nobody has it, or the store tells nothing more.
async fn fill(hub: Weak<Hub>, gone: oneshot::Receiver<()>, before: Changes<Option<Change>>, coming: Changes<Change>) {
    let filling = async {
        let known = begin(&hub, before).await?;
        let mut coming = pin!(coming);
        while let Some(change) = coming.next().await {
            let change = change?;
            let Some(hub) = hub.upgrade() else { return Ok(()) };
            // What was there before comes again.
            if change.revision > known
                && let Some(number) = hub.take(&change)?
            {
                hub.news.send_replace(State::Filled(number));
            }
        }
        Err::<(), _>(StoreError::ShutDown)
    };
    let ended = tokio::select! {
        _nobody = gone => return,
        ended = filling => ended,
    };
    if let (Err(error), Some(hub)) = (ended, hub.upgrade()) {
        tracing::debug!(%error, "nothing more is told of revocations");
        hub.news.send_replace(State::Failed);
    }
}

/// Takes in what was acknowledged before, and returns how far that reaches.
async fn begin(hub: &Weak<Hub>, mut before: Changes<Option<Change>>) -> Result<Revision, StoreError> {
    let mut known = Revision::ZERO;
    while let Some(change) = before.next().await.transpose()?.flatten() {
        let Some(hub) = hub.upgrade() else { break };
        hub.take(&change)?;
        known = known.max(change.revision);
    }
    if let Some(hub) = hub.upgrade() {
        let number = hub.ring().number();
        hub.news.send_replace(State::Filled(number));
    }
    Ok(known)
}

impl<K: Kernel> Engine<K> {
    /// Every revocation of every axis, in order, from now on or from where an earlier watch was: for whom the `readRevocations`
    /// policies permit it. The first message says where the watch begins, and one comes at least every ten seconds. The stream ends
    /// by an error, or when it is dropped.
    pub fn watch_revocations(
        self: Arc<Self>,
        call: Call,
        resume: Option<RevocationToken>,
    ) -> impl Stream<Item = Result<Told, Error>> + Send + 'static {
        let (sender, receiver) = mpsc::channel(BUFFER);
        tokio::spawn(async move {
            if let Err(error) = self.tell_revocations(&call, resume, &sender).await {
                // The reader may be gone; then nobody needs the error.
                let _gone = sender.send(Err(error)).await;
            }
        });
        futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
    }

    async fn tell_revocations(
        &self,
        call: &Call,
        resume: Option<RevocationToken>,
        sender: &mpsc::Sender<Result<Told, Error>>,
    ) -> Result<(), Error> {
        self.may_watch(call).await?;
        if let Some(token) = resume {
            self.require_kept(token)?;
        }
        let prefix = Prefix::told_revocations(self.tenant());
        let kernel = self.repo.kernel();
        let hub = self.revoking.tidings.hub(|| {
            // What comes is subscribed to before it is asked what there was.
            let coming = Box::pin(kernel.watch(&prefix, Revision::ZERO));
            (Box::pin(kernel.changes(&prefix, Revision::ZERO, Pace::Ready)), coming)
        });
        let mut news = hub.news.subscribe();
        let shut_down = || Error::Store(StoreError::ShutDown);
        if *news.wait_for(|state| *state != State::Filling).await.map_err(|_| shut_down())? == State::Failed {
            return Err(shut_down());
        }
        let (mut place, mut through) = {
            let ring = hub.ring();
            let sequence = resume.map_or_else(|| ring.last(), |token| token.sequence);
            (ring.behind(sequence)?, sequence)
        };
        let (mut last, mut looked) = (through, Instant::now());
        let mut at = match resume {
            Some(token) => token.at,
            None => self.now()?,
        };
        self.tell(None, (through, at), sender).await?;
        loop {
            let now = self.now()?;
            let tidings = hub.ring().from(place)?;
            if tidings.is_empty() {
                at = now;
            }
            for tiding in &tidings {
                place = place.saturating_add(1);
                // Another one of the same commit may follow.
                last = tiding.sequence;
                through = through.max(last.saturating_sub(1));
                at = tiding.revocation.at;
                if !self.tell(Some(tiding), (through, at), sender).await? {
                    return Ok(());
                }
            }
            if looked.elapsed() >= HEARTBEAT {
                looked = Instant::now();
                self.may_watch(call).await?;
            }
            if !tidings.is_empty() {
                continue;
            }
            let quiet = if last > through { CONFIRM } else { HEARTBEAT };
            tokio::select! {
                biased;
                () = sender.closed() => return Ok(()),
                changed = news.changed() => {
                    changed.map_err(|_| shut_down())?;
                    if *news.borrow() == State::Failed {
                        return Err(shut_down());
                    }
                }
                () = tokio::time::sleep(quiet) => {
                    through = last;
                    self.tell(None, (through, at), sender).await?;
                }
            }
        }
    }

    /// Answers whether the reader is still there.
    async fn tell(
        &self,
        tiding: Option<&Arc<Tiding>>,
        (complete_through, at): (u64, Timestamp),
        sender: &mpsc::Sender<Result<Told, Error>>,
    ) -> Result<bool, Error> {
        let resume = RevocationToken { epoch: self.repo.kernel().epoch(), sequence: complete_through, at };
        Ok(sender.send(Ok(Told { tiding: tiding.cloned(), complete_through, resume })).await.is_ok())
    }

    async fn may_watch(&self, call: &Call) -> Result<(), Error> {
        let attempt = |scene: Scene| async move {
            let tenant = tenant_entity(self.tenant())?;
            self.require_read(&scene, AdminAction::ReadRevocations { tenant: &tenant })
        };
        self.settle(call, None, attempt).await
    }

    /// That everything behind a token can still be told: it is of this life of the store, and not too old.
    fn require_kept(&self, token: RevocationToken) -> Result<(), Error> {
        let same = token.epoch == self.repo.kernel().epoch();
        let recent = !self.now()?.reached(token.at.plus(self.told_for()));
        if same && recent { Ok(()) } else { Err(Error::RevocationsMissed) }
    }

    fn told_for(&self) -> Duration {
        self.limits.token_ttl.max(TOLD_FOR)
    }

    /// Deletes what is told of revocations that concern nothing any more, and revocations of before every session that may still be
    /// open; returns how many rows that were.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::ClockJumped`].
    pub async fn tidy_revocations(&self) -> Result<usize, Error> {
        let told_for = self.told_for().saturating_add(LATE);
        let told = self.tidy_old(&Prefix::told_revocations(self.tenant()), told_for).await?;
        let wide = self.tidy_old(&Prefix::revoked(self.tenant()), WIDE_FOR).await?;
        Ok(told.saturating_add(wide))
    }

    /// Deletes the rows that are older than this. They lie about in the order of time: behind a page without any, there is none.
    async fn tidy_old(&self, prefix: &Prefix, age: Duration) -> Result<usize, Error> {
        let now = self.now()?;
        let mut deleted = 0_usize;
        loop {
            let page = self.repo.kernel().scan(prefix, None, usize::MAX).await?;
            let mut old = Vec::new();
            for (key, row) in &page.rows {
                if now.reached(read::<Revocation>(key, row)?.at.plus(age)) {
                    old.push((key.clone(), row.revision));
                }
            }
            if old.is_empty() {
                return Ok(deleted);
            }
            for chunk in old.chunks(CHUNK) {
                let commit = Commit::new(self.tenant().clone());
                let commit = chunk.iter().fold(commit, |commit, (key, revision)| commit.delete(key.clone(), *revision));
                match self.repo.kernel().commit(commit).await {
                    Ok(_) => deleted = deleted.saturating_add(chunk.len()),
                    // Another sweeper was faster.
                    Err(CommitError::Conflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

fn read<T: DeserializeOwned>(key: &countersign_store::Key, row: &countersign_store::Row) -> Result<T, StoreError> {
    stored(key, row).map(|stored| stored.value)
}

#[cfg(test)]
mod tests {
    use countersign_core::Axis;

    use super::*;

    fn tiding(sequence: u64) -> Tiding {
        let at = Timestamp::from_millis(0);
        Tiding { sequence, revocation: Revocation { axis: Axis::Everything, at, by: None, reason: None, epoch: None } }
    }

    #[test]
    fn a_place_is_found_behind_a_sequence_and_kept_while_others_come() {
        let mut ring = Ring::default();
        for sequence in [3, 5, 5, 9] {
            ring.push(tiding(sequence));
        }
        let behind = |ring: &Ring, sequence| {
            let place = ring.behind(sequence).unwrap();
            ring.from(place).unwrap().iter().map(|tiding| tiding.sequence).collect::<Vec<_>>()
        };
        assert_eq!(behind(&ring, 0), [3, 5, 5, 9]);
        assert_eq!(behind(&ring, 4), [5, 5, 9]);
        assert_eq!(behind(&ring, 5), [9]);
        assert_eq!(behind(&ring, 12), [0_u64; 0]);
    }

    #[test]
    fn whoever_is_behind_what_is_kept_starts_over() {
        let mut ring = Ring::default();
        let place = ring.behind(0).unwrap();
        for sequence in 1..=u64::try_from(KEPT).unwrap() + 2 {
            ring.push(tiding(sequence));
        }
        assert!(matches!(ring.from(place), Err(Error::RevocationsMissed)));
        assert!(matches!(ring.behind(1), Err(Error::RevocationsMissed)));
        assert_eq!(ring.from(ring.behind(2).unwrap()).unwrap()[0].sequence, 3);
    }

    #[test]
    fn a_token_is_read_only_as_it_was_written() {
        let token = RevocationToken { epoch: 2, sequence: 7, at: Timestamp::from_millis(9) };
        assert_eq!(token.to_string().parse::<RevocationToken>().unwrap(), token);
        for bad in ["", "1.2", "1.2.3.4", "01.2.3", "1.2.x"] {
            assert!(bad.parse::<RevocationToken>().is_err(), "{bad}");
        }
    }
}
