//! Names and attributes.

use std::future::Future;
use std::time::{Duration, Instant};

use dfs_client::{Caller, CreateOptions, DfsClient, Privileges, RenameFlag, SetAttr, TimeSet};
use dfs_common::attr::{FileAttr, FileKind, PERMISSION_MASK};
use dfs_common::error::{DfsError, Result, RetryClass};
use dfs_common::ids::{InodeId, ROOT_INODE};
use fuser::Errno;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::debug;

use super::files::{CutEnd, Cutting, usable_writer};
use super::{Dated, Entry, FileSystem, STATS_PATIENCE};
use crate::cache::Floor;
use crate::errno::FsResult;
use crate::flags::new_permissions;
use crate::handles::HandleId;
use crate::inodes::{NameGoing, OpenRef};

/// How often attributes are asked for again when this mount's writer opened or completed the file meanwhile.
const ATTR_TRIES: u32 = 3;

/// What to make under a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewInode<'a> {
    pub(crate) parent: InodeId,
    pub(crate) name: &'a [u8],
    /// As the program gave it, type bits included where the call has them.
    pub(crate) mode: u32,
    pub(crate) umask: u32,
}

/// Attributes to change.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AttrChange {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) length: Option<u64>,
    pub(crate) atime: Option<TimeSet>,
    pub(crate) mtime: Option<TimeSet>,
}

/// A name that is being taken away. A call that was not answered, or was given up because its program was killed, may still be
/// made: for whoever opens the file, the name goes until that is settled.
struct Going {
    kept: Option<(NameGoing, Option<OpenRef>)>,
    client: DfsClient,
}

impl Going {
    /// The call has come to this. Made or refused, it is over: were the name to go on going after a refusal, opening the file would
    /// need a hold, which a NameNode in safe mode refuses.
    fn ends<T>(mut self, outcome: &Result<T>) {
        if outcome.as_ref().map_or_else(DfsError::is_refusal, |_| true) {
            self.kept = None;
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        // Without a runtime this process is at its end.
        if let Ok(runtime) = Handle::try_current() {
            let client = self.client.clone();
            runtime.spawn(async move {
                client.wait_given_up_calls_settled().await;
                drop(kept);
            });
        }
    }
}

impl FileSystem {
    /// The inode a name stands for. `.` asks for an inode of any kind by its number: so an NFS server finds again what its
    /// clients have open.
    pub(crate) async fn lookup(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> FsResult<Entry> {
        if name == b"." {
            return self.getattr(caller, parent).await;
        }
        // The kernel has checked the right to search `parent` (`default_permissions`).
        if self.client.is_known_absent(parent, name) {
            return Err(Errno::ENOENT.into());
        }
        let attr = self.client.lookup(caller, parent, name).await?;
        self.answer(caller, attr).await
    }

    /// Attributes that came with the answer to another question. The NameNode may not know the length of a file that another
    /// mount writes: if the kernel was told of more, the DataNodes are asked.
    async fn answer(&self, caller: &Caller, attr: FileAttr) -> FsResult<Entry> {
        let is_doubtful = self.grows_elsewhere(&attr) && self.seen.floor(&attr) == Floor::Doubtful;
        let dated = if is_doubtful { Box::pin(self.attributes(caller, attr.inode)).await? } else { attr.into() };
        Ok(self.announced_entry(dated).await)
    }

    /// Attributes of an inode.
    pub(crate) async fn getattr(&self, caller: &Caller, inode: InodeId) -> FsResult<Entry> {
        if let Some((attr, age)) = self.client.recent_directory(inode, self.options.attr_ttl) {
            return Ok(self.aged_entry(attr, age));
        }
        if inode == ROOT_INODE {
            let (attr, heard) = self.root_attributes().await?;
            return Ok(self.aged_entry(attr, heard.elapsed()));
        }
        let attr = self.attributes(caller, inode).await?;
        Ok(self.announced_entry(attr).await)
    }

    /// A directory's attributes that were heard a while ago: believed no longer than if the kernel had been given them at once.
    fn aged_entry(&self, attr: FileAttr, age: Duration) -> Entry {
        Entry { attr_ttl: self.options.attr_ttl.saturating_sub(age), ..self.entry(attr) }
    }

    /// The root's attributes, and when they were heard; those last heard when the NameNode does not answer at once, because `df`
    /// and umount(8) ask for them and must not wait out an outage.
    async fn root_attributes(&self) -> FsResult<(FileAttr, Instant)> {
        let asked = timeout(STATS_PATIENCE, self.client.get_file_info(&Caller::root(), ROOT_INODE)).await;
        let mut last = self.root.lock();
        match asked {
            Ok(Ok(attr)) => *last = (attr, Instant::now()),
            Ok(Err(error)) if error.kind().retry_class() == RetryClass::Never => return Err(error.into()),
            Ok(Err(_)) | Err(_) => debug!("the root's attributes are told as last heard"),
        }
        Ok(last.clone())
    }

    /// Attributes with the length that is true now. An answer that crossed a completion of our own writer is of neither side
    /// of it and is asked for again.
    pub(super) async fn attributes(&self, caller: &Caller, inode: InodeId) -> FsResult<Dated> {
        let mut tries = ATTR_TRIES;
        loop {
            let before = self.inodes.writer(inode).map(|writer| writer.view());
            let mut attr = self.client.get_file_info(caller, inode).await?;
            let after = self.inodes.writer(inode).map(|writer| writer.view());
            tries -= 1;
            let crossed = before.map(|view| view.changes) != after.map(|view| view.changes);
            if crossed && tries > 0 {
                continue;
            }
            let is_written_here = after.is_some_and(|view| view.fill_in(&mut attr));
            if !is_written_here && self.grows_elsewhere(&attr) {
                return Ok(self.with_visible_length(attr).await);
            }
            return Ok(attr.into());
        }
    }

    /// With what readers may see of a file that is being written elsewhere. While nobody tells it, what they could see before.
    async fn with_visible_length(&self, attr: FileAttr) -> Dated {
        let shown = self.seen.shown_growing(attr.inode);
        let visible = match self.client.visible_length(&Caller::root(), attr.inode, shown).await {
            Ok(visible) => Some(visible),
            Err(error) => {
                debug!(inode = %attr.inode, error = %error.chain(), "no visible length");
                shown
            }
        };
        Dated::at_least(attr, visible)
    }

    /// Where a symlink points.
    pub(crate) async fn readlink(&self, caller: &Caller, inode: InodeId) -> FsResult<Vec<u8>> {
        Ok(self.client.get_link_target(caller, inode).await?)
    }

    /// Makes a directory.
    pub(crate) async fn mkdir(&self, caller: &Caller, new: NewInode<'_>) -> FsResult<Entry> {
        let mode = new_permissions(new.mode, new.umask);
        let _changing = self.changing([new.parent]);
        Ok(self.entry(self.client.mkdir(caller, new.parent, new.name, mode).await?))
    }

    /// Makes a regular file, fifo, socket or device node.
    pub(crate) async fn mknod(&self, caller: &Caller, new: NewInode<'_>, rdev: u32) -> FsResult<Entry> {
        let mode = new_permissions(new.mode, new.umask);
        let _changing = self.changing([new.parent]);
        let made = match FileKind::from_mode(new.mode) {
            // mknod(2): no type bits mean a regular file.
            None if new.mode & !PERMISSION_MASK == 0 => self.make_file(caller, new, mode).await,
            Some(FileKind::File) => self.make_file(caller, new, mode).await,
            None | Some(FileKind::Directory | FileKind::Symlink) => return Err(Errno::EINVAL.into()),
            Some(kind) => self.client.mknod(caller, new.parent, new.name, kind as u32 | mode, rdev).await,
        };
        Ok(self.entry(made?))
    }

    async fn make_file(&self, caller: &Caller, new: NewInode<'_>, mode: u32) -> dfs_common::Result<FileAttr> {
        let options = CreateOptions {
            parent: new.parent,
            name: new.name,
            mode,
            replication: self.options.replication,
            block_size: self.options.block_size,
            open_for_write: false,
            exclusive: true,
        };
        Ok(self.client.create(caller, options).await?.attr)
    }

    /// Makes a symlink.
    pub(crate) async fn symlink(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &[u8],
        target: &[u8],
    ) -> FsResult<Entry> {
        let _changing = self.changing([parent]);
        Ok(self.entry(self.client.create_symlink(caller, parent, name, target).await?))
    }

    /// Gives an inode another name.
    pub(crate) async fn link(&self, caller: &Caller, inode: InodeId, parent: InodeId, name: &[u8]) -> FsResult<Entry> {
        let _changing = self.changing([inode, parent]);
        let linked = self.client.link(caller, inode, parent, name).await?;
        self.answer(caller, linked).await
    }

    /// Removes a name that is not a directory's.
    pub(crate) async fn unlink(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> FsResult<()> {
        let going = self.name_goes(parent, name).await?;
        let _taking = self.taking_names([parent]);
        let removed = self.client.unlink(caller, parent, name).await;
        going.ends(&removed);
        Ok(removed?)
    }

    /// Removes an empty directory.
    pub(crate) async fn rmdir(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> FsResult<()> {
        let _changing = self.changing([parent]);
        Ok(self.client.rmdir(caller, parent, name).await?)
    }

    /// Moves an entry.
    pub(crate) async fn rename(
        &self,
        caller: &Caller,
        from: (InodeId, &[u8]),
        to: (InodeId, &[u8]),
        flag: RenameFlag,
    ) -> FsResult<()> {
        let going = match flag {
            RenameFlag::Replace => Some(self.name_goes(to.0, to.1).await?),
            RenameFlag::NoReplace | RenameFlag::Exchange => None,
        };
        let _taking = self.taking_names([from.0, to.0]);
        let renamed = self.client.rename(caller, from, to, flag).await;
        if let Some(going) = going {
            going.ends(&renamed);
        }
        Ok(renamed?)
    }

    /// A name is about to go, until the result says that it is over. If it is that of a file open on this mount, the file stays until
    /// it is closed. Costs nothing while no file is open.
    async fn name_goes(&self, parent: InodeId, name: &[u8]) -> FsResult<Going> {
        let (going, may_be_open) = self.inodes.name_goes();
        let open = if may_be_open { self.held_target(parent, name).await? } else { None };
        Ok(Going { kept: Some((going, open)), client: self.client.clone() })
    }

    /// The file that a name stands for, held, if it is open here.
    async fn held_target(&self, parent: InodeId, name: &[u8]) -> FsResult<Option<OpenRef>> {
        let attr = match self.client.lookup(&Caller::root(), parent, name).await {
            Ok(attr) => attr,
            // A name that is refused cannot be removed either: the call that follows says why.
            Err(error) if error.kind().retry_class() == RetryClass::Never => return Ok(None),
            // Without knowing whose name it is, the call that follows could take an open file away.
            Err(error) => return Err(error.into()),
        };
        if attr.kind != FileKind::File {
            return Ok(None);
        }
        // Also one that has other names: they may be going as well.
        let Some(open) = self.inodes.find(attr.inode) else { return Ok(None) };
        open.hold(&self.client).await?;
        Ok(Some(open))
    }

    /// Changes attributes; the length first, because the times of a call that sets both are meant to last.
    pub(crate) async fn setattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        handle: Option<HandleId>,
        change: AttrChange,
    ) -> FsResult<Entry> {
        let _changing = self.changing([inode]);
        self.in_turn(inode, || self.try_setattr(caller, inode, handle, change)).await
    }

    async fn try_setattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        handle: Option<HandleId>,
        change: AttrChange,
    ) -> FsResult<Entry> {
        if let Some(length) = change.length {
            self.set_length(caller, inode, handle, length).await?;
        }
        if matches!(change.mtime, Some(TimeSet::At(_)))
            && let Some(writer) = self.inodes.writer(inode)
        {
            // Completing later would set the time that is being set now.
            writer.settle().await?;
        }
        let rest = SetAttr {
            mode: change.mode.map(|mode| mode & PERMISSION_MASK),
            uid: change.uid,
            gid: change.gid,
            atime: change.atime,
            mtime: change.mtime,
            ..SetAttr::default()
        };
        // The kernel asks for nothing at all when a program says chown(-1, -1).
        if rest == SetAttr::default() && change.length.is_some() {
            return self.getattr(caller, inode).await;
        }
        let change = self.client.set_attr(caller, inode, rest);
        let changed = if rest.mode.is_some() || rest.uid.is_some() || rest.gid.is_some() {
            let set_id = rest.mode.is_some_and(|mode| mode & Privileges::SET_ID != 0);
            self.adding_privileges(inode, Privileges { set_id, ..Privileges::default() }, change).await
        } else {
            change.await
        };
        let attr = changed?;
        let dated = if self.grows_elsewhere(&attr) { self.with_visible_length(attr).await } else { attr.into() };
        Ok(self.announced_entry(dated).await)
    }

    /// Makes a change of what a file may do for who executes it: its writer here is to know.
    pub(super) async fn adding_privileges<T>(
        &self,
        inode: InodeId,
        added: Privileges,
        change: impl Future<Output = T>,
    ) -> T {
        // Also of a file that is not open: whoever takes the lease meanwhile would learn what it had before.
        let open = self.inodes.open(inode);
        let _writing = open.writing.lock().await;
        let writer = open.writer();
        let add = || writer.iter().for_each(|writer| writer.privileges().add(added));
        // Before as well: this call may be given up, and be carried out.
        add();
        let outcome = change.await;
        add();
        outcome
    }

    async fn set_length(&self, caller: &Caller, inode: InodeId, handle: Option<HandleId>, length: u64) -> FsResult<()> {
        self.check_not_stopping()?;
        // ftruncate was authorised by the open, truncate is the caller's.
        let handle = handle.map(|id| self.handles.file(id)).transpose()?;
        if let Some(handle) = &handle {
            handle.heard(handle.check())?;
        }
        // Also of a file that is not open: whoever opens it meanwhile may be told what it was before.
        let open = self.inodes.open(inode);
        let _writing = open.writing.lock().await;
        let cutting = Cutting::new(self, &open);
        let may_have_lost_bytes = match usable_writer(&open).await {
            Some(writer) => {
                let outcome = writer.set_length(length, caller).await;
                match &handle {
                    Some(handle) => handle.heard(outcome)?,
                    None => outcome?,
                }
            }
            None => {
                let who = if handle.is_some() { caller.authorised() } else { caller.clone() };
                self.client.truncate(&who, inode, length).await?;
                true
            }
        };
        cutting.ends(if may_have_lost_bytes { CutEnd::Told } else { CutEnd::Nothing });
        Ok(())
    }
}
