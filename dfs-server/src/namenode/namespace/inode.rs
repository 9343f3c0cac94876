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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BlockList {
    /// An empty file.
    #[default]
    Empty,
    /// One block.
    One(FileBlock),
    /// Two or more.
    Many(Box<ManyBlocks>),
}

/// Two or more blocks. Their length is kept: whoever asks for attributes must not add up a hundred thousand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManyBlocks {
    blocks: Vec<FileBlock>,
    /// Bytes in all of them.
    length: u64,
}

fn total(blocks: &[FileBlock]) -> u64 {
    blocks.iter().fold(0, |sum, block| sum.saturating_add(block.length))
}

impl BlockList {
    /// The blocks in file order.
    pub fn as_slice(&self) -> &[FileBlock] {
        match self {
            Self::Empty => &[],
            Self::One(block) => std::slice::from_ref(block),
            Self::Many(many) => &many.blocks,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// The last block.
    pub fn last(&self) -> Option<&FileBlock> {
        self.as_slice().last()
    }

    /// Changes the last block, if there is one.
    pub fn change_last(&mut self, change: impl FnOnce(&mut FileBlock)) {
        match self {
            Self::Empty => {}
            Self::One(block) => change(block),
            Self::Many(many) => {
                let Some(last) = many.blocks.last_mut() else { return };
                let before = last.length;
                change(last);
                many.length = many.length.saturating_sub(before).saturating_add(last.length);
            }
        }
    }

    /// Appends a block.
    pub fn push(&mut self, block: FileBlock) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(block),
            Self::One(first) => {
                let blocks = vec![first, block];
                Self::Many(Box::new(ManyBlocks { length: total(&blocks), blocks }))
            }
            Self::Many(mut many) => {
                many.length = many.length.saturating_add(block.length);
                many.blocks.push(block);
                Self::Many(many)
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
            Self::Many(many) => {
                let block = many.blocks.pop()?;
                many.length = many.length.saturating_sub(block.length);
                if let [only] = many.blocks[..] {
                    *self = Self::One(only);
                }
                Some(block)
            }
        }
    }

    /// Takes the blocks from number `at` on away: none when there are no more than that.
    pub fn split_off(&mut self, at: usize) -> BlockList {
        match self {
            _ if at >= self.len() => Self::Empty,
            _ if at == 0 => std::mem::take(self),
            // Of one or none, every number is 0 or behind the end.
            Self::Empty | Self::One(_) => Self::Empty,
            Self::Many(many) => {
                let taken = Self::from(many.blocks.split_off(at));
                many.length = many.length.saturating_sub(taken.length());
                if let [only] = many.blocks[..] {
                    *self = Self::One(only);
                }
                taken
            }
        }
    }

    /// Bytes in all blocks.
    pub fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::One(block) => block.length,
            Self::Many(many) => many.length,
        }
    }
}

impl From<Vec<FileBlock>> for BlockList {
    fn from(blocks: Vec<FileBlock>) -> Self {
        match blocks[..] {
            [] => Self::Empty,
            [only] => Self::One(only),
            _ => Self::Many(Box::new(ManyBlocks { length: total(&blocks), blocks })),
        }
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

/// The extended attribute that gives a program capabilities.
pub const CAPABILITIES: &[u8] = b"security.capability";

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

    /// Whether who executes it gets capabilities.
    pub fn has_capabilities(&self) -> bool {
        self.xattrs.as_ref().is_some_and(|xattrs| xattrs.contains_key(CAPABILITIES))
    }

    /// Nobody gets any by executing it, from now on.
    pub fn drop_capabilities(&mut self) {
        self.remove_xattr(CAPABILITIES);
    }

    /// Takes an extended attribute away, if it is there.
    pub fn remove_xattr(&mut self, name: &[u8]) {
        if let Some(xattrs) = &mut self.xattrs {
            xattrs.remove(name);
            if xattrs.is_empty() {
                self.xattrs = None;
            }
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
                u32::try_from(blocks.len()).unwrap_or(u32::MAX),
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

    fn block(id: u64) -> FileBlock {
        FileBlock { id: BlockId(id), generation_stamp: GenerationStamp(1), length: id }
    }

    #[test]
    fn block_list_pushes_and_pops_through_all_forms() {
        let mut list = BlockList::default();
        for id in 1..=4 {
            list.push(block(id));
        }
        assert_eq!(list.length(), 10);
        for id in (1..=4).rev() {
            list.change_last(|last| last.length += 100);
            assert_eq!(list.length(), total(list.as_slice()));
            assert_eq!(list.pop(), Some(FileBlock { length: id + 100, ..block(id) }));
            assert_eq!(list.length(), (1..id).sum::<u64>());
        }
        assert!(list.is_empty());
        assert_eq!(list.pop(), None);
    }

    #[test]
    fn split_off_keeps_lengths_and_forms() {
        for count in 0..5 {
            for at in 0..=count + 1 {
                let mut list = BlockList::from((1..=count).map(block).collect::<Vec<_>>());
                let taken = list.split_off(at as usize);
                let ids = |list: &BlockList| list.as_slice().iter().map(|block| block.id.0).collect::<Vec<_>>();
                assert_eq!((ids(&list), ids(&taken)), ((1..=count.min(at)).collect(), (at + 1..=count).collect()));
                for part in [&list, &taken] {
                    assert_eq!(part.length(), total(part.as_slice()));
                    assert_eq!(part.len() > 1, matches!(part, BlockList::Many(_)));
                }
            }
        }
    }

    #[test]
    fn inode_stays_compact() {
        assert!(size_of::<Inode>() <= 88, "an inode takes {} bytes", size_of::<Inode>());
    }
}
