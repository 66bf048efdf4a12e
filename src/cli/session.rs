//! `countersign session`.

use std::time::Duration;

use clap::{Args, Subcommand};
use countersign::client::{ClientError, entity};
use countersign::proto::{
    EndSessionRequest, GetSessionRequest, HeartbeatRequest, ListSessionsRequest, OpenSessionRequest, Session,
};
use countersign_core::EntityRef;

use super::args::{Connection, PrincipalArgs, parse_duration, parse_entity};
use super::output::Output;
use super::when::relative;
use super::{Exit, Failure, json, text};

#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Open a session for a stated purpose
    #[command(after_help = "Examples:\n  countersign session open --purpose 'nightly load' --ttl 30m\n  \
                            countersign session open --purpose 'monthly report' --id-only\n  \
                            countersign session open --purpose 'one table of it' --parent SES --principal Agent::helper --heartbeat 30s")]
    Open(Box<OpenArgs>),
    /// Show a session
    #[command(after_help = "Examples:\n  countersign session show SES")]
    Show {
        /// The session
        session: String,
    },
    /// Say that a session with a heartbeat still runs
    #[command(after_help = "Examples:\n  countersign session beat SES")]
    Beat {
        /// The session
        session: String,
    },
    /// Keep a session with a heartbeat alive; when this command ends, the session does
    #[command(after_help = "Examples:\n  countersign session hold SES")]
    Hold {
        /// The session
        session: String,
    },
    /// End a session, with every session that was opened in it, and every capability and question in them
    #[command(after_help = "Examples:\n  countersign session end SES")]
    End {
        /// The session
        session: String,
    },
    /// List the sessions that you act in or are operator of, newest first
    #[command(after_help = "Examples:\n  countersign session list --limit 10")]
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
}

/// A session to open.
#[derive(Debug, Args)]
pub struct OpenArgs {
    /// What it is for, for the people who will be asked
    #[arg(long, value_name = "TEXT")]
    purpose: String,
    /// How long it lasts at most, such as `30m`; 1 hour unless said otherwise
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    principal: PrincipalArgs,
    /// The person that `--principal` acts for, such as `Person::olivia`
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity, requires = "principal")]
    operator: Option<EntityRef>,
    /// Let the labels of before not count in it, if a `startClean` policy permits that
    #[arg(long)]
    clean: bool,
    /// Open it in this session of yours, for the sub-agent that `--principal` names
    #[arg(long, value_name = "ID")]
    parent: Option<String>,
    /// Without a heartbeat for so long it is over, such as `30s`: see `session beat` and `session hold`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    heartbeat: Option<Duration>,
    /// Print the id alone, for scripts
    #[arg(long)]
    id_only: bool,
    /// Identifies this attempt: the same UUID gives the same answer
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
}

/// Runs one of the commands.
pub async fn run(command: SessionCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let client = connection.client().await?;
    let one = match command {
        SessionCommand::Open(args) => {
            let (principal, principal_credential) = args.principal.fields()?;
            let ttl = args.ttl.map(prost_types::Duration::try_from).transpose();
            let heartbeat = args.heartbeat.map(prost_types::Duration::try_from).transpose();
            let request = OpenSessionRequest {
                purpose: args.purpose,
                ttl: ttl.map_err(|_| Failure::usage("`--ttl` is longer than any session"))?,
                principal,
                principal_credential,
                operator: args.operator.as_ref().map(entity),
                clean: args.clean,
                request_id: args.request_id.unwrap_or_default(),
                parent_session_id: args.parent.unwrap_or_default(),
                heartbeat: heartbeat.map_err(|_| Failure::usage("`--heartbeat` is longer than any session"))?,
            };
            let session = client.open_session(request).await?.session;
            if let (true, Some(session)) = (args.id_only && !output.is_json(), &session) {
                output.human(&session.session_id)?;
                return Ok(Exit::Done);
            }
            session
        }
        SessionCommand::Show { session } => {
            client.get_session(GetSessionRequest { session_id: session }).await?.session
        }
        SessionCommand::Beat { session } => client.heartbeat(HeartbeatRequest { session_id: session }).await?.session,
        SessionCommand::Hold { session } => {
            let mut hold = client.hold_session(&session);
            let mut told = None;
            loop {
                let session = hold.next().await?;
                if output.is_json() || told.replace(session.state) != Some(session.state) {
                    output.item(&json::session(&session), &text::session(&session))?;
                }
                // People need not read each heartbeat.
                output.progress(&format!("held; last heartbeat {}", relative(session.last_heartbeat.as_ref())));
            }
        }
        SessionCommand::End { session } => {
            let request = EndSessionRequest { session_id: session, request_id: String::new() };
            client.end_session(request).await?.session
        }
        SessionCommand::List { limit } => {
            let (mut left, mut page_token) = (limit, String::new());
            while left > 0 {
                let page = client.list_sessions(ListSessionsRequest { page_size: 0, page_token }).await?;
                for session in page.sessions.iter().take(left) {
                    output.item(&json::session(session), &text::session(session))?;
                    left -= 1;
                }
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return Ok(Exit::Done);
                }
            }
            output.remark("there may be more; give a larger `--limit`");
            return Ok(Exit::Done);
        }
    };
    let session: Session = one.ok_or(ClientError::Incomplete("session"))?;
    output.document(&json::session(&session), &text::session(&session))?;
    Ok(Exit::Done)
}
