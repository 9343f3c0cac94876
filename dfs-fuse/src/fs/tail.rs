//! The last page of a file that grows.
//!
//! The kernel fills what lies behind the end of a file in its last page with zeros. When it learns that the file is longer it
//! takes the new size first and drops that page after it, or, for its own writes past the page cache, not at all: readers and
//! mappings would see zeros where there are bytes, for a moment or for good. So the page is dropped before the kernel learns
//! of the new size: what it reads again in between comes with all bytes that are there, also behind the end it knows.
//!
//! ```text
//!   a read may reach the end      its page is noted as one to drop                OpenInode::note_tail
//!   a write here was taken in     drop, then answer                               drop_tail_before_growth
//!   attributes tell more bytes    drop, store the last byte, then answer          announce
//! ```
//!
//! The last byte is stored because the kernel, once it was told to drop pages, takes no attributes from answers that were
//! asked for before it: storing is the other way to tell it a size. Of bytes written here it hears by the write itself, and
//! attributes do not tell it of a write before that is answered.
//!
//! Dropping waits for reads of the page that are under way, and those may wait for a cluster that does not answer: not for
//! longer than [`PATIENCE`], then the kernel drops the page when the read has ended. Until then nobody else waits for it.

use std::time::Duration;

use dfs_client::{Caller, Shown};
use dfs_common::attr::{FileAttr, FileKind};
use fuser::Errno;
use tokio::time::timeout;
use tracing::debug;

use super::{Dated, FileSystem};
use crate::errno::FsResult;
use crate::inodes::{GrowthTurn, OpenInode, OpenRef};

/// How long a write or a question for attributes waits for reads of the page, and for the last byte.
const PATIENCE: Duration = Duration::from_secs(2);

/// Growth that is being told: reads that reach the end come up to the new one. To be kept until the answer is noted as told.
pub(super) struct Announced {
    open: OpenRef,
    shown: Shown,
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.open.came(self.shown);
    }
}

impl FileSystem {
    /// Bytes were written here, and the kernel is about to hear of them.
    pub(super) async fn drop_tail_before_growth(&self, open: &OpenInode) {
        if open.tail().offset.is_none() {
            return;
        }
        let dropped = async {
            if let Some(turn) = open.growth_turn().await {
                self.drop_tail(open, turn).await;
            }
        };
        if timeout(PATIENCE, Box::pin(dropped)).await.is_err() {
            open.growth_hangs();
            debug!(inode = %open.id, "a write is answered before a read of its page has ended");
        }
    }

    async fn drop_tail(&self, open: &OpenInode, turn: GrowthTurn) -> Option<GrowthTurn> {
        let tail = open.tail();
        let Some(offset) = tail.offset else { return Some(turn) };
        let turn = self.kernel.drop_pages(open.id, offset, turn).await?;
        open.dropped_tail(tail);
        Some(turn)
    }

    /// Whether it is open here, and longer than the kernel knows.
    pub(super) fn grown(&self, attr: &FileAttr) -> Option<OpenRef> {
        if attr.kind != FileKind::File {
            return None;
        }
        // Asked first: of the many files of a listing few are open.
        let open = self.inodes.find(attr.inode)?;
        (attr.length > self.seen.told_length(attr.inode).unwrap_or(0)).then_some(open)
    }

    /// Attributes are about to be told. Leaves a growing file as long as it was told to be while the new bytes cannot be
    /// read, and lets no answer tell less than one that overtook it here.
    pub(super) async fn announce(&self, dated: &mut Dated) -> Option<Announced> {
        let open = self.grown(&dated.attr)?;
        let shown = Shown { length: dated.attr.length, mtime_ns: dated.attr.mtime_ns };
        // From here on reads that reach the end come up to this one; those that began before have noted themselves.
        if open.note_coming(shown) {
            Box::pin(self.tell_growth(&open, dated)).await;
        }
        Some(Announced { open, shown })
    }

    async fn tell_growth(&self, open: &OpenInode, dated: &mut Dated) {
        let before = self.seen.told_length(open.id);
        let epoch = open.content_epoch();
        let is_told = timeout(PATIENCE, self.drop_and_store(open, dated, epoch)).await.unwrap_or_else(|_| {
            open.growth_hangs();
            false
        });
        let Some(told) = self.seen.told_length(open.id) else { return };
        let attr = &mut dated.attr;
        let was_overtaken = before.is_some_and(|before| told > before) && told > attr.length;
        let is_unreadable = !is_told && told < attr.length && self.grows_elsewhere(attr);
        if was_overtaken || is_unreadable {
            attr.length = told;
            dated.length_mtime_ns = None;
        }
    }

    /// False when the new end cannot be read, or others wait for the page already.
    async fn drop_and_store(&self, open: &OpenInode, dated: &Dated, epoch: u64) -> bool {
        let attr = &dated.attr;
        let byte = match self.last_byte(attr).await {
            Ok(byte) => Some(byte),
            // What was written here and is not with all nodes yet was told by the writes.
            Err(_) if open.writer().is_some_and(|writer| writer.view().open_length.is_some()) => None,
            Err(error) => {
                debug!(inode = %attr.inode, ?error, "the new end is not readable");
                return false;
            }
        };
        let Some(turn) = open.growth_turn().await else { return false };
        if byte.is_some() {
            // As the kernel does itself when a size changes: also pages from before a cut elsewhere go.
            open.note_tail(0);
        }
        let Some(turn) = self.drop_tail(open, turn).await else { return false };
        let Some(byte) = byte else { return true };
        if open.content_epoch() != epoch || self.seen.told_length(open.id) >= Some(attr.length) {
            // Cut since, or told more: the kernel does not take this older answer.
            return true;
        }
        let at = attr.length - 1;
        // Both are said first: the kernel gets the byte even if nobody waits for it any more. Where it is the first of its
        // page, that page is filled up with zeros.
        open.note_tail(at);
        let length_mtime_ns = dated.length_mtime_ns.filter(|_| self.grows_elsewhere(attr));
        self.seen.stored(attr.inode, attr.length, length_mtime_ns);
        self.kernel.store(attr.inode, at, byte, turn).await;
        true
    }

    async fn last_byte(&self, attr: &FileAttr) -> FsResult<u8> {
        let shown = self.seen.shown_growing(attr.inode);
        let reader = self.client.open_reader_again(&Caller::root(), attr.inode, shown).await?;
        let read = reader.read_at(attr.length - 1, 1).await?;
        // It has been cut since.
        Ok(*read.first().ok_or(Errno::ESTALE)?)
    }
}
