//! What a configuration must satisfy beyond its types.

mod issuer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use countersign_audit::NoteVerifier;
use countersign_core::visible::Visible;

use super::keeping::check_keeping;
use super::log::check_log;
use super::sinks::check_sinks;
use super::{Config, ConfigError, PublishingConfig, TenantConfig};
use crate::tls;

/// The range of one number in the configuration. Both ends are allowed.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The whole key.
    pub key: &'static str,
    /// The unit, such as `seconds`; empty for a plain count.
    pub unit: &'static str,
    /// The least.
    pub min: u32,
    /// The most.
    pub max: u32,
    get: fn(&Config) -> u32,
}

impl Range {
    /// What the number is in `config`.
    #[must_use]
    pub fn value(&self, config: &Config) -> u32 {
        (self.get)(config)
    }
}

pub(super) const DAY: u32 = 86_400;

macro_rules! ranges {
    ($($section:ident . $field:ident: $min:expr, $max:expr, $unit:literal;)*) => {
        /// Every number in the configuration with its range; those of issuers aside, since they are in a list.
        pub const RANGES: &[Range] = &[$(Range {
            key: concat!(stringify!($section), ".", stringify!($field)),
            unit: $unit,
            min: $min,
            max: $max,
            get: |config| config.$section.$field,
        }),*];
    };
}

ranges! {
    server.drain_seconds: 0, 3600, "seconds";
    limits.message_bytes: 65_536, 16 * 1024 * 1024, "bytes";
    limits.header_bytes: 12 * 1024, 64 * 1024, "bytes";
    limits.batch_items: 1, 1000, "items";
    limits.connections: 1, 65_536, "";
    limits.requests_per_connection: 1, 4096, "";
    limits.requests_in_flight: 1, 65_536, "";
    limits.requests_in_flight_per_caller: 1, 65_536, "";
    limits.watches: 1, 65_536, "";
    limits.watches_per_caller: 1, 4096, "";
    limits.request_timeout_seconds: 1, 300, "seconds";
    limits.keepalive_seconds: 5, 3600, "seconds";
    limits.cached_credentials: 0, 1_000_000, "";
    tokens.ttl_seconds: 5, 3600, "seconds";
    tokens.completion_seconds: 10, DAY, "seconds";
    sessions.default_ttl_seconds: 10, 30 * DAY, "seconds";
    sessions.max_ttl_seconds: 10, 30 * DAY, "seconds";
    approvals.pending_per_principal: 1, 100, "";
    approvals.asked_per_hour_per_principal: 1, 10_000, "";
    break_glass.times_per_person: 1, 100, "";
    break_glass.window_seconds: 3_600, 30 * DAY, "seconds";
    head.every_seconds: 0, 3600, "seconds";
    log.checkpoint_every_seconds: 1, 3600, "seconds";
}

/// Checks everything but the existence of files, which whoever reads them reports.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    for range in RANGES {
        let value = range.value(config);
        in_range(range.key, value, range.min, range.max, range.unit)?;
    }
    not_beyond(
        ("limits.requests_in_flight_per_caller", config.limits.requests_in_flight_per_caller),
        ("limits.requests_in_flight", config.limits.requests_in_flight),
    )?;
    not_beyond(
        ("limits.watches_per_caller", config.limits.watches_per_caller),
        ("limits.watches", config.limits.watches),
    )?;
    not_beyond(
        ("sessions.default_ttl_seconds", config.sessions.default_ttl_seconds),
        ("sessions.max_ttl_seconds", config.sessions.max_ttl_seconds),
    )?;
    listeners(config)?;
    filled("server.data_dir", &config.server.data_dir)?;
    if let Some(tls) = &config.server.tls {
        filled("server.tls.certificate", &tls.certificate)?;
        filled("server.tls.key", &tls.key)?;
    }
    check_keeping(config)?;
    check_log(config)?;
    telemetry(config)?;
    if config.tenants.is_empty() {
        return Err(ConfigError::NoIssuer);
    }
    let mut seen = Seen::default();
    let tls = config.server.tls.is_some();
    for (name, config_of_tenant) in &config.tenants {
        tenant(&format!("tenants.{name}"), config_of_tenant, (config.is_development(), tls), &mut seen)?;
    }
    Ok(())
}

/// What only one tenant may have, and the key that has it.
#[derive(Default)]
struct Seen<'a> {
    issuers: BTreeMap<&'a str, String>,
    origins: BTreeMap<&'a str, String>,
    domains: BTreeMap<&'a str, String>,
}

fn listeners(config: &Config) -> Result<(), ConfigError> {
    let server = &config.server;
    if config.is_development() {
        for (key, address) in [("server.listen", server.listen), ("server.http", server.http)] {
            if !address.ip().is_loopback() {
                return Err(ConfigError::DevelopmentBeyondLoopback { key, address });
            }
        }
    }
    tls::check_listener(server.listen, server.tls.as_ref())
        .map_err(|_| ConfigError::Plaintext { listen: server.listen })?;
    if server.listen == server.http && server.listen.port() != 0 {
        return Err(value("server.http", "the same address as `server.listen`; choose another port".to_owned()));
    }
    Ok(())
}

fn telemetry(config: &Config) -> Result<(), ConfigError> {
    crate::telemetry::check_filter(&config.telemetry.log_filter)
        .map_err(|error| value("telemetry.log_filter", error.to_string()))?;
    match &config.telemetry.otlp_endpoint {
        Some(endpoint) => endpoint_of_collector(endpoint),
        None => Ok(()),
    }
}

/// `http://HOST:PORT`, and nothing in it that is a secret or would be ignored.
fn endpoint_of_collector(endpoint: &str) -> Result<(), ConfigError> {
    let wrong = |problem: &str| {
        let problem = format!("{problem}; write `http://HOST:PORT`, such as `http://127.0.0.1:4317`");
        Err(value("telemetry.otlp_endpoint", problem))
    };
    let Some(authority) = endpoint.strip_prefix("http://") else {
        return wrong(
            "not a plain `http` address: traces go to a collector beside the server, which may speak TLS onwards",
        );
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.contains('@') {
        return wrong("has credentials in it, and the configuration never holds secrets");
    }
    match authority.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty()
                && port.parse::<u16>().is_ok_and(|p| p != 0)
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':')) =>
        {
            Ok(())
        }
        _ => wrong("not a host and a port"),
    }
}

fn tenant<'a>(
    key: &str,
    tenant: &'a TenantConfig,
    (development, tls): (bool, bool),
    seen: &mut Seen<'a>,
) -> Result<(), ConfigError> {
    filled(&format!("{key}.bundle"), &tenant.bundle)?;
    let origin_key = format!("{key}.log_origin");
    let origin = tenant.log_origin.as_str();
    if origin.is_empty() || origin.len() > 255 || !origin.bytes().all(|b| b.is_ascii_graphic() && b != b'+') {
        let problem = "an origin is 1 to 255 printable ASCII characters without spaces or `+`, such as \
                       `countersign.example.com/acme`";
        return Err(value(&origin_key, problem.to_owned()));
    }
    if let Some(other) = seen.origins.insert(origin, origin_key.clone()) {
        return Err(value(&origin_key, format!("`{other}` has the same origin; every log needs its own")));
    }
    publishing(&format!("{key}.publishing"), &tenant.publishing)?;
    if let Some(shadow) = &tenant.shadow {
        filled(&format!("{key}.shadow"), shadow)?;
    }
    check_sinks(&format!("{key}.sinks"), &tenant.sinks)?;
    if tenant.issuers.is_empty() {
        let problem = format!("no issuer, so nobody could call; add `[[{key}.issuers]]`, or remove the tenant");
        return Err(value(key, problem));
    }
    for (index, config) in tenant.issuers.iter().enumerate() {
        let key = format!("{key}.issuers[{index}]");
        issuer::issuer(&key, config, development)?;
        if let Some(other) = seen.issuers.insert(&config.issuer, key.clone()) {
            let problem =
                format!("`{other}` has the same issuer; an issuer belongs to one tenant and stands there once");
            return Err(value(&format!("{key}.issuer"), problem));
        }
    }
    for (index, domain) in tenant.trust_domains.iter().enumerate() {
        let key = format!("{key}.trust_domains[{index}]");
        issuer::trust_domain(&key, domain, tls)?;
        if let Some(other) = seen.domains.insert(&domain.name, key.clone()) {
            let problem =
                format!("`{other}` has the same name; a trust domain belongs to one tenant and stands there once");
            return Err(value(&format!("{key}.name"), problem));
        }
    }
    issuer::apart(key, tenant)
}

fn publishing(key: &str, config: &PublishingConfig) -> Result<(), ConfigError> {
    let (mut names, mut keys) = (BTreeSet::new(), BTreeMap::new());
    for (index, author) in config.authors.iter().enumerate() {
        let parsed: Result<NoteVerifier, _> = author.parse();
        let author = parsed.map_err(|error| value(&format!("{key}.authors[{index}]"), error.to_string()))?;
        if let Some(other) = keys.insert(author.public_key(), author.name().to_owned())
            && other != author.name()
        {
            let problem = format!("the key of `{}` once more; everybody needs one of their own", Visible::new(&other));
            return Err(value(&format!("{key}.authors[{index}]"), problem));
        }
        names.insert(author.name().to_owned());
    }
    let most = u32::try_from(names.len()).unwrap_or(u32::MAX).max(1);
    let signatures = format!("{key}.signatures");
    if config.authors.is_empty() && config.signatures != 1 {
        return Err(value(&signatures, format!("nobody could sign; list public keys in `{key}.authors`")));
    }
    if !(1..=most).contains(&config.signatures) {
        return Err(value(
            &signatures,
            format!("out of range; {most} different authors are configured, so write 1 to {most}"),
        ));
    }
    if let Some(solver) = &config.solver {
        filled(&format!("{key}.solver"), solver)?;
    }
    Ok(())
}

pub(super) fn in_range(key: &str, value: u32, min: u32, max: u32, unit: &'static str) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Range { key: key.to_owned(), value: value.into(), min, max, unit })
}

fn not_beyond((key, lesser): (&str, u32), (bound, greater): (&str, u32)) -> Result<(), ConfigError> {
    if lesser <= greater {
        return Ok(());
    }
    Err(value(key, format!("{lesser} is more than `{bound}`, which is {greater}; lower this one or raise that one")))
}

pub(super) fn filled(key: &str, path: &Path) -> Result<(), ConfigError> {
    if path.as_os_str().is_empty() { Err(value(key, "empty; write a path".to_owned())) } else { Ok(()) }
}

pub(super) fn value(key: &str, problem: String) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), problem }
}
