//! The replicas of one block pool: the map (`map`), and what changes it. Beside this file: blocks that come whole (`whole`),
//! extending (`append`), going on with in a rebuilt pipeline (`resume`), agreeing with other nodes (`recover`, `proof`), deleting
//! and giving up (`removal`), coming back with a volume (`returning`), being the second of a block (`doubles`), making durable (`sync`), being doubted (`verify`).

mod append;
mod directory;
mod doubles;
mod map;
mod missing;
mod proof;
mod recover;
mod removal;
mod resume;
mod returning;
mod sync;
mod verify;
mod whole;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_common::units::ByteCount;
use dfs_proto::data_transfer::{DataChecksum, MetaHeader};
use parking_lot::{Mutex, RwLock};
use tracing::error;

use super::disk::DiskFile;
use super::events::{Event, EventHub, EventKind};
use super::faults::is_shortage;
use super::layout;
use super::open_state::{OpenState, Place, Step};
use super::pool_dirs::PoolDirs;
use super::reader::ReplicaReader;
use super::replica::{Condition, Entry, Finalized, OpenKind, OpenReplica};
use super::report::{Cursor, PAGE_MAX, ReportPage, page_item};
use super::scan::{Scanned, scan_volume};
use super::suspects::Suspects;
use super::volume::{Volume, VolumeIndex};
use super::volumes::Volumes;
use super::writer::ReplicaWriter;

pub(crate) use directory::DirectoryFindings;
use doubles::add_found;
use map::ReplicaMap;
pub(crate) use recover::UnderRecovery;
pub(crate) use whole::Whole;

/// How long a reader that asks for bytes still on their way through the pipeline is made to wait for them.
const READER_PATIENCE: Duration = Duration::from_secs(1);
/// Times a reader looks again when the files moved under it; each move is two renames, so once is nearly always enough.
const OPEN_TRIES: usize = 16;

/// Entries of the map that are looked at in one go: more would keep those who serve requests waiting for the lock.
const WALK_STEP: usize = PAGE_MAX;

/// A volume and the pool's directories on it.
type Home = (Arc<Volume>, Arc<PoolDirs>);

/// One block pool.
#[derive(Debug)]
pub(super) struct Pool {
    name: Arc<str>,
    /// By volume; `None` for volumes that had failed or had no room for it when the pool was loaded.
    homes: RwLock<Vec<Option<Home>>>,
    /// Ordered, so that reports come in pages without a copy of the map.
    replicas: ReplicaMap,
    /// Removals begun so far.
    deletions: AtomicU64,
    /// Replicas that went with their volume and whose syncs had failed, or may have: doubted when they come back.
    untrusted: Mutex<HashSet<(VolumeIndex, BlockId)>>,
    /// Open replicas that went with their volume: some disk call on them may not have returned.
    left: Mutex<Vec<Weak<OpenReplica>>>,
    events: Arc<EventHub>,
    suspects: Arc<Suspects>,
}

impl Pool {
    /// Scans all volumes, in parallel. `open_max`: replicas whose files are kept open.
    pub(super) fn load(
        name: &str,
        volumes: &Volumes,
        events: Arc<EventHub>,
        suspects: Arc<Suspects>,
        open_max: usize,
    ) -> Result<Self> {
        let scans: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = volumes
                .good()
                .filter(|volume| volume.is_formatted())
                .map(|volume| {
                    scope.spawn(move || {
                        let scanned = scan_volume(&volume, name);
                        (volume, scanned)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a scan does not panic")).collect()
        });
        let mut homes = vec![None; volumes.all().len()];
        let mut replicas = BTreeMap::new();
        for (volume, scanned) in scans {
            match scanned {
                Ok(None) => {}
                Ok(Some(Scanned { volume, dirs, entries })) => {
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
        let name: Arc<str> = name.into();
        for (&id, entry) in &replicas {
            add_suspect(&suspects, &name, id, entry);
        }
        Ok(Self {
            name,
            homes: RwLock::new(homes),
            replicas: ReplicaMap::new(replicas, open_max),
            deletions: AtomicU64::new(0),
            untrusted: Mutex::default(),
            left: Mutex::default(),
            events,
            suspects,
        })
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    pub(super) fn len(&self) -> usize {
        self.replicas.lock().len()
    }

    fn home(&self, index: VolumeIndex) -> Option<Home> {
        self.homes.read().get(usize::from(index.0)).cloned().flatten()
    }

    fn home_of(&self, finalized: &Finalized) -> Home {
        self.home(finalized.volume).expect("an entry's volume has the pool")
    }

    /// See `ReplicaStore::last_block`.
    pub(super) fn last_block(&self) -> Option<BlockId> {
        self.replicas.lock().range(..).next_back().map(|(&id, _)| id)
    }

    /// See `ReplicaStore::volume_of`.
    pub(super) fn volume_of(&self, id: BlockId) -> Option<VolumeIndex> {
        match self.replicas.lock().get(&id)? {
            Entry::Finalized(finalized) => Some(finalized.volume),
            Entry::Open(replica) => Some(replica.volume.index()),
            Entry::Deleting(_) => None,
        }
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
        let place = if kind == OpenKind::Temporary { Place::Tmp } else { Place::Rbw };
        self.begin(block, (kind, place), checksum, choose, |replica| {
            let files = replica.hold_files();
            replica.state().check_writable()?;
            let volume = &replica.volume;
            let created = ReplicaWriter::create(Arc::clone(replica), &files);
            volume.check(created, || format!("create the files of {block} on {}", volume.root().display()))
        })
    }

    /// Puts a new replica into the map and has its files made. Its `writing` lock is held from before anybody can find it, so
    /// nobody meets one whose files are yet to come. It goes again if they cannot be made.
    fn begin(
        &self,
        block: Block,
        (kind, place): (OpenKind, Place),
        checksum: DataChecksum,
        choose: impl FnOnce(&dyn Fn(VolumeIndex) -> bool) -> Result<Arc<Volume>>,
        fill: impl FnOnce(&Arc<OpenReplica>) -> Result<ReplicaWriter>,
    ) -> Result<ReplicaWriter> {
        let volume = choose(&|index| self.home(index).is_some())?;
        let (volume, dirs) = self.home(volume.index()).expect("chosen among those that have the pool");
        let state = OpenState::new(place, block.generation_stamp);
        let replica = Arc::new(OpenReplica::new(block.id, kind, checksum, (volume, dirs), state));
        let _writing = replica.writing.lock();
        let replaced = self.insert_new(&replica, block)?;
        if let Some(waiting) = replaced
            && let Err(error) = self.unlink_open(&waiting)
        {
            self.remove_if_same(&replica);
            return Err(error);
        }
        // Of an earlier replica whose files are gone.
        replica.dirs.clear_doubt(block.id);
        fill(&replica).inspect_err(|_| self.give_up(&replica))
    }

    /// Puts a new replica into the map. A copy may replace one that waits for recovery and is not newer: that there is a
    /// finalized replica to copy means that the block was closed without it.
    fn insert_new(&self, replica: &Arc<OpenReplica>, block: Block) -> Result<Option<Arc<OpenReplica>>> {
        let mut replicas = self.replicas.lock();
        check_in_use(&replica.volume)?;
        let waiting = match replicas.get(&block.id) {
            None => None,
            Some(Entry::Open(open))
                if open.kind == OpenKind::Waiting
                    && replica.kind == OpenKind::Temporary
                    && open.block().generation_stamp <= block.generation_stamp =>
            {
                Some(Arc::clone(open))
            }
            Some(entry) => {
                return Err(DfsError::new(
                    ErrorKind::AlreadyExists,
                    format!("{block} is here already, {}", describe(entry)),
                ));
            }
        };
        if let Some(waiting) = &waiting {
            waiting.step(Step::Doomed);
            // The copy is told of once it is finalized, and this one would count until then, or for ever.
            self.publish(EventKind::Deleted, waiting.block(), &waiting.volume);
        }
        replicas.insert(block.id, Entry::Open(Arc::clone(replica)));
        Ok(waiting)
    }

    fn replace_finalized(&self, id: BlockId, old: &Finalized, new: Entry) -> Result<()> {
        let mut replicas = self.replicas.lock();
        if let Entry::Open(replica) = &new {
            check_in_use(&replica.volume)?;
        }
        let unchanged = matches!(replicas.get(&id), Some(Entry::Finalized(now)) if now == old);
        if !unchanged {
            return Err(DfsError::new(ErrorKind::Busy, format!("blk_{id} changed meanwhile, try again")));
        }
        replicas.insert(id, new);
        Ok(())
    }

    /// Shows a finalized replica as one that is open, which takes what it has with it. Its checksums are counted again when it is
    /// finalized, at the length that it then has. A sync of it that is under way is waited for: were it to fail later, the
    /// kernel would tell the descriptors of the new writer nothing of that.
    fn reopen(&self, old: &Finalized, replica: &Arc<OpenReplica>) -> Result<()> {
        let _syncing = replica.dirs.lock_sync(replica.id);
        self.replace_finalized(replica.id, old, Entry::Open(Arc::clone(replica)))?;
        replica.volume.space.subtract(checksums_len(old));
        Ok(())
    }

    /// Shows an open replica whose files are where finalized ones belong as finalized; `before` is what was known of them. To be
    /// done with the map locked: a promise or a failed sync that comes later finds the record.
    fn close(&self, entry: &mut Entry, replica: &OpenReplica, state: &OpenState, before: Condition) {
        let volume = replica.volume.index();
        if state.doubted().is_some() {
            self.suspects.add(volume, &self.name, replica.id);
        }
        let record = Finalized {
            generation_stamp: state.generation_stamp(),
            length: state.on_disk(),
            volume,
            maybe_synced: state.promised() > 0,
            condition: if state.doubted().is_some() { Condition::Suspect } else { before },
        };
        replica.volume.space.add(checksums_len(&record));
        *entry = Entry::Finalized(record);
    }

    /// Shows a replica as finalized, and has the NameNodes told of it.
    fn close_and_tell(&self, replica: &Arc<OpenReplica>) -> Result<Block> {
        let mut replicas = self.replicas.lock();
        match replicas.get_mut(&replica.id) {
            Some(entry) if is_same(entry, replica) => {
                let state = replica.state();
                self.close(entry, replica, &state, Condition::Sound);
                let block = replica.block_of(&state);
                self.publish(EventKind::Received, block, &replica.volume);
                Ok(block)
            }
            _ => {
                let words = format!("{} was deleted while it was being finalized", replica.block());
                Err(DfsError::new(ErrorKind::Cancelled, words))
            }
        }
    }

    /// Shows a replica as finalized again that was reopened in vain, if it still is as is asked.
    fn put_back(&self, replica: &Arc<OpenReplica>, is_as_before: impl FnOnce(&OpenState) -> bool, before: Condition) {
        let mut replicas = self.replicas.lock();
        let Some(entry) = replicas.get_mut(&replica.id).filter(|entry| is_same(entry, replica)) else { return };
        replica.change(|state| {
            if is_as_before(state) {
                self.close(entry, replica, state, before);
                // Whoever still holds it must leave the files alone.
                state.step(Step::Doomed);
            }
        });
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
    pub(super) fn finalize(&self, writer: &mut ReplicaWriter, sync: bool) -> Result<Block> {
        let replica = Arc::clone(writer.replica());
        let _writing = replica.writing.lock();
        if !writer.is_current() {
            return Err(DfsError::new(ErrorKind::Cancelled, "another writer has taken over"));
        }
        self.finalize_held(writer, sync)
    }

    /// With the replica's `writing` lock held.
    fn finalize_held(&self, writer: &mut ReplicaWriter, sync: bool) -> Result<Block> {
        writer.move_to_finalized(sync)?;
        self.close_and_tell(writer.replica())
    }

    /// See `ReplicaStore::open_reader`.
    pub(super) fn open_reader(&self, block: Block, wanted_end: u64) -> Result<ReplicaReader> {
        for _ in 0..OPEN_TRIES {
            match self.lookup(block)? {
                Entry::Finalized(finalized) => {
                    let kept = self.replicas.lock().open_files(block.id, &finalized);
                    if let Some(kept) = kept {
                        if kept.are_of(finalized.length) {
                            let (volume, _) = self.home_of(&finalized);
                            let Finalized { generation_stamp, length, .. } = finalized;
                            let found = Block { generation_stamp, length, ..block };
                            let reader = ReplicaReader::of_finalized(found, kept, volume);
                            return Ok(reader.with_doubts(&self.suspects, &self.name));
                        }
                        // By their names it is seen what became of them.
                        self.replicas.lock().close_files(block.id);
                    }
                    let doubt = |error: &io::Error| {
                        if !is_shortage(error) {
                            self.suspects.add(finalized.volume, &self.name, block.id);
                        }
                    };
                    if let Some(reader) = self.open_finalized(block, &finalized, DiskFile::open, doubt)? {
                        self.replicas.lock().keep_open(block.id, &finalized, reader.files());
                        return Ok(reader.with_doubts(&self.suspects, &self.name));
                    }
                }
                Entry::Open(replica) => {
                    replica.wait_visible(wanted_end, READER_PATIENCE);
                    return ReplicaReader::open_growing(&replica);
                }
                Entry::Deleting(_) => return Err(not_found(block)),
            }
        }
        Err(DfsError::new(ErrorKind::Busy, format!("{block} keeps changing, try again")))
    }

    /// The entry of a block, with at least the generation stamp asked for.
    fn lookup(&self, block: Block) -> Result<Entry> {
        let entry = self.replicas.lock().get(&block.id).cloned().ok_or_else(|| not_found(block))?;
        let stamp = match &entry {
            Entry::Finalized(finalized) => finalized.generation_stamp,
            Entry::Open(replica) if replica.kind != OpenKind::Temporary => replica.state().generation_stamp(),
            Entry::Open(_) | Entry::Deleting(_) => return Err(not_found(block)),
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
            Entry::Open(replica) => replica.visible(&replica.state()),
            Entry::Deleting(_) => 0,
        })
    }

    /// See `ReplicaStore::report_page`.
    pub(super) fn report_page(&self, cursor: Cursor) -> ReportPage {
        let mut page = ReportPage::default();
        page.next = self.look_on(cursor.after, |id, entry| {
            page.items.extend(page_item(id, entry, cursor.volume));
        });
        page
    }

    /// Shows the next entries behind `after`, [`WALK_STEP`] at most, for the map is locked meanwhile; returns the last one's id
    /// when there may be more.
    fn look_on(&self, after: Option<BlockId>, mut show: impl FnMut(BlockId, &Entry)) -> Option<BlockId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        let replicas = self.replicas.lock();
        let mut shown = 0;
        for (&id, entry) in replicas.range((from, Bound::Unbounded)).take(WALK_STEP) {
            show(id, entry);
            last = Some(id);
            shown += 1;
        }
        last.filter(|_| shown == WALK_STEP)
    }

    /// Shows every entry that is there all the time; the map is locked for some of them at a time.
    fn walk(&self, mut show: impl FnMut(BlockId, &Entry)) {
        let mut after = self.look_on(None, &mut show);
        while after.is_some() {
            after = self.look_on(after, &mut show);
        }
    }
}

/// Has a replica verified that is a suspect from the beginning.
fn add_suspect(suspects: &Suspects, pool: &Arc<str>, id: BlockId, entry: &Entry) {
    if let Entry::Finalized(finalized) = entry
        && finalized.condition == Condition::Suspect
    {
        suspects.add(finalized.volume, pool, id);
    }
}

/// Refuses what would give a replica on a failed volume a record. To be asked with the map locked: whoever takes the volume's
/// replicas out, after it has failed, may be past this one's id.
fn check_in_use(volume: &Volume) -> Result<()> {
    if volume.is_failed() {
        return Err(DfsError::new(ErrorKind::Io, format!("volume {} has failed", volume.root().display())));
    }
    Ok(())
}

fn is_same(entry: &Entry, replica: &Arc<OpenReplica>) -> bool {
    matches!(entry, Entry::Open(open) if Arc::ptr_eq(open, replica))
}

fn describe(entry: &Entry) -> String {
    match entry {
        Entry::Finalized(finalized) => {
            format!("finalized with generation stamp {} and {} bytes", finalized.generation_stamp, finalized.length)
        }
        Entry::Open(replica) => format!("{:?} as {}", replica.kind, replica.block()),
        Entry::Deleting(_) => "being deleted".to_owned(),
    }
}

/// Names of a replica's data and checksums in a directory.
fn pair(dir: &Path, id: BlockId, stamp: GenerationStamp) -> (PathBuf, PathBuf) {
    (dir.join(layout::data_name(id)), dir.join(layout::meta_name(id, stamp)))
}

/// Bytes that a finalized replica takes.
fn used(finalized: &Finalized) -> ByteCount {
    ByteCount(finalized.length + checksums_len(finalized).0)
}

/// Bytes of a finalized replica's checksum file.
fn checksums_len(finalized: &Finalized) -> ByteCount {
    ByteCount(MetaHeader { checksum: DataChecksum::DEFAULT }.meta_len(finalized.length))
}

fn not_found(block: Block) -> DfsError {
    DfsError::new(ErrorKind::NotFound, format!("no replica of {block} on this DataNode"))
}
