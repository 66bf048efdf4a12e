//! What the log tells of questions and answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_core::approval::{AskingRule, Verdict};
use countersign_core::figures::QUICK;
use countersign_core::{Action, ApprovalId, Digest, PreApproval, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The questions of a log.
#[derive(Debug, Default)]
pub struct Evidence {
    since: Option<Timestamp>,
    questions: BTreeMap<ApprovalId, Question>,
}

/// One question, and what came of it.
#[derive(Debug)]
pub struct Question {
    /// What was asked about.
    pub action: Action,
    /// Its digest.
    pub digest: Digest,
    /// The rules that asked.
    pub rules: BTreeSet<String>,
    /// When it was put.
    pub at: Timestamp,
    /// Whether it was about every action that a pre-approval covers; `action` is then their frame.
    whole: bool,
    /// What people said in the end, and when.
    pub answer: Option<(Answer, Timestamp)>,
    /// How long after the voter's first look each approval came, where that is known.
    looks: Vec<Duration>,
}

/// What came of a question that people answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Approved,
    Denied,
    /// It was approved, and one who had approved it took that back.
    TakenBack,
}

/// How it went with some questions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub asked: usize,
    pub approved: usize,
    pub denied: usize,
    pub taken_back: usize,
    /// From the question to the answer, exactly; of an even number the lower one.
    pub median: Option<Duration>,
    /// Approving votes whose voter's first look is known.
    pub sighted: usize,
    /// Those that came within three seconds of it.
    pub quick: usize,
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

#[derive(Deserialize)]
struct Requested {
    at: Timestamp,
    approval: ApprovalId,
    digest: Digest,
    action: String,
    rules: Vec<AskingRule>,
    /// There where it is about every action that a pre-approval covers.
    #[serde(default)]
    pre_approval: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Voted {
    at: Timestamp,
    approval: ApprovalId,
    verdict: Verdict,
    state: String,
    #[serde(default)]
    seen_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Withdrawn {
    at: Timestamp,
    approval: ApprovalId,
    state: String,
}

impl Evidence {
    /// Nothing yet; questions that were put before `since` will not count.
    pub fn since(since: Option<Timestamp>) -> Self {
        Self { since, questions: BTreeMap::new() }
    }

    /// Looks at a record.
    pub fn look(&mut self, content: &[u8]) -> Result<(), String> {
        let Kind { kind } = read(content)?;
        match kind.as_str() {
            "approval_requested" => self.asked(read(content)?),
            "vote" => {
                let Voted { at, approval, verdict, state, seen_at } = read(content)?;
                let Some(question) = self.questions.get_mut(&approval) else { return Ok(()) };
                if let (Verdict::Approve, Some(seen_at)) = (verdict, seen_at) {
                    question.looks.push(at.since(seen_at));
                }
                match (verdict, state.as_str()) {
                    (Verdict::Deny, _) => question.answer = Some((Answer::Denied, at)),
                    (Verdict::Approve, "approved") => question.answer = Some((Answer::Approved, at)),
                    (Verdict::Approve, _) => {}
                }
                Ok(())
            }
            "vote_withdrawn" => {
                let Withdrawn { at, approval, state } = read(content)?;
                if let Some(question) = self.questions.get_mut(&approval).filter(|_| state == "void") {
                    question.answer = Some((Answer::TakenBack, at));
                }
                Ok(())
            }
            _another => Ok(()),
        }
    }

    fn asked(&mut self, requested: Requested) -> Result<(), String> {
        let Requested { at, approval, digest, action, rules, pre_approval } = requested;
        if self.since.is_some_and(|since| at < since) || self.questions.contains_key(&approval) {
            return Ok(());
        }
        let whole = pre_approval.is_some();
        let action = if whole {
            PreApproval::from_canonical(&action).map(|pre| pre.frame())
        } else {
            Action::from_canonical(&action)
        };
        let action = action.map_err(|error| error.to_string())?;
        let rules = rules.into_iter().map(|rule| rule.id).collect();
        let question = Question { action, digest, rules, at, whole, answer: None, looks: Vec::new() };
        self.questions.insert(approval, question);
        Ok(())
    }

    /// The questions, in the order in which they were put. That people pre-approved says nothing of single inputs; that they
    /// would not says that they want to be asked.
    pub fn questions(&self) -> impl Iterator<Item = &Question> {
        let counts = |question: &&Question| {
            !question.whole || question.answered().is_some_and(|answer| answer != Answer::Approved)
        };
        self.questions.values().filter(counts)
    }

    /// The digests of what people denied, or took back.
    pub fn denied_digests(&self) -> BTreeSet<Digest> {
        let not_good = |question: &&Question| question.answer.is_some_and(|(answer, _)| answer != Answer::Approved);
        self.questions().filter(not_good).map(|question| question.digest).collect()
    }
}

impl Question {
    /// What people said in the end.
    pub fn answered(&self) -> Option<Answer> {
        self.answer.map(|(answer, _)| answer)
    }
}

impl Tally {
    /// How it went with these.
    pub fn of(questions: &[&Question]) -> Self {
        let ended = |as_: Answer| questions.iter().filter(|question| question.answered() == Some(as_)).count();
        let mut waits: Vec<Duration> =
            questions.iter().filter_map(|question| Some(question.answer?.1.since(question.at))).collect();
        waits.sort_unstable();
        let looks = || questions.iter().flat_map(|question| &question.looks);
        Self {
            asked: questions.len(),
            approved: ended(Answer::Approved),
            denied: ended(Answer::Denied),
            taken_back: ended(Answer::TakenBack),
            median: waits.len().checked_sub(1).and_then(|last| waits.get(last / 2)).copied(),
            sighted: looks().count(),
            quick: looks().filter(|look| **look <= QUICK).count(),
        }
    }

    /// How many people answered.
    pub const fn answered(&self) -> usize {
        self.approved.saturating_add(self.denied).saturating_add(self.taken_back)
    }
}

fn read<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(content).map_err(|error| format!("cannot be read: {error}"))
}
