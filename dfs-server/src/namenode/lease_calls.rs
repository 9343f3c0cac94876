//! Calls of clients that meet the lease of a file: they take it, give it up, take it from its writer, or cut the file. What
//! stands in the way of such a call is ended first, if it may be, and its recovery is waited for for a while. Cutting a file
//! inside a block is a recovery, too.

use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, InodeId};
use dfs_proto::v1;
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{OpenForAppendOp, RevokeLeaseOp, TruncateOp};

use super::apply::CallKey;
use super::namespace::Lease;
use super::namespace::permission::{Identity, WRITE};
use super::namesystem::Namesystem;
use super::outcome::Outcome;

/// A writer not heard of for this long may lose its lease to another one (design D12).
const LEASE_SOFT_LIMIT: Duration = Duration::from_secs(30);
/// How long a call waits for a recovery that is in its way, below the deadline of a client's call.
const CALL_PATIENCE: Duration = Duration::from_secs(5);

impl Namesystem {
    /// Takes the lease of an existing file. A holder past the soft limit loses it first, and a file that waits for recovery
    /// is given a moment.
    ///
    /// # Errors
    /// `Busy` while another client writes.
    pub async fn append(&self, header: Option<v1::RequestHeader>, op: OpenForAppendOp) -> Result<Outcome> {
        self.make_way(header.as_ref(), InodeId(op.inode)).await?;
        self.mutate(header, Op::OpenForAppend(op)).await
    }

    /// Ends what stands in the way of a new writer and may be ended: a holder past the soft limit, a recovery.
    async fn make_way(&self, header: Option<&v1::RequestHeader>, id: InodeId) -> Result<()> {
        let holder = {
            let namespace = self.namespace().read();
            let inode = namespace.inode(id)?;
            Identity::of(header.and_then(|header| header.caller.as_ref())).check(inode, WRITE)?;
            let is_over = |lease: &Lease| !namespace.is_alive((lease.client, lease.incarnation));
            namespace.lease(id).map(|lease| (lease.clone(), is_over(lease)))
        };
        let Some((lease, is_over)) = holder else { return Ok(()) };
        // A repeated call whose first one was applied has its own lease in the way: nothing is to be ended for it.
        if self.recorded(header)?.is_some() {
            return Ok(());
        }
        self.check_writable()?;
        // Leases of a session that has ended go step by step. This one goes at once, so that nobody waits for it.
        if !lease.needs_recovery && (is_over || self.silent_for(lease.client) > LEASE_SOFT_LIMIT) {
            self.revoke_lease(None, id, &lease).await?;
        }
        self.wait_recovered(id).await;
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

    /// Cuts a file. When the new end lies inside a block, its replicas are cut before this returns, or it says that the
    /// file is still under construction.
    ///
    /// # Errors
    /// As `mutate`; `Busy` while somebody writes, `Unsupported` for a longer file.
    pub async fn truncate(&self, header: Option<v1::RequestHeader>, op: TruncateOp) -> Result<InodeId> {
        let id = InodeId(op.inode);
        self.make_way(header.as_ref(), id).await?;
        self.mutate(header, Op::Truncate(op)).await?;
        self.wait_recovered(id).await;
        Ok(id)
    }

    /// Takes a lease from its writer. `header`: of the call that asks for just that; none if the lease only stands in the way
    /// of another call.
    async fn revoke_lease(&self, header: Option<v1::RequestHeader>, id: InodeId, lease: &Lease) -> Result<()> {
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
        Ok(())
    }

    /// Waits a while for a file's recovery to end; true when it is not waiting (any more).
    async fn wait_recovered(&self, id: InodeId) -> bool {
        let waits = || self.namespace().read().lease(id).is_some_and(|lease| lease.needs_recovery);
        if !waits() {
            return true;
        }
        self.wake_recovery();
        let wait = async {
            loop {
                let ended = self.recovery.ended.notified();
                if !waits() {
                    return;
                }
                ended.await;
            }
        };
        tokio::time::timeout(CALL_PATIENCE, wait).await.is_ok()
    }
}
