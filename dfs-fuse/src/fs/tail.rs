//! The last page of a file that grows.
//!
//! The kernel fills what lies behind the end of a file in its last page with zeros. When it learns that the file is longer it
//! takes the new size first and drops that page after it, or, for its own writes past the page cache, not at all: readers and
//! mappings would see zeros where there are bytes, for a moment or for good. So the page is dropped before the kernel learns
//! of the new size: what it reads again in between comes with all bytes that are there, also behind the end it knows.
//!
//! ```text
//!   a read reaches the end        its page is noted as one to drop                OpenInode::note_tail
//!   a write here was taken in     drop, then answer                               grown_by_write
//!   attributes tell more bytes    drop, store the last byte, then answer          announce
//! ```
//!
//! The last byte is stored because the kernel, once it was told to drop pages, takes no attributes from answers that were
//! asked for before it: storing is the other way to tell it a size.

use dfs_client::{Caller, Shown};
use dfs_common::attr::{FileAttr, FileKind};
use fuser::Errno;
use tracing::debug;

use super::FileSystem;
use crate::errno::FsResult;
use crate::inodes::OpenInode;

impl FileSystem {
    /// Bytes up to `end` were written here, and the kernel is about to hear of them.
    pub(super) async fn grown_by_write(&self, open: &OpenInode, end: u64) {
        if open.tail().offset.is_some() {
            let _turn = open.growing.lock().await;
            self.drop_tail(open).await;
            self.seen.wrote(open.id, end);
        }
    }

    async fn drop_tail(&self, open: &OpenInode) {
        let tail = open.tail();
        if let Some(offset) = tail.offset {
            self.kernel.drop_pages(open.id, offset).await;
            open.dropped_tail(tail);
        }
    }

    /// Whether telling these attributes could show zeros.
    pub(super) fn must_announce(&self, attr: &FileAttr) -> bool {
        if attr.kind != FileKind::File || self.inodes.is_empty() {
            return false;
        }
        let Some(open) = self.inodes.find(attr.inode).filter(|open| open.tail().offset.is_some()) else { return false };
        let written = open.writer().and_then(|writer| writer.view().open_length);
        written.unwrap_or(0).max(attr.length) > self.seen.told_length(attr.inode).unwrap_or(0)
    }

    /// Attributes are about to be told. Leaves a growing file as long as it was told to be while the new bytes cannot be
    /// read.
    pub(super) async fn announce(&self, attr: &mut FileAttr) {
        if self.must_announce(attr) {
            Box::pin(self.tell_growth(attr)).await;
        }
    }

    async fn tell_growth(&self, attr: &mut FileAttr) {
        let Some(open) = self.inodes.find(attr.inode) else { return };
        let last_byte = self.last_byte(attr).await;
        let _turn = open.growing.lock().await;
        let told = self.seen.told_length(attr.inode).unwrap_or(0);
        match last_byte {
            _ if attr.length <= told => {}
            Ok(byte) => {
                // As it does itself when a size changes: also pages from before a cut go.
                open.note_tail(0);
                open.note_coming(Some(Shown { length: attr.length, mtime_ns: attr.mtime_ns }));
                self.drop_tail(&open).await;
                self.kernel.store(attr.inode, attr.length - 1, byte).await;
                self.seen.wrote(attr.inode, attr.length);
                open.note_coming(None);
            }
            Err(error) => {
                debug!(inode = %attr.inode, ?error, "the new end is not readable");
                if self.grows_elsewhere(attr) {
                    attr.length = told;
                }
            }
        }
    }

    async fn last_byte(&self, attr: &FileAttr) -> FsResult<u8> {
        if let Some(writer) = self.inodes.writer(attr.inode) {
            writer.make_visible(attr.length).await?;
        }
        let shown = self.seen.shown_growing(attr.inode);
        let reader = self.client.open_reader_again(&Caller::root(), attr.inode, shown).await?;
        let read = reader.read_at(attr.length - 1, 1).await?;
        // It has been cut since.
        Ok(*read.first().ok_or(Errno::ESTALE)?)
    }
}
