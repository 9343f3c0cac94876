//! Half-written files, to be removed when a transfer fails or is interrupted.
//!
//! Whoever makes a temporary file puts it here and takes it out once it has its final name. `main` removes what is left
//! when the command ends, however it ends short of being killed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use dfs_client::{Caller, DfsClient};
use dfs_common::ids::InodeId;
use tracing::debug;

/// A temporary file.
#[derive(Clone, Debug)]
pub(crate) enum Leftover {
    /// In the cluster: removed only while the name still leads to the inode that we made.
    Remote {
        /// Its directory.
        parent: InodeId,
        /// Its name there.
        name: Vec<u8>,
        /// What we made.
        inode: InodeId,
    },
    /// On this machine.
    Local(PathBuf),
}

/// The temporary files of a command.
#[derive(Default)]
pub(crate) struct Leftovers {
    files: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    files: HashMap<u64, Leftover>,
}

/// Which of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftoverId(u64);

impl Leftovers {
    /// Takes note of a temporary file.
    pub(crate) fn add(&self, leftover: Leftover) -> LeftoverId {
        let mut table = self.files.lock().expect("no holder panics");
        table.next += 1;
        let id = table.next;
        table.files.insert(id, leftover);
        LeftoverId(id)
    }

    /// The file has its final name.
    pub(crate) fn forget(&self, id: LeftoverId) {
        self.files.lock().expect("no holder panics").files.remove(&id.0);
    }

    /// Removes one file, as far as that works.
    pub(crate) async fn discard(&self, client: &DfsClient, caller: &Caller, id: LeftoverId) {
        let leftover = self.files.lock().expect("no holder panics").files.remove(&id.0);
        if let Some(leftover) = leftover {
            remove(client, caller, &leftover).await;
        }
    }

    /// Removes all files, as far as that works.
    pub(crate) async fn discard_all(&self, client: &DfsClient, caller: &Caller) {
        let files = std::mem::take(&mut self.files.lock().expect("no holder panics").files);
        for leftover in files.into_values() {
            remove(client, caller, &leftover).await;
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.lock().expect("no holder panics").files.is_empty()
    }
}

// The failure that brought us here has been told; one more about the cleaning would only hide it.
async fn remove(client: &DfsClient, caller: &Caller, leftover: &Leftover) {
    match leftover {
        Leftover::Local(path) => {
            if let Err(error) = std::fs::remove_file(path) {
                debug!(path = %path.display(), %error, "temporary file not removed");
            }
        }
        Leftover::Remote { parent, name, inode } => {
            let removed = match client.lookup(caller, *parent, name).await {
                Ok(attr) if attr.inode == *inode => client.unlink(caller, *parent, name).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                debug!(name = %String::from_utf8_lossy(name), error = %error.chain(), "temporary file not removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forget_leaves_the_others() {
        let leftovers = Leftovers::default();
        let first = leftovers.add(Leftover::Local("/a".into()));
        let second = leftovers.add(Leftover::Local("/b".into()));
        leftovers.forget(first);
        assert!(!leftovers.is_empty());
        leftovers.forget(second);
        assert!(leftovers.is_empty());
    }
}
