//! A copy that takes the place of a finalized replica of an older generation, as of a node that was away while its block was
//! appended to and that the writer's pipeline takes in again.
//!
//! Before the copy is whole, the older one may have the only bytes that were ever synced: the node that sends may die. So
//! its files stay as they are until the copy is on disk, and its record lies beside the copy (`OpenReplica::outdated`), to come
//! back if nothing becomes of that.
//!
//! ```text
//! tmp/ copy --> rbw/ copy, synced --> older checksums to tmp/ --> older data to tmp/, durably --> both gone
//!   restart: older       older                copy waits for recovery        the same            the same
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::BlockId;
use tracing::warn;

use super::super::disk;
use super::super::replica::{Condition, Entry, OpenReplica, Place};
use super::append::relocate;
use super::sync::sync_whole;
use super::{Pool, add_suspect, pair, used};

impl Pool {
    /// Moves a whole copy to where a restart finds it, and syncs it. To be called with its `writing` lock held.
    pub(super) fn bring_to_rbw(&self, copy: &OpenReplica) -> Result<()> {
        let moved = relocate(copy, Place::Rbw, copy.block().generation_stamp);
        copy.volume.check(moved, || format!("move the copy of blk_{}", copy.id))?;
        copy.volume.check(sync_whole(copy), || format!("sync the copy of blk_{}", copy.id))
    }

    /// Clears away what a copy takes the place of that lies in `rbw`, on disk. To be called with its `writing` lock held.
    pub(super) fn supersede(&self, copy: &OpenReplica) -> Result<()> {
        let block = copy.block();
        if let Some(old) = copy.outdated()
            && block.length < old.length
        {
            let words = format!("the copy of {block} is shorter than what is here, {} bytes", old.length);
            return Err(DfsError::new(ErrorKind::InvalidArgument, words));
        }
        // From here on nobody brings it back who deletes the copy.
        let Some(old) = copy.take_outdated() else { return Ok(()) };
        let (volume, dirs) = self.home_of(&old);
        let dir = dirs.paths.finalized_dir(block.id);
        let files = pair(&dir, block.id, old.generation_stamp);
        let number = dirs.number_copy();
        let in_tmp = |what: &str| dirs.paths.tmp.join(format!("older_{number}_of_{}.{what}", block.id));
        let aside = (in_tmp("data"), in_tmp("meta"));
        if let Err(error) = take_out(&files, &aside, &dir) {
            copy.set_outdated(old);
            return volume.check(Err(error), || format!("make way for {block}"));
        }
        for path in [&aside.0, &aside.1] {
            if let Err(error) = disk::remove_if_there(path) {
                warn!(%block, path = %path.display(), %error, "a file of an older replica stays until the next start");
            }
        }
        volume.subtract_used(used(&old));
        if old.condition != Condition::Sound {
            dirs.clear_doubt(block.id);
        }
        Ok(())
    }

    /// Nothing has become of a copy, which the map has no more: what it was to take the place of is there again. To be called
    /// with the map locked.
    pub(super) fn bring_back(&self, replicas: &mut BTreeMap<BlockId, Entry>, copy: &OpenReplica) {
        let Some(old) = copy.take_outdated() else { return };
        if self.home_of(&old).0.is_failed() {
            return;
        }
        let entry = Entry::Finalized(old);
        // An order to delete it may have come meanwhile, and found the copy.
        self.tell(copy.id, &entry);
        add_suspect(&self.suspects, &self.name, copy.id, &entry);
        replicas.insert(copy.id, entry);
    }
}

/// Takes a replica's files out of their directory, durably; if that fails they are back.
fn take_out(files: &(PathBuf, PathBuf), aside: &(PathBuf, PathBuf), dir: &Path) -> io::Result<()> {
    rename_if_there(&files.1, &aside.1)?;
    let taken = rename_if_there(&files.0, &aside.0).and_then(|()| disk::sync_dir(dir));
    if taken.is_err() {
        let _ = rename_if_there(&aside.0, &files.0);
        let _ = rename_if_there(&aside.1, &files.1);
    }
    taken
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match disk::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}
