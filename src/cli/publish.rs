//! What is active, was active, and could be: `countersign policy reload`, `history`, `rollback` and `shadow`.

use std::time::{Duration, Instant};

use clap::Args;
use countersign::client::{Client, ClientError, operation};
use countersign::proto::{
    ArchivedBundle, Bundle, ErrorReason, GetShadowRequest, GetShadowResponse, ListBundlesRequest, OpenSessionRequest,
    ReloadBundleRequest, RequestApprovalRequest, RollbackBundleRequest, ShadowDifference,
};
use countersign_core::visible::Visible;
use serde_json::{Value, json};
use tonic::Code;

use super::args::Connection;
use super::output::{FAINT, GOOD, Output, STRONG, WARN, harmless, paint};
use super::text::{self, Lines};
use super::when::{relative, rfc3339};
use super::{Exit, Failure, json as as_json, pages};

pub const RELOAD_EXAMPLES: &str = "\
Where the active bundle makes publishing an action that people approve, `--ask` asks them and waits; without it, the refusal says what \
to ask, and the approval is given here.

Examples:
  countersign policy reload
  countersign policy reload --ask 'reviewed in #1234'
  countersign policy reload --session 01955d8b-… --approval 01955d8c-…";
pub const HISTORY_EXAMPLES: &str = "\
Examples:
  countersign policy history
  countersign policy history --limit 1 --json";
pub const ROLLBACK_EXAMPLES: &str = "\
The bundle comes from the server's own archive, with what its authors signed then. What lies in the server's bundle directory of it is \
not taken from there again, so that no restart undoes this.

Examples:
  countersign policy rollback 4f8c2be1";
pub const SHADOW_EXAMPLES: &str = "\
The server asks the bundle in `shadow` of `[tenants.NAME]` about every decision, and never acts on it.

Examples:
  countersign policy shadow
  countersign policy shadow --json";

/// How long a server that proves is waited for.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// What the caller brings along where publishing is an action that is decided.
#[derive(Debug, Args)]
pub struct ConsentArgs {
    /// Ask people, if they have to approve it, with this justification; and publish when they have
    #[arg(long, value_name = "TEXT", conflicts_with = "approval")]
    ask: Option<String>,
    /// The session in which it is done
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    session: String,
    /// The approval to use
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true, requires = "session")]
    approval: String,
}

/// How much is shown.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// How many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: usize,
}

/// Which bundle is taken up again.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Its digest, or as many of the first digits as tell it from the others
    digest: String,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// Lets the server read its bundle directory again.
pub async fn reload(args: ConsentArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let client = &connection.client().await?;
    let call = |request_id, session_id, approval_id| {
        client.reload_bundle(ReloadBundleRequest { request_id, session_id, approval_id })
    };
    let answer = match consented(args, client, output, call).await? {
        Consented::Answer(answer) => answer,
        Consented::Denied => return Ok(Exit::Deny),
    };
    let bundle = answer.bundle.ok_or(ClientError::Incomplete("bundle"))?;
    let mut text = String::new();
    for warning in &answer.warnings {
        let place = (Visible::new(&warning.file).to_string(), warning.line, warning.column);
        let hint = Some(&warning.hint).filter(|hint| !hint.is_empty());
        text.push_str(&super::policy::line(place, false, &warning.message, hint, None));
    }
    text.push_str(&active(&bundle, answer.changed));
    let json = json!({
        "bundle": as_json::bundle(&bundle),
        "changed": answer.changed,
        "replayed": answer.replayed,
        "warnings": answer.warnings.iter().map(as_json::finding).collect::<Value>(),
    });
    output.document(&json, &text)?;
    Ok(Exit::Done)
}

/// Lists what was active.
pub async fn history(args: &HistoryArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let client = connection.client().await?;
    let page = async |size, token| bundles(&client, size, token).await;
    pages::each(args.limit, page, |bundle| output.item(&archived(&bundle), &entry(&bundle))).await?;
    Ok(Exit::Done)
}

/// Takes up a bundle again.
pub async fn rollback(args: RollbackArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let RollbackArgs { digest, consent } = args;
    let client = &connection.client().await?;
    let digest = if digest.len() < 64 { whole(client, &digest).await? } else { digest };
    let call = |request_id, session_id, approval_id| {
        client.rollback_bundle(RollbackBundleRequest { digest: digest.clone(), request_id, session_id, approval_id })
    };
    let answer = match consented(consent, client, output, call).await? {
        Consented::Answer(answer) => answer,
        Consented::Denied => return Ok(Exit::Deny),
    };
    let bundle = answer.bundle.ok_or(ClientError::Incomplete("bundle"))?;
    let json = json!({
        "bundle": as_json::bundle(&bundle),
        "changed": answer.changed,
        "replayed": answer.replayed,
    });
    output.document(&json, &active(&bundle, answer.changed))?;
    Ok(Exit::Done)
}

/// What became of a call that people may have to approve.
enum Consented<T> {
    Answer(T),
    Denied,
}

/// Makes the call; if people have to approve it and the caller wants them asked, asks them, waits, and makes it again.
async fn consented<T, F: Future<Output = Result<T, ClientError>>>(
    args: ConsentArgs,
    client: &Client,
    output: &mut Output,
    call: impl Fn(String, String, String) -> F,
) -> Result<Consented<T>, Failure> {
    let ConsentArgs { ask, mut session, approval } = args;
    let refused = match patiently(output, |id| call(id, session.clone(), approval.clone())).await {
        Ok(answer) => return Ok(Consented::Answer(answer)),
        Err(error) => error,
    };
    let asks = refused.reason() == Some(ErrorReason::PublishNeedsApproval);
    let (Some(justification), Some(refusal), true) = (ask, refused.refusal(), asks) else {
        return Err(refused.into());
    };
    let said = |name: &'static str| refusal.metadata(name).ok_or(ClientError::Incomplete(name));
    let input = serde_json::from_str(said("input")?).map_err(|_| ClientError::Incomplete("input"))?;
    let operation = operation(said("operation")?, (said("resource_type")?, said("resource_id")?), input, json!({}))?;
    if session.is_empty() {
        let request = OpenSessionRequest { purpose: justification.clone(), ..OpenSessionRequest::default() };
        let opened = client.open_session(request).await?.session.ok_or(ClientError::Incomplete("session"))?;
        session = opened.session_id;
    }
    let request = RequestApprovalRequest {
        session_id: session.clone(),
        operation: Some(operation),
        audience: said("audience")?.to_owned(),
        justification,
        ..RequestApprovalRequest::default()
    };
    let asked = client.request_approval(request).await?.approval.ok_or(ClientError::Incomplete("approval"))?;
    output.remark(&super::view::summary(&asked));
    output.progress("waiting for people…");
    let answered = client.wait_for_approval(&asked.approval_id).await?;
    output.remark(&super::view::summary(&answered));
    match super::approvals::answered(answered.state())? {
        Exit::Done => {
            let answer = patiently(output, |id| call(id, session.clone(), asked.approval_id.clone())).await?;
            Ok(Consented::Answer(answer))
        }
        Exit::Deny | Exit::Error | Exit::Usage | Exit::NeedsApproval => Ok(Consented::Denied),
    }
}

/// Makes a call that may take longer than one may wait, such as for proofs: the same once more gets the same answer.
async fn patiently<T, F: Future<Output = Result<T, ClientError>>>(
    output: &mut Output,
    call: impl Fn(String) -> F,
) -> Result<T, ClientError> {
    let (request_id, began) = (uuid::Uuid::now_v7().to_string(), Instant::now());
    loop {
        let answer = call(request_id.clone()).await;
        let late = matches!(&answer, Err(error) if error.refusal().is_some_and(|r| r.code() == Code::DeadlineExceeded));
        if !late || began.elapsed() > PATIENCE {
            return answer;
        }
        output.progress(&format!("the server is at it, {} s so far…", began.elapsed().as_secs()));
    }
}

async fn bundles(
    client: &Client,
    page_size: i32,
    page_token: String,
) -> Result<(Vec<ArchivedBundle>, String), Failure> {
    let page = client.list_bundles(ListBundlesRequest { page_size, page_token }).await?;
    Ok((page.bundles, page.next_page_token))
}

/// The one digest that begins like this.
async fn whole(client: &Client, begins: &str) -> Result<String, Failure> {
    let mut found: Vec<String> = Vec::new();
    let page = async |size, token| bundles(client, size, token).await;
    let begins_so = |digest: &str| !begins.is_empty() && digest.starts_with(begins);
    let keep = |bundle: ArchivedBundle| {
        found.extend(Some(bundle.digest).filter(|digest| begins_so(digest)));
        Ok(())
    };
    pages::each(usize::MAX, page, keep).await?;
    let hint = "list those that were with `countersign policy history`";
    match found.as_slice() {
        [digest] => Ok(digest.clone()),
        [] => Err(Failure::usage(format!("no bundle whose digest begins with `{}` was active", Visible::new(begins)))
            .hint(hint)),
        several => Err(Failure::usage(format!("{} digests begin with `{begins}`", several.len())).hint(hint)),
    }
}

/// Shows what the shadow would have answered otherwise.
pub async fn shadow(connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let report = connection.client().await?.get_shadow(GetShadowRequest {}).await?;
    if report.digest.is_empty() {
        output.document(
            &json!({ "shadow": null }),
            "there is no shadow bundle; name one as `shadow` in `[tenants.NAME]`\n",
        )?;
        return Ok(Exit::Done);
    }
    output.document(&shadow_json(&report), &shadow_text(&report))?;
    Ok(Exit::Done)
}

fn active(bundle: &Bundle, changed: bool) -> String {
    format!("{}{}", if changed { "now active:\n" } else { "unchanged:\n" }, super::policy::human(bundle))
}

fn archived(bundle: &ArchivedBundle) -> Value {
    let ArchivedBundle { digest, name, revision, activated_at, active } = bundle;
    let activated_at = rfc3339(activated_at.as_ref());
    json!({ "digest": digest, "name": name, "revision": revision, "activated_at": activated_at, "active": active })
}

fn entry(bundle: &ArchivedBundle) -> String {
    let ArchivedBundle { digest, name, revision, activated_at, active } = bundle;
    let mark = if *active { format!("  {}", paint(GOOD, "active")) } else { String::new() };
    let when =
        activated_at.as_ref().map_or_else(|| "at a time unknown".to_owned(), |at| relative(Some(at)).to_string());
    let (digest, name) = (digest.get(..12).unwrap_or(digest), Visible::new(name));
    format!("{}  {name} revision {revision}  {}{mark}", paint(STRONG, digest), paint(FAINT, when))
}

fn shadow_text(report: &GetShadowResponse) -> String {
    let GetShadowResponse {
        digest,
        name,
        revision,
        compared_with,
        since,
        same,
        different,
        skipped,
        differences,
        refused,
    } = report;
    let mut lines = Lines::default();
    lines.line(paint(STRONG, format!("{} revision {revision}, as a shadow", Visible::new(name))));
    lines.shown("digest", digest);
    if !refused.is_empty() {
        lines.line(paint(WARN, "what lies in its directory now is refused, and this one stays:"));
        lines.line(harmless(refused));
    }
    if compared_with.is_empty() {
        lines.line("no decision was compared yet");
        return lines.finish();
    }
    lines.shown("beside", compared_with).field("since", relative(since.as_ref()));
    lines.field("same", same).field("different", different);
    if *skipped > 0 {
        lines.field("skipped", format!("{skipped}, which came too fast to be judged twice"));
    }
    for difference in differences {
        let ShadowDifference {
            operation,
            verdict,
            determining_policies,
            shadow_verdict,
            shadow_determining_policies,
            count,
            examples,
        } = difference;
        lines.line("");
        let (from, to) = (Visible::new(verdict), Visible::new(shadow_verdict));
        lines.line(format!("{count} × {}  {}", Visible::new(operation), paint(WARN, format!("{from} → {to}"))));
        let by = |policies: &[String]| if policies.is_empty() { "no policy".to_owned() } else { policies.join(", ") };
        lines.shown("now by", &by(determining_policies)).shown("then by", &by(shadow_determining_policies));
        for example in examples {
            let (principal, resource) =
                (text::entity(example.principal.as_ref()), text::entity(example.resource.as_ref()));
            let when = relative(example.decided_at.as_ref());
            lines.field(
                "such as",
                format!("{principal} on {resource}, {when}, decision {}", Visible::new(&example.decision_id)),
            );
        }
    }
    lines.finish()
}

fn shadow_json(report: &GetShadowResponse) -> Value {
    let example = |example: &countersign::proto::ShadowExample| {
        json!({
            "decision_id": example.decision_id,
            "decided_at": rfc3339(example.decided_at.as_ref()),
            "principal": example.principal.as_ref().map(as_json::entity),
            "resource": example.resource.as_ref().map(as_json::entity),
        })
    };
    let difference = |difference: &ShadowDifference| {
        json!({
            "operation": difference.operation,
            "verdict": difference.verdict,
            "determining_policies": difference.determining_policies,
            "shadow_verdict": difference.shadow_verdict,
            "shadow_determining_policies": difference.shadow_determining_policies,
            "count": difference.count,
            "examples": difference.examples.iter().map(example).collect::<Value>(),
        })
    };
    json!({ "shadow": {
        "digest": report.digest,
        "name": report.name,
        "revision": report.revision,
        "compared_with": Some(&report.compared_with).filter(|digest| !digest.is_empty()),
        "since": rfc3339(report.since.as_ref()),
        "same": report.same,
        "different": report.different,
        "skipped": report.skipped,
        "refused": Some(&report.refused).filter(|why| !why.is_empty()),
        "differences": report.differences.iter().map(difference).collect::<Value>(),
    }})
}
