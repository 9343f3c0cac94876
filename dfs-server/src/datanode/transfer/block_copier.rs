//! A finalized replica goes to other DataNodes, by the same protocol by which a client writes: request, packets, acks. The
//! first target passes it on to the next, as in any pipeline.

use std::io;
use std::time::{Duration, Instant};

use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::packet::HEARTBEAT_SEQNO;
use dfs_proto::data_transfer::{PipelineAck, encode_request};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{
    BlockOpResponseProto, ClientOperationHeaderProto, DatanodeInfoProto, OpWriteBlockProto, Status,
};

use super::DataPlane;
use super::block_sender::Sender;
use super::connection::Connection;
use super::mirror::data_address;
use super::reply::protocol_error;
use crate::datanode::store::ReplicaReader;

/// Copies a replica to `targets`, and returns when all of them have finalized it. `pace` is called with the bytes about to
/// be sent, and may wait.
///
/// # Errors
/// Of reading it here, or of what the targets say; then the NameNode orders it again.
pub(crate) fn copy_block(
    plane: &DataPlane,
    block: &ExtendedBlock,
    targets: &[DatanodeInfoProto],
    target_storage_uuids: &[String],
    pace: &dyn Fn(usize),
) -> Result<()> {
    let reader = plane.store.open_reader(block, 0)?;
    let copy = Copy {
        pool: &block.pool,
        targets,
        target_storage_uuids,
        stage: BlockConstructionStage::TransferFinalized,
        client_name: "",
        patience: plane.timeout,
        pace,
    };
    send_copy(plane, reader, &copy)
}

/// Where a copy goes, and what becomes of it there.
pub(super) struct Copy<'a> {
    pub(super) pool: &'a str,
    pub(super) targets: &'a [DatanodeInfoProto],
    pub(super) target_storage_uuids: &'a [String],
    pub(super) stage: BlockConstructionStage,
    /// The writer on whose behalf it is made; empty: the NameNode's order.
    pub(super) client_name: &'a str,
    /// Silence of the first target after which it is given up.
    pub(super) patience: Duration,
    /// Called with the bytes about to be sent; may wait.
    pub(super) pace: &'a dyn Fn(usize),
}

/// Sends all that `reader` may show, and returns when all targets have it.
pub(super) fn send_copy(plane: &DataPlane, reader: ReplicaReader, copy: &Copy<'_>) -> Result<()> {
    let Copy { targets, target_storage_uuids, patience, .. } = *copy;
    let Some(first) = targets.first() else {
        return Err(DfsError::new(ErrorKind::InvalidArgument, "a transfer without targets"));
    };
    let found = ExtendedBlock { pool: copy.pool.to_owned(), block: reader.block() };
    let stamp = found.block.generation_stamp.0;
    let request = OpWriteBlockProto {
        header: ClientOperationHeaderProto::new(&found, None, copy.client_name),
        targets: targets[1..].to_vec(),
        stage: copy.stage.into(),
        pipeline_size: u32::try_from(targets.len()).unwrap_or(u32::MAX),
        latest_generation_stamp: stamp,
        requested_checksum: reader.checksum().to_proto(),
        storage_id: target_storage_uuids.first().cloned(),
        target_storage_ids: target_storage_uuids.iter().skip(1).cloned().collect(),
        ..Default::default()
    };
    let address = data_address(first);
    let mut peer = plane
        .peers
        .take(&address)
        .map_err(|error| DfsError::new(ErrorKind::Unavailable, format!("connect to {address}")).with_source(error))?;
    let mut head = Vec::with_capacity(1024);
    encode_request(&request, &mut head).map_err(protocol_error)?;
    let mut packets = 0;
    Sender::whole(reader).send_packets(head, |bytes| {
        packets += 1;
        (copy.pace)(bytes.len());
        peer.send_all(bytes, patience).map_err(|error| DfsError::io(format!("send to {address}"), error))
    })?;
    // One packet per call, but for the empty last one, which rides with the one before it (alone for an empty block).
    let packets = if found.block.length == 0 { 1 } else { packets + 1 };
    if let Err(error) = read_answers(patience, &mut peer, &address, packets) {
        // The bytes were wrong here, or went wrong on the way.
        if error.kind() == ErrorKind::Corrupt {
            plane.store.doubt(&found)?;
        }
        return Err(error);
    }
    plane.peers.put(address, peer);
    Ok(())
}

fn read_answers(patience: Duration, peer: &mut Connection, address: &str, packets: usize) -> Result<()> {
    let response: BlockOpResponseProto = peer.read_message(Instant::now() + patience).map_err(protocol_error)?;
    if response.status() != Status::Success {
        return Err(DfsError::new(
            if response.status() == Status::ErrorExists { ErrorKind::AlreadyExists } else { ErrorKind::Unavailable },
            format!("{address} refused ({:?}): {}", response.status(), response.message()),
        ));
    }
    for _ in 0..packets {
        let ack = read_ack(peer, patience)?;
        if let Some(at) = ack.first_failure() {
            let is_checksum_error = ack.replies[at].status == Status::ErrorChecksum;
            return Err(DfsError::new(
                if is_checksum_error { ErrorKind::Corrupt } else { ErrorKind::Unavailable },
                format!("target {} answered packet {} with {:?}", at + 1, ack.seqno, ack.replies[at].status),
            ));
        }
    }
    Ok(())
}

/// The next answer to a packet. Signs of life between them, while a target waits for its disk, only prolong the wait: a
/// target gives no more of them once a call lasts too long.
fn read_ack(peer: &mut Connection, patience: Duration) -> Result<PipelineAck> {
    loop {
        while let Some((ack, len)) = PipelineAck::decode(peer.filled()).map_err(protocol_error)? {
            peer.consume(len);
            if ack.seqno != HEARTBEAT_SEQNO {
                return Ok(ack);
            }
        }
        let more = peer.receive_by(Instant::now() + patience).map_err(|error| DfsError::io("wait for acks", error))?;
        if !more {
            return Err(DfsError::io("wait for acks", io::ErrorKind::UnexpectedEof.into()));
        }
    }
}
