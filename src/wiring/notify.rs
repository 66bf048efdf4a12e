//! Sinks and couriers: what is told of approval requests, beside the calls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::{NotificationKind, TenantId};
use countersign_engine::{BackOff, Engine, Sink, SinkSettings, SinkState};
use countersign_store::RocksKernel;
use tokio::task::JoinHandle;

use crate::config::{SinkConfig, TenantConfig};
use crate::http::metrics as names;
use crate::sinks::{self, SinkError};

/// The first wait after an attempt that failed.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);
/// How long after a fault of the store or the clock it is begun anew.
pub(super) const BEGIN_ANEW: Duration = Duration::from_secs(1);
/// The seconds of a day.
const DAY: u64 = 86_400;

/// The sinks of a tenant, by their names.
type Sinks = Vec<(String, Arc<dyn Sink>)>;

/// What the engine is to know of the configured sinks.
pub(super) fn settings(sinks: &[SinkConfig]) -> Vec<SinkSettings> {
    sinks.iter().map(settings_of).collect()
}

fn settings_of(config: &SinkConfig) -> SinkSettings {
    let SinkConfig {
        name,
        kind: _,
        url: _,
        keys: _,
        ca: _,
        events,
        timeout_seconds,
        attempts,
        max_age_seconds,
        backlog,
        dead_letters,
        dead_letter_days,
    } = config;
    SinkSettings {
        name: name.clone(),
        events: events.clone().unwrap_or_else(|| BTreeSet::from(NotificationKind::ALL)),
        timeout: Duration::from_secs((*timeout_seconds).into()),
        back_off: BackOff { first: FIRST_WAIT, longest: LONGEST_WAIT, jitter: Arc::new(drawn) },
        attempts: *attempts,
        max_age: Duration::from_secs((*max_age_seconds).into()),
        backlog: *backlog as usize,
        dead_letters: *dead_letters as usize,
        dead_letter_age: Duration::from_secs(u64::from(*dead_letter_days).saturating_mul(DAY)),
    }
}

fn drawn() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness the waits are whole.
    if getrandom::fill(&mut bytes).is_err() {
        return 0;
    }
    u16::from_le_bytes(bytes)
}

/// The sinks of a tenant, ready: before anything is served, so that a key that is missing is noticed at the start.
pub(super) fn open(tenant: &TenantId, config: &TenantConfig) -> Result<Sinks, SinkError> {
    let open = |sink: &SinkConfig| Ok((sink.name.clone(), sinks::open(tenant, &config.log_origin, sink)?));
    config.sinks.iter().map(open).collect()
}

/// Starts what tells a tenant's sinks.
pub(super) fn start(engine: &Arc<Engine<RocksKernel>>, sinks: Sinks) -> Vec<JoinHandle<()>> {
    let mut tasks = vec![tokio::spawn(tell_ends(Arc::clone(engine)))];
    tasks.extend(sinks.into_iter().map(|(name, sink)| tokio::spawn(deliver(Arc::clone(engine), name, sink))));
    tasks
}

async fn deliver(engine: Arc<Engine<RocksKernel>>, name: String, sink: Arc<dyn Sink>) {
    while let Some(courier) = engine.courier(&name, Arc::clone(&sink)) {
        if let Err(error) = courier.run().await {
            tracing::error!(%error, tenant = %engine.tenant(), sink = name, "cannot deliver; begun anew");
        }
        tokio::time::sleep(BEGIN_ANEW).await;
    }
}

/// Also without sinks: those that were configured once may have left requests whose end was to be told.
async fn tell_ends(engine: Arc<Engine<RocksKernel>>) {
    loop {
        if let Err(error) = engine.tell_ends().await {
            tracing::error!(%error, tenant = %engine.tenant(), "cannot tell which requests are over; begun anew");
        }
        tokio::time::sleep(BEGIN_ANEW).await;
    }
}

/// Keeps the metrics what the couriers say.
pub(super) fn tell_metrics(engine: &Engine<RocksKernel>) {
    for report in engine.sink_reports() {
        let SinkState { backlog, dead_letters, down, delivered, failed, given_up, forgotten, .. } = report.state;
        let labels = [("tenant", engine.tenant().to_string()), ("sink", report.name)];
        for (result, total) in
            [("delivered", delivered), ("failed", failed), ("given_up", given_up), ("forgotten", forgotten)]
        {
            let [(tenant, tenant_name), (sink, sink_name)] = labels.clone();
            metrics::counter!(
                names::NOTIFICATIONS_TOTAL, tenant => tenant_name, sink => sink_name, "result" => result
            )
            .absolute(total);
        }
        metrics::gauge!(names::NOTIFICATION_BACKLOG, &labels).set(count(backlog));
        metrics::gauge!(names::NOTIFICATION_DEAD_LETTERS, &labels).set(count(dead_letters));
        metrics::gauge!(names::NOTIFICATION_SINK_DOWN, &labels).set(if down { 1.0 } else { 0.0 });
    }
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
