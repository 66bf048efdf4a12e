//! Configuration: one TOML file, then the environment, then flags; the later one wins.
//!
//! The file is read by [`Config::load`], which refuses unknown keys, values out of range, and everything that would make
//! the service listen where it should not. A [`Config`] that exists is valid. It holds paths to secrets and never
//! secrets, so that it can be printed ([`Config::effective_toml`]).

mod check;
mod error;
mod issuer;
mod keeping;
mod load;
mod log;
mod sinks;
mod syntax;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use countersign_core::TenantId;
use serde::{Deserialize, Serialize};

pub use check::{RANGES, Range};
pub use error::ConfigError;
pub use issuer::{
    Algorithm, ApprovingConfig, GroupsConfig, IssuerConfig, KeySource, OwnerConfig, RequiredValue, SubjectConfig,
    SubjectKind, TrustDomainConfig,
};
pub use keeping::{BackupConfig, HeadConfig, KeysConfig, SecretSource};
pub use load::Overrides;
pub use log::{LogConfig, WitnessConfig};
pub use sinks::{SinkConfig, SinkKind};

/// The tenant of a development server.
pub const DEV_TENANT: &str = "dev";
/// The issuer of a development server. Its name can never resolve (RFC 2606 §2), and a configuration file may not use it.
pub const DEV_ISSUER: &str = "https://dev.countersign.invalid";
/// The audience of a development server's credentials.
pub const DEV_AUDIENCE: &str = "countersign";
/// The audience for voting and publishing on a development server.
pub const DEV_APPROVING_AUDIENCE: &str = "countersign-approve";
/// How people authenticate on a development server: by saying who they are.
pub const DEV_METHOD: &str = "dev";
/// The public key of the development issuer, in the data directory; [`crate::identity::DevIssuer`] writes it.
pub const DEV_PUBLIC_KEY_FILE: &str = "dev-issuer.pub.pem";

/// The effective configuration. Valid: only [`Config::load`] and [`Config::development`] make one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens and keeps its data.
    pub server: ServerConfig,
    /// The tenants by name. At least one.
    pub tenants: BTreeMap<TenantId, TenantConfig>,
    /// What bounds load.
    pub limits: Limits,
    /// How long capabilities live.
    pub tokens: Tokens,
    /// How long sessions live.
    pub sessions: Sessions,
    /// How much people are asked.
    pub approvals: Approvals,
    /// How often the glass is broken.
    pub break_glass: BreakGlass,
    /// How private keys lie in the data directory.
    pub keys: KeysConfig,
    /// A head of the store outside of the data directory.
    pub head: HeadConfig,
    /// Where backups go.
    pub backup: BackupConfig,
    /// How the tamper-evident logs are published, and who watches them.
    pub log: LogConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// Whether this is a development server. Not a key: only [`Config::development`] sets it.
    #[serde(skip)]
    development: bool,
    /// The time at which a development server's clock starts, in milliseconds since 1970. Not a key: `serve --dev --clock`
    /// sets it. Absent: the system's clock.
    #[serde(skip)]
    pub development_clock: Option<i64>,
}

/// `[server]`: where it listens and keeps its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The address of the gRPC API. Loopback unless `tls` is set.
    pub listen: SocketAddr,
    /// The address of `/metrics`, `/livez` and `/readyz`, in plain HTTP.
    pub http: SocketAddr,
    /// The directory of store, keys and log. Owned by one running server.
    pub data_dir: PathBuf,
    /// How long requests in flight may take to end after SIGTERM, in seconds.
    pub drain_seconds: u32,
    /// Certificate and key. Absent: plaintext, on loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

/// `[server.tls]`: what the gRPC listener proves itself with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// PEM file with the private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// `[tenants.NAME]`: one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// The directory of its bundle: policies, schema and entities.
    pub bundle: PathBuf,
    /// The origin of its log (C2SP tlog-checkpoint): a name that nobody else's log has, for ever.
    pub log_origin: String,
    /// Who may issue credentials for it. At least one.
    #[serde(default)]
    pub issuers: Vec<IssuerConfig>,
    /// Whose workloads prove themselves by client certificates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust_domains: Vec<TrustDomainConfig>,
    /// A bundle's directory: what it would answer is compared with what is answered, and nothing is done on it. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<PathBuf>,
    /// What becomes active, and when.
    #[serde(default)]
    pub publishing: PublishingConfig,
    /// Where its notifications go. None: nobody is told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<SinkConfig>,
}

/// `[tenants.NAME.publishing]`: what a bundle must satisfy to become active, besides being valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishingConfig {
    /// Whether a change of the bundle's directory is published when its revision is raised, on the authority of whoever can write there.
    pub watch: bool,
    /// The `name` that a bundle must have: a signature is worth something for every tenant that asks these authors. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_name: Option<String>,
    /// The public keys (`name+id+key`, C2SP signed-note) of those who may sign bundles. Empty: nobody has to.
    pub authors: Vec<String>,
    /// How many different authors must have signed. Means nothing without authors.
    pub signatures: u32,
    /// Whether everything that `countersign policy prove` proves must be proved.
    pub proofs: bool,
    /// The solver for the proofs. Absent: the variable CVC5, `cvc5` on PATH, or `.venv/bin/python` with the package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver: Option<PathBuf>,
}

impl Default for PublishingConfig {
    fn default() -> Self {
        Self { watch: false, bundle_name: None, authors: Vec::new(), signatures: 1, proofs: false, solver: None }
    }
}

/// `[limits]`: what bounds load. What exceeds one is refused, with the limit in the error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest gRPC message that is read, in bytes.
    pub message_bytes: u32,
    /// The largest set of request headers that is read, in bytes. The credential is among them.
    pub header_bytes: u32,
    /// The most items of one batch.
    pub batch_items: u32,
    /// The most connections at once.
    pub connections: u32,
    /// The most requests at once on one connection (HTTP/2 concurrent streams).
    pub requests_per_connection: u32,
    /// The most requests at once on the whole server, watch streams not counted.
    pub requests_in_flight: u32,
    /// The most requests at once of one caller, watch streams not counted.
    pub requests_in_flight_per_caller: u32,
    /// The most open watch streams on the whole server.
    pub watches: u32,
    /// The most open watch streams of one caller.
    pub watches_per_caller: u32,
    /// The longest that one request may take, in seconds; a caller's own deadline may be shorter. Not for watch streams.
    pub request_timeout_seconds: u32,
    /// How often an idle connection is pinged, in seconds; one that does not answer for as long is closed.
    pub keepalive_seconds: u32,
    /// The most verified credentials that are remembered.
    pub cached_credentials: u32,
}

/// `[tokens]`: how long capabilities live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// From mint to the last moment of redeem, in seconds; never beyond the session's deadline.
    pub ttl_seconds: u32,
    /// From redeem to when an outcome that was not reported counts as unknown, in seconds.
    pub completion_seconds: u32,
}

/// `[sessions]`: how long sessions live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// The life of a session whose opener asks for none, in seconds.
    pub default_ttl_seconds: u32,
    /// The longest life that may be asked for, in seconds.
    pub max_ttl_seconds: u32,
}

/// `[approvals]`: how much people are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Approvals {
    /// The most questions of one principal that wait for votes at once.
    pub pending_per_principal: u32,
    /// The most questions that one principal puts within an hour, whatever became of them.
    pub asked_per_hour_per_principal: u32,
}

/// `[break_glass]`: how often the glass is broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakGlass {
    /// The most times that one person breaks it within the window, however quickly the reviews are closed.
    pub times_per_person: u32,
    /// The window, in seconds.
    pub window_seconds: u32,
}

/// `[telemetry]`: logs and traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written: a level, or `target=level` pairs, separated by commas.
    pub log_filter: String,
    /// Where traces go: an OTLP collector over gRPC, `http://HOST:PORT`. Absent: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// Whether this is a development server: its own issuer, loopback only, a data directory that production refuses.
    #[must_use]
    pub const fn is_development(&self) -> bool {
        self.development
    }
}

impl ServerConfig {
    /// How long requests in flight may take to end after SIGTERM.
    #[must_use]
    pub const fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds as u64)
    }
}

impl Limits {
    /// The longest that one request may take.
    #[must_use]
    pub const fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds as u64)
    }

    /// How often an idle connection is pinged.
    #[must_use]
    pub const fn keepalive(&self) -> Duration {
        Duration::from_secs(self.keepalive_seconds as u64)
    }
}

impl Tokens {
    /// From mint to the last moment of redeem.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds as u64)
    }

    /// From redeem to when an outcome that was not reported counts as unknown.
    #[must_use]
    pub const fn completion(&self) -> Duration {
        Duration::from_secs(self.completion_seconds as u64)
    }
}

impl Sessions {
    /// The life of a session whose opener asks for none.
    #[must_use]
    pub const fn default_ttl(&self) -> Duration {
        Duration::from_secs(self.default_ttl_seconds as u64)
    }

    /// The longest life that may be asked for.
    #[must_use]
    pub const fn max_ttl(&self) -> Duration {
        Duration::from_secs(self.max_ttl_seconds as u64)
    }
}

impl BreakGlass {
    /// How far back times are counted.
    #[must_use]
    pub const fn window(&self) -> Duration {
        Duration::from_secs(self.window_seconds as u64)
    }
}

impl Default for Config {
    /// The defaults. Not valid as they are, since nothing can be trusted by default: they name no tenant.
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            tenants: BTreeMap::new(),
            limits: Limits::default(),
            tokens: Tokens::default(),
            sessions: Sessions::default(),
            approvals: Approvals::default(),
            break_glass: BreakGlass::default(),
            keys: KeysConfig::default(),
            head: HeadConfig::default(),
            backup: BackupConfig::default(),
            log: LogConfig::default(),
            telemetry: TelemetryConfig::default(),
            development: false,
            development_clock: None,
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8443)),
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 9443)),
            data_dir: PathBuf::from("/var/lib/countersign"),
            drain_seconds: 20,
            tls: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 1024 * 1024,
            header_bytes: 16 * 1024,
            batch_items: 100,
            connections: 1024,
            requests_per_connection: 256,
            requests_in_flight: 4096,
            requests_in_flight_per_caller: 256,
            watches: 1024,
            watches_per_caller: 16,
            request_timeout_seconds: 10,
            keepalive_seconds: 30,
            cached_credentials: 10_000,
        }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self { ttl_seconds: 300, completion_seconds: 900 }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self { default_ttl_seconds: 3600, max_ttl_seconds: 86_400 }
    }
}

impl Default for Approvals {
    fn default() -> Self {
        Self { pending_per_principal: 20, asked_per_hour_per_principal: 60 }
    }
}

impl Default for BreakGlass {
    fn default() -> Self {
        Self { times_per_person: 3, window_seconds: 86_400 }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log_format: LogFormat::Auto, log_filter: "info".to_owned(), otlp_endpoint: None }
    }
}

#[cfg(test)]
mod tests;
