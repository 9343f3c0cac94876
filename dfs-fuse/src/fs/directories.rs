//! Reading directories.

use std::collections::HashMap;
use std::time::Duration;

use dfs_client::{Caller, DirEntry};
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::ids::InodeId;
use futures::stream::{self, StreamExt};

use super::{Dated, Entry, FileSystem};
use crate::cache::Floor;
use crate::dirs::{DirPages, Entries, Position};
use crate::errno::FsResult;
use crate::handles::{DirHandle, HandleId};

/// Files of one page whose attributes are asked for at a time.
const ASKED_AT_ONCE: usize = 8;

/// What answers one buffer of a listing; as much of it as fits.
pub(crate) struct Listed {
    pub(crate) directory: InodeId,
    pub(crate) position: Position,
    entries: Entries,
    /// Attributes that must not be told as they were listed.
    news: HashMap<InodeId, Dated>,
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
        let pages = parking_lot::Mutex::new(DirPages::new(inode));
        self.handles.add_dir(DirHandle { inode, caller, pages })
    }

    pub(crate) fn releasedir(&self, handle: HandleId) {
        self.handles.remove_dir(handle);
    }

    /// Entries after `offset`.
    pub(crate) async fn readdir(&self, handle: HandleId, offset: u64, with_attrs: bool) -> FsResult<Listed> {
        let dir = self.handles.dir(handle)?;
        let position = Position::at(offset);
        let asked_at = self.changes.now();
        let at_hand = dir.pages.lock().take(position.cookie, with_attrs, &self.changes);
        let entries = match at_hand {
            Some(entries) => entries,
            None => {
                let fetch = dir.pages.lock().next_fetch();
                let listing =
                    self.client.get_listing(&dir.caller, dir.inode, position.cookie, fetch, with_attrs).await?;
                dir.pages.lock().put(position.cookie, listing, with_attrs, asked_at)
            }
        };
        let news = if with_attrs { self.news(&dir.caller, &entries).await } else { HashMap::new() };
        Ok(Listed { directory: dir.inode, position, entries, news })
    }

    /// Attributes of files that the kernel has been told more of than was listed: those being written elsewhere, and those
    /// told while the page was waiting here. And of those that have grown under a reader here.
    async fn news(&self, caller: &Caller, entries: &Entries) -> HashMap<InodeId, Dated> {
        let is_old = |attr: &FileAttr| !entries.age.is_zero() || self.grows_elsewhere(attr);
        let is_doubtful = |attr: &&FileAttr| {
            attr.kind == FileKind::File
                && (is_old(attr) && self.seen.floor(attr) == Floor::Doubtful || self.grown(attr).is_some())
        };
        let doubtful: Vec<FileAttr> =
            entries.iter().filter_map(|entry| entry.attr.as_ref()).filter(is_doubtful).cloned().collect();
        let ask = |listed: FileAttr| async move {
            let told = self.seen.told_length(listed.inode).unwrap_or(0);
            // Without an answer the kernel keeps what it has, and asks again before it tells anybody.
            let old = FileAttr { length: told.max(listed.length), under_construction: true, ..listed };
            let old = Dated { attr: old, length_mtime_ns: None };
            let mut news = self.attributes(caller, listed.inode).await.unwrap_or(old);
            // That it was told is noted when it is.
            drop(self.announce(&mut news).await);
            (listed.inode, news)
        };
        stream::iter(doubtful).map(ask).buffer_unordered(ASKED_AT_ONCE).collect().await
    }

    /// An entry with attributes as an answer to the kernel: what it was told counts, for the time that is left. `None` when
    /// the NameNode gave no attributes.
    pub(crate) fn listed_entry(&self, listed: &Listed, entry: &DirEntry) -> Option<Entry> {
        let listed_attr = entry.attr.as_ref()?;
        let mut told = match listed.news.get(&entry.inode) {
            Some(news) => self.entry_unnoted(news.clone()),
            None => self.entry_unnoted(listed_attr.clone()),
        };
        let age = listed.age();
        told.attr_ttl = told.attr_ttl.saturating_sub(age);
        told.entry_ttl = told.entry_ttl.saturating_sub(age);
        Some(told)
    }
}
