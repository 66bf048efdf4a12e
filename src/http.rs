//! The HTTP address: metrics for Prometheus, and what an orchestrator asks. It answers three paths, tells no secret and
//! changes nothing.

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How often samples are folded into their histograms. Without it, they would pile up while nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Whether requests should be sent here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Readiness {
    /// The engine is not up yet.
    #[default]
    Starting,
    /// Send them.
    Ready,
    /// It is up and cannot answer, for instance because a sync failed. The reason is for the operator.
    Failing(Cow<'static, str>),
    /// It is on its way out: what runs may end, nothing new is taken.
    Draining,
}

impl Readiness {
    fn answer(&self) -> (StatusCode, Cow<'static, str>) {
        match self {
            Self::Ready => (StatusCode::OK, Cow::Borrowed("ready\n")),
            Self::Starting => (StatusCode::SERVICE_UNAVAILABLE, Cow::Borrowed("starting\n")),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, Cow::Borrowed("draining\n")),
            Self::Failing(reason) => (StatusCode::SERVICE_UNAVAILABLE, Cow::Owned(format!("failing: {reason}\n"))),
        }
    }
}

#[derive(Clone)]
struct Shared {
    metrics: PrometheusHandle,
    readiness: watch::Receiver<Readiness>,
}

/// Serves `/metrics`, `/livez` and `/readyz` on `listener` until `shutdown` is done and the answers under way are sent.
/// Shut it down after the gRPC server has drained, so that `/readyz` can say so.
///
/// # Errors
/// What the operating system says when the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: PrometheusHandle,
    readiness: watch::Receiver<Readiness>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let upkeep = {
        let metrics = metrics.clone();
        async move {
            let mut ticks = tokio::time::interval(UPKEEP);
            loop {
                ticks.tick().await;
                metrics.run_upkeep();
            }
        }
    };
    let server = axum::serve(listener, router(metrics, readiness)).with_graceful_shutdown(shutdown);
    tokio::select! {
        served = server => served,
        () = upkeep => Ok(()),
    }
}

fn router(metrics: PrometheusHandle, readiness: watch::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(async |State(shared): State<Shared>| shared.readiness.borrow().answer()))
        .with_state(Shared { metrics, readiness })
}

async fn render(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render()).into_response()
}

/// The names of all metrics, and what they mean. Labels take few values, none of which a caller chooses.
pub mod metrics {
    use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

    /// Counter: decisions, by `verdict` (`allow`, `deny`, `needs_approval`).
    pub const DECISIONS_TOTAL: &str = "countersign_decisions_total";
    /// Histogram, seconds: one decision in the engine, its commit included.
    pub const DECISION_SECONDS: &str = "countersign_decision_seconds";
    /// Histogram, seconds: whole RPCs, by `method` and gRPC `code`.
    pub const RPC_SECONDS: &str = "countersign_rpc_seconds";
    /// Gauge: RPCs under way.
    pub const RPCS_IN_FLIGHT: &str = "countersign_rpcs_in_flight";
    /// Counter: requests refused for load, by `limit`.
    pub const LIMITED_TOTAL: &str = "countersign_limited_total";
    /// Counter: credentials refused, by `reason`.
    pub const CREDENTIALS_REFUSED_TOTAL: &str = "countersign_credentials_refused_total";
    /// Counter: attempts to fetch an issuer's keys, by `issuer` and `result` (`changed`, `unchanged`, or what failed).
    pub const ISSUER_KEYS_TOTAL: &str = "countersign_issuer_keys_total";
    /// Counter: files that changed and cannot be used, what was read before staying, by configuration `key`.
    pub const FILES_REFUSED_TOTAL: &str = "countersign_files_refused_total";
    /// Counter: capabilities minted.
    pub const MINTS_TOTAL: &str = "countersign_mints_total";
    /// Counter: redeems, by `result` (`redeemed`, `replayed`, `refused`).
    pub const REDEEMS_TOTAL: &str = "countersign_redeems_total";
    /// Counter: completions, by `outcome` (`succeeded`, `failed`).
    pub const COMPLETIONS_TOTAL: &str = "countersign_completions_total";
    /// Counter: what happened to approval requests, by `event` (`requested`, `vote`, `withdrawn`, `cancelled`).
    pub const APPROVALS_TOTAL: &str = "countersign_approvals_total";
    /// Counter: questions that a rule asked, by `tenant` and `rule`. This and the next three are counted from the log.
    pub const RULE_ASKED_TOTAL: &str = "countersign_approval_rule_asked_total";
    /// Counter: questions of a rule that people answered, by `tenant`, `rule` and `verdict` (`approve`, `deny`).
    pub const RULE_ANSWERED_TOTAL: &str = "countersign_approval_rule_answered_total";
    /// Counter: approving votes within three seconds of the first sight of the request, by `tenant` and `rule`.
    pub const RULE_QUICK_TOTAL: &str = "countersign_approval_rule_quick_total";
    /// Gauge, seconds: the median time from question to vote, by `tenant` and `rule`.
    pub const RULE_MEDIAN_WAIT: &str = "countersign_approval_rule_median_wait_seconds";
    /// Counter: times that a person broke the glass.
    pub const GLASS_BROKEN_TOTAL: &str = "countersign_glass_broken_total";
    /// Gauge, always 1: the current bundle, by `tenant`, `digest` and `revision`.
    pub const BUNDLE_INFO: &str = "countersign_bundle_info";
    /// Counter: bundles that were refused, the old one staying, by `tenant`.
    pub const BUNDLE_REFUSED_TOTAL: &str = "countersign_bundle_refused_total";
    /// Counter: decisions that the shadow bundle judged again, by `tenant` and `result` (`same`, `different`, `skipped`).
    pub const SHADOW_TOTAL: &str = "countersign_shadow_decisions_total";
    /// Counter: notifications, by `tenant`, `sink` and `result` (`delivered`; `failed`: an attempt; `given_up`: became a dead
    /// letter; `forgotten`: a dead letter that is gone for its age, or for want of room).
    pub const NOTIFICATIONS_TOTAL: &str = "countersign_notifications_total";
    /// Gauge: notifications that wait, by `tenant` and `sink`.
    pub const NOTIFICATION_BACKLOG: &str = "countersign_notification_backlog";
    /// Gauge: dead letters, by `tenant` and `sink`.
    pub const NOTIFICATION_DEAD_LETTERS: &str = "countersign_notification_dead_letters";
    /// Gauge: 1 while a sink takes nothing, by `tenant` and `sink`.
    pub const NOTIFICATION_SINK_DOWN: &str = "countersign_notification_sink_down";
    /// Gauge: records in the log, by `tenant`.
    pub const LOG_RECORDS: &str = "countersign_log_records";
    /// Gauge: records that the published checkpoint covers, by `tenant`.
    pub const LOG_PUBLISHED: &str = "countersign_log_published_records";
    /// Counter: checkpoints that witnesses were asked to cosign, by `tenant`, `witness` and `result` (`cosigned`, `failed`).
    pub const WITNESS_TOTAL: &str = "countersign_witness_total";
    /// Gauge, always 1: the running version, by `version`.
    pub const BUILD_INFO: &str = "countersign_build_info";

    /// Upper ends of the histograms' buckets, in seconds: from what one evaluation takes to the longest time-out.
    pub const SECONDS: &[f64] =
        &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

    /// Makes this process record metrics, once, and describes them all. The handle renders them.
    ///
    /// # Errors
    /// The builder's, if another recorder is installed.
    pub fn install() -> Result<PrometheusHandle, BuildError> {
        let recorder = recorder()?;
        let handle = recorder.handle();
        ::metrics::set_global_recorder(recorder)?;
        describe();
        ::metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(handle)
    }

    pub(super) fn recorder() -> Result<PrometheusRecorder, BuildError> {
        let builder =
            PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?;
        Ok(builder.build_recorder())
    }

    /// Gives every metric its help text, at the recorder of this thread or process.
    pub fn describe() {
        describe_counter!(DECISIONS_TOTAL, "Decisions by verdict");
        describe_histogram!(DECISION_SECONDS, Unit::Seconds, "One decision in the engine, its commit included");
        describe_histogram!(RPC_SECONDS, Unit::Seconds, "Whole RPCs by method and gRPC code");
        describe_gauge!(RPCS_IN_FLIGHT, "RPCs under way");
        describe_counter!(LIMITED_TOTAL, "Requests refused for load, by limit");
        describe_counter!(CREDENTIALS_REFUSED_TOTAL, "Credentials refused by reason");
        describe_counter!(ISSUER_KEYS_TOTAL, "Attempts to fetch an issuer's keys, by result");
        describe_counter!(FILES_REFUSED_TOTAL, "Files that changed and cannot be used, what was read before staying");
        describe_counter!(MINTS_TOTAL, "Capabilities minted");
        describe_counter!(REDEEMS_TOTAL, "Redeems by result");
        describe_counter!(COMPLETIONS_TOTAL, "Completions by outcome");
        describe_counter!(APPROVALS_TOTAL, "What happened to approval requests, by event");
        describe_counter!(RULE_ASKED_TOTAL, "Questions that a rule asked");
        describe_counter!(RULE_ANSWERED_TOTAL, "Questions of a rule that people answered, by verdict");
        describe_counter!(RULE_QUICK_TOTAL, "Approving votes within three seconds of the first sight of the request");
        describe_gauge!(RULE_MEDIAN_WAIT, Unit::Seconds, "The median time from question to vote");
        describe_counter!(GLASS_BROKEN_TOTAL, "Times that a person broke the glass");
        describe_gauge!(BUNDLE_INFO, "Always 1: the current bundle by tenant, digest and revision");
        describe_counter!(BUNDLE_REFUSED_TOTAL, "Bundles that were refused, the old one staying");
        describe_counter!(SHADOW_TOTAL, "Decisions that the shadow bundle judged again, by result");
        describe_counter!(NOTIFICATIONS_TOTAL, "Notifications by sink and result");
        describe_gauge!(NOTIFICATION_BACKLOG, "Notifications that wait");
        describe_gauge!(NOTIFICATION_DEAD_LETTERS, "Notifications that were given up");
        describe_gauge!(NOTIFICATION_SINK_DOWN, "1 while a sink takes nothing");
        describe_gauge!(LOG_RECORDS, "Records in the log");
        describe_gauge!(LOG_PUBLISHED, "Records that the published checkpoint covers");
        describe_counter!(WITNESS_TOTAL, "Checkpoints that witnesses were asked to cosign, by result");
        describe_gauge!(BUILD_INFO, "Always 1: the running version");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    struct Running {
        address: std::net::SocketAddr,
        readiness: watch::Sender<Readiness>,
        stop: oneshot::Sender<()>,
        task: tokio::task::JoinHandle<std::io::Result<()>>,
    }

    async fn run() -> Running {
        let recorder = metrics::recorder().unwrap();
        ::metrics::with_local_recorder(&recorder, || {
            metrics::describe();
            ::metrics::counter!(metrics::DECISIONS_TOTAL, "verdict" => "deny").increment(2);
            ::metrics::histogram!(metrics::RPC_SECONDS, "method" => "Decide", "code" => "OK").record(0.003);
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (readiness, receiver) = watch::channel(Readiness::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, recorder.handle(), receiver, async {
            let _ = stopped.await;
        }));
        Running { address, readiness, stop, task }
    }

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let text = format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_is_told_with_its_reason() {
        let server = run().await;
        for (readiness, status, body) in [
            (Readiness::Starting, "503", "starting"),
            (Readiness::Ready, "200", "ready"),
            (Readiness::Failing("a sync failed".into()), "503", "failing: a sync failed"),
            (Readiness::Draining, "503", "draining"),
        ] {
            server.readiness.send_replace(readiness);
            let answer = ask(server.address, "GET /readyz").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{body}\n")), "{answer}");
            assert!(ask(server.address, "GET /livez").await.starts_with("HTTP/1.1 200 "));
        }
    }

    #[tokio::test]
    async fn metrics_are_rendered_with_buckets() {
        let server = run().await;
        let answer = ask(server.address, "GET /metrics").await;
        assert!(answer.contains("countersign_decisions_total{verdict=\"deny\"} 2"), "{answer}");
        assert!(answer.contains("# HELP countersign_rpc_seconds Whole RPCs"), "{answer}");
        assert!(answer.contains("le=\"0.0025\"} 0\n"), "{answer}");
        assert!(answer.contains("le=\"0.005\"} 1\n"), "{answer}");
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        let server = run().await;
        for request in ["GET /", "GET /metrics/", "GET //metrics", "GET /%6detrics", "GET /debug"] {
            assert!(ask(server.address, request).await.starts_with("HTTP/1.1 404 "), "{request}");
        }
        for request in ["POST /metrics", "DELETE /readyz"] {
            assert!(ask(server.address, request).await.starts_with("HTTP/1.1 405 "), "{request}");
        }
    }

    #[tokio::test]
    async fn it_ends_when_asked() {
        let server = run().await;
        server.stop.send(()).unwrap();
        server.task.await.unwrap().unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }
}
