//! Who has been told that accepted bytes of a file were lost: Linux's rule for errors of writing back (errseq_t).
//!
//! - A descriptor that was open when it happened is told by its next sync, once at least, whoever wrote and whoever was
//!   told before.
//! - One opened later starts clean if somebody has been told; otherwise its first sync tells it.
//!
//! This stands beside the failed writer's own descriptors, which get its error from every call until they are closed. The
//! record of a file lives as long as a handle is open or somebody is to be told (see [`Inodes`](crate::inodes::Inodes)).
//! A close that fails tells nobody: the kernel closes the descriptors of a killed program, too, and nobody hears that.
//!
//! A descriptor counts as told only once the answer is sent to a living program. Until then a [`Telling`] goes with the error; if
//! that is dropped, nobody was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_common::error::DfsError;
use parking_lot::Mutex;

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
    pub(crate) fn on_open(&self) -> Arc<Told> {
        let state = self.state.lock();
        Arc::new(Told(AtomicU64::new(state.count - u64::from(state.is_untold()))))
    }

    /// Whether the last loss is to be told to somebody.
    pub(crate) fn is_untold(&self) -> bool {
        self.state.lock().is_untold()
    }

    /// What is to be noted when a descriptor gets the last loss as the outcome of a call.
    pub(crate) fn telling(self: &Arc<Self>, told: &Arc<Told>) -> Telling {
        Telling { losses: Arc::clone(self), told: Arc::clone(told), count: self.state.lock().count }
    }

    /// Whether a sync of this descriptor has losses to tell of.
    ///
    /// # Errors
    /// The last loss, if the descriptor has not been told, and what is to be noted when it is.
    pub(crate) fn check(self: &Arc<Self>, told: &Arc<Told>) -> Result<(), (DfsError, Telling)> {
        let last = {
            let state = self.state.lock();
            if told.0.load(Ordering::Acquire) >= state.count {
                return Ok(());
            }
            state.last.as_ref().map(DfsError::duplicate)
        };
        last.map_or(Ok(()), |error| Err((error, self.telling(told))))
    }
}

/// A loss on its way to a descriptor.
pub(crate) struct Telling {
    losses: Arc<LostWrites>,
    told: Arc<Told>,
    /// The losses that it tells of.
    count: u64,
}

impl Telling {
    /// A program gets it.
    pub(crate) fn arrives(self) {
        let mut state = self.losses.state.lock();
        self.told.0.fetch_max(self.count, Ordering::AcqRel);
        // One that has come since stays to be told.
        state.is_told |= state.count == self.count;
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

    /// A sync whose answer arrives.
    fn sync(losses: &Arc<LostWrites>, told: &Arc<Told>) -> bool {
        losses.check(told).map_err(|(_, telling)| telling.arrives()).is_ok()
    }

    #[test]
    fn every_open_descriptor_is_told_once() {
        let losses = Arc::new(LostWrites::default());
        let open = [losses.on_open(), losses.on_open()];
        assert!(open.iter().all(|told| sync(&losses, told)));
        losses.add(&lost("one"));
        assert!(open.iter().all(|told| !sync(&losses, told)));
        assert!(open.iter().all(|told| sync(&losses, told)));
        losses.add(&lost("two"));
        assert!(open.iter().all(|told| !sync(&losses, told)));
    }

    #[test]
    fn descriptor_opened_later_is_told_what_nobody_was() {
        let losses = Arc::new(LostWrites::default());
        losses.add(&lost("one"));
        assert!(losses.is_untold());
        let (first, second) = (losses.on_open(), losses.on_open());
        assert!(!sync(&losses, &first));
        assert!(!losses.is_untold());
        assert!(!sync(&losses, &second), "it was open before anybody was told");
        assert!(sync(&losses, &losses.on_open()));
        losses.add(&lost("two"));
        losses.add(&lost("three"));
        assert!(!sync(&losses, &losses.on_open()));
    }

    #[test]
    fn failed_call_of_the_writer_tells() {
        let losses = Arc::new(LostWrites::default());
        let (writer, reader) = (losses.on_open(), losses.on_open());
        losses.add(&lost("one"));
        losses.telling(&writer).arrives();
        assert!(sync(&losses, &losses.on_open()));
        assert!(!sync(&losses, &reader) && sync(&losses, &writer));
    }

    #[test]
    fn answer_that_nobody_gets_tells_nobody() {
        let losses = Arc::new(LostWrites::default());
        let open = losses.on_open();
        losses.add(&lost("one"));
        drop(losses.check(&open).err().unwrap());
        drop(losses.telling(&open));
        assert!(losses.is_untold());
        assert!(!sync(&losses, &losses.on_open()), "opened later");
        assert!(!sync(&losses, &open));
    }

    #[test]
    fn answer_tells_nothing_of_what_was_lost_after_it() {
        let losses = Arc::new(LostWrites::default());
        let open = losses.on_open();
        losses.add(&lost("one"));
        let (error, answer) = losses.check(&open).err().unwrap();
        assert_eq!(error.message(), "one");
        losses.add(&lost("two"));
        answer.arrives();
        assert!(losses.is_untold());
        assert!(!sync(&losses, &open) && !losses.is_untold());
    }
}
