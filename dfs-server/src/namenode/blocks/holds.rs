//! The block manager's lock, and how long work goes in slices so that nobody waits long for it.
//!
//! Heartbeats, reports, reads and writes all pass this lock, and so does the machine while it holds the namespace's. A hold is
//! therefore bounded by time, not by a count that some machine or some state of the tables makes long: work of any length
//! is a row of small steps, and the lock is given to whoever waits once it was held for [`HOLD_MAX`].

use parking_lot::MutexGuard;

use dfs_common::error::Result;
use dfs_common::ids::BlockId;

use super::block_manager::BlockManager;
use super::state::SoftState;
use crate::namenode::lock_times::Timed;

/// Time after which a long piece of work lets others in. The step under way is still ended, so a step must be short: at
/// most some hundred microseconds.
const HOLD_MAX: std::time::Duration = std::time::Duration::from_millis(1);

/// The lock, taken.
pub(super) type Held<'a> = Timed<'a, MutexGuard<'a, SoftState>>;

impl BlockManager {
    pub(super) fn lock(&self) -> Held<'_> {
        let mut state = self.lock_times.time(self.state.lock());
        state.now = self.clock.instant();
        state.now_ns = self.clock.now_ns();
        state.heard = self.listening.at(state.now);
        state
    }

    /// One short piece of work. Whoever waits for the lock gets it next: a thread that takes it again at once would else keep
    /// calls waiting for as long as all slices together.
    pub(super) fn step<R>(&self, work: impl FnOnce(&mut SoftState) -> R) -> R {
        let mut state = self.lock();
        let result = work(&mut state);
        state.release_by(MutexGuard::unlock_fair);
        result
    }

    /// Repeats a short piece of work until it says that nothing is left.
    pub(super) fn repeat(&self, mut has_more: impl FnMut(&mut SoftState) -> bool) {
        let mut goes_on = true;
        while goes_on {
            let mut state = self.lock();
            while goes_on {
                goes_on = has_more(&mut state);
                if state.held() >= HOLD_MAX {
                    break;
                }
            }
            state.release_by(MutexGuard::unlock_fair);
        }
    }

    /// A walk over blocks: each step is told where to begin and gives where to go on, if anywhere.
    pub(super) fn walk(&self, mut step: impl FnMut(&mut SoftState, BlockId) -> Option<BlockId>) {
        let mut from = Some(BlockId(0));
        self.repeat(|state| {
            from = from.and_then(|from| step(state, from));
            from.is_some()
        });
    }

    /// A short piece of work for each item; the first failure ends it.
    ///
    /// # Errors
    /// Of the work.
    pub(super) fn try_each<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        mut work: impl FnMut(&mut SoftState, T) -> Result<()>,
    ) -> Result<()> {
        let mut items = items.into_iter().peekable();
        let mut result = Ok(());
        if items.peek().is_some() {
            self.repeat(|state| {
                if let Some(item) = items.next() {
                    result = work(state, item);
                }
                result.is_ok() && items.peek().is_some()
            });
        }
        result
    }

    /// A short piece of work for each item.
    pub(super) fn each<T>(&self, items: impl IntoIterator<Item = T>, mut work: impl FnMut(&mut SoftState, T)) {
        let all = self.try_each(items, |state, item| {
            work(state, item);
            Ok(())
        });
        debug_assert!(all.is_ok(), "the work does not fail");
    }
}
