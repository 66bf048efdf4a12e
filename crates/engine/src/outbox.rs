//! The outbox: what is told of approval requests and reviews is written in the commit that changes them, and delivered
//! afterwards, by couriers that no call waits for.

mod back_off;
mod courier;
mod ending;
mod leftover;
mod letters;
mod queue;
mod reviews;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_core::approval::{Approval, VoidCause};
use countersign_core::notification::{Happening, VoidWord};
use countersign_core::{ApprovalId, EntityRef, Notification, NotificationKind, TenantId, Timestamp};
use countersign_store::outbox::{EndingRow, QueuedRow};
use countersign_store::repository::stored;
use countersign_store::{Commit, Key, Place, Revision};

use crate::error::Error;
use crate::record::{DelegatedRecord, Event};

pub use back_off::{BackOff, Jitter};
pub use courier::{Courier, Sink, Undelivered};
pub use letters::{DeadLetter, LetterPlace, SinkReport};

/// The most sinks that a tenant can have: what one call tells all of them fits into its commit.
pub const MAX_SINKS: usize = 8;

/// Where notifications go, and what bounds that.
#[derive(Debug, Clone)]
pub struct SinkSettings {
    /// Its name: part of the keys of what waits for it.
    pub name: String,
    /// What it wants to be told.
    pub events: BTreeSet<NotificationKind>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long to wait between attempts.
    pub back_off: BackOff,
    /// After so many attempts a notification is given up.
    pub attempts: u32,
    /// After so long a notification that was tried in vain is given up.
    pub max_age: Duration,
    /// The most notifications that wait. Beyond, the oldest are given up.
    pub backlog: usize,
    /// The most dead letters that are kept. Beyond, the oldest are gone.
    pub dead_letters: usize,
    /// How long a dead letter is kept.
    pub dead_letter_age: Duration,
}

/// What a sink is doing, since the server started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkState {
    /// How many notifications wait.
    pub backlog: usize,
    /// How many dead letters there are.
    pub dead_letters: usize,
    /// When it last took one.
    pub last_delivered: Option<Timestamp>,
    /// When it last did not, and why.
    pub last_failure: Option<(Timestamp, String)>,
    /// Whether it takes nothing at present: several requests in a row failed, and it is only probed.
    pub down: bool,
    /// How many it took.
    pub delivered: u64,
    /// How many attempts failed.
    pub failed: u64,
    /// How many became dead letters.
    pub given_up: u64,
    /// How many dead letters are gone for want of room, or for their age.
    pub forgotten: u64,
}

/// A sink with what it is doing.
#[derive(Debug)]
struct Shelf {
    settings: SinkSettings,
    state: Mutex<SinkState>,
}

impl Shelf {
    fn state<T>(&self, look: impl FnOnce(&mut SinkState) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The sinks of a tenant.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    shelves: Vec<Arc<Shelf>>,
}

impl Outbox {
    pub(crate) fn new(sinks: Vec<SinkSettings>) -> Result<Self, Error> {
        if sinks.len() > MAX_SINKS {
            return Err(Error::Internal(format!("{} sinks are configured, and {MAX_SINKS} at most fit", sinks.len())));
        }
        let shelf = |settings| Arc::new(Shelf { settings, state: Mutex::default() });
        Ok(Self { shelves: sinks.into_iter().map(shelf).collect() })
    }

    fn shelf(&self, name: &str) -> Option<&Arc<Shelf>> {
        self.shelves.iter().find(|shelf| shelf.settings.name == name)
    }

    fn wants(&self, kind: NotificationKind) -> bool {
        self.shelves.iter().any(|shelf| shelf.settings.events.contains(&kind))
    }

    /// Adds to a commit what is to be told of an event. The request is read from the commit itself, so that what is told is
    /// what is written.
    pub(crate) fn announce(
        &self,
        commit: Commit,
        event: &Event<'_>,
        caller: Option<&EntityRef>,
        now: Timestamp,
    ) -> Result<Commit, Error> {
        let commit = self.announce_review(commit, event, caller, now)?;
        let Some((id, happenings)) = happenings(event, caller).filter(|_| !self.shelves.is_empty()) else {
            return Ok(commit);
        };
        let key = Key::approval(&commit.log, &id);
        let asked = matches!(event, Event::ApprovalRequested { .. });
        let (read, row) = match commit.written(&key) {
            Some(written) => written,
            // Whoever asks the same again changes nothing for those who answer.
            None if asked => return Ok(commit),
            None => return Err(Error::Internal(format!("what happened to {id} is told, and not in the commit"))),
        };
        let approval = stored::<Approval>(&key, &row)?.value;
        if !asked {
            return Ok(self.tell(commit, &approval, read, happenings, now, now));
        }
        // As little does it that more persons cannot answer.
        let again = matches!(event, Event::ApprovalRequested { asked_again: true, .. });
        if read != Revision::ZERO && !again {
            return Ok(commit);
        }
        let commit = self.tell(commit, &approval, read, happenings, now, now);
        if !again && (self.wants(NotificationKind::Expired) || self.wants(NotificationKind::Void)) {
            return Ok(commit.expect_end(&EndingRow { approval: id, session: approval.session }));
        }
        Ok(commit)
    }

    /// Adds what happened to a request that was read at `read`, for each sink that wants it.
    fn tell(
        &self,
        mut commit: Commit,
        approval: &Approval,
        read: Revision,
        happenings: Vec<Happening>,
        at: Timestamp,
        now: Timestamp,
    ) -> Commit {
        let void = happenings.iter().any(|happening| happening.kind == NotificationKind::Void);
        // The end of the session is not in the request's row.
        let state = if void { "void" } else { approval.state(now).word() };
        for (number, happening) in (0_u8..).zip(happenings) {
            let kind = happening.kind;
            let notification = Notification::of(approval, state, happening, at);
            let row = QueuedRow { queued_at: now, notification };
            let place = Place { read: read.get(), number };
            for shelf in self.shelves.iter().filter(|shelf| shelf.settings.events.contains(&kind)) {
                commit = commit.queue(&shelf.settings.name, place, &row);
            }
        }
        commit
    }
}

/// What an event is to be told as. Every event stands here, so that a new one does not compile until somebody has decided.
fn happenings(event: &Event<'_>, caller: Option<&EntityRef>) -> Option<(ApprovalId, Vec<Happening>)> {
    let by = |who: Option<&EntityRef>, kind| Happening::new(kind, who.cloned());
    match event {
        Event::ApprovalRequested { approval, .. } => Some((*approval, vec![by(caller, NotificationKind::Asked)])),
        Event::Vote { approval, person, verdict, state, .. } => {
            let voted = Happening { verdict: Some(*verdict), ..by(Some(person), NotificationKind::Voted) };
            let then = match *state {
                "approved" | "denied" => Some(by(Some(person), NotificationKind::Decided)),
                "void" => Some(Happening { cause: Some(VoidWord::Denied), ..by(Some(person), NotificationKind::Void) }),
                _pending => None,
            };
            Some((*approval, std::iter::once(voted).chain(then).collect()))
        }
        Event::VoteWithdrawn { approval, person, state } => {
            let then = (*state == "void")
                .then(|| Happening { cause: Some(VoidWord::Withdrawn), ..by(Some(person), NotificationKind::Void) });
            let withdrawn = by(Some(person), NotificationKind::Withdrawn);
            Some((*approval, std::iter::once(withdrawn).chain(then).collect()))
        }
        Event::ApprovalCancelled { approval } => Some((*approval, vec![by(caller, NotificationKind::Cancelled)])),
        Event::ApprovalEscalated { approval } => Some((*approval, vec![by(None, NotificationKind::Escalated)])),
        Event::ApprovalVoid { approval, cause } => {
            let changed = match cause {
                VoidCause::ConditionsChanged { changed } => *changed,
                VoidCause::Withdrawn { .. }
                | VoidCause::Denied { .. }
                | VoidCause::SessionOver
                | VoidCause::Revoked { .. } => None,
            };
            let cause = Some(word_of(cause));
            Some((*approval, vec![Happening { cause, changed, ..by(caller, NotificationKind::Void) }]))
        }
        Event::Redeem { approval: Some(approval), .. }
        | Event::Delegated(DelegatedRecord { approval: Some(approval), .. })
        | Event::Decision { approval: Some(approval), minted: None, .. } => {
            Some((*approval, vec![by(caller, NotificationKind::Redeemed)]))
        }
        Event::Redeem { approval: None, .. }
        | Event::Delegated(DelegatedRecord { approval: None, .. })
        | Event::Decision { .. }
        | Event::SessionOpened { .. }
        | Event::SessionEnded { .. }
        | Event::ApprovalExcluded { .. }
        | Event::CoolDownLift { .. }
        // Told in `reviews.rs`, in an order of its own.
        | Event::ReviewClosed { .. }
        | Event::Complete { .. }
        | Event::Revoke { .. }
        | Event::Revocation { .. }
        | Event::OutcomeResolved { .. }
        | Event::BundleActivated { .. }
        | Event::BundleSigned { .. }
        | Event::EntitiesChanged { .. }
        | Event::NotificationRetried { .. }
        | Event::NotificationDropped { .. }
        | Event::Key { .. }
        | Event::Restored { .. }
        | Event::BackedUp { .. }
        | Event::LogPruned { .. }
        | Event::Refusal { .. }
        | Event::Refusals { .. }
        | Event::Access { .. } => None,
    }
}

const fn word_of(cause: &VoidCause) -> VoidWord {
    match cause {
        VoidCause::Withdrawn { .. } => VoidWord::Withdrawn,
        VoidCause::Denied { .. } => VoidWord::Denied,
        VoidCause::SessionOver => VoidWord::SessionOver,
        VoidCause::Revoked { .. } => VoidWord::Revoked,
        VoidCause::ConditionsChanged { .. } => VoidWord::ConditionsChanged,
    }
}

/// The tenant's name and the sink's, for a line of the log.
fn named<'a>(tenant: &'a TenantId, shelf: &'a Shelf) -> (&'a str, &'a str) {
    (tenant.as_str(), &shelf.settings.name)
}
