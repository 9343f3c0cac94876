//! Open files and directories, by the plain numbers that the kernel knows them by.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_client::{Caller, DfsClient, FileReader, Shown};
use dfs_common::ids::InodeId;
use fuser::Errno;
use parking_lot::Mutex;

use crate::cache::Version;
use crate::dirs::DirPages;
use crate::errno::{FsError, FsResult};
use crate::inodes::OpenRef;
use crate::lost_writes::Told;
use crate::writer::SharedWriter;

/// Number of a handle, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HandleId(pub(crate) u64);

/// Handles of one mount: what a million descriptors on one host need is beyond its own limits.
const HANDLES_MAX: usize = 1 << 20;

/// A file open on this mount.
pub(crate) struct FileHandle {
    pub(crate) inode: OpenRef,
    /// Present when opened for writing, for good: also after it has failed.
    pub(crate) writer: Option<Arc<SharedWriter>>,
    /// Of the inode's lost writes.
    told: Arc<Told>,
    /// With the inode's content epoch it was opened at.
    reader: tokio::sync::Mutex<Option<(u64, Arc<FileReader>)>>,
    /// Of its open for reading, if that did not let the kernel keep its pages.
    opened: Option<Version>,
    has_read: AtomicBool,
}

impl FileHandle {
    pub(crate) fn new(inode: OpenRef, writer: Option<Arc<SharedWriter>>) -> Self {
        let told = inode.losses().on_open();
        let reader = tokio::sync::Mutex::default();
        Self { inode, writer, told, reader, opened: None, has_read: AtomicBool::new(false) }
    }

    /// Open for reading, with a reader of the inode's content at `epoch`. `opened` is what the kernel has pages of from the first
    /// read on, if it was told to drop others.
    pub(crate) fn for_reading(inode: OpenRef, epoch: u64, reader: Arc<FileReader>, opened: Option<Version>) -> Self {
        let reader = tokio::sync::Mutex::new(Some((epoch, reader)));
        Self { reader, opened, ..Self::new(inode, None) }
    }

    /// A read has come. Gives what the kernel has pages of now, if this is the first one, and the kernel had to drop others.
    pub(crate) fn on_read(&self) -> Option<Version> {
        let opened = self.opened?;
        // Looked at first: a flag that is written by every read would be passed on from core to core.
        let is_first = !self.has_read.load(Ordering::Relaxed) && !self.has_read.swap(true, Ordering::Relaxed);
        is_first.then_some(opened)
    }

    /// The reader, opened if there is none or its file's content was thrown away. The right to read was proven at open.
    /// `shown` tells what the kernel was told of the file while another mount was writing it.
    pub(crate) async fn reader(
        &self,
        client: &DfsClient,
        shown: impl FnOnce() -> Option<Shown>,
    ) -> FsResult<Arc<FileReader>> {
        let mut reader = self.reader.lock().await;
        let epoch = self.inode.content_epoch();
        if let Some((opened_at, reader)) = &*reader
            && *opened_at == epoch
        {
            return Ok(Arc::clone(reader));
        }
        let opened = client.open_reader_again(&Caller::root(), self.inode.id, shown()).await?;
        *reader = Some((epoch, Arc::clone(&opened)));
        Ok(opened)
    }

    /// Drops `stale`, so that the next read asks for locations anew.
    pub(crate) async fn forget_reader(&self, stale: &Arc<FileReader>) {
        let mut reader = self.reader.lock().await;
        if reader.as_ref().is_some_and(|(_, reader)| Arc::ptr_eq(reader, stale)) {
            *reader = None;
        }
    }

    /// For a sync: the bytes of the file that were lost, if this handle was not told yet.
    ///
    /// # Errors
    /// Why they were.
    pub(crate) fn check_losses(&self) -> FsResult<()> {
        self.inode.losses().check(&self.told).map_err(FsError::of_untold)
    }

    /// An outcome that a program looks at: if it tells of lost bytes, this handle is told by it.
    pub(crate) fn heard<T>(&self, outcome: FsResult<T>) -> FsResult<T> {
        let to_this = |failure: FsError| {
            if failure.tells_loss() { failure.to(self.inode.losses().telling(&self.told)) } else { failure }
        };
        outcome.map_err(to_this)
    }

    /// The error that ended this handle's writer.
    ///
    /// # Errors
    /// That one.
    pub(crate) fn check(&self) -> FsResult<()> {
        self.writer.as_ref().map_or(Ok(()), |writer| writer.check())
    }
}

/// A directory open on this mount.
pub(crate) struct DirHandle {
    pub(crate) inode: InodeId,
    /// Who opened it.
    pub(crate) caller: Caller,
    /// The NameNode has given him a page: reading on is authorised by that.
    pub(crate) is_authorised: AtomicBool,
    /// Entries fetched ahead of the kernel; never held across an await.
    pub(crate) pages: Mutex<DirPages>,
}

impl DirHandle {
    /// In whose name it is read.
    pub(crate) fn reader(&self) -> Caller {
        if self.is_authorised.load(Ordering::Relaxed) { self.caller.authorised() } else { self.caller.clone() }
    }
}

enum Handle {
    File(Arc<FileHandle>),
    Dir(Arc<DirHandle>),
}

/// The table.
pub(crate) struct Handles {
    /// Never held across an await.
    table: Mutex<Table>,
    max: usize,
}

struct Table {
    next: u64,
    handles: HashMap<HandleId, Handle>,
    /// Slots given out.
    reserved: usize,
}

/// Room for one handle.
pub(crate) struct Slot<'a> {
    handles: &'a Handles,
}

impl Slot<'_> {
    /// Enters a file.
    pub(crate) fn add_file(self, handle: FileHandle) -> HandleId {
        self.add(Handle::File(Arc::new(handle)))
    }

    fn add(self, handle: Handle) -> HandleId {
        let mut table = self.handles.table.lock();
        let id = HandleId(table.next);
        table.next += 1;
        table.handles.insert(id, handle);
        id
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.handles.table.lock().reserved -= 1;
    }
}

impl Handles {
    pub(crate) fn new() -> Self {
        Self::with_max(HANDLES_MAX)
    }

    fn with_max(max: usize) -> Self {
        Self { table: Mutex::new(Table { next: 1, handles: HashMap::new(), reserved: 0 }), max }
    }

    /// Keeps room for a file that is about to be opened: what the cluster has given must not be lost for want of a handle.
    ///
    /// # Errors
    /// `ENFILE` when there are too many handles.
    pub(crate) fn reserve(&self) -> FsResult<Slot<'_>> {
        let mut table = self.table.lock();
        if table.handles.len() + table.reserved >= self.max {
            return Err(Errno::ENFILE.into());
        }
        table.reserved += 1;
        Ok(Slot { handles: self })
    }

    /// Enters a directory.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn add_dir(&self, handle: DirHandle) -> FsResult<HandleId> {
        Ok(self.reserve()?.add(Handle::Dir(Arc::new(handle))))
    }

    /// A file by its number.
    ///
    /// # Errors
    /// `EBADF`.
    pub(crate) fn file(&self, id: HandleId) -> FsResult<Arc<FileHandle>> {
        match self.table.lock().handles.get(&id) {
            Some(Handle::File(file)) => Ok(Arc::clone(file)),
            Some(Handle::Dir(_)) | None => Err(Errno::EBADF.into()),
        }
    }

    /// A directory by its number.
    ///
    /// # Errors
    /// `EBADF`.
    pub(crate) fn dir(&self, id: HandleId) -> FsResult<Arc<DirHandle>> {
        match self.table.lock().handles.get(&id) {
            Some(Handle::Dir(dir)) => Ok(Arc::clone(dir)),
            Some(Handle::File(_)) | None => Err(Errno::EBADF.into()),
        }
    }

    /// Takes a file out.
    pub(crate) fn remove_file(&self, id: HandleId) -> Option<Arc<FileHandle>> {
        match self.table.lock().handles.remove(&id) {
            Some(Handle::File(file)) => Some(file),
            Some(Handle::Dir(_)) | None => None,
        }
    }

    /// Takes a directory out.
    pub(crate) fn remove_dir(&self, id: HandleId) {
        self.table.lock().handles.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> DirHandle {
        DirHandle {
            inode: InodeId(5),
            caller: Caller::root(),
            is_authorised: AtomicBool::new(false),
            pages: Mutex::new(DirPages::new(InodeId(5))),
        }
    }

    #[test]
    fn reserve_keeps_room_until_the_slot_is_used_or_dropped() {
        let handles = Handles::with_max(2);
        let slot = handles.reserve().unwrap();
        let id = handles.add_dir(dir()).unwrap();
        assert_eq!(handles.reserve().err().unwrap().errno(), Errno::ENFILE, "before anything is opened for it");
        let file = slot.add(Handle::Dir(Arc::new(dir())));
        assert!(handles.dir(file).is_ok() && handles.reserve().is_err());
        handles.remove_dir(id);
        drop(handles.reserve().unwrap());
        assert!(handles.add_dir(dir()).is_ok());
    }
}
