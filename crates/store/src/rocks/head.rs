//! The head: the newest revision that was acknowledged, kept beside RocksDB.
//!
//! RocksDB alone cannot tell a log that ends from one that lost its end. The head is written after each sync and before
//! anyone is answered, so the operating system has it when an answer leaves: after a crash of the process it names
//! every acknowledged commit. It is synced about once a second under load and at the end of each burst, so after a
//! crash of the machine it may name a revision up to a second older; never one that was not durable before.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use countersign_core::Digest;

use crate::kernel::Revision;

/// The file's name.
pub(super) const NAME: &str = "HEAD";
/// Two slots are written in turn: a write that is cut short leaves the other one.
const SLOT: usize = 512;
const SLOTS: usize = 2;
const TITLE: &str = "countersign head 1";

/// The open head file. It is locked as long as it is open: one process owns the directory.
#[derive(Debug)]
pub(super) struct Head {
    file: File,
    /// The next slot to write.
    slot: u64,
    dirty: bool,
}

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// This revision was acknowledged.
    Revision(Revision),
    /// Neither slot is readable.
    Nothing,
}

/// Why the file is not opened.
#[derive(Debug)]
pub(super) enum HeadError {
    Missing,
    Locked,
    Io(io::Error),
}

impl Head {
    /// Creates the file, durably. It proves nothing until it was written twice: each slot once.
    pub(super) fn create(directory: &Path) -> Result<Self, HeadError> {
        let path = directory.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(HeadError::Io)?;
        lock(&file)?;
        let synced = file.sync_all().and_then(|()| File::open(directory)?.sync_all());
        synced.map_err(HeadError::Io)?;
        Ok(Self { file, slot: 0, dirty: false })
    }

    /// Writes both slots and syncs them: later writes need no space.
    pub(super) fn begin(&mut self, revision: Revision) -> io::Result<()> {
        self.write(revision)?;
        self.write(revision)?;
        self.file.sync_all()?;
        self.dirty = false;
        Ok(())
    }

    /// Opens and locks the file, and says what it holds.
    pub(super) fn open(directory: &Path) -> Result<(Self, Found), HeadError> {
        let path = directory.join(NAME);
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(HeadError::Missing),
            Err(error) => return Err(HeadError::Io(error)),
        };
        lock(&file)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(HeadError::Io)?;
        let mut newest: Option<(Revision, u64)> = None;
        for (slot, content) in (0..).zip(bytes.chunks(SLOT).take(SLOTS)) {
            if let Some(revision) = read(content)
                && newest.is_none_or(|(other, _)| revision >= other)
            {
                newest = Some((revision, slot));
            }
        }
        let (slot, found) = match newest {
            // The slot that is not the newest is overwritten next.
            Some((revision, slot)) => (1 - slot.min(1), Found::Revision(revision)),
            None => (0, Found::Nothing),
        };
        Ok((Self { file, slot, dirty: false }, found))
    }

    /// Notes the newest durable revision. Not synced.
    pub(super) fn write(&mut self, revision: Revision) -> io::Result<()> {
        let slot = u64::try_from(SLOT).map_err(io::Error::other)?;
        self.file.write_all_at(&render(revision), self.slot.saturating_mul(slot))?;
        self.slot = 1 - self.slot.min(1);
        self.dirty = true;
        Ok(())
    }

    /// Whether the file says more than the disk.
    pub(super) const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Syncs what was noted.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.dirty = false;
        Ok(())
    }
}

fn lock(file: &File) -> Result<(), HeadError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => HeadError::Locked,
        TryLockError::Error(error) => HeadError::Io(error),
    })
}

/// One slot: readable text with its own digest, filled up with line ends.
fn render(revision: Revision) -> Vec<u8> {
    let text = format!("{TITLE}\nrevision {:020}\n", revision.get());
    let mut slot = format!("{text}sha256 {}\n", Digest::of(text.as_bytes())).into_bytes();
    slot.resize(SLOT, b'\n');
    slot
}

fn read(slot: &[u8]) -> Option<Revision> {
    let text = std::str::from_utf8(slot).ok()?;
    let mut lines = text.lines();
    if lines.next()? != TITLE {
        return None;
    }
    let revision = Revision::new(lines.next()?.strip_prefix("revision ")?.parse().ok()?);
    (render(revision) == slot).then_some(revision)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn created(directory: &Path) -> Head {
        let mut head = Head::create(directory).unwrap();
        head.begin(Revision::ZERO).unwrap();
        head
    }

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn the_newest_revision_is_read_back() {
        let directory = directory();
        let mut head = created(directory.path());
        for number in 1..6 {
            head.write(Revision::new(number)).unwrap();
        }
        drop(head);
        let (mut head, found) = Head::open(directory.path()).unwrap();
        assert_eq!(found, Found::Revision(Revision::new(5)));
        head.write(Revision::new(6)).unwrap();
        drop(head);
        assert_eq!(Head::open(directory.path()).unwrap().1, Found::Revision(Revision::new(6)));
    }

    #[test]
    fn a_slot_that_was_cut_short_leaves_the_other() {
        let directory = directory();
        let mut head = created(directory.path());
        head.write(Revision::new(1)).unwrap();
        head.write(Revision::new(2)).unwrap();
        drop(head);
        let path = directory.path().join(NAME);
        let mut bytes = fs::read(&path).unwrap();
        bytes[SLOT + 30] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(Head::open(directory.path()).unwrap().1, Found::Revision(Revision::new(1)));
        bytes[30] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(Head::open(directory.path()).unwrap().1, Found::Nothing);
    }

    #[test]
    fn a_file_that_was_not_begun_proves_nothing() {
        let directory = directory();
        drop(Head::create(directory.path()).unwrap());
        assert_eq!(Head::open(directory.path()).unwrap().1, Found::Nothing);
    }

    #[test]
    fn only_one_holds_it() {
        let directory = directory();
        let head = created(directory.path());
        assert!(matches!(Head::open(directory.path()), Err(HeadError::Locked)));
        drop(head);
        assert!(Head::open(directory.path()).is_ok());
    }
}
