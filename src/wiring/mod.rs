//! The one place where concrete parts meet: configuration, store, engines, services, listeners.

mod admission;
mod background;
mod beside;
mod notify;
mod offline;
mod place;
mod publishing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use countersign_core::restraint::AskingBudget;
use countersign_core::review::GlassBudget;
use countersign_core::time::{ShiftedClock, SystemClock};
use countersign_core::{Clock, TenantId, Timestamp};
use countersign_engine::{Engine, Error, Limits, Parts, WhichCounts};
use countersign_store::{Kernel, OpenError, RocksKernel};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::Server as Transport;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use admission::Requirements;
use background::{
    BundleKeeper, count_figures, follow_conditions, follow_shadow, index_log, keep_up, rehearse, report_readiness, tidy,
};

use crate::config::{Config, TenantConfig};
use crate::custody::Custody;
use crate::grpc::{
    Approvals, Audit, Backend, Backups, BreakGlasses, Capabilities, Decisions, Gated, Notifications, Outcomes,
    Policies, Revocations, Sessions, SigningKeys, StoredEntities, Tenants,
};
use crate::http::{self, Readiness};
use crate::identity::{Authenticator, DevIssuer};
use crate::keystore::{self, KeyCipher};
use crate::proto;
use crate::proto::approval_service_server::ApprovalServiceServer;
use crate::proto::audit_service_server::AuditServiceServer;
use crate::proto::backup_service_server::BackupServiceServer;
use crate::proto::break_glass_service_server::BreakGlassServiceServer;
use crate::proto::capability_service_server::CapabilityServiceServer;
use crate::proto::decision_service_server::DecisionServiceServer;
use crate::proto::entity_service_server::EntityServiceServer;
use crate::proto::key_service_server::KeyServiceServer;
use crate::proto::notification_service_server::NotificationServiceServer;
use crate::proto::outcome_service_server::OutcomeServiceServer;
use crate::proto::policy_service_server::PolicyServiceServer;
use crate::proto::revocation_service_server::RevocationServiceServer;
use crate::proto::session_service_server::SessionServiceServer;
use crate::tls::{ServerTls, TlsError};
use crate::{listen, telemetry};

pub use offline::{OfflineLog, offline_logs};
pub use place::{Restored, init, restore};

use place::{open_store, store_path};
use publishing::{publish_log, publishers};

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// The store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There are no keys.
    #[error(transparent)]
    Keys(#[from] keystore::KeystoreError),
    /// The development issuer has no key.
    #[error(transparent)]
    DevIssuer(#[from] crate::identity::DevIssuerError),
    /// An issuer cannot be used.
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    /// An engine does not start.
    #[error("tenant `{tenant}`: {source}")]
    Engine {
        /// The tenant.
        tenant: TenantId,
        /// Why.
        source: Error,
    },
    /// The head that is kept beside the store is not of the log that is there.
    #[error("the head of the log in `{}` is not continued: {reason}", path.display())]
    Head {
        /// Where it is.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A sink of notifications cannot be used.
    #[error(transparent)]
    Sink(#[from] crate::sinks::SinkError),
    /// TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Logs or traces cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    /// A network address cannot be used.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Something else of the operating system's.
    #[error("{what}: {reason}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What came of it.
        reason: String,
    },
}

fn os(what: &'static str) -> impl FnOnce(std::io::Error) -> WiringError {
    move |error| WiringError::Os { what, reason: error.to_string() }
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`WiringError`].
pub async fn serve(config: Config) -> Result<(), WiringError> {
    let guard = telemetry::init(&config.telemetry)?;
    // From here on SIGHUP has files read again, and ends nothing, whether any are followed or not.
    let _hangup =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).map_err(os("cannot wait for SIGHUP"))?;
    let server = Server::start(config).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(os("cannot wait for SIGTERM"))?;
    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = tokio::signal::ctrl_c() => None,
        reason = server.stopped() => Some(reason),
    };
    server.shutdown().await?;
    guard.shutdown().await;
    match failed {
        None => Ok(()),
        Some(reason) => Err(WiringError::Os { what: "the server stopped", reason }),
    }
}

/// Starts servers.
#[derive(Debug, Clone, Copy)]
pub struct Server;

/// A server that runs until it is shut down.
#[derive(Debug)]
pub struct RunningServer {
    endpoint: String,
    http: std::net::SocketAddr,
    kernel: Arc<RocksKernel>,
    tenants: Vec<(Arc<Engine<RocksKernel>>, PathBuf)>,
    readiness: watch::Sender<Readiness>,
    health: HealthReporter,
    stop_grpc: oneshot::Sender<()>,
    stop_http: oneshot::Sender<()>,
    grpc: JoinHandle<Result<(), tonic::transport::Error>>,
    web: JoinHandle<std::io::Result<()>>,
    tasks: Vec<JoinHandle<()>>,
    drain: Duration,
    data_dir: PathBuf,
}

impl Server {
    /// Starts a server. When this returns, its addresses take requests.
    ///
    /// # Errors
    /// [`WiringError`].
    pub async fn start(config: Config) -> Result<RunningServer, WiringError> {
        if config.is_development() {
            DevIssuer::open_or_create(&config.server.data_dir)?;
        }
        let authenticator = Arc::new(Authenticator::new(&config)?);
        let upkeep = authenticator.upkeep();
        let cipher = KeyCipher::configured(&config.keys)?;
        let kernel = Arc::new(open_store(&config).await?);
        let (mut tenants, mut sinks) = (Tenants::new(), BTreeMap::new());
        for (tenant, settings) in &config.tenants {
            sinks.insert(tenant.clone(), notify::open(tenant, settings)?);
            let engine = open_engine(&config, tenant, settings, &kernel, &cipher).await?;
            beside::continues(&engine, &config.server.data_dir).await?;
            tenants.insert(tenant.clone(), (Arc::new(engine), settings.bundle.clone()));
        }
        let all: Vec<_> = tenants.values().cloned().collect();
        let mut publishers = publishers(&config.log, &all)?;

        let (grpc_listener, address) = bind(config.server.listen).await?;
        let (http_listener, http_address) = bind(config.server.http).await?;
        let (readiness, ready) = watch::channel(Readiness::Starting);
        let (health, health_service) = tonic_health::server::health_reporter();
        let (stop_grpc, stopped_grpc) = oneshot::channel::<()>();
        let (stop_http, stopped_http) = oneshot::channel::<()>();

        let backend = Backend::new(tenants, authenticator, config.limits.clone(), ready.clone());
        let (data_dir, backups) = (config.server.data_dir.clone(), config.backup.directory.clone());
        let custody = Arc::new(Custody { data_dir, cipher, kernel: Arc::clone(&kernel), backups });
        let router = router(&config, backend, &custody, health_service)?;
        let most = config.limits.connections as usize;
        let tls =
            config.server.tls.as_ref().map(|files| ServerTls::read(files, Some(Authenticator::client_verifier())));
        let tls = tls.transpose()?;
        let secured = tls.as_ref().map(|tls| Arc::clone(&tls.config));
        let incoming = listen::secured(listen::incoming(grpc_listener, most), secured, most);
        let grpc = tokio::spawn(router.serve_with_incoming_shutdown(incoming, async {
            let _dropped_means_stop_too = stopped_grpc.await;
        }));
        let web = tokio::spawn(http::serve(http_listener, recorder()?, ready, async {
            let _dropped_means_stop_too = stopped_http.await;
        }));

        let mut tasks: Vec<_> = upkeep.into_iter().map(tokio::spawn).collect();
        tasks.extend(tls.map(|tls| tokio::spawn(tls.followed().follow())));
        for (engine, bundle) in &all {
            let every = config.log.checkpoint_every();
            tasks.push(tokio::spawn(keep_up(Arc::clone(engine), config.server.data_dir.clone(), every)));
            tasks.extend(
                publishers.remove(engine.tenant()).map(|publisher| tokio::spawn(publish_log(publisher, every))),
            );
            tasks.push(tokio::spawn(tidy(Arc::clone(engine))));
            tasks.push(tokio::spawn(count_figures(Arc::clone(engine))));
            tasks.push(tokio::spawn(index_log(Arc::clone(engine))));
            tasks.push(tokio::spawn(follow_conditions(Arc::clone(engine))));
            tasks.extend(notify::start(engine, sinks.remove(engine.tenant()).unwrap_or_default()));
            let Some(settings) = config.tenants.get(engine.tenant()) else { continue };
            if let Some(dir) = settings.shadow.clone() {
                tasks.push(tokio::spawn(follow_shadow(Arc::clone(engine), dir)));
                tasks.push(tokio::spawn(rehearse(Arc::clone(engine))));
            }
            // What was active answers while another one is proved.
            let mut keeper = BundleKeeper::new(Arc::clone(engine), bundle.clone(), settings.publishing.watch).await;
            if !settings.publishing.proofs || engine.active().is_err() {
                keeper.start().await;
            }
            tasks.push(tokio::spawn(keeper.run()));
        }
        tasks.push(tokio::spawn(report_readiness(
            Arc::clone(&kernel),
            all.iter().map(|(engine, _)| Arc::clone(engine)).collect(),
            readiness.clone(),
            health.clone(),
        )));
        let scheme = if config.server.tls.is_some() { "https" } else { "http" };
        let server = RunningServer {
            endpoint: format!("{scheme}://{address}"),
            http: http_address,
            kernel,
            tenants: all,
            readiness,
            health,
            stop_grpc,
            stop_http,
            grpc,
            web,
            tasks,
            drain: config.server.drain(),
            data_dir: config.server.data_dir.clone(),
        };
        tracing::info!(endpoint = %server.endpoint, http = %server.http, "serving");
        Ok(server)
    }
}

impl RunningServer {
    /// Where gRPC is served: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Waits until the server stops by itself, which it should not.
    pub async fn stopped(&self) -> String {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            if self.grpc.is_finished() {
                return "the gRPC listener ended".to_owned();
            }
        }
    }

    /// Drains: takes nothing new, lets what runs end within the configured time, writes what is counted, signs the heads and
    /// closes the store.
    ///
    /// # Errors
    /// [`WiringError::Os`] if a part broke off.
    pub async fn shutdown(self) -> Result<(), WiringError> {
        let Self {
            kernel, tenants, readiness, health, stop_grpc, stop_http, grpc, web, tasks, drain, data_dir, ..
        } = self;
        for task in &tasks {
            task.abort();
        }
        let _nobody_asks = readiness.send(Readiness::Draining);
        health.set_service_status("", ServingStatus::NotServing).await;
        let _already_stopped = stop_grpc.send(());
        let abort = grpc.abort_handle();
        let drained = match tokio::time::timeout(drain, grpc).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(WiringError::Os { what: "the gRPC server failed", reason: error.to_string() }),
            Ok(Err(error)) => Err(WiringError::Os { what: "the gRPC server broke off", reason: error.to_string() }),
            Err(_elapsed) => {
                tracing::warn!("some requests did not end within the drain time and were cut off");
                abort.abort();
                Ok(())
            }
        };
        for task in tasks {
            let _aborted = task.await;
        }
        for (engine, _) in &tenants {
            if let Err(error) = background::record_counts(engine, WhichCounts::All).await {
                tracing::error!(%error, "cannot write the counts of refusals and reads");
            }
            if let Err(error) = beside::publish(engine, &data_dir).await {
                tracing::error!(%error, "cannot write the head of the log");
            }
        }
        let _already_stopped = stop_http.send(());
        let _served = web.await;
        tokio::task::spawn_blocking(move || kernel.shutdown())
            .await
            .map_err(|e| WiringError::Os { what: "cannot close the store", reason: e.to_string() })?;
        tracing::info!("stopped");
        drained
    }
}

fn router(
    config: &Config,
    backend: Backend,
    custody: &Arc<Custody>,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) -> Result<tonic::transport::server::Router, WiringError> {
    let limits = &config.limits;
    let size = limits.message_bytes as usize;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let unreflected =
        |e: tonic_reflection::server::Error| WiringError::Os { what: "cannot serve reflection", reason: e.to_string() };
    // Many tools, grpcio's own among them, still ask for the older of the two.
    let (reflection, older) =
        (reflection().build_v1().map_err(unreflected)?, reflection().build_v1alpha().map_err(unreflected)?);
    let mut transport = Transport::builder()
        // For the whole of a message to come, and its answer; streams are timed until they begin.
        .timeout(limits.request_timeout().saturating_mul(2))
        .max_concurrent_streams(limits.requests_per_connection)
        .http2_max_header_list_size(limits.header_bytes)
        .http2_keepalive_interval(Some(limits.keepalive()))
        .http2_keepalive_timeout(Some(limits.keepalive()));
    Ok(transport
        .add_service(health)
        .add_service(reflection)
        .add_service(older)
        .add_service(Gated::new(
            DecisionServiceServer::new(Decisions(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            ApprovalServiceServer::new(Approvals(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            BreakGlassServiceServer::new(BreakGlasses(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            CapabilityServiceServer::new(Capabilities(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            RevocationServiceServer::new(Revocations(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            OutcomeServiceServer::new(Outcomes(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            SessionServiceServer::new(Sessions(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            EntityServiceServer::new(StoredEntities(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            NotificationServiceServer::new(Notifications(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            KeyServiceServer::new(SigningKeys(backend.clone(), Arc::clone(custody))).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            BackupServiceServer::new(Backups(backend.clone(), Arc::clone(custody))).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            PolicyServiceServer::new(Policies(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        ))
        .add_service(Gated::new(
            AuditServiceServer::new(Audit(backend.clone())).max_decoding_message_size(size),
            backend.clone(),
        )))
}

/// The recorder of metrics: one for the process, however many servers it runs.
fn recorder() -> Result<PrometheusHandle, WiringError> {
    static RECORDER: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    let recorder = RECORDER.get_or_init(|| http::metrics::install().map_err(|e| e.to_string()));
    recorder.clone().map_err(|reason| WiringError::Os { what: "cannot record metrics", reason })
}

async fn bind(address: std::net::SocketAddr) -> Result<(TcpListener, std::net::SocketAddr), WiringError> {
    let failed = |source| WiringError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn open_engine(
    config: &Config,
    tenant: &TenantId,
    settings: &TenantConfig,
    kernel: &Arc<RocksKernel>,
    cipher: &KeyCipher,
) -> Result<Engine<RocksKernel>, WiringError> {
    let failed = |source| WiringError::Engine { tenant: tenant.clone(), source };
    let fresh = kernel.log_size(tenant).await.map_err(|e| failed(e.into()))? == 0;
    let keys = keystore::open(&config.server.data_dir, tenant, &settings.log_origin, fresh, cipher)?;
    let parts = Parts {
        tenant: tenant.clone(),
        limits: Limits {
            token_ttl: config.tokens.ttl(),
            completion_ttl: config.tokens.completion(),
            session_ttl: config.sessions.default_ttl(),
            max_session_ttl: config.sessions.max_ttl(),
            asking: AskingBudget {
                pending: config.approvals.pending_per_principal,
                per_hour: config.approvals.asked_per_hour_per_principal,
            },
            keep_records: config.log.keep(),
            publishes: config.log.tiles.is_some(),
            glass: GlassBudget { times: config.break_glass.times_per_person, within: config.break_glass.window() },
            ..Limits::default()
        },
        signing: keys.signing,
        commitment: keys.commitment,
        log: keys.log,
        development: config.is_development(),
        admission: Arc::new(Requirements::new(&settings.publishing)),
        sinks: notify::settings(&settings.sinks),
    };
    let clock: Box<dyn Clock> = match config.development_clock.filter(|_| config.is_development()) {
        Some(start) => Box::new(ShiftedClock::starting_at(Timestamp::from_millis(start))),
        None => Box::new(SystemClock::default()),
    };
    Engine::open(Arc::clone(kernel), clock, parts).await.map_err(failed)
}
