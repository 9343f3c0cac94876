//! Files on this machine that `get` makes: under `NAME._COPYING_`, renamed once they are whole, as in the cluster.

use std::ffi::OsStr;
use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dfs_common::attr::FileAttr;
use futures::stream::Stream;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::content;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::leftovers::Leftover;
use crate::new_file::temporary_name;

const NS_PER_S: i64 = 1_000_000_000;

/// A local file to be made.
#[derive(Clone, Debug)]
pub(crate) struct LocalFile {
    /// Its final path.
    pub(crate) path: PathBuf,
    /// The file it is a copy of.
    pub(crate) attr: FileAttr,
    /// A file of that name is replaced.
    pub(crate) replace: bool,
    /// It gets the source's times, mode and, for the superuser, owner.
    pub(crate) preserve: bool,
}

/// Makes the file with this content, which must have `length` bytes; says how many those were.
///
/// # Errors
/// When something is in the way; the content's failure; the file system's.
pub(crate) async fn store(
    ctx: &Context,
    new: &LocalFile,
    length: u64,
    content: impl Stream<Item = Outcome<Bytes>>,
) -> Outcome<u64> {
    check_place(new)?;
    let temporary = temporary_path(&new.path);
    let failed = |error| Failure::local(&new.path, error);
    let file = create(&temporary, new.attr.permissions).map_err(failed)?;
    let leftover = ctx.leftovers.add(Leftover::Local(temporary.clone()));
    let outcome = async {
        let (file, written) = content::into_local(content, file, failed).await?;
        if written != length {
            let words = format!("{written} bytes arrived, {length} were expected");
            return Err(Failure::refused(new.path.display(), words).with_hint("get it again"));
        }
        finish(&file, new, ctx.settings.umask).map_err(failed)?;
        std::fs::rename(&temporary, &new.path).map_err(failed)?;
        Ok(written)
    }
    .await;
    match &outcome {
        Ok(_) => ctx.leftovers.forget(leftover),
        Err(_) => ctx.leftovers.discard(&ctx.client, &ctx.caller, leftover).await,
    }
    outcome
}

fn check_place(new: &LocalFile) -> Outcome {
    match std::fs::symlink_metadata(&new.path) {
        Ok(there) if there.is_dir() => Err(Failure::refused(new.path.display(), "is a directory")),
        Ok(_) if !new.replace => {
            Err(Failure::refused(new.path.display(), "file exists").with_hint("use -f to replace it"))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::local(&new.path, error)),
    }
}

/// Opens the temporary file anew. It is removed first and then made exclusively: following a link that someone left
/// under this name would write wherever it points.
fn create(temporary: &Path, permissions: u32) -> io::Result<File> {
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Nobody else reads or writes it before it has its final mode.
    OpenOptions::new().write(true).create_new(true).mode(permissions & 0o700 | 0o600).open(temporary)
}

fn finish(file: &File, new: &LocalFile, umask: u32) -> io::Result<()> {
    if new.preserve {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(file, Some(new.attr.uid), Some(new.attr.gid))?;
        }
        file.set_permissions(Permissions::from_mode(new.attr.permissions))?;
        return file.set_times(times_of(&new.attr));
    }
    file.set_permissions(Permissions::from_mode(new.attr.permissions & 0o777 & !umask))
}

/// Gives a symbolic link itself the times and, as superuser, the owner of the one it is a copy of.
///
/// # Errors
/// The file system's.
pub(crate) fn preserve_link(link: &Path, attr: &FileAttr) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(link, Some(attr.uid), Some(attr.gid))?;
    }
    let time = |ns: i64| Timespec { tv_sec: ns.div_euclid(NS_PER_S), tv_nsec: ns.rem_euclid(NS_PER_S) };
    let times = Timestamps { last_access: time(attr.atime_ns), last_modification: time(attr.mtime_ns) };
    Ok(rustix::fs::utimensat(CWD, link, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Times as the standard library takes them.
pub(crate) fn times_of(attr: &FileAttr) -> FileTimes {
    FileTimes::new().set_accessed(time_of(attr.atime_ns)).set_modified(time_of(attr.mtime_ns))
}

fn time_of(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

fn temporary_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    path.with_file_name(OsStr::from_bytes(&temporary_name(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::new_file::COPYING_SUFFIX;

    #[test]
    fn temporary_path_stays_in_the_directory() {
        assert_eq!(temporary_path(Path::new("/a/b")), Path::new("/a/b._COPYING_"));
        assert!(temporary_path(Path::new("b")).as_os_str().as_bytes().ends_with(COPYING_SUFFIX));
    }

    #[test]
    fn create_does_not_follow_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, temporary) = (dir.path().join("victim"), dir.path().join("t"));
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &temporary).unwrap();
        create(&temporary, 0o644).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert!(!std::fs::symlink_metadata(&temporary).unwrap().is_symlink());
    }

    #[test]
    fn preserve_link_leaves_what_it_points_to_alone() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let (own, before) = (std::fs::symlink_metadata(&link).unwrap(), std::fs::metadata(&file).unwrap());
        let attr = FileAttr {
            inode: dfs_common::ids::InodeId(1),
            kind: dfs_common::attr::FileKind::Symlink,
            permissions: 0o777,
            uid: own.uid(),
            gid: own.gid(),
            nlink: 1,
            length: 4,
            atime_ns: 1_500_000_001,
            mtime_ns: -1,
            ctime_ns: 0,
            rdev: 0,
            replication: 0,
            block_size: 0,
            under_construction: false,
            block_count: 0,
        };
        preserve_link(&link, &attr).unwrap();
        let kept = std::fs::symlink_metadata(&link).unwrap();
        assert_eq!((kept.mtime(), kept.mtime_nsec()), (-1, 999_999_999));
        assert_eq!((kept.atime(), kept.atime_nsec()), (1, 500_000_001));
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before.modified().unwrap());
    }

    #[test]
    fn time_of_knows_times_before_the_epoch() {
        assert_eq!(time_of(-1_000_000_000), UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(time_of(5), UNIX_EPOCH + Duration::from_nanos(5));
    }
}
