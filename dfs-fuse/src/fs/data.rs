//! Reading, writing, flushing, syncing.

use std::sync::Arc;

use bytes::Bytes;
use dfs_client::{Caller, FileReader, SyncLevel};
use dfs_common::error::{DfsError, ErrorKind};
use fuser::Errno;

use super::FileSystem;
use crate::errno::{FsError, FsResult};
use crate::handles::{FileHandle, HandleId};
use crate::writer::Write;

/// What a read gives.
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    /// More that it fetches ahead is on its way.
    pub(crate) fetches_ahead: bool,
}

impl FileSystem {
    /// Bytes of a file; fewer than asked for only at its end.
    pub(crate) async fn read(&self, handle: HandleId, offset: u64, size: u32) -> FsResult<Read> {
        let handle = self.handles.file(handle)?;
        handle.check()?;
        if let Some(version) = handle.on_read() {
            self.seen.dropped_older(handle.inode.id, version);
        }
        let shown = || self.seen.shown_growing(handle.inode.id);
        let reader = handle.reader(&self.client, shown).await.map_err(FsError::on_handle)?;
        let end = offset.saturating_add(u64::from(size));
        // Direct reads leave no page in the kernel's cache, except faults of a private mapping through a writing descriptor, which ask
        // for whole pages. So only those, and all buffered reads, can leave a last page that goes stale.
        let page = rustix::param::page_size() as u64;
        let fills_pages = handle.writer.is_none() || offset.is_multiple_of(page) && end.is_multiple_of(page);
        if fills_pages && end > reader.length() {
            handle.inode.note_tail(reader.length());
        }
        match self.read_by(&handle, &reader, offset, size).await {
            // The file was cut or written anew since the reader learned where its bytes are.
            Err(error) if error.cause().is_some_and(is_replaced) => {
                handle.forget_reader(&reader).await;
                handle.inode.note_tail(offset);
                let reader = handle.reader(&self.client, shown).await.map_err(FsError::on_handle)?;
                self.read_by(&handle, &reader, offset, size).await.map_err(FsError::on_handle)
            }
            outcome => outcome,
        }
    }

    /// One read, by what `reader` knows of the file.
    async fn read_by(&self, handle: &FileHandle, reader: &Arc<FileReader>, offset: u64, size: u32) -> FsResult<Read> {
        self.catch_up(handle, reader, offset, offset.saturating_add(u64::from(size))).await?;
        let bytes = reader.read_at(offset, size as usize).await?;
        Ok(Read { bytes, fetches_ahead: reader.is_fetching_ahead() })
    }

    /// Lets `reader` know of bytes that came after it was opened, if the read wants any.
    async fn catch_up(&self, handle: &FileHandle, reader: &Arc<FileReader>, offset: u64, end: u64) -> FsResult<()> {
        let open = handle.inode.writer().filter(|writer| writer.view().open_length.is_some());
        if let Some(writer) = open {
            // Its own writes, or those of another program here.
            match writer.make_visible(end).await {
                Ok(()) if reader.length() < end.min(writer.length()) => {
                    reader.refresh_length().await?;
                    return Ok(());
                }
                Ok(()) => return Ok(()),
                Err(failure) if handle.writer.is_some() => return Err(failure),
                // It is those who write that hear of it from every call. To others the file is one that nobody here writes.
                Err(_) => {}
            }
        }
        if end > reader.length() {
            // For its page cache the kernel asks for whole pages, so most reads at the end go past it: only news are worth a
            // question. What a program asks for itself it gets, if it is there.
            let id = handle.inode.id;
            let is_direct = handle.writer.is_some();
            let coming = handle.inode.tail().coming;
            let told = coming.map(|shown| shown.length).max(self.seen.told_length(id));
            if is_direct || told > Some(reader.length()) || offset >= reader.length() {
                reader.refresh_length().await?;
            }
            for shown in self.seen.shown_growing(id).into_iter().chain(coming) {
                // The kernel would take a shorter answer for the end of the file, and cut its pages or fill them with zeros.
                reader.expect_length(shown);
            }
        }
        Ok(())
    }

    /// Writes at the end of a file; gives the bytes written, always all of them.
    pub(crate) async fn write(&self, handle: HandleId, write: Write<'_>) -> FsResult<u32> {
        let handle = self.handles.file(handle)?;
        let writer = handle.writer.as_ref().ok_or(Errno::EBADF)?;
        self.check_not_stopping()?;
        if writer.looks_at_maker(&write) {
            write.by.look();
        }
        let losses = writer.privileges().losses();
        let _changing = self.changing([handle.inode.id]);
        // Between two writes it may have been given back, and another mount may have it.
        let outcome = self.in_turn(handle.inode.id, || writer.write(&write, self.options.sync)).await;
        if writer.privileges().losses() != losses {
            // The kernel would go on to execute it with the rights that it had.
            self.kernel.drop_attributes(handle.inode.id);
        }
        let done = handle.heard(outcome.map_err(FsError::on_handle))?;
        self.drop_tail_before_growth(&handle.inode).await;
        writer.answered(&done, || self.seen.wrote(handle.inode.id, done.end));
        if done.at != write.offset {
            // The kernel computes the new size from its own offset.
            self.kernel.drop_attributes(handle.inode.id);
        }
        if write.syncs {
            handle.check_losses()?;
        }
        Ok(u32::try_from(write.data.len()).unwrap_or(u32::MAX))
    }

    /// A descriptor of the handle is closed: what was written is completed, or its failure told.
    pub(crate) async fn flush(&self, handle: HandleId) -> FsResult<()> {
        let handle = self.handles.file(handle)?;
        let Some(writer) = &handle.writer else { return Ok(()) };
        let _changing = self.changing([handle.inode.id]);
        writer.flush().await.map_err(FsError::on_handle)
    }

    /// Makes the file durable, whoever wrote it, and tells of bytes that were lost.
    pub(crate) async fn fsync(&self, handle: HandleId) -> FsResult<()> {
        let handle = self.handles.file(handle)?;
        handle.heard(handle.check())?;
        handle.check_losses()?;
        let _changing = self.changing([handle.inode.id]);
        handle.heard(self.sync(&handle).await.map_err(FsError::on_handle))?;
        // While it lasted, others may have lost some.
        handle.check_losses()
    }

    async fn sync(&self, handle: &FileHandle) -> FsResult<()> {
        match handle.writer.clone().or_else(|| handle.inode.writer()) {
            Some(writer) => writer.sync(self.options.sync).await,
            None if self.options.sync == SyncLevel::Hsync => {
                Ok(self.client.sync_file(&Caller::root(), handle.inode.id).await?)
            }
            // Closed files are with every node already.
            None => Ok(()),
        }
    }
}

/// The reader's blocks are not those of the file any more.
fn is_replaced(error: &DfsError) -> bool {
    matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound)
}
