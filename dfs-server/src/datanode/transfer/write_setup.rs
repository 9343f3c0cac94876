//! The start of a WRITE_BLOCK: what the request asks for, and how it is refused.

use std::ops::RangeInclusive;

use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::checksum::BYTES_PER_CHECKSUM_DEFAULT;
use dfs_proto::data_transfer::{ChecksumKind, DataChecksum};
use dfs_proto::hadoop::{BlockOpResponseProto, OpWriteBlockProto};
use tracing::warn;

use super::after::After;
use super::connection::Connection;
use super::data_plane::DataPlane;
use super::reply::{encoded, error_response, link_refusal, protocol_error, status_of};
use super::stage::Stage;

/// The bytes that a replica must and may have for its pipeline to go on: acknowledged to the writer, and sent by it.
pub(super) fn resumable_bytes(stage: Stage, request: &OpWriteBlockProto) -> RangeInclusive<u64> {
    let acked = request.min_bytes_rcvd;
    match stage {
        Stage::Close => acked..=acked,
        _ => acked..=acked.max(request.max_bytes_rcvd),
    }
}

/// What a request asks for, when it can be served.
pub(super) fn checked(request: &OpWriteBlockProto) -> Result<(Stage, ExtendedBlock, DataChecksum)> {
    let stage = Stage::of(request)?;
    let mut block = ExtendedBlock::try_from(&request.header.base_header.block).map_err(protocol_error)?;
    let checksum = DataChecksum::from_proto(&request.requested_checksum).map_err(protocol_error)?;
    // Restart recovery compares the lengths of files without reading them, by the one chunk size that the cluster uses.
    if checksum.kind() != ChecksumKind::Crc32c || checksum.bytes_per_checksum() != BYTES_PER_CHECKSUM_DEFAULT as usize {
        return Err(DfsError::new(
            ErrorKind::Unsupported,
            format!("blocks are written with CRC32C of {BYTES_PER_CHECKSUM_DEFAULT} bytes, not {checksum:?}"),
        ));
    }
    if stage == Stage::Append && request.min_bytes_rcvd > 0 {
        // Hadoop's clients put the block size into the block and the length to append at here.
        block.block.length = request.min_bytes_rcvd;
    }
    Ok((stage, block, checksum))
}

/// Refuses a write because of this node.
pub(super) fn refuse(plane: &DataPlane, up: &Connection, error: &DfsError) -> After {
    warn!(peer = ?up.peer_address(), "refusing to write: {}", error.chain());
    answer_refusal(plane, up, &error_response(error))
}

/// Refuses a write because of the node behind `link`.
pub(super) fn refuse_link(plane: &DataPlane, up: &Connection, link: &str, error: &DfsError) -> After {
    warn!(peer = ?up.peer_address(), link, "pipeline cannot be set up: {}", error.chain());
    let full = error.kind() == ErrorKind::NoSpace;
    answer_refusal(plane, up, &link_refusal(status_of(error.kind()), link, error.chain(), full))
}

/// Sends a refusal on a connection that nothing was said on yet.
fn answer_refusal(plane: &DataPlane, up: &Connection, response: &BlockOpResponseProto) -> After {
    plane.metrics.operations_failed.inc();
    match up.send_all(&encoded(response), plane.timeout) {
        Ok(()) => After::Linger,
        Err(_) => After::Close,
    }
}
