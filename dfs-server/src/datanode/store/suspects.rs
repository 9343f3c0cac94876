//! Replicas that somebody doubts, until they are verified: a read met an error, a sync failed, a target of a copy found wrong
//! checksums, or the NameNode was told so by a reader. Whoever doubts only leaves a note here; each volume has a thread that
//! reads the replicas (`orders`), so that a device that hangs holds up no other, and nobody who serves a request.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use dfs_common::ids::BlockId;
use parking_lot::{Condvar, Mutex};

use super::volume::VolumeIndex;

/// Replicas of one volume that may wait. When more are doubted, all that the volume has are verified: nothing is forgotten.
const WAITING_MAX: usize = 10_000;

/// What is to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Suspect {
    /// A replica, by its pool and id.
    Replica(Arc<str>, BlockId),
    /// All that the volume has.
    Volume,
}

#[derive(Debug, Default)]
struct Waiting {
    replicas: BTreeSet<(Arc<str>, BlockId)>,
    is_all: bool,
}

#[derive(Debug, Default)]
struct State {
    by_volume: HashMap<VolumeIndex, Waiting>,
    is_over: bool,
}

/// The notes.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    state: Mutex<State>,
    changed: Condvar,
}

impl Suspects {
    /// Has a replica verified soon.
    pub(super) fn add(&self, volume: VolumeIndex, pool: &Arc<str>, id: BlockId) {
        let mut state = self.state.lock();
        let waiting = state.by_volume.entry(volume).or_default();
        if waiting.replicas.len() < WAITING_MAX {
            waiting.replicas.insert((Arc::clone(pool), id));
        } else {
            waiting.replicas.clear();
            waiting.is_all = true;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether it waits to be verified.
    pub(crate) fn is_waiting(&self, volume: VolumeIndex, pool: &Arc<str>, id: BlockId) -> bool {
        let state = self.state.lock();
        let waits = |waiting: &Waiting| waiting.is_all || waiting.replicas.contains(&(Arc::clone(pool), id));
        state.by_volume.get(&volume).is_some_and(waits)
    }

    /// Takes what is next on a volume, and waits for it; `None` once all is over.
    pub(crate) fn next(&self, volume: VolumeIndex) -> Option<Suspect> {
        let mut state = self.state.lock();
        while !state.is_over {
            if let Some(waiting) = state.by_volume.get_mut(&volume) {
                if let Some((pool, id)) = waiting.replicas.pop_first() {
                    return Some(Suspect::Replica(pool, id));
                }
                if std::mem::take(&mut waiting.is_all) {
                    return Some(Suspect::Volume);
                }
            }
            self.changed.wait(&mut state);
        }
        None
    }

    /// Takes a replica that waits on a volume, if there is one.
    pub(crate) fn next_replica(&self, volume: VolumeIndex) -> Option<(Arc<str>, BlockId)> {
        self.state.lock().by_volume.get_mut(&volume)?.replicas.pop_first()
    }

    /// As it was before `close`.
    #[cfg(test)]
    pub(crate) fn reopen(&self) {
        self.state.lock().is_over = false;
    }

    /// Ends all waits.
    pub(crate) fn close(&self) {
        self.state.lock().is_over = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_suspects_have_the_volume_verified() {
        let suspects = Suspects::default();
        let (volume, other, pool) = (VolumeIndex(0), VolumeIndex(1), Arc::from("BP-1"));
        suspects.add(other, &pool, BlockId(7));
        suspects.add(other, &pool, BlockId(7));
        for id in 0..=WAITING_MAX as u64 {
            suspects.add(volume, &pool, BlockId(id));
        }
        assert!(suspects.is_waiting(volume, &pool, BlockId(5)) && !suspects.is_waiting(other, &pool, BlockId(5)));
        assert_eq!(suspects.next(volume), Some(Suspect::Volume));
        assert_eq!(suspects.next(other), Some(Suspect::Replica(Arc::clone(&pool), BlockId(7))));
        suspects.close();
        assert_eq!((suspects.next(volume), suspects.next(other)), (None, None));
    }
}
