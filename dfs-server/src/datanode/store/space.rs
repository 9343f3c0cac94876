//! The bytes of a volume: what replicas take, what is reserved, what is left.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_common::units::ByteCount;
use parking_lot::Mutex;

use super::room::{Room, RoomBytes};

/// While so much more was left than is wanted at the last look, the file system is not asked again ...
const PLENTY: u64 = 1 << 30;
/// ... for this long: no device is filled by a gigabyte within it.
const PLENTY_LASTS: Duration = Duration::from_millis(100);

/// Bytes of a volume as the NameNode hears them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// Of the file system, without what is reserved.
    pub(crate) capacity: u64,
    /// By replicas and their checksums.
    pub(crate) used: u64,
    /// Left for replicas.
    pub(crate) remaining: u64,
}

/// What is known of them, and counted.
#[derive(Debug)]
pub(super) struct VolumeSpace {
    used: AtomicU64,
    /// When the free space was looked at last, and what was left for replicas, bytes.
    last: Mutex<Option<(Instant, u64)>>,
    reserved: ByteCount,
    room: Arc<Room>,
}

/// Too little is left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lack {
    pub(super) left: ByteCount,
    pub(super) reserved: ByteCount,
}

impl VolumeSpace {
    /// Of the file system at `root`, which is asked for the first time.
    pub(super) fn new(root: &Path, reserved: ByteCount) -> Self {
        Self { used: AtomicU64::new(0), last: Mutex::default(), reserved, room: Room::of(root) }
    }

    /// As known, without asking the device; `None` when it could not be asked.
    pub(super) fn known(&self) -> Option<Space> {
        self.room.known().map(|room| self.beside(room))
    }

    /// Has what is known kept up to date.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn keep_known(&self) -> io::Result<()> {
        self.room.keep_known()
    }

    fn beside(&self, room: RoomBytes) -> Space {
        Space {
            capacity: room.capacity.saturating_sub(self.reserved.0),
            used: self.used.load(Ordering::Relaxed),
            remaining: room.available.saturating_sub(self.reserved.0),
        }
    }

    /// What keeps `wanted` bytes from fitting beside what is reserved.
    pub(super) fn lack(&self, wanted: ByteCount) -> io::Result<Option<Lack>> {
        let has_plenty = |last: &(Instant, u64)| last.1 >= wanted.0 + PLENTY && last.0.elapsed() < PLENTY_LASTS;
        if self.last.lock().as_ref().is_some_and(has_plenty) {
            return Ok(None);
        }
        let left = self.beside(self.room.ask()?).remaining;
        *self.last.lock() = Some((Instant::now(), left));
        Ok((left < wanted.0).then_some(Lack { left: ByteCount(left), reserved: self.reserved }))
    }

    /// Counts bytes of replicas, in files that grew.
    pub(super) fn add(&self, bytes: ByteCount) {
        self.used.fetch_add(bytes.0, Ordering::Relaxed);
    }

    /// Counts bytes of replicas, in files that are gone or were cut.
    pub(super) fn subtract(&self, bytes: ByteCount) {
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes.0)));
    }
}
