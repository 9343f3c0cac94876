//! Which file or directory a name leads to. Names do not tell: one tree can be reached through symbolic links, bind
//! mounts and `..`. What is on this machine is known by device and inode number, what is in the cluster by its inode id.
//! On a mount of the cluster both are known: its inode numbers are the cluster's inode ids.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// A file or directory of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LocalId {
    device: u64,
    inode: u64,
}

impl LocalId {
    /// What the attributes belong to.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}
