//! Checking a log that was published as tiles, by whoever has a copy of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use countersign::tlog::TileDirectory;
use countersign_audit::{
    CosignatureVerifier, Hash, NodeId, NoteVerifier, SignedCheckpoint, TileId, split_bundle, tiles_of_level,
};

use super::Failure;
use super::logcheck::{LogCheck, Report, Stored, head};

/// How often is told how far it is.
const PROGRESS: Duration = Duration::from_millis(200);

/// Checks all that the checkpoint in the directory covers: every record, every tile, the checkpoint's signatures, and that it
/// continues the older heads in `notes`. There is one tile of each level in memory, and one bundle of records.
pub fn check_tiles(
    dir: &Path,
    key: &NoteVerifier,
    witnesses: &[CosignatureVerifier],
    notes: &[String],
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, Failure> {
    let unreadable =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot read the tiles in `{}`: {error}", dir.display()));
    let tiles = TileDirectory::new(dir.to_owned());
    let note = tiles.checkpoint().map_err(|error| unreadable(&error))?;
    let note = note.ok_or_else(|| unreadable(&"there is no `checkpoint`"))?;
    let note = String::from_utf8(note).map_err(|_| unreadable(&"the `checkpoint` is no text"))?;
    let checkpoint = head(&note, key)?;
    let size = checkpoint.size();
    let mut heads = vec![checkpoint];
    for older in notes {
        heads.push(head(older, key)?);
    }
    let mut check = LogCheck::new(heads);
    let signed = SignedCheckpoint::parse(note.as_bytes()).map_err(|error| unreadable(&error))?;
    for witness in witnesses {
        if let Err(error) = witness.verify(signed.note()) {
            check.problem(error.to_string());
        }
    }
    let mut read = Tiles { directory: &tiles, size, held: BTreeMap::new() };
    let mut said = Instant::now();
    for tile in tiles_of_level(0, 0, size) {
        let entries = tiles.entries(tile).map_err(|error| unreadable(&error))?;
        let Some((form, bytes)) = entries else {
            // Only what was dropped is not there, which is the beginning; a record must say so.
            if !check.only_dropped() || !tile.is_full() {
                return Err(missing(tile));
            }
            let leaves = tiles.tile(tile).map_err(|error| unreadable(&error))?.ok_or_else(|| missing(tile))?;
            for leaf in leaves {
                check.dropped(leaf, &mut |id| read.look(id).map_err(|error| unreadable(&error)))?;
            }
            continue;
        };
        let records = split_bundle(form, &bytes).map_err(|error| unreadable(&error))?;
        let width = usize::from(tile.width());
        if records.len() < width || (records.len() > width && tile.is_full()) {
            return Err(unreadable(&format!("the bundle from record {} has {} records", tile.start(), records.len())));
        }
        for (index, record) in (tile.start()..).zip(records.into_iter().take(width)) {
            let mut look = |id| read.look(id).map_err(|error| unreadable(&error));
            check.record(index, record, Stored::Tiles(&mut look))?;
        }
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            progress(check.size(), size);
        }
    }
    Ok(check.finish(key.name(), false))
}

fn missing(tile: TileId) -> Failure {
    let end = tile.start().saturating_add(tile.width().into());
    Failure::new(format!("the log does not verify: the records from {} to below {end} are not there", tile.start()))
        .reason("LOG_BROKEN")
}

/// The tiles of a log, the last of each level held.
struct Tiles<'a> {
    directory: &'a TileDirectory,
    size: u64,
    held: BTreeMap<u8, (u64, Vec<Hash>)>,
}

impl Tiles<'_> {
    fn look(&mut self, id: NodeId) -> std::io::Result<Option<Hash>> {
        let (level, index) = (id.level / 8, id.index >> 8);
        let place = usize::try_from(id.index & 0xff).unwrap_or(usize::MAX);
        if self.held.get(&level).is_none_or(|(held, _)| *held != index) {
            let below = if index == 0 { 0 } else { first_beyond(level, index) };
            let tile = tiles_of_level(level, below, self.size).next().filter(|tile| tile.index() == index);
            let hashes = match tile {
                Some(tile) => self.directory.tile(tile)?.unwrap_or_default(),
                None => Vec::new(),
            };
            self.held.insert(level, (index, hashes));
        }
        Ok(self.held.get(&level).and_then(|(_, hashes)| hashes.get(place)).copied())
    }
}

/// The size of the tree whose tiles of this level before this one are just full.
const fn first_beyond(level: u8, index: u64) -> u64 {
    match index.checked_shl(8 * (level as u32 + 1)) {
        Some(size) => size,
        None => u64::MAX,
    }
}
