//! Attributes that a copy on this machine gets. They are set on what is held open, or on a name that nobody else knows yet: a
//! name that others can reach may lead to something else by now.

use std::fs::{File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dfs_common::attr::FileAttr;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use crate::kept_mode::{SET_ID_BITS, kept_mode};
use crate::local_id::LocalId;
use crate::local_name::LocalName;

/// Nanoseconds per second.
pub(crate) const NS_PER_S: i64 = 1_000_000_000;

/// Gives a file or directory the times, the mode and, as superuser, the owner of the one that it is a copy of.
///
/// # Errors
/// The file system's.
pub(crate) fn keep(copy: &File, attr: &FileAttr) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(copy, Some(attr.uid), Some(attr.gid))?;
    }
    let mode = kept_mode(attr.permissions, attr.uid, attr.gid);
    copy.set_permissions(Permissions::from_mode(mode))?;
    copy.set_times(times_of(attr))
}

/// Gives a symbolic link itself the times and, as superuser, the owner of the one that it is a copy of.
///
/// # Errors
/// The file system's.
pub(crate) fn keep_of_link(link: &LocalName, attr: &FileAttr) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
        rustix::fs::chownat(link.directory(), link.name(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let time = |ns: i64| Timespec { tv_sec: ns.div_euclid(NS_PER_S), tv_nsec: ns.rem_euclid(NS_PER_S) };
    let times = Timestamps { last_access: time(attr.atime_ns), last_modification: time(attr.mtime_ns) };
    Ok(rustix::fs::utimensat(link.directory(), link.name(), &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Gives a new directory its mode. The set-group-id bit that it has from the directory above stays, as with mkdir(2).
///
/// # Errors
/// The file system's.
pub(crate) fn open_up(directory: &File, mode: u32) -> io::Result<()> {
    let inherited = directory.metadata()?.mode() & SET_ID_BITS;
    directory.set_permissions(Permissions::from_mode(mode | inherited))
}

/// Opens a directory, which must still be the one that had the name before. Waits for nobody, whatever has the name now.
///
/// # Errors
/// `NotADirectory`; `NotFound`, also when another directory has the name; others of open.
pub(crate) fn open_directory(path: &Path, is: LocalId) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let directory = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    if LocalId::of(&directory.metadata()?) == is { Ok(directory) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn times_of(attr: &FileAttr) -> FileTimes {
    FileTimes::new().set_accessed(time_of(attr.atime_ns)).set_modified(time_of(attr.mtime_ns))
}

fn time_of(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, DirBuilder};
    use std::os::unix::fs::DirBuilderExt;

    use dfs_common::attr::FileKind;
    use dfs_common::ids::InodeId;

    use super::*;

    #[test]
    fn keep_of_link_leaves_what_it_points_to_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let (own, before) = (fs::symlink_metadata(&link).unwrap(), fs::metadata(&file).unwrap());
        let attr = FileAttr {
            permissions: 0o777,
            uid: own.uid(),
            gid: own.gid(),
            length: 4,
            atime_ns: 1_500_000_001,
            mtime_ns: -1,
            ..FileAttr::bare(InodeId(1), FileKind::Symlink)
        };
        keep_of_link(&LocalName::at(&link).unwrap(), &attr).unwrap();
        let kept = fs::symlink_metadata(&link).unwrap();
        assert_eq!((kept.mtime(), kept.mtime_nsec()), (-1, 999_999_999));
        assert_eq!((kept.atime(), kept.atime_nsec()), (1, 500_000_001));
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), before.modified().unwrap());
    }

    #[test]
    fn open_up_leaves_the_group_to_the_directory_above() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let (plain, shared) = (dir.path().join("plain"), dir.path().join("shared"));
        for (path, bits) in [(&plain, 0), (&shared, 0o2000)] {
            fs::create_dir(path).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o700 | bits)).unwrap();
            let below = path.join("below");
            DirBuilder::new().mode(0o700).create(&below).unwrap();
            assert_eq!(mode(&below), 0o700 | bits);
            open_up(&File::open(&below).unwrap(), 0o550).unwrap();
            assert_eq!(mode(&below), 0o550 | bits);
        }
    }

    #[test]
    fn open_directory_opens_nothing_else_and_waits_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, fifo) = (dir.path().join("folder"), dir.path().join("fifo"));
        fs::create_dir(&folder).unwrap();
        let is = LocalId::of(&fs::metadata(&folder).unwrap());
        open_directory(&folder, is).unwrap();
        fs::rename(&folder, dir.path().join("moved")).unwrap();
        fs::create_dir(&folder).unwrap();
        assert_eq!(open_directory(&folder, is).unwrap_err().kind(), io::ErrorKind::NotFound);
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(open_directory(&fifo, is).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        // One that a link leads to is the one that was copied into.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("moved", &link).unwrap();
        open_directory(&link, is).unwrap();
    }

    #[test]
    fn time_of_knows_times_before_the_epoch() {
        assert_eq!(time_of(-1_000_000_000), UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(time_of(5), UNIX_EPOCH + Duration::from_nanos(5));
    }
}
