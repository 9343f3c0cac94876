//! Reading directories.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dfs_client::{Caller, DirEntry, Listing};
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::InodeId;
use futures::stream::{self, StreamExt};
use tokio::time::timeout;
use tracing::debug;

use super::{Dated, Entry, FileSystem};
use crate::cache::Floor;
use crate::dirs::{DirPages, Entries, News, PAGE_AGE_MAX, Position};
use crate::errno::FsResult;
use crate::handles::{DirHandle, HandleId};

/// Files of one page whose attributes are asked for at a time.
const ASKED_AT_ONCE: usize = 8;
/// How long a page waits for them, whatever their number: DataNodes may hang.
const NEWS_PATIENCE: Duration = Duration::from_secs(2);

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
    /// Opens a directory. The kernel has checked the permission; the NameNode does with the first page.
    pub(crate) fn opendir(&self, caller: Caller, inode: InodeId) -> FsResult<HandleId> {
        let pages = parking_lot::Mutex::new(DirPages::new(inode));
        self.handles.add_dir(DirHandle { inode, caller, is_authorised: AtomicBool::new(false), pages })
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
                let who = dir.reader();
                let listing = self.client.get_listing(&who, dir.inode, position.cookie, fetch, with_attrs).await?;
                dir.is_authorised.store(true, Ordering::Relaxed);
                if with_attrs {
                    check_attributes(&listing)?;
                }
                let entries = dir.pages.lock().put(position.cookie, listing, with_attrs, asked_at);
                watch(&dir);
                entries
            }
        };
        let news = if with_attrs { self.news(&dir.caller, &entries).await } else { HashMap::new() };
        Ok(Listed { directory: dir.inode, position, entries, news })
    }

    /// Attributes of files that the kernel has been told more of than was listed: those being written elsewhere, and those
    /// told while the page was waiting here. And of those that have grown under a reader here.
    async fn news(&self, caller: &Caller, entries: &Entries) -> HashMap<InodeId, Dated> {
        let (mut news, doubtful) = self.known_news(entries);
        // Without an answer the kernel keeps what it has, and asks again before it tells anybody.
        let as_told = |listed: &FileAttr| {
            let told = self.seen.told_length(listed.inode).unwrap_or(0);
            let attr = FileAttr { length: told.max(listed.length), under_construction: true, ..listed.clone() };
            (listed.inode, Dated { attr, length_mtime_ns: None })
        };
        news.extend(doubtful.iter().copied().map(as_told));
        let ask = |inode| async move {
            let told = self.seen.told_length(inode);
            let mut now = self.attributes(caller, inode).await.ok()?;
            // That it was told is noted when it is.
            drop(self.announce(&mut now).await);
            entries.news.lock().insert(inode, News { dated: now.clone(), told });
            Some((inode, now))
        };
        let inodes: Vec<InodeId> = doubtful.iter().map(|attr| attr.inode).collect();
        let mut answers = stream::iter(inodes).map(ask).buffer_unordered(ASKED_AT_ONCE);
        let collecting = async {
            while let Some(answer) = answers.next().await {
                news.extend(answer);
            }
        };
        if timeout(NEWS_PATIENCE, collecting).await.is_err() {
            debug!(directory = %entries.parent, "a listing is answered without waiting for all lengths");
        }
        news
    }

    /// What was asked for buffers before and still holds, and the files that are to be asked for.
    fn known_news<'a>(&self, entries: &'a Entries) -> (HashMap<InodeId, Dated>, Vec<&'a FileAttr>) {
        let is_old = |attr: &FileAttr| !entries.age.is_zero() || self.grows_elsewhere(attr);
        let is_doubtful = |attr: &FileAttr| {
            attr.kind == FileKind::File
                && (is_old(attr) && self.seen.floor(attr) == Floor::Doubtful || self.grown(attr).is_some())
        };
        // Before growth is told the kernel's last page has to go, also if it came since the file was asked for.
        let holds = |kept: &News| {
            self.seen.told_length(kept.dated.attr.inode) == kept.told && self.grown(&kept.dated.attr).is_none()
        };
        let (mut news, mut doubtful) = (HashMap::new(), Vec::new());
        let kept = entries.news.lock();
        for attr in entries.iter().filter_map(|entry| entry.attr.as_ref()) {
            match kept.get(&attr.inode) {
                Some(kept) if holds(kept) => _ = news.insert(attr.inode, kept.dated.clone()),
                Some(_) => doubtful.push(attr),
                None if is_doubtful(attr) => doubtful.push(attr),
                None => {}
            }
        }
        (news, doubtful)
    }

    /// An entry with attributes as an answer to the kernel: what it was told counts, for the time that is left. `None` in a listing
    /// without attributes.
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

/// The kernel would take an entry without attributes for an empty file of root's.
fn check_attributes(listing: &Listing) -> Result<(), DfsError> {
    match listing.entries.iter().find(|entry| entry.attr.is_none()) {
        Some(entry) => {
            let words = format!("the entry of inode {} was listed without its attributes", entry.inode);
            Err(DfsError::new(ErrorKind::Protocol, words))
        }
        None => Ok(()),
    }
}

/// Sees to it that what was fetched ahead does not stay until the handle is closed.
fn watch(dir: &Arc<DirHandle>) {
    if !dir.pages.lock().is_to_be_watched() {
        return;
    }
    let dir = Arc::downgrade(dir);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(PAGE_AGE_MAX).await;
            let Some(dir) = dir.upgrade() else { return };
            if dir.pages.lock().give_up_old(Instant::now()) {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::attr;

    #[test]
    fn check_attributes_refuses_what_lacks_one() {
        let entry = |attr: Option<FileAttr>| DirEntry {
            name: b"name".to_vec(),
            inode: InodeId(7),
            cookie: 3,
            kind: FileKind::File,
            attr,
        };
        let check = |entries| check_attributes(&Listing { entries, at_end: true, parent: InodeId(1) });
        let whole = entry(Some(attr(7, 10, 1)));
        assert!(check(vec![whole.clone()]).is_ok());
        assert_eq!(check(vec![whole, entry(None)]).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
