//! Errors of the TOML parser, told by file, line and key.

use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use super::check::RANGES;
use super::{Algorithm, ConfigError};

/// Every key that is not a number; `*` stands for the name of a tenant. With [`RANGES`], all keys that there are.
pub(super) const OTHER_KEYS: &[&str] = &[
    "server.listen",
    "server.http",
    "server.data_dir",
    "server.tls.certificate",
    "server.tls.key",
    "tenants.*.bundle",
    "tenants.*.log_origin",
    "tenants.*.shadow",
    "tenants.*.publishing.watch",
    "tenants.*.publishing.bundle_name",
    "tenants.*.publishing.authors",
    "tenants.*.publishing.signatures",
    "tenants.*.publishing.proofs",
    "tenants.*.publishing.solver",
    "tenants.*.issuers.issuer",
    "tenants.*.issuers.audience",
    "tenants.*.issuers.algorithms",
    "tenants.*.issuers.keys",
    "tenants.*.issuers.jwks_uri",
    "tenants.*.issuers.discovery",
    "tenants.*.issuers.ca",
    "tenants.*.issuers.jwks_token",
    "tenants.*.issuers.refresh_seconds",
    "tenants.*.issuers.stale_seconds",
    "tenants.*.issuers.subjects",
    "tenants.*.issuers.id_prefix",
    "tenants.*.issuers.max_age_seconds",
    "tenants.*.issuers.subject.kind",
    "tenants.*.issuers.subject.claim",
    "tenants.*.issuers.subject.starts_with",
    "tenants.*.issuers.subject.actors",
    "tenants.*.issuers.groups.claim",
    "tenants.*.issuers.groups.map",
    "tenants.*.issuers.owner.claim",
    "tenants.*.issuers.owner.issuer",
    "tenants.*.issuers.required",
    "tenants.*.issuers.approving.audience",
    "tenants.*.issuers.approving.max_age_seconds",
    "tenants.*.issuers.approving.amr",
    "tenants.*.trust_domains.name",
    "tenants.*.trust_domains.ca",
    "tenants.*.trust_domains.kind",
    "tenants.*.trust_domains.id_prefix",
    "tenants.*.sinks.name",
    "tenants.*.sinks.kind",
    "tenants.*.sinks.url",
    "tenants.*.sinks.keys",
    "tenants.*.sinks.ca",
    "tenants.*.sinks.events",
    "tenants.*.sinks.timeout_seconds",
    "tenants.*.sinks.attempts",
    "tenants.*.sinks.max_age_seconds",
    "tenants.*.sinks.backlog",
    "tenants.*.sinks.dead_letters",
    "tenants.*.sinks.dead_letter_days",
    "keys.encryption.file",
    "keys.encryption.variable",
    "keys.encryption.command",
    "keys.previous_encryption",
    "head.file",
    "head.command",
    "backup.directory",
    "telemetry.log_format",
    "telemetry.log_filter",
    "telemetry.otlp_endpoint",
];

/// The parser's error with its place in the file.
pub(super) fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start);
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count().saturating_add(1);
    let start_of_line = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
    let column = before.get(start_of_line..).unwrap_or_default().chars().count().saturating_add(1);
    let key = key_at(text, offset);
    let path = path.to_owned();
    let message = error.message();
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let mut quoted = rest.split('`');
        let name = quoted.next().unwrap_or_default().to_owned();
        let known: Vec<String> = quoted.skip(1).step_by(2).map(str::to_owned).collect();
        let key = key.unwrap_or(name);
        return ConfigError::UnknownKey { path, line, closest: closest(&key, &known), key, known };
    }
    if message == "duplicate key" {
        let name = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        let problem = format!("`{name}` stands here a second time; keep one of them");
        return ConfigError::Syntax { path, line, column, key: None, problem };
    }
    ConfigError::Syntax { path, line, column, key, problem: plain(message) }
}

/// The parser's words without names of types of ours.
fn plain(message: &str) -> String {
    let mut plain = message.lines().collect::<Vec<_>>().join("; ");
    if let Some(name) = plain.strip_prefix("unknown variant `HS").and_then(|rest| rest.split('`').next()) {
        return format!(
            "`HS{name}` is a shared secret, with which whoever verifies could also forge; use an algorithm with a public \
             key, such as `{:?}`",
            Algorithm::EdDSA
        );
    }
    for (ours, theirs) in [
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected struct ", "expected a table for "),
        ("expected path string", "expected a path"),
        ("expected socket address", "expected an address such as `127.0.0.1:8443`"),
        ("invalid socket address syntax", "not an address such as `127.0.0.1:8443`; write an IP address and a port"),
        ("unknown variant", "unknown value"),
    ] {
        plain = plain.replace(ours, theirs);
    }
    if let Some(field) = plain.strip_prefix("missing field ") {
        plain = format!("the key {field} is missing; add it");
    }
    plain
}

/// The whole key that the byte at `offset` belongs to.
fn key_at(text: &str, offset: usize) -> Option<String> {
    let (document, _) = DeTable::parse_recoverable(text);
    key_in_table(document.get_ref(), offset)
}

fn key_in_table(table: &DeTable<'_>, offset: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        if holds(&key.span(), offset) {
            return Some(name.to_string());
        }
        if let Some(table) = value.get_ref().as_table() {
            return key_in_table(table, offset).map(|inner| format!("{name}.{inner}"));
        }
        let items = value.get_ref().as_array().into_iter().flat_map(|array| array.iter()).enumerate();
        items
            .filter_map(|(index, item)| Some((index, item.get_ref().as_table()?)))
            .find_map(|(index, table)| key_in_table(table, offset).map(|inner| format!("{name}[{index}].{inner}")))
            .or_else(|| holds(&value.span(), offset).then(|| name.to_string()))
    })
}

fn holds(span: &Range<usize>, offset: usize) -> bool {
    span.contains(&offset)
}

/// The known key that is closest to the unknown `key`: one of its own table, else the same name in another table.
fn closest(key: &str, known: &[String]) -> Option<String> {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let within = |name: &str| if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
    let near = known
        .iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min();
    if let Some((_, near)) = near {
        return Some(within(near));
    }
    RANGES
        .iter()
        .map(|range| range.key)
        .chain(OTHER_KEYS.iter().copied())
        .find(|known| known.rsplit_once('.').is_some_and(|(_, last)| last == name))
        .map(|known| known.replace('*', "NAME"))
}

/// How many characters must be added, removed or replaced to get from one to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut left = i.saturating_add(1);
        let mut next = vec![left];
        for (b, pair) in to.chars().zip(row.windows(2)) {
            let [diagonal, above] = pair else { continue };
            left =
                diagonal.saturating_add(usize::from(a != b)).min(above.saturating_add(1)).min(left.saturating_add(1));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
