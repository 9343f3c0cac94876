//! Ops on the content of files: taking the lease, allocating, committing and reopening blocks, closing. Cutting files and
//! closing those of dead writers is `lease_recovery`.

use dfs_common::attr::date_write;
use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, InodeId};
use dfs_proto::v1::{
    self, AbandonBlockOp, AddBlockOp, CompleteOp, NewGenerationStampOp, OpenForAppendOp, RecordLengthOp,
    SetReplicationOp, UpdatePipelineOp,
};

use super::context::{Context, not_a_file};
use super::privileges::drop_privileges;
use super::reaping::EVENTS_PER_FILE_MAX;
use crate::namenode::blocks::BlockEvent;
use crate::namenode::namespace::inode::{BlockList, Content, FileBlock, Inode};
use crate::namenode::namespace::permission::{Identity, WRITE};
use crate::namenode::namespace::{Lease, Namespace};
use crate::namenode::outcome::Outcome;

impl Namespace {
    pub(super) fn check_open_for_append(&self, who: &Identity, op: &OpenForAppendOp) -> Result<()> {
        let id = InodeId(op.inode);
        let inode = self.inode(id)?;
        if inode.blocks().is_none() {
            return Err(not_a_file(id, inode));
        }
        who.check(inode, WRITE)?;
        self.check_not_leased(id)
    }

    pub(super) fn check_not_leased(&self, id: InodeId) -> Result<()> {
        let Some(lease) = self.leases.get(id) else { return Ok(()) };
        let writer = self.sessions.get(&lease.client).map_or("a client that is gone", |session| &session.name);
        let wait = if lease.needs_recovery { "; its file waits for recovery" } else { "" };
        Err(DfsError::new(ErrorKind::Busy, format!("inode {id} is being written by {writer}{wait}")))
    }

    pub(super) fn apply_open_for_append(&mut self, context: &mut Context<'_>, op: &OpenForAppendOp) -> Result<Outcome> {
        self.check_open_for_append(&context.who, op)?;
        let lease = context.lease()?;
        let id = InodeId(op.inode);
        if op.truncate {
            self.drop_content(context, id)?;
        }
        self.leases.insert(id, lease);
        let Content::File { blocks, block_size_sectors, .. } = &self.inode(id)?.content else {
            return Ok(Outcome::Appended { inode: id, last: None });
        };
        let block_size = u64::from(*block_size_sectors) * 512;
        let last = blocks.last().filter(|last| last.length < block_size).map(|last| Block::from(*last));
        Ok(Outcome::Appended { inode: id, last })
    }

    /// Sets the times as a change of content does, and takes from a program what the caller may not keep.
    pub(super) fn mark_content_changed(&mut self, context: &Context<'_>, id: InodeId) -> Result<&mut Inode> {
        let inode = self.inode_mut(id)?;
        inode.mtime_ns = context.now_ns;
        inode.ctime_ns = context.now_ns;
        drop_privileges(inode, context.asked());
        Ok(inode)
    }

    /// Removes all blocks of a file and marks the change.
    pub(super) fn drop_content(&mut self, context: &mut Context<'_>, id: InodeId) -> Result<()> {
        let inode = self.mark_content_changed(context, id)?;
        let Some(blocks) = inode.blocks_mut() else { return Ok(()) };
        let blocks = std::mem::take(blocks);
        self.forget_blocks(blocks, context.events);
        Ok(())
    }

    /// The caller's lease on a file. A call older than the lease is a late one of an earlier writer in the same session. A step does
    /// not say which lease it means: one that such a writer takes later, not knowing that its lease has gone, passes here. What it
    /// says of the file's last block seldom fits then.
    fn own_lease(&self, context: &Context<'_>, id: InodeId) -> Result<&Lease> {
        let key = context.key()?;
        match self.leases.get(id) {
            Some(lease)
                if lease.is_of((key.client, key.incarnation)) && key.call >= lease.call && !lease.needs_recovery =>
            {
                Ok(lease)
            }
            Some(_) => Err(DfsError::new(ErrorKind::LeaseLost, format!("inode {id} is leased to another writer"))),
            None => {
                self.inode(id)?;
                Err(DfsError::new(ErrorKind::LeaseLost, format!("inode {id} is not open for writing")))
            }
        }
    }

    fn own_lease_mut(&mut self, context: &Context<'_>, id: InodeId) -> Result<&mut Lease> {
        self.own_lease(context, id)?;
        self.leases.get_mut(id).ok_or_else(|| DfsError::new(ErrorKind::Internal, "the lease was there"))
    }

    pub(super) fn file_blocks(&self, id: InodeId) -> Result<&BlockList> {
        let inode = self.inode(id)?;
        inode.blocks().ok_or_else(|| not_a_file(id, inode))
    }

    /// Refuses a commit of anything but the file's last block under its current generation stamp, shorter than recorded or
    /// longer than a block may be.
    fn check_last(&self, id: InodeId, given: &Block) -> Result<()> {
        let block_size = self.inode(id)?.block_size();
        if given.length > block_size {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("{given} is longer than a block of inode {id}, {block_size} bytes"),
            ));
        }
        let last = self.file_blocks(id)?.last();
        match last {
            Some(last) if last.id == given.id && last.generation_stamp == given.generation_stamp => {
                if given.length >= last.length {
                    Ok(())
                } else {
                    Err(DfsError::new(
                        ErrorKind::InvalidArgument,
                        format!("{given} is shorter than its recorded {} bytes", last.length),
                    ))
                }
            }
            _ => Err(DfsError::new(ErrorKind::InvalidArgument, format!("{given} is not the last block of inode {id}"))),
        }
    }

    /// Checks what a writer says of its open block: it must name it when there is one, and only then.
    fn check_commit(&self, context: &Context<'_>, id: InodeId, last: Option<&v1::Block>) -> Result<()> {
        let lease = self.own_lease(context, id)?;
        match (last, lease.open_block) {
            (None, None) => Ok(()),
            (None, Some(open)) => Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("block {open} of inode {id} is open; its length must be given"),
            )),
            (Some(given), Some(_)) => self.check_last(id, &Block::from(given)),
            (Some(given), None) => self.check_closed(id, &Block::from(given)),
        }
    }

    /// A block that is not open can only be named at the length it has: finalized bytes never change.
    fn check_closed(&self, id: InodeId, given: &Block) -> Result<()> {
        self.check_last(id, given)?;
        match self.file_blocks(id)?.last() {
            Some(last) if last.length == given.length => Ok(()),
            _ => Err(DfsError::new(ErrorKind::InvalidArgument, format!("{given} is not open; its length is fixed"))),
        }
    }

    /// The open block has its final length; one that stayed empty goes.
    fn commit_last(
        &mut self,
        context: &mut Context<'_>,
        id: InodeId,
        last: Option<&v1::Block>,
        modified_ns: Option<i64>,
    ) -> Result<()> {
        let Some(given) = last.map(Block::from) else { return Ok(()) };
        let lease = self.own_lease_mut(context, id)?;
        let was_open = lease.open_block.take().is_some();
        lease.targets.clear();
        if was_open && given.length == 0 {
            self.drop_last_block(context, id)?;
            return Ok(());
        }
        let inode = self.inode_mut(id)?;
        if let Some(blocks) = inode.blocks_mut() {
            blocks.change_last(|last| last.length = given.length);
        }
        if was_open {
            date_written(context, inode, modified_ns);
            context.events.push(BlockEvent::Committed { block: given });
        }
        Ok(())
    }

    pub(super) fn apply_add_block(&mut self, context: &mut Context<'_>, op: &AddBlockOp) -> Result<Outcome> {
        let id = InodeId(op.inode);
        self.check_commit(context, id, op.previous.as_ref())?;
        let blocks = self.file_blocks(id)?;
        let before_last = blocks.length().saturating_sub(blocks.last().map_or(0, |last| last.length));
        let length = match &op.previous {
            Some(previous) => before_last.saturating_add(previous.length),
            None => blocks.length(),
        };
        if op.offset != length {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("the next block of inode {id} starts at {length}, not at {}", op.offset),
            ));
        }
        self.commit_last(context, id, op.previous.as_ref(), op.modified_ns)?;
        let targets = op.target_datanodes.iter().cloned().zip(op.target_storages.iter().cloned()).collect();
        Ok(Outcome::Block(self.allocate_block(context, id, targets)?))
    }

    /// Gives the file its next block, which is open and empty.
    pub(super) fn allocate_block(
        &mut self,
        context: &mut Context<'_>,
        id: InodeId,
        targets: Vec<(String, String)>,
    ) -> Result<Block> {
        let block = FileBlock {
            id: self.counters.next_block,
            generation_stamp: self.counters.next_generation_stamp,
            length: 0,
        };
        self.counters.next_block = block.id.next();
        self.counters.next_generation_stamp = block.generation_stamp.next();
        let lease = self.own_lease_mut(context, id)?;
        lease.open_block = Some(block.id);
        lease.targets.clone_from(&targets);
        let Content::File { blocks, replication, .. } = &mut self.inode_mut(id)?.content else {
            return Err(DfsError::new(ErrorKind::Internal, "a leased inode is a file"));
        };
        blocks.push(block);
        let replication = *replication;
        self.block_count += 1;
        context.events.push(BlockEvent::Allocated { block: block.into(), inode: id, replication, targets });
        Ok(block.into())
    }

    pub(super) fn apply_abandon_block(&mut self, context: &mut Context<'_>, op: &AbandonBlockOp) -> Result<Outcome> {
        let id = InodeId(op.inode);
        let abandoned = BlockId(op.block.as_ref().map_or(0, |block| block.id));
        if self.own_lease(context, id)?.open_block != Some(abandoned) {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("block {abandoned} is not the open block of inode {id}"),
            ));
        }
        if self.file_blocks(id)?.last().is_some_and(|last| last.length > 0) {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("block {abandoned} holds acknowledged bytes; it cannot be abandoned"),
            ));
        }
        let lease = self.own_lease_mut(context, id)?;
        lease.open_block = None;
        lease.targets.clear();
        self.drop_last_block(context, id)?;
        Ok(Outcome::Done)
    }

    pub(super) fn drop_last_block(&mut self, context: &mut Context<'_>, id: InodeId) -> Result<()> {
        if let Some(block) = self.inode_mut(id)?.blocks_mut().and_then(BlockList::pop) {
            self.block_count -= 1;
            context.events.push(BlockEvent::Removed { id: block.id });
        }
        Ok(())
    }

    pub(super) fn apply_complete(&mut self, context: &mut Context<'_>, op: &CompleteOp) -> Result<Outcome> {
        let id = InodeId(op.inode);
        self.check_commit(context, id, op.last.as_ref())?;
        self.commit_last(context, id, op.last.as_ref(), op.modified_ns)?;
        if !op.keep_open {
            self.leases.remove(id);
            self.reap(id, context.events);
        }
        Ok(Outcome::Inode(id))
    }

    pub(super) fn apply_record_length(&mut self, context: &mut Context<'_>, op: &RecordLengthOp) -> Result<Outcome> {
        let id = InodeId(op.inode);
        let open = self.own_lease(context, id)?.open_block;
        let given = op.last.as_ref().map(Block::from);
        let given = given.ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "the block is missing"))?;
        if open == Some(given.id) {
            self.check_last(id, &given)?;
        } else {
            self.check_closed(id, &given)?;
        }
        let inode = self.inode_mut(id)?;
        date_written(context, inode, op.modified_ns);
        if let Some(blocks) = inode.blocks_mut() {
            blocks.change_last(|last| last.length = given.length);
        }
        context.events.push(BlockEvent::LengthRecorded { block: given });
        Ok(Outcome::Done)
    }

    pub(super) fn apply_new_generation_stamp(
        &mut self,
        context: &mut Context<'_>,
        op: &NewGenerationStampOp,
    ) -> Result<Outcome> {
        let id = InodeId(op.inode);
        self.own_lease(context, id)?;
        if self.file_blocks(id)?.last().is_none_or(|last| last.id.0 != op.block_id) {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("block {} is not the last block of inode {id}", op.block_id),
            ));
        }
        let stamp = self.counters.next_generation_stamp;
        self.counters.next_generation_stamp = stamp.next();
        // From here on DataNodes may hold the block under the new stamp, whether or not the pipeline is ever announced: if
        // the writer dies now, the file must be recovered, not closed. A writer that commits the block by its old stamp answers
        // for it that no DataNode can have taken the new one.
        let block = self.file_blocks(id)?.last().copied();
        let lease = self.own_lease_mut(context, id)?;
        if lease.open_block.is_none()
            && let Some(block) = block
        {
            lease.open_block = Some(block.id);
            context.events.push(BlockEvent::Reopened { block: block.into(), targets: Vec::new() });
        }
        Ok(Outcome::GenerationStamp(stamp))
    }

    pub(super) fn apply_update_pipeline(
        &mut self,
        context: &mut Context<'_>,
        op: &UpdatePipelineOp,
    ) -> Result<Outcome> {
        let id = InodeId(op.inode);
        self.own_lease(context, id)?;
        let (Some(old), Some(new)) = (op.old_block.as_ref().map(Block::from), op.new_block.as_ref().map(Block::from))
        else {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "the old or the new block is missing"));
        };
        self.check_last(id, &old)?;
        check_targets(&op.target_datanodes, &op.target_storages)?;
        if new.length > self.inode(id)?.block_size() {
            return Err(DfsError::new(ErrorKind::InvalidArgument, format!("{new} is longer than a block of its file")));
        }
        let allocated = new.generation_stamp < self.counters.next_generation_stamp;
        if new.id != old.id || new.generation_stamp <= old.generation_stamp || !allocated {
            return Err(DfsError::new(ErrorKind::InvalidArgument, format!("{new} cannot follow {old}")));
        }
        let targets: Vec<_> = op.target_datanodes.iter().cloned().zip(op.target_storages.iter().cloned()).collect();
        let lease = self.own_lease_mut(context, id)?;
        lease.open_block = Some(new.id);
        lease.targets.clone_from(&targets);
        let mut block = new;
        if let Some(blocks) = self.inode_mut(id)?.blocks_mut() {
            blocks.change_last(|last| {
                last.generation_stamp = new.generation_stamp;
                last.length = last.length.max(new.length);
                block = Block::from(*last);
            });
        }
        context.events.push(BlockEvent::Reopened { block, targets });
        Ok(Outcome::Done)
    }

    pub(super) fn check_set_replication(&self, who: &Identity, op: &SetReplicationOp) -> Result<()> {
        let id = InodeId(op.inode);
        let inode = self.inode(id)?;
        if inode.blocks().is_none() {
            return Err(not_a_file(id, inode));
        }
        if op.replication == 0 || op.replication > u32::from(u16::MAX) {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("replication {} is out of range", op.replication),
            ));
        }
        who.check(inode, WRITE)
    }

    pub(super) fn apply_set_replication(
        &mut self,
        context: &mut Context<'_>,
        op: &SetReplicationOp,
    ) -> Result<Outcome> {
        self.check_set_replication(&context.who, op)?;
        let id = InodeId(op.inode);
        let inode = self.inode_mut(id)?;
        inode.ctime_ns = context.now_ns;
        if let Content::File { blocks, replication, .. } = &mut inode.content {
            *replication = u16::try_from(op.replication).expect("the check refuses more");
            let replication = *replication;
            let ids = blocks.as_slice().iter().map(|block| block.id);
            if blocks.len() > EVENTS_PER_FILE_MAX {
                context.events.push(BlockEvent::ListReplicationChanged { ids: ids.collect(), replication });
            } else {
                context.events.extend(ids.map(|id| BlockEvent::ReplicationChanged { id, replication }));
            }
        }
        Ok(Outcome::Inode(id))
    }
}

/// Dates what a writer wrote: by its own word, but never later than now.
fn date_written(context: &Context<'_>, inode: &mut Inode, modified_ns: Option<i64>) {
    let at_ns = modified_ns.map_or(context.now_ns, |given| given.min(context.now_ns));
    date_write(&mut inode.mtime_ns, &mut inode.ctime_ns, at_ns);
}

/// Most DataNodes in a pipeline: the highest replication.
const TARGETS_MAX: usize = 512;
/// Longest uuid of a DataNode or volume, bytes.
const UUID_MAX: usize = 64;

pub(super) fn check_targets(datanodes: &[String], storages: &[String]) -> Result<()> {
    let too_long = datanodes.iter().chain(storages).any(|uuid| uuid.len() > UUID_MAX);
    if datanodes.len() != storages.len() || datanodes.len() > TARGETS_MAX || too_long {
        return Err(DfsError::new(ErrorKind::InvalidArgument, "the pipeline's DataNodes and volumes are malformed"));
    }
    Ok(())
}
