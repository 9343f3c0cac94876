//! Replicas that come back with their volume.
//!
//! Meanwhile their blocks may have been written, copied or deleted. What this node has gained since counts; what the
//! NameNode does not want any more it orders to be deleted after the full report that follows. What was doubted when the volume
//! went is doubted still: its device works again, but the page cache may be the one of before.

use std::sync::Arc;

use dfs_common::error::Result;
use dfs_common::ids::BlockId;
use dfs_common::units::ByteCount;
use dfs_proto::data_transfer::{DataChecksum, MetaHeader};
use tracing::{info, warn};

use super::super::aside::set_aside;
use super::super::disk;
use super::super::layout;
use super::super::open_state::{Place, Step};
use super::super::pool_dirs::PoolDirs;
use super::super::replica::{Condition, Entry};
use super::super::scan::{Scanned, place_dir, scan_volume};
use super::super::volume::Volume;
use super::{Pool, WALK_STEP, add_suspect};

impl Pool {
    /// Looks through a volume that came back.
    pub(in crate::datanode::store) fn scan_returned(&self, volume: &Arc<Volume>) -> Result<Scanned> {
        scan_volume(volume, &self.name)
    }

    /// Adds the replicas of a volume that came back. What is to be done to its files then may take its time.
    pub(in crate::datanode::store) fn take_in(&self, scanned: Scanned) -> impl FnOnce() + Send + use<> {
        let Scanned { volume, dirs, entries } = scanned;
        let (found, mut second) = (entries.len(), Vec::new());
        let index = volume.index();
        if let Some(home) = self.homes.write().get_mut(usize::from(index.0)) {
            *home = Some((Arc::clone(&volume), Arc::clone(&dirs)));
        }
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut replicas = self.replicas.lock();
            for (id, mut entry) in entries.by_ref().take(WALK_STEP) {
                if self.untrusted.lock().remove(&(index, id)) {
                    distrust_found(&mut entry);
                }
                match replicas.get(&id) {
                    None => {
                        add_suspect(&self.suspects, &self.name, id, &entry);
                        replicas.insert(id, entry);
                    }
                    Some(there) => second.push((id, entry, there.clone())),
                }
            }
        }
        // Of the others there are no files.
        self.untrusted.lock().retain(|(other, _)| *other != index);
        info!(volume = %volume.root().display(), replicas = found - second.len(), doubles = second.len(), "replicas are back");
        move || {
            for (id, entry, there) in second {
                clear_second(&volume, &dirs, id, &entry, &there);
            }
        }
    }
}

fn distrust_found(entry: &mut Entry) {
    match entry {
        Entry::Finalized(finalized) => finalized.condition = Condition::Suspect,
        Entry::Open(replica) => replica.step(Step::SyncFailed),
        Entry::Deleting(_) => {}
    }
}

/// Clears a replica away of which another volume has a better one, or one being written. What is certainly not needed is
/// deleted, everything else set aside.
fn clear_second(volume: &Volume, dirs: &PoolDirs, id: BlockId, entry: &Entry, there: &Entry) {
    let (place, stamp, length) = match entry {
        Entry::Finalized(old) => (Place::Finalized, old.generation_stamp, old.length),
        Entry::Open(open) => (Place::Rbw, open.block().generation_stamp, open.block().length),
        Entry::Deleting(_) => return,
    };
    let is_needless = matches!(there, Entry::Finalized(new) if new.generation_stamp >= stamp && new.length >= length);
    let dir = place_dir(&dirs.paths, id, place);
    let mut is_gone = true;
    for name in [layout::data_name(id), layout::meta_name(id, stamp)] {
        let path = dir.join(&name);
        let cleared = if is_needless { disk::remove_file(&path) } else { set_aside(&dirs.paths, &path) };
        if let Err(error) = cleared {
            is_gone = false;
            warn!(file = name, %error, "could not clear away the second replica of a block");
        }
    }
    if is_gone {
        dirs.clear_doubt(id);
    }
    let header = MetaHeader { checksum: DataChecksum::DEFAULT };
    let meta = if place == Place::Finalized { header.meta_len(length) } else { 0 };
    volume.space.subtract(ByteCount(length + meta));
}
