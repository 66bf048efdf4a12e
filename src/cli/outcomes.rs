//! `countersign outcomes`.

use clap::{Subcommand, ValueEnum};
use countersign::client::{Client, ClientError};
use countersign::proto::{
    ListUnresolvedOutcomesRequest, OutcomeFinding, OutcomeResolution, ResolveOutcomeRequest, UnresolvedOutcome,
};
use serde_json::{Value, json};

use super::args::Connection;
use super::output::Output;
use super::text::Lines;
use super::when::{relative, rfc3339};
use super::{Exit, Failure, pages};

#[derive(Debug, Subcommand)]
pub enum OutcomesCommand {
    /// List what was redeemed and whose outcome nobody reported in time
    #[command(after_help = "Examples:\n  countersign outcomes list\n  countersign outcomes list --json")]
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Say what came of one, as a person who does not stand behind it
    #[command(
        after_help = "Examples:\n  countersign outcomes resolve CAP --finding never-ran --note 'the warehouse has no such job'"
    )]
    Resolve {
        /// The capability's id
        capability: String,
        /// What you found
        #[arg(long, value_enum)]
        finding: FindingArg,
        /// How you know
        #[arg(long, value_name = "TEXT")]
        note: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FindingArg {
    Succeeded,
    Failed,
    NeverRan,
}

impl From<FindingArg> for OutcomeFinding {
    fn from(finding: FindingArg) -> Self {
        match finding {
            FindingArg::Succeeded => Self::Succeeded,
            FindingArg::Failed => Self::Failed,
            FindingArg::NeverRan => Self::NeverRan,
        }
    }
}

/// Runs one of the commands.
pub async fn run(command: OutcomesCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let client = connection.client().await?;
    match command {
        OutcomesCommand::List { limit } => list(&client, limit, output).await?,
        OutcomesCommand::Resolve { capability, finding, note } => {
            let request = ResolveOutcomeRequest {
                capability_id: capability,
                finding: OutcomeFinding::from(finding).into(),
                note,
                request_id: String::new(),
            };
            let capability = client.resolve_outcome(request).await?.capability;
            let capability = capability.ok_or(ClientError::Incomplete("capability"))?;
            output.document(&super::json::capability(&capability), &super::text::capability(&capability))?;
        }
    }
    Ok(Exit::Done)
}

async fn list(client: &Client, limit: usize, output: &mut Output) -> Result<(), Failure> {
    let page = async |page_size, page_token| {
        let request = ListUnresolvedOutcomesRequest { page_size, page_token };
        let page = client.list_unresolved_outcomes(request).await?;
        Ok((page.outcomes, page.next_page_token))
    };
    let tell = |UnresolvedOutcome { capability, caller_may_resolve }| {
        let capability = capability.ok_or(ClientError::Incomplete("capability"))?;
        let json = json!({
            "capability": super::json::capability(&capability),
            "caller_may_resolve": caller_may_resolve,
        });
        let mut text = Lines::default();
        text.line(super::text::capability(&capability).trim_end());
        text.field("was due", relative(capability.complete_by.as_ref()));
        text.field("you may resolve it", if caller_may_resolve { "yes" } else { "no" });
        output.item(&json, &text.finish())
    };
    let told = pages::each(limit, page, tell).await?;
    if told == 0 && !output.is_json() {
        output.remark("no unknown outcomes that concern you");
    }
    Ok(())
}

/// How an outcome was resolved, as JSON.
pub fn resolved(resolution: &OutcomeResolution) -> Value {
    let OutcomeResolution { finding: _, resolved_by, resolved_at, note } = resolution;
    json!({
        "finding": word(resolution.finding()),
        "resolved_by": resolved_by.as_ref().map(super::json::entity),
        "resolved_at": rfc3339(resolved_at.as_ref()),
        "note": note,
    })
}

/// The words for what a person found.
pub const fn word(finding: OutcomeFinding) -> &'static str {
    match finding {
        OutcomeFinding::Unspecified => "unspecified",
        OutcomeFinding::Succeeded => "succeeded",
        OutcomeFinding::Failed => "failed",
        OutcomeFinding::NeverRan => "never_ran",
    }
}
