//! READ_BLOCK: a range of a replica goes out.
//!
//! ```text
//! response (checksum kind, where the first packet starts)
//! packet: header, checksums, data        up to PACKET_DATA_MAX bytes each
//! ...
//! packet: last, empty
//!                                        reader: its verdict (ClientReadStatusProto), for which nobody waits
//! ```
//!
//! The range is widened to whole chunks, or to the visible end, so that the reader can verify every byte it asked for.
//! Response, first packet and last packet leave in one call when they fit. Data is not verified here: the reader does it,
//! and a bad chunk must reach it to be noticed.

use std::num::NonZeroU64;

use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::{ChecksumKind, DataChecksum, PacketHeader, encode_delimited};
use dfs_proto::hadoop::{BlockOpResponseProto, OpReadBlockProto, ReadOpChecksumInfoProto, Status};
use rustix::fs::Advice;
use tracing::{debug, info};

use super::after::After;
use super::connection::Connection;
use super::data_plane::DataPlane;
use super::reply::{encoded, error_response, protocol_error};
use crate::datanode::store::ReplicaReader;

/// Data in a packet, a whole number of chunks: large enough that packets cost nothing, small enough for the cache.
const PACKET_DATA_MAX: usize = 1 << 20;
/// How far ahead of the reader the kernel is asked to read.
const READ_AHEAD: u64 = 4 << 20;
/// Ranges below this are not read ahead: they are one read of the device anyway.
const READ_AHEAD_MIN: u64 = 256 * 1024;

/// Serves one READ_BLOCK.
pub(super) fn send_block(plane: &DataPlane, to: &mut Connection, request: &OpReadBlockProto) -> After {
    let sender = match Sender::open(plane, request) {
        Ok(sender) => sender,
        Err(error) => {
            plane.metrics.operations_failed.inc();
            info!(peer = ?to.peer_address(), "refusing to read: {}", error.chain());
            let refused = to.send_all(&encoded(&error_response(&error)), plane.timeout);
            return if refused.is_ok() { After::Serve } else { After::Close };
        }
    };
    if let Err(error) = sender.send(plane, to) {
        plane.metrics.operations_failed.inc();
        if error.kind() == ErrorKind::Corrupt {
            sender.report_damage(plane, request);
        }
        info!(block = %sender.reader.block(), peer = ?to.peer_address(), "read broken off: {}", error.chain());
        return After::Close;
    }
    plane.metrics.blocks_read.inc();
    plane.metrics.bytes_read.inc_by(sender.end - sender.start);
    to.expect_verdict();
    After::Serve
}

/// A range of an open replica on its way out.
#[derive(Debug)]
pub(super) struct Sender {
    reader: ReplicaReader,
    /// What goes with the data; without checksums the chunk size still rules where packets start.
    sent_checksum: DataChecksum,
    start: u64,
    end: u64,
}

impl Sender {
    fn open(plane: &DataPlane, request: &OpReadBlockProto) -> Result<Self> {
        let block = ExtendedBlock::try_from(&request.header.base_header.block).map_err(protocol_error)?;
        let (offset, len) = (request.offset, request.len);
        let wanted_end = offset.checked_add(len).ok_or_else(|| out_of_range(&block, offset, len, None))?;
        let reader = plane.store.open_reader(&block, wanted_end)?;
        let visible = reader.block().length;
        if wanted_end > visible {
            return Err(out_of_range(&block, offset, len, Some(visible)));
        }
        let own = reader.checksum();
        let chunk = own.bytes_per_checksum() as u64;
        let sent_checksum = if request.send_checksums() {
            own
        } else {
            DataChecksum::new(ChecksumKind::Null, own.bytes_per_checksum() as u32).map_err(protocol_error)?
        };
        let start = offset - offset % chunk;
        // Nothing was asked for: nothing is sent but the end.
        let end = if len == 0 { start } else { wanted_end.next_multiple_of(chunk).min(visible) };
        Ok(Self { reader, sent_checksum, start, end })
    }

    /// Tells the NameNodes of a replica whose files are too short.
    fn report_damage(&self, plane: &DataPlane, request: &OpReadBlockProto) {
        let pool = request.header.base_header.block.pool_id.clone();
        let block = ExtendedBlock { pool, block: self.reader.block() };
        if let Err(error) = plane.store.report_corrupt(&block) {
            debug!(%block, "not reported: {}", error.chain());
        }
    }

    /// All of a replica, for a copy.
    pub(super) fn whole(reader: ReplicaReader) -> Self {
        let (sent_checksum, end) = (reader.checksum(), reader.block().length);
        Self { reader, sent_checksum, start: 0, end }
    }

    fn send(&self, plane: &DataPlane, to: &Connection) -> Result<()> {
        let mut buffer = Vec::with_capacity(1024);
        let response = BlockOpResponseProto {
            status: Status::Success.into(),
            read_op_checksum_info: Some(ReadOpChecksumInfoProto {
                checksum: self.sent_checksum.to_proto(),
                chunk_offset: self.start,
            }),
            ..Default::default()
        };
        encode_delimited(&response, &mut buffer).map_err(protocol_error)?;
        self.send_packets(buffer, |bytes| {
            to.send_all(bytes, plane.timeout).map_err(|error| DfsError::io("send to the reader", error))
        })
    }

    /// Sends the range as packets behind what `head` holds already, and the last, empty one.
    pub(super) fn send_packets(&self, head: Vec<u8>, mut send: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut out = Outgoing { used: head.len(), bytes: head };
        let mut at = self.start;
        let mut seqno = 0;
        let mut ahead = self.start;
        while at < self.end {
            ahead = self.read_ahead(at, ahead);
            let len = (self.end - at).min(PACKET_DATA_MAX as u64) as usize;
            self.fill_packet(&mut out, at, len, seqno)?;
            at += len as u64;
            seqno += 1;
            if at < self.end {
                send(out.filled())?;
                out.used = 0;
            }
        }
        let last = PacketHeader {
            offset_in_block: signed(self.end)?,
            seqno,
            last_packet_in_block: true,
            data_len: 0,
            sync_block: false,
        };
        let last = last.encode(0);
        out.room(last.len()).copy_from_slice(&last);
        send(out.filled())
    }

    fn fill_packet(&self, out: &mut Outgoing, at: u64, len: usize, seqno: i64) -> Result<()> {
        let sums_len = self.sent_checksum.checksums_len(len);
        let header = PacketHeader {
            offset_in_block: signed(at)?,
            seqno,
            last_packet_in_block: false,
            data_len: len as u32,
            sync_block: false,
        };
        let header = header.encode(sums_len);
        out.room(header.len()).copy_from_slice(&header);
        let (sums, data) = out.room(sums_len + len).split_at_mut(sums_len);
        if sums_len > 0 {
            self.reader.read_checksums(at, sums)?;
        }
        self.reader.read(at, data)
    }

    /// Asks the kernel for the next window when the reader has come to the middle of the last one.
    fn read_ahead(&self, at: u64, ahead: u64) -> u64 {
        if self.end - self.start < READ_AHEAD_MIN || ahead >= self.end || at + READ_AHEAD / 2 < ahead {
            return ahead;
        }
        let until = (at + READ_AHEAD).min(self.end);
        // Advice only: a failure costs speed, and the read itself tells of real ones.
        let _ = rustix::fs::fadvise(self.reader.data(), ahead, NonZeroU64::new(until - ahead), Advice::WillNeed);
        until
    }
}

/// Bytes to send, in memory that is used again for every packet.
struct Outgoing {
    bytes: Vec<u8>,
    used: usize,
}

impl Outgoing {
    fn filled(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// The next `len` bytes, whose content is whatever was there before.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let start = self.used;
        self.used += len;
        if self.bytes.len() < self.used {
            self.bytes.resize(self.used, 0);
        }
        &mut self.bytes[start..self.used]
    }
}

fn signed(offset: u64) -> Result<i64> {
    i64::try_from(offset).map_err(|_| DfsError::new(ErrorKind::Internal, "offset beyond 2^63"))
}

fn out_of_range(block: &ExtendedBlock, offset: u64, len: u64, visible: Option<u64>) -> DfsError {
    let there = visible.map_or_else(String::new, |visible| format!(", of which {visible} bytes can be read"));
    DfsError::new(ErrorKind::InvalidArgument, format!("{len} bytes at {offset} are out of the range of {block}{there}"))
}
