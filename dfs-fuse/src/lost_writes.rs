//! Who has been told that accepted bytes of a file were lost: Linux's rule for errors of writing back (errseq_t).
//!
//! - A descriptor that was open when it happened is told by its next sync, once at least, whoever wrote and whoever was
//!   told before.
//! - One opened later starts clean if somebody has been told; otherwise its first sync tells it.
//!
//! This stands beside the failed writer's own descriptors, which get its error from every call until they are closed. The
//! record of a file lives as long as a handle is open or somebody is to be told (see [`Inodes`](crate::inodes::Inodes)).
//! A close that fails tells nobody: the kernel closes the descriptors of a killed program, too, and nobody hears that.

use std::sync::atomic::{AtomicU64, Ordering};

use dfs_common::error::DfsError;
use parking_lot::Mutex;

use crate::errno::{FsError, FsResult};

/// The losses of one file.
#[derive(Default)]
pub(crate) struct LostWrites {
    /// Never held across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    count: u64,
    last: Option<DfsError>,
    is_told: bool,
}

/// How many losses a descriptor need not be told of any more.
pub(crate) struct Told(AtomicU64);

impl LostWrites {
    /// Bytes were lost.
    pub(crate) fn add(&self, error: &DfsError) {
        let mut state = self.state.lock();
        *state = State { count: state.count + 1, last: Some(error.duplicate()), is_told: false };
    }

    /// For a descriptor being opened.
    pub(crate) fn on_open(&self) -> Told {
        let state = self.state.lock();
        Told(AtomicU64::new(state.count - u64::from(state.is_untold())))
    }

    /// Whether the last loss is to be told to somebody.
    pub(crate) fn is_untold(&self) -> bool {
        self.state.lock().is_untold()
    }

    /// A program gets the last loss as the outcome of a call.
    pub(crate) fn note_told(&self, told: &Told) {
        let mut state = self.state.lock();
        state.is_told = true;
        told.0.store(state.count, Ordering::Release);
    }

    /// What a sync has to say of losses.
    ///
    /// # Errors
    /// The last loss, if the descriptor has not been told.
    pub(crate) fn tell(&self, told: &Told) -> FsResult<()> {
        let mut state = self.state.lock();
        if told.0.swap(state.count, Ordering::AcqRel) >= state.count {
            return Ok(());
        }
        state.is_told = true;
        state.last.as_ref().map_or(Ok(()), |error| Err(FsError::of_loss(error)))
    }
}

impl State {
    fn is_untold(&self) -> bool {
        self.count > 0 && !self.is_told
    }
}

#[cfg(test)]
mod tests {
    use dfs_common::error::ErrorKind;

    use super::*;

    fn lost(words: &str) -> DfsError {
        DfsError::new(ErrorKind::Io, words)
    }

    #[test]
    fn every_open_descriptor_is_told_once() {
        let losses = LostWrites::default();
        let open = [losses.on_open(), losses.on_open()];
        assert!(open.iter().all(|told| losses.tell(told).is_ok()));
        losses.add(&lost("one"));
        assert!(open.iter().all(|told| losses.tell(told).is_err_and(|failure| failure.tells_loss())));
        assert!(open.iter().all(|told| losses.tell(told).is_ok()));
        losses.add(&lost("two"));
        assert!(open.iter().all(|told| losses.tell(told).is_err()));
    }

    #[test]
    fn descriptor_opened_later_is_told_what_nobody_was() {
        let losses = LostWrites::default();
        losses.add(&lost("one"));
        assert!(losses.is_untold());
        let (first, second) = (losses.on_open(), losses.on_open());
        assert!(losses.tell(&first).is_err());
        assert!(!losses.is_untold());
        assert!(losses.tell(&second).is_err(), "it was open before anybody was told");
        assert!(losses.tell(&losses.on_open()).is_ok());
        losses.add(&lost("two"));
        losses.add(&lost("three"));
        assert!(losses.tell(&losses.on_open()).is_err());
    }

    #[test]
    fn failed_call_of_the_writer_tells() {
        let losses = LostWrites::default();
        let (writer, reader) = (losses.on_open(), losses.on_open());
        losses.add(&lost("one"));
        losses.note_told(&writer);
        assert!(losses.tell(&losses.on_open()).is_ok());
        assert!(losses.tell(&reader).is_err() && losses.tell(&writer).is_ok());
    }
}
