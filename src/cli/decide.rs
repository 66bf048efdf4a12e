//! `countersign decide`.

use clap::Args;
use countersign::proto::{DecideRequest, Verdict};

use super::args::{ActionArgs, Connection, PrincipalArgs};
use super::holder::HolderArgs;
use super::output::Output;
use super::{Exit, Failure, json, text};

pub const EXAMPLES: &str = "Exit codes: 0 ALLOW, 3 DENY, 4 NEEDS_APPROVAL, 1 error.\n\n\
    Without `--mint` an ALLOW is itself the authority to act once; with it, only the capability is.\n\n\
    Examples:\n  \
    countersign decide describe Dataset::docs --audience warehouse --session SES --mint\n  \
    countersign decide export Dataset::customers --audience warehouse --session SES \\\n    \
    --input '{\"rows\": 500, \"destination\": \"s3://ours-reports\"}'\n  \
    countersign decide export Dataset::customers --audience warehouse --session SES \\\n    \
    --input @export.json --approval APR --mint\n  \
    countersign decide describe Dataset::docs --audience warehouse --session SES --mint --holder-key agent.pem";

/// What to decide.
#[derive(Debug, Args)]
pub struct DecideArgs {
    #[command(flatten)]
    action: ActionArgs,
    /// The session that the action belongs to
    #[arg(long, value_name = "ID", env = "COUNTERSIGN_SESSION")]
    session: String,
    #[command(flatten)]
    principal: PrincipalArgs,
    /// The approval whose answer to use
    #[arg(long, value_name = "ID")]
    approval: Option<String>,
    /// Mint the capability on ALLOW; it is printed, and is a secret
    #[arg(long)]
    mint: bool,
    #[command(flatten)]
    holder: HolderArgs,
    /// Let the capability stay open, so that its holder can narrow it offline; policy must permit it
    #[arg(long, requires = "mint")]
    open: bool,
    /// Identifies this attempt: the same UUID gives the same answer
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
    /// A revision of the stored entities that the decision must know of, as `entity upsert` printed it
    #[arg(long, value_name = "REVISION")]
    min_entity_revision: Option<u64>,
}

/// Decides, prints the answer, and exits by it.
pub async fn run(args: DecideArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let (principal, principal_credential) = args.principal.fields()?;
    let request = DecideRequest {
        session_id: args.session,
        operation: Some(args.action.operation()?),
        audience: args.action.audience,
        principal,
        principal_credential,
        approval_id: args.approval.unwrap_or_default(),
        mint: args.mint,
        request_id: args.request_id.unwrap_or_default(),
        min_entity_revision: args.min_entity_revision.unwrap_or_default(),
        holder: args.holder.holder()?,
        open: args.open,
    };
    let answer = connection.client().await?.decide(request).await?;
    output.document(&json::decision(&answer), &text::decision(&answer))?;
    exit(answer.verdict(), answer.replayed && !args.mint)
}

/// What a script branches on. An ALLOW without a capability that is a replay would let the script act a second time on one
/// authority; with a capability, redeeming it decides.
pub fn exit(verdict: Verdict, replayed_authority: bool) -> Result<Exit, Failure> {
    match verdict {
        Verdict::Allow if replayed_authority => Err(Failure::new("the ALLOW is a replay, which authorizes nothing")
            .reason("REPLAYED")
            .hint("decide again without `--request-id` for a new answer")),
        Verdict::Allow => Ok(Exit::Done),
        Verdict::NeedsApproval => Ok(Exit::NeedsApproval),
        Verdict::Deny => Ok(Exit::Deny),
        Verdict::Unspecified => Err(Failure::new("the server gave no verdict; do not act")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_verdict() {
        assert_eq!(exit(Verdict::Allow, false).unwrap().code(), 0);
        assert_eq!(exit(Verdict::Deny, false).unwrap().code(), 3);
        assert_eq!(exit(Verdict::NeedsApproval, true).unwrap().code(), 4);
        assert_eq!(exit(Verdict::Unspecified, false).unwrap_err().exit().code(), 1);
    }

    #[test]
    fn a_replay_lets_no_script_act_twice() {
        assert_eq!(exit(Verdict::Allow, true).unwrap_err().exit().code(), 1);
    }
}
