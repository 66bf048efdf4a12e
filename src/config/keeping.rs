//! What is kept of the service, and where: keys, heads, backups.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{filled, value};
use super::{Config, ConfigError};

/// `[keys]`: how private keys lie in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysConfig {
    /// Where the key is that key files are encrypted with. Absent: they lie in the open, readable by the service's user alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<SecretSource>,
    /// Where the key is that they were encrypted with before. What opens with it is encrypted anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_encryption: Option<SecretSource>,
}

/// Where a secret of 32 bytes is, in 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// In a file, mode 0600.
    File(PathBuf),
    /// In an environment variable.
    Variable(String),
    /// A command prints it, such as one that has a key management service decrypt it.
    Command(Vec<String>),
}

/// `[head]`: a head of the store outside of the data directory, which proves that the store is not an old copy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// The file, on another volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Or a command that keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// How often it is written, in seconds. 0: before anybody is answered.
    pub every_seconds: u32,
}

/// `[backup]`: where backups go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupConfig {
    /// The directory that each backup gets a directory of its own in. Absent: none are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
}

impl HeadConfig {
    /// How often it is written; `None`: before anybody is answered.
    #[must_use]
    pub fn every(&self) -> Option<Duration> {
        (self.every_seconds > 0).then(|| Duration::from_secs(self.every_seconds.into()))
    }
}

pub(super) fn check_keeping(config: &Config) -> Result<(), ConfigError> {
    let Config { keys, head, backup, .. } = config;
    let KeysConfig { encryption, previous_encryption } = keys;
    for (key, source) in [("keys.encryption", encryption), ("keys.previous_encryption", previous_encryption)] {
        match source {
            Some(SecretSource::File(file)) => filled(&format!("{key}.file"), file)?,
            Some(SecretSource::Variable(variable)) if variable.is_empty() || variable.contains(['=', '\0']) => {
                return Err(value(&format!("{key}.variable"), "not the name of an environment variable".to_owned()));
            }
            Some(SecretSource::Command(command)) => program(&format!("{key}.command"), command)?,
            Some(SecretSource::Variable(_)) | None => {}
        }
    }
    if previous_encryption.is_some() && encryption.is_none() {
        let problem =
            "there is no `keys.encryption` that could follow upon it; key files are never decrypted where they lie";
        return Err(value("keys.previous_encryption", problem.to_owned()));
    }
    let HeadConfig { file, command, every_seconds } = head;
    match (file, command) {
        (Some(_), Some(_)) => {
            return Err(value("head", "a head is kept in one place; keep `file` or `command`".to_owned()));
        }
        (Some(file), None) => {
            filled("head.file", file)?;
            if file.starts_with(&config.server.data_dir) {
                let problem =
                    "in the data directory, with which it would be copied and restored; name a file on another volume";
                return Err(value("head.file", problem.to_owned()));
            }
        }
        (None, Some(command)) => {
            program("head.command", command)?;
            if *every_seconds == 0 {
                let problem = "a command is run at an interval; write 1 or more";
                return Err(value("head.every_seconds", problem.to_owned()));
            }
        }
        (None, None) if *every_seconds > 0 => {
            return Err(value("head.every_seconds", "there is no head; name a `head.file`".to_owned()));
        }
        (None, None) => {}
    }
    backup.directory.as_deref().map_or(Ok(()), |directory| filled("backup.directory", directory))
}

/// Relative paths start at the configuration's directory.
pub(super) fn resolve_keeping(config: &mut Config, base: impl Fn(&mut PathBuf)) {
    let Config { keys, head, backup, .. } = config;
    for source in [&mut keys.encryption, &mut keys.previous_encryption] {
        match source {
            Some(SecretSource::File(file)) => base(file),
            Some(SecretSource::Variable(_) | SecretSource::Command(_)) | None => {}
        }
    }
    head.file.iter_mut().chain(&mut backup.directory).for_each(base);
}

fn program(key: &str, command: &[String]) -> Result<(), ConfigError> {
    match command.first() {
        Some(program) if Path::new(program).is_absolute() => Ok(()),
        Some(_) => {
            Err(value(key, "the program is not an absolute path, so that nobody's PATH decides which".to_owned()))
        }
        None => Err(value(key, "empty; write the program and its arguments".to_owned())),
    }
}
