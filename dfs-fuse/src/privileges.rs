//! What a file that is written here may lose by a write: set-id bits and file capabilities. Known, so that no write asks.
//!
//! The answer that gives the lease tells what the file has. While this mount has the lease, the NameNode lets nobody else make a
//! program of the file; what programs of this mount give it is [noted](FilePrivileges::add) here.
//!
//! Set-group-id without the right to execute is left to a writer who is in the group. He is remembered, or he would be looked
//! at for each write.

use dfs_client::{Caller, Privileges};
use dfs_common::attr::FileAttr;
use parking_lot::Mutex;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct FilePrivileges(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    has: Privileges,
    /// Counts what was added: an answer that may be older takes nothing back.
    additions: u64,
    /// Whose write has left the set-id bits as they are.
    left_by: Option<Caller>,
    /// Counts what writes have taken.
    losses: u64,
}

/// What was known when a question was asked whose answer tells what the file has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownThen(u64);

/// What a write has to take away first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    Capabilities,
    /// Set-id bits too.
    All,
}

impl FilePrivileges {
    pub(crate) fn new(has: Privileges) -> Self {
        Self(Mutex::new(Known { has, ..Known::default() }))
    }

    /// Gives the file these, or is about to.
    pub(crate) fn add(&self, added: Privileges) {
        let mut known = self.0.lock();
        known.has |= added;
        known.additions += 1;
        known.left_by = None;
    }

    /// To be called before a question is asked.
    pub(crate) fn ask(&self) -> KnownThen {
        KnownThen(self.0.lock().additions)
    }

    /// The answer says that it has these.
    pub(crate) fn learn(&self, asked: KnownThen, has: Privileges) {
        let mut known = self.0.lock();
        known.left_by = None;
        if known.additions == asked.0 {
            known.has = Privileges::default();
        }
        known.has |= has;
    }

    /// The answer to taking things away, for a write of `by`.
    pub(crate) fn lost(&self, asked: KnownThen, loss: Loss, by: &Caller, attr: &FileAttr) {
        let mut known = self.0.lock();
        known.losses += 1;
        if known.additions != asked.0 {
            return;
        }
        known.has.capabilities = false;
        if loss == Loss::All {
            known.has.set_id = attr.permissions & Privileges::SET_ID != 0;
            known.left_by = Some(by.clone());
        }
    }

    /// How often a write has taken something.
    pub(crate) fn losses(&self) -> u64 {
        self.0.lock().losses
    }

    /// What a write has to take away, by somebody who may keep set-id bits or not.
    pub(crate) fn due(&self, keeps_set_id: bool) -> Option<Loss> {
        let has = self.0.lock().has;
        if has.set_id && !keeps_set_id { Some(Loss::All) } else { has.capabilities.then_some(Loss::Capabilities) }
    }

    /// Whether a write of `by` has left all there is.
    pub(crate) fn are_left_by(&self, by: &Caller) -> bool {
        let known = self.0.lock();
        !known.has.capabilities && known.left_by.as_ref() == Some(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::attr;

    const SET_ID: Privileges = Privileges { set_id: true, capabilities: false };
    const CAPABILITIES: Privileges = Privileges { set_id: false, capabilities: true };

    fn user(uid: u32) -> Caller {
        Caller { uid, ..Caller::root() }
    }

    fn due(file: &FilePrivileges, keeps_set_id: bool, uid: u32) -> Option<Loss> {
        file.due(keeps_set_id).filter(|_| !file.are_left_by(&user(uid)))
    }

    fn left(permissions: u32) -> FileAttr {
        FileAttr { permissions, ..attr(2, 0, 0) }
    }

    #[test]
    fn due_is_what_the_file_has_and_the_writer_may_not_keep() {
        let file = FilePrivileges::new(Privileges::default());
        assert_eq!((due(&file, false, 1), due(&file, true, 0)), (None, None));
        file.add(SET_ID);
        assert_eq!((due(&file, false, 1), due(&file, true, 0)), (Some(Loss::All), None));
        file.add(CAPABILITIES);
        assert_eq!((due(&file, false, 1), due(&file, true, 0)), (Some(Loss::All), Some(Loss::Capabilities)));
        file.lost(file.ask(), Loss::Capabilities, &user(0), &left(0o4755));
        assert_eq!((due(&file, false, 1), due(&file, true, 0)), (Some(Loss::All), None));
        file.lost(file.ask(), Loss::All, &user(1), &left(0o755));
        assert_eq!((due(&file, false, 1), due(&file, false, 2)), (None, None));
        assert_eq!(file.losses(), 2);
    }

    #[test]
    fn due_asks_once_for_who_keeps_set_group_id() {
        let file = FilePrivileges::new(SET_ID);
        file.lost(file.ask(), Loss::All, &user(1), &left(0o2644));
        assert_eq!((due(&file, false, 1), due(&file, false, 2)), (None, Some(Loss::All)));
        file.add(SET_ID);
        assert_eq!(due(&file, false, 1), Some(Loss::All), "it may be a program now");
    }

    #[test]
    fn answers_take_nothing_back_that_was_added_since_they_were_asked_for() {
        let file = FilePrivileges::new(SET_ID);
        let asked = file.ask();
        file.add(CAPABILITIES);
        file.learn(asked, Privileges::default());
        file.lost(asked, Loss::All, &user(1), &left(0o644));
        assert_eq!((due(&file, false, 1), due(&file, true, 0)), (Some(Loss::All), Some(Loss::Capabilities)));
        file.learn(file.ask(), Privileges::default());
        assert_eq!(due(&file, false, 1), None);
    }
}
