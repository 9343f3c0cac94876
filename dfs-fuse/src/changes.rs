//! What was changed through this mount, and in which order: what was asked before a change is not told after it.
//!
//! A listing that is fetched ahead of the kernel holds names of one directory and attributes of many inodes. It stays good
//! while others are changed. So each change is noted here with the inodes it is about; a change of names is one of the
//! directory. Who fetches something takes the [`Moment`] before he asks: a change that comes while the answer is on its way
//! counts as later.
//!
//! An unlink or rename does not tell which inode loses a name. If that inode is also listed in another directory (by a hard link),
//! its number of links there is out of date. So any unlink makes all entries with more than one link doubtful.

use std::num::NonZeroUsize;

use dfs_client::DirEntry;
use dfs_common::attr::FileKind;
use dfs_common::ids::InodeId;
use lru::LruCache;
use parking_lot::Mutex;

/// Inodes whose last change is remembered: about as many as a busy mount changes within the second that a listing is kept.
/// What is older than a forgotten change is not believed.
const INODES_MAX: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();

/// Changes noted so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// See the module.
pub(crate) struct Changes {
    /// Never held while anything else is done.
    state: Mutex<State>,
}

struct State {
    now: Moment,
    /// When each inode was last changed, the latest change first.
    inodes: LruCache<InodeId, Moment>,
    /// The latest change of those that there was no room for.
    forgotten: Moment,
    /// When names were last taken from inodes that nobody named.
    names_taken: Moment,
}

impl Changes {
    pub(crate) fn new() -> Self {
        Self::with_room(INODES_MAX)
    }

    fn with_room(inodes: NonZeroUsize) -> Self {
        let never = Moment(0);
        let state = State { now: never, inodes: LruCache::new(inodes), forgotten: never, names_taken: never };
        Self { state: Mutex::new(state) }
    }

    pub(crate) fn now(&self) -> Moment {
        self.state.lock().now
    }

    /// These inodes were changed, or may have been: the call has ended, with whatever outcome.
    pub(crate) fn note(&self, inodes: &[InodeId]) {
        self.state.lock().note(inodes);
    }

    /// The same for directories that names were taken from.
    pub(crate) fn note_names_taken(&self, directories: &[InodeId]) {
        let mut state = self.state.lock();
        state.note(directories);
        state.names_taken = state.now;
    }

    /// Whether what was listed of `directory` at `moment` may have changed since: its names, or the attributes that came with
    /// these entries.
    pub(crate) fn may_have_changed(&self, directory: InodeId, entries: &[DirEntry], moment: Moment) -> bool {
        let state = self.state.lock();
        if state.now == moment {
            return false;
        }
        let names_taken = state.names_taken > moment;
        state.forgotten > moment
            || state.changed_after(directory, moment)
            || entries.iter().filter_map(|entry| entry.attr.as_ref()).any(|attr| {
                let has_other_names = attr.nlink > 1 && attr.kind != FileKind::Directory;
                names_taken && has_other_names || state.changed_after(attr.inode, moment)
            })
    }
}

impl State {
    fn note(&mut self, inodes: &[InodeId]) {
        self.now = Moment(self.now.0 + 1);
        for inode in inodes {
            if let Some((pushed_out, changed)) = self.inodes.push(*inode, self.now)
                && pushed_out != *inode
            {
                self.forgotten = changed;
            }
        }
    }

    fn changed_after(&self, inode: InodeId, moment: Moment) -> bool {
        self.inodes.peek(&inode).is_some_and(|changed| *changed > moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::attr;

    const DIRECTORY: InodeId = InodeId(2);
    const ELSEWHERE: InodeId = InodeId(3);

    fn entry(inode: u64, nlink: u32) -> DirEntry {
        let mut attr = attr(inode, 10, 1);
        attr.nlink = nlink;
        DirEntry { name: b"name".to_vec(), inode: InodeId(inode), cookie: inode, kind: attr.kind, attr: Some(attr) }
    }

    #[test]
    fn may_have_changed_is_about_the_directory_and_what_it_lists() {
        let (changes, entries) = (Changes::new(), [entry(20, 1), entry(21, 1)]);
        let listed = changes.now();
        let is_doubtful = || changes.may_have_changed(DIRECTORY, &entries, listed);
        assert!(!is_doubtful());
        changes.note(&[ELSEWHERE, InodeId(22)]);
        changes.note_names_taken(&[ELSEWHERE]);
        assert!(!is_doubtful());
        changes.note(&[InodeId(21)]);
        assert!(is_doubtful());
        assert!(!changes.may_have_changed(DIRECTORY, &entries[..1], listed), "of the others nothing was changed");
        assert!(!changes.may_have_changed(DIRECTORY, &entries, changes.now()), "asked for after it");
        changes.note(&[DIRECTORY]);
        assert!(changes.may_have_changed(DIRECTORY, &entries[..1], listed));
    }

    #[test]
    fn may_have_changed_doubts_inodes_with_other_names_once_a_name_was_taken() {
        let changes = Changes::new();
        let mut subdirectory = entry(21, 3);
        subdirectory.attr.as_mut().unwrap().kind = FileKind::Directory;
        let listed = changes.now();
        changes.note_names_taken(&[ELSEWHERE]);
        assert!(changes.may_have_changed(DIRECTORY, &[entry(20, 2)], listed));
        assert!(!changes.may_have_changed(DIRECTORY, &[entry(20, 1), subdirectory], listed));
    }

    #[test]
    fn may_have_changed_believes_nothing_from_before_a_forgotten_change() {
        let changes = Changes::with_room(NonZeroUsize::new(2).unwrap());
        let listed = changes.now();
        for inode in [10, 11, 11, 10] {
            changes.note(&[InodeId(inode)]);
        }
        assert!(!changes.may_have_changed(DIRECTORY, &[], listed));
        let later = changes.now();
        // Forgets the change of 11, which was before that.
        changes.note(&[InodeId(12)]);
        assert!(changes.may_have_changed(DIRECTORY, &[], listed));
        assert!(!changes.may_have_changed(DIRECTORY, &[], later));
    }
}
