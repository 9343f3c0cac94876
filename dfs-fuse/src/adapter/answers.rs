//! The answers that take more than a line: listings and totals.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use dfs_client::{DirEntry, FsStats};
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::ids::{INODE_LIMIT, InodeId};
use dfs_common::name::NAME_MAX;
use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus, ReplyStatfs};

use super::convert::{to_attr, to_file_type};
use crate::dirs::{OFFSET_DOT, OFFSET_DOTDOT};
use crate::fs::{FileSystem, Listed};

/// Unit that statfs counts in.
const STATFS_BLOCK: u32 = 4096;

/// Inode numbers are never used twice, so that one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

/// Names and types.
pub(super) fn listing(mut reply: ReplyDirectory, listed: &Listed) {
    fill(listed, |number, offset, kind, name, _| {
        reply.add(INodeNo(number.0), offset, to_file_type(kind), OsStr::from_bytes(name))
    });
    reply.ok();
}

/// Names and attributes.
pub(super) fn listing_with_attrs(mut reply: ReplyDirectoryPlus, listed: &Listed, fs: &FileSystem) {
    fill(listed, |number, offset, kind, name, entry| {
        let told = entry.and_then(|entry| fs.listed_entry(listed, entry));
        let (ttl, attr) = match &told {
            Some(told) => (told.attr_ttl.min(told.entry_ttl), to_attr(&told.attr)),
            // The dots: the kernel takes number and type, and nothing else.
            None => (Duration::ZERO, to_attr(&FileAttr::bare(number, kind))),
        };
        let is_full = reply.add(INodeNo(number.0), offset, OsStr::from_bytes(name), &ttl, &attr, GENERATION);
        if let (false, Some(told)) = (is_full, &told) {
            fs.note_told(told);
        }
        is_full
    });
    reply.ok();
}

/// Puts entries into a buffer until it is full: `add` gets number, offset after it, kind, name and, for real entries, all.
fn fill(listed: &Listed, mut add: impl FnMut(InodeId, u64, FileKind, &[u8], Option<&DirEntry>) -> bool) {
    let position = listed.position;
    if position.with_dot && add(listed.directory, OFFSET_DOT, FileKind::Directory, b".", None) {
        return;
    }
    if position.with_dotdot && add(listed.parent(), OFFSET_DOTDOT, FileKind::Directory, b"..", None) {
        return;
    }
    for entry in listed.entries() {
        if add(entry.inode, entry.cookie, entry.kind, &entry.name, Some(entry)) {
            return;
        }
    }
}

/// Totals in bytes that a file may have: raw ones divided by the copies that are made.
pub(super) fn totals(reply: ReplyStatfs, stats: &FsStats) {
    let copies = u64::from(stats.default_replication.max(1));
    let blocks = |raw: u64| raw / copies / u64::from(STATFS_BLOCK);
    let free_inodes = INODE_LIMIT - stats.files.min(INODE_LIMIT);
    let (total, free) = (blocks(stats.capacity), blocks(stats.remaining));
    let name_max = u32::try_from(NAME_MAX).unwrap_or(u32::MAX);
    reply.statfs(total, free, free, stats.files + free_inodes, free_inodes, STATFS_BLOCK, name_max, STATFS_BLOCK);
}
