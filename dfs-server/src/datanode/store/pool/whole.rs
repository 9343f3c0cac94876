//! A block that comes whole, as most small files do: its files are made with all that they will ever have, at once where
//! finalized replicas lie. That spares two renames and a write of what an RBW replica costs.
//!
//! The replica's `writing` lock is held from its first file to its record, so nobody finds it half-way: whoever wants to go on
//! with it or to recover it waits, and then meets a finalized replica or none. After a crash in the middle the lengths of the
//! files do not agree (the write of a process that is killed ends at a page's end, where a chunk ends too), and restart recovery
//! makes of them what it makes of one whose power was lost (`recovery`).

use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::DataChecksum;

use super::super::append_plan::{Tail, plan_append};
use super::super::open_state::Place;
use super::super::replica::{OpenKind, OpenReplica};
use super::super::volume::{Volume, VolumeIndex};
use super::super::writer::ReplicaWriter;
use super::Pool;

/// All bytes of a block and their checksums, which were verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) checksums: &'a [u8],
}

impl Pool {
    /// See `ReplicaStore::write_whole`.
    pub(in crate::datanode::store) fn write_whole(
        &self,
        block: Block,
        checksum: DataChecksum,
        whole: Whole<'_>,
        sync: bool,
        choose: impl FnOnce(&dyn Fn(VolumeIndex) -> bool) -> Result<Arc<Volume>>,
    ) -> Result<ReplicaWriter> {
        let place = (OpenKind::Rbw, Place::Finalized);
        self.begin(block, place, checksum, choose, |replica| self.fill(replica, block, whole, sync))
    }

    fn fill(&self, replica: &Arc<OpenReplica>, block: Block, whole: Whole<'_>, sync: bool) -> Result<ReplicaWriter> {
        let plan = plan_append(Tail { length: 0, crc: 0 }, replica.checksum, 0, whole.data, whole.checksums)
            .map_err(|refusal| DfsError::new(ErrorKind::Protocol, refusal.to_string()))?;
        let volume = &replica.volume;
        let words = || format!("write {block} to {}", volume.root().display());
        volume.check(replica.dirs.make_finalized_dir(block.id).map(drop), words)?;
        let created = {
            let files = replica.hold_files();
            // Whoever deletes it may have come first: it removes only what is there.
            replica.state().check_writable()?;
            ReplicaWriter::create_whole(Arc::clone(replica), &files, &plan)
        };
        let mut writer = volume.check(created, words)?;
        self.finalize_held(&mut writer, sync)?;
        Ok(writer)
    }
}
