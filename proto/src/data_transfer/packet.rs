//! Packets: the unit in which a block's bytes travel, in pipelines and in reads.
//!
//! ```text
//! 0               4               6                6 + header_len        ...               total_len
//! payload length  header length   PacketHeaderProto  one CRC per chunk     data
//! i32             i16             25 or 27 bytes     0 or 4 bytes each     data_len
//! ```
//!
//! The payload length counts itself, the checksums and the data, but neither the header nor its length.
//!
//! A read ends with a packet that has no data and `last_packet_in_block`; so does a write by Hadoop's client. A packet of
//! seqno [`HEARTBEAT_SEQNO`] carries nothing and keeps the connection alive. Seqnos count from 0 in each operation.
//!
//! To receive, read [`PACKET_LENGTHS_LEN`] bytes into [`PacketLengths::decode`], then its `rest_len` bytes into the same
//! buffer, then [`PacketFrame::decode`] the buffer. To send, write [`PacketHeader::encode`], checksums, data.

use std::ops::{Deref, Range};

use super::checksum::DataChecksum;
use super::error::WireError;
use super::required::WireMessage;
use crate::hadoop::PacketHeaderProto;

/// Bytes of the two lengths before the header.
pub const PACKET_LENGTHS_LEN: usize = 6;
/// Bytes of the longest header we send, lengths included.
pub const PACKET_HEADER_LEN_MAX: usize = PACKET_LENGTHS_LEN + PROTO_LEN_SYNC;
/// The longest packet, in bytes, as Hadoop counts: payload length plus header length.
pub const PACKET_LEN_MAX: usize = 16 * 1024 * 1024;
/// Hadoop's default packet, in bytes, everything included.
pub const PACKET_LEN_DEFAULT: usize = 64 * 1024;
/// The longest header that we take from others, in bytes. Ours has 27; the rest is for fields yet to come.
pub const RECEIVED_HEADER_LEN_MAX: usize = 256;

/// Seqno of a packet, and of its ack, that only says that the sender is there.
pub const HEARTBEAT_SEQNO: i64 = -1;
/// Seqno of an ack that answers no packet: an out-of-band message.
pub const UNKNOWN_SEQNO: i64 = -2;

/// Bytes by which the payload length counts itself.
const PAYLOAD_LEN_LEN: usize = 4;
/// Bytes of the protobuf without and with `syncBlock`, which Hadoop leaves out when it is false.
const PROTO_LEN: usize = 9 + 9 + 2 + 5;
const PROTO_LEN_SYNC: usize = PROTO_LEN + 2;
/// Field keys of `PacketHeaderProto`: number << 3 | wire type.
const KEY_OFFSET: u8 = 1 << 3 | 1;
const KEY_SEQNO: u8 = 2 << 3 | 1;
const KEY_LAST: u8 = 3 << 3;
const KEY_DATA_LEN: u8 = 4 << 3 | 5;
const KEY_SYNC: u8 = 5 << 3;

/// The two lengths before a header, within their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketLengths {
    header_len: usize,
    body_len: usize,
}

impl PacketLengths {
    /// Fails with `BadValue` or `TooLong` on lengths that no packet has.
    pub fn decode(bytes: [u8; PACKET_LENGTHS_LEN]) -> Result<Self, WireError> {
        let [p0, p1, p2, p3, h0, h1] = bytes;
        let payload_len = i32::from_be_bytes([p0, p1, p2, p3]);
        let header_len = i16::from_be_bytes([h0, h1]);
        let bad = |what, value| WireError::BadValue { what, value };
        let too_long = |what, len: usize, max: usize| WireError::TooLong { what, len: len as u64, max: max as u64 };
        let body_len = usize::try_from(payload_len)
            .ok()
            .and_then(|len| len.checked_sub(PAYLOAD_LEN_LEN))
            .ok_or(bad("packet payload length", payload_len.into()))?;
        let header_len = usize::try_from(header_len).map_err(|_| bad("packet header length", header_len.into()))?;
        if header_len > RECEIVED_HEADER_LEN_MAX {
            return Err(too_long("packet header length", header_len, RECEIVED_HEADER_LEN_MAX));
        }
        let packet_len = body_len + PAYLOAD_LEN_LEN + header_len;
        if packet_len > PACKET_LEN_MAX {
            return Err(too_long("packet length", packet_len, PACKET_LEN_MAX));
        }
        Ok(Self { header_len, body_len })
    }

    /// Bytes of the header's protobuf.
    pub fn header_len(self) -> usize {
        self.header_len
    }

    /// Bytes of checksums and data.
    pub fn body_len(self) -> usize {
        self.body_len
    }

    /// Bytes of the packet that follow the lengths.
    pub fn rest_len(self) -> usize {
        self.header_len + self.body_len
    }

    /// Bytes of the packet.
    pub fn total_len(self) -> usize {
        PACKET_LENGTHS_LEN + self.rest_len()
    }
}

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketHeader {
    /// Where the data starts, bytes from the start of the block; never negative.
    pub offset_in_block: i64,
    /// Position in the operation, or [`HEARTBEAT_SEQNO`].
    pub seqno: i64,
    /// Nothing follows in this operation.
    pub last_packet_in_block: bool,
    /// Bytes of data.
    pub data_len: u32,
    /// The receiver must have everything up to here on disk before it acknowledges.
    pub sync_block: bool,
}

impl PacketHeader {
    /// A packet without data that keeps a connection alive.
    pub const HEARTBEAT: Self = Self {
        offset_in_block: 0,
        seqno: HEARTBEAT_SEQNO,
        last_packet_in_block: false,
        data_len: 0,
        sync_block: false,
    };

    /// Whether this packet carries nothing and is in no sequence.
    pub fn is_heartbeat(&self) -> bool {
        self.seqno == HEARTBEAT_SEQNO
    }

    /// Bytes of [`encode`](Self::encode).
    pub fn encoded_len(&self) -> usize {
        PACKET_LENGTHS_LEN + if self.sync_block { PROTO_LEN_SYNC } else { PROTO_LEN }
    }

    /// The bytes that go before `checksums_len` bytes of checksums and `data_len` bytes of data.
    /// The packet must not be longer than [`PACKET_LEN_MAX`].
    pub fn encode(&self, checksums_len: usize) -> HeaderBytes {
        let len = self.encoded_len();
        let proto_len = len - PACKET_LENGTHS_LEN;
        let payload_len = PAYLOAD_LEN_LEN + checksums_len + self.data_len as usize;
        assert!(payload_len + proto_len <= PACKET_LEN_MAX, "a packet of {payload_len} bytes would be refused");
        let mut bytes = [0; PACKET_HEADER_LEN_MAX];
        bytes[..4].copy_from_slice(&(payload_len as u32).to_be_bytes());
        bytes[4..6].copy_from_slice(&(proto_len as u16).to_be_bytes());
        bytes[6] = KEY_OFFSET;
        bytes[7..15].copy_from_slice(&self.offset_in_block.to_le_bytes());
        bytes[15] = KEY_SEQNO;
        bytes[16..24].copy_from_slice(&self.seqno.to_le_bytes());
        bytes[24..26].copy_from_slice(&[KEY_LAST, self.last_packet_in_block.into()]);
        bytes[26] = KEY_DATA_LEN;
        bytes[27..31].copy_from_slice(&self.data_len.to_le_bytes());
        bytes[31..33].copy_from_slice(&[KEY_SYNC, 1]);
        HeaderBytes { bytes, len }
    }

    /// Decodes the protobuf alone, of which prost sees only unusual layouts. Fails on an absent field and on a negative
    /// offset or length.
    pub fn decode_proto(bytes: &[u8]) -> Result<Self, WireError> {
        let proto = match decode_usual_proto(bytes) {
            Some(proto) => proto,
            None => PacketHeaderProto::decode_checked(bytes)?,
        };
        let bad = |what, value| WireError::BadValue { what, value };
        if proto.offset_in_block < 0 {
            return Err(bad("packet's offset in block", proto.offset_in_block));
        }
        let data_len = u32::try_from(proto.data_len).map_err(|_| bad("packet's data length", proto.data_len.into()))?;
        Ok(Self {
            offset_in_block: proto.offset_in_block,
            seqno: proto.seqno,
            last_packet_in_block: proto.last_packet_in_block,
            data_len,
            sync_block: proto.sync_block(),
        })
    }
}

/// Decodes the layout that Hadoop and we write, the fields in order of their numbers; `None` on any other.
fn decode_usual_proto(bytes: &[u8]) -> Option<PacketHeaderProto> {
    let (fixed, rest) = bytes.split_first_chunk::<PROTO_LEN>()?;
    let sync_block = match *rest {
        [] => None,
        [KEY_SYNC, sync @ 0..=1] => Some(sync == 1),
        _ => return None,
    };
    let keys = [fixed[0], fixed[9], fixed[18], fixed[20]];
    if keys != [KEY_OFFSET, KEY_SEQNO, KEY_LAST, KEY_DATA_LEN] || fixed[19] > 1 {
        return None;
    }
    Some(PacketHeaderProto {
        offset_in_block: i64::from_le_bytes(*fixed[1..9].first_chunk()?),
        seqno: i64::from_le_bytes(*fixed[10..18].first_chunk()?),
        last_packet_in_block: fixed[19] == 1,
        data_len: i32::from_le_bytes(*fixed[21..25].first_chunk()?),
        sync_block,
    })
}

/// An encoded header on the stack; derefs to its bytes.
#[derive(Debug, Clone, Copy)]
pub struct HeaderBytes {
    bytes: [u8; PACKET_HEADER_LEN_MAX],
    len: usize,
}

impl Deref for HeaderBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A packet's header, and where the parts are in the buffer that holds the packet from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketFrame {
    /// What the packet says of itself.
    pub header: PacketHeader,
    /// Bytes before the checksums: lengths and header.
    pub header_len: usize,
    /// Bytes of checksums.
    pub checksums_len: usize,
}

impl PacketFrame {
    /// Decodes lengths and header at the start of `buf`; `None` means that more bytes are needed for them. Checksums and
    /// data need not be there yet. Fails if the data would be longer than the packet, or a heartbeat is more than that.
    pub fn decode(buf: &[u8]) -> Result<Option<Self>, WireError> {
        let Some((lengths, rest)) = buf.split_first_chunk() else {
            return Ok(None);
        };
        let lengths = PacketLengths::decode(*lengths)?;
        let Some(proto) = rest.get(..lengths.header_len) else {
            return Ok(None);
        };
        let header = PacketHeader::decode_proto(proto)?;
        let (data_len, body_len) = (header.data_len as usize, lengths.body_len);
        let Some(checksums_len) = body_len.checked_sub(data_len) else {
            return Err(WireError::TooLong {
                what: "packet's data length",
                len: data_len as u64,
                max: body_len as u64,
            });
        };
        // What is no packet must bring nothing: receivers do not look whether it continues the data.
        if header.is_heartbeat() && (body_len > 0 || header.last_packet_in_block) {
            return Err(WireError::BadValue { what: "number of bytes in a heartbeat", value: body_len as i64 });
        }
        Ok(Some(Self { header, header_len: PACKET_LENGTHS_LEN + lengths.header_len, checksums_len }))
    }

    /// Where the checksums are.
    pub fn checksums(&self) -> Range<usize> {
        self.header_len..self.header_len + self.checksums_len
    }

    /// Where the data is.
    pub fn data(&self) -> Range<usize> {
        let start = self.header_len + self.checksums_len;
        start..start + self.header.data_len as usize
    }

    /// Bytes of the packet.
    pub fn total_len(&self) -> usize {
        self.data().end
    }

    /// Fails with `BadValue` unless the packet has as many checksum bytes as `checksum` makes of its data. Whoever stores
    /// or forwards checksums without verifying them must ask this first.
    pub fn check_checksums_len(&self, checksum: DataChecksum) -> Result<(), WireError> {
        if self.checksums_len != checksum.checksums_len(self.header.data_len as usize) {
            let value = self.checksums_len as i64;
            return Err(WireError::BadValue { what: "number of checksum bytes in a packet", value });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
