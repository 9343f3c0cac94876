//! Half-written files, to be removed when a transfer fails or is interrupted.
//!
//! Whoever makes a temporary file notes it here and takes the note out once the file has its final name. What is left is
//! removed when the command ends, however it ends short of being killed. From then on nothing more is made: a transfer
//! that is still running on another thread gets a refusal. A file that is just being made is waited for, because its name
//! would appear after we had looked for it.
//!
//! ```text
//! expect -> Making -> Made -> forget                              it has its final name, or was not made
//!                       \--> Removing -> forget                   by `discard` and `discard_all`
//! ```
//!
//! - Only our own files are removed: the name must still lead to the inode that we made.
//! - The lock is never held while a file is made or removed: a disk that hangs keeps nobody from removing the others.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use dfs_client::{Caller, DfsClient};
use dfs_common::ids::InodeId;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::debug;

use crate::aside::aside;
use crate::failure::Failure;

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

/// Where a temporary file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the cluster.
    Cluster,
    /// On this machine.
    Here,
}

impl Leftover {
    fn place(&self) -> Place {
        match self {
            Self::Remote { .. } => Place::Cluster,
            Self::Local { .. } => Place::Here,
        }
    }
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
    files: HashMap<u64, (Place, State)>,
    /// The command has ended: nothing is made any more.
    is_closed: bool,
}

enum State {
    Making,
    Made(Leftover),
    Removing,
}

impl Table {
    /// Takes one of the files that are there, or the one of that number, to be removed.
    fn take(&mut self, wanted: impl Fn(u64, Place) -> bool) -> Option<(LeftoverId, Leftover)> {
        let is_there = |state: &State| matches!(state, State::Made(_));
        let (id, (_, state)) =
            self.files.iter_mut().find(|(id, (place, state))| is_there(state) && wanted(**id, *place))?;
        match std::mem::replace(state, State::Removing) {
            State::Made(leftover) => Some((LeftoverId(*id), leftover)),
            State::Making | State::Removing => None,
        }
    }
}

/// Which of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftoverId(u64);

impl Leftovers {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder panics")
    }

    /// Makes a file on this machine and notes it.
    ///
    /// # Errors
    /// Those of `make`; `Interrupted` once the command has ended.
    pub(crate) fn make_local<T>(
        &self,
        make: impl FnOnce() -> io::Result<(T, Leftover)>,
    ) -> io::Result<(T, LeftoverId)> {
        let Some(id) = self.expect(Place::Here) else { return Err(io::ErrorKind::Interrupted.into()) };
        match make() {
            Ok((made, leftover)) => {
                self.made(id, leftover);
                Ok((made, id))
            }
            Err(error) => {
                self.forget(id);
                Err(error)
            }
        }
    }

    /// Notes that a file is going to be made. Ends with [`Leftovers::made`] or [`Leftovers::forget`]. None once the
    /// command has ended.
    pub(crate) fn expect(&self, place: Place) -> Option<LeftoverId> {
        let mut table = self.table();
        if table.is_closed {
            return None;
        }
        table.next += 1;
        let id = table.next;
        table.files.insert(id, (place, State::Making));
        Some(LeftoverId(id))
    }

    /// The expected file is there.
    pub(crate) fn made(&self, id: LeftoverId, leftover: Leftover) {
        self.table().files.insert(id.0, (leftover.place(), State::Made(leftover)));
        self.settled.notify_waiters();
    }

    /// The file has its final name, or was not made.
    pub(crate) fn forget(&self, id: LeftoverId) {
        self.table().files.remove(&id.0);
        self.settled.notify_waiters();
    }

    /// Removes one file, as far as that works.
    pub(crate) async fn discard(self: &Arc<Self>, client: &DfsClient, caller: &Caller, id: LeftoverId) {
        let taken = self.table().take(|number, _| number == id.0);
        if let Some((id, leftover)) = taken {
            // It panics only when a removal does, which has been told.
            let _ = self.spawn_removal(client, caller, id, leftover).await;
        }
    }

    /// Removes a file that was taken for it. A task of its own: whoever waits for it may be ended meanwhile, and nobody else
    /// would take the file.
    fn spawn_removal(
        self: &Arc<Self>,
        client: &DfsClient,
        caller: &Caller,
        id: LeftoverId,
        leftover: Leftover,
    ) -> JoinHandle<()> {
        let (leftovers, client, caller) = (Arc::clone(self), client.clone(), caller.clone());
        tokio::spawn(async move {
            remove(&client, &caller, &leftover).await;
            leftovers.forget(id);
        })
    }

    /// Lets nothing more be made, waits for what is being made at a place, and removes all files there, as far as that
    /// works.
    pub(crate) async fn discard_all(self: &Arc<Self>, client: &DfsClient, caller: &Caller, place: Place) {
        self.table().is_closed = true;
        loop {
            let settled = self.settled.notified();
            // One that cannot be removed keeps none of the others waiting.
            while let Some((id, leftover)) = self.take_made(place) {
                self.spawn_removal(client, caller, id, leftover);
            }
            if !self.are_left(place) {
                return;
            }
            settled.await;
        }
    }

    /// Returns once none are left at a place.
    pub(crate) async fn gone(&self, place: Place) {
        loop {
            let settled = self.settled.notified();
            if !self.are_left(place) {
                return;
            }
            settled.await;
        }
    }

    fn take_made(&self, place: Place) -> Option<(LeftoverId, Leftover)> {
        self.table().take(|_, of| of == place)
    }

    /// Whether any are left at a place, those included that are being made or removed.
    pub(crate) fn are_left(&self, place: Place) -> bool {
        self.table().files.values().any(|(of, _)| *of == place)
    }
}

// The failure that brought us here has been told; one more about the cleaning would only hide it.
async fn remove(client: &DfsClient, caller: &Caller, leftover: &Leftover) {
    match leftover {
        Leftover::Local { path, id } => {
            let (path, id) = (path.clone(), *id);
            let removed = aside(move || remove_local(&path, id).map_err(|error| Failure::local(&path, error))).await;
            if let Err(failure) = removed {
                debug!(%failure, "temporary file not removed");
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
        let first = leftovers.expect(Place::Cluster).unwrap();
        let second = leftovers.expect(Place::Cluster).unwrap();
        leftovers.forget(first);
        assert!(leftovers.are_left(Place::Cluster) && !leftovers.are_left(Place::Here));
        leftovers.forget(second);
        assert!(!leftovers.are_left(Place::Cluster));
    }

    #[test]
    fn a_file_that_is_long_in_the_making_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, "ours").unwrap();
        let leftovers = Leftovers::default();
        // In the midst of the making of one file, all is done with another.
        let outer = leftovers.make_local(|| {
            let (_, inner) = leftovers.make_local(|| Ok(((), local(&path))))?;
            let (taken, _) = leftovers.take_made(Place::Here).expect("the inner one is there");
            assert_eq!(taken.0, inner.0);
            assert!(leftovers.take_made(Place::Here).is_none(), "nobody else removes it");
            leftovers.forget(taken);
            Err::<((), Leftover), _>(io::Error::other("disk gone"))
        });
        assert!(outer.is_err() && !leftovers.are_left(Place::Here));
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
        assert!(leftovers.expect(Place::Cluster).is_none());
        let made = leftovers.make_local::<()>(|| unreachable!());
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
