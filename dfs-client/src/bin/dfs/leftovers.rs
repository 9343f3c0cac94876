//! Half-written files, to be removed when a transfer fails or is interrupted.
//!
//! Whoever makes a temporary file notes it here and takes the note out once the file has its final name. `main` removes
//! what is left when the command ends, however it ends short of being killed. From then on nothing more is made: a
//! transfer that is still running on another thread gets a refusal. A file that is just being made in the cluster is
//! waited for, because its name would appear after we had looked for it.
//!
//! Only our own files are removed: the name must still lead to the inode that we made.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use dfs_client::{Caller, DfsClient};
use dfs_common::ids::InodeId;
use tokio::sync::Notify;
use tracing::debug;

use crate::local_id::LocalId;

/// A temporary file.
#[derive(Clone, Debug)]
pub(crate) enum Leftover {
    /// In the cluster.
    Remote {
        /// Its directory.
        parent: InodeId,
        /// Its name there.
        name: Vec<u8>,
        /// What we made; none when the answer was lost. The name is random, so what has it is ours also then.
        inode: Option<InodeId>,
    },
    /// On this machine.
    Local {
        /// Where.
        path: PathBuf,
        /// What we made.
        id: LocalId,
    },
}

/// The temporary files of a command.
#[derive(Default)]
pub(crate) struct Leftovers {
    table: Mutex<Table>,
    /// Told whenever a file is no longer being made.
    settled: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    /// None while it is being made.
    files: HashMap<u64, Option<Leftover>>,
    /// The command has ended: nothing is made any more.
    is_closed: bool,
}

impl Table {
    fn insert(&mut self, leftover: Option<Leftover>) -> LeftoverId {
        self.next += 1;
        self.files.insert(self.next, leftover);
        LeftoverId(self.next)
    }

    /// Any file that is there, with its number.
    fn made(&self) -> Option<(u64, Leftover)> {
        self.files.iter().find_map(|(id, leftover)| Some((*id, leftover.clone()?)))
    }
}

/// Which of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftoverId(u64);

impl Leftovers {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder panics")
    }

    /// Makes a file on this machine and notes it, in one step as far as the end of the command is concerned.
    ///
    /// # Errors
    /// Those of `make`; `Interrupted` once the command has ended.
    pub(crate) fn make_local<T>(
        &self,
        make: impl FnOnce() -> io::Result<(T, Leftover)>,
    ) -> io::Result<(T, LeftoverId)> {
        let mut table = self.table();
        if table.is_closed {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (made, leftover) = make()?;
        Ok((made, table.insert(Some(leftover))))
    }

    /// Notes that a file is going to be made. Ends with [`Leftovers::made`] or [`Leftovers::forget`]. None once the
    /// command has ended.
    pub(crate) fn expect(&self) -> Option<LeftoverId> {
        let mut table = self.table();
        if table.is_closed { None } else { Some(table.insert(None)) }
    }

    /// The expected file is there.
    pub(crate) fn made(&self, id: LeftoverId, leftover: Leftover) {
        self.table().files.insert(id.0, Some(leftover));
        self.settled.notify_waiters();
    }

    /// The file has its final name, or was not made.
    pub(crate) fn forget(&self, id: LeftoverId) {
        self.table().files.remove(&id.0);
        self.settled.notify_waiters();
    }

    /// Removes one file, as far as that works.
    pub(crate) async fn discard(&self, client: &DfsClient, caller: &Caller, id: LeftoverId) {
        let leftover = self.table().files.get(&id.0).cloned().flatten();
        if let Some(leftover) = leftover {
            remove(client, caller, &leftover).await;
        }
        self.forget(id);
    }

    /// Lets nothing more be made, waits for what is being made, and removes all files, as far as that works.
    pub(crate) async fn discard_all(&self, client: &DfsClient, caller: &Caller) {
        self.table().is_closed = true;
        loop {
            let settled = self.settled.notified();
            let next = self.table().made();
            match next {
                Some((id, leftover)) => {
                    remove(client, caller, &leftover).await;
                    self.forget(LeftoverId(id));
                }
                None if self.is_empty() => return,
                None => settled.await,
            }
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.table().files.is_empty()
    }
}

// The failure that brought us here has been told; one more about the cleaning would only hide it.
async fn remove(client: &DfsClient, caller: &Caller, leftover: &Leftover) {
    match leftover {
        Leftover::Local { path, id } => {
            if let Err(error) = remove_local(path, *id) {
                debug!(path = %path.display(), %error, "temporary file not removed");
            }
        }
        Leftover::Remote { parent, name, inode } => {
            let removed = match client.lookup(caller, *parent, name).await {
                Ok(attr) if inode.is_none_or(|inode| attr.inode == inode) => client.unlink(caller, *parent, name).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                debug!(name = %String::from_utf8_lossy(name), error = %error.chain(), "temporary file not removed");
            }
        }
    }
}

fn remove_local(path: &std::path::Path, id: LocalId) -> io::Result<()> {
    if LocalId::of(&std::fs::symlink_metadata(path)?) == id { std::fs::remove_file(path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(path: &std::path::Path) -> Leftover {
        let id = LocalId::of(&std::fs::symlink_metadata(path).unwrap());
        Leftover::Local { path: path.to_owned(), id }
    }

    #[test]
    fn forget_leaves_the_others() {
        let leftovers = Leftovers::default();
        let first = leftovers.expect().unwrap();
        let second = leftovers.expect().unwrap();
        leftovers.forget(first);
        assert!(!leftovers.is_empty());
        leftovers.forget(second);
        assert!(leftovers.is_empty());
    }

    #[test]
    fn remove_local_leaves_a_file_that_somebody_else_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("t"), dir.path().join("other"));
        std::fs::write(&path, "ours").unwrap();
        let Leftover::Local { id, .. } = local(&path) else { unreachable!() };
        std::fs::write(&other, "theirs").unwrap();
        std::fs::rename(&other, &path).unwrap();
        remove_local(&path, id).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
        let Leftover::Local { id, .. } = local(&path) else { unreachable!() };
        remove_local(&path, id).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn nothing_is_made_once_the_command_has_ended() {
        let leftovers = Leftovers::default();
        leftovers.table().is_closed = true;
        assert!(leftovers.expect().is_none());
        let made = leftovers.make_local::<()>(|| unreachable!());
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
