//! Hadoop 3's data transfer protocol: how the bytes of blocks travel between clients and DataNodes.
//!
//! One TCP connection carries one operation after another. Everything here is sans-I/O (bytes in, values out), because
//! the DataNode serves connections by blocking threads and the client by tokio; only [`frame`] and [`op`] add two small
//! readers for `std::io::Read`.
//!
//! ```text
//! request    version (2 bytes, 28)  op code (1 byte)  delimited message           op_code, op, frame
//! response   delimited message (BlockOpResponseProto)                             frame
//! packet     payload length (4)  header length (2)  header  checksums  data       packet, checksum
//! ack        delimited message (PipelineAckProto)                                 ack
//!
//! read       client: request          DataNode: response, packets, an empty last packet
//!            client: ClientReadStatusProto; then the next request may follow
//! write      client: request          each node: the same request to the next, minus itself
//!            responses travel back    packets travel down, acks travel back, one per packet
//! ```
//!
//! A delimited message is its length as a protobuf varint, then that many bytes. Integers outside protobuf are
//! big-endian. [`meta_file`] is the odd one out, a file's format and no message: it holds the same checksums.
//!
//! Invariants:
//! - Every length is compared with a named limit before anything is allocated or read by it.
//! - No input panics: what is wrong with it is a [`WireError`]. What the caller gets wrong (a buffer of the wrong
//!   length) is asserted.
//! - A message that lacks a required field, or holds an unknown value in a required enum, is refused ([`required`]).
//! - What we send is byte for byte what Hadoop's classes send; `tests/golden_data_transfer.rs` proves it.
//!
//! Source: Apache Hadoop 3.4.1, `hadoop-hdfs-client`: `Sender`, `PacketHeader`, `PacketReceiver`, `PipelineAck`,
//! `BlockMetadataHeader` and the descriptors compiled into it.

pub mod ack;
pub mod block;
pub mod checksum;
pub mod error;
pub mod frame;
pub mod meta_file;
pub mod op;
pub mod op_code;
pub mod packet;
pub mod patience;
pub mod required;

pub use ack::{Ecn, PipelineAck, Reply, SlowNode};
pub use checksum::{ChecksumKind, DataChecksum};
pub use error::WireError;
pub use frame::{decode_delimited, decode_varint_prefix, encode_delimited, read_delimited};
pub use meta_file::MetaHeader;
pub use op::{Request, decode_request, encode_request, read_request};
pub use op_code::Op;
pub use packet::{PacketFrame, PacketHeader, PacketLengths};
