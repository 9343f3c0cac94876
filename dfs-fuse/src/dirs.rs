//! Reading directories: offsets, and entries fetched ahead of the kernel.
//!
//! The kernel reads a directory in buffers of a page or a few, each from the offset that the last entry carried. An offset
//! is the NameNode's cookie of that entry, so it means the same on every handle, after every change of the directory and
//! after a restart of the mount: a listing never skips or repeats an entry that was there throughout. Cookies start at 3;
//! 1 and 2 are the offsets after `.` and `..`.
//!
//! One buffer takes twenty to two hundred entries with attributes, so a handle fetches more than that and answers the next
//! buffers from it, as long as the page is young and neither the directory nor an inode still to be told was changed through
//! this mount since the fetch began ([`changes`](crate::changes)): what a program here has just changed must never be told to
//! the kernel in its old state. The end of a listing stays its end, so that removing what was listed costs no second one;
//! who wants to see what has come since begins anew.
//!
//! What is too old to be used is given up, also of handles that nobody reads any more: a page takes a quarter of a megabyte.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_client::{DirEntry, Listing};
use dfs_common::ids::InodeId;
use parking_lot::Mutex;

use crate::cache::Dated;
use crate::changes::{Changes, Moment};

/// Offset after `.`.
pub(crate) const OFFSET_DOT: u64 = 1;
/// Offset after `..`.
pub(crate) const OFFSET_DOTDOT: u64 = 2;

/// Entries of the first fetch: what fits into the 32 KiB that glibc reads a directory by, and some more. For most directories
/// there is no second one.
const FETCH_MIN: u32 = 256;
/// Entries of a fetch once a listing goes on undisturbed: the NameNode's own page.
const FETCH_MAX: u32 = 1_000;
/// Age at which a page is not used any more; with the attributes' own second it bounds how old a listing's attributes are.
pub(crate) const PAGE_AGE_MAX: Duration = Duration::from_secs(1);

/// Where a listing is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) with_dot: bool,
    pub(crate) with_dotdot: bool,
    /// Cookie after which the NameNode's entries go on.
    pub(crate) cookie: u64,
}

impl Position {
    pub(crate) fn at(offset: u64) -> Self {
        Self {
            with_dot: offset < OFFSET_DOT,
            with_dotdot: offset < OFFSET_DOTDOT,
            cookie: if offset <= OFFSET_DOTDOT { 0 } else { offset },
        }
    }
}

/// Attributes that are newer than those that were listed.
pub(crate) struct News {
    pub(crate) dated: Dated,
    /// The length that the kernel knew when they were asked for.
    pub(crate) told: Option<u64>,
}

/// By file; never held across an await.
pub(crate) type KeptNews = Arc<Mutex<HashMap<InodeId, News>>>;

/// Entries fetched by one call.
pub(crate) struct Page {
    after: u64,
    entries: Arc<[DirEntry]>,
    at_end: bool,
    parent: InodeId,
    with_attrs: bool,
    fetched_at: Instant,
    /// Before it was asked for.
    asked_at: Moment,
    /// What was asked for one buffer counts for the next ones.
    news: KeptNews,
}

/// Entries that answer a buffer: as many of them as fit.
pub(crate) struct Entries {
    all: Arc<[DirEntry]>,
    start: usize,
    pub(crate) parent: InodeId,
    /// How long ago they were fetched.
    pub(crate) age: Duration,
    /// Of all entries of the page.
    pub(crate) news: KeptNews,
}

impl Entries {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &DirEntry> {
        self.all[self.start..].iter()
    }
}

/// What a handle has fetched ahead.
pub(crate) struct DirPages {
    directory: InodeId,
    page: Option<Page>,
    fetch: u32,
    /// Somebody sees to it that the page does not stay for ever.
    is_watched: bool,
}

impl DirPages {
    pub(crate) fn new(directory: InodeId) -> Self {
        Self { directory, page: None, fetch: FETCH_MIN, is_watched: false }
    }

    /// Entries after `cookie` from the page at hand, if it may be used after these changes.
    pub(crate) fn take(&mut self, cookie: u64, with_attrs: bool, changes: &Changes) -> Option<Entries> {
        let page = self.page.as_ref()?;
        let age = page.fetched_at.elapsed();
        let covers = cookie == page.after || page.entries.binary_search_by_key(&cookie, |entry| entry.cookie).is_ok();
        let start = page.entries.partition_point(|entry| entry.cookie <= cookie);
        let rest = &page.entries[start..];
        let is_end = rest.is_empty() && page.at_end;
        let is_usable = age < PAGE_AGE_MAX
            && (page.with_attrs || !with_attrs)
            && (is_end || !changes.may_have_changed(self.directory, rest, page.asked_at));
        if !is_usable {
            self.page = None;
            self.fetch = FETCH_MIN;
            return None;
        }
        // A start of the listing is always asked anew: rewinddir must show what is there now.
        if !covers || cookie == 0 || (rest.is_empty() && !page.at_end) {
            return None;
        }
        let (all, parent, news) = (Arc::clone(&page.entries), page.parent, Arc::clone(&page.news));
        if is_end {
            self.page = Some(Page { after: cookie, entries: Arc::default(), ..self.page.take()? });
        }
        Some(Entries { all, start, parent, age, news })
    }

    /// Gives up a page that is too old to be used. True when nothing is left that will be too old.
    pub(crate) fn give_up_old(&mut self, now: Instant) -> bool {
        self.page.take_if(|page| now.duration_since(page.fetched_at) >= PAGE_AGE_MAX);
        self.is_watched = self.page.is_some();
        !self.is_watched
    }

    /// Whether nobody calls [`give_up_old`](Self::give_up_old) yet: then the caller must, until it returns true.
    pub(crate) fn is_to_be_watched(&mut self) -> bool {
        !std::mem::replace(&mut self.is_watched, true)
    }

    #[cfg(test)]
    pub(crate) fn has_page(&self) -> bool {
        self.page.is_some()
    }

    /// How many entries to ask for next.
    pub(crate) fn next_fetch(&mut self) -> u32 {
        let fetch = self.fetch;
        self.fetch = (fetch * 4).min(FETCH_MAX);
        fetch
    }

    /// Keeps what was fetched after `after` and gives what answers the buffer. `asked_at` is from before it was asked for.
    pub(crate) fn put(&mut self, after: u64, listing: Listing, with_attrs: bool, asked_at: Moment) -> Entries {
        let all: Arc<[DirEntry]> = listing.entries.into();
        let news = KeptNews::default();
        let entries = Entries {
            all: Arc::clone(&all),
            start: 0,
            parent: listing.parent,
            age: Duration::ZERO,
            news: Arc::clone(&news),
        };
        self.page = Some(Page {
            after,
            entries: all,
            at_end: listing.at_end,
            parent: entries.parent,
            with_attrs,
            fetched_at: Instant::now(),
            asked_at,
            news,
        });
        entries
    }
}

#[cfg(test)]
mod tests {
    use dfs_common::attr::FileKind;
    use proptest::prelude::*;

    use super::*;
    use crate::cache::tests::attr;

    const DIRECTORY: InodeId = InodeId(1);

    fn entry(cookie: u64) -> DirEntry {
        let (name, attr) = (cookie.to_string().into_bytes(), attr(cookie, 10, 1));
        DirEntry { name, inode: attr.inode, cookie, kind: FileKind::File, attr: Some(attr) }
    }

    fn listing(all: &[u64], after: u64, max: usize) -> Listing {
        let rest: Vec<u64> = all.iter().copied().filter(|cookie| *cookie > after).collect();
        let entries = rest.iter().take(max).map(|cookie| entry(*cookie)).collect();
        Listing { entries, at_end: rest.len() <= max, parent: InodeId(1) }
    }

    #[test]
    fn position_maps_small_offsets_to_the_dots() {
        assert_eq!(Position::at(0), Position { with_dot: true, with_dotdot: true, cookie: 0 });
        assert_eq!(Position::at(1), Position { with_dot: false, with_dotdot: true, cookie: 0 });
        assert_eq!(Position::at(2), Position { with_dot: false, with_dotdot: false, cookie: 0 });
        assert_eq!(Position::at(3), Position { with_dot: false, with_dotdot: false, cookie: 3 });
        assert_eq!(Position::at(i64::MAX as u64).cookie, i64::MAX as u64);
    }

    #[test]
    fn take_refuses_a_page_older_than_a_change_of_the_directory() {
        let (changes, mut pages) = (Changes::new(), DirPages::new(DIRECTORY));
        pages.put(0, listing(&[3, 4, 5], 0, 10), true, changes.now());
        changes.note(&[InodeId(2)]);
        changes.note_names_taken(&[InodeId(2)]);
        assert_eq!(pages.take(3, true, &changes).unwrap().iter().count(), 2, "another one was changed");
        changes.note(&[DIRECTORY]);
        assert!(pages.take(3, true, &changes).is_none());
        let asked_at = changes.now();
        pages.put(3, listing(&[3, 4, 5], 3, 1), true, asked_at);
        assert_eq!(pages.take(3, true, &changes).unwrap().iter().count(), 1);
    }

    #[test]
    fn take_refuses_a_page_that_was_under_way_when_the_directory_was_changed() {
        let (changes, mut pages) = (Changes::new(), DirPages::new(DIRECTORY));
        let asked_at = changes.now();
        changes.note(&[DIRECTORY]);
        pages.put(0, listing(&[3, 4, 5], 0, 10), true, asked_at);
        assert!(pages.take(3, true, &changes).is_none());
    }

    #[test]
    fn take_refuses_a_page_with_an_inode_still_to_be_told_that_was_changed() {
        let (changes, mut pages) = (Changes::new(), DirPages::new(DIRECTORY));
        pages.put(0, listing(&[3, 4, 5], 0, 10), true, changes.now());
        changes.note(&[InodeId(4)]);
        assert_eq!(pages.take(4, true, &changes).unwrap().iter().count(), 1, "it was told before");
        assert!(pages.take(3, true, &changes).is_none());
        assert!(pages.take(4, true, &changes).is_none(), "a page once doubted is gone");
    }

    #[test]
    fn take_tells_the_end_also_when_all_that_was_listed_has_been_removed() {
        let (changes, mut pages) = (Changes::new(), DirPages::new(DIRECTORY));
        for (at_end, expected) in [(false, None), (true, Some(0))] {
            let listing = Listing { at_end, ..listing(&[3, 4], 0, 10) };
            pages.put(0, listing, true, changes.now());
            changes.note_names_taken(&[DIRECTORY, InodeId(3), InodeId(4)]);
            assert_eq!(pages.take(4, true, &changes).map(|entries| entries.iter().count()), expected);
        }
    }

    #[test]
    fn take_keeps_no_entries_behind_the_end() {
        let (changes, mut pages) = (Changes::new(), DirPages::new(DIRECTORY));
        pages.put(0, listing(&[3, 4], 0, 10), true, changes.now());
        assert_eq!(pages.take(3, true, &changes).unwrap().iter().count(), 1);
        assert_eq!(pages.page.as_ref().unwrap().entries.len(), 2);
        for _ in 0..2 {
            assert_eq!(pages.take(4, true, &changes).unwrap().iter().count(), 0);
            assert_eq!(pages.page.as_ref().unwrap().entries.len(), 0);
        }
        assert!(pages.take(3, true, &changes).is_none(), "who goes back asks anew");
    }

    #[test]
    fn give_up_old_leaves_what_may_be_used() {
        let (changes, mut pages) = (Changes::new(), DirPages::new(DIRECTORY));
        assert!(pages.is_to_be_watched() && !pages.is_to_be_watched());
        pages.put(0, listing(&[3, 4], 0, 10), true, changes.now());
        let fetched_at = pages.page.as_ref().unwrap().fetched_at;
        assert!(!pages.give_up_old(fetched_at) && pages.page.is_some() && !pages.is_to_be_watched());
        assert!(pages.give_up_old(fetched_at + PAGE_AGE_MAX) && pages.page.is_none());
        assert!(pages.is_to_be_watched(), "for the next page");
    }

    #[test]
    fn take_refuses_a_page_without_the_attributes_asked_for() {
        let (changes, mut pages) = (Changes::new(), DirPages::new(DIRECTORY));
        pages.put(0, listing(&[3, 4], 0, 10), false, changes.now());
        assert!(pages.take(3, false, &changes).is_some());
        assert!(pages.take(3, true, &changes).is_none());
    }

    #[test]
    fn take_never_answers_a_rewind_or_a_foreign_offset() {
        let (changes, mut pages) = (Changes::new(), DirPages::new(DIRECTORY));
        pages.put(0, listing(&[3, 9], 0, 10), true, changes.now());
        assert!(pages.take(0, true, &changes).is_none());
        assert!(pages.take(5, true, &changes).is_none());
    }

    #[test]
    fn next_fetch_takes_most_directories_whole_and_large_ones_by_the_namenodes_page() {
        let mut pages = DirPages::new(DIRECTORY);
        assert_eq!([(); 4].map(|()| pages.next_fetch()), [256, 1_000, 1_000, 1_000]);
    }

    proptest! {
        /// However the kernel's buffers cut the listing, every entry comes once, in order.
        #[test]
        fn a_listing_is_complete(
            all in prop::collection::btree_set(3u64..10_000, 0..1_500),
            buffers in prop::collection::vec(1usize..200, 1..10),
            disturbed in prop::collection::vec(any::<bool>(), 1..10),
        ) {
            let all: Vec<u64> = all.into_iter().collect();
            let (changes, mut pages) = (Changes::new(), DirPages::new(DIRECTORY));
            let (mut seen, mut offset, mut round) = (Vec::new(), 0, 0);
            loop {
                if disturbed[round % disturbed.len()] {
                    changes.note(&[DIRECTORY]);
                }
                let cookie = Position::at(offset).cookie;
                let entries = match pages.take(cookie, true, &changes) {
                    Some(entries) => entries,
                    None => {
                        let fetch = pages.next_fetch() as usize;
                        pages.put(cookie, listing(&all, cookie, fetch), true, changes.now())
                    }
                };
                let taken = entries.iter().take(buffers[round % buffers.len()]);
                let before = seen.len();
                for entry in taken {
                    seen.push(entry.cookie);
                    offset = entry.cookie;
                }
                if seen.len() == before {
                    break;
                }
                round += 1;
            }
            prop_assert_eq!(seen, all);
        }
    }
}
