//! Deletions that a volume's DataNode is still to be told of, by block id.
//!
//! In rows of neighbouring ids: a removal of millions of files queues as many, and the small nodes of a tree would take two to
//! three times the memory and leave it in pieces between what stays. A row is long enough to be worth its place when a volume
//! holds one block in a thousand, and short enough to be moved in microseconds when it holds all.

use std::collections::{BTreeMap, VecDeque};

use dfs_common::ids::{BlockId, GenerationStamp};

/// Ids in a row.
const ROW_IDS: u64 = 8192;

/// Where in its row a replica stands, and its generation stamp.
type Queued = (u16, GenerationStamp);

/// Replicas to be deleted with their generation stamps.
#[derive(Default)]
pub(super) struct WaitingDeletions {
    /// In order; never an empty one.
    rows: BTreeMap<u64, VecDeque<Queued>>,
    count: usize,
}

fn position(id: BlockId) -> (u64, u16) {
    (id.0 / ROW_IDS, (id.0 % ROW_IDS) as u16)
}

fn find(row: &VecDeque<Queued>, slot: u16) -> Result<usize, usize> {
    // They mostly come in the order of their ids.
    match row.back() {
        Some(&(last, _)) if last < slot => Err(row.len()),
        _ => row.binary_search_by_key(&slot, |&(slot, _)| slot),
    }
}

impl WaitingDeletions {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn contains(&self, id: BlockId) -> bool {
        let (row, slot) = position(id);
        self.rows.get(&row).is_some_and(|row| find(row, slot).is_ok())
    }

    /// Queues it with this stamp, whatever was queued of it before.
    pub(super) fn insert(&mut self, id: BlockId, generation_stamp: GenerationStamp) {
        let (row, slot) = position(id);
        let row = self.rows.entry(row).or_default();
        match find(row, slot) {
            Ok(at) => row[at].1 = generation_stamp,
            Err(at) => {
                row.insert(at, (slot, generation_stamp));
                self.count += 1;
            }
        }
    }

    /// Queues it, unless it is.
    pub(super) fn insert_if_absent(&mut self, id: BlockId, generation_stamp: GenerationStamp) {
        if !self.contains(id) {
            self.insert(id, generation_stamp);
        }
    }

    pub(super) fn remove(&mut self, id: BlockId) -> Option<GenerationStamp> {
        let (number, slot) = position(id);
        let row = self.rows.get_mut(&number)?;
        let (_, removed) = row.remove(find(row, slot).ok()?)?;
        self.count -= 1;
        if row.is_empty() {
            self.rows.remove(&number);
        }
        Some(removed)
    }

    /// Takes out the one with the lowest id.
    pub(super) fn pop_first(&mut self) -> Option<(BlockId, GenerationStamp)> {
        let (number, row) = self.rows.first_key_value()?;
        let id = BlockId(number * ROW_IDS + u64::from(row.front()?.0));
        Some((id, self.remove(id)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(steps in proptest::collection::vec((0_u8..5, 0_u64..20_000, 1_u64..5), 1..400)) {
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
        (0..20_000).for_each(|id| waiting.insert(BlockId(id), GenerationStamp(1)));
        let ids: Vec<u64> = std::iter::from_fn(|| waiting.pop_first()).map(|(id, _)| id.0).collect();
        assert_eq!(ids, (0..20_000).collect::<Vec<_>>());
        assert!(waiting.rows.is_empty());
    }
}
