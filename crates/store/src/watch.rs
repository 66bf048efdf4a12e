//! Watching without a history.
//!
//! A watcher first subscribes to the live changes and then looks for what changed before: rows carry the revision
//! that wrote them. What it finds is as of one moment, and live changes up to that moment are skipped, so nothing
//! comes twice and nothing is missed. A watcher that falls behind does the same again from where it was.

use std::collections::VecDeque;
use std::future::Future;

use futures::Stream;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::error::StoreError;
use crate::kernel::{Change, Changes, Pace, Revision, Row};
use crate::layout::{Key, Prefix};

/// How many groups of commits a watcher may lag behind before it is caught up from the rows.
pub(crate) const LIVE_GROUPS: usize = 128;

/// The rows that changed, as of one moment.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The moment: the newest commit that is taken into account.
    pub at: Revision,
    /// The rows, in order of the commits that wrote them.
    pub rows: VecDeque<(Revision, Key)>,
}

/// What a watcher reads. It must not keep a store open that everyone else has let go of.
pub(crate) trait Source: Send + Sync + 'static {
    /// The rows with this prefix that were written after this revision.
    fn changed(&self, prefix: &Prefix, after: Revision) -> impl Future<Output = Result<Changed, StoreError>> + Send;

    /// The row of this key.
    fn row(&self, key: &Key) -> impl Future<Output = Result<Option<Row>, StoreError>> + Send;

    /// Why there are no more live changes; `None` after an orderly shutdown.
    fn ended(&self) -> Option<StoreError>;
}

struct Watcher<S> {
    source: S,
    prefix: Prefix,
    live: broadcast::Receiver<Changes>,
    pace: Pace,
    /// Every change up to here was shown or is among `found`.
    seen: Revision,
    found: VecDeque<(Revision, Key)>,
    group: VecDeque<Change>,
    delivered: Revision,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    CatchUp,
    Live,
    Done,
}

/// Tells of changes; `live` must have been subscribed before anything is read.
pub(crate) fn changes<S: Source>(
    source: S,
    prefix: Prefix,
    from: Revision,
    live: broadcast::Receiver<Changes>,
    pace: Pace,
) -> impl Stream<Item = Result<Option<Change>, StoreError>> + Send + 'static {
    let watcher = Watcher {
        source,
        prefix,
        live,
        pace,
        seen: from,
        found: VecDeque::new(),
        group: VecDeque::new(),
        delivered: from,
        state: State::CatchUp,
    };
    futures::stream::unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        if item.is_err() {
            watcher.state = State::Done;
        }
        Some((item, watcher))
    })
}

impl<S: Source> Watcher<S> {
    async fn next(&mut self) -> Option<Result<Option<Change>, StoreError>> {
        loop {
            match self.state {
                State::Done => return None,
                State::CatchUp => match self.source.changed(&self.prefix, self.seen).await {
                    Ok(Changed { at, rows }) => {
                        // A watcher may ask from a revision that is yet to come.
                        self.seen = self.seen.max(at);
                        self.found = rows;
                        self.state = State::Live;
                    }
                    Err(error) => return Some(Err(error)),
                },
                State::Live => {}
            }
            if let Some((revision, key)) = self.found.pop_front() {
                match self.source.row(&key).await {
                    Ok(Some(row)) if row.revision == revision => {
                        return Some(Ok(Some(Change { revision, key, row: Some(row) })));
                    }
                    // It changed since it was found, and that change comes live.
                    Ok(_) => continue,
                    Err(error) => return Some(Err(error)),
                }
            }
            if let Some(change) = self.group.pop_front() {
                self.delivered = self.delivered.max(change.revision);
                return Some(Ok(Some(change)));
            }
            // Several rows of one commit share its revision: only when a group is through is it seen.
            self.seen = self.seen.max(self.delivered);
            if self.pace == Pace::Ready && self.live.is_empty() && !self.live.is_closed() {
                return Some(Ok(None));
            }
            match self.live.recv().await {
                Ok(changes) => self.take(&changes),
                Err(RecvError::Lagged(_)) => self.state = State::CatchUp,
                Err(RecvError::Closed) => {
                    self.state = State::Done;
                    return self.source.ended().map(Err);
                }
            }
        }
    }

    /// Takes the changes of one group that are news here.
    fn take(&mut self, changes: &Changes) {
        let seen = self.seen;
        let news = changes.iter().filter(|change| change.revision > seen && self.prefix.matches(&change.key));
        self.group = news.cloned().collect();
    }
}
