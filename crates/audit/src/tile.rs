//! Tiles: the tree and the records as files that any static server serves (C2SP tlog-tiles).

use std::fmt::Write as _;

use thiserror::Error;

use crate::frontier::NodeId;

/// How many hashes a full tile holds, and how many records a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// How many levels of the tree one level of tiles spans: `2^8` is [`TILE_WIDTH`].
const TILE_HEIGHT: u8 = 8;
/// The levels of tiles: above, no tree has a node.
const TILE_LEVELS: u8 = 8;

/// One tile: consecutive hashes of one height of the tree.
///
/// A tile that is full never changes. One that is not is of one size of the tree, and has a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TileId {
    level: u8,
    index: u64,
    width: u16,
}

/// How the length of each record is written in a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryForm {
    /// In 2 bytes, as C2SP tlog-tiles has it.
    Entries,
    /// In 4 bytes, for a bundle that holds a record of more than 65,535 bytes. Such a bundle has no other form.
    LongEntries,
}

/// Why a bundle of records cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the bundle ends within record {record} of it; it may have been cut short")]
pub struct BundleError {
    /// The record, from 0.
    pub record: usize,
}

impl TileId {
    /// The height of its hashes, in levels of tiles: at level 0 they are leaves.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.level
    }

    /// Its place from the left among the tiles of its level, from 0.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.index
    }

    /// How many hashes it holds: 1 to [`TILE_WIDTH`].
    #[must_use]
    pub const fn width(self) -> u16 {
        self.width
    }

    /// Whether it holds all that it ever will.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.width as u64 == TILE_WIDTH
    }

    /// The index of the first of its hashes, at its level.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.index << TILE_HEIGHT
    }

    /// The places of its hashes in the tree, in their order.
    pub fn nodes(self) -> impl Iterator<Item = NodeId> {
        let (level, start) = (self.level.saturating_mul(TILE_HEIGHT), self.start());
        (0..u64::from(self.width)).map(move |offset| NodeId { level, index: start | offset })
    }

    /// Where it is served: `tile/<L>/<N>[.p/<W>]`.
    #[must_use]
    pub fn path(self) -> String {
        self.place(&self.level.to_string())
    }

    /// Where the records of a tile of level 0 are served: `tile/entries/<N>[.p/<W>]`.
    #[must_use]
    pub fn entries_path(self, form: EntryForm) -> String {
        self.place(match form {
            EntryForm::Entries => "entries",
            EntryForm::LongEntries => "long-entries",
        })
    }

    /// The full tile that has the hash of this place; `None` for one of a height that no tile has.
    #[must_use]
    pub const fn full_with(node: NodeId) -> Option<Self> {
        if !node.level.is_multiple_of(TILE_HEIGHT) {
            return None;
        }
        Some(Self { level: node.level / TILE_HEIGHT, index: node.index >> TILE_HEIGHT, width: 1 << TILE_HEIGHT })
    }

    /// The tile of the same place when it is full.
    #[must_use]
    pub const fn full(self) -> Self {
        Self { width: 1 << TILE_HEIGHT, ..self }
    }

    fn place(self, what: &str) -> String {
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        let mut path = format!("tile/{what}");
        for (left, group) in groups.iter().enumerate().rev() {
            let begin = if left > 0 { "x" } else { "" };
            // Writing into a string does not fail.
            let _infallible = write!(path, "/{begin}{group:03}");
        }
        if !self.is_full() {
            let _infallible = write!(path, ".p/{}", self.width);
        }
        path
    }
}

/// The tiles that the tree of the first `new` leaves has and that of the first `old` has not, the lower levels first and from
/// left to right. From 0, all of them.
pub fn tiles_between(old: u64, new: u64) -> impl Iterator<Item = TileId> {
    (0..TILE_LEVELS).flat_map(move |level| tiles_of_level(level, old, new))
}

/// As [`tiles_between`], of one level.
pub fn tiles_of_level(level: u8, old: u64, new: u64) -> impl Iterator<Item = TileId> {
    let hashes = move |size: u64| size.checked_shr(u32::from(level) * u32::from(TILE_HEIGHT)).unwrap_or(0);
    let (before, now) = (hashes(old), hashes(new));
    let first = before >> TILE_HEIGHT;
    let end = if now > before { now.div_ceil(TILE_WIDTH) } else { first };
    (first..end).map(move |index| {
        let left = now.saturating_sub(index << TILE_HEIGHT);
        let width = u16::try_from(left.min(TILE_WIDTH)).unwrap_or(u16::MAX);
        TileId { level, index, width }
    })
}

/// The records as one bundle, and the form that they need.
#[must_use]
pub fn bundle<R: AsRef<[u8]>>(records: &[R]) -> (EntryForm, Vec<u8>) {
    let short: Option<Vec<u16>> = records.iter().map(|record| u16::try_from(record.as_ref().len()).ok()).collect();
    let mut bytes = Vec::new();
    if let Some(lengths) = short {
        for (length, record) in lengths.iter().zip(records) {
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(record.as_ref());
        }
        return (EntryForm::Entries, bytes);
    }
    for record in records {
        // No record comes near 4 GiB; one that did would be cut here, and not hash to its leaf.
        let length = u32::try_from(record.as_ref().len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(record.as_ref());
    }
    (EntryForm::LongEntries, bytes)
}

/// The records of a bundle.
///
/// # Errors
///
/// [`BundleError`] when the lengths in it do not fit it.
pub fn split_bundle(form: EntryForm, bytes: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
    let (mut records, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let cut = BundleError { record: records.len() };
        let (length, after) = match form {
            EntryForm::Entries => {
                let (length, after) = rest.split_first_chunk::<2>().ok_or(cut)?;
                (usize::from(u16::from_be_bytes(*length)), after)
            }
            EntryForm::LongEntries => {
                let (length, after) = rest.split_first_chunk::<4>().ok_or(cut)?;
                (usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut)?, after)
            }
        };
        let (record, after) = after.split_at_checked(length).ok_or(cut)?;
        records.push(record);
        rest = after;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(level: u8, index: u64, width: u16) -> TileId {
        TileId { level, index, width }
    }

    #[test]
    fn the_tiles_of_the_documents_example_are_these() {
        let tiles: Vec<TileId> = tiles_between(0, 70_000).collect();
        let of = |level, full| tiles.iter().filter(|tile| tile.level == level && tile.is_full() == full).count();
        assert_eq!((of(0, true), of(0, false), of(1, true), of(1, false), of(2, false)), (273, 1, 1, 1, 1));
        for partial in [tile(0, 273, 112), tile(1, 1, 17), tile(2, 0, 1)] {
            assert!(tiles.contains(&partial), "{partial:?}");
        }
        assert_eq!(tiles.len(), 277);
        assert_eq!(tiles_between(0, 256).collect::<Vec<_>>(), [tile(0, 0, 256), tile(1, 0, 1)]);
    }

    #[test]
    fn an_index_is_written_in_groups_of_three_digits() {
        assert_eq!(tile(0, 1_234_067, 256).path(), "tile/0/x001/x234/067");
        assert_eq!(tile(3, 5, 17).path(), "tile/3/005.p/17");
        assert_eq!(tile(0, 1000, 1).entries_path(EntryForm::Entries), "tile/entries/x001/000.p/1");
        assert_eq!(tile(0, 999, 256).entries_path(EntryForm::LongEntries), "tile/long-entries/999");
    }

    #[test]
    fn what_grew_is_what_a_larger_tree_has_and_the_smaller_had_not() {
        for (old, new) in [(0, 0), (0, 1), (255, 256), (256, 257), (300, 70_000), (65_535, 65_536), (7, 7)] {
            let had: Vec<TileId> = tiles_between(0, old).collect();
            let expected: Vec<TileId> = tiles_between(0, new).filter(|tile| !had.contains(tile)).collect();
            assert_eq!(tiles_between(old, new).collect::<Vec<_>>(), expected, "{old} to {new}");
        }
    }

    #[test]
    fn every_hash_of_a_tile_is_a_node_that_its_tree_has() {
        for size in [1, 255, 256, 257, 65_536, 70_000] {
            for tile in tiles_between(0, size) {
                assert!(tile.nodes().all(|node| node.is_complete_in(size)), "{tile:?} in {size}");
                assert_eq!(tile.nodes().count(), usize::from(tile.width));
            }
        }
    }

    #[test]
    fn each_hash_of_a_full_tile_is_found_in_it() {
        for tile in tiles_between(0, 65_536).filter(|tile| tile.is_full()) {
            assert!(tile.nodes().all(|node| TileId::full_with(node) == Some(tile)), "{tile:?}");
        }
        assert_eq!(TileId::full_with(NodeId { level: 1, index: 0 }), None);
    }

    #[test]
    fn a_bundle_gives_back_its_records_and_a_long_record_has_it_in_the_other_form() {
        let records = [b"".to_vec(), b"one".to_vec(), vec![7; 65_535]];
        let (form, bytes) = bundle(&records);
        assert_eq!(
            (form, split_bundle(form, &bytes).unwrap()),
            (EntryForm::Entries, vec![&b""[..], b"one", &[7; 65_535]])
        );
        for cut in [1, 4, bytes.len() - 1] {
            assert!(split_bundle(form, &bytes[..cut]).is_err(), "{cut}");
        }
        let (form, bytes) = bundle(&[vec![7; 65_536], vec![]]);
        assert_eq!(form, EntryForm::LongEntries);
        assert_eq!(split_bundle(form, &bytes).unwrap(), [&[7; 65_536][..], b""]);
    }
}
