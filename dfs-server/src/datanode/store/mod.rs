//! The replica store: every block replica of this node, on its volumes.
//!
//! Nouns: a *volume* is one directory on one device; a *pool* is the set of blocks of one namespace; a *replica* is one
//! block's pair of files on one volume (`replica` tells its states). The map of replicas is in memory, rebuilt from the
//! directories at start (`scan`, `recovery`); the files are the truth.
//!
//! Callers: `block_receiver` creates, extends and finalizes; `block_sender` reads; `orders` deletes; `namenode_link` asks
//! for reports. Calls that touch a disk block and must not be made on a runtime's worker.
//!
//! Promises:
//! - A finalized replica's bytes never change; appending extends the file under a new generation stamp.
//! - After a crash of this process every acknowledged byte is there; after a loss of power every synced one.
//! - A volume that fails takes only its own replicas with it: they are reported as deleted, the others are served.
//! - A sync that failed is not forgotten (`replica`), and what is doubted is verified on its device (`suspects`).
//! - Every change is published to the NameNode links in the order it happened (`events`).

mod append_plan;
mod aside;
mod disk;
mod events;
mod faults;
mod layout;
mod look;
mod meta_file;
mod open_state;
mod pool;
mod pool_dirs;
mod reader;
mod readmission;
mod recovery;
mod replica;
mod report;
mod room;
mod scan;
mod space;
mod suspects;
mod volume;
mod volume_dir;
mod volumes;
mod writeback;
mod writer;

#[cfg(test)]
mod store_tests;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_common::units::ByteCount;
use dfs_proto::data_transfer::DataChecksum;
use parking_lot::{Mutex, RwLock};

#[cfg(test)]
pub(crate) use disk::watch;
use events::EventHub;
pub(crate) use events::{Event, EventKind, EventQueue};
pub(crate) use faults::is_shortage;
pub(crate) use pool::{DirectoryFindings, UnderRecovery, Whole};
pub(crate) use reader::ReplicaReader;
pub(crate) use replica::OpenKind;
pub(crate) use report::{Cursor, ReportPage};
pub(crate) use suspects::{Suspect, Suspects};
pub(crate) use volume::{Volume, VolumeIndex};
pub(crate) use volumes::{Identity, VolumeReport, Volumes};
pub(crate) use writer::ReplicaWriter;

use pool::Pool;
use readmission::Readmissions;

/// Block pools of one node: one per namespace it serves, and a federation has few.
const POOLS_MAX: usize = 64;

/// What the store is told at start.
#[derive(Clone, Debug)]
pub(crate) struct StoreSettings {
    /// One directory per volume.
    pub(crate) data_dirs: Vec<PathBuf>,
    /// Bytes that blocks leave free on each.
    pub(crate) reserved: ByteCount,
    /// Whether every finalized replica is synced.
    pub(crate) sync_on_close: bool,
    /// Replicas of a pool whose two files stay open after they were read.
    pub(crate) open_max: usize,
}

/// All replicas of this node.
#[derive(Debug)]
pub(crate) struct ReplicaStore {
    volumes: Volumes,
    /// Locked for moments, never over a call to a device: heartbeats and status pages need it.
    pools: RwLock<HashMap<Arc<str>, Arc<Pool>>>,
    events: Arc<EventHub>,
    suspects: Arc<Suspects>,
    sync_on_close: bool,
    open_max: usize,
    readmissions: Mutex<Readmissions>,
    /// Held while a pool is loaded from its volumes, however long they take. Before `pools`.
    loading: Mutex<()>,
}

impl ReplicaStore {
    /// Takes the volumes and loads the replicas of every pool on them.
    ///
    /// # Errors
    /// When no volume is usable, or two volumes belong to different clusters or DataNodes.
    pub(crate) fn open(settings: &StoreSettings) -> Result<Self> {
        let volumes = Volumes::open(&settings.data_dirs, settings.reserved)?;
        let store = Self {
            volumes,
            pools: RwLock::default(),
            events: Arc::default(),
            suspects: Arc::default(),
            sync_on_close: settings.sync_on_close,
            open_max: settings.open_max,
            readmissions: Mutex::default(),
            loading: Mutex::default(),
        };
        for pool in store.volumes.pools_on_disk() {
            store.load_pool(&pool)?;
        }
        Ok(store)
    }

    /// Meets a namespace: checks that the volumes are its cluster's, formats empty ones, loads its pool.
    ///
    /// # Errors
    /// `WrongCluster` when a volume belongs to another cluster.
    pub(crate) fn adopt(&self, identity: &Identity) -> Result<()> {
        if !identity.block_pool_id.starts_with(layout::POOL_PREFIX) || identity.block_pool_id.contains('/') {
            return Err(DfsError::new(
                ErrorKind::Protocol,
                format!("block pool {:?} cannot be the name of a directory", identity.block_pool_id),
            ));
        }
        self.volumes.adopt(identity)?;
        self.load_pool(&identity.block_pool_id)
    }

    fn load_pool(&self, pool: &str) -> Result<()> {
        let _loading = self.loading.lock();
        {
            let pools = self.pools.read();
            if pools.contains_key(pool) {
                return Ok(());
            }
            if pools.len() >= POOLS_MAX {
                return Err(DfsError::new(ErrorKind::Unsupported, format!("more than {POOLS_MAX} block pools")));
            }
        }
        let (events, suspects) = (Arc::clone(&self.events), Arc::clone(&self.suspects));
        let loaded = Arc::new(Pool::load(pool, &self.volumes, events, suspects, self.open_max)?);
        self.pools.write().insert(loaded.name(), loaded);
        // One may have failed meanwhile: of this pool nobody knew who took its replicas out, of others nobody has taken them out
        // when it was this scan that has failed.
        let failed = self.volumes.all().into_iter().filter(|volume| volume.is_failed());
        self.drop_volumes(failed.map(|volume| volume.index()));
        Ok(())
    }

    /// Takes the replicas of failed volumes out.
    fn drop_volumes(&self, failed: impl Iterator<Item = VolumeIndex>) {
        let pools: Vec<_> = self.pools.read().values().cloned().collect();
        for index in failed {
            pools.iter().for_each(|pool| pool.drop_volume(index));
        }
    }

    fn pool(&self, name: &str) -> Result<Arc<Pool>> {
        self.pools
            .read()
            .get(name)
            .cloned()
            .ok_or_else(|| DfsError::new(ErrorKind::NotFound, format!("block pool {name} is not served here (yet)")))
    }

    /// The volumes.
    pub(crate) fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// A queue of all changes from now on.
    pub(crate) fn subscribe(&self) -> Arc<EventQueue> {
        self.events.subscribe()
    }

    /// Begins a new replica on a volume with room.
    ///
    /// # Errors
    /// `AlreadyExists`, `NoSpace`, `Io`.
    pub(crate) fn create(
        &self,
        block: &ExtendedBlock,
        kind: OpenKind,
        checksum: DataChecksum,
        storage_hint: Option<&str>,
    ) -> Result<ReplicaWriter> {
        let pool = self.pool(&block.pool)?;
        pool.create(block.block, kind, checksum, |dirs| self.volumes.choose(storage_hint, dirs))
    }

    /// Writes a new replica of which everything is there, and finalizes it, on disk too when `sync` asks for it. When that fails
    /// nothing is left of it. The writer has nothing more to write: dropping it closes the files.
    ///
    /// # Errors
    /// `AlreadyExists`, `NoSpace`, `Io`, `Cancelled` when its deletion was ordered meanwhile.
    pub(crate) fn write_whole(
        &self,
        block: &ExtendedBlock,
        checksum: DataChecksum,
        whole: Whole<'_>,
        sync: bool,
        storage_hint: Option<&str>,
    ) -> Result<ReplicaWriter> {
        let sync = sync || self.sync_on_close;
        let choose = |dirs: &dyn Fn(VolumeIndex) -> bool| self.volumes.choose(storage_hint, dirs);
        self.pool(&block.pool)?.write_whole(block.block, checksum, whole, sync, choose)
    }

    /// Reopens a finalized replica to extend it under a new generation stamp.
    ///
    /// # Errors
    /// `NotFound`, `StaleGeneration`, `InvalidArgument` when it has another length, `Corrupt`, `Io`.
    pub(crate) fn append(&self, block: &ExtendedBlock, new_stamp: GenerationStamp) -> Result<ReplicaWriter> {
        self.pool(&block.pool)?.append(block.block, new_stamp)
    }

    /// Goes on with a replica in a pipeline that was rebuilt, under a new generation stamp: its writer so far is stopped,
    /// and what nobody was told it has is cut off. Of its bytes at least the first of `bytes` must have been acknowledged,
    /// and it may not have more than the last.
    ///
    /// # Errors
    /// `NotFound`, `StaleGeneration`, `InvalidArgument` when it has other lengths, `Busy` when its writer hangs, `Corrupt`,
    /// `Io`.
    pub(crate) fn resume(
        &self,
        block: &ExtendedBlock,
        new_stamp: GenerationStamp,
        bytes: RangeInclusive<u64>,
    ) -> Result<ReplicaWriter> {
        self.pool(&block.pool)?.resume(block.block, new_stamp, bytes)
    }

    /// Makes a finished copy a replica that a pipeline goes on with, and tells the NameNodes of it. From then on the writer is
    /// that replica's: to be discarded if the pipeline cannot have it after all.
    ///
    /// # Errors
    /// `Io`, `Cancelled` when its deletion was ordered meanwhile.
    pub(crate) fn convert_to_rbw(&self, pool: &str, writer: &mut ReplicaWriter) -> Result<()> {
        self.pool(pool)?.convert_to_rbw(writer)
    }

    /// Tells the NameNodes that a replica is being written; worth it only for writes that take their time.
    pub(crate) fn announce(&self, pool: &str, writer: &ReplicaWriter) -> Result<()> {
        self.pool(pool)?.announce(writer);
        Ok(())
    }

    /// Ends writing: the replica is finalized, on disk too when `sync` or an earlier promise asks for it. Its files stay
    /// open until the writer is dropped, which takes time that nobody who waits for an answer should spend.
    ///
    /// # Errors
    /// `Io`, `Cancelled` when its deletion was ordered meanwhile.
    pub(crate) fn finalize(&self, pool: &str, writer: &mut ReplicaWriter, sync: bool) -> Result<Block> {
        self.pool(pool)?.finalize(writer, sync || self.sync_on_close)
    }

    /// Gives up a replica that nobody was promised anything about: a copy, or a set-up that failed.
    pub(crate) fn discard(&self, pool: &str, writer: ReplicaWriter) -> Result<()> {
        self.pool(pool)?.discard(writer);
        Ok(())
    }

    /// Opens a replica for reading at least `wanted_end` bytes, for which a writer in flight is given a moment.
    ///
    /// # Errors
    /// `NotFound`, `StaleGeneration`, `Corrupt`, `Io`.
    pub(crate) fn open_reader(&self, block: &ExtendedBlock, wanted_end: u64) -> Result<ReplicaReader> {
        self.pool(&block.pool)?.open_reader(block.block, wanted_end)
    }

    /// Bytes of a replica that may be read.
    ///
    /// # Errors
    /// `NotFound`, `StaleGeneration`.
    pub(crate) fn visible_length(&self, block: &ExtendedBlock) -> Result<u64> {
        self.pool(&block.pool)?.visible_length(block.block)
    }

    /// Makes a replica survive a loss of power: data, checksums, directory entry.
    ///
    /// # Errors
    /// `NotFound`, `StaleGeneration`, `Io`, `Corrupt`. After a failure it fails until the replica was verified on its device.
    pub(crate) fn sync(&self, block: &ExtendedBlock) -> Result<()> {
        self.pool(&block.pool)?.sync(block.block)
    }

    /// Takes a replica from its writer for a block recovery and tells what it has, every byte of it verified that is not
    /// known to be on disk; finalized ones are not verified for a truncation. `None` when there is no replica.
    ///
    /// # Errors
    /// `StaleGeneration` when a newer recovery has it, `NotFound` when its files are gone, which the NameNodes are told,
    /// `Unavailable` when it may lie on a volume that has failed and may come back, `Io`.
    pub(crate) fn init_recovery(
        &self,
        block: &ExtendedBlock,
        recovery_id: GenerationStamp,
        is_truncation: bool,
    ) -> Result<Option<UnderRecovery>> {
        // Before and after: one may come back, or go, while it is looked for.
        let were_all_there = self.volumes.check_all_there();
        let found = self.pool(&block.pool)?.init_recovery(block.block, recovery_id, is_truncation)?;
        if found.is_none() {
            were_all_there.and_then(|()| self.volumes.check_all_there())?;
        }
        Ok(found)
    }

    /// Cuts a replica taken by `init_recovery` to `length` and finalizes it under the recovery's generation stamp, durably.
    /// `old` is what it was said to be. Returns its volume's uuid. Repeating it does no harm.
    ///
    /// # Errors
    /// `StaleGeneration` when it is not this recovery's (any more), `Corrupt`, `Io`.
    pub(crate) fn update_recovered(
        &self,
        old: &ExtendedBlock,
        recovery_id: GenerationStamp,
        length: u64,
    ) -> Result<Arc<str>> {
        self.pool(&old.pool)?.update_recovered(old.block, recovery_id, length)
    }

    /// Deletes a replica of exactly this generation stamp. One that is not there is reported as deleted.
    ///
    /// # Errors
    /// `StaleGeneration`, `Io`.
    pub(crate) fn invalidate(&self, block: &ExtendedBlock) -> Result<()> {
        self.pool(&block.pool)?.invalidate(block.block)
    }

    /// The volume that a replica of this block lies on.
    pub(crate) fn volume_of(&self, block: &ExtendedBlock) -> Option<VolumeIndex> {
        self.pools.read().get(&*block.pool)?.volume_of(block.block.id)
    }

    /// Compares the finalized files of one volume with the records of them, and mends the records. Ends early when `is_over`.
    ///
    /// # Errors
    /// `NotFound` for a pool that is gone, `Io`.
    pub(crate) fn compare_directory(
        &self,
        pool: &str,
        volume: VolumeIndex,
        is_over: &dyn Fn() -> bool,
    ) -> Result<DirectoryFindings> {
        self.pool(pool)?.compare_directory(volume, is_over)
    }

    /// What waits to be verified.
    pub(crate) fn suspects(&self) -> &Arc<Suspects> {
        &self.suspects
    }

    /// Has a finalized replica verified soon; the NameNodes are told how it is.
    pub(crate) fn doubt(&self, block: &ExtendedBlock) -> Result<()> {
        self.pool(&block.pool)?.doubt(block.block);
        Ok(())
    }

    /// Opens a finalized replica to be read as its device has it. One whose sync has failed is synced once more before.
    ///
    /// # Errors
    /// `NotFound`, `StaleGeneration`, `Corrupt`, `Io`, `Busy` when it is being written.
    pub(crate) fn open_on_device(&self, block: &ExtendedBlock) -> Result<ReplicaReader> {
        self.pool(&block.pool)?.open_on_device(block.block)
    }

    /// The finalized replica of a block that is here.
    pub(crate) fn finalized(&self, block: &ExtendedBlock) -> Option<Block> {
        self.pools.read().get(&*block.pool)?.finalized(block.block.id)
    }

    /// Notes that a finalized replica of exactly this version does not match its checksums, and tells the NameNodes.
    pub(crate) fn report_corrupt(&self, block: &ExtendedBlock) -> Result<()> {
        self.pool(&block.pool)?.report_corrupt(block.block);
        Ok(())
    }

    /// Notes that a finalized replica of exactly this version was read from its device and is as it should be, and tells the
    /// NameNodes.
    pub(crate) fn report_good(&self, block: &ExtendedBlock) -> Result<()> {
        self.pool(&block.pool)?.report_good(block.block);
        Ok(())
    }

    /// Something that the NameNodes count on was dropped for want of room: has each of them sent a full report.
    pub(crate) fn ask_full_reports(&self) {
        self.events.overflow();
    }

    /// Blocks until an error was met on a volume, or `patience` is over; true when one was.
    pub(crate) fn wait_suspicion(&self, patience: Duration) -> bool {
        self.volumes.wait_suspicion(patience)
    }

    /// Gives the volumes up, at the end of the daemon.
    pub(crate) fn close(&self) {
        for volume in self.volumes.all() {
            volume.release();
        }
    }

    /// Ends a wait for suspicions.
    pub(crate) fn end_wait(&self) {
        self.volumes.end_wait();
    }

    /// The next page of a full report.
    pub(crate) fn report_page(&self, pool: &str, cursor: Cursor) -> Result<ReportPage> {
        Ok(self.pool(pool)?.report_page(cursor))
    }

    /// The newest block of a pool, as ids are given out in order.
    pub(crate) fn last_block(&self, pool: &str) -> Option<BlockId> {
        self.pools.read().get(pool)?.last_block()
    }

    /// Names of the pools.
    pub(crate) fn pool_names(&self) -> Vec<Arc<str>> {
        self.pools.read().keys().cloned().collect()
    }

    /// Replicas of all pools.
    pub(crate) fn replica_count(&self) -> usize {
        self.pools.read().values().map(|pool| pool.len()).sum()
    }

    /// Checks the volumes that met errors, or `all`, and takes out those that fail or have not answered for too long: their
    /// replicas are gone and reported so. Returns whether any was taken out.
    pub(crate) fn check_volumes(&self, all: bool) -> bool {
        let failed = self.volumes.probe_suspects(all);
        self.drop_volumes(failed.iter().copied());
        !failed.is_empty()
    }
}
