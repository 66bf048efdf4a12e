//! Scenarios as data: what a bundle must answer, in files beside its policies.
//!
//! The same files run against this crate, the engine and the server, and the answers must agree.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_core::ledger::{Ledger, Standing, Subject};
use countersign_core::{Digest, EntityRef, HolderKind, Record, SessionId, Timestamp, TokenId};
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

use crate::answer::AnswerQuery;
use crate::bundle::{AskingRule, Bundle};
use crate::decide::{ApprovalFacts, Evaluation, QueryError, Verdict};
use crate::finding::{Finding, position};
use crate::question::{Question, timestamp};
use crate::source::SCENARIOS;
use crate::stored::{Entities, EntityData};
use crate::view::View;

/// One situation and what must come of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What must hold, as a sentence.
    pub name: String,
    /// When it happens.
    #[serde(deserialize_with = "timestamp")]
    pub now: Timestamp,
    /// Who acts.
    #[serde(deserialize_with = "entity")]
    pub principal: EntityRef,
    /// The person the principal acts for.
    #[serde(default, deserialize_with = "some_entity")]
    pub operator: Option<EntityRef>,
    /// The operation.
    pub operation: String,
    /// What is acted upon.
    #[serde(deserialize_with = "entity")]
    pub resource: EntityRef,
    /// The enforcement point that the capability is for.
    pub audience: String,
    /// What the session is for.
    #[serde(default)]
    pub purpose: String,
    /// The arguments.
    #[serde(default)]
    pub input: Record,
    /// The circumstances.
    #[serde(default)]
    pub environment: Record,
    /// How whoever the capability is bound to proves it: `key` or `certificate`; absent if it is bound to nobody.
    #[serde(default)]
    pub holder: Option<HolderKind>,
    /// What was done before, in this order. All of it is allowed.
    #[serde(default)]
    pub before: Vec<Earlier>,
    /// The first answer.
    pub expect: Expect,
    /// The rules that ask when approval is needed, the determining policies otherwise; absent means: not compared.
    #[serde(default)]
    pub rules: Option<Vec<String>>,
    /// The votes, in the order in which they are cast.
    #[serde(default)]
    pub vote: Vec<ScenarioVote>,
    /// What comes of it after the votes.
    #[serde(default)]
    pub after: Option<After>,
}

/// An action of the same principal, for the same operator, that was done before.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Earlier {
    /// The operation.
    pub operation: String,
    /// What was acted upon.
    #[serde(deserialize_with = "entity")]
    pub resource: EntityRef,
    /// The enforcement point; absent: that of the scenario.
    #[serde(default)]
    pub audience: Option<String>,
    /// The arguments.
    #[serde(default)]
    pub input: Record,
    /// The circumstances.
    #[serde(default)]
    pub environment: Record,
    /// How often it was done.
    #[serde(default = "once")]
    pub times: u32,
    /// Whether it was done in a session of its own, which is over.
    #[serde(default)]
    pub earlier_session: bool,
    /// Whether it was redeemed, by the principal itself, and its outcome is not known.
    #[serde(default)]
    pub running: bool,
}

const fn once() -> u32 {
    1
}

/// A verdict, as scenario files write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Expect {
    /// The action may happen.
    Allow,
    /// It may not.
    Deny,
    /// People are to be asked.
    NeedsApproval,
    /// The question itself is refused.
    Invalid,
}

impl Expect {
    /// As scenarios spell it.
    const fn word(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::NeedsApproval => "NEEDS_APPROVAL",
            Self::Invalid => "INVALID",
        }
    }
}

/// One vote.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioVote {
    /// Who votes.
    #[serde(deserialize_with = "entity")]
    pub person: EntityRef,
    /// What they say.
    pub verdict: VoteVerdict,
    /// How long after the question was put, such as `10m`.
    #[serde(default, deserialize_with = "duration")]
    pub waited: Duration,
    /// What must come of it.
    pub expect: VoteExpect,
}

/// What a voter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VoteVerdict {
    /// Yes.
    Approve,
    /// No.
    Deny,
}

/// What comes of a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VoteExpect {
    /// It counts; some rule is still unmet.
    Counted,
    /// It counts, and every rule is met.
    Approved,
    /// It counts as a no: the request is over.
    Ended,
    /// The voter is excluded.
    Excluded,
    /// The voter may not answer for any rule that asks.
    NotEligible,
    /// The voter has voted.
    AlreadyVoted,
}

impl VoteExpect {
    /// As scenarios spell it.
    const fn word(self) -> &'static str {
        match self {
            Self::Counted => "COUNTED",
            Self::Approved => "APPROVED",
            Self::Ended => "ENDED",
            Self::Excluded => "EXCLUDED",
            Self::NotEligible => "NOT_ELIGIBLE",
            Self::AlreadyVoted => "ALREADY_VOTED",
        }
    }
}

/// What comes after the votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The verdict of deciding again with the approval.
    pub expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    scenario: Vec<Scenario>,
}

/// A scenario file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ScenarioError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

impl Bundle {
    /// The scenario files, by path, each with its text.
    pub fn scenario_files(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.source().files().iter();
        let files = files.filter(|(file, _)| file.starts_with(SCENARIOS) && file.ends_with(".toml"));
        files.map(|(file, text)| (file.as_str(), text.as_str()))
    }

    /// What cannot be read of its scenarios.
    #[must_use]
    pub fn scenario_findings(&self) -> Vec<Finding> {
        let wrong = |(file, text): (&str, &str)| {
            let ScenarioError { line, message } = Scenario::parse_file(text).err()?;
            Some(Finding::error(file, message).at((line, 1)))
        };
        self.scenario_files().filter_map(wrong).collect()
    }

    /// The stored entities that its scenarios are played with: those of `scenarios/entities.json`, if there is one.
    ///
    /// # Errors
    /// What does not fit, as a sentence.
    pub fn scenario_entities(&self) -> Result<Entities, String> {
        match self.source().files().get(STORED) {
            Some(text) => self.read_entities(text).map_err(|error| format!("{STORED}: {error}")),
            None => Ok(Entities::default()),
        }
    }

    /// Stored entities out of a text: a JSON list, or one object per line, as `countersign entity list --json` writes them.
    ///
    /// # Errors
    /// What does not fit, as a sentence.
    pub fn read_entities(&self, text: &str) -> Result<Entities, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Listed {
            uid: EntityRef,
            #[serde(default)]
            attrs: serde_json::Map<String, serde_json::Value>,
            #[serde(default)]
            parents: Vec<EntityRef>,
            #[serde(default)]
            tags: serde_json::Map<String, serde_json::Value>,
            // What a server says of each besides; nothing is decided by it.
            #[serde(default)]
            revision: u64,
            #[serde(default, rename = "changed_at")]
            _changed_at: IgnoredAny,
            #[serde(default, rename = "changed_by")]
            _changed_by: IgnoredAny,
        }
        let listed: Result<Vec<Listed>, _> = if text.trim_start().starts_with('[') {
            serde_json::from_str(text)
        } else {
            serde_json::Deserializer::from_str(text).into_iter().collect()
        };
        let mut entities = Entities::default();
        for Listed { uid, attrs, parents, tags, revision, .. } in listed.map_err(|error| error.to_string())? {
            let data = EntityData { attrs, parents, tags };
            let checked = self.check_entity(&uid, &data).map_err(|misfit| misfit.to_string())?;
            self.with(&entities, None).admit(&checked).map_err(|misfit| misfit.to_string())?;
            entities.insert(checked, revision);
        }
        Ok(entities)
    }
}

/// What lies in the store when scenarios are played.
pub(crate) const STORED: &str = "scenarios/entities.json";

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// [`ScenarioError`] for whatever is not exactly as it must be: an unread field would be an untested expectation.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, ScenarioError> {
        let file: File = toml::from_str(text).map_err(|error| ScenarioError {
            line: error.span().map_or(1, |span| position(text, span.start).0),
            message: error.message().to_owned(),
        })?;
        Ok(file.scenario)
    }

    /// The persons who may not answer here: the principal if a person, the operator, and the owners of the principal and of
    /// the enforcement point.
    #[must_use]
    pub fn excluded(&self, view: View<'_>) -> BTreeSet<EntityRef> {
        let point = EntityRef::new("EnforcementPoint", &self.audience).ok();
        let itself = Some(&self.principal).filter(|principal| principal.kind() == "Person");
        let owners = [Some(&self.principal), point.as_ref()].into_iter().flatten().filter_map(|of| view.owner_of(of));
        itself.into_iter().chain(&self.operator).cloned().chain(owners).collect()
    }

    /// Plays it on the policies alone and returns what came out otherwise than expected, as sentences.
    #[must_use]
    pub fn play(&self, view: View<'_>) -> Vec<String> {
        let mut question = self.alone(view);
        let mut wrong = self.play_before(view, &mut question);
        let first = view.decide(&question.query());
        let (expect, told) = outcome(&first);
        if expect != self.expect {
            wrong.push(format!("`{}`: expected {}, got {}", self.name, self.expect.word(), in_words(&first)));
        }
        if let Some(rules) = &self.rules
            && BTreeSet::from_iter(rules) != BTreeSet::from_iter(&told)
        {
            wrong.push(format!("`{}`: expected the rules {rules:?}, got {told:?}", self.name));
        }
        let rules = match first {
            Ok(Evaluation { verdict: Verdict::NeedsApproval { rules }, .. }) => rules,
            Ok(_) | Err(_) => Vec::new(),
        };
        let query = AnswerQuery {
            operation: &self.operation,
            resource: &self.resource,
            requester: &self.principal,
            operator: self.operator.as_ref(),
            excluded: &self.excluded(view),
            waited: Duration::ZERO,
            now: self.now,
        };
        let open = rules.iter().map(|rule| rule.ttl).min().unwrap_or_default();
        let mut poll = Poll::new(rules);
        for vote in &self.vote {
            if vote.waited >= open && !open.is_zero() && !poll.rules.iter().all(met) {
                wrong.push(format!("`{}`: the vote of {} comes when the question has expired", self.name, vote.person));
            }
            let query = AnswerQuery { waited: vote.waited, now: self.now.plus(vote.waited), ..query };
            let came = poll.vote(view, vote, &query);
            if came != vote.expect {
                let voter = &vote.person;
                let (expected, came) = (vote.expect.word(), came.word());
                wrong.push(format!("`{}`: expected the vote of {voter} to be {expected}, it was {came}", self.name));
            }
        }
        if let Some(after) = self.after {
            question.approval = poll.facts(question.digest, self.now.plus(Duration::from_secs(60)));
            let second = view.decide(&question.query());
            if outcome(&second).0 != after.expect {
                let (expected, got) = (after.expect.word(), in_words(&second));
                wrong.push(format!("`{}`: expected {expected} after the votes, got {got}", self.name));
            }
        }
        wrong
    }

    /// Plays what was done before, and leaves in the question what that leaves.
    fn play_before(&self, view: View<'_>, question: &mut Question) -> Vec<String> {
        let (rules, now) = (view.bundle().kept(), self.now);
        let entities = [Some(&self.principal), self.operator.as_ref()].into_iter().flatten().cloned();
        let mut following: Vec<Ledger> = entities.map(|of| Ledger::new(Subject::Entity(of), now)).collect();
        let mut session = Ledger::new(Subject::Session(question.session), question.deadline);
        let all =
            self.before.iter().flat_map(|step| std::iter::repeat_n(step, usize::try_from(step.times).unwrap_or(1)));
        let mut wrong = Vec::new();
        for (place, step) in (1_u8..=u8::MAX).zip(all) {
            let mut of_its_own = Ledger::new(Subject::Session(SessionId::from_bytes([place; 16])), question.deadline);
            let its_session = if step.earlier_session { &mut of_its_own } else { &mut session };
            let done = Question {
                operation: step.operation.clone(),
                resource: step.resource.clone(),
                input: step.input.clone(),
                environment: step.environment.clone(),
                standing: Standing::of(rules, following.iter().chain([&*its_session]), None, None, now),
                ..question.clone()
            };
            let evaluation = view.decide(&done.query());
            if outcome(&evaluation).0 != Expect::Allow {
                let told = in_words(&evaluation);
                wrong.push(format!("`{}`: expected ALLOW for step {place} before it, got {told}", self.name));
                continue;
            }
            let (amounts, left) = (rules.amounts(&done.operation, &done.input), view.labels_of(&done.resource));
            let token = TokenId::from_bytes([place; 16]);
            for ledger in following.iter_mut().chain([&mut *its_session]) {
                if let Err(error) = ledger.charge(rules, None, &amounts, &left, now) {
                    wrong.push(format!("`{}`: step {place} before it: {error}", self.name));
                }
            }
            if step.running && its_session.start(rules, token).is_err() {
                wrong.push(format!("`{}`: step {place} before it is one too many that runs", self.name));
            }
        }
        question.standing = Standing::of(rules, following.iter().chain([&session]), None, None, now);
        wrong
    }

    /// The question of it, before any vote, after whatever of what was done before is allowed.
    #[must_use]
    pub fn question(&self, view: View<'_>) -> Question {
        let mut question = self.alone(view);
        let _not_allowed = self.play_before(view, &mut question);
        question
    }

    /// The question as if nothing had been done before.
    fn alone(&self, view: View<'_>) -> Question {
        Question {
            principal: self.principal.clone(),
            operation: self.operation.clone(),
            resource: self.resource.clone(),
            input: self.input.clone(),
            environment: self.environment.clone(),
            session: SessionId::from_bytes([0; 16]),
            purpose: self.purpose.clone(),
            opened_at: self.now,
            deadline: self.now.plus(Duration::from_secs(3_600)),
            standing: Standing::default(),
            operator: self.operator.clone(),
            // Stands for the action's digest, which the policies only compare with itself.
            digest: Digest::of(self.name.as_bytes()),
            now: self.now,
            excluded: self.excluded(view),
            approval: None,
            claimed: BTreeSet::new(),
            holder: self.holder,
        }
    }
}

/// The answer as a scenario spells it, and by what.
fn in_words(evaluation: &Result<Evaluation, QueryError>) -> String {
    match evaluation {
        Err(error) => format!("INVALID: {error}"),
        Ok(evaluation) if evaluation.determining.is_empty() => format!("{} by no policy", evaluation.verdict.name()),
        Ok(evaluation) => format!("{} by {}", evaluation.verdict.name(), evaluation.determining.join(", ")),
    }
}

fn outcome(evaluation: &Result<Evaluation, QueryError>) -> (Expect, Vec<String>) {
    match evaluation {
        Err(_) => (Expect::Invalid, Vec::new()),
        Ok(evaluation) => {
            let expect = match evaluation.verdict {
                Verdict::Allow => Expect::Allow,
                Verdict::Deny { .. } => Expect::Deny,
                Verdict::NeedsApproval { .. } => Expect::NeedsApproval,
            };
            (expect, evaluation.determining.clone())
        }
    }
}

/// The votes on one question, counted by persons and for each rule on its own.
struct Poll {
    rules: Vec<(AskingRule, BTreeSet<EntityRef>)>,
    voted: BTreeSet<EntityRef>,
    ended: bool,
}

impl Poll {
    fn new(rules: Vec<AskingRule>) -> Self {
        let rules = rules.into_iter().map(|rule| (rule, BTreeSet::new())).collect();
        Self { rules, voted: BTreeSet::new(), ended: false }
    }

    fn vote(&mut self, view: View<'_>, vote: &ScenarioVote, query: &AnswerQuery<'_>) -> VoteExpect {
        if query.excluded.contains(&vote.person) {
            return VoteExpect::Excluded;
        }
        if self.voted.contains(&vote.person) {
            return VoteExpect::AlreadyVoted;
        }
        let eligible = |rule: &AskingRule| view.may_answer(&rule.id, &vote.person, query).permitted;
        let answered: Vec<_> = self.rules.iter_mut().filter(|(rule, _)| eligible(rule)).collect();
        if answered.is_empty() {
            return VoteExpect::NotEligible;
        }
        if vote.verdict == VoteVerdict::Approve {
            for (_, persons) in answered {
                persons.insert(vote.person.clone());
            }
        } else {
            self.ended = true;
        }
        self.voted.insert(vote.person.clone());
        match (self.ended, self.rules.iter().all(met)) {
            (true, _) => VoteExpect::Ended,
            (false, true) => VoteExpect::Approved,
            (false, false) => VoteExpect::Counted,
        }
    }

    /// What policies may know of the approval: nothing until a rule is met, and nothing of a request that has ended.
    fn facts(&self, digest: Digest, expires: Timestamp) -> Option<ApprovalFacts> {
        let met: Vec<_> = self.rules.iter().filter(|rule| met(rule)).collect();
        if self.ended || met.is_empty() {
            return None;
        }
        let persons = met.iter().flat_map(|(_, persons)| persons).cloned().collect();
        Some(ApprovalFacts { rules: met.iter().map(|(rule, _)| rule.id.clone()).collect(), persons, digest, expires })
    }
}

fn met((rule, persons): &(AskingRule, BTreeSet<EntityRef>)) -> bool {
    u32::try_from(persons.len()).unwrap_or(u32::MAX) >= rule.quorum
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::lint::duration(&text)
        .ok_or_else(|| D::Error::custom(format!("`{text}` is no time such as `90s`, `10m` or `2h`")))
}

fn entity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EntityRef, D::Error> {
    EntityRef::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn some_entity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<EntityRef>, D::Error> {
    entity(deserializer).map(Some)
}
