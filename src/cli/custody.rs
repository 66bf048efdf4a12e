//! `countersign init`, `backup` and `restore`.

use std::path::PathBuf;

use clap::Args;
use countersign::config::{Config, Overrides};
use countersign::proto::{CreateBackupRequest, CreateBackupResponse};
use countersign::wiring::{self, Restored, WiringError};
use countersign_core::visible::Visible;
use serde_json::json;

use super::args::Connection;
use super::output::{GOOD, Output, paint};
use super::text::{self, Lines};
use super::{Exit, Failure};

pub const INIT_EXAMPLES: &str = "\
Makes the store, the keys of every tenant, and the head that is kept outside. `countersign serve` never makes a store in production: one \
that is not there was lost, or the directory is a wrong one.

Examples:
  countersign init --config /etc/countersign.toml
  countersign init --config /etc/countersign.toml --begin-head";
pub const BACKUP_EXAMPLES: &str = "\
The server writes it, while it serves, into the directory that its configuration names as `backup.directory`. Key files are in it only \
where they are encrypted.

Examples:
  countersign backup 2026-08-01
  countersign backup nightly-17 --json";
pub const RESTORE_EXAMPLES: &str = "\
Into a data directory that is empty, while no server runs. Every session is ended, every approval request is void, every token is dead, \
and a new key mints.

Examples:
  countersign restore /backups/countersign/2026-08-01 --config /etc/countersign.toml
  countersign restore /mnt/old-data-dir --config /etc/countersign.toml --keys /mnt/old-keys";

/// A new service.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Only begin the head that is kept outside, for a store that is there and had none so far
    #[arg(long)]
    begin_head: bool,
    #[command(flatten)]
    overrides: Overrides,
}

/// A backup to make.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// What it is called: letters, digits, `-`, `_` and `.`
    name: String,
}

/// A copy to restore.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A backup, or the data directory of a server that has ended
    from: PathBuf,
    /// The directory with the key files of every tenant, where they are not in the copy
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

fn config(overrides: &Overrides) -> Result<Config, Failure> {
    Config::load(None, overrides).map_err(|error| Failure::new(error.to_string()).reason("CONFIGURATION"))
}

fn failed(error: &WiringError) -> Failure {
    Failure::new(error.to_string())
}

/// Makes the data directory of a new service.
pub async fn init(args: InitArgs, output: &mut Output) -> Result<Exit, Failure> {
    let config = config(&args.overrides)?;
    wiring::init(&config, args.begin_head).await.map_err(|error| failed(&error))?;
    let dir = &config.server.data_dir;
    let kept = config.head.file.is_some() || config.head.command.is_some();
    let human = if args.begin_head {
        "the head that is kept outside is begun".to_owned()
    } else {
        let head = if kept { ", and the head that is kept outside" } else { "; no head is kept outside of it" };
        format!("{} {}{head}", paint(GOOD.bold(), "made"), Visible::new(&dir.display().to_string()))
    };
    output.document(&json!({"data_dir": dir, "head": kept}), &human)?;
    Ok(Exit::Done)
}

/// Has the server make a backup.
pub async fn backup(args: BackupArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let request = CreateBackupRequest { name: args.name, request_id: String::new() };
    let CreateBackupResponse { path, revision, keys, replayed: _ } =
        connection.client().await?.create_backup(request).await?;
    let mut text = Lines::default();
    text.line(paint(GOOD.bold(), "backed up"));
    text.field("path", Visible::new(&path)).field("revision", revision);
    text.field("keys", if keys { "in it, encrypted" } else { "not in it; keep a copy of the key files elsewhere" });
    output.document(&json!({"path": path, "revision": revision, "keys": keys}), &text.finish())?;
    Ok(Exit::Done)
}

/// Restores a copy.
pub async fn restore(args: RestoreArgs, output: &mut Output) -> Result<Exit, Failure> {
    let config = config(&args.overrides)?;
    let restored = wiring::restore(&config, &args.from, args.keys.as_deref()).await.map_err(|error| failed(&error))?;
    let Restored { epoch, revision, acknowledged, sessions } = restored;
    let lost = acknowledged.map(|acknowledged| acknowledged.saturating_sub(revision));
    let mut text = Lines::default();
    text.line(paint(GOOD.bold(), "restored"));
    text.field("epoch", epoch).field("revision", revision);
    text.field("ended", text::count(sessions, "session", "sessions"));
    let what_is_lost = match lost {
        Some(0) => "nothing, says the head that is kept outside".to_owned(),
        Some(lost) => {
            format!("what {} did, says the head that is kept outside", text::count(lost, "commit", "commits"))
        }
        None => "whatever happened after the copy was made; no head outside says what".to_owned(),
    };
    text.field("lost", what_is_lost);
    text.line("every token, approval and session of before is dead; what people were put into or taken out of since the copy is not known");
    let json = json!({"epoch": epoch, "revision": revision, "acknowledged": acknowledged, "sessions": sessions});
    output.document(&json, &text.finish())?;
    Ok(Exit::Done)
}
