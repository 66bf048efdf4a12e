//! What a redeem costs beside few and beside many capabilities that were spent, or wait. In one run and by turns, because figures of
//! two machines cannot be compared. docs/performance.md tells how to read it.

mod world;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

use world::World;

/// As the server has it: the system's takes longer for every request, the more was allocated before.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measures redeems beside capabilities that were spent, or wait
#[derive(Debug, Parser)]
#[command(name = "make bench-capabilities BENCH=…")]
struct Args {
    /// The most capabilities
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    rows: usize,
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

/// The few that it is compared with.
const FEW: usize = 10_000;
/// How often the two stores take turns, and how many redeems each turn is.
const TURNS: usize = 20;
const REDEEMS: usize = 50;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let dir = || match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let (few_dir, many_dir) = (dir()?, dir()?);
    let (few, many) = (World::open(few_dir.path()).await?, World::open(many_dir.path()).await?);
    let mut out = std::io::stdout();
    few.fill(FEW, |_| Ok(())).await?;
    let begun = Instant::now();
    let told = |done: usize| {
        // On a line of its own that the next replaces, and only for people.
        if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            write!(std::io::stderr(), "\r{done} of {} capabilities", args.rows)?;
        }
        Ok(())
    };
    many.fill(args.rows, told).await?;
    writeln!(out, "{} capabilities made in {:.0} s", args.rows, begun.elapsed().as_secs_f64())?;

    let mut pairs = Vec::new();
    for _ in 0..TURNS {
        pairs.push((redeems(&few).await?, redeems(&many).await?));
    }
    let mut ratios: Vec<f64> = pairs.iter().map(|(few, many)| many.as_secs_f64() / few.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(TURNS / 2).copied().unwrap_or_default();
    let middle = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times.get(TURNS / 2).copied().unwrap_or_default().as_secs_f64() * 1e6
    };
    let (few, many) =
        (middle(pairs.iter().map(|(few, _)| *few).collect()), middle(pairs.iter().map(|(_, many)| *many).collect()));
    writeln!(out, "redeem beside {FEW:>9}: p50 {few:.0} µs")?;
    writeln!(out, "redeem beside {:>9}: p50 {many:.0} µs", args.rows)?;
    writeln!(out, "{ratio:.2} times; the target is 1.3 at most")?;
    if let Some(path) = &args.json {
        let figures = json!({ "rows": args.rows, "few_us": few, "many_us": many, "ratio": ratio });
        std::fs::write(path, serde_json::to_string_pretty(&figures)?)?;
    }
    Ok(())
}

/// The median time of redeeming a capability, one after the other. Minting them is not in it.
async fn redeems(world: &World) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..REDEEMS {
        let minted = world.mint().await?;
        let begun = Instant::now();
        world.redeem(&minted).await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(REDEEMS / 2).copied().unwrap_or_default())
}
