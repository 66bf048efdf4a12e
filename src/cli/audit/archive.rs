//! `countersign audit archive` and `countersign audit prune`: a copy of the beginning of the log, and its end in the store.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use countersign::client::Client;
use countersign::proto::{
    GetCheckpointRequest, ListRecordsRequest, PruneLogRequest, PruneLogResponse, SearchRecordsRequest,
};
use countersign::tlog::{Archive, ArchiveError};
use countersign_audit::{Checkpoint, NoteVerifier, SignedCheckpoint};
use countersign_core::visible::Visible;
use countersign_engine::Prune;
use serde_json::json;

use crate::cli::Failure;
use crate::cli::args::{Connection, parse_time};
use crate::cli::output::{GOOD, Output, paint};
use crate::cli::text::{Lines, count};
use crate::cli::tilecheck::check_tiles;

/// The most records of one page.
const PAGE: i32 = 1_000;

pub const ARCHIVE_EXAMPLES: &str = "\
The copy is a directory of tiles (C2SP tlog-tiles) with a head of its own, as a server publishes them: `countersign audit verify \
--tiles DIR` checks it, and any static file server serves it. Give the same directory the next time, and what came since is added.

Examples:
  countersign audit archive --before 2026-01-01 --to /archive/acme --log-key @log.pub";

pub const PRUNE_EXAMPLES: &str = "\
Only where the server's configuration has `log.keep_days`, and none that is younger; and whole 1,024s only. Their hashes stay: that \
something stood there, and what, is proved to whoever has the copy. It cannot be undone.

Examples:
  countersign audit prune --before 2026-01-01 --archive /archive/acme --log-key @log.pub --dry-run
  countersign audit prune --before 2026-01-01 --archive /archive/acme --log-key @log.pub";

/// What to copy, and where to.
#[derive(Debug, Args)]
pub struct ArchiveArgs {
    /// Copy what was recorded before this: a day in UTC (`2026-01-01`), or a time in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: jiff::Timestamp,
    /// The directory; one that has a copy already is continued
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The log's key (`name+id+key`, or `@FILE`), from a channel of your own
    #[arg(long, value_name = "KEY")]
    log_key: Option<String>,
}

/// What to drop.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Drop what was recorded before this: a day in UTC (`2026-01-01`), or a time in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: jiff::Timestamp,
    /// The directory with the copy, all of which is checked first
    #[arg(long, value_name = "DIR", required_unless_present = "without_copy")]
    archive: Option<PathBuf>,
    /// What the record is to say of where the copy is; without, the directory as it was given
    #[arg(long, value_name = "TEXT", requires = "archive")]
    archive_name: Option<String>,
    /// Keep no copy: nobody will ever read these records again
    #[arg(long, conflicts_with = "archive")]
    without_copy: bool,
    /// Say what would be dropped, and drop nothing; whether the server lets it (`log.keep_days`) is not asked
    #[arg(long)]
    dry_run: bool,
    /// The log's key (`name+id+key`, or `@FILE`), from a channel of your own
    #[arg(long, value_name = "KEY")]
    log_key: Option<String>,
}

/// How a log stands when its beginning is to be copied or dropped.
struct Standing {
    key: NoteVerifier,
    /// The first record that the server has.
    minimum: u64,
    /// The first record that is not before the time, down to whole 1,024s.
    boundary: u64,
}

/// A head, as it was signed.
struct Head {
    signed: SignedCheckpoint,
    checkpoint: Checkpoint,
}

/// Copies.
pub async fn archive(args: ArchiveArgs, connection: &Connection, output: &mut Output) -> Result<(), Failure> {
    let client = connection.client().await?;
    let Standing { key, minimum, boundary } = standing(&client, args.log_key.as_deref(), args.before).await?;
    let dir = args.to;
    let unusable =
        |error: ArchiveError| Failure::new(format!("`{}`: {error}", dir.display())).reason("ARCHIVE_REFUSED");
    let mut archive = Archive::open(dir.clone(), &key).map_err(unusable)?;
    let from = archive.size();
    if from == 0 && boundary == 0 {
        let json = json!({"archive": dir, "added": 0, "records": 0});
        return output.document(&json, "nothing was recorded before that, in whole 1,024s: there is nothing to copy");
    }
    if from < minimum && from < boundary {
        let problem =
            format!("`{}` has {from} records, and those from there to before {minimum} were dropped", dir.display());
        return Err(Failure::new(problem).reason("RECORD_PRUNED").hint(
            "name the directory that they were copied to; without them there is no copy that begins with the first",
        ));
    }
    if from < boundary {
        let mut next = from;
        while next < boundary {
            let page_size = i32::try_from(boundary.saturating_sub(next)).unwrap_or(PAGE).min(PAGE);
            let request = ListRecordsRequest { start: next, page_size, page_token: String::new() };
            let page = client.list_records(request).await?.records;
            if page.first().is_none_or(|record| record.index != next) {
                return Err(Failure::new(format!("the server does not give record {next}")).reason("LOG_BROKEN"));
            }
            for record in page.into_iter().take_while(|record| record.index < boundary) {
                archive.push(Bytes::from(record.content)).map_err(unusable)?;
            }
            next = archive.size();
            output.progress(&format!("{} of {} records", next.saturating_sub(from), boundary.saturating_sub(from)));
        }
        let head = head_at(&client, boundary, &key).await?;
        if *head.checkpoint.root() != archive.root() {
            return Err(Failure::new("the records that the server gave are not those of the head that it signs")
                .reason("LOG_BROKEN")
                .hint("keep what was copied, and check the log with `countersign audit verify`"));
        }
        archive.finish(&head.signed).map_err(unusable)?;
    }
    let (report, newest) = checked(&dir, &key, None, output)?;
    let added = boundary.saturating_sub(from);
    let json = json!({"archive": dir, "added": added, "records": report, "root": newest.root(), "origin": key.name()});
    let mut text = Lines::default();
    text.line(match added {
        0 => format!("{} nothing more was recorded before that, in whole 1,024s", paint(GOOD.bold(), "copied:")),
        added => format!("{} {}", paint(GOOD.bold(), "copied:"), count(added, "record", "records")),
    });
    text.field("archive", Visible::new(&dir.display().to_string()))
        .field("records", report)
        .field("root", newest.root());
    output.document(&json, &text.finish())
}

/// Drops.
pub async fn prune(args: PruneArgs, connection: &Connection, output: &mut Output) -> Result<(), Failure> {
    let client = connection.client().await?;
    let Standing { key, minimum, boundary } = standing(&client, args.log_key.as_deref(), args.before).await?;
    if boundary <= minimum {
        let json = json!({"dropped": 0, "minimum_index": minimum});
        return output.document(&json, "nothing that is kept was recorded before that, in whole 1,024s");
    }
    let head = head_at(&client, boundary, &key).await?;
    if let Some(dir) = &args.archive {
        let (records, _) = checked(dir, &key, Some(&head.signed), output)?;
        if records < boundary {
            let problem =
                format!("the copy in `{}` has {records} records, and {boundary} would be dropped", dir.display());
            return Err(Failure::new(problem)
                .reason("ARCHIVE_REFUSED")
                .hint("copy the rest first, with `countersign audit archive` and the same `--before`"));
        }
    }
    let dropped = boundary.saturating_sub(minimum);
    let what = format!("{}, from {minimum} to before {boundary}", count(dropped, "record", "records"));
    if args.dry_run {
        let json = json!({"dry_run": true, "dropped": dropped, "from": minimum, "minimum_index": boundary, "root": head.checkpoint.root()});
        return output.document(&json, &format!("would drop {what}"));
    }
    let directory = args.archive.as_ref().map(|dir| dir.display().to_string());
    let request = PruneLogRequest {
        minimum_index: boundary,
        root: head.checkpoint.root().as_bytes().to_vec(),
        archive: args.archive_name.or(directory),
        request_id: String::new(),
    };
    let PruneLogResponse { from, minimum_index, replayed: _ } = client.prune_log(request).await?;
    let root = head.checkpoint.root();
    let json = json!({"dropped": minimum_index.saturating_sub(from), "from": from, "minimum_index": minimum_index, "root": root});
    let mut text = Lines::default();
    text.line(format!("{} {what}", paint(GOOD.bold(), "dropped")));
    text.field("first kept", minimum_index).field("root before", root);
    output.document(&json, &text.finish())
}

/// Where the log ends by itself, and where by the time.
async fn standing(client: &Client, log_key: Option<&str>, before: jiff::Timestamp) -> Result<Standing, Failure> {
    let answer = client.get_checkpoint(GetCheckpointRequest::default()).await?;
    let key = match super::key(log_key)? {
        Some(key) => key,
        None => answer.verifier_key.parse().map_err(|error| Failure::new(format!("the server's log key: {error}")))?,
    };
    let from = Some(prost_types::Timestamp { seconds: before.as_second(), nanos: before.subsec_nanosecond() });
    let search = SearchRecordsRequest { from, oldest_first: true, page_size: 1, ..SearchRecordsRequest::default() };
    let mut first = None;
    super::search::each(client, &search, 1, |record| {
        first = Some(record.index);
        Ok(())
    })
    .await?;
    let end = first.unwrap_or(answer.tree_size);
    Ok(Standing { key, minimum: answer.minimum_index, boundary: end - end % Prune::STEP })
}

async fn head_at(client: &Client, size: u64, key: &NoteVerifier) -> Result<Head, Failure> {
    let note = client.get_checkpoint(GetCheckpointRequest { published: false, tree_size: size }).await?.note;
    let checkpoint = crate::cli::logcheck::head(&note, key)?;
    if checkpoint.size() != size {
        return Err(Failure::new(format!(
            "the server signs a head of {} records for one of {size}",
            checkpoint.size()
        ))
        .reason("CHECKPOINT_REFUSED"));
    }
    let signed = SignedCheckpoint::parse(note.as_bytes());
    let signed = signed.map_err(|error| Failure::new(format!("the server's checkpoint: {error}")))?;
    Ok(Head { signed, checkpoint })
}

/// Reads all of a copy back, and answers how many records it has. With `older`, it must begin with that head.
fn checked(
    dir: &Path,
    key: &NoteVerifier,
    older: Option<&SignedCheckpoint>,
    output: &mut Output,
) -> Result<(u64, Checkpoint), Failure> {
    let note = countersign::tlog::TileDirectory::new(dir.to_owned()).checkpoint();
    let note = note.map_err(|error| Failure::new(format!("cannot read `{}`: {error}", dir.display())))?;
    let note = note.ok_or_else(|| {
        Failure::new(format!("there is no copy in `{}`", dir.display()))
            .reason("ARCHIVE_REFUSED")
            .hint("make one with `countersign audit archive`")
    })?;
    let newest = crate::cli::logcheck::head(&String::from_utf8_lossy(&note), key)?;
    // A head beyond the copy is not its fault: whoever asks compares the sizes.
    let older = older.filter(|older| older.unverified().size() <= newest.size());
    let notes: Vec<String> = older.iter().map(ToString::to_string).collect();
    let progress = |done: u64, of: u64| output.progress(&format!("checked {done} of {of} records"));
    let report = check_tiles(dir, key, &[], &notes, progress)?;
    let (records, whole) = (report.records, report.minimum_index == 0);
    report.into_result()?;
    if !whole {
        return Err(Failure::new(format!("`{}` has not all of the records", dir.display())).reason("ARCHIVE_REFUSED"));
    }
    Ok((records, newest))
}
