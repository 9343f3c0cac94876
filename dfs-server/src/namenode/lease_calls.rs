//! Calls of clients that end the lease of a file: its owner or root takes it from a writer, or a writer that has failed gives it
//! up. The file's recovery is then waited for, for a while.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, InodeId};
use dfs_proto::v1;

use super::apply::CallKey;
use super::handover::{LEASE_SOFT_LIMIT, LeaseName, name_of, patience};
use super::namespace::Lease;
use super::namespace::permission::Identity;
use super::namesystem::Namesystem;

impl Namesystem {
    /// Takes the lease of whoever writes `id`, for its owner or root, and waits a while for the file to be recovered. Gives the
    /// name of the lease that is left, if its file still waits for recovery; whoever else has the file by then has it rightly.
    ///
    /// # Errors
    /// `NotPermitted`, `Busy` while the writer is alive; else as `mutate`.
    pub async fn recover_lease(
        &self,
        header: Option<v1::RequestHeader>,
        id: InodeId,
        patience_ms: u32,
    ) -> Result<Option<LeaseName>> {
        let who = Identity::of(header.as_ref().and_then(|header| header.caller.as_ref()));
        if self.recorded(header.as_ref())?.is_some() {
            // Whoever has the lease now is not the writer that it was taken from.
            return Ok(self.left_to_recover(id, patience_ms).await);
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
        Ok(self.left_to_recover(id, patience_ms).await)
    }

    /// Waits a while for the file to be recovered; the lease that waits for it still.
    async fn left_to_recover(&self, id: InodeId, patience_ms: u32) -> Option<LeaseName> {
        self.wait_recovered(id, patience(patience_ms)).await;
        self.namespace().read().lease(id).filter(|lease| lease.needs_recovery).map(name_of)
    }

    /// Takes the lease of `id` that `call` took from the caller's own session, whose writer has failed, and waits a while as
    /// [`recover_lease`](Self::recover_lease) does. A lease that somebody else holds by now stays.
    ///
    /// # Errors
    /// `InvalidArgument` without a session; else as `mutate`.
    pub async fn give_up_lease(
        &self,
        header: Option<v1::RequestHeader>,
        id: InodeId,
        call: CallId,
        patience_ms: u32,
    ) -> Result<Option<LeaseName>> {
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
                Ok(self.left_to_recover(id, patience_ms).await)
            }
            holder => Ok(holder.as_ref().map(name_of)),
        }
    }
}
