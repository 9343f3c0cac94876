//! What to make of the files found at start: the decision table, and how much of a replica its checksums prove.
//!
//! Everything here is pure; `scan` finds the files and carries out what is decided.
//!
//! A block's files may be in two places, `finalized` and `rbw` (`tmp` is emptied unseen: a copy that was not finished is
//! worth nothing). Finalizing and reopening for append each take two renames, so a crash can leave one file in each
//! place. Only a pair that is whole in `finalized` counts as finalized. Whatever else has data and checksums becomes a
//! replica that waits for recovery (RWR), cut to what is proven. Data without checksums proves nothing: it is set aside,
//! or dropped when there are no bytes. Bytes are never deleted by this table.
//!
//! ```text
//! data in    checksums in         lengths agree   outcome
//! finalized  finalized            yes             finalized
//! finalized  finalized            no              RWR (finalized without sync, then power was lost)
//! finalized  rbw                  -               RWR (finalize or append stopped half-way)
//! rbw        rbw or finalized     -               RWR
//! both       finalized            yes             finalized; data in rbw set aside
//! both       otherwise            -               RWR of the data in rbw; data in finalized set aside
//! either     nowhere              -               data set aside, or dropped when empty
//! nowhere    anywhere             -               checksums dropped
//! ```
//!
//! Of several checksum files the one with the highest generation stamp counts; in doubt the one beside the data.

use dfs_common::checksum::{crc32c, crc32c_append};
use dfs_common::ids::GenerationStamp;
use dfs_proto::data_transfer::DataChecksum;
use dfs_proto::data_transfer::meta_file::META_HEADER_LEN;

use super::open_state::Place;

/// A checksum file, by what its name and size say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundMeta {
    pub(super) place: Place,
    pub(super) stamp: GenerationStamp,
    /// Bytes of the file.
    pub(super) length: u64,
}

/// Everything found of one block on one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Length of the data file in `finalized`.
    pub(super) finalized: Option<u64>,
    /// Length of the data file in `rbw`.
    pub(super) rbw: Option<u64>,
    pub(super) metas: Vec<FoundMeta>,
}

/// What becomes of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing of it can be served.
    None,
    /// As it is.
    Finalized { stamp: GenerationStamp, length: u64 },
    /// The files, wherever they are, are to lie in `rbw`, cut to what is proven.
    Waiting { data: Place, meta: Place, stamp: GenerationStamp },
}

/// A file that is not part of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftover {
    DropData(Place),
    SetDataAside(Place),
    DropMeta(Place, GenerationStamp),
}

/// The table. `chunk` is the number of bytes per checksum that lengths are compared by.
pub(super) fn decide(found: &Found, chunk: u64) -> (Verdict, Vec<Leftover>) {
    let verdict = choose_verdict(found, chunk);
    let mut leftovers = Vec::new();
    let data_used = |place: Place| match verdict {
        Verdict::None => false,
        Verdict::Finalized { .. } => place == Place::Finalized,
        Verdict::Waiting { data, .. } => place == data,
    };
    for (place, length) in [(Place::Finalized, found.finalized), (Place::Rbw, found.rbw)] {
        match length {
            Some(0) if !data_used(place) => leftovers.push(Leftover::DropData(place)),
            Some(_) if !data_used(place) => leftovers.push(Leftover::SetDataAside(place)),
            _ => {}
        }
    }
    for meta in &found.metas {
        let used = match verdict {
            Verdict::None => false,
            Verdict::Finalized { stamp, .. } => (meta.place, meta.stamp) == (Place::Finalized, stamp),
            Verdict::Waiting { meta: place, stamp, .. } => (meta.place, meta.stamp) == (place, stamp),
        };
        if !used {
            leftovers.push(Leftover::DropMeta(meta.place, meta.stamp));
        }
    }
    (verdict, leftovers)
}

fn choose_verdict(found: &Found, chunk: u64) -> Verdict {
    let newest = |data: Place| found.metas.iter().max_by_key(|meta| (meta.stamp, meta.place == data)).copied();
    let whole = found.finalized.and_then(|length| {
        let beside = found.metas.iter().filter(|meta| meta.place == Place::Finalized);
        beside
            .filter(|meta| meta.length == meta_length(length, chunk))
            .max_by_key(|meta| meta.stamp)
            .map(|m| (m.stamp, length))
    });
    match (whole, found.rbw, found.finalized) {
        (Some((stamp, length)), _, _) => Verdict::Finalized { stamp, length },
        (None, Some(_), _) => waiting(Place::Rbw, newest(Place::Rbw)),
        (None, None, Some(_)) => waiting(Place::Finalized, newest(Place::Finalized)),
        (None, None, None) => Verdict::None,
    }
}

fn waiting(data: Place, meta: Option<FoundMeta>) -> Verdict {
    match meta {
        Some(meta) => Verdict::Waiting { data, meta: meta.place, stamp: meta.stamp },
        None => Verdict::None,
    }
}

/// Length of the checksum file of a replica.
fn meta_length(data_length: u64, chunk: u64) -> u64 {
    META_HEADER_LEN as u64 + data_length.div_ceil(chunk) * 4
}

/// How many bytes of `data`, which starts at a chunk's start, `checksums` prove: all whole chunks up to the first that
/// fails, and of that one the longest part whose CRC is its entry (a sync may have promised a part, see `writer`).
/// `first_entry` is the number of the first checksum in its file.
pub(super) fn verified_prefix(data: &[u8], checksums: &[u8], checksum: DataChecksum, first_entry: u64) -> usize {
    let chunk = checksum.bytes_per_checksum();
    for (index, (piece, entry)) in data.chunks(chunk).zip(checksums.chunks_exact(4)).enumerate() {
        if crc32c(piece).to_be_bytes() != entry {
            let torn = straddles_sectors(first_entry + index as u64);
            return index * chunk + longest_part(piece, entry, torn);
        }
    }
    data.len().min(checksums.len() / 4 * chunk)
}

/// Length of the longest part of a chunk whose CRC is `entry`; 0 when there is none.
fn longest_part(piece: &[u8], entry: &[u8], torn: bool) -> usize {
    let mut crc = 0;
    let mut longest = 0;
    for (index, byte) in piece.iter().enumerate() {
        crc = crc32c_append(crc, std::slice::from_ref(byte));
        if entry_fits(entry, crc, torn) {
            longest = index + 1;
        }
    }
    longest
}

/// Entries start at odd places after a header of 7 bytes, so every 128th lies on two sectors, one byte on the first. A
/// loss of power may leave an old and a new half; the three bytes on the second sector are then taken as proof.
fn straddles_sectors(entry: u64) -> bool {
    const SECTOR: u64 = 512;
    let start = META_HEADER_LEN as u64 + entry * 4;
    start / SECTOR != (start + 3) / SECTOR
}

fn entry_fits(entry: &[u8], crc: u32, torn: bool) -> bool {
    let crc = crc.to_be_bytes();
    if torn { entry[1..] == crc[1..] } else { entry == crc }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
