//! Looking at the write-ahead log before RocksDB does.
//!
//! RocksDB's mode that tolerates a corrupted tail takes a record whose length reaches beyond the end of the file for
//! one that was being written during a crash, and drops it with everything after it. A flipped bit in a length or in a
//! type, or a block of zeros, thereby loses synced records silently, and a type flipped to a recyclable one makes
//! RocksDB read forever. Here every record is checked first. Only what reaches beyond the end of the file, or is
//! nothing but zeros, is a torn tail, and only if no later record proves otherwise: each write is synced before the
//! next one begins, so whatever precedes a complete record was synced. Whether a torn tail had been acknowledged is for
//! the head to say.
//!
//! The format (RocksDB, `db/log_format.h`): blocks of 32 KiB; in each, frames of a masked CRC-32C, a length and a
//! type, and the payload; fewer than 7 bytes at the end of a block are filled with zeros. A record is one full frame,
//! or a first, any middle and a last one. Other types are written only with options that are not set here; a release of
//! RocksDB that writes more must be met here first, which the crash tests enforce.

use std::fs;
use std::io;
use std::path::Path;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;

/// Checks every write-ahead log of a data directory.
///
/// Returns what is wrong, in words; `None` when everything is there, or only the end of a log is torn.
///
/// # Errors
/// The operating system's, when a file cannot be read.
pub(super) fn damage(directory: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let bytes = fs::read(&path)?;
            if let Some(offset) = broken_at(&bytes) {
                let name = path.file_name().unwrap_or_default().display().to_string();
                return Ok(Some(format!("the write-ahead log `{name}` is not what was written at byte {offset}")));
            }
        }
    }
    Ok(None)
}

/// Where a synced record is damaged.
fn broken_at(bytes: &[u8]) -> Option<usize> {
    let mut offset = 0;
    for block in bytes.chunks(BLOCK) {
        let mut rest = block;
        while rest.len() >= HEADER {
            let Some(frame) = Frame::read(rest) else {
                let damaged = offset + (block.len() - rest.len());
                let left = BLOCK - damaged % BLOCK;
                let from = bytes.get(damaged..).unwrap_or_default();
                return (!is_torn(from, left) || begins_after(from, left)).then_some(damaged);
            };
            rest = rest.get(frame.len..).unwrap_or_default();
        }
        offset += block.len();
    }
    None
}

/// Whether these bytes, the rest of the file, look like a record that a crash kept from being written. The block ends
/// after `left` bytes.
fn is_torn(bytes: &[u8], left: usize) -> bool {
    let ends_early = Frame::claim(bytes)
        .is_some_and(|(kind, len)| (FULL..=LAST).contains(&kind) && bytes.len() < len && len <= left);
    ends_early || bytes.iter().all(|byte| *byte == 0)
}

/// Whether a whole frame that begins a record lies after the damaged one that these bytes begin with. The block ends
/// after `left` bytes; within it a frame may be anywhere, as the damaged length says nothing.
fn begins_after(bytes: &[u8], left: usize) -> bool {
    let (block, others) = bytes.split_at_checked(left).unwrap_or((bytes, &[]));
    let begins = |rest: &[u8]| Frame::read(rest).is_some_and(|frame| matches!(frame.kind, FULL | FIRST));
    let here = (1..block.len()).any(|at| block.get(at..).is_some_and(begins));
    here || others.chunks(BLOCK).any(|block| {
        let mut rest = block;
        while let Some(frame) = Frame::read(rest) {
            if matches!(frame.kind, FULL | FIRST) {
                return true;
            }
            rest = rest.get(frame.len..).unwrap_or_default();
        }
        false
    })
}

struct Frame {
    kind: u8,
    /// Header and payload, in bytes.
    len: usize,
}

impl Frame {
    /// The frame that these bytes of one block begin with, if its checksum holds. The recyclable kinds are never
    /// written here.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, len) = Self::claim(bytes)?;
        let checked = bytes.get(HEADER - 1..len)?;
        let (checksum, _) = bytes.split_first_chunk()?;
        let holds = unmask(u32::from_le_bytes(*checksum)) == crc32c(checked);
        ((FULL..=LAST).contains(&kind) && holds).then_some(Self { kind, len })
    }

    /// The kind and the length, in bytes and with the header, that the header claims.
    fn claim(bytes: &[u8]) -> Option<(u8, usize)> {
        let ([_, _, _, _, low, high, kind], _) = bytes.split_first_chunk::<HEADER>()?;
        Some((*kind, HEADER + usize::from(u16::from_le_bytes([*low, *high]))))
    }
}

/// RocksDB stores checksums rotated and shifted, so that a checksum of data that holds checksums is a good one.
const fn unmask(masked: u32) -> u32 {
    masked.wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// CRC-32C (Castagnoli), reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        let [low, ..] = crc.to_le_bytes();
        let entry = TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default();
        (crc >> 8) ^ entry
    };
    !bytes.iter().fold(!0, step)
}

static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut entries: &mut [u32] = &mut table;
    let mut byte = 0;
    while let Some((entry, rest)) = entries.split_first_mut() {
        let mut crc: u32 = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        *entry = crc;
        entries = rest;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn masked(crc: u32) -> u32 {
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    }

    /// Writes records as RocksDB does.
    fn write(records: &[Vec<u8>]) -> Vec<u8> {
        let mut file: Vec<u8> = Vec::new();
        for record in records {
            let mut rest = record.as_slice();
            let mut first = true;
            loop {
                let mut room = BLOCK - file.len() % BLOCK;
                if room < HEADER {
                    file.extend(vec![0; room]);
                    room = BLOCK;
                }
                let (now, later) = rest.split_at(rest.len().min(room - HEADER));
                let kind = match (first, later.is_empty()) {
                    (true, true) => FULL,
                    (true, false) => FIRST,
                    (false, true) => LAST,
                    (false, false) => 3,
                };
                let checked = [&[kind], now].concat();
                file.extend(masked(crc32c(&checked)).to_le_bytes());
                file.extend(u16::try_from(now.len()).unwrap().to_le_bytes());
                file.extend(checked);
                (rest, first) = (later, false);
                if rest.is_empty() {
                    break;
                }
            }
        }
        file
    }

    /// Where the frame begins that this byte is in, and whether the byte only fills a block up.
    fn frame_at(file: &[u8], at: usize) -> (usize, bool) {
        let mut begin = at / BLOCK * BLOCK;
        loop {
            let rest = &file[begin..file.len().min(at / BLOCK * BLOCK + BLOCK)];
            let Some(frame) = Frame::read(rest) else {
                return (begin, true);
            };
            if at < begin + frame.len {
                return (begin, false);
            }
            begin += frame.len;
        }
    }

    #[test]
    fn the_checksum_is_the_castagnoli_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(unmask(masked(0x1234_5678)), 0x1234_5678);
    }

    #[test]
    fn a_zeroed_block_before_a_record_is_damage_and_zeros_at_the_end_are_not() {
        let mut file = write(&[vec![1; 40_000], vec![2; 40_000], vec![3; 10]]);
        let whole = file.clone();
        file.extend([0; 5000]);
        assert_eq!(broken_at(&file), None);
        file[BLOCK..2 * BLOCK].fill(0);
        assert_eq!(broken_at(&file), Some(BLOCK));
        assert_eq!(broken_at(&whole), None);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_found_but_in_the_length_of_the_last_record(
            sizes in prop::collection::vec(1usize..50_000, 2..5),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let records: Vec<Vec<u8>> = sizes.iter().map(|size| vec![7; *size]).collect();
            let mut file = write(&records);
            let at = at.index(file.len());
            let (frame, filler) = frame_at(&file, at);
            let synced = write(&records[..records.len() - 1]).len();
            file[at] ^= 1 << bit;
            let excused = filler || frame >= synced && (frame + 4..frame + 6).contains(&at);
            prop_assert!(excused || broken_at(&file).is_some());
        }

        #[test]
        fn a_flipped_length_of_the_last_record_is_a_torn_tail_at_most(size in 1usize..30_000, bit in 0u8..16) {
            let whole = write(&[vec![7; 100], vec![7; size]]);
            let mut file = whole.clone();
            file[111 + usize::from(bit / 8)] ^= 1 << (bit % 8);
            prop_assert!(broken_at(&file).is_none_or(|at| at == 107));
            prop_assert_eq!(broken_at(&whole), None);
        }

        #[test]
        fn a_file_cut_anywhere_is_only_torn(
            sizes in prop::collection::vec(1usize..50_000, 1..4),
            at in any::<prop::sample::Index>(),
        ) {
            let records: Vec<Vec<u8>> = sizes.iter().map(|size| vec![7; *size]).collect();
            let mut file = write(&records);
            file.truncate(at.index(file.len()));
            prop_assert_eq!(broken_at(&file), None);
        }
    }
}
