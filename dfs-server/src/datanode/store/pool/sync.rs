//! Making replicas survive a loss of power when they were written without that promise.
//!
//! Syncs of one replica wait for each other: when one fails, the kernel tells a later one, on descriptors of its own, nothing
//! of that.

use std::io;
use std::path::Path;
use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp};

use super::super::disk::{self, DiskFile};
use super::super::faults::is_shortage;
use super::super::open_state::Step;
use super::super::replica::{Entry, Finalized, OpenReplica};
use super::{OPEN_TRIES, Pool, is_same, not_found, pair};

impl Pool {
    /// See `ReplicaStore::sync`.
    pub(in crate::datanode::store) fn sync(&self, block: Block) -> Result<()> {
        for _ in 0..OPEN_TRIES {
            let synced = match self.lookup(block)? {
                Entry::Finalized(finalized) => {
                    check_length(block, finalized.length)?;
                    // Remembered first: an append that begins now must already know of the promise.
                    let promised = Finalized { maybe_synced: true, ..finalized };
                    if self.replace_finalized(block.id, &finalized, Entry::Finalized(promised)).is_err() {
                        continue;
                    }
                    self.sync_finalized(block, &promised)?
                }
                Entry::Open(replica) => self.sync_open(&replica, block)?,
                Entry::Deleting(_) => return Err(not_found(block)),
            };
            if synced == Synced::Yes {
                return Ok(());
            }
        }
        Err(DfsError::new(ErrorKind::Busy, format!("{block} keeps changing, try again")))
    }

    /// Syncs a finalized replica, unless that has failed before. One whose files are gone is forgotten.
    pub(super) fn sync_finalized(&self, block: Block, finalized: &Finalized) -> Result<Synced> {
        let (volume, dirs) = self.home_of(finalized);
        let _syncing = dirs.lock_sync(block.id);
        if let Entry::Finalized(now) = self.lookup(block)? {
            Self::check_sound(block, &now)?;
        }
        match sync_files(&dirs.paths.finalized_dir(block.id), block.id, finalized.generation_stamp) {
            Ok(()) => Ok(Synced::Yes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !matches!(self.lookup(block)?, Entry::Finalized(now) if now == *finalized) {
                    return Ok(Synced::Moved);
                }
                let gone = Block { generation_stamp: finalized.generation_stamp, length: finalized.length, ..block };
                self.forget_missing(gone, finalized);
                Err(not_found(block))
            }
            Err(error) => {
                if !is_shortage(&error) {
                    self.distrust(block.id, &volume, &dirs);
                }
                volume.check(Err(error), || format!("sync {block}"))
            }
        }
    }

    /// Syncs what a replica has now while its writer goes on; one that is open no more has moved.
    pub(in crate::datanode::store) fn sync_open(&self, replica: &Arc<OpenReplica>, block: Block) -> Result<Synced> {
        let promised = {
            // Not in the middle of a packet: from here on the writer knows of the promise before it overwrites a checksum.
            let _writing = replica.writing.lock();
            // Whoever makes a record of the replica knows of the promise as well, or has made it.
            let replicas = self.replicas.lock();
            if !replicas.get(&block.id).is_some_and(|entry| is_same(entry, replica)) {
                return Ok(Synced::Moved);
            }
            replica.change(|state| {
                check_length(block, state.on_disk())?;
                state.step(Step::Promised);
                Ok(state.promised())
            })?
        };
        let synced = sync_open_files(replica, promised);
        if synced.is_err() && replica.state().doubted().is_some() {
            // Finalized meanwhile, perhaps.
            self.distrust(block.id, &replica.volume, &replica.dirs);
        }
        replica.volume.check(synced, || format!("sync {}", replica.block()))?;
        Ok(Synced::Yes)
    }
}

/// What came of syncing a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::datanode::store) enum Synced {
    Yes,
    /// Its files are not where they were, or it is another replica by now.
    Moved,
}

/// A replica that lost its end, with the power of its node, is not what the caller wrote.
fn check_length(block: Block, here: u64) -> Result<()> {
    if here >= block.length {
        return Ok(());
    }
    Err(DfsError::new(ErrorKind::StaleGeneration, format!("of {block} only {here} bytes are on this DataNode")))
}

pub(super) fn sync_files(dir: &Path, id: BlockId, stamp: GenerationStamp) -> io::Result<()> {
    let (data, meta) = pair(dir, id, stamp);
    DiskFile::open(&data)?.sync_data()?;
    DiskFile::open(&meta)?.sync_data()?;
    disk::sync_dir(dir)
}

fn sync_open_files(replica: &OpenReplica, promised: u64) -> io::Result<()> {
    let files = replica.hold_files();
    let (data, meta, place) = (DiskFile::open(&files.data)?, DiskFile::open(&files.meta)?, files.place);
    drop(files);
    replica.sync_promised(promised, || {
        data.sync_data()?;
        meta.sync_data()?;
        // Finalized meanwhile: then the promise was known, and finalizing has synced its directory, or will.
        disk::sync_dir(&replica.dir(place))
    })
}
