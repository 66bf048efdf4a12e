//! How long it takes to find records in a long log, by each of the fields, and to index it. docs/performance.md tells how to read it.

#[path = "../capabilities/world.rs"]
#[allow(dead_code, reason = "the other benchmark uses all of it")]
mod world;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use countersign_core::time::{Clock as _, SystemClock};
use countersign_core::{EntityRef, SessionId, TenantId, Timestamp, TokenId};
use countersign_engine::{Field, Question, entity_value};
use countersign_store::{Commit, Kernel as _};
use serde_json::json;

use world::{World, call};

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measures searches of the log
#[derive(Debug, Parser)]
#[command(name = "make bench-questions BENCH=…")]
struct Args {
    /// The records of the log
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    rows: u64,
    /// Where the store is made, in a directory of its own that is deleted afterwards
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the figures to a file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`; means nothing here
    #[arg(long, hide = true)]
    bench: bool,
}

/// How many records a commit has where the log is filled, and how many commits wait at once.
const FILL: u64 = 60;
const GROUP: usize = 32;
/// How often each search is made, and how many records a page has.
const TURNS: usize = 20;
const PAGE: usize = 100;
/// The record that is found by what no other has.
const ONCE: u64 = 4_321;
/// What a first page may take.
const TARGET_MILLIS: f64 = 50.0;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut out = std::io::stdout();
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }?;
    let world = World::open(dir.path()).await?;
    let start = SystemClock::default().wall();
    fill(&world, args.rows, start).await?;
    let begun = Instant::now();
    world.engine.index_log(false).await?;
    let indexing = begun.elapsed();
    #[allow(clippy::cast_precision_loss, reason = "a rate is a double")]
    let rate = args.rows as f64 / indexing.as_secs_f64();
    writeln!(out, "indexing {} records: {:.1} s, {rate:.0} records/s", args.rows, indexing.as_secs_f64())?;
    writeln!(out, "the first page of {PAGE}; the target is {TARGET_MILLIS:.0} ms at most")?;
    let mut figures = Vec::new();
    let mut worst = 0.0_f64;
    for (name, question) in questions(args.rows, start)? {
        for oldest_first in [false, true] {
            let question = Question { oldest_first, ..question.clone() };
            let (mut times, mut found, mut ended) = (Vec::new(), 0, false);
            for _ in 0..TURNS {
                let begun = Instant::now();
                let answers = world.engine.search(&call("SearchRecords")?, &question, None, PAGE).await?;
                times.push(begun.elapsed());
                (found, ended) = (answers.records.len(), answers.next.is_none());
            }
            let cold = times.first().copied().unwrap_or_default();
            times.sort_unstable();
            let at = |part: usize| millis(times.get(times.len() * part / 100).copied().unwrap_or_default());
            worst = worst.max(at(99));
            let order = if oldest_first { "oldest" } else { "newest" };
            let rest = if ended { "" } else { ", more to come" };
            writeln!(
                out,
                "{name:<28} {order}: first time {:.1} ms, p50 {:.1} ms, p99 {:.1} ms, {found} found{rest}",
                millis(cold),
                at(50),
                at(99)
            )?;
            figures.push(json!({ "search": name, "order": order, "first_ms": millis(cold), "p50_ms": at(50), "p99_ms": at(99), "found": found }));
        }
    }
    writeln!(out, "the slowest: {worst:.1} ms")?;
    if let Some(path) = &args.json {
        let figures =
            json!({ "rows": args.rows, "index_per_second": rate, "worst_p99_ms": worst, "searches": figures });
        std::fs::write(path, serde_json::to_string_pretty(&figures)?)?;
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn agent(number: u64) -> Result<EntityRef> {
    Ok(EntityRef::new("Agent", format!("agent-{number}"))?)
}

/// The place of a record among all, mixed: neighbours are not alike.
const fn mixed(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24
}

fn token(number: u64) -> TokenId {
    TokenId::from_bytes((u128::from(mixed(number)) << 64 | u128::from(number)).to_be_bytes())
}

/// When a record was: twenty a second.
fn at(start: Timestamp, number: u64) -> Timestamp {
    start.plus(Duration::from_millis(number * 50))
}

/// A decision, a vote or a redeem, an eighth of them with a capability.
fn record(number: u64, start: Timestamp) -> Result<String> {
    let by = mixed(number);
    let session = SessionId::from_bytes(*token(number / 40).as_bytes());
    let (kind, verdict) = match by % 16 {
        0 => ("vote", "approve"),
        1 => ("redeem", ""),
        2 => ("decision", "DENY"),
        _ => ("decision", "ALLOW"),
    };
    let action = json!({
        "audience": "gate", "chain": [], "environment": {}, "input": { "rows": 500, "destination": "s3://ours-reports/finance" },
        "operation": format!("operation-{}", by % 7), "operator": { "type": "Person", "id": format!("person-{}", by % 300) },
        "principal": { "type": "Agent", "id": format!("agent-{}", by % 2_000) },
        "resource": { "type": "Dataset", "id": format!("dataset-{}", by % 5_000) }, "session": session, "tenant": "acme", "version": 1,
    });
    let mut record = json!({
        "v": 1, "at": at(start, number), "tenant": "acme", "kind": kind, "caller": { "entity": { "type": "Agent", "id": format!("agent-{}", by % 2_000) } },
        "determining": [format!("rule-{}", by % 400)], "bundle": "b".repeat(64), "verdict": verdict, "session": session,
        "person": { "type": "Person", "id": format!("person-{}", by % 300) }, "action": action.to_string(),
    });
    if let Some(fields) = record.as_object_mut() {
        if by.is_multiple_of(8) {
            fields.insert("capability".to_owned(), json!(token(number)));
        }
        // Once in all.
        if number == ONCE {
            fields.insert("glass_broken".to_owned(), json!({ "review": "rev_1" }));
        }
        if kind == "vote" {
            let issuer = format!("https://issuer-{}.example", by % 3);
            fields.insert("channel".to_owned(), json!({ "kind": "grpc", "issuer": issuer }));
        }
    }
    Ok(record.to_string())
}

async fn fill(world: &World, rows: u64, start: Timestamp) -> Result<()> {
    let log = TenantId::new("acme")?;
    let mut next = 0_u64;
    while next < rows {
        let mut group = Vec::new();
        for _ in 0..GROUP {
            let mut commit = Commit::new(log.clone());
            for _ in 0..FILL.min(rows.saturating_sub(next)) {
                commit = commit.record(record(next, start)?);
                next += 1;
            }
            group.extend(Some(commit).filter(|commit| !commit.records.is_empty()));
        }
        world.kernel.commit_many(group).await.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
        if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            write!(std::io::stderr(), "\r{next} of {rows} records")?;
        }
    }
    Ok(())
}

/// By each of the fields, and by several together.
fn questions(rows: u64, start: Timestamp) -> Result<Vec<(&'static str, Question)>> {
    // One who votes: each sixteenth record is a vote, and 300 persons and 16 have 4 in common.
    let person = EntityRef::new("Person", "person-8")?;
    let dataset = EntityRef::new("Dataset", "dataset-42")?;
    // A multiple of eight, which has a capability.
    let number =
        (0..rows).rev().find(|number| mixed(*number).is_multiple_of(8) && *number <= rows / 2).unwrap_or_default();
    let session = SessionId::from_bytes(*token(rows / 2 / 40).as_bytes());
    let middle = Question {
        from: Some(at(start, rows / 2)),
        until: Some(at(start, rows / 2 + rows / 100)),
        ..Question::default()
    };
    let principal = (Field::Principal, entity_value(&agent(77)?));
    let value = |field, value: &str| Question { values: vec![(field, value.to_owned())], ..Question::default() };
    let both = |one: (Field, String), other: Question| Question {
        values: [vec![one], other.values].concat(),
        ..middle.clone()
    };
    Ok(vec![
        ("nothing", Question::default()),
        ("kind", value(Field::Kind, "redeem")),
        ("principal", value(Field::Principal, &principal.1)),
        ("operator", value(Field::Operator, &entity_value(&person))),
        ("approver", value(Field::Approver, &entity_value(&person))),
        ("resource", value(Field::Resource, &entity_value(&dataset))),
        ("caller", value(Field::Caller, &principal.1)),
        ("operation", value(Field::Operation, "operation-3")),
        ("rule", value(Field::Rule, "rule-9")),
        ("verdict", value(Field::Verdict, "DENY")),
        ("session", value(Field::Session, &session.to_string())),
        ("capability", value(Field::Capability, &token(number).to_string())),
        ("bundle", value(Field::Bundle, &"b".repeat(64))),
        ("channel", value(Field::Channel, "https://issuer-1.example")),
        ("review, once in all", value(Field::Review, "rev_1")),
        ("mark, once in all", value(Field::Mark, "break_glass")),
        ("nobody", value(Field::Approver, &entity_value(&EntityRef::new("Person", "nobody")?))),
        ("time", middle.clone()),
        ("principal and time", both(principal.clone(), Question::default())),
        ("principal, verdict, time", both(principal.clone(), value(Field::Verdict, "DENY"))),
        (
            "rule and resource, unlike",
            Question {
                values: [value(Field::Rule, "rule-9").values, value(Field::Resource, &entity_value(&dataset)).values]
                    .concat(),
                ..Question::default()
            },
        ),
        (
            "verdict and kind, never",
            Question {
                values: [value(Field::Verdict, "DENY").values, value(Field::Kind, "vote").values].concat(),
                ..Question::default()
            },
        ),
    ])
}
