//! Why a configuration is refused.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a configuration is refused. Whoever wrote it can mend it from the text alone.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration `{}`: {source}; name another file with `--config`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file is not TOML, or a value in it has the wrong type.
    #[error("{}:{line}:{column}: {key}{problem}", path.display(), key = key.as_ref().map(|k| format!("`{k}`: ")).unwrap_or_default())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, in characters from 1.
        column: usize,
        /// The whole key, where the place belongs to one.
        key: Option<String>,
        /// What is wrong there.
        problem: String,
    },
    /// The file has a key that means nothing, most likely a misspelt one.
    #[error("{}:{line}: unknown key `{key}`; {}", path.display(), suggestion(closest.as_deref(), known))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The whole key as it stands there, such as `server.lsten`.
        key: String,
        /// The key that was most likely meant, if one is close.
        closest: Option<String>,
        /// All keys that may stand there.
        known: Vec<String>,
    },
    /// A number is out of its range.
    #[error("`{key}` is {value}, and must be {min} to {max}{}", if unit.is_empty() { String::new() } else { format!(" {unit}") })]
    Range {
        /// The whole key.
        key: String,
        /// What it was set to.
        value: u64,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
        /// The unit, such as `seconds`; empty for a plain count.
        unit: &'static str,
    },
    /// A value that no range describes is wrong.
    #[error("`{key}`: {problem}")]
    Value {
        /// The whole key.
        key: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The gRPC listener would carry credentials in plaintext over a network.
    #[error(
        "`server.listen` is `{listen}` without TLS, and credentials never cross a network in plaintext; \
         set `server.tls`, or listen on loopback such as `127.0.0.1:8443`"
    )]
    Plaintext {
        /// The address.
        listen: SocketAddr,
    },
    /// A development server would be reachable from elsewhere.
    #[error(
        "`{key}` is `{address}`, and a development server, whose issuer anybody can read, listens on loopback only; \
         choose an address such as `127.0.0.1:{}`, or leave out `--dev` and configure an issuer", address.port()
    )]
    DevelopmentBeyondLoopback {
        /// The whole key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// A development server was given a configuration file.
    #[error(
        "`--dev` brings its own configuration, so `{}` would be ignored; leave out `--dev`, or `--config` \
         and the variable `COUNTERSIGN_CONFIG`", path.display()
    )]
    DevelopmentWithFile {
        /// The file.
        path: PathBuf,
    },
    /// Nobody could ever call.
    #[error(
        "no issuer is configured, so nobody could be identified; name a configuration file with `--config` that has \
         `[[tenants.NAME.issuers]]`, or start with `--dev` to try it out with an issuer of its own"
    )]
    NoIssuer,
    /// The effective configuration cannot be written as TOML.
    #[error("cannot print the configuration: {0}; a path in it is probably not UTF-8")]
    Print(String),
}

fn suggestion(closest: Option<&str>, known: &[String]) -> String {
    match closest {
        Some(closest) => format!("did you mean `{closest}`?"),
        None if known.is_empty() => "remove it".to_owned(),
        None => format!("known here are {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")),
    }
}
