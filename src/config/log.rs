//! `[log]`: how the logs are published, and who watches them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use countersign_audit::CosignatureVerifier;
use serde::{Deserialize, Serialize};

use super::check::{filled, in_range, value};
use super::sinks::check_url;
use super::{Config, ConfigError};

/// The most witnesses: each adds a signature to the checkpoint, and a note has room for 64.
const MAX_WITNESSES: usize = 32;
/// A hundred years.
const MOST_DAYS: u32 = 36_500;

/// `[log]`: how the logs are published, and who watches them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// How often the signed head of each log is written beside the store, and published if it has grown, in seconds.
    pub checkpoint_every_seconds: u32,
    /// The directory that each tenant's log is published in, under the tenant's name, as tiles for any static file server (C2SP
    /// tlog-tiles). Absent: they are not published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiles: Option<PathBuf>,
    /// For how many days each record of a log is kept at least: one that is older can be dropped, by whom `pruneLog` permits it. Absent: all
    /// are kept, and nobody can drop one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_days: Option<u32>,
    /// How many witnesses must cosign a checkpoint before it is published. Absent: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// Who is asked to cosign each checkpoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<WitnessConfig>,
}

/// `[[log.witnesses]]`: one witness (C2SP tlog-witness).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Its submission prefix: `https`, or `http` to a loopback address.
    pub url: String,
    /// Its key for cosignatures (`name+id+key`), from a channel of one's own.
    pub key: String,
    /// PEM file with the authorities that its certificate may be of. Absent: those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// How long it may take to answer, in seconds.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
}

const fn default_timeout() -> u32 {
    10
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { checkpoint_every_seconds: 10, tiles: None, keep_days: None, quorum: None, witnesses: Vec::new() }
    }
}

impl LogConfig {
    /// How often the head is written.
    #[must_use]
    pub const fn checkpoint_every(&self) -> Duration {
        Duration::from_secs(self.checkpoint_every_seconds as u64)
    }

    /// How long each record is kept at least.
    #[must_use]
    pub fn keep(&self) -> Option<Duration> {
        self.keep_days.map(|days| Duration::from_secs(u64::from(days).saturating_mul(86_400)))
    }

    /// How many witnesses must cosign.
    #[must_use]
    pub fn needed(&self) -> usize {
        self.quorum.map_or(self.witnesses.len(), |quorum| usize::try_from(quorum).unwrap_or(usize::MAX))
    }
}

pub(super) fn check_log(config: &Config) -> Result<(), ConfigError> {
    let LogConfig { checkpoint_every_seconds: _, tiles, keep_days, quorum, witnesses } = &config.log;
    keep_days.map_or(Ok(()), |days| in_range("log.keep_days", days, 1, MOST_DAYS, "days"))?;
    if let Some(tiles) = tiles {
        filled("log.tiles", tiles)?;
        if tiles.starts_with(&config.server.data_dir) {
            let problem =
                "in the data directory, which holds keys and is nobody's to serve; name a directory beside it";
            return Err(value("log.tiles", problem.to_owned()));
        }
    }
    if tiles.is_none() && !witnesses.is_empty() {
        let problem = "there is nowhere to publish what they cosign; name a directory as `log.tiles`";
        return Err(value("log.witnesses", problem.to_owned()));
    }
    if witnesses.len() > MAX_WITNESSES {
        return Err(value(
            "log.witnesses",
            format!("{} of them, and {MAX_WITNESSES} at most are asked", witnesses.len()),
        ));
    }
    let mut keys = BTreeSet::new();
    for (index, witness) in witnesses.iter().enumerate() {
        let at = |field: &str| format!("log.witnesses[{index}].{field}");
        let WitnessConfig { url, key, ca, timeout_seconds } = witness;
        check_url(url).map_err(|problem| value(&at("url"), problem))?;
        if url.contains('?') {
            return Err(value(&at("url"), "has a query; `/add-checkpoint` is added at the end".to_owned()));
        }
        let parsed: Result<CosignatureVerifier, _> = key.parse();
        let parsed = parsed.map_err(|error| value(&at("key"), error.to_string()))?;
        if !keys.insert(parsed.public_key()) {
            return Err(value(&at("key"), "the key of another witness once more; each counts once".to_owned()));
        }
        ca.as_deref().map_or(Ok(()), |ca| filled(&at("ca"), ca))?;
        in_range(&at("timeout_seconds"), *timeout_seconds, 1, 60, "seconds")?;
    }
    let most = u32::try_from(witnesses.len()).unwrap_or(u32::MAX);
    match quorum {
        Some(quorum) if *quorum > most => Err(value(
            "log.quorum",
            format!("{quorum} must cosign, and {most} are configured; nothing would be published"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Relative paths start at the configuration's directory.
pub(super) fn resolve_log(config: &mut Config, base: impl Fn(&mut PathBuf)) {
    let LogConfig { checkpoint_every_seconds: _, tiles, keep_days: _, quorum: _, witnesses } = &mut config.log;
    tiles.iter_mut().chain(witnesses.iter_mut().filter_map(|witness| witness.ca.as_mut())).for_each(base);
}

#[cfg(test)]
mod tests {
    use countersign_audit::Cosigner;

    use super::*;

    fn check(text: &str) -> Result<(), String> {
        let log = toml::from_str(text).map_err(|error| error.to_string())?;
        let config = Config { log, ..Config::default() };
        check_log(&config).map_err(|error| error.to_string())
    }

    fn witness(seed: u8, url: &str) -> String {
        let key = Cosigner::from_seed("w.example", &[seed; 32]).unwrap().verifier().to_string();
        format!("[[witnesses]]\nurl = {url:?}\nkey = {key:?}\n")
    }

    #[test]
    fn what_is_published_and_who_watches_is_read_strictly() {
        let one = witness(1, "https://w.example/");
        let two = format!("{one}{}", witness(2, "http://127.0.0.1:1/x"));
        for good in
            ["", "tiles = \"t\"", &format!("tiles = \"t\"\n{one}"), &format!("tiles = \"t\"\nquorum = 2\n{two}")]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "tiles = \"\"".to_owned(),
            "tiles = \"/var/lib/countersign/tiles\"".to_owned(),
            "quorum = 1\ntiles = \"t\"".to_owned(),
            one.clone(),
            format!("tiles = \"t\"\nquorum = 2\n{one}"),
            format!("tiles = \"t\"\n{one}{one}"),
            format!("tiles = \"t\"\n{}", witness(1, "http://w.example/")),
            format!("tiles = \"t\"\n{}", witness(1, "https://w.example/?x")),
            format!("tiles = \"t\"\n{one}timeout_seconds = 0"),
            "tiles = \"t\"\n[[witnesses]]\nurl = \"https://w.example\"\nkey = \"x\"".to_owned(),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
        let log: LogConfig = toml::from_str(&format!("tiles = \"t\"\n{two}")).unwrap();
        assert_eq!(log.needed(), 2);
    }
}
