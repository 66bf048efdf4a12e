//! The live requests in memory, as far as it takes to find those that somebody may see.
//!
//! Among thousands of requests few may be somebody's to answer, and reading all to find them costs what there are. Who may
//! answer a request is the same for all of one *matter*, so it is judged once for each person and matter, and again when the
//! bundle or a stored entity changed. Nothing but what is shown rests on it: a vote is judged by what it reads itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_core::approval::{Approval, ApprovalState};
use countersign_core::{Action, ApprovalId, EntityRef, Timestamp};
use countersign_policy::AnswerQuery;
use countersign_store::repository::stored;
use countersign_store::{Change, Kernel, Key, Kind, Pace, Prefix, Revision, StoreError};
use futures::{Stream, StreamExt as _};

use crate::engine::{Active, Call, Engine, Scene};
use crate::error::Error;
use crate::pre_approve;
use crate::read::{ApprovalView, Paged};
use crate::vote::Question;

/// So many verdicts are kept; beyond, all are forgotten and judged again.
const MOST_VERDICTS: usize = 100_000;
/// So many questions are kept as they were read, for those who are told of the same change.
const MOST_QUESTIONS: usize = 256;

/// What decides who may answer a request, but for the policies, the entities and the time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Matter {
    rules: Vec<String>,
    operation: String,
    resource: EntityRef,
    requester: EntityRef,
    operator: Option<EntityRef>,
    excluded: Vec<EntityRef>,
}

impl Matter {
    fn of(approval: &Approval, action: &Action) -> Self {
        Self {
            rules: approval.rules.iter().map(|rule| rule.id.clone()).collect(),
            operation: action.operation.clone(),
            resource: action.resource.clone(),
            requester: action.principal.clone(),
            operator: action.operator.clone(),
            excluded: approval.excluded.iter().cloned().collect(),
        }
    }
}

/// A live request.
#[derive(Debug)]
struct Live {
    matter: Arc<Matter>,
    asked_by: EntityRef,
    voters: Vec<EntityRef>,
    /// Whether whoever may revoke can end it: a pre-approval.
    revocable: bool,
    approved: bool,
    created_at: Timestamp,
    expires_at: Timestamp,
}

/// Which live requests somebody wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Those that wait for votes.
    Pending,
    /// Those that may be used.
    Approved,
    /// Both.
    Live,
}

impl Wanted {
    const fn takes(self, approved: bool) -> bool {
        match self {
            Self::Pending => !approved,
            Self::Approved => approved,
            Self::Live => true,
        }
    }
}

type News = Pin<Box<dyn Stream<Item = Result<Option<Change>, StoreError>> + Send>>;

/// All live requests, kept up to date with the store by whoever looks.
#[derive(Default)]
pub(crate) struct Pending {
    table: tokio::sync::Mutex<Table>,
    verdicts: Verdicts,
    questions: Questions,
}

#[derive(Default)]
struct Table {
    news: Option<News>,
    held: Held,
}

#[derive(Default)]
struct Held {
    live: BTreeMap<ApprovalId, Arc<Live>>,
    /// Equal matters are one, so that they are told apart by where they lie.
    matters: HashSet<Arc<Matter>>,
}

impl Table {
    /// Takes in everything that was acknowledged before. Whoever stops waiting leaves what was taken in, and where to go on.
    async fn catch_up(&mut self, begin: impl FnOnce() -> News + Send) -> Result<(), StoreError> {
        if self.news.is_none() {
            self.held = Held::default();
        }
        let news = self.news.get_or_insert_with(begin);
        let taken = loop {
            match news.next().await {
                Some(Ok(Some(change))) => match self.held.take(&change) {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
                Some(Ok(None)) => break Ok(()),
                Some(Err(error)) => break Err(error),
                None => break Err(StoreError::ShutDown),
            }
        };
        if taken.is_err() {
            // A stream that failed or ended is not gone on with: the next one begins anew.
            self.news = None;
        }
        let Held { live, matters } = &mut self.held;
        if matters.len() > live.len().saturating_mul(2) {
            matters.retain(|matter| Arc::strong_count(matter) > 1);
        }
        taken
    }
}

impl Held {
    fn take(&mut self, change: &Change) -> Result<(), StoreError> {
        let Some(id) = id_of(&change.key) else { return Ok(()) };
        self.live.remove(&id);
        let Some(row) = &change.row else { return Ok(()) };
        let approval = stored::<Approval>(&change.key, row)?.value;
        // What is over by time is left out by whoever looks.
        let approved = match approval.state(approval.created_at) {
            ApprovalState::Pending => false,
            ApprovalState::Approved => true,
            ApprovalState::Denied { .. }
            | ApprovalState::Expired
            | ApprovalState::Cancelled { .. }
            | ApprovalState::Void { .. }
            | ApprovalState::Redeemed { .. } => return Ok(()),
        };
        let action = pre_approve::action_of(&approval)
            .map_err(|error| StoreError::Damaged { reason: format!("{id} asks about no action: {error}") })?;
        let matter = Arc::new(Matter::of(&approval, &action));
        let matter = self.matters.get(&matter).cloned().unwrap_or(matter);
        self.matters.insert(Arc::clone(&matter));
        let live = Live {
            matter,
            asked_by: approval.asked_by.clone(),
            voters: approval.votes().iter().map(|vote| vote.person.clone()).collect(),
            revocable: approval.pre_approval().is_some(),
            approved,
            created_at: approval.created_at,
            expires_at: approval.expires_at(),
        };
        self.live.insert(id, Arc::new(live));
        Ok(())
    }
}

/// The request that lies under a key.
pub(crate) fn id_of(key: &Key) -> Option<ApprovalId> {
    (key.kind() == Some(Kind::Approval)).then(|| key.parts().try_into().ok().map(ApprovalId::from_bytes)).flatten()
}

/// Who may answer what, by the policies and entities of one moment: for each rule of a matter, whether a person may.
#[derive(Debug, Default)]
struct Verdicts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    active: Option<Arc<Active>>,
    by_matter: HashMap<Matter, HashMap<EntityRef, Arc<[bool]>>>,
    number: usize,
}

impl Verdicts {
    fn get(&self, active: &Arc<Active>, matter: &Matter, person: &EntityRef) -> Option<Arc<[bool]>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = known.active.as_ref().is_some_and(|then| Arc::ptr_eq(then, active));
        current.then(|| known.by_matter.get(matter)?.get(person).cloned()).flatten()
    }

    fn keep(&self, active: &Arc<Active>, matter: &Matter, person: &EntityRef, verdict: Arc<[bool]>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = known.active.as_ref().is_some_and(|then| Arc::ptr_eq(then, active));
        if !current || known.number >= MOST_VERDICTS {
            *known = Known { active: Some(Arc::clone(active)), ..Known::default() };
        }
        known.number = known.number.saturating_add(1);
        match known.by_matter.get_mut(matter) {
            Some(persons) => drop(persons.insert(person.clone(), verdict)),
            None => drop(known.by_matter.insert(matter.clone(), HashMap::from([(person.clone(), verdict)]))),
        }
    }
}

/// Questions as they were read last: a thousand who are told of one change need not each take the same row apart.
#[derive(Debug, Default)]
struct Questions(Mutex<HashMap<ApprovalId, Arc<Question>>>);

impl<K: Kernel> Engine<K> {
    /// The live requests that the caller may see, newest first, at most `limit`. It costs what there is to see, and not what is
    /// pending.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn live_approvals(
        &self,
        call: &Call,
        before: Option<ApprovalId>,
        limit: usize,
        wanted: Wanted,
    ) -> Result<Paged<ApprovalView, ApprovalId>, Error> {
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            let mut found = self.found(scene, before, wanted).await?.into_iter();
            let (mut items, mut last) = (Vec::new(), None);
            for id in found.by_ref() {
                last = Some(id);
                let question = self.question(id).await?;
                // Read after it was found, and its session may be over.
                if let Some(view) = self.seen(scene, question, false).await?
                    && wanted.matches(&view.state)
                {
                    items.push(view);
                }
                if items.len() >= limit {
                    break;
                }
            }
            Ok(Paged { items, next: found.next().and(last) })
        };
        self.settle(call, None, attempt).await
    }

    /// The live requests that the caller may see, newest first.
    async fn found(&self, scene: &Scene, before: Option<ApprovalId>, wanted: Wanted) -> Result<Vec<ApprovalId>, Error> {
        let begin = || -> News {
            let prefix = Prefix::kind(self.tenant(), Kind::Approval);
            Box::pin(self.repo.kernel().changes(&prefix, Revision::ZERO, Pace::Ready))
        };
        let live: Vec<(ApprovalId, Arc<Live>)> = {
            let mut table = self.pending.table.lock().await;
            table.catch_up(begin).await?;
            let all = table.held.live.iter().rev().filter(|(id, live)| {
                before.is_none_or(|before| **id < before)
                    && wanted.takes(live.approved)
                    && !scene.now.reached(live.expires_at)
            });
            all.map(|(id, live)| (*id, Arc::clone(live))).collect()
        };
        let reads_all = self.reads_all(scene).permitted;
        let mut judged: HashMap<*const Matter, bool> = HashMap::new();
        let mut seen = Vec::new();
        for (id, live) in live {
            let Live { matter, asked_by, voters, revocable, created_at, .. } = &*live;
            let party = scene.caller.is_among(matter.operator.as_ref(), [asked_by, &matter.requester]);
            let person = scene.caller.as_person();
            let voted = || person.is_some_and(|person| voters.contains(person));
            let mut may_answer = || {
                let Some(person) = person else { return false };
                if scene.view().bundle().answers_by_time() {
                    return self.verdict(scene, matter, *created_at, person, scene.claimed()).contains(&true);
                }
                *judged.entry(Arc::as_ptr(matter)).or_insert_with(|| {
                    self.verdict(scene, matter, *created_at, person, scene.claimed()).contains(&true)
                })
            };
            let may_revoke = || *revocable && pre_approve::may_revoke_of(self, scene, &matter.requester);
            if reads_all || party || voted() || may_answer() || may_revoke() {
                seen.push(id);
            }
        }
        Ok(seen)
    }

    /// For each rule of a request, whether a person may answer it now, with the groups that they claim: to show it, and not to
    /// count by it.
    pub(crate) fn answerable_rules(
        &self,
        scene: &Scene,
        approval: &Approval,
        action: &Action,
        person: &EntityRef,
        claimed: &BTreeSet<EntityRef>,
    ) -> Arc<[bool]> {
        self.verdict(scene, &Matter::of(approval, action), approval.created_at, person, claimed)
    }

    fn verdict(
        &self,
        scene: &Scene,
        matter: &Matter,
        created_at: Timestamp,
        person: &EntityRef,
        claimed: &BTreeSet<EntityRef>,
    ) -> Arc<[bool]> {
        // What is kept is what the directory says: by another credential, or later, the same person is in fewer groups.
        let lasts = !scene.view().bundle().answers_by_time() && claimed.is_empty();
        if let Some(known) = self.pending.verdicts.get(&scene.active, matter, person).filter(|_| lasts) {
            return known;
        }
        let Matter { rules, operation, resource, requester, operator, excluded } = matter;
        let excluded = excluded.iter().cloned().collect();
        let query = AnswerQuery {
            operation,
            resource,
            requester,
            operator: operator.as_ref(),
            excluded: &excluded,
            waited: scene.now.since(created_at),
            now: scene.now,
        };
        let view = scene.view().claiming(person, claimed);
        let verdict: Arc<[bool]> = rules.iter().map(|rule| view.may_answer(rule, person, &query).permitted).collect();
        if lasts {
            self.pending.verdicts.keep(&scene.active, matter, person, Arc::clone(&verdict));
        }
        verdict
    }

    /// A request with its session and its action. Whoever reads the same one again, unchanged, is given what was read before.
    pub(crate) async fn shared_question(&self, id: ApprovalId) -> Result<Arc<Question>, Error> {
        let kept = self.pending.questions.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        // What dies with other rows than its session's is read anew.
        if let Some(question) = kept.filter(|question| question.session.stands_alone()) {
            let session = Key::session(self.tenant(), &question.session.value.id);
            let approval = self.repo.kernel().get(&Key::approval(self.tenant(), &id)).await?;
            let session = self.repo.kernel().get(&session).await?;
            if approval.is_some_and(|row| row.revision == question.approval.revision)
                && session.is_some_and(|row| row.revision == question.session.revision)
            {
                return Ok(self.cut_question(question));
            }
        }
        let question = Arc::new(self.question(id).await?);
        let mut kept = self.pending.questions.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_QUESTIONS {
            kept.clear();
        }
        kept.insert(id, Arc::clone(&question));
        Ok(question)
    }
}

impl Wanted {
    const fn matches(self, state: &ApprovalState) -> bool {
        match state {
            ApprovalState::Pending => self.takes(false),
            ApprovalState::Approved => self.takes(true),
            ApprovalState::Denied { .. }
            | ApprovalState::Expired
            | ApprovalState::Cancelled { .. }
            | ApprovalState::Void { .. }
            | ApprovalState::Redeemed { .. } => false,
        }
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
