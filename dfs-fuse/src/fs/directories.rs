//! Reading directories.

use std::time::Duration;

use dfs_client::{Caller, DirEntry};
use dfs_common::attr::FileKind;
use dfs_common::ids::InodeId;

use super::{Entry, FileSystem};
use crate::dirs::{DirPages, Entries, Position};
use crate::errno::FsResult;
use crate::handles::{DirHandle, HandleId};

/// What answers one buffer of a listing; as much of it as fits.
pub(crate) struct Listed {
    pub(crate) directory: InodeId,
    pub(crate) position: Position,
    entries: Entries,
}

impl Listed {
    /// Where `..` leads.
    pub(crate) fn parent(&self) -> InodeId {
        self.entries.parent
    }

    /// Entries, dots aside.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &DirEntry> {
        self.entries.iter()
    }

    fn age(&self) -> Duration {
        self.entries.age
    }
}

impl FileSystem {
    /// Opens a directory. The kernel has checked the permission; the NameNode does with each page.
    pub(crate) fn opendir(&self, caller: Caller, inode: InodeId) -> FsResult<HandleId> {
        let pages = parking_lot::Mutex::new(DirPages::new());
        self.handles.add_dir(DirHandle { inode, caller, pages })
    }

    pub(crate) fn releasedir(&self, handle: HandleId) {
        self.handles.remove_dir(handle);
    }

    /// Entries after `offset`.
    pub(crate) async fn readdir(&self, handle: HandleId, offset: u64, with_attrs: bool) -> FsResult<Listed> {
        let dir = self.handles.dir(handle)?;
        let position = Position::at(offset);
        let changes = self.changes();
        let at_hand = dir.pages.lock().take(position.cookie, with_attrs, changes);
        let entries = match at_hand {
            Some(entries) => entries,
            None => {
                let fetch = dir.pages.lock().next_fetch();
                let listing =
                    self.client.get_listing(&dir.caller, dir.inode, position.cookie, fetch, with_attrs).await?;
                dir.pages.lock().put(position.cookie, listing, with_attrs, changes)
            }
        };
        Ok(Listed { directory: dir.inode, position, entries })
    }

    /// An entry with attributes as an answer to the kernel: what it was told counts, for the time that is left. `None` when
    /// the NameNode gave no attributes.
    pub(crate) fn listed_entry(&self, listed: &Listed, entry: &DirEntry) -> Option<Entry> {
        let mut told = self.entry_unnoted(entry.attr.clone()?);
        let age = listed.age();
        told.attr_ttl = told.attr_ttl.saturating_sub(age);
        told.entry_ttl = told.entry_ttl.saturating_sub(age);
        Some(told)
    }

    /// An entry went out with attributes.
    pub(crate) fn note_listed(&self, entry: &Entry) {
        if entry.attr.kind == FileKind::File {
            self.seen.told(&entry.attr);
        }
    }
}
