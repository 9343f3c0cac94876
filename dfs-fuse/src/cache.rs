//! What is remembered between calls: the totals of the file system, so that `df` never waits, and what the kernel was told
//! of files, so that an open knows whether the kernel's pages and attributes still hold.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use dfs_client::FsStats;
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::ids::InodeId;
use lru::LruCache;
use parking_lot::Mutex;

/// Totals younger than this are answered as they are.
const STATS_FRESH: Duration = Duration::from_secs(1);

/// The last known totals.
pub(crate) struct StatsCache {
    /// Never held across an await.
    last: Mutex<(FsStats, Instant)>,
}

impl StatsCache {
    pub(crate) fn new(first: FsStats) -> Self {
        Self { last: Mutex::new((first, Instant::now())) }
    }

    /// The totals, if they are fresh.
    pub(crate) fn fresh(&self) -> Option<FsStats> {
        let last = self.last.lock();
        (last.1.elapsed() < STATS_FRESH).then(|| last.0.clone())
    }

    /// The totals, however old.
    pub(crate) fn any(&self) -> FsStats {
        self.last.lock().0.clone()
    }

    pub(crate) fn set(&self, stats: FsStats) {
        *self.last.lock() = (stats, Instant::now());
    }
}

/// Files remembered: as many as the kernel is likely to have pages of; 100 bytes each. A forgotten one costs a page cache.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// What tells one state of a file's content from another. The change time is in it because tools set the modification time
/// back (tar, rsync, cp -p).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    length: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl Version {
    fn of(attr: &FileAttr) -> Self {
        Self { length: attr.length, mtime_ns: attr.mtime_ns, ctime_ns: attr.ctime_ns }
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// In the last answer that had attributes.
    told: Version,
    /// At the last open for reading: what the kernel's pages are of.
    opened: Option<Version>,
}

/// What an open has to do about the kernel's caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenVerdict {
    /// The cached pages are of this version.
    pub(crate) keep_pages: bool,
    /// The attributes that the kernel has are others.
    pub(crate) drop_attributes: bool,
}

/// What the kernel was told of files.
pub(crate) struct KernelView {
    /// Never held across an await.
    files: Mutex<LruCache<InodeId, Known>>,
}

impl KernelView {
    pub(crate) fn new() -> Self {
        Self { files: Mutex::new(LruCache::new(FILES_MAX)) }
    }

    /// An answer with these attributes goes out.
    pub(crate) fn told(&self, attr: &FileAttr) {
        if attr.kind != FileKind::File {
            return;
        }
        let told = Version::of(attr);
        let mut files = self.files.lock();
        match files.get_mut(&attr.inode) {
            Some(known) => known.told = told,
            None => _ = files.put(attr.inode, Known { told, opened: None }),
        }
    }

    /// A file with these attributes is being opened for reading.
    pub(crate) fn on_open(&self, attr: &FileAttr) -> OpenVerdict {
        let now = Version::of(attr);
        let mut files = self.files.lock();
        let known = files.get(&attr.inode).copied();
        files.put(attr.inode, Known { told: known.map_or(now, |known| known.told), opened: Some(now) });
        OpenVerdict {
            keep_pages: known.is_some_and(|known| known.opened == Some(now)),
            drop_attributes: known.is_none_or(|known| known.told != now),
        }
    }

    /// The length that the kernel was told last.
    pub(crate) fn told_length(&self, inode: InodeId) -> Option<u64> {
        self.files.lock().peek(&inode).map(|known| known.told.length)
    }

    /// The kernel has dropped the inode, its pages included.
    pub(crate) fn forget(&self, inode: InodeId) {
        self.files.lock().pop(&inode);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn attr(inode: u64, length: u64, ctime_ns: i64) -> FileAttr {
        FileAttr {
            inode: InodeId(inode),
            kind: FileKind::File,
            permissions: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            length,
            atime_ns: 0,
            mtime_ns: 5,
            ctime_ns,
            rdev: 0,
            replication: 3,
            block_size: 1 << 27,
            under_construction: false,
            block_count: 1,
        }
    }

    #[test]
    fn on_open_keeps_pages_of_the_same_version_only() {
        let view = KernelView::new();
        view.told(&attr(2, 10, 1));
        assert_eq!(view.on_open(&attr(2, 10, 1)), OpenVerdict { keep_pages: false, drop_attributes: false });
        assert_eq!(view.on_open(&attr(2, 10, 1)), OpenVerdict { keep_pages: true, drop_attributes: false });
        let rewritten = attr(2, 10, 2);
        assert_eq!(view.on_open(&rewritten), OpenVerdict { keep_pages: false, drop_attributes: true });
        view.told(&rewritten);
        assert_eq!(view.on_open(&rewritten), OpenVerdict { keep_pages: true, drop_attributes: false });
    }

    #[test]
    fn on_open_trusts_nothing_it_does_not_know() {
        let view = KernelView::new();
        assert_eq!(view.on_open(&attr(2, 10, 1)), OpenVerdict { keep_pages: false, drop_attributes: true });
        view.forget(InodeId(2));
        assert!(!view.on_open(&attr(2, 10, 1)).keep_pages);
    }

    #[test]
    fn told_length_is_the_last_one_told() {
        let view = KernelView::new();
        assert_eq!(view.told_length(InodeId(2)), None);
        view.told(&attr(2, 10, 1));
        view.told(&attr(2, 12, 2));
        assert_eq!(view.told_length(InodeId(2)), Some(12));
    }

    #[test]
    fn stats_are_fresh_for_a_moment_and_there_for_ever() {
        let cache = StatsCache::new(FsStats { capacity: 7, ..FsStats::default() });
        assert_eq!(cache.fresh().unwrap().capacity, 7);
        cache.last.lock().1 = Instant::now() - 2 * STATS_FRESH;
        assert!(cache.fresh().is_none());
        assert_eq!(cache.any().capacity, 7);
    }
}
