//! Between the kernel's types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dfs_client::TimeSet;
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::ids::InodeId;
use fuser::{FileHandle, FileType, INodeNo, TimeOrNow};

use crate::handles::HandleId;

/// Preferred size of reads and writes, as programs see it: one request to the daemon. `cp` takes it as its buffer size.
const PREFERRED_IO: u32 = 1024 * 1024;
/// The same for everything that has no content.
const PREFERRED_IO_OTHERS: u32 = 4096;
/// Unit of st_blocks.
const STAT_BLOCK: u64 = 512;
const NS_PER_S: i128 = 1_000_000_000;

pub(super) fn inode(number: INodeNo) -> InodeId {
    InodeId(number.0)
}

pub(super) fn handle(number: FileHandle) -> HandleId {
    HandleId(number.0)
}

pub(super) fn to_handle(id: HandleId) -> FileHandle {
    FileHandle(id.0)
}

pub(super) fn to_file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::Directory => FileType::Directory,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::File => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Socket => FileType::Socket,
    }
}

pub(super) fn to_attr(attr: &FileAttr) -> fuser::FileAttr {
    let is_file = attr.kind == FileKind::File;
    fuser::FileAttr {
        ino: INodeNo(attr.inode.0),
        size: attr.length,
        blocks: if is_file { attr.length.div_ceil(STAT_BLOCK) } else { 0 },
        atime: to_time(attr.atime_ns),
        mtime: to_time(attr.mtime_ns),
        ctime: to_time(attr.ctime_ns),
        crtime: UNIX_EPOCH,
        kind: to_file_type(attr.kind),
        perm: u16::try_from(attr.permissions & 0o7777).unwrap_or(0),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: if is_file { PREFERRED_IO } else { PREFERRED_IO_OTHERS },
        flags: 0,
    }
}

fn to_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

/// A time from fuser. Before the epoch fuser 0.18 takes the nanoseconds off instead of adding them (-1 s and 0.3 s make
/// -1.3 s); that is undone here. Beyond what nanoseconds in 64 bits hold, the nearest time that they do.
fn from_time(time: SystemTime) -> i64 {
    let ns = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i128::from(after.as_secs()) * NS_PER_S + i128::from(after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            -i128::from(before.as_secs()) * NS_PER_S + i128::from(before.subsec_nanos())
        }
    };
    i64::try_from(ns).unwrap_or(if ns > 0 { i64::MAX } else { i64::MIN })
}

pub(super) fn time_set(time: TimeOrNow) -> TimeSet {
    match time {
        TimeOrNow::Now => TimeSet::Now,
        TimeOrNow::SpecificTime(time) => TimeSet::At(from_time(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::attr;

    #[test]
    fn times_survive_to_the_nanosecond() {
        for ns in [0, 1, 1_700_000_000_123_456_789, i64::MAX] {
            assert_eq!(from_time(to_time(ns)), ns);
        }
    }

    #[test]
    fn from_time_undoes_fusers_negative_times() {
        // What fuser makes of -2 s and 300 ms, that is -1.7 s.
        let from_fuser = UNIX_EPOCH - Duration::new(2, 300_000_000);
        assert_eq!(from_time(from_fuser), -1_700_000_000);
        assert_eq!(from_time(UNIX_EPOCH - Duration::from_secs(7)), -7_000_000_000);
    }

    #[test]
    fn from_time_clamps() {
        assert_eq!(from_time(UNIX_EPOCH + Duration::from_secs(1 << 40)), i64::MAX);
        assert_eq!(from_time(UNIX_EPOCH - Duration::from_secs(1 << 40)), i64::MIN);
    }

    #[test]
    fn to_attr_counts_blocks_of_512_bytes() {
        for (length, blocks) in [(0, 0), (1, 1), (512, 1), (513, 2), (1 << 30, 1 << 21)] {
            assert_eq!(to_attr(&attr(2, length, 0)).blocks, blocks);
        }
        assert_eq!(to_attr(&attr(2, 0, 0)).blksize, 1 << 20);
    }
}
