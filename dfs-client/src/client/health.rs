//! What those who run the cluster are told: the health of files, what repair has to do, what DataNodes are about to do.

use dfs_common::block::Block;
use dfs_common::error::{DfsError, Result};
use dfs_common::ids::InodeId;
use dfs_proto::convert::required;
use dfs_proto::v1;

use super::datanode_report::{AdminState, DatanodeReport};

/// What repair has to do: blocks by urgency, and what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// One replica is left.
    pub one_left: u64,
    /// Fewer than a third of what there should be.
    pub very_low: u64,
    /// Too few.
    pub low: u64,
    /// On too few racks.
    pub misplaced: u64,
    /// None.
    pub none_left: u64,
    /// Being copied, or awaited from pipelines.
    pub pending: u64,
    /// With too many replicas.
    pub excess: u64,
    /// With bad replicas.
    pub bad: u64,
    /// Replicas whose deletion is decided and not ordered yet.
    pub pending_deletions: u64,
    /// The walk over all blocks that fills the queues has not come to its end.
    pub is_scanning: bool,
}

impl From<v1::RepairReport> for RepairReport {
    fn from(report: v1::RepairReport) -> Self {
        Self {
            one_left: report.one_left,
            very_low: report.very_low,
            low: report.low,
            misplaced: report.misplaced,
            none_left: report.none_left,
            pending: report.pending,
            excess: report.excess,
            bad: report.bad,
            pending_deletions: report.pending_deletions,
            is_scanning: report.is_scanning,
        }
    }
}

/// All DataNodes and the work on their blocks.
#[derive(Clone, Debug)]
pub struct ClusterReport {
    /// Every DataNode the NameNode knows.
    pub datanodes: Vec<DatanodeReport>,
    /// What repair has to do.
    pub repair: RepairReport,
}

/// A replica as fsck sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaHealth {
    /// Who has it.
    pub datanode_uuid: String,
    /// `host:port` of data transfers.
    pub address: String,
    /// Where that stands.
    pub rack: String,
    /// The volume.
    pub storage_uuid: String,
    /// What its node is about to do.
    pub admin_state: AdminState,
    /// It does not have the right bytes.
    pub is_corrupt: bool,
    /// Its node has missed heartbeats.
    pub is_stale: bool,
}

/// A block as fsck sees it.
#[derive(Clone, Debug)]
pub struct BlockHealth {
    /// Its name.
    pub block: Block,
    /// Replicas that there should be.
    pub wanted: u32,
    /// Good ones that can be read.
    pub live: u32,
    /// Bad ones.
    pub corrupt: u32,
    /// Good ones on nodes that are being decommissioned.
    pub decommissioning: u32,
    /// Good ones on nodes in maintenance.
    pub in_maintenance: u32,
    /// It is being written, or its replicas have not been reported yet.
    pub is_open: bool,
    /// Fewer than there should be.
    pub is_under_replicated: bool,
    /// More than there should be.
    pub is_over_replicated: bool,
    /// On too few racks.
    pub is_misplaced: bool,
    /// Copies on their way.
    pub pending: u32,
    /// Good and bad ones, when asked for.
    pub replicas: Vec<ReplicaHealth>,
}

impl TryFrom<v1::BlockHealth> for BlockHealth {
    type Error = DfsError;

    fn try_from(health: v1::BlockHealth) -> Result<Self> {
        let replica = |replica: v1::ReplicaHealth| {
            let admin_state = replica.admin_state().into();
            let id = replica.datanode.unwrap_or_default();
            ReplicaHealth {
                address: format!("{}:{}", id.host, id.data_port),
                datanode_uuid: id.uuid,
                rack: id.rack,
                storage_uuid: replica.storage_uuid,
                admin_state,
                is_corrupt: replica.is_corrupt,
                is_stale: replica.is_stale,
            }
        };
        Ok(Self {
            block: required(health.block, "block")?.into(),
            wanted: health.wanted,
            live: health.live,
            corrupt: health.corrupt,
            decommissioning: health.decommissioning,
            in_maintenance: health.in_maintenance,
            is_open: health.is_open,
            is_under_replicated: health.is_under_replicated,
            is_over_replicated: health.is_over_replicated,
            is_misplaced: health.is_misplaced,
            pending: health.pending,
            replicas: health.replicas.into_iter().map(replica).collect(),
        })
    }
}

/// A file as fsck sees it.
#[derive(Clone, Debug)]
pub struct FileHealth {
    /// The file.
    pub inode: InodeId,
    /// Bytes.
    pub length: u64,
    /// It has a writer.
    pub is_open: bool,
    /// It is not there any more.
    pub is_gone: bool,
    /// The caller may not read it.
    pub is_denied: bool,
    /// Its blocks, from the one asked for on.
    pub blocks: Vec<BlockHealth>,
}

/// Some files, in the order asked for, perhaps fewer than that.
#[derive(Clone, Debug)]
pub struct FilesHealth {
    /// The files.
    pub files: Vec<FileHealth>,
    /// The last one goes on with this block; 0: it is complete.
    pub next_block: u32,
}

/// What a step of the balancer set in motion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Replicas ordered to be moved.
    pub replicas: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Replicas of the source on their way in all.
    pub on_their_way: u32,
    /// Replicas that this run has moved until now; from 0 again when the NameNode restarts.
    pub moved_replicas: u64,
    /// Their bytes.
    pub moved_bytes: u64,
}
