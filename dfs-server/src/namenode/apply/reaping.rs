//! Inodes that nothing keeps any more, and their blocks, taken out of the namespace.

use dfs_common::ids::InodeId;

use crate::namenode::blocks::BlockEvent;
use crate::namenode::namespace::Namespace;
use crate::namenode::namespace::inode::{BlockList, Content, Inode};

/// Blocks of one file of which the block manager is told one by one, while everybody waits.
pub(super) const EVENTS_PER_FILE_MAX: usize = 16;

impl Namespace {
    /// Takes an inode out of the namespace when nothing keeps it: no name, no lease, no hold. A condemned directory goes when it
    /// is empty.
    pub(super) fn reap(&mut self, id: InodeId, events: &mut Vec<BlockEvent>) {
        let unlinked = self.inode(id).is_ok_and(|inode| inode.nlink == 0) && !self.condemned.contains(&id);
        if !unlinked || self.holds.has(id) || self.leases.get(id).is_some_and(|lease| !lease.needs_recovery) {
            return;
        }
        // A file without a name whose writer is gone needs no recovery.
        self.leases.remove(id);
        if let Some(inode) = self.inodes.remove(id.0) {
            self.forget_content(inode, events);
        }
    }

    fn forget_content(&mut self, inode: Inode, events: &mut Vec<BlockEvent>) {
        match inode.content {
            Content::Directory(_) => self.directory_count -= 1,
            Content::File { blocks, .. } => {
                self.file_count -= 1;
                self.forget_blocks(blocks, events);
            }
            Content::Symlink(_) | Content::Special { .. } => self.file_count -= 1,
        }
    }

    /// No file has these blocks any more. A long list goes as it is: the block manager takes it apart in steps.
    pub(super) fn forget_blocks(&mut self, blocks: BlockList, events: &mut Vec<BlockEvent>) {
        self.block_count -= blocks.len() as u64;
        if blocks.len() > EVENTS_PER_FILE_MAX {
            events.push(BlockEvent::ListRemoved { blocks });
        } else {
            events.extend(blocks.as_slice().iter().map(|block| BlockEvent::Removed { id: block.id }));
        }
    }
}
