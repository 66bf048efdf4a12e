//! The bundles in evidence: each decision is decided again, and each vote judged again by who may answer.

use std::collections::{BTreeMap, BTreeSet};

use countersign_core::claimed::{Claimed, groups_at};
use countersign_core::pre_approval::PreApproval;
use countersign_core::{Action, EntityRef, Timestamp};
use countersign_engine::judge::answer_query;
use countersign_policy::{Bundle, Entities, RecordedDecision, Replayed, Source, View, can_decide};
use serde::Deserialize;

use super::Evidence;
use super::check::{Outcome, Read};

const DECIDED: &str = "the policies decide the same again";
const ELIGIBLE: &str = "who was eligible";

const NO_BUNDLE: &str = "the bundle is not in the file";
const STORED: &str = "the bundle decides by stored entities, which are in no record of the decision";
const STORED_VOTERS: &str = "the bundle decides by stored entities, which are in no record of a vote";

/// Decides and judges again what the bundles in the file, by themselves, answered.
pub(super) fn policies(evidence: &Evidence, records: &[Read<'_>], outcome: &mut Outcome) {
    let bundles = match bundles(evidence, records) {
        Ok(bundles) => bundles,
        Err(why) => return outcome.tell(DECIDED, Err(why)),
    };
    let decisions = records.iter().filter(|record| record.kind() == "decision");
    again(DECIDED, "decisions", outcome, decisions.map(|record| (record, decided(record, &bundles))));
    let voters = voters(records, &bundles);
    again(ELIGIBLE, "votes, by those who could answer then", outcome, voters);
}

/// What came of one record.
enum Again {
    Same,
    Left(String),
    /// It is nothing of what is asked.
    Other,
}

/// Tells what came of all: how many were the same, why some could not be looked at, or the first that is otherwise.
fn again<'r, 'b: 'r>(
    what: &str,
    told: &str,
    outcome: &mut Outcome,
    records: impl IntoIterator<Item = (&'r Read<'b>, Result<Again, String>)>,
) {
    let (mut same, mut left) = (0, BTreeSet::new());
    for (record, came) in records {
        match came {
            Ok(Again::Same) => same += 1,
            Ok(Again::Other) => {}
            Ok(Again::Left(why)) => {
                left.insert(why);
            }
            Err(why) => return outcome.tell(what, Err(format!("record {}: {why}", record.index))),
        }
    }
    if same > 0 {
        outcome.tell(what, Ok(format!("{same} {told}, by the bundle in the file")));
    }
    for why in left {
        outcome.skip(what, &why);
    }
}

fn bundles(evidence: &Evidence, records: &[Read<'_>]) -> Result<BTreeMap<String, Bundle>, String> {
    let mut bundles = BTreeMap::new();
    for (digest, files) in &evidence.bundles {
        let wrong = |why: String| format!("the bundle {digest}: {why}");
        let named = records.iter().any(|record| record.text("/bundle") == digest);
        let stray = files.keys().any(|path| !can_decide(path));
        let source = Source::from_files(files.clone()).map_err(|error| wrong(error.to_string()))?;
        if !named || stray || source.digest().to_string() != *digest {
            return Err(wrong("its files are not those of a bundle that the records name".to_owned()));
        }
        let bundle = Bundle::load(source).map_err(|refused| wrong(refused.to_string()))?;
        bundles.insert(digest.clone(), bundle);
    }
    Ok(bundles)
}

fn decided(record: &Read<'_>, bundles: &BTreeMap<String, Bundle>) -> Result<Again, String> {
    let Some(bundle) = bundles.get(record.text("/bundle")) else { return Ok(Again::Left(NO_BUNDLE.to_owned())) };
    if !bundle.stored_types().is_empty() {
        return Ok(Again::Left(STORED.to_owned()));
    }
    let Some(read) = RecordedDecision::read(record.bytes.as_bytes()).map_err(|error| error.to_string())? else {
        return Ok(Again::Other);
    };
    match bundle.with(&Entities::default(), None).replay(&read) {
        Replayed::Same => Ok(Again::Same),
        Replayed::Incomparable(why) => Ok(Again::Left(why)),
        Replayed::Otherwise(now) => Err(format!("{} was recorded, and it is {}", read.verdict, now.verdict.name())),
        Replayed::Invalid(why) => Err(why),
    }
}

/// What was asked of people.
struct Asked {
    action: Action,
    at: Timestamp,
    excluded: BTreeSet<EntityRef>,
}

/// The part of a vote's record that says by what the voter could answer.
#[derive(Deserialize)]
struct Ballot {
    person: EntityRef,
    rules: Vec<String>,
    caller: Caller,
}

#[derive(Deserialize)]
struct Caller {
    claimed: Option<Claimed>,
}

/// Each vote, judged again for every rule that its record says it answers.
fn voters<'r, 'b>(
    records: &'r [Read<'b>],
    bundles: &BTreeMap<String, Bundle>,
) -> Vec<(&'r Read<'b>, Result<Again, String>)> {
    let mut asked: BTreeMap<&str, Result<Asked, String>> = BTreeMap::new();
    let mut judged = Vec::new();
    for record in records {
        let approval = record.text("/approval");
        match record.kind() {
            // Of several, the first is when people began to wait.
            "approval_requested" | "approval_excluded" => match asked.get_mut(approval) {
                None => {
                    asked.insert(approval, question(record));
                }
                Some(Ok(question)) => question.excluded.extend(excluded(record)),
                Some(Err(_)) => {}
            },
            "vote" => {
                let came = match asked.get(approval) {
                    Some(Ok(question)) => voter(record, question, bundles),
                    Some(Err(why)) => Err(why.clone()),
                    None => Err("nobody was asked about that".to_owned()),
                };
                judged.push((record, came));
            }
            _other => {}
        }
    }
    judged
}

fn question(record: &Read<'_>) -> Result<Asked, String> {
    let text = record.text("/action");
    // Of a pre-approval people answer for the frame of every action like it.
    let action = match record.json.get("pre_approval") {
        Some(_) => PreApproval::from_canonical(text).map(|pre| pre.frame()).map_err(|error| error.to_string()),
        None => Action::from_canonical(text).map_err(|error| error.to_string()),
    }?;
    Ok(Asked { action, at: at(record)?, excluded: excluded(record).collect() })
}

fn at(record: &Read<'_>) -> Result<Timestamp, String> {
    record.number("/at").map(Timestamp::from_millis).ok_or_else(|| "it has no time".to_owned())
}

/// What is no entity is nobody who could vote, either.
fn excluded<'r>(record: &'r Read<'_>) -> impl Iterator<Item = EntityRef> + use<'r> {
    record.list("/excluded").iter().filter_map(|person| EntityRef::deserialize(person).ok())
}

fn voter(record: &Read<'_>, asked: &Asked, bundles: &BTreeMap<String, Bundle>) -> Result<Again, String> {
    let Some(bundle) = bundles.get(record.text("/bundle")) else { return Ok(Again::Left(NO_BUNDLE.to_owned())) };
    if !bundle.stored_types().is_empty() {
        return Ok(Again::Left(STORED_VOTERS.to_owned()));
    }
    let Ballot { person, rules, caller } = Ballot::deserialize(&record.json).map_err(|error| error.to_string())?;
    let now = at(record)?;
    let query = answer_query(&asked.action, &asked.excluded, Some(asked.at), now);
    let entities = Entities::default();
    let view: View<'_> = bundle.with(&entities, None);
    let view = view.claiming(&person, groups_at(caller.claimed.as_ref(), now));
    match rules.iter().find(|rule| !view.may_answer(rule, &person, &query).permitted) {
        Some(rule) => Err(format!("{person} could not answer `{}` then", rule.escape_debug())),
        None => Ok(Again::Same),
    }
}
