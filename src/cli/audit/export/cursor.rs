//! How far an export has come, in a file that outlives it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use countersign::keystore::write_atomically;
use countersign_audit::Hash;
use serde::{Deserialize, Serialize};

use super::Format;
use crate::cli::Failure;

/// The version of the file.
const VERSION: u32 = 1;

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    v: u32,
    /// The name of the log.
    origin: String,
    /// Under which key its heads are believed.
    log_key: String,
    format: Format,
    /// The first record that was not acknowledged.
    next: u64,
    /// The root of the log of the records before it.
    root: Hash,
    /// Up to which record a batch was sent that was not acknowledged. It is sent again as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent_to: Option<u64>,
}

/// A cursor, or none for an export that is not to be resumed.
#[derive(Debug)]
pub struct Cursor {
    path: Option<PathBuf>,
    written: Option<Written>,
    origin: String,
    log_key: String,
    format: Format,
}

impl Cursor {
    /// Reads the file, if there is one; it must be of this log and this format.
    pub fn load(path: Option<PathBuf>, origin: &str, log_key: &str, format: Format) -> Result<Self, Failure> {
        let written = path.as_deref().map(read).transpose()?.flatten();
        if let (Some(path), Some(written)) = (&path, &written) {
            let other = |what: &str, is: &str, wanted: &str| {
                Failure::new(format!("the cursor `{}` is of the {what} `{is}`, not `{wanted}`", path.display()))
                    .hint("give each export a cursor of its own, with `--cursor`")
                    .reason("CURSOR_OF_ANOTHER")
            };
            if written.origin != origin {
                return Err(other("log", &written.origin, origin));
            }
            if written.log_key != log_key {
                return Err(other("log key", &written.log_key, log_key));
            }
            if written.format != format {
                return Err(other("format", written.format.word(), format.word()));
            }
        }
        Ok(Self { path, written, origin: origin.to_owned(), log_key: log_key.to_owned(), format })
    }

    /// The first record that was not acknowledged, and the root of the log before it.
    pub fn position(&self) -> Option<(u64, Hash)> {
        self.written.as_ref().map(|written| (written.next, written.root))
    }

    /// Where the batch ends that was sent and not acknowledged.
    pub fn sent_to(&self) -> Option<u64> {
        self.written.as_ref().and_then(|written| written.sent_to)
    }

    /// Notes how far it has come, durably.
    pub fn keep(&mut self, next: u64, root: Hash, sent_to: Option<u64>) -> Result<(), Failure> {
        let written = Written {
            v: VERSION,
            origin: self.origin.clone(),
            log_key: self.log_key.clone(),
            format: self.format,
            next,
            root,
            sent_to,
        };
        if let Some(path) = &self.path {
            let failed = |problem: String| Failure::new(format!("cannot write `{}`: {problem}", path.display()));
            let text = serde_json::to_string(&written).map_err(|error| failed(error.to_string()))?;
            write_atomically(path, format!("{text}\n").as_bytes(), 0o600).map_err(|error| failed(error.to_string()))?;
        }
        self.written = Some(written);
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<Written>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new(format!("cannot read `{}`: {error}", path.display()))),
    };
    match serde_json::from_str::<Written>(&text) {
        Ok(written) if written.v == VERSION => Ok(Some(written)),
        Ok(_) => Err(Failure::new(format!("the cursor `{}` is of another version", path.display()))),
        Err(error) => Err(Failure::new(format!("`{}` is no cursor: {error}", path.display()))
            .hint("name another file with `--cursor`; nothing was written to this one")),
    }
}

#[cfg(test)]
mod tests {
    use countersign_audit::EMPTY_ROOT;

    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_refused_for_another_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path().join("a.cursor"));
        let mut cursor = Cursor::load(path.clone(), "a/log", "key", Format::Ocsf).unwrap();
        assert_eq!((cursor.position(), cursor.sent_to()), (None, None));
        cursor.keep(7, EMPTY_ROOT, Some(9)).unwrap();
        let again = Cursor::load(path.clone(), "a/log", "key", Format::Ocsf).unwrap();
        assert_eq!((again.position(), again.sent_to()), (Some((7, EMPTY_ROOT)), Some(9)));
        for (origin, key, format) in
            [("b/log", "key", Format::Ocsf), ("a/log", "other", Format::Ocsf), ("a/log", "key", Format::Otel)]
        {
            assert!(Cursor::load(path.clone(), origin, key, format).is_err(), "{origin} {key}");
        }
        std::fs::write(path.as_ref().unwrap(), "{\"v\":1").unwrap();
        assert!(Cursor::load(path, "a/log", "key", Format::Ocsf).is_err(), "half a cursor is none");
    }

    #[test]
    fn a_cursor_is_written_over_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a.new"), "mine").unwrap();
        for name in ["a.ocsf", "a.otel"] {
            let mut cursor = Cursor::load(Some(at(name)), "a/log", "key", Format::Ocsf).unwrap();
            cursor.keep(1, EMPTY_ROOT, None).unwrap();
        }
        assert_eq!(std::fs::read_to_string(at("a.new")).unwrap(), "mine");
    }
}
