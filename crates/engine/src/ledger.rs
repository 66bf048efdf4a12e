//! The ledgers of an action: read with what it is judged by, and written in the commit that lets it happen, so that no two
//! actions are judged by the same state of a counter and both count (I12).

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::approval::Approval;
use countersign_core::capability::Grant;
use countersign_core::ledger::{Amounts, Ledger, Rules, Standing, Subject};
use countersign_core::session::Session;
use countersign_core::{EntityRef, SessionId, Timestamp, TokenId};
use countersign_policy::View;
use countersign_store::repository::{CommitExt, Stored};
use countersign_store::{Commit, Guard, Kernel, Key, Revision};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::engine::{Engine, Operation, Scene};
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

/// Actions that would write the same ledgers take turns, and whoever only reads them waits for those that write: judged side by side,
/// one of them would win and the others start over, again and again. Nothing rests on it but time: the commit is guarded.
#[derive(Debug)]
pub(crate) struct Turns(Vec<Arc<RwLock<()>>>);

/// The turn of one action. It is over when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    _held: Vec<Hold>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "they are held, and not looked at")]
enum Hold {
    Reading(OwnedRwLockReadGuard<()>),
    Writing(OwnedRwLockWriteGuard<()>),
}

impl Default for Turns {
    fn default() -> Self {
        Self((0..STRIPES).map(|_| Arc::default()).collect())
    }
}

/// Subjects share that many locks.
const STRIPES: usize = 256;

impl Turns {
    /// Waits for the turn of an action that writes the ledgers of a session, or reads them. In one order for all, so that nobody waits
    /// for each other.
    pub(crate) async fn take(&self, session: &Session, writes: bool) -> Turn {
        let place = |entity: &EntityRef| {
            let digest = Subject::Entity(entity.clone()).digest();
            digest.as_bytes().first().map_or(0, |byte| usize::from(*byte) % STRIPES)
        };
        let places: BTreeSet<usize> = acting(session).into_iter().map(place).collect();
        let mut turn = Vec::new();
        for lock in places.into_iter().filter_map(|place| self.0.get(place)) {
            turn.push(if writes {
                Hold::Writing(Arc::clone(lock).write_owned().await)
            } else {
                Hold::Reading(Arc::clone(lock).read_owned().await)
            });
        }
        Turn { _held: turn }
    }
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
    /// It will never happen.
    Release(TokenId),
    /// What was minted for it is exchanged for another capability.
    Exchange { given_up: TokenId, token: TokenId, until: Timestamp },
}

impl Taking {
    /// Whether it leaves labels: where they are there already, they must still count when it happens, also for whoever has started
    /// clean meanwhile.
    fn leaves(&self) -> bool {
        match self {
            Self::Act(labels) | Self::Redeem(_, labels) => !labels.is_empty(),
            Self::Reserve(..) | Self::Release(_) | Self::Exchange { .. } => false,
        }
    }
}

impl<K: Kernel> Engine<K> {
    /// The turn of an action that is to be decided or redeemed, if it has to wait for one.
    pub(crate) async fn turn(&self, view: View<'_>, session: &Session, operation: &Operation) -> Turn {
        let (bundle, Operation { name, resource, input, .. }) = (view.bundle(), operation);
        let rules = bundle.kept();
        let writes = rules.running || !rules.amounts(name, input).is_empty() || !view.labels_of(resource).is_empty();
        if rules.are_empty() || !(writes || bundle.rests_on_kept(name)) {
            return Turn::default();
        }
        self.turns.take(session, writes).await
    }

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

    /// Adds to a commit that a capability is never redeemed: what it reserved is free.
    pub(crate) async fn released(&self, scene: &Scene, grant: &Grant, commit: Commit) -> Result<Commit, Error> {
        let rules = scene.active.bundle.kept();
        if rules.are_empty() {
            return Ok(commit);
        }
        let Some(session) = self.repo.session(grant.session).await? else { return Ok(commit) };
        let ledgers = self.ledgers(rules, &session.value, scene.now).await?;
        ledgers.settle(rules, &Amounts::new(), &Taking::Release(grant.id), false, scene.now, commit)
    }

    /// Adds to a commit that the outcome of an action is known, whoever says so, and whatever the active bundle keeps.
    pub(crate) async fn finished(&self, session: SessionId, token: TokenId, commit: Commit) -> Result<Commit, Error> {
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
                Taking::Release(token) => after.release(*token),
                Taking::Exchange { given_up, token, until } => {
                    let released = after.release(*given_up);
                    after.reserve(rules, *token, amounts, *until, now)? || released
                }
            };
            if changed {
                commit = commit.upsert(&after, *read);
            } else if rests || taking.leaves() {
                let key = Key::ledger(&commit.log, &ledger.subject);
                commit = commit
                    .guard(read.map_or_else(|| Guard::Absent(key.clone()), |read| Guard::Revision(key.clone(), read)));
            }
        }
        Ok(commit)
    }

    /// What is kept of the session alone.
    pub(crate) fn of_session(&self) -> Self {
        let own = self.0.iter().filter(|held| matches!(held.ledger.subject, Subject::Session(_)));
        Self(own.cloned().collect())
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

/// Whether the session has labels by now that people were not shown when they were asked.
pub(crate) fn unseen(approval: &Approval, standing: &Standing) -> bool {
    !standing.labels.is_subset(&approval.labels)
}
