//! `countersign break-glass`.

use clap::Args;
use countersign::client::ClientError;
use countersign::proto::{BreakGlassRequest, Verdict};
use countersign_core::visible::Visible;

use super::args::{ActionArgs, Connection};
use super::decide::exit;
use super::output::{Output, WARN, paint};
use super::{Exit, Failure, json, text};

pub const EXAMPLES: &str = "For a person who acts directly, with a credential to vote with. Everybody who could have approved is told, and \
    somebody\nelse must review it before you can do so again.\n\n\
    Exit codes: 0 ALLOW, 3 DENY, 1 error.\n\n\
    Examples:\n  \
    countersign break-glass change_config System::checkout --audience prod --session SES \\\n    \
    --input '{\"key\": \"pool\", \"value\": \"64\", \"blast_radius\": 10}' \\\n    \
    --reason 'checkout is down, incident 4711, nobody of sre answers' --mint\n  \
    countersign reviews list --open";

/// What to do at once.
#[derive(Debug, Args)]
pub struct BreakGlassArgs {
    #[command(flatten)]
    action: ActionArgs,
    /// The session that the action belongs to: your own
    #[arg(long, value_name = "ID", env = "COUNTERSIGN_SESSION")]
    session: String,
    /// Why, for those who are told and whoever reviews it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Mint the capability on ALLOW; it is printed, and is a secret
    #[arg(long)]
    mint: bool,
    /// Identifies this attempt: the same UUID gives the same answer
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
}

/// Breaks the glass, prints the answer, and exits by it.
pub async fn run(args: BreakGlassArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let request = BreakGlassRequest {
        session_id: args.session,
        operation: Some(args.action.operation()?),
        audience: args.action.audience,
        reason: args.reason,
        mint: args.mint,
        request_id: args.request_id.unwrap_or_default(),
    };
    let answer = connection.client().await?.break_glass(request).await?;
    let decision = answer.decision.ok_or(ClientError::Incomplete("decision"))?;
    let review = Some(&answer.review_id).filter(|id| !id.is_empty());
    let json = serde_json::json!({ "decision": json::decision(&decision), "review_id": review });
    let mut human = text::decision(&decision);
    if let Some(review) = review {
        let words =
            "the glass is broken: those who could have approved are told, and somebody else must close the review";
        human.push_str(&format!("\n{}\n  {}\n", paint(WARN.bold(), words), Visible::new(review)));
        if decision.capability.is_none() {
            let words = "nothing was minted, so this answer is all the authority there is: act on it now, and once";
            human.push_str(&format!("{}\n", paint(WARN, words)));
        }
    }
    output.document(&json, &human)?;
    exit(verdict(decision.verdict())?, decision.replayed && !args.mint)
}

/// Nobody is left to ask where the glass is broken.
fn verdict(verdict: Verdict) -> Result<Verdict, Failure> {
    match verdict {
        Verdict::NeedsApproval => Err(Failure::new("the server gave no verdict; do not act")),
        Verdict::Allow | Verdict::Deny | Verdict::Unspecified => Ok(verdict),
    }
}
