//! `countersign policy diff`: which recorded decisions would be answered otherwise.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use countersign_core::Timestamp;
use countersign_core::visible::Visible;
use countersign_policy::{RecordedDecision, Replayed, View};
use serde_json::{Value, json};

use super::args::Connection;
use super::output::{BAD, FAINT, GOOD, Output, STRONG, WARN, paint};
use super::question::BundleArgs;
use super::recorded::Log;
use super::text::{Lines, count};
use super::{Exit, Failure};

pub const EXAMPLES: &str = "\
The decisions are read from the log of a server, or of a data directory that no server has open, and decided again as of their own \
time and with what was approved then. Stored entities are taken as they are now. Decisions with sensitive inputs cannot be decided \
again, since these are in no record; how many there are is said. The exit code is 1 if any would be answered otherwise.

Examples:
  countersign policy diff policies/ai-platform --since 2026-11-01T00:00:00Z
  countersign policy diff policies/ai-platform --data-dir data/dev --json";

/// Which decisions.
#[derive(Debug, Args)]
pub struct DiffArgs {
    #[command(flatten)]
    bundle: BundleArgs,
    /// Decisions from this time on
    #[arg(long, value_name = "TIME")]
    since: Option<jiff::Timestamp>,
    /// Decisions before this time
    #[arg(long, value_name = "TIME")]
    until: Option<jiff::Timestamp>,
    /// The first record to look at, by its index in the log
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    start: u64,
    /// How many examples to show of each difference
    #[arg(long, value_name = "N", default_value_t = 3)]
    examples: usize,
    /// The data directory of a server that is not running, instead of a running server
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// What is alike about decisions that would be answered otherwise.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    was: String,
    now: &'static str,
    operation: String,
    was_by: Vec<String>,
    now_by: Vec<String>,
}

/// One of them.
#[derive(Debug)]
struct Example {
    index: u64,
    decision: String,
    principal: String,
    resource: String,
}

/// What came of replaying.
#[derive(Debug, Default)]
struct Tally {
    decisions: u64,
    same: u64,
    otherwise: BTreeMap<Difference, (u64, Vec<Example>)>,
    incomparable: BTreeMap<String, (u64, u64)>,
}

impl DiffArgs {
    fn wants(&self, at: Timestamp) -> bool {
        let millis = |time: jiff::Timestamp| Timestamp::from_millis(time.as_millisecond());
        self.since.is_none_or(|since| at >= millis(since)) && self.until.is_none_or(|until| at < millis(until))
    }

    fn look(&self, view: View<'_>, tally: &mut Tally, index: u64, content: &[u8]) -> Result<(), Failure> {
        let read = RecordedDecision::read(content).map_err(|e| Failure::new(format!("record {index}: {e}")))?;
        let Some(recorded) = read.filter(|recorded| self.wants(recorded.question.now)) else { return Ok(()) };
        tally.decisions += 1;
        match view.replay(&recorded) {
            Replayed::Same => tally.same += 1,
            Replayed::Incomparable(why) => {
                let (number, _first) = tally.incomparable.entry(why).or_insert((0, index));
                *number += 1;
            }
            Replayed::Otherwise(evaluation) => {
                tally.differs(recorded, index, self.examples, evaluation.verdict.name(), evaluation.determining);
            }
            Replayed::Invalid(why) => tally.differs(recorded, index, self.examples, "INVALID", vec![why]),
        }
        Ok(())
    }
}

impl Tally {
    /// Notes a decision that would be answered otherwise, and `most` of a kind as examples.
    fn differs(&mut self, recorded: RecordedDecision, index: u64, most: usize, now: &'static str, now_by: Vec<String>) {
        let RecordedDecision { id, verdict, determining, question, .. } = recorded;
        let difference = Difference { was: verdict, now, operation: question.operation, was_by: determining, now_by };
        let (number, examples) = self.otherwise.entry(difference).or_default();
        *number += 1;
        if examples.len() < most {
            let (principal, resource) = (question.principal.to_string(), question.resource.to_string());
            examples.push(Example { index, decision: id, principal, resource });
        }
    }
}

/// Replays recorded decisions.
pub async fn run(args: &DiffArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let bundle = args.bundle.load()?;
    let log = Log { data_dir: args.data_dir.as_deref(), start: args.start, archive: None };
    let stored = log.stored(&args.bundle, &bundle, connection).await?;
    let mut tally = Tally::default();
    log.each(connection, output, |index, content| args.look(bundle.with(&stored, None), &mut tally, index, content))
        .await?;
    output.document(&tally.json(), &tally.text())?;
    Ok(if tally.otherwise.is_empty() { Exit::Done } else { Exit::Error })
}

impl Tally {
    fn different(&self) -> u64 {
        self.otherwise.values().map(|(number, _)| number).sum()
    }

    fn text(&self) -> String {
        let mut text = Lines::default();
        let verdict = |name: &str| {
            let style = match name {
                "ALLOW" => GOOD.bold(),
                "NEEDS_APPROVAL" => WARN.bold(),
                _deny => BAD,
            };
            paint(style, Visible::new(name))
        };
        let by = |policies: &[String]| match policies {
            [] => "no policy".to_owned(),
            some => some.iter().map(|id| Visible::new(id).to_string()).collect::<Vec<_>>().join(", "),
        };
        let decisions = count(self.decisions, "decision", "decisions");
        text.line(format!("{decisions}, {} would be answered otherwise", self.different()));
        for (of, (number, examples)) in &self.otherwise {
            text.line("");
            let operation = paint(STRONG, Visible::new(&of.operation));
            text.line(format!("{number} × {operation}: {} instead of {}", verdict(of.now), verdict(&of.was)));
            text.field("was by", by(&of.was_by)).field("would be by", by(&of.now_by));
            for Example { index, decision, principal, resource } in examples {
                let [principal, resource] = [principal, resource].map(|name| Visible::new(name).to_string());
                let decision = paint(FAINT, Visible::new(decision));
                text.field(&format!("record {index}"), format!("{principal} on {resource}  {decision}"));
            }
        }
        if !self.incomparable.is_empty() {
            text.heading("Not decided again");
        }
        for (why, (number, first)) in &self.incomparable {
            text.line(format!("  {number}: {} (first: record {first})", Visible::new(why)));
        }
        if !self.otherwise.is_empty() {
            text.line("");
            text.line(paint(FAINT, "see why with `countersign policy explain DIR --record INDEX`"));
        }
        text.finish()
    }

    fn json(&self) -> Value {
        let examples = |examples: &[Example]| -> Value {
            let all = examples.iter().map(|Example { index, decision, principal, resource }| {
                json!({ "index": index, "decision": decision, "principal": principal, "resource": resource })
            });
            all.collect()
        };
        let otherwise = self.otherwise.iter().map(|(of, (number, some))| {
            json!({
                "operation": of.operation, "number": number,
                "was": { "verdict": of.was, "by": of.was_by },
                "now": { "verdict": of.now, "by": of.now_by },
                "examples": examples(some),
            })
        });
        let incomparable = self
            .incomparable
            .iter()
            .map(|(why, (number, first))| json!({ "reason": why, "number": number, "first": first }));
        json!({
            "decisions": self.decisions,
            "same": self.same,
            "different": self.different(),
            "differences": otherwise.collect::<Value>(),
            "incomparable": incomparable.collect::<Value>(),
        })
    }
}
