//! Directories whose names this client knows, because it made them and the NameNode lets nobody else add to them for a moment
//! (a delegation). Before a program makes a file, the kernel asks whether its name is there: in such a directory that is
//! answered without a call.
//!
//! What is kept is the names that may be there, so that whatever is uncertain costs a call and not a wrong answer: a name is
//! noted before the call that adds it is sent, and stays when the call fails or the name is removed. Names are kept as
//! hashes; two that share one look as if they were there.
//!
//! A directory counts as known from the answer to the mkdir that made it. Another thread may have found it before that answer
//! was taken in, and have added to it unseen: additions to directories that are not known are remembered while a mkdir is
//! under way.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::time::Duration;

use dfs_common::ids::InodeId;
use dfs_common::name::NAME_MAX;
use dfs_common::sys::time_since_boot;
use dfs_proto::v1;
use lru::LruCache;
use parking_lot::Mutex;

/// Directories known at once.
const DIRECTORIES_MAX: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// Names known in all of them: some megabytes.
const NAMES_MAX: usize = 262_144;
/// Unknown directories remembered while a mkdir is under way; beyond it no directory becomes known.
const STRANGERS_MAX: usize = 1_024;

struct Known {
    /// The delegation that its names are known by.
    id: u64,
    /// Hashes of all names that may be there.
    names: HashSet<u64>,
    /// By the clock that runs on while the machine sleeps.
    valid_until: Duration,
}

struct State {
    known: LruCache<InodeId, Known>,
    /// Over all directories.
    names: usize,
    mkdirs_under_way: usize,
    /// Unknown directories that names were added to since the oldest mkdir under way began.
    strangers: HashSet<InodeId>,
}

/// See the module.
pub(crate) struct Delegations {
    hasher: RandomState,
    /// Never held across an await.
    state: Mutex<State>,
}

/// A call that adds a name to a directory.
pub(crate) struct Adding<'a> {
    delegations: &'a Delegations,
    sent_at: Duration,
    is_mkdir: bool,
}

impl Delegations {
    pub(crate) fn new() -> Self {
        let state =
            State { known: LruCache::new(DIRECTORIES_MAX), names: 0, mkdirs_under_way: 0, strangers: HashSet::new() };
        Self { hasher: RandomState::new(), state: Mutex::new(state) }
    }

    /// Whether `name` is certainly not in `directory`.
    pub(crate) fn is_absent(&self, directory: InodeId, name: &[u8]) -> bool {
        // What is no name is refused in other words.
        if name.is_empty() || name.len() > NAME_MAX || name == b"." || name == b".." {
            return false;
        }
        let mut state = self.state.lock();
        let hash = self.hasher.hash_one(name);
        state
            .known
            .get(&directory)
            .is_some_and(|known| !known.names.contains(&hash) && time_since_boot() < known.valid_until)
    }

    /// To be called before the call that adds `name` to `directory` is sent.
    pub(crate) fn add(&self, directory: InodeId, name: &[u8], is_mkdir: bool) -> Adding<'_> {
        let hash = self.hasher.hash_one(name);
        let mut state = self.state.lock();
        let state = &mut *state;
        match state.known.get_mut(&directory) {
            Some(known) => state.names += usize::from(known.names.insert(hash)),
            None if state.mkdirs_under_way > 0 && state.strangers.len() <= STRANGERS_MAX => {
                state.strangers.insert(directory);
            }
            None => {}
        }
        while state.names > NAMES_MAX
            && let Some((_, oldest)) = state.known.pop_lru()
        {
            state.names -= oldest.names.len();
        }
        state.mkdirs_under_way += usize::from(is_mkdir);
        Adding { delegations: self, sent_at: time_since_boot(), is_mkdir }
    }
}

impl Adding<'_> {
    /// Takes in what the answer says; `named` is the inode that it tells to have got the name.
    pub(crate) fn on_answer(self, told: &[v1::Delegation], named: Option<InodeId>) {
        let made = named.filter(|_| self.is_mkdir);
        let mut state = self.delegations.state.lock();
        let state = &mut *state;
        for delegation in told {
            let inode = InodeId(delegation.inode);
            let valid_until = self.sent_at + Duration::from_millis(delegation.valid_ms.into());
            if let Some(known) = state.known.get_mut(&inode) {
                if known.id == delegation.id {
                    known.valid_until = known.valid_until.max(valid_until);
                } else {
                    state.forget(inode);
                }
            } else if made == Some(inode) && state.is_unseen(inode) {
                state.know(inode, Known { id: delegation.id, names: HashSet::new(), valid_until });
            }
        }
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        if self.is_mkdir {
            let mut state = self.delegations.state.lock();
            state.mkdirs_under_way -= 1;
            if state.mkdirs_under_way == 0 {
                state.strangers.clear();
            }
        }
    }
}

impl State {
    fn know(&mut self, inode: InodeId, known: Known) {
        if let Some((_, oldest)) = self.known.push(inode, known) {
            self.names -= oldest.names.len();
        }
    }

    fn forget(&mut self, inode: InodeId) {
        if let Some(known) = self.known.pop(&inode) {
            self.names -= known.names.len();
        }
    }

    /// Nobody can have added to a directory that is being made, but as remembered.
    fn is_unseen(&self, inode: InodeId) -> bool {
        self.strangers.len() <= STRANGERS_MAX && !self.strangers.contains(&inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: InodeId = InodeId(1);
    const MADE: InodeId = InodeId(9);

    fn told(inode: InodeId, id: u64, valid_ms: u32) -> v1::Delegation {
        v1::Delegation { inode: inode.0, id, valid_ms }
    }

    /// A client that has made a directory.
    fn after_mkdir(valid_ms: u32) -> Delegations {
        let delegations = Delegations::new();
        delegations.add(PARENT, b"made", true).on_answer(&[told(MADE, 5, valid_ms)], Some(MADE));
        delegations
    }

    #[test]
    fn is_absent_until_a_name_is_being_added() {
        let delegations = after_mkdir(60_000);
        assert!(delegations.is_absent(MADE, b"file"));
        let adding = delegations.add(MADE, b"file", false);
        assert!(!delegations.is_absent(MADE, b"file"), "it may be there before the answer is");
        drop(adding);
        assert!(!delegations.is_absent(MADE, b"file"), "a call that failed may have been done");
        assert!(delegations.is_absent(MADE, b"other"));
        assert!(!delegations.is_absent(PARENT, b"other"), "a directory made by somebody else");
        for bad in [&b""[..], b".", b"..", &[b'x'; NAME_MAX + 1]] {
            assert!(!delegations.is_absent(MADE, bad));
        }
    }

    #[test]
    fn is_absent_knows_nothing_when_the_time_is_over_until_the_same_delegation_is_extended() {
        let delegations = after_mkdir(0);
        assert!(!delegations.is_absent(MADE, b"file"));
        delegations.add(MADE, b"one", false).on_answer(&[told(MADE, 5, 60_000)], None);
        assert!(delegations.is_absent(MADE, b"file") && !delegations.is_absent(MADE, b"one"));
        delegations.add(MADE, b"two", false).on_answer(&[told(MADE, 6, 60_000)], None);
        assert!(!delegations.is_absent(MADE, b"file"), "somebody was there in between");
        delegations.add(MADE, b"three", false).on_answer(&[told(MADE, 6, 60_000)], None);
        assert!(!delegations.is_absent(MADE, b"file"), "and what he added is not known");
    }

    #[test]
    fn on_answer_leaves_unknown_what_others_found_before_it() {
        let delegations = Delegations::new();
        let mkdir = delegations.add(PARENT, b"made", true);
        // Another thread has found the directory by listing its parent.
        drop(delegations.add(MADE, b"file", false));
        mkdir.on_answer(&[told(MADE, 5, 60_000)], Some(MADE));
        assert!(!delegations.is_absent(MADE, b"file") && !delegations.is_absent(MADE, b"other"));
        delegations.add(PARENT, b"next", true).on_answer(&[told(InodeId(10), 6, 60_000)], Some(InodeId(10)));
        assert!(delegations.is_absent(InodeId(10), b"file"));
    }

    #[test]
    fn on_answer_leaves_everything_unknown_when_too_much_was_found() {
        let delegations = Delegations::new();
        let mkdir = delegations.add(PARENT, b"made", true);
        for number in 100..=100 + STRANGERS_MAX as u64 {
            drop(delegations.add(InodeId(number), b"file", false));
        }
        mkdir.on_answer(&[told(MADE, 5, 60_000)], Some(MADE));
        assert!(!delegations.is_absent(MADE, b"other"));
    }

    #[test]
    fn add_forgets_the_directories_used_longest_ago_when_names_are_too_many() {
        let delegations = after_mkdir(60_000);
        let second = InodeId(10);
        delegations.add(PARENT, b"second", true).on_answer(&[told(second, 6, 60_000)], Some(second));
        drop(delegations.add(MADE, b"first", false));
        for number in 0..NAMES_MAX as u64 {
            drop(delegations.add(second, &number.to_le_bytes(), false));
        }
        assert!(!delegations.is_absent(MADE, b"other"));
        let state = delegations.state.lock();
        assert_eq!(state.names, state.known.iter().map(|(_, known)| known.names.len()).sum::<usize>());
        assert!(state.names <= NAMES_MAX);
    }
}
