//! Changes of the namespace that concern so many blocks of one file that the block manager takes them in step by step, once a
//! second, while nobody waits. It may: a removed block is wanted by nobody, and what was not told is not lost, for a NameNode
//! that starts asks its namespace.
//!
//! Order is kept where it matters: replication is told in the order of the ops, and a removed id is never used again.

use std::collections::VecDeque;

use dfs_common::ids::BlockId;

use crate::namenode::namespace::inode::BlockList;

/// One block's change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Late {
    Removed(BlockId),
    ReplicationChanged(BlockId, u16),
}

/// What is still to be taken in. Its memory is that of the lists, which no file has any more.
#[derive(Default)]
pub(crate) struct Backlog {
    removed: VecDeque<BlockList>,
    /// Last block first.
    replication: VecDeque<(Vec<BlockId>, u16)>,
}

impl Backlog {
    pub(crate) fn removed(&mut self, blocks: BlockList) {
        self.removed.push_back(blocks);
    }

    pub(crate) fn replication_changed(&mut self, ids: Vec<BlockId>, replication: u16) {
        self.replication.push_back((ids, replication));
    }

    /// Whether a change of replication may be taken in at once, as none waits that came before.
    pub(crate) fn is_in_order(&self) -> bool {
        self.replication.is_empty()
    }

    pub(crate) fn next(&mut self) -> Option<Late> {
        while let Some(blocks) = self.removed.front_mut() {
            if let Some(block) = blocks.pop() {
                return Some(Late::Removed(block.id));
            }
            self.removed.pop_front();
        }
        while let Some((ids, replication)) = self.replication.front_mut() {
            if let Some(id) = ids.pop() {
                return Some(Late::ReplicationChanged(id, *replication));
            }
            self.replication.pop_front();
        }
        None
    }
}
