//! Opening, creating and closing files.

use std::sync::Arc;

use dfs_client::{Caller, CreateOptions, Turn};
use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::InodeId;
use fuser::{Errno, OpenFlags};
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::{Entry, FileSystem, NewInode};
use crate::errno::{FsError, FsResult};
use crate::flags::{Access, new_permissions};
use crate::handles::{FileHandle, HandleId, Slot};
use crate::inodes::{OpenInode, OpenRef};
use crate::writer::{SharedWriter, to_its_end};

/// Set by the kernel in the flags of an open for execution (its own __FMODE_EXEC): needs the right to execute, which it has
/// checked, not the right to read.
const FMODE_EXEC: i32 = 0x20;

/// Tries to take the lease of a file that this mount itself may be about to enter as its writer.
const LEASE_TRIES: u32 = 2;

/// An open file that the kernel is to get, and how the kernel is to treat it. Dropped before the kernel has it, its handle is
/// closed: what fails or is given up after an open keeps no file open, and no lease.
///
/// What is answered arrives. The kernel waits for an answer and takes the handle also when its program is killed meanwhile, and
/// it releases what it took, unless the whole mount is at its end.
pub(crate) struct Opened {
    handle: NewHandle,
    /// Pages cached before are still right.
    pub(crate) keep_pages: bool,
    /// May write: reads and writes go past the page cache, and closing has work to do.
    pub(crate) writes: bool,
}

impl Opened {
    /// The kernel gets the handle now.
    pub(crate) fn hand_over(mut self) -> HandleId {
        self.handle.is_kernels = true;
        self.handle.id
    }
}

struct NewHandle {
    fs: Arc<FileSystem>,
    id: HandleId,
    is_kernels: bool,
}

impl Drop for NewHandle {
    fn drop(&mut self) {
        if self.is_kernels {
            return;
        }
        let (fs, id) = (Arc::clone(&self.fs), self.id);
        // Without a runtime this process is at its end, and with it the session: the NameNode takes back what that leaves open.
        if let Ok(runtime) = Handle::try_current() {
            debug!(handle = id.0, "opened for nobody");
            runtime.spawn(async move { fs.release(id).await });
        }
    }
}

/// Bytes of a file are being thrown away. They may be gone however that ends, also when it fails or is given up: readers look
/// again, and so does the kernel, unless it learns by the answer.
pub(super) struct Cutting<'a> {
    fs: &'a FileSystem,
    open: &'a OpenInode,
    end: CutEnd,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutEnd {
    /// Nobody knows, or it has failed.
    Unknown,
    /// No byte went.
    Nothing,
    /// The answer tells the kernel how long the file is.
    Told,
    /// It was done by an open: the kernel takes the file for empty. What else of it changed it does not know: it may have been a
    /// program.
    Emptied,
}

impl<'a> Cutting<'a> {
    pub(super) fn new(fs: &'a FileSystem, open: &'a OpenInode) -> Self {
        Self { fs, open, end: CutEnd::Unknown }
    }

    pub(super) fn ends(mut self, end: CutEnd) {
        self.end = end;
    }
}

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        let Self { fs, open, end } = self;
        if *end == CutEnd::Nothing {
            return;
        }
        fs.changes.note(&[open.id]);
        open.content_dropped();
        if *end == CutEnd::Emptied {
            fs.seen.emptied(open.id);
        }
        if *end != CutEnd::Told {
            fs.kernel.drop_attributes(open.id);
        }
    }
}

/// The writer of this mount, if it has one that works. One that has failed and keeps the lease is disposed of: nobody could change
/// the file before its handles are closed. To be called with `writing` held.
pub(super) async fn usable_writer(open: &OpenInode) -> Option<Arc<SharedWriter>> {
    let writer = open.writer();
    if writer.is_none()
        && let Some(failed) = open.take_failed_writer()
    {
        // Its handles keep its error, which is in the log; the file is free for a new start.
        let _ = failed.finish().await;
    }
    writer
}

/// A file just made, and open.
pub(crate) struct Created {
    pub(crate) entry: Entry,
    pub(crate) opened: Opened,
}

impl FileSystem {
    fn opened(self: &Arc<Self>, slot: Slot<'_>, file: FileHandle, keep_pages: bool) -> Opened {
        let writes = file.writer.is_some();
        let handle = NewHandle { fs: Arc::clone(self), id: slot.add_file(file), is_kernels: false };
        Opened { handle, keep_pages, writes }
    }

    /// Enters an inode that a program opens, and holds it if its name may be going.
    async fn enter(&self, inode: InodeId) -> FsResult<OpenRef> {
        let (open, names_are_going) = self.inodes.open_by_program(inode);
        if names_are_going {
            open.hold(&self.client).await.map_err(FsError::on_handle)?;
        }
        Ok(open)
    }

    /// Opens a file: for writing takes the lease, for reading asks where its bytes are.
    pub(crate) async fn open(self: &Arc<Self>, caller: &Caller, inode: InodeId, flags: OpenFlags) -> FsResult<Opened> {
        let access = Access::new(flags);
        let slot = self.handles.reserve()?;
        let mut open = self.enter(inode).await?;
        if access.writes {
            return self.open_for_writing(caller, open, access, slot).await;
        }
        if access.truncates {
            let writer = self.take_writer(caller, &open, true).await?;
            // In a task, which goes on to its end when this request is given up: the lease must not stay.
            let fs = Arc::clone(self);
            let giving_up = tokio::spawn(async move {
                fs.give_up_writer(&open, &writer).await;
                open
            });
            let failed = |error| DfsError::new(ErrorKind::Internal, "complete a file just emptied").with_source(error);
            open = giving_up.await.map_err(failed)?;
        }
        let reader_caller = if flags.0 & FMODE_EXEC != 0 { Caller::root() } else { caller.clone() };
        self.open_for_reading(&reader_caller, open, slot).await
    }

    async fn open_for_writing(
        self: &Arc<Self>,
        caller: &Caller,
        open: OpenRef,
        access: Access,
        slot: Slot<'_>,
    ) -> FsResult<Opened> {
        let _changing = self.changing([open.id]);
        let writer = self.take_writer(caller, &open, access.truncates).await?;
        if !access.truncates && self.seen.told_length(open.id) != Some(writer.length()) {
            self.kernel.drop_attributes(open.id);
        }
        Ok(self.opened(slot, FileHandle::new(open, Some(writer)), false))
    }

    /// Empties a file that this mount writes.
    async fn empty(self: &Arc<Self>, caller: &Caller, open: &OpenRef, writer: &Arc<SharedWriter>) -> FsResult<()> {
        let (fs, open) = (Arc::clone(self), self.inodes.open(open.id));
        let (caller, writer) = (caller.clone(), Arc::clone(writer));
        to_its_end(async move {
            let cutting = Cutting::new(&fs, &open);
            writer.empty_at_open(&caller).await?;
            cutting.ends(CutEnd::Emptied);
            Ok(())
        })
        .await
    }

    async fn open_for_reading(self: &Arc<Self>, caller: &Caller, open: OpenRef, slot: Slot<'_>) -> FsResult<Opened> {
        let mut epoch = open.content_epoch();
        let shown = self.seen.shown_growing(open.id);
        let (mut attr, reader) = self.client.open_for_reading(caller, open.id, shown).await?;
        let is_written_here = open.writer().is_some_and(|writer| writer.view().fill_in(&mut attr));
        let is_being_written = is_written_here || attr.under_construction;
        if is_being_written && !is_written_here {
            attr.length = reader.length();
        }
        let verdict = self.seen.on_open(&attr);
        if verdict.drop_attributes {
            self.kernel.drop_attributes(open.id);
        }
        if !verdict.keep_pages {
            // Handles opened before must not fill the pages that the kernel drops now with what they have of older content.
            epoch = open.content_dropped_since(epoch);
        }
        let keep_pages = verdict.keep_pages && !is_being_written;
        if keep_pages {
            // The last one among them.
            open.note_tail(attr.length);
        }
        let version = (!verdict.keep_pages).then_some(verdict.version);
        Ok(self.opened(slot, FileHandle::for_reading(open, epoch, reader, version), keep_pages))
    }

    /// Makes a file and opens it.
    ///
    /// # Errors
    /// `ESTALE` when somebody else has made the name since the kernel looked, unless the program wanted to be the one who makes
    /// it. The kernel asks for a creation without checking any right to the file. So it must look again: it finds the file then,
    /// and opens it with its own check.
    pub(crate) async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        new: NewInode<'_>,
        flags: OpenFlags,
    ) -> FsResult<Created> {
        self.check_not_stopping()?;
        let access = Access::new(flags);
        let slot = self.handles.reserve()?;
        let options = CreateOptions {
            parent: new.parent,
            name: new.name,
            mode: new_permissions(new.mode, new.umask),
            replication: self.options.replication,
            block_size: self.options.block_size,
            open_for_write: access.writes,
            exclusive: access.exclusive,
        };
        let _changing = self.changing([new.parent]);
        let file = self.client.create(caller, options).await?;
        if !file.is_new {
            return Err(Errno::ESTALE.into());
        }
        let attr = file.attr;
        let open = self.enter(attr.inode).await?;
        let writer = match file.writer {
            Some(writer) => {
                let _writing = open.writing.lock().await;
                let writer = SharedWriter::new(self.client.clone(), writer, Arc::clone(open.losses()));
                open.set_writer(Some(Arc::clone(&writer)));
                Some(writer)
            }
            None => None,
        };
        let opened = self.opened(slot, FileHandle::new(open, writer), false);
        Ok(Created { entry: self.entry(attr), opened })
    }

    /// The writer of an inode with one handle more: the one this mount has, or a new one with the lease. Another mount that has
    /// just closed the file is waited for. With `truncates`, the content is thrown away.
    async fn take_writer(
        self: &Arc<Self>,
        caller: &Caller,
        open: &OpenRef,
        truncates: bool,
    ) -> FsResult<Arc<SharedWriter>> {
        let take = || self.try_take_writer(caller, open, truncates);
        self.in_turn_with(open.id, LEASE_TRIES - 1, take).await
    }

    async fn try_take_writer(
        self: &Arc<Self>,
        caller: &Caller,
        open: &OpenRef,
        truncates: bool,
    ) -> FsResult<Arc<SharedWriter>> {
        self.check_not_stopping()?;
        let _writing = open.writing.lock().await;
        if let Some(writer) = usable_writer(open).await {
            if truncates {
                self.empty(caller, open, &writer).await?;
            }
            writer.join().await?;
            return Ok(writer);
        }
        let cutting = truncates.then(|| Cutting::new(self, open));
        let writer = self.client.append(caller, open.id, truncates).await?;
        // Before anybody can write through it.
        if let Some(cutting) = cutting {
            cutting.ends(CutEnd::Emptied);
        }
        let writer = SharedWriter::new(self.client.clone(), writer, Arc::clone(open.losses()));
        open.set_writer(Some(Arc::clone(&writer)));
        Ok(writer)
    }

    /// Makes a change of a file that other mounts must not be writing, again and again until none does or the patience is over.
    /// Nothing is held while it waits.
    pub(super) async fn in_turn<T, F>(&self, inode: InodeId, change: impl FnMut() -> F) -> FsResult<T>
    where
        F: Future<Output = FsResult<T>>,
    {
        self.in_turn_with(inode, 0, change).await
    }

    /// The same, with so many tries more while this mount itself has the file: a create may not have entered its writer yet.
    async fn in_turn_with<T, F>(&self, inode: InodeId, mut own_tries: u32, mut change: impl FnMut() -> F) -> FsResult<T>
    where
        F: Future<Output = FsResult<T>>,
    {
        let mut turn = self.client.turn(inode);
        loop {
            let refusal = match change().await {
                Err(error) if error.kind() == Some(ErrorKind::Busy) => error,
                outcome => return outcome,
            };
            match Box::pin(turn.comes()).await {
                Turn::Now => {}
                Turn::Own if own_tries > 0 => {
                    own_tries -= 1;
                    tokio::task::yield_now().await;
                }
                Turn::Own | Turn::Never => return Err(refusal),
            }
        }
    }

    async fn give_up_writer(&self, open: &OpenRef, writer: &Arc<SharedWriter>) {
        let _changing = self.changing([open.id]);
        let _writing = open.writing.lock().await;
        if !writer.leave() {
            return;
        }
        if let Err(failure) = writer.finish().await {
            // Nobody waits for a release: whoever syncs the file next hears of it.
            warn!(inode = %open.id, ?failure, "file not completed at its last release");
        }
        open.forget_writer(writer);
    }

    /// The last descriptor of a handle is gone; completes the file if it was the last one writing.
    pub(crate) async fn release(&self, handle: HandleId) {
        let Some(handle) = self.handles.remove_file(handle) else { return };
        if let Some(writer) = &handle.writer {
            self.give_up_writer(&handle.inode, writer).await;
        }
    }
}
