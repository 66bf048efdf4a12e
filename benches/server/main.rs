//! What an answer costs: the server over real gRPC, beside the floors that it stands on. All in one run, because figures of
//! two machines, or of one machine at two times, cannot be compared. docs/performance.md tells how to read it.

mod calls;
mod child;
mod echo;
mod floors;
mod load;
mod report;

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};

use calls::{Cast, Worker};
use child::Child;
use load::{Figures, Stop, drive};
use report::{Level, Report};

/// A measurement that went wrong says so and ends; there is nobody to recover for.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How many requests are under way at once, and over how many connections.
const LEVELS: [(usize, usize); 4] = [(1, 1), (16, 4), (64, 8), (256, 16)];

/// Measures the server and what it is made of
#[derive(Debug, Parser)]
#[command(name = "make bench BENCH=…")]
struct Args {
    /// Seconds for each figure
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0)]
    seconds: f64,
    /// A tenth of that: enough to see that everything runs, not enough to trust a figure
    #[arg(long)]
    quick: bool,
    /// Write the figures to a file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to keep the store while it runs: on the disk that is to be measured
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,
    /// Only put one call under load, 64 in flight, and say which process serves it: for a profiler
    #[arg(long, value_name = "CALL")]
    only: Option<Call>,
    /// Given by `cargo bench`; means nothing here
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the echo server, with the answers of a directory
    #[arg(long, hide = true, value_name = "DIR")]
    echo: Option<PathBuf>,
}

/// What can be put under load alone.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Call {
    /// Decide without a capability
    Decide,
    /// Decide with one
    Mint,
    /// Redeem
    Redeem,
    /// Decide with a capability, redeem, complete
    Whole,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match &args.echo {
        Some(answers) => runtime.block_on(echo::serve(answers)),
        None => runtime.block_on(measure(&args)),
    }
}

async fn measure(args: &Args) -> Result<()> {
    let seconds = if args.quick { args.seconds / 10.0 } else { args.seconds };
    let window = Duration::try_from_secs_f64(seconds)?;
    std::fs::create_dir_all(&args.data_dir)?;
    let place = tempfile::Builder::new().prefix("countersign-bench-").tempdir_in(&args.data_dir)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bundle = root.join("policies/ai-platform");

    let data = place.path().join("data");
    if let Some(call) = args.only {
        let server = Child::countersign(&bundle, &data).await?;
        let cast = Cast::open(&server.endpoint, &data).await?;
        return only(call, &server, cast.workers(&server.endpoint, 64, 8).await?, window).await;
    }

    say("floors: Cedar, Biscuit, RocksDB")?;
    let floors = floors::measure(&bundle, place.path(), window)?;

    let server = Child::countersign(&bundle, &data).await?;
    let mut cast = Cast::open(&server.endpoint, &data).await?;
    let answers = place.path().join("answers");
    std::fs::create_dir(&answers)?;
    cast.sample(&server.endpoint, &answers).await?;
    let echo = Child::echo(&answers).await?;

    let mut levels = Vec::new();
    for (in_flight, connections) in LEVELS {
        say(&format!("{in_flight} in flight"))?;
        let ours = || cast.workers(&server.endpoint, in_flight, connections);
        let theirs = || cast.workers(&echo.endpoint, in_flight, connections);
        // Each figure right after its floor: a machine that slows down slows both.
        let echo_decide = timed(&echo, theirs().await?, window, Worker::decide).await?;
        let decide = timed(&server, ours().await?, window, Worker::decide).await?;
        let echo_mint = timed(&echo, theirs().await?, window, Worker::mint).await?;
        let mint = timed(&server, ours().await?, window, Worker::mint).await?;
        let echo_redeem = timed(&echo, theirs().await?, window, Worker::redeem_sample).await?;
        // About as many as were minted in that window.
        let each = usize::try_from(mint.requests)? / in_flight;
        let bound = redeem_bound(&server, ours().await?, each).await?;
        let redeem = redeem(&server, ours().await?, each, |_| Ok(())).await?;
        let whole = timed(&server, ours().await?, window, Worker::whole).await?;
        levels.push(Level {
            in_flight,
            connections,
            echo_decide,
            decide,
            echo_mint,
            mint,
            echo_redeem,
            redeem,
            bound,
            whole,
        });
    }

    let report = Report::new(floors, levels, place.path(), seconds);
    let mut out = std::io::stdout().lock();
    report.print(&mut out)?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// Measures one call for the window, after a quarter of it in which connections, caches and allocators come to rest.
async fn timed<F>(child: &Child, workers: Vec<Worker>, window: Duration, call: fn(Worker) -> F) -> Result<Figures>
where
    F: Future<Output = Result<Worker>> + Send + 'static,
{
    let (_, workers) = drive(child, workers, Stop::After(window / 4), call).await?;
    Ok(drive(child, workers, Stop::After(window), call).await?.0)
}

/// Measures redeem on tokens that were minted before, so many for each worker. `ready` is called between the two.
async fn redeem(
    server: &Child,
    workers: Vec<Worker>,
    each: usize,
    ready: impl FnOnce(&Child) -> Result<()>,
) -> Result<Figures> {
    let each = each.max(4);
    let (_, workers) = drive(server, workers, Stop::Each(each), Worker::keep_token).await?;
    let (_, workers) = drive(server, workers, Stop::Each(each / 4), Worker::redeem).await?;
    ready(server)?;
    Ok(drive(server, workers, Stop::Each(each - each / 4), Worker::redeem).await?.0)
}

/// The same, on tokens that are bound to a key, with a proof for each.
async fn redeem_bound(server: &Child, workers: Vec<Worker>, each: usize) -> Result<Figures> {
    let each = each.max(4);
    let (_, workers) = drive(server, workers, Stop::Each(each), Worker::keep_bound_token).await?;
    let (_, workers) = drive(server, workers, Stop::Each(each / 4), Worker::redeem_bound).await?;
    Ok(drive(server, workers, Stop::Each(each - each / 4), Worker::redeem_bound).await?.0)
}

async fn only(call: Call, server: &Child, workers: Vec<Worker>, window: Duration) -> Result<()> {
    let ready = |server: &Child| say(&format!("process {} is under load", server.id()));
    if matches!(call, Call::Decide | Call::Mint | Call::Whole) {
        ready(server)?;
    }
    let stop = Stop::After(window);
    let figures = match call {
        Call::Decide => drive(server, workers, stop, Worker::decide).await?.0,
        Call::Mint => drive(server, workers, stop, Worker::mint).await?.0,
        Call::Whole => drive(server, workers, stop, Worker::whole).await?.0,
        // Minting them takes as long again, and they live for five minutes.
        Call::Redeem => redeem(server, workers, usize::try_from(window.as_secs())?.min(60) * 40, ready).await?,
    };
    Ok(writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&figures)?)?)
}

/// Progress, apart from the figures.
fn say(what: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr().lock(), "bench: {what}")?)
}
