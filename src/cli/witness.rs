//! `countersign witness`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use countersign::config::TelemetryConfig;
use countersign::telemetry;
use countersign::tlog::witness::{Witness, serve};
use countersign_audit::NoteVerifier;
use serde_json::json;
use tokio::net::TcpListener;

use super::args::read_secret;
use super::output::Output;
use super::text::Lines;
use super::{Exit, Failure};

pub const EXAMPLES: &str = "\
Run it on a machine, and under an operator, that the server's have no power over. It speaks plain HTTP, which needs a proxy with TLS in \
front of it wherever the server is elsewhere. The key that it says goes into `[[log.witnesses]]` of the server, and to those who verify.

Examples:
  countersign witness --name witness.example/w1 --state /var/lib/witness --log-key @acme-log.pub
  countersign witness --state /var/lib/witness --log-key @acme-log.pub --listen 127.0.0.1:8600";

/// A witness to run.
#[derive(Debug, Args)]
pub struct WitnessArgs {
    /// The directory with its key, and what it cosigned last; made the first time. It belongs to one running witness
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// The name of its key, a URL without the scheme; only the first time
    #[arg(long)]
    name: Option<String>,
    /// The key of a log that it watches (`name+id+key`, or `@FILE`); may be given several times
    #[arg(long, value_name = "KEY", required = true)]
    log_key: Vec<String>,
    /// Where it listens, in plain HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8600")]
    listen: SocketAddr,
}

/// Serves until it is told to stop.
pub async fn run(args: WitnessArgs, output: &mut Output) -> Result<Exit, Failure> {
    let WitnessArgs { state, name, log_key, listen } = args;
    let failed = |error: &dyn std::fmt::Display| Failure::new(error.to_string()).reason("NOT_SERVING");
    let mut logs: Vec<NoteVerifier> = Vec::new();
    for text in &log_key {
        let key = read_secret(text, "log-key")?.parse();
        logs.push(key.map_err(|error| Failure::usage(format!("`--log-key`: {error}")))?);
    }
    let guard = telemetry::init(&TelemetryConfig::default()).map_err(|error| failed(&error))?;
    let origins: Vec<String> = logs.iter().map(|log| log.name().to_owned()).collect();
    let witness = Witness::open(&state, name.as_deref(), logs).map_err(|error| failed(&error))?;
    let listener =
        TcpListener::bind(listen).await.map_err(|error| failed(&format!("cannot listen on `{listen}`: {error}")))?;
    let address = listener.local_addr().map_err(|error| failed(&error))?;
    let mut text = Lines::default();
    text.line(format!("serving at http://{address}")).field("key", witness.verifier());
    for origin in &origins {
        text.shown("watches", origin);
    }
    tracing::info!(endpoint = %format!("http://{address}"), key = witness.verifier(), "witnessing");
    let said = json!({"endpoint": format!("http://{address}"), "key": witness.verifier(), "logs": origins});
    output.document(&said, &text.finish())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| failed(&format!("cannot wait for SIGTERM: {error}")))?;
    let ended = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    serve(listener, Arc::new(witness), ended).await.map_err(|error| failed(&error))?;
    guard.shutdown().await;
    Ok(Exit::Done)
}
