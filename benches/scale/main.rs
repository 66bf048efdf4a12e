//! What a decision costs as policies and entities grow, beside Cedar's own authorizer on all of them. In one run, because
//! figures of two machines cannot be compared. docs/performance.md tells how to read it.

mod growth;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value as Json, json};

use growth::{Policies, Stored};

/// As the server has it: the system's takes longer for every request, the more was allocated before.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measures decisions as policies and entities grow
#[derive(Debug, Parser)]
#[command(name = "make bench-scale BENCH=…")]
struct Args {
    /// The most policies
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    policies: usize,
    /// The most stored entities
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    entities: usize,
    /// Write the figures to a file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`; means nothing here
    #[arg(long, hide = true)]
    bench: bool,
}

/// How often each thing is done for its median.
const ROUNDS: usize = 2_000;

fn main() -> Result<()> {
    let args = Args::parse();
    let mut out = std::io::stdout().lock();
    let mut figures = Vec::new();
    writeln!(out, "policies (ten candidates each)    decide p50 µs    Cedar on all of them p50 µs    load s")?;
    let base = Policies::new(100)?;
    for number in [10, 100, 1_000, 10_000, 100_000].into_iter().filter(|n| *n <= args.policies) {
        let begun = Instant::now();
        let policies = Policies::new(number)?;
        let load = begun.elapsed();
        let (ours, ratio) = beside(|| base.decide(), || policies.decide());
        // Linear: at a hundred thousand, each evaluation takes a tenth of a second.
        let cedar = median(if number > 10_000 { 20 } else { 200 }, || policies.evaluate_all());
        writeln!(out, "{number:>8}  {:>35}  {:>29}  {:>8.1}", micros(ours), micros(cedar), load.as_secs_f64())?;
        figures.push(json!({
            "policies": number, "decide_us": us(ours), "of_100": ratio, "cedar_us": us(cedar), "load_s": load.as_secs_f64(),
        }));
        told(&mut out, ratio, number, 100)?;
    }
    writeln!(out, "\nstored entities    decide p50 µs    change p50 µs    resident MiB")?;
    let base = Stored::new(1_000)?;
    for number in [1_000, 100_000, 1_000_000].into_iter().filter(|n| *n <= args.entities) {
        let before = resident_mib()?;
        let mut stored = Stored::new(number)?;
        let resident = resident_mib()?.saturating_sub(before);
        let (ours, ratio) = beside(|| base.decide(), || stored.decide());
        let change = median(200, || stored.change());
        writeln!(out, "{number:>9}  {:>20}  {:>15}  {resident:>14}", micros(ours), micros(change))?;
        figures.push(json!({
            "entities": number, "decide_us": us(ours), "of_1000": ratio, "change_us": us(change), "resident_mib": resident,
        }));
        told(&mut out, ratio, number, 1_000)?;
    }
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_string_pretty(&Json::from(figures))?)?;
    }
    Ok(())
}

fn told(out: &mut impl Write, ratio: f64, number: usize, of: usize) -> Result<()> {
    if number > of {
        writeln!(out, "          {ratio:.2} times that at {of}; the target is 1.5 at most")?;
    }
    Ok(())
}

/// The median time of the second, and how many times that of the first it is. They take turns, because what else the machine
/// does makes both slower by as much as half, for seconds.
fn beside(mut base: impl FnMut(), mut ours: impl FnMut()) -> (Duration, f64) {
    const TURNS: usize = 25;
    let mut pairs: Vec<(Duration, Duration)> =
        (0..TURNS).map(|_| (median(ROUNDS / TURNS, &mut base), median(ROUNDS / TURNS, &mut ours))).collect();
    pairs.sort_by_key(|(_, ours)| *ours);
    let median = pairs.get(TURNS / 2).map(|(_, ours)| *ours).unwrap_or_default();
    let mut ratios: Vec<f64> = pairs.iter().map(|(base, ours)| ours.as_secs_f64() / base.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    (median, ratios.get(TURNS / 2).copied().unwrap_or_default())
}

/// The median time of doing something so often.
fn median(rounds: usize, mut run: impl FnMut()) -> Duration {
    (0..rounds / 10).for_each(|_| run());
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let begun = Instant::now();
            run();
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times.get(rounds / 2).copied().unwrap_or_default()
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn micros(time: Duration) -> String {
    format!("{:.1}", us(time))
}

/// What the process holds in memory.
fn resident_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? / 1024)
}
