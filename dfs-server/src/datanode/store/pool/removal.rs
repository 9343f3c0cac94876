//! Replicas that go: deleted by order, given up by their writer, lost with their volume.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::BlockId;
use dfs_common::units::ByteCount;
use tracing::warn;

use super::super::disk;
use super::super::events::EventKind;
use super::super::open_state::Step;
use super::super::replica::{Condition, Deletion, Entry, Finalized, OpenKind, OpenReplica};
use super::super::volume::VolumeIndex;
use super::super::writer::ReplicaWriter;
use super::{Pool, WALK_STEP, is_same, pair, used};

impl Pool {
    /// See `ReplicaStore::discard`. An extension without new bytes is undone, one with new bytes waits for recovery. Files that
    /// have become another's stay.
    pub(in crate::datanode::store) fn discard(&self, writer: ReplicaWriter) {
        let replica = Arc::clone(writer.replica());
        let _writing = replica.writing.lock();
        let is_in_map = self.replicas.lock().get(&replica.id).is_some_and(|entry| is_same(entry, &replica));
        if !writer.is_current() || !is_in_map {
            return;
        }
        let length = replica.block().length;
        match writer.appended_to() {
            Some(old) if length == old.length => {
                drop(writer);
                self.undo_append(&replica, old, None);
            }
            None => {
                drop(writer);
                self.give_up(&replica);
            }
            Some(_) => {}
        }
    }

    /// Removes an open replica of which nothing was promised, with its `writing` lock held.
    pub(super) fn give_up(&self, replica: &Arc<OpenReplica>) {
        if !self.replicas.lock().get(&replica.id).is_some_and(|entry| is_same(entry, replica)) {
            return;
        }
        let is_ours = replica.change(|state| {
            // Its files may be another's now.
            let is_ours = state.recovery().is_none();
            if is_ours {
                state.step(Step::Doomed);
            }
            is_ours
        });
        if !is_ours {
            return;
        }
        if let Err(error) = self.unlink_open(replica) {
            warn!(block = %replica.block(), "could not remove an unfinished replica: {}", error.chain());
        }
        self.remove_if_same(replica);
    }

    pub(super) fn remove_if_same(&self, replica: &Arc<OpenReplica>) {
        let mut replicas = self.replicas.lock();
        if replicas.get(&replica.id).is_some_and(|entry| is_same(entry, replica)) {
            replicas.remove(&replica.id);
            if replica.kind == OpenKind::Rbw {
                // Its beginning may have been announced.
                self.publish(EventKind::Deleted, replica.block(), &replica.volume);
            }
        }
    }

    /// See `ReplicaStore::invalidate`.
    pub(in crate::datanode::store) fn invalidate(&self, block: Block) -> Result<()> {
        let mut replicas = self.replicas.lock();
        let entry = replicas.get(&block.id).cloned();
        let (stamp, index) = match &entry {
            None => {
                self.tell_missing(block);
                return Ok(());
            }
            Some(Entry::Deleting(_)) => return Ok(()),
            Some(Entry::Finalized(finalized)) => (finalized.generation_stamp, finalized.volume),
            Some(Entry::Open(replica)) => (replica.state().generation_stamp(), replica.volume.index()),
        };
        if stamp != block.generation_stamp {
            if let Some(entry) = &entry {
                self.tell(block.id, entry);
            }
            return Err(DfsError::new(
                ErrorKind::StaleGeneration,
                format!("{block} is not deleted: the replica here has generation stamp {stamp}"),
            ));
        }
        if let Some(Entry::Open(replica)) = &entry {
            replica.step(Step::Doomed);
        }
        let deletion = Deletion { number: self.deletions.fetch_add(1, Ordering::Relaxed), volume: index };
        replicas.insert(block.id, Entry::Deleting(deletion));
        drop(replicas);

        let unlinked = match &entry {
            Some(Entry::Open(replica)) => self.unlink_open(replica),
            Some(Entry::Finalized(finalized)) => self.unlink_finalized(block.id, finalized),
            Some(Entry::Deleting(_)) | None => Ok(()),
        };
        let (volume, _) = self.home(index).expect("an entry's volume has the pool");
        let mut replicas = self.replicas.lock();
        if matches!(replicas.get(&block.id), Some(Entry::Deleting(now)) if *now == deletion) {
            replicas.remove(&block.id);
            self.publish(EventKind::Deleted, block, &volume);
        }
        unlinked
    }

    /// The NameNode knows a replica that is not here, and would order its deletion again and again. It has not said on which
    /// volume. To be called with the map locked: a copy that arrives now is told of later.
    pub(super) fn tell_missing(&self, block: Block) {
        for (volume, _) in self.homes.read().iter().flatten() {
            self.publish(EventKind::Deleted, block, volume);
        }
    }

    /// The NameNode knows another replica than is here, from before a pipeline that it has not heard of.
    pub(super) fn tell(&self, id: BlockId, entry: &Entry) {
        match entry {
            Entry::Finalized(finalized) => {
                if let Some((volume, _)) = self.home(finalized.volume) {
                    self.publish(EventKind::Received, finalized.block(id), &volume);
                }
            }
            Entry::Open(open) if open.kind == OpenKind::Rbw => {
                self.publish(EventKind::Receiving, open.block(), &open.volume);
            }
            Entry::Open(_) | Entry::Deleting(_) => {}
        }
    }

    fn unlink_finalized(&self, id: BlockId, finalized: &Finalized) -> Result<()> {
        let (volume, dirs) = self.home_of(finalized);
        let (data, meta) = pair(&dirs.paths.finalized_dir(id), id, finalized.generation_stamp);
        volume.space.subtract(used(finalized));
        let unlinked = disk::remove_if_there(&data).and_then(|()| disk::remove_if_there(&meta));
        if unlinked.is_ok() {
            dirs.clear_doubt(id);
        }
        volume.check(unlinked, || format!("delete blk_{id}"))
    }

    pub(super) fn unlink_open(&self, replica: &OpenReplica) -> Result<()> {
        let files = replica.hold_files();
        replica.volume.space.subtract(ByteCount(replica.block().length));
        let unlinked = disk::remove_if_there(&files.data).and_then(|()| disk::remove_if_there(&files.meta));
        if unlinked.is_ok() {
            replica.dirs.clear_doubt(replica.id);
        }
        replica.volume.check(unlinked, || format!("delete blk_{}", replica.id))
    }

    /// Forgets the replicas of a volume that failed; none comes to it any more.
    pub(in crate::datanode::store) fn drop_volume(&self, index: VolumeIndex) {
        let Some((volume, _)) = self.home(index) else { return };
        let mut there = Vec::new();
        self.walk(|id, entry| {
            if entry.volume() == index {
                there.push(id);
            }
        });
        for ids in there.chunks(WALK_STEP) {
            let mut replicas = self.replicas.lock();
            for &id in ids {
                let block = match replicas.get(&id) {
                    Some(entry) if entry.volume() != index => continue,
                    Some(Entry::Finalized(finalized)) => {
                        if finalized.condition != Condition::Sound {
                            self.untrusted.lock().insert((index, id));
                        }
                        Some(finalized.block(id))
                    }
                    Some(Entry::Open(replica)) => {
                        replica.step(Step::Doomed);
                        // A sync of it has failed, or may fail yet.
                        self.untrusted.lock().insert((index, id));
                        self.left.lock().push(Arc::downgrade(replica));
                        Some(replica.block())
                    }
                    // Whoever removes its files may wait for ever.
                    Some(Entry::Deleting(_)) => None,
                    None => continue,
                };
                replicas.remove(&id);
                block.into_iter().for_each(|block| self.publish(EventKind::Deleted, block, &volume));
            }
        }
    }

    /// Whether a disk call on a replica that went with its volume may not have returned: it could write to what a scan of the
    /// volume finds. Whoever begins one later is refused.
    pub(in crate::datanode::store) fn is_still_used(&self, index: VolumeIndex) -> bool {
        let mut left = self.left.lock();
        left.retain(|replica| replica.upgrade().is_some_and(|replica| replica.is_in_use()));
        left.iter().filter_map(Weak::upgrade).any(|replica| replica.volume.index() == index)
    }
}
