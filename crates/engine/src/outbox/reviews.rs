//! What is told of broken glass, and of the review of it: in the commit that writes the review, and in the order of each review.

use countersign_core::review::Review;
use countersign_core::{EntityRef, Notification, NotificationKind, ReviewId, Timestamp};
use countersign_store::outbox::QueuedRow;
use countersign_store::repository::stored;
use countersign_store::{Commit, Key, Place};

use super::Outbox;
use crate::error::Error;
use crate::record::Event;

impl Outbox {
    /// Adds to a commit what is to be told of a review, which is read from the commit itself.
    pub(super) fn announce_review(
        &self,
        mut commit: Commit,
        event: &Event<'_>,
        caller: Option<&EntityRef>,
        now: Timestamp,
    ) -> Result<Commit, Error> {
        let Some((id, kind)) = happened(event).filter(|(_, kind)| self.wants(*kind)) else { return Ok(commit) };
        let key = Key::review(&commit.log, &id);
        let written = commit.written(&key);
        let (read, row) =
            written.ok_or_else(|| Error::Internal(format!("what happened to {id} is told, and not in the commit")))?;
        let review = stored::<Review>(&key, &row)?.value;
        let notification = Notification::of_review(&review, kind, caller.cloned(), now);
        let (row, place) = (QueuedRow { queued_at: now, notification }, Place { read: read.get(), number: 0 });
        for shelf in self.shelves.iter().filter(|shelf| shelf.settings.events.contains(&kind)) {
            commit = commit.queue(&shelf.settings.name, place, &row);
        }
        Ok(commit)
    }
}

/// Which review an event is about, and what it is told as.
fn happened(event: &Event<'_>) -> Option<(ReviewId, NotificationKind)> {
    if let Event::Decision { glass_broken: Some(glass), .. } = event {
        return Some((glass.review, NotificationKind::GlassBroken));
    }
    if let Event::ReviewClosed { review, .. } = event {
        return Some((*review, NotificationKind::ReviewClosed));
    }
    None
}
