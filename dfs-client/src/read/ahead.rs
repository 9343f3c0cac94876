//! What is read ahead of one open file: the pattern of its reads, and the parts that are on their way or here.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use dfs_common::error::Result;
use parking_lot::Mutex;

use super::budget::{IDLE_AFTER, PrefetchBudget};
use super::part::Part;
use super::prefetch::{Streams, split};

/// Read-ahead of one open file.
pub(crate) struct ReadAhead {
    /// Never held across an await.
    state: Mutex<State>,
    /// Place in the budget's list of readers, 0 when it is not there. Changes only under that list's lock.
    pub(super) turn: AtomicU64,
}

struct State {
    streams: Streams,
    /// In file order, without overlap.
    parts: Vec<Arc<Part>>,
    /// When the file was last read.
    read_at: Instant,
}

impl ReadAhead {
    /// `window_max`: most bytes ahead of one place where the file is read; 0 fetches nothing ahead.
    pub(crate) fn new(window_max: u64) -> Arc<Self> {
        let state = State { streams: Streams::new(window_max), parts: Vec::new(), read_at: Instant::now() };
        Arc::new(Self { state: Mutex::new(state), turn: AtomicU64::new(0) })
    }

    /// Notes a read of `range` in a file of `file_len` bytes, starts fetching ahead of it, and gives the parts that have some
    /// of its bytes. `fetch` must give all bytes of a range.
    pub(crate) fn plan<F>(
        self: &Arc<Self>,
        range: Range<u64>,
        file_len: u64,
        budget: &PrefetchBudget,
        now: Instant,
        fetch: impl Fn(Range<u64>) -> F,
    ) -> Vec<Arc<Part>>
    where
        F: Future<Output = Result<Bytes>> + Send + 'static,
    {
        let mut state = self.state.lock();
        state.read_at = now;
        let to_fetch = state.streams.on_read(range.clone(), file_len);
        if !state.parts.is_empty() {
            let State { streams, parts, .. } = &mut *state;
            parts.retain(|part| !part.is_used_up() && streams.is_wanted(&part.range));
        }
        if !to_fetch.is_empty() {
            state.start_parts(to_fetch, budget, now, fetch);
            if !state.parts.is_empty() {
                budget.list(self);
            }
        }
        let overlaps = |part: &&Arc<Part>| part.range.start < range.end && part.range.end > range.start;
        state.parts.iter().filter(overlaps).cloned().collect()
    }

    /// Whether some part is still on its way.
    pub(crate) fn is_fetching(&self) -> bool {
        self.state.lock().parts.iter().any(|part| part.is_on_its_way())
    }

    /// Gives its parts back when nobody has read the file for a while; true when it has none any more. Then it is out of the list,
    /// from which the caller has taken it, before it can have others.
    pub(super) fn give_back_if_idle(&self, now: Instant) -> bool {
        // Whoever has it locked reads the file.
        let Some(mut state) = self.state.try_lock() else { return false };
        if !state.parts.is_empty() && now.saturating_duration_since(state.read_at) < IDLE_AFTER {
            return false;
        }
        state.parts.clear();
        state.streams.on_parts_lost();
        self.turn.store(0, Ordering::Relaxed);
        true
    }

    #[cfg(test)]
    fn bytes_held(&self) -> u64 {
        self.state.lock().parts.iter().map(|part| part.range.end - part.range.start).sum()
    }
}

impl State {
    fn start_parts<F>(
        &mut self,
        to_fetch: Range<u64>,
        budget: &PrefetchBudget,
        now: Instant,
        fetch: impl Fn(Range<u64>) -> F,
    ) where
        F: Future<Output = Result<Bytes>> + Send + 'static,
    {
        for range in split(to_fetch) {
            if self.parts.iter().any(|part| part.range.start < range.end && part.range.end > range.start) {
                continue;
            }
            let Some(permit) = budget.take(range.end - range.start, now) else { return };
            let part = Part::start(range.clone(), permit, fetch(range));
            let at = self.parts.partition_point(|other| other.range.start < part.range.start);
            self.parts.insert(at, Arc::new(part));
        }
    }
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
