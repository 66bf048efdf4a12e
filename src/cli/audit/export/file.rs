//! A file of lines, whose last complete line says how far it has come.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::Format;
use crate::cli::Failure;

/// How much of the end is read at once.
const STEP: u64 = 64 * 1_024;

/// The file, held by this process alone.
#[derive(Debug)]
pub struct Lines {
    file: File,
    path: String,
    /// Up to where it holds complete lines.
    whole: u64,
    /// The last of them.
    last: Option<String>,
}

impl Lines {
    /// Opens or makes it. A line that was not finished is cut off; a file of something else is left as it is.
    pub fn open(path: &Path, format: Format) -> Result<Self, Failure> {
        let path_text = path.display().to_string();
        let failed = |error: std::io::Error| Failure::new(format!("cannot use `{path_text}`: {error}"));
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = opened.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let problem = format!("another process is writing to `{}`", path.display());
                return Err(Failure::new(problem).hint("let it end, or export into another file"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let len = file.metadata().map_err(failed)?.len();
        let whole = after_line_feed(&mut file, len).map_err(failed)?;
        let start = match whole.checked_sub(1) {
            Some(before) => after_line_feed(&mut file, before).map_err(failed)?,
            None => 0,
        };
        let last = read(&mut file, start, whole).map_err(failed)?;
        let torn = read(&mut file, whole, len.min(whole + 64)).map_err(failed)?;
        let begins = format.line_begins().as_bytes();
        let ours = |text: &[u8]| text.iter().zip(begins).all(|(a, b)| a == b);
        if !ours(&torn) || !ours(&last) {
            let problem = format!("`{}` holds something else than an export in this format", path.display());
            return Err(Failure::new(problem).hint("name another file; nothing was written to this one"));
        }
        if whole < len {
            file.set_len(whole).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let last = String::from_utf8_lossy(&last).trim_end().to_owned();
        let last = (!last.is_empty()).then_some(last);
        // So that a file that was just made is still there after a power cut.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)?;
        Ok(Self { file, path: path_text, whole, last })
    }

    /// The last complete line.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Appends lines, durably.
    pub fn append(&mut self, lines: &str) -> Result<(), Failure> {
        let written = self.file.seek(SeekFrom::Start(self.whole)).and_then(|_| {
            self.file.write_all(lines.as_bytes())?;
            self.file.sync_data()
        });
        written.map_err(|error| {
            // What is left of the lines is cut off now, or else by the next export.
            let _ = self.file.set_len(self.whole);
            Failure::new(format!("cannot write to `{}`: {error}", self.path))
        })?;
        self.whole += lines.len() as u64;
        Ok(())
    }
}

/// Behind the last line feed before `end`; 0 if there is none.
fn after_line_feed(file: &mut File, mut end: u64) -> std::io::Result<u64> {
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let bytes = read(file, start, end)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn read(file: &mut File, start: u64, end: u64) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(end.saturating_sub(start)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_cut_off_at_every_byte_and_what_is_not_ours_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("export");
        let begins = Format::Ocsf.line_begins();
        let (first, second) = (format!("{begins}:1}}\n"), format!("{begins}:{}}}\n", "2".repeat(200_000)));
        let both = format!("{first}{second}");
        for cut in (0..=first.len() + 40).chain(both.len() - 20..=both.len()) {
            std::fs::write(&path, &both.as_bytes()[..cut]).unwrap();
            let lines = Lines::open(&path, Format::Ocsf).unwrap();
            let expected = if cut == both.len() {
                Some(second.trim())
            } else if cut >= first.len() {
                Some(first.trim())
            } else {
                None
            };
            assert_eq!(lines.last(), expected, "{cut}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), lines.whole, "{cut}");
        }
        for other in ["hello", "hello\n", "{\"a\":1}\n", "{\"b"] {
            std::fs::write(&path, other).unwrap();
            assert!(Lines::open(&path, Format::Ocsf).is_err(), "{other}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
        }
    }

    #[test]
    fn one_process_writes_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("export");
        let mut lines = Lines::open(&path, Format::Otel).unwrap();
        assert!(Lines::open(&path, Format::Otel).is_err());
        lines.append("{\"resourceLogs\":[]}\n").unwrap();
        drop(lines);
        assert_eq!(Lines::open(&path, Format::Otel).unwrap().last(), Some("{\"resourceLogs\":[]}"));
    }
}
