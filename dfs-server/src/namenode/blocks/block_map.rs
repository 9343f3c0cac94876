//! The block map: for every block of the namespace its file, version, length, wanted replicas, and the storages that hold
//! a good replica.
//!
//! This is the largest table of the NameNode after the inodes, so it is packed: 40 bytes a block with up to three
//! replicas, in pages of 1,024 ids whose memory follows what is in them (`namespace/paged.rs`). Pages hang in a B-tree
//! rather than in a vector: growth copies nothing, and a jump of the id counter (a NameNode restored from an older image)
//! costs one page, not a vector of the gap. Replicas beyond the third, which few blocks have, lie in a side map.

use std::collections::BTreeMap;

use dfs_common::block::Block;
use dfs_common::ids::{BlockId, GenerationStamp, InodeId};
use smallvec::SmallVec;

use crate::namenode::datanodes::StorageIndex;
use crate::namenode::namespace::paged::{PAGE_SLOTS, Page, Slot};

/// Replicas kept in the slot itself: the default replication.
const INLINE_REPLICAS: usize = 3;

/// Storages of one block, on the stack for all but the most replicated.
pub(crate) type StorageList = SmallVec<[StorageIndex; 4]>;

/// How far a block has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockState {
    /// A writer has it; its length is not final.
    UnderConstruction,
    /// The writer named its final length; fewer than the minimum of replicas have been reported.
    Committed,
    /// Final length, and enough replicas were reported once.
    Complete,
}

/// What is known of one block. Nothing of it is durable: rebuilt from the namespace and from reports.
#[derive(Clone, Copy)]
pub(crate) struct BlockInfo {
    /// The file it belongs to.
    pub inode: InodeId,
    /// Current version.
    pub generation_stamp: GenerationStamp,
    /// Bytes; for a block under construction the last length logged.
    pub length: u64,
    replicas: [StorageIndex; INLINE_REPLICAS],
    /// Replicas its file asks for.
    pub replication: u16,
    /// Bits 0-1 state (0: free slot), 2-4 repair queue (0: none), 5-6 replicas inline, 7: more in the side map.
    bits: u8,
}

const STATE_MASK: u8 = 0b11;
const QUEUE_SHIFT: u32 = 2;
const QUEUE_MASK: u8 = 0b111 << QUEUE_SHIFT;
const COUNT_SHIFT: u32 = 5;
const COUNT_MASK: u8 = 0b11 << COUNT_SHIFT;
const OVERFLOW: u8 = 1 << 7;

const FREE: BlockInfo = BlockInfo {
    inode: InodeId(0),
    generation_stamp: GenerationStamp(0),
    length: 0,
    replicas: [StorageIndex(0); INLINE_REPLICAS],
    replication: 0,
    bits: 0,
};

impl BlockInfo {
    /// A block without replicas.
    pub(crate) fn new(block: Block, inode: InodeId, replication: u16, state: BlockState) -> Self {
        let mut info =
            Self { inode, generation_stamp: block.generation_stamp, length: block.length, replication, ..FREE };
        info.set_state(state);
        info
    }

    /// How far it has come.
    pub(crate) fn state(&self) -> BlockState {
        match self.bits & STATE_MASK {
            1 => BlockState::UnderConstruction,
            2 => BlockState::Committed,
            _ => BlockState::Complete,
        }
    }

    pub(crate) fn set_state(&mut self, state: BlockState) {
        let number = match state {
            BlockState::UnderConstruction => 1,
            BlockState::Committed => 2,
            BlockState::Complete => 3,
        };
        self.bits = self.bits & !STATE_MASK | number;
    }

    /// The repair queue it stands in, as a number from 0.
    pub(crate) fn queue(&self) -> Option<usize> {
        usize::from((self.bits & QUEUE_MASK) >> QUEUE_SHIFT).checked_sub(1)
    }

    pub(crate) fn set_queue(&mut self, queue: Option<usize>) {
        let number = queue.map_or(0, |queue| u8::try_from(queue + 1).expect("there are six queues"));
        self.bits = self.bits & !QUEUE_MASK | number << QUEUE_SHIFT;
    }

    fn inline(&self) -> &[StorageIndex] {
        &self.replicas[..self.inline_len()]
    }

    fn inline_len(&self) -> usize {
        usize::from((self.bits & COUNT_MASK) >> COUNT_SHIFT)
    }

    fn set_inline_len(&mut self, len: usize) {
        debug_assert!(len <= INLINE_REPLICAS);
        self.bits = self.bits & !COUNT_MASK | (len as u8) << COUNT_SHIFT;
    }

    /// Whether this is what a finalized replica with these marks, on this storage, is already recorded as. False may
    /// also mean that the side map must be asked.
    pub(crate) fn is_settled_on(&self, storage: StorageIndex, generation_stamp: GenerationStamp, length: u64) -> bool {
        self.state() == BlockState::Complete
            && self.generation_stamp == generation_stamp
            && self.length == length
            && self.inline().contains(&storage)
    }
}

impl Slot for BlockInfo {
    const FREE: Self = FREE;

    fn is_free(&self) -> bool {
        self.bits & STATE_MASK == 0
    }
}

/// All blocks by id.
#[derive(Default)]
pub(crate) struct BlockMap {
    pages: BTreeMap<u64, Page<BlockInfo>>,
    /// Replicas beyond the third, for blocks that have as many. Never an empty list.
    overflow: BTreeMap<BlockId, Vec<StorageIndex>>,
    len: usize,
}

fn position(id: BlockId) -> (u64, usize) {
    (id.0 / PAGE_SLOTS as u64, (id.0 % PAGE_SLOTS as u64) as usize)
}

impl BlockMap {
    /// Blocks in the map.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, id: BlockId) -> Option<&BlockInfo> {
        let (page, slot) = position(id);
        self.pages.get(&page)?.get(slot)
    }

    pub(crate) fn get_mut(&mut self, id: BlockId) -> Option<&mut BlockInfo> {
        let (page, slot) = position(id);
        self.pages.get_mut(&page)?.get_mut(slot)
    }

    /// Puts a block without replicas in; one that was there under this id is gone.
    pub(crate) fn insert(&mut self, id: BlockId, info: BlockInfo) {
        debug_assert!(!info.is_free() && info.inline_len() == 0);
        let (number, slot) = position(id);
        match self.pages.entry(number).or_default().insert(slot, info) {
            None => self.len += 1,
            Some(old) if old.bits & OVERFLOW != 0 => drop(self.overflow.remove(&id)),
            Some(_) => {}
        }
    }

    /// Takes a block out, with the storages of its good replicas.
    pub(crate) fn remove(&mut self, id: BlockId) -> Option<(BlockInfo, StorageList)> {
        let storages = self.replicas(id);
        let (number, slot) = position(id);
        let page = self.pages.get_mut(&number)?;
        let old = page.remove(slot)?;
        self.len -= 1;
        if page.used() == 0 {
            self.pages.remove(&number);
        }
        if old.bits & OVERFLOW != 0 {
            self.overflow.remove(&id);
        }
        Some((old, storages))
    }

    /// The storages that hold a good replica.
    pub(crate) fn replicas(&self, id: BlockId) -> StorageList {
        let Some(info) = self.get(id) else { return StorageList::new() };
        let mut storages = StorageList::from_slice(info.inline());
        if info.bits & OVERFLOW != 0 {
            storages.extend(self.overflow.get(&id).into_iter().flatten().copied());
        }
        storages
    }

    /// How many good replicas are known.
    pub(crate) fn replica_count(&self, id: BlockId) -> usize {
        self.get(id).map_or(0, |info| self.count(id, info))
    }

    fn count(&self, id: BlockId, info: &BlockInfo) -> usize {
        let more = if info.bits & OVERFLOW != 0 { self.overflow.get(&id).map_or(0, Vec::len) } else { 0 };
        info.inline_len() + more
    }

    pub(crate) fn has_replica(&self, id: BlockId, storage: StorageIndex) -> bool {
        self.get(id).is_some_and(|info| {
            info.inline().contains(&storage)
                || info.bits & OVERFLOW != 0
                    && self.overflow.get(&id).is_some_and(|storages| storages.contains(&storage))
        })
    }

    /// Adds a good replica; false when it was there or the block is unknown.
    pub(crate) fn add_replica(&mut self, id: BlockId, storage: StorageIndex) -> bool {
        if self.has_replica(id, storage) {
            return false;
        }
        let Some(info) = self.get_mut(id) else { return false };
        let len = info.inline_len();
        if len < INLINE_REPLICAS {
            info.replicas[len] = storage;
            info.set_inline_len(len + 1);
        } else {
            info.bits |= OVERFLOW;
            self.overflow.entry(id).or_default().push(storage);
        }
        true
    }

    /// Drops a good replica; false when there was none.
    pub(crate) fn remove_replica(&mut self, id: BlockId, storage: StorageIndex) -> bool {
        let (page, slot) = position(id);
        let Some(info) = self.pages.get_mut(&page).and_then(|page| page.get_mut(slot)) else { return false };
        let mut spare = None;
        let mut found_in_overflow = false;
        if info.bits & OVERFLOW != 0
            && let Some(storages) = self.overflow.get_mut(&id)
        {
            match storages.iter().position(|&other| other == storage) {
                Some(at) => {
                    storages.swap_remove(at);
                    found_in_overflow = true;
                }
                None if info.inline().contains(&storage) => spare = storages.pop(),
                None => return false,
            }
            if storages.is_empty() {
                self.overflow.remove(&id);
                info.bits &= !OVERFLOW;
            }
        }
        if found_in_overflow {
            return true;
        }
        let Some(at) = info.inline().iter().position(|&other| other == storage) else { return false };
        match spare {
            Some(spare) => info.replicas[at] = spare,
            None => {
                let last = info.inline_len() - 1;
                info.replicas[at] = info.replicas[last];
                info.set_inline_len(last);
            }
        }
        true
    }

    /// Up to `limit` ids from `first` on, in order: for walks in slices.
    pub(crate) fn ids_from(&self, first: BlockId, limit: usize) -> Vec<BlockId> {
        let (first_page, _) = position(first);
        self.pages
            .range(first_page..)
            .flat_map(|(number, page)| {
                page.iter().map(move |(slot, _)| BlockId(number * PAGE_SLOTS as u64 + slot as u64))
            })
            .filter(|&id| id >= first)
            .take(limit)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn info() -> BlockInfo {
        let block = Block { id: BlockId(1), generation_stamp: GenerationStamp(7), length: 9 };
        BlockInfo::new(block, InodeId(3), 3, BlockState::Complete)
    }

    #[test]
    fn slot_is_forty_bytes() {
        assert_eq!(std::mem::size_of::<BlockInfo>(), 40);
    }

    #[test]
    fn bits_do_not_disturb_each_other() {
        let mut info = info();
        for state in [BlockState::UnderConstruction, BlockState::Committed, BlockState::Complete] {
            for queue in [None, Some(0), Some(4)] {
                for count in 0..=3 {
                    info.set_state(state);
                    info.set_queue(queue);
                    info.set_inline_len(count);
                    assert_eq!((info.state(), info.queue(), info.inline_len()), (state, queue, count));
                }
            }
        }
    }

    #[test]
    fn memory_follows_what_is_left() {
        let mut map = BlockMap::default();
        let ids = || (1..=50 * PAGE_SLOTS as u64).map(BlockId);
        let bytes = |map: &BlockMap| map.pages.values().map(Page::heap_bytes).sum::<usize>();
        ids().for_each(|id| map.insert(id, info()));
        let full = bytes(&map);
        assert!(full <= 41 * map.len());
        ids().filter(|id| !id.0.is_multiple_of(10)).for_each(|id| drop(map.remove(id)));
        assert_eq!(map.len(), 5 * PAGE_SLOTS);
        assert!(bytes(&map) <= full / 6, "of nine in ten removed, not much more than a tenth is left");
    }

    #[test]
    fn pages_are_freed_when_empty_and_ids_may_jump() {
        let mut map = BlockMap::default();
        for id in [1, 1_023, 1_024, u64::MAX] {
            map.insert(BlockId(id), info());
        }
        assert_eq!((map.pages.len(), map.len()), (3, 4));
        assert_eq!(map.ids_from(BlockId(2), 2), [BlockId(1_023), BlockId(1_024)]);
        for id in [1, 1_023, 1_024, u64::MAX] {
            assert!(map.remove(BlockId(id)).is_some());
            assert!(map.remove(BlockId(id)).is_none());
        }
        assert_eq!((map.pages.len(), map.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn replicas_behave_like_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..8), 0..60)) {
            let mut map = BlockMap::default();
            let id = BlockId(5);
            map.insert(id, info());
            let mut model = BTreeSet::new();
            for (add, number) in steps {
                let storage = StorageIndex(number);
                if add {
                    prop_assert_eq!(map.add_replica(id, storage), model.insert(storage));
                } else {
                    prop_assert_eq!(map.remove_replica(id, storage), model.remove(&storage));
                }
                prop_assert_eq!(map.replicas(id).into_iter().collect::<BTreeSet<_>>(), model.clone());
                prop_assert_eq!(map.replica_count(id), model.len());
                prop_assert_eq!(map.overflow.is_empty(), model.len() <= INLINE_REPLICAS);
            }
        }
    }
}
