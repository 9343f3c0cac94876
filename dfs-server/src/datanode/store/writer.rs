//! The one writer of an open replica.
//!
//! Each packet goes to the data file, then to the checksums, then into the replica's state, whence readers take it; the
//! caller acknowledges after that, so whatever is acknowledged survives the death of this process.
//!
//! **An hsynced partial chunk stays provable.** The checksum of a chunk that is still growing lies in one place of the
//! `.meta` file, and each packet overwrites it. After a sync at length L inside chunk k, the device holds CRC(chunk k up
//! to L). Were it overwritten at once by CRC(up to M), a loss of power could leave the new CRC with the old data: nothing
//! would prove the synced bytes. So, before the entry of a chunk whose head was promised is overwritten, the data that
//! the new CRC speaks of is synced. Then on every possible state of the device, entry k is the CRC of some prefix of
//! chunk k that is at least as long as promised and whose bytes are all there; recovery looks for that prefix
//! (`recovery::verified_prefix`). The price is one fdatasync when an unsynced packet follows a synced one inside the same
//! chunk; a synced packet costs nothing more, since it syncs its data anyway.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::units::ByteCount;

use super::append_plan::{AppendPlan, Refusal, Tail, plan_append};
use super::disk::{self, DiskFile};
use super::meta_file::MetaFile;
use super::open_state::{Place, Step};
use super::replica::{Finalized, HeldFiles, OpenReplica};
use super::writeback::DirtyRange;

/// Dirty bytes after which the kernel is asked to start writing: large enough for long device writes, small enough that
/// an fsync at any time finds little left.
const WRITEBACK_STEP: u64 = 8 << 20;
/// Bytes written between two looks at the volume's free space; so much less is `dfs.datanode.du.reserved` exact.
const SPACE_CHECK_STEP: u64 = 4 << 20;

/// Writes one open replica. Dropped without `finish`, it leaves the replica as it is: waiting for recovery, or for the
/// deletion of its block.
#[derive(Debug)]
pub(crate) struct ReplicaWriter {
    replica: Arc<OpenReplica>,
    data: Arc<DiskFile>,
    meta: MetaFile,
    writeback_from: u64,
    drop_behind: bool,
    space_checked_at: u64,
    directory_synced: bool,
    /// Nothing was written since this writer has synced both files.
    files_synced: bool,
    /// The finalized replica that this writer extends.
    appended_to: Option<Finalized>,
    /// Its number among the replica's writers.
    turn: u64,
}

impl ReplicaWriter {
    /// Makes the files of a new replica.
    pub(super) fn create(replica: Arc<OpenReplica>, files: &HeldFiles<'_>) -> io::Result<Self> {
        let (data, meta) = (DiskFile::create(&files.data)?, MetaFile::create(&files.meta, replica.checksum, &[])?);
        Ok(Self::new(replica, 0, false, data, meta))
    }

    /// Makes the files of a new replica with all that it will ever have. Checksums first: a crash then leaves data that are
    /// shorter than they say, which restart recovery sees.
    pub(super) fn create_whole(
        replica: Arc<OpenReplica>,
        files: &HeldFiles<'_>,
        whole: &AppendPlan<'_>,
    ) -> io::Result<Self> {
        let meta = MetaFile::create(&files.meta, replica.checksum, &whole.checksums)?;
        let data = DiskFile::create(&files.data)?;
        data.write_all_at(whole.data, 0)?;
        replica.change(|state| {
            state.step(Step::Grown(whole.tail));
            state.step(Step::Acked(whole.tail.length));
        });
        Ok(Self::new(replica, 0, false, data, meta))
    }

    /// Opens a replica's files for the writer whose turn this is; it may be over by then. `directory_synced` says that their
    /// names are on disk.
    pub(super) fn open(replica: Arc<OpenReplica>, turn: u64, directory_synced: bool) -> io::Result<Self> {
        let files = replica.hold_files();
        let data = DiskFile::open_writable(&files.data)?;
        let meta = MetaFile::open(&files.meta, DiskFile::open_writable)?;
        drop(files);
        Ok(Self::new(replica, turn, directory_synced, data, meta))
    }

    fn new(replica: Arc<OpenReplica>, turn: u64, directory_synced: bool, data: DiskFile, meta: MetaFile) -> Self {
        let length = replica.block().length;
        Self {
            turn,
            replica,
            data: Arc::new(data),
            meta,
            writeback_from: length,
            drop_behind: false,
            space_checked_at: length,
            directory_synced,
            files_synced: false,
            appended_to: None,
        }
    }

    /// Remembers what to go back to when nothing is written.
    pub(super) fn set_appended_to(&mut self, old: Finalized) {
        self.appended_to = Some(old);
    }

    /// Whether the page cache is to forget what has reached the disk, but for the last few megabytes.
    pub(crate) fn set_drop_behind(&mut self, drop_behind: bool) {
        self.drop_behind = drop_behind;
    }

    /// The finalized replica that this writer extends.
    pub(super) fn appended_to(&self) -> Option<Finalized> {
        self.appended_to
    }

    /// Whether no other writer has taken the replica over. Certain only under the replica's `writing` lock.
    pub(super) fn is_current(&self) -> bool {
        self.replica.turn() == self.turn
    }

    /// Names the connection by which packets come, which ends with this writer's turn.
    pub(crate) fn set_feed(&self, feed: &Arc<TcpStream>) {
        self.replica.set_feed(feed);
    }

    /// What has the device checked when it does not answer.
    pub(crate) fn volume_suspect(&self) -> impl FnOnce() + Send + use<> {
        // Kept for as long as anybody might want to call it: it must not keep the volume in use.
        let volume = Arc::downgrade(&self.replica.volume);
        move || {
            if let Some(volume) = volume.upgrade() {
                volume.suspect();
            }
        }
    }

    /// Whether it extends a replica that was finalized.
    pub(crate) fn is_reopened(&self) -> bool {
        self.appended_to.is_some()
    }

    /// Whether no byte of the replica was acknowledged.
    pub(crate) fn has_no_acks(&self) -> bool {
        self.replica.state().acked() == 0
    }

    /// Whether not a single byte came.
    pub(crate) fn is_empty(&self) -> bool {
        self.replica.block().length == 0
    }

    /// What it has written has become a replica of another kind, which nobody else has taken over yet.
    pub(super) fn turn_to(&mut self, replica: Arc<OpenReplica>) {
        self.turn = replica.turn();
        self.replica = replica;
    }

    /// The replica being written.
    pub(super) fn replica(&self) -> &Arc<OpenReplica> {
        &self.replica
    }

    /// Writes what is new of a packet's data, and its checksums, which the caller has verified whenever `offset` is not
    /// the start of a chunk.
    ///
    /// # Errors
    /// `Protocol` or `Corrupt` when the packet does not fit what is there, `NoSpace`, `Io`, `Cancelled` when the block's
    /// deletion was ordered. The replica is then as before, or takes no more when it cannot be brought back to that.
    pub(crate) fn append(&mut self, offset: u64, data: &[u8], checksums: &[u8]) -> Result<()> {
        let replica = Arc::clone(&self.replica);
        let _writing = replica.writing.lock();
        self.check_turn()?;
        let (tail, promised) = {
            let state = replica.state();
            state.check_writable()?;
            (state.tail(), state.promised())
        };
        let plan = plan_append(tail, replica.checksum, offset, data, checksums).map_err(|refusal| {
            let kind =
                if matches!(refusal, Refusal::Changed { .. }) { ErrorKind::Corrupt } else { ErrorKind::Protocol };
            DfsError::new(kind, refusal.to_string())
        })?;
        if plan.data.is_empty() {
            return Ok(());
        }
        self.check_space(plan.tail.length)?;
        self.files_synced = false;
        let chunk = replica.checksum.bytes_per_checksum() as u64;
        let chunk_start = tail.length - tail.length % chunk;
        let promised = tail.length > chunk_start && promised > chunk_start;
        let written = self.write(tail.length, plan.data, &plan.checksums, promised);
        if written.is_err() && self.take_back(tail, chunk_start, promised).is_err() {
            // The files are not what the state says: only a recovery, which looks at them, may still make something of them.
            replica.step(Step::Doubted(0));
        }
        replica.volume.check(written, || format!("write {}", replica.block()))?;
        replica.step(Step::Grown(plan.tail));
        self.start_writeback(plan.tail.length);
        Ok(())
    }

    fn check_turn(&self) -> Result<()> {
        if self.is_current() {
            Ok(())
        } else {
            Err(DfsError::new(ErrorKind::Cancelled, "another writer has taken over"))
        }
    }

    fn write(&self, at: u64, data: &[u8], checksums: &[u8], promised: bool) -> io::Result<()> {
        self.data.write_all_at(data, at)?;
        if promised {
            self.replica.sync_with(|| self.data.sync_data())?;
        }
        self.meta.write_checksums(at, checksums)
    }

    /// Brings the files back to `tail`. The new bytes of a chunk stay until its checksum no longer speaks of them: otherwise
    /// nothing would prove the part of it that was promised.
    fn take_back(&self, tail: Tail, chunk_start: u64, promised: bool) -> io::Result<()> {
        let Self { data, meta, replica, .. } = self;
        if tail.length > chunk_start {
            meta.write_checksums(chunk_start, &tail.crc.to_be_bytes())?;
            if promised {
                replica.sync_with(|| meta.file().sync_data())?;
            }
        }
        meta.file().set_len(meta.header().meta_len(tail.length))?;
        data.set_len(tail.length)
    }

    fn check_space(&mut self, length: u64) -> Result<()> {
        if length < self.space_checked_at + SPACE_CHECK_STEP {
            return Ok(());
        }
        self.space_checked_at = length;
        self.replica.volume.require_space(ByteCount(SPACE_CHECK_STEP))
    }

    fn start_writeback(&mut self, length: u64) {
        let dirty = length - self.writeback_from;
        if dirty < WRITEBACK_STEP {
            return;
        }
        let range = DirtyRange {
            file: Arc::clone(&self.data),
            offset: self.writeback_from,
            length: dirty,
            drop_behind: self.drop_behind,
        };
        if self.replica.volume.writeback.start(range) {
            self.writeback_from = length;
        }
    }

    /// Makes everything written so far survive a loss of power: data, checksums, and the first time the directory.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.check_turn()?;
        let (promised, place) = self.promise();
        let synced = self.replica.sync_promised(promised, || {
            self.sync_files()?;
            if self.directory_synced { Ok(()) } else { disk::sync_dir(&self.replica.dir(place)) }
        });
        self.replica.volume.check(synced, || format!("sync {}", self.replica.block()))?;
        self.directory_synced = true;
        self.files_synced = true;
        Ok(())
    }

    /// Takes note that what is written now is being promised; returns how much that is, and where the files are.
    fn promise(&self) -> (u64, Place) {
        self.replica.change(|state| {
            state.step(Step::Promised);
            (state.promised(), state.place())
        })
    }

    fn sync_files(&self) -> io::Result<()> {
        // Both writes are under way before the first is waited for.
        self.meta.file().start_writeback(0, 0);
        self.data.sync_data()?;
        self.meta.file().sync_data()
    }

    /// Makes bytes visible to readers: this node and all behind it have them.
    pub(crate) fn set_acked(&self, length: u64) {
        if !self.is_current() {
            return;
        }
        self.replica.step(Step::Acked(length));
    }

    /// Moves the files into the finalized directory, unless they were made there, durably when `sync` asks for it or bytes of
    /// the replica were promised before. The caller then changes the map.
    pub(super) fn move_to_finalized(&mut self, sync: bool) -> Result<()> {
        let (place, durable) = {
            let state = self.replica.state();
            (state.place(), sync || state.promised() > 0)
        };
        let replica = &self.replica;
        let moved = replica.dirs.make_finalized_dir(replica.id).and_then(|dir| {
            if place != Place::Finalized {
                self.rename_to_finalized()?;
            }
            if durable {
                // After the renames, so that one flush of the file system's log serves both. A loss of power before the
                // data is down leaves files whose lengths do not agree, and recovery sees it.
                let (promised, _) = self.promise();
                replica.sync_promised(promised, || {
                    if !self.files_synced {
                        self.sync_files()?;
                    }
                    disk::sync_dir(&dir)
                })?;
            }
            Ok(())
        });
        replica.volume.check(moved, || format!("finalize {}", replica.block()))
    }

    fn rename_to_finalized(&self) -> io::Result<()> {
        let replica = &self.replica;
        let files = replica.hold_files();
        // Of a kind that blames no device.
        replica.state().check_writable().map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
        files.move_to(replica, Place::Finalized, files.generation_stamp)?;
        replica.change(|state| state.step(Step::Acked(state.on_disk())));
        Ok(())
    }
}
