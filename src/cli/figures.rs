//! `countersign approvals figures`: how asking goes.

use clap::Args;
use countersign::client::Client;
use countersign::proto::approval_figures::Subject;
use countersign::proto::{ApprovalFigures, GetApprovalFiguresRequest};
use countersign_core::visible::Visible;
use serde_json::{Value, json};

use super::output::{FAINT, Output, WARN, paint};
use super::text::{Lines, entity};
use super::when::words;
use super::{Failure, json as wire, pages};

pub const EXAMPLES: &str = "\
Of a rule: how often it asked, and what people said in the end. Of a person: how often they were among those who could answer, and \
what they voted. `median` is from the question to the vote, within 6.25 %. `in 3 s` are the approvals that came within three seconds \
of the moment at which their voter was first sent the request, of those of which that moment is known. Whoever may not read every \
request sees their own figures.

Examples:
  countersign approvals figures
  countersign approvals figures --rules --json";

/// Which figures.
#[derive(Debug, Args)]
pub struct FiguresArgs {
    /// Only those of rules
    #[arg(long, conflicts_with = "persons")]
    rules: bool,
    /// Only those of persons
    #[arg(long)]
    persons: bool,
}

/// Shows figures.
pub async fn run(args: &FiguresArgs, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let mut all = Vec::new();
    let page = async |page_size, page_token| {
        let page = client.get_approval_figures(GetApprovalFiguresRequest { page_size, page_token }).await?;
        Ok((page.figures, page.next_page_token))
    };
    let keep = |figures: ApprovalFigures| {
        let wanted = match &figures.subject {
            Some(Subject::RuleId(_)) => !args.persons,
            Some(Subject::Person(_)) => !args.rules,
            None => false,
        };
        if wanted {
            all.push(figures);
        }
        Ok(())
    };
    pages::each(usize::MAX, page, keep).await?;
    if output.is_json() {
        return all.iter().try_for_each(|figures| output.item(&figures_json(figures), ""));
    }
    if all.is_empty() {
        output.remark("nobody was asked yet");
        return Ok(());
    }
    output.human(&text(&all))
}

fn figures_json(figures: &ApprovalFigures) -> Value {
    let ApprovalFigures {
        subject,
        asked,
        approved,
        denied,
        approving_votes,
        sighted_approvals,
        quick_approvals,
        median_wait,
    } = figures;
    let (rule, person) = match subject {
        Some(Subject::RuleId(rule)) => (Some(rule), None),
        Some(Subject::Person(person)) => (None, Some(wire::entity(person))),
        None => (None, None),
    };
    json!({
        "rule_id": rule,
        "person": person,
        "asked": asked,
        "approved": approved,
        "denied": denied,
        "approving_votes": approving_votes,
        "sighted_approvals": sighted_approvals,
        "quick_approvals": quick_approvals,
        "median_wait_millis": median_wait.as_ref().map(millis),
    })
}

fn millis(duration: &prost_types::Duration) -> i64 {
    duration.seconds.saturating_mul(1_000).saturating_add(i64::from(duration.nanos / 1_000_000))
}

/// A table for the rules, and one for the persons.
fn text(all: &[ApprovalFigures]) -> String {
    let mut lines = Lines::default();
    let (rules, persons): (Vec<_>, Vec<_>) =
        all.iter().partition(|figures| matches!(figures.subject, Some(Subject::RuleId(_))));
    for (title, figures) in [("Rules", rules), ("Persons", persons)] {
        if figures.is_empty() {
            continue;
        }
        lines.heading(title);
        let names: Vec<String> = figures.iter().map(|figures| name(figures)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
        let head =
            format!("  {:width$}  {:>7}  {:>8}  {:>7}  {:>8}  in 3 s", "", "asked", "approved", "denied", "median");
        lines.line(paint(FAINT, head));
        for (name, of) in names.iter().zip(figures) {
            let median = of.median_wait.as_ref().map_or_else(|| "-".to_owned(), wait);
            let quick = match of.sighted_approvals {
                0 => "-".to_owned(),
                sighted => {
                    let share = format!("{} of {sighted}", of.quick_approvals);
                    // More than half are hardly read.
                    if of.quick_approvals > sighted / 2 { paint(WARN, share) } else { share }
                }
            };
            lines.line(format!(
                "  {name:width$}  {:>7}  {:>8}  {:>7}  {median:>8}  {quick}",
                of.asked, of.approved, of.denied
            ));
        }
    }
    lines.finish()
}

fn name(figures: &ApprovalFigures) -> String {
    match &figures.subject {
        Some(Subject::RuleId(rule)) => Visible::new(rule).to_string(),
        Some(Subject::Person(person)) => entity(Some(person)),
        None => "-".to_owned(),
    }
}

fn wait(duration: &prost_types::Duration) -> String {
    match millis(duration) {
        millis @ 0..10_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        millis => words(millis.unsigned_abs() / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use countersign::proto::Entity;

    use super::*;

    #[test]
    fn figures_are_told_in_columns_and_what_is_not_known_as_a_dash() {
        let rule = ApprovalFigures {
            subject: Some(Subject::RuleId("export-needs-two".into())),
            asked: 12,
            approved: 9,
            denied: 1,
            approving_votes: 18,
            sighted_approvals: 16,
            quick_approvals: 12,
            median_wait: Some(prost_types::Duration { seconds: 75, nanos: 0 }),
        };
        let person = Entity { r#type: "Person".into(), id: "da\u{202e}na".into() };
        let person = ApprovalFigures { subject: Some(Subject::Person(person)), asked: 3, ..ApprovalFigures::default() };
        let text = anstream::adapter::strip_str(&text(&[rule, person])).to_string();
        assert!(text.contains("  export-needs-two       12         9        1    1m 15s  12 of 16\n"), "{text}");
        assert!(text.contains("Person::\"da\\u{202e}na\"        3         0        0         -  -\n"), "{text}");
    }
}
