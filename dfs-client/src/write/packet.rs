//! Bytes cut into packets.
//!
//! A packet starts at a chunk's border and holds up to [`ClientConfig::packet_size`](crate::ClientConfig::packet_size)
//! bytes, except behind a flushed or appended partial chunk: then it holds only what completes that chunk, so that every
//! node can continue the chunk's checksum, and the packets behind it are aligned again. Hadoop's nodes demand that.

use dfs_proto::data_transfer::packet::PACKET_LEN_MAX;
use dfs_proto::data_transfer::{DataChecksum, PacketHeader};

/// Bytes of a packet before its checksums are far fewer: lengths and header.
const PACKET_HEADER_MAX: usize = 1024;

/// Data that a packet at `offset` of a block may hold, when `remaining` bytes of the block are left.
pub(crate) fn packet_capacity(offset: u64, packet_size: usize, remaining: u64, chunk: usize) -> usize {
    let into_chunk = (offset % chunk as u64) as usize;
    let capacity = if into_chunk == 0 { packet_size } else { chunk - into_chunk };
    usize::try_from(remaining).map_or(capacity, |remaining| capacity.min(remaining))
}

/// Data that packets hold when `wanted` is asked for: whole chunks, and no more than a packet may have with its checksums.
pub(crate) fn packet_data_len(wanted: usize) -> usize {
    let chunk = DataChecksum::DEFAULT.bytes_per_checksum();
    let chunk_on_wire = chunk + DataChecksum::DEFAULT.checksum_size();
    let most = (PACKET_LEN_MAX - PACKET_HEADER_MAX) / chunk_on_wire * chunk;
    (wanted / chunk * chunk).clamp(chunk, most)
}

/// A packet that still takes bytes.
pub(crate) struct PacketBuilder {
    /// Where its first byte lies in the block.
    offset: u64,
    data: Vec<u8>,
    capacity: usize,
}

impl PacketBuilder {
    /// An empty packet of up to `capacity` bytes, in the memory of `buffer`.
    pub(crate) fn new(offset: u64, capacity: usize, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self { offset, data: buffer, capacity }
    }

    /// Takes as much of `data` as fits; says how much.
    pub(crate) fn push(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.capacity - self.data.len());
        self.data.extend_from_slice(&data[..taken]);
        taken
    }

    pub(crate) fn is_full(&self) -> bool {
        self.data.len() == self.capacity
    }

    /// The bytes held.
    pub(crate) fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// Finishes the packet.
    pub(crate) fn seal(self, seqno: i64, sync_block: bool, checksum: DataChecksum) -> Packet {
        Packet::new(self.offset, seqno, self.data, PacketKind { sync_block, last_in_block: false }, checksum)
    }
}

/// What a packet asks for besides taking its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PacketKind {
    /// Everything up to here must be on disk before the ack.
    pub(crate) sync_block: bool,
    /// The block ends here.
    pub(crate) last_in_block: bool,
}

/// A packet as it goes over the wire.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) seqno: i64,
    pub(crate) kind: PacketKind,
    /// Where its data ends in the block.
    pub(crate) end: u64,
    /// Lengths, header and checksums.
    pub(crate) head: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Packet {
    fn new(offset: u64, seqno: i64, data: Vec<u8>, kind: PacketKind, checksum: DataChecksum) -> Self {
        let header = PacketHeader {
            // Blocks are at most 2^40 bytes, packets at most 16 MiB: both fit.
            offset_in_block: offset as i64,
            seqno,
            last_packet_in_block: kind.last_in_block,
            data_len: data.len() as u32,
            sync_block: kind.sync_block,
        };
        let sums = checksum.checksums_len(data.len());
        let header_bytes = header.encode(sums);
        let mut head = vec![0; header_bytes.len() + sums];
        head[..header_bytes.len()].copy_from_slice(&header_bytes);
        checksum.compute(&data, &mut head[header_bytes.len()..]);
        Self { seqno, kind, end: offset + data.len() as u64, head, data }
    }

    /// A packet without data: the end of a block, or a request to sync what was sent.
    pub(crate) fn empty(offset: u64, seqno: i64, kind: PacketKind) -> Self {
        Self::new(offset, seqno, Vec::new(), kind, DataChecksum::DEFAULT)
    }

    /// A packet that only says that the writer is there. It is in no sequence and not kept.
    pub(crate) fn heartbeat() -> Vec<u8> {
        PacketHeader::HEARTBEAT.encode(0).to_vec()
    }

    /// Bytes on the wire.
    pub(crate) fn wire_len(&self) -> usize {
        self.head.len() + self.data.len()
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::data_transfer::PacketFrame;

    use super::*;

    #[test]
    fn packet_capacity_table() {
        for (offset, remaining, expected) in [
            (0, 1 << 30, 65_536),
            (512, 1 << 30, 65_536),
            (1, 1 << 30, 511),
            (65_536 + 100, 1 << 30, 412),
            (0, 100, 100),
            (100, 5, 5),
            (511, u64::MAX, 1),
        ] {
            assert_eq!(packet_capacity(offset, 65_536, remaining, 512), expected, "at {offset}, {remaining} left");
        }
    }

    #[test]
    fn sealed_packet_decodes_to_what_was_pushed() {
        let mut builder = PacketBuilder::new(1024, 1000, Vec::new());
        assert_eq!(builder.push(&[7; 600]), 600);
        assert!(!builder.is_full());
        assert_eq!(builder.push(&[8; 600]), 400);
        assert!(builder.is_full());
        let packet = builder.seal(5, true, DataChecksum::DEFAULT);
        let bytes = [&packet.head[..], &packet.data].concat();
        assert_eq!(bytes.len(), packet.wire_len());
        let frame = PacketFrame::decode(&bytes).unwrap().unwrap();
        assert_eq!((frame.header.offset_in_block, frame.header.seqno, frame.header.data_len), (1024, 5, 1000));
        assert!(frame.header.sync_block && !frame.header.last_packet_in_block);
        let (sums, data) = (&bytes[frame.checksums()], &bytes[frame.data()]);
        assert_eq!(DataChecksum::DEFAULT.verify(data, sums), Ok(()));
        assert_eq!(packet.end, 2024);
    }

    #[test]
    fn packet_data_len_fits_into_a_packet() {
        for (wanted, expected) in [(65_536, 65_536), (65_537, 65_536), (0, 512), (4096 + 511, 4096)] {
            assert_eq!(packet_data_len(wanted), expected);
        }
        let most = packet_data_len(16 << 20);
        assert_eq!(packet_data_len(usize::MAX), most);
        let packet = Packet::new(0, 0, vec![7; most], PacketKind::default(), DataChecksum::DEFAULT);
        assert!(packet.wire_len() <= PACKET_LEN_MAX && most > 15 << 20, "{most}");
    }

    #[test]
    fn empty_packet_ends_a_block() {
        let packet = Packet::empty(77, 3, PacketKind { last_in_block: true, sync_block: false });
        let frame = PacketFrame::decode(&packet.head).unwrap().unwrap();
        assert!(frame.header.last_packet_in_block);
        assert_eq!(
            (frame.header.offset_in_block, frame.header.data_len, frame.total_len()),
            (77, 0, packet.head.len())
        );
    }
}
