//! Two replicas of one block on volumes of this node: the better one counts, the other is cleared away.

use std::collections::BTreeMap;

use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_common::units::ByteCount;
use tracing::warn;

use super::super::aside::set_aside;
use super::super::disk;
use super::super::events::EventKind;
use super::super::layout;
use super::super::open_state::Place;
use super::super::replica::{Condition, Entry};
use super::super::scan::place_dir;
use super::removal::lies_on;
use super::{Home, Pool, add_suspect, used};

/// Adds what a scan found at start; the worse one of two is set aside.
pub(super) fn add_found(replicas: &mut BTreeMap<BlockId, Entry>, homes: &[Option<Home>], id: BlockId, found: Entry) {
    let (better, worse) = match replicas.remove(&id) {
        None => (found, None),
        Some(there) if worth(&there) >= worth(&found) => (there, Some(found)),
        Some(there) => (found, Some(there)),
    };
    replicas.insert(id, better);
    let home = |worse: &Entry| {
        let index = match worse {
            Entry::Finalized(finalized) => finalized.volume,
            Entry::Open(replica) => replica.volume.index(),
            Entry::Deleting(deletion) => deletion.volume,
        };
        homes.get(usize::from(index.0)).cloned().flatten()
    };
    if let Some(worse) = worse
        && let Some(home) = home(&worse)
    {
        clear(&home, id, &worse, false);
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
            match (replicas.get(&id).cloned(), &found) {
                // The other has gone meanwhile, by order or with its volume. The NameNode says whether this one may stay.
                (None, _) => {
                    add_suspect(&self.suspects, &self.name, id, &found);
                    self.tell(id, &found);
                    replicas.insert(id, found);
                    return;
                }
                // Made here since: the files are its own.
                (Some(there), _) if lies_on(&there, index) => return,
                (Some(Entry::Finalized(old)), Entry::Finalized(new))
                    if worth(&found) > worth(&Entry::Finalized(old)) =>
                {
                    let (volume, dirs) = self.home_of(&old);
                    add_suspect(&self.suspects, &self.name, id, &found);
                    self.publish(EventKind::Deleted, old.block(id), &volume);
                    self.publish(EventKind::Received, new.block(id), &home.0);
                    replicas.insert(id, found);
                    ((volume, dirs), Entry::Finalized(old), false)
                }
                // Whoever is at work on the other one, or will be, goes on with it.
                (Some(there), _) => {
                    let is_needless = is_as_good(&there, &found);
                    (home.clone(), found, is_needless)
                }
            }
        };
        clear(&home, id, &worse, is_needless);
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
    let (place, stamp, bytes) = match worse {
        Entry::Finalized(old) => (Place::Finalized, old.generation_stamp, used(old)),
        Entry::Open(open) => {
            let block = open.block();
            (Place::Rbw, block.generation_stamp, ByteCount(block.length))
        }
        Entry::Deleting(_) => return,
    };
    let dir = place_dir(&dirs.paths, id, place);
    let mut is_gone = true;
    for name in [layout::data_name(id), layout::meta_name(id, stamp)] {
        let path = dir.join(&name);
        let cleared = if is_needless { disk::remove_file(&path) } else { set_aside(&dirs.paths, &path) };
        if let Err(error) = cleared {
            is_gone = false;
            warn!(file = name, %error, "could not clear away the second replica of a block");
        }
    }
    if is_gone {
        dirs.clear_doubt(id);
        volume.space.subtract(bytes);
    }
}
