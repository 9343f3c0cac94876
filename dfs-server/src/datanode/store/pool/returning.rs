//! Replicas that come back with their volume.
//!
//! Meanwhile their blocks may have been written, copied or deleted. What this node has gained since counts; what the
//! NameNode does not want any more it orders to be deleted after the full report that follows. What was doubted when the volume
//! went is doubted still: its device works again, but the page cache may be the one of before.

use std::sync::Arc;

use dfs_common::error::Result;
use tracing::info;

use super::super::open_state::Step;
use super::super::replica::{Condition, Entry};
use super::super::scan::{Scanned, scan_volume};
use super::super::volume::Volume;
use super::{Pool, WALK_STEP, add_suspect};

impl Pool {
    /// Looks through a volume that came back.
    pub(in crate::datanode::store) fn scan_returned(&self, volume: &Arc<Volume>) -> Result<Option<Scanned>> {
        scan_volume(volume, &self.name)
    }

    /// Adds the replicas of a volume that came back. What is to be done to its files then may take its time.
    pub(in crate::datanode::store) fn take_in(self: &Arc<Self>, scanned: Scanned) -> impl FnOnce() + Send + use<> {
        let Scanned { volume, dirs, entries } = scanned;
        let (found, mut doubles) = (entries.len(), Vec::new());
        let index = volume.index();
        let home = (Arc::clone(&volume), dirs);
        if let Some(place) = self.homes.write().get_mut(usize::from(index.0)) {
            *place = Some(home.clone());
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
                    Some(_) => doubles.push((id, entry)),
                }
            }
        }
        // Of the others there are no files.
        self.untrusted.lock().retain(|(other, _)| *other != index);
        info!(volume = %volume.root().display(), replicas = found - doubles.len(), doubles = doubles.len(), "replicas are back");
        let pool = Arc::clone(self);
        move || {
            for (id, entry) in doubles {
                pool.settle_double(&home, id, entry);
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
