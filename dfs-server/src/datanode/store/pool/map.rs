//! The map of a pool's replicas, and the files of those that were read lately, which stay open.
//!
//! A file kept open for a replica that has changed or is gone would be read in its place, and keep its room on the device. So
//! the two are one thing: whatever may change an entry gives up what is open for it. The files are closed once the lock is
//! free again, for the last close of a deleted file may take its device's time.

use std::collections::{BTreeMap, btree_map};
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut, RangeBounds};
use std::sync::Arc;

use dfs_common::ids::BlockId;
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};

use super::super::reader::ReplicaFiles;
use super::super::replica::{Entry, Finalized};

/// The map.
#[derive(Debug)]
pub(super) struct ReplicaMap {
    content: Mutex<Content>,
}

/// The map, locked.
#[derive(Debug)]
pub(super) struct Content {
    entries: BTreeMap<BlockId, Entry>,
    open: Option<LruCache<BlockId, Arc<ReplicaFiles>>>,
    /// Given up, to be closed.
    closing: Vec<Arc<ReplicaFiles>>,
}

/// Whoever holds the lock.
pub(super) struct Held<'a> {
    content: Option<MutexGuard<'a, Content>>,
}

impl ReplicaMap {
    /// `open_max`: replicas whose files are kept open.
    pub(super) fn new(entries: BTreeMap<BlockId, Entry>, open_max: usize) -> Self {
        let open = NonZeroUsize::new(open_max).map(LruCache::new);
        Self { content: Mutex::new(Content { entries, open, closing: Vec::new() }) }
    }

    pub(super) fn lock(&self) -> Held<'_> {
        Held { content: Some(self.content.lock()) }
    }
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, id: &BlockId) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &BlockId) -> Option<&mut Entry> {
        self.give_up(id);
        self.entries.get_mut(id)
    }

    pub(super) fn insert(&mut self, id: BlockId, entry: Entry) {
        self.give_up(&id);
        self.entries.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: &BlockId) {
        self.give_up(id);
        self.entries.remove(id);
    }

    pub(super) fn range(&self, ids: impl RangeBounds<BlockId>) -> btree_map::Range<'_, BlockId, Entry> {
        self.entries.range(ids)
    }

    /// The open files of a finalized replica, if they are kept and it is still what it was `seen` to be: those of a longer one
    /// have another checksum for what was its last chunk.
    pub(super) fn open_files(&mut self, id: BlockId, seen: &Finalized) -> Option<Arc<ReplicaFiles>> {
        let is_same = self.is_still(id, seen);
        self.open.as_mut().filter(|_| is_same)?.get(&id).cloned()
    }

    /// Closes what is open for a replica.
    pub(super) fn close_files(&mut self, id: BlockId) {
        self.give_up(&id);
    }

    /// Keeps the files of a replica open that is still what it was `seen` to be.
    pub(super) fn keep_open(&mut self, id: BlockId, seen: &Finalized, files: &Arc<ReplicaFiles>) {
        let is_same = self.is_still(id, seen);
        if let Some(open) = self.open.as_mut().filter(|_| is_same) {
            self.closing.extend(open.push(id, Arc::clone(files)).map(|(_, evicted)| evicted));
        }
    }

    fn is_still(&self, id: BlockId, seen: &Finalized) -> bool {
        matches!(self.entries.get(&id), Some(Entry::Finalized(now)) if now == seen)
    }

    fn give_up(&mut self, id: &BlockId) {
        self.closing.extend(self.open.as_mut().and_then(|open| open.pop(id)));
    }
}

impl Deref for Held<'_> {
    type Target = Content;

    fn deref(&self) -> &Content {
        self.content.as_ref().expect("held until dropped")
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Content {
        self.content.as_mut().expect("held until dropped")
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let closing = std::mem::take(&mut self.closing);
        drop(self.content.take());
        drop(closing);
    }
}

#[cfg(test)]
mod tests {
    use dfs_common::block::Block;
    use dfs_common::ids::GenerationStamp;
    use dfs_common::units::ByteCount;
    use dfs_proto::data_transfer::DataChecksum;

    use super::super::super::disk::DiskFile;
    use super::super::super::meta_file::MetaFile;
    use super::super::super::reader::ReplicaReader;
    use super::super::super::replica::Condition;
    use super::super::super::volume::{Volume, VolumeIndex};
    use super::*;

    #[test]
    fn open_files_are_given_to_who_has_seen_the_replica_that_they_are_of() {
        let dir = tempfile::tempdir().unwrap();
        let paths = (dir.path().join("data"), dir.path().join("meta"));
        let (volume, _) = Volume::open(VolumeIndex(0), &dir.path().join("absent"), ByteCount(0), Arc::default());
        std::fs::write(&paths.0, [7; 10]).unwrap();
        MetaFile::create(&paths.1, DataChecksum::DEFAULT, &[0; 4]).unwrap();
        let id = BlockId(1);
        let block = Block { id, generation_stamp: GenerationStamp(2), length: 10 };
        let reader = ReplicaReader::open_finalized(block, Arc::new(volume), &paths, DiskFile::open).unwrap();
        let before = Finalized {
            generation_stamp: GenerationStamp(1),
            length: 5,
            volume: VolumeIndex(0),
            maybe_synced: false,
            condition: Condition::Sound,
        };
        let now = Finalized { generation_stamp: GenerationStamp(2), length: 10, ..before };
        let map = ReplicaMap::new(BTreeMap::from([(id, Entry::Finalized(now))]), 1);
        map.lock().keep_open(id, &before, reader.files());
        assert!(map.lock().open_files(id, &now).is_none(), "they are another replica's");
        map.lock().keep_open(id, &now, reader.files());
        assert!(map.lock().open_files(id, &now).is_some());
        assert!(
            map.lock().open_files(id, &before).is_none(),
            "who looked before the append reads what was there before"
        );
    }
}
