//! Extending a finalized replica in place, under a new generation stamp.
//!
//! The map shows the replica as open before its files move, and readers take the files' place from the replica's state, so
//! nobody looks for them where they are not. What is there stays readable, and stays the same.

use std::io;
use std::path::Path;
use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::checksum::crc32c;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::data_transfer::DataChecksum;
use tracing::warn;

use super::super::append_plan::Tail;
use super::super::disk::{self, DiskFile};
use super::super::meta_file::MetaFile;
use super::super::open_state::{OpenState, Place};
use super::super::replica::{Entry, Finalized, OpenKind, OpenReplica};
use super::super::writer::ReplicaWriter;
use super::{Pool, describe, not_found, pair};

impl Pool {
    /// See `ReplicaStore::append`.
    pub(in crate::datanode::store) fn append(&self, block: Block, new_stamp: GenerationStamp) -> Result<ReplicaWriter> {
        let old = self.finalized_for_append(block, new_stamp)?;
        let (volume, dirs) = self.home_of(&old);
        let paths = &dirs.paths;
        let dir = paths.finalized_dir(block.id);
        let tail = read_proven_tail(&dir, block.id, &old);
        let tail = volume.check(tail, || format!("read the last chunk of {block}"));
        let (checksum, tail_crc) =
            self.expect_sound(block, tail.and_then(|tail| tail.ok_or_else(|| corrupt_tail(block))))?;
        let tail = Tail { length: old.length, crc: tail_crc };
        let state = OpenState::reopened(Place::Finalized, old.generation_stamp, tail, old.maybe_synced);
        let home = (Arc::clone(&volume), dirs);
        let replica = Arc::new(OpenReplica::new(block.id, OpenKind::Rbw, checksum, home, state));
        self.reopen(&old, &replica)?;
        let reopened = relocate(&replica, Place::Rbw, new_stamp)
            .and_then(|()| keep_promise(&replica))
            .and_then(|is_synced| ReplicaWriter::open(Arc::clone(&replica), 0, is_synced));
        match reopened {
            Ok(mut writer) => {
                writer.set_appended_to(old);
                Ok(writer)
            }
            Err(error) => {
                self.undo_append(&replica, old, None);
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
        Self::check_sound(block, &old)?;
        Ok(old)
    }

    /// Brings back a finalized replica whose extension, or change by `recovery`, did not begin.
    pub(super) fn undo_append(&self, replica: &Arc<OpenReplica>, old: Finalized, recovery: Option<GenerationStamp>) {
        if let Err(error) = relocate(replica, Place::Finalized, old.generation_stamp) {
            warn!(block = %replica.block(), %error, "replica stays open after a failed append");
            return;
        }
        self.put_back(replica, |state| (state.recovery(), state.on_disk()) == (recovery, old.length), old.condition);
    }
}

pub(super) fn corrupt_tail(block: Block) -> DfsError {
    DfsError::new(ErrorKind::Corrupt, format!("the last chunk of {block} does not match its checksum"))
}

/// Moves both files of an open replica that its writer still has.
pub(super) fn relocate(replica: &OpenReplica, to: Place, new_stamp: GenerationStamp) -> io::Result<()> {
    let files = replica.hold_files();
    if (files.place, files.generation_stamp) == (to, new_stamp) {
        return Ok(());
    }
    // Of a kind that blames no device.
    replica.state().check_writable().map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
    files.move_to(replica, to, new_stamp)
}

/// Makes the names that a replica's files have durable when bytes of it were promised; returns whether it did. The NameNode
/// logs a new generation stamp once all nodes have it: after a loss of power, replicas of an older one would be of no use
/// to it, and what was synced in them lost.
pub(super) fn keep_promise(replica: &OpenReplica) -> io::Result<bool> {
    let state = replica.state();
    let has_promised = state.promised() > 0;
    if has_promised {
        disk::sync_dir(&replica.dir(state.place()))?;
    }
    Ok(has_promised)
}

/// Checksum kind and CRC of the last chunk of a finalized replica, when its bytes are what the CRC says.
pub(super) fn read_proven_tail(
    dir: &Path,
    id: BlockId,
    finalized: &Finalized,
) -> io::Result<Option<(DataChecksum, u32)>> {
    let (data_path, meta_path) = pair(dir, id, finalized.generation_stamp);
    let meta = MetaFile::open(&meta_path, DiskFile::open)?;
    let checksum = meta.checksum();
    let inside = finalized.length % checksum.bytes_per_checksum() as u64;
    if inside == 0 {
        return Ok(Some((checksum, 0)));
    }
    let start = finalized.length - inside;
    let mut tail = vec![0; inside as usize];
    DiskFile::open(&data_path)?.read_exact_at(&mut tail, start)?;
    let crc = meta.read_crc(start)?;
    Ok((crc32c(&tail) == crc).then_some((checksum, crc)))
}
