//! Logs and traces: who sees what the service does, and never a secret.
//!
//! Log lines go to standard error. Traces go to a collector when one is configured. Both come from the same `tracing`
//! spans, which carry ids and digests only.

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, TelemetryConfig};

/// How long one export to the collector, or the last flush, may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Transports that could write out what they carry when they are made talkative. Their lines finer than `info` are
/// dropped whatever the filter says, because headers hold credentials.
const TRANSPORTS: &[&str] = &["h2", "hyper", "hyper_util", "rustls", "tokio_rustls", "tonic", "tower", "axum"];

/// Why logs or traces cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter means nothing.
    #[error(
        "`{filter}` is not a log filter; write a level (`error`, `warn`, `info`, `debug`, `trace` or `off`) or pairs \
         such as `info,countersign=debug`"
    )]
    Filter {
        /// What was configured.
        filter: String,
    },
    /// Traces cannot be sent there.
    #[error("cannot send traces to `{endpoint}`: {problem}; correct `telemetry.otlp_endpoint`, or remove it")]
    Exporter {
        /// What was configured.
        endpoint: String,
        /// What the exporter says.
        problem: String,
    },
    /// Logs were set up before in this process.
    #[error("logs are already set up in this process; set them up once")]
    Twice,
}

/// Keeps telemetry going. Spans that are not sent yet are sent when it is shut down or dropped.
#[derive(Debug)]
#[must_use = "spans are lost if the guard is dropped before the work is done"]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
}

impl Guard {
    /// Sends what is left, for at most 5 seconds, without blocking the runtime, which must still be running for it.
    pub async fn shutdown(self) {
        // Should the runtime refuse the task, the drop has happened here, which is the same.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(traces) = self.traces.take()
            && let Err(error) = traces.shutdown_with_timeout(EXPORT_TIMEOUT)
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Sets up logs and traces for the process, once. With a collector it must be called inside a tokio runtime; whether the
/// collector answers is not waited for.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(config: &TelemetryConfig) -> Result<Guard, TelemetryError> {
    let terminal = std::io::stderr().is_terminal();
    let lines = match config.log_format {
        LogFormat::Auto if terminal => LogFormat::Text,
        LogFormat::Auto => LogFormat::Json,
        chosen @ (LogFormat::Text | LogFormat::Json) => chosen,
    };
    let lines = match lines {
        LogFormat::Json => {
            fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(std::io::stderr).boxed()
        }
        LogFormat::Text | LogFormat::Auto => {
            fmt::layer().with_ansi(terminal && colour_wanted()).with_writer(std::io::stderr).boxed()
        }
    };
    // The hint keeps the maximum level that of the filter: without it every span of h2 and tokio would be made, and dropped.
    let filter =
        parse_filter(&config.log_filter)?.and(filter_fn(may_be_written).with_max_level_hint(LevelFilter::TRACE));
    let traces = config.otlp_endpoint.as_deref().map(tracer).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer("countersign")).with_filter(LevelFilter::INFO)
    });
    // A layer that is absent counts as one that wants everything, so it is not there at all.
    let mut layers = vec![lines.with_filter(filter).boxed()];
    layers.extend(spans.map(|spans| spans.boxed()));
    tracing_subscriber::registry().with(layers).try_init().map_err(|_| TelemetryError::Twice)?;
    Ok(Guard { traces })
}

/// Whether `filter` means something.
///
/// # Errors
/// [`TelemetryError::Filter`].
pub fn check_filter(filter: &str) -> Result<(), TelemetryError> {
    parse_filter(filter).map(|_| ())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let wrong = || TelemetryError::Filter { filter: filter.to_owned() };
    // A bare word that is no level names a target, so a misspelt level would silence everything.
    let level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let plain = !filter.contains(['[', '{']);
    if plain && !filter.split(',').map(str::trim).all(|part| part.contains('=') || level(part)) {
        return Err(wrong());
    }
    EnvFilter::builder().parse(filter).map_err(|_| wrong())
}

fn may_be_written(line: &Metadata<'_>) -> bool {
    let origin = line.target().split("::").next().unwrap_or_default();
    *line.level() <= tracing::Level::INFO || !TRANSPORTS.contains(&origin)
}

/// <https://no-color.org>: set and not empty means no colour.
fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn tracer(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| TelemetryError::Exporter { endpoint: endpoint.to_owned(), problem: error.to_string() })?;
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("countersign").with_attribute(version).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Makes `span` a child of the caller's trace, if its request has a valid W3C `traceparent`. Call it before the span is
/// entered. A trace id is a name for looking things up and no proof of anything.
pub fn set_parent_from_metadata(metadata: &tonic::metadata::MetadataMap, span: &Span) {
    // A tracer that is not set up has no use for a parent.
    let context = parent(metadata);
    if context.span().span_context().is_valid() {
        let _ = span.set_parent(context);
    }
}

fn parent(metadata: &tonic::metadata::MetadataMap) -> opentelemetry::Context {
    // From nothing, not from the current context: what happens to be entered here is no parent of the request.
    TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &Headers(metadata))
}

struct Headers<'a>(&'a tonic::metadata::MetadataMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        ["traceparent", "tracestate"].into_iter().filter(|key| self.0.contains_key(*key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataMap;

    #[test]
    fn a_misspelt_level_is_refused() {
        for good in
            ["info", "off", "warn,countersign=debug", "info,countersign::grpc=trace", "info,[rpc{method=x}]=debug"]
        {
            assert!(check_filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "info,", "", "countersign", "countersign=loud"] {
            let text = check_filter(bad).unwrap_err().to_string();
            assert!(text.starts_with(&format!("`{bad}` is not a log filter; write a level")), "{text}");
        }
    }

    #[test]
    fn transports_never_write_what_they_carry() {
        struct Count(std::sync::Arc<std::sync::atomic::AtomicUsize>);
        impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Count {
            fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let filter = parse_filter("trace").unwrap().and(filter_fn(may_be_written));
        let subscriber = tracing_subscriber::registry().with(Count(count.clone()).with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "h2::codec", "headers");
            tracing::trace!(target: "hyper", "headers");
            tracing::info!(target: "h2::server", "said aloud");
            tracing::trace!(target: "countersign::grpc", "ours");
        });
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 2);
    }

    #[test]
    fn a_traceparent_names_the_parent() {
        let mut metadata = MetadataMap::new();
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        metadata.insert("traceparent", text.parse().unwrap());
        let context = parent(&metadata);
        assert_eq!(context.span().span_context().trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(context.span().span_context().is_remote());
    }

    #[test]
    fn a_malformed_traceparent_is_no_parent() {
        for bad in [
            "",
            "00-0-0-01",
            "zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("traceparent", bad.parse().unwrap());
            assert!(!parent(&metadata).span().span_context().is_valid(), "{bad}");
            set_parent_from_metadata(&metadata, &Span::none());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_left_is_sent_at_the_end() {
        use opentelemetry::trace::{Span as _, Tracer as _};
        let collector = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = collector.local_addr().unwrap();
        let asked = tokio::spawn(async move { collector.accept().await.is_ok() });
        let provider = tracer(&format!("http://{address}")).unwrap();
        provider.tracer("test").start("work").end();
        Guard { traces: Some(provider) }.shutdown().await;
        assert!(asked.await.unwrap());
    }
}
