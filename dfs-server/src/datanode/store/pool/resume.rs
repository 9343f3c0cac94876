//! Replicas that a rebuilt pipeline goes on with, under a new generation stamp.
//!
//! ```text
//! RBW         its writer is stopped; cut to the acknowledged bytes; checksums renamed to the new stamp
//! finalized   (the last packet had come here before the pipeline broke, or an append was being set up)
//!             checked from the writer's acknowledged bytes on, reopened as for an append
//! temporary   a copy that has just arrived in place of a lost node's replica becomes RBW
//! ```
//!
//! Which stamps fit: the replica's own may be the one that the NameNode knows, or any later one that an earlier try to
//! rebuild the pipeline has left, as long as the new one is newer still.
//!
//! Cutting keeps a crash harmless at every step: the entry of the last chunk becomes the checksum of the shorter piece
//! while the data is still longer, so restart recovery finds the piece it proves (`recovery::verified_prefix`); then both
//! files are cut. Where a sync has promised bytes of that chunk, all its data is on disk already (`writer`), and the entry is
//! before the data is cut.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::block::Block;
use dfs_common::checksum::crc32c;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::GenerationStamp;

use super::super::append_plan::Tail;
use super::super::disk::{self, DiskFile};
use super::super::events::EventKind;
use super::super::meta_file::MetaFile;
use super::super::open_state::{OpenState, Place, Step};
use super::super::replica::{Entry, Finalized, OpenKind, OpenReplica};
use super::super::writer::ReplicaWriter;
use super::append::{keep_promise, relocate};
use super::{OPEN_TRIES, Pool, describe, is_same};

/// How long the writer before may be in the middle of a disk call: less than the writer of the pipeline waits for us.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// Bytes verified at once.
const VERIFY_STEP: u64 = 1 << 20;

impl Pool {
    /// See `ReplicaStore::resume`.
    pub(in crate::datanode::store) fn resume(
        &self,
        block: Block,
        new_stamp: GenerationStamp,
        bytes: RangeInclusive<u64>,
    ) -> Result<ReplicaWriter> {
        for _ in 0..OPEN_TRIES {
            match self.lookup(block)? {
                Entry::Finalized(finalized) => {
                    check_stamp(block, finalized.generation_stamp, new_stamp)?;
                    check_length(block, finalized.length, &bytes)?;
                    self.verify_finalized(block, &finalized, *bytes.start())?;
                    let found =
                        Block { generation_stamp: finalized.generation_stamp, length: finalized.length, ..block };
                    return self.append(found, new_stamp);
                }
                Entry::Open(replica) if replica.kind == OpenKind::Rbw => {
                    check_stamp(block, replica.block().generation_stamp, new_stamp)?;
                    let Some(_writing) = replica.take_over(STOP_PATIENCE) else {
                        let words = format!("the writer of {block} hangs in a disk call");
                        return Err(DfsError::new(ErrorKind::Busy, words));
                    };
                    // Finalized, put back or deleted while we waited.
                    if !self.replicas.lock().get(&block.id).is_some_and(|entry| is_same(entry, &replica)) {
                        continue;
                    }
                    let resumed = resume_open(&replica, block, new_stamp, &bytes)?;
                    return replica.volume.check(resumed, || format!("go on with {block}"));
                }
                entry => {
                    let words = format!("{block} cannot be gone on with, {}", describe(&entry));
                    return Err(DfsError::new(ErrorKind::Busy, words));
                }
            }
        }
        Err(DfsError::new(ErrorKind::Busy, format!("{block} keeps changing, try again")))
    }

    /// Nodes before the last of a pipeline take packets in unverified: what the writer was never told to be everywhere
    /// is verified before it counts.
    fn verify_finalized(&self, block: Block, finalized: &Finalized, from: u64) -> Result<()> {
        let (volume, _) = self.home_of(finalized);
        let reader = self.open_reader(Block { generation_stamp: finalized.generation_stamp, ..block }, 0)?;
        let checksum = reader.checksum();
        let chunk = checksum.bytes_per_checksum() as u64;
        let end = finalized.length.min(reader.block().length);
        let mut at = from - from % chunk;
        while at < end {
            let len = (end - at).min(VERIFY_STEP) as usize;
            let (mut data, mut sums) = (vec![0; len], vec![0; checksum.checksums_len(len)]);
            reader.read(at, &mut data)?;
            reader.read_checksums(at, &mut sums)?;
            if checksum.verify(&data, &sums).is_err() {
                self.doubt(block);
                let words = format!("{block} does not match its checksums on {}", volume.root().display());
                return Err(DfsError::new(ErrorKind::Corrupt, words));
            }
            at += len as u64;
        }
        Ok(())
    }

    /// See `ReplicaStore::convert_to_rbw`.
    pub(in crate::datanode::store) fn convert_to_rbw(&self, writer: &mut ReplicaWriter) -> Result<()> {
        let copy = Arc::clone(writer.replica());
        let _writing = copy.writing.lock();
        let stamp = copy.block().generation_stamp;
        let moved = relocate(&copy, Place::Rbw, stamp);
        copy.volume.check(moved, || format!("move the copy of blk_{}", copy.id))?;
        let mut state = copy.state();
        state.step(Step::Acked(state.on_disk()));
        let home = (Arc::clone(&copy.volume), Arc::clone(&copy.dirs));
        let replica = Arc::new(OpenReplica::new(copy.id, OpenKind::Rbw, copy.checksum, home, state));
        let mut replicas = self.replicas.lock();
        match replicas.get_mut(&copy.id) {
            Some(entry) if is_same(entry, &copy) => {
                *entry = Entry::Open(Arc::clone(&replica));
                // Else nobody hears of it if no pipeline goes on with it, and it would keep every other copy away.
                self.publish(EventKind::Receiving, replica.block(), &replica.volume);
                writer.turn_to(replica);
                Ok(())
            }
            _ => {
                let words = format!("blk_{} was deleted while it was being copied", copy.id);
                Err(DfsError::new(ErrorKind::Cancelled, words))
            }
        }
    }
}

fn check_stamp(block: Block, here: GenerationStamp, new_stamp: GenerationStamp) -> Result<()> {
    if block.generation_stamp <= here && here < new_stamp {
        return Ok(());
    }
    let words = format!("{block} is here with generation stamp {here}, to become {new_stamp}");
    Err(DfsError::new(ErrorKind::StaleGeneration, words))
}

fn check_length(block: Block, here: u64, bytes: &RangeInclusive<u64>) -> Result<()> {
    if bytes.contains(&here) {
        return Ok(());
    }
    let words = format!("{block} is here with {here} bytes; its writer knows of {} to {}", bytes.start(), bytes.end());
    Err(DfsError::new(ErrorKind::InvalidArgument, words))
}

/// With the replica's `writing` lock held.
fn resume_open(
    replica: &Arc<OpenReplica>,
    block: Block,
    new_stamp: GenerationStamp,
    bytes: &RangeInclusive<u64>,
) -> Result<io::Result<ReplicaWriter>> {
    // Until the state is settled: whoever opens them finds lengths, checksums and state that fit each other, and a recovery
    // that finalizes them has ended or not begun.
    let files = replica.hold_files();
    let state = replica.state();
    state.check_writable()?;
    if state.place() != Place::Rbw {
        let words = format!("{block} is being moved");
        return Err(DfsError::new(ErrorKind::Cancelled, words));
    }
    check_length(block, state.acked(), bytes)?;
    check_length(block, state.on_disk(), bytes)?;
    let cut = match cut_to_acked(replica, &state) {
        Ok(Some(tail_crc)) => tail_crc,
        Ok(None) => {
            let words = format!("the last chunk of {block} does not match its checksum");
            return Err(DfsError::new(ErrorKind::Corrupt, words));
        }
        Err(error) => return Ok(Err(error)),
    };
    // Also of what the writer before has been told to be acknowledged after its turn had ended.
    replica.step(Step::Cut(Tail { length: state.acked(), crc: cut }));
    if let Err(error) = disk::rename(&files.meta, &replica.meta_path(Place::Rbw, new_stamp)) {
        return Ok(Err(error));
    }
    replica.step(Step::Moved(Place::Rbw, new_stamp));
    drop(files);
    Ok(keep_promise(replica).and_then(|is_synced| ReplicaWriter::open(Arc::clone(replica), replica.turn(), is_synced)))
}

/// Cuts both files to the acknowledged bytes; returns the CRC of the last chunk then, or `None` when its bytes are not
/// what was received.
fn cut_to_acked(replica: &OpenReplica, state: &OpenState) -> io::Result<Option<u32>> {
    let (on_disk, acked) = (state.on_disk(), state.acked());
    if on_disk == acked {
        return Ok(Some(state.tail().crc));
    }
    let data = DiskFile::open_writable(&replica.data_path(Place::Rbw))?;
    let meta = MetaFile::open(&replica.meta_path(Place::Rbw, state.generation_stamp()), DiskFile::open_writable)?;
    let chunk = replica.checksum.bytes_per_checksum() as u64;
    let start = acked - acked % chunk;
    let mut tail_crc = 0;
    if start < acked {
        let Some(crc) = proven_crc(&data, &meta, state, start, chunk)? else { return Ok(None) };
        meta.write_checksums(start, &crc.to_be_bytes())?;
        if state.promised() > start {
            // Before the data is shorter: a checksum of bytes that are gone would prove nothing of what was promised.
            replica.sync_with(|| meta.file().sync_data())?;
        }
        tail_crc = crc;
    }
    meta.file().set_len(meta.header().meta_len(acked))?;
    data.set_len(acked)?;
    Ok(Some(tail_crc))
}

/// CRC of the acknowledged part of the chunk at `start`, when the chunk as received is what its checksum says.
fn proven_crc(data: &DiskFile, meta: &MetaFile, state: &OpenState, start: u64, chunk: u64) -> io::Result<Option<u32>> {
    let end = (start + chunk).min(state.on_disk());
    let mut bytes = vec![0; (end - start) as usize];
    data.read_exact_at(&mut bytes, start)?;
    let is_tail = end == state.on_disk() && !end.is_multiple_of(chunk);
    let expected = if is_tail { state.tail().crc } else { meta.read_crc(start)? };
    Ok((crc32c(&bytes) == expected).then(|| crc32c(&bytes[..(state.acked() - start) as usize])))
}
