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
//! The wait is a question: it takes nothing for who asks, and ends only what anybody who wants the file may end. No call that
//! changes something waits: it would keep all later calls of its session on record, and its refusal would be what its repetition is
//! answered with. Whoever comes first when a file is free gets it; the others ask again.
//! Waiting is soft state; who waits at a NameNode that stops asks the next one.

use std::time::Duration;

use dfs_common::error::Result;
use dfs_common::ids::{CallId, ClientId, Incarnation, InodeId};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{FileHolder, RequestHeader, RevokeLeaseOp};
use tracing::debug;

use super::lease_watch::Waiter;
use super::namespace::Lease;
use super::namesystem::Namesystem;

/// A writer not heard of for this long may lose its lease to another one (design D12).
pub(super) const LEASE_SOFT_LIMIT: Duration = Duration::from_secs(30);
/// How long anybody is kept waiting at most, below the usual deadline of a client's call. A release takes milliseconds, and where
/// its writer has just lost a DataNode, or the machine is busy, seconds.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);

/// Before a lease is looked at again that could not be taken away.
const REVOKE_PAUSE: Duration = Duration::from_millis(100);

/// Names a lease: the session whose call took it.
pub(super) type LeaseName = (ClientId, Incarnation, CallId);

pub(super) fn name_of(lease: &Lease) -> LeaseName {
    (lease.client, lease.incarnation, lease.call)
}

/// How long a call that is so patient waits.
fn patience(patience_ms: u32) -> Duration {
    Duration::from_millis(patience_ms.into()).min(WAIT_MAX)
}

impl Namesystem {
    /// Waits until no other session than `asker` has the file; tells who has it then.
    pub async fn await_file(&self, asker: (ClientId, Incarnation), id: InodeId, patience_ms: u32) -> FileHolder {
        let waiter = self.leases.join(id);
        match tokio::time::timeout(patience(patience_ms), self.make_way(&waiter, asker)).await {
            Ok(holder) => holder,
            // A last look.
            Err(_) => holder_for(self.namespace().read().lease(id), asker),
        }
    }

    /// Waits until this lease of the file is over; tells whether it is.
    pub async fn await_end_of_lease(&self, lease: LeaseName, id: InodeId, patience_ms: u32) -> FileHolder {
        let is_over = || self.namespace().read().lease(id).is_none_or(|now| name_of(now) != lease);
        let waiter = self.leases.join(id);
        let wait = async {
            loop {
                let freed = waiter.queue.freed.notified();
                if is_over() {
                    return;
                }
                freed.await;
            }
        };
        // With a last look.
        let in_time = tokio::time::timeout(patience(patience_ms), wait).await.is_ok();
        if in_time || is_over() { FileHolder::None } else { FileHolder::Other }
    }

    /// Returns when nobody has the file, or only the asker. Ends what may be ended: the lease of a holder past the soft limit.
    async fn make_way(&self, waiter: &Waiter<'_>, asker: (ClientId, Incarnation)) -> FileHolder {
        loop {
            let freed = waiter.queue.freed.notified();
            let (lease, is_alive, may_end) = {
                let namespace = self.namespace().read();
                let holder = namespace.lease(waiter.id);
                let Some(lease) = holder.filter(|_| holder_for(holder, asker) == FileHolder::Other) else {
                    return holder_for(holder, asker);
                };
                // By order of a client that could open the file itself.
                let may_end = !lease.needs_recovery && namespace.is_alive(asker) && self.check_writable().is_ok();
                (lease.clone(), namespace.is_alive((lease.client, lease.incarnation)), may_end)
            };
            let silent = self.silent_for(lease.client);
            // Leases of a session that has ended go step by step. This one goes at once, so that nobody waits for it.
            if may_end && (!is_alive || silent > LEASE_SOFT_LIMIT) {
                if let Err(error) = self.revoke_lease(None, waiter.id, name_of(&lease)).await {
                    debug!(inode = %waiter.id, "a lease stands in the way: {}", error.chain());
                    // The file may be free or gone by now, and the log may take more in a moment.
                    tokio::time::sleep(REVOKE_PAUSE).await;
                }
            } else if may_end {
                // One that falls silent gives nothing back.
                let limit = LEASE_SOFT_LIMIT.saturating_sub(silent) + Duration::from_millis(1);
                let _ = tokio::time::timeout(limit, freed).await;
            } else {
                freed.await;
            }
        }
    }

    /// Takes a lease from its writer, if the file still has this one. `header`: of the call that asks for just that; none if the
    /// lease only stands in the way of another call.
    pub(super) async fn revoke_lease(
        &self,
        header: Option<RequestHeader>,
        id: InodeId,
        (client, incarnation, call): LeaseName,
    ) -> Result<()> {
        let op = RevokeLeaseOp {
            inode: id.0,
            client_id: client.0.to_vec().into(),
            incarnation: incarnation.0,
            call_id: call.0,
        };
        match header {
            Some(header) => self.mutate(Some(header), Op::RevokeLease(op)).await?,
            None => self.mutate_internally(Op::RevokeLease(op)).await?,
        };
        Ok(())
    }
}

/// Who has a file, for somebody who wants it.
fn holder_for(lease: Option<&Lease>, asker: (ClientId, Incarnation)) -> FileHolder {
    match lease {
        None => FileHolder::None,
        Some(lease) if lease.is_of(asker) && !lease.needs_recovery => FileHolder::Asker,
        Some(_) => FileHolder::Other,
    }
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
