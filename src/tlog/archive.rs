//! A copy of the beginning of a log, as tiles (C2SP tlog-tiles): what is dropped from the store is read and proved from it.
//!
//! It is what a server publishes, of a size that a head was asked for, so whoever checks the one checks the other. It can be
//! continued: the next time, what came since is added.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use countersign_audit::{
    CheckpointError, Frontier, Hash, Node, NodeId, NoteVerifier, SignedCheckpoint, TILE_WIDTH, TileId, leaf_hash,
    nodes_needed, split_bundle, tiles_of_level,
};

use super::TileDirectory;

/// The levels of tiles that a log can have.
const LEVELS: u8 = 8;

/// Why a copy is not continued, or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The directory cannot be read or written.
    #[error("cannot use the copy: {0}")]
    Io(#[from] io::Error),
    /// The checkpoint in it is not of the log.
    #[error("its `checkpoint` is none of this log ({0}): name another directory")]
    NotOurs(CheckpointError),
    /// The copy ends within a tile.
    #[error(
        "it has {0} records, which is no multiple of {TILE_WIDTH}: a server publishes there; name another directory"
    )]
    Ragged(u64),
    /// The tiles do not give the root that is signed.
    #[error("its tiles are not those that its `checkpoint` covers: keep it as it is, and begin another one")]
    Damaged,
    /// A head of another log, or size, would be written over what is there.
    #[error("the head is of {head} records, and the copy has {size}, or others")]
    OtherHead {
        /// The size of the head.
        head: u64,
        /// The size of the copy.
        size: u64,
    },
    /// A record is not in the copy.
    #[error("record {0} is not in it")]
    Missing(u64),
}

/// A copy that is being continued.
#[derive(Debug)]
pub struct Archive {
    directory: TileDirectory,
    frontier: Frontier,
    /// The hashes of the tile of each level that is not full yet.
    open: [Vec<Hash>; LEVELS as usize],
    /// The records of the one of level 0.
    records: Vec<Bytes>,
}

impl Archive {
    /// The copy in a directory, or the beginning of one.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn open(root: PathBuf, key: &NoteVerifier) -> Result<Self, ArchiveError> {
        let directory = TileDirectory::new(root);
        let mut archive =
            Self { directory, frontier: Frontier::empty(), open: Default::default(), records: Vec::new() };
        let Some(note) = archive.directory.checkpoint()? else { return Ok(archive) };
        let note = SignedCheckpoint::parse(&note).map_err(ArchiveError::NotOurs)?;
        let head = note.verify(key.name(), std::slice::from_ref(key)).map_err(ArchiveError::NotOurs)?;
        let size = head.size();
        if !size.is_multiple_of(TILE_WIDTH) {
            return Err(ArchiveError::Ragged(size));
        }
        for (level, open) in (0..LEVELS).zip(&mut archive.open) {
            let last = tiles_of_level(level, 0, size).last().filter(|tile| !tile.is_full());
            if let Some(tile) = last {
                *open = archive.directory.tile(tile)?.ok_or(ArchiveError::Damaged)?;
            }
        }
        let node = |id| Ok(Node { id, hash: archive.node(id, size)? });
        let nodes = nodes_needed(size).into_iter().map(node).collect::<Result<Vec<_>, ArchiveError>>()?;
        archive.frontier = Frontier::from_nodes(size, nodes).map_err(|_| ArchiveError::Damaged)?;
        if archive.frontier.root() != *head.root() {
            return Err(ArchiveError::Damaged);
        }
        Ok(archive)
    }

    /// How many records it has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root of them.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// Adds the next record. It is there to stay with those of its tile.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn push(&mut self, record: Bytes) -> Result<(), ArchiveError> {
        let nodes = self.frontier.append(leaf_hash(&record));
        self.records.push(record);
        for node in nodes {
            let Some(tile) = TileId::full_with(node.id) else { continue };
            let Some(open) = self.open.get_mut(usize::from(tile.level())) else { continue };
            open.push(node.hash);
            if open.len() < usize::from(tile.width()) {
                continue;
            }
            if tile.level() == 0 {
                self.directory.write_entries(tile, &std::mem::take(&mut self.records))?;
            }
            self.directory.write_tile(tile, &std::mem::take(open))?;
            self.directory.remove_partial(tile)?;
        }
        Ok(())
    }

    /// Ends with the head of what the copy has. Without, nothing of what was added counts.
    ///
    /// # Errors
    /// [`ArchiveError::OtherHead`], [`ArchiveError::Ragged`], [`ArchiveError::Io`].
    pub fn finish(self, head: &SignedCheckpoint) -> Result<(), ArchiveError> {
        let (size, signed) = (self.size(), head.unverified());
        if !self.records.is_empty() {
            return Err(ArchiveError::Ragged(size));
        }
        if signed.size() != size || *signed.root() != self.root() {
            return Err(ArchiveError::OtherHead { head: signed.size(), size });
        }
        for (level, open) in (0..LEVELS).zip(&self.open) {
            if let Some(tile) = tiles_of_level(level, 0, size).last().filter(|tile| !tile.is_full()) {
                self.directory.write_tile(tile, open)?;
            }
        }
        Ok(self.directory.publish(&head.to_string())?)
    }

    /// The hash of a subtree, from the hashes of a tile.
    fn node(&self, id: NodeId, size: u64) -> Result<Hash, ArchiveError> {
        let (level, above) = (id.level / 8, id.level % 8);
        let first = id.index << above;
        let at = first / TILE_WIDTH;
        let tile = tiles_of_level(level, 0, size).find(|tile| tile.index() == at).ok_or(ArchiveError::Damaged)?;
        let hashes = self.directory.tile(tile)?.ok_or(ArchiveError::Damaged)?;
        let from = usize::try_from(first % TILE_WIDTH).unwrap_or(usize::MAX);
        let below = hashes.get(from..from.saturating_add(1 << above)).ok_or(ArchiveError::Damaged)?;
        let mut subtree = Frontier::empty();
        below.iter().for_each(|hash| drop(subtree.append(*hash)));
        Ok(subtree.root())
    }
}

/// The records that a directory of tiles has, from one on up to another, in order. They are not checked: whoever takes them does.
///
/// # Errors
/// [`ArchiveError::Missing`], [`ArchiveError::Io`], and what `take` says.
pub fn archived<E: From<ArchiveError>>(
    root: &Path,
    from: u64,
    until: u64,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let directory = TileDirectory::new(root.to_owned());
    let first = from - from % TILE_WIDTH;
    for tile in tiles_of_level(0, first, until) {
        let entries = directory.entries(tile).map_err(ArchiveError::from)?;
        let (form, bytes) = entries.ok_or(ArchiveError::Missing(tile.start()))?;
        let records = split_bundle(form, &bytes);
        let records = records.map_err(|error| ArchiveError::Io(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        if records.len() < usize::from(tile.width()) {
            return Err(ArchiveError::Missing(tile.start().saturating_add(records.len() as u64)).into());
        }
        for (index, record) in (tile.start()..until).zip(records) {
            if index >= from {
                take(index, record)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use countersign_audit::{Checkpoint, NoteSigner};

    use super::*;

    fn signer() -> NoteSigner {
        NoteSigner::from_seed("example/log", &[1; 32]).unwrap()
    }

    fn record(index: u64) -> Bytes {
        Bytes::from(format!("record {index}"))
    }

    fn head(size: u64) -> SignedCheckpoint {
        let mut frontier = Frontier::empty();
        (0..size).for_each(|index| drop(frontier.append(leaf_hash(&record(index)))));
        let head = Checkpoint::new("example/log", size, frontier.root()).unwrap();
        SignedCheckpoint::sign(head, &[&signer()]).unwrap()
    }

    fn read(root: &Path, from: u64, until: u64) -> Result<Vec<(u64, Vec<u8>)>, ArchiveError> {
        let mut all = Vec::new();
        archived(root, from, until, |index, record| {
            all.push((index, record.to_vec()));
            Ok::<_, ArchiveError>(())
        })?;
        Ok(all)
    }

    #[test]
    fn a_copy_is_continued_from_where_it_ended_and_has_every_tile() {
        let dir = tempfile::tempdir().unwrap();
        let at = || Archive::open(dir.path().join("copy"), signer().verifier()).unwrap();
        // Past one tile of level 1, which is partial before and after.
        for size in [256, 1_024, 1_024, 65_536 + 512] {
            let mut archive = at();
            for index in archive.size()..size {
                archive.push(record(index)).unwrap();
            }
            archive.finish(&head(size)).unwrap();
            assert_eq!((at().size(), at().root()), (size, *head(size).unverified().root()));
        }
        let (root, size) = (dir.path().join("copy"), 65_536 + 512);
        for tile in countersign_audit::tiles_between(0, size) {
            assert!(root.join(tile.path()).exists(), "{}", tile.path());
        }
        let some = read(&root, 300, 70_000.min(size)).unwrap();
        assert!(some.iter().map(|(index, _)| *index).eq(300..size));
        assert!(some.iter().all(|(index, bytes)| *bytes == record(*index)));
        assert!(matches!(read(&root, 0, size + 1), Err(ArchiveError::Missing(_))));
    }

    #[test]
    fn what_was_added_without_a_head_does_not_count_and_is_added_again() {
        let dir = tempfile::tempdir().unwrap();
        let at = || Archive::open(dir.path().to_owned(), signer().verifier()).unwrap();
        let mut begun = at();
        (0..700).for_each(|index| begun.push(record(index)).unwrap());
        assert!(matches!(begun.finish(&head(700)), Err(ArchiveError::Ragged(700))));
        let mut archive = at();
        assert_eq!(archive.size(), 0);
        (0..512).for_each(|index| archive.push(record(index)).unwrap());
        assert!(matches!(archive.finish(&head(256)), Err(ArchiveError::OtherHead { head: 256, size: 512 })));
        let mut archive = at();
        (0..512).for_each(|index| archive.push(record(index)).unwrap());
        archive.finish(&head(512)).unwrap();
        assert_eq!(at().size(), 512);
    }

    #[test]
    fn a_copy_of_another_log_and_one_that_was_changed_are_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::open(dir.path().to_owned(), signer().verifier()).unwrap();
        (0..256).for_each(|index| archive.push(record(index)).unwrap());
        archive.finish(&head(256)).unwrap();
        let other = NoteSigner::from_seed("example/log", &[2; 32]).unwrap();
        let open = |key: &NoteVerifier| Archive::open(dir.path().to_owned(), key);
        assert!(matches!(open(other.verifier()), Err(ArchiveError::NotOurs(_))));
        std::fs::write(dir.path().join("tile/1/000.p/1"), [7; 32]).unwrap();
        assert!(matches!(open(signer().verifier()), Err(ArchiveError::Damaged)));
    }
}
