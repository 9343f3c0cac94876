//! One frame of the edit log: what a single append wrote, whole or not at all.
//!
//! All numbers are little-endian. A frame begins at a multiple of its segment's alignment and is padded with zeros to the
//! next one, so that it can be written with O_DIRECT and no write touches a sector of the frame before it.
//!
//! ```text
//! frame := magic        u32   "DFEF"
//!          crc          u32   CRC32C of the segment's salt, then of everything after this field, padding included
//!          sequence     u64   number of the frame in the log, rising by 1 across segments
//!          first index  u64   Raft index of the first entry
//!          length       u32   of the payload
//!          entries      u32   0: a truncation
//!          payload      entry*
//!          zeros        to the alignment
//! entry := length       u32   of the rest of the entry
//!          kind         u8    0 blank, 1 operations, 2 membership
//!          term         u64   \
//!          node         u64    > the entry's log id; indexes rise by 1 through the frame
//!          index        u64   /
//!          data               operations: protobuf EditBatch; membership: JSON
//! ```
//!
//! A frame whose first index is not above the last one of the log replaces everything from that index on (a follower's log
//! gave way to its leader's); with no entries it does only that.
//!
//! The salt is random per segment: nobody can make a file name or attribute that passes for a frame.

use bytes::Buf;
use dfs_common::checksum;
use dfs_common::error::{DfsError, ErrorKind, Result};

use super::raft_types::{Batch, Entry, LogId, Payload};

const MAGIC: u32 = u32::from_le_bytes(*b"DFEF");
/// Bytes before the payload.
pub(super) const FRAME_HEADER_BYTES: usize = 32;
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
    /// Bytes of the whole frame, padding included.
    pub(super) fn frame_bytes(&self, alignment: usize) -> usize {
        frame_bytes(self.payload_bytes, alignment)
    }
}

/// Bytes of a frame with such a payload, padding included.
pub(super) fn frame_bytes(payload_bytes: usize, alignment: usize) -> usize {
    (FRAME_HEADER_BYTES + payload_bytes).next_multiple_of(alignment)
}

/// Encodes `entries` as a frame into `into`, which is cleared first and must have the capacity (its address is what the
/// caller aligned). Without entries it is a truncation to `first_index`.
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
    for entry in entries {
        encode_entry(entry, into)?;
    }
    let payload_bytes = into.len() - start - FRAME_HEADER_BYTES;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(DfsError::new(
            ErrorKind::InvalidArgument,
            format!("a log entry of {payload_bytes} bytes; the limit is {PAYLOAD_BYTES_MAX}"),
        ));
    }
    into[start + 24..start + 28].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    into.resize(start + frame_bytes(payload_bytes, alignment), 0);
    let crc = salted_crc(salt, &into[start + 8..]);
    into[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    Ok(())
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

/// What the first bytes of a frame say, not yet believed. `None`: no frame begins here.
pub(super) fn peek_header(bytes: &[u8]) -> Option<FrameHeader> {
    if bytes.len() < FRAME_HEADER_BYTES {
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
    Some(FrameHeader { sequence, first_index, payload_bytes, entries })
}

/// Whether `frame`, a whole frame with its padding, is what was written.
pub(super) fn is_intact(frame: &[u8], salt: u64) -> bool {
    let stored = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
    salted_crc(salt, &frame[8..]) == stored
}

fn salted_crc(salt: u64, bytes: &[u8]) -> u32 {
    checksum::crc32c_append(checksum::crc32c(&salt.to_le_bytes()), bytes)
}

/// The entries of an intact frame.
///
/// # Errors
/// `Corrupt` when they cannot be decoded although the checksum holds: another version wrote them.
pub(super) fn decode_entries(header: &FrameHeader, frame: &[u8]) -> Result<Vec<Entry>> {
    let mut payload = &frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.payload_bytes];
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
        other => return Err(DfsError::new(ErrorKind::Corrupt, format!("an entry of unknown kind {other}"))),
    };
    Ok(Entry { log_id: LogId::new(openraft::LeaderId::new(term, node), index), payload })
}
