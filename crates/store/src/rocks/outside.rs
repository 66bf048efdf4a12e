//! The head that is kept outside of the data directory: what proves that a directory is not an older copy of itself.
//!
//! It names the newest acknowledged revision, and size and root of every log. It is written after the sync of what it names:
//! so it is never ahead of the store, except where the store lost something or is another one. Written for each group of
//! commits, it names every acknowledged commit before anybody is told of it. Written at an interval, by a thread of its own,
//! it may be behind by up to [`LAG`] intervals; then the store stops.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use countersign_audit::{Frontier, Hash};
use countersign_core::{Digest, TenantId};

use super::Shared;
use crate::error::StoreError;
use crate::fail::lock;
use crate::kernel::Revision;

const TITLE: &str = "countersign outside head 1";
/// How many intervals a head may be behind before nothing is answered any more.
pub const LAG: u32 = 10;
/// Two slots are written in turn: a write that is cut short leaves the other one.
const SLOT: u64 = 64 << 10;
const BLOCK: usize = 512;

/// Keeps a head where a copy of the data directory does not bring it back.
pub trait HeadKeeper: fmt::Debug + Send + Sync {
    /// The newest head that was written; `None` if none ever was.
    ///
    /// # Errors
    /// What keeps it from being read. One that cannot be read is not one that never was.
    fn read(&self) -> io::Result<Option<KnownHead>>;
    /// Keeps a head, durably.
    ///
    /// # Errors
    /// What keeps it from being written.
    fn write(&self, head: &KnownHead) -> io::Result<()>;
    /// Where it is kept, for people.
    fn place(&self) -> String;
}

/// A head that is kept outside, and how.
#[derive(Debug, Clone)]
pub struct OutsideHead {
    /// Who keeps it.
    pub keeper: Arc<dyn HeadKeeper>,
    /// How often it is written. `None`: for each group of commits, before anybody is answered.
    pub every: Option<Duration>,
    /// Whether one that was never written is begun. Otherwise it is missing, and the store is not opened.
    pub begin: bool,
}

/// What a head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHead {
    /// The newest acknowledged revision.
    pub revision: Revision,
    /// The store's epoch.
    pub epoch: u64,
    /// Size, in records, and root of each log.
    pub logs: BTreeMap<TenantId, (u64, Hash)>,
}

impl KnownHead {
    /// What a store of this revision, epoch and these right edges has.
    pub(super) fn of<'a>(
        revision: Revision,
        epoch: u64,
        logs: impl IntoIterator<Item = (&'a TenantId, &'a Frontier)>,
    ) -> Self {
        let logs = logs.into_iter().map(|(log, edge)| (log.clone(), (edge.size(), edge.root()))).collect();
        Self { revision, epoch, logs }
    }

    /// Readable text with its own digest.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { revision, epoch, logs } = self;
        let logs: String = logs
            .iter()
            .map(|(log, (size, root))| format!("log {log} {size} {}\n", hex::encode(root.as_bytes())))
            .collect();
        let text = format!("{TITLE}\nrevision {}\nepoch {epoch}\n{logs}", revision.get());
        format!("{text}sha256 {}\n", Digest::of(text.as_bytes()))
    }

    /// Reads the text; `None` if it is not one, whole and unchanged.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.trim_end_matches('\n').lines();
        if lines.next()? != TITLE {
            return None;
        }
        let revision = Revision::new(lines.next()?.strip_prefix("revision ")?.parse().ok()?);
        let epoch = lines.next()?.strip_prefix("epoch ")?.parse().ok()?;
        let mut logs = BTreeMap::new();
        for line in lines {
            let Some(log) = line.strip_prefix("log ") else { break };
            let mut parts = log.split(' ');
            let name = TenantId::new(parts.next()?).ok()?;
            let size = parts.next()?.parse().ok()?;
            let mut root = [0; 32];
            hex::decode_to_slice(parts.next()?, &mut root).ok()?;
            logs.insert(name, (size, Hash::from_bytes(root)));
        }
        let head = Self { revision, epoch, logs };
        (head.to_text().trim_end() == text.trim_end()).then_some(head)
    }

    fn newness(&self) -> (u64, u64) {
        (self.epoch, self.revision.get())
    }
}

/// A head in a file: on another volume, that is not copied and restored together with the data directory.
#[derive(Debug)]
pub struct FileHead {
    path: PathBuf,
    open: Mutex<Option<(File, u64)>>,
}

impl FileHead {
    /// The head at this path. Its directory must be there.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, open: Mutex::new(None) }
    }

    /// Both slots, with their places.
    fn slots(&self) -> io::Result<Option<Vec<(u64, KnownHead)>>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (first, second) = bytes.split_at(bytes.len().min(usize::try_from(SLOT).unwrap_or(usize::MAX)));
        let read = |(number, slot): (u64, &[u8])| {
            let text = std::str::from_utf8(slot).ok()?;
            let end = text.find("\n\n").unwrap_or(text.len());
            Some((number, KnownHead::parse(text.get(..end)?)?))
        };
        Ok(Some([(0, first), (1, second)].into_iter().filter_map(read).collect()))
    }

    fn begin(&self) -> io::Result<(File, u64)> {
        let newest = self.slots()?.into_iter().flatten().max_by_key(|(_, head)| head.newness());
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path)?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()?;
        // The slot that is not the newest is overwritten next.
        Ok((file, newest.map_or(0, |(slot, _)| 1 - slot.min(1))))
    }
}

impl HeadKeeper for FileHead {
    fn read(&self) -> io::Result<Option<KnownHead>> {
        let Some(slots) = self.slots()? else { return Ok(None) };
        let newest = slots.into_iter().map(|(_, head)| head).max_by_key(KnownHead::newness);
        newest.map(Some).ok_or_else(|| io::Error::other("it holds no head that is whole"))
    }

    fn write(&self, head: &KnownHead) -> io::Result<()> {
        let mut bytes = head.to_text().into_bytes();
        // An empty line ends it; what an earlier and longer one left behind is not read.
        bytes.push(b'\n');
        bytes.resize(bytes.len().next_multiple_of(BLOCK), b'\n');
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > SLOT {
            return Err(io::Error::other("there are too many tenants for a head in a file; keep it by a command"));
        }
        let mut open = lock(&self.open);
        if open.is_none() {
            *open = Some(self.begin()?);
        }
        let Some((file, slot)) = open.as_mut() else { return Err(io::Error::other("it is not open")) };
        file.write_all_at(&bytes, slot.saturating_mul(SLOT))?;
        file.sync_data()?;
        *slot = 1 - (*slot).min(1);
        Ok(())
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// How the writing thread keeps the head.
#[derive(Debug)]
pub(super) enum Keeping {
    /// Nowhere.
    Not,
    /// For each group, before it is answered.
    Each(Arc<dyn HeadKeeper>),
    /// At an interval, by a thread.
    Every { latest: Arc<Mutex<Option<KnownHead>>>, wake: SyncSender<()>, thread: JoinHandle<()> },
}

impl Keeping {
    /// Writes the head as it is, and keeps it from now on.
    pub(super) fn start(outside: Option<&OutsideHead>, head: &KnownHead, shared: &Arc<Shared>) -> io::Result<Self> {
        let Some(OutsideHead { keeper, every, begin: _ }) = outside else { return Ok(Self::Not) };
        keeper.write(head)?;
        let Some(every) = *every else { return Ok(Self::Each(Arc::clone(keeper))) };
        let latest = Arc::new(Mutex::new(None));
        let (wake, woken) = sync_channel(1);
        let at_times =
            AtTimes { keeper: Arc::clone(keeper), every, latest: Arc::clone(&latest), shared: Arc::downgrade(shared) };
        let thread = thread::Builder::new().name("store-head".to_owned()).spawn(move || at_times.run(&woken))?;
        Ok(Self::Every { latest, wake, thread })
    }

    /// Keeps the head of what was just made durable, or notes it for the next time.
    pub(super) fn note(&self, head: impl FnOnce() -> KnownHead) -> io::Result<()> {
        match self {
            Self::Not => Ok(()),
            Self::Each(keeper) => keeper.write(&head()),
            Self::Every { latest, wake, .. } => {
                *lock(latest) = Some(head());
                match wake.try_send(()) {
                    Ok(()) | Err(TrySendError::Full(())) => Ok(()),
                    Err(TrySendError::Disconnected(())) => Err(io::Error::other("its thread ended")),
                }
            }
        }
    }

    /// Writes what is still to be written, and ends.
    pub(super) fn end(self) {
        if let Self::Every { wake, thread, .. } = self {
            drop(wake);
            if thread.join().is_err() {
                tracing::warn!("the thread that keeps the head outside broke off");
            }
        }
    }
}

/// The thread that keeps a head at an interval.
struct AtTimes {
    keeper: Arc<dyn HeadKeeper>,
    every: Duration,
    latest: Arc<Mutex<Option<KnownHead>>>,
    shared: Weak<Shared>,
}

impl AtTimes {
    fn run(self, woken: &Receiver<()>) {
        let mut behind_since = None::<Instant>;
        let mut over = false;
        while !over {
            if woken.recv().is_err() {
                over = true;
            } else {
                // Everything within an interval is one head.
                let until = Instant::now() + self.every;
                while !over {
                    match woken.recv_timeout(until.saturating_duration_since(Instant::now())) {
                        Ok(()) => {}
                        Err(RecvTimeoutError::Timeout) => break,
                        Err(RecvTimeoutError::Disconnected) => over = true,
                    }
                }
            }
            loop {
                let Some(head) = lock(&self.latest).take() else { break };
                let Err(error) = self.keeper.write(&head) else {
                    behind_since = None;
                    break;
                };
                tracing::error!(%error, place = self.keeper.place(), "cannot keep the head outside");
                lock(&self.latest).get_or_insert(head);
                let since = *behind_since.get_or_insert_with(Instant::now);
                if over {
                    return;
                }
                if since.elapsed() >= self.every.saturating_mul(LAG) {
                    let reason = format!("the head could not be kept at `{}`: {error}", self.keeper.place());
                    if let Some(shared) = self.shared.upgrade() {
                        shared.stop(StoreError::Stopped { reason });
                    }
                    return;
                }
                thread::sleep(self.every.min(Duration::from_secs(1)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(revision: u64, epoch: u64) -> KnownHead {
        let log = (TenantId::new("acme").unwrap(), (revision, Hash::from_bytes([7; 32])));
        KnownHead { revision: Revision::new(revision), epoch, logs: [log].into() }
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_not_otherwise() {
        let text = head(12, 1).to_text();
        assert_eq!(KnownHead::parse(&text), Some(head(12, 1)));
        assert_eq!(KnownHead::parse(&text.replace("12", "13")), None);
        assert_eq!(KnownHead::parse(""), None);
    }

    #[test]
    fn a_file_keeps_the_newest_head_and_a_cut_write_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("head");
        let keeper = FileHead::new(path.clone());
        assert_eq!(keeper.read().unwrap(), None);
        for revision in 1..6 {
            keeper.write(&head(revision, 1)).unwrap();
        }
        let again = FileHead::new(path.clone());
        assert_eq!(again.read().unwrap(), Some(head(5, 1)));
        again.write(&head(6, 2)).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[usize::try_from(SLOT).unwrap() + 30] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(FileHead::new(path.clone()).read().unwrap(), Some(head(5, 1)));
        std::fs::write(&path, "").unwrap();
        assert!(FileHead::new(path).read().is_err(), "an empty file is not one that never was");
    }
}
