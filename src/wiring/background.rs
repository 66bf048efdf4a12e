//! What runs beside the calls: bundles, counts of refusals and reads, heads of the logs, tidying, readiness.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_core::figures::{Figures, Subject};
use countersign_engine::{Engine, Error, RevisionRule, WhichCounts};
use countersign_policy::Stamp;
use countersign_store::{Kernel, RocksKernel};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::beside;
use super::notify::{self, BEGIN_ANEW};
use crate::bundle_dir;
use crate::http::{self, Readiness};

/// How often it is looked whether counts of refusals and of reads are to be written.
const RECORD_COUNTS: Duration = Duration::from_secs(1);
/// How often rows that are of no use any more are tidied away.
const TIDY: Duration = Duration::from_secs(60);
/// How often what was asked and answered is counted into figures.
const COUNT_FIGURES: Duration = Duration::from_secs(10);
/// How often the log is indexed: what is not is read by whoever asks.
const INDEX_LOG: Duration = Duration::from_secs(2);
/// How often a server without a bundle looks for one, and how often one that watches its directory looks for changes.
const LOOK_FOR_BUNDLE: Duration = Duration::from_secs(2);
/// How often it is looked whether the server can answer.
const READINESS: Duration = Duration::from_millis(250);

/// Makes the bundle of a directory active. If it is refused, whatever was active stays, and that is said loudly, once for
/// each reason. Answers whether it would be the same if it was tried again.
async fn activate(
    engine: &Engine<RocksKernel>,
    dir: &Path,
    revision: RevisionRule,
    stamp: Option<&Stamp>,
    told: &mut String,
) -> bool {
    let published = match bundle_dir::read(dir, stamp).await {
        Ok(source) => engine.activate(source, revision).await,
        Err(error) => Err(error),
    };
    let tenant = engine.tenant().to_string();
    // What was stored or is about to be may fit it later; a fault may be over.
    let settled = match &published {
        Ok(_) => true,
        Err(error) => error.is_refusal() && !matches!(error, Error::EntityMisfit(_)),
    };
    match published {
        Ok(published) => {
            tracing::info!(tenant, bundle = %published.digest, changed = published.changed, "bundle active");
            for warning in &published.warnings {
                tracing::warn!(tenant, %warning, "bundle warning");
            }
        }
        Err(error) if error.to_string() == *told => {}
        Err(error) => {
            metrics::counter!(http::metrics::BUNDLE_REFUSED_TOTAL, "tenant" => tenant.clone()).increment(1);
            tracing::error!(tenant, %error, dir = %dir.display(), none_active = engine.active().is_err(), "bundle refused");
            *told = error.to_string();
        }
    }
    settled
}

/// Tells of the active bundle, and no longer of the one before.
fn tell_bundle(engine: &Engine<RocksKernel>, told: &mut Option<(String, String)>) {
    let Ok(info) = engine.bundle_info() else { return };
    let now = (info.digest.to_string(), info.revision.to_string());
    if told.as_ref() == Some(&now) {
        return;
    }
    let gauge = |(digest, revision): &(String, String)| {
        let tenant = engine.tenant().to_string();
        metrics::gauge!(
            http::metrics::BUNDLE_INFO, "tenant" => tenant, "digest" => digest.clone(), "revision" => revision.clone()
        )
    };
    if let Some(before) = told.as_ref() {
        gauge(before).set(0.0);
    }
    gauge(&now).set(1.0);
    *told = Some(now);
}

/// Publishes what lies in a bundle's directory: at start, as long as there is no active bundle, and whenever it changes if it
/// is watched.
pub(super) struct BundleKeeper {
    engine: Arc<Engine<RocksKernel>>,
    dir: PathBuf,
    watch: bool,
    started: bool,
    /// What was taken, or refused, last.
    seen: Option<Stamp>,
    /// What there was at the last look. What is still being written looks otherwise at the next.
    noticed: Option<Stamp>,
    /// Since when it looks like that.
    since: Instant,
    /// The last refusal that was told.
    told: String,
}

impl BundleKeeper {
    pub(super) async fn new(engine: Arc<Engine<RocksKernel>>, dir: PathBuf, watch: bool) -> Self {
        let seen = bundle_dir::stamp(&dir).await;
        Self {
            engine,
            dir,
            watch,
            started: false,
            noticed: seen.clone(),
            since: Instant::now(),
            seen,
            told: String::new(),
        }
    }

    pub(super) async fn start(&mut self) {
        self.started = true;
        // Where changes are followed, a start must not take what was not taken before it.
        let rule = self.rule();
        if !activate(&self.engine, &self.dir, rule, None, &mut self.told).await {
            self.seen = None;
        }
    }

    fn rule(&self) -> RevisionRule {
        if self.watch && self.engine.active().is_ok() { RevisionRule::Raised } else { RevisionRule::NotLower }
    }

    pub(super) async fn run(mut self) {
        if !self.started {
            self.start().await;
        }
        let mut ticks = tokio::time::interval(LOOK_FOR_BUNDLE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let active = self.engine.active().is_ok();
            if active && !self.watch {
                return;
            }
            let now = bundle_dir::stamp(&self.dir).await;
            if now != self.noticed {
                (self.noticed, self.since) = (now, Instant::now());
                continue;
            }
            // Ticks may come late, and then close together: what counts is the time.
            if self.since.elapsed() < LOOK_FOR_BUNDLE || (active && now == self.seen) {
                continue;
            }
            // Each change is told, also one that is refused for the same reason as the one before.
            if now != self.seen {
                self.told.clear();
            }
            let rule = self.rule();
            if activate(&self.engine, &self.dir, rule, now.as_ref(), &mut self.told).await {
                self.seen = now;
            }
        }
    }
}

/// Keeps the shadow bundle what its directory holds. One that is refused leaves the one before.
pub(super) async fn follow_shadow(engine: Arc<Engine<RocksKernel>>, dir: PathBuf) {
    let mut ticks = tokio::time::interval(LOOK_FOR_BUNDLE);
    let (mut seen, mut first) = (None, true);
    let tenant = engine.tenant().to_string();
    loop {
        ticks.tick().await;
        let now = bundle_dir::stamp(&dir).await;
        if now == seen && !first {
            continue;
        }
        (seen, first) = (now, false);
        let set = match bundle_dir::read(&dir, None).await {
            Ok(source) => engine.set_shadow(source).await,
            Err(error) => Err(error),
        };
        engine.tell_shadow(set.as_ref().err().map(ToString::to_string));
        match set {
            Ok(digest) => tracing::info!(tenant, bundle = %digest, "shadow bundle set"),
            Err(error) => tracing::error!(tenant, %error, dir = %dir.display(), "shadow bundle refused"),
        }
    }
}

/// Makes requests void when what they rest on has changed.
pub(super) async fn follow_conditions(engine: Arc<Engine<RocksKernel>>) {
    loop {
        if let Err(error) = engine.follow_conditions().await {
            tracing::error!(%error, tenant = %engine.tenant(), "cannot judge requests again; begun anew");
        }
        tokio::time::sleep(BEGIN_ANEW).await;
    }
}

/// Counts figures from the log, and keeps the metrics what they are.
pub(super) async fn count_figures(engine: Arc<Engine<RocksKernel>>) {
    let mut ticks = tokio::time::interval(COUNT_FIGURES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let counted = match engine.count_figures().await {
            Ok(()) => engine.figures_of_rules().await,
            Err(error) => Err(error),
        };
        match counted {
            Ok(rules) => rules.iter().for_each(|figures| tell_figures(&engine, figures)),
            Err(error) => tracing::error!(%error, tenant = %engine.tenant(), "cannot count figures"),
        }
    }
}

/// Keeps the index of the log what the log is.
pub(super) async fn index_log(engine: Arc<Engine<RocksKernel>>) {
    let mut ticks = tokio::time::interval(INDEX_LOG);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = engine.index_log(true).await {
            tracing::error!(%error, tenant = %engine.tenant(), "cannot index the log; questions to it take longer");
        }
    }
}

fn tell_figures(engine: &Engine<RocksKernel>, figures: &Figures) {
    let Figures { subject: Subject::Rule(rule), asked, approved, denied, quick, waits, .. } = figures else { return };
    let labels = [("tenant", engine.tenant().to_string()), ("rule", rule.clone())];
    metrics::counter!(http::metrics::RULE_ASKED_TOTAL, &labels).absolute(*asked);
    metrics::counter!(http::metrics::RULE_QUICK_TOTAL, &labels).absolute(*quick);
    for (verdict, total) in [("approve", approved), ("deny", denied)] {
        let [(tenant, tenant_name), (rule, rule_name)] = labels.clone();
        metrics::counter!(
            http::metrics::RULE_ANSWERED_TOTAL, tenant => tenant_name, rule => rule_name, "verdict" => verdict
        )
        .absolute(*total);
    }
    if let Some(median) = waits.median() {
        metrics::gauge!(http::metrics::RULE_MEDIAN_WAIT, &labels).set(median.as_secs_f64());
    }
}

/// Judges again what was decided.
pub(super) async fn rehearse(engine: Arc<Engine<RocksKernel>>) {
    engine.rehearse().await;
}

/// Writes what is counted before it is recorded: refusals that came too fast, and what was read.
pub(super) async fn record_counts<K: Kernel>(engine: &Arc<Engine<K>>, which: WhichCounts) -> Result<(), Error> {
    engine.flush_refusals().await?;
    engine.record_accesses(which).await
}

/// Writes counts, and the signed head of the log beside the store, for offline checks.
pub(super) async fn keep_up(engine: Arc<Engine<RocksKernel>>, data_dir: PathBuf, every: Duration) {
    let mut flush = tokio::time::interval(RECORD_COUNTS);
    let mut publish = tokio::time::interval(every);
    let mut told = None;
    loop {
        tell_bundle(&engine, &mut told);
        for (result, total) in engine.shadow_totals().into_iter().filter(|(_, total)| *total > 0) {
            let tenant = engine.tenant().to_string();
            metrics::counter!(http::metrics::SHADOW_TOTAL, "tenant" => tenant, "result" => result).absolute(total);
        }
        notify::tell_metrics(&engine);
        let result = tokio::select! {
            _ = flush.tick() => record_counts(&engine, WhichCounts::Due).await.map_err(|e| e.to_string()),
            _ = publish.tick() => beside::publish(&engine, &data_dir).await,
        };
        if let Err(error) = result {
            tracing::error!(%error, tenant = %engine.tenant(), "cannot keep the log's head or counts");
        }
    }
}

pub(super) async fn tidy(engine: Arc<Engine<RocksKernel>>) {
    let mut ticks = tokio::time::interval(TIDY);
    loop {
        ticks.tick().await;
        match engine.tidy().await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, tenant = %engine.tenant(), "tidied"),
            Err(error) => tracing::error!(%error, tenant = %engine.tenant(), "cannot tidy"),
        }
        match engine.tidy_revocations().await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, tenant = %engine.tenant(), "tidied revocations"),
            Err(error) => tracing::error!(%error, tenant = %engine.tenant(), "cannot tidy revocations"),
        }
    }
}

/// Ready is: the store answers, the clock is believed, and every tenant has a bundle.
pub(super) async fn report_readiness(
    kernel: Arc<RocksKernel>,
    engines: Vec<Arc<Engine<RocksKernel>>>,
    readiness: watch::Sender<Readiness>,
    health: HealthReporter,
) {
    let mut ticks = tokio::time::interval(READINESS);
    loop {
        ticks.tick().await;
        let wrong =
            kernel.health().err().map(|e| e.to_string()).or_else(|| {
                engines.iter().find_map(|e| e.now().err().or_else(|| e.active().err())).map(|e| e.to_string())
            });
        let (state, status) = match wrong {
            None => (Readiness::Ready, ServingStatus::Serving),
            Some(reason) => (Readiness::Failing(reason.into()), ServingStatus::NotServing),
        };
        readiness.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
        health.set_service_status("", status).await;
        for engine in &engines {
            if let Ok(size) = kernel.log_size(engine.tenant()).await {
                #[allow(clippy::cast_precision_loss, reason = "a gauge is a double")]
                metrics::gauge!(http::metrics::LOG_RECORDS, "tenant" => engine.tenant().to_string()).set(size as f64);
            }
        }
    }
}
