//! An inode in memory. Compact on purpose: a namespace of 100 million files is 100 million of these.

use std::collections::BTreeMap;

use dfs_common::attr::{FileAttr, FileKind, PERMISSION_MASK};
use dfs_common::block::Block;
use dfs_common::ids::{BlockId, GenerationStamp, InodeId};

use super::directory::Directory;

/// One entry of a file's content: a whole block. Its length is its own: nothing computes positions from the block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileBlock {
    /// Which block.
    pub id: BlockId,
    /// Its current version.
    pub generation_stamp: GenerationStamp,
    /// Bytes committed, or last recorded while it is being written.
    pub length: u64,
}

impl From<FileBlock> for Block {
    fn from(block: FileBlock) -> Self {
        Self { id: block.id, generation_stamp: block.generation_stamp, length: block.length }
    }
}

/// The blocks of a file. Most files have one: it takes no memory of its own.
#[derive(Clone, Debug, Default)]
pub enum BlockList {
    /// An empty file.
    #[default]
    Empty,
    /// One block.
    One(FileBlock),
    /// Two or more.
    Many(Box<Vec<FileBlock>>),
}

impl BlockList {
    /// The blocks in file order.
    pub fn as_slice(&self) -> &[FileBlock] {
        match self {
            Self::Empty => &[],
            Self::One(block) => std::slice::from_ref(block),
            Self::Many(blocks) => blocks,
        }
    }

    /// The last block.
    pub fn last(&self) -> Option<&FileBlock> {
        self.as_slice().last()
    }

    /// The last block, to be changed.
    pub fn last_mut(&mut self) -> Option<&mut FileBlock> {
        match self {
            Self::Empty => None,
            Self::One(block) => Some(block),
            Self::Many(blocks) => blocks.last_mut(),
        }
    }

    /// Appends a block.
    pub fn push(&mut self, block: FileBlock) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(block),
            Self::One(first) => Self::Many(Box::new(vec![first, block])),
            Self::Many(mut blocks) => {
                blocks.push(block);
                Self::Many(blocks)
            }
        };
    }

    /// Takes the last block away.
    pub fn pop(&mut self) -> Option<FileBlock> {
        match self {
            Self::Empty => None,
            Self::One(block) => {
                let block = *block;
                *self = Self::Empty;
                Some(block)
            }
            Self::Many(blocks) => {
                let block = blocks.pop();
                if let [only] = blocks[..] {
                    *self = Self::One(only);
                }
                block
            }
        }
    }

    /// Bytes in all blocks.
    pub fn length(&self) -> u64 {
        self.as_slice().iter().fold(0, |sum: u64, block| sum.saturating_add(block.length))
    }
}

/// What an inode holds.
#[derive(Debug)]
pub enum Content {
    /// Entries.
    Directory(Box<Directory>),
    /// Blocks.
    File {
        /// In file order.
        blocks: BlockList,
        /// Bytes per block, in units of 512.
        block_size_sectors: u32,
        /// Replicas wanted.
        replication: u16,
    },
    /// The target, as given.
    Symlink(Box<[u8]>),
    /// A fifo, socket or device node; the kind is in the mode.
    Special {
        /// Device number.
        rdev: u32,
    },
}

/// Extended attributes by full name (`user.x`).
pub type XAttrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// An inode. All fields are durable.
#[derive(Debug)]
pub struct Inode {
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; for a directory 2 plus its subdirectories; 0 for an orphan.
    pub nlink: u32,
    /// Nanoseconds since the epoch, as the next two.
    pub atime_ns: i64,
    /// Last change of content.
    pub mtime_ns: i64,
    /// Last change of anything.
    pub ctime_ns: i64,
    /// By kind.
    pub content: Content,
    /// None for most.
    pub xattrs: Option<Box<XAttrs>>,
}

impl Inode {
    /// What it is.
    ///
    /// # Panics
    /// Never: modes are checked when an inode is made or loaded.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode).expect("type bits are checked when the inode is made")
    }

    /// Its entries, if it is a directory.
    pub fn directory(&self) -> Option<&Directory> {
        match &self.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Its entries, to be changed.
    pub fn directory_mut(&mut self) -> Option<&mut Directory> {
        match &mut self.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Its blocks, if it is a regular file.
    pub fn blocks(&self) -> Option<&BlockList> {
        match &self.content {
            Content::File { blocks, .. } => Some(blocks),
            _ => None,
        }
    }

    /// Bytes its blocks may have; 0 for anything but a regular file.
    pub fn block_size(&self) -> u64 {
        match &self.content {
            Content::File { block_size_sectors, .. } => u64::from(*block_size_sectors) * 512,
            _ => 0,
        }
    }

    /// Its blocks, to be changed.
    pub fn blocks_mut(&mut self) -> Option<&mut BlockList> {
        match &mut self.content {
            Content::File { blocks, .. } => Some(blocks),
            _ => None,
        }
    }

    /// Its attributes.
    pub fn attr(&self, inode: InodeId, under_construction: bool) -> FileAttr {
        let (length, replication, block_size, block_count, rdev) = match &self.content {
            Content::Directory(directory) => (directory.size(), 0, 0, 0, 0),
            Content::File { blocks, block_size_sectors, replication } => (
                blocks.length(),
                u32::from(*replication),
                u64::from(*block_size_sectors) * 512,
                u32::try_from(blocks.as_slice().len()).unwrap_or(u32::MAX),
                0,
            ),
            Content::Symlink(target) => (target.len() as u64, 0, 0, 0, 0),
            Content::Special { rdev } => (0, 0, 0, 0, *rdev),
        };
        FileAttr {
            inode,
            kind: self.kind(),
            permissions: self.mode & PERMISSION_MASK,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            length,
            atime_ns: self.atime_ns,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            rdev,
            replication,
            block_size,
            under_construction,
            block_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_list_pushes_and_pops_through_all_forms() {
        let block = |id| FileBlock { id: BlockId(id), generation_stamp: GenerationStamp(1), length: id };
        let mut list = BlockList::default();
        for id in 1..=4 {
            list.push(block(id));
        }
        assert_eq!(list.length(), 10);
        for id in (1..=4).rev() {
            assert_eq!(list.pop(), Some(block(id)));
        }
        assert!(matches!(list, BlockList::Empty));
    }

    #[test]
    fn inode_stays_compact() {
        assert!(size_of::<Inode>() <= 88, "an inode takes {} bytes", size_of::<Inode>());
    }
}
