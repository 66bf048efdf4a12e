//! The figures, and what they are held against.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::floors::Floors;
use crate::load::Figures;

/// Where the targets are judged: enough under way that waiting for the disk is shared, not so much that it queues.
const JUDGED_AT: usize = 64;

/// What a ratio is held against.
struct Target {
    name: &'static str,
    value: fn(&Ratio) -> f64,
    bound: f64,
    at_least: bool,
}

const TARGETS: [Target; 4] = [
    Target { name: "decide: throughput in that of the echo", value: |ratio| ratio.decide, bound: 0.4, at_least: true },
    Target {
        name: "decide with mint: CPU in that of echo + Cedar + mint",
        value: |ratio| ratio.mint,
        bound: 2.0,
        at_least: false,
    },
    Target {
        name: "redeem: CPU in that of echo + Cedar + verify",
        value: |ratio| ratio.redeem,
        bound: 2.0,
        at_least: false,
    },
    Target {
        name: "redeem with a holder's proof: CPU in that of echo + Cedar + verify + proof",
        value: |ratio| ratio.bound,
        bound: 2.0,
        at_least: false,
    },
];

/// What was measured with so many requests under way.
#[derive(Debug, Serialize)]
pub struct Level {
    pub in_flight: usize,
    pub connections: usize,
    pub echo_decide: Figures,
    pub decide: Figures,
    pub echo_mint: Figures,
    pub mint: Figures,
    pub echo_redeem: Figures,
    pub redeem: Figures,
    pub bound: Figures,
    pub whole: Figures,
}

/// One target at one level.
#[derive(Debug, Serialize)]
struct Ratio {
    in_flight: usize,
    /// Throughput of deciding, in that of the echo.
    decide: f64,
    /// Server CPU of deciding with a capability, in that of echo, Cedar and mint.
    mint: f64,
    /// Server CPU of redeeming, in that of echo, Cedar and verify.
    redeem: f64,
    /// Server CPU of redeeming what is bound to a key, in that of echo, Cedar, verify and verifying a proof.
    bound: f64,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    cores: usize,
    file_system: String,
    seconds_per_figure: f64,
    floors: Floors,
    levels: Vec<Level>,
    ratios: Vec<Ratio>,
}

impl Report {
    pub fn new(floors: Floors, levels: Vec<Level>, place: &Path, seconds: f64) -> Self {
        let ratios = levels.iter().map(|level| Ratio::new(level, &floors)).collect();
        Self {
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            file_system: file_system(place).unwrap_or_else(|| "unknown".to_owned()),
            seconds_per_figure: seconds,
            floors,
            levels,
            ratios,
        }
    }

    /// Writes it for people.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Floors { cedar_us, mint_us, verify_us, token_bytes, proof_us, write_p50_ms, write_p99_ms, write_cpu_us } =
            self.floors;
        writeln!(
            out,
            "{} cores, store on {}, {} s per figure\n",
            self.cores, self.file_system, self.seconds_per_figure
        )?;
        if self.file_system == "tmpfs" {
            writeln!(out, "The store is in memory: a sync costs nothing there. Name a disk with --data-dir.\n")?;
        }
        writeln!(out, "Floors, one thread")?;
        writeln!(out, "  Cedar, candidate policies          {cedar_us:8.1} µs CPU")?;
        writeln!(out, "  Biscuit mint                       {mint_us:8.1} µs CPU")?;
        writeln!(out, "  Biscuit verify and authorize       {verify_us:8.1} µs CPU   {token_bytes} bytes")?;
        writeln!(out, "  JWS verify, Ed25519                {proof_us:8.1} µs CPU")?;
        writeln!(
            out,
            "  RocksDB, one synced write          {write_cpu_us:8.1} µs CPU   p50 {write_p50_ms:.2} ms   p99 {write_p99_ms:.2} ms"
        )?;
        for level in &self.levels {
            writeln!(out, "\n{} in flight over {} connections", level.in_flight, level.connections)?;
            writeln!(
                out,
                "  {:20} {:>9} {:>9} {:>9} {:>12} {:>12}",
                "", "per s", "p50 ms", "p99 ms", "server µs", "client µs"
            )?;
            for (name, figures) in [
                ("echo of decide", &level.echo_decide),
                ("decide", &level.decide),
                ("echo of mint", &level.echo_mint),
                ("decide with mint", &level.mint),
                ("echo of redeem", &level.echo_redeem),
                ("redeem", &level.redeem),
                ("redeem with proof", &level.bound),
                ("whole action", &level.whole),
            ] {
                let Figures { per_second, p50_ms, p99_ms, server_cpu_us, client_cpu_us, .. } = figures;
                writeln!(
                    out,
                    "  {name:20} {per_second:9.0} {p50_ms:9.2} {p99_ms:9.2} {server_cpu_us:12.0} {client_cpu_us:12.0}"
                )?;
            }
        }
        self.print_targets(out)
    }

    fn print_targets(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\nTargets, judged at {JUDGED_AT} in flight")?;
        for Target { name, value, bound, at_least } in TARGETS {
            let word = if at_least { "at least" } else { "at most" };
            writeln!(out, "  {name}, {word} {bound}")?;
            for ratio in &self.ratios {
                let met = if at_least { value(ratio) >= bound } else { value(ratio) <= bound };
                let verdict = match (met, ratio.in_flight == JUDGED_AT) {
                    (true, true) => "met     <- judged",
                    (false, true) => "missed  <- judged",
                    (true, false) => "met",
                    (false, false) => "missed",
                };
                writeln!(out, "    {:4} in flight {:8.2}   {verdict}", ratio.in_flight, value(ratio))?;
            }
        }
        Ok(())
    }
}

impl Ratio {
    fn new(level: &Level, floors: &Floors) -> Self {
        let mint_floor = level.echo_mint.server_cpu_us + floors.cedar_us + floors.mint_us;
        let redeem_floor = level.echo_redeem.server_cpu_us + floors.cedar_us + floors.verify_us;
        Self {
            in_flight: level.in_flight,
            decide: level.decide.per_second / level.echo_decide.per_second,
            mint: level.mint.server_cpu_us / mint_floor,
            redeem: level.redeem.server_cpu_us / redeem_floor,
            bound: level.bound.server_cpu_us / (redeem_floor + floors.proof_us),
        }
    }
}

/// The kind of file system that a directory is on: of the mounts above it, the nearest.
fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = fields.filter(|(mounted, _)| path.starts_with(mounted));
    above.max_by_key(|(mounted, _)| mounted.len()).map(|(_, kind)| kind.to_owned())
}
