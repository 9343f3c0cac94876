//! Two replicas of one block on volumes of this node: the better one counts, the other is cleared away.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_common::units::ByteCount;
use tracing::warn;

use super::super::aside::set_aside;
use super::super::disk;
use super::super::events::EventKind;
use super::super::open_state::Step;
use super::super::replica::{Condition, Entry, OpenKind};
use super::{Home, Pool, add_suspect, pair, used};

/// Adds what a scan found at start; the worse one of two is set aside.
pub(super) fn add_found(replicas: &mut BTreeMap<BlockId, Entry>, homes: &[Option<Home>], id: BlockId, found: Entry) {
    let (better, worse) = match replicas.remove(&id) {
        None => (found, None),
        Some(there) if worth(&there) >= worth(&found) => (there, Some(found)),
        Some(there) => (found, Some(there)),
    };
    replicas.insert(id, better);
    if let Some(worse) = worse
        && let Some(Some(home)) = homes.get(usize::from(worse.volume().0))
    {
        clear(home, id, &worse, false);
    }
}

impl Pool {
    /// Decides about a replica that came back with its volume when there was another of its block, as both are now.
    pub(super) fn settle_double(&self, home: &Home, id: BlockId, found: Entry) {
        let index = home.0.index();
        let (home, worse, is_needless) = {
            let mut replicas = self.replicas.lock();
            if home.0.is_failed() {
                return;
            }
            match replicas.get(&id).cloned() {
                // The other has gone meanwhile, by order or with its volume. The NameNode says whether this one may stay.
                None => {
                    add_suspect(&self.suspects, &self.name, id, &found);
                    self.tell_found(id, &found);
                    replicas.insert(id, found);
                    return;
                }
                // Made here since: the files are its own.
                Some(there) if there.volume() == index => return,
                Some(there) if worth(&found) > worth(&there) && give_way(&there) => {
                    let (old, home) = match &there {
                        Entry::Finalized(old) => (old.block(id), self.home_of(old)),
                        Entry::Open(old) => (old.block(), (Arc::clone(&old.volume), Arc::clone(&old.dirs))),
                        Entry::Deleting(_) => return,
                    };
                    add_suspect(&self.suspects, &self.name, id, &found);
                    self.publish(EventKind::Deleted, old, &home.0);
                    self.tell_found(id, &found);
                    replicas.insert(id, found);
                    (home, there, false)
                }
                Some(there) => {
                    let is_needless = is_as_good(&there, &found);
                    (home.clone(), found, is_needless)
                }
            }
        };
        clear(&home, id, &worse, is_needless);
    }

    /// Only a full report names a replica that waits, and the last one may have been made before this one came.
    fn tell_found(&self, id: BlockId, found: &Entry) {
        match found {
            Entry::Open(_) => self.events.overflow(),
            Entry::Finalized(_) | Entry::Deleting(_) => self.tell(id, found),
        }
    }
}

/// Has a replica give way to a better one, with the map locked: not when it is written, received or deleted. A recovery that has
/// looked at it finds it gone, and begins again.
fn give_way(there: &Entry) -> bool {
    match there {
        Entry::Finalized(_) => true,
        Entry::Open(open) if open.kind == OpenKind::Waiting => {
            open.step(Step::Doomed);
            true
        }
        Entry::Open(_) | Entry::Deleting(_) => false,
    }
}

/// Orders replicas of one block: newer ones first, for which the NameNode gives older ones up; then finalized before waiting; then by
/// what is known of their bytes, from nothing bad to something; then longer.
fn worth(entry: &Entry) -> (GenerationStamp, bool, u8, u64) {
    match entry {
        Entry::Finalized(finalized) => {
            let condition = match finalized.condition {
                Condition::Sound => 2,
                Condition::Suspect => 1,
                Condition::Corrupt => 0,
            };
            (finalized.generation_stamp, true, condition, finalized.length)
        }
        Entry::Open(replica) => {
            let block = replica.block();
            (block.generation_stamp, false, 0, block.length)
        }
        Entry::Deleting(_) => (GenerationStamp(0), false, 0, 0),
    }
}

/// Whether a replica that is `there` has all that another could be needed for.
fn is_as_good(there: &Entry, other: &Entry) -> bool {
    let (stamp, _, _, length) = worth(other);
    matches!(there, Entry::Finalized(new)
        if new.condition == Condition::Sound && new.generation_stamp >= stamp && new.length >= length)
}

/// Clears the files of a replica away that has no record: deletes them when they are `needless`, else sets them aside.
fn clear((volume, dirs): &Home, id: BlockId, worse: &Entry, is_needless: bool) {
    let held;
    let (data, meta, bytes) = match worse {
        Entry::Finalized(old) => {
            let (data, meta) = pair(&dirs.paths.finalized_dir(id), id, old.generation_stamp);
            (data, meta, used(old))
        }
        Entry::Open(open) => {
            held = open.hold_files();
            (held.data.clone(), held.meta.clone(), ByteCount(open.block().length))
        }
        Entry::Deleting(_) => return,
    };
    let mut is_gone = true;
    for path in [data, meta] {
        let cleared = if is_needless { disk::remove_file(&path) } else { set_aside(&dirs.paths, &path) };
        if let Err(error) = cleared {
            is_gone = false;
            warn!(file = %path.display(), %error, "could not clear away the second replica of a block");
        }
    }
    if is_gone {
        dirs.clear_doubt(id);
        volume.space.subtract(bytes);
    }
}
