//! One frame of the edit log: what a single append wrote, whole or not at all.
//!
//! All numbers are little-endian. A frame begins at a multiple of its segment's alignment and ends at one, so that it can be
//! written with O_DIRECT and no write touches a sector of the frame before it.
//!
//! ```text
//! frame := sector*                  512 bytes each, up to the alignment
//! sector := 511 bytes of content, then the mark, 0xd5
//! content := magic       u32   "DFEF"
//!          crc           u32   CRC32C of the segment's salt, then of the frame after this field, sector by sector as it is
//!          sequence      u64   number of the frame in the log, rising by 1 across segments
//!          first index   u64   Raft index of the first entry
//!          length        u32   of the payload
//!          entries       u32   0: a truncation
//!          header crc    u32   CRC32C of the salt, then of the four fields before
//!          payload       entry*
//!          zeros         to the end of the last sector
//! entry := length        u32   of the rest of the entry
//!          kind          u8    0 blank, 1 operations, 2 membership
//!          term          u64   \
//!          node          u64    > the entry's log id; indexes rise by 1 through the frame
//!          index         u64   /
//!          data                operations: protobuf EditBatch; membership: JSON
//! ```
//!
//! **The mark** tells a torn frame from a damaged one. A device writes a sector whole or not at all, and the log is written
//! over zeros: after a loss of power a sector of the frame that was being written is either as it was meant or still zero. No
//! sector that was written is zero, whatever is in it, because its mark is not. So a bad frame of which a sector is zero may be
//! torn, and one of which none is zero was written to its end and damaged later.
//!
//! A frame whose first index is not above the last one of the log replaces everything from that index on (a follower's log
//! gave way to its leader's); with no entries it does only that.
//!
//! The salt is random per segment: nobody can make a file name or attribute that passes for a frame.
//!
//! Segments of version 1 have no marks ([`Layout::Plain`]): content without the header's checksum, then zeros to the
//! alignment. They are read, never written.

use bytes::Buf;
use dfs_common::checksum;
use dfs_common::error::{DfsError, ErrorKind, Result};

use super::raft_types::{self, Batch, Entry, LogId, Payload};

const MAGIC: u32 = u32::from_le_bytes(*b"DFEF");
/// Bytes before the payload.
pub(super) const FRAME_HEADER_BYTES: usize = 36;
const PLAIN_HEADER_BYTES: usize = 32;
/// What a device writes whole or not at all, at the least.
pub(super) const SECTOR_BYTES: usize = 512;
const SECTOR_CONTENT_BYTES: usize = SECTOR_BYTES - 1;
/// Last byte of each sector. Several bits, so that no single flipped one makes it zero.
const MARK: u8 = 0xd5;
/// Longest payload. An append of more entries is written as several frames; one entry is at most a batch
/// (`BATCH_BYTES_MAX`) or one largest operation.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// An append is split into frames of about this size.
pub(super) const PAYLOAD_BYTES_TARGET: usize = 4 * 1024 * 1024;
/// Bytes of an entry beside its data.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 29;

const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// How the frames of a segment are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Of segments of version 1.
    Plain,
    /// Sectors have marks and headers a checksum.
    Marked,
}

impl Layout {
    fn header_bytes(self) -> usize {
        match self {
            Self::Plain => PLAIN_HEADER_BYTES,
            Self::Marked => FRAME_HEADER_BYTES,
        }
    }

    /// Bytes of a frame with such a payload, up to the alignment.
    pub(super) fn frame_bytes(self, payload_bytes: usize, alignment: usize) -> usize {
        let sectors = self.content_sectors(payload_bytes);
        match self {
            Self::Plain => (PLAIN_HEADER_BYTES + payload_bytes).next_multiple_of(alignment),
            Self::Marked => (sectors * SECTOR_BYTES).next_multiple_of(alignment),
        }
    }

    /// How many sectors of a frame cannot be zero once the frame was written. Marked: all, by their marks. Plain: those that
    /// hold content, though a client may have chosen zeros for it; the rest of the frame is zeros.
    pub(super) fn written_sectors(self, payload_bytes: usize, alignment: usize) -> usize {
        match self {
            Self::Plain => self.content_sectors(payload_bytes),
            Self::Marked => self.frame_bytes(payload_bytes, alignment) / SECTOR_BYTES,
        }
    }

    fn content_sectors(self, payload_bytes: usize) -> usize {
        match self {
            Self::Plain => (PLAIN_HEADER_BYTES + payload_bytes).div_ceil(SECTOR_BYTES),
            Self::Marked => (FRAME_HEADER_BYTES + payload_bytes).div_ceil(SECTOR_CONTENT_BYTES),
        }
    }
}

/// A frame's header, found valid together with its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Number of the frame in the log.
    pub sequence: u64,
    /// Raft index of the first entry.
    pub first_index: u64,
    /// Bytes of the payload.
    pub payload_bytes: usize,
    /// Entries in it.
    pub entries: u32,
}

impl FrameHeader {
    /// Bytes of the whole frame.
    pub(super) fn frame_bytes(&self, alignment: usize, layout: Layout) -> usize {
        layout.frame_bytes(self.payload_bytes, alignment)
    }
}

/// Encodes `entries` as a marked frame onto the end of `into`, which must have the capacity (its address is what the caller
/// aligned). Without entries it is a truncation to `first_index`.
pub(super) fn encode_frame(
    sequence: u64,
    first_index: u64,
    entries: &[Entry],
    salt: u64,
    alignment: usize,
    into: &mut Vec<u8>,
) -> Result<()> {
    let start = into.len();
    into.extend_from_slice(&MAGIC.to_le_bytes());
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&sequence.to_le_bytes());
    into.extend_from_slice(&first_index.to_le_bytes());
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&u32::try_from(entries.len()).unwrap_or(u32::MAX).to_le_bytes());
    into.extend_from_slice(&[0; 4]);
    for entry in entries {
        encode_entry(entry, into)?;
    }
    let content_bytes = into.len() - start;
    let payload_bytes = content_bytes - FRAME_HEADER_BYTES;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(DfsError::new(
            ErrorKind::InvalidArgument,
            format!("a log entry of {payload_bytes} bytes; the limit is {PAYLOAD_BYTES_MAX}"),
        ));
    }
    into.resize(start + Layout::Marked.frame_bytes(payload_bytes, alignment), 0);
    let frame = &mut into[start..];
    frame[24..28].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    let header_crc = salted_crc(salt, &frame[8..32]);
    frame[32..36].copy_from_slice(&header_crc.to_le_bytes());
    mark_sectors(frame, content_bytes);
    let crc = salted_crc(salt, &frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Spreads the content at the beginning of `frame` over its sectors and marks each. Goes from the last to the first, so that
/// no content is overwritten before it is moved.
fn mark_sectors(frame: &mut [u8], content_bytes: usize) {
    for sector in (0..frame.len() / SECTOR_BYTES).rev() {
        let from = (sector * SECTOR_CONTENT_BYTES).min(content_bytes);
        let length = SECTOR_CONTENT_BYTES.min(content_bytes - from);
        let to = sector * SECTOR_BYTES;
        frame.copy_within(from..from + length, to);
        frame[to + length..to + SECTOR_CONTENT_BYTES].fill(0);
        frame[to + SECTOR_CONTENT_BYTES] = MARK;
    }
}

/// Takes the marks out again.
fn content_of(mut frame: Vec<u8>, layout: Layout) -> Vec<u8> {
    if layout == Layout::Marked {
        let sectors = frame.len() / SECTOR_BYTES;
        for sector in 1..sectors {
            let from = sector * SECTOR_BYTES;
            frame.copy_within(from..from + SECTOR_CONTENT_BYTES, sector * SECTOR_CONTENT_BYTES);
        }
        frame.truncate(sectors * SECTOR_CONTENT_BYTES);
    }
    frame
}

/// Bytes of `entry` within a payload, or a little more.
pub(super) fn entry_bytes_bound(entry: &Entry) -> usize {
    ENTRY_OVERHEAD_BYTES
        + match &entry.payload {
            Payload::Blank => 0,
            Payload::Normal(batch) => batch.encoded_len(),
            // JSON of a handful of addresses.
            Payload::Membership(membership) => serde_json::to_vec(membership).map_or(0, |json| json.len()),
        }
}

fn encode_entry(entry: &Entry, into: &mut Vec<u8>) -> Result<()> {
    let start = into.len();
    into.extend_from_slice(&[0; 4]);
    let kind = match &entry.payload {
        Payload::Blank => KIND_BLANK,
        Payload::Normal(_) => KIND_NORMAL,
        Payload::Membership(_) => KIND_MEMBERSHIP,
    };
    into.push(kind);
    into.extend_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
    into.extend_from_slice(&entry.log_id.leader_id.node_id.to_le_bytes());
    into.extend_from_slice(&entry.log_id.index.to_le_bytes());
    match &entry.payload {
        Payload::Blank => {}
        Payload::Normal(batch) => batch.encode(into),
        Payload::Membership(membership) => {
            let json = serde_json::to_vec(membership)
                .map_err(|error| DfsError::new(ErrorKind::Internal, "encode membership").with_source(error))?;
            into.extend_from_slice(&json);
        }
    }
    let length = u32::try_from(into.len() - start - 4)
        .map_err(|_| DfsError::new(ErrorKind::InvalidArgument, "a log entry above 4 GiB"))?;
    into[start..start + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// What the first bytes of a frame say, not yet believed where they have no checksum of their own. `None`: no frame begins
/// here.
pub(super) fn peek_header(bytes: &[u8], salt: u64, layout: Layout) -> Option<FrameHeader> {
    if bytes.len() < layout.header_bytes() {
        return None;
    }
    let mut fields = bytes;
    let magic = fields.get_u32_le();
    fields.advance(4);
    let (sequence, first_index) = (fields.get_u64_le(), fields.get_u64_le());
    let (payload_bytes, entries) = (fields.get_u32_le() as usize, fields.get_u32_le());
    if magic != MAGIC || payload_bytes > PAYLOAD_BYTES_MAX {
        return None;
    }
    let is_sure = match layout {
        Layout::Plain => true,
        Layout::Marked => fields.get_u32_le() == salted_crc(salt, &bytes[8..32]),
    };
    is_sure.then_some(FrameHeader { sequence, first_index, payload_bytes, entries })
}

/// The content of `frame`, which has all its bytes, if it is what was written.
pub(super) fn intact_content(frame: Vec<u8>, salt: u64, layout: Layout) -> Option<Vec<u8>> {
    let stored = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
    (salted_crc(salt, &frame[8..]) == stored).then(|| content_of(frame, layout))
}

fn salted_crc(salt: u64, bytes: &[u8]) -> u32 {
    checksum::crc32c_append(checksum::crc32c(&salt.to_le_bytes()), bytes)
}

/// The entries in the content of an intact frame.
///
/// # Errors
/// `Corrupt` when they cannot be decoded although the checksum holds; `Unsupported` when a newer version wrote them.
pub(super) fn decode_entries(header: &FrameHeader, content: &[u8], layout: Layout) -> Result<Vec<Entry>> {
    let mut payload = &content[layout.header_bytes()..layout.header_bytes() + header.payload_bytes];
    // The count is covered by the checksum, yet each entry takes at least its overhead.
    let mut entries = Vec::with_capacity((header.entries as usize).min(payload.len() / ENTRY_OVERHEAD_BYTES + 1));
    for offset in 0..u64::from(header.entries) {
        let entry = decode_entry(&mut payload)?;
        if entry.log_id.index != header.first_index + offset {
            return Err(DfsError::new(
                ErrorKind::Corrupt,
                format!("entry {} where {} must be", entry.log_id.index, header.first_index + offset),
            ));
        }
        entries.push(entry);
    }
    if payload.has_remaining() {
        return Err(DfsError::new(ErrorKind::Corrupt, "bytes after the last entry of a frame"));
    }
    Ok(entries)
}

fn decode_entry(payload: &mut &[u8]) -> Result<Entry> {
    let cut_off = || DfsError::new(ErrorKind::Corrupt, "an entry longer than its frame");
    let length = payload.try_get_u32_le().map_err(|_| cut_off())? as usize;
    if length < ENTRY_OVERHEAD_BYTES - 4 || length > payload.len() {
        return Err(cut_off());
    }
    let (mut entry, rest) = payload.split_at(length);
    *payload = rest;
    let kind = entry.get_u8();
    let (term, node, index) = (entry.get_u64_le(), entry.get_u64_le(), entry.get_u64_le());
    let payload = match kind {
        KIND_BLANK => Payload::Blank,
        KIND_NORMAL => Payload::Normal(Batch::decode(entry)?),
        KIND_MEMBERSHIP => Payload::Membership(serde_json::from_slice(entry).map_err(|error| {
            DfsError::new(ErrorKind::Corrupt, "a membership entry cannot be decoded").with_source(error)
        })?),
        other => return Err(raft_types::unknown(format!("an entry of kind {other}"))),
    };
    Ok(Entry { log_id: LogId::new(openraft::LeaderId::new(term, node), index), payload })
}
