//! Files on this machine that `get` makes: under a temporary name, renamed once they are whole, as in the cluster. And what
//! `get` only writes to: a fifo or device that the user has named.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dfs_common::attr::FileAttr;
use futures::stream::Stream;

use crate::aside::aside;
use crate::content;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::leftovers::Leftovers;
use crate::local_attributes;
use crate::local_name::LocalName;
use crate::local_temporary::{self, LocalTemporary};

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
    let (file, temporary) = aside(move || begin(&leftovers, &begun)).await?;
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

fn begin(leftovers: &Leftovers, new: &LocalFile) -> Outcome<(File, LocalTemporary)> {
    let failed = |error| Failure::local(&new.path, error);
    let place = LocalName::at(&new.path).map_err(failed)?;
    local_temporary::check_local_place(&place, new.replace)?;
    // Nobody else reads or writes it before it has its final mode.
    let mode = new.attr.permissions & 0o700 | 0o600;
    LocalTemporary::make(leftovers, &place, |name| name.create(mode)).map_err(failed)
}

/// Gives a file that is whole its attributes and its name.
fn end(leftovers: &Leftovers, file: File, new: &LocalFile, temporary: &LocalTemporary, umask: u32) -> Outcome {
    // Closed before it has its final name: what is lost here must not take the place of what was there.
    let closed = finish(&file, new, umask).and_then(|()| content::close_now(file));
    closed.map_err(|error| Failure::local(&new.path, error))?;
    temporary.publish(leftovers, new.replace)
}

/// Makes a symbolic link, with `replace` in place of a file or link that has the name. It gets the times and, as superuser,
/// the owner of the one in `kept`.
///
/// # Errors
/// When something else has the name; the file system's.
pub(crate) async fn link(
    ctx: &Context,
    path: &Path,
    points_to: &OsStr,
    replace: bool,
    kept: Option<&FileAttr>,
) -> Outcome {
    let failed = |error| Failure::local(path, error);
    let place = LocalName::at(path).map_err(failed)?;
    local_temporary::check_local_place(&place, replace)?;
    let made = LocalTemporary::make(&ctx.leftovers, &place, |name| name.make_link(points_to));
    let ((), temporary) = made.map_err(failed)?;
    let finished = kept.map_or(Ok(()), |attr| local_attributes::keep_of_link(temporary.name(), attr));
    let published = finished.map_err(failed).and_then(|()| temporary.publish(&ctx.leftovers, replace));
    if let Err(failure) = &published {
        temporary.discard(ctx, failure).await;
    }
    published
}

/// Writes to the fifo or device that is there, as cp does. Its attributes are not ours to change.
///
/// # Errors
/// The content's failure; the file system's; when not `length` bytes have come.
pub(crate) async fn write_into(
    path: &Path,
    length: Option<u64>,
    content: impl Stream<Item = Outcome<Bytes>>,
) -> Outcome<u64> {
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

fn finish(file: &File, new: &LocalFile, umask: u32) -> io::Result<()> {
    if new.preserve {
        local_attributes::keep(file, &new.attr)
    } else {
        file.set_permissions(Permissions::from_mode(new.attr.permissions & 0o777 & !umask))
    }
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
        let to_read = fifo.clone();
        let reader = std::thread::spawn(move || std::fs::read(to_read).unwrap());
        assert_eq!(write_into(&fifo, Some(5), content_of(b"bytes")).await.unwrap(), 5);
        assert_eq!(reader.join().unwrap(), b"bytes");
        let short = write_into(Path::new("/dev/null"), Some(6), content_of(b"bytes")).await.unwrap_err();
        assert!(short.to_string().contains("5 bytes arrived"), "{short}");
    }

    #[test]
    fn begin_takes_a_link_to_a_device_for_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        let attr = FileAttr {
            permissions: 0o644,
            ..FileAttr::bare(dfs_common::ids::InodeId(1), dfs_common::attr::FileKind::File)
        };
        let leftovers = Leftovers::default();
        let new = LocalFile { path: path.clone(), attr, replace: false, preserve: false };
        let refused = begin(&leftovers, &new).unwrap_err().to_string();
        assert!(refused.contains("file exists"), "{refused}");
        let new = LocalFile { replace: true, ..new };
        let (file, temporary) = begin(&leftovers, &new).unwrap();
        end(&leftovers, file, &new, &temporary, 0o022).unwrap();
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file() && !leftovers.are_left());
    }
}
