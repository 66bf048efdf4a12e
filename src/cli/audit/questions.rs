//! `countersign audit questions`: what auditors ask, made of searches that are told with the answer.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Parser, Subcommand};
use countersign::client::Client;
use countersign::proto::{GetBundleRequest, Record, SearchRecordsRequest};
use countersign_core::visible::Visible;
use countersign_core::{EntityRef, Timestamp};
use serde_json::{Value, json};

use super::search::{SearchArgs, TimeArgs, each, line, named, text};
use crate::cli::args::parse_entity;
use crate::cli::output::{FAINT, Output, paint};
use crate::cli::question::BundleDir;
use crate::cli::recorded::first_kept;
use crate::cli::text::count;
use crate::cli::{Failure, json as wire};

#[derive(Debug, Subcommand)]
pub enum Question {
    /// What ran on an approval that rests on one person alone
    #[command(after_help = "Examples:\n  countersign audit questions approved-alone --since 2026-11-01T00:00:00Z")]
    ApprovedAlone(TimeArgs),
    /// Where somebody broke the glass, and who looked at it afterwards
    #[command(after_help = "Examples:\n  countersign audit questions break-glass --json")]
    BreakGlass(TimeArgs),
    /// Which approvals came within seconds of the moment at which their voter was first sent the request
    #[command(after_help = "Examples:\n  countersign audit questions approvals-within --seconds 3")]
    ApprovalsWithin {
        /// Within so many seconds
        #[arg(long, value_name = "N", default_value_t = 3)]
        seconds: u32,
        #[command(flatten)]
        time: TimeArgs,
    },
    /// What was redeemed and is due, and whose outcome stands in no record
    #[command(after_help = "Examples:\n  countersign audit questions outcomes-unknown --until 2026-11-01T00:00:00Z")]
    OutcomesUnknown(TimeArgs),
    /// Which policies and rules of a bundle decided nothing and asked nobody
    #[command(after_help = "Examples:\n  countersign audit questions rules-never-used policies/ai-platform")]
    RulesNeverUsed {
        #[command(flatten)]
        bundle: BundleDir,
        #[command(flatten)]
        time: TimeArgs,
    },
    /// What was denied by policy, and who was refused
    #[command(after_help = "Examples:\n  countersign audit questions denials --since 2026-11-01T00:00:00Z --json")]
    Denials(TimeArgs),
    /// What a person voted, and what ran on that
    #[command(after_help = "Examples:\n  countersign audit questions by-approver Person::dana")]
    ByApprover {
        /// Who
        #[arg(value_parser = parse_entity)]
        person: EntityRef,
        #[command(flatten)]
        time: TimeArgs,
    },
}

/// A search as somebody would write it behind `countersign audit search`.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Written {
    #[command(flatten)]
    search: SearchArgs,
}

/// Asks, and tells what was asked.
struct Asking<'a> {
    client: &'a Client,
    output: &'a mut Output,
    question: &'static str,
    found: usize,
}

/// An answer: the record, and what makes it one.
struct Answer<'a> {
    record: &'a Record,
    because: Value,
    told: String,
}

impl Asking<'_> {
    /// Tells a search, and does it: every record is given to `look`.
    async fn search(
        &mut self,
        args: &[&str],
        time: TimeArgs,
        mut look: impl FnMut(&mut Self, Record) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let search = self.written(args, time)?;
        each(self.client, &search, usize::MAX, |record| look(&mut *self, record)).await?;
        Ok(())
    }

    /// Whether anything is found.
    async fn any(&self, args: &[&str], time: TimeArgs) -> Result<bool, Failure> {
        Ok(each(self.client, &parsed(args, time)?, 1, |_| Ok(())).await? > 0)
    }

    fn written(&mut self, args: &[&str], time: TimeArgs) -> Result<SearchRecordsRequest, Failure> {
        self.output.remark(&paint(FAINT, command(args, time)));
        parsed(args, time)
    }

    fn tell(&mut self, answer: &Answer<'_>) -> Result<(), Failure> {
        self.found += 1;
        let Answer { record, because, told } = answer;
        let json = json!({"question": self.question, "record": wire::record(record), "because": because});
        let mut text = line(record, false);
        if !told.is_empty() {
            text.push_str(&format!("\n          {told}"));
        }
        self.output.item(&json, &text)
    }

    fn tell_all(&mut self, record: &Record) -> Result<(), Failure> {
        self.tell(&Answer { record, because: Value::Null, told: String::new() })
    }
}

fn parsed(args: &[&str], time: TimeArgs) -> Result<SearchRecordsRequest, Failure> {
    let written = Written::try_parse_from(args).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(time.of(written.search.request()))
}

/// The search, to be done again by hand.
fn command(args: &[&str], time: TimeArgs) -> String {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_:.".contains(c));
    let quoted = |text: &str| {
        if plain(text) {
            text.to_owned()
        } else {
            format!("'{}'", Visible::new(text).to_string().replace('\'', "'\\''"))
        }
    };
    let mut command = "countersign audit search".to_owned();
    args.iter().for_each(|arg| command.push_str(&format!(" {}", quoted(arg))));
    for (name, time) in [("--since", time.since), ("--until", time.until)] {
        if let Some(time) = time {
            command.push_str(&format!(" {name} {time}"));
        }
    }
    command
}

/// Asks one of the questions.
pub async fn run(question: Question, client: &Client, output: &mut Output) -> Result<(), Failure> {
    first_kept(client, 0, output).await?;
    let name = match &question {
        Question::ApprovedAlone(_) => "approved-alone",
        Question::BreakGlass(_) => "break-glass",
        Question::ApprovalsWithin { .. } => "approvals-within",
        Question::OutcomesUnknown(_) => "outcomes-unknown",
        Question::RulesNeverUsed { .. } => "rules-never-used",
        Question::Denials(_) => "denials",
        Question::ByApprover { .. } => "by-approver",
    };
    let mut asking = Asking { client, output, question: name, found: 0 };
    match question {
        Question::ApprovedAlone(time) => approved_alone(&mut asking, time).await?,
        Question::BreakGlass(time) => break_glass(&mut asking, time).await?,
        Question::ApprovalsWithin { seconds, time } => approvals_within(&mut asking, seconds, time).await?,
        Question::OutcomesUnknown(time) => outcomes_unknown(&mut asking, time).await?,
        Question::RulesNeverUsed { bundle, time } => return rules_never_used(&mut asking, &bundle, time).await,
        Question::Denials(time) => {
            for args in
                [&["--kind", "decision", "--decision", "deny"][..], &["--kind", "refusal"], &["--kind", "refusals"]]
            {
                asking.search(args, time, |asking, record| asking.tell_all(&record)).await?;
            }
        }
        Question::ByApprover { person, time } => {
            let person = format!("{}::{}", person.kind(), person.id());
            asking.search(&["--approver", &person], time, |asking, record| asking.tell_all(&record)).await?;
        }
    }
    if asking.found == 0 {
        asking.output.remark("nothing in the log is so");
    }
    Ok(())
}

fn content(record: &Record) -> Value {
    serde_json::from_slice(&record.content).unwrap_or_default()
}

/// Who counted, if it was one person: all rules of a tally taken together.
fn alone(record: &Value) -> Option<(String, Value)> {
    let tally = record.get("tally")?.as_array()?;
    let persons: BTreeSet<String> =
        tally.iter().filter_map(|rule| rule.get("persons")?.as_array()).flatten().filter_map(named).collect();
    let mut persons = persons.into_iter();
    let only = persons.next().filter(|_| persons.next().is_none())?;
    Some((only, Value::from(tally.clone())))
}

async fn approved_alone(asking: &mut Asking<'_>, time: TimeArgs) -> Result<(), Failure> {
    for kind in ["redeem", "delegated"] {
        let look = |asking: &mut Asking<'_>, record: Record| {
            let Some((person, tally)) = alone(&content(&record)) else { return Ok(()) };
            let told = format!("approved by {} alone", Visible::new(&person));
            asking.tell(&Answer { record: &record, because: json!({"person": person, "tally": tally}), told })
        };
        asking.search(&["--kind", kind, "--mark", "approved"], time, look).await?;
    }
    Ok(())
}

async fn break_glass(asking: &mut Asking<'_>, time: TimeArgs) -> Result<(), Failure> {
    let mut closed = BTreeMap::new();
    // A review may be closed after the time that is asked about.
    let later = TimeArgs { until: None, ..time };
    let look = |_: &mut Asking<'_>, record: Record| {
        let record = content(&record);
        if let Some((review, by)) = text(&record, "/review").zip(record.pointer("/caller/entity").and_then(named)) {
            closed.insert(review, by);
        }
        Ok(())
    };
    asking.search(&["--kind", "review_closed"], later, look).await?;
    let look = |asking: &mut Asking<'_>, record: Record| {
        let glass = content(&record).get("glass_broken").cloned().unwrap_or_default();
        let by = text(&glass, "/review").and_then(|review| closed.get(&review).cloned());
        let reason = text(&glass, "/reason").unwrap_or_default();
        let looked = by
            .as_ref()
            .map_or_else(|| "nobody has looked at it".to_owned(), |by| format!("looked at by {}", Visible::new(by)));
        let told = format!("“{}”; {looked}", Visible::cut(&reason, 200));
        asking.tell(&Answer { record: &record, because: json!({"glass_broken": glass, "closed_by": by}), told })
    };
    asking.search(&["--kind", "decision", "--mark", "break-glass"], time, look).await
}

async fn approvals_within(asking: &mut Asking<'_>, seconds: u32, time: TimeArgs) -> Result<(), Failure> {
    let mut unknown = 0_u64;
    let look = |asking: &mut Asking<'_>, record: Record| {
        let vote = content(&record);
        let time = |name: &str| vote.get(name).and_then(Value::as_i64);
        let Some((at, seen)) = time("at").zip(time("seen_at")) else {
            unknown += 1;
            return Ok(());
        };
        let millis = at.saturating_sub(seen).max(0);
        if millis > i64::from(seconds).saturating_mul(1_000) {
            return Ok(());
        }
        let told = format!("{}.{:03} s after it was first sent", millis / 1_000, millis % 1_000);
        asking.tell(&Answer { record: &record, because: json!({"after_millis": millis}), told })
    };
    asking.search(&["--kind", "vote", "--vote", "approve"], time, look).await?;
    if unknown > 0 {
        let approvals = count(unknown, "approval is", "approvals are");
        asking.output.remark(&format!("{approvals} not looked at: when the request was first sent is not recorded"));
    }
    Ok(())
}

async fn outcomes_unknown(asking: &mut Asking<'_>, time: TimeArgs) -> Result<(), Failure> {
    let mut known = BTreeSet::new();
    // An outcome comes after what it is of, and may after the time that is asked about.
    let later = TimeArgs { until: None, ..time };
    let mut redeemed = Vec::new();
    asking
        .search(&["--kind", "redeem"], time, |_, record| {
            redeemed.push(record);
            Ok(())
        })
        .await?;
    for kind in ["complete", "outcome_resolved"] {
        let look = |_: &mut Asking<'_>, record: Record| {
            known.extend(text(&content(&record), "/capability"));
            Ok(())
        };
        asking.search(&["--kind", kind], later, look).await?;
    }
    let now = jiff::Timestamp::now().as_millisecond();
    for record in redeemed {
        let content = content(&record);
        let due = content.get("complete_by").and_then(Value::as_i64).unwrap_or(i64::MIN);
        if due > now || text(&content, "/capability").is_some_and(|capability| known.contains(&capability)) {
            continue;
        }
        let due = Timestamp::from_millis(due);
        let told = format!("due since {}", jiff::Timestamp::from_millisecond(due.millis()).unwrap_or_default());
        asking.tell(&Answer { record: &record, because: json!({"complete_by": due}), told })?;
    }
    Ok(())
}

async fn rules_never_used(asking: &mut Asking<'_>, bundle: &BundleDir, time: TimeArgs) -> Result<(), Failure> {
    let bundle = bundle.load()?;
    let active = asking.client.get_bundle(GetBundleRequest {}).await?.bundle.map(|bundle| bundle.digest);
    if active.as_deref() != Some(bundle.digest().to_string().as_str()) {
        asking
            .output
            .remark("this is not the bundle that is active: what is asked is whether its rules were used under any");
    }
    asking.output.remark(&paint(FAINT, format!("{}, for each", command(&["--rule", "ID", "--limit", "1"], time))));
    let mut unused = 0;
    for (id, policy) in bundle.policies() {
        // Two ways of writing one argument would be one too many for an id that begins with a dash.
        if asking.any(&[&format!("--rule={id}"), "--limit=1"], time).await? {
            continue;
        }
        unused += 1;
        let json = json!({"question": asking.question, "rule": id, "file": policy.file, "line": policy.line});
        let place = format!("{}:{}", Visible::new(&policy.file), policy.line);
        asking.output.item(&json, &format!("{}  {}", Visible::new(id), paint(FAINT, place)))?;
    }
    if unused == 0 {
        asking.output.remark("each of them was used");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_told_as_a_shell_takes_it() {
        let since = Some("2026-11-01T00:00:00Z".parse().unwrap());
        let told = command(&["--approver", "Person::d'a na\u{1b}"], TimeArgs { since, until: None });
        assert_eq!(
            told,
            "countersign audit search --approver 'Person::d'\\''a na\\u{1b}' --since 2026-11-01T00:00:00Z"
        );
        let request = parsed(&["--kind", "redeem", "--mark", "approved"], TimeArgs { since, until: None }).unwrap();
        assert_eq!((request.kind.as_str(), request.mark.as_str()), ("redeem", "approved"));
        assert!(request.from.is_some() && request.until.is_none());
    }

    #[test]
    fn alone_is_who_counted_for_every_rule() {
        let person = |id: &str| json!({"type": "Person", "id": id});
        let tally = |persons: &[&[&str]]| {
            let rule = |ids: &&[&str]| json!({"persons": ids.iter().map(|id| person(id)).collect::<Vec<_>>()});
            json!({"tally": persons.iter().map(rule).collect::<Vec<_>>()})
        };
        let who = |persons: &[&[&str]]| alone(&tally(persons)).map(|(person, _)| person);
        assert_eq!(who(&[&["dana"]]).as_deref(), Some("Person::\"dana\""));
        assert_eq!(who(&[&["dana"], &["dana"]]).as_deref(), Some("Person::\"dana\""));
        assert_eq!(who(&[&["dana", "dave"]]), None);
        assert_eq!(who(&[&["dana"], &["dave"]]), None);
        assert_eq!(who(&[]), None);
        assert!(alone(&json!({})).is_none());
    }
}
