//! A replica whose writer is gone, or that is to be cut: taken over, told of, and finalized at the length agreed on.
//!
//! An open replica is cut in place: bytes that no other node has were never acknowledged. Its last checksum is put right
//! first, because a restart in between looks for the longest part of the last chunk that its checksum proves.
//!
//! A finalized replica's bytes never change (design D6): the shorter one is a new file, a clone where the file system can.
//!
//! ```text
//! tmp/ new pair --> rbw/ new pair --> old checksums gone --> old data gone --> finalized/ new pair
//!   restart: old      old             new waits for recovery     the same        new
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::checksum::crc32c;
use dfs_common::durable;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::GenerationStamp;
use dfs_common::units::ByteCount;
use dfs_proto::data_transfer::{DataChecksum, MetaHeader};
use dfs_proto::v1::ReplicaState;

use super::super::events::EventKind;
use super::super::layout;
use super::super::meta_file::MetaFile;
use super::super::recovery::verified_prefix;
use super::super::replica::{Entry, Finalized, HeldFiles, OpenKind, OpenReplica, OpenState, Place};
use super::append::{checksums_len, corrupt_tail, read_proven_tail};
use super::sync::sync_files;
use super::{Home, Pool, describe, is_same, not_found};

/// Bytes verified at once; whole chunks.
const VERIFY_STEP: usize = 1 << 20;

/// What a replica under recovery has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnderRecovery {
    /// With the bytes that its checksums prove as its length.
    pub(crate) block: Block,
    /// Before the recovery; a finalized one with bad bytes counts as waiting.
    pub(crate) state: ReplicaState,
    /// Bytes that somebody may have been told are on disk.
    pub(crate) synced: u64,
}

impl Pool {
    /// See `ReplicaStore::init_recovery`.
    pub(in crate::datanode::store) fn init_recovery(
        &self,
        block: Block,
        recovery_id: GenerationStamp,
        is_truncation: bool,
    ) -> Result<Option<UnderRecovery>> {
        let entry = self.replicas.lock().get(&block.id).cloned();
        match entry {
            None | Some(Entry::Deleting(_)) => Ok(None),
            Some(Entry::Open(replica)) if replica.kind == OpenKind::Temporary => Ok(None),
            Some(Entry::Open(replica)) => take_over(&replica, recovery_id),
            Some(Entry::Finalized(finalized)) => {
                check_older(block, finalized.generation_stamp, recovery_id)?;
                self.describe_finalized(block, &finalized, is_truncation).map(Some)
            }
        }
    }

    fn describe_finalized(&self, block: Block, finalized: &Finalized, is_truncation: bool) -> Result<UnderRecovery> {
        let (volume, dirs) = self.home_of(finalized);
        let dir = dirs.paths.finalized_dir(block.id);
        let proven = if is_truncation {
            finalized.length
        } else {
            let (data, meta) = pair(&dir, block.id.0, finalized.generation_stamp);
            let opened = File::open(data).and_then(|data| Ok((data, MetaFile::open(&meta, false)?)));
            let (data, meta) = volume.check(opened, || format!("open {block}"))?;
            volume.check(proven_length(&data, &meta, 0, finalized.length), || format!("verify {block}"))?
        };
        let state = if proven == finalized.length { ReplicaState::Finalized } else { ReplicaState::Rwr };
        Ok(UnderRecovery {
            block: Block { generation_stamp: finalized.generation_stamp, length: proven, ..block },
            state,
            synced: if finalized.maybe_synced { proven } else { 0 },
        })
    }

    /// See `ReplicaStore::update_recovered`.
    pub(in crate::datanode::store) fn update_recovered(
        &self,
        old: Block,
        recovery_id: GenerationStamp,
        length: u64,
    ) -> Result<Arc<str>> {
        let entry = self.replicas.lock().get(&old.id).cloned().ok_or_else(|| not_found(old))?;
        match &entry {
            Entry::Finalized(now) if (now.generation_stamp, now.length) == (recovery_id, length) => {
                Ok(self.home_of(now).0.storage_uuid())
            }
            Entry::Finalized(now)
                if now.generation_stamp == old.generation_stamp
                    && now.generation_stamp < recovery_id
                    && now.length >= length =>
            {
                if now.length == length {
                    self.restamp(old, now, recovery_id)
                } else {
                    self.cut(old, now, recovery_id, length)
                }
            }
            Entry::Open(replica) if replica.kind != OpenKind::Temporary => {
                cut_open(replica, old, recovery_id, length)?;
                self.finalize_recovered(replica, recovery_id)
            }
            Entry::Finalized(_) | Entry::Open(_) | Entry::Deleting(_) => Err(DfsError::new(
                ErrorKind::StaleGeneration,
                format!("{old} is not recovered to {length} bytes by {recovery_id}: it is {}", describe(&entry)),
            )),
        }
    }

    /// Gives a finalized replica of the right length its new generation stamp: one rename.
    fn restamp(&self, block: Block, old: &Finalized, stamp: GenerationStamp) -> Result<Arc<str>> {
        let home = self.home_of(old);
        let volume = Arc::clone(&home.0);
        let dir = home.1.paths.finalized_dir(block.id);
        volume.check(sync_files(&dir, block.id, old.generation_stamp), || format!("sync {block}"))?;
        let tail = volume.check(read_proven_tail(&dir, block.id, old), || format!("read the last chunk of {block}"))?;
        let tail = tail.ok_or_else(|| corrupt_tail(block))?;
        let replica = Arc::new(in_recovery(block, old, stamp, tail, home));
        self.replace_finalized(block.id, old, Entry::Open(Arc::clone(&replica)))?;
        // Counted again when it is finalized.
        volume.subtract_used(checksums_len(old));
        let restamped = self.finalize_recovered(&replica, stamp);
        if restamped.is_err() {
            self.undo_append(&replica, *old, Some(stamp));
        }
        restamped
    }

    /// Puts a shorter copy in the place of a finalized replica.
    fn cut(&self, block: Block, old: &Finalized, stamp: GenerationStamp, length: u64) -> Result<Arc<str>> {
        let (volume, dirs) = self.home_of(old);
        let finalized_dir = dirs.paths.finalized_dir(block.id);
        let doing = || format!("cut {block} to {length} bytes");
        let source = pair(&finalized_dir, block.id.0, old.generation_stamp);
        let copy = pair(&dirs.paths.tmp, block.id.0, stamp);
        let made = match make_copy(&source, &copy, old.length, length) {
            Ok(Some(made)) => made,
            Ok(None) => {
                remove_pair(&copy);
                self.report_corrupt(Block { generation_stamp: old.generation_stamp, length: old.length, ..block });
                return Err(DfsError::new(ErrorKind::Corrupt, format!("the chunk to cut of {block} is corrupt")));
            }
            Err(error) => {
                remove_pair(&copy);
                return volume.check(Err(error), doing);
            }
        };
        let home = (Arc::clone(&volume), Arc::clone(&dirs));
        let replica = Arc::new(in_recovery(block, old, stamp, (made.checksum, 0), home));
        // Whoever wants to read the replica waits for the moves.
        let files = replica.hold_files();
        if let Err(error) = self.replace_finalized(block.id, old, Entry::Open(Arc::clone(&replica))) {
            remove_pair(&copy);
            return Err(error);
        }
        let waiting = pair(&dirs.paths.rbw, block.id.0, stamp);
        let moved = fs::rename(&copy.1, &waiting.1).and_then(|()| fs::rename(&copy.0, &waiting.0));
        volume.check(moved.and_then(|()| durable::sync_dir(&dirs.paths.rbw)), doing)?;
        {
            let mut state = replica.state.lock();
            (state.place, state.generation_stamp) = (Place::Rbw, stamp);
            (state.on_disk, state.acked, state.synced, state.tail_crc) = (length, length, length, made.tail_crc);
        }
        let removed = fs::remove_file(&source.1).and_then(|()| fs::remove_file(&source.0));
        volume.check(removed, doing)?;
        volume.subtract_used(ByteCount(MetaHeader { checksum: made.checksum }.meta_len(old.length) + old.length));
        volume.add_used(ByteCount(length));
        drop(files);
        self.finalize_recovered(&replica, stamp)
    }

    /// Finalizes an open replica that has the length agreed on.
    fn finalize_recovered(&self, replica: &Arc<OpenReplica>, stamp: GenerationStamp) -> Result<Arc<str>> {
        let volume = &replica.volume;
        let doing = || format!("finalize {} after recovery {stamp}", replica.block());
        let dir = volume.check(replica.dirs.make_finalized_dir(replica.id), doing)?;
        let block = {
            let files = replica.hold_files();
            let before = replica.state.lock().clone();
            if before.doomed || before.recovery != Some(stamp) {
                return Err(overtaken(replica.block(), stamp));
            }
            // Checksums first, as `writer` does and restart recovery expects.
            let moved = fs::rename(&files.meta, replica.meta_path(Place::Finalized, stamp))
                .and_then(|()| fs::rename(&files.data, replica.data_path(Place::Finalized)));
            volume.check(moved, doing)?;
            let mut state = replica.state.lock();
            (state.place, state.generation_stamp) = (Place::Finalized, stamp);
            Block { id: replica.id, generation_stamp: stamp, length: state.on_disk }
        };
        volume.check(durable::sync_dir(&dir), doing)?;
        replica.notify();
        let finalized =
            Finalized { generation_stamp: stamp, length: block.length, volume: volume.index(), maybe_synced: true };
        let mut replicas = self.replicas.lock();
        match replicas.get_mut(&replica.id) {
            Some(entry) if is_same(entry, replica) => {
                *entry = Entry::Finalized(finalized);
                volume.add_used(ByteCount(MetaHeader { checksum: replica.checksum }.meta_len(block.length)));
                self.publish(EventKind::Received, block, volume);
                Ok(volume.storage_uuid())
            }
            _ => Err(DfsError::new(ErrorKind::Cancelled, format!("{block} was deleted while it was recovered"))),
        }
    }
}

/// A finalized replica as it is shown while recovery `stamp` changes it; with kind and CRC of its last chunk's checksum.
fn in_recovery(
    block: Block,
    old: &Finalized,
    stamp: GenerationStamp,
    (checksum, tail_crc): (DataChecksum, u32),
    home: Home,
) -> OpenReplica {
    let state = OpenState {
        generation_stamp: old.generation_stamp,
        on_disk: old.length,
        acked: old.length,
        synced: old.length,
        tail_crc,
        place: Place::Finalized,
        doomed: false,
        recovery: Some(stamp),
    };
    OpenReplica::new(block.id, OpenKind::Waiting, checksum, home, state)
}

/// Stops the writer of an open replica and looks at what it wrote.
fn take_over(replica: &OpenReplica, recovery_id: GenerationStamp) -> Result<Option<UnderRecovery>> {
    let (opened, state) = {
        // Not in the middle of a packet.
        let _writing = replica.writing.lock();
        let files = replica.hold_files();
        let state = {
            let mut state = replica.state.lock();
            if state.doomed {
                return Ok(None);
            }
            let block = Block { id: replica.id, generation_stamp: state.generation_stamp, length: state.on_disk };
            check_older(block, state.generation_stamp, recovery_id)?;
            if state.recovery.is_some_and(|newer| newer > recovery_id) {
                return Err(overtaken(block, recovery_id));
            }
            state.recovery = Some(recovery_id);
            state.clone()
        };
        let opened = File::open(&files.data).and_then(|data| Ok((data, MetaFile::open(&files.meta, false)?)));
        (opened, state)
    };
    replica.notify();
    let block = Block { id: replica.id, generation_stamp: state.generation_stamp, length: state.on_disk };
    let (data, meta) = replica.volume.check(opened, || format!("open {block}"))?;
    // A restart has verified the end only: what was synced before it is not remembered.
    let known = if replica.kind == OpenKind::Waiting { 0 } else { state.synced };
    let proven = proven_length(&data, &meta, known, state.on_disk);
    let proven = replica.volume.check(proven, || format!("verify {block}"))?;
    Ok(Some(UnderRecovery {
        block: Block { length: proven, ..block },
        state: if replica.kind == OpenKind::Waiting { ReplicaState::Rwr } else { ReplicaState::Rbw },
        // What its writer was told to be on disk was acknowledged first. More may have been on its way there, here alone.
        synced: state.synced.min(state.acked).min(proven),
    }))
}

fn check_older(block: Block, stamp: GenerationStamp, recovery_id: GenerationStamp) -> Result<()> {
    if stamp < recovery_id { Ok(()) } else { Err(overtaken(block, recovery_id)) }
}

fn overtaken(block: Block, recovery_id: GenerationStamp) -> DfsError {
    DfsError::new(ErrorKind::StaleGeneration, format!("a later recovery of {block} has overtaken {recovery_id}"))
}

/// Names of a replica's data and checksums in a directory.
fn pair(dir: &Path, id: u64, stamp: GenerationStamp) -> (PathBuf, PathBuf) {
    let id = dfs_common::ids::BlockId(id);
    (dir.join(layout::data_name(id)), dir.join(layout::meta_name(id, stamp)))
}

fn remove_pair(pair: &(PathBuf, PathBuf)) {
    // What cannot be removed from `tmp` goes at the next start.
    let _ = fs::remove_file(&pair.0);
    let _ = fs::remove_file(&pair.1);
}

/// How many of the first `length` bytes are what their checksums say; those below `known` are taken to be.
fn proven_length(data: &File, meta: &MetaFile, known: u64, length: u64) -> io::Result<u64> {
    let checksum = meta.checksum();
    let chunk = checksum.bytes_per_checksum() as u64;
    let mut at = known.min(length) / chunk * chunk;
    let mut bytes = vec![0; VERIFY_STEP.next_multiple_of(checksum.bytes_per_checksum())];
    let mut sums = vec![0; checksum.checksums_len(bytes.len())];
    while at < length {
        let len = (length - at).min(bytes.len() as u64) as usize;
        let (bytes, sums) = (&mut bytes[..len], &mut sums[..checksum.checksums_len(len)]);
        data.read_exact_at(bytes, at)?;
        meta.read_checksums(at, sums)?;
        let proven = verified_prefix(bytes, sums, checksum, at / chunk);
        at += proven as u64;
        if proven < len {
            break;
        }
    }
    Ok(at)
}

/// Brings an open replica, which `take_over` has verified, to its length; data and checksums are on disk then.
fn cut_open(replica: &OpenReplica, old: Block, recovery_id: GenerationStamp, length: u64) -> Result<()> {
    let _writing = replica.writing.lock();
    let files = replica.hold_files();
    let before = replica.state.lock().clone();
    let is_ours = before.recovery == Some(recovery_id) && !before.doomed;
    if !is_ours || before.generation_stamp != old.generation_stamp || before.on_disk < length {
        return Err(DfsError::new(
            ErrorKind::StaleGeneration,
            format!("{old} is not (any more) in recovery {recovery_id} here"),
        ));
    }
    let cut = cut_files(&files, before.on_disk, length);
    let tail_crc = replica.volume.check(cut, || format!("cut {old} to {length} bytes"))?;
    replica.volume.subtract_used(ByteCount(before.on_disk - length));
    let mut state = replica.state.lock();
    (state.on_disk, state.acked, state.synced) = (length, length, length);
    state.tail_crc = tail_crc;
    Ok(())
}

/// Cuts a pair of files in place; the CRC of the last chunk when it is not whole.
fn cut_files(files: &HeldFiles<'_>, from: u64, length: u64) -> io::Result<u32> {
    let data = OpenOptions::new().read(true).write(true).open(&files.data)?;
    let meta = MetaFile::open(&files.meta, true)?;
    let tail = tail_bytes(&data, meta.checksum(), length)?;
    let tail_crc = if tail.is_empty() { 0 } else { crc32c(&tail) };
    if length < from {
        if !tail.is_empty() {
            meta.write_checksums(length, &tail_crc.to_be_bytes())?;
        }
        meta.file().set_len(meta.header().meta_len(length))?;
        // Before the data is shorter: see the module's header.
        meta.file().sync_data()?;
        data.set_len(length)?;
    }
    data.sync_data()?;
    meta.file().sync_data()?;
    Ok(tail_crc)
}

/// The bytes of the last chunk of the first `length` bytes, when it is not whole.
fn tail_bytes(data: &File, checksum: DataChecksum, length: u64) -> io::Result<Vec<u8>> {
    let inside = length % checksum.bytes_per_checksum() as u64;
    let mut tail = vec![0; inside as usize];
    data.read_exact_at(&mut tail, length - inside)?;
    Ok(tail)
}

struct Copied {
    checksum: DataChecksum,
    tail_crc: u32,
}

/// Makes a durable copy of the first `length` of `from` bytes of a replica; `None` when the chunk that is cut is corrupt.
fn make_copy(
    source: &(PathBuf, PathBuf),
    copy: &(PathBuf, PathBuf),
    from: u64,
    length: u64,
) -> io::Result<Option<Copied>> {
    let old_data = File::open(&source.0)?;
    let old_meta = MetaFile::open(&source.1, false)?;
    let checksum = old_meta.checksum();
    let chunk = checksum.bytes_per_checksum() as u64;
    let start = length / chunk * chunk;
    let mut tail_crc = 0;
    if start < length {
        let mut bytes = vec![0; chunk.min(from - start) as usize];
        old_data.read_exact_at(&mut bytes, start)?;
        let mut entry = [0; size_of::<u32>()];
        old_meta.read_checksums(start, &mut entry)?;
        // Power lost while the chunk grew may have left the checksum of a shorter part.
        if (verified_prefix(&bytes, &entry, checksum, start / chunk) as u64) < length - start {
            return Ok(None);
        }
        tail_crc = crc32c(&bytes[..(length - start) as usize]);
    }
    let data = clone_or_copy(&old_data, &copy.0, length)?;
    let mut sums = vec![0; checksum.checksums_len(length as usize)];
    old_meta.read_checksums(0, &mut sums)?;
    if start < length {
        let at = sums.len() - size_of::<u32>();
        sums[at..].copy_from_slice(&tail_crc.to_be_bytes());
    }
    let meta = MetaFile::create(&copy.1, checksum)?;
    meta.write_checksums(0, &sums)?;
    data.sync_data()?;
    meta.file().sync_data()?;
    Ok(Some(Copied { checksum, tail_crc }))
}

/// The first `length` bytes of a file in a new one, which shares its extents where the file system can.
fn clone_or_copy(source: &File, path: &Path, length: u64) -> io::Result<File> {
    let target = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    if rustix::fs::ioctl_ficlone(&target, source).is_ok() {
        target.set_len(length)?;
        return Ok(target);
    }
    io::copy(&mut io::Read::take(source, length), &mut &target)?;
    Ok(target)
}
