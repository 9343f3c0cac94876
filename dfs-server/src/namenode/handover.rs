//! Files that somebody still has: who wants one waits a moment until it is free.
//!
//! A program is told that its last descriptor is closed before its mount is: the kernel sends the release behind the answer to
//! `close`. Where a lease ends with that release, the next program may ask for the file first. So a call that is refused because
//! another session has the file is held here for a while, and made again when the file is free:
//!
//! ```text
//! mutate --Busy--> turn (one of those who want this file) --> make_way: holder alive?  wait until it gives the file back
//!   ^                                                                   silent, over?  its lease is revoked
//!   +------------- freed, or the patience is over --------------------- recovery?      wait until it has ended
//! ```
//!
//! A lease of the caller's own session is not waited for: whoever has it may need this very answer to give it back. Waiting is soft
//! state; who waits at a NameNode that stops asks the next one.

use std::time::Duration;

use dfs_common::error::{ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{CompleteOp, OpenForAppendOp, RequestHeader, RevokeLeaseOp, TruncateOp};

use super::apply::CallKey;
use super::file_queues::Waiter;
use super::namespace::Lease;
use super::namesystem::Namesystem;
use super::outcome::Outcome;

/// A writer not heard of for this long may lose its lease to another one (design D12).
pub(super) const LEASE_SOFT_LIMIT: Duration = Duration::from_secs(30);
/// How long a call waits for a file at most, below the usual deadline of a client's call. A release takes milliseconds, and where
/// its writer has just lost a DataNode, or the machine is busy, seconds.
const CALL_PATIENCE: Duration = Duration::from_secs(5);

impl Namesystem {
    /// As [`mutate`](Self::mutate). An op that is refused because another session writes its file waits for that as long as its
    /// client is patient.
    ///
    /// # Errors
    /// As `mutate`; `Busy` when the file is not given back.
    pub async fn mutate_in_turn(&self, header: Option<RequestHeader>, op: Op, patience_ms: u32) -> Result<Outcome> {
        let patience = Duration::from_millis(patience_ms.into()).min(CALL_PATIENCE);
        let file = wanted_file(&op).filter(|_| !patience.is_zero());
        let Some(id) = file else { return self.mutate(header, op).await };
        match self.mutate(header.clone(), op.clone()).await {
            Err(refusal) if refusal.kind() == ErrorKind::Busy => {
                if self.is_own(header.as_ref(), id)? {
                    return Err(refusal);
                }
                Box::pin(self.mutate_when_free(header, op, id, patience)).await
            }
            outcome => outcome,
        }
    }

    async fn mutate_when_free(
        &self,
        header: Option<RequestHeader>,
        op: Op,
        id: InodeId,
        patience: Duration,
    ) -> Result<Outcome> {
        let waiter = self.recovery.queues.join(id);
        let waiting = async {
            let turn = waiter.queue.turn.lock().await;
            self.make_way(&waiter).await.map(|()| turn)
        };
        // It is tried also when the time is over: the file may have been given back unseen.
        let _turn = tokio::time::timeout(patience, waiting).await.ok().transpose()?;
        self.mutate(header, op).await
    }

    /// Whether the caller's own session writes the file.
    fn is_own(&self, header: Option<&RequestHeader>, id: InodeId) -> Result<bool> {
        let Some(retry) = header.and_then(|header| header.retry.as_ref()) else { return Ok(false) };
        let key = CallKey::try_from(retry)?;
        let namespace = self.namespace().read();
        let lease = namespace.lease(id).filter(|lease| !lease.needs_recovery);
        Ok(lease.is_some_and(|lease| lease.is_of((key.client, key.incarnation))))
    }

    /// Returns when nobody has the file. Ends what may be ended: the lease of a holder past the soft limit.
    async fn make_way(&self, waiter: &Waiter<'_>) -> Result<()> {
        loop {
            let freed = waiter.queue.freed.notified();
            let holder = {
                let namespace = self.namespace().read();
                let is_alive = |life| namespace.is_alive(life);
                namespace.lease(waiter.id).map(|lease| (lease.clone(), is_alive((lease.client, lease.incarnation))))
            };
            let Some((lease, is_alive)) = holder else { return Ok(()) };
            // Leases of a session that has ended go step by step. This one goes at once, so that nobody waits for it.
            if !lease.needs_recovery && (!is_alive || self.silent_for(lease.client) > LEASE_SOFT_LIMIT) {
                self.revoke_lease(None, waiter.id, &lease).await?;
                continue;
            }
            self.wake_recovery();
            freed.await;
        }
    }

    /// Takes a lease from its writer. `header`: of the call that asks for just that; none if the lease only stands in the way
    /// of another call.
    pub(super) async fn revoke_lease(&self, header: Option<RequestHeader>, id: InodeId, lease: &Lease) -> Result<()> {
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

    /// Waits a while for a file's recovery to end; true when it is not waiting (any more).
    pub(super) async fn wait_recovered(&self, id: InodeId) -> bool {
        let waits = || self.namespace().read().lease(id).is_some_and(|lease| lease.needs_recovery);
        if !waits() {
            return true;
        }
        self.wake_recovery();
        let waiter = self.recovery.queues.join(id);
        let wait = async {
            loop {
                let freed = waiter.queue.freed.notified();
                if !waits() {
                    return;
                }
                freed.await;
            }
        };
        tokio::time::timeout(CALL_PATIENCE, wait).await.is_ok()
    }

    /// Takes the lease of an existing file.
    ///
    /// # Errors
    /// `Busy` while another client writes.
    pub async fn append(
        &self,
        header: Option<RequestHeader>,
        op: OpenForAppendOp,
        patience_ms: u32,
    ) -> Result<Outcome> {
        self.mutate_in_turn(header, Op::OpenForAppend(op), patience_ms).await
    }

    /// Closes a file that was written: who waits for it goes on.
    ///
    /// # Errors
    /// As `mutate`; `LeaseLost`.
    pub async fn complete(&self, header: Option<RequestHeader>, op: CompleteOp) -> Result<Outcome> {
        let id = InodeId(op.inode);
        let outcome = self.mutate(header, Op::Complete(op)).await;
        self.recovery.queues.freed(id);
        outcome
    }

    /// Cuts a file. When the new end lies inside a block, its replicas are cut before this returns, or it says that the
    /// file is still under construction.
    ///
    /// # Errors
    /// As `mutate`; `Busy` while somebody writes, `Unsupported` for a longer file.
    pub async fn truncate(&self, header: Option<RequestHeader>, op: TruncateOp, patience_ms: u32) -> Result<InodeId> {
        let id = InodeId(op.inode);
        self.mutate_in_turn(header, Op::Truncate(op), patience_ms).await?;
        self.wait_recovered(id).await;
        Ok(id)
    }
}

/// The file that must not be written by another session for this op: to write it, or to make a program of it.
fn wanted_file(op: &Op) -> Option<InodeId> {
    match op {
        Op::OpenForAppend(op) => Some(InodeId(op.inode)),
        Op::Truncate(op) => Some(InodeId(op.inode)),
        Op::SetAttr(op) => Some(InodeId(op.inode)),
        Op::SetXattr(op) => Some(InodeId(op.inode)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
