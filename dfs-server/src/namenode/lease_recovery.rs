//! Closing the files of writers that are gone: which block is recovered when, and by whom. Who waits for that is in `handover`.
//!
//! ```text
//!  lease that waits --choose_step--> StartRecovery (logged) --> order on a heartbeat reply of the primary
//!        ^                                                        |  asks all holders, agrees, cuts them
//!        +---- no commit within the patience: the next one ------ v
//!                                   CloseRecovered (logged) <-- CommitBlockSynchronization
//! ```
//!
//! What waits is durable (the leases); who was asked is not: a new leader, or a NameNode started again, begins anew with a
//! new id. The NameNode decides alone only that a block is dropped of which nobody has a replica and no byte was promised, once
//! the DataNodes of its pipeline are dead for long: bytes that were written and never synced come back with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, ClientId, GenerationStamp, InodeId};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{self, CloseRecoveredOp, ReclaimBlockOp, RevokeLeaseOp, StartRecoveryOp};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::apply::CallKey;
use super::blocks::Holders;
use super::handover::Queues;
use super::namespace::Lease;
use super::namespace::permission::Identity;
use super::namesystem::{LEASE_SOFT_LIMIT, Namesystem, unexpected};
use super::outcome::Outcome;

/// Time for the first primary to commit; a block of 128 MiB is verified by then on any disk worth having.
const PATIENCE_FIRST: Duration = Duration::from_secs(10);
/// Patience doubles up to this.
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// Files that wait looked at in one hold of the namespace's lock.
const WAITING_PAGE: usize = 256;
/// Recoveries begun per round, about: each is a logged op.
const STARTED_PER_ROUND: usize = 256;

/// Recoveries under way.
#[derive(Default)]
pub(super) struct LeaseRecovery {
    attempts: Mutex<BTreeMap<InodeId, Attempt>>,
    pass: Mutex<Pass>,
    /// Of the waits begun, those that `wanted` has been told of.
    told: AtomicU64,
    /// A file has begun to wait.
    wanted: Notify,
    /// Calls that wait for files, those under recovery among them.
    pub(super) queues: Queues,
}

/// How far the present pass over all files that wait has come; many rounds may make one.
#[derive(Default)]
struct Pass {
    /// The file looked at last; none at the beginning.
    last: Option<(ClientId, InodeId)>,
    seen: BTreeSet<InodeId>,
}

/// The latest try for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attempt {
    /// Uuid of the DataNode asked; none when none could be.
    primary: Option<String>,
    since: Instant,
    /// Tries before this one.
    earlier: u32,
}

/// A file whose last block waits.
#[derive(Clone, Debug)]
struct Waiting {
    inode: InodeId,
    /// With the length that was promised, or is to be cut to.
    block: Block,
    is_truncating: bool,
    /// Uuids of the DataNodes of its last pipeline, as far as the log tells.
    pipeline: Vec<String>,
}

impl Waiting {
    /// Nobody else can have more of the block.
    fn is_everyone_here(&self, holders: &Holders) -> bool {
        let is_here = |uuid: &String| holders.live.iter().any(|node| node.uuid == *uuid);
        !self.pipeline.is_empty() && !holders.others_are_away && self.pipeline.iter().all(is_here)
    }
}

/// What to do for a file now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait,
    /// Order the holder with this index to recover the block.
    Start(usize),
    /// Nobody has the block, nobody was promised a byte of it, and nobody will come back with it.
    Drop,
    /// Nobody has the block, which had bytes, or may have had.
    Stuck,
}

fn patience(earlier: u32) -> Duration {
    PATIENCE_FIRST.saturating_mul(1 << earlier.min(8)).min(PATIENCE_MAX)
}

/// `is_starting`: the NameNode does not know yet which DataNodes there are.
fn choose_step(waiting: &Waiting, holders: &Holders, last: Option<&Attempt>, is_starting: bool, now: Instant) -> Step {
    if is_starting && !waiting.is_everyone_here(holders) {
        return Step::Wait;
    }
    if let Some(last) = last {
        let is_over = now.saturating_duration_since(last.since) >= patience(last.earlier);
        // A primary that died will not commit: no need to wait out its time.
        let is_asked = last.primary.as_ref().is_some_and(|uuid| holders.live.iter().any(|node| node.uuid == *uuid));
        if !is_over && (is_asked || last.primary.is_none()) {
            return Step::Wait;
        }
    }
    if !holders.live.is_empty() {
        let tries = last.map_or(0, |last| last.earlier as usize + 1);
        return Step::Start(tries % holders.live.len());
    }
    match (holders.others_are_away, waiting.block.length, waiting.is_truncating) {
        (true, _, _) => Step::Wait,
        (false, 0, false) if !holders.dead_may_return => Step::Drop,
        (false, _, _) => Step::Stuck,
    }
}

impl Namesystem {
    /// Takes the next step for every file that waits, or for some hundred and goes on with the others when it is called
    /// again, at once. Called every second, and when a file begins to wait.
    ///
    /// # Errors
    /// Of logging.
    pub async fn recover_leases(&self) -> Result<()> {
        // Automatic safe mode may last, where blocks are lost: files whose holders are all there do not wait for its end.
        let is_starting = self.blocks().is_starting();
        if !is_starting && !self.blocks().may_repair() {
            return Ok(());
        }
        if !is_starting {
            self.reclaim_blocks().await?;
        }
        let Pass { mut last, mut seen } = std::mem::take(&mut *self.recovery.pass.lock());
        let mut started = 0;
        loop {
            let page = self.waiting_files(&mut last);
            if page.is_empty() && last.is_none() {
                break;
            }
            seen.extend(page.iter().map(|file| file.inode));
            started += self.recover_page(&page, is_starting).await?;
            if started >= STARTED_PER_ROUND {
                *self.recovery.pass.lock() = Pass { last, seen };
                self.recovery.wanted.notify_one();
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        self.recovery.attempts.lock().retain(|id, _| seen.contains(id));
        Ok(())
    }

    /// Takes the next step for some files that wait; gives the number of those for which it did something.
    async fn recover_page(&self, page: &[Waiting], is_starting: bool) -> Result<usize> {
        let mut started = 0;
        for file in page {
            let holders = self.blocks().holders(file.block.id);
            let last = self.recovery.attempts.lock().get(&file.inode).cloned();
            let step = choose_step(file, &holders, last.as_ref(), is_starting, self.clock.instant());
            started += usize::from(step != Step::Wait);
            match step {
                Step::Wait => {}
                Step::Start(primary) => self.start_recovery(file, &holders, primary).await?,
                Step::Drop => {
                    let op = CloseRecoveredOp { inode: file.inode.0, delete_block: true, ..Default::default() };
                    self.close_recovered(op).await?;
                    tracing::info!(inode = %file.inode, block = %file.block.id, "closed without its last block, which was never written");
                }
                Step::Stuck => {
                    tracing::warn!(
                        inode = %file.inode, block = %file.block,
                        "no DataNode has the last block of a file that waits for recovery; it stays open until one comes back"
                    );
                    self.note_attempt(file.inode, None);
                }
            }
        }
        Ok(started)
    }

    /// After a restore from an older image: blocks that had grown since are recovered as DataNodes have them.
    async fn reclaim_blocks(&self) -> Result<()> {
        for (inode, block) in self.blocks().take_outgrown() {
            let op = ReclaimBlockOp { inode: inode.0, last: Some(block.into()) };
            match self.mutate_internally(Op::ReclaimBlock(op)).await {
                Ok(_) => {
                    tracing::info!(%inode, %block, "the file has grown since the checkpoint; its last block is recovered")
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::Stale | ErrorKind::Busy) =>
                {
                    tracing::warn!(%inode, %block, "a block is newer than the checkpoint: {}", error.chain());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next page of files that wait, behind `last`, which becomes none at the end.
    fn waiting_files(&self, last: &mut Option<(ClientId, InodeId)>) -> Vec<Waiting> {
        let namespace = self.namespace().read();
        let page: Vec<_> = namespace.waiting_after(*last).take(WAITING_PAGE).collect();
        *last = page.last().copied();
        let waiting = page.into_iter().filter_map(|(_, inode)| {
            let lease = namespace.lease(inode)?;
            let last = namespace.inode(inode).ok()?.blocks()?.last()?;
            let pipeline = lease.targets.iter().map(|(uuid, _)| uuid.clone()).collect();
            Some(Waiting { inode, block: Block::from(*last), is_truncating: lease.is_truncating, pipeline })
        });
        waiting.collect()
    }

    fn note_attempt(&self, inode: InodeId, primary: Option<String>) {
        let mut attempts = self.recovery.attempts.lock();
        let earlier = attempts.get(&inode).map_or(0, |last| last.earlier.saturating_add(1));
        attempts.insert(inode, Attempt { primary, since: self.clock.instant(), earlier });
    }

    async fn start_recovery(&self, file: &Waiting, holders: &Holders, primary: usize) -> Result<()> {
        let op = StartRecoveryOp { inode: file.inode.0, block_id: file.block.id.0 };
        let stamp = match self.mutate_internally(Op::StartRecovery(op)).await {
            Ok(Outcome::GenerationStamp(stamp)) => stamp,
            Ok(other) => return Err(unexpected(&other)),
            // Removed or recovered since it was looked at.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::Stale) => return Ok(()),
            Err(error) => return Err(error),
        };
        let order = v1::RecoverOrder {
            block_pool_id: String::new(),
            block: Some(file.block.into()),
            locations: holders.live.clone(),
            new_generation_stamp: stamp.0,
            truncate_length: file.is_truncating.then_some(file.block.length),
            length_floor: file.block.length,
            others_are_away: holders.others_are_away,
            dead_may_return: holders.dead_may_return,
        };
        let primary = holders.live[primary].uuid.clone();
        tracing::info!(inode = %file.inode, block = %file.block, recovery = %stamp, primary, "block recovery begins");
        self.blocks().order_recovery(&primary, order);
        self.note_attempt(file.inode, Some(primary));
        Ok(())
    }

    /// A primary has come to an end.
    ///
    /// # Errors
    /// `NotFound` when no file has the block any more, `InvalidArgument` when another recovery has begun since or the
    /// outcome breaks a promise, `Unavailable` when the block may not be dropped yet.
    pub async fn commit_block_synchronization(&self, request: v1::CommitBlockSynchronizationRequest) -> Result<()> {
        let block = request.block.as_ref().map(Block::from);
        let block = block.ok_or_else(|| DfsError::new(ErrorKind::Protocol, "a commit without its block"))?;
        let inode = self
            .blocks()
            .file_of(block.id)
            .ok_or_else(|| DfsError::new(ErrorKind::NotFound, format!("no file has block {} any more", block.id)))?;
        if request.delete_block && self.blocks().holders(block.id).others_are_away {
            let words = format!("block {} is not dropped while DataNodes that may have it are away", block.id);
            return Err(DfsError::new(ErrorKind::Unavailable, words));
        }
        let last = Block {
            generation_stamp: GenerationStamp(request.new_generation_stamp),
            length: request.new_length,
            ..block
        };
        // What nobody knows here is not written down; it reports its replica when it registers.
        let named = request.datanode_uuids.into_iter().zip(request.storage_uuids);
        let known = named.filter(|(datanode, storage)| self.blocks().has_volume(datanode, storage));
        let (target_datanodes, target_storages) = known.unzip();
        self.close_recovered(CloseRecoveredOp {
            inode: inode.0,
            last: (!request.delete_block).then(|| last.into()),
            delete_block: request.delete_block,
            target_datanodes,
            target_storages,
            recovery_id: request.new_generation_stamp,
        })
        .await?;
        tracing::info!(%inode, block = %last, dropped = request.delete_block, "block recovery has closed the file");
        Ok(())
    }

    async fn close_recovered(&self, op: CloseRecoveredOp) -> Result<()> {
        let inode = InodeId(op.inode);
        self.mutate_internally(Op::CloseRecovered(op)).await?;
        self.recovery.attempts.lock().remove(&inode);
        self.recovery.queues.freed(inode);
        Ok(())
    }

    /// Takes a lease from its writer, for a client's call that asks for just that, or on the way of another one.
    pub(super) async fn revoke_lease(
        &self,
        header: Option<v1::RequestHeader>,
        id: InodeId,
        lease: &Lease,
    ) -> Result<()> {
        // Only this one: it may have ended since, and somebody else may write.
        let op = RevokeLeaseOp {
            inode: id.0,
            client_id: lease.client.0.to_vec().into(),
            incarnation: lease.incarnation.0,
            call_id: lease.call.0,
        };
        match header {
            Some(header) => self.mutate(Some(header), Op::RevokeLease(op)).await?,
            None => self.mutate_internally(Op::RevokeLease(op)).await?,
        };
        self.wake_recovery();
        self.recovery.queues.freed(id);
        Ok(())
    }

    /// Takes the lease of whoever writes `id`, for its owner or root, and waits a while for the file to be recovered; true
    /// when it is closed now.
    ///
    /// # Errors
    /// `NotPermitted`, `Busy` while the writer is alive; else as `mutate`.
    pub async fn recover_lease(&self, header: Option<v1::RequestHeader>, id: InodeId) -> Result<bool> {
        let who = Identity::of(header.as_ref().and_then(|header| header.caller.as_ref()));
        if self.recorded(header.as_ref())?.is_some() {
            // Whoever has the lease now is not the writer that it was taken from.
            self.wait_recovered(id).await;
            return Ok(self.namespace().read().lease(id).is_none());
        }
        self.check_writable()?;
        let holder = {
            let namespace = self.namespace().read();
            if !who.owns(namespace.inode(id)?) {
                return Err(DfsError::new(ErrorKind::NotPermitted, "only the owner or root recovers a lease"));
            }
            namespace.lease(id).cloned()
        };
        if let Some(lease) = holder.filter(|lease| !lease.needs_recovery) {
            let silent = self.silent_for(lease.client);
            let is_over = !self.namespace().read().is_alive((lease.client, lease.incarnation));
            if silent < LEASE_SOFT_LIMIT && !is_over && !who.is_root() {
                return Err(DfsError::new(
                    ErrorKind::Busy,
                    format!("the writer was heard of {} s ago; only root takes its lease", silent.as_secs()),
                ));
            }
            self.revoke_lease(Some(header.unwrap_or_default()), id, &lease).await?;
        }
        self.wait_recovered(id).await;
        Ok(self.namespace().read().lease(id).is_none())
    }

    /// Takes the lease of `id` that `call` took from the caller's own session, whose writer has failed, and waits a while as
    /// [`recover_lease`](Self::recover_lease) does. A lease that somebody else holds by now stays.
    ///
    /// # Errors
    /// `InvalidArgument` without a session; else as `mutate`.
    pub async fn give_up_lease(&self, header: Option<v1::RequestHeader>, id: InodeId, call: CallId) -> Result<bool> {
        self.check_writable()?;
        let retry = header.as_ref().and_then(|header| header.retry.as_ref());
        let retry =
            retry.ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "a lease is given up in a session"))?;
        let caller = CallKey::try_from(retry)?;
        let holder = self.namespace().read().lease(id).cloned();
        let is_own =
            |lease: &Lease| lease.is_of((caller.client, caller.incarnation)) && [call, CallId(0)].contains(&lease.call);
        match holder {
            Some(lease) if is_own(&lease) => {
                if !lease.needs_recovery {
                    self.revoke_lease(header, id, &lease).await?;
                }
                self.wait_recovered(id).await;
                Ok(self.namespace().read().lease(id).is_none())
            }
            holder => Ok(holder.is_none()),
        }
    }

    /// To be called after an op that may have made a file wait. Recovery is not woken for others: each time it looks at
    /// every file.
    pub(super) fn wake_recovery(&self) {
        let begun = self.namespace().read().waits_begun();
        if self.recovery.told.swap(begun, Ordering::Relaxed) != begun {
            self.recovery.wanted.notify_one();
        }
    }

    /// Returns when a file has begun to wait.
    pub async fn recovery_wanted(&self) {
        self.recovery.wanted.notified().await;
    }
}

#[cfg(test)]
#[path = "lease_recovery_tests.rs"]
mod tests;
