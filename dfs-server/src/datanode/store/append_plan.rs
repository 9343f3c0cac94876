//! Which bytes and checksums of a packet go where: the pure part of writing.
//!
//! A packet brings data from `offset` on, and a CRC for every chunk's length of it counted from its own start. On disk,
//! chunks are counted from the start of the block. Three kinds of packet come:
//!
//! ```text
//! on disk  |-------|-------|---|            tail inside a chunk
//! (a)                          |---|----    starts at the tail: its CRCs are of other pieces; computed anew
//! (b)                      |-------|----    starts at the tail's chunk, repeating its head: CRCs taken as they are
//! (c)      |-------|-------|---             nothing new: repeated after a failure
//! ```
//!
//! What is repeated must be what is there: bytes never change (design D6).

use std::borrow::Cow;

use dfs_common::checksum::{crc32c, crc32c_append};
use dfs_proto::data_transfer::DataChecksum;

/// The end of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// Bytes on disk.
    pub(super) length: u64,
    /// CRC of the last chunk's bytes; 0 when the last chunk is whole.
    pub(super) crc: u32,
}

/// What to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AppendPlan<'a> {
    /// The part of the packet's data that is new; goes to the end of the data file.
    pub(super) data: &'a [u8],
    /// Checksums of the chunks from the one that holds the old end on.
    pub(super) checksums: Cow<'a, [u8]>,
    /// The end afterwards.
    pub(super) tail: Tail,
}

/// Why a packet cannot be written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("packet starts at {offset}, beyond the {length} bytes received so far")]
    Gap { offset: u64, length: u64 },
    #[error("packet repeats bytes before {length} differently")]
    Changed { length: u64 },
    #[error("packet ends beyond 2^63 bytes")]
    TooFar,
}

/// Places a packet whose checksums have been verified whenever `offset` is not at a chunk's start.
pub(super) fn plan_append<'a>(
    tail: Tail,
    checksum: DataChecksum,
    offset: u64,
    data: &'a [u8],
    checksums: &'a [u8],
) -> Result<AppendPlan<'a>, Refusal> {
    let chunk = checksum.bytes_per_checksum() as u64;
    let end = offset.checked_add(data.len() as u64).filter(|end| i64::try_from(*end).is_ok()).ok_or(Refusal::TooFar)?;
    if offset > tail.length {
        return Err(Refusal::Gap { offset, length: tail.length });
    }
    let chunk_start = tail.length - tail.length % chunk;
    if let Some(repeated) = repeated_tail(tail, chunk_start, offset, data)
        && crc32c(repeated) != tail.crc
    {
        return Err(Refusal::Changed { length: tail.length });
    }
    if end <= tail.length {
        return Ok(AppendPlan { data: &[], checksums: Cow::Borrowed(&[]), tail });
    }
    // Within the packet: `offset <= length < end`.
    let fresh = &data[(tail.length - offset) as usize..];
    let checksums = if offset.is_multiple_of(chunk) {
        Cow::Borrowed(&checksums[((chunk_start - offset) / chunk) as usize * checksum.checksum_size()..])
    } else {
        Cow::Owned(continue_checksums(tail, (tail.length - chunk_start) as usize, chunk as usize, fresh))
    };
    let crc = if end.is_multiple_of(chunk) { 0 } else { last_crc(&checksums) };
    Ok(AppendPlan { data: fresh, checksums, tail: Tail { length: end, crc } })
}

/// The packet's copy of the tail's bytes, when it has all of them.
fn repeated_tail(tail: Tail, chunk_start: u64, offset: u64, data: &[u8]) -> Option<&[u8]> {
    let start = chunk_start.checked_sub(offset)?;
    let end = tail.length - offset;
    if tail.length == chunk_start { None } else { data.get(start as usize..end as usize) }
}

fn continue_checksums(tail: Tail, in_tail: usize, chunk: usize, fresh: &[u8]) -> Vec<u8> {
    let (head, rest) = fresh.split_at(fresh.len().min(chunk - in_tail));
    let mut out = Vec::with_capacity((1 + rest.len().div_ceil(chunk)) * 4);
    out.extend_from_slice(&crc32c_append(tail.crc, head).to_be_bytes());
    for piece in rest.chunks(chunk) {
        out.extend_from_slice(&crc32c(piece).to_be_bytes());
    }
    out
}

fn last_crc(checksums: &[u8]) -> u32 {
    checksums.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNK: usize = 512;

    fn sums(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; DataChecksum::DEFAULT.checksums_len(data.len())];
        DataChecksum::DEFAULT.compute(data, &mut out);
        out
    }

    fn tail_of(data: &[u8]) -> Tail {
        let inside = data.len() % CHUNK;
        let crc = if inside == 0 { 0 } else { crc32c(&data[data.len() - inside..]) };
        Tail { length: data.len() as u64, crc }
    }

    fn plan<'a>(on_disk: &[u8], offset: usize, data: &'a [u8], sums: &'a [u8]) -> Result<AppendPlan<'a>, Refusal> {
        plan_append(tail_of(on_disk), DataChecksum::DEFAULT, offset as u64, data, sums)
    }

    #[test]
    fn plan_append_gap_is_refused() {
        assert_eq!(plan(&[1; 10], 11, &[1], &sums(&[1])), Err(Refusal::Gap { offset: 11, length: 10 }));
    }

    #[test]
    fn plan_append_changed_bytes_are_refused() {
        let other = [2; 600];
        assert_eq!(plan(&[1; 10], 0, &other, &sums(&other)), Err(Refusal::Changed { length: 10 }));
    }

    #[test]
    fn plan_append_end_out_of_range_is_refused() {
        let tail = Tail { length: u64::MAX, crc: 0 };
        assert_eq!(plan_append(tail, DataChecksum::DEFAULT, u64::MAX, &[1], &sums(&[1])), Err(Refusal::TooFar));
    }

    #[test]
    fn plan_append_aligned_packet_is_taken_without_a_copy() {
        let data = [3; 1000];
        let sums = sums(&data);
        let plan = plan(&[3; 512], 512, &data, &sums).unwrap();
        assert!(matches!(plan.checksums, Cow::Borrowed(borrowed) if borrowed == sums));
        assert_eq!(plan.data.len(), 1000);
    }

    proptest! {
        /// However a block is cut into packets, with repeats, files end up as if it had been written at once.
        #[test]
        fn plan_append_any_packets_give_the_same_files(
            content in proptest::collection::vec(0u8.., 1..4000),
            cuts in proptest::collection::vec((0usize..1300, 0usize..3, 0usize..600), 1..40),
        ) {
            let (mut file, mut meta): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
            for (len, back, repeat) in cuts {
                let start = match back {
                    0 => file.len(),
                    1 => file.len() / CHUNK * CHUNK,
                    _ => file.len() - repeat.min(file.len()),
                };
                let end = content.len().min(start + len);
                let data = &content[start..end];
                let packet_sums = sums(data);
                let tail = tail_of(&file);
                let plan = plan_append(tail, DataChecksum::DEFAULT, start as u64, data, &packet_sums).unwrap();
                if !plan.data.is_empty() {
                    meta.truncate(file.len() / CHUNK * 4);
                }
                file.extend_from_slice(plan.data);
                meta.extend_from_slice(&plan.checksums);
                prop_assert_eq!(&file[..], &content[..file.len()]);
                prop_assert_eq!(&meta, &sums(&file));
                prop_assert_eq!(plan.tail, tail_of(&file));
            }
        }
    }
}
