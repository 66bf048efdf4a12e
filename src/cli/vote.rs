//! `countersign approvals approve` and `deny`: fetch, show, confirm, and vote on exactly what was shown.

use clap::Args;
use countersign::client::{Client, ClientError};
use countersign::proto::{Approval, CastVoteRequest, GetApprovalRequest, VoteVerdict};

use super::output::{BAD, GOOD, Output, paint};
use super::signing::Signing;
use super::view::{consent, examine, summary};
use super::{Failure, batch, json};

/// A vote.
#[derive(Debug, Args)]
pub struct VoteArgs {
    /// The request, or several: each is shown, and asked about
    #[arg(required = true, value_name = "APPROVAL")]
    pub approvals: Vec<String>,
    /// Your words, shown beside your vote
    #[arg(long, default_value = "", hide_default_value = true)]
    pub comment: String,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
    /// Vote only if this is the digest now: for scripts that showed the request before
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    /// Vote only if this is the view digest now
    #[arg(long, value_name = "HEX")]
    view_digest: Option<String>,
    /// Sign the vote with your own key: `@FILE`, made by `countersign approvals keygen`
    #[arg(long, value_name = "@FILE")]
    pub sign: Option<String>,
}

/// Casts the vote, or several.
pub async fn run(args: VoteArgs, verdict: VoteVerdict, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let signing = args.sign.as_deref().map(Signing::read).transpose()?;
    let [id] = args.approvals.as_slice() else {
        if args.digest.is_some() || args.view_digest.is_some() {
            return Err(Failure::usage("`--digest` and `--view-digest` are of one request; vote on one at a time"));
        }
        return batch::vote(&args, signing.as_ref(), verdict, client, output).await;
    };
    let approval = fetch(client, id).await?;
    let examined = examine(&approval)?;
    let digest = examined.digest().to_string();
    expected("digest", args.digest.as_deref(), &digest)?;
    expected("view digest", args.view_digest.as_deref(), &approval.view_digest)?;
    if !output.is_json() {
        let shown = output.fitted(&examined.human());
        output.human(&shown)?;
    }
    if !args.yes && !confirmed(verdict, &approval, output).await? {
        return Err(Failure::new("nothing was voted").reason("NOT_CONFIRMED"));
    }
    let request_id = uuid::Uuid::now_v7().to_string();
    let signature = match &signing {
        Some(signing) => Some(signing.vote(&approval, &examined.digest(), verdict, &args.comment, &request_id)?),
        None => None,
    };
    let request = CastVoteRequest {
        approval_id: id.clone(),
        verdict: verdict.into(),
        digest,
        view_digest: approval.view_digest.clone(),
        comment: args.comment,
        request_id,
        signature,
    };
    let after = client.cast_vote(request).await?.approval.ok_or(ClientError::Incomplete("approval"))?;
    output.document(&json::approval(&after), &format!("\nvoted: {}\n{}", json::vote_verdict(verdict), summary(&after)))
}

/// One request as it is now.
pub async fn fetch(client: &Client, approval_id: &str) -> Result<Approval, Failure> {
    let request = GetApprovalRequest { approval_id: approval_id.to_owned() };
    Ok(client.get_approval(request).await?.approval.ok_or(ClientError::Incomplete("approval"))?)
}

fn expected(what: &str, expected: Option<&str>, now: &str) -> Result<(), Failure> {
    match expected {
        Some(expected) if expected != now => Err(Failure::new(format!("the {what} is no longer the expected one"))
            .reason("VOTE_STALE")
            .hint("nothing was voted; look again with `countersign approvals show`")),
        Some(_) | None => Ok(()),
    }
}

/// Whether whoever was shown a request says yes to that.
pub async fn confirmed(verdict: VoteVerdict, approval: &Approval, output: &mut Output) -> Result<bool, Failure> {
    if !output.can_ask() {
        return Err(Failure::usage(
            "there is no terminal to confirm on; pass `--yes`, with `--digest` and `--view-digest` of what was shown",
        ));
    }
    let (style, question) = match verdict {
        VoteVerdict::Approve => (GOOD, consent(approval)),
        VoteVerdict::Deny | VoteVerdict::Unspecified => (BAD, "Deny this, for good?".to_owned()),
    };
    output.prompt(&format!("\n{} Type `yes`: ", paint(style.bold(), question)));
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    match line.await {
        Ok(Ok(line)) => Ok(line.trim().eq_ignore_ascii_case("yes")),
        Ok(Err(error)) => Err(Failure::new(format!("cannot read the answer: {error}"))),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests;
