//! The queues of blocks that need copies, by how near they are to being lost.

use std::collections::BTreeSet;

use dfs_common::ids::BlockId;

/// How urgent a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Priority {
    /// One replica is left.
    OneLeft = 0,
    /// Fewer than a third of what it should have.
    VeryLow = 1,
    /// Fewer than it should have.
    Low = 2,
    /// Enough, but all on one rack.
    Misplaced = 3,
    /// None: nothing can be done until a node comes back.
    NoneLeft = 4,
    /// The copies that it lacks are on their way, so nothing is to be done. It stands in a queue so that it is counted.
    BeingCopied = 5,
}

pub(crate) const PRIORITIES: usize = 6;

/// Priorities that copying can help, most urgent first.
const WORKABLE: [Priority; 4] = [Priority::OneLeft, Priority::VeryLow, Priority::Low, Priority::Misplaced];

/// Blocks that need work.
#[derive(Default)]
pub(crate) struct RepairQueues {
    queues: [BTreeSet<BlockId>; PRIORITIES],
    cursors: [BlockId; PRIORITIES],
}

impl RepairQueues {
    /// Blocks in a queue.
    pub(crate) fn len(&self, priority: Priority) -> usize {
        self.queues[priority as usize].len()
    }

    /// Moves a block from one queue to another.
    pub(crate) fn change(&mut self, id: BlockId, before: Option<usize>, after: Option<usize>) {
        if let Some(queue) = before {
            self.queues[queue].remove(&id);
        }
        if let Some(queue) = after {
            self.queues[queue].insert(id);
        }
    }

    /// Where the next tick begins in each queue: at the first block that this tick had planned to look at and did not.
    pub(crate) fn go_on_at(&mut self, left_out: [Option<BlockId>; PRIORITIES]) {
        for (cursor, left_out) in self.cursors.iter_mut().zip(left_out) {
            *cursor = left_out.unwrap_or(*cursor);
        }
    }

    /// The next blocks to look at, most urgent first. No queue takes more than half of what is left, so that blocks
    /// which cannot be helped now do not keep others waiting for ever.
    pub(crate) fn next(&mut self, limit: usize) -> Vec<(BlockId, Priority)> {
        let mut found = Vec::new();
        for priority in WORKABLE {
            let share = (limit - found.len()).div_ceil(2);
            let queue = &self.queues[priority as usize];
            let cursor = &mut self.cursors[priority as usize];
            take_round(queue, cursor, share, |id| found.push((id, priority)));
        }
        found
    }
}

/// Visits up to `limit` ids from the cursor on; at the end the next round starts from the beginning.
pub(crate) fn take_round(ids: &BTreeSet<BlockId>, cursor: &mut BlockId, limit: usize, mut visit: impl FnMut(BlockId)) {
    let mut last = None;
    let mut count = 0;
    for &id in ids.range(*cursor..).take(limit) {
        visit(id);
        last = Some(id);
        count += 1;
    }
    *cursor = match last {
        Some(last) if count == limit => last.next(),
        _ => BlockId(0),
    };
}
