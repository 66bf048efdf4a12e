//! A closed loop: so many callers, each of which waits for its answer before it asks again.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Result;
use crate::child::{Child, own_cpu};

/// When a caller has called often enough.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// After a time.
    After(Duration),
    /// After a number of calls of each.
    Each(usize),
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// How many calls were answered.
    pub requests: u64,
    /// In how much time, in seconds.
    pub seconds: f64,
    /// Answers per second.
    pub per_second: f64,
    /// The median latency, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// CPU of the server for each call, in microseconds.
    pub server_cpu_us: f64,
    /// CPU of the client for each call, in microseconds: it is taken from the same machine.
    pub client_cpu_us: f64,
}

/// Lets every worker call until it has to stop.
pub async fn drive<W, F>(server: &Child, workers: Vec<W>, stop: Stop, call: fn(W) -> F) -> Result<(Figures, Vec<W>)>
where
    W: Send + 'static,
    F: Future<Output = Result<W>> + Send + 'static,
{
    let (server_before, client_before) = (server.cpu()?, own_cpu()?);
    let started = Instant::now();
    let tasks: Vec<_> = workers.into_iter().map(|worker| tokio::spawn(repeat(worker, started, stop, call))).collect();
    let mut latencies = histogram()?;
    let mut workers = Vec::new();
    for task in tasks {
        let (worker, own) = task.await??;
        latencies.add(own)?;
        workers.push(worker);
    }
    let seconds = started.elapsed().as_secs_f64();
    let requests = latencies.len();
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / requests.max(1) as f64;
    let figures = Figures {
        requests,
        seconds,
        per_second: requests as f64 / seconds,
        p50_ms: latencies.value_at_quantile(0.5) as f64 / 1e3,
        p99_ms: latencies.value_at_quantile(0.99) as f64 / 1e3,
        server_cpu_us: each(server.cpu()?.saturating_sub(server_before)),
        client_cpu_us: each(own_cpu()?.saturating_sub(client_before)),
    };
    Ok((figures, workers))
}

async fn repeat<W, F>(mut worker: W, started: Instant, stop: Stop, call: fn(W) -> F) -> Result<(W, Histogram<u64>)>
where
    F: Future<Output = Result<W>>,
{
    let mut latencies = histogram()?;
    let mut calls = 0_usize;
    while match stop {
        Stop::After(time) => started.elapsed() < time,
        Stop::Each(most) => calls < most,
    } {
        let asked = Instant::now();
        worker = call(worker).await?;
        latencies.saturating_record(u64::try_from(asked.elapsed().as_micros())?);
        calls += 1;
    }
    Ok((worker, latencies))
}

/// Microseconds up to a minute, to one part in a thousand.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}
