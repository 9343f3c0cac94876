//! Directories of a copy that do not have their attributes yet. They get them once everything is in them, the deepest first:
//! their mode may forbid writing, and whatever is made in a directory changes its time.
//!
//! `put`, `cp` and `get` note them here and finish them when a source is copied. When a command fails or is ended by a
//! signal, the rest is finished at its end (`ending`), after the temporary files are removed, which needs the right to write.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use dfs_client::{Caller, DfsClient};
use dfs_common::attr::FileAttr;
use dfs_common::ids::InodeId;

use crate::aside::aside;
use crate::failure::{Failure, Outcome};
use crate::kept::Kept;
use crate::local_attributes;
use crate::local_id::LocalId;
use crate::path::DfsPath;

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
        /// Where it was.
        path: PathBuf,
        /// Which: it alone gets them, whatever has the name by then.
        is: LocalId,
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

    /// Gives all of them what they are to get. What fails is told to `report`.
    ///
    /// # Errors
    /// A failure that would meet all others, too.
    pub(crate) async fn finish(
        &self,
        client: &DfsClient,
        caller: &Caller,
        umask: u32,
        report: impl Fn(&Failure),
    ) -> Outcome {
        while let Some((index, directory)) = self.last() {
            let finished = directory.finish(client, caller, umask).await;
            // Not before: if a signal ends us meanwhile, it is finished at the end.
            self.list().truncate(index);
            match finished {
                Err(failure) if failure.is_fatal() => return Err(failure),
                Err(failure) => report(&failure),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn last(&self) -> Option<(usize, Directory)> {
        let list = self.list();
        list.last().map(|last| (list.len() - 1, last.clone()))
    }
}

impl Directory {
    async fn finish(self, client: &DfsClient, caller: &Caller, umask: u32) -> Outcome {
        match self {
            Self::Remote { path, inode, kept } => kept.apply(client, caller, inode, &path).await,
            Self::Local { path, is, attr, preserve } => {
                let finish = move || {
                    let finished = finish_local(&path, is, &attr, (!preserve).then_some(umask));
                    finished.map_err(|error| Failure::local(&path, error))
                };
                aside(finish).await
            }
        }
    }
}

/// Without a umask, it gets all that `attr` has; with one, only the mode.
fn finish_local(path: &Path, is: LocalId, attr: &FileAttr, umask: Option<u32>) -> io::Result<()> {
    let directory = local_attributes::open_directory(path, is)?;
    match umask {
        None => local_attributes::keep(&directory, attr),
        Some(umask) => local_attributes::open_up(&directory, attr.permissions & 0o777 & !umask),
    }
}

#[cfg(test)]
mod tests {
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
}
