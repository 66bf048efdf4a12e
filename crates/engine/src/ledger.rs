//! The ledgers of an action: read with what it is judged by, and written in the commit that lets it happen, so that no two
//! actions are judged by the same state of a counter and both count (I12).

use std::collections::BTreeSet;

use countersign_core::approval::Approval;
use countersign_core::ledger::{Amounts, Ledger, Rules, Standing, Subject};
use countersign_core::session::Session;
use countersign_core::{Action, EntityRef, Timestamp, TokenId};
use countersign_policy::View;
use countersign_store::repository::{CommitExt, Stored};
use countersign_store::{Commit, Guard, Kernel, Key, Revision};

use crate::engine::Engine;
use crate::error::Error;

/// Everything that is kept of a session and of those who act in it. Nothing, where the bundle keeps nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledgers(Vec<Held>);

#[derive(Debug, Clone)]
struct Held {
    ledger: Ledger,
    /// None if there is no row yet.
    read: Option<Revision>,
}

/// What an action does to the ledgers.
#[derive(Debug)]
pub(crate) enum Taking {
    /// A capability is minted for it.
    Reserve(TokenId, Timestamp),
    /// It happens, and leaves labels.
    Act(BTreeSet<String>),
    /// It happens, and runs until its outcome is known.
    Redeem(TokenId, BTreeSet<String>),
}

impl<K: Kernel> Engine<K> {
    /// What is kept of a session.
    pub(crate) async fn ledgers(&self, rules: &Rules, session: &Session, now: Timestamp) -> Result<Ledgers, Error> {
        if rules.are_empty() {
            return Ok(Ledgers::default());
        }
        let mut all = vec![self.held(Subject::Session(session.id), session.deadline).await?];
        for entity in acting(session) {
            all.push(self.held(Subject::Entity(entity.clone()), now).await?);
        }
        Ok(Ledgers(all))
    }

    /// What policies see now of what was done in a session and by those who act in it; nothing where the bundle keeps nothing. For
    /// whoever may see the session.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::NoBundle`], [`Error::ClockJumped`].
    pub async fn standing(&self, session: &Session) -> Result<Option<Standing>, Error> {
        let (active, now) = (self.active()?, self.now()?);
        let rules = active.bundle.kept();
        let ledgers = self.ledgers(rules, session, now).await?;
        Ok((!rules.are_empty()).then(|| ledgers.standing(rules, session, None, now)))
    }

    async fn held(&self, subject: Subject, over_at: Timestamp) -> Result<Held, Error> {
        Ok(match self.repo.ledger(&subject).await? {
            Some(Stored { revision, value }) => Held { ledger: value, read: Some(revision) },
            None => Held { ledger: Ledger::new(subject, over_at), read: None },
        })
    }

    /// Adds to a commit that the outcome of an action is known, whoever says so.
    pub(crate) async fn finished(
        &self,
        rules: &Rules,
        session: countersign_core::SessionId,
        token: TokenId,
        commit: Commit,
    ) -> Result<Commit, Error> {
        if !rules.running {
            return Ok(commit);
        }
        let Some(mut kept) = self.repo.ledger(&Subject::Session(session)).await? else { return Ok(commit) };
        Ok(if kept.value.finish(token) { commit.update(&kept) } else { commit })
    }
}

/// Whom everything that is done in a session follows: its principal, its operator, and the links between them.
fn acting(session: &Session) -> BTreeSet<&EntityRef> {
    [&session.principal].into_iter().chain(&session.operator).chain(&session.chain).collect()
}

impl Ledgers {
    /// What policies see. `except` is the capability that is being redeemed.
    pub(crate) fn standing(
        &self,
        rules: &Rules,
        session: &Session,
        except: Option<TokenId>,
        now: Timestamp,
    ) -> Standing {
        if self.0.is_empty() {
            return Standing::default();
        }
        let clean = session.clean.then_some(session.opened_at);
        Standing::of(rules, self.0.iter().map(|held| &held.ledger), clean, except, now)
    }

    /// Adds to a commit what an action does to the ledgers. Where its answer `rests` on them, they must be as they were read
    /// even if it changes nothing.
    pub(crate) fn settle(
        &self,
        rules: &Rules,
        amounts: &Amounts,
        taking: &Taking,
        rests: bool,
        now: Timestamp,
        mut commit: Commit,
    ) -> Result<Commit, Error> {
        for Held { ledger, read } in &self.0 {
            let mut after = ledger.clone();
            let changed = match taking {
                Taking::Reserve(token, until) => after.reserve(rules, *token, amounts, *until, now)?,
                Taking::Act(labels) => after.charge(rules, None, amounts, labels, now)?,
                Taking::Redeem(token, labels) => {
                    let charged = after.charge(rules, Some(*token), amounts, labels, now)?;
                    after.start(rules, *token)? || charged
                }
            };
            if changed {
                commit = commit.upsert(&after, *read);
            } else if rests {
                let key = Key::ledger(&commit.log, &ledger.subject);
                commit = commit
                    .guard(read.map_or_else(|| Guard::Absent(key.clone()), |read| Guard::Revision(key.clone(), read)));
            }
        }
        Ok(commit)
    }

    /// Adds to a commit that a session is opened in which the labels of before do not count.
    pub(crate) fn start_clean(&self, now: Timestamp, until: Timestamp, mut commit: Commit) -> Commit {
        for Held { ledger, read } in self.0.iter().filter(|held| matches!(held.ledger.subject, Subject::Entity(_))) {
            let mut after = ledger.clone();
            after.start_clean(now, until);
            commit = commit.upsert(&after, *read);
        }
        commit
    }

    /// The rows, as they were read.
    pub(crate) fn rows(&self, tenant: &countersign_core::TenantId) -> Vec<(Key, Option<Revision>)> {
        self.0.iter().map(|held| (Key::ledger(tenant, &held.ledger.subject), held.read)).collect()
    }
}

/// The labels of a session that people were not shown when they were asked: beside those, the resource's own are no news, since
/// what was asked about is an action on it.
pub(crate) fn unseen(view: View<'_>, approval: &Approval, action: &Action, standing: &Standing) -> bool {
    let seen = |label: &String| approval.labels.contains(label);
    if standing.labels.iter().all(seen) {
        return false;
    }
    let own = view.labels_of(&action.resource);
    !standing.labels.iter().all(|label| seen(label) || own.contains(label))
}
