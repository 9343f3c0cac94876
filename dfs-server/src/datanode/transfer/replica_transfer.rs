//! TRANSFER_BLOCK: a writer whose pipeline lost a node has a replacement filled from a node that is left.
//!
//! What goes over are the bytes that this node may show: all that the writer asks for, those acknowledged to it, or the copy is
//! refused. At the target they become a replica being written, under the generation stamp that they have here; the set-up of the
//! rebuilt pipeline then gives all of them the new one.
//!
//! From a second on, a writer that understands it is told each half second that the copy is under way, for as long as one call of
//! a disk may take: a disk that is slow here or at the target is no reason to do without the replacement.

use std::sync::Arc;
use std::time::Duration;

use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::patience::DISK_CALL_MAX;
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{BlockOpResponseProto, OpTransferBlockProto, Status};
use tracing::{info, warn};

use super::after::After;
use super::block_copier::{Copy, send_copy};
use super::connection::Connection;
use super::data_plane::DataPlane;
use super::reply::{encoded, error_response, protocol_error};
use super::upstream::Upstream;

/// Silence of the target after which it is given up: an application waits for the pipeline meanwhile.
const TARGET_PATIENCE: Duration = Duration::from_secs(3);

/// Serves one TRANSFER_BLOCK.
pub(super) fn transfer_replica(plane: &DataPlane, to: &Connection, request: &OpTransferBlockProto) -> After {
    let upstream = Arc::new(Upstream::new(to.socket_handle(), request.takes_signs_of_life(), DISK_CALL_MAX));
    plane.pulse.watch(&upstream);
    let response = match upstream.while_busy(|| transfer(plane, request)) {
        Ok(block) => {
            info!(%block, targets = request.targets.len(), "replica copied for a pipeline");
            BlockOpResponseProto { status: Status::Success.into(), ..Default::default() }
        }
        Err(error) => {
            plane.metrics.operations_failed.inc();
            warn!(peer = ?to.peer_address(), "replica not copied for a pipeline: {}", error.chain());
            error_response(&error)
        }
    };
    match to.send_all(&upstream.end_with(&encoded(&response)), plane.timeout) {
        Ok(()) => After::Serve,
        Err(_) => After::Close,
    }
}

fn transfer(plane: &DataPlane, request: &OpTransferBlockProto) -> Result<ExtendedBlock> {
    let block = ExtendedBlock::try_from(&request.header.base_header.block).map_err(protocol_error)?;
    let reader = plane.store.open_reader(&block, block.block.length)?;
    let found = reader.block();
    if found.length < block.block.length {
        let words = format!("of {block} only {} bytes can be read here", found.length);
        return Err(DfsError::new(ErrorKind::InvalidArgument, words));
    }
    let copy = Copy {
        pool: &block.pool,
        targets: &request.targets,
        target_storage_uuids: &request.target_storage_ids,
        stage: BlockConstructionStage::TransferRbw,
        client_name: &request.header.client_name,
        patience: TARGET_PATIENCE.min(plane.timeout),
        // A writer waits for it.
        turns: None,
    };
    send_copy(plane, reader, &copy)?;
    Ok(ExtendedBlock { pool: block.pool, block: found })
}
