//! What the log costs: appending to it, as a part of a decision's CPU; checking all of it; proving one record of many; dropping half.
//! docs/performance.md tells how to read it.

#[path = "../capabilities/world.rs"]
#[allow(dead_code, reason = "the other benchmark uses all of it")]
mod world;

use std::convert::Infallible;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use countersign_audit::{Hash, LogVerifier, NodeId, check_node, inclusion_proof, leaf_hash, verify_inclusion};
use countersign_core::{Digest, TenantId};
use countersign_store::layout::Key;
use countersign_store::{Commit, Config, Kernel as _, Mode, RocksKernel, StoreError};
use serde_json::json;

use world::World;

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measures the log
#[derive(Debug, Parser)]
#[command(name = "make bench-log BENCH=…")]
struct Args {
    /// The records of the log that is checked, and that one is proved to be in
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    rows: u64,
    /// Where the stores are made, each in a directory of its own that is deleted afterwards
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the figures to a file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`; means nothing here
    #[arg(long, hide = true)]
    bench: bool,
}

/// How many decisions are measured, and how many commits of each sort, by turns.
const DECISIONS: usize = 4_000;
const COMMITS: usize = 40_000;
const TURNS: usize = 5;
/// How many commits are handed over at once, and how many records a commit has where the log is filled.
const GROUP: usize = 64;
const FILL: u64 = 60;
const PROOFS: u64 = 2_000;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let dir = || match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let mut out = std::io::stdout();
    let deciding = dir()?;
    let decision = decisions(deciding.path()).await?;
    let record = newest_record(deciding.path()).await?;
    let committing = dir()?;
    let append = appends(committing.path(), &record).await?;
    let share = append.as_secs_f64() / decision.as_secs_f64() * 100.0;
    writeln!(out, "a decision, minting: {:.1} µs of CPU, and a record of {} bytes", micros(decision), record.len())?;
    writeln!(
        out,
        "appending it: {:.1} µs of CPU, {share:.1} % of the decision; the target is 10 % at most",
        micros(append)
    )?;

    let many = dir()?;
    let log = filled(many.path(), args.rows, &record).await?;
    let begun = Instant::now();
    let kernel = RocksKernel::open(many.path(), &Config::new(Mode::Development))?;
    writeln!(out, "opening {} records, which reads all: {:.1} s", args.rows, begun.elapsed().as_secs_f64())?;
    let begun = Instant::now();
    let used = tokio::task::block_in_place(|| {
        let before = cpu_of_thread()?;
        check(&kernel, &log, args.rows)?;
        Ok::<_, Box<dyn Error + Send + Sync>>(cpu_of_thread()?.saturating_sub(before))
    })?;
    #[allow(clippy::cast_precision_loss, reason = "a rate is a double")]
    let rows = args.rows as f64;
    let (wall, cpu) = (rows / begun.elapsed().as_secs_f64(), rows / used.as_secs_f64().max(1e-6));
    writeln!(
        out,
        "checking: {wall:.0} records/s on the clock, {cpu:.0} per core; the target is 300,000 per core at least"
    )?;
    let mut times = proofs(&kernel, &log, args.rows).await?;
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    writeln!(
        out,
        "one proof of {} records: p50 {:.0} µs, p99 {:.0} µs; the target is 5,000 µs at most",
        args.rows,
        micros(at(50)),
        micros(at(99))
    )?;
    let bytes_before = on_disk(many.path())?;
    let pruned = prune(&kernel, &log, args.rows / 2).await?;
    let bytes_after = on_disk(many.path())?;
    writeln!(
        out,
        "dropping half of them, and giving back their space: {:.2} s, {:.2} GB before, {:.2} GB after",
        pruned.as_secs_f64(),
        gigabytes(bytes_before),
        gigabytes(bytes_after)
    )?;
    if let Some(path) = &args.json {
        let figures = json!({
            "prune_seconds": pruned.as_secs_f64(), "prune_bytes_before": bytes_before, "prune_bytes_after": bytes_after,
            "rows": args.rows, "record_bytes": record.len(), "decision_us": micros(decision), "append_us": micros(append),
            "append_percent": share, "verify_per_second": wall, "verify_per_core": cpu,
            "proof_p50_us": micros(at(50)), "proof_p99_us": micros(at(99)),
        });
        std::fs::write(path, serde_json::to_string_pretty(&figures)?)?;
    }
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[allow(clippy::cast_precision_loss, reason = "a size to read")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// What the files of a store take.
fn on_disk(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { on_disk(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}

/// Drops the first records, until their space is given back.
async fn prune(kernel: &RocksKernel, log: &TenantId, minimum: u64) -> Result<Duration> {
    let begun = Instant::now();
    let commit = Commit::new(log.clone()).record("dropped").prune(minimum);
    kernel.commit_many(vec![commit]).await.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(begun.elapsed())
}

/// The CPU that this process has used, all threads together.
fn cpu() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit_once(')').ok_or("no such process")?.1;
    let ticks: u64 =
        after.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<std::result::Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// The CPU that this thread has used.
fn cpu_of_thread() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = stat.split_whitespace().next().ok_or("no such thread")?.parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// The CPU of one decision, its commit included.
async fn decisions(dir: &Path) -> Result<Duration> {
    let world = World::open(dir).await?;
    let before = cpu()?;
    for _ in 0..DECISIONS {
        world.mint().await?;
    }
    Ok((cpu()? - before) / u32::try_from(DECISIONS)?)
}

async fn newest_record(dir: &Path) -> Result<Bytes> {
    let kernel = RocksKernel::open(dir, &Config::new(Mode::Development))?;
    let log = TenantId::new("acme")?;
    let size = kernel.log_size(&log).await?;
    let last = kernel.log_entries(&log, size.saturating_sub(1), 1).await?.pop();
    Ok(last.ok_or("nothing was recorded")?.1)
}

/// The CPU that a record adds to a commit: with and without, by turns. The middle of the differences.
async fn appends(dir: &Path, record: &Bytes) -> Result<Duration> {
    let kernel = RocksKernel::create(dir, &Config::new(Mode::Development))?;
    let mut differences = Vec::new();
    for turn in 0..TURNS {
        let without = commits(&kernel, turn * 2, None).await?;
        let with = commits(&kernel, turn * 2 + 1, Some(record)).await?;
        differences.push(with.saturating_sub(without));
    }
    differences.sort_unstable();
    Ok(differences.get(TURNS / 2).copied().unwrap_or_default() / u32::try_from(COMMITS)?)
}

async fn commits(kernel: &RocksKernel, turn: usize, record: Option<&Bytes>) -> Result<Duration> {
    let log = TenantId::new("acme")?;
    let before = cpu()?;
    for group in 0..COMMITS / GROUP {
        let commit = |place: usize| {
            let id = Digest::of_parts(&[&turn.to_be_bytes(), &group.to_be_bytes(), &place.to_be_bytes()]);
            let commit = Commit::new(log.clone()).create(Key::pending_digest(&log, &id), vec![7; 600]);
            record.map_or(commit.clone(), |record| commit.record(record.clone()))
        };
        let done = kernel.commit_many((0..GROUP).map(commit).collect()).await;
        done.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
    }
    Ok(cpu()? - before)
}

/// A log of so many records that look like this one, each different.
async fn filled(dir: &Path, rows: u64, record: &Bytes) -> Result<TenantId> {
    let kernel = RocksKernel::create(dir, &Config::new(Mode::Development))?;
    let log = TenantId::new("acme")?;
    let mut next = 0_u64;
    while next < rows {
        let mut group = Vec::new();
        for _ in 0..32 {
            let mut commit = Commit::new(log.clone());
            for _ in 0..FILL.min(rows.saturating_sub(next)) {
                commit = commit.record(numbered(next, record));
                next += 1;
            }
            group.extend(Some(commit).filter(|commit| !commit.records.is_empty()));
        }
        kernel.commit_many(group).await.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
        if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            write!(std::io::stderr(), "\r{next} of {rows} records")?;
        }
    }
    Ok(log)
}

fn numbered(index: u64, record: &Bytes) -> Vec<u8> {
    let mut numbered = Digest::of_parts(&[&index.to_be_bytes()]).to_string().into_bytes();
    numbered.extend(record.iter().skip(numbered.len()));
    numbered
}

/// Every record, every stored node, as `countersign audit verify --data-dir` does, on this thread.
fn check(kernel: &RocksKernel, log: &TenantId, rows: u64) -> Result<()> {
    let mut verifier = LogVerifier::new();
    kernel.read_log(log, 0, |index, record, stored| {
        for node in verifier.push_at(index, record)? {
            check_node(&node, stored.get(node.id)?)?;
        }
        Ok::<_, Wrong>(())
    })?;
    if verifier.size() == rows { Ok(()) } else { Err("records are missing".into()) }
}

/// Why a log does not check.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Log(#[from] countersign_audit::FsckError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How long it takes to find what proves a record, and the record.
async fn proofs(kernel: &RocksKernel, log: &TenantId, rows: u64) -> Result<Vec<Duration>> {
    let root = kernel.log_frontier(log).await?.root();
    let mut times = Vec::new();
    for turn in 0..PROOFS {
        // Far apart, so that none is where the one before was.
        let index = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % rows;
        let begun = Instant::now();
        let mut needed: Vec<NodeId> = Vec::new();
        inclusion_proof(index, rows, |id| {
            needed.push(id);
            Ok::<_, Infallible>(Some(countersign_audit::EMPTY_ROOT))
        })?;
        let nodes = kernel.log_nodes(log, &needed).await?;
        let mut nodes = nodes.into_iter();
        let proof: Vec<Hash> = inclusion_proof(index, rows, |_| Ok::<_, Infallible>(nodes.next().flatten()))?;
        let record = kernel.log_entries(log, index, 1).await?.pop().ok_or("a record is missing")?.1;
        times.push(begun.elapsed());
        verify_inclusion(&leaf_hash(&record), index, rows, &proof, &root)?;
    }
    Ok(times)
}
