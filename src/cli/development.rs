//! Development servers: their credentials (`countersign dev`), and where they keep their data.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
pub use countersign::identity::DevIssuer;
use countersign_core::Clock as _;
use countersign_core::time::SystemClock;

use super::args::parse_duration;
use super::output::Output;
use super::{Exit, Failure};

/// Where a development server keeps its data unless told otherwise.
pub const DEV_DATA_DIR: &str = "data/dev";
/// The bundle of a development server unless told otherwise.
pub const EXAMPLE_BUNDLE: &str = "policies/ai-platform";

#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Print a credential of a development server
    #[command(after_help = "Examples:\n  countersign dev token olivia\n  \
                            countersign dev token agent:etl-bot --operator olivia\n  \
                            countersign dev token service:warehouse-gateway --ttl 30m")]
    Token(TokenArgs),
}

/// Whose credential.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Who: `agent:NAME`, `service:NAME`, or a person's account
    subject: String,
    /// The account of the person that the subject acts for
    #[arg(long, value_name = "ACCOUNT")]
    operator: Option<String>,
    /// Who acted before the subject, the nearest first; may be given several times
    #[arg(long, value_name = "SUBJECT", requires = "operator")]
    via: Vec<String>,
    /// How long it is good for
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "8h")]
    ttl: Duration,
    /// The development server's data directory
    #[arg(long, value_name = "DIR", env = "COUNTERSIGN_DATA_DIR", default_value = DEV_DATA_DIR)]
    data_dir: PathBuf,
}

/// Runs one of the commands.
pub fn run(command: DevCommand, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        DevCommand::Token(args) => {
            if !args.data_dir.exists() {
                output.remark(&format!(
                    "there is no server's data in `{}` yet; only one that is started on it will know this credential",
                    args.data_dir.display()
                ));
            }
            let issuer = issuer(&args.data_dir)?;
            let token = credential(&issuer, &args.subject, args.operator.as_deref(), &args.via, args.ttl)?;
            output.document(&serde_json::json!({"token": token}), &token)?;
            Ok(Exit::Done)
        }
    }
}

/// The development issuer of a data directory.
pub fn issuer(data_dir: &Path) -> Result<DevIssuer, Failure> {
    DevIssuer::open_or_create(data_dir).map_err(|error| Failure::new(error.to_string()))
}

/// A credential from now on.
pub fn credential(
    issuer: &DevIssuer,
    subject: &str,
    operator: Option<&str>,
    via: &[String],
    ttl: Duration,
) -> Result<String, Failure> {
    let via: Vec<&str> = via.iter().map(String::as_str).collect();
    issuer
        .token(subject, operator, &via, SystemClock::default().wall(), ttl)
        .map_err(|error| Failure::new(error.to_string()))
}
