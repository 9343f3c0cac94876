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
//! new id. There is one thing that the NameNode decides alone: it drops a block of which nobody has a replica and no byte was
//! promised, once the DataNodes of its pipeline are dead for an hour: bytes that were written and never synced come back with them.
//! After a start from an image it does not know the pipeline; then it has listened for an hour before.

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{ClientId, GenerationStamp, InodeId};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{self, CloseRecoveredOp, ReclaimBlockOp, StartRecoveryOp};

use super::blocks::Holders;
use super::datanodes::RegistrationId;
use super::namesystem::{Namesystem, unexpected};
use super::outcome::Outcome;
use super::recovery_steps::{Attempt, Pass, Step, StuckFiles, Waiting, choose_step};

/// Files that wait looked at in one hold of the namespace's lock.
const WAITING_PAGE: usize = 256;
/// Recoveries begun in one round, roughly. Each is a logged op.
const STARTED_PER_ROUND: usize = 256;

impl Namesystem {
    /// Takes the next step for every file that waits. After some hundred files it stops, and asks to be called again at once
    /// for the others. Called every second, and when a file begins to wait.
    ///
    /// # Errors
    /// Of logging.
    pub async fn recover_leases(&self) -> Result<()> {
        // Automatic safe mode lasts long if blocks are lost. Files whose holders are all there do not wait for its end.
        let is_starting = self.blocks().is_starting();
        if !is_starting && !self.blocks().may_repair() {
            return Ok(());
        }
        if !is_starting {
            self.reclaim_blocks().await?;
        }
        let Pass { mut last, mut seen, mut stuck } = std::mem::take(&mut *self.recovery.pass.lock());
        let mut started = 0;
        loop {
            let page = self.waiting_files(&mut last);
            if page.is_empty() && last.is_none() {
                break;
            }
            seen.extend(page.iter().map(|file| file.inode));
            started += self.recover_page(&page, is_starting, &mut stuck).await?;
            if started >= STARTED_PER_ROUND {
                *self.recovery.pass.lock() = Pass { last, seen, stuck };
                self.leases.recovery_wanted.notify_one();
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        self.recovery.attempts.lock().retain(|id, _| seen.contains(id));
        stuck.tell();
        Ok(())
    }

    /// Takes the next step for some files that wait; gives the number of those for which something was logged.
    async fn recover_page(&self, page: &[Waiting], is_starting: bool, stuck: &mut StuckFiles) -> Result<usize> {
        let mut started = 0;
        for file in page {
            let holders = self.blocks().holders(file.block.id);
            let last = self.recovery.attempts.lock().get(&file.inode).cloned();
            let step = choose_step(file, &holders, last.as_ref(), is_starting, self.clock.instant());
            match step {
                Step::Wait => {}
                Step::Stuck => {
                    stuck.add(file);
                    self.note_attempt(file.inode, None);
                }
                Step::Start(primary) => self.start_recovery(file, &holders, primary).await?,
                Step::Drop => self.drop_unwritten(file).await?,
            }
            started += usize::from(matches!(step, Step::Start(_) | Step::Drop));
        }
        Ok(started)
    }

    /// After a restore from an older image: blocks that had grown since are recovered as DataNodes have them.
    async fn reclaim_blocks(&self) -> Result<()> {
        let mut outgrown = self.blocks().take_outgrown().into_iter();
        while let Some((inode, block)) = outgrown.next() {
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
                Err(error) => {
                    self.blocks().put_outgrown_back(outgrown.map(|(_, block)| block.id).chain([block.id]));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The next page of files that wait, behind `last`, which becomes none at the end.
    fn waiting_files(&self, last: &mut Option<(ClientId, InodeId)>) -> Vec<Waiting> {
        let namespace = self.namespace().read();
        let page: Vec<_> = namespace.waiting_after(*last).take(WAITING_PAGE).collect();
        *last = page.last().copied();
        page.into_iter().filter_map(|(_, inode)| Waiting::of(&namespace, inode)).collect()
    }

    fn note_attempt(&self, inode: InodeId, primary: Option<(String, Option<RegistrationId>)>) {
        let mut attempts = self.recovery.attempts.lock();
        let alike = attempts.get(&inode).filter(|last| last.primary.is_some() == primary.is_some());
        let earlier = alike.map_or(0, |last| last.earlier.saturating_add(1));
        let (primary, registration) = primary.unzip();
        attempts.insert(
            inode,
            Attempt { primary, registration: registration.flatten(), since: self.clock.instant(), earlier },
        );
    }

    /// Logs that a recovery begins. Gives its id and the file as it is now: since it was looked at, it may have been recovered,
    /// written by somebody else, and given up again. None when it does not wait any more.
    async fn begin_recovery(&self, file: &Waiting) -> Result<Option<(GenerationStamp, Waiting)>> {
        let op = StartRecoveryOp { inode: file.inode.0, block_id: file.block.id.0 };
        let stamp = match self.mutate_internally(Op::StartRecovery(op)).await {
            Ok(Outcome::GenerationStamp(stamp)) => stamp,
            Ok(other) => return Err(unexpected(&other)),
            Err(error) if has_moved_on(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let namespace = self.namespace().read();
        let is_its = namespace.lease(file.inode).is_some_and(|lease| lease.recovery_id == Some(stamp));
        Ok(Waiting::of(&namespace, file.inode).filter(|_| is_its).map(|file| (stamp, file)))
    }

    /// Closes a file without its last block, of which nobody has anything.
    async fn drop_unwritten(&self, file: &Waiting) -> Result<()> {
        let Some((stamp, now)) = self.begin_recovery(file).await? else { return Ok(()) };
        // While that was logged, a DataNode may have come back with the block.
        let holders = self.blocks().holders(now.block.id);
        if now.block != file.block || !now.may_be_dropped(&holders) {
            return Ok(());
        }
        let (inode, recovery_id) = (file.inode.0, stamp.0);
        let op = CloseRecoveredOp { inode, delete_block: true, recovery_id, ..Default::default() };
        match self.close_recovered(op).await {
            Err(error) if has_moved_on(&error) => return Ok(()),
            outcome => outcome?,
        }
        tracing::info!(inode = %file.inode, block = %file.block.id, "closed without its last block, which was never written");
        Ok(())
    }

    async fn start_recovery(&self, file: &Waiting, holders: &Holders, primary: usize) -> Result<()> {
        let Some((stamp, file)) = self.begin_recovery(file).await? else { return Ok(()) };
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
        let registration = holders.registration_of(&primary);
        self.note_attempt(file.inode, Some((primary, registration)));
        Ok(())
    }

    /// A primary has come to an end.
    ///
    /// # Errors
    /// `Protocol` when it does not say of which block and recovery, `NotFound` when no file has the block any more,
    /// `InvalidArgument` when another recovery has begun since or the outcome breaks a promise, `Unavailable` when the block may
    /// not be dropped yet.
    pub async fn commit_block_synchronization(&self, request: v1::CommitBlockSynchronizationRequest) -> Result<()> {
        let block = request.block.as_ref().map(Block::from);
        let block = block.ok_or_else(|| DfsError::new(ErrorKind::Protocol, "a commit without its block"))?;
        // In the log it stands for a recovery of before they had ids; nothing would tell it from the one begun last.
        if request.new_generation_stamp == 0 {
            return Err(DfsError::new(ErrorKind::Protocol, "a commit that does not say of which recovery it is"));
        }
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
        // What is not known here is left out: it reports its replica when it registers.
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
        Ok(())
    }

    /// Returns when a file has begun to wait.
    pub async fn recovery_wanted(&self) {
        self.leases.recovery_wanted.notified().await;
    }
}

/// Removed, recovered or written by another since the file was looked at.
fn has_moved_on(error: &DfsError) -> bool {
    matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::Stale)
}

#[cfg(test)]
#[path = "lease_recovery_tests.rs"]
mod tests;
