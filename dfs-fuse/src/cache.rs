//! What is remembered between calls: the totals of the file system, so that `df` never waits, and what the kernel was told
//! of files, so that an open knows whether the kernel's pages and attributes still hold.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use dfs_client::{FsStats, Shown};
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

/// Files that another mount was writing when their attributes were told: far more than are being written and looked at.
const GROWING_MAX: NonZeroUsize = NonZeroUsize::new(1 << 14).unwrap();

/// What tells one state of a file's content from another. The change time is in it because tools set the modification time
/// back (tar, rsync, cp -p).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) length: u64,
    pub(crate) mtime_ns: i64,
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

/// How short an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floor {
    /// As short as it is.
    None,
    /// The kernel was told of so many bytes, and none have gone since.
    At(u64),
    /// The kernel was told of more bytes; whether some have gone must be asked.
    Doubtful,
}

/// What an open has to do about the kernel's caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenVerdict {
    /// The cached pages are of this version.
    pub(crate) keep_pages: bool,
    /// The attributes that the kernel has are others.
    pub(crate) drop_attributes: bool,
}

/// What the kernel was told of files. Its FORGET takes nothing from it: the kernel also sends one, with a part of its count,
/// for an inode that lives on and has mapped pages, when it finds that inode under another name than before.
pub(crate) struct KernelView {
    /// Never held across an await.
    caches: Mutex<Caches>,
}

struct Caches {
    files: LruCache<InodeId, Known>,
    /// Told while another mount was writing the file. By themselves, so that a large listing does not make them forgotten:
    /// whoever has such a file mapped would lose pages.
    growing: LruCache<InodeId, Version>,
}

impl KernelView {
    pub(crate) fn new() -> Self {
        let caches = Caches { files: LruCache::new(FILES_MAX), growing: LruCache::new(GROWING_MAX) };
        Self { caches: Mutex::new(caches) }
    }

    /// An answer with these attributes goes out; `grows` for a file that another mount writes.
    pub(crate) fn told(&self, attr: &FileAttr, grows: bool) {
        if attr.kind != FileKind::File {
            return;
        }
        let told = Version::of(attr);
        let Caches { files, growing } = &mut *self.caches.lock();
        match files.get_mut(&attr.inode) {
            Some(known) => known.told = told,
            None => _ = files.put(attr.inode, Known { told, opened: None }),
        }
        _ = if grows { growing.put(attr.inode, told) } else { growing.pop(&attr.inode) };
    }

    /// A program here has written a file up to `length`: the kernel knows without having been told.
    pub(crate) fn wrote(&self, inode: InodeId, length: u64) {
        if let Some(known) = self.caches.lock().files.peek_mut(&inode) {
            known.told.length = known.told.length.max(length);
        }
    }

    /// How short an answer with these attributes may be. Bytes go by truncation only, which sets the modification time.
    pub(crate) fn floor(&self, attr: &FileAttr) -> Floor {
        let caches = self.caches.lock();
        let shown = caches.growing.peek(&attr.inode);
        let told = shown.or_else(|| caches.files.peek(&attr.inode).map(|known| &known.told));
        match (told, shown) {
            (Some(told), _) if attr.length >= told.length => Floor::None,
            (Some(told), Some(shown)) if shown.mtime_ns == attr.mtime_ns => Floor::At(told.length),
            (Some(_), _) => Floor::Doubtful,
            (None, _) => Floor::None,
        }
    }

    /// A file with these attributes is being opened for reading.
    pub(crate) fn on_open(&self, attr: &FileAttr) -> OpenVerdict {
        let now = Version::of(attr);
        let files = &mut self.caches.lock().files;
        let known = files.get(&attr.inode).copied();
        files.put(attr.inode, Known { told: known.map_or(now, |known| known.told), opened: Some(now) });
        OpenVerdict {
            keep_pages: known.is_some_and(|known| known.opened == Some(now)),
            drop_attributes: known.is_none_or(|known| known.told != now),
        }
    }

    /// The length that the kernel was told last.
    pub(crate) fn told_length(&self, inode: InodeId) -> Option<u64> {
        self.caches.lock().files.peek(&inode).map(|known| known.told.length)
    }

    /// What the kernel was told of a file while another mount was writing it.
    pub(crate) fn shown_growing(&self, inode: InodeId) -> Option<Shown> {
        let told = self.caches.lock().growing.peek(&inode).copied()?;
        Some(Shown { length: told.length, mtime_ns: told.mtime_ns })
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
        view.told(&attr(2, 10, 1), false);
        assert_eq!(view.on_open(&attr(2, 10, 1)), OpenVerdict { keep_pages: false, drop_attributes: false });
        assert_eq!(view.on_open(&attr(2, 10, 1)), OpenVerdict { keep_pages: true, drop_attributes: false });
        let rewritten = attr(2, 10, 2);
        assert_eq!(view.on_open(&rewritten), OpenVerdict { keep_pages: false, drop_attributes: true });
        view.told(&rewritten, false);
        assert_eq!(view.on_open(&rewritten), OpenVerdict { keep_pages: true, drop_attributes: false });
    }

    #[test]
    fn on_open_trusts_nothing_it_does_not_know() {
        let view = KernelView::new();
        assert_eq!(view.on_open(&attr(2, 10, 1)), OpenVerdict { keep_pages: false, drop_attributes: true });
        assert!(!view.on_open(&attr(2, 11, 1)).keep_pages);
    }

    #[test]
    fn told_length_is_the_last_one_told() {
        let view = KernelView::new();
        assert_eq!(view.told_length(InodeId(2)), None);
        view.told(&attr(2, 10, 1), false);
        view.told(&attr(2, 12, 2), false);
        assert_eq!(view.told_length(InodeId(2)), Some(12));
        view.wrote(InodeId(2), 11);
        assert_eq!(view.told_length(InodeId(2)), Some(12));
        view.wrote(InodeId(2), 20);
        assert_eq!(view.told_length(InodeId(2)), Some(20));
    }

    #[test]
    fn floor_is_what_was_told_of_the_same_content() {
        let view = KernelView::new();
        assert_eq!(view.floor(&attr(2, 10, 1)), Floor::None);
        view.told(&attr(2, 20, 1), true);
        assert_eq!(view.floor(&attr(2, 20, 1)), Floor::None);
        assert_eq!(view.floor(&attr(2, 10, 2)), Floor::At(20), "a change of permissions takes no bytes");
        let cut = FileAttr { mtime_ns: 9, ..attr(2, 10, 2) };
        assert_eq!(view.floor(&cut), Floor::Doubtful);
        view.told(&cut, true);
        assert_eq!(view.floor(&cut), Floor::None);
        view.told(&attr(2, 30, 1), false);
        assert_eq!(view.floor(&attr(2, 10, 1)), Floor::Doubtful, "this mount's own writer may have failed");
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
