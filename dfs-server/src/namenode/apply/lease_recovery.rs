//! Ops on files whose last block has no writer: taking leases away, recovering the block, cutting files.
//!
//! ```text
//!             RevokeLease, session over      StartRecovery          CloseRecovered
//!   leased ---------------------------> waits -------------> under recovery ------> closed
//!   closed ---------------------------> waits     ^   |            (of this id)
//!             Truncate inside a block,            +---+ again, with a new id
//!             ReclaimBlock
//! ```
//!
//! A truncation takes effect at once: the file has its new length, the blocks behind are gone. Cutting the replicas of the
//! block that the new end lies in is a recovery like any other, which must come out at exactly that length.
//!
//! A restored namespace may be older than the replicas of a file's last block: somebody appended to it, and the NameNode
//! that knew is lost. `ReclaimBlock` has the block recovered from what the DataNodes have, which begins with every byte that
//! the namespace knows of.
//!
//! Only the recovery begun last may close the file. Its id is a generation stamp: replicas that an earlier one reached are
//! known by theirs, and a late commit of it is refused.

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, ClientId, GenerationStamp, Incarnation, InodeId};
use dfs_proto::v1::{CloseRecoveredOp, ReclaimBlockOp, RevokeLeaseOp, StartRecoveryOp, TruncateOp};

use super::context::{Context, not_a_file};
use super::files::check_targets;
use crate::namenode::blocks::BlockEvent;
use crate::namenode::namespace::inode::{BlockList, FileBlock};
use crate::namenode::namespace::lost_ids::is_lost_stamp;
use crate::namenode::namespace::permission::{Identity, WRITE};
use crate::namenode::namespace::{Lease, Namespace};
use crate::namenode::outcome::Outcome;

impl Namespace {
    /// Takes a lease away. A file whose last block is open stays leased until that is recovered, unless nobody can read it any more:
    /// it has no name, and no client holds it. (Logs of before there were steps did not ask for the latter.)
    pub(super) fn revoke(&mut self, context: &mut Context<'_>, id: InodeId) {
        let has_name = self.inode(id).is_ok_and(|inode| inode.nlink > 0);
        let has_readers = has_name || (!context.is_old && self.holds.has(id));
        let Some(lease) = self.leases.get(id) else { return };
        if lease.open_block.is_some() && has_readers {
            self.leases.wait_for_recovery(id);
        } else {
            self.leases.remove(id);
            self.reap(id, context.events);
        }
    }

    pub(super) fn apply_revoke_lease(&mut self, context: &mut Context<'_>, op: &RevokeLeaseOp) -> Result<Outcome> {
        let id = InodeId(op.inode);
        self.inode(id)?;
        if self.leases.get(id).is_some_and(|lease| is_meant(lease, op)) {
            self.revoke(context, id);
        }
        Ok(Outcome::Closed(!self.leases.contains(id)))
    }

    pub(super) fn check_truncate(&self, who: &Identity, op: &TruncateOp) -> Result<()> {
        let id = InodeId(op.inode);
        let inode = self.inode(id)?;
        let Some(blocks) = inode.blocks() else { return Err(not_a_file(id, inode)) };
        who.check(inode, WRITE)?;
        self.check_not_leased(id)?;
        if op.length > blocks.length() {
            return Err(DfsError::new(
                ErrorKind::Unsupported,
                format!("a file of {} bytes cannot be made longer by truncating it to {}", blocks.length(), op.length),
            ));
        }
        Ok(())
    }

    pub(super) fn apply_truncate(&mut self, context: &mut Context<'_>, op: &TruncateOp) -> Result<Outcome> {
        self.check_truncate(&context.who, op)?;
        let id = InodeId(op.inode);
        if op.length == 0 {
            self.drop_content(context, id)?;
            return Ok(Outcome::Inode(id));
        }
        // Before anything changes: cutting inside a block needs somebody to hold the lease.
        let lease = context.lease()?;
        self.mark_content_changed(context, id)?;
        let (kept, in_last) = blocks_up_to(self.file_blocks(id)?.as_slice(), op.length);
        if let Some(blocks) = self.inode_mut(id)?.blocks_mut() {
            let cut = blocks.split_off(kept);
            self.forget_blocks(cut, context.events);
        }
        let last = self.file_blocks(id)?.last().copied().filter(|last| last.length > in_last);
        if let (Some(last), Some(blocks)) = (last, self.inode_mut(id)?.blocks_mut()) {
            blocks.change_last(|last| last.length = in_last);
            let block = Block { length: in_last, ..Block::from(last) };
            context.events.push(BlockEvent::Reopened { block, targets: Vec::new() });
            let lease = Lease { open_block: Some(block.id), needs_recovery: true, is_truncating: true, ..lease };
            self.leases.insert(id, lease);
        }
        Ok(Outcome::Inode(id))
    }

    /// The last block of a closed file is to be recovered in a newer generation than is known here.
    pub(super) fn apply_reclaim_block(&mut self, context: &mut Context<'_>, op: &ReclaimBlockOp) -> Result<Outcome> {
        let id = InodeId(op.inode);
        let given = op.last.as_ref().map(Block::from).unwrap_or_default();
        let refuse = |why: &str| Err(DfsError::new(ErrorKind::InvalidArgument, format!("reclaim {given}: {why}")));
        self.check_not_leased(id)?;
        let Some(last) = self.inode(id)?.blocks().and_then(BlockList::last).copied().filter(|last| last.id == given.id)
        else {
            return refuse("not the last block of its file");
        };
        if given.generation_stamp <= last.generation_stamp || !is_lost_stamp(&self.lost, given.generation_stamp) {
            return refuse("not of a generation that was lost");
        }
        let block = Block { generation_stamp: given.generation_stamp, ..Block::from(last) };
        if let Some(blocks) = self.inode_mut(id)?.blocks_mut() {
            blocks.change_last(|last| last.generation_stamp = block.generation_stamp);
        }
        context.events.push(BlockEvent::Reopened { block, targets: Vec::new() });
        let nobody = Lease::taken_by(ClientId([0; 16]), Incarnation(0), CallId(0));
        self.leases.insert(id, Lease { open_block: Some(block.id), needs_recovery: true, ..nobody });
        Ok(Outcome::Done)
    }

    /// The lease of a file that waits for recovery, and its open block.
    fn waiting_lease(&self, id: InodeId) -> Result<(&Lease, FileBlock)> {
        let open = self.leases.get(id).filter(|lease| lease.needs_recovery);
        let last = self.inode(id)?.blocks().and_then(BlockList::last).copied();
        match (open, last) {
            (Some(lease), Some(last)) if lease.open_block == Some(last.id) => Ok((lease, last)),
            _ => Err(DfsError::new(ErrorKind::InvalidArgument, format!("inode {id} is not under recovery"))),
        }
    }

    pub(super) fn apply_start_recovery(&mut self, op: &StartRecoveryOp) -> Result<Outcome> {
        let id = InodeId(op.inode);
        let (_, last) = self.waiting_lease(id)?;
        if last.id.0 != op.block_id {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("block {} is not the open block of inode {id}", op.block_id),
            ));
        }
        let stamp = self.counters.next_generation_stamp;
        self.counters.next_generation_stamp = stamp.next();
        if let Some(lease) = self.leases.get_mut(id) {
            lease.recovery_id = Some(stamp);
        }
        Ok(Outcome::GenerationStamp(stamp))
    }

    /// Block recovery has agreed on the last block; the file is closed.
    pub(super) fn apply_close_recovered(
        &mut self,
        context: &mut Context<'_>,
        op: &CloseRecoveredOp,
    ) -> Result<Outcome> {
        let id = InodeId(op.inode);
        let (lease, last) = self.waiting_lease(id)?;
        let given = op.last.as_ref().map(Block::from);
        check_targets(&op.target_datanodes, &op.target_storages)?;
        match given {
            Some(given) => check_recovered(lease, last, &given, self.inode(id)?.block_size())?,
            None => check_dropped(lease, last, op)?,
        }
        let inode = self.inode_mut(id)?;
        if given.is_none_or(|given| given.length != last.length) {
            inode.mtime_ns = context.now_ns;
            inode.ctime_ns = context.now_ns;
        }
        match given {
            Some(given) => {
                if let Some(blocks) = inode.blocks_mut() {
                    blocks.change_last(|last| {
                        last.generation_stamp = given.generation_stamp;
                        last.length = given.length;
                    });
                }
                let targets = op.target_datanodes.iter().cloned().zip(op.target_storages.iter().cloned()).collect();
                context.events.push(BlockEvent::Reopened { block: given, targets });
                context.events.push(BlockEvent::Committed { block: given });
            }
            None => self.drop_last_block(context, id)?,
        }
        self.leases.remove(id);
        self.reap(id, context.events);
        Ok(Outcome::Closed(true))
    }
}

/// How many blocks a file of `length` bytes needs, and how many bytes of the last of them.
fn blocks_up_to(blocks: &[FileBlock], length: u64) -> (usize, u64) {
    let mut end = 0_u64;
    for (at, block) in blocks.iter().enumerate() {
        let start = end;
        end = end.saturating_add(block.length);
        if end >= length {
            return (at + 1, length - start);
        }
    }
    (blocks.len(), blocks.last().map_or(0, |last| last.length))
}

/// Whether it is this lease that is to be taken away: it may have passed to somebody else since that was decided.
fn is_meant(lease: &Lease, op: &RevokeLeaseOp) -> bool {
    let is_same_call = op.call_id == 0 || lease.call.0 == op.call_id;
    op.client_id.is_empty()
        || (lease.client.0[..] == op.client_id[..] && lease.incarnation.0 == op.incarnation && is_same_call)
}

fn check_recovered(lease: &Lease, last: FileBlock, given: &Block, block_size: u64) -> Result<()> {
    let refuse = |why: &str| Err(DfsError::new(ErrorKind::InvalidArgument, format!("recovered {given}: {why}")));
    if given.id != last.id {
        return refuse("not the open block of its file");
    }
    if lease.recovery_id != Some(given.generation_stamp) {
        return refuse("not of the recovery begun last");
    }
    if given.length > block_size {
        return refuse("longer than a block of its file");
    }
    if given.length == 0 || given.length < last.length || (lease.is_truncating && given.length != last.length) {
        return refuse(&format!("the block's recorded length is {}", last.length));
    }
    Ok(())
}

/// A block goes only when nobody was promised a byte of it.
fn check_dropped(lease: &Lease, last: FileBlock, op: &CloseRecoveredOp) -> Result<()> {
    let refuse = |why: &str| Err(DfsError::new(ErrorKind::InvalidArgument, format!("block {}: {why}", last.id)));
    if !op.delete_block {
        return refuse("its recovery came to no length");
    }
    if op.recovery_id != 0 && lease.recovery_id != Some(GenerationStamp(op.recovery_id)) {
        return refuse("not dropped by the recovery begun last");
    }
    if last.length > 0 {
        return refuse("it holds acknowledged bytes and cannot be dropped");
    }
    Ok(())
}
