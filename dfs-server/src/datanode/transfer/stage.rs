//! How a replica comes into being or grows: what Hadoop's stages of a WRITE_BLOCK mean here (pure).

use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::patience::{DISK_CALL_MAX, SET_UP_CALL_MAX};
use dfs_proto::hadoop::OpWriteBlockProto;
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;

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
    /// What a request asks for.
    ///
    /// # Errors
    /// `Unsupported` for a stage that no request begins with.
    pub(super) fn of(request: &OpWriteBlockProto) -> Result<Self> {
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
