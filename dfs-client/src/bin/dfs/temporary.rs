//! What a copy is called until it is whole: `NAME.<random>._COPYING_`, as in HDFS but for the random part.
//!
//! The name is made exclusively, so that it is ours alone: two commands that write to one place do not write into one
//! file, and a user's own `doc._COPYING_` is left alone. Whoever makes one either publishes it, which renames it to its
//! final name in one step, or discards it.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_client::{Caller, DfsClient, RenameFlag};
use dfs_common::ids::InodeId;
use dfs_common::name::NAME_MAX;
use dfs_common::{DfsError, ErrorKind};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::context::Context;
use crate::destination::Target;
use crate::failure::{Failure, Outcome};
use crate::leftovers::{Leftover, LeftoverId, Leftovers, Place};
use crate::local_id::LocalId;
use crate::tree::Node;

/// What is behind the name of a file that is not whole yet; HDFS's.
pub(crate) const COPYING_SUFFIX: &[u8] = b"._COPYING_";
/// Hexadecimal digits of the random part.
const RANDOM_DIGITS: usize = 16;
/// Names tried before giving up. A second one is needed about never: that so many are taken means something else.
const TRIES: u32 = 8;

/// A new name for a file that is not whole yet. What is too long for the rest is cut off.
fn temporary_name(name: &[u8]) -> Vec<u8> {
    name_with(name, rand::random())
}

fn name_with(name: &[u8], random: u64) -> Vec<u8> {
    let tail = [format!(".{random:0RANDOM_DIGITS$x}").as_bytes(), COPYING_SUFFIX].concat();
    let mut kept = name.len();
    if kept + tail.len() > NAME_MAX {
        kept = NAME_MAX - tail.len();
        // Some file systems take only UTF-8: a character is not cut in its middle.
        while kept > 0 && name[kept] & 0b1100_0000 == 0b1000_0000 {
            kept -= 1;
        }
    }
    [&name[..kept], &tail].concat()
}

/// Whether it is a copy that somebody is making: half a file, which is to get another name. A file that is closed and only
/// called like one is a file like others.
pub(crate) fn is_unfinished_copy(node: &Node) -> bool {
    node.attr.under_construction && node.path.file_name().is_some_and(is_temporary_name)
}

fn is_temporary_name(name: &[u8]) -> bool {
    let random = name.strip_suffix(COPYING_SUFFIX).and_then(|rest| rest.rsplit(|byte| *byte == b'.').next());
    // Nothing but the random part would be all of the name: there is a dot before it.
    let is_behind_a_dot = |random: &[u8]| name.len() > random.len() + COPYING_SUFFIX.len();
    random.is_some_and(|random| {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        random.len() == RANDOM_DIGITS && random.iter().all(is_digit) && is_behind_a_dot(random)
    })
}

/// Something of ours on this machine that has no final name yet.
#[derive(Clone, Debug)]
pub(crate) struct LocalTemporary {
    path: PathBuf,
    id: LocalId,
    leftover: LeftoverId,
}

impl LocalTemporary {
    /// Makes something, with `make`, beside what will be `path`. `make` must refuse a name that is taken.
    ///
    /// # Errors
    /// Those of `make`; `Interrupted` when the command has ended.
    pub(crate) fn make<T>(
        leftovers: &Leftovers,
        path: &Path,
        make: impl Fn(&Path) -> io::Result<T>,
    ) -> io::Result<(T, Self)> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let mut tries = 1;
        loop {
            let path = path.with_file_name(OsStr::from_bytes(&temporary_name(name)));
            match leftovers.make_local(&path, || make(&path)) {
                Ok((made, id, leftover)) => return Ok((made, Self { path, id, leftover })),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives it its final name, in place of a file or link of that name if `replace` is set.
    ///
    /// # Errors
    /// When something else has the name; of rename(2).
    pub(crate) fn publish(&self, leftovers: &Leftovers, path: &Path, replace: bool) -> Outcome {
        let failed = |error| Failure::local(path, error);
        if LocalId::of(&fs::symlink_metadata(&self.path).map_err(failed)?) != self.id {
            let words = format!("somebody else has put a file in the place of {}", self.path.display());
            return Err(Failure::refused(path.display(), words));
        }
        check_local_place(path, replace)?;
        let renamed =
            if replace { fs::rename(&self.path, path).map(|()| true) } else { rename_to_free(&self.path, path) };
        match renamed {
            Ok(true) => leftovers.forget(self.leftover),
            // It has its name. The other one is tried again at the end, and told if it stays.
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(local_exists(path)),
            Err(error) => return Err(failed(error)),
        }
        Ok(())
    }

    /// Removes it, because of a failure.
    pub(crate) async fn discard(self, ctx: &Context, because: &Failure) {
        ctx.leftovers.discard(&ctx.client, &ctx.caller, self.leftover, because).await;
    }
}

/// Renames only if nothing has the new name, also where the file system cannot do that in one call. Says whether the old name
/// is gone.
fn rename_to_free(from: &Path, to: &Path) -> io::Result<bool> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_to_free(from, to, |from| fs::remove_file(from)),
        renamed => Ok(renamed.map(|()| true)?),
    }
}

/// The same in two calls. Once the first is done, the file has its new name, whatever becomes of the old one.
fn link_to_free(from: &Path, to: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<bool> {
    fs::hard_link(from, to)?;
    Ok(remove(from).is_ok())
}

/// Refuses a place in which a copy may not be put: one that is taken, unless by a file or link that may be replaced.
///
/// # Errors
/// With what is there.
pub(crate) fn check_local_place(path: &Path, replace: bool) -> Outcome {
    match fs::symlink_metadata(path) {
        Ok(there) => check_local_kind(path, &there, replace),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::local(path, error)),
    }
}

fn check_local_kind(path: &Path, there: &Metadata, replace: bool) -> Outcome {
    if there.is_dir() {
        Err(Failure::refused(path.display(), "is a directory"))
    } else if !there.is_file() && !there.is_symlink() {
        Err(Failure::refused(path.display(), NOT_REPLACED))
    } else if !replace {
        Err(local_exists(path))
    } else {
        Ok(())
    }
}

fn local_exists(path: &Path) -> Failure {
    Failure::refused(path.display(), "file exists").with_hint("use -f to replace it")
}

/// Said of a fifo, socket or device that has the name of a copy.
pub(crate) const NOT_REPLACED: &str = "not a regular file; it is not replaced by one";

/// Something of ours in the cluster that has no final name yet.
#[derive(Debug)]
pub(crate) struct RemoteTemporary {
    parent: InodeId,
    name: Vec<u8>,
    inode: InodeId,
    leftover: LeftoverId,
}

impl RemoteTemporary {
    /// Makes something, with `make`, beside what will be `target`. `make` gets the name, must refuse one that is taken,
    /// and returns the inode with whatever the caller needs.
    ///
    /// # Errors
    /// Those of `make`; `Cancelled` when the command has ended.
    pub(crate) async fn make<T, F>(
        ctx: &Context,
        target: &Target,
        make: impl Fn(DfsClient, Caller, Vec<u8>) -> F,
    ) -> Outcome<(T, Self)>
    where
        T: Send + 'static,
        F: Future<Output = dfs_common::Result<(InodeId, T)>> + Send + 'static,
    {
        let parent = target.parent;
        let mut tries = 1;
        loop {
            let name = temporary_name(&target.name);
            let making = make(ctx.client.clone(), ctx.caller.clone(), name.clone());
            match Self::make_noted(&ctx.leftovers, parent, name, making).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                made => return made.map_err(|error| Failure::dfs(&target.path, error)),
            }
        }
    }

    async fn make_noted<T: Send + 'static>(
        leftovers: &Arc<Leftovers>,
        parent: InodeId,
        name: Vec<u8>,
        making: impl Future<Output = dfs_common::Result<(InodeId, T)>> + Send + 'static,
    ) -> dfs_common::Result<(T, Self)> {
        let Some(leftover) = leftovers.expect(Place::Cluster) else {
            return Err(DfsError::new(ErrorKind::Cancelled, ""));
        };
        let leftovers = Arc::clone(leftovers);
        // A task of its own: the transfer may be ended while the NameNode makes the file, and then nobody would know of it.
        let made = tokio::spawn(async move {
            let made = making.await;
            let note = |inode| Leftover::Remote { parent, name: name.clone(), inode };
            match &made {
                Ok((inode, _)) => leftovers.made(leftover, note(Some(*inode))),
                Err(error) if error.is_refusal() => leftovers.forget(leftover),
                // It may be there, or come to be there.
                Err(_) => leftovers.made(leftover, note(None)),
            }
            made.map(|(inode, made)| (made, Self { parent, name, inode, leftover }))
        });
        made.await.unwrap_or_else(|error| Err(DfsError::new(ErrorKind::Internal, error.to_string())))
    }

    /// Gives it its final name, in place of a file or link of that name if `replace` is set.
    ///
    /// # Errors
    /// When something else has the name; of rename.
    pub(crate) async fn publish(&self, ctx: &Context, target: &Target, replace: bool) -> Outcome {
        let failed = |error| Failure::dfs(&target.path, error);
        match ctx.client.lookup(&ctx.caller, self.parent, &self.name).await {
            Ok(there) if there.inode == self.inode => {}
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            Ok(_) | Err(_) => {
                let words = "the unfinished copy was removed by somebody else";
                return Err(Failure::refused(&target.path, words).with_hint("run the command again"));
            }
        }
        let flag = if replace { RenameFlag::Replace } else { RenameFlag::NoReplace };
        if replace {
            // The NameNode would put a file into the place of anything but a directory.
            check_remote_place(ctx, target, replace).await?;
        }
        let (from, to) = ((self.parent, self.name.as_slice()), (target.parent, target.name.as_slice()));
        match ctx.client.rename(&ctx.caller, from, to, flag).await {
            Ok(()) => ctx.leftovers.forget(self.leftover),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !replace => return Err(exists(target)),
            Err(error) => return Err(failed(error)),
        }
        Ok(())
    }

    /// Removes it, because of a failure.
    pub(crate) async fn discard(self, ctx: &Context, because: &Failure) {
        ctx.leftovers.discard(&ctx.client, &ctx.caller, self.leftover, because).await;
    }
}

/// Refuses early what would be refused only after all bytes are there, and what must not be replaced by a copy.
///
/// # Errors
/// With what is there.
pub(crate) async fn check_remote_place(ctx: &Context, target: &Target, replace: bool) -> Outcome {
    use dfs_common::attr::FileKind;
    let there = match ctx.client.lookup(&ctx.caller, target.parent, &target.name).await {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::dfs(&target.path, error)),
    };
    match there.kind {
        FileKind::Directory => Err(Failure::kind(&target.path, ErrorKind::IsADirectory)),
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
            Err(Failure::refused(&target.path, NOT_REPLACED))
        }
        FileKind::File | FileKind::Symlink if !replace => Err(exists(target)),
        FileKind::File | FileKind::Symlink => Ok(()),
    }
}

fn exists(target: &Target) -> Failure {
    Failure::kind(&target.path, ErrorKind::AlreadyExists).with_hint("use -f to replace it")
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn create(path: &Path) -> io::Result<fs::File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    #[test]
    fn name_with_keeps_the_name_in_sight() {
        assert_eq!(name_with(b"a.txt", 0xabc), b"a.txt.0000000000000abc._COPYING_");
        assert_ne!(temporary_name(b"a"), temporary_name(b"a"));
    }

    #[test]
    fn is_temporary_name_knows_our_own_only() {
        for name in [&b"a"[..], b"a.txt", b"", &[b'x'; NAME_MAX]] {
            assert!(is_temporary_name(&temporary_name(name)), "{name:?}");
        }
        for other in
            ["a._COPYING_", "._COPYING_", "a.0123._COPYING_", "a.0123456789abcdef", "0123456789abcdef._COPYING_"]
        {
            assert!(!is_temporary_name(other.as_bytes()), "{other}");
        }
        assert!(
            !is_temporary_name(b"a.0123456789ABCDEF._COPYING_") && !is_temporary_name(b"a_0123456789abcdef._COPYING_")
        );
    }

    #[test]
    fn name_with_of_any_name_is_a_name() {
        for length in 220..=NAME_MAX {
            assert!(name_with(&vec![b'x'; length], u64::MAX).len() <= NAME_MAX, "{length}");
            assert!(name_with(&vec![0xbf; length], 0).len() <= NAME_MAX, "{length}");
            let umlauts: String = std::iter::repeat_n('ü', length / 2).collect();
            let name = name_with(umlauts.as_bytes(), 0);
            assert!(name.len() <= NAME_MAX && String::from_utf8(name).is_ok(), "{length}");
        }
    }

    #[tokio::test]
    async fn make_noted_forgets_only_what_was_surely_not_made() {
        use dfs_common::error::CallFate;
        for (fate, is_noted) in [(CallFate::Refused, false), (CallFate::Unknown, true), (CallFate::Unanswered, true)] {
            let leftovers = Arc::new(Leftovers::default());
            let making = async move { Err(DfsError::new(ErrorKind::TimedOut, "").with_fate(fate)) };
            let made = RemoteTemporary::make_noted::<()>(&leftovers, InodeId(1), b"t".to_vec(), making).await;
            assert!(made.is_err());
            assert_eq!(leftovers.are_left(), is_noted, "{fate:?}");
        }
    }

    #[test]
    fn make_takes_nobodys_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = (dir.path().join("a"), dir.path().join("a._COPYING_"));
        fs::write(&theirs, "theirs").unwrap();
        let leftovers = Leftovers::default();
        let (_, one) = LocalTemporary::make(&leftovers, &path, create).unwrap();
        let (_, other) = LocalTemporary::make(&leftovers, &path, create).unwrap();
        assert_ne!(one.path, other.path);
        one.publish(&leftovers, &path, false).unwrap();
        assert!(other.publish(&leftovers, &path, false).unwrap_err().to_string().contains("file exists"));
        other.publish(&leftovers, &path, true).unwrap();
        assert!(!leftovers.are_left());
        assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn make_asks_for_another_name_when_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let is_first = std::cell::Cell::new(true);
        let make =
            |path: &Path| if is_first.replace(false) { Err(io::ErrorKind::AlreadyExists.into()) } else { create(path) };
        LocalTemporary::make(&Leftovers::default(), &dir.path().join("a"), make).unwrap();
        let never = |_: &Path| -> io::Result<()> { Err(io::ErrorKind::AlreadyExists.into()) };
        let refused = LocalTemporary::make(&Leftovers::default(), &dir.path().join("a"), never).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn publish_does_not_give_the_name_to_a_file_that_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = (dir.path().join("a"), dir.path().join("theirs"));
        let leftovers = Leftovers::default();
        let (_, temporary) = LocalTemporary::make(&leftovers, &path, create).unwrap();
        fs::write(&theirs, "theirs").unwrap();
        fs::rename(&theirs, &temporary.path).unwrap();
        assert!(temporary.publish(&leftovers, &path, true).is_err());
        assert!(!path.exists() && temporary.path.exists());
    }

    #[test]
    fn publish_replaces_files_and_links_only() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, link, folder) = (dir.path().join("fifo"), dir.path().join("link"), dir.path().join("folder"));
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        std::os::unix::fs::symlink("/no/such/place", &link).unwrap();
        fs::create_dir(&folder).unwrap();
        let leftovers = Leftovers::default();
        for (path, replaced) in [(&fifo, false), (&link, true), (&folder, false)] {
            let (_, temporary) = LocalTemporary::make(&leftovers, path, create).unwrap();
            assert_eq!(temporary.publish(&leftovers, path, true).is_ok(), replaced, "{}", path.display());
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
    }

    #[test]
    fn rename_to_free_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();
        assert_eq!(rename_to_free(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"old");
        fs::remove_file(&to).unwrap();
        assert!(rename_to_free(&from, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"new");
    }

    #[test]
    fn link_to_free_is_done_once_the_new_name_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "new").unwrap();
        let stays = |_: &Path| Err(io::ErrorKind::PermissionDenied.into());
        assert!(!link_to_free(&from, &to, stays).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"new");
        let is_taken = link_to_free(&from, &to, |_| unreachable!()).unwrap_err();
        assert_eq!(is_taken.kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&to).unwrap();
        assert!(link_to_free(&from, &to, |from| fs::remove_file(from)).unwrap());
        assert!(!from.exists() && to.exists());
    }
}
