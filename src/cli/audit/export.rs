//! `countersign audit export`: the log in the forms that others read, each record once, and none that is not proved.

mod chain;
mod cursor;
mod file;
mod http;
mod kind;
mod ocsf;
mod otel;
mod told;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use countersign::client::Client;
use countersign::proto::{ListRecordsRequest, Record};
use countersign_audit::{Checkpoint, NoteVerifier};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::key;
use crate::cli::Failure;
use crate::cli::args::Connection;
use crate::cli::logcheck::server_head;
use crate::cli::output::Output;
use chain::Chain;
use cursor::Cursor;
use file::Lines;
use http::Receiver;
use told::Told;

/// How often a log that grows is looked at.
const POLL: Duration = Duration::from_secs(1);
/// How long is waited for a server that is away, while following.
const AWAY: Duration = Duration::from_secs(5);

/// The form of what is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// OCSF 1.8 API Activity, one event per line
    Ocsf,
    /// OpenTelemetry logs: OTLP in JSON
    Otel,
}

impl Format {
    const fn word(self) -> &'static str {
        match self {
            Self::Ocsf => "ocsf",
            Self::Otel => "otel",
        }
    }

    /// How every line of a file begins.
    const fn line_begins(self) -> &'static str {
        match self {
            Self::Ocsf => "{\"activity_id\"",
            Self::Otel => "{\"resourceLogs\"",
        }
    }

    /// Of a batch over HTTP.
    const fn content_type(self) -> &'static str {
        match self {
            Self::Ocsf => "application/x-ndjson",
            Self::Otel => "application/json",
        }
    }

    /// One line per record.
    fn lines(self, told: &[Told], origin: &str) -> String {
        told.iter().fold(String::new(), |mut lines, one| {
            let line = match self {
                Self::Ocsf => ocsf::event(one, origin),
                Self::Otel => otel::request(std::slice::from_ref(one), origin),
            };
            lines.push_str(&line.to_string());
            lines.push('\n');
            lines
        })
    }

    /// The body of a batch over HTTP.
    fn body(self, told: &[Told], origin: &str) -> String {
        match self {
            Self::Ocsf => self.lines(told, origin),
            Self::Otel => otel::request(told, origin).to_string(),
        }
    }

    /// The log, the index and the leaf hash of a line.
    fn place(self, line: &str) -> Option<(String, u64, String)> {
        let line: Value = serde_json::from_str(line).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match self {
            Self::Ocsf => Some((
                text(line.pointer("/metadata/log_name")?)?,
                line.pointer("/metadata/sequence")?.as_u64()?,
                text(line.pointer("/unmapped/leaf_hash")?)?,
            )),
            Self::Otel => {
                let of = |attributes: &str, key: &str, kind: &str| {
                    let attributes = line.pointer(attributes)?.as_array()?;
                    let found = attributes.iter().find(|one| one.get("key").and_then(Value::as_str) == Some(key))?;
                    text(found.get("value")?.get(kind)?)
                };
                let record = "/resourceLogs/0/scopeLogs/0/logRecords/0/attributes";
                Some((
                    of("/resourceLogs/0/resource/attributes", otel::ORIGIN, "stringValue")?,
                    of(record, otel::INDEX, "intValue")?.parse().ok()?,
                    of(record, otel::LEAF, "stringValue")?,
                ))
            }
        }
    }
}

/// What to export, and where to.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The form
    #[arg(long, value_enum)]
    format: Format,
    /// A file, `-` for standard output, or the URL of a receiver; its bearer token in COUNTERSIGN_EXPORT_TOKEN
    #[arg(long, value_name = "FILE|-|URL", default_value = "-")]
    to: String,
    /// The file that keeps how far the export has come; of a file, `FILE.cursor` unless said otherwise
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    /// Go on with what is appended, until ended
    #[arg(long)]
    follow: bool,
    /// The first index, where nothing was exported yet
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    since_index: u64,
    /// At most this many records in a batch
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// The log's key (`name+id+key`, or `@FILE`), from a channel of your own
    #[arg(long, value_name = "KEY")]
    log_key: Option<String>,
    /// The certificate authority that the receiver's certificate must lead to, in PEM
    #[arg(long, value_name = "FILE")]
    receiver_ca: Option<PathBuf>,
}

/// Where records go.
enum Sink {
    Standard,
    File(Lines),
    Http(Receiver),
}

/// How often a batch is sent to a receiver, unless the log is followed.
const ATTEMPTS: u32 = 6;

impl Sink {
    fn open(args: &ExportArgs) -> Result<Self, Failure> {
        if args.to == "-" {
            return Ok(Self::Standard);
        }
        if args.to.starts_with("http://") || args.to.starts_with("https://") {
            let mut url = Url::parse(&args.to).map_err(|error| Failure::usage(format!("`--to` is no URL: {error}")))?;
            if args.format == Format::Otel && url.path() == "/" {
                url.set_path("/v1/logs");
            }
            if args.cursor.is_none() {
                return Err(Failure::usage("give `--cursor FILE`: only that says what the receiver has"));
            }
            let attempts = (!args.follow).then_some(ATTEMPTS);
            return Receiver::new(url, args.receiver_ca.as_deref(), args.format, attempts).map(Self::Http);
        }
        Lines::open(Path::new(&args.to), args.format).map(Self::File)
    }

    /// The file that keeps how far it has come.
    fn cursor(&self, args: &ExportArgs) -> Option<PathBuf> {
        match self {
            Self::Standard | Self::Http(_) => args.cursor.clone(),
            Self::File(_) => Some(args.cursor.clone().unwrap_or_else(|| PathBuf::from(format!("{}.cursor", args.to)))),
        }
    }
}

/// An export under way.
struct Export {
    client: Client,
    key: NoteVerifier,
    format: Format,
    batch: u64,
    sink: Sink,
    cursor: Cursor,
    chain: Chain,
    exported: u64,
}

/// Runs it.
pub async fn run(args: ExportArgs, connection: &Connection, output: &mut Output) -> Result<(), Failure> {
    let client = connection.client().await?;
    let (head, key) = server_head(&client, key(args.log_key.as_deref())?).await?;
    let sink = Sink::open(&args)?;
    let cursor = Cursor::load(sink.cursor(&args), key.name(), &key.to_string(), args.format)?;
    let chain = begin(&client, &args, &sink, &cursor, &key, &head).await?;
    let mut export =
        Export { client, key, format: args.format, batch: u64::from(args.batch), sink, cursor, chain, exported: 0 };
    export.up_to(&head, output).await?;
    if args.follow {
        return export.follow(output).await;
    }
    let (exported, next) = (export.exported, export.chain.size());
    match export.sink {
        Sink::Standard => output.remark(&format!("{exported} records exported; the next one is {next}")),
        Sink::File(_) | Sink::Http(_) => output.document(
            &json!({"origin": export.key.name(), "exported": exported, "next": next, "root": export.chain.root()}),
            &format!("{exported} records exported; the next one is {next}"),
        )?,
    }
    Ok(())
}

/// The log up to what was exported before. It must still be what the signed head begins with.
async fn begin(
    client: &Client,
    args: &ExportArgs,
    sink: &Sink,
    cursor: &Cursor,
    key: &NoteVerifier,
    head: &Checkpoint,
) -> Result<Chain, Failure> {
    let kept = match cursor.position() {
        Some((next, root)) => Some(Chain::at(client, next, Some(root), head).await?),
        None => None,
    };
    let last = match sink {
        Sink::File(lines) => lines.last(),
        Sink::Standard | Sink::Http(_) => None,
    };
    let Some(last) = last else {
        // A file that was moved away goes on in the next one.
        return match kept {
            Some(kept) => Ok(kept),
            None => Chain::at(client, args.since_index, None, head).await,
        };
    };
    let other = || {
        Failure::new(format!("the last line of `{}` is not of the log `{}`", args.to, key.name()))
            .hint("export into another file; nothing was written to this one")
            .reason("LOG_BROKEN")
    };
    let (origin, index, leaf) = args.format.place(last).ok_or_else(other)?;
    if origin != key.name() {
        return Err(other());
    }
    let next = index.checked_add(1).ok_or_else(other)?;
    let chain = match kept {
        Some(kept) if kept.size() == next => kept,
        Some(_) | None => Chain::at(client, next, None, head).await?,
    };
    if chain.last().map(|leaf| leaf.to_string()) == Some(leaf) { Ok(chain) } else { Err(other()) }
}

impl Export {
    /// Goes on with what is appended, until it is ended or something does not fit.
    async fn follow(&mut self, output: &mut Output) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(POLL).await;
            match self.further(output).await {
                Ok(()) => {}
                Err(failure) if failure.may_pass() => {
                    output.remark(&format!("{}; trying again", failure.message()));
                    tokio::time::sleep(AWAY).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Exports what was appended since.
    async fn further(&mut self, output: &mut Output) -> Result<(), Failure> {
        let (head, _) = server_head(&self.client, Some(self.key.clone())).await?;
        if head.size() < self.chain.size() {
            // Says that it went back.
            Chain::at(&self.client, self.chain.size(), None, &head).await?;
        }
        self.up_to(&head, output).await
    }

    async fn up_to(&mut self, head: &Checkpoint, output: &mut Output) -> Result<(), Failure> {
        while self.chain.size() < head.size() {
            let start = self.chain.size();
            let records = match self.cursor.sent_to().filter(|end| *end > start) {
                Some(end) => self.read(start, end).await?,
                None => self.read(start, head.size().min(start.saturating_add(self.batch))).await?,
            };
            let longer = self.chain.with(&self.client, records.iter().map(|r| r.content.as_slice()), head).await?;
            let end = longer.size();
            let told: Vec<Told> = records.iter().map(|record| Told::read(record.index, &record.content)).collect();
            match &mut self.sink {
                Sink::Standard => output.raw(&self.format.lines(&told, self.key.name()))?,
                Sink::File(lines) => lines.append(&self.format.lines(&told, self.key.name()))?,
                Sink::Http(receiver) => {
                    // First it is noted which batch this is: whoever dies now sends the same one again, under the same key.
                    self.cursor.keep(start, self.chain.root(), Some(end))?;
                    let batch = batch_key(self.key.name(), start, end);
                    let body = self.format.body(&told, self.key.name());
                    receiver.post(&batch, &body, |remark| output.remark(remark)).await?;
                }
            }
            self.cursor.keep(end, longer.root(), None)?;
            self.exported += end - start;
            self.chain = longer;
            output.progress(&format!("{end} of {} records", head.size()));
        }
        Ok(())
    }

    /// The records from `start` up to `end`.
    async fn read(&self, start: u64, end: u64) -> Result<Vec<Record>, Failure> {
        let mut records: Vec<Record> = Vec::new();
        let mut next = start;
        while next < end {
            let page_size = i32::try_from((end - next).min(1_000)).unwrap_or(1_000);
            let request = ListRecordsRequest { start: next, page_size, page_token: String::new() };
            let page = self.client.list_records(request).await?;
            if page.records.is_empty() {
                return Err(Failure::new(format!("the server does not give record {next}")).reason("LOG_BROKEN"));
            }
            for record in page.records.into_iter().take_while(|record| record.index < end) {
                if record.index != next {
                    let problem = format!("the server gives record {} for record {next}", record.index);
                    return Err(Failure::new(problem).reason("LOG_BROKEN"));
                }
                next += 1;
                records.push(record);
            }
        }
        Ok(records)
    }
}

/// The name of a batch: of which log, and which records. It stands between quotes in a header, where only some bytes may.
fn batch_key(origin: &str, start: u64, end: u64) -> String {
    let mut key = String::new();
    for byte in origin.bytes() {
        match byte {
            b'"' | b'\\' | b'%' => key.push_str(&format!("%{byte:02X}")),
            b'!'..=b'~' => key.push(char::from(byte)),
            _ => key.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("{key}:{start}-{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_its_record_stands() {
        let told = Told::read(41, br#"{"v":1,"at":5,"tenant":"acme","kind":"backed_up","backup":"b"}"#);
        let leaf = told.leaf.to_string();
        for format in [Format::Ocsf, Format::Otel] {
            let lines = format.lines(std::slice::from_ref(&told), "example/log");
            assert!(lines.starts_with(format.line_begins()), "{lines}");
            assert_eq!(lines.matches('\n').count(), 1);
            assert_eq!(format.place(&lines), Some(("example/log".to_owned(), 41, leaf.clone())), "{lines}");
        }
    }

    #[test]
    fn a_record_of_a_kind_of_tomorrow_is_told_too() {
        let told = Told::read(0, br#"{"v":1,"at":5,"tenant":"acme","kind":"of_tomorrow"}"#);
        let event = ocsf::event(&told, "example/log");
        assert_eq!(event["activity_id"], 99);
        assert_eq!(event["activity_name"], "of_tomorrow");
        assert_eq!(ocsf::event(&Told::read(0, b"\xff"), "example/log")["activity_name"], "unreadable");
    }

    #[test]
    fn a_batch_is_named_after_what_it_holds() {
        assert_eq!(batch_key("example.com/a \"b\"", 3, 9), "example.com/a%20%22b%22:3-9");
    }
}
