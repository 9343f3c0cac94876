//! One method per RPC of ClientProtocol that reads or changes the namespace.
//!
//! Errors are the NameNode's (`NotFound`, `PermissionDenied`, ...), or `Unavailable` and `TimedOut` once
//! [`retry_timeout`](crate::ClientConfig::retry_timeout) has passed without an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_common::attr::FileAttr;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, InodeId};
use dfs_proto::v1;

use super::DfsClient;
use super::replies::{ContentSummary, CreatedFile, DirEntry, FsStats, Listing};
use super::requests::{CreateOptions, RenameFlag, SetAttr, TimeSet, XAttrSetFlag};
use super::turn::await_end_of_lease;
use crate::caller::Caller;
use crate::client_core::{Adding, attr_of};
use crate::datanode::Located;
use crate::rpc::{Claim, Session, rpc};
use crate::write::{FileWriter, Opened, ServerClock, Start};

/// How long a truncation waits for the DataNodes; the NameNode asks one after the other within it.
const TRUNCATE_PATIENCE: Duration = Duration::from_secs(60);
/// How long the NameNode is asked to wait at once for a file to be recovered.
const RECOVERY_LOOK: Duration = Duration::from_secs(5);

/// An inode that this client keeps alive past its last link. Dropping it lets go, once the NameNode answers. Of several of one
/// inode the one taken last counts.
pub struct HeldInode {
    session: Arc<Session>,
    inode: InodeId,
    call: CallId,
}

impl HeldInode {
    /// Whether it is held no more: the client's session has ended.
    pub fn is_lost(&self) -> bool {
        self.session.is_dead()
    }
}

impl Drop for HeldInode {
    fn drop(&mut self) {
        self.session.leave(Claim::Hold { inode: self.inode, call: self.call });
    }
}

/// The header of a call that changes nothing.
fn reading(caller: &Caller) -> Option<v1::RequestHeader> {
    Some(v1::RequestHeader { caller: Some(caller.into()), retry: None })
}

fn inode_request(caller: &Caller, inode: InodeId) -> v1::InodeRequest {
    v1::InodeRequest { header: reading(caller), inode: inode.0 }
}

impl DfsClient {
    /// A directory's attributes as the answer to a change of this client told them less than `max_age` ago, and how long ago
    /// that was. Who may believe attributes for that long need not ask again after every change.
    pub fn recent_directory(&self, inode: InodeId, max_age: Duration) -> Option<(FileAttr, Duration)> {
        self.core.directories.recent(inode, max_age)
    }

    /// Whether `name` is certainly not in `directory`, which this client has made and nobody else has added to. Says nothing
    /// of the right to search it.
    pub fn is_known_absent(&self, directory: InodeId, name: &[u8]) -> bool {
        self.core.delegations.is_absent(directory, name)
    }

    fn changed(&self, answer: &v1::EmptyResponse) {
        self.core.directories.learn(answer.txid, &answer.changed_directories);
    }

    fn changed_inode(&self, answer: v1::AttrResponse) -> Result<FileAttr> {
        self.core.directories.learn(answer.txid, &answer.changed_directories);
        attr_of(answer.attr)
    }

    /// Takes in the answer to a call that has added a name.
    fn added(&self, adding: Adding<'_>, mut answer: v1::AttrResponse) -> Result<FileAttr> {
        let delegations = std::mem::take(&mut answer.delegations);
        let attr = self.changed_inode(answer)?;
        adding.on_answer(&delegations, Some(attr.inode));
        Ok(attr)
    }

    /// After a change that may have been one of a directory the answer does not tell of: the one that was moved or removed.
    fn moved(&self, answer: Result<v1::EmptyResponse>) -> Result<()> {
        self.core.directories.forget_all();
        answer.map(|answer| self.changed(&answer))
    }

    /// The inode that `name` stands for in `parent`.
    pub async fn lookup(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<FileAttr> {
        let name = Bytes::copy_from_slice(name);
        let request = v1::LookupRequest { header: reading(caller), parent: parent.0, name };
        attr_of(self.core.query(request, rpc!(lookup)).await?.attr)
    }

    /// Attributes of an inode.
    pub async fn get_file_info(&self, caller: &Caller, inode: InodeId) -> Result<FileAttr> {
        attr_of(self.core.query(inode_request(caller, inode), rpc!(get_file_info)).await?.attr)
    }

    /// A page of at most `max` entries after `cookie` (0: from the start).
    pub async fn get_listing(
        &self,
        caller: &Caller,
        directory: InodeId,
        cookie: u64,
        max: u32,
        with_attrs: bool,
    ) -> Result<Listing> {
        let request =
            v1::GetListingRequest { header: reading(caller), inode: directory.0, cookie, max_entries: max, with_attrs };
        let answer = self.core.query(request, rpc!(get_listing)).await?;
        let entries = answer.entries.into_iter().map(DirEntry::try_from).collect::<Result<_>>()?;
        Ok(Listing { entries, at_end: answer.at_end, parent: InodeId(answer.parent) })
    }

    /// Where a symlink points.
    pub async fn get_link_target(&self, caller: &Caller, link: InodeId) -> Result<Vec<u8>> {
        Ok(self.core.query(inode_request(caller, link), rpc!(get_link_target)).await?.target.into())
    }

    /// Totals of the file system.
    pub async fn get_fs_stats(&self, caller: &Caller) -> Result<FsStats> {
        let request = v1::GetFsStatsRequest { header: reading(caller) };
        Ok(self.core.query(request, rpc!(get_fs_stats)).await?.into())
    }

    /// Totals of what lies below an inode.
    pub async fn get_content_summary(&self, caller: &Caller, inode: InodeId) -> Result<ContentSummary> {
        let answer = self.core.query_at_length(inode_request(caller, inode), rpc!(get_content_summary)).await?;
        Ok(ContentSummary {
            length: answer.length,
            file_count: answer.file_count,
            directory_count: answer.directory_count,
            space_consumed: answer.space_consumed,
        })
    }

    /// The value of an extended attribute; `NoAttribute` when there is none of that name.
    pub async fn get_xattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<Vec<u8>> {
        let name = Bytes::copy_from_slice(name);
        let request = v1::XAttrRequest { header: reading(caller), inode: inode.0, name };
        Ok(self.core.query(request, rpc!(get_x_attr)).await?.value.into())
    }

    /// Names of all extended attributes.
    pub async fn list_xattrs(&self, caller: &Caller, inode: InodeId) -> Result<Vec<Vec<u8>>> {
        let answer = self.core.query(inode_request(caller, inode), rpc!(list_x_attrs)).await?;
        Ok(answer.names.into_iter().map(Into::into).collect())
    }

    /// Makes a regular file.
    pub async fn create(&self, caller: &Caller, options: CreateOptions<'_>) -> Result<CreatedFile> {
        let name = Bytes::copy_from_slice(options.name);
        let build = |header| v1::CreateRequest {
            header: Some(header),
            parent: options.parent.0,
            name: name.clone(),
            mode: options.mode,
            replication: options.replication,
            block_size: options.block_size,
            open_for_write: options.open_for_write,
            exclusive: options.exclusive,
        };
        let adding = self.core.delegations.add(options.parent, options.name, false);
        let (answer, pending) = self.core.claim(caller, &build, &rpc!(create)).await?;
        adding.on_answer(&answer.delegations, None);
        self.core.directories.learn(answer.txid, &answer.changed_directories);
        let attr = attr_of(answer.attr)?;
        let writer = if answer.created && options.open_for_write {
            let located = |block| Located::new(&self.core.datanodes, block, &answer.block_pool_id);
            let first_block = answer.first_block.map(located).transpose()?;
            let start = first_block.map_or(Start::Nowhere, Start::Allocated);
            let clock = ServerClock::told(answer.now_ns);
            let opened = Opened { attr: &attr, has_capabilities: false, clock };
            Some(FileWriter::open(&self.core, pending, caller, opened, start)?)
        } else {
            pending.answered();
            None
        };
        Ok(CreatedFile { attr, is_new: answer.created, writer })
    }

    /// Makes a directory with these permission bits.
    pub async fn mkdir(&self, caller: &Caller, parent: InodeId, name: &[u8], mode: u32) -> Result<FileAttr> {
        let name = Bytes::copy_from_slice(name);
        let build = |header| v1::MkdirRequest { header: Some(header), parent: parent.0, name: name.clone(), mode };
        let adding = self.core.delegations.add(parent, &name, true);
        self.added(adding, self.core.mutate(caller, build, rpc!(mkdir)).await?)
    }

    /// Makes a fifo, socket, device node or regular file, by the type bits of `mode`.
    pub async fn mknod(&self, caller: &Caller, parent: InodeId, name: &[u8], mode: u32, rdev: u32) -> Result<FileAttr> {
        let name = Bytes::copy_from_slice(name);
        let build =
            |header| v1::MknodRequest { header: Some(header), parent: parent.0, name: name.clone(), mode, rdev };
        let adding = self.core.delegations.add(parent, &name, false);
        self.added(adding, self.core.mutate(caller, build, rpc!(mknod)).await?)
    }

    /// Makes a symlink to `target`.
    pub async fn create_symlink(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        target: &[u8],
    ) -> Result<FileAttr> {
        let (name, target) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(target));
        let build = |header| v1::CreateSymlinkRequest {
            header: Some(header),
            parent: parent.0,
            name: name.clone(),
            target: target.clone(),
        };
        let adding = self.core.delegations.add(parent, &name, false);
        self.added(adding, self.core.mutate(caller, build, rpc!(create_symlink)).await?)
    }

    /// Gives `inode` another name.
    pub async fn link(&self, caller: &Caller, inode: InodeId, parent: InodeId, name: &[u8]) -> Result<FileAttr> {
        let new_name = Bytes::copy_from_slice(name);
        let build = |header| v1::LinkRequest {
            header: Some(header),
            inode: inode.0,
            new_parent: parent.0,
            new_name: new_name.clone(),
        };
        let adding = self.core.delegations.add(parent, &new_name, false);
        self.added(adding, self.core.mutate(caller, build, rpc!(link)).await?)
    }

    /// Removes a name that is not a directory's.
    pub async fn unlink(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<()> {
        self.core.mutate(caller, dentry_mutation(parent, name), rpc!(unlink)).await.map(|answer| self.changed(&answer))
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<()> {
        let answer = self.core.mutate(caller, dentry_mutation(parent, name), rpc!(rmdir)).await;
        self.moved(answer)
    }

    /// Removes a name and all below it, atomically.
    pub async fn delete(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Result<()> {
        let answer = self.core.mutate(caller, dentry_mutation(parent, name), rpc!(delete)).await;
        self.moved(answer)
    }

    /// Moves the entry `from` to `to`.
    pub async fn rename(
        &self,
        caller: &Caller,
        from: (InodeId, &[u8]),
        to: (InodeId, &[u8]),
        flag: RenameFlag,
    ) -> Result<()> {
        let (src_name, dst_name) = (Bytes::copy_from_slice(from.1), Bytes::copy_from_slice(to.1));
        let build = |header| v1::RenameRequest {
            header: Some(header),
            src_parent: from.0.0,
            src_name: src_name.clone(),
            dst_parent: to.0.0,
            dst_name: dst_name.clone(),
            flag: v1::RenameFlag::from(flag).into(),
        };
        let adding = self.core.delegations.add(to.0, to.1, false);
        let answer = self.core.mutate(caller, build, rpc!(rename)).await;
        if let Ok(answer) = &answer {
            adding.on_answer(&answer.delegations, None);
        }
        self.moved(answer)
    }

    /// Changes attributes and gives the new ones. A change of nothing is chown(-1, -1): the time of change is set, and what a
    /// program is allowed to do goes.
    pub async fn set_attr(&self, caller: &Caller, inode: InodeId, change: SetAttr) -> Result<FileAttr> {
        let explicit = |time| match time {
            Some(TimeSet::At(ns)) => Some(ns),
            Some(TimeSet::Now) | None => None,
        };
        let build = |header| v1::SetAttrRequest {
            header: Some(header),
            inode: inode.0,
            mode: change.mode,
            uid: change.uid,
            gid: change.gid,
            atime_ns: explicit(change.atime),
            mtime_ns: explicit(change.mtime),
            atime_now: change.atime == Some(TimeSet::Now),
            mtime_now: change.mtime == Some(TimeSet::Now),
            kill_privileges: change.kill_privileges,
            kill_capabilities: change.kill_capabilities,
        };
        let answer = self.in_turn(inode, || self.core.mutate(caller, build, rpc!(set_attr))).await?;
        self.changed_inode(answer)
    }

    /// Cuts a file that nobody writes to `length`, and returns when its replicas are cut too.
    ///
    /// # Errors
    /// `Busy` while somebody writes it, `Unsupported` when `length` is above the file's, `TimedOut` when the DataNodes have
    /// not done their part for a minute: the file has its new length then, and can be written when they have.
    pub async fn truncate(&self, caller: &Caller, inode: InodeId, length: u64) -> Result<FileAttr> {
        let (attr, lease) = self.in_turn(inode, || self.cut(caller, inode, length)).await?;
        if !attr.under_construction {
            return Ok(attr);
        }
        let begun = Instant::now();
        // Whoever opens the file when its replicas are cut is not waited for.
        while !await_end_of_lease(&self.core, inode, lease.clone(), RECOVERY_LOOK).await? {
            if begun.elapsed() >= TRUNCATE_PATIENCE {
                let words = format!("inode {inode} is cut to {length} bytes, but its replicas are not yet");
                return Err(DfsError::new(ErrorKind::TimedOut, words));
            }
        }
        self.get_file_info(&Caller::root(), inode).await
    }

    /// Makes the cut, which the replicas may still have before them; with the name of the lease by which they are recovered then.
    async fn cut(&self, caller: &Caller, inode: InodeId, length: u64) -> Result<(FileAttr, v1::LeaseName)> {
        let build = |header| v1::TruncateRequest { header: Some(header), inode: inode.0, length };
        let mut cut = self.core.claim(caller, &build, &rpc!(truncate)).await;
        if let Err(error) = &cut
            && Box::pin(self.core.gave_way(inode, error)).await
        {
            cut = Box::pin(self.core.claim(caller, &build, &rpc!(truncate))).await;
        }
        let (answer, pending) = cut?;
        let session = pending.session();
        let lease = v1::LeaseName {
            client_id: session.client_id.0.to_vec().into(),
            incarnation: session.incarnation.0,
            call_id: pending.id().0,
        };
        pending.answered();
        Ok((attr_of(answer.attr)?, lease))
    }

    /// Changes how many replicas a file should have.
    pub async fn set_replication(&self, caller: &Caller, inode: InodeId, replication: u32) -> Result<FileAttr> {
        let build = |header| v1::SetReplicationRequest { header: Some(header), inode: inode.0, replication };
        attr_of(self.core.mutate(caller, build, rpc!(set_replication)).await?.attr)
    }

    /// Sets an extended attribute.
    pub async fn set_xattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        name: &[u8],
        value: &[u8],
        flag: XAttrSetFlag,
    ) -> Result<()> {
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        let build = |header| v1::SetXAttrRequest {
            header: Some(header),
            inode: inode.0,
            name: name.clone(),
            value: value.clone(),
            flag: v1::XAttrSetFlag::from(flag).into(),
        };
        let answer = self.in_turn(inode, || self.core.mutate(caller, build, rpc!(set_x_attr))).await;
        answer.map(|answer| self.changed(&answer))
    }

    /// Removes an extended attribute.
    pub async fn remove_xattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> Result<()> {
        let name = Bytes::copy_from_slice(name);
        let build = |header| v1::XAttrMutation { header: Some(header), inode: inode.0, name: name.clone() };
        self.core.mutate(caller, build, rpc!(remove_x_attr)).await.map(|answer| self.changed(&answer))
    }

    /// Keeps an inode alive past its last link, for as long as the answer is kept.
    pub async fn hold(&self, caller: &Caller, inode: InodeId) -> Result<HeldInode> {
        let build = |header| v1::InodeMutation { header: Some(header), inode: inode.0 };
        let (_, pending) = self.core.claim(caller, &build, &rpc!(hold)).await?;
        let held = HeldInode { session: Arc::clone(pending.session()), inode, call: pending.id() };
        pending.answered();
        Ok(held)
    }

    /// Closes the file of a writer that is gone. False when that takes longer than `patience`: it goes on by itself.
    ///
    /// # Errors
    /// `NotPermitted` for others than the owner and root, `Busy` while the writer is alive, for others than root.
    pub async fn recover_lease(&self, caller: &Caller, inode: InodeId, patience: Duration) -> Result<bool> {
        let begun = Instant::now();
        let build = |header| v1::RecoverLeaseRequest { header: Some(header), inode: inode.0, own: false, call_id: 0 };
        let answer = self.core.mutate(caller, build, rpc!(recover_lease)).await?;
        let Some(lease) = answer.lease else { return Ok(answer.closed) };
        // It is asked for once: who has the file after that has it rightly.
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            if await_end_of_lease(&self.core, inode, lease.clone(), left.min(RECOVERY_LOOK)).await? {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }
}

fn dentry_mutation(parent: InodeId, name: &[u8]) -> impl Fn(v1::RequestHeader) -> v1::DentryMutation {
    let name = Bytes::copy_from_slice(name);
    move |header| v1::DentryMutation { header: Some(header), parent: parent.0, name: name.clone() }
}
