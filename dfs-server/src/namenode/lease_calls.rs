//! Calls of clients that end the lease of a file: its owner or root takes it from a writer, or a writer that has failed gives it
//! up. They do not wait for the file's recovery: whoever wants to know asks for the end of the lease (`handover`).

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, ClientId, Incarnation, InodeId};
use dfs_proto::v1;

use super::apply::CallKey;
use super::handover::{LEASE_SOFT_LIMIT, LeaseName, name_of};
use super::namespace::Lease;
use super::namespace::permission::Identity;
use super::namesystem::Namesystem;

/// The name of a lease that nobody has who writes.
const NOBODYS: LeaseName = (ClientId([0; 16]), Incarnation(0), CallId(0));

impl Namesystem {
    /// Takes the lease of whoever writes `id`, for its owner or root. Gives the name of the lease that is left, if its file waits
    /// for recovery; whoever else has the file by then has it rightly.
    ///
    /// # Errors
    /// `NotPermitted`, `Busy` while the writer is alive; else as `mutate`.
    pub async fn recover_lease(&self, header: Option<v1::RequestHeader>, id: InodeId) -> Result<Option<LeaseName>> {
        if self.recorded(header.as_ref())?.is_some() {
            // Whoever has the lease now is not the writer that it was taken from.
            return Ok(self.left_to_recover(id));
        }
        self.check_writable()?;
        let lease = self.lease_to_take(header.as_ref(), id)?;
        // Logged also if there is nothing to take: a repetition must not meet whoever opens the file next.
        self.revoke_lease(Some(header.unwrap_or_default()), id, lease.unwrap_or(NOBODYS)).await?;
        Ok(self.left_to_recover(id))
    }

    /// The lease that the caller may take from its writer, if there is one.
    fn lease_to_take(&self, header: Option<&v1::RequestHeader>, id: InodeId) -> Result<Option<LeaseName>> {
        let who = Identity::of(header.and_then(|header| header.caller.as_ref()));
        let namespace = self.namespace().read();
        if !who.owns(namespace.inode(id)?) {
            return Err(DfsError::new(ErrorKind::NotPermitted, "only the owner or root recovers a lease"));
        }
        let Some(lease) = namespace.lease(id).filter(|lease| !lease.needs_recovery) else { return Ok(None) };
        let silent = self.silent_for(lease.client);
        let is_over = !namespace.is_alive((lease.client, lease.incarnation));
        if silent < LEASE_SOFT_LIMIT && !is_over && !who.is_root() {
            return Err(DfsError::new(
                ErrorKind::Busy,
                format!("the writer was heard of {} s ago; only root takes its lease", silent.as_secs()),
            ));
        }
        Ok(Some(name_of(lease)))
    }

    /// The lease by which the file waits for recovery.
    fn left_to_recover(&self, id: InodeId) -> Option<LeaseName> {
        self.namespace().read().lease(id).filter(|lease| lease.needs_recovery).map(name_of)
    }

    /// Takes the lease of `id` that `call` took from the caller's own session, whose writer has failed. Gives a name as
    /// [`recover_lease`](Self::recover_lease) does. A lease that somebody else holds by now stays.
    ///
    /// # Errors
    /// `InvalidArgument` without a session; else as `mutate`.
    pub async fn give_up_lease(
        &self,
        header: Option<v1::RequestHeader>,
        id: InodeId,
        call: CallId,
    ) -> Result<Option<LeaseName>> {
        self.check_writable()?;
        let retry = header.as_ref().and_then(|header| header.retry.as_ref());
        let retry =
            retry.ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "a lease is given up in a session"))?;
        let caller = CallKey::try_from(retry)?;
        let is_own = |lease: &&Lease| {
            lease.is_of((caller.client, caller.incarnation))
                && [call, CallId(0)].contains(&lease.call)
                && !lease.needs_recovery
        };
        let lease = self.namespace().read().lease(id).filter(is_own).map(name_of);
        if let Some(lease) = lease {
            self.revoke_lease(header, id, lease).await?;
        }
        Ok(self.left_to_recover(id))
    }
}
