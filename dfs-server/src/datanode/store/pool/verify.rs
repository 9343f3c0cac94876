//! Replicas that are doubted: opened to be read as the device has them, and what comes of it.
//!
//! ```text
//!            a sync failed             verified on the device
//!   sound ───────────────────▶ suspect ─────────────────────▶ sound
//!     │                           │
//!     │  bad when verified        │ bad when verified           verified anew, on suspicion, and good
//!     └──────────────────▶ corrupt ◀────────────────────────────────────────────────────▶ sound
//! ```
//!
//! A suspect or corrupt replica can still be read, because every reader checks what it gets. It takes no sync, no append, and no
//! recovery but this: of a corrupt one a block recovery may claim what its checksums prove, and have it cut to that. Corrupt ones
//! are told of with each full report: no lost call and no overflow keeps them from the NameNodes.
//!
//! That a sync has failed is noted on the device too (`PoolDirs::note_doubt`), and in memory when the volume is taken out: the
//! replica is a suspect again after a restart, and when the volume comes back.

use std::io;
use std::path::Path;
use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::BlockId;
use tracing::warn;

use super::super::disk::DiskFile;
use super::super::events::EventKind;
use super::super::faults::is_damage;
use super::super::open_state::Step;
use super::super::pool_dirs::PoolDirs;
use super::super::reader::ReplicaReader;
use super::super::replica::{Condition, Entry, Finalized};
use super::super::volume::Volume;
use super::sync::sync_files;
use super::{Home, Pool, not_found};

impl Pool {
    /// A sync of a finalized replica has failed, or of one that is finalized by now.
    pub(super) fn distrust(&self, id: BlockId, volume: &Volume, dirs: &PoolDirs) {
        let index = volume.index();
        {
            let mut replicas = self.replicas.lock();
            // With the map locked: who verifies it now finds that it is to be verified once more.
            self.suspects.add(index, &self.name, id);
            match replicas.get_mut(&id) {
                Some(Entry::Finalized(finalized))
                    if finalized.volume == index && finalized.condition == Condition::Sound =>
                {
                    finalized.condition = Condition::Suspect;
                }
                // Reopened meanwhile.
                Some(Entry::Open(replica)) if replica.volume.index() == index => {
                    replica.step(Step::Doubted(0));
                }
                None if volume.is_failed() => {
                    self.untrusted.lock().insert((index, id));
                }
                _ => {}
            }
        }
        warn!(block = %id, "a replica is not trusted until it has been verified on its device");
        dirs.note_doubt(volume, id);
    }

    /// Refuses what would make promises about a replica that is not trusted.
    pub(super) fn check_sound(block: Block, finalized: &Finalized) -> Result<()> {
        match finalized.condition {
            Condition::Sound => Ok(()),
            Condition::Suspect => {
                let words = format!("a sync of {block} has failed, and it has not been verified since");
                Err(DfsError::new(ErrorKind::Io, words))
            }
            Condition::Corrupt => {
                Err(DfsError::new(ErrorKind::Corrupt, format!("{block} does not match its checksums")))
            }
        }
    }

    /// Passes on what came of reading a finalized replica; one that is damaged, gone, or cannot be read, is verified.
    pub(super) fn expect_sound<T>(&self, block: Block, outcome: Result<T>) -> Result<T> {
        let is_bad =
            |error: &DfsError| matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::NotFound);
        if outcome.as_ref().is_err_and(is_bad) {
            self.doubt(block);
        }
        outcome
    }

    /// See `ReplicaStore::doubt`. One that is not here is told of: whoever doubts it knows something else.
    pub(in crate::datanode::store) fn doubt(&self, block: Block) {
        let replicas = self.replicas.lock();
        match replicas.get(&block.id) {
            Some(Entry::Finalized(finalized)) => self.suspects.add(finalized.volume, &self.name, block.id),
            Some(entry) => self.tell(block.id, entry),
            None => self.tell_missing(block),
        }
    }

    /// See `ReplicaStore::open_on_device`.
    pub(in crate::datanode::store) fn open_on_device(&self, block: Block) -> Result<ReplicaReader> {
        let Entry::Finalized(finalized) = self.lookup(block)? else {
            return Err(DfsError::new(ErrorKind::Busy, format!("{block} is being written")));
        };
        let (volume, dirs) = self.home_of(&finalized);
        if finalized.condition != Condition::Sound {
            // What can reach the device must be there before it is asked, in its cache or not.
            let _syncing = dirs.lock_sync(block.id);
            let dir = dirs.paths.finalized_dir(block.id);
            match sync_files(&dir, block.id, finalized.generation_stamp) {
                // Whether they are gone or have moved is found out when they are opened.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => volume.check(synced, || format!("sync {block} once more"))?,
            }
        }
        self.open_finalized(block, &finalized, DiskFile::open_device, |_| ())?
            .ok_or_else(|| DfsError::new(ErrorKind::Busy, format!("{block} has changed")))
    }

    /// See `ReplicaStore::finalized`.
    pub(in crate::datanode::store) fn finalized(&self, id: BlockId) -> Option<Block> {
        match self.replicas.lock().get(&id)? {
            Entry::Finalized(here) => Some(Block { id, generation_stamp: here.generation_stamp, length: here.length }),
            Entry::Open(_) | Entry::Deleting(_) => None,
        }
    }

    /// See `ReplicaStore::report_corrupt`.
    pub(in crate::datanode::store) fn report_corrupt(&self, block: Block) {
        let mut replicas = self.replicas.lock();
        if let Some(Entry::Finalized(finalized)) = replicas.get_mut(&block.id)
            && is_version(finalized, block)
            && let Some((volume, _)) = self.home(finalized.volume)
        {
            finalized.condition = Condition::Corrupt;
            self.publish(EventKind::Corrupt, block, &volume);
        }
    }

    /// See `ReplicaStore::report_good`.
    pub(in crate::datanode::store) fn report_good(&self, block: Block) {
        if let Some(home) = self.trust(block) {
            self.take_note_back(block.id, &home);
        }
    }

    /// Removes the note of a replica that is trusted again.
    pub(super) fn take_note_back(&self, id: BlockId, (volume, dirs): &Home) {
        dirs.clear_doubt(id);
        let is_doubted = match self.replicas.lock().get(&id) {
            Some(Entry::Finalized(now)) => now.condition != Condition::Sound,
            Some(Entry::Open(replica)) => replica.state().doubted().is_some(),
            Some(Entry::Deleting(_)) | None => false,
        };
        if is_doubted {
            // Anew, and the note of that may be the one that was just taken back.
            dirs.note_doubt(volume, id);
        }
    }

    fn trust(&self, block: Block) -> Option<Home> {
        let mut replicas = self.replicas.lock();
        if let Some(Entry::Finalized(finalized)) = replicas.get_mut(&block.id)
            && is_version(finalized, block)
            // Doubted anew since it was read.
            && !self.suspects.is_waiting(finalized.volume, &self.name, block.id)
            && let Some(home) = self.home(finalized.volume)
        {
            finalized.condition = Condition::Sound;
            self.publish(EventKind::Good, block, &home.0);
            return Some(home);
        }
        None
    }

    /// A finalized replica's files, opened; `None` when it is another by then. What keeps them from being opened is shown to
    /// `on_error`.
    pub(super) fn open_finalized(
        &self,
        block: Block,
        finalized: &Finalized,
        open: impl Fn(&Path) -> io::Result<DiskFile>,
        on_error: impl FnOnce(&io::Error),
    ) -> Result<Option<ReplicaReader>> {
        let (volume, dirs) = self.home_of(finalized);
        let found = Block { generation_stamp: finalized.generation_stamp, length: finalized.length, ..block };
        let paths = super::pair(&dirs.paths.finalized_dir(block.id), block.id, found.generation_stamp);
        let opened = ReplicaReader::open_finalized(found, Arc::clone(&volume), &paths, open);
        // Reopened for append meanwhile: its files moved, or the checksum of its last chunk may have changed.
        let unchanged = matches!(self.lookup(block)?, Entry::Finalized(now) if is_version(&now, found));
        if !unchanged {
            return Ok(None);
        }
        match &opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget_missing(found, finalized);
                return Err(not_found(block));
            }
            Err(error) if is_damage(error) => self.report_corrupt(found),
            Err(error) => on_error(error),
            Ok(_) => {}
        }
        volume.check(opened.map(Some), || format!("open {found}"))
    }
}

/// Whether a record is that of this replica, and not of one that has taken its place.
pub(super) fn is_version(finalized: &Finalized, block: Block) -> bool {
    (finalized.generation_stamp, finalized.length) == (block.generation_stamp, block.length)
}
