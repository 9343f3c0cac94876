//! The replicas of one block pool: the map, and what changes it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::block::Block;
use dfs_common::checksum::crc32c;
use dfs_common::durable;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_common::units::ByteCount;
use dfs_proto::data_transfer::{DataChecksum, MetaHeader};
use parking_lot::Mutex;
use tracing::{error, warn};

use super::events::{Event, EventHub, EventKind};
use super::layout;
use super::meta_file::MetaFile;
use super::reader::ReplicaReader;
use super::replica::{Entry, Finalized, OpenKind, OpenReplica, OpenState, Place};
use super::report::{Cursor, PAGE_MAX, ReportPage, page_item};
use super::scan::{Scanned, scan_volume, set_aside};
use super::volume::{PoolDirs, Volume, VolumeIndex};
use super::volumes::Volumes;
use super::writer::ReplicaWriter;

/// How long a reader that asks for bytes still on their way through the pipeline is made to wait for them.
const READER_PATIENCE: Duration = Duration::from_secs(1);
/// Times a reader looks again when the files moved under it; each move is two renames, so once is nearly always enough.
const OPEN_TRIES: usize = 16;

/// One block pool.
#[derive(Debug)]
pub(super) struct Pool {
    name: Arc<str>,
    /// By volume; `None` for volumes that had failed when the pool was loaded.
    homes: Vec<Option<(Arc<Volume>, Arc<PoolDirs>)>>,
    /// Ordered, so that reports come in pages without a copy of the map.
    replicas: Mutex<BTreeMap<BlockId, Entry>>,
    events: Arc<EventHub>,
}

impl Pool {
    /// Scans all volumes, in parallel.
    pub(super) fn load(name: &str, volumes: &Volumes, events: Arc<EventHub>) -> Result<Self> {
        let scans: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = volumes
                .good()
                .filter(|volume| volume.is_formatted())
                .map(|volume| scope.spawn(move || (volume, scan_volume(volume, name))))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a scan does not panic")).collect()
        });
        let mut homes = vec![None; volumes.all().len()];
        let mut replicas = BTreeMap::new();
        for (volume, scanned) in scans {
            match scanned {
                Ok(Scanned { volume, dirs, entries }) => {
                    let at = usize::from(volume.index().0);
                    homes[at] = Some((volume, dirs));
                    for (id, entry) in entries {
                        add_found(&mut replicas, &homes, id, entry);
                    }
                }
                Err(cause) => {
                    error!(volume = %volume.root().display(), "volume failed: {}", cause.chain());
                    volume.fail();
                }
            }
        }
        Ok(Self { name: name.into(), homes, replicas: Mutex::new(replicas), events })
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    pub(super) fn len(&self) -> usize {
        self.replicas.lock().len()
    }

    fn home(&self, index: VolumeIndex) -> Option<&(Arc<Volume>, Arc<PoolDirs>)> {
        self.homes.get(usize::from(index.0)).and_then(Option::as_ref)
    }

    fn home_of(&self, finalized: &Finalized) -> &(Arc<Volume>, Arc<PoolDirs>) {
        self.home(finalized.volume).expect("an entry's volume has the pool")
    }

    fn publish(&self, kind: EventKind, block: Block, volume: &Volume) {
        self.events.publish(Event { kind, pool: self.name(), block, storage_uuid: volume.storage_uuid() });
    }

    /// See `ReplicaStore::create`.
    pub(super) fn create(
        &self,
        block: Block,
        kind: OpenKind,
        checksum: DataChecksum,
        choose: impl FnOnce(&dyn Fn(VolumeIndex) -> bool) -> Result<Arc<Volume>>,
    ) -> Result<ReplicaWriter> {
        let volume = choose(&|index| self.home(index).is_some())?;
        let (volume, dirs) = self.home(volume.index()).expect("chosen among those that have the pool").clone();
        let place = if kind == OpenKind::Temporary { Place::Tmp } else { Place::Rbw };
        let state = OpenState {
            generation_stamp: block.generation_stamp,
            on_disk: 0,
            acked: 0,
            synced: 0,
            tail_crc: 0,
            place,
            doomed: false,
        };
        let replica = Arc::new(OpenReplica::new(block.id, kind, checksum, (Arc::clone(&volume), dirs), state));
        let replaced = self.insert_new(&replica, block)?;
        if let Some(waiting) = replaced {
            self.unlink_open(&waiting)?;
        }
        match ReplicaWriter::open(Arc::clone(&replica), true) {
            Ok(writer) => Ok(writer),
            Err(error) => {
                let _ = self.unlink_open(&replica);
                self.remove_if_same(&replica);
                volume.check(Err(error), || format!("create the files of {block} on {}", volume.root().display()))
            }
        }
    }

    /// Puts a new replica into the map. A copy may replace one that waits for recovery and is not newer: that there is a
    /// finalized replica to copy means that the block was closed without it.
    fn insert_new(&self, replica: &Arc<OpenReplica>, block: Block) -> Result<Option<Arc<OpenReplica>>> {
        let mut replicas = self.replicas.lock();
        match replicas.entry(block.id) {
            Slot::Vacant(slot) => {
                slot.insert(Entry::Open(Arc::clone(replica)));
                Ok(None)
            }
            Slot::Occupied(mut slot) => {
                let waiting = match slot.get() {
                    Entry::Open(open)
                        if open.kind == OpenKind::Waiting
                            && replica.kind == OpenKind::Temporary
                            && open.block().generation_stamp <= block.generation_stamp =>
                    {
                        Arc::clone(open)
                    }
                    entry => {
                        return Err(DfsError::new(
                            ErrorKind::AlreadyExists,
                            format!("{block} is here already, {}", describe(entry)),
                        ));
                    }
                };
                waiting.state.lock().doomed = true;
                slot.insert(Entry::Open(Arc::clone(replica)));
                Ok(Some(waiting))
            }
        }
    }

    /// See `ReplicaStore::append`.
    pub(super) fn append(&self, block: Block, new_stamp: GenerationStamp) -> Result<ReplicaWriter> {
        let old = self.finalized_for_append(block, new_stamp)?;
        let (volume, dirs) = self.home_of(&old).clone();
        let paths = &dirs.paths;
        let dir = paths.finalized_dir(block.id);
        let tail = read_proven_tail(&dir, block.id, &old);
        let (checksum, tail_crc) = match tail {
            Ok(Some(tail)) => tail,
            Ok(None) => return Err(corrupt(block)),
            Err(error) => return volume.check(Err(error), || format!("read the last chunk of {block}")),
        };
        let state = OpenState {
            generation_stamp: old.generation_stamp,
            on_disk: old.length,
            acked: old.length,
            synced: if old.maybe_synced { old.length } else { 0 },
            tail_crc,
            place: Place::Finalized,
            doomed: false,
        };
        let home = (Arc::clone(&volume), dirs);
        let replica = Arc::new(OpenReplica::new(block.id, OpenKind::Rbw, checksum, home, state));
        self.replace_finalized(block.id, &old, Entry::Open(Arc::clone(&replica)))?;
        let reopened = relocate(&replica, Place::Rbw, new_stamp).and_then(|()| ReplicaWriter::open(Arc::clone(&replica), false));
        match reopened {
            Ok(mut writer) => {
                writer.set_appended_to(old);
                Ok(writer)
            }
            Err(error) => {
                self.undo_append(&replica, old);
                volume.check(Err(error), || format!("reopen {block} for append"))
            }
        }
    }

    fn finalized_for_append(&self, block: Block, new_stamp: GenerationStamp) -> Result<Finalized> {
        let old = match self.replicas.lock().get(&block.id) {
            Some(Entry::Finalized(finalized)) => *finalized,
            Some(other) => {
                return Err(DfsError::new(ErrorKind::Busy, format!("{block} cannot be extended, {}", describe(other))));
            }
            None => return Err(not_found(block)),
        };
        if old.generation_stamp != block.generation_stamp || new_stamp <= old.generation_stamp {
            return Err(DfsError::new(
                ErrorKind::StaleGeneration,
                format!("{block} is here with generation stamp {}, to become {new_stamp}", old.generation_stamp),
            ));
        }
        if block.length != old.length {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("{block} is here with {} bytes; the writer must start at its end", old.length),
            ));
        }
        Ok(old)
    }

    fn replace_finalized(&self, id: BlockId, old: &Finalized, new: Entry) -> Result<()> {
        let mut replicas = self.replicas.lock();
        let unchanged = matches!(replicas.get(&id), Some(Entry::Finalized(now)) if now == old);
        if !unchanged {
            return Err(DfsError::new(ErrorKind::Busy, format!("blk_{id} changed meanwhile, try again")));
        }
        replicas.insert(id, new);
        Ok(())
    }

    /// Brings back a finalized replica whose extension did not begin.
    fn undo_append(&self, replica: &Arc<OpenReplica>, old: Finalized) {
        if let Err(error) = relocate(replica, Place::Finalized, old.generation_stamp) {
            warn!(block = %replica.block(), %error, "replica stays open after a failed append");
            return;
        }
        let mut replicas = self.replicas.lock();
        if let Some(entry) = replicas.get_mut(&replica.id)
            && is_same(entry, replica)
        {
            *entry = Entry::Finalized(old);
        }
    }

    /// See `ReplicaStore::announce`.
    pub(super) fn announce(&self, writer: &ReplicaWriter) {
        let replica = writer.replica();
        let replicas = self.replicas.lock();
        if replicas.get(&replica.id).is_some_and(|entry| is_same(entry, replica)) && replica.kind == OpenKind::Rbw {
            self.publish(EventKind::Receiving, replica.block(), &replica.volume);
        }
    }

    /// See `ReplicaStore::finalize`.
    pub(super) fn finalize(&self, mut writer: ReplicaWriter, sync: bool) -> Result<Block> {
        let durable = writer.move_to_finalized(sync)?;
        let replica = Arc::clone(writer.replica());
        let block = replica.block();
        let header = MetaHeader { checksum: replica.checksum };
        replica.volume.add_used(ByteCount(header.meta_len(block.length)));
        let finalized = Finalized {
            generation_stamp: block.generation_stamp,
            length: block.length,
            volume: replica.volume.index(),
            maybe_synced: durable,
        };
        let mut replicas = self.replicas.lock();
        match replicas.get_mut(&block.id) {
            Some(entry) if is_same(entry, &replica) => {
                *entry = Entry::Finalized(finalized);
                self.publish(EventKind::Received, block, &replica.volume);
                Ok(block)
            }
            _ => Err(DfsError::new(ErrorKind::Cancelled, format!("{block} was deleted while it was being finalized"))),
        }
    }

    /// See `ReplicaStore::discard`. An extension without new bytes is undone, one with new bytes waits for recovery.
    pub(super) fn discard(&self, writer: ReplicaWriter) {
        let replica = Arc::clone(writer.replica());
        let length = replica.block().length;
        match writer.appended_to() {
            Some(old) if length == old.length => {
                drop(writer);
                self.undo_append(&replica, old);
            }
            None => {
                drop(writer);
                replica.state.lock().doomed = true;
                let unlinked = self.unlink_open(&replica);
                if let Err(error) = unlinked {
                    warn!(block = %replica.block(), "could not remove an unfinished replica: {}", error.chain());
                }
                self.remove_if_same(&replica);
            }
            Some(_) => {}
        }
    }

    fn remove_if_same(&self, replica: &Arc<OpenReplica>) {
        let mut replicas = self.replicas.lock();
        if replicas.get(&replica.id).is_some_and(|entry| is_same(entry, replica)) {
            replicas.remove(&replica.id);
        }
    }

    /// See `ReplicaStore::open_reader`.
    pub(super) fn open_reader(&self, block: Block, wanted_end: u64) -> Result<ReplicaReader> {
        for _ in 0..OPEN_TRIES {
            match self.lookup(block)? {
                Entry::Finalized(finalized) => {
                    let (volume, dirs) = self.home_of(&finalized);
                    let dir = dirs.paths.finalized_dir(block.id);
                    let found = Block { generation_stamp: finalized.generation_stamp, length: finalized.length, ..block };
                    let paths = (
                        dir.join(layout::data_name(block.id)),
                        dir.join(layout::meta_name(block.id, found.generation_stamp)),
                    );
                    let opened = ReplicaReader::open_finalized(found, Arc::clone(volume), paths);
                    // Reopened for append meanwhile: its files moved, or the checksum of its last chunk may have changed.
                    let unchanged = matches!(self.lookup(block)?, Entry::Finalized(now)
                        if (now.generation_stamp, now.length) == (finalized.generation_stamp, finalized.length));
                    if unchanged {
                        return volume.check(opened, || format!("open {found}"));
                    }
                }
                Entry::Open(replica) => {
                    replica.wait_visible(wanted_end, READER_PATIENCE);
                    return ReplicaReader::open_growing(&replica);
                }
                Entry::Deleting => return Err(not_found(block)),
            }
        }
        Err(DfsError::new(ErrorKind::Busy, format!("{block} keeps changing, try again")))
    }

    /// The entry of a block, with at least the generation stamp asked for.
    fn lookup(&self, block: Block) -> Result<Entry> {
        let entry = self.replicas.lock().get(&block.id).cloned().ok_or_else(|| not_found(block))?;
        let stamp = match &entry {
            Entry::Finalized(finalized) => finalized.generation_stamp,
            Entry::Open(replica) if replica.kind != OpenKind::Temporary => replica.state.lock().generation_stamp,
            Entry::Open(_) | Entry::Deleting => return Err(not_found(block)),
        };
        if stamp < block.generation_stamp {
            return Err(DfsError::new(
                ErrorKind::StaleGeneration,
                format!("{block} is here with the older generation stamp {stamp}"),
            ));
        }
        Ok(entry)
    }

    /// See `ReplicaStore::visible_length`.
    pub(super) fn visible_length(&self, block: Block) -> Result<u64> {
        Ok(match self.lookup(block)? {
            Entry::Finalized(finalized) => finalized.length,
            Entry::Open(replica) => replica.visible(&replica.state.lock()),
            Entry::Deleting => 0,
        })
    }

    /// See `ReplicaStore::sync`.
    pub(super) fn sync(&self, block: Block) -> Result<()> {
        for _ in 0..OPEN_TRIES {
            match self.lookup(block)? {
                Entry::Finalized(finalized) => {
                    // Remembered first: an append that begins now must already know of the promise.
                    let promised = Finalized { maybe_synced: true, ..finalized };
                    if self.replace_finalized(block.id, &finalized, Entry::Finalized(promised)).is_err() {
                        continue;
                    }
                    let (volume, dirs) = self.home_of(&finalized);
                    match sync_files(&dirs.paths.finalized_dir(block.id), block.id, finalized.generation_stamp) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        result => return volume.check(result, || format!("sync {block}")),
                    }
                }
                Entry::Open(replica) => return sync_open(&replica),
                Entry::Deleting => return Err(not_found(block)),
            }
        }
        Err(DfsError::new(ErrorKind::Busy, format!("{block} keeps changing, try again")))
    }

    /// See `ReplicaStore::invalidate`.
    pub(super) fn invalidate(&self, block: Block) -> Result<()> {
        let mut replicas = self.replicas.lock();
        let entry = replicas.get(&block.id).cloned();
        let (stamp, index) = match &entry {
            None => return Ok(()),
            Some(Entry::Deleting) => return Ok(()),
            Some(Entry::Finalized(finalized)) => (finalized.generation_stamp, finalized.volume),
            Some(Entry::Open(replica)) => (replica.state.lock().generation_stamp, replica.volume.index()),
        };
        if stamp != block.generation_stamp {
            return Err(DfsError::new(
                ErrorKind::StaleGeneration,
                format!("{block} is not deleted: the replica here has generation stamp {stamp}"),
            ));
        }
        if let Some(Entry::Open(replica)) = &entry {
            replica.state.lock().doomed = true;
            replica.notify();
        }
        replicas.insert(block.id, Entry::Deleting);
        drop(replicas);

        let unlinked = match &entry {
            Some(Entry::Open(replica)) => self.unlink_open(replica),
            Some(Entry::Finalized(finalized)) => self.unlink_finalized(block.id, finalized),
            Some(Entry::Deleting) | None => Ok(()),
        };
        let (volume, _) = self.home(index).expect("an entry's volume has the pool");
        let mut replicas = self.replicas.lock();
        replicas.remove(&block.id);
        self.publish(EventKind::Deleted, block, volume);
        unlinked
    }

    fn unlink_finalized(&self, id: BlockId, finalized: &Finalized) -> Result<()> {
        let (volume, dirs) = self.home_of(finalized);
        let dir = dirs.paths.finalized_dir(id);
        let header = MetaHeader { checksum: DataChecksum::DEFAULT };
        volume.subtract_used(ByteCount(finalized.length + header.meta_len(finalized.length)));
        let unlinked = fs::remove_file(dir.join(layout::data_name(id)))
            .and_then(|()| fs::remove_file(dir.join(layout::meta_name(id, finalized.generation_stamp))));
        volume.check(unlinked, || format!("delete blk_{id}"))
    }

    fn unlink_open(&self, replica: &OpenReplica) -> Result<()> {
        let state = replica.state.lock();
        replica.volume.subtract_used(ByteCount(state.on_disk));
        let missing_is_fine = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let unlinked = missing_is_fine(fs::remove_file(replica.data_path(state.place))).and_then(|()| {
            missing_is_fine(fs::remove_file(replica.meta_path(state.place, state.generation_stamp)))
        });
        replica.volume.check(unlinked, || format!("delete blk_{}", replica.id))
    }

    /// See `ReplicaStore::report_corrupt`.
    pub(super) fn report_corrupt(&self, block: Block) {
        let replicas = self.replicas.lock();
        if let Some(Entry::Finalized(finalized)) = replicas.get(&block.id)
            && let Some((volume, _)) = self.home(finalized.volume)
        {
            self.publish(EventKind::Corrupt, block, volume);
        }
    }

    /// See `ReplicaStore::report_page`.
    pub(super) fn report_page(&self, cursor: Cursor) -> ReportPage {
        use std::ops::Bound;
        let mut page = ReportPage::default();
        let from = cursor.after.map_or(Bound::Unbounded, Bound::Excluded);
        for (&id, entry) in self.replicas.lock().range((from, Bound::Unbounded)) {
            if let Some(item) = page_item(id, entry, cursor.volume) {
                page.items.push(item);
                if page.items.len() == PAGE_MAX {
                    page.next = Some(id);
                    break;
                }
            }
        }
        page
    }

    /// Forgets the replicas of a volume that failed.
    pub(super) fn drop_volume(&self, index: VolumeIndex) {
        let Some((volume, _)) = self.home(index) else { return };
        let mut replicas = self.replicas.lock();
        replicas.retain(|&id, entry| {
            let block = match entry {
                Entry::Finalized(finalized) if finalized.volume == index => {
                    Block { id, generation_stamp: finalized.generation_stamp, length: finalized.length }
                }
                Entry::Open(replica) if replica.volume.index() == index => {
                    replica.state.lock().doomed = true;
                    replica.notify();
                    replica.block()
                }
                Entry::Finalized(_) | Entry::Open(_) | Entry::Deleting => return true,
            };
            self.publish(EventKind::Deleted, block, volume);
            false
        });
    }
}

/// Adds what a scan found; of two replicas of a block on different volumes the better one is kept.
fn add_found(
    replicas: &mut BTreeMap<BlockId, Entry>,
    homes: &[Option<(Arc<Volume>, Arc<PoolDirs>)>],
    id: BlockId,
    entry: Entry,
) {
    let (better, worse) = match replicas.remove(&id) {
        None => (entry, None),
        Some(there) if worth(&there) >= worth(&entry) => (there, Some(entry)),
        Some(there) => (entry, Some(there)),
    };
    replicas.insert(id, better);
    let Some(worse) = worse else { return };
    let (index, place, stamp) = match &worse {
        Entry::Finalized(finalized) => (finalized.volume, Place::Finalized, finalized.generation_stamp),
        Entry::Open(replica) => (replica.volume.index(), Place::Rbw, replica.block().generation_stamp),
        Entry::Deleting => return,
    };
    let Some(Some((_, dirs))) = homes.get(usize::from(index.0)) else { return };
    let dir = super::scan::place_dir(&dirs.paths, id, place);
    for name in [layout::data_name(id), layout::meta_name(id, stamp)] {
        if let Err(error) = set_aside(&dirs.paths, &dir.join(&name)) {
            warn!(file = name, %error, "could not set aside the second replica of a block");
        }
    }
}

/// Orders replicas of one block: finalized before waiting, then newer, then longer.
fn worth(entry: &Entry) -> (bool, GenerationStamp, u64) {
    match entry {
        Entry::Finalized(finalized) => (true, finalized.generation_stamp, finalized.length),
        Entry::Open(replica) => {
            let block = replica.block();
            (false, block.generation_stamp, block.length)
        }
        Entry::Deleting => (false, GenerationStamp(0), 0),
    }
}

fn is_same(entry: &Entry, replica: &Arc<OpenReplica>) -> bool {
    matches!(entry, Entry::Open(open) if Arc::ptr_eq(open, replica))
}

fn describe(entry: &Entry) -> String {
    match entry {
        Entry::Finalized(finalized) => format!(
            "finalized with generation stamp {} and {} bytes",
            finalized.generation_stamp, finalized.length
        ),
        Entry::Open(replica) => format!("{:?} as {}", replica.kind, replica.block()),
        Entry::Deleting => "being deleted".to_owned(),
    }
}

fn not_found(block: Block) -> DfsError {
    DfsError::new(ErrorKind::NotFound, format!("no replica of {block} on this DataNode"))
}

fn corrupt(block: Block) -> DfsError {
    DfsError::new(ErrorKind::Corrupt, format!("the last chunk of {block} does not match its checksum"))
}

/// Moves both files of an open replica, its checksums first, and brings the first back when the second cannot follow.
fn relocate(replica: &OpenReplica, to: Place, new_stamp: GenerationStamp) -> io::Result<()> {
    let mut state = replica.state.lock();
    let (from, old_stamp) = (state.place, state.generation_stamp);
    if (from, old_stamp) == (to, new_stamp) {
        return Ok(());
    }
    if state.doomed {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the deletion of this block was ordered"));
    }
    let (old_meta, new_meta) = (replica.meta_path(from, old_stamp), replica.meta_path(to, new_stamp));
    fs::rename(&old_meta, &new_meta)?;
    if let Err(error) = fs::rename(replica.data_path(from), replica.data_path(to)) {
        let _ = fs::rename(&new_meta, &old_meta);
        return Err(error);
    }
    state.place = to;
    state.generation_stamp = new_stamp;
    Ok(())
}

/// Checksum kind and CRC of the last chunk of a finalized replica, when its bytes are what the CRC says.
fn read_proven_tail(
    dir: &std::path::Path,
    id: BlockId,
    finalized: &Finalized,
) -> io::Result<Option<(DataChecksum, u32)>> {
    let meta = MetaFile::open(&dir.join(layout::meta_name(id, finalized.generation_stamp)), false)?;
    let checksum = meta.checksum();
    let inside = finalized.length % checksum.bytes_per_checksum() as u64;
    if inside == 0 {
        return Ok(Some((checksum, 0)));
    }
    let start = finalized.length - inside;
    let mut tail = vec![0; inside as usize];
    fs::File::open(dir.join(layout::data_name(id)))?.read_exact_at(&mut tail, start)?;
    let crc = meta.read_crc(start)?;
    Ok((crc32c(&tail) == crc).then_some((checksum, crc)))
}

fn sync_files(dir: &std::path::Path, id: BlockId, stamp: GenerationStamp) -> io::Result<()> {
    fs::File::open(dir.join(layout::data_name(id)))?.sync_data()?;
    fs::File::open(dir.join(layout::meta_name(id, stamp)))?.sync_data()?;
    durable::sync_dir(dir)
}

/// Syncs what a replica has now while its writer goes on.
fn sync_open(replica: &OpenReplica) -> Result<()> {
    let (place, stamp) = {
        // Not in the middle of a packet: from here on the writer knows of the promise before it overwrites a checksum.
        let _writing = replica.writing.lock();
        let mut state = replica.state.lock();
        state.synced = state.on_disk;
        (state.place, state.generation_stamp)
    };
    let synced = (|| {
        let state = replica.state.lock();
        let data = fs::File::open(replica.data_path(state.place))?;
        let meta = fs::File::open(replica.meta_path(state.place, stamp))?;
        drop(state);
        data.sync_data()?;
        meta.sync_data()?;
        durable::sync_dir(&replica.dir(place))?;
        // Finalized meanwhile: then the promise was known, and finalizing has synced its directory, or will.
        Ok(())
    })();
    replica.volume.check(synced, || format!("sync {}", replica.block()))
}
