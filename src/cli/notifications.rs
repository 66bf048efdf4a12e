//! `countersign notifications`.

use clap::{Args, Subcommand};
use countersign::client::Client;
use countersign::proto::{
    DeadLetter, DropNotificationRequest, ListDeadLettersRequest, ListSinksRequest, NotificationKind, NotificationSink,
    RetryNotificationRequest,
};
use countersign_core::visible::Visible;
use serde_json::{Value, json};

use super::args::Connection;
use super::output::{BAD, GOOD, Output, paint};
use super::text::{self, Lines};
use super::when::{relative, rfc3339};
use super::{Exit, Failure, pages};

#[derive(Debug, Subcommand)]
pub enum NotificationsCommand {
    /// Show where notifications go, how many wait, and what was last wrong
    #[command(after_help = "Examples:\n  countersign notifications sinks\n  countersign notifications sinks --json")]
    Sinks,
    /// List the notifications that were given up
    #[command(
        after_help = "Examples:\n  countersign notifications list\n  countersign notifications list --sink pager --json"
    )]
    List {
        /// Of this sink only
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// Have dead letters tried again
    #[command(after_help = "Examples:\n  countersign notifications retry --sink pager NOTIFICATION\n  \
                            countersign notifications retry --sink pager --all")]
    Retry(Which),
    /// Let dead letters go: nobody will be told; the log keeps that you did
    #[command(after_help = "Examples:\n  countersign notifications drop --sink pager NOTIFICATION\n  \
                            countersign notifications drop --sink pager --all")]
    Drop(Which),
}

/// Which dead letters.
#[derive(Debug, Args)]
pub struct Which {
    /// The sink that did not take them
    #[arg(long, value_name = "NAME")]
    sink: String,
    /// Their ids, as `countersign notifications list` shows them
    #[arg(value_name = "NOTIFICATION", required_unless_present = "all")]
    notifications: Vec<String>,
    /// All that there are now
    #[arg(long, conflicts_with = "notifications")]
    all: bool,
}

/// What is said where there is nothing to list or to change.
const NOTHING: &str = "no dead letters; `countersign notifications sinks` lists the sinks";

/// Runs one of the commands.
pub async fn run(command: NotificationsCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let client = connection.client().await?;
    match command {
        NotificationsCommand::Sinks => {
            for sink in client.list_sinks(ListSinksRequest {}).await?.sinks {
                output.item(&sink_json(&sink), &human_sink(&sink))?;
            }
        }
        NotificationsCommand::List { sink, limit } => {
            let letters = dead_letters(&client, sink.as_deref().unwrap_or_default(), limit).await?;
            if letters.is_empty() {
                output.remark(NOTHING);
            }
            for letter in letters {
                output.item(&letter_json(&letter), &human_letter(&letter))?;
            }
        }
        NotificationsCommand::Retry(which) => change(&client, which, true, output).await?,
        NotificationsCommand::Drop(which) => change(&client, which, false, output).await?,
    }
    Ok(Exit::Done)
}

async fn dead_letters(client: &Client, sink: &str, limit: usize) -> Result<Vec<DeadLetter>, Failure> {
    let mut letters = Vec::new();
    let page = async |page_size, page_token| {
        let request = ListDeadLettersRequest { sink: sink.to_owned(), page_size, page_token };
        let page = client.list_dead_letters(request).await?;
        Ok((page.dead_letters, page.next_page_token))
    };
    let keep = |letter| {
        letters.push(letter);
        Ok(())
    };
    pages::each(limit, page, keep).await?;
    Ok(letters)
}

/// Retries or drops, one call each. What is done is told even if a later call is refused.
async fn change(client: &Client, which: Which, retry: bool, output: &mut Output) -> Result<(), Failure> {
    let Which { sink, notifications, all } = which;
    let ids = if all {
        let letters = dead_letters(client, &sink, usize::MAX).await?;
        if letters.is_empty() {
            output.remark(NOTHING);
        }
        letters.into_iter().map(|letter| letter.notification_id).collect()
    } else {
        notifications
    };
    let done = if retry { "waits again" } else { "dropped" };
    for notification_id in ids {
        let (sink, id, request_id) = (sink.clone(), notification_id.clone(), String::new());
        if retry {
            client.retry_notification(RetryNotificationRequest { sink, notification_id, request_id }).await?;
        } else {
            client.drop_notification(DropNotificationRequest { sink, notification_id, request_id }).await?;
        }
        let json = json!({ "notification_id": id, "retried": retry, "dropped": !retry });
        output.item(&json, &format!("{} {done}", Visible::new(&id)))?;
    }
    Ok(())
}

fn sink_json(sink: &NotificationSink) -> Value {
    let NotificationSink {
        name,
        events: _,
        backlog,
        dead_letters,
        last_delivered_at,
        last_failed_at,
        last_error,
        down,
        delivered,
        failed,
    } = sink;
    json!({
        "name": name,
        "events": kinds(sink),
        "backlog": backlog,
        "dead_letters": dead_letters,
        "last_delivered_at": rfc3339(last_delivered_at.as_ref()),
        "last_failed_at": rfc3339(last_failed_at.as_ref()),
        "last_error": Some(last_error).filter(|error| !error.is_empty()),
        "down": down,
        "delivered": delivered,
        "failed": failed,
    })
}

fn letter_json(letter: &DeadLetter) -> Value {
    let DeadLetter { notification_id, sink, kind: _, approval_id, review_id, happened_at, died_at, attempts, error } =
        letter;
    let some = |id: &String| Some(id.clone()).filter(|id| !id.is_empty());
    json!({
        "notification_id": notification_id,
        "sink": sink,
        "kind": kind(letter.kind()),
        "approval_id": some(approval_id),
        "review_id": some(review_id),
        "happened_at": rfc3339(happened_at.as_ref()),
        "died_at": rfc3339(died_at.as_ref()),
        "attempts": attempts,
        "error": error,
    })
}

fn kinds(sink: &NotificationSink) -> Vec<&'static str> {
    sink.events().map(kind).collect()
}

/// The word that the configuration has for it.
const fn kind(kind: NotificationKind) -> &'static str {
    match kind {
        NotificationKind::Unspecified => "unspecified",
        NotificationKind::Asked => "asked",
        NotificationKind::Voted => "voted",
        NotificationKind::Withdrawn => "withdrawn",
        NotificationKind::Decided => "decided",
        NotificationKind::Cancelled => "cancelled",
        NotificationKind::Void => "void",
        NotificationKind::Expired => "expired",
        NotificationKind::Redeemed => "redeemed",
        NotificationKind::Escalated => "escalated",
        NotificationKind::GlassBroken => "glass_broken",
        NotificationKind::ReviewClosed => "review_closed",
    }
}

fn human_sink(sink: &NotificationSink) -> String {
    let mut lines = Lines::default();
    let state = match (sink.down, sink.backlog) {
        (true, _) => paint(BAD, "down"),
        (false, 0) => paint(GOOD, "all delivered"),
        (false, _) => "delivering".to_owned(),
    };
    lines.line(format!("{}  {state}", Visible::new(&sink.name)));
    lines.field("told", kinds(sink).join(", "));
    lines.field("waiting", sink.backlog).field("dead letters", sink.dead_letters);
    let when = |at: &Option<prost_types::Timestamp>| match at {
        Some(_) => relative(at.as_ref()),
        None => "never since the server started".to_owned(),
    };
    lines.field("last delivered", when(&sink.last_delivered_at));
    if sink.last_failed_at.is_some() {
        lines.field("last failed", when(&sink.last_failed_at)).shown("because", &sink.last_error);
    }
    lines.finish()
}

fn human_letter(letter: &DeadLetter) -> String {
    let at = rfc3339(letter.happened_at.as_ref()).unwrap_or_else(|| "-".to_owned());
    format!(
        "{}  {at}  {:<13} {}  {}, {}: {}",
        Visible::new(&letter.notification_id),
        kind(letter.kind()),
        Visible::new(if letter.review_id.is_empty() { &letter.approval_id } else { &letter.review_id }),
        Visible::new(&letter.sink),
        text::count(letter.attempts, "attempt", "attempts"),
        Visible::new(&letter.error),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_one_line_whatever_it_holds() {
        let letter =
            DeadLetter { error: "answered\n\x1b[2J".to_owned(), sink: "a\nb".to_owned(), ..DeadLetter::default() };
        let line = human_letter(&letter);
        assert!(!line.contains('\n') && !line.contains('\x1b'), "{line}");
    }
}
