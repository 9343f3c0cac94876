//! Half-written files, to be removed when a transfer fails or is interrupted.
//!
//! Whoever makes a temporary file notes it here and takes the note out once the file has its final name. What is left is
//! removed when the command ends: by itself, by a panic or by one of the signals that `ending` heeds. From then on nothing
//! more is made: a transfer that is still running on another thread gets a refusal. A file that is just being made is waited
//! for, because its name would appear after we had looked for it.
//!
//! ```text
//! expect -> Making -> Made -> forget                              it has its final name, or was not made
//!                       \--> Removing -> forget                   by `discard` and `discard_all`
//!                                    \--> Left                    it could not be removed: the user is told
//! ```
//!
//! - Only our own files are removed: the name must still lead to the inode that we made.
//! - The lock is never held while a file is made or removed: a disk that hangs keeps nobody from removing the others.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dfs_client::{Caller, DfsClient};
use dfs_common::ErrorKind;
use dfs_common::ids::InodeId;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use crate::aside::aside;
use crate::failure::Failure;
use crate::local_id::LocalId;
use crate::local_name::LocalName;

/// How long the removal of temporary files is waited for: the cluster may be away, and a hung disk, too, may be why they are
/// to be removed.
pub(crate) const CLEANUP_PATIENCE: Duration = Duration::from_secs(5);

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
        /// Its name.
        name: LocalName,
        /// What we made; none while nobody has looked. The name is random here, too.
        id: Option<LocalId>,
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

/// Which directory each file was put into, and under which name. The file alone tells nothing: when somebody has replaced it,
/// its number is given to the next one that is made.
pub(crate) type Published = HashMap<LocalId, (LocalId, OsString)>;

/// The temporary files of a command.
#[derive(Default)]
pub(crate) struct Leftovers {
    table: Mutex<Table>,
    /// Told whenever a file is no longer being made.
    settled: Notify,
    /// Files on this machine that have replaced others under their final names.
    published: Mutex<Published>,
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
    /// Its removal has failed. It is not tried again: what kept it from working has been waited for.
    Left,
}

impl Table {
    /// Takes one of the files that are there, or the one of that number, to be removed.
    fn take(&mut self, wanted: impl Fn(u64, Place) -> bool) -> Option<(LeftoverId, Leftover)> {
        let is_there = |state: &State| matches!(state, State::Made(_));
        let (id, (_, state)) =
            self.files.iter_mut().find(|(id, (place, state))| is_there(state) && wanted(**id, *place))?;
        match std::mem::replace(state, State::Removing) {
            State::Made(leftover) => Some((LeftoverId(*id), leftover)),
            State::Making | State::Removing | State::Left => None,
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
    /// Those of `make`; `Interrupted` once the command has ended; those of stat, after which the file stays noted.
    pub(crate) fn make_local<T>(
        &self,
        name: &LocalName,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<(T, LocalId, LeftoverId)> {
        let Some(id) = self.expect(Place::Here) else { return Err(io::ErrorKind::Interrupted.into()) };
        let note = |is| self.made(id, Leftover::Local { name: name.clone(), id: is });
        match make() {
            Ok(made) => {
                let is = name.id();
                note(is.as_ref().ok().copied());
                Ok((made, is?, id))
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

    /// Calls `replace` with the files that have replaced others so far, to which it adds its own. Nobody else replaces one
    /// meanwhile. A disk that hangs in it keeps nobody from removing files.
    pub(crate) fn replacing<T>(&self, replace: impl FnOnce(&mut Published) -> T) -> T {
        replace(&mut self.published.lock().expect("no holder panics"))
    }

    /// Removes one file, as far as that works, because of a failure. One that ends the command is to be told first: then
    /// nobody waits here for the removal, and `ending` does later.
    pub(crate) async fn discard(
        self: &Arc<Self>,
        client: &DfsClient,
        caller: &Caller,
        id: LeftoverId,
        because: &Failure,
    ) {
        let taken = self.table().take(|number, _| number == id.0);
        let Some((id, leftover)) = taken else { return };
        let removal = self.spawn_removal(client, caller, id, leftover);
        if !because.is_fatal() {
            // It goes on when the time is over. It panics only when a removal does, which has been told.
            let _ = timeout(CLEANUP_PATIENCE, removal).await;
        }
    }

    /// Runs as its own task. The waiting task may be aborted, and the entry is already `Removing`, so nobody else would
    /// remove the file.
    fn spawn_removal(
        self: &Arc<Self>,
        client: &DfsClient,
        caller: &Caller,
        id: LeftoverId,
        leftover: Leftover,
    ) -> JoinHandle<()> {
        let (leftovers, client, caller) = (Arc::clone(self), client.clone(), caller.clone());
        tokio::spawn(async move {
            if remove(&client, &caller, &leftover).await {
                leftovers.forget(id);
            } else {
                leftovers.leave(id);
            }
        })
    }

    /// The file could not be removed.
    fn leave(&self, id: LeftoverId) {
        if let Some((_, state)) = self.table().files.get_mut(&id.0) {
            *state = State::Left;
        }
        self.settled.notify_waiters();
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
            if !self.are_to_go(place) {
                return;
            }
            settled.await;
        }
    }

    /// Returns once none at a place is being made or removed.
    pub(crate) async fn gone(&self, place: Place) {
        loop {
            let settled = self.settled.notified();
            if !self.are_to_go(place) {
                return;
            }
            settled.await;
        }
    }

    fn take_made(&self, place: Place) -> Option<(LeftoverId, Leftover)> {
        self.table().take(|_, of| of == place)
    }

    fn are_to_go(&self, place: Place) -> bool {
        self.table().files.values().any(|(of, state)| *of == place && !matches!(state, State::Left))
    }

    /// Whether any are there, at either place, or are being made or removed.
    pub(crate) fn are_left(&self) -> bool {
        !self.table().files.is_empty()
    }
}

/// Removes a file, and says whether nothing of ours has the name any more. Why not is not told: it would hide the failure
/// that brought us here. That something is left is told at the end (`ending`).
async fn remove(client: &DfsClient, caller: &Caller, leftover: &Leftover) -> bool {
    match leftover {
        Leftover::Local { name, id } => {
            let (name, id) = (name.clone(), *id);
            let remove = move || remove_local(&name, id).map_err(|error| Failure::local(name.path(), error));
            let removed = aside(remove).await;
            if let Err(failure) = &removed {
                debug!(%failure, "temporary file not removed");
            }
            removed.is_ok()
        }
        Leftover::Remote { parent, name, inode } => {
            let removed = remove_remote(client, caller, (*parent, name), *inode).await;
            if let Err(error) = &removed {
                debug!(name = %String::from_utf8_lossy(name), error = %error.chain(), "temporary file not removed");
            }
            removed.is_ok()
        }
    }
}

async fn remove_remote(
    client: &DfsClient,
    caller: &Caller,
    (parent, name): (InodeId, &[u8]),
    inode: Option<InodeId>,
) -> dfs_common::Result<()> {
    match client.lookup(caller, parent, name).await {
        Ok(attr) if inode.is_none_or(|inode| attr.inode == inode) => {}
        Ok(_) => return Ok(()),
        // It went with its directory, or somebody has removed it.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Stale) => return Ok(()),
        Err(error) => return Err(error),
    }
    match client.unlink(caller, parent, name).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn remove_local(name: &LocalName, id: Option<LocalId>) -> io::Result<()> {
    let remove = || {
        let is = name.id()?;
        if id.is_none_or(|id| is == id) { name.remove() } else { Ok(()) }
    };
    match remove() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn at(path: &Path) -> LocalName {
        LocalName::at(path).unwrap()
    }

    #[test]
    fn forget_leaves_the_others() {
        let leftovers = Leftovers::default();
        let first = leftovers.expect(Place::Cluster).unwrap();
        let second = leftovers.expect(Place::Cluster).unwrap();
        leftovers.forget(first);
        assert!(leftovers.are_to_go(Place::Cluster) && !leftovers.are_to_go(Place::Here));
        leftovers.forget(second);
        assert!(!leftovers.are_left());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_removed_is_left_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let leftovers = Leftovers::default();
        let path = dir.path().join("t");
        // remove_file removes no directory.
        let (_, _, made) = leftovers.make_local(&at(&path), || std::fs::create_dir(&path)).unwrap();
        let (id, leftover) = leftovers.take_made(Place::Here).unwrap();
        assert_eq!(id.0, made.0);
        let Leftover::Local { name, id: is } = leftover else { unreachable!() };
        assert!(remove_local(&name, is).is_err());
        leftovers.leave(id);
        assert!(leftovers.take_made(Place::Here).is_none(), "it is not tried again");
        leftovers.gone(Place::Here).await;
        assert!(leftovers.are_left());
    }

    #[test]
    fn a_file_that_cannot_be_looked_at_stays_noted() {
        let dir = tempfile::tempdir().unwrap();
        let (noted, elsewhere) = (dir.path().join("t"), dir.path().join("elsewhere"));
        let leftovers = Leftovers::default();
        // The name under which it will be found is there only later.
        assert!(leftovers.make_local(&at(&noted), || std::fs::write(&elsewhere, "ours")).is_err());
        std::fs::rename(&elsewhere, &noted).unwrap();
        let (_, leftover) = leftovers.take_made(Place::Here).expect("it is noted");
        let Leftover::Local { name, id } = leftover else { unreachable!() };
        remove_local(&name, id).unwrap();
        assert!(!noted.exists());
    }

    #[test]
    fn a_file_that_is_long_in_the_making_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, "ours").unwrap();
        let path = at(&path);
        let leftovers = Leftovers::default();
        // In the midst of the making of one file, all is done with another.
        let outer = leftovers.make_local(&path, || {
            let ((), _, inner) = leftovers.make_local(&path, || Ok(()))?;
            let (taken, _) = leftovers.take_made(Place::Here).expect("the inner one is there");
            assert_eq!(taken.0, inner.0);
            assert!(leftovers.take_made(Place::Here).is_none(), "nobody else removes it");
            leftovers.forget(taken);
            Err::<(), _>(io::Error::other("disk gone"))
        });
        assert!(outer.is_err() && !leftovers.are_left());
    }

    #[test]
    fn remove_local_leaves_a_file_that_somebody_else_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("t"), dir.path().join("other"));
        std::fs::write(&path, "ours").unwrap();
        let name = at(&path);
        let ours = name.id().unwrap();
        std::fs::write(&other, "theirs").unwrap();
        std::fs::rename(&other, &path).unwrap();
        remove_local(&name, Some(ours)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
        remove_local(&name, Some(name.id().unwrap())).unwrap();
        assert!(!path.exists());
        remove_local(&name, Some(ours)).unwrap();
    }

    #[test]
    fn nothing_is_made_once_the_command_has_ended() {
        let leftovers = Leftovers::default();
        leftovers.table().is_closed = true;
        assert!(leftovers.expect(Place::Cluster).is_none());
        let made = leftovers.make_local::<()>(&at(Path::new("t")), || unreachable!());
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
