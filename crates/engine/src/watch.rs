//! Watching approval requests, so that nobody has to poll: neither those who answer nor those who wait.
//!
//! A request changes by commits, which the store tells, and by time and by the end of its session, which nobody writes. A
//! watcher therefore remembers the live requests that it has told of, and looks again when the next of them may be over.

use std::collections::BTreeMap;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::approval::{ApprovalState, VoidCause};
use countersign_core::{ApprovalId, BatchId, SessionId, Timestamp};
use countersign_store::{Change, Kernel, Key, Kind, Prefix, Revision};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::access::Looked;
use crate::engine::{Call, Engine};
use crate::error::Error;
use crate::pending::id_of;
use crate::read::ApprovalView;

/// How many messages may wait for a slow reader before its watch waits too.
const BUFFER: usize = 64;
/// The longest time after which a watch looks at its live requests again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Where a watch was: what was committed later, or was over later, has not been told. Of the newest commit it says which
/// requests were told, because one commit may change two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeToken {
    revision: Revision,
    at: Timestamp,
    told: Vec<ApprovalId>,
}

impl ResumeToken {
    /// Whether a change was not told yet.
    fn is_before(&self, revision: Revision, id: ApprovalId) -> bool {
        revision > self.revision || (revision == self.revision && !self.told.contains(&id))
    }
}

impl std::fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.revision, self.at.millis())?;
        self.told.iter().try_for_each(|id| write!(f, ".{id}"))
    }
}

impl FromStr for ResumeToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let mut parts = text.split('.');
            let revision = Revision::new(parts.next()?.parse().ok()?);
            let at = Timestamp::from_millis(parts.next()?.parse().ok()?);
            // A commit changes few requests; more is nothing that was written here.
            let told = parts.take(8).map(|id| id.parse().ok()).collect::<Option<_>>()?;
            Some(Self { revision, at, told })
        };
        let bad = || Error::field("resume_token", "not one of this service's; leave it out to start anew");
        parse().filter(|token| token.to_string() == text).ok_or_else(bad)
    }
}

/// A request as it is now.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The request.
    pub view: ApprovalView,
    /// Where to resume after it.
    pub resume: ResumeToken,
}

impl<K: Kernel> Engine<K> {
    /// The requests that the caller may see, as they are and whenever they change: one, or all. The stream ends by an error,
    /// or when it is dropped.
    pub fn watch_approvals(
        self: Arc<Self>,
        call: Call,
        only: Option<ApprovalId>,
        resume: Option<ResumeToken>,
    ) -> impl Stream<Item = Result<Seen, Error>> + Send + 'static {
        self.watch_those(call, only, None, resume)
    }

    /// As [`Self::watch_approvals`], of the requests of one batch.
    pub fn watch_batch(
        self: Arc<Self>,
        call: Call,
        batch: BatchId,
        resume: Option<ResumeToken>,
    ) -> impl Stream<Item = Result<Seen, Error>> + Send + 'static {
        self.watch_those(call, None, Some(batch), resume)
    }

    fn watch_those(
        self: Arc<Self>,
        call: Call,
        only: Option<ApprovalId>,
        batch: Option<BatchId>,
        resume: Option<ResumeToken>,
    ) -> impl Stream<Item = Result<Seen, Error>> + Send + 'static {
        let (sender, receiver) = mpsc::channel(BUFFER);
        tokio::spawn(async move {
            let (live, revision, told) = (BTreeMap::new(), Revision::ZERO, Vec::new());
            let mut watch = Watch { engine: self, call, only, batch, resume, live, revision, told };
            if let Err(error) = watch.run(&sender).await {
                // The reader may be gone; then nobody needs the error.
                let _gone = sender.send(Err(error)).await;
            }
        });
        futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
    }
}

struct Watch<K> {
    engine: Arc<Engine<K>>,
    call: Call,
    only: Option<ApprovalId>,
    /// Only the requests of this batch.
    batch: Option<BatchId>,
    resume: Option<ResumeToken>,
    /// The live requests that were told of, with the sessions that each dies with, and from when on each is over.
    live: BTreeMap<ApprovalId, (Vec<SessionId>, Timestamp)>,
    /// The newest commit that was seen, and the requests of it that were told.
    revision: Revision,
    told: Vec<ApprovalId>,
}

type Sender = mpsc::Sender<Result<Seen, Error>>;

impl<K: Kernel> Watch<K> {
    async fn run(&mut self, sender: &Sender) -> Result<(), Error> {
        if let Some(id) = self.only {
            // An error right away for a request that does not exist, or is none of the caller's business.
            self.engine.approval(&self.call, id).await?;
        }
        let tenant = self.engine.tenant();
        let prefix = match self.only {
            Some(id) => Prefix::row(&Key::approval(tenant, &id)),
            None => Prefix::kind(tenant, Kind::Approval),
        };
        let mut ended = self.engine.ended.subscribe();
        let mut changes = pin!(self.engine.repo.kernel().watch(&prefix, Revision::ZERO));
        loop {
            let now = self.engine.now()?;
            let wake = self
                .live
                .values()
                .map(|(_, over_at)| over_at)
                .min()
                .map_or(LOOK_AGAIN, |over_at| over_at.since(now).min(LOOK_AGAIN));
            tokio::select! {
                biased;
                () = sender.closed() => return Ok(()),
                change = changes.next() => match change {
                    Some(change) => self.changed(change?, sender).await?,
                    None => return Err(Error::Store(countersign_store::StoreError::ShutDown)),
                },
                // Of a reader that is too slow for all the ends, everything is looked at.
                session = ended.recv() => self.look_again(session.ok(), sender).await?,
                () = tokio::time::sleep(wake) => self.look_again(None, sender).await?,
            }
        }
    }

    /// A request was committed, now or before the watch began.
    async fn changed(&mut self, change: Change, sender: &Sender) -> Result<(), Error> {
        if change.revision > self.revision {
            self.revision = change.revision;
            self.told.clear();
        }
        let Some(id) = id_of(&change.key).filter(|_| change.row.is_some()) else { return Ok(()) };
        let Some((view, looked)) = self.look(id).await? else { return Ok(()) };
        let of_batch = view.approval.value.batch.map(|batch| batch.id);
        if self.batch.is_some() && self.batch != of_batch {
            return Ok(());
        }
        let told_before = self.live.contains_key(&id);
        let live = !view.state.is_terminal();
        let news = match &self.resume {
            _ if told_before => true,
            Some(resume) => resume.is_before(change.revision, id) || (!live && over_since(&view, resume.at)),
            None => live || self.only.is_some() || self.batch.is_some(),
        };
        self.remember(&view);
        if news { self.tell(view, &looked, sender).await } else { Ok(()) }
    }

    /// Tells of the live requests that are over without a commit: all of them, or those of a session that ended.
    async fn look_again(&mut self, only: Option<SessionId>, sender: &Sender) -> Result<(), Error> {
        let wanted = self.live.iter().filter(|(_, (of, _))| only.is_none_or(|only| of.contains(&only)));
        let ids: Vec<ApprovalId> = wanted.map(|(id, _)| *id).collect();
        for id in ids {
            // There may be thousands.
            tokio::task::yield_now().await;
            match self.look(id).await? {
                Some((view, looked)) if view.state.is_terminal() => {
                    self.remember(&view);
                    self.tell(view, &looked, sender).await?;
                }
                // A heartbeat came, and it is over later.
                Some((view, _)) => self.remember(&view),
                None => {
                    self.live.remove(&id);
                }
            }
        }
        Ok(())
    }

    async fn look(&self, id: ApprovalId) -> Result<Option<(ApprovalView, Looked)>, Error> {
        match self.engine.glance(&self.call, id).await {
            Ok(seen) => Ok(Some(seen)),
            Err(Error::ApprovalNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn remember(&mut self, view: &ApprovalView) {
        let approval = &view.approval.value;
        if view.state.is_terminal() {
            self.live.remove(&approval.id);
        } else {
            let over_at = approval.expires_at().min(view.session_over_at);
            self.live.insert(approval.id, (view.lineage.clone(), over_at));
        }
    }

    async fn tell(&mut self, view: ApprovalView, looked: &Looked, sender: &Sender) -> Result<(), Error> {
        self.engine.accesses.count(looked);
        self.told.push(view.approval.value.id);
        self.told.dedup();
        let told = self.told.iter().rev().take(8).rev().copied().collect();
        let resume = ResumeToken { revision: self.revision, at: self.engine.now()?, told };
        // The reader may be gone; the loop sees that.
        let _gone = sender.send(Ok(Seen { view, resume })).await;
        Ok(())
    }
}

/// Whether a request became over by time or by its session at or after a moment.
fn over_since(view: &ApprovalView, at: Timestamp) -> bool {
    match view.state {
        ApprovalState::Expired => view.approval.value.expires_at() >= at,
        ApprovalState::Void { why: VoidCause::SessionOver } => view.session_over_at >= at,
        ApprovalState::Pending
        | ApprovalState::Approved
        | ApprovalState::Void { .. }
        | ApprovalState::Denied { .. }
        | ApprovalState::Cancelled { .. }
        | ApprovalState::Redeemed { .. } => false,
    }
}
