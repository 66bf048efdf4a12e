//! `[[tenants.NAME.sinks]]`: where notifications go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use countersign_core::{NotificationKind, TenantId};
use countersign_engine::MAX_SINKS;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{DAY, filled, in_range, value};
use crate::outgoing;

/// The most keys that one webhook is signed with: the one that is, and the one that will be.
const MAX_KEYS: usize = 2;
/// The longest URL, in bytes.
const MAX_URL_BYTES: usize = 2_048;

/// `[[tenants.NAME.sinks]]`: one sink of a tenant's notifications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// Its name: a lowercase DNS label. What waits is kept under it.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// Where a webhook is sent: `https`, or `http` to a loopback address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The files with the keys that a webhook is signed with, `whsec_` and base64. One, or two while one replaces the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<PathBuf>,
    /// PEM file with the authorities that the receiver's certificate may be of. Absent: those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// What is told. Absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<BTreeSet<NotificationKind>>,
    /// How long one attempt may take, in seconds.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
    /// After so many attempts a notification is given up.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
    /// After so long a notification that was tried in vain is given up, in seconds.
    #[serde(default = "default_max_age")]
    pub max_age_seconds: u32,
    /// The most notifications that wait. Beyond, the oldest are given up.
    #[serde(default = "default_backlog")]
    pub backlog: u32,
    /// The most dead letters that are kept. Beyond, the oldest are forgotten.
    #[serde(default = "default_dead_letters")]
    pub dead_letters: u32,
    /// How long a dead letter is kept, in days.
    #[serde(default = "default_dead_letter_days")]
    pub dead_letter_days: u32,
}

const fn default_timeout() -> u32 {
    10
}
const fn default_attempts() -> u32 {
    24
}
const fn default_max_age() -> u32 {
    DAY
}
const fn default_backlog() -> u32 {
    10_000
}
const fn default_dead_letters() -> u32 {
    1_000
}
const fn default_dead_letter_days() -> u32 {
    14
}

/// What a sink is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// A line in the server's log.
    Log,
    /// An HTTP POST, signed.
    Webhook,
}

/// Checks the sinks of one tenant.
pub(super) fn check_sinks(key: &str, sinks: &[SinkConfig]) -> Result<(), ConfigError> {
    if sinks.len() > MAX_SINKS {
        return Err(value(key, format!("{} sinks, and {MAX_SINKS} at most are told in one commit", sinks.len())));
    }
    let mut names = BTreeMap::new();
    for (index, sink) in sinks.iter().enumerate() {
        let key = format!("{key}[{index}]");
        check_sink(&key, sink)?;
        if let Some(other) = names.insert(sink.name.as_str(), key.clone()) {
            return Err(value(
                &format!("{key}.name"),
                format!("`{other}.name` is the same; each needs one of its own"),
            ));
        }
    }
    Ok(())
}

fn check_sink(key: &str, sink: &SinkConfig) -> Result<(), ConfigError> {
    let at = |field: &str| format!("{key}.{field}");
    // Names of sinks and tenants have the same form.
    if TenantId::new(&sink.name).is_err() {
        let problem =
            "1 to 63 of the characters a-z, 0-9 and `-`, beginning and ending with a letter or digit".to_owned();
        return Err(value(&at("name"), problem));
    }
    for (field, number, min, max, unit) in [
        ("timeout_seconds", sink.timeout_seconds, 1, 60, "seconds"),
        ("attempts", sink.attempts, 1, 1_000, ""),
        ("max_age_seconds", sink.max_age_seconds, 60, 30 * DAY, "seconds"),
        ("backlog", sink.backlog, 1, 1_000_000, ""),
        ("dead_letters", sink.dead_letters, 1, 100_000, ""),
        ("dead_letter_days", sink.dead_letter_days, 1, 366, "days"),
    ] {
        in_range(&at(field), number, min, max, unit)?;
    }
    if sink.events.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(value(&at("events"), "empty; name what is told, or leave it out for everything".to_owned()));
    }
    match sink.kind {
        SinkKind::Log => {
            let given = [("url", sink.url.is_some()), ("keys", !sink.keys.is_empty()), ("ca", sink.ca.is_some())];
            match given.iter().find(|(_, given)| *given) {
                None => Ok(()),
                Some((field, _)) => Err(value(&at(field), "means nothing for the kind `log`; remove it".to_owned())),
            }
        }
        SinkKind::Webhook => check_webhook(key, sink),
    }
}

fn check_webhook(key: &str, sink: &SinkConfig) -> Result<(), ConfigError> {
    let url = sink.url.as_deref().unwrap_or_default();
    check_url(url).map_err(|problem| value(&format!("{key}.url"), problem))?;
    let keys = format!("{key}.keys");
    if !(1..=MAX_KEYS).contains(&sink.keys.len()) {
        let problem = "name one file, or two while one key replaces the other; a receiver that cannot check a signature \
                       could be told anything";
        return Err(value(&keys, problem.to_owned()));
    }
    sink.keys.iter().try_for_each(|path| filled(&keys, path))?;
    sink.ca.iter().try_for_each(|path| filled(&format!("{key}.ca"), path))
}

pub(super) fn check_url(text: &str) -> Result<(), String> {
    let form = || "expected a URL such as `https://hooks.example.com/countersign`".to_owned();
    if text.is_empty() || text.len() > MAX_URL_BYTES {
        return Err(form());
    }
    let url = reqwest::Url::parse(text).map_err(|_| form())?;
    if !url.has_host() {
        return Err(form());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or password, and the configuration holds no secrets; the signature proves who sends"
            .to_owned());
    }
    if url.fragment().is_some() {
        return Err("has a fragment (`#…`), which is never sent; remove it".to_owned());
    }
    if outgoing::is_protected(&url) {
        return Ok(());
    }
    Err("only `https` crosses a network, and `http` stays on a loopback address such as `127.0.0.1`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(text: &str) -> Result<SinkConfig, String> {
        let sink: SinkConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        check_sinks("sinks", std::slice::from_ref(&sink)).map_err(|error| error.to_string())?;
        Ok(sink)
    }

    fn webhook(url: &str) -> String {
        format!("name = \"pager\"\nkind = \"webhook\"\nkeys = [\"k\"]\nurl = {url:?}\n")
    }

    #[test]
    fn only_https_leaves_the_machine_and_no_url_holds_a_password() {
        for good in ["https://hooks.example.com/x?tenant=acme", "http://127.0.0.1:8080/", "http://[::1]:1/x"] {
            assert!(sink(&webhook(good)).is_ok(), "{good}");
        }
        for bad in [
            "",
            "hooks",
            "http://hooks.example.com/",
            "http://localhost/",
            "http://127.0.0.1.example.com/",
            "http://[::ffff:10.0.0.1]/",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "https://user@hooks.example.com/",
            "https://:secret@hooks.example.com/",
            "https://hooks.example.com/#x",
            &format!("https://hooks.example.com/{}", "x".repeat(3_000)),
        ] {
            assert!(sink(&webhook(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_sink_says_what_it_is_and_has_what_that_needs() {
        assert_eq!(sink("name = \"log\"\nkind = \"log\"").unwrap().backlog, 10_000);
        for bad in [
            "kind = \"log\"",
            "name = \"log\"",
            "name = \"Log\"\nkind = \"log\"",
            "name = \"a\\u0000b\"\nkind = \"log\"",
            "name = \"log\"\nkind = \"log\"\nurl = \"https://x.example\"",
            "name = \"log\"\nkind = \"log\"\nkeys = [\"k\"]",
            "name = \"log\"\nkind = \"log\"\nevents = []",
            "name = \"log\"\nkind = \"log\"\nevents = [\"askd\"]",
            "name = \"log\"\nkind = \"log\"\nattempts = 0",
            "name = \"log\"\nkind = \"log\"\ntimeout_seconds = 61",
            "name = \"log\"\nkind = \"log\"\nretries = 5",
            "name = \"hook\"\nkind = \"webhook\"\nurl = \"https://x.example\"",
            "name = \"hook\"\nkind = \"webhook\"\nurl = \"https://x.example\"\nkeys = [\"\"]",
            "name = \"hook\"\nkind = \"webhook\"\nurl = \"https://x.example\"\nkeys = [\"a\", \"b\", \"c\"]",
        ] {
            assert!(sink(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_two_sinks_of_a_tenant_share_a_name_and_there_are_not_too_many() {
        let sink = sink("name = \"log\"\nkind = \"log\"").unwrap();
        let error = check_sinks("sinks", &[sink.clone(), sink.clone()]).unwrap_err().to_string();
        assert!(error.starts_with("`sinks[1].name`: `sinks[0].name` is the same"), "{error}");
        let many: Vec<_> = (0..=MAX_SINKS).map(|n| SinkConfig { name: format!("s{n}"), ..sink.clone() }).collect();
        assert!(check_sinks("sinks", &many).is_err());
    }
}
