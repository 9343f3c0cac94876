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
    /// At the last open for reading.
    opened: Option<Opened>,
}

/// The kernel drops its pages after the answer to an open that does not let it keep them, and before the program gets its
/// descriptor. Until then it may have pages of older content, which the next open must not let it keep: that can overtake.
#[derive(Clone, Copy, Debug)]
struct Opened {
    version: Version,
    /// The kernel's pages are of that version: a read has come through a descriptor that it was opened by.
    has_dropped_older: bool,
}

/// Attributes, and of when their length is.
#[derive(Clone, Debug)]
pub(crate) struct Dated {
    pub(crate) attr: FileAttr,
    /// The modification time at which `attr.length` was last known for certain. It is that of `attr` if the length was just confirmed,
    /// an older one if it is remembered from an earlier answer, and `None` if it never was certain.
    pub(crate) length_mtime_ns: Option<i64>,
}

impl Dated {
    /// With a length that readers were shown, if that is more.
    pub(crate) fn at_least(attr: FileAttr, shown: Option<Shown>) -> Self {
        match shown.filter(|shown| shown.length > attr.length) {
            Some(Shown { length, mtime_ns }) => {
                Self { attr: FileAttr { length, ..attr }, length_mtime_ns: Some(mtime_ns) }
            }
            None => attr.into(),
        }
    }
}

impl From<FileAttr> for Dated {
    fn from(attr: FileAttr) -> Self {
        Self { length_mtime_ns: Some(attr.mtime_ns), attr }
    }
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
    /// What is being opened.
    pub(crate) version: Version,
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
    /// Told while another mount was writing the file, as far as it was certain. By themselves, so that a large listing does not
    /// make them forgotten: whoever has such a file mapped would lose pages.
    growing: LruCache<InodeId, Shown>,
}

impl KernelView {
    pub(crate) fn new() -> Self {
        Self::with_room(FILES_MAX, GROWING_MAX)
    }

    fn with_room(files: NonZeroUsize, growing: NonZeroUsize) -> Self {
        let caches = Caches { files: LruCache::new(files), growing: LruCache::new(growing) };
        Self { caches: Mutex::new(caches) }
    }

    /// An answer with these attributes goes out; `grows` for a file that another mount writes. `length_mtime_ns` is the
    /// modification time that the file had when it had this length for sure; `None` if nobody has confirmed the length. Then
    /// the last one that was certain is what later answers are measured by.
    pub(crate) fn told(&self, attr: &FileAttr, grows: bool, length_mtime_ns: Option<i64>) {
        if attr.kind != FileKind::File {
            return;
        }
        let told = Version::of(attr);
        let Caches { files, growing } = &mut *self.caches.lock();
        match files.get_mut(&attr.inode) {
            Some(known) => known.told = told,
            None => _ = files.put(attr.inode, Known { told, opened: None }),
        }
        match length_mtime_ns {
            _ if !grows => _ = growing.pop(&attr.inode),
            Some(mtime_ns) => _ = growing.put(attr.inode, Shown { length: attr.length, mtime_ns }),
            None => {}
        }
    }

    /// A write that ended at `length` is about to be answered: the kernel takes the file for that long then.
    pub(crate) fn wrote(&self, inode: InodeId, length: u64) {
        self.stored(inode, length, None);
    }

    /// The kernel is given the last byte of a file of this length; `length_mtime_ns` as in [`told`](Self::told), for a file that
    /// another mount writes.
    pub(crate) fn stored(&self, inode: InodeId, length: u64, length_mtime_ns: Option<i64>) {
        let Caches { files, growing } = &mut *self.caches.lock();
        if let Some(known) = files.get_mut(&inode) {
            known.told.length = known.told.length.max(length);
        }
        if let Some(mtime_ns) = length_mtime_ns {
            growing.put(inode, Shown { length, mtime_ns });
        }
    }

    /// The file was emptied by an open that succeeds: the kernel takes it for empty then.
    pub(crate) fn emptied(&self, inode: InodeId) {
        let Caches { files, growing } = &mut *self.caches.lock();
        growing.pop(&inode);
        if let Some(known) = files.get_mut(&inode) {
            known.told.length = 0;
        }
    }

    /// How short an answer with these attributes may be. Bytes go by truncation only, which sets the modification time.
    pub(crate) fn floor(&self, attr: &FileAttr) -> Floor {
        let Caches { files, growing } = &mut *self.caches.lock();
        let shown = growing.get(&attr.inode);
        let told = shown.map(|shown| shown.length);
        match told.or_else(|| files.get(&attr.inode).map(|known| known.told.length)) {
            Some(told) if attr.length < told => match shown {
                Some(shown) if shown.mtime_ns == attr.mtime_ns => Floor::At(told),
                _ => Floor::Doubtful,
            },
            _ => Floor::None,
        }
    }

    /// A file with these attributes is being opened for reading.
    pub(crate) fn on_open(&self, attr: &FileAttr) -> OpenVerdict {
        let now = Version::of(attr);
        let files = &mut self.caches.lock().files;
        let known = files.get(&attr.inode).copied();
        let before = known.and_then(|known| known.opened).filter(|opened| opened.version == now);
        let opened = before.unwrap_or(Opened { version: now, has_dropped_older: false });
        files.put(attr.inode, Known { told: known.map_or(now, |known| known.told), opened: Some(opened) });
        OpenVerdict {
            version: now,
            keep_pages: opened.has_dropped_older,
            drop_attributes: known.is_none_or(|known| known.told != now),
        }
    }

    /// A program reads through a descriptor that was opened at this version, and whose open did not let the kernel keep pages.
    pub(crate) fn dropped_older(&self, inode: InodeId, version: Version) {
        let files = &mut self.caches.lock().files;
        let opened = files.get_mut(&inode).and_then(|known| known.opened.as_mut());
        if let Some(opened) = opened.filter(|opened| opened.version == version) {
            opened.has_dropped_older = true;
        }
    }

    /// The length that the kernel knows, as far as it is remembered.
    pub(crate) fn told_length(&self, inode: InodeId) -> Option<u64> {
        let Caches { files, growing } = &mut *self.caches.lock();
        let shown = growing.get(&inode).map(|shown| shown.length);
        files.get(&inode).map(|known| known.told.length).max(shown)
    }

    /// What the kernel was told for sure of a file while another mount was writing it.
    pub(crate) fn shown_growing(&self, inode: InodeId) -> Option<Shown> {
        self.caches.lock().growing.get(&inode).copied()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn attr(inode: u64, length: u64, ctime_ns: i64) -> FileAttr {
        FileAttr {
            permissions: 0o644,
            length,
            mtime_ns: 5,
            ctime_ns,
            replication: 3,
            block_size: 1 << 27,
            block_count: 1,
            ..FileAttr::bare(InodeId(inode), FileKind::File)
        }
    }

    #[test]
    fn on_open_keeps_pages_of_the_same_version_only() {
        let view = KernelView::new();
        // (pages kept, attributes dropped) by an open whose descriptor is then read through.
        let open_and_read = |attr| {
            let verdict = view.on_open(attr);
            view.dropped_older(attr.inode, verdict.version);
            (verdict.keep_pages, verdict.drop_attributes)
        };
        let first = attr(2, 10, 1);
        view.told(&first, false, Some(5));
        assert_eq!(open_and_read(&first), (false, false));
        assert_eq!(open_and_read(&first), (true, false));
        let rewritten = attr(2, 10, 2);
        assert_eq!(open_and_read(&rewritten), (false, true));
        view.told(&rewritten, false, Some(5));
        assert_eq!(open_and_read(&rewritten), (true, false));
    }

    #[test]
    fn on_open_keeps_no_pages_before_the_kernel_has_dropped_older_ones() {
        let view = KernelView::new();
        let rewritten = attr(2, 10, 2);
        let older = view.on_open(&attr(2, 10, 1)).version;
        let version = view.on_open(&rewritten).version;
        assert!(!view.on_open(&rewritten).keep_pages, "the answer to the open before may not have reached the kernel");
        view.dropped_older(InodeId(2), older);
        assert!(!view.on_open(&rewritten).keep_pages, "that descriptor is of what the file was before");
        view.dropped_older(InodeId(2), version);
        assert!(view.on_open(&rewritten).keep_pages);
    }

    #[test]
    fn on_open_trusts_nothing_it_does_not_know() {
        let view = KernelView::new();
        let verdict = view.on_open(&attr(2, 10, 1));
        assert!(!verdict.keep_pages && verdict.drop_attributes);
        assert!(!view.on_open(&attr(2, 11, 1)).keep_pages);
    }

    #[test]
    fn at_least_says_of_when_the_length_is() {
        let now = attr(2, 10, 1);
        let with = |length| {
            let dated = Dated::at_least(now.clone(), Some(Shown { length, mtime_ns: now.mtime_ns - 1 }));
            (dated.attr.length, dated.length_mtime_ns)
        };
        assert_eq!(with(20), (20, Some(now.mtime_ns - 1)), "from before");
        assert_eq!(with(10), (10, Some(now.mtime_ns)), "the NameNode knows as much");
        assert_eq!(with(5), (10, Some(now.mtime_ns)));
        assert_eq!(Dated::at_least(now.clone(), None).length_mtime_ns, Some(now.mtime_ns));
    }

    #[test]
    fn told_length_is_the_last_one_told() {
        let view = KernelView::new();
        assert_eq!(view.told_length(InodeId(2)), None);
        view.told(&attr(2, 10, 1), false, Some(5));
        view.told(&attr(2, 12, 2), false, Some(5));
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
        view.told(&attr(2, 20, 1), true, Some(5));
        assert_eq!(view.floor(&attr(2, 20, 1)), Floor::None);
        assert_eq!(view.floor(&attr(2, 10, 2)), Floor::At(20), "a change of permissions takes no bytes");
        let cut = FileAttr { mtime_ns: 9, ..attr(2, 10, 2) };
        assert_eq!(view.floor(&cut), Floor::Doubtful);
        view.told(&cut, true, Some(9));
        assert_eq!(view.floor(&cut), Floor::None);
        view.told(&attr(2, 30, 1), false, Some(5));
        assert_eq!(view.floor(&attr(2, 10, 1)), Floor::Doubtful, "this mount's own writer may have failed");
    }

    #[test]
    fn told_keeps_in_doubt_what_nobody_confirmed() {
        let view = KernelView::new();
        let certain = Shown { length: 20, mtime_ns: 5 };
        view.told(&attr(2, 20, 1), true, Some(5));
        let touched = |length| FileAttr { mtime_ns: 9, ..attr(2, length, 2) };
        for unconfirmed in [Some(5), None] {
            view.told(&touched(20), true, unconfirmed);
            assert_eq!(view.shown_growing(InodeId(2)), Some(certain));
            assert_eq!(view.floor(&touched(10)), Floor::Doubtful, "it may have been cut, and is asked again");
        }
        view.told(&touched(20), true, Some(9));
        assert_eq!(view.floor(&touched(10)), Floor::At(20));
        view.told(&attr(3, 20, 1), true, None);
        assert_eq!(view.shown_growing(InodeId(3)), None);
        assert_eq!(view.floor(&attr(3, 10, 1)), Floor::Doubtful, "nobody has ever said for sure");
    }

    #[test]
    fn files_in_use_are_remembered_longest() {
        let uses: [fn(&KernelView); 4] = [
            |view| _ = view.floor(&attr(2, 10, 1)),
            |view| _ = view.shown_growing(InodeId(2)),
            |view| _ = view.told_length(InodeId(2)),
            |view| view.wrote(InodeId(2), 5),
        ];
        for (is_growing, uses) in [(true, &uses[..2]), (false, &uses[2..])] {
            for is_used in uses {
                let room = |files, growing| (NonZeroUsize::new(files).unwrap(), NonZeroUsize::new(growing).unwrap());
                let (files, growing) = if is_growing { room(9, 2) } else { room(2, 9) };
                let view = KernelView::with_room(files, growing);
                view.told(&attr(2, 20, 1), true, Some(5));
                view.told(&attr(3, 20, 1), true, Some(5));
                is_used(&view);
                view.told(&attr(4, 20, 1), true, Some(5));
                let caches = view.caches.lock();
                let has = |inode| {
                    let inode = InodeId(inode);
                    if is_growing { caches.growing.contains(&inode) } else { caches.files.contains(&inode) }
                };
                assert_eq!([2, 3, 4].map(has), [true, false, true]);
            }
        }
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
