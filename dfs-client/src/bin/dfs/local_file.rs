//! Files on this machine that `get` makes: under a temporary name, renamed once they are whole, as in the cluster.

use std::ffi::OsStr;
use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dfs_common::attr::FileAttr;
use futures::stream::Stream;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::aside::aside;
use crate::content;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::kept_mode::kept_mode;
use crate::leftovers::Leftovers;
use crate::temporary::{self, LocalTemporary};

/// Nanoseconds per second.
pub(crate) const NS_PER_S: i64 = 1_000_000_000;

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
    /// The user named the place: a fifo or device that is there is written to.
    pub(crate) may_be_stream: bool,
}

/// Makes the file with this content, which must have `length` bytes if that is known; says how many those were.
///
/// # Errors
/// When something is in the way; the content's failure; the file system's.
pub(crate) async fn store(
    ctx: &Context,
    new: &LocalFile,
    length: Option<u64>,
    content: impl Stream<Item = Outcome<Bytes>>,
) -> Outcome<u64> {
    let (leftovers, begun) = (Arc::clone(&ctx.leftovers), new.clone());
    let begun = aside(move || begin(&leftovers, &begun)).await?;
    let Begun::New(file, temporary) = begun else { return write_into(&new.path, length, content).await };
    let outcome = async {
        let (file, written) = content::into_local(content, file, |error| Failure::local(&new.path, error)).await?;
        check_length(&new.path, written, length)?;
        let (leftovers, new, temporary) = (Arc::clone(&ctx.leftovers), new.clone(), temporary.clone());
        let umask = ctx.settings.umask;
        aside(move || end(&leftovers, file, &new, &temporary, umask)).await?;
        Ok(written)
    }
    .await;
    if let Err(failure) = &outcome {
        temporary.discard(ctx, failure).await;
    }
    outcome
}

/// What the bytes go into.
enum Begun {
    /// Something that was there and stays.
    Stream,
    New(File, LocalTemporary),
}

fn begin(leftovers: &Leftovers, new: &LocalFile) -> Outcome<Begun> {
    if new.may_be_stream && is_stream(&new.path) {
        return Ok(Begun::Stream);
    }
    temporary::check_local_place(&new.path, new.replace)?;
    let made = LocalTemporary::make(leftovers, &new.path, |path| create(path, new.attr.permissions));
    made.map(|(file, temporary)| Begun::New(file, temporary)).map_err(|error| Failure::local(&new.path, error))
}

/// Gives a file that is whole its attributes and its name.
fn end(leftovers: &Leftovers, file: File, new: &LocalFile, temporary: &LocalTemporary, umask: u32) -> Outcome {
    // Closed before it has its final name: what is lost here must not take the place of what was there.
    let closed = finish(&file, new, umask).and_then(|()| content::close_now(file));
    closed.map_err(|error| Failure::local(&new.path, error))?;
    temporary.publish(leftovers, &new.path, new.replace)
}

/// Makes a symbolic link, with `replace` in place of a file or link that has the name. It has the times and owner of what is to be
/// `preserved` before anybody can find it.
///
/// # Errors
/// When something else has the name; the file system's.
pub(crate) async fn link(
    ctx: &Context,
    path: &Path,
    points_to: &OsStr,
    replace: bool,
    preserved: Option<&FileAttr>,
) -> Outcome {
    temporary::check_local_place(path, replace)?;
    let made = LocalTemporary::make(&ctx.leftovers, path, |path| std::os::unix::fs::symlink(points_to, path));
    let ((), temporary) = made.map_err(|error| Failure::local(path, error))?;
    let kept = preserved.map_or(Ok(()), |attr| preserve_link(temporary.path(), attr));
    let kept = kept.map_err(|error| Failure::local(path, error));
    let published = kept.and_then(|()| temporary.publish(&ctx.leftovers, path, replace));
    if let Err(failure) = &published {
        temporary.discard(ctx, failure).await;
    }
    published
}

/// Whether there is something that has no content of its own: bytes go through it.
fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir())
}

/// Writes to what is there, as cp does. Its attributes are not ours to change.
async fn write_into(path: &Path, length: Option<u64>, content: impl Stream<Item = Outcome<Bytes>>) -> Outcome<u64> {
    let failed = |error| Failure::local(path, error);
    let to_open = path.to_owned();
    // Opening a fifo waits for a reader; opening a terminal must not make it ours.
    let opened =
        tokio::task::spawn_blocking(move || OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(to_open));
    let sink = opened.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)?;
    let (sink, written) = content::into_local(content, sink, failed).await?;
    content::close(sink).await.map_err(failed)?;
    check_length(path, written, length)?;
    Ok(written)
}

fn check_length(path: &Path, written: u64, length: Option<u64>) -> Outcome {
    match length {
        Some(length) if length != written => {
            let words = format!("{written} bytes arrived, {length} were expected");
            Err(Failure::refused(path.display(), words).with_hint("get it again"))
        }
        _ => Ok(()),
    }
}

/// Opens the temporary file anew. Nobody else reads or writes it before it has its final mode.
fn create(temporary: &Path, permissions: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(permissions & 0o700 | 0o600).open(temporary)
}

fn finish(file: &File, new: &LocalFile, umask: u32) -> io::Result<()> {
    if new.preserve {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(file, Some(new.attr.uid), Some(new.attr.gid))?;
        }
        let mode = kept_mode(new.attr.permissions, new.attr.uid, new.attr.gid);
        file.set_permissions(Permissions::from_mode(mode))?;
        return file.set_times(times_of(&new.attr));
    }
    file.set_permissions(Permissions::from_mode(new.attr.permissions & 0o777 & !umask))
}

/// Gives a symbolic link itself the times and, as superuser, the owner of the one it is a copy of.
///
/// # Errors
/// The file system's.
fn preserve_link(link: &Path, attr: &FileAttr) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn content_of(bytes: &'static [u8]) -> impl Stream<Item = Outcome<Bytes>> {
        futures::stream::iter([Ok(Bytes::from_static(bytes))])
    }

    #[tokio::test]
    async fn write_into_a_fifo_reaches_its_reader() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(is_stream(&fifo) && is_stream(Path::new("/dev/null")) && !is_stream(dir.path()));
        let to_read = fifo.clone();
        let reader = std::thread::spawn(move || std::fs::read(to_read).unwrap());
        assert_eq!(write_into(&fifo, Some(5), content_of(b"bytes")).await.unwrap(), 5);
        assert_eq!(reader.join().unwrap(), b"bytes");
        assert!(is_stream(&fifo));
        let short = write_into(Path::new("/dev/null"), Some(6), content_of(b"bytes")).await.unwrap_err();
        assert!(short.to_string().contains("5 bytes arrived"), "{short}");
    }

    #[test]
    fn create_does_not_follow_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, temporary) = (dir.path().join("victim"), dir.path().join("t"));
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &temporary).unwrap();
        assert_eq!(create(&temporary, 0o644).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
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
