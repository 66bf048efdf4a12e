//! `countersign approvals`.

use std::time::Duration;

use clap::{Args, Subcommand};
use countersign::client::{Client, ClientError, Watch};
use countersign::proto::{
    Approval, ApprovalState, CancelApprovalRequest, LiftCoolDownRequest, ListApprovalsRequest, PreApprovalBounds,
    RequestApprovalRequest, VoteVerdict, WithdrawVoteRequest,
};

use super::advise::AdviseArgs;
use super::args::{ActionArgs, Connection, PrincipalArgs, parse_duration};
use super::batch::BatchArgs;
use super::figures::FiguresArgs;
use super::output::Output;
use super::view::{cooling, examine, summary};
use super::vote::{VoteArgs, fetch};
use super::{Exit, Failure, advise, batch, figures, json, pages, vote};

#[derive(Debug, Subcommand)]
pub enum ApprovalsCommand {
    /// List the requests that you asked or may answer, newest first
    #[command(after_help = "Examples:\n  countersign approvals list\n  countersign approvals list --pending --json")]
    List {
        /// Only those that wait for votes
        #[arg(long)]
        pending: bool,
        /// Only those that were put as this batch
        #[arg(long, value_name = "BATCH")]
        batch: Option<String>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show everything that a vote on a request binds
    #[command(after_help = "Examples:\n  countersign approvals show APR\n  countersign approvals show --batch BAT")]
    Show {
        /// The request
        #[arg(required_unless_present = "batch")]
        approval: Option<String>,
        /// Every request that was put as this batch
        #[arg(long, value_name = "BATCH", conflicts_with = "approval")]
        batch: Option<String>,
    },
    /// Show a request, and say yes to exactly that
    #[command(after_help = "Examples:\n  countersign approvals approve APR\n  \
                            countersign approvals approve APR --comment 'agreed with legal' --yes\n  \
                            countersign approvals approve APR APR     each is shown and asked about; there is no `all`")]
    Approve(VoteArgs),
    /// Show a request, and say no, which ends it
    #[command(after_help = "Examples:\n  countersign approvals deny APR --comment 'not before the audit'")]
    Deny(VoteArgs),
    /// Make a key of your own to sign your votes with
    #[command(after_help = super::signing::KEYGEN_EXAMPLES)]
    Keygen(super::sign::AuthorArgs),
    /// Take your vote back
    #[command(after_help = "Examples:\n  countersign approvals withdraw APR")]
    Withdraw {
        /// The request
        approval: String,
    },
    /// Let the question of a denied request be asked again at once, as one of several persons
    #[command(
        after_help = "After a deny nobody asks for the same operation on the same resource for a while. It takes one person \
                            more than it\nwould have taken to approve.\n\nExamples:\n  countersign approvals lift APR"
    )]
    Lift {
        /// The denied request
        approval: String,
    },
    /// Take a question back that you asked, or end a pre-approval
    #[command(
        after_help = "A pre-approval can also be ended by whom the `revoke` policies permit: nothing is done on it afterwards.\n\n\
                            Examples:\n  countersign approvals cancel APR"
    )]
    Cancel {
        /// The request
        approval: String,
    },
    /// Print requests as they are and whenever they change
    #[command(after_help = "Examples:\n  countersign approvals watch\n  countersign approvals watch APR --json")]
    Watch {
        /// Only this request
        approval: Option<String>,
        /// Only the requests that were put as this batch
        #[arg(long, value_name = "BATCH", conflicts_with = "approval")]
        batch: Option<String>,
        /// From where an earlier watch had arrived
        #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
        resume: String,
    },
    /// Put the question about one action to people, or about all like it
    #[command(after_help = "With `--wait`: exit code 0 when approved, 3 when denied.\n\n\
        With `--pre-approve-uses` and `--pre-approve-for` people are asked about every action like this one, whatever its input: the same\n\
        operation on the same resource in this session. Every rule that asks must offer it, which `countersign decide` tells.\n\nExamples:\n  \
        countersign approvals request export Dataset::customers --audience warehouse --session SES \\\n    \
        --input '{\"rows\": 500, \"destination\": \"s3://ours-reports\"}' \\\n    \
        --justification 'monthly report for finance' --wait\n  \
        countersign approvals request change_config System::checkout --audience prod --session SES --input @change.json \\\n    \
        --justification 'incident 4711' --pre-approve-uses 5 --pre-approve-for 30m")]
    Request(Box<RequestArgs>),
    /// Put several questions to people at once
    #[command(after_help = batch::EXAMPLES)]
    RequestBatch(BatchArgs),
    /// Show how asking goes: for each rule and each person, how often, how fast, and what was said
    #[command(after_help = figures::EXAMPLES)]
    Figures(FiguresArgs),
    /// Propose, from the log, where people are asked for nothing
    #[command(after_help = advise::EXAMPLES)]
    Advise(AdviseArgs),
}

/// A question about one action.
#[derive(Debug, Args)]
pub struct RequestArgs {
    #[command(flatten)]
    action: ActionArgs,
    /// The session that the action belongs to
    #[arg(long, value_name = "ID", env = "COUNTERSIGN_SESSION")]
    session: String,
    #[command(flatten)]
    principal: PrincipalArgs,
    /// Why, for the people asked
    #[arg(long, value_name = "TEXT")]
    justification: String,
    #[command(flatten)]
    pre_approve: PreApproveArgs,
    /// Wait until people have answered
    #[arg(long)]
    wait: bool,
    /// Identifies this attempt: the same UUID gives the same answer
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
}

/// The bounds of a pre-approval.
#[derive(Debug, Args)]
pub struct PreApproveArgs {
    /// Ask people to pre-approve every action like this one, at most so often
    #[arg(long, value_name = "N", requires = "pre_approve_for")]
    pre_approve_uses: Option<u32>,
    /// For so long at most, from the approval on, such as `30m`
    #[arg(long, value_name = "TIME", requires = "pre_approve_uses", value_parser = parse_duration)]
    pre_approve_for: Option<Duration>,
}

impl PreApproveArgs {
    /// As a request carries them.
    fn bounds(&self) -> Option<PreApprovalBounds> {
        let (uses, time) = self.pre_approve_uses.zip(self.pre_approve_for)?;
        Some(PreApprovalBounds { uses, duration: prost_types::Duration::try_from(time).ok() })
    }
}

/// Runs one of the commands.
pub async fn run(command: ApprovalsCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    if let ApprovalsCommand::Advise(args) = &command {
        // It may read a log where there is no server.
        return advise::run(args, connection, output).await;
    }
    if let ApprovalsCommand::Keygen(args) = &command {
        return super::sign::author(args, output);
    }
    let client = connection.client().await?;
    match command {
        ApprovalsCommand::List { pending, batch, limit } => list(&client, pending, batch, limit, output).await?,
        ApprovalsCommand::Show { approval, batch } => {
            if let Some(batch) = batch {
                for approval in batch::of_batch(&client, &batch, &[]).await? {
                    let shown = output.fitted(&examine(&approval)?.human());
                    output.item(&json::approval(&approval), &format!("{shown}\n"))?;
                }
                return Ok(Exit::Done);
            }
            let approval = fetch(&client, &approval.unwrap_or_default()).await?;
            let shown = output.fitted(&examine(&approval)?.human());
            output.document(&json::approval(&approval), &shown)?;
        }
        ApprovalsCommand::Approve(args) => vote::run(args, VoteVerdict::Approve, &client, output).await?,
        ApprovalsCommand::Deny(args) => vote::run(args, VoteVerdict::Deny, &client, output).await?,
        ApprovalsCommand::Withdraw { approval } => {
            let request = WithdrawVoteRequest { approval_id: approval, ..WithdrawVoteRequest::default() };
            after(client.withdraw_vote(request).await?.approval, output)?;
        }
        ApprovalsCommand::Lift { approval } => {
            let request = LiftCoolDownRequest { approval_id: approval, ..LiftCoolDownRequest::default() };
            let approval = client.lift_cool_down(request).await?.approval.ok_or(ClientError::Incomplete("approval"))?;
            output.document(&json::approval(&approval), &cooling(&approval))?;
        }
        ApprovalsCommand::Cancel { approval } => {
            let request = CancelApprovalRequest { approval_id: approval, ..CancelApprovalRequest::default() };
            after(client.cancel_approval(request).await?.approval, output)?;
        }
        ApprovalsCommand::Watch { approval, batch, resume } => {
            let watching = match &batch {
                Some(batch) => client.watch_batch(batch, &resume),
                None => client.watch_approvals(approval.as_deref(), &resume),
            };
            watch(watching, output).await?;
        }
        ApprovalsCommand::Request(args) => return request(*args, &client, output).await,
        ApprovalsCommand::RequestBatch(args) => return batch::request(args, &client, output).await,
        ApprovalsCommand::Figures(args) => figures::run(&args, &client, output).await?,
        ApprovalsCommand::Advise(_) | ApprovalsCommand::Keygen(_) => {}
    }
    Ok(Exit::Done)
}

fn after(approval: Option<Approval>, output: &mut Output) -> Result<(), Failure> {
    let approval = approval.ok_or(ClientError::Incomplete("approval"))?;
    output.document(&json::approval(&approval), &summary(&approval))
}

async fn list(
    client: &Client,
    pending: bool,
    batch: Option<String>,
    limit: usize,
    output: &mut Output,
) -> Result<(), Failure> {
    let states = if pending { vec![ApprovalState::Pending.into()] } else { Vec::new() };
    let batch_id = batch.unwrap_or_default();
    // The server gives as many at a time as it can look at.
    let page = async |_, page_token| {
        let (states, batch_id) = (states.clone(), batch_id.clone());
        let request = ListApprovalsRequest { page_size: 0, page_token, states, batch_id };
        let page = client.list_approvals(request).await?;
        Ok((page.approvals, page.next_page_token))
    };
    let told =
        pages::each(limit, page, |approval| output.item(&json::approval(&approval), &summary(&approval))).await?;
    if told == 0 && !output.is_json() {
        output.remark("no requests that you asked or may answer");
    }
    Ok(())
}

/// Until the server refuses, or the reader goes away.
async fn watch(mut watch: Watch, output: &mut Output) -> Result<(), Failure> {
    loop {
        let approval = tokio::select! {
            approval = watch.next() => approval?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let json = serde_json::json!({"approval": json::approval(&approval), "resume_token": watch.resume_token()});
        output.item(&json, &summary(&approval))?;
    }
}

async fn request(args: RequestArgs, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let (principal, principal_credential) = args.principal.fields()?;
    let request = RequestApprovalRequest {
        session_id: args.session,
        operation: Some(args.action.operation()?),
        audience: args.action.audience,
        principal,
        principal_credential,
        justification: args.justification,
        request_id: args.request_id.unwrap_or_default(),
        pre_approval: args.pre_approve.bounds(),
    };
    let answer = client.request_approval(request).await?;
    let approval = answer.approval.ok_or(ClientError::Incomplete("approval"))?;
    let remark = if answer.shared {
        "\nan identical question is pending already; your words are shown with it, if they were not before"
    } else {
        ""
    };
    let json = serde_json::json!({
        "approval": json::approval(&approval),
        "shared": answer.shared,
        "replayed": answer.replayed,
    });
    output.item(&json, &format!("{}{remark}", summary(&approval)))?;
    if !args.wait {
        return Ok(Exit::Done);
    }
    output.progress("waiting for people…");
    let approval = client.wait_for_approval(&approval.approval_id).await?;
    let json = serde_json::json!({"approval": json::approval(&approval)});
    output.item(&json, &summary(&approval))?;
    answered(approval.state())
}

/// What people's answer means for whoever waited for it.
pub fn answered(state: ApprovalState) -> Result<Exit, Failure> {
    match state {
        ApprovalState::Approved => Ok(Exit::Done),
        ApprovalState::Denied => Ok(Exit::Deny),
        ApprovalState::Unspecified
        | ApprovalState::Pending
        | ApprovalState::Expired
        | ApprovalState::Cancelled
        | ApprovalState::Void
        | ApprovalState::Redeemed => {
            Err(Failure::new(format!("nobody can answer any more: the request is {}", json::approval_state(state)))
                .reason("APPROVAL_STATE")
                .hint("decide again, and ask again if it still needs approval"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_what_people_said() {
        assert_eq!(answered(ApprovalState::Approved).unwrap(), Exit::Done);
        assert_eq!(answered(ApprovalState::Denied).unwrap(), Exit::Deny);
        assert_eq!(answered(ApprovalState::Expired).unwrap_err().exit(), Exit::Error);
    }
}
