//! Directories as the answers to this client's own changes told them.
//!
//! A change of a directory makes the kernel ask for its attributes again, before the next change in it: without this
//! that is a call to the NameNode per file created or removed. Whoever uses an entry says how old it may be; a change made by
//! another client is not in it.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use dfs_common::attr::FileAttr;
use dfs_common::ids::InodeId;
use dfs_proto::v1;
use lru::LruCache;
use parking_lot::Mutex;

/// Directories remembered: those that are being changed right now.
const DIRECTORIES_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();

struct Known {
    attr: FileAttr,
    /// The transaction that it was read at: of two answers the later one counts, whichever arrives first.
    txid: u64,
    heard: Instant,
}

pub(crate) struct DirectoryCache {
    /// Never held across an await.
    known: Mutex<LruCache<InodeId, Known>>,
}

impl DirectoryCache {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::new(LruCache::new(DIRECTORIES_MAX)) }
    }

    /// Takes in what an answer read at `txid` says. What cannot be understood is not needed.
    pub(crate) fn learn(&self, txid: u64, directories: &[v1::FileAttr]) {
        for attr in directories.iter().filter_map(|attr| FileAttr::try_from(attr).ok()) {
            let mut known = self.known.lock();
            if known.peek(&attr.inode).is_none_or(|old| old.txid <= txid) {
                known.put(attr.inode, Known { attr, txid, heard: Instant::now() });
            }
        }
    }

    pub(crate) fn forget_all(&self) {
        self.known.lock().clear();
    }

    /// A directory heard of less than `max_age` ago, and how long ago.
    pub(crate) fn recent(&self, inode: InodeId, max_age: Duration) -> Option<(FileAttr, Duration)> {
        let mut known = self.known.lock();
        let found = known.get(&inode)?;
        let age = found.heard.elapsed();
        (age < max_age).then(|| (found.attr.clone(), age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(inode: u64, nlink: u32) -> v1::FileAttr {
        v1::FileAttr { inode, nlink, mode: 0o040_755, ..v1::FileAttr::default() }
    }

    #[test]
    fn recent_is_what_the_latest_transaction_told() {
        let cache = DirectoryCache::new();
        cache.learn(7, &[directory(5, 3)]);
        cache.learn(6, &[directory(5, 2)]);
        let hour = Duration::from_secs(3600);
        assert_eq!(cache.recent(InodeId(5), hour).unwrap().0.nlink, 3);
        cache.learn(8, &[directory(5, 4), directory(6, 2)]);
        assert_eq!(cache.recent(InodeId(5), hour).unwrap().0.nlink, 4);
        assert!(cache.recent(InodeId(5), Duration::ZERO).is_none(), "too old");
        cache.forget_all();
        assert!(cache.recent(InodeId(6), hour).is_none());
    }
}
