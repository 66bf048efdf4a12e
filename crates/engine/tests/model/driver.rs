//! Plays a sequence of operations on the service and on the model, and compares them after every step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_audit::{Hash, verify_consistency};
use countersign_core::Digest;
use countersign_core::Timestamp;
use countersign_core::time::ManualClock;
use countersign_engine::{Broken, Decision, Engine, Error, Reconsidered, RevisionRule, Verdict};
use countersign_store::Kernel;
use countersign_store::fail::Fault;
use countersign_store::repository::Repository;

use crate::audit::{self, Log};
use crate::backend::{Backend, acme, die, disarm};
use crate::operation::{Op, passing, reconsidered, request};
use crate::pre::Bounds;
use crate::reference::{Answer, Expected, Model, Recorded};
use crate::request::{Action, Caller, Request, Sent};
use crate::service::{self, Asked, Minted, Names, START, Told, call, class, open, send, source};
use crate::told::each_change_is_told;
use crate::world::{Party, Variant};

/// How often what was done, and what came of it.
pub type Tally = BTreeMap<String, u64>;

/// What was wrong, in words.
pub type Checked<T> = Result<T, String>;

macro_rules! ensure {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}
pub(crate) use ensure;

pub struct World<B: Backend> {
    backend: B,
    clock: Arc<ManualClock>,
    engine: Option<Arc<Engine<B::Store>>>,
    model: Model,
    names: Names,
    /// One action, one digest (I3).
    digests: BTreeMap<(Action, Option<Bounds>), Digest>,
    history: Vec<Sent>,
    armed: Option<(Fault, u64)>,
    next_id: usize,
    log: Log,
    /// A head that was seen before: later ones continue it (I9).
    head: (u64, Hash),
    /// The terminal states that were seen (I5).
    over: BTreeMap<String, String>,
    pub tally: Tally,
    /// How many operations did something.
    pub steps: usize,
}

impl<B: Backend> World<B> {
    pub async fn new() -> Self {
        let backend = B::create();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
        let engine = open(backend.kernel(), &clock).await.unwrap();
        engine.activate(source(Variant::Base), RevisionRule::NotLower).await.unwrap();
        Self {
            backend,
            clock,
            engine: Some(engine),
            model: Model::new(START),
            names: Names::default(),
            digests: BTreeMap::new(),
            history: Vec::new(),
            armed: None,
            next_id: 0,
            log: Log::default(),
            head: (0, countersign_audit::EMPTY_ROOT),
            over: BTreeMap::new(),
            tally: Tally::new(),
            steps: 0,
        }
    }

    fn engine(&self) -> &Engine<B::Store> {
        self.engine.as_ref().unwrap()
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.tally.entry(what.into()).or_default() += 1;
    }

    /// Plays one operation.
    pub async fn step(&mut self, op: Op) -> Checked<()> {
        self.steps += 1;
        self.count(format!("op {}", op.name()));
        match op {
            Op::Pass { how, which } => {
                let by = passing(&self.model, how, which);
                self.clock.advance(Duration::from_millis(u64::try_from(by).unwrap()));
                self.model.now += by;
            }
            Op::Arm { fault, nth } => self.armed = Some((Op::fault(fault), [1, 1, 1, 2, 3][usize::from(nth) % 5])),
            Op::Crash => {
                die(&self.backend).await;
                self.restart().await?;
            }
            Op::ReadBack => self.read_back().await?,
            Op::Tidy => {
                let expected = self.model.tidy();
                let tidied = self.engine().tidy().await.map_err(|e| e.to_string())?;
                ensure!(tidied == expected, "tidied {tidied} rows, not {expected}");
                self.count(if tidied > 0 { "tidied some" } else { "tidied none" });
            }
            Op::Reconsider { question } => {
                let Some(number) = reconsidered(&self.model, question) else {
                    self.steps -= 1;
                    return Ok(());
                };
                let expected = self.model.reconsider(number)?;
                let id = self.names.questions[number].unwrap().id;
                let found = self.engine().reconsider(id).await.map_err(|e| e.to_string())?;
                let found = matches!(found, Reconsidered::Good(_));
                ensure!(found == expected, "question {number} is good: {found}, not {expected}");
                self.count(if found { "reconsidered good" } else { "reconsidered over" });
            }
            _ => {
                let id = self.next_id;
                if let Some(sent) = request(op, &self.model, id, &self.history) {
                    self.next_id += 1;
                    self.history.push(sent);
                    self.call(&sent).await?;
                } else {
                    // Nothing to do it to: no step.
                    self.steps -= 1;
                }
            }
        }
        self.log_follows().await
    }

    async fn call(&mut self, sent: &Sent) -> Checked<()> {
        let before = self.model.clone();
        let expected = self.model.expect(sent);
        match self.armed.take() {
            Some((fault, nth)) if nth <= expected.writes => {
                self.backend.fail().arm_nth(nth, fault);
                self.interrupted(sent, before, &expected, fault, nth).await
            }
            _ => self.compare(sent, &expected).await,
        }
    }

    /// Makes a call and compares its answer with the model's.
    async fn compare(&mut self, sent: &Sent, expected: &Expected) -> Checked<()> {
        let told = send(self.engine(), &self.names, sent).await;
        match (told, &expected.result) {
            (Ok((told, replayed)), Ok((answer, again))) => {
                ensure!(replayed == *again, "{sent:?}: replayed is {replayed}");
                let word = self.same(sent, told, answer, replayed).await.map_err(|why| format!("{sent:?}: {why}"))?;
                let replay = if replayed { " (replay)" } else { "" };
                self.count(format!("{} ok {word}{replay}", sent.request.rpc()));
                Ok(())
            }
            (Err(error), Err(class_expected)) => {
                let found = class(&error);
                ensure!(found == *class_expected, "{sent:?}: expected `{class_expected}`, got `{found}`: {error}");
                self.count(format!("{} err {found}", sent.request.rpc()));
                Ok(())
            }
            (told, expected) => Err(format!("{sent:?}: expected {expected:?}, got {told:?}")),
        }
    }

    /// Makes a call whose `nth` write meets a fault; restarts, and lets the same request settle what became of it.
    async fn interrupted(
        &mut self,
        sent: &Sent,
        before: Model,
        expected: &Expected,
        fault: Fault,
        nth: u64,
    ) -> Checked<()> {
        let told = send(self.engine(), &self.names, sent).await;
        ensure!(
            matches!(told, Err(Error::OutcomeUnknown(_))),
            "{sent:?} met {fault:?} and was answered {told:?}: nobody can know that"
        );
        self.nothing_is_answered().await?;
        let kept = matches!(fault, Fault::CrashAfter | Fault::SyncFailsButKept);
        let last = nth == expected.writes;
        if !(kept && last) {
            self.model = before;
            if let Request::Publish { variant } = sent.request
                && expected.writes > 1
            {
                self.model.prepare_publish(variant, nth - u64::from(!kept));
            }
        }
        self.reopen().await?;
        let repository = self.repository();
        if kept
            && last
            && let Ok((Answer::Asked { question, shared: true }, _)) = &expected.result
            && let Some(Some(known)) = self.names.questions.get_mut(*question)
        {
            // Another asker's words are another view of the same question, of which no answer has told yet.
            let row = repository.approval(known.id).await.map_err(|e| e.to_string())?;
            known.view = row.ok_or("there is no row of what was asked")?.value.view;
        }
        self.read_back().await?;
        self.count(format!("{} met {fault:?}", sent.request.rpc()));
        if kept && last && expected.result.is_ok() && sent.id.is_none() {
            // A preview has no request id; it stands in the log, and nobody asks for it again.
            return Ok(());
        }
        let settled = self.model.expect(sent);
        self.compare(sent, &settled).await.map_err(|why| format!("settling after {fault:?}: {why}"))
    }

    /// A store that failed shows nothing and takes nothing (I8, I12).
    async fn nothing_is_answered(&self) -> Checked<()> {
        let engine = self.engine();
        let alice = |rpc| call(Caller::Is(Party::Alice), rpc, Some(("after the fault".to_owned(), Digest::of(b""))));
        let read = engine.records(&alice("ListRecords"), 0, 1).await.err();
        ensure!(matches!(read, Some(Error::Store(_))), "a stopped store showed its log: {read:?}");
        let head = engine.head().await.err();
        ensure!(matches!(head, Some(Error::Store(_))), "a stopped store showed its head: {head:?}");
        let opening = countersign_engine::OpenSession {
            purpose: "after the fault".to_owned(),
            ttl: None,
            acting: countersign_engine::Acting::Caller,
            ..countersign_engine::OpenSession::default()
        };
        let opened = engine.open_session(&alice("OpenSession"), &opening).await.err();
        ensure!(matches!(opened, Some(Error::Store(_))), "a stopped store took a session: {opened:?}");
        Ok(())
    }

    /// A new process on what is there.
    async fn restart(&mut self) -> Checked<()> {
        self.reopen().await?;
        self.read_back().await
    }

    async fn reopen(&mut self) -> Checked<()> {
        disarm(self.backend.fail());
        self.engine = None;
        self.backend.reopen();
        let opened = open(self.backend.kernel(), &self.clock).await;
        self.engine = Some(opened.map_err(|error| format!("the service does not start again: {error}"))?);
        self.count("restart");
        Ok(())
    }

    /// The log has exactly the records that the model expects (I8), and times do not go back (I13).
    async fn log_follows(&mut self) -> Checked<()> {
        let kernel = self.backend.kernel();
        self.log.follow(&*kernel).await?;
        let (has, expected) = (self.log.records.len(), self.model.log.len());
        ensure!(
            has == expected,
            "the log has {has} records, not {expected}: the last is {:?}",
            self.log.records.last()
        );
        for index in self.log.compared..has {
            let found = self.log.recorded(index)?;
            let Recorded { kind, caller, at } = &self.model.log[index];
            ensure!(
                (found.kind.as_str(), found.caller.clone(), found.at) == (*kind, caller.map(Party::entity), *at),
                "record {index} is {found:?}, expected {:?}",
                self.model.log[index]
            );
        }
        self.log.compared = has;
        Ok(())
    }

    /// Whether an answer is the model's; ids that are new get their place in the model.
    async fn same(&mut self, sent: &Sent, told: Told, answer: &Answer, replayed: bool) -> Checked<String> {
        match (told, answer) {
            (Told::Session(id), Answer::Session(number)) => {
                bind(&mut self.names.sessions, *number, id)?;
                Ok("session".to_owned())
            }
            (Told::Asked(id, shared), Answer::Asked { question, shared: expected }) => {
                ensure!(shared == *expected, "shared is {shared}");
                let row = self.repository().approval(id).await.map_err(|e| e.to_string())?;
                let row = row.ok_or("there is no row of what was asked")?.value;
                let asked = &self.model.questions[*question];
                self.one_digest((asked.action, asked.pre.map(|pre| pre.bounds)), row.digest)?;
                let shown = Asked { id, digest: row.digest, view: row.view };
                match self.names.questions.get_mut(*question) {
                    // Another asker's words are another view of the same question.
                    Some(Some(known)) if known.id == id && known.digest == shown.digest => *known = shown,
                    _ => bind(&mut self.names.questions, *question, shown)?,
                }
                Ok(if shared { "shared" } else { "new" }.to_owned())
            }
            (Told::Question(id), Answer::Question(number)) => {
                ensure!(self.names.questions[*number].unwrap().id == id, "another question");
                Ok(self.model.questions[*number].state(self.model.now).to_owned())
            }
            (Told::Redeemed(id, digest), Answer::Redeemed(number)) => {
                let minted = self.names.capabilities[*number].clone().unwrap();
                ensure!(minted.id == id, "another capability");
                self.one_digest((minted.action, None), digest)?;
                let found = &self.model.capabilities[*number];
                let approval = found.approval.map(|question| self.model.questions[question].pre);
                let guarded = match (approval, found.review) {
                    (Some(None), _) => "approved",
                    (Some(Some(_)), _) => "pre-approved",
                    (None, Some(_)) => "glass",
                    (None, None) => "free",
                };
                Ok(guarded.to_owned())
            }
            (Told::Capability(id), Answer::Capability(number)) => {
                ensure!(self.names.capabilities[*number].as_ref().unwrap().id == id, "another capability");
                Ok(self.model.capabilities[*number].state(self.model.now).to_owned())
            }
            (Told::Revoked, Answer::Revoked) => Ok("revoked".to_owned()),
            (Told::Published(changed, digest), Answer::Published { changed: expected }) => {
                ensure!(changed == *expected, "changed is {changed}");
                let Request::Publish { variant } = sent.request else { return Err("that was no publish".to_owned()) };
                ensure!(digest == source(variant).digest(), "another bundle");
                Ok(if changed { "changed" } else { "unchanged" }.to_owned())
            }
            (Told::Seen(state), Answer::Seen(expected)) if state == *expected => Ok(state.to_owned()),
            (Told::Review(id), Answer::Review(number)) => {
                ensure!(self.names.reviews[*number] == Some(id), "another review");
                Ok("closed".to_owned())
            }
            (Told::Broken(broken), answer) => {
                let Broken { decision, review } = *broken;
                match (review, answer) {
                    (None, Answer::Deny) => self.same_decision(sent, decision, answer, replayed),
                    (Some(id), Answer::Broken { capability, review }) => {
                        bind(&mut self.names.reviews, *review, id)?;
                        let word = self.same_decision(sent, decision, &Answer::Allow(*capability), replayed)?;
                        Ok(format!("{word} broken"))
                    }
                    (review, answer) => Err(format!("expected {answer:?}, got {decision:?} with {review:?}")),
                }
            }
            (Told::Decision(decision), answer) => self.same_decision(sent, *decision, answer, replayed),
            (told, answer) => Err(format!("expected {answer:?}, got {told:?}")),
        }
    }

    fn same_decision(&mut self, sent: &Sent, decision: Decision, answer: &Answer, replayed: bool) -> Checked<String> {
        let action = match sent.request {
            Request::Decide { action, .. } | Request::Break { action, .. } => action,
            Request::Delegate { capability, session, .. } => {
                Action { session, ..self.model.capabilities[capability].action }
            }
            _ => return Err("that was no decide".to_owned()),
        };
        self.one_digest((action, None), decision.digest)?;
        if !replayed {
            // What decided is named (I10).
            ensure!(decision.bundle == source(self.model.variant).digest(), "decided by another bundle");
            ensure!(decision.decided_at.millis() == self.model.now, "decided at another time");
            ensure!(decision.log_index.is_some(), "without a place in the log");
        }
        match (&decision.verdict, answer) {
            (Verdict::Deny { .. }, Answer::Deny) => {}
            (Verdict::NeedsApproval { rules, persons, .. }, Answer::NeedsApproval(expected, could)) => {
                let expected: Vec<_> = expected.iter().map(|(rule, quorum)| (rule.id(), *quorum)).collect();
                let rules: Vec<_> = rules.iter().map(|rule| (rule.id.as_str(), rule.quorum)).collect();
                ensure!(rules == expected, "needs {rules:?}, expected {expected:?}");
                let could: std::collections::BTreeSet<_> = could.iter().map(|person| person.entity()).collect();
                ensure!(persons.iter().cloned().eq(could.iter().cloned()), "{persons:?} could answer, not {could:?}");
            }
            (Verdict::Allow { capability: None }, Answer::Allow(None)) => {}
            (Verdict::Allow { capability: Some((id, expires)) }, Answer::Allow(Some(number))) => {
                let minted = &self.model.capabilities[*number];
                ensure!(expires.millis() == minted.expires, "expires at {expires:?}, not {}", minted.expires);
                let token = decision.token.as_ref().ok_or("there is no token")?.expose().to_owned();
                let approved = if minted.approval.is_some() { " approved" } else { "" };
                // A replay gives the identical token.
                bind(&mut self.names.capabilities, *number, Minted { id: *id, token, action: minted.action })?;
                return Ok(format!("ALLOW minted{approved}"));
            }
            (verdict, answer) => return Err(format!("expected {answer:?}, got {verdict:?}")),
        }
        Ok(decision.word().to_owned())
    }

    fn one_digest(&mut self, action: (Action, Option<Bounds>), digest: Digest) -> Checked<()> {
        let known = *self.digests.entry(action).or_insert(digest);
        ensure!(known == digest, "{action:?} has two digests (I3)");
        let others = self.digests.iter().filter(|(other, known)| **known == digest && **other != action).count();
        ensure!(others == 0, "{action:?} shares its digest with another action (I7)");
        Ok(())
    }

    fn repository(&self) -> Repository<B::Store> {
        Repository::new(self.backend.kernel(), acme())
    }

    /// Every row is what the model says, and no terminal state was left (I5); the log continues every head that was seen
    /// (I9) and holds by itself (I1, I2, I3, I6, I10).
    pub async fn read_back(&mut self) -> Checked<()> {
        self.log_follows().await?;
        let found = audit::rows(&self.repository(), &self.names, &self.model).await?;
        for (name, (state, terminal)) in found {
            if let Some(before) = self.over.get(&name) {
                // What was redeemed may still be completed, and told late.
                let told_late =
                    before.starts_with("redeemed") && (state.starts_with("redeemed") || state == "completed");
                ensure!(
                    *before == state || (told_late && name.starts_with("cap")),
                    "{name} was {before} and is {state} (I5)"
                );
            }
            if terminal {
                self.over.insert(name, state);
            }
        }
        let alice = call(Caller::Is(Party::Alice), "read", None);
        let frontier = self.backend.kernel().log_frontier(&acme()).await.map_err(|e| e.to_string())?;
        let (size, root) = (frontier.size(), frontier.root());
        let proof = self.engine().consistency(&alice, self.head.0, size).await.map_err(|e| e.to_string())?;
        verify_consistency(self.head.0, &self.head.1, size, &root, &proof).map_err(|e| format!("{e} (I9)"))?;
        self.head = (size, root);
        ensure!(self.log.root() == root, "the root is not that of the records");
        each_change_is_told(&*self.backend.kernel(), &self.log.records).await?;
        self.log.audit(true)
    }

    pub fn variant(&self) -> Variant {
        self.model.variant
    }
}

/// The first time a thing is told of, it gets its place; ever after it is the same.
fn bind<T: PartialEq + std::fmt::Debug>(names: &mut Vec<Option<T>>, number: usize, name: T) -> Checked<()> {
    while names.len() <= number {
        names.push(None);
    }
    match &names[number] {
        Some(known) if *known == name => Ok(()),
        Some(known) => Err(format!("number {number} is {known:?}, and now {name:?}")),
        None => {
            names[number] = Some(name);
            Ok(())
        }
    }
}

/// The digest of the bundle that a record names, as a variant.
pub fn named(text: &str) -> Option<Variant> {
    Digest::parse(text).ok().and_then(service::variant_of)
}
