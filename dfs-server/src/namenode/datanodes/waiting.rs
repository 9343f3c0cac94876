//! Deletions that a volume's DataNode is still to be told of, by block id.
//!
//! In pages, as blocks are: a removal of millions of files queues as many, and a tree of small nodes would take three times
//! the memory and leave it in pieces between what stays.

use std::collections::BTreeMap;

use dfs_common::ids::{BlockId, GenerationStamp};

use crate::namenode::namespace::paged::{PAGE_SLOTS, Page};

/// Replicas to be deleted with their generation stamps.
#[derive(Default)]
pub(super) struct WaitingDeletions {
    pages: BTreeMap<u64, Page<Option<GenerationStamp>>>,
    count: usize,
}

fn position(id: BlockId) -> (u64, usize) {
    (id.0 / PAGE_SLOTS as u64, (id.0 % PAGE_SLOTS as u64) as usize)
}

impl WaitingDeletions {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn contains(&self, id: BlockId) -> bool {
        let (page, slot) = position(id);
        self.pages.get(&page).is_some_and(|page| page.get(slot).is_some())
    }

    /// Queues it with this stamp, whatever was queued of it before.
    pub(super) fn insert(&mut self, id: BlockId, generation_stamp: GenerationStamp) {
        let (page, slot) = position(id);
        let old = self.pages.entry(page).or_default().insert(slot, Some(generation_stamp));
        self.count += usize::from(old.is_none());
    }

    /// Queues it, unless it is.
    pub(super) fn insert_if_absent(&mut self, id: BlockId, generation_stamp: GenerationStamp) {
        if !self.contains(id) {
            self.insert(id, generation_stamp);
        }
    }

    pub(super) fn remove(&mut self, id: BlockId) -> Option<GenerationStamp> {
        let (number, slot) = position(id);
        let page = self.pages.get_mut(&number)?;
        let removed = page.remove(slot).flatten()?;
        self.count -= 1;
        if page.used() == 0 {
            self.pages.remove(&number);
        }
        Some(removed)
    }

    /// Takes out the one with the lowest id.
    pub(super) fn pop_first(&mut self) -> Option<(BlockId, GenerationStamp)> {
        let (number, page) = self.pages.first_key_value()?;
        let id = BlockId(number * PAGE_SLOTS as u64 + page.first()? as u64);
        Some((id, self.remove(id)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(steps in proptest::collection::vec((0_u8..5, 0_u64..3_000, 1_u64..5), 1..400)) {
            let (mut waiting, mut model) = (WaitingDeletions::default(), BTreeMap::new());
            for (kind, id, stamp) in steps {
                let (id, stamp) = (BlockId(id), GenerationStamp(stamp));
                match kind {
                    0 | 1 => {
                        waiting.insert(id, stamp);
                        model.insert(id, stamp);
                    }
                    2 => {
                        waiting.insert_if_absent(id, stamp);
                        model.entry(id).or_insert(stamp);
                    }
                    3 => prop_assert_eq!(waiting.remove(id), model.remove(&id)),
                    _ => prop_assert_eq!(waiting.pop_first(), model.pop_first()),
                }
                prop_assert_eq!(waiting.len(), model.len());
                prop_assert_eq!(waiting.contains(id), model.contains_key(&id));
            }
        }
    }

    #[test]
    fn a_drained_queue_holds_nothing() {
        let mut waiting = WaitingDeletions::default();
        (0..10_000).for_each(|id| waiting.insert(BlockId(id), GenerationStamp(1)));
        let ids: Vec<u64> = std::iter::from_fn(|| waiting.pop_first()).map(|(id, _)| id.0).collect();
        assert_eq!(ids, (0..10_000).collect::<Vec<_>>());
        assert!(waiting.pages.is_empty());
    }
}
