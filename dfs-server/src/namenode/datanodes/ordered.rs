//! Deletions that a DataNode was ordered to carry out and that may have to be ordered again, oldest first.
//!
//! They are kept by what went out together, so that no list ever grows large enough for its move to be felt, and what was
//! confirmed goes as soon as nothing older waits: a removal of millions of files leaves nothing behind.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use dfs_common::ids::{BlockId, GenerationStamp};

/// Most replicas in a batch.
const BATCH: usize = 4096;
/// Most that are looked at when one deletion is confirmed: more than one, so that they go faster than they come.
const FORGOTTEN_AT_ONCE: usize = 16;

/// What went out at one time.
struct Batch {
    since: Instant,
    replicas: VecDeque<(BlockId, GenerationStamp)>,
}

/// Deletions that went out; also ones that have been confirmed since, while an older one has not.
#[derive(Default)]
pub(super) struct OrderedDeletions {
    batches: VecDeque<Batch>,
    count: usize,
}

impl OrderedDeletions {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// An order goes out.
    pub(super) fn push(&mut self, now: Instant, id: BlockId, generation_stamp: GenerationStamp) {
        self.count += 1;
        match self.batches.back_mut() {
            Some(batch) if batch.since == now && batch.replicas.len() < BATCH => {
                batch.replicas.push_back((id, generation_stamp));
            }
            _ => self.batches.push_back(Batch { since: now, replicas: VecDeque::from([(id, generation_stamp)]) }),
        }
    }

    /// The oldest, if it went out at least `age` ago.
    pub(super) fn pop_older_than(&mut self, age: Duration, now: Instant) -> Option<(BlockId, GenerationStamp)> {
        let is_due = now.saturating_duration_since(self.batches.front()?.since) >= age;
        if is_due { self.pop() } else { None }
    }

    /// Forgets some of the oldest that wait no more.
    pub(super) fn forget_confirmed(&mut self, waits: impl Fn(BlockId) -> bool) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let oldest = self.batches.front().and_then(|batch| batch.replicas.front());
            if oldest.is_none_or(|&(id, _)| waits(id)) {
                return;
            }
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<(BlockId, GenerationStamp)> {
        let batch = self.batches.front_mut()?;
        let oldest = batch.replicas.pop_front();
        self.count -= usize::from(oldest.is_some());
        if batch.replicas.is_empty() {
            self.batches.pop_front();
        }
        oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: GenerationStamp = GenerationStamp(1);

    #[test]
    fn oldest_comes_first_and_only_when_it_is_due() {
        let (mut ordered, start) = (OrderedDeletions::default(), Instant::now());
        let age = Duration::from_secs(60);
        ordered.push(start, BlockId(1), STAMP);
        ordered.push(start, BlockId(2), STAMP);
        ordered.push(start + Duration::from_secs(1), BlockId(3), STAMP);
        assert_eq!(ordered.pop_older_than(age, start + Duration::from_secs(59)), None);
        assert_eq!(ordered.pop_older_than(age, start + age), Some((BlockId(1), STAMP)));
        assert_eq!(ordered.pop_older_than(age, start + age), Some((BlockId(2), STAMP)));
        assert_eq!(ordered.pop_older_than(age, start + age), None);
        assert_eq!(ordered.len(), 1);
    }

    #[test]
    fn nothing_is_left_of_what_was_confirmed_in_any_order() {
        let (mut ordered, start) = (OrderedDeletions::default(), Instant::now());
        for id in 0..50_000_u64 {
            ordered.push(start, BlockId(id), STAMP);
        }
        // The oldest is confirmed last.
        let mut waiting: std::collections::BTreeSet<u64> = (0..50_000).collect();
        for id in (0..50_000).rev() {
            waiting.remove(&id);
            ordered.forget_confirmed(|id| waiting.contains(&id.0));
        }
        assert!(ordered.len() > 0, "one confirmation looked at everything");
        for id in 50_000..54_000_u64 {
            ordered.push(start, BlockId(id), STAMP);
            ordered.forget_confirmed(|_| false);
        }
        assert_eq!(ordered.len(), 0);
        assert!(ordered.batches.is_empty());
    }
}
