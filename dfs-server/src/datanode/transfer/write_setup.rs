//! The start of a WRITE_BLOCK: what the request asks for, and how it is refused.

use std::ops::RangeInclusive;
use std::time::Duration;

use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::checksum::BYTES_PER_CHECKSUM_DEFAULT;
use dfs_proto::data_transfer::patience::{DISK_CALL_MAX, SET_UP_CALL_MAX};
use dfs_proto::data_transfer::{ChecksumKind, DataChecksum};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{BlockOpResponseProto, OpWriteBlockProto};
use tracing::warn;

use super::DataPlane;
use super::connection::Connection;
use super::data_service::After;
use super::reply::{encoded, error_response, link_refusal, protocol_error, status_of};

/// How a replica comes into being or grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A new one.
    Create,
    /// A finalized one is extended.
    Append,
    /// The pipeline lost a node and goes on.
    Resume,
    /// The pipeline lost a node when only its end was missing: finalized at once, no packets follow.
    Close,
    /// A copy of a finalized replica.
    Copy,
    /// A copy for a pipeline that goes on here.
    CopyToRbw,
}

impl Stage {
    fn of(request: &OpWriteBlockProto) -> Result<Self> {
        use BlockConstructionStage as Wire;
        let is_client = !request.header.client_name.is_empty();
        match request.stage() {
            Wire::TransferRbw => Ok(Self::CopyToRbw),
            Wire::TransferFinalized => Ok(Self::Copy),
            Wire::PipelineSetupCreate | Wire::DataStreaming if !is_client => Ok(Self::Copy),
            Wire::PipelineSetupCreate => Ok(Self::Create),
            Wire::PipelineSetupAppend => Ok(Self::Append),
            Wire::PipelineSetupAppendRecovery | Wire::PipelineSetupStreamingRecovery => Ok(Self::Resume),
            Wire::PipelineCloseRecovery => Ok(Self::Close),
            stage @ (Wire::PipelineClose | Wire::DataStreaming) => {
                Err(DfsError::new(ErrorKind::Unsupported, format!("a write does not begin with stage {stage:?}")))
            }
        }
    }

    /// How long a disk call may last before the set-up is answered.
    pub(super) fn set_up_call_max(self) -> Duration {
        match self {
            Self::Create | Self::Copy | Self::CopyToRbw => SET_UP_CALL_MAX,
            Self::Append | Self::Resume | Self::Close => DISK_CALL_MAX,
        }
    }

    /// Whether another node sends what it has: nobody was promised anything about it.
    pub(super) fn is_copy(self) -> bool {
        matches!(self, Self::Copy | Self::CopyToRbw)
    }
}

/// Which writes drop what they wrote from the page cache as it reaches the disk. Readers near the writer find it at the
/// first node; the other copies would only take memory from what is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropBehind {
    Never,
    /// Those that come from another DataNode.
    Mirrors,
    Always,
}

impl DropBehind {
    /// By the word in the configuration.
    pub(crate) fn of(word: &str) -> Self {
        match word {
            "true" => Self::Always,
            "false" => Self::Never,
            _ => Self::Mirrors,
        }
    }

    pub(super) fn applies(self, stage: Stage, request: &OpWriteBlockProto) -> bool {
        let is_first = !stage.is_copy() && request.targets.len() + 1 >= request.pipeline_size as usize;
        self == Self::Always || self == Self::Mirrors && !is_first
    }
}

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
