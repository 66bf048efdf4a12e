//! Another bundle beside the active one: what it would have answered to the same questions. Nothing is ever done on it.
//!
//! A decision that was answered is put into a bounded queue, and judged again when there is time. What finds the queue full is
//! counted and left out, so a shadow costs a caller next to nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use countersign_core::{DecisionId, Digest, EntityRef, Timestamp};
use countersign_policy::{Bundle, Entities, Source};
use countersign_store::Kernel;
use tokio::sync::mpsc;

use crate::decide::{Decision, Weighed};
use crate::engine::{Active, Call, Engine, Scene};
use crate::error::Error;
use crate::judge::{Judgement, Ruling, judge};

/// How many decisions may wait to be judged again.
const QUEUE: usize = 1024;
/// How many bytes of canonical text they may have together.
const QUEUE_BYTES: usize = 1024 * 1024;
/// How many policies are named on either side of a difference.
const MAX_POLICIES: usize = 32;
/// How many kinds of differences are told apart.
const MAX_DIFFERENCES: usize = 256;
/// How many examples there are of each.
const MAX_EXAMPLES: usize = 3;

/// The shadow, its queue and what was found.
#[derive(Debug)]
pub(crate) struct Shadow {
    rehearsed: ArcSwapOption<Rehearsed>,
    offered: mpsc::Sender<Offered>,
    waiting: tokio::sync::Mutex<mpsc::Receiver<Offered>>,
    bytes: AtomicUsize,
    found: Mutex<Found>,
    refused: Mutex<Option<String>>,
}

/// The shadow bundle, and stored entities of its own if those of the active one do not fit it.
#[derive(Debug)]
struct Rehearsed {
    bundle: Arc<Bundle>,
    own: tokio::sync::Mutex<Option<(u64, Entities)>>,
}

/// A decision that was answered.
#[derive(Debug)]
struct Offered {
    weighed: Weighed,
    active: Arc<Active>,
    at: Timestamp,
    decision: DecisionId,
    answer: Answered,
    bytes: usize,
}

/// What was answered, as far as it is compared. Who could answer a question is not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Answered {
    verdict: &'static str,
    determining: Vec<String>,
}

/// How many decisions came to what.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    same: u64,
    different: u64,
    skipped: u64,
}

impl Answered {
    fn new(verdict: &'static str, mut determining: Vec<String>) -> Self {
        if determining.len() > MAX_POLICIES {
            determining.truncate(MAX_POLICIES);
            determining.push("…".to_owned());
        }
        Self { verdict, determining }
    }

    /// Whether a caller is told the same: the verdict, and whom it takes if people have to approve. A policy that is called
    /// something else, or another one that forbids too, is no difference.
    fn means(&self, other: &Self) -> bool {
        self.verdict == other.verdict && (self.verdict != "NEEDS_APPROVAL" || self.determining == other.determining)
    }
}

#[derive(Debug, Default)]
struct Found {
    /// The shadow and the active bundle that were compared.
    between: Option<(Digest, Digest)>,
    since: Option<Timestamp>,
    counts: Counts,
    differences: BTreeMap<(String, Answered, Answered), (u64, Vec<Example>)>,
    /// What was counted before that; the metrics are never set back.
    earlier: Counts,
}

impl Found {
    /// Begins anew, but for what the metrics count.
    fn restart(&mut self) {
        let earlier = self.totals();
        *self = Self { earlier, ..Self::default() };
    }

    const fn totals(&self) -> Counts {
        let Self { counts, earlier, .. } = self;
        Counts {
            same: earlier.same + counts.same,
            different: earlier.different + counts.different,
            skipped: earlier.skipped + counts.skipped,
        }
    }
}

/// What a shadow bundle would have answered, so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowReport {
    /// The shadow's digest.
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: u64,
    /// Why what was to take its place was refused, if the last one was.
    pub refused: Option<String>,
    /// The bundle that it is compared with; absent as long as nothing was.
    pub compared_with: Option<Digest>,
    /// Since when; absent as long as nothing was.
    pub since: Option<Timestamp>,
    /// Decisions that it would have answered in the same way.
    pub same: u64,
    /// Decisions that it would have answered otherwise.
    pub different: u64,
    /// Decisions that came too fast to be judged twice.
    pub skipped: u64,
    /// The differences, the most frequent first. The rarest may be missing, and are counted in `different` all the same.
    pub differences: Vec<Difference>,
}

/// One kind of difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The operation.
    pub operation: String,
    /// What was answered: `ALLOW`, `NEEDS_APPROVAL` or `DENY`.
    pub verdict: &'static str,
    /// By which policies.
    pub determining: Vec<String>,
    /// What the shadow would have answered, or `INVALID` if the action does not fit its schema.
    pub shadow_verdict: &'static str,
    /// By which policies; what does not fit, if it is invalid.
    pub shadow_determining: Vec<String>,
    /// How often.
    pub count: u64,
    /// The latest, the last one first.
    pub examples: Vec<Example>,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Its id.
    pub decision: DecisionId,
    /// When it was made.
    pub at: Timestamp,
    /// Who acted.
    pub principal: EntityRef,
    /// On what.
    pub resource: EntityRef,
}

impl Default for Shadow {
    fn default() -> Self {
        let (offered, waiting) = mpsc::channel(QUEUE);
        Self {
            rehearsed: ArcSwapOption::empty(),
            offered,
            waiting: tokio::sync::Mutex::new(waiting),
            bytes: AtomicUsize::new(0),
            found: Mutex::default(),
            refused: Mutex::default(),
        }
    }
}

impl Shadow {
    /// Puts a decision that was answered into the queue, if there is a shadow.
    pub(crate) fn offer(&self, scene: &Scene, weighed: Weighed, decision: &Decision) {
        if self.rehearsed.load().is_none() {
            return;
        }
        // Which policies match tells of what they read, and sensitive inputs were promised not to be told.
        let sensitive = !scene.active.bundle.sensitive(&weighed.action.operation).is_empty();
        let bytes = weighed.canonical.text().len();
        let fits = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= QUEUE_BYTES;
        let answer = Answered::new(decision.word(), decision.determining.clone());
        let (active, at, decision) = (Arc::clone(&scene.active), scene.now, decision.id);
        let offered = Offered { weighed, active, at, decision, answer, bytes };
        if sensitive || !fits || self.offered.try_send(offered).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.found().counts.skipped += 1;
        }
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        // Counts that a panic left are counts all the same.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, shadow: Digest, offered: Offered, would: Answered) {
        let Offered { weighed, active, at, decision, answer, bytes: _ } = offered;
        let mut found = self.found();
        let between = Some((shadow, active.bundle.digest()));
        if found.between != between {
            // What was skipped before the first comparison belongs to it.
            if found.between.is_some() {
                found.restart();
            }
            (found.between, found.since) = (between, Some(at));
        }
        if answer.means(&would) {
            found.counts.same += 1;
            return;
        }
        found.counts.different += 1;
        let action = weighed.action;
        let key = (action.operation, answer, would);
        if found.differences.len() >= MAX_DIFFERENCES && !found.differences.contains_key(&key) {
            return;
        }
        let (count, examples) = found.differences.entry(key).or_default();
        *count += 1;
        examples.insert(0, Example { decision, at, principal: action.principal, resource: action.resource });
        examples.truncate(MAX_EXAMPLES);
    }
}

impl Rehearsed {
    /// What the bundle would answer. If stored entities do not fit it, it could not be published.
    /// Nothing, if the entities that it was decided on are not there any more.
    async fn answer<K: Kernel>(&self, engine: &Engine<K>, offered: &Offered) -> Result<Option<Answered>, Error> {
        let Offered { weighed, active, at, .. } = offered;
        let shared = active.bundle.composed_schema() == self.bundle.composed_schema()
            && active.bundle.stored_types() == self.bundle.stored_types();
        let mut own = self.own.lock().await;
        let entities = if shared || self.bundle.stored_types().is_empty() {
            &active.entities
        } else {
            if own.as_ref().is_none_or(|(revision, _)| *revision < active.entity_revision) {
                let (entities, revision) = engine.stored_entities(&self.bundle).await?;
                *own = Some((revision, entities));
            }
            if own.as_ref().is_some_and(|(revision, _)| *revision > active.entity_revision) {
                return Ok(None);
            }
            own.as_ref().map_or(&active.entities, |(_, entities)| entities)
        };
        let judged = weighed.facts_in(self.bundle.with(entities, None), *at).and_then(judge);
        Ok(Some(match judged {
            Ok(Judgement { ruling, determining, .. }) => Answered::new(word(&ruling), determining),
            Err(error) => invalid(error),
        }))
    }
}

/// An action that the shadow could not judge, by what does not fit. What was sent is not told: it may be sensitive.
fn invalid(error: Error) -> Answered {
    let what = if let Error::InvalidField { field, .. } = error { field } else { error.to_string() };
    Answered { verdict: "INVALID", determining: vec![what] }
}

/// The word for a verdict, as the wire spells it. What a shadow permits, nobody uses.
const fn word(ruling: &Ruling) -> &'static str {
    match ruling {
        Ruling::Allow(_) => "ALLOW",
        Ruling::NeedsApproval(_) => "NEEDS_APPROVAL",
        Ruling::Deny { .. } => "DENY",
    }
}

impl<K: Kernel> Engine<K> {
    /// Lets a bundle run beside the active one from now on, in place of the shadow before.
    ///
    /// # Errors
    /// [`Error::BundleRefused`]; the shadow before stays then.
    pub async fn set_shadow(&self, source: Source) -> Result<Digest, Error> {
        let bundle = crate::publish::load(source).await?;
        let digest = bundle.digest();
        let before = self.shadow.rehearsed.load_full().map(|before| before.bundle.digest());
        if before != Some(digest) {
            self.shadow.rehearsed.store(Some(Arc::new(Rehearsed { bundle, own: tokio::sync::Mutex::new(None) })));
            self.shadow.found().restart();
        }
        Ok(digest)
    }

    /// Says why there is no new shadow, or that there is one.
    pub fn tell_shadow(&self, refused: Option<String>) {
        *self.shadow.refused() = refused;
    }

    /// Judges again what was decided, for as long as it is polled. To be run once.
    pub async fn rehearse(&self) {
        let mut waiting = self.shadow.waiting.lock().await;
        while let Some(offered) = waiting.recv().await {
            self.shadow.bytes.fetch_sub(offered.bytes, Ordering::Relaxed);
            let Some(rehearsed) = self.shadow.rehearsed.load_full() else { continue };
            match rehearsed.answer(self, &offered).await {
                Ok(Some(would)) => self.shadow.note(rehearsed.bundle.digest(), offered, would),
                Ok(None) => self.shadow.found().counts.skipped += 1,
                Err(error) => self.shadow.note(rehearsed.bundle.digest(), offered, invalid(error)),
            }
            tokio::task::yield_now().await;
        }
    }

    /// How many decisions a shadow would have answered in the same way, otherwise, and how many were left out, since the
    /// engine was opened.
    pub fn shadow_totals(&self) -> [(&'static str, u64); 3] {
        let Counts { same, different, skipped } = self.shadow.found().totals();
        [("same", same), ("different", different), ("skipped", skipped)]
    }

    /// What was found so far, for whoever may read the log; nothing if there is no shadow.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`].
    pub async fn shadow_report(&self, call: &Call) -> Result<Option<ShadowReport>, Error> {
        let attempt = |scene: Scene| async move {
            self.require_read_log(&scene)?;
            let Some(rehearsed) = self.shadow.rehearsed.load_full() else { return Ok(None) };
            let bundle = &rehearsed.bundle;
            let found = self.shadow.found();
            let Counts { same, different, skipped } = found.counts;
            let mut differences: Vec<Difference> = found.differences.iter().map(difference).collect();
            differences.sort_by_key(|difference| std::cmp::Reverse(difference.count));
            Ok(Some(ShadowReport {
                digest: bundle.digest(),
                name: bundle.name().to_owned(),
                revision: bundle.revision(),
                refused: self.shadow.refused().clone(),
                compared_with: found.between.map(|(_, active)| active),
                since: found.since,
                same,
                different,
                skipped,
                differences,
            }))
        };
        self.settle(call, None, attempt).await
    }
}

fn difference(
    ((operation, answer, would), (count, examples)): (&(String, Answered, Answered), &(u64, Vec<Example>)),
) -> Difference {
    Difference {
        operation: operation.clone(),
        verdict: answer.verdict,
        determining: answer.determining.clone(),
        shadow_verdict: would.verdict,
        shadow_determining: would.determining.clone(),
        count: *count,
        examples: examples.clone(),
    }
}
