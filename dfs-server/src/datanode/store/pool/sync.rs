//! Making replicas survive a loss of power when they were written without that promise.

use std::fs;
use std::io;
use std::path::Path;

use dfs_common::block::Block;
use dfs_common::durable;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp};

use super::super::layout;
use super::super::replica::{Entry, Finalized, OpenReplica};
use super::{OPEN_TRIES, Pool, not_found};

impl Pool {
    /// See `ReplicaStore::sync`.
    pub(in crate::datanode::store) fn sync(&self, block: Block) -> Result<()> {
        for _ in 0..OPEN_TRIES {
            match self.lookup(block)? {
                Entry::Finalized(finalized) => {
                    check_length(block, finalized.length)?;
                    // Remembered first: an append that begins now must already know of the promise.
                    let promised = Finalized { maybe_synced: true, ..finalized };
                    if self.replace_finalized(block.id, &finalized, Entry::Finalized(promised)).is_err() {
                        continue;
                    }
                    let (volume, dirs) = self.home_of(&finalized);
                    match sync_files(&dirs.paths.finalized_dir(block.id), block.id, finalized.generation_stamp) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        result => return volume.check(result, || format!("sync {block}")),
                    }
                }
                Entry::Open(replica) => return sync_open(&replica, block),
                Entry::Deleting(_) => return Err(not_found(block)),
            }
        }
        Err(DfsError::new(ErrorKind::Busy, format!("{block} keeps changing, try again")))
    }
}

/// A replica that lost its end, with the power of its node, is not what the caller wrote.
fn check_length(block: Block, here: u64) -> Result<()> {
    if here >= block.length {
        return Ok(());
    }
    Err(DfsError::new(ErrorKind::StaleGeneration, format!("of {block} only {here} bytes are on this DataNode")))
}

pub(super) fn sync_files(dir: &Path, id: BlockId, stamp: GenerationStamp) -> io::Result<()> {
    fs::File::open(dir.join(layout::data_name(id)))?.sync_data()?;
    fs::File::open(dir.join(layout::meta_name(id, stamp)))?.sync_data()?;
    durable::sync_dir(dir)
}

/// Syncs what a replica has now while its writer goes on.
fn sync_open(replica: &OpenReplica, block: Block) -> Result<()> {
    {
        // Not in the middle of a packet: from here on the writer knows of the promise before it overwrites a checksum.
        let _writing = replica.writing.lock();
        let mut state = replica.state.lock();
        check_length(block, state.on_disk)?;
        state.synced = state.on_disk;
    }
    let synced = (|| {
        let files = replica.hold_files();
        let (data, meta, place) = (fs::File::open(&files.data)?, fs::File::open(&files.meta)?, files.place);
        drop(files);
        data.sync_data()?;
        meta.sync_data()?;
        durable::sync_dir(&replica.dir(place))?;
        // Finalized meanwhile: then the promise was known, and finalizing has synced its directory, or will.
        Ok(())
    })();
    replica.volume.check(synced, || format!("sync {}", replica.block()))
}
