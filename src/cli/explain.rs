//! What policies say, and why: `countersign policy explain`, `who` and `can`.

use std::time::Duration;

use clap::Args;
use countersign_core::EntityRef;
use countersign_core::pre_approval::Bounds;
use countersign_core::visible::Visible;
use countersign_policy::{
    Account, AnswerQuery, Applies, AskingRule, Bundle, Clause, DenyCause, Explanation, Holds, Outlook, Prospect,
    Question, Verdict, View,
};
use serde_json::{Value, json};

use super::args::{Connection, parse_entity};
use super::output::{BAD, FAINT, GOOD, Output, STRONG, WARN, harmless, paint};
use super::question::{ActorArgs, BundleArgs, QuestionArgs};
use super::text::Lines;
use super::when::words;
use super::{Exit, Failure};

pub const EXPLAIN_EXAMPLES: &str = "\
A clause that holds is marked `yes`, one that does not `no`; below it stands what it read. Of the policies that do not apply, those \
come first of which the fewest clauses are missing: what would have to be otherwise for another answer. The exit code is 0 for every answer.

Examples:
  countersign policy explain policies/ai-platform export Dataset::payroll --principal Agent::etl-bot \\
    --input '{\"rows\": 500, \"destination\": \"s3://ours-backup\"}'
  countersign policy explain policies/ai-platform --scenario 'answered by a release manager'
  countersign policy explain policies/ai-platform --record 42 --json";
pub const WHO_EXAMPLES: &str = "\
Examples:
  countersign policy who policies/ai-platform export Dataset::customers --principal Agent::etl-bot --operator Person::olivia \\
    --audience warehouse --input '{\"rows\": 500, \"destination\": \"s3://ours-backup\"}'";
pub const CAN_EXAMPLES: &str = "\
Input and environment are not known before somebody asks, so a policy that reads them is shown as a condition. Values of them are \
checked when the action is decided.

Examples:
  countersign policy can policies/ai-platform --principal Agent::etl-bot --operator Person::olivia
  countersign policy can policies/ai-platform --principal Agent::etl-bot --operation export --json";

/// How many policies that did not decide are shown.
const CLOSE: usize = 5;
/// How many of those who may answer are shown for each rule.
const ANSWERERS: usize = 100;

/// What is explained.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    question: QuestionArgs,
    /// Show every policy that the operation is in the scope of
    #[arg(long)]
    all: bool,
}

/// Whose possibilities.
#[derive(Debug, Args)]
pub struct CanArgs {
    #[command(flatten)]
    bundle: BundleArgs,
    #[command(flatten)]
    actor: ActorArgs,
    /// Only this operation
    #[arg(long, value_name = "OPERATION")]
    operation: Option<String>,
    /// Only this resource, which need not exist
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity)]
    resource: Option<EntityRef>,
}

/// Why the answer is what it is.
pub async fn explain(args: &ExplainArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let bundle = args.question.bundle.load()?;
    let (question, stored) = args.question.question(&bundle, connection, output).await?;
    let explained = question.seen(bundle.with(&stored, None)).explain(&question.query()).map_err(misfit)?;
    let shown = if args.all { usize::MAX } else { CLOSE };
    output.document(&explained_json(&bundle, &explained), &explained_text(&bundle, &explained, shown))?;
    Ok(Exit::Done)
}

fn misfit(error: countersign_policy::QueryError) -> Failure {
    Failure::usage(format!("the question does not fit the schema: {error}"))
}

/// The verdict in its colour, and what it means.
fn verdict_line(verdict: &Verdict) -> String {
    let (style, why) = match verdict {
        Verdict::Allow => (GOOD.bold(), "a policy permits it, and none forbids it"),
        Verdict::NeedsApproval { .. } => (WARN.bold(), "it is permitted, and rules that people can lift forbid it"),
        Verdict::Deny { cause: DenyCause::NoPermit, .. } => (BAD, "no policy permits it"),
        Verdict::Deny { cause: DenyCause::Forbidden, .. } => (BAD, "a policy forbids it, and no approval lifts that"),
        Verdict::Deny { cause: DenyCause::EvaluationError, .. } => (BAD, "a policy could not be evaluated"),
    };
    format!("{}: {why}", paint(style, verdict.name()))
}

fn explained_text(bundle: &Bundle, explained: &Explanation, shown: usize) -> String {
    let mut text = Lines::default();
    text.line(verdict_line(&explained.evaluation.verdict));
    if let Verdict::Deny { errors, .. } = &explained.evaluation.verdict {
        for error in errors {
            text.line(format!("  {}", harmless(error)));
        }
    }
    let (decided, others): (Vec<&Account>, Vec<&Account>) = explained.accounts.iter().partition(|a| a.decided);
    if !decided.is_empty() {
        text.heading("Decided by");
        decided.iter().for_each(|account| told(&mut text, bundle, account));
    }
    let (applying, others): (Vec<&Account>, Vec<&Account>) =
        others.into_iter().partition(|account| account.applies() == Applies::Yes && account.missing() == 0);
    if !applying.is_empty() {
        text.heading("Apply too, and do not prevail");
        applying.iter().for_each(|account| told(&mut text, bundle, account));
    }
    // Kernel policies are about approvals that break their terms; without one they are no way to another answer.
    let own = |account: &&&Account| bundle.policy_text(&account.policy).is_some_and(|at| at.file.contains('/'));
    let close: Vec<&&Account> = others.iter().filter(|a| shown == usize::MAX || own(a)).take(shown).collect();
    if !close.is_empty() {
        text.heading("Do not apply, the closest first");
        close.iter().for_each(|account| told(&mut text, bundle, account));
    }
    if close.len() < others.len() {
        text.line(paint(FAINT, format!("{} more with --all", others.len() - close.len())));
    }
    text.finish()
}

/// One policy, its reason, and its clauses.
fn told(text: &mut Lines, bundle: &Bundle, account: &Account) {
    let effect = match (account.permits, account.asks) {
        (true, _) => "permit",
        (false, true) => "forbid, unless people approve",
        (false, false) => "forbid",
    };
    let at = bundle.policy_text(&account.policy);
    let place = at.map(|at| format!("  {}:{}", Visible::new(&at.file), at.line)).unwrap_or_default();
    text.line(format!("  {}  {effect}{}", paint(STRONG, Visible::new(&account.policy)), paint(FAINT, place)));
    if let Some(reason) = at.and_then(|at| at.reason.as_ref()) {
        text.line(format!("    {}", Visible::new(reason)));
    }
    if let Some(most) = bundle.asking(&account.policy).and_then(|rule| rule.pre_approval) {
        text.line(format!("    may be pre-approved: {}", pre_approval(&most)));
    }
    if account.clauses.is_empty() {
        text.line("    applies to everybody and everything");
    }
    for clause in &account.clauses {
        let (mark, note) = match &clause.holds {
            Holds::Yes => (paint(GOOD, "yes"), String::new()),
            Holds::No => (paint(BAD, "no "), String::new()),
            Holds::Open => (paint(WARN, "?  "), String::new()),
            Holds::Unreached => (paint(FAINT, "-  "), "  not reached".to_owned()),
            Holds::Failed(error) => (paint(BAD, "err"), format!("  {}", harmless(error))),
        };
        if clause.lifting {
            let said =
                if clause.holds == Holds::Yes { "no people have approved it" } else { "unless people approved it" };
            text.line(format!("    {mark}  {said}"));
            continue;
        }
        text.line(format!("    {mark}  {}{}", one_line(&clause.text), paint(FAINT, note)));
        for read in &clause.reads {
            let value = read.value.as_deref().unwrap_or("nothing");
            text.line(paint(FAINT, format!("           {} is {}", harmless(&read.path), harmless(value))));
        }
    }
}

fn one_line(text: &str) -> String {
    // What the author escaped stays as it is written.
    harmless(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn explained_json(bundle: &Bundle, explained: &Explanation) -> Value {
    let errors = match &explained.evaluation.verdict {
        Verdict::Deny { errors, .. } => errors.as_slice(),
        Verdict::Allow | Verdict::NeedsApproval { .. } => &[],
    };
    json!({
        "verdict": explained.evaluation.verdict.name(),
        "determining": explained.evaluation.determining,
        "errors": errors,
        "policies": explained.accounts.iter().map(|account| account_json(bundle, account)).collect::<Value>(),
    })
}

fn account_json(bundle: &Bundle, account: &Account) -> Value {
    let at = bundle.policy_text(&account.policy);
    json!({
        "policy": account.policy,
        "effect": if account.permits { "permit" } else { "forbid" },
        "asks": account.asks,
        "pre_approval": bundle.asking(&account.policy).and_then(|rule| rule.pre_approval),
        "decided": account.decided,
        "file": at.map(|at| &at.file),
        "line": at.map(|at| at.line),
        "reason": at.and_then(|at| at.reason.as_ref()),
        "clauses": account.clauses.iter().map(clause_json).collect::<Value>(),
    })
}

fn clause_json(clause: &Clause) -> Value {
    let (holds, error) = match &clause.holds {
        Holds::Yes => ("yes", None),
        Holds::No => ("no", None),
        Holds::Open => ("open", None),
        Holds::Unreached => ("unreached", None),
        Holds::Failed(error) => ("failed", Some(error)),
    };
    json!({ "text": clause.text, "holds": holds, "error": error, "reads": clause.reads })
}

/// Who may approve, and when.
#[derive(Debug, Args)]
pub struct WhoArgs {
    #[command(flatten)]
    question: QuestionArgs,
    /// For how long people have been asked without an answer, such as `15m`: by then others may answer
    #[arg(long, value_name = "TIME", value_parser = super::args::parse_duration)]
    waited: Option<Duration>,
}

/// Who may approve.
pub async fn who(args: &WhoArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let (args, waited) = (&args.question, args.waited.unwrap_or_default());
    let bundle = args.bundle.load()?;
    let (question, stored) = args.question(&bundle, connection, output).await?;
    let view = bundle.with(&stored, None);
    let evaluation = question.seen(view).decide(&question.query()).map_err(misfit)?;
    let mut text = Lines::default();
    text.line(verdict_line(&evaluation.verdict));
    let rules = match &evaluation.verdict {
        Verdict::NeedsApproval { rules } => rules.as_slice(),
        Verdict::Allow | Verdict::Deny { .. } => &[],
    };
    let asked: Vec<Value> = rules.iter().map(|rule| rule_answerers(view, rule, &question, waited, &mut text)).collect();
    let excluded: Vec<String> = question.excluded.iter().map(ToString::to_string).collect();
    if !rules.is_empty() {
        text.line("");
        text.field("never", if excluded.is_empty() { "nobody is excluded".to_owned() } else { excluded.join(", ") });
    }
    let json = json!({
        "verdict": evaluation.verdict.name(),
        "rules": asked,
        "excluded": excluded,
    });
    output.document(&json, &text.finish())?;
    Ok(Exit::Done)
}

/// Within which bounds a rule can be pre-approved.
fn pre_approval(most: &Bounds) -> String {
    format!("up to {} uses within {}", most.uses, words(most.seconds))
}

fn rule_answerers(view: View<'_>, rule: &AskingRule, question: &Question, waited: Duration, text: &mut Lines) -> Value {
    let query = AnswerQuery {
        operation: &question.operation,
        resource: &question.resource,
        requester: &question.principal,
        operator: question.operator.as_ref(),
        excluded: &question.excluded,
        waited,
        now: question.now.plus(waited),
    };
    let found = view.answerers(&rule.id, &query, ANSWERERS);
    let listed = |entities: &[EntityRef]| entities.iter().map(ToString::to_string).collect::<Vec<_>>();
    text.heading(&Visible::new(&rule.id).to_string());
    if let Some(reason) = &rule.reason {
        text.line(format!("  {}", Visible::new(reason)));
    }
    if waited >= rule.ttl {
        text.line(paint(BAD, "  it has expired by then: nobody answers"));
    }
    let persons = listed(&found.persons);
    let more = if found.truncated { ", and more" } else { "" };
    text.field("wants", format!("{} of them within {}", rule.quorum, words(rule.ttl.as_secs())));
    if let Some(after) = rule.escalate {
        text.field("escalates", format!("after {}", words(after.as_secs())));
    }
    if rule.signed_votes {
        text.field("signatures", "counts signed approvals only");
    }
    if let Some(most) = rule.pre_approval {
        text.field("pre-approval", pre_approval(&most));
    }
    text.field(
        "may answer",
        if persons.is_empty() { "nobody".to_owned() } else { format!("{}{more}", persons.join(", ")) },
    );
    if u32::try_from(persons.len()).unwrap_or(u32::MAX) < rule.quorum {
        let later = rule.escalate.is_some_and(|after| waited < after);
        let told = if later {
            "fewer than it wants, until it escalates"
        } else {
            "fewer than it wants: this cannot be approved"
        };
        text.line(paint(BAD, format!("  {told}")));
    }
    json!({
        "rule": rule.id, "quorum": rule.quorum, "ttl_seconds": rule.ttl.as_secs(), "reason": rule.reason,
        "escalate_seconds": rule.escalate.map(|after| after.as_secs()),
        "pre_approval": rule.pre_approval, "signed_votes": rule.signed_votes,
        "persons": persons, "groups": listed(&found.groups), "truncated": found.truncated,
    })
}

/// What a principal may do.
pub fn can(args: &CanArgs, output: &mut Output) -> Result<Exit, Failure> {
    let bundle = args.bundle.load()?;
    let stored = args.bundle.stored(&bundle)?;
    let view = bundle.with(&stored, None);
    let mut told = 0_usize;
    if args.operation.as_ref().is_some_and(|wanted| !bundle.operations().any(|operation| operation == wanted)) {
        let known: Vec<&str> = bundle.operations().collect();
        return Err(Failure::usage(format!("the bundle has no such operation; it has {}", known.join(", "))));
    }
    for operation in bundle.operations().filter(|name| args.operation.as_ref().is_none_or(|wanted| wanted == name)) {
        let resources = match &args.resource {
            Some(resource) => vec![resource.clone()],
            None => view.resources_of(operation),
        };
        for resource in resources {
            let mut question = args.actor.scenario(operation, &resource)?.question(view);
            question.standing = args.actor.standing(&bundle)?;
            // An operation that is not for such a principal or resource is nothing that it can do.
            let Ok(outlook) = view.outlook(&question.query()) else { continue };
            if matches!(outlook.prospect, Prospect::Never(_)) && !output.is_json() {
                continue;
            }
            told += 1;
            output
                .item(&outlook_json(operation, &resource, &outlook), &outlook_text(operation, &resource, &outlook))?;
        }
    }
    if told == 0 {
        output.remark("nothing; `countersign policy explain` tells why for one operation and resource");
    }
    Ok(Exit::Done)
}

/// The clauses of a policy that are not known yet.
fn open(account: &Account) -> Vec<String> {
    let clauses = account.clauses.iter().filter(|clause| clause.holds == Holds::Open && !clause.lifting);
    clauses.map(|clause| one_line(&clause.text)).collect()
}

fn outlook_text(operation: &str, resource: &EntityRef, outlook: &Outlook) -> String {
    let mut text = Lines::default();
    let (style, word) = match (&outlook.prospect, outlook.asks.is_empty(), outlook.depends.is_empty()) {
        (Prospect::Never(_), _, _) => (BAD, "never"),
        (Prospect::Perhaps, _, _) => (WARN, "only if"),
        (Prospect::Permitted, true, true) => (GOOD, "allowed"),
        (Prospect::Permitted, true, false) => (WARN, "depends"),
        (Prospect::Permitted, false, _) => (WARN, "asks"),
    };
    let resource = Visible::new(&resource.to_string()).to_string();
    text.line(format!("{}  {} {resource}", paint(style, format!("{word:<8}")), Visible::new(operation)));
    for rule in &outlook.asks {
        let people = if rule.quorum == 1 { "1 person".to_owned() } else { format!("{} persons", rule.quorum) };
        text.line(format!("            asks {people}  {}", paint(FAINT, Visible::new(&rule.id))));
    }
    for account in &outlook.depends {
        let what = match (account.permits, account.asks) {
            (true, _) => "permitted if",
            (false, true) => "asks if",
            (false, false) => "denied if",
        };
        let clauses = open(account).join(" && ");
        text.line(format!("            {what} {clauses}  {}", paint(FAINT, Visible::new(&account.policy))));
    }
    text.finish()
}

fn outlook_json(operation: &str, resource: &EntityRef, outlook: &Outlook) -> Value {
    let (prospect, by) = match &outlook.prospect {
        Prospect::Never(by) => ("never", by.as_slice()),
        Prospect::Permitted => ("permitted", &[][..]),
        Prospect::Perhaps => ("perhaps", &[][..]),
    };
    let depends = outlook.depends.iter().map(|account| {
        let effect = if account.permits { "permit" } else { "forbid" };
        json!({ "policy": account.policy, "effect": effect, "asks": account.asks, "if": open(account) })
    });
    json!({
        "operation": operation,
        "resource": resource.to_string(),
        "prospect": prospect,
        "by": by,
        "asks": outlook.asks.iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>(),
        "depends": depends.collect::<Value>(),
    })
}
