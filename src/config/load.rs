//! Reading a configuration: the file, then environment and flags.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use countersign_core::TenantId;

use super::check::check;
use super::issuer::{REFRESH_SECONDS, STALE_SECONDS};
use super::keeping::resolve_keeping;
use super::log::resolve_log;
use super::syntax::syntax;
use super::{
    Algorithm, Approvals, ApprovingConfig, Config, ConfigError, DEV_APPROVING_AUDIENCE, DEV_AUDIENCE, DEV_ISSUER,
    DEV_METHOD, DEV_PUBLIC_KEY_FILE, DEV_TENANT, IssuerConfig, LogFormat, PublishingConfig, SubjectKind, TenantConfig,
    TlsConfig,
};

/// What flags and environment say; a flag wins over its variable, and both over the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Overrides {
    /// Configuration file (TOML); see docs/configuration.md for its keys
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_CONFIG")]
    pub config: Option<PathBuf>,

    /// Address of the gRPC API; without TLS it must be loopback
    #[arg(long, value_name = "IP:PORT", env = "COUNTERSIGN_LISTEN", help_heading = "Server")]
    pub listen: Option<SocketAddr>,

    /// Address of /metrics, /livez and /readyz
    #[arg(long, value_name = "IP:PORT", env = "COUNTERSIGN_HTTP", help_heading = "Server")]
    pub http: Option<SocketAddr>,

    /// Directory of store, keys and log; one running server owns it
    #[arg(long, value_name = "DIR", env = "COUNTERSIGN_DATA_DIR", help_heading = "Server")]
    pub data_dir: Option<PathBuf>,

    /// How long requests in flight may take to end after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", env = "COUNTERSIGN_DRAIN_SECONDS", help_heading = "Server")]
    pub drain_seconds: Option<u32>,

    /// Certificate chain of the gRPC API (PEM file); needs --tls-key
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_TLS_CERTIFICATE", help_heading = "Server")]
    pub tls_certificate: Option<PathBuf>,

    /// Private key of the gRPC API (PEM file); needs --tls-certificate
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_TLS_KEY", help_heading = "Server")]
    pub tls_key: Option<PathBuf>,

    /// Which log lines are written, such as `info` or `info,countersign=debug`
    #[arg(long = "log", value_name = "FILTER", env = "COUNTERSIGN_LOG", help_heading = "Telemetry")]
    pub log_filter: Option<String>,

    /// How log lines look
    #[arg(long, value_name = "FORMAT", env = "COUNTERSIGN_LOG_FORMAT", help_heading = "Telemetry")]
    pub log_format: Option<LogFormat>,

    /// OpenTelemetry collector that traces go to (OTLP over gRPC), such as http://127.0.0.1:4317
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_OTLP_ENDPOINT", help_heading = "Telemetry")]
    pub otlp_endpoint: Option<String>,
}

impl Overrides {
    fn apply(&self, config: &mut Config) -> Result<(), ConfigError> {
        // Destructured, so that a new flag that is not applied does not compile.
        let Self {
            config: _,
            listen,
            http,
            data_dir,
            drain_seconds,
            tls_certificate,
            tls_key,
            log_filter,
            log_format,
            otlp_endpoint,
        } = self;
        let Config { server, telemetry, .. } = config;
        set(&mut server.listen, listen.as_ref());
        set(&mut server.http, http.as_ref());
        set(&mut server.data_dir, data_dir.as_ref());
        set(&mut server.drain_seconds, drain_seconds.as_ref());
        set(&mut telemetry.log_filter, log_filter.as_ref());
        set(&mut telemetry.log_format, log_format.as_ref());
        if otlp_endpoint.is_some() {
            telemetry.otlp_endpoint.clone_from(otlp_endpoint);
        }
        match (&mut server.tls, tls_certificate, tls_key) {
            (_, None, None) => {}
            (Some(tls), certificate, key) => {
                set(&mut tls.certificate, certificate.as_ref());
                set(&mut tls.key, key.as_ref());
            }
            (tls @ None, Some(certificate), Some(key)) => {
                *tls = Some(TlsConfig { certificate: certificate.clone(), key: key.clone() });
            }
            (None, certificate, _) => {
                let (key, other) = match certificate {
                    Some(_) => ("server.tls.key", "`--tls-key`"),
                    None => ("server.tls.certificate", "`--tls-certificate`"),
                };
                let problem = format!("missing; a certificate and its key go together, so give {other} too");
                return Err(ConfigError::Value { key: key.to_owned(), problem });
            }
        }
        Ok(())
    }
}

fn set<T: Clone>(target: &mut T, source: Option<&T>) {
    if let Some(source) = source {
        target.clone_from(source);
    }
}

impl Config {
    /// The configuration of a production server: the defaults, the file at `path` (else at `overrides.config`) if there
    /// is one, then `overrides`. Relative paths in the file start at the file's directory, those in `overrides` at the
    /// working directory.
    ///
    /// # Errors
    /// [`ConfigError`], naming file, line and key as far as there are any. Whether the files that it names exist is not
    /// looked at here.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut config = match path.or(overrides.config.as_deref()) {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                parse(path, &text)?
            }
            None => Self::default(),
        };
        overrides.apply(&mut config)?;
        check(&config)?;
        Ok(config)
    }

    /// The configuration of a development server (`serve --dev`): one tenant [`DEV_TENANT`] with the bundle in the
    /// directory `bundle`, the development issuer, everything else by default, on loopback only. Data lie in
    /// `overrides.data_dir`, else in `data_dir`. The issuer's public key is expected there
    /// ([`DEV_PUBLIC_KEY_FILE`]); [`crate::identity::DevIssuer::open_or_create`] writes it.
    ///
    /// # Errors
    /// [`ConfigError`]; also when a file is named, since it would be ignored.
    pub fn development(data_dir: &Path, bundle: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        if let Some(path) = &overrides.config {
            return Err(ConfigError::DevelopmentWithFile { path: path.clone() });
        }
        let mut config = Self { development: true, ..Self::default() };
        // So that what is kept, and dropped, can be rehearsed with a clock of its own.
        config.log.keep_days = Some(1);
        config.server.data_dir = data_dir.to_owned();
        // Whoever tries things out asks and asks, and is all the people there are.
        config.approvals = Approvals { pending_per_principal: 100, asked_per_hour_per_principal: 10_000 };
        overrides.apply(&mut config)?;
        config.backup.directory = Some(config.server.data_dir.join("backups"));
        let tenant = TenantId::new(DEV_TENANT)
            .map_err(|error| ConfigError::Value { key: "tenants".to_owned(), problem: error.to_string() })?;
        let issuer = IssuerConfig {
            issuer: DEV_ISSUER.to_owned(),
            audience: DEV_AUDIENCE.to_owned(),
            algorithms: vec![Algorithm::EdDSA],
            keys: Some(config.server.data_dir.join(DEV_PUBLIC_KEY_FILE)),
            jwks_uri: None,
            discovery: false,
            ca: None,
            jwks_token: None,
            refresh_seconds: REFRESH_SECONDS,
            stale_seconds: STALE_SECONDS,
            subjects: vec![SubjectKind::Person, SubjectKind::Agent, SubjectKind::Service],
            id_prefix: String::new(),
            max_age_seconds: None,
            subject: None,
            groups: None,
            owner: None,
            required: BTreeMap::new(),
            approving: Some(ApprovingConfig {
                audience: DEV_APPROVING_AUDIENCE.to_owned(),
                // As long as the credential holds: it proves nothing at any time, and clocks of tests run ahead.
                max_age_seconds: u32::MAX,
                amr: vec![DEV_METHOD.to_owned()],
            }),
        };
        let log_origin = format!("dev.countersign.invalid/{DEV_TENANT}");
        config.tenants.insert(
            tenant,
            TenantConfig {
                bundle: bundle.to_owned(),
                log_origin,
                issuers: vec![issuer],
                trust_domains: Vec::new(),
                shadow: None,
                publishing: PublishingConfig::default(),
                sinks: Vec::new(),
            },
        );
        check(&config)?;
        Ok(config)
    }

    /// The configuration as a TOML file that, loaded, gives it again (a development server's aside). Without secrets,
    /// because there are none in it.
    ///
    /// # Errors
    /// [`ConfigError::Print`] if a path is not UTF-8.
    pub fn effective_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|error| ConfigError::Print(error.to_string()))
    }
}

fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let mut config: Config = toml::from_str(text).map_err(|error| syntax(path, text, &error))?;
    let base = path.parent().unwrap_or(Path::new(""));
    // Joining an absolute path gives that path. An empty one stays empty, so that the check finds it.
    let resolve = |path: &mut PathBuf| {
        if !path.as_os_str().is_empty() {
            *path = base.join(&*path);
        }
    };
    resolve(&mut config.server.data_dir);
    resolve_keeping(&mut config, resolve);
    resolve_log(&mut config, resolve);
    if let Some(tls) = &mut config.server.tls {
        resolve(&mut tls.certificate);
        resolve(&mut tls.key);
    }
    for tenant in config.tenants.values_mut() {
        resolve(&mut tenant.bundle);
        tenant.publishing.solver.as_mut().map(resolve);
        tenant.shadow.as_mut().map(resolve);
        tenant.trust_domains.iter_mut().for_each(|domain| resolve(&mut domain.ca));
        for sink in &mut tenant.sinks {
            sink.keys.iter_mut().chain(&mut sink.ca).for_each(resolve);
        }
        for issuer in &mut tenant.issuers {
            let IssuerConfig { keys, ca, jwks_token, .. } = issuer;
            for path in [keys, ca, jwks_token].into_iter().flatten() {
                // An address stays what it is, so that the check finds it.
                if !path.to_str().is_some_and(|path| path.contains("://")) {
                    resolve(path);
                }
            }
        }
    }
    Ok(config)
}
