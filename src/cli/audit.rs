//! `countersign audit`.

mod archive;
mod export;
mod questions;
mod report;
pub mod search;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use countersign::client::Client;
use countersign::proto::{ErrorReason, GetCheckpointRequest, GetInclusionProofRequest, ListRecordsRequest, Record};
use countersign_audit::{CosignatureVerifier, Hash, NoteVerifier, leaf_hash, verify_inclusion};
use countersign_core::visible::Visible;
use serde_json::json;

use super::args::{Connection, read_secret};
use super::logcheck::{LogCheck, Report, Stored, check_server, head, server_head};
use super::output::{FAINT, GOOD, Output, STRONG, paint};
use super::recorded::Stopped;
use super::text::Lines;
use super::tilecheck::check_tiles;
use super::when::rfc3339;
use super::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List records, in the order of the log
    #[command(
        after_help = "Examples:\n  countersign audit list\n  countersign audit list --start 100 --kind redeem --json"
    )]
    List(ListArgs),
    /// Search the records that are about somebody or something, or of a time, the newest first
    #[command(after_help = search::EXAMPLES)]
    Search(Box<search::SearchArgs>),
    /// Ask what auditors ask
    #[command(subcommand)]
    Questions(questions::Question),
    /// Check every record against the signed head of the log, and say where it differs
    #[command(after_help = "Examples:\n  countersign audit verify\n  countersign audit verify --data-dir data/dev\n  \
                            countersign audit verify --log-key @log.pub --since yesterday.checkpoint\n  \
                            countersign audit verify --tiles /srv/tiles/acme --log-key @log.pub --witness-key @w1.pub")]
    Verify(VerifyArgs),
    /// Copy the beginning of the log into a directory of tiles, before it is dropped
    #[command(after_help = archive::ARCHIVE_EXAMPLES)]
    Archive(archive::ArchiveArgs),
    /// Drop the beginning of the log, which was copied
    #[command(after_help = archive::PRUNE_EXAMPLES)]
    Prune(archive::PruneArgs),
    /// Print the signed head of the log, to be kept elsewhere
    #[command(after_help = "Examples:\n  countersign audit checkpoint > today.checkpoint\n  \
                            countersign audit checkpoint --published")]
    Checkpoint {
        /// The head that was published last, with what witnesses say of it
        #[arg(long)]
        published: bool,
        /// The head that the log had when it had so many records
        #[arg(long, value_name = "N", conflicts_with = "published", value_parser = clap::value_parser!(u64).range(1..))]
        size: Option<u64>,
    },
    /// Prove that a record is in the log
    #[command(after_help = "Examples:\n  countersign audit prove 42\n  countersign audit prove 42 --json > proof.json")]
    Prove {
        /// The record's index, from 0
        index: u64,
        /// The log's key (`name+id+key`, or `@FILE`), from a channel of your own
        #[arg(long, value_name = "KEY")]
        log_key: Option<String>,
    },
    /// Export the log, each record once, as OCSF events or OpenTelemetry logs: to a file, standard output or a receiver
    #[command(after_help = "Examples:\n  countersign audit export --format ocsf --to audit.ndjson\n  \
                      countersign audit export --format otel --to https://collector.example.com --cursor otel.cursor --follow")]
    Export(export::ExportArgs),
    /// Count what happened in a period: decisions, approvals, broken glass, outcomes, revocations and changes
    #[command(after_help = "Examples:\n  countersign audit report --from 2026-10-01 --to 2026-11-01\n  \
                      countersign audit report --from 2026-10-01 --to 2026-11-01 --html october.html")]
    Report(report::ReportArgs),
}

/// How often is told how far a check is.
const PROGRESS: Duration = Duration::from_millis(200);

/// The kinds of records (docs/records.md).
const KINDS: [&str; 30] = [
    "access",
    "approval_cancelled",
    "approval_escalated",
    "approval_excluded",
    "approval_requested",
    "approval_void",
    "backed_up",
    "bundle_activated",
    "bundle_signed",
    "complete",
    "cool_down_lift",
    "decision",
    "delegated",
    "entities_changed",
    "key",
    "log_pruned",
    "notification_dropped",
    "notification_retried",
    "outcome_resolved",
    "redeem",
    "refusal",
    "refusals",
    "restored",
    "review_closed",
    "revocation",
    "revoke",
    "session_ended",
    "session_opened",
    "vote",
    "vote_withdrawn",
];

/// Which records.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The first index; without, the first record that is kept
    #[arg(long, value_name = "INDEX")]
    start: Option<u64>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Only records of this kind; docs/records.md describes each
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    kind: Option<String>,
    /// Print the contents too
    #[arg(long)]
    full: bool,
}

/// What to check, and against what.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The data directory of a server that is not running, instead of a running server
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A directory of tiles (C2SP tlog-tiles), as a server publishes it or somebody copied it, instead of a running server
    #[arg(long, value_name = "DIR", conflicts_with = "data_dir", requires = "log_key")]
    tiles: Option<PathBuf>,
    /// The key of a witness that must have cosigned the checkpoint beside the tiles; may be given several times
    #[arg(long, value_name = "KEY", requires = "tiles")]
    witness_key: Vec<String>,
    /// The log's key (`name+id+key`, or `@FILE`), from a channel of your own
    #[arg(long, value_name = "KEY")]
    log_key: Option<String>,
    /// A copy of the records that were dropped (`countersign audit archive`), to be checked with the rest
    #[arg(long, value_name = "DIR", conflicts_with = "tiles")]
    archive: Option<PathBuf>,
    /// An older checkpoint that the log must continue; may be given several times
    #[arg(long, value_name = "FILE")]
    since: Vec<PathBuf>,
}

/// Runs one of the commands.
pub async fn run(command: AuditCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        AuditCommand::List(args) => list(args, &connection.client().await?, output).await?,
        AuditCommand::Search(args) => search::run(&args, &connection.client().await?, output).await?,
        AuditCommand::Questions(question) => {
            questions::run(question, &connection.client().await?, output).await?;
        }
        AuditCommand::Verify(args) => verify(args, connection, output).await?,
        AuditCommand::Checkpoint { published, size } => {
            let answer = connection
                .client()
                .await?
                .get_checkpoint(GetCheckpointRequest { published, tree_size: size.unwrap_or(0) })
                .await?;
            let json = json!({"note": answer.note, "verifier_key": answer.verifier_key, "tree_size": answer.tree_size});
            // Exactly as it was signed, except for what could act on a terminal, which no checkpoint has.
            output.document(&json, &super::output::harmless(&answer.note))?;
        }
        AuditCommand::Archive(args) => archive::archive(args, connection, output).await?,
        AuditCommand::Prune(args) => archive::prune(args, connection, output).await?,
        AuditCommand::Report(args) => report::run(args, connection, output).await?,
        AuditCommand::Export(args) => export::run(args, connection, output).await?,
        AuditCommand::Prove { index, log_key } => prove(index, log_key, &connection.client().await?, output).await?,
    }
    Ok(Exit::Done)
}

fn key(text: Option<&str>) -> Result<Option<NoteVerifier>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let key = read_secret(text, "log-key")?.parse();
    key.map(Some).map_err(|error| Failure::usage(format!("`--log-key`: {error}")))
}

async fn verify(args: VerifyArgs, connection: &Connection, output: &mut Output) -> Result<(), Failure> {
    let key = key(args.log_key.as_deref())?;
    let mut notes = Vec::new();
    for path in &args.since {
        let note = std::fs::read_to_string(path);
        notes.push(note.map_err(|error| Failure::new(format!("cannot read `{}`: {error}", path.display())))?);
    }
    let reports = match (&args.data_dir, &args.tiles) {
        (Some(dir), _) => check_directory(dir, key.as_ref(), &notes, args.archive.as_deref(), output)?,
        (None, Some(dir)) => {
            let key = key.ok_or_else(|| Failure::usage("give `--log-key`: what lies beside tiles proves nothing"))?;
            let witnesses = args.witness_key.iter().map(|text| witness_key(text)).collect::<Result<Vec<_>, _>>()?;
            let progress = |done: u64, of: u64| output.progress(&format!("{done} of {of} records"));
            vec![check_tiles(dir, &key, &witnesses, &notes, progress)?]
        }
        (None, None) => {
            let client = connection.client().await?;
            let progress = |done: u64, of: u64| output.progress(&format!("{done} of {of} records"));
            vec![check_server(&client, key, &notes, args.archive.as_deref(), progress).await?]
        }
    };
    for report in &reports {
        output.item(&report.to_json(), &report.to_human())?;
    }
    reports.into_iter().try_for_each(Report::into_result)
}

/// Checks every log of a data directory: records, stored nodes and signed heads.
fn check_directory(
    dir: &Path,
    key: Option<&NoteVerifier>,
    notes: &[String],
    archive: Option<&Path>,
    output: &mut Output,
) -> Result<Vec<Report>, Failure> {
    let unreadable =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot read the log in `{}`: {error}", dir.display()));
    let mut reports = Vec::new();
    for log in countersign::wiring::offline_logs(dir).map_err(|error| unreadable(&error))? {
        let key_unproven = key.is_none();
        let key = key.cloned().unwrap_or_else(|| log.verifier().clone());
        let mut heads = Vec::new();
        for note in log.checkpoint().into_iter().chain(notes.iter().map(String::as_str)) {
            heads.push(head(note, &key)?);
        }
        let minimum = log.minimum_index().map_err(|error| unreadable(&error))?;
        let mut said = Instant::now();
        let mut check = match archive {
            Some(archive) => {
                let mut check = LogCheck::new(heads);
                check.archived(archive, minimum, |index| output.progress(&format!("{index} records")))?;
                check
            }
            None => {
                let edge = log.edge(minimum).map_err(|error| unreadable(&error))?;
                let (older, newer): (Vec<_>, Vec<_>) = heads.into_iter().partition(|head| head.size() < minimum);
                let mut check = LogCheck::after(edge.clone(), newer);
                for old in older {
                    check.older_stored(&old, &edge, |id| log.node(id).map_err(|error| unreadable(&error)))?;
                }
                check
            }
        };
        log.read(minimum, |index, content, nodes| {
            let mut look = |id| nodes.get(id).map_err(|error| unreadable(&error));
            check.record(index, content, Stored::Nodes(&mut look))?;
            if index.is_multiple_of(1_024) && said.elapsed() >= PROGRESS {
                said = Instant::now();
                output.progress(&format!("{index} records"));
            }
            Ok(())
        })
        .map_err(|error: Stopped| match error {
            Stopped::Taking(failure) => failure,
            Stopped::Store(error) => unreadable(&error),
            Stopped::Copy(error) => unreadable(&error),
        })?;
        reports.push(check.finish(key.name(), key_unproven));
    }
    if reports.is_empty() {
        return Err(Failure::new(format!("`{}` holds no log; name a server's data directory", dir.display())));
    }
    Ok(reports)
}

fn witness_key(text: &str) -> Result<CosignatureVerifier, Failure> {
    let key = read_secret(text, "witness-key")?.parse();
    key.map_err(|error| Failure::usage(format!("`--witness-key`: {error}")))
}

async fn list(args: ListArgs, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let mut left = args.limit;
    let start = match args.start {
        Some(start) => start,
        None => super::recorded::first_kept(client, 0, output).await?,
    };
    let mut request = ListRecordsRequest { start, ..ListRecordsRequest::default() };
    while left > 0 {
        let page = client.list_records(request).await?;
        let mut wanted =
            page.records.iter().filter(|record| args.kind.as_ref().is_none_or(|kind| *kind == record.kind)).peekable();
        let mut next = start;
        for record in wanted.by_ref().take(left) {
            output.item(&super::json::record(record), &line(record, args.full))?;
            left -= 1;
            next = record.index.saturating_add(1);
        }
        let last_page = page.next_page_token.is_empty();
        if left == 0 && (wanted.peek().is_some() || !last_page) {
            output.remark(&format!("there is more; go on with `--start {next}`, or give a larger `--limit`"));
        }
        if last_page {
            return Ok(());
        }
        request = ListRecordsRequest { page_token: page.next_page_token, ..ListRecordsRequest::default() };
    }
    Ok(())
}

fn line(record: &Record, full: bool) -> String {
    let time = rfc3339(record.recorded_at.as_ref()).unwrap_or_else(|| "-".to_owned());
    let hash: String = record.leaf_hash.chars().take(16).collect();
    let mut line = format!(
        "{:>8}  {time}  {:<20} {}",
        record.index,
        paint(STRONG, Visible::new(&record.kind)),
        paint(FAINT, Visible::new(&hash))
    );
    if full {
        line.push_str(&format!("\n          {}", Visible::new(&String::from_utf8_lossy(&record.content))));
    }
    line
}

async fn prove(index: u64, log_key: Option<String>, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let (checkpoint, key) = server_head(client, key(log_key.as_deref())?).await?;
    let request = ListRecordsRequest { start: index, page_size: 1, page_token: String::new() };
    // Of one that was dropped the leaf hash is left, and proved.
    let record = match client.list_records(request).await {
        Ok(page) => {
            let record = page.records.into_iter().find(|record| record.index == index);
            Some(record.ok_or_else(|| Failure::new(format!("record {index} is not in the log")).reason("NOT_IN_LOG"))?)
        }
        Err(error) if super::recorded::is(&error, ErrorReason::RecordPruned) => None,
        Err(error) => return Err(error.into()),
    };
    let request = GetInclusionProofRequest { index, tree_size: checkpoint.size() };
    let proof = client.get_inclusion_proof(request).await?;
    let hashes: Result<Vec<Hash>, _> = proof.hashes.iter().map(|hash| Hash::try_from(hash.as_slice())).collect();
    let hashes = hashes.map_err(|error| Failure::new(format!("the proof is malformed: {error}")))?;
    let leaf = match &record {
        Some(record) => leaf_hash(&record.content),
        None => Hash::try_from(proof.leaf_hash.as_slice())
            .map_err(|error| Failure::new(format!("the proof is malformed: {error}")))?,
    };
    verify_inclusion(&leaf, index, checkpoint.size(), &hashes, checkpoint.root())
        .map_err(|error| Failure::new(format!("record {index} is not proved: {error}")).reason("LOG_BROKEN"))?;
    let json = json!({
        "ok": true,
        "index": index,
        "leaf_hash": leaf,
        "hashes": hashes,
        "tree_size": checkpoint.size(),
        "root": checkpoint.root(),
        "origin": key.name(),
        "record": record.as_ref().map(super::json::record),
    });
    let mut text = Lines::default();
    text.line(format!(
        "{} record {index} is in the log of {} records",
        paint(GOOD.bold(), "proved:"),
        checkpoint.size()
    ));
    match &record {
        Some(record) => text.shown("kind", &record.kind),
        None => text.field("kind", "not known: it was dropped, and only its hash is left"),
    };
    text.field("leaf hash", leaf).field("root", checkpoint.root());
    for hash in &hashes {
        text.field("", hash);
    }
    output.document(&json, &text.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_it_holds() {
        let record = Record {
            index: 7,
            kind: "redeem\n".into(),
            content: b"{\"a\":\"\x1b[2J\"}".to_vec(),
            leaf_hash: "0".repeat(64),
            ..Record::default()
        };
        assert!(!line(&record, false).contains('\n'));
        let full = anstream::adapter::strip_str(&line(&record, true)).to_string();
        assert!(full.contains("\\u{1b}[2J"), "{full}");
    }

    #[test]
    fn a_log_key_is_read_strictly() {
        assert!(key(None).unwrap().is_none());
        assert_eq!(key(Some("nonsense")).unwrap_err().exit(), Exit::Usage);
    }
}
