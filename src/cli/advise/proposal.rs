//! What to do about a rule, from what the log tells. Pure, and the same for the same log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_core::{EntityRef, Record, SessionId, Value};
use countersign_policy::Bundle;

use super::evidence::{Answer, Evidence, Question, Tally};
use crate::cli::output::quoted;

/// So many different texts are listed; a field with more is another each time.
const FEW: usize = 5;

/// What is enough.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// So many answers, or it is left alone.
    pub minimum: usize,
    /// Half of them came within this time, or people think about it.
    pub quick: Duration,
}

/// What to do about one rule where it asks about one operation on one resource.
#[derive(Debug)]
pub struct Proposal {
    pub rule: String,
    pub operation: String,
    pub resource: EntityRef,
    pub tally: Tally,
    pub advice: Advice,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing, for this reason.
    Nothing(String),
    /// Let approvers pre-approve it within a session.
    PreApprove {
        /// In how many sessions it was asked more than once.
        sessions: u64,
        /// How many questions would not have been put.
        covered: u64,
        /// As often as it was asked in one session at most.
        uses: u64,
        /// From the first to the last of them, in whole minutes.
        within: Duration,
    },
    /// Let the rule not ask about one principal.
    Narrow {
        /// Whom.
        principal: EntityRef,
        /// The body of the exception, in Cedar.
        exception: String,
        /// How many recorded decisions it was rehearsed on.
        decisions: u64,
        /// How many of them were `NEEDS_APPROVAL` and would be `ALLOW`.
        allowed: u64,
        /// How many more could not be decided again.
        incomparable: u64,
    },
}

impl Proposal {
    /// Whether it is a narrower rule.
    pub const fn narrows(&self) -> bool {
        matches!(self.advice, Advice::Narrow { .. })
    }
}

/// What to do about each rule, in the order of rules, operations and resources.
pub fn propose(bundle: &Bundle, evidence: &Evidence, bounds: Bounds) -> Vec<Proposal> {
    let mut cases: BTreeMap<(&str, &str, &EntityRef), Vec<&Question>> = BTreeMap::new();
    for question in evidence.questions() {
        for rule in &question.rules {
            let case = (rule.as_str(), question.action.operation.as_str(), &question.action.resource);
            cases.entry(case).or_default().push(question);
        }
    }
    let mut proposals = Vec::new();
    for ((rule, operation, resource), questions) in cases {
        let proposal = |tally, advice| Proposal {
            rule: rule.to_owned(),
            operation: operation.to_owned(),
            resource: resource.clone(),
            tally,
            advice,
        };
        let tally = Tally::of(&questions);
        if let Some(advice) = of_everybody(bundle, rule, &questions, &tally, bounds) {
            proposals.push(proposal(tally, advice));
            continue;
        }
        let mut by_principal: BTreeMap<&EntityRef, Vec<&Question>> = BTreeMap::new();
        for question in questions {
            by_principal.entry(&question.action.principal).or_default().push(question);
        }
        for (principal, questions) in by_principal {
            let tally = Tally::of(&questions);
            let advice = narrower(bundle, principal, &questions, &tally, bounds).unwrap_or_else(Advice::Nothing);
            proposals.push(proposal(tally, advice));
        }
    }
    proposals
}

/// What holds of all principals together; nothing if a narrower rule is to be looked for, for each of them.
fn of_everybody(bundle: &Bundle, rule: &str, questions: &[&Question], tally: &Tally, bounds: Bounds) -> Option<Advice> {
    let Tally { denied, taken_back, .. } = tally;
    let nothing = |why: String| Some(Advice::Nothing(why));
    if bundle.asking(rule).is_none() {
        return nothing("the bundle has no such rule".to_owned());
    }
    if *denied > 0 {
        return nothing(format!("denied {denied} of {}", tally.answered()));
    }
    if *taken_back > 0 {
        return nothing(format!("taken back {taken_back} of {}", tally.answered()));
    }
    if tally.answered() < bounds.minimum {
        return nothing(format!("answered {} times, fewer than {}", tally.answered(), bounds.minimum));
    }
    pre_approval(questions)
}

/// A pre-approval, where most of what was asked was asked before in the same session.
fn pre_approval(questions: &[&Question]) -> Option<Advice> {
    let mut by_session: BTreeMap<SessionId, Vec<&Question>> = BTreeMap::new();
    let approved = questions.iter().filter(|question| question.answered() == Some(Answer::Approved));
    for question in approved.clone() {
        by_session.entry(question.action.session).or_default().push(question);
    }
    by_session.retain(|_, questions| questions.len() > 1);
    let covered = by_session.values().map(|questions| questions.len().saturating_sub(1)).sum::<usize>();
    if covered.saturating_mul(2) <= approved.count() {
        return None;
    }
    let span = |questions: &Vec<&Question>| {
        let asked = questions.iter().map(|question| question.at);
        Some(asked.clone().max()?.since(asked.min()?))
    };
    let longest = by_session.values().filter_map(span).max().unwrap_or_default();
    let minutes = longest.as_secs().saturating_add(60) / 60;
    Some(Advice::PreApprove {
        sessions: by_session.len() as u64,
        covered: covered as u64,
        uses: by_session.values().map(Vec::len).max().unwrap_or_default() as u64,
        within: Duration::from_secs(minutes.saturating_mul(60)),
    })
}

/// A narrower rule for one principal, or why there is none.
fn narrower(
    bundle: &Bundle,
    principal: &EntityRef,
    questions: &[&Question],
    tally: &Tally,
    bounds: Bounds,
) -> Result<Advice, String> {
    if tally.answered() < bounds.minimum {
        return Err(format!("{principal} was answered {} times, fewer than {}", tally.answered(), bounds.minimum));
    }
    if let Some(median) = tally.median.filter(|median| *median > bounds.quick) {
        return Err(format!("people take their time: half of them more than {} s", median.as_secs()));
    }
    let actions = || questions.iter().filter(|q| q.answered() == Some(Answer::Approved)).map(|q| &q.action);
    let Some(first) = actions().next() else { return Err("nothing was approved".to_owned()) };
    if !bundle.sensitive(&first.operation).is_empty() {
        return Err("its sensitive inputs are in no record, so a narrower rule could not be bounded by them".to_owned());
    }
    let mut exception = format!(
        "principal == {principal} &&\naction == Action::{} &&\nresource == {}",
        quoted(&first.operation),
        first.resource
    );
    let inputs: Vec<&Record> = actions().map(|action| &action.input).collect();
    let environments: Vec<&Record> = actions().map(|action| &action.environment).collect();
    for clause in bounded("context.input", &inputs)?.into_iter().chain(bounded("context.environment", &environments)?) {
        exception.push_str(" &&\n");
        exception.push_str(&clause);
    }
    Ok(Advice::Narrow { principal: principal.clone(), exception, decisions: 0, allowed: 0, incomparable: 0 })
}

/// What was approved, and nothing beyond: each field as it was, between the least and the greatest number, or one of a few texts.
fn bounded(at: &str, records: &[&Record]) -> Result<Vec<String>, String> {
    let names: BTreeSet<&String> = records.iter().flat_map(|record| record.keys()).collect();
    names.into_iter().map(|name| field(at, name, records)).collect()
}

fn field(at: &str, name: &str, records: &[&Record]) -> Result<String, String> {
    let unbounded = |why: &str| Err(format!("its `{name}` {why}, so a narrower rule could not be bounded by it"));
    let plain = !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !["true", "false", "if", "then", "else", "in", "is", "like", "has"].contains(&name);
    if !plain {
        return unbounded("has no plain name");
    }
    let values: Option<Vec<&Value>> = records.iter().map(|record| record.get(name)).collect();
    let Some(values) = values else { return unbounded("was not always there") };
    let longs: Option<Vec<i64>> =
        values.iter().map(|value| if let Value::Long(long) = value { Some(*long) } else { None }).collect();
    if let Some((least, greatest)) =
        longs.and_then(|longs| Some((longs.iter().min().copied()?, longs.iter().max().copied()?)))
    {
        return Ok(if least == greatest {
            format!("{at} has {name} && {at}.{name} == {least}")
        } else {
            format!("{at} has {name} && {at}.{name} >= {least} && {at}.{name} <= {greatest}")
        });
    }
    let bools: BTreeSet<Option<bool>> =
        values.iter().map(|value| if let Value::Bool(bool) = value { Some(*bool) } else { None }).collect();
    if let (Some(Some(only)), 1) = (bools.first(), bools.len()) {
        return Ok(format!("{at} has {name} && {at}.{name} == {only}"));
    }
    let texts: Option<BTreeSet<&String>> =
        values.iter().map(|value| if let Value::String(text) = value { Some(text) } else { None }).collect();
    let Some(texts) = texts else { return unbounded("is no number and no text") };
    if texts.len() > FEW {
        return unbounded("was another nearly every time");
    }
    let texts: Vec<String> = texts.into_iter().map(|text| quoted(text)).collect();
    Ok(match texts.as_slice() {
        [only] => format!("{at} has {name} && {at}.{name} == {only}"),
        several => format!("{at} has {name} && [{}].contains({at}.{name})", several.join(", ")),
    })
}
