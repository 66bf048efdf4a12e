//! `countersign audit search`.

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use countersign::client::{Client, entity};
use countersign::proto::{Record, SearchRecordsRequest};
use countersign_core::visible::Visible;
use countersign_core::{EntityRef, Timestamp};
use serde_json::Value;

use super::KINDS;
use crate::cli::args::{parse_entity, parse_time};
use crate::cli::capability::wire;
use crate::cli::output::{FAINT, Output, STRONG, paint};
use crate::cli::recorded::first_kept;
use crate::cli::when::rfc3339;
use crate::cli::{Failure, pages};

pub const EXAMPLES: &str = "\
Everything that is given must be so of a record; docs/auditing.md says in which records each is found. A search finds, and proves \
nothing: whether anything is missing from the log, `countersign audit verify` says.

Examples:
  countersign audit search --approver Person::dana --vote approve
  countersign audit search --principal Agent::etl-bot --decision deny --since 2026-11-01T00:00:00Z --json
  countersign audit search --capability cap_0198a7b2-5c00-7000-8000-000000000001 --oldest-first
  countersign audit search --mark break-glass --limit 1000";

/// Which records.
#[derive(Debug, Clone, Default, Args)]
pub struct SearchArgs {
    /// Only records of this kind; docs/records.md describes each
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    pub kind: Option<String>,
    /// Who acted, or was cut off
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity)]
    pub principal: Option<EntityRef>,
    /// The person acted for
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity)]
    pub operator: Option<EntityRef>,
    /// Who called
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity)]
    pub caller: Option<EntityRef>,
    /// Who voted, or counted for a rule when something was decided or redeemed
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity)]
    pub approver: Option<EntityRef>,
    /// What was acted upon, or changed
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity)]
    pub resource: Option<EntityRef>,
    /// The operation, such as `export`
    #[arg(long, value_name = "NAME")]
    pub operation: Option<String>,
    /// The id of a policy that decided, or of a rule that asked
    #[arg(long, value_name = "ID")]
    pub rule: Option<String>,
    /// What was decided
    #[arg(long, value_enum, conflicts_with_all = ["vote", "outcome"])]
    pub decision: Option<DecisionArg>,
    /// What was voted
    #[arg(long, value_enum, conflicts_with = "outcome")]
    pub vote: Option<VoteArg>,
    /// What was reported or found to have come of it
    #[arg(long, value_enum)]
    pub outcome: Option<OutcomeArg>,
    /// A session, also one above
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// A capability
    #[arg(long, value_name = "ID")]
    pub capability: Option<String>,
    /// An approval request
    #[arg(long, value_name = "ID")]
    pub approval: Option<String>,
    /// The review of broken glass
    #[arg(long, value_name = "ID")]
    pub review: Option<String>,
    /// The digest of a bundle
    #[arg(long, value_name = "DIGEST")]
    pub bundle: Option<String>,
    /// What is remarkable about them
    #[arg(long, value_enum)]
    pub mark: Option<MarkArg>,
    /// How a vote came: `grpc`, or the issuer of the credential that it was cast with
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,
    #[command(flatten)]
    pub time: TimeArgs,
    /// The oldest first, instead of the newest
    #[arg(long)]
    pub oldest_first: bool,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Print the contents too
    #[arg(long)]
    pub full: bool,
}

/// From when to when.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct TimeArgs {
    /// Not before this time: a day in UTC (`2026-11-01`), or a time in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<jiff::Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<jiff::Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DecisionArg {
    Allow,
    Deny,
    NeedsApproval,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VoteArg {
    Approve,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutcomeArg {
    Succeeded,
    Failed,
    NeverRan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MarkArg {
    Approved,
    BreakGlass,
    Minted,
    PreApproval,
    Signed,
    Late,
    Rollback,
    Joined,
}

impl MarkArg {
    /// As the wire names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::BreakGlass => "break_glass",
            Self::Minted => "minted",
            Self::PreApproval => "pre_approval",
            Self::Signed => "signed",
            Self::Late => "late",
            Self::Rollback => "rollback",
            Self::Joined => "joined",
        }
    }
}

impl TimeArgs {
    /// Asks for no other time.
    pub fn of(self, request: SearchRecordsRequest) -> SearchRecordsRequest {
        let at = |time: jiff::Timestamp| wire(Timestamp::from_millis(time.as_millisecond()));
        SearchRecordsRequest { from: self.since.and_then(at), until: self.until.and_then(at), ..request }
    }
}

impl SearchArgs {
    fn verdict(&self) -> &'static str {
        match (self.decision, self.vote, self.outcome) {
            (Some(DecisionArg::Allow), _, _) => "ALLOW",
            (Some(DecisionArg::Deny), _, _) => "DENY",
            (Some(DecisionArg::NeedsApproval), _, _) => "NEEDS_APPROVAL",
            (None, Some(VoteArg::Approve), _) => "approve",
            (None, Some(VoteArg::Deny), _) => "deny",
            (None, None, Some(OutcomeArg::Succeeded)) => "succeeded",
            (None, None, Some(OutcomeArg::Failed)) => "failed",
            (None, None, Some(OutcomeArg::NeverRan)) => "never_ran",
            (None, None, None) => "",
        }
    }

    /// The search, for the wire.
    pub fn request(&self) -> SearchRecordsRequest {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        self.time.of(SearchRecordsRequest {
            kind: text(&self.kind),
            principal: self.principal.as_ref().map(entity),
            operator: self.operator.as_ref().map(entity),
            caller: self.caller.as_ref().map(entity),
            approver: self.approver.as_ref().map(entity),
            resource: self.resource.as_ref().map(entity),
            operation: text(&self.operation),
            rule_id: text(&self.rule),
            verdict: self.verdict().to_owned(),
            session_id: text(&self.session),
            capability_id: text(&self.capability),
            approval_id: text(&self.approval),
            review_id: text(&self.review),
            bundle_digest: text(&self.bundle),
            mark: self.mark.map(MarkArg::name).unwrap_or_default().to_owned(),
            channel: text(&self.channel),
            oldest_first: self.oldest_first,
            ..SearchRecordsRequest::default()
        })
    }
}

/// Tells each record that is found, until there were `limit`; answers how many that were.
pub async fn each(
    client: &Client,
    search: &SearchRecordsRequest,
    limit: usize,
    tell: impl FnMut(Record) -> Result<(), Failure>,
) -> Result<usize, Failure> {
    let mut minimum = None;
    let page = async |page_size, page_token| {
        let page = client.search_records(SearchRecordsRequest { page_size, page_token, ..search.clone() }).await?;
        if *minimum.get_or_insert(page.minimum_index) < page.minimum_index {
            return Err(Failure::new("records were dropped while it was searched, and may be among those looked for")
                .reason("RECORD_PRUNED")
                .hint("search again"));
        }
        Ok((page.records, page.next_page_token))
    };
    pages::each(limit, page, tell).await
}

/// Searches.
pub async fn run(args: &SearchArgs, client: &Client, output: &mut Output) -> Result<(), Failure> {
    first_kept(client, 0, output).await?;
    let tell = |record: Record| output.item(&crate::cli::json::record(&record), &line(&record, args.full));
    let found = each(client, &args.request(), args.limit, tell).await?;
    match found {
        0 => output.remark("no record is so"),
        found if found == args.limit => {
            output.remark("there may be more; give a larger `--limit`, or another time with `--since` and `--until`");
        }
        _fewer => {}
    }
    Ok(())
}

/// A record in a line: when, what, who, and what came of it. With `full`, the whole of it below.
pub fn line(record: &Record, full: bool) -> String {
    let time = rfc3339(record.recorded_at.as_ref()).unwrap_or_else(|| "-".to_owned());
    let mut line = format!(
        "{:>8}  {time:<24}  {}  {}",
        record.index,
        paint(STRONG, format!("{:<20}", Visible::new(&record.kind).to_string())),
        summary(&serde_json::from_slice(&record.content).unwrap_or_default())
    );
    if full {
        let content = String::from_utf8_lossy(&record.content);
        line.push_str(&format!("\n          {}", paint(FAINT, Visible::new(&content))));
    }
    line
}

/// A text in a record.
pub fn text(within: &Value, pointer: &str) -> Option<String> {
    within.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

/// An entity in a record, as it is named in Cedar. Not safe to show.
pub fn named(entity: &Value) -> Option<String> {
    Some(format!("{}::\"{}\"", text(entity, "/type")?, text(entity, "/id")?))
}

/// Who did what, as far as a record says.
fn summary(record: &Value) -> String {
    let name = |within: &Value, pointer: &str| within.pointer(pointer).and_then(named);
    let action: Value =
        text(record, "/action").and_then(|action| serde_json::from_str(&action).ok()).unwrap_or_default();
    let parts = [
        name(&action, "/principal").or_else(|| name(record, "/person")).or_else(|| name(record, "/caller/entity")),
        text(record, "/verdict").or_else(|| text(record, "/outcome")).or_else(|| text(record, "/finding")),
        text(&action, "/operation").or_else(|| text(record, "/rpc")),
        name(&action, "/resource"),
        text(record, "/capability").or_else(|| text(record, "/approval")).or_else(|| text(record, "/error")),
    ];
    let shown = parts.into_iter().flatten().map(|part| Visible::cut(&part, 160).to_string());
    shown.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_strangers_wrote_into_it() {
        let content = serde_json::json!({
            "kind": "decision", "verdict": "DENY",
            "action": "{\"operation\":\"export\",\"principal\":{\"type\":\"Agent\",\"id\":\"b\u{202e}ot\"},\
                       \"resource\":{\"type\":\"Dataset\",\"id\":\"docs\"}}",
            "error": "\u{1b}[2J\n",
        });
        let record =
            Record { index: 7, kind: "decision\n".into(), content: content.to_string().into(), ..Record::default() };
        let line = anstream::adapter::strip_str(&line(&record, true)).to_string();
        assert!(line.contains("Agent::\"b\\u{202e}ot\"  DENY  export  Dataset::\"docs\""), "{line}");
        assert_eq!(line.lines().count(), 2);
        assert!(!line.contains('\u{1b}') && !line.contains('\u{202e}'), "{line:?}");
    }

    #[test]
    fn what_is_asked_for_is_written_as_records_write_it() {
        let args = SearchArgs {
            decision: Some(DecisionArg::NeedsApproval),
            mark: Some(MarkArg::BreakGlass),
            approver: Some(EntityRef::new("Person", "dana").unwrap()),
            time: TimeArgs { since: Some("2026-11-01T00:00:00.5Z".parse().unwrap()), until: None },
            ..SearchArgs::default()
        };
        let request = args.request();
        assert_eq!((request.verdict.as_str(), request.mark.as_str()), ("NEEDS_APPROVAL", "break_glass"));
        assert_eq!(request.approver.unwrap().id, "dana");
        assert_eq!(request.from.unwrap().nanos, 500_000_000);
    }
}
