//! Directories of a copy that do not have their attributes yet. They get them once everything is in them, the deepest first:
//! their mode may forbid writing, and whatever is made in a directory changes its time.
//!
//! `put`, `cp` and `get` note them here and finish them when a source is copied. When a command fails or is ended by a
//! signal, the rest is finished at its end (`ending`), after the temporary files are removed, which needs the right to write.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use dfs_common::attr::FileAttr;
use dfs_common::ids::InodeId;

use crate::aside::aside;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::kept_mode::{SET_ID_BITS, kept_mode};
use crate::local_file;
use crate::path::DfsPath;
use crate::preserved::Kept;

/// A directory, and what it is to get.
#[derive(Clone, Debug)]
pub(crate) enum Directory {
    /// In the cluster.
    Remote {
        /// Where, for complaints.
        path: DfsPath,
        /// Which.
        inode: InodeId,
        /// What it gets.
        kept: Kept,
    },
    /// On this machine.
    Local {
        /// Where.
        path: PathBuf,
        /// Those of the directory that it is a copy of.
        attr: FileAttr,
        /// It gets these times, this mode and, for the superuser, this owner; otherwise the mode without the umask's bits.
        preserve: bool,
    },
}

/// All of a command, those that were noted first above those below them.
#[derive(Debug, Default)]
pub(crate) struct Unfinished(Mutex<Vec<Directory>>);

impl Unfinished {
    fn list(&self) -> MutexGuard<'_, Vec<Directory>> {
        self.0.lock().expect("no holder panics")
    }

    /// Notes a directory before anything is made in it.
    pub(crate) fn note(&self, directory: Directory) {
        self.list().push(directory);
    }

    /// Gives all of them what they are to get. What fails is reported.
    ///
    /// # Errors
    /// A failure that would meet all others, too.
    pub(crate) async fn finish(&self, ctx: &Context) -> Outcome {
        while let Some((index, directory)) = self.last() {
            let finished = directory.finish(ctx).await;
            // Not before: if a signal ends us meanwhile, it is finished at the end.
            self.list().truncate(index);
            ctx.tolerate(finished)?;
        }
        Ok(())
    }

    fn last(&self) -> Option<(usize, Directory)> {
        let list = self.list();
        list.last().map(|last| (list.len() - 1, last.clone()))
    }
}

impl Directory {
    async fn finish(self, ctx: &Context) -> Outcome {
        match self {
            Self::Remote { path, inode, kept } => kept.apply(ctx, inode, &path).await,
            Self::Local { path, attr, preserve } => {
                let umask = ctx.settings.umask;
                let finish = move || {
                    let finished = if preserve {
                        keep_attributes(&path, &attr)
                    } else {
                        open_up(&path, attr.permissions & 0o777 & !umask)
                    };
                    finished.map_err(|error| Failure::local(&path, error))
                };
                aside(finish).await
            }
        }
    }
}

fn keep_attributes(path: &Path, attr: &FileAttr) -> io::Result<()> {
    let directory = File::open(path)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(&directory, Some(attr.uid), Some(attr.gid))?;
    }
    let mode = kept_mode(attr.permissions, attr.uid, attr.gid);
    directory.set_permissions(Permissions::from_mode(mode))?;
    directory.set_times(local_file::times_of(attr))
}

/// Gives a new directory its mode. The set-group-id bit that it has from the directory above stays, as with mkdir(2).
fn open_up(path: &Path, mode: u32) -> io::Result<()> {
    let directory = File::open(path)?;
    let inherited = directory.metadata()?.permissions().mode() & SET_ID_BITS;
    directory.set_permissions(Permissions::from_mode(mode | inherited))
}

#[cfg(test)]
mod tests {
    use std::fs::DirBuilder;
    use std::os::unix::fs::DirBuilderExt;

    use super::*;

    #[test]
    fn last_is_the_one_noted_last_until_it_is_done() {
        let unfinished = Unfinished::default();
        let path = |name: &[u8]| DfsPath::root().join(name);
        for (name, inode) in [(b"a", 2), (b"b", 3)] {
            unfinished.note(Directory::Remote { path: path(name), inode: InodeId(inode), kept: Kept::default() });
        }
        for _ in 0..2 {
            let (index, last) = unfinished.last().unwrap();
            assert!(matches!(last, Directory::Remote { path: last, .. } if index == 1 && last == path(b"b")));
        }
    }

    #[test]
    fn open_up_leaves_the_group_to_the_directory_above() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let (plain, shared) = (dir.path().join("plain"), dir.path().join("shared"));
        for (path, bits) in [(&plain, 0), (&shared, 0o2000)] {
            std::fs::create_dir(path).unwrap();
            std::fs::set_permissions(path, Permissions::from_mode(0o700 | bits)).unwrap();
            let below = path.join("below");
            DirBuilder::new().mode(0o700).create(&below).unwrap();
            assert_eq!(mode(&below), 0o700 | bits);
            open_up(&below, 0o550).unwrap();
            assert_eq!(mode(&below), 0o550 | bits);
        }
    }
}
