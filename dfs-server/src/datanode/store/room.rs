//! How much room a volume's file system has, without waiting for its device.
//!
//! Heartbeats, `/health` and `/metrics` tell of it from the thread that carries all control work, and a device that hangs
//! lets nobody go who asks it. So a thread for each volume asks, and everybody else gets its last answer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How old an answer is at most while the device answers.
const ROOM_INTERVAL: Duration = Duration::from_millis(500);

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RoomBytes {
    pub(super) capacity: u64,
    pub(super) available: u64,
}

/// What is known of a volume's room.
#[derive(Debug)]
pub(super) struct Room {
    root: PathBuf,
    capacity: AtomicU64,
    available: AtomicU64,
    /// The last question was answered by an error.
    has_failed: AtomicBool,
}

impl Room {
    /// Asks for the first time.
    pub(super) fn of(root: &Path) -> Arc<Self> {
        let room = Self {
            root: root.to_owned(),
            capacity: AtomicU64::new(0),
            available: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        };
        // A failure is remembered.
        let _ = room.ask();
        Arc::new(room)
    }

    /// Asks the file system, which may take as long as its device pleases.
    pub(super) fn ask(&self) -> io::Result<RoomBytes> {
        let status = rustix::fs::statvfs(&self.root);
        self.has_failed.store(status.is_err(), Ordering::Relaxed);
        let status = status?;
        let bytes = |blocks: u64| blocks.saturating_mul(status.f_frsize);
        let (capacity, available) = (bytes(status.f_blocks), bytes(status.f_bavail));
        self.capacity.store(capacity, Ordering::Relaxed);
        self.available.store(available, Ordering::Relaxed);
        Ok(RoomBytes { capacity, available })
    }

    /// The last answer; `None` when it was an error. Never waits.
    pub(super) fn known(&self) -> Option<RoomBytes> {
        (!self.has_failed.load(Ordering::Relaxed)).then(|| RoomBytes {
            capacity: self.capacity.load(Ordering::Relaxed),
            available: self.available.load(Ordering::Relaxed),
        })
    }

    /// Has a thread ask again and again for as long as anybody else holds this.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn keep_known(self: &Arc<Self>) -> io::Result<()> {
        let room = Arc::clone(self);
        std::thread::Builder::new().name("dn-room".into()).spawn(move || {
            while Arc::strong_count(&room) > 1 {
                std::thread::sleep(ROOM_INTERVAL);
                // A failure is remembered.
                let _ = room.ask();
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_is_the_last_answer_or_that_there_was_none() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::of(&dir.path().join("absent"));
        assert_eq!(room.known(), None);
        std::fs::create_dir(&room.root).unwrap();
        let asked = room.ask().unwrap();
        assert!(asked.capacity > 0 && asked.capacity >= asked.available, "{asked:?}");
        assert_eq!(room.known(), Some(asked));
    }
}
