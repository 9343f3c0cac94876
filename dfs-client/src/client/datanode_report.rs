//! A DataNode as the NameNode knows it.

use std::time::Duration;

use dfs_proto::v1;

/// What the operator wants of a DataNode, and how far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// It serves.
    InService,
    /// Its replicas are being copied elsewhere.
    Decommissioning,
    /// They have been.
    Decommissioned,
    /// Blocks that only it has are being copied.
    EnteringMaintenance,
    /// It may be away.
    InMaintenance,
}

impl AdminState {
    /// HDFS's words, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::InService => "in service",
            Self::Decommissioning => "decommissioning",
            Self::Decommissioned => "decommissioned",
            Self::EnteringMaintenance => "entering maintenance",
            Self::InMaintenance => "in maintenance",
        }
    }
}

impl From<v1::AdminState> for AdminState {
    fn from(state: v1::AdminState) -> Self {
        match state {
            v1::AdminState::InService => Self::InService,
            v1::AdminState::Decommissioning => Self::Decommissioning,
            v1::AdminState::Decommissioned => Self::Decommissioned,
            v1::AdminState::EnteringMaintenance => Self::EnteringMaintenance,
            v1::AdminState::InMaintenance => Self::InMaintenance,
        }
    }
}

/// Whether a DataNode is heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatanodeState {
    /// It reports.
    Live,
    /// It missed heartbeats; used last.
    Stale,
    /// Silent for too long; its blocks are copied elsewhere.
    Dead,
}

/// One volume of a DataNode.
#[derive(Clone, Debug)]
pub struct VolumeReport {
    /// Identity of the volume.
    pub storage_uuid: String,
    /// Directory at the DataNode.
    pub path: String,
    /// Bytes.
    pub capacity: u64,
    /// Bytes that blocks take.
    pub used: u64,
    /// Bytes that blocks may still take.
    pub remaining: u64,
    /// Taken out of service by its DataNode.
    pub failed: bool,
    /// Replicas on it.
    pub blocks: u64,
}

/// A DataNode as the NameNode knows it.
#[derive(Clone, Debug)]
pub struct DatanodeReport {
    /// Identity across restarts.
    pub uuid: String,
    /// Address that clients dial.
    pub host: String,
    /// Port of data transfer.
    pub data_port: u32,
    /// Port of gRPC.
    pub grpc_port: u32,
    /// Port of status and metrics.
    pub http_port: u32,
    /// Network location.
    pub rack: String,
    /// Whether it is heard of.
    pub state: DatanodeState,
    /// Since its last heartbeat.
    pub last_heartbeat: Duration,
    /// Its volumes.
    pub volumes: Vec<VolumeReport>,
    /// Data connections it serves now.
    pub active_transfers: u32,
    /// Software version.
    pub software_version: String,
    /// What the operator wants of it.
    pub admin_state: AdminState,
    /// Blocks that must be copied before it may be stopped.
    pub blocks_to_copy: u64,
    /// Until maintenance ends by itself.
    pub maintenance_left: Option<Duration>,
    /// Copies it was told to make and has not made yet.
    pub outgoing_copies: u32,
    /// Deletions that wait for its heartbeats.
    pub pending_deletions: u64,
}

impl From<v1::DatanodeReport> for DatanodeReport {
    fn from(report: v1::DatanodeReport) -> Self {
        let state = match report.state() {
            v1::DatanodeState::DatanodeLive => DatanodeState::Live,
            v1::DatanodeState::DatanodeStale => DatanodeState::Stale,
            v1::DatanodeState::DatanodeDead => DatanodeState::Dead,
        };
        let admin_state = report.admin_state().into();
        let id = report.id.unwrap_or_default();
        let volumes = report.volumes.into_iter().map(|volume| VolumeReport {
            storage_uuid: volume.storage_uuid,
            path: volume.path,
            capacity: volume.capacity,
            used: volume.used,
            remaining: volume.remaining,
            failed: volume.failed,
            blocks: volume.blocks,
        });
        Self {
            uuid: id.uuid,
            host: id.host,
            data_port: id.data_port,
            grpc_port: id.grpc_port,
            http_port: id.http_port,
            rack: id.rack,
            state,
            last_heartbeat: Duration::from_millis(report.last_heartbeat_ms_ago),
            volumes: volumes.collect(),
            active_transfers: report.active_transfers,
            software_version: report.software_version,
            admin_state,
            blocks_to_copy: report.blocks_to_copy,
            maintenance_left: Some(report.maintenance_left_ms).filter(|&ms| ms > 0).map(Duration::from_millis),
            outgoing_copies: report.outgoing_copies,
            pending_deletions: report.pending_deletions,
        }
    }
}
