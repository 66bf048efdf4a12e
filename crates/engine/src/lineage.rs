//! A session with all that is above it. Whatever is decided, voted on, minted or spent in a session reads it in this way and binds
//! its commit to all of these rows: once the end of a session was acknowledged, nothing commits in it or in any below it (I6).

use countersign_core::SessionId;
use countersign_core::session::{MAX_DEPTH, Session};
use countersign_store::repository::Stored;
use countersign_store::{Commit, Guard, Kernel, Key, Revision};

use crate::engine::Engine;
use crate::error::Error;

/// A session as it is under its ancestors and by its heartbeat, and which rows say so. It is no row: a commit is bound to it by
/// [`RestingOn`], which takes all of them.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// The commit that wrote its own row.
    pub(crate) revision: Revision,
    /// What it is.
    pub(crate) value: Session,
    /// The sessions above it, the nearest first, as they were read.
    above: Vec<Stored<Session>>,
}

impl Lineage {
    /// The session and those above it, the nearest first: it is over when any of them is.
    pub(crate) fn ids(&self) -> impl Iterator<Item = SessionId> {
        std::iter::once(self.value.id).chain(self.above.iter().map(|above| above.value.id))
    }

    /// Whether a kept copy of it is as good as this one, as long as its own row is the same.
    pub(crate) const fn stands_alone(&self) -> bool {
        self.value.stands_alone()
    }

    /// Its own row, as something other than a lineage.
    pub(crate) fn stored(self) -> Stored<Session> {
        Stored { revision: self.revision, value: self.value }
    }
}

/// Commits that take effect only while a session and all above it are as they were read.
pub(crate) trait RestingOn: Sized {
    /// Requires that neither the session nor any above it has changed. A heartbeat may have come: that only extends.
    #[must_use]
    fn resting_on(self, session: &Lineage) -> Self;
}

impl RestingOn for Commit {
    fn resting_on(self, session: &Lineage) -> Self {
        let own = (session.value.id, session.revision);
        let above = session.above.iter().map(|above| (above.value.id, above.revision));
        std::iter::once(own).chain(above).fold(self, |commit, (id, revision)| {
            let key = Key::session(&commit.log, &id);
            commit.guard(Guard::Revision(key, revision))
        })
    }
}

impl<K: Kernel> Engine<K> {
    /// A session with all that is above it.
    pub(crate) async fn lineage(&self, id: SessionId) -> Result<Lineage, Error> {
        self.lineage_of(self.session_row(id).await?.ok_or(Error::SessionNotFound)?).await
    }

    /// A session that was read, with all that is above it.
    pub(crate) async fn lineage_of(&self, mut own: Stored<Session>) -> Result<Lineage, Error> {
        self.cut_session(&mut own.value);
        let mut above: Vec<Stored<Session>> = Vec::new();
        let mut next = own.value.parent;
        while let Some(id) = next.filter(|_| above.len() < MAX_DEPTH as usize) {
            // One that was tidied away was over long before; what is below it, and not under it, is over too.
            let Some(row) = self.session_row(id).await? else { break };
            next = row.value.parent;
            above.push(self.heard_of(row).await?);
        }
        let own = self.heard_of(own).await?;
        let under = |parent: Option<Session>, child: &Session| match parent {
            Some(parent) => child.clone().under(&parent),
            None => child.clone(),
        };
        let parent = above.iter().rev().fold(None, |parent, row| Some(under(parent, &row.value)));
        Ok(Lineage { revision: own.revision, value: under(parent, &own.value), above })
    }

    /// A session by its heartbeat, if it has one.
    async fn heard_of(&self, session: Stored<Session>) -> Result<Stored<Session>, Error> {
        if session.value.heartbeat().is_none() {
            return Ok(session);
        }
        let Stored { revision, value } = session;
        let last = self.repo.heartbeat(value.id).await?;
        let mut value = value.seen(last.as_ref().map(|last| &last.value));
        if value.has_lapsed(self.now()?) {
            // One that took its place in time may be under way still. Once this was told, there is no way back (I5).
            drop(self.beating.write().await);
            let last = self.repo.heartbeat(value.id).await?;
            value = value.seen(last.as_ref().map(|last| &last.value));
        }
        Ok(Stored { revision, value })
    }
}
