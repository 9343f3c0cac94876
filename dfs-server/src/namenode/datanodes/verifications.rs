//! Replicas that a DataNode is to verify because somebody suspects them, until it has told what it found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::v1;

/// Suspects of one DataNode. Who would add another one is refused and may come again; scanners look at every replica anyway.
const SUSPECTS_MAX: usize = 10_000;

/// Orders that wait for an answer: a DataNode reads that many blocks of usual size in a few minutes.
const ORDERED_MAX: usize = 100;

/// Time after which an order that was not answered is repeated: the one before may have been dropped, or lost on its way back.
/// Longer than what all that wait for an answer take.
const REPEAT_AFTER: Duration = Duration::from_secs(600);

/// Orders after which nobody waits for an answer any more.
const TRIES: u8 = 3;

struct Suspect {
    generation_stamp: GenerationStamp,
    tries: u8,
    /// When it was ordered last, if it stands in `ordered`.
    ordered_at: Option<Instant>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Verifications {
    suspects: BTreeMap<BlockId, Suspect>,
    /// Those to be ordered.
    due: BTreeSet<BlockId>,
    /// The others, by when they were ordered.
    ordered: BTreeSet<(Instant, BlockId)>,
}

impl Verifications {
    /// Has a replica verified; false when there is no room for another suspect.
    #[must_use]
    pub(crate) fn suspect(&mut self, id: BlockId, generation_stamp: GenerationStamp) -> bool {
        if self.suspects.get(&id).is_some_and(|suspect| suspect.generation_stamp == generation_stamp) {
            return true;
        }
        self.settle(id);
        if self.suspects.len() >= SUSPECTS_MAX {
            return false;
        }
        self.suspects.insert(id, Suspect { generation_stamp, tries: 0, ordered_at: None });
        self.due.insert(id);
        true
    }

    /// This version of the replica was found good or bad. That says nothing of a younger one.
    pub(crate) fn on_verdict(&mut self, id: BlockId, generation_stamp: GenerationStamp) {
        if self.suspects.get(&id).is_some_and(|suspect| suspect.generation_stamp <= generation_stamp) {
            self.settle(id);
        }
    }

    /// Whether an answer is awaited.
    pub(crate) fn is_suspected(&self, id: BlockId) -> bool {
        self.suspects.contains_key(&id)
    }

    /// The replica is gone, or will be.
    pub(crate) fn settle(&mut self, id: BlockId) {
        if self.suspects.is_empty() {
            return;
        }
        if let Some(suspect) = self.suspects.remove(&id) {
            self.due.remove(&id);
            suspect.ordered_at.map(|at| self.ordered.remove(&(at, id)));
        }
    }

    /// The DataNode has begun anew and knows nothing of what it was ordered.
    pub(super) fn on_registered(&mut self) {
        for (_, id) in std::mem::take(&mut self.ordered) {
            if let Some(suspect) = self.suspects.get_mut(&id) {
                suspect.ordered_at = None;
                self.due.insert(id);
            }
        }
    }

    /// The orders of a heartbeat, and how many suspects were given up because the DataNode does not answer for them.
    pub(crate) fn next(&mut self, now: Instant) -> (Vec<v1::Block>, usize) {
        let given_up = self.repeat(now);
        let mut orders = Vec::new();
        while self.ordered.len() < ORDERED_MAX
            && let Some(id) = self.due.pop_first()
        {
            let Some(suspect) = self.suspects.get_mut(&id) else { continue };
            suspect.tries += 1;
            suspect.ordered_at = Some(now);
            self.ordered.insert((now, id));
            orders.push(v1::Block { id: id.0, generation_stamp: suspect.generation_stamp.0, length: 0 });
        }
        (orders, given_up)
    }

    fn repeat(&mut self, now: Instant) -> usize {
        let mut given_up = 0;
        while let Some(&(since, id)) = self.ordered.first() {
            if now.saturating_duration_since(since) < REPEAT_AFTER {
                break;
            }
            self.ordered.pop_first();
            let Some(suspect) = self.suspects.get_mut(&id) else { continue };
            suspect.ordered_at = None;
            if suspect.tries < TRIES {
                self.due.insert(id);
            } else {
                self.suspects.remove(&id);
                given_up += 1;
            }
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: GenerationStamp = GenerationStamp(1);

    fn ids(orders: &[v1::Block]) -> Vec<u64> {
        orders.iter().map(|block| block.id).collect()
    }

    #[test]
    fn suspects_are_ordered_until_they_are_settled() {
        let mut verifications = Verifications::default();
        let mut now = Instant::now();
        for id in [1, 2, 3] {
            assert!(verifications.suspect(BlockId(id), STAMP));
        }
        assert_eq!(ids(&verifications.next(now).0), [1, 2, 3]);
        assert!(verifications.suspect(BlockId(1), STAMP));
        assert_eq!(ids(&verifications.next(now).0), [0; 0], "it is under way");
        verifications.settle(BlockId(1));
        verifications.on_registered();
        assert_eq!(ids(&verifications.next(now).0), [2, 3], "the orders before went to a process that has ended");
        verifications.settle(BlockId(2));
        now += REPEAT_AFTER;
        assert_eq!((ids(&verifications.next(now).0), TRIES), (vec![3], 3));
        now += REPEAT_AFTER;
        assert_eq!(verifications.next(now), (Vec::new(), 1));
        assert!(verifications.suspects.is_empty() && verifications.due.is_empty() && verifications.ordered.is_empty());
    }

    #[test]
    fn suspects_are_bounded() {
        let mut verifications = Verifications::default();
        for id in 0..SUSPECTS_MAX as u64 {
            assert!(verifications.suspect(BlockId(id), STAMP));
        }
        assert!(!verifications.suspect(BlockId(1 << 40), STAMP));
        assert!(verifications.suspect(BlockId(5), GenerationStamp(2)), "one that stands there already");
        verifications.settle(BlockId(7));
        assert!(verifications.suspect(BlockId(1 << 40), STAMP));
    }

    #[test]
    fn next_orders_no_more_than_are_answered_in_time() {
        let mut verifications = Verifications::default();
        for id in 0..SUSPECTS_MAX as u64 {
            assert!(verifications.suspect(BlockId(id), STAMP));
        }
        let now = Instant::now();
        let mut verified = 0;
        while let (orders, 0) = verifications.next(now)
            && !orders.is_empty()
        {
            assert_eq!(orders.len(), ORDERED_MAX);
            assert!(verifications.next(now).0.is_empty(), "the DataNode is at work");
            orders.iter().for_each(|block| verifications.on_verdict(BlockId(block.id), STAMP));
            verified += orders.len();
        }
        assert_eq!(verified, SUSPECTS_MAX);
    }

    #[test]
    fn on_verdict_of_an_older_version_settles_nothing() {
        let mut verifications = Verifications::default();
        assert!(verifications.suspect(BlockId(1), GenerationStamp(2)));
        verifications.on_verdict(BlockId(1), GenerationStamp(1));
        assert!(verifications.is_suspected(BlockId(1)));
        verifications.on_verdict(BlockId(1), GenerationStamp(2));
        assert!(!verifications.is_suspected(BlockId(1)));
    }
}
