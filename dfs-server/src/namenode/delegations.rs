//! Directory delegations: whoever made a directory is told that nobody else adds names to it for a moment, and is told so
//! again with every name he adds. He then knows which names are not there without asking: copying a tree would ask for
//! each name before making it, which is a tenth of what a small file costs and a fifth of what a directory does.
//!
//! The price is paid by the first other client that adds a name to such a directory: it waits until the moment is over, at
//! most [`TERM`]. After that the directory is everybody's for good.
//!
//! ```text
//!   made by A, nobody else adds --granted--> A's, until now + TERM --A adds--> extended
//!                                              |  B wants to add: extended no more; when the time is over
//!                                              +--> everybody's
//! ```
//!
//! What holds:
//! - A name is added by [`enter`](Delegations::enter)ing first, and the entry lasts until the op is applied. No delegation
//!   begins while somebody is in the directory, and nobody else enters one that is delegated.
//! - A delegation keeps its id across moments in which it was not extended, as long as nobody else has entered. So its holder,
//!   who knows what he has added himself, knows all names again when he hears the same id.
//! - Soft state of the leader. A new one lets nobody add names before the delegations of the one before are over.
//!
//! The holder counts from when he sent his call, by a clock that runs on while his machine sleeps, and is told a
//! shorter time than is kept here: clocks need not agree, only run equally fast within a few per cent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::clock::Clock;
use dfs_common::ids::{ClientId, Incarnation, InodeId};
use dfs_proto::v1;
use dfs_proto::v1::edit_op::Op;
use parking_lot::Mutex;

use super::apply::CallKey;

/// How long a delegation is kept without being extended: long beside the making of a file, short for whoever waits.
const TERM: Duration = Duration::from_millis(100);
/// What its holder is told.
const TERM_TOLD: Duration = Duration::from_millis(80);
/// Delegations kept. Beyond it those that are over go; without them no new one begins.
const HELD_MAX: usize = 65_536;

/// One life of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) client: ClientId,
    pub(super) incarnation: Incarnation,
}

struct Held {
    holder: Holder,
    id: u64,
    until: Instant,
    /// Somebody else waits for the end.
    is_wanted: bool,
}

#[derive(Default)]
struct State {
    /// Additions under way, by directory.
    adding: HashMap<InodeId, u32>,
    held: HashMap<InodeId, Held>,
    next_id: u64,
}

/// See the module.
pub(super) struct Delegations {
    clock: Arc<dyn Clock>,
    /// Before it, delegations of the leader before may last.
    opens_at: Instant,
    /// A leaf: nothing is locked under it but the namespace by `begin`'s caller, and it is never held across an await.
    state: Mutex<State>,
}

/// Somebody is adding a name to a directory: to be kept until the op is applied, whatever becomes of its caller.
pub(super) struct Adding {
    delegations: Arc<Delegations>,
    directory: InodeId,
}

impl Drop for Adding {
    fn drop(&mut self) {
        let mut state = self.delegations.state.lock();
        if let Entry::Occupied(mut adding) = state.adding.entry(self.directory) {
            *adding.get_mut() -= 1;
            if *adding.get() == 0 {
                adding.remove();
            }
        }
    }
}

impl CallKey {
    /// Whose call it is.
    pub(super) fn holder(&self) -> Holder {
        Holder { client: self.client, incarnation: self.incarnation }
    }
}

/// The directory that an op adds a name to.
pub(super) fn grown_directory(op: &Op) -> Option<InodeId> {
    match op {
        Op::Create(op) => Some(InodeId(op.parent)),
        Op::MakeNode(op) => Some(InodeId(op.parent)),
        Op::Link(op) => Some(InodeId(op.new_parent)),
        Op::Rename(op) => Some(InodeId(op.dst_parent)),
        _ => None,
    }
}

impl Delegations {
    /// None is held. `first_id` must differ from one process to the next.
    pub(super) fn new(clock: Arc<dyn Clock>, first_id: u64) -> Self {
        let opens_at = clock.instant() + TERM;
        Self { clock, opens_at, state: Mutex::new(State { next_id: first_id, ..State::default() }) }
    }

    /// Waits until `who` may add a name to `directory`.
    pub(super) async fn enter(self: &Arc<Self>, directory: InodeId, who: Holder) -> Adding {
        loop {
            match self.try_enter(directory, who) {
                Ok(adding) => return adding,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// An entry, or how long to wait before asking again.
    fn try_enter(self: &Arc<Self>, directory: InodeId, who: Holder) -> Result<Adding, Duration> {
        let now = self.clock.instant();
        if now < self.opens_at {
            return Err(self.opens_at - now);
        }
        let mut state = self.state.lock();
        if let Entry::Occupied(mut held) = state.held.entry(directory)
            && held.get().holder != who
        {
            if now < held.get().until {
                held.get_mut().is_wanted = true;
                return Err(held.get().until - now);
            }
            held.remove();
        }
        *state.adding.entry(directory).or_default() += 1;
        Ok(Adding { delegations: Arc::clone(self), directory })
    }

    /// Delegates a directory that `who` has just made, unless somebody may know more names in it than he does. `is_empty` is
    /// asked when nobody can enter.
    pub(super) fn begin(
        &self,
        directory: InodeId,
        who: Holder,
        is_empty: impl FnOnce() -> bool,
    ) -> Option<v1::Delegation> {
        let mut state = self.state.lock();
        if state.held.get(&directory).is_some_and(|held| held.holder == who) {
            // The call that made it is repeated.
            return self.extend_in(&mut state, directory, who);
        }
        if state.adding.contains_key(&directory) || !is_empty() {
            return None;
        }
        let now = self.clock.instant();
        if state.held.len() >= HELD_MAX {
            state.held.retain(|_, held| now < held.until);
            if state.held.len() >= HELD_MAX {
                return None;
            }
        }
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        state.held.insert(directory, Held { holder: who, id, until: now + TERM, is_wanted: false });
        Some(told(directory, id))
    }

    /// Extends the delegation of a directory that `who` has added a name to, if he holds one.
    pub(super) fn extend(&self, directory: InodeId, who: Holder) -> Option<v1::Delegation> {
        self.extend_in(&mut self.state.lock(), directory, who)
    }

    fn extend_in(&self, state: &mut State, directory: InodeId, who: Holder) -> Option<v1::Delegation> {
        let held = state.held.get_mut(&directory).filter(|held| held.holder == who && !held.is_wanted)?;
        // Read under the lock: the holder may have been told a later end by a call that came after this one.
        held.until = self.clock.instant() + TERM;
        Some(told(directory, held.id))
    }
}

fn told(directory: InodeId, id: u64) -> v1::Delegation {
    v1::Delegation { inode: directory.0, id, valid_ms: TERM_TOLD.as_millis() as u32 }
}

#[cfg(test)]
mod tests {
    use dfs_common::clock::ManualClock;

    use super::*;

    const DIRECTORY: InodeId = InodeId(7);
    const SHORT: Duration = Duration::from_millis(1);

    fn client(number: u8) -> Holder {
        Holder { client: ClientId([number; 16]), incarnation: Incarnation(1) }
    }

    fn open() -> (Arc<ManualClock>, Arc<Delegations>) {
        let clock = Arc::new(ManualClock::new());
        let delegations = Arc::new(Delegations::new(Arc::clone(&clock) as Arc<dyn Clock>, 100));
        clock.advance(TERM);
        (clock, delegations)
    }

    #[test]
    fn try_enter_lets_the_holder_in_and_others_wait_until_the_end() {
        let (clock, delegations) = open();
        let granted = delegations.begin(DIRECTORY, client(1), || true).unwrap();
        assert_eq!((granted.inode, granted.id), (7, 100));
        assert!(delegations.try_enter(DIRECTORY, client(1)).is_ok());
        assert_eq!(delegations.try_enter(DIRECTORY, client(2)).err(), Some(TERM));
        let reborn = Holder { incarnation: Incarnation(2), ..client(1) };
        assert!(delegations.try_enter(DIRECTORY, reborn).is_err(), "its former life may still believe it");
        clock.advance(TERM);
        assert!(delegations.try_enter(DIRECTORY, client(2)).is_ok());
        assert!(delegations.extend(DIRECTORY, client(1)).is_none(), "everybody's for good");
    }

    #[test]
    fn extend_keeps_the_id_while_nobody_else_has_entered() {
        let (clock, delegations) = open();
        delegations.begin(DIRECTORY, client(1), || true).unwrap();
        clock.advance(TERM * 100);
        assert_eq!(delegations.extend(DIRECTORY, client(1)).unwrap().id, 100);
        assert!(delegations.extend(DIRECTORY, client(2)).is_none());
        assert!(delegations.try_enter(DIRECTORY, client(2)).is_err(), "extended, it is the holder's again");
    }

    #[test]
    fn extend_ends_when_somebody_waits() {
        let (clock, delegations) = open();
        delegations.begin(DIRECTORY, client(1), || true).unwrap();
        assert!(delegations.try_enter(DIRECTORY, client(2)).is_err());
        assert!(
            delegations.extend(DIRECTORY, client(1)).is_none(),
            "or whoever adds without pause would shut others out"
        );
        clock.advance(TERM - SHORT);
        assert_eq!(delegations.try_enter(DIRECTORY, client(2)).err(), Some(SHORT));
        clock.advance(SHORT);
        assert!(delegations.try_enter(DIRECTORY, client(2)).is_ok());
    }

    #[test]
    fn begin_refuses_a_directory_that_others_know() {
        let (_, delegations) = open();
        let adding = delegations.try_enter(DIRECTORY, client(2)).ok();
        assert!(delegations.begin(DIRECTORY, client(1), || true).is_none(), "somebody is adding to it");
        drop(adding);
        assert!(delegations.begin(DIRECTORY, client(1), || false).is_none(), "somebody has added to it");
        assert!(delegations.begin(DIRECTORY, client(1), || true).is_some());
    }

    #[test]
    fn begin_repeated_changes_no_id_and_forgets_nobody_who_waits() {
        let (_, delegations) = open();
        let first = delegations.begin(DIRECTORY, client(1), || true).unwrap();
        assert_eq!(delegations.begin(DIRECTORY, client(1), || true).unwrap().id, first.id);
        assert!(delegations.try_enter(DIRECTORY, client(2)).is_err());
        assert!(delegations.begin(DIRECTORY, client(1), || true).is_none());
    }

    #[test]
    fn begin_forgets_what_is_over_before_it_refuses_for_want_of_room() {
        let (clock, delegations) = open();
        let begin = |number| delegations.begin(InodeId(number), client(1), || true);
        for number in 0..HELD_MAX as u64 {
            begin(number).unwrap();
        }
        assert!(begin(u64::MAX).is_none());
        clock.advance(TERM);
        assert!(begin(u64::MAX).is_some());
        assert!(delegations.extend(InodeId(0), client(1)).is_none());
    }

    #[test]
    fn new_lets_nobody_add_before_the_delegations_of_the_leader_before_are_over() {
        let clock = Arc::new(ManualClock::new());
        let delegations = Arc::new(Delegations::new(Arc::clone(&clock) as Arc<dyn Clock>, 1));
        assert_eq!(delegations.try_enter(DIRECTORY, client(1)).err(), Some(TERM));
        clock.advance(TERM);
        assert!(delegations.try_enter(DIRECTORY, client(1)).is_ok());
    }
}
