//! `countersign revoke` and `countersign revocations`.

use clap::{Args, Subcommand};
use countersign::client::entity;
use countersign::proto::revocation_target::Axis;
use countersign::proto::{Revocation, RevocationTarget, RevokeAllRequest, RevokeAllResponse, WatchRevocationsResponse};
use countersign_core::EntityRef;
use countersign_core::visible::Visible;
use serde_json::{Value, json};

use super::args::{Connection, parse_entity};
use super::output::{GOOD, Output, STRONG, WARN, paint, quoted};
use super::text::{Lines, entity as shown};
use super::when::{relative, rfc3339};
use super::{Exit, Failure};

pub const EXAMPLES: &str = "What came to be before is worthless once this answers; what is decided afterwards, by the policies of \
    then, is not: to keep somebody from acting again, change the policies, or whom they name.\n\nExamples:\n  \
    countersign revoke --principal Agent::etl-bot --reason 'it behaves oddly'\n  \
    countersign revoke --operator Person::olivia --reason 'laptop stolen'\n  \
    countersign revoke --approval APR --reason 'approved by mistake'\n  \
    countersign revoke --bundle DIGEST --reason 'the export rule was wrong'\n  \
    countersign revoke --everything --reason 'incident 4711'";

/// What is revoked, and why.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Identifies this attempt: when a reply was lost, retry with the same UUID
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// One capability
    #[arg(long, value_name = "CAP")]
    capability: Option<String>,
    /// One approval request, pending or approved, with the capabilities that rest on it
    #[arg(long, value_name = "APR")]
    approval: Option<String>,
    /// One session, with all that is in it
    #[arg(long, value_name = "SES")]
    session: Option<String>,
    /// Every session in which this agent, service or person acts, or is a link of the chain
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity)]
    principal: Option<EntityRef>,
    /// Every session in which this person is acted for
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity)]
    operator: Option<EntityRef>,
    /// Every capability that a bundle allowed, and every approval request that it asked
    #[arg(long, value_name = "DIGEST")]
    bundle: Option<String>,
    /// Every session of the tenant
    #[arg(long)]
    everything: bool,
}

impl TargetArgs {
    fn target(self) -> RevocationTarget {
        let Self { capability, approval, session, principal, operator, bundle, everything } = self;
        let axis = capability
            .map(Axis::CapabilityId)
            .or(approval.map(Axis::ApprovalId))
            .or(session.map(Axis::SessionId))
            .or(principal.as_ref().map(entity).map(Axis::Principal))
            .or(operator.as_ref().map(entity).map(Axis::Operator))
            .or(bundle.map(Axis::BundleDigest))
            .or(everything.then_some(Axis::Everything(true)));
        RevocationTarget { axis }
    }
}

#[derive(Debug, Subcommand)]
pub enum RevocationsCommand {
    /// Be told of every revocation, as an enforcement point that caches is
    #[command(
        after_help = "Examples:\n  countersign revocations watch\n  countersign revocations watch --resume TOKEN --json"
    )]
    Watch {
        /// From where an earlier watch was
        #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
        resume: String,
    },
}

/// Runs `countersign revoke`.
pub async fn run(args: RevokeArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let RevokeArgs { target, reason, request_id } = args;
    let target = target.target();
    let request = RevokeAllRequest { target: Some(target.clone()), reason, request_id: request_id.unwrap_or_default() };
    let RevokeAllResponse { sequence, replayed } = connection.client().await?.revoke_all(request).await?;
    let json = json!({ "revoked": target_json(Some(&target)), "sequence": sequence, "replayed": replayed });
    let mut text = Lines::default();
    text.line(format!("{}  {}", paint(GOOD.bold(), "REVOKED"), what(Some(&target))));
    text.field("sequence", sequence);
    output.document(&json, &text.finish())?;
    if let Some(Axis::Principal(_) | Axis::Operator(_)) = &target.axis
        && !output.is_json()
    {
        output.remark("the name was not looked up anywhere: compare it with `countersign audit list`, a misspelt one revokes nothing");
    }
    Ok(Exit::Done)
}

/// Runs `countersign revocations`.
pub async fn watch(command: RevocationsCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let RevocationsCommand::Watch { resume } = command;
    let mut watch = connection.client().await?.watch_revocations(&resume);
    loop {
        let WatchRevocationsResponse { revocation, complete_through, resume_token } = tokio::select! {
            message = watch.next() => message?,
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
        };
        let json = json!({
            "revocation": revocation.as_ref().map(revocation_json),
            "complete_through": complete_through,
            "resume_token": resume_token,
        });
        match &revocation {
            Some(revocation) => output.item(&json, &human(revocation))?,
            // People need not read that nothing happened.
            None if output.is_json() => output.item(&json, "")?,
            None => {}
        }
    }
}

fn target_json(target: Option<&RevocationTarget>) -> Value {
    match target.and_then(|target| target.axis.as_ref()) {
        None => Value::Null,
        Some(Axis::CapabilityId(id)) => json!({ "capability_id": id }),
        Some(Axis::ApprovalId(id)) => json!({ "approval_id": id }),
        Some(Axis::SessionId(id)) => json!({ "session_id": id }),
        Some(Axis::Principal(principal)) => json!({ "principal": super::json::entity(principal) }),
        Some(Axis::Operator(operator)) => json!({ "operator": super::json::entity(operator) }),
        Some(Axis::BundleDigest(digest)) => json!({ "bundle_digest": digest }),
        Some(Axis::Everything(everything)) => json!({ "everything": everything }),
    }
}

fn revocation_json(revocation: &Revocation) -> Value {
    let Revocation { target, sequence, revoked_at, revoked_by, reason } = revocation;
    json!({
        "target": target_json(target.as_ref()),
        "sequence": sequence,
        "revoked_at": rfc3339(revoked_at.as_ref()),
        "revoked_by": revoked_by.as_ref().map(super::json::entity),
        "reason": Some(reason).filter(|reason| !reason.is_empty()),
    })
}

fn what(target: Option<&RevocationTarget>) -> String {
    match target.and_then(|target| target.axis.as_ref()) {
        None => "something that this version does not know".to_owned(),
        Some(Axis::CapabilityId(id) | Axis::ApprovalId(id) | Axis::SessionId(id)) => Visible::new(id).to_string(),
        Some(Axis::Principal(principal)) => format!("principal {}", shown(Some(principal))),
        Some(Axis::Operator(operator)) => format!("operator {}", shown(Some(operator))),
        Some(Axis::BundleDigest(digest)) => format!("bundle {}", Visible::new(digest)),
        Some(Axis::Everything(_)) => paint(WARN, "everything"),
    }
}

fn human(revocation: &Revocation) -> String {
    let Revocation { target, sequence, revoked_at, revoked_by, reason } = revocation;
    let mut text = Lines::default();
    text.line(format!("{}  {}", paint(STRONG, sequence), what(target.as_ref())));
    text.field("revoked", relative(revoked_at.as_ref()));
    if revoked_by.is_some() {
        text.field("by", shown(revoked_by.as_ref()));
    }
    if !reason.is_empty() {
        text.field("reason", quoted(reason));
    }
    text.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_stranger_acts_on_the_terminal() {
        let hostile = "x\u{1b}[2J\u{202e}";
        let revocation = Revocation {
            target: Some(RevocationTarget { axis: Some(Axis::BundleDigest(hostile.to_owned())) }),
            sequence: 1,
            revoked_at: None,
            revoked_by: Some(countersign::proto::Entity { r#type: "Agent".into(), id: hostile.into() }),
            reason: hostile.to_owned(),
        };
        let text = human(&revocation);
        assert!(!text.contains("\u{1b}[2J") && !text.contains('\u{202e}'), "{text:?}");
    }
}
