//! What an inode is and the attributes of it that everyone sees (POSIX stat).

use crate::ids::InodeId;

/// Kind of an inode, with the number of its `st_mode` type bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum FileKind {
    /// S_IFIFO
    Fifo = 0o010_000,
    /// S_IFCHR
    CharDevice = 0o020_000,
    /// S_IFDIR
    Directory = 0o040_000,
    /// S_IFBLK
    BlockDevice = 0o060_000,
    /// S_IFREG
    File = 0o100_000,
    /// S_IFLNK
    Symlink = 0o120_000,
    /// S_IFSOCK
    Socket = 0o140_000,
}

/// Mask of the type bits in `st_mode`.
pub const TYPE_MASK: u32 = 0o170_000;
/// Mask of the permission bits, set-id and sticky bits included.
pub const PERMISSION_MASK: u32 = 0o7777;

impl FileKind {
    /// The kind in the type bits of `mode`.
    pub fn from_mode(mode: u32) -> Option<Self> {
        [Self::Fifo, Self::CharDevice, Self::Directory, Self::BlockDevice, Self::File, Self::Symlink, Self::Socket]
            .into_iter()
            .find(|kind| *kind as u32 == mode & TYPE_MASK)
    }
}

/// Dates a file that was written at `at_ns`. What has changed it since leaves its change time in place, and its modification
/// time if that is later: it was set.
pub fn date_write(mtime_ns: &mut i64, ctime_ns: &mut i64, at_ns: i64) {
    if at_ns > *ctime_ns {
        (*mtime_ns, *ctime_ns) = (at_ns, at_ns);
    } else {
        *mtime_ns = at_ns.max(*mtime_ns);
    }
}

/// Attributes of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAttr {
    /// Which inode.
    pub inode: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names it has (directories: 2 + subdirectories).
    pub nlink: u32,
    /// Bytes. While a file is being written: the last length the NameNode knows.
    pub length: u64,
    /// Last read, nanoseconds since the epoch.
    pub atime_ns: i64,
    /// Last change of content.
    pub mtime_ns: i64,
    /// Last change of anything.
    pub ctime_ns: i64,
    /// Device number, for device nodes.
    pub rdev: u32,
    /// Replicas wanted; 0 for anything but files.
    pub replication: u32,
    /// Bytes per block of this file; 0 for anything but files.
    pub block_size: u64,
    /// A writer has it open.
    pub under_construction: bool,
    /// Blocks in the file.
    pub block_count: u32,
}

impl FileAttr {
    /// An inode of which nothing else is known.
    pub fn bare(inode: InodeId, kind: FileKind) -> Self {
        Self {
            inode,
            kind,
            permissions: 0,
            uid: 0,
            gid: 0,
            nlink: 1,
            length: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            rdev: 0,
            replication: 0,
            block_size: 0,
            under_construction: false,
            block_count: 0,
        }
    }

    /// `st_mode`: type and permission bits.
    pub fn mode(&self) -> u32 {
        self.kind as u32 | self.permissions
    }
}
