//! What people who answer, and those who wait for them, cost: lists, votes and watchers, when thousands of requests are pending. In
//! the engine on a real store; gRPC is left out. docs/performance.md tells how to read it.

mod world;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use countersign_core::ApprovalId;
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use serde_json::{Value as Json, json};

use world::World;

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measures lists, votes and watchers beside thousands of pending requests
#[derive(Debug, Parser)]
#[command(name = "make bench-approvals BENCH=…")]
struct Args {
    /// How many requests are pending
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pending: usize,
    /// How many watch
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    watchers: usize,
    /// How many changes they are told of
    #[arg(long, value_name = "N", default_value_t = 100)]
    changes: usize,
    /// Write the figures to a file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to keep the store while it runs: on the disk that is to be measured
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,
    /// Given by `cargo bench`; means nothing here
    #[arg(long, hide = true)]
    bench: bool,
}

/// How many requests a page of a list has.
const PAGE: usize = 50;
/// Every so many-th request is one that the specialist may answer.
const RARE: usize = 100;

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(measure(&args))?;
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_string_pretty(&figures)?)?;
    }
    Ok(())
}

async fn measure(args: &Args) -> Result<Json> {
    let mut out = std::io::stdout().lock();
    let place = tempfile::tempdir_in(&args.data_dir)?;
    let world = World::open(&place.path().join("pending")).await?;
    for number in 0..args.pending {
        world.ask(number, number % RARE == 0).await?;
    }
    writeln!(out, "{} requests are pending", args.pending)?;
    let page = timed(200, async || world.page("generalist", None).await.map(drop)).await?;
    told(&mut out, "a page of 50 that are mine, p50", page, Duration::from_millis(5))?;
    let mut mine = 0;
    let all = timed(3, async || {
        mine = world.all("specialist").await?;
        Ok(())
    })
    .await?;
    writeln!(out, "  {mine} of them are mine:")?;
    told(&mut out, "all that are mine, in pages of 50, p50", all, Duration::from_millis(5))?;
    let (vote, commits) = votes(&world, 200).await?;
    writeln!(out, "  a vote, p50: {:.2} ms; {commits:.2} commits each; the target is 1", millis(vote))?;

    let world = Arc::new(World::open(&place.path().join("watched")).await?);
    let (memory, latencies) = watched(&world, args.watchers, args.changes).await?;
    writeln!(out, "{} watch while {} requests are put", args.watchers, args.changes)?;
    writeln!(out, "  they hold {memory} MiB; the target is 100 at most")?;
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0;
    writeln!(
        out,
        "  a change is told after p50 {:.1} ms, p99 {:.1} ms; the target is 50 ms at p99",
        at(0.5),
        at(0.99)
    )?;
    drop(world);
    let world = World::open(&place.path().join("revoked")).await?;
    let revoked = revoked(&world, args.watchers, args.changes).await?;
    let soon = |quantile| revoked.value_at_quantile(quantile) as f64 / 1_000.0;
    writeln!(out, "{} watch {} revocations", args.watchers, args.changes)?;
    writeln!(out, "  one is told after p50 {:.1} ms, p99 {:.1} ms; the target is 50 ms at p99", soon(0.5), soon(0.99))?;
    Ok(json!({
        "pending": args.pending, "page_ms": millis(page), "mine": mine, "all_mine_ms": millis(all), "vote_ms": millis(vote),
        "commits_per_vote": commits, "watchers": args.watchers, "watchers_mib": memory, "told_p50_ms": at(0.5), "told_p99_ms": at(0.99),
        "revoked_p50_ms": soon(0.5), "revoked_p99_ms": soon(0.99),
    }))
}

/// How long a vote takes, and how many commits it is.
async fn votes(world: &World, number: usize) -> Result<(Duration, f64)> {
    let page = world.some("generalist", number).await?;
    let (mut times, mut last, mut commits) = (Vec::new(), None, 0);
    for id in &page {
        let shown = world.look("generalist", *id).await?;
        let begun = Instant::now();
        world.vote("generalist", &shown).await?;
        times.push(begun.elapsed());
        let revision = world.look("generalist", *id).await?.revision.get();
        // Nothing else changes anything, so what lies between two votes is one of them.
        commits += last.map_or(0, |last: u64| revision.saturating_sub(last));
        last = Some(revision);
    }
    let between = page.len().saturating_sub(1).max(1);
    Ok((median(times), commits as f64 / between as f64))
}

/// What so many watchers hold in memory, and when each learned of each change after it was acknowledged.
async fn watched(world: &Arc<World>, watchers: usize, changes: usize) -> Result<(u64, Histogram<u64>)> {
    world.ask(0, false).await?;
    let before = resident_mib()?;
    let (told, mut tellings) = tokio::sync::mpsc::unbounded_channel::<(ApprovalId, Instant)>();
    for _ in 0..watchers {
        let mut watch = Box::pin(world.watch("generalist")?);
        let told = told.clone();
        // What was there before the change is told first.
        watch.next().await.ok_or("a watch ended")??;
        tokio::spawn(async move {
            while let Some(Ok(seen)) = watch.next().await {
                if told.send((seen.view.approval.value.id, Instant::now())).is_err() {
                    return;
                }
            }
        });
    }
    let memory = resident_mib()?.saturating_sub(before);
    let mut latencies = Histogram::<u64>::new(3)?;
    for number in 0..changes {
        let id = world.ask(number.saturating_add(1), false).await?;
        let acknowledged = Instant::now();
        for _ in 0..watchers {
            let (of, at) = tellings.recv().await.ok_or("the watchers ended")?;
            if of != id {
                return Err("a watcher was told of something else".into());
            }
            latencies.record(u64::try_from(at.saturating_duration_since(acknowledged).as_micros())?)?;
        }
    }
    Ok((memory, latencies))
}

/// When each of so many watchers learned of each revocation after it was acknowledged.
async fn revoked(world: &World, watchers: usize, changes: usize) -> Result<Histogram<u64>> {
    let (told, mut tellings) = tokio::sync::mpsc::unbounded_channel::<(u64, Instant)>();
    for _ in 0..watchers {
        let mut watch = Box::pin(world.watch_revocations("generalist")?);
        let told = told.clone();
        // Where it begins is told first.
        watch.next().await.ok_or("a watch ended")??;
        tokio::spawn(async move {
            while let Some(Ok(message)) = watch.next().await {
                // Signs of life are none.
                let Some(tiding) = message.tiding else { continue };
                if told.send((tiding.sequence, Instant::now())).is_err() {
                    return;
                }
            }
        });
    }
    let mut latencies = Histogram::<u64>::new(3)?;
    for number in 0..changes {
        let sequence = world.revoke("generalist", number).await?;
        let acknowledged = Instant::now();
        for _ in 0..watchers {
            let (of, at) = tellings.recv().await.ok_or("the watchers ended")?;
            if of != sequence {
                return Err("a watcher was told of something else".into());
            }
            latencies.record(u64::try_from(at.saturating_duration_since(acknowledged).as_micros())?)?;
        }
    }
    Ok(latencies)
}

async fn timed(rounds: usize, mut run: impl AsyncFnMut() -> Result<()>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        run().await?;
        times.push(begun.elapsed());
    }
    Ok(median(times))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn told(out: &mut impl Write, what: &str, time: Duration, target: Duration) -> Result<()> {
    writeln!(out, "  {what}: {:.2} ms; the target is {} ms", millis(time), target.as_millis())?;
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What the process holds in memory.
fn resident_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? / 1024)
}
