//! A replica whose writer is gone, or that is to be cut: taken over, told of, and finalized at the length agreed on.
//!
//! An open replica is cut in place: bytes that no other node has were never acknowledged. Its last checksum is put right
//! first, because a restart in between looks for the longest part of the last chunk that its checksum proves.
//!
//! A finalized replica's bytes never change (design D6): the shorter one is a new file, a clone where the file system can.
//!
//! Acknowledged bytes that cannot be proven, behind a bad sector for one, may be nowhere else. They are kept in `orphaned` (`aside`):
//! the whole old pair of a finalized replica, of an open one what is cut off.
//!
//! ```text
//! tmp/ new pair --> rbw/ new pair --> old checksums gone --> old data gone --> finalized/ new pair
//!   restart: old      old             new waits for recovery     the same        new
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::checksum::crc32c;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::GenerationStamp;
use dfs_proto::data_transfer::DataChecksum;
use dfs_proto::v1::ReplicaState;
use tracing::warn;

use super::super::append_plan::Tail;
use super::super::aside::{remove_pair, save_rest, set_pair_aside};
use super::super::disk::{self, DiskFile};
use super::super::meta_file::MetaFile;
use super::super::open_state::{OpenState, Place, Step};
use super::super::recovery::verified_prefix;
use super::super::replica::{Condition, Entry, Finalized, HeldFiles, OpenKind, OpenReplica};
use super::append::{corrupt_tail, read_proven_tail};
use super::proof::proven_length;
use super::sync::Synced;
use super::verify::is_version;
use super::{Home, OPEN_TRIES, Pool, describe, is_same, not_found, pair};

/// What a replica under recovery has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnderRecovery {
    /// With the bytes that its checksums prove as its length.
    pub(crate) block: Block,
    /// Before the recovery. One with bad bytes counts as waiting: what it has left says nothing of what others have.
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
        for _ in 0..OPEN_TRIES {
            let entry = self.replicas.lock().get(&block.id).cloned();
            match entry {
                None | Some(Entry::Deleting(_)) => return Ok(None),
                Some(Entry::Open(replica)) if replica.kind == OpenKind::Temporary => return Ok(None),
                Some(Entry::Open(replica)) => {
                    if let Some(claim) = self.take_over(&replica, recovery_id)? {
                        return Ok(Some(claim));
                    }
                }
                Some(Entry::Finalized(finalized)) => {
                    check_older(block, finalized.generation_stamp, recovery_id)?;
                    return self.describe_finalized(block, &finalized, is_truncation).map(Some);
                }
            }
        }
        Err(DfsError::new(ErrorKind::Busy, format!("{block} keeps changing, try again")))
    }

    /// Stops the writer of an open replica and looks at what it wrote. `None` when it has become another meanwhile, or is gone.
    fn take_over(&self, replica: &Arc<OpenReplica>, recovery_id: GenerationStamp) -> Result<Option<UnderRecovery>> {
        let (paths, state) = {
            // Not in the middle of a packet.
            let _writing = replica.writing.lock();
            let files = replica.hold_files();
            // Finalized, put back or deleted while we waited.
            let is_here = self.replicas.lock().get(&replica.id).is_some_and(|entry| is_same(entry, replica));
            let taken = replica.change(|state| {
                if state.is_doomed() || !is_here {
                    return Ok(None);
                }
                let block = replica.block_of(state);
                check_older(block, state.generation_stamp(), recovery_id)?;
                if state.recovery().is_some_and(|newer| newer > recovery_id) {
                    return Err(overtaken(block, recovery_id));
                }
                state.step(Step::TakenOver(recovery_id));
                Ok(Some(*state))
            });
            let Some(state) = taken? else { return Ok(None) };
            ((files.data, files.meta), state)
        };
        let block = replica.block_of(&state);
        // A restart has verified the end only, and not every sync that failed before it need have been noted.
        let is_waiting = replica.kind == OpenKind::Waiting;
        let proven = if is_waiting || state.doubted().is_some() {
            proven_length(&replica.volume, &paths, DiskFile::open_device, 0, state.on_disk())
        } else {
            proven_length(&replica.volume, &paths, DiskFile::open, state.synced(), state.on_disk())
        };
        let proven = match replica.volume.check(proven, || format!("verify {block}"))? {
            Some(proven) => proven,
            // Whatever became of them, nothing is lost.
            None if state.on_disk() == 0 => 0,
            None => {
                // Or they were moved by another recovery, which has just ended.
                let is_forgotten = self.forget_missing_open(replica, &state);
                return Err(if is_forgotten { not_found(block) } else { overtaken(block, recovery_id) });
            }
        };
        if state.doubted().is_some() {
            replica.change(|now| {
                if now.recovery() == Some(recovery_id) {
                    now.step(Step::Proven(proven));
                }
            });
        }
        Ok(Some(UnderRecovery {
            block: Block { length: proven, ..block },
            state: if is_waiting || proven < state.acked() { ReplicaState::Rwr } else { ReplicaState::Rbw },
            // What its writer was told to be on disk was acknowledged first. More may have been on its way there, here alone.
            synced: state.synced().min(state.acked()).min(proven),
        }))
    }

    fn describe_finalized(&self, block: Block, finalized: &Finalized, is_truncation: bool) -> Result<UnderRecovery> {
        // What is left of a corrupt one is found out by verifying it.
        if is_truncation || finalized.condition == Condition::Suspect {
            Self::check_sound(block, finalized)?;
        }
        let (volume, dirs) = self.home_of(finalized);
        let found = Block { generation_stamp: finalized.generation_stamp, length: finalized.length, ..block };
        let proven = if is_truncation {
            Some(finalized.length)
        } else {
            let paths = pair(&dirs.paths.finalized_dir(block.id), block.id, finalized.generation_stamp);
            // What was bad when it was read from the device is not what the page cache shows.
            let is_corrupt = finalized.condition == Condition::Corrupt;
            let open = if is_corrupt { DiskFile::open_device } else { DiskFile::open };
            let proven = proven_length(&volume, &paths, open, 0, finalized.length);
            volume.check(proven, || format!("verify {block}"))?
        };
        if proven.is_none_or(|proven| proven < finalized.length) {
            let now = self.replicas.lock().get(&block.id).cloned();
            if !matches!(now, Some(Entry::Finalized(now)) if is_version(&now, found)) {
                return Err(DfsError::new(ErrorKind::Busy, format!("{block} has changed")));
            }
        }
        let Some(proven) = proven else {
            self.forget_missing(found, finalized);
            return Err(not_found(block));
        };
        Ok(UnderRecovery {
            block: Block { length: proven, ..found },
            state: if proven == finalized.length { ReplicaState::Finalized } else { ReplicaState::Rwr },
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
                if now.condition == Condition::Suspect {
                    Self::check_sound(old, now)?;
                }
                let updated = if now.length == length {
                    self.restamp(old, now, recovery_id)
                } else {
                    self.cut(old, now, recovery_id, length)
                }?;
                if now.condition == Condition::Corrupt {
                    // What was wrong with it may have been cut off.
                    self.doubt(old);
                }
                Ok(updated)
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
        // One that was called corrupt is read again: it claims to be whole.
        if self.expect_sound(block, self.sync_finalized(block, old))? == Synced::Moved {
            return Err(DfsError::new(ErrorKind::Busy, format!("{block} has been moved")));
        }
        let tail = volume.check(read_proven_tail(&dir, block.id, old), || format!("read the last chunk of {block}"));
        let tail = self.expect_sound(block, tail.and_then(|tail| tail.ok_or_else(|| corrupt_tail(block))))?;
        let replica = Arc::new(in_recovery(block, old, stamp, tail, home));
        self.reopen(old, &replica)?;
        let restamped = self.finalize_recovered(&replica, stamp);
        if restamped.is_err() {
            self.undo_append(&replica, *old, Some(stamp));
        }
        restamped
    }

    /// Puts a shorter copy in the place of a finalized replica, of which so much was proven as `block` is long.
    fn cut(&self, block: Block, old: &Finalized, stamp: GenerationStamp, length: u64) -> Result<Arc<str>> {
        let (volume, dirs) = self.home_of(old);
        let finalized_dir = dirs.paths.finalized_dir(block.id);
        let doing = || format!("cut {block} to {length} bytes");
        let source = pair(&finalized_dir, block.id, old.generation_stamp);
        // Another recovery may be making its own copy now.
        let number = dirs.number_copy();
        let in_tmp = |what: &str| dirs.paths.tmp.join(format!("cut_{number}_of_{}.{what}", block.id));
        let copy = (in_tmp("data"), in_tmp("meta"));
        let made = make_copy(&source, &copy, old.length, length);
        let made = volume.check(made, doing).and_then(|made| {
            made.ok_or_else(|| DfsError::new(ErrorKind::Corrupt, format!("the chunk to cut of {block} is corrupt")))
        });
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                remove_pair(&copy);
                return self.expect_sound(block, Err(error));
            }
        };
        let home = (Arc::clone(&volume), Arc::clone(&dirs));
        let replica = Arc::new(in_recovery(block, old, stamp, (made.checksum, 0), home));
        // Whoever wants to read the replica waits for the moves.
        let files = replica.hold_files();
        if let Err(error) = self.reopen(old, &replica) {
            remove_pair(&copy);
            return Err(error);
        }
        let waiting = pair(&dirs.paths.rbw, block.id, stamp);
        let moved = disk::rename(&copy.1, &waiting.1).and_then(|()| disk::rename(&copy.0, &waiting.0));
        let replaced = moved.and_then(|()| disk::sync_dir(&dirs.paths.rbw)).and_then(|()| {
            if block.length < old.length {
                // What it has behind that could not be proven.
                set_pair_aside(&dirs.paths, &source.0, &source.1)
            } else {
                disk::remove_file(&source.1).and_then(|()| disk::remove_file(&source.0))
            }
        });
        // Without its checksums the old one is none any more.
        let is_in_place = source.1.exists();
        if let (Err(error), true) = (&replaced, is_in_place) {
            warn!(%block, %error, "the replica stays as it was");
            remove_pair(&copy);
            remove_pair(&waiting);
            self.put_back(&replica, |_| true, old.condition);
            return volume.check(replaced, doing).map(|()| volume.storage_uuid());
        }
        replica.change(|state| {
            state.step(Step::Moved(Place::Rbw, stamp));
            state.step(Step::Recovered(Tail { length, crc: made.tail_crc }));
        });
        volume.check(replaced, doing)?;
        drop(files);
        self.finalize_recovered(&replica, stamp)
    }

    /// Finalizes an open replica that has the length agreed on.
    fn finalize_recovered(&self, replica: &Arc<OpenReplica>, stamp: GenerationStamp) -> Result<Arc<str>> {
        let volume = &replica.volume;
        let doing = || format!("finalize {} after recovery {stamp}", replica.block());
        let dir = volume.check(replica.dirs.make_finalized_dir(replica.id), doing)?;
        {
            let files = replica.hold_files();
            let before = replica.state();
            if before.is_doomed() || before.recovery() != Some(stamp) {
                return Err(overtaken(replica.block(), stamp));
            }
            volume.check(files.move_to(replica, Place::Finalized, stamp), doing)?;
        }
        volume.check(disk::sync_dir(&dir), doing)?;
        self.close_and_tell(replica)?;
        // All that it has was read from the device or is synced.
        self.take_note_back(replica.id, &(Arc::clone(volume), Arc::clone(&replica.dirs)));
        Ok(volume.storage_uuid())
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
    let tail = Tail { length: old.length, crc: tail_crc };
    let mut state = OpenState::reopened(Place::Finalized, old.generation_stamp, tail, true);
    state.step(Step::TakenOver(stamp));
    OpenReplica::new(block.id, OpenKind::Waiting, checksum, home, state)
}

fn check_older(block: Block, stamp: GenerationStamp, recovery_id: GenerationStamp) -> Result<()> {
    if stamp < recovery_id { Ok(()) } else { Err(overtaken(block, recovery_id)) }
}

fn overtaken(block: Block, recovery_id: GenerationStamp) -> DfsError {
    DfsError::new(ErrorKind::StaleGeneration, format!("a later recovery of {block} has overtaken {recovery_id}"))
}

/// Brings an open replica, which `take_over` has verified, to its length; data and checksums are on disk then.
fn cut_open(replica: &OpenReplica, old: Block, recovery_id: GenerationStamp, length: u64) -> Result<()> {
    let _writing = replica.writing.lock();
    let files = replica.hold_files();
    let before = replica.change(|state| {
        let is_ours = state.recovery() == Some(recovery_id) && !state.is_doomed();
        if !is_ours || state.generation_stamp() != old.generation_stamp || state.on_disk() < length {
            return Err(DfsError::new(
                ErrorKind::StaleGeneration,
                format!("{old} is not (any more) in recovery {recovery_id} here"),
            ));
        }
        if state.doubted().is_some_and(|on_device| on_device < length) {
            let words = format!("{length} bytes of {old} are not known to be on the device");
            return Err(DfsError::new(ErrorKind::Io, words));
        }
        let before = *state;
        // What is to stay was read from the device; from here on its syncs count.
        state.step(Step::Trusted);
        Ok(before)
    })?;
    // Acknowledged bytes that could not be proven: behind a bad sector, and here alone perhaps.
    let is_unproven = old.length < before.acked();
    let saved = if is_unproven {
        save_rest(&replica.dirs.paths, &files.data, &files.meta, length, before.on_disk())
    } else {
        Ok(())
    };
    let cut = saved.and_then(|()| cut_files(replica, &files, length));
    if let (Err(_), Some(on_device)) = (&cut, before.doubted()) {
        replica.step(Step::Doubted(on_device));
    }
    let crc = replica.volume.check(cut, || format!("cut {old} to {length} bytes"))?;
    replica.step(Step::Recovered(Tail { length, crc }));
    Ok(())
}

/// Cuts a pair of files in place; the CRC of the last chunk when it is not whole. They may be longer than the state says: a
/// packet could not be taken back.
fn cut_files(replica: &OpenReplica, files: &HeldFiles<'_>, length: u64) -> io::Result<u32> {
    let data = DiskFile::open_writable(&files.data)?;
    let meta = MetaFile::open(&files.meta, DiskFile::open_writable)?;
    let tail = tail_bytes(&data, meta.checksum(), length)?;
    let tail_crc = if tail.is_empty() { 0 } else { crc32c(&tail) };
    if !have_only(&data, &meta, length)? {
        if !tail.is_empty() {
            meta.write_checksums(length, &tail_crc.to_be_bytes())?;
        }
        meta.file().set_len(meta.header().meta_len(length))?;
        // Before the data is shorter: see the module's header.
        replica.sync_with(|| meta.file().sync_data())?;
        data.set_len(length)?;
    }
    replica.sync_with(|| {
        data.sync_data()?;
        meta.file().sync_data()
    })?;
    Ok(tail_crc)
}

/// Whether both files end where so many bytes do.
pub(super) fn have_only(data: &DiskFile, meta: &MetaFile, length: u64) -> io::Result<bool> {
    Ok(data.len()? == length && meta.file().len()? == meta.header().meta_len(length))
}

/// The bytes of the last chunk of the first `length` bytes, when it is not whole.
fn tail_bytes(data: &DiskFile, checksum: DataChecksum, length: u64) -> io::Result<Vec<u8>> {
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
    let old_data = DiskFile::open(&source.0)?;
    let old_meta = MetaFile::open(&source.1, DiskFile::open)?;
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
    let data = old_data.clone_or_copy(&copy.0, length)?;
    let mut sums = vec![0; checksum.checksums_len(length as usize)];
    old_meta.read_checksums(0, &mut sums)?;
    if start < length {
        let at = sums.len() - size_of::<u32>();
        sums[at..].copy_from_slice(&tail_crc.to_be_bytes());
    }
    let meta = MetaFile::create(&copy.1, checksum, &[])?;
    meta.write_checksums(0, &sums)?;
    data.sync_data()?;
    meta.file().sync_data()?;
    Ok(Some(Copied { checksum, tail_crc }))
}
