//! What is known of a file's one writer without waiting for a turn with it.

use std::sync::Arc;

use dfs_client::FileWriter;
use dfs_common::attr::{FileAttr, date_write};

/// Kept by the [writer](crate::writer::SharedWriter).
pub(crate) struct View {
    /// Until the lease is given back, or somebody takes a turn who finds it gone.
    pub(crate) open: Option<Arc<FileWriter>>,
    /// Where the last write ended that was answered, while the lease is held.
    pub(crate) answered: u64,
    /// Bytes, while it is not.
    pub(crate) closed_length: u64,
    /// Bytes that readers may see.
    pub(crate) visible: u64,
    /// Counts openings, completions and truncations.
    pub(crate) changes: u64,
}

impl View {
    pub(crate) fn new(writer: Arc<FileWriter>) -> Self {
        let end = writer.position();
        Self { open: Some(writer), answered: end, closed_length: end, visible: end, changes: 0 }
    }

    /// The lease was taken again.
    pub(crate) fn reopened(&mut self, writer: Arc<FileWriter>) {
        self.visible = writer.position();
        self.answered = self.visible;
        self.open = Some(writer);
        self.changes += 1;
    }

    /// The lease was given back, or the file cut after that.
    pub(crate) fn closed(&mut self, length: u64) {
        self.open = None;
        self.closed_length = length;
        self.visible = length;
        self.changes += 1;
    }

    /// The writer, while the lease is held as far as is known. Without the lease others may change the file: then only the NameNode
    /// knows it.
    pub(crate) fn held(&self) -> Option<&Arc<FileWriter>> {
        self.open.as_ref().filter(|writer| writer.lost_lease().is_none())
    }

    /// Bytes in the file as far as this mount knows; without the lease, when it had it last.
    pub(crate) fn length(&self) -> u64 {
        self.open.as_ref().map_or(self.closed_length, |writer| writer.position())
    }

    /// Whether readers see all bytes up to `end`, as far as they were written.
    pub(crate) fn shows(&self, end: u64) -> bool {
        self.held().is_none_or(|writer| self.visible >= end.min(writer.position()))
    }

    /// This instant.
    pub(crate) fn now(&self) -> WriterView {
        let held = self.held();
        WriterView {
            changes: self.changes,
            open_length: held.map(|_| self.answered),
            modified_ns: held.and_then(|writer| writer.modified_ns()),
        }
    }
}

/// A writer's state at an instant, to see whether it changed around a question to the NameNode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriterView {
    pub(crate) changes: u64,
    /// Bytes that the kernel knows of, while the lease is held: a write that is under way tells it by its own answer.
    pub(crate) open_length: Option<u64>,
    /// When it was written last, while the lease is held.
    pub(crate) modified_ns: Option<i64>,
}

impl WriterView {
    /// Puts what is known here into attributes that the NameNode gave: it hears of it later. False when the lease is not held.
    pub(crate) fn fill_in(&self, attr: &mut FileAttr) -> bool {
        let Some(length) = self.open_length else { return false };
        attr.length = length;
        if let Some(at_ns) = self.modified_ns {
            date_write(&mut attr.mtime_ns, &mut attr.ctime_ns, at_ns);
        }
        true
    }
}
