//! Ends that nobody commits: a request expires, or dies with its session, by time alone. Whoever reads it knows; whoever is
//! to be told does not, so the end is looked for and told in a commit of its own.
//!
//! That it is yet to be told is a row, made with the request. The commit that tells deletes that row, so an end is told once,
//! however often and by however many it is looked for. A request that ended by a commit was told by that commit; then the row
//! just goes.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use countersign_core::approval::{Approval, ApprovalState, VoidCause};
use countersign_core::notification::{Happening, VoidWord};
use countersign_core::{ApprovalId, NotificationKind, SessionId, Timestamp};
use countersign_store::outbox::EndingRow;
use countersign_store::repository::{CommitExt, Stored, stored};
use countersign_store::{Commit, CommitError, Kernel, Key, Prefix, Revision, StoreError};
use futures::StreamExt;

use crate::engine::Engine;
use crate::error::Error;
use crate::vote::Question;

/// The longest time after which it is looked again whether a request is over.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The requests whose end is yet to be told, and when each is to be looked at.
type Live = BTreeMap<ApprovalId, (SessionId, Timestamp)>;

impl<K: Kernel> Engine<K> {
    /// Tells of requests that are over by time or with their session. Runs until it is dropped, or the store fails; what was
    /// not told then is told by the next run, also of a new process.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::ClockJumped`].
    pub async fn tell_ends(&self) -> Result<(), Error> {
        let mut ended = self.ended.subscribe();
        let mut changes = pin!(self.repo.kernel().watch(&Prefix::endings(self.tenant()), Revision::ZERO));
        let mut live = Live::new();
        loop {
            let now = self.now()?;
            let due: Vec<ApprovalId> =
                live.iter().filter(|(_, (_, look_at))| now.reached(*look_at)).map(|(id, _)| *id).collect();
            for id in due {
                match (self.tell_end(id).await?, live.get_mut(&id)) {
                    (Some(over_at), Some((_, look_at))) => *look_at = over_at,
                    (Some(_), None) => {}
                    (None, _) => drop(live.remove(&id)),
                }
            }
            let next = live.values().map(|(_, look_at)| look_at.since(now)).min();
            tokio::select! {
                change = changes.next() => {
                    let change = change.ok_or(StoreError::ShutDown)??;
                    if let Some(row) = change.row {
                        let EndingRow { approval, session } = stored(&change.key, &row)?.value;
                        // At once: its session may have ended before anybody was listening.
                        live.insert(approval, (session, now));
                    }
                }
                // Of more ends than one can follow, everything is looked at.
                session = ended.recv() => {
                    let session = session.ok();
                    let over = live.values_mut().filter(|(of, _)| session.is_none_or(|session| session == *of));
                    over.for_each(|(_, look_at)| *look_at = now);
                }
                () = tokio::time::sleep(next.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)) => {}
            }
        }
    }

    /// Tells the end of a request if it is over and nobody has told it. Answers when it will be over, if it is not.
    async fn tell_end(&self, id: ApprovalId) -> Result<Option<Timestamp>, Error> {
        loop {
            let Some(ending) = self.repo.ending(&id).await? else { return Ok(None) };
            let question = self.question(id).await?;
            let now = self.now()?;
            let state = question.state(now);
            let Question { approval, session, .. } = question;
            let session_over_at = session.value.over_at();
            let happening = match &state {
                ApprovalState::Pending | ApprovalState::Approved => {
                    return Ok(Some(approval.value.expires_at().min(session_over_at)));
                }
                ApprovalState::Expired => Some((NotificationKind::Expired, None, approval.value.expires_at())),
                ApprovalState::Void { why: VoidCause::SessionOver } => {
                    Some((NotificationKind::Void, Some(VoidWord::SessionOver), session_over_at))
                }
                ApprovalState::Void { .. }
                | ApprovalState::Denied { .. }
                | ApprovalState::Cancelled { .. }
                | ApprovalState::Redeemed { .. } => None,
            };
            let commit = Commit::new(self.tenant().clone())
                .delete(Key::ending(self.tenant(), &id), ending.revision)
                .unchanged(&approval)
                .unchanged(&session);
            let commit = match happening {
                Some((kind, cause, at)) => {
                    let happening = Happening { cause, ..Happening::new(kind, None) };
                    let Stored { revision, value }: &Stored<Approval> = &approval;
                    self.outbox.tell(commit, value, *revision, vec![happening], at, now)
                }
                None => commit,
            };
            match self.repo.kernel().commit(commit).await {
                Ok(_) => return Ok(None),
                // Something happened meanwhile, or another told it.
                Err(CommitError::Conflict { .. }) => tokio::task::yield_now().await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
