//! Files that somebody still has: who wants one waits a moment until it is free.
//!
//! A program is told that its last descriptor is closed before its mount is: the kernel sends the release behind the answer to
//! `close`. Where a lease ends with that release, the next program may ask for the file first. So a client whose call was refused
//! because another session has the file asks to be told when it is free, and makes the call again:
//!
//! ```text
//! a call --Busy--> AwaitFile: holder alive?  wait until it gives the file back
//!   ^                         silent, over?  its lease is revoked
//!   |                         recovery?      wait until it has ended
//!   +---- free ----------------+ |
//!                                +---- the asker's own, or the patience is over: Busy it is
//! ```
//!
//! The wait is a question and takes nothing. A call that waited itself would keep all later calls of its session on record, and
//! its refusal would be what its repetition is answered with. Whoever comes first when a file is free gets it; the others ask again.
//! Waiting is soft state; who waits at a NameNode that stops asks the next one.

use std::time::Duration;

use dfs_common::error::Result;
use dfs_common::ids::{CallId, ClientId, Incarnation, InodeId};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{CompleteOp, FileHolder, OpenForAppendOp, RequestHeader, RevokeLeaseOp, TruncateOp};
use tracing::debug;

use super::file_queues::Waiter;
use super::namespace::Lease;
use super::namesystem::Namesystem;
use super::outcome::Outcome;

/// A writer not heard of for this long may lose its lease to another one (design D12).
pub(super) const LEASE_SOFT_LIMIT: Duration = Duration::from_secs(30);
/// How long anybody is kept waiting at most, below the usual deadline of a client's call. A release takes milliseconds, and where
/// its writer has just lost a DataNode, or the machine is busy, seconds.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);

/// Names a lease: the session whose call took it.
pub(super) type LeaseName = (ClientId, Incarnation, CallId);

pub(super) fn name_of(lease: &Lease) -> LeaseName {
    (lease.client, lease.incarnation, lease.call)
}

/// How long a call that is so patient waits.
pub(super) fn patience(patience_ms: u32) -> Duration {
    Duration::from_millis(patience_ms.into()).min(WAIT_MAX)
}

impl Namesystem {
    /// Waits until no other session than `asker` has the file; tells who has it then.
    pub async fn await_file(&self, asker: (ClientId, Incarnation), id: InodeId, patience_ms: u32) -> FileHolder {
        let waiter = self.recovery.queues.join(id);
        match tokio::time::timeout(patience(patience_ms), self.make_way(&waiter, asker)).await {
            Ok(Ok(holder)) => holder,
            Ok(Err(error)) => {
                debug!(inode = %id, "no way to a file that somebody has: {}", error.chain());
                FileHolder::Other
            }
            Err(_) => FileHolder::Other,
        }
    }

    /// Waits until this lease of the file is over; tells whether it is.
    pub async fn await_end_of_lease(&self, lease: LeaseName, id: InodeId, patience_ms: u32) -> FileHolder {
        let is_over =
            self.wait_until(id, patience(patience_ms), |now| now.is_none_or(|now| name_of(now) != lease)).await;
        if is_over { FileHolder::None } else { FileHolder::Other }
    }

    /// Returns when nobody has the file, or only the asker. Ends what may be ended: the lease of a holder past the soft limit.
    async fn make_way(&self, waiter: &Waiter<'_>, asker: (ClientId, Incarnation)) -> Result<FileHolder> {
        loop {
            let freed = waiter.queue.freed.notified();
            let holder = {
                let namespace = self.namespace().read();
                let is_alive = |life| namespace.is_alive(life);
                namespace.lease(waiter.id).map(|lease| (lease.clone(), is_alive((lease.client, lease.incarnation))))
            };
            let Some((lease, is_alive)) = holder else { return Ok(FileHolder::None) };
            if lease.is_of(asker) && !lease.needs_recovery {
                return Ok(FileHolder::Asker);
            }
            let silent = self.silent_for(lease.client);
            // Leases of a session that has ended go step by step. This one goes at once, so that nobody waits for it.
            if !lease.needs_recovery && (!is_alive || silent > LEASE_SOFT_LIMIT) {
                self.revoke_lease(None, waiter.id, &lease).await?;
                continue;
            }
            self.wake_recovery();
            // One that falls silent gives nothing back.
            let limit = LEASE_SOFT_LIMIT.saturating_sub(silent) + Duration::from_millis(1);
            let _ = tokio::time::timeout(limit, freed).await;
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

    /// Waits for a file's recovery to end; true when it is not waiting (any more).
    pub(super) async fn wait_recovered(&self, id: InodeId, patience: Duration) -> bool {
        self.wait_until(id, patience, |lease| lease.is_none_or(|lease| !lease.needs_recovery)).await
    }

    /// Waits until the file's lease is as asked for; whether it is.
    async fn wait_until(&self, id: InodeId, patience: Duration, test: impl Fn(Option<&Lease>) -> bool) -> bool {
        let is_so = || test(self.namespace().read().lease(id));
        if is_so() {
            return true;
        }
        self.wake_recovery();
        let waiter = self.recovery.queues.join(id);
        let wait = async {
            loop {
                let freed = waiter.queue.freed.notified();
                if is_so() {
                    return;
                }
                freed.await;
            }
        };
        tokio::time::timeout(patience, wait).await.is_ok()
    }

    /// Takes the lease of an existing file.
    ///
    /// # Errors
    /// `Busy` while another client writes.
    pub async fn append(&self, header: Option<RequestHeader>, op: OpenForAppendOp) -> Result<Outcome> {
        self.mutate(header, Op::OpenForAppend(op)).await
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
        self.mutate(header, Op::Truncate(op)).await?;
        self.wait_recovered(id, patience(patience_ms)).await;
        Ok(id)
    }
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
