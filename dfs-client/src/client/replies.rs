//! What metadata calls give, in the domain's types.

use std::sync::Arc;

use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_proto::v1;

use crate::write::FileWriter;

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

/// A file as [`create`](crate::DfsClient::create) left it.
pub struct CreatedFile {
    /// Its attributes.
    pub attr: FileAttr,
    /// False when the file was there before (never with `exclusive`); then it has not been opened.
    pub is_new: bool,
    /// Present when it is new and was opened for writing. Dropped unused, it gives the file back.
    pub writer: Option<Arc<FileWriter>>,
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
