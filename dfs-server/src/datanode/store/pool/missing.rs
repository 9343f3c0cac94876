//! Replicas whose files somebody has removed: they are taken out, and reported as deleted.

use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::units::ByteCount;
use tracing::error;

use super::super::events::EventKind;
use super::super::open_state::{OpenState, Step};
use super::super::replica::{Entry, Finalized, OpenReplica};
use super::{Pool, is_same, used};

impl Pool {
    /// Takes a replica out whose files somebody removed, and says so. A note that a sync of it has failed stays: they may come back.
    pub(super) fn forget_missing(&self, block: Block, finalized: &Finalized) {
        let (volume, _) = self.home_of(finalized);
        error!(%block, volume = %volume.root().display(), "the files of a replica are gone; it is reported as deleted");
        volume.suspect();
        let mut replicas = self.replicas.lock();
        if matches!(replicas.get(&block.id), Some(Entry::Finalized(now)) if now == finalized) {
            replicas.remove(&block.id);
            volume.space.subtract(used(finalized));
            self.publish(EventKind::Deleted, block, &volume);
        }
    }

    /// The same of a replica that is not finalized, if it still is as it was `seen`. False when it is not, and stays.
    pub(super) fn forget_missing_open(&self, replica: &Arc<OpenReplica>, seen: &OpenState) -> bool {
        let (block, volume) = (replica.block(), &replica.volume);
        let mut replicas = self.replicas.lock();
        let is_here = replicas.get(&block.id).is_some_and(|entry| is_same(entry, replica));
        let what = |state: &OpenState| (state.recovery(), state.generation_stamp(), state.place());
        let is_gone = replica.change(|state| {
            let is_gone = is_here && what(state) == what(seen);
            if is_gone {
                state.step(Step::Doomed);
            }
            is_gone
        });
        if !is_gone {
            return false;
        }
        replicas.remove(&block.id);
        volume.space.subtract(ByteCount(block.length));
        self.publish(EventKind::Deleted, block, volume);
        drop(replicas);
        error!(%block, volume = %volume.root().display(), "the files of a replica are gone; it is reported as deleted");
        true
    }
}
