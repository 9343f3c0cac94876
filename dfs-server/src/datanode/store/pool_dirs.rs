//! The directories of one pool on one volume, and in one of them, `doubted`, notes of replicas whose syncs have failed.
//!
//! A note is an empty file named after its block: neither a restart nor the volume's return may trust the replica. It goes when
//! the replica was found good, was made anew or is gone; one that has no replica goes with the next scan.
//!
//! A full device may have no room for a note. What can be is therefore made when the pool is opened: the directory, and in it a
//! file that says that every failed sync has its note. When one cannot be written this file is removed, which takes no room.
//! Whoever scans the volume next doubts every replica that it finds and writes a note of each.
//!
//! Locks: `noted` is held for moments, never over a call to the device.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dfs_common::ids::BlockId;
use parking_lot::{Mutex, MutexGuard};
use tracing::{error, warn};

use super::disk::{self, DiskFile};
use super::faults::is_full;
use super::layout::{PoolPaths, SUBDIRS, subdirs};
use super::volume::Volume;

/// Finalized replicas of a volume synced at once: many more than a device has writes under way.
const SYNCS_AT_ONCE: usize = 64;

/// Directories of one pool on one volume, made as they are needed.
#[derive(Debug)]
pub(super) struct PoolDirs {
    pub(super) paths: PoolPaths,
    /// Bit per second-level subdirectory known to exist.
    made: [AtomicU32; SUBDIRS],
    /// Each for some of the finalized replicas.
    syncing: [Mutex<()>; SYNCS_AT_ONCE],
    /// Copies begun in `tmp` so far.
    copies: AtomicU64,
    /// Replicas of which there may be a note: of the others none has to be removed.
    noted: Mutex<HashSet<BlockId>>,
}

/// Which replicas a scan must not trust.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Those that have a note, but for those that were found.
    noted: HashSet<BlockId>,
    /// Some note could not be written: any.
    all: bool,
}

impl Doubts {
    /// Whether a replica that was found is doubted. To be asked once of each.
    pub(super) fn take(&mut self, id: BlockId) -> bool {
        self.noted.remove(&id) || self.all
    }
}

impl PoolDirs {
    /// Makes the directories that every pool has, and tells whom not to trust; `tmp` starts empty.
    pub(super) fn open(root: &Path, pool: &str) -> io::Result<(Self, Doubts)> {
        let paths = PoolPaths::new(root, pool);
        let has_notes = paths.doubted.is_dir();
        for dir in [&paths.tmp, &paths.rbw, &paths.finalized] {
            disk::create_dir_all(dir)?;
        }
        // Not with the directory itself: a full device may have no room for another.
        for entry in fs::read_dir(&paths.tmp)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }?;
        }
        for dir in [&paths.orphaned, &paths.doubted] {
            match disk::create_dir_all(dir) {
                // A full volume is no broken one.
                Err(error) if is_full(&error) => warn!(dir = %dir.display(), %error, "not made beforehand"),
                made => made?,
            }
        }
        let doubts = if has_notes {
            Doubts { noted: read_notes(&paths)?, all: !paths.all_noted.try_exists()? }
        } else {
            Doubts::default()
        };
        let dirs = Self {
            paths,
            made: [const { AtomicU32::new(0) }; SUBDIRS],
            syncing: [const { Mutex::new(()) }; SYNCS_AT_ONCE],
            copies: AtomicU64::new(0),
            noted: Mutex::new(doubts.noted.clone()),
        };
        if !has_notes && dirs.paths.doubted.is_dir() {
            match dirs.say_all_noted() {
                Err(error) if is_full(&error) => warn!(%error, "the next start will doubt every replica of the volume"),
                said => said?,
            }
        }
        Ok((dirs, doubts))
    }

    /// Waits until nobody else syncs this finalized replica, and keeps it so.
    pub(super) fn lock_sync(&self, id: BlockId) -> MutexGuard<'_, ()> {
        self.syncing[(id.0 % SYNCS_AT_ONCE as u64) as usize].lock()
    }

    /// A number that no other copy made in `tmp` has.
    pub(super) fn number_copy(&self) -> u64 {
        self.copies.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes on the device that a sync of a replica has failed. When that is impossible the whole pool on this volume is doubted
    /// after the next scan, and when not even that can be kept there, the volume is looked at: it may be broken.
    pub(super) fn note_doubt(&self, volume: &Volume, id: BlockId) {
        let Err(error) = self.write_note(id).and_then(|()| self.sync_notes()) else { return };
        warn!(block = %id, %error, "a failed sync could not be noted, every replica of the volume is doubted after a restart");
        if let Err(error) = self.doubt_all() {
            error!(block = %id, %error, "a sync has failed, and a restart will not know of it");
            volume.suspect();
        }
    }

    fn write_note(&self, id: BlockId) -> io::Result<()> {
        if !self.paths.rbw.is_dir() {
            // Nothing is made in the bare directory under a device that is away.
            return Err(io::ErrorKind::NotFound.into());
        }
        // Known before it is there: else whoever removes it meanwhile would not look for it.
        self.noted.lock().insert(id);
        disk::create_dir_all(&self.paths.doubted)?;
        DiskFile::create(&self.paths.doubted.join(id.to_string()))?;
        Ok(())
    }

    fn doubt_all(&self) -> io::Result<()> {
        disk::remove_if_there(&self.paths.all_noted)?;
        self.sync_notes()
    }

    /// From now on what has no note is not doubted.
    fn say_all_noted(&self) -> io::Result<()> {
        self.sync_notes()?;
        DiskFile::create(&self.paths.all_noted)?;
        self.sync_notes()
    }

    fn sync_notes(&self) -> io::Result<()> {
        disk::sync_dir(&self.paths.doubted)
    }

    /// Takes a note back.
    pub(super) fn clear_doubt(&self, id: BlockId) {
        if !self.is_noted(id) {
            return;
        }
        match disk::remove_if_there(&self.paths.doubted.join(id.to_string())) {
            Ok(()) => {
                self.noted.lock().remove(&id);
            }
            Err(error) => warn!(block = %id, %error, "a replica will be verified once more after the next start"),
        }
    }

    /// Whether there may be a note of a replica.
    pub(super) fn is_noted(&self, id: BlockId) -> bool {
        self.noted.lock().contains(&id)
    }

    /// What a scan makes of the notes: those left over have no replica, and go; where not all were written, each of the replicas
    /// that are `there` gets its own.
    pub(super) fn settle_doubts(&self, left: Doubts, mut there: impl Iterator<Item = BlockId>) {
        left.noted.into_iter().for_each(|id| self.clear_doubt(id));
        if left.all {
            let noted = there.try_for_each(|id| self.write_note(id)).and_then(|()| self.say_all_noted());
            if let Err(error) = noted {
                warn!(dir = %self.paths.doubted.display(), %error, "every replica is doubted after the next start, too");
            }
        }
    }

    /// Directory of a finalized replica, which exists durably when this returns.
    pub(super) fn make_finalized_dir(&self, id: BlockId) -> io::Result<PathBuf> {
        let (first, second) = subdirs(id);
        let dir = self.paths.finalized_dir(id);
        let bit = 1u32 << second;
        if self.made[first].load(Ordering::Acquire) & bit == 0 {
            disk::create_dir_all(&dir)?;
            self.made[first].fetch_or(bit, Ordering::AcqRel);
        }
        Ok(dir)
    }
}

fn read_notes(paths: &PoolPaths) -> io::Result<HashSet<BlockId>> {
    let id = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok().map(BlockId);
    fs::read_dir(&paths.doubted)?.filter_map(|entry| entry.map(id).transpose()).collect()
}
