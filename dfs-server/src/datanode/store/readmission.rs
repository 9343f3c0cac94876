//! Failed volumes whose devices work again.
//!
//! Such a device is opened and scanned by a thread of its own: it may hang again, and a large one takes its time. Only what
//! it has found is taken in by the caller.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::error::Result;
use tracing::{info, warn};

use super::ReplicaStore;
use super::look::{Look, Progress};
use super::pool::Pool;
use super::scan::Scanned;
use super::volume::{Volume, VolumeIndex};

/// How long a look at failed volumes may keep the caller; it goes on without.
const PATIENCE: Duration = Duration::from_secs(1);

/// Looks under way.
pub(super) type Readmissions = HashMap<VolumeIndex, Look<Option<Returned>>>;

/// A volume that works again, and what lies on it.
#[derive(Debug)]
pub(super) struct Returned {
    volume: Arc<Volume>,
    pools: Vec<(Arc<Pool>, Option<Scanned>)>,
}

impl ReplicaStore {
    /// Takes in failed volumes whose devices work again, with their replicas. Returns whether there was any; the NameNodes
    /// then hear of it with the next heartbeat and want a full report.
    pub(crate) fn readmit_volumes(&self) -> bool {
        let mut looks = self.readmissions.lock();
        for old in self.volumes.all().iter().filter(|volume| volume.is_failed()) {
            if let Entry::Vacant(place) = looks.entry(old.index())
                && let Some(look) = self.begin_readmission(old)
            {
                place.insert(look);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let mut returned = Vec::new();
        looks.retain(|_, look| match look.wait_until(deadline) {
            Progress::Ended(outcome) => {
                returned.extend(outcome);
                false
            }
            Progress::GoesOn => true,
            Progress::BrokenOff => false,
        });
        drop(looks);
        returned.into_iter().filter_map(|back| self.take_back(back).then_some(())).count() > 0
    }

    fn begin_readmission(&self, old: &Arc<Volume>) -> Option<Look<Option<Returned>>> {
        let reopen = self.volumes.reopening(old)?;
        let pools: Vec<_> = self.pools.read().values().cloned().collect();
        if pools.iter().any(|pool| pool.is_still_used(old.index())) {
            warn!(volume = %old.root().display(), "failed volume is not looked at: a call on it has not returned yet");
            return None;
        }
        let look = Look::begin("dn-reopen", move || {
            let volume = reopen()?;
            let scan = |pool: Arc<Pool>| pool.scan_returned(&volume).map(|scanned| (pool, scanned));
            match pools.into_iter().map(scan).collect::<Result<_>>() {
                Ok(pools) => Some(Returned { volume, pools }),
                Err(error) => {
                    warn!(volume = %volume.root().display(), "volume failed again: {}", error.chain());
                    volume.release();
                    None
                }
            }
        });
        look.inspect_err(|cause| warn!(volume = %old.root().display(), %cause, "failed volume could not be looked at"))
            .ok()
    }

    /// False when it has to be looked at once more.
    fn take_back(&self, Returned { volume, pools }: Returned) -> bool {
        // A pool that is being loaded now would know nothing of the volume.
        let loading = self.loading.try_lock();
        let known = self.pools.read();
        if loading.is_none() || known.len() != pools.len() {
            // A pool has come meanwhile, or comes.
            volume.release();
            return false;
        }
        let tidy_up: Vec<_> = pools.into_iter().filter_map(|(pool, scanned)| Some(pool.take_in(scanned?))).collect();
        drop(known);
        info!(volume = %volume.root().display(), "volume is back");
        self.volumes.put_back(volume);
        // What stays is set aside at the next start.
        let tidying = Look::begin("dn-reopen", move || tidy_up.into_iter().for_each(|tidy_up| tidy_up()));
        if let Err(cause) = tidying {
            warn!(%cause, "second replicas of a volume that came back are not cleared away");
        }
        true
    }
}
