//! `countersign approvals advise`: where people are asked for nothing, as far as the log tells, and what to do about it. It
//! reads, proposes and rehearses, and changes nothing.

mod evidence;
mod proposal;
mod rehearsal;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use countersign_core::Timestamp;
use countersign_core::visible::Visible;
use countersign_policy::Bundle;
use serde_json::{Value, json};

use evidence::{Evidence, Tally};
use proposal::{Advice, Bounds, Proposal, propose};
use rehearsal::Rehearsal;

use super::args::{Connection, parse_duration};
use super::output::{FAINT, GOOD, Output, STRONG, WARN, harmless, paint};
use super::question::BundleArgs;
use super::recorded::Log;
use super::text::{Lines, count};
use super::when::words;
use super::{Exit, Failure};

pub const EXAMPLES: &str = "\
For each rule, and each operation and resource that it asked about, one of three: a bounded pre-approval, where the same was asked \
again and again within one session; a narrower rule, where one principal was always approved, fast, and never denied, bounded by the \
inputs that were approved; or no change, and why. A narrower rule is rehearsed on every recorded decision, as `policy diff` does, and \
proposed only if nothing that was denied, by policy or by people, would be allowed. What was asked seldom is left alone, and what \
was denied once is too.

Nothing is changed. Read the proposals as a colleague's: the log knows what people said, and not what they should have.

Examples:
  countersign approvals advise policies/ai-platform
  countersign approvals advise policies/ai-platform --data-dir data/dev --minimum 20 --json";

/// What the advice rests on.
#[derive(Debug, Args)]
pub struct AdviseArgs {
    #[command(flatten)]
    bundle: BundleArgs,
    /// Leave alone what was answered fewer times than this
    #[arg(long, value_name = "N", default_value_t = 10)]
    minimum: usize,
    /// Half of the answers came within this time, where a rule is to be narrower
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    quick: Duration,
    /// Questions put from this time on; decisions are rehearsed whenever they were made
    #[arg(long, value_name = "TIME")]
    since: Option<jiff::Timestamp>,
    /// The data directory of a server that is not running, instead of a running server
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Reads the log, proposes and rehearses.
pub async fn run(args: &AdviseArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let bundle = args.bundle.load()?;
    let log = Log { data_dir: args.data_dir.as_deref(), start: 0, archive: None };
    let stored = log.stored(&args.bundle, &bundle, connection).await?;
    let since = args.since.map(|since| Timestamp::from_millis(since.as_millisecond()));
    let mut evidence = Evidence::since(since);
    log.each(connection, output, |index, content| {
        evidence.look(content).map_err(|error| Failure::new(format!("record {index}: {error}")))
    })
    .await?;
    let bounds = Bounds { minimum: args.minimum.max(1), quick: args.quick };
    let mut proposals = propose(&bundle, &evidence, bounds);
    let mut rehearsals: Vec<Rehearsal> =
        proposals.iter_mut().filter_map(|proposal| Rehearsal::of(&bundle, proposal)).collect();
    if !rehearsals.is_empty() {
        let denied = evidence.denied_digests();
        log.each(connection, output, |index, content| {
            rehearsal::look(&bundle, &stored, &mut rehearsals, &denied, content)
                .map_err(|error| Failure::new(format!("record {index}: {error}")))
        })
        .await?;
    }
    for (proposal, rehearsal) in proposals.iter_mut().filter(|proposal| proposal.narrows()).zip(rehearsals) {
        rehearsal.conclude(proposal);
    }
    for proposal in &proposals {
        output.item(&proposal_json(proposal), &text(&bundle, proposal))?;
    }
    if proposals.is_empty() && !output.is_json() {
        output.remark("nobody was asked anything in this time");
    }
    Ok(Exit::Done)
}

fn text(bundle: &Bundle, proposal: &Proposal) -> String {
    let Proposal { rule, operation, resource, tally, advice } = proposal;
    let mut text = Lines::default();
    let about = format!("{} on {}", Visible::new(operation), Visible::new(&resource.to_string()));
    text.line(format!("{}: {about}", paint(STRONG, Visible::new(rule))));
    text.field("asked", told(tally));
    match advice {
        Advice::Nothing(why) => {
            text.field("no change", harmless(why));
        }
        Advice::PreApprove { sessions, covered, uses, within } => {
            text.field(
                "pre-approval",
                paint(GOOD, format!("{} on {}", Visible::new(operation), Visible::new(&resource.to_string()))),
            );
            text.field(
                "",
                format!("for the rest of a session, at most {uses} times within {}", words(within.as_secs())),
            );
            text.field(
                "",
                format!(
                    "would have spared people {} in {}",
                    count(*covered, "question", "questions"),
                    count(*sessions, "session", "sessions")
                ),
            );
        }
        Advice::Narrow { principal, exception, decisions, allowed, incomparable } => {
            text.field(
                "narrower rule",
                paint(GOOD, format!("{} is not asked about it", Visible::new(&principal.to_string()))),
            );
            if let Some(at) = bundle.policy_text(rule) {
                text.field("", format!("{}:{}, as its last clause:", Visible::new(&at.file), at.line));
            }
            text.line("");
            text.line("    unless {");
            for line in exception.lines() {
                text.line(format!("      {}", harmless(line)));
            }
            text.line("    }\n");
            text.field(
                "rehearsed",
                format!(
                    "on {}: {allowed} NEEDS_APPROVAL would be ALLOW, no DENY would",
                    count(*decisions, "decision", "decisions")
                ),
            );
            if *incomparable > 0 {
                text.field("", paint(WARN, format!("{incomparable} could not be decided again")));
            }
            text.field("", paint(FAINT, "input fields that were never sent are not bounded"));
        }
    }
    text.finish()
}

fn told(tally: &Tally) -> String {
    let Tally { asked, approved, denied, taken_back, median, sighted, quick } = tally;
    let mut told = format!("{asked} times: approved {approved}, denied {denied}");
    if *taken_back > 0 {
        told.push_str(&format!(", taken back {taken_back}"));
    }
    if let Some(median) = median {
        told.push_str(&format!("; half within {}", words(median.as_secs())));
    }
    if *sighted > 0 {
        told.push_str(&format!("; {quick} of {sighted} approvals within 3 s of the first look"));
    }
    told
}

fn proposal_json(proposal: &Proposal) -> Value {
    let Proposal { rule, operation, resource, tally, advice } = proposal;
    let Tally { asked, approved, denied, taken_back, median, sighted, quick } = tally;
    let (word, detail) = match advice {
        Advice::Nothing(why) => ("no_change", json!({ "because": why })),
        Advice::PreApprove { sessions, covered, uses, within } => (
            "pre_approval",
            json!({ "uses": uses, "within_seconds": within.as_secs(), "sessions": sessions, "questions_spared": covered }),
        ),
        Advice::Narrow { principal, exception, decisions, allowed, incomparable } => (
            "narrower_rule",
            json!({
                "principal": principal.to_string(), "unless": exception,
                "rehearsed": {
                    "decisions": decisions, "needs_approval_to_allow": allowed, "deny_to_allow": 0,
                    "incomparable": incomparable,
                },
            }),
        ),
    };
    json!({
        "rule_id": rule,
        "operation": operation,
        "resource": resource.to_string(),
        "evidence": {
            "asked": asked, "approved": approved, "denied": denied, "taken_back": taken_back,
            "median_wait_seconds": median.map(|median| median.as_secs()),
            "sighted_approvals": sighted, "quick_approvals": quick,
        },
        "advice": word,
        word: detail,
    })
}

#[cfg(test)]
mod tests;
