//! `countersign demo`: one agent session, from question to evidence, through a server of its own and real gRPC.

mod cast;
mod place;
mod steps;
mod tell;

use std::path::{Path, PathBuf};

use clap::Args;
use countersign::config::{Config, Overrides};
use countersign::wiring::{RunningServer, Server};

use crate::cli::logcheck::check_server;
use crate::cli::output::Output;
use crate::cli::{Exit, Failure, development};
use cast::Cast;
use tell::Teller;

/// Where demonstrations keep their data unless told otherwise, each in a directory of its own.
const DATA_DIR: &str = "data/demo";

pub const EXAMPLES: &str = "Examples:\n  countersign demo\n  countersign demo --keep-serving";

/// How to demonstrate.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep serving afterwards, and print what to try next
    #[arg(long)]
    keep_serving: bool,
    /// A directory for the data, which must not exist yet; a new one under data/demo unless given
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The policy bundle
    #[arg(long, value_name = "DIR", default_value = development::EXAMPLE_BUNDLE)]
    bundle: PathBuf,
}

/// Demonstrates, and fails loudly where an answer is not the expected one.
pub async fn run(args: DemoArgs, output: &mut Output) -> Result<Exit, Failure> {
    if !args.bundle.join("bundle.toml").is_file() {
        let failure = Failure::new(format!("there is no bundle in `{}`", args.bundle.display()));
        return Err(failure.hint("run it in the repository, or name the example bundle with `--bundle DIR`"));
    }
    let dir = place::fresh(args.data_dir.as_deref(), Path::new(DATA_DIR))?;
    let issuer = development::issuer(&dir)?;
    let server = start(&dir, &args.bundle).await?;
    let told = walk(&server, &issuer, &dir, &args, output).await;
    // Stopped in good order even after a failure, so that what happened can be looked at.
    let kept = match &told {
        Ok(()) if args.keep_serving => wait_for_signal().await,
        Ok(()) | Err(_) => Ok(()),
    };
    let stopped = server.shutdown().await.map_err(|error| Failure::new(format!("the server did not stop: {error}")));
    told.and(kept).and(stopped)?;
    Ok(Exit::Done)
}

async fn start(dir: &Path, bundle: &Path) -> Result<RunningServer, Failure> {
    let wrong = |error: String| Failure::new(error).reason("NOT_SERVING");
    let loopback = || std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    let overrides = Overrides {
        listen: Some(loopback()),
        http: Some(loopback()),
        // The steps are what is to be read here.
        log_filter: Some("warn".to_owned()),
        ..Overrides::default()
    };
    let config = Config::development(dir, bundle, &overrides).map_err(|error| wrong(error.to_string()))?;
    Server::start(config).await.map_err(|error| wrong(error.to_string()))
}

async fn walk(
    server: &RunningServer,
    issuer: &development::DevIssuer,
    dir: &Path,
    args: &DemoArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let cast = Cast::connect(&server.endpoint(), issuer).await?;
    let mut teller = Teller::new(output);
    teller.opening(&server.endpoint(), dir, &args.bundle)?;
    let session = steps::walk(&cast, &mut teller).await?;
    let report = check_server(&cast.auditor, None, &[], None, |_, _| {}).await?;
    teller.log(&report)?;
    report.into_result()?;
    teller.closing(dir, args.keep_serving)?;
    if args.keep_serving {
        teller.next(&server.endpoint(), dir, &session, &cast)?;
    }
    Ok(())
}

async fn wait_for_signal() -> Result<(), Failure> {
    let wrong = |error: std::io::Error| Failure::new(format!("cannot wait for a signal: {error}"));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(wrong)?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(wrong),
        _ = terminate.recv() => Ok(()),
    }
}
