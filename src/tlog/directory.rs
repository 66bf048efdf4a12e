//! A directory of tiles. A file in it is whole or not there, and durable before anything refers to it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use countersign_audit::{EntryForm, Hash, TileId, bundle};

use crate::keystore::write_atomically;

/// Everybody may read: that is what it is for.
const MODE: u32 = 0o644;

/// The tiles of one log: what a static file server serves under the log's URL.
#[derive(Debug, Clone)]
pub struct TileDirectory {
    root: PathBuf,
}

impl TileDirectory {
    /// The directory at this place, whether it is there yet or not.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The checkpoint that was published last; `None` if none was.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        read(&self.root.join("checkpoint"))
    }

    /// Publishes a checkpoint. What it covers must be written.
    pub(super) fn publish(&self, note: &str) -> io::Result<()> {
        self.write("checkpoint", note.as_bytes())
    }

    pub(super) fn write_tile(&self, tile: TileId, hashes: &[Hash]) -> io::Result<()> {
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
        self.write(&tile.path(), &bytes)
    }

    pub(super) fn write_entries(&self, tile: TileId, records: &[Bytes]) -> io::Result<()> {
        let (form, bytes) = bundle(records);
        self.write(&tile.entries_path(form), &bytes)
    }

    /// Removes what is of no use any more once a full tile is there: the partial ones of its place.
    pub(super) fn remove_partial(&self, full: TileId) -> io::Result<()> {
        let forms = [EntryForm::Entries, EntryForm::LongEntries].map(|form| full.entries_path(form));
        let places = [full.path()].into_iter().chain(forms.into_iter().filter(|_| full.level() == 0));
        for place in places {
            match fs::remove_dir_all(self.root.join(format!("{place}.p"))) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The hashes of a tile: its own, or the first of those of the full one that replaced it. `None` if there is neither.
    ///
    /// # Errors
    /// What the operating system says; [`ErrorKind::InvalidData`] when it has another length.
    pub fn tile(&self, tile: TileId) -> io::Result<Option<Vec<Hash>>> {
        let width = usize::from(tile.width());
        let Some(bytes) = self.either(&tile.path(), &tile.full().path())? else { return Ok(None) };
        let hashes: Vec<Hash> = bytes.chunks(Hash::LEN).filter_map(|hash| Hash::try_from(hash).ok()).collect();
        if bytes.len() % Hash::LEN != 0 || hashes.len() < width {
            let problem = format!("`{}` has {} bytes", tile.path(), bytes.len());
            return Err(io::Error::new(ErrorKind::InvalidData, problem));
        }
        Ok(Some(hashes.into_iter().take(width).collect()))
    }

    /// The records of a tile of level 0 as a bundle: its own, or that of the full one that replaced it. `None` if there is none.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn entries(&self, tile: TileId) -> io::Result<Option<(EntryForm, Vec<u8>)>> {
        for form in [EntryForm::Entries, EntryForm::LongEntries] {
            if let Some(bytes) = self.either(&tile.entries_path(form), &tile.full().entries_path(form))? {
                return Ok(Some((form, bytes)));
            }
        }
        Ok(None)
    }

    fn either(&self, place: &str, full: &str) -> io::Result<Option<Vec<u8>>> {
        match read(&self.root.join(place))? {
            Some(bytes) => Ok(Some(bytes)),
            None => read(&self.root.join(full)),
        }
    }

    fn write(&self, place: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.root.join(place);
        make_durably(path.parent().unwrap_or(&self.root))?;
        write_atomically(&path, bytes, MODE)
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a directory, and those above it that are not there, so that a power cut does not take it away again.
fn make_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_durably(above)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::File::open(above)?.sync_all()
}

#[cfg(test)]
mod tests {
    use countersign_audit::{leaf_hash, split_bundle, tiles_between};

    use super::*;

    #[test]
    fn a_tile_that_became_full_serves_for_those_it_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let tiles = TileDirectory::new(dir.path().join("acme"));
        let records: Vec<Bytes> = (0..256_u16).map(|n| Bytes::copy_from_slice(&n.to_be_bytes())).collect();
        let hashes: Vec<Hash> = records.iter().map(|record| leaf_hash(record)).collect();
        let partial = tiles_between(0, 3).next().unwrap();
        let full = partial.full();
        tiles.write_tile(partial, &hashes[..3]).unwrap();
        tiles.write_entries(partial, &records[..3]).unwrap();
        tiles.write_tile(full, &hashes).unwrap();
        tiles.write_entries(full, &records).unwrap();
        tiles.remove_partial(full).unwrap();
        assert!(!dir.path().join("acme/tile/0/000.p").exists());
        assert!(!dir.path().join("acme/tile/entries/000.p").exists());
        assert_eq!(tiles.tile(partial).unwrap().unwrap(), &hashes[..3]);
        let (form, bytes) = tiles.entries(partial).unwrap().unwrap();
        assert_eq!(split_bundle(form, &bytes).unwrap().len(), 256);
        fs::write(dir.path().join("acme/tile/0/000"), [0; 33]).unwrap();
        assert!(tiles.tile(full).is_err());
        assert!(tiles.checkpoint().unwrap().is_none());
    }
}
