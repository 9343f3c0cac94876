//! What the store remembers about a replica.
//!
//! ```text
//!             create            last packet
//!   (nothing) ──────▶ RBW ───────────────────▶ finalized ──▶ (deleted)
//!       │              │  ▲        append          │ ▲
//!       │   restart    │  └────────────────────────┘ │
//!       │              ▼                             │
//!       │             RWR (waits for recovery)       │
//!       └──────────▶ temporary ──────────────────────┘
//!          copy          restart: dropped
//! ```
//!
//! A finalized replica takes 24 bytes in the map; the others are few, and shared with whoever writes or reads them.
//!
//! What changes of an open one, and the steps by which it does, are `open_state`'s. An [`OpenReplica`] owns the rest: the names of
//! both files, the room they take on the volume, and who may write.
//!
//! **A sync that failed is not forgotten.** The kernel tells of it once, and then takes the lost pages for clean. So an open
//! replica is doubted from then on: its writer, and any that would go on with it, are refused, and a block recovery counts
//! what it reads from the device. A finalized one is a suspect (`Condition`) until it has been verified on the device.
//!
//! **One writer at a time.** A pipeline that is rebuilt takes the replica over from the writer before
//! ([`OpenReplica::take_over`]): its connection is shut, a disk call of its own is waited for, and whatever it still tries
//! is refused, because its turn is over.
//!
//! Locks, in this order: `OpenReplica::writing` (held while files grow, move or are taken over), `OpenReplica::files` (held
//! while files are opened by name, moved or removed), `OpenReplica::syncing` (held over syncs, so that nobody begins one before
//! a failure of the one before is known), the pool's map, the state ([`OpenReplica::change`]). The last two are held for moments
//! and never over a call that a hung device would not answer: heartbeats, reports and the other volumes need them.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dfs_common::block::Block;
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_common::units::ByteCount;
use dfs_proto::data_transfer::DataChecksum;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing::warn;

use super::disk;
use super::faults::is_shortage;
use super::layout;
use super::open_state::{OpenState, Place, Step};
use super::pool_dirs::PoolDirs;
use super::volume::{Volume, VolumeIndex};

/// A finalized replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finalized {
    /// Version.
    pub(crate) generation_stamp: GenerationStamp,
    /// Bytes.
    pub(crate) length: u64,
    /// Where.
    pub(crate) volume: VolumeIndex,
    /// False only when it is known that nobody was promised that it survives a loss of power.
    pub(crate) maybe_synced: bool,
    /// Whether its files can be trusted, as far as is known. What was doubted is so after a restart (`PoolDirs::note_doubt`).
    pub(crate) condition: Condition,
}

impl Finalized {
    /// The block that it is a replica of.
    pub(super) fn block(&self, id: BlockId) -> Block {
        Block { id, generation_stamp: self.generation_stamp, length: self.length }
    }
}

/// What is known of a finalized replica's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing bad.
    Sound,
    /// A sync of them failed: they are not what the page cache shows, perhaps. Nothing is promised of them before they have
    /// been read from the device.
    Suspect,
    /// They do not match their checksums or cannot be read. The NameNodes are told, and again with each full report.
    Corrupt,
}

/// State of a replica that is not finalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenKind {
    /// A client's pipeline writes it.
    Rbw,
    /// It waits for recovery: its writer did not live through a restart of this node.
    Waiting,
    /// A copy from another node.
    Temporary,
}

/// An entry of the replica map.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Finalized(Finalized),
    Open(Arc<OpenReplica>),
    /// Its files are being removed; until they are gone, or their volume is, no other replica of the block may come.
    Deleting(Deletion),
}

impl Entry {
    /// Where its files are.
    pub(super) fn volume(&self) -> VolumeIndex {
        match self {
            Self::Finalized(finalized) => finalized.volume,
            Self::Open(replica) => replica.volume.index(),
            Self::Deleting(deletion) => deletion.volume,
        }
    }
}

/// A removal under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deletion {
    /// Among all of this process.
    pub(super) number: u64,
    pub(super) volume: VolumeIndex,
}

/// A replica that is not finalized.
#[derive(Debug)]
pub(crate) struct OpenReplica {
    pub(super) id: BlockId,
    pub(super) kind: OpenKind,
    pub(super) checksum: DataChecksum,
    pub(super) volume: Arc<Volume>,
    pub(super) dirs: Arc<PoolDirs>,
    /// Held while data and checksums are written.
    pub(super) writing: Mutex<()>,
    /// Held while their names must stay what they are.
    files: Mutex<()>,
    /// Held while they are synced.
    syncing: Mutex<()>,
    state: Mutex<OpenState>,
    grown: Condvar,
    /// Number of the writer whose turn it is; changes only under `writing`.
    turn: AtomicU64,
    /// The connection that the writer is fed by; not kept open for this.
    feed: Mutex<Weak<TcpStream>>,
}

/// A replica's two files, which keep their names as long as this lives.
pub(super) struct HeldFiles<'a> {
    pub(super) data: PathBuf,
    pub(super) meta: PathBuf,
    pub(super) place: Place,
    pub(super) generation_stamp: GenerationStamp,
    _held: MutexGuard<'a, ()>,
}

impl HeldFiles<'_> {
    /// Gives both files of a replica other names. Checksums first: a replica cut in two by a crash then has its data where they
    /// were, and recovery knows what to make of it. When the data cannot follow, the checksums come back: the state names both.
    pub(super) fn move_to(&self, replica: &OpenReplica, to: Place, stamp: GenerationStamp) -> io::Result<()> {
        let meta = replica.meta_path(to, stamp);
        disk::rename(&self.meta, &meta)?;
        if let Err(error) = disk::rename(&self.data, &replica.data_path(to)) {
            if let Err(stuck) = disk::rename(&meta, &self.meta) {
                warn!(block = %replica.block(), error = %stuck, path = %meta.display(), "checksums are not beside their data");
            }
            return Err(error);
        }
        replica.step(Step::Moved(to, stamp));
        Ok(())
    }
}

impl OpenReplica {
    pub(super) fn new(
        id: BlockId,
        kind: OpenKind,
        checksum: DataChecksum,
        home: (Arc<Volume>, Arc<PoolDirs>),
        state: OpenState,
    ) -> Self {
        let (volume, dirs) = home;
        Self {
            id,
            kind,
            checksum,
            volume,
            dirs,
            writing: Mutex::new(()),
            files: Mutex::new(()),
            syncing: Mutex::new(()),
            state: Mutex::new(state),
            grown: Condvar::new(),
            turn: AtomicU64::new(0),
            feed: Mutex::new(Weak::new()),
        }
    }

    /// The block as it is now, with the bytes on disk as its length.
    pub(super) fn block(&self) -> Block {
        self.block_of(&self.state())
    }

    /// The block as it was when it was looked at.
    pub(super) fn block_of(&self, state: &OpenState) -> Block {
        Block { id: self.id, generation_stamp: state.generation_stamp(), length: state.on_disk() }
    }

    /// What it is like at this moment.
    pub(super) fn state(&self) -> OpenState {
        *self.state.lock()
    }

    /// Takes a step.
    pub(super) fn step(&self, step: Step) {
        self.change(|state| state.step(step));
    }

    /// Looks at the state and takes the steps that follow from it, before anybody else sees or changes it. The bytes that the
    /// files have gained or lost are counted, and who waits for more of them looks again.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut OpenState) -> T) -> T {
        let mut state = self.state.lock();
        let before = state.on_disk();
        let result = change(&mut state);
        let after = state.on_disk();
        drop(state);
        // Most steps change no length, and all writers of the volume share its counter.
        match after.cmp(&before) {
            std::cmp::Ordering::Greater => self.volume.space.add(ByteCount(after - before)),
            std::cmp::Ordering::Less => self.volume.space.subtract(ByteCount(before - after)),
            std::cmp::Ordering::Equal => {}
        }
        self.grown.notify_all();
        result
    }

    /// Bytes that may be read. A replica that waits for recovery shows all it could verify: nobody is left to say what
    /// of it was acknowledged, and all that was is among it.
    pub(super) fn visible(&self, state: &OpenState) -> u64 {
        match self.kind {
            OpenKind::Rbw => state.acked(),
            OpenKind::Waiting => state.on_disk(),
            OpenKind::Temporary => 0,
        }
    }

    /// Waits until `length` bytes are visible, the replica has left its writer, or `patience` is over.
    pub(super) fn wait_visible(&self, length: u64, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while self.kind == OpenKind::Rbw
            && state.acked() < length
            && (state.place() == Place::Rbw || state.on_disk() == 0)
            && state.check_writable().is_ok()
        {
            if self.grown.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    /// Whose turn it is to write: 0 until somebody takes over.
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Names the connection that has to be shut when another writer takes over.
    pub(super) fn set_feed(&self, feed: &Arc<TcpStream>) {
        *self.feed.lock() = Arc::downgrade(feed);
    }

    /// Ends the turn of the writer, and returns once it is not in the middle of anything; `None` when it is still after
    /// `patience`, in a call that the disk does not answer.
    pub(super) fn take_over(&self, patience: Duration) -> Option<MutexGuard<'_, ()>> {
        if let Some(feed) = self.feed.lock().upgrade() {
            // A connection that is gone already is what is wanted.
            let _ = feed.shutdown(Shutdown::Both);
        }
        let writing = self.writing.try_lock_for(patience)?;
        self.turn.fetch_add(1, Ordering::AcqRel);
        Some(writing)
    }

    /// Keeps the files where they are; waits for whoever moves them.
    pub(super) fn hold_files(&self) -> HeldFiles<'_> {
        let held = self.files.lock();
        let state = self.state();
        let (place, generation_stamp) = (state.place(), state.generation_stamp());
        HeldFiles {
            data: self.data_path(place),
            meta: self.meta_path(place, generation_stamp),
            place,
            generation_stamp,
            _held: held,
        }
    }

    /// Syncs some of the files, unless that has failed before. A failure is remembered.
    pub(super) fn sync_with(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _syncing = self.syncing.lock();
        // Of a kind that blames no device.
        let trusted = self.state().check_trusted();
        trusted.map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
        let synced = sync();
        if synced.as_ref().is_err_and(|error| !is_shortage(error)) {
            self.step(Step::SyncFailed);
            self.dirs.note_doubt(&self.volume, self.id);
        }
        synced
    }

    /// Whether somebody is changing the files, or waits for a disk call on them.
    pub(super) fn is_in_use(&self) -> bool {
        self.writing.is_locked() || self.files.is_locked()
    }

    /// Syncs data, checksums and names of the first `promised` bytes, which the state says to be promised. Then they are
    /// known to be on the device.
    pub(super) fn sync_promised(&self, promised: u64, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let turn = self.turn();
        self.sync_with(sync)?;
        self.change(|state| {
            // Another writer may have cut it and gone on with other bytes.
            if self.turn() == turn {
                state.step(Step::Synced(promised));
            }
        });
        Ok(())
    }

    pub(super) fn data_path(&self, place: Place) -> PathBuf {
        self.dir(place).join(layout::data_name(self.id))
    }

    pub(super) fn meta_path(&self, place: Place, stamp: GenerationStamp) -> PathBuf {
        self.dir(place).join(layout::meta_name(self.id, stamp))
    }

    pub(super) fn dir(&self, place: Place) -> PathBuf {
        let paths = &self.dirs.paths;
        match place {
            Place::Tmp => paths.tmp.clone(),
            Place::Rbw => paths.rbw.clone(),
            Place::Finalized => paths.finalized_dir(self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_entry_stays_small() {
        assert!(size_of::<Entry>() <= 24, "{}", size_of::<Entry>());
    }
}
