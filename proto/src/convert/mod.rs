//! Between wire messages and the domain's types. From the wire always checks; to the wire cannot fail.

use dfs_common::attr::{FileAttr, FileKind, PERMISSION_MASK};
use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp, InodeId, TxId};

use crate::v1;

fn missing(what: &str) -> DfsError {
    DfsError::new(ErrorKind::Protocol, format!("message without {what}"))
}

/// The field, or a protocol error that names it.
///
/// # Errors
/// `Protocol` when absent.
pub fn required<T>(field: Option<T>, what: &str) -> Result<T> {
    field.ok_or_else(|| missing(what))
}

impl From<Block> for v1::Block {
    fn from(block: Block) -> Self {
        Self { id: block.id.0, generation_stamp: block.generation_stamp.0, length: block.length }
    }
}

impl From<&v1::Block> for Block {
    fn from(block: &v1::Block) -> Self {
        Self { id: BlockId(block.id), generation_stamp: GenerationStamp(block.generation_stamp), length: block.length }
    }
}

impl From<v1::Block> for Block {
    fn from(block: v1::Block) -> Self {
        Self::from(&block)
    }
}

impl v1::ImageHeader {
    /// Last transaction the image contains.
    pub fn txid(&self) -> TxId {
        TxId(self.last_txid)
    }
}

impl From<&FileAttr> for v1::FileAttr {
    fn from(attr: &FileAttr) -> Self {
        Self {
            inode: attr.inode.0,
            mode: attr.mode(),
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            length: attr.length,
            atime_ns: attr.atime_ns,
            mtime_ns: attr.mtime_ns,
            ctime_ns: attr.ctime_ns,
            rdev: attr.rdev,
            replication: attr.replication,
            block_size: attr.block_size,
            under_construction: attr.under_construction,
            block_count: attr.block_count,
        }
    }
}

impl TryFrom<&v1::FileAttr> for FileAttr {
    type Error = DfsError;

    fn try_from(attr: &v1::FileAttr) -> Result<Self> {
        let kind = FileKind::from_mode(attr.mode)
            .ok_or_else(|| DfsError::new(ErrorKind::Protocol, format!("mode {:o} has no known type", attr.mode)))?;
        Ok(Self {
            inode: InodeId(attr.inode),
            kind,
            permissions: attr.mode & PERMISSION_MASK,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            length: attr.length,
            atime_ns: attr.atime_ns,
            mtime_ns: attr.mtime_ns,
            ctime_ns: attr.ctime_ns,
            rdev: attr.rdev,
            replication: attr.replication,
            block_size: attr.block_size,
            under_construction: attr.under_construction,
            block_count: attr.block_count,
        })
    }
}
