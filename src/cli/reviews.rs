//! `countersign reviews`.

use clap::Subcommand;
use countersign::client::{Client, ClientError};
use countersign::proto::{CloseReviewRequest, GetReviewRequest, LiftedRule, ListReviewsRequest, Review, ReviewState};
use countersign_core::visible::Visible;
use serde_json::{Value, json};

use super::args::Connection;
use super::output::{GOOD, Output, STRONG, WARN, paint, quoted};
use super::text::{Lines, entities, entity};
use super::when::{relative, rfc3339};
use super::{Exit, Failure, pages};

#[derive(Debug, Subcommand)]
pub enum ReviewsCommand {
    /// List the reviews that concern you, newest first
    #[command(after_help = "Examples:\n  countersign reviews list\n  countersign reviews list --open --json")]
    List {
        /// Only those that nobody has closed
        #[arg(long)]
        open: bool,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show what the glass was broken for, why, and past whom
    #[command(after_help = "Examples:\n  countersign reviews show REV")]
    Show {
        /// The review
        review: String,
    },
    /// Close a review, as somebody else than who broke the glass
    #[command(
        after_help = "Examples:\n  countersign reviews close REV --comment 'was right; the runbook lacked an owner'"
    )]
    Close {
        /// The review
        review: String,
        /// What you found
        #[arg(long, value_name = "TEXT")]
        comment: String,
    },
}

/// Runs one of the commands.
pub async fn run(command: ReviewsCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let client = connection.client().await?;
    match command {
        ReviewsCommand::List { open, limit } => list(&client, open, limit, output).await?,
        ReviewsCommand::Show { review } => {
            let review = client.get_review(GetReviewRequest { review_id: review }).await?.review;
            shown(review, output)?;
        }
        ReviewsCommand::Close { review, comment } => {
            let request = CloseReviewRequest { review_id: review, comment, request_id: String::new() };
            shown(client.close_review(request).await?.review, output)?;
        }
    }
    Ok(Exit::Done)
}

fn shown(review: Option<Review>, output: &mut Output) -> Result<(), Failure> {
    let review = review.ok_or(ClientError::Incomplete("review"))?;
    output.document(&review_json(&review), &human(&review))
}

async fn list(client: &Client, open: bool, limit: usize, output: &mut Output) -> Result<(), Failure> {
    let states = if open { vec![ReviewState::Open.into()] } else { Vec::new() };
    // The server gives as many at a time as it can look at.
    let page = async |_, page_token| {
        let request = ListReviewsRequest { page_size: 0, page_token, states: states.clone() };
        let page = client.list_reviews(request).await?;
        Ok((page.reviews, page.next_page_token))
    };
    let told = pages::each(limit, page, |review| output.item(&review_json(&review), &summary(&review))).await?;
    if told == 0 && !output.is_json() {
        output.remark("no reviews that concern you");
    }
    Ok(())
}

const fn word(state: ReviewState) -> &'static str {
    match state {
        ReviewState::Unspecified => "unspecified",
        ReviewState::Open => "open",
        ReviewState::Closed => "closed",
    }
}

fn review_json(review: &Review) -> Value {
    let Review {
        review_id,
        state: _,
        person,
        reason,
        decision_id,
        capability_id,
        session_id,
        operation,
        resource,
        audience,
        digest,
        canonical_action,
        rules,
        passed_over,
        more_passed_over,
        excluded,
        permitted_by,
        bundle_digest,
        opened_at,
        closed_at,
        closed_by,
        comment,
        caller_may_close,
    } = review;
    let one = |entity: &Option<countersign::proto::Entity>| entity.as_ref().map(super::json::entity);
    let all = |list: &[countersign::proto::Entity]| list.iter().map(super::json::entity).collect::<Value>();
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    json!({
        "review_id": review_id,
        "state": word(review.state()),
        "person": one(person),
        "reason": reason,
        "decision_id": decision_id,
        "capability_id": some(capability_id),
        "session_id": session_id,
        "operation": operation,
        "resource": one(resource),
        "audience": audience,
        "digest": digest,
        "canonical_action": canonical_action,
        "rules": rules.iter().map(rule_json).collect::<Value>(),
        "passed_over": all(passed_over),
        "more_passed_over": more_passed_over,
        "excluded": all(excluded),
        "permitted_by": permitted_by,
        "bundle_digest": bundle_digest,
        "opened_at": rfc3339(opened_at.as_ref()),
        "closed_at": rfc3339(closed_at.as_ref()),
        "closed_by": one(closed_by),
        "comment": some(comment),
        "caller_may_close": caller_may_close,
    })
}

fn rule_json(rule: &LiftedRule) -> Value {
    let LiftedRule { rule_id, quorum, reason } = rule;
    json!({ "rule_id": rule_id, "quorum": quorum, "reason": Some(reason).filter(|reason| !reason.is_empty()) })
}

fn heading(review: &Review) -> String {
    let state = match review.state() {
        ReviewState::Open => paint(WARN.bold(), "open"),
        ReviewState::Closed => paint(GOOD, "closed"),
        ReviewState::Unspecified => "unspecified".to_owned(),
    };
    format!("{}  {state}", paint(STRONG, Visible::new(&review.review_id)))
}

fn summary(review: &Review) -> String {
    let mut text = Lines::default();
    text.line(heading(review));
    text.field("broken by", entity(review.person.as_ref())).field("when", relative(review.opened_at.as_ref()));
    text.shown("operation", &review.operation).field("resource", entity(review.resource.as_ref()));
    text.field("reason", quoted(&review.reason));
    text.finish()
}

fn human(review: &Review) -> String {
    let mut text = Lines::default();
    text.line(summary(review).trim_end());
    text.shown("audience", &review.audience).shown("session", &review.session_id);
    text.shown("decision", &review.decision_id);
    if !review.capability_id.is_empty() {
        text.shown("capability", &review.capability_id);
    }
    text.shown("digest", &review.digest).shown("action", &review.canonical_action);
    text.heading("Rules that were lifted");
    for LiftedRule { rule_id, quorum, reason } in &review.rules {
        let persons = super::text::count(*quorum, "person", "persons");
        text.line(format!("  {}: {persons}", paint(STRONG, Visible::new(rule_id))));
        if !reason.is_empty() {
            text.line(format!("    {}", Visible::new(reason)));
        }
    }
    let more = if review.more_passed_over { ", and others" } else { "" };
    text.field("passed over", format!("{}{more}", entities(&review.passed_over)));
    text.shown("permitted by", &review.permitted_by.join(", ")).shown("bundle", &review.bundle_digest);
    if review.closed_by.is_some() {
        text.heading("Closed");
        text.field("by", entity(review.closed_by.as_ref())).field("when", relative(review.closed_at.as_ref()));
        text.field("comment", quoted(&review.comment));
    } else if review.caller_may_close {
        text.line("\n  you may close it: `countersign reviews close`");
    }
    text.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_stranger_acts_on_the_terminal() {
        let hostile = "x\u{1b}[2J\u{202e}\n";
        let review = Review {
            review_id: hostile.into(),
            reason: hostile.into(),
            operation: hostile.into(),
            canonical_action: hostile.into(),
            comment: hostile.into(),
            permitted_by: vec![hostile.into()],
            rules: vec![LiftedRule { rule_id: hostile.into(), quorum: 1, reason: hostile.into() }],
            closed_by: Some(countersign::proto::Entity { r#type: "Person".into(), id: hostile.into() }),
            ..Review::default()
        };
        for text in [human(&review), summary(&review)] {
            let text = anstream::adapter::strip_str(&text).to_string();
            assert!(text.contains("\\u{1b}[2J") && !text.contains(['\u{1b}', '\u{202e}']), "{text}");
        }
    }
}
