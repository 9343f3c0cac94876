//! READ_BLOCK on one replica: a range of a block, verified chunk by chunk.
//!
//! Headers and checksums pass through a small buffer; data goes from the socket into the place it is returned from. The
//! connection goes back to the pool once the last packet was seen and acknowledged.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::{ChecksumKind, DataChecksum, PacketFrame, WireError, encode_delimited, encode_request};
use dfs_proto::hadoop::{
    BlockOpResponseProto, ClientOperationHeaderProto, ClientReadStatusProto, OpReadBlockProto, Status,
};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

use crate::datanode::{DataConnection, Datanodes, Node, receive, receive_message};

/// Room for headers and the checksums of a packet of 1 MiB; what more a read brings is data that has to be copied.
const BUFFER_LEN: usize = 16 * 1024;

/// Packets without data in one read: nodes send none but heartbeats, each after seconds of silence.
const IDLE_PACKETS_MAX: u32 = 1024;

/// What to read.
#[derive(Clone, Copy)]
pub(crate) struct BlockRange<'a> {
    pub(crate) block: &'a ExtendedBlock,
    /// First byte, counted from the block's start.
    pub(crate) offset: u64,
    /// Bytes, at least one; the replica must have them all.
    pub(crate) len: usize,
}

/// Why one replica did not serve a range.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    /// The chunk at this offset of the block does not fit its checksum.
    Checksum { offset: u64 },
    /// Anything else: refused, silent, gone, out of step.
    Node(DfsError),
}

impl From<DfsError> for ReadFailure {
    fn from(error: DfsError) -> Self {
        Self::Node(error)
    }
}

impl From<WireError> for ReadFailure {
    fn from(error: WireError) -> Self {
        Self::Node(DfsError::new(ErrorKind::Protocol, "packet of a DataNode").with_source(error))
    }
}

/// Reads `range` from the replica on `node`.
pub(crate) async fn read_range(
    datanodes: &Datanodes,
    node: &Node,
    range: BlockRange<'_>,
    client_name: &str,
    silence: Duration,
) -> Result<Bytes, ReadFailure> {
    let request = encode_read_request(range, client_name)?;
    let mut connection = datanodes.connection(node).await?;
    let mut buffer = BytesMut::with_capacity(BUFFER_LEN);
    let response = match ask(&mut connection, &request, &mut buffer, silence).await {
        Ok(response) => response,
        // The node closed it while it lay in the pool: that says nothing about the replica.
        Err(error) if connection.is_reused && error.kind() == ErrorKind::Io => {
            connection = datanodes.fresh_connection(node).await?;
            buffer.clear();
            ask(&mut connection, &request, &mut buffer, silence).await?
        }
        Err(error) => return Err(error.into()),
    };
    let (checksum, chunk_offset) = accepted(node, range, &response)?;
    let mut body = Body::new(range, checksum, chunk_offset);
    body.receive(&mut connection, buffer, silence).await?;
    let mut status = Vec::new();
    encode_delimited(&ClientReadStatusProto { status: Status::ChecksumOk.into() }, &mut status)?;
    // The bytes are here and good: a connection that breaks now only is not kept.
    if connection.stream.write_all(&status).await.is_ok() {
        datanodes.give_back(node, connection);
    }
    Ok(body.into_bytes(range))
}

fn encode_read_request(range: BlockRange<'_>, client_name: &str) -> Result<Vec<u8>, ReadFailure> {
    let request = OpReadBlockProto {
        header: ClientOperationHeaderProto::new(range.block, None, client_name),
        offset: range.offset,
        len: range.len as u64,
        send_checksums: Some(true),
        caching_strategy: None,
    };
    let mut bytes = Vec::with_capacity(256);
    encode_request(&request, &mut bytes)?;
    Ok(bytes)
}

async fn ask(
    connection: &mut DataConnection,
    request: &[u8],
    buffer: &mut BytesMut,
    silence: Duration,
) -> Result<BlockOpResponseProto> {
    let sent = connection.stream.write_all(request).await;
    sent.map_err(|error| DfsError::io("write to a DataNode", error))?;
    receive_message(&mut connection.stream, buffer, silence).await
}

/// Checks the answer to a request: how the data is checksummed, and where in the block it starts.
fn accepted(
    node: &Node,
    range: BlockRange<'_>,
    response: &BlockOpResponseProto,
) -> Result<(DataChecksum, u64), ReadFailure> {
    let refusal = |kind, why: &str| {
        let words = format!("DataNode {} does not serve {}: {why}", node.data_address, range.block);
        ReadFailure::Node(DfsError::new(kind, words))
    };
    if response.status() != Status::Success {
        return Err(refusal(ErrorKind::Io, &format!("{:?} {}", response.status(), response.message())));
    }
    let Some(info) = &response.read_op_checksum_info else {
        return Err(refusal(ErrorKind::Protocol, "answer lacks the checksum's kind"));
    };
    let checksum = DataChecksum::from_proto(&info.checksum)?;
    if checksum.kind() == ChecksumKind::Null {
        return Err(refusal(ErrorKind::Protocol, "it sends no checksums"));
    }
    let chunk = checksum.bytes_per_checksum() as u64;
    if info.chunk_offset > range.offset || range.offset - info.chunk_offset >= chunk || info.chunk_offset % chunk != 0 {
        return Err(refusal(ErrorKind::Protocol, &format!("it starts at {}", info.chunk_offset)));
    }
    Ok((checksum, info.chunk_offset))
}

/// The data of one operation as it comes in.
struct Body {
    checksum: DataChecksum,
    /// Offset in the block of the first byte of `data`.
    start: u64,
    /// Bytes that must come.
    needed: usize,
    /// Bytes that may come: `needed`, up to the end of its last chunk.
    limit: usize,
    data: BytesMut,
    sums: Vec<u8>,
}

impl Body {
    fn new(range: BlockRange<'_>, checksum: DataChecksum, chunk_offset: u64) -> Self {
        // `accepted` has seen to it that the difference is less than a chunk.
        let needed = (range.offset - chunk_offset) as usize + range.len;
        let limit = needed.next_multiple_of(checksum.bytes_per_checksum());
        Self { checksum, start: chunk_offset, needed, limit, data: BytesMut::with_capacity(limit), sums: Vec::new() }
    }

    /// Receives packets to the last one.
    async fn receive(
        &mut self,
        connection: &mut DataConnection,
        mut buffer: BytesMut,
        silence: Duration,
    ) -> Result<(), ReadFailure> {
        let mut idle_packets = 0;
        loop {
            let frame = loop {
                match PacketFrame::decode(&buffer)? {
                    Some(frame) if buffer.len() >= frame.data().start => break frame,
                    Some(frame) => buffer.reserve(frame.data().start - buffer.len()),
                    None => buffer.reserve(BUFFER_LEN / 16),
                }
                receive(&mut connection.stream, &mut buffer, silence).await?;
            };
            if !frame.header.is_heartbeat() {
                self.check(&frame)?;
            }
            if frame.header.data_len == 0 && !frame.header.last_packet_in_block {
                idle_packets += 1;
                if idle_packets > IDLE_PACKETS_MAX {
                    return Err(DfsError::new(ErrorKind::Protocol, "DataNode sends packets without data").into());
                }
            }
            self.sums.clear();
            self.sums.extend_from_slice(&buffer[frame.checksums()]);
            buffer.advance(frame.data().start);
            let from = self.data.len();
            self.receive_data(connection, &mut buffer, frame.header.data_len as usize, silence).await?;
            if let Err(at) = self.checksum.verify(&self.data[from..], &self.sums) {
                return Err(ReadFailure::Checksum { offset: self.start + (from + at) as u64 });
            }
            if frame.header.last_packet_in_block {
                break;
            }
        }
        if self.data.len() < self.needed {
            let words = format!("replica ends after {} of {} bytes", self.data.len(), self.needed);
            return Err(DfsError::new(ErrorKind::Io, words).into());
        }
        if !buffer.is_empty() {
            return Err(DfsError::new(ErrorKind::Protocol, "DataNode sent bytes behind the last packet").into());
        }
        Ok(())
    }

    /// Refuses a packet that does not continue the data.
    fn check(&self, frame: &PacketFrame) -> Result<(), ReadFailure> {
        frame.check_checksums_len(self.checksum)?;
        let expected = self.start + self.data.len() as u64;
        let is_next = frame.header.data_len == 0 || frame.header.offset_in_block as u64 == expected;
        if !is_next || frame.header.data_len as usize > self.limit - self.data.len() {
            let words = format!(
                "DataNode sent {} bytes for offset {}, expected at most {} for {expected}",
                frame.header.data_len,
                frame.header.offset_in_block,
                self.limit - self.data.len(),
            );
            return Err(DfsError::new(ErrorKind::Protocol, words).into());
        }
        Ok(())
    }

    /// Takes a packet's data: first what is in `buffer`, then the rest straight from the socket.
    async fn receive_data(
        &mut self,
        connection: &mut DataConnection,
        buffer: &mut BytesMut,
        len: usize,
        silence: Duration,
    ) -> Result<()> {
        let end = self.data.len() + len;
        let here = len.min(buffer.len());
        self.data.extend_from_slice(&buffer[..here]);
        buffer.advance(here);
        while self.data.len() < end {
            let rest = end - self.data.len();
            receive(&mut connection.stream, &mut (&mut self.data).limit(rest), silence).await?;
        }
        Ok(())
    }

    /// Exactly the range asked for.
    fn into_bytes(self, range: BlockRange<'_>) -> Bytes {
        let skip = (range.offset - self.start) as usize;
        self.data.freeze().slice(skip..skip + range.len)
    }
}
