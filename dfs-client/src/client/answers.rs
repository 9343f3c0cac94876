//! What metadata calls take and give, in the domain's types.

use std::sync::Arc;
use std::time::Duration;

use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_proto::v1;

use super::health::AdminState;
use crate::write::FileWriter;

/// What the cluster does unless told otherwise, and the limits it sets.
#[derive(Clone, Debug)]
pub struct ServerDefaults {
    /// Bytes per block of a new file.
    pub block_size: u64,
    /// Replicas of a new file.
    pub replication: u32,
    /// Bytes that one checksum covers.
    pub bytes_per_checksum: u32,
    /// Data bytes in a packet.
    pub packet_size: u64,
    /// Smallest block size a file may have.
    pub min_block_size: u64,
    /// Most blocks a file may have.
    pub max_blocks_per_file: u32,
    /// Identity of the cluster.
    pub cluster_id: String,
    /// Identity of the namespace's block pool, `BP-...`.
    pub block_pool_id: String,
    /// Software version of the NameNode.
    pub software_version: String,
}

impl TryFrom<v1::GetServerDefaultsResponse> for ServerDefaults {
    type Error = DfsError;

    fn try_from(answer: v1::GetServerDefaultsResponse) -> Result<Self> {
        let namespace = answer.namespace.unwrap_or_default();
        if answer.block_size == 0 || answer.bytes_per_checksum == 0 || namespace.block_pool_id.is_empty() {
            return Err(DfsError::new(
                ErrorKind::Protocol,
                "server defaults lack block size, checksum size or block pool",
            ));
        }
        Ok(Self {
            block_size: answer.block_size,
            replication: answer.replication,
            bytes_per_checksum: answer.bytes_per_checksum,
            packet_size: answer.packet_size,
            min_block_size: answer.min_block_size,
            max_blocks_per_file: answer.max_blocks_per_file,
            cluster_id: namespace.cluster_id,
            block_pool_id: namespace.block_pool_id,
            software_version: namespace.software_version,
        })
    }
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// 1 to 255 bytes.
    pub name: Vec<u8>,
    /// What it names.
    pub inode: InodeId,
    /// Position to go on after this entry; stable.
    pub cookie: u64,
    /// Kind of the inode.
    pub kind: FileKind,
    /// Attributes, when asked for.
    pub attr: Option<FileAttr>,
}

impl TryFrom<v1::DirEntry> for DirEntry {
    type Error = DfsError;

    fn try_from(entry: v1::DirEntry) -> Result<Self> {
        let kind = FileKind::from_mode(entry.file_type).ok_or_else(|| {
            DfsError::new(ErrorKind::Protocol, format!("directory entry of unknown type {:o}", entry.file_type))
        })?;
        Ok(Self {
            name: entry.name.into(),
            inode: InodeId(entry.inode),
            cookie: entry.cookie,
            kind,
            attr: entry.attr.as_ref().map(FileAttr::try_from).transpose()?,
        })
    }
}

/// A page of a directory, in the order of cookies.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Entries after the cookie asked for.
    pub entries: Vec<DirEntry>,
    /// Nothing follows.
    pub at_end: bool,
    /// The directory above, for "..".
    pub parent: InodeId,
}

/// Totals of the whole file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsStats {
    /// Raw bytes over all live volumes.
    pub capacity: u64,
    /// Raw bytes that blocks take.
    pub used: u64,
    /// Raw bytes that blocks may still take.
    pub remaining: u64,
    /// Blocks with fewer replicas than wanted.
    pub under_replicated_blocks: u64,
    /// Blocks with a corrupt replica.
    pub corrupt_blocks: u64,
    /// Blocks without any good replica.
    pub missing_blocks: u64,
    /// Inodes.
    pub files: u64,
    /// Blocks.
    pub blocks: u64,
    /// Replicas of a new file.
    pub default_replication: u32,
    /// Bytes per block of a new file.
    pub block_size: u64,
    /// DataNodes that report.
    pub live_datanodes: u32,
    /// DataNodes that are silent for too long.
    pub dead_datanodes: u32,
}

impl From<v1::GetFsStatsResponse> for FsStats {
    fn from(answer: v1::GetFsStatsResponse) -> Self {
        Self {
            capacity: answer.capacity,
            used: answer.used,
            remaining: answer.remaining,
            under_replicated_blocks: answer.under_replicated_blocks,
            corrupt_blocks: answer.corrupt_blocks,
            missing_blocks: answer.missing_blocks,
            files: answer.files,
            blocks: answer.blocks,
            default_replication: answer.default_replication,
            block_size: answer.block_size,
            live_datanodes: answer.live_datanodes,
            dead_datanodes: answer.dead_datanodes,
        }
    }
}

/// Totals of what lies below an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentSummary {
    /// Bytes of all files.
    pub length: u64,
    /// Anything but directories.
    pub file_count: u64,
    /// The one asked about included.
    pub directory_count: u64,
    /// Bytes times replication.
    pub space_consumed: u64,
}

/// How to make a file.
#[derive(Clone, Debug)]
pub struct CreateOptions<'a> {
    /// Directory of the new file.
    pub parent: InodeId,
    /// Its name there.
    pub name: &'a [u8],
    /// Permission bits.
    pub mode: u32,
    /// Replicas; 0 is the server's default.
    pub replication: u32,
    /// Bytes per block; 0 is the server's default.
    pub block_size: u64,
    /// Take the lease, for the writer.
    pub open_for_write: bool,
    /// Fail when the name is taken, rather than return what is there.
    pub exclusive: bool,
}

/// A file as [`create`](crate::DfsClient::create) left it.
pub struct CreatedFile {
    /// Its attributes.
    pub attr: FileAttr,
    /// False when the file was there before (never with `exclusive`); then it has not been opened.
    pub is_new: bool,
    /// Present when it is new and was opened for writing. Dropped unused, it gives the file back.
    pub writer: Option<Arc<FileWriter>>,
}

/// What happens to a name that is already there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameFlag {
    /// It is replaced.
    #[default]
    Replace,
    /// The rename fails.
    NoReplace,
    /// Both names change places.
    Exchange,
}

impl From<RenameFlag> for v1::RenameFlag {
    fn from(flag: RenameFlag) -> Self {
        match flag {
            RenameFlag::Replace => Self::RenameReplace,
            RenameFlag::NoReplace => Self::RenameNoreplace,
            RenameFlag::Exchange => Self::RenameExchange,
        }
    }
}

/// Whether an extended attribute must exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XAttrSetFlag {
    /// Either way.
    #[default]
    Any,
    /// It must not.
    Create,
    /// It must.
    Replace,
}

impl From<XAttrSetFlag> for v1::XAttrSetFlag {
    fn from(flag: XAttrSetFlag) -> Self {
        match flag {
            XAttrSetFlag::Any => Self::XattrAny,
            XAttrSetFlag::Create => Self::XattrCreate,
            XAttrSetFlag::Replace => Self::XattrReplace,
        }
    }
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// The NameNode's clock.
    Now,
    /// Nanoseconds since the epoch.
    At(i64),
}

/// Attributes to change; absent ones stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last read.
    pub atime: Option<TimeSet>,
    /// Time of the last change of content.
    pub mtime: Option<TimeSet>,
    /// Take away what a write by a process without CAP_FSETID takes: set-id bits and file capabilities.
    pub kill_privileges: bool,
    /// Take away what any write takes: file capabilities.
    pub kill_capabilities: bool,
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

/// What to do about safe mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SafeModeAction {
    /// Only ask.
    #[default]
    Get,
    /// Make the namespace read-only.
    Enter,
    /// Let it go on.
    Leave,
}

impl From<SafeModeAction> for v1::SafeModeAction {
    fn from(action: SafeModeAction) -> Self {
        match action {
            SafeModeAction::Get => Self::SafeModeGet,
            SafeModeAction::Enter => Self::SafeModeEnter,
            SafeModeAction::Leave => Self::SafeModeLeave,
        }
    }
}

/// Whether safe mode is on, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafeModeStatus {
    /// Repair and deletion, or all changes, are held back.
    pub is_on: bool,
    /// One line for people.
    pub status: String,
    /// Entered by command: the namespace is read-only.
    pub is_manual: bool,
    /// Blocks with their minimum of replicas.
    pub safe_blocks: u64,
    /// Blocks.
    pub blocks: u64,
    /// How many of them must have it for safe mode to end by itself.
    pub needed_blocks: u64,
}
