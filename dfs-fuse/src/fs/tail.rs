//! The last page of a file that grows.
//!
//! The kernel fills what lies behind the end of a file in its last page with zeros. When it learns that the file is longer it
//! takes the new size first and drops that page after it, or, for its own writes past the page cache, not at all: readers and
//! mappings would see zeros where there are bytes, for a moment or for good. So the page is dropped before the kernel learns
//! of the new size: what it reads again in between comes with all bytes that are there, also behind the end it knows.
//!
//! ```text
//!   a read may reach the end      its page is noted as one to drop                OpenInode::note_tail
//!   a write here was taken in     drop, then answer                               grown_by_write
//!   attributes tell more bytes    drop, store the last byte, then answer          announce
//! ```
//!
//! The last byte is stored because the kernel, once it was told to drop pages, takes no attributes from answers that were
//! asked for before it: storing is the other way to tell it a size. Of bytes written here it hears by the write itself.
//!
//! Dropping waits for reads of the page that are under way, and those may wait for a cluster that does not answer: not for
//! longer than [`DROP_PATIENCE`], then the kernel drops the page when the read has ended.

use std::time::Duration;

use dfs_client::{Caller, Shown};
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::ids::InodeId;
use fuser::Errno;
use tokio::time::timeout;
use tracing::debug;

use super::FileSystem;
use crate::errno::FsResult;
use crate::inodes::{OpenInode, OpenRef};

/// How long a write or a question for attributes waits for reads of the page.
const DROP_PATIENCE: Duration = Duration::from_secs(2);

/// Growth that is being told: to be ended when the answer is noted as told.
pub(super) struct Announced(OpenRef);

impl Announced {
    pub(super) fn told(self, attr: &FileAttr) {
        self.0.came(Shown { length: attr.length, mtime_ns: attr.mtime_ns });
    }
}

impl FileSystem {
    /// Bytes up to `end` were written here, and the kernel is about to hear of them.
    pub(super) async fn grown_by_write(&self, open: &OpenInode, end: u64) {
        if open.tail().offset.is_some() {
            let dropped = async {
                let _turn = open.growing.lock().await;
                self.drop_tail(open).await;
            };
            if timeout(DROP_PATIENCE, Box::pin(dropped)).await.is_err() {
                debug!(inode = %open.id, "a write is answered before a read of its page has ended");
            }
        }
        self.seen.wrote(open.id, end);
    }

    async fn drop_tail(&self, open: &OpenInode) {
        let tail = open.tail();
        if let Some(offset) = tail.offset {
            self.kernel.drop_pages(open.id, offset).await;
            open.dropped_tail(tail);
        }
    }

    /// Whether it is open here, and longer than the kernel knows.
    pub(super) fn has_grown(&self, attr: &FileAttr) -> bool {
        attr.kind == FileKind::File && !self.inodes.is_empty() && self.inodes.find(attr.inode).is_some() && {
            let written = self.inodes.writer(attr.inode).and_then(|writer| writer.view().open_length);
            written.unwrap_or(0).max(attr.length) > self.told(attr.inode).unwrap_or(0)
        }
    }

    /// The length that the kernel knows, as far as this mount remembers.
    fn told(&self, inode: InodeId) -> Option<u64> {
        self.seen.told_length(inode).max(self.seen.shown_growing(inode).map(|shown| shown.length))
    }

    /// Attributes are about to be told. Leaves a growing file as long as it was told to be while the new bytes cannot be
    /// read.
    pub(super) async fn announce(&self, attr: &mut FileAttr) -> Option<Announced> {
        if !self.has_grown(attr) {
            return None;
        }
        let open = self.inodes.find(attr.inode)?;
        // From here on reads that reach the end come up to this one; those that began before have noted themselves.
        if open.note_coming(Shown { length: attr.length, mtime_ns: attr.mtime_ns }) {
            Box::pin(self.tell_growth(&open, attr)).await;
        }
        Some(Announced(open))
    }

    async fn tell_growth(&self, open: &OpenInode, attr: &mut FileAttr) {
        let epoch = open.content_epoch();
        let is_written_here = open.writer().is_some_and(|writer| writer.view().open_length.is_some());
        let last_byte = if is_written_here { Ok(None) } else { self.last_byte(attr).await.map(Some) };
        let told = self.told(attr.inode);
        let is_told = match last_byte {
            Ok(byte) => {
                let announced = timeout(DROP_PATIENCE, self.drop_and_store(open, attr, byte, epoch)).await;
                announced.is_ok()
            }
            Err(error) => {
                debug!(inode = %attr.inode, ?error, "the new end is not readable");
                false
            }
        };
        if let (false, true, Some(told)) = (is_told, self.grows_elsewhere(attr), told) {
            attr.length = told;
        }
    }

    async fn drop_and_store(&self, open: &OpenInode, attr: &FileAttr, last: Option<u8>, epoch: u64) {
        let _turn = open.growing.lock().await;
        if open.content_epoch() != epoch {
            // Cut since: the kernel was told by that, and does not take an older answer.
            return;
        }
        if let Some(byte) = last {
            // As it does itself when a size changes: also pages from before a cut elsewhere go.
            open.note_tail(0);
            self.drop_tail(open).await;
            let at = attr.length - 1;
            self.kernel.store(attr.inode, at, byte).await;
            self.seen.wrote(attr.inode, attr.length);
            // Where it is the first of its page, that page is filled up with zeros.
            open.note_tail(at);
        } else {
            self.drop_tail(open).await;
        }
    }

    async fn last_byte(&self, attr: &FileAttr) -> FsResult<u8> {
        let shown = self.seen.shown_growing(attr.inode);
        let reader = self.client.open_reader_again(&Caller::root(), attr.inode, shown).await?;
        let read = reader.read_at(attr.length - 1, 1).await?;
        // It has been cut since.
        Ok(*read.first().ok_or(Errno::ESTALE)?)
    }
}
