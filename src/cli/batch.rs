//! Several questions, and several votes, at once: each shown, each said, each with its own answer.

use clap::Args;
use countersign::client::{Client, ClientError, entity, struct_from_record};
use countersign::proto::cast_votes_result::Result as Cast;
use countersign::proto::request_approvals_result::Result as Asked;
use countersign::proto::{
    Approval, ApprovalItemError, ApprovalState, BatchQuestion, BatchVote, CastVoteResponse, CastVotesRequest,
    ListApprovalsRequest, Operation, RequestApprovalResponse, RequestApprovalsRequest, VoteVerdict,
};
use countersign_core::value::record_from_json;
use countersign_core::visible::Visible;
use countersign_core::{Record, Value};
use serde_json::json;

use super::approvals::answered;
use super::args::{parse_entity, read_text};
use super::output::{BAD, Output, STRONG, paint};
use super::signing::Signing;
use super::view::{examine, summary};
use super::vote::{VoteArgs, confirmed, fetch};
use super::{Exit, Failure, json as wire, pages, text};

pub const EXAMPLES: &str = "\
The questions are a JSON array; what one leaves out is taken from the options. Each becomes a request of its own, with its own \
digest, votes and end, and costs as much of the budget as if it was asked alone.

  [{\"operation\": \"export\", \"resource\": \"Dataset::customers\", \"input\": {\"rows\": 500, \"destination\": \"s3://ours-reports\"}},
   {\"operation\": \"deploy\", \"resource\": \"System::web\", \"audience\": \"prod\", \"session\": \"ses_…\",
    \"input\": {…}, \"environment\": {…}, \"justification\": \"release 7\"}]

Exit code: 0 when all were put, or with `--wait` approved; 3 when one was denied; 1 when one failed.

Examples:
  countersign approvals request-batch @questions.json --session SES --audience warehouse --justification 'monthly reports'
  generate-questions | countersign approvals request-batch - --session SES --audience warehouse --justification 'monthly reports' --wait";

/// Questions to put together.
#[derive(Debug, Args)]
pub struct BatchArgs {
    /// The questions: a JSON array, `@FILE`, or `-` for stdin
    questions: String,
    /// The session of those that name none
    #[arg(long, value_name = "ID", env = "COUNTERSIGN_SESSION", default_value = "", hide_default_value = true)]
    session: String,
    /// The enforcement point of those that name none
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    audience: String,
    /// Why, for those that do not say
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    justification: String,
    /// Wait until people have answered all that were put
    #[arg(long)]
    wait: bool,
    /// Identifies this attempt: the same UUID gives the same batch
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
}

/// Puts questions together.
pub async fn request(args: BatchArgs, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let items = args.questions()?;
    let asked: Vec<String> = items.iter().map(action).collect();
    let (wait, request_id) = (args.wait, args.request_id.unwrap_or_default());
    let answer = client.request_approvals(RequestApprovalsRequest { items, request_id }).await?;
    if !output.is_json() {
        output.human(&format!("batch {}\n", Visible::new(&answer.batch_id)))?;
    }
    let mut put = Vec::new();
    let mut failed = 0;
    for ((place, item), asked) in (1..).zip(answer.results).zip(asked) {
        match item.result {
            Some(Asked::Response(RequestApprovalResponse { approval, shared, replayed })) => {
                let approval = approval.ok_or(ClientError::Incomplete("approval"))?;
                let json = json!({
                    "batch_id": answer.batch_id, "place": place, "approval": wire::approval(&approval),
                    "shared": shared, "replayed": replayed, "error": null,
                });
                let remark = if shared { "  pending already; your words are shown with it" } else { "" };
                output.item(&json, &format!("{place}  {}{remark}", summary(&approval)))?;
                put.push(approval.approval_id);
            }
            Some(Asked::Error(error)) => {
                failed += 1;
                tell_error(place, &asked, json!({"batch_id": answer.batch_id}), &error, output)?;
            }
            None => return Err(ClientError::Incomplete("result").into()),
        }
    }
    let mut exit = if failed == 0 { Exit::Done } else { Exit::Error };
    if !wait {
        return Ok(exit);
    }
    output.progress("waiting for people…");
    for approval in put {
        let approval = client.wait_for_approval(&approval).await?;
        output.item(&json!({"approval": wire::approval(&approval)}), &summary(&approval))?;
        exit = match (exit, answered(approval.state())) {
            (Exit::Done, Ok(answered)) => answered,
            (exit, Ok(_)) => exit,
            (_, Err(_)) => Exit::Error,
        };
    }
    Ok(exit)
}

/// What is asked, in short.
fn action(item: &BatchQuestion) -> String {
    let Some(Operation { name, resource, .. }) = &item.operation else { return "-".to_owned() };
    format!("{} {}", Visible::new(name), text::entity(resource.as_ref()))
}

fn tell_error(
    place: usize,
    about: &str,
    mut json: serde_json::Value,
    error: &ApprovalItemError,
    output: &mut Output,
) -> Result<(), Failure> {
    let ApprovalItemError { code: _, message, reason } = error;
    if let Some(fields) = json.as_object_mut() {
        fields.insert("place".to_owned(), json!(place));
        fields.insert("approval".to_owned(), json!(null));
        fields.insert("error".to_owned(), json!({"reason": reason, "message": message}));
    }
    output.item(&json, &format!("{place}  {about}: {} {}", paint(BAD, Visible::new(reason)), Visible::new(message)))
}

impl BatchArgs {
    fn questions(&self) -> Result<Vec<BatchQuestion>, Failure> {
        let text = read_text(&self.questions, "questions")?;
        // Read as strictly as the input of a single question: no null, no fraction, no name twice.
        let read = record_from_json(&format!("{{\"questions\":{text}}}"));
        let wrong = |why: String| Failure::usage(format!("the questions cannot be read: {why}"));
        let mut read = read.map_err(|error| wrong(error.to_string()))?;
        match read.remove("questions") {
            Some(Value::List(items)) if read.is_empty() && !items.is_empty() => {
                let item = |(place, item): (usize, Value)| {
                    self.question(item).map_err(|why| wrong(format!("question {place}: {why}")))
                };
                (1..).zip(items).map(item).collect()
            }
            _other => Err(wrong("expected a JSON array with at least one question".to_owned())),
        }
    }

    fn question(&self, item: Value) -> Result<BatchQuestion, String> {
        let Value::Record(mut fields) = item else { return Err("expected a JSON object".to_owned()) };
        let mut text = |name: &str, otherwise: Option<&str>| match (fields.remove(name), otherwise) {
            (Some(Value::String(text)), _) => Ok(text),
            (Some(_), _) => Err(format!("`{name}` is no text")),
            (None, Some(otherwise)) if !otherwise.is_empty() => Ok(otherwise.to_owned()),
            (None, Some(_)) => Err(format!("`{name}` is missing; give it here, or as `--{name}`")),
            (None, None) => Err(format!("`{name}` is missing")),
        };
        let name = text("operation", None)?;
        let resource = parse_entity(&text("resource", None)?).map_err(|error| format!("`resource`: {error}"))?;
        let session_id = text("session", Some(&self.session))?;
        let audience = text("audience", Some(&self.audience))?;
        let justification = text("justification", Some(&self.justification))?;
        let mut record = |name: &str| match fields.remove(name) {
            None => Ok(Record::new()),
            Some(Value::Record(record)) => Ok(record),
            Some(_) => Err(format!("`{name}` is no JSON object")),
        };
        let (input, environment) = (record("input")?, record("environment")?);
        if let Some(unknown) = fields.keys().next() {
            return Err(format!("unknown field `{}`", Visible::cut(unknown, 64)));
        }
        let send = |record: &Record, name| struct_from_record(record, name).map(Some).map_err(|e| e.to_string());
        let operation = Operation {
            name,
            resource: Some(entity(&resource)),
            input: send(&input, "input")?,
            environment: send(&environment, "environment")?,
        };
        Ok(BatchQuestion {
            session_id,
            operation: Some(operation),
            audience,
            principal: None,
            principal_credential: String::new(),
            justification,
        })
    }
}

/// The requests of a batch.
pub async fn of_batch(client: &Client, batch: &str, states: &[ApprovalState]) -> Result<Vec<Approval>, Failure> {
    let mut all = Vec::new();
    let page = async |_, page_token| {
        let states = states.iter().map(|state| (*state).into()).collect();
        let request = ListApprovalsRequest { page_size: 200, page_token, states, batch_id: batch.to_owned() };
        let page = client.list_approvals(request).await?;
        Ok((page.approvals, page.next_page_token))
    };
    let keep = |approval| {
        all.push(approval);
        Ok(())
    };
    pages::each(usize::MAX, page, keep).await?;
    Ok(all)
}

/// Shows several requests, asks about each, and casts the votes that were confirmed, each on what was shown.
pub async fn vote(
    args: &VoteArgs,
    signing: Option<&Signing>,
    verdict: VoteVerdict,
    client: &Client,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut items = Vec::new();
    let request_id = uuid::Uuid::now_v7().to_string();
    let of = args.approvals.len();
    for (place, id) in (1..).zip(&args.approvals) {
        let approval = fetch(client, id).await?;
        let examined = examine(&approval)?;
        if !output.is_json() {
            let shown = output.fitted(&examined.human());
            output.human(&format!("{}\n{shown}", paint(STRONG, format!("{place} of {of}"))))?;
        }
        if !args.yes && !confirmed(verdict, &approval, output).await? {
            output.remark("left as it is");
            continue;
        }
        let signature = match signing {
            Some(signing) => Some(signing.vote(&approval, &examined.digest(), verdict, &args.comment, &request_id)?),
            None => None,
        };
        items.push(BatchVote {
            approval_id: id.clone(),
            verdict: verdict.into(),
            digest: examined.digest().to_string(),
            view_digest: approval.view_digest.clone(),
            comment: args.comment.clone(),
            signature,
        });
    }
    if items.is_empty() {
        return Err(Failure::new("nothing was voted").reason("NOT_CONFIRMED"));
    }
    let number = items.len();
    let voted: Vec<String> = items.iter().map(|item| item.approval_id.clone()).collect();
    let answer = client.cast_votes(CastVotesRequest { items, request_id }).await?;
    let mut failed = 0;
    for ((place, result), id) in (1..).zip(answer.results).zip(voted) {
        match result.result {
            Some(Cast::Response(CastVoteResponse { approval, replayed: _ })) => {
                let approval = approval.ok_or(ClientError::Incomplete("approval"))?;
                let json = json!({"place": place, "approval": wire::approval(&approval), "error": null});
                output.item(&json, &format!("voted: {}  {}", wire::vote_verdict(verdict), summary(&approval)))?;
            }
            Some(Cast::Error(error)) => {
                failed += 1;
                tell_error(place, &Visible::new(&id).to_string(), json!({}), &error, output)?;
            }
            None => return Err(ClientError::Incomplete("result").into()),
        }
    }
    if failed > 0 {
        let others = if failed < number { "; the others were" } else { "" };
        return Err(Failure::new(format!("{failed} of {number} votes were not cast{others}"))
            .reason("ITEMS_FAILED")
            .hint("look again with `countersign approvals show`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(questions: &str) -> BatchArgs {
        BatchArgs {
            questions: questions.to_owned(),
            session: "ses_1".to_owned(),
            audience: "warehouse".to_owned(),
            justification: String::new(),
            wait: false,
            request_id: None,
        }
    }

    #[test]
    fn what_a_question_leaves_out_comes_from_the_options() {
        let text = "[{\"operation\":\"export\",\"resource\":\"Dataset::a\",\"input\":{\"rows\":5},\"justification\":\"why\",\
                    \"audience\":\"other\"}]";
        let questions = args(text).questions().unwrap();
        let [question] = questions.as_slice() else { panic!("{questions:?}") };
        assert_eq!((question.session_id.as_str(), question.audience.as_str()), ("ses_1", "other"));
        assert!(question.operation.as_ref().unwrap().input.as_ref().unwrap().fields.contains_key("rows"));
    }

    #[test]
    fn questions_are_read_strictly() {
        let whole = "\"operation\":\"export\",\"resource\":\"Dataset::a\",\"justification\":\"why\"";
        for (wrong, said) in [
            ("[]".to_owned(), "at least one"),
            ("{}".to_owned(), "array"),
            (format!("[{{{whole}}}],\"questions\":[]"), "cannot be read"),
            (format!("[{{{whole},\"input\":{{\"a\":1,\"a\":2}}}}]"), "cannot be read"),
            (format!("[{{{whole},\"input\":[]}}]"), "question 1: `input` is no JSON object"),
            (format!("[{{{whole},\"approval\":true}}]"), "question 1: unknown field `approval`"),
            (
                format!("[{{{whole}}},{{\"operation\":\"export\",\"resource\":\"Dataset::a\"}}]"),
                "question 2: `justification`",
            ),
        ] {
            let failure = args(&wrong).questions().unwrap_err();
            assert!(failure.exit().code() == 2 && failure.to_human().contains(said), "{wrong}: {}", failure.to_human());
        }
    }
}
