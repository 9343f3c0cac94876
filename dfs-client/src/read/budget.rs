//! The budget of bytes read ahead, shared by all open files of a client, and who must give some of it back.
//!
//! A reader that stopped in the middle of a file would keep its window for ever, and forty of them would leave nothing to those
//! who read. So readers with parts stand in a list. When the budget is used up, the oldest of the list are looked at: whoever
//! has not read for [`IDLE_AFTER`] loses its parts, whoever has goes to the end of the list.
//!
//! Lock order: the state of one reader, then the list. Under the list's lock the state of another reader is only tried: one
//! that is locked is being read.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ahead::ReadAhead;

/// Bytes per permit.
const UNIT: u64 = 64 * 1024;
/// Permits that a budget may have: 64 GiB, far below the semaphore's own limit.
const UNITS_MAX: usize = 1 << 20;
/// Silence after which a reader's parts are others' to take: longer than a program pauses between two reads of a stream.
pub(crate) const IDLE_AFTER: Duration = Duration::from_secs(5);
/// Readers looked at for one part: a part of 2 MiB needs one that has its full window, and a read must not wait for a walk
/// over thousands.
const LOOKS_MAX: usize = 32;

/// Bytes that may be read ahead over all files of a client.
pub(crate) struct PrefetchBudget {
    units: Arc<Semaphore>,
    holders: Mutex<Holders>,
}

/// Readers that may have parts, those that came or were last seen reading longest ago first.
#[derive(Default)]
struct Holders {
    last_turn: u64,
    by_turn: BTreeMap<u64, Weak<ReadAhead>>,
}

impl PrefetchBudget {
    /// Rounded down to 64 KiB.
    pub(crate) fn new(bytes: usize) -> Self {
        let units = usize::try_from(bytes as u64 / UNIT).unwrap_or(UNITS_MAX).min(UNITS_MAX);
        Self { units: Arc::new(Semaphore::new(units)), holders: Mutex::default() }
    }

    /// Room for `bytes`, taken from idle readers when there is no other. `None`: those who read have it all.
    pub(crate) fn take(&self, bytes: u64, now: Instant) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let take = || Arc::clone(&self.units).try_acquire_many_owned(units).ok();
        take().or_else(|| {
            self.reclaim(units as usize, now);
            take()
        })
    }

    /// Puts a reader that has parts into the list, unless it is there. Its state is locked by the caller.
    pub(super) fn list(&self, reader: &Arc<ReadAhead>) {
        if reader.turn.load(Ordering::Relaxed) == 0 {
            self.holders.lock().add(reader);
        }
    }

    /// Takes a reader that ends out of the list.
    pub(super) fn unlist(&self, reader: &ReadAhead) {
        // One that had parts is in the list until here or until it lost them; nobody adds it any more.
        if reader.turn.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut holders = self.holders.lock();
        let turn = reader.turn.swap(0, Ordering::Relaxed);
        holders.by_turn.remove(&turn);
    }

    fn reclaim(&self, units: usize, now: Instant) {
        let mut holders = self.holders.lock();
        for _ in 0..LOOKS_MAX.min(holders.by_turn.len()) {
            if self.units.available_permits() >= units {
                return;
            }
            let Some((_, reader)) = holders.by_turn.pop_first() else { return };
            let Some(reader) = reader.upgrade() else { continue };
            if !reader.give_back_if_idle(now) {
                holders.add(&reader);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn free_bytes(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT
    }

    #[cfg(test)]
    pub(super) fn listed(&self) -> usize {
        self.holders.lock().by_turn.len()
    }
}

impl Holders {
    fn add(&mut self, reader: &Arc<ReadAhead>) {
        self.last_turn += 1;
        reader.turn.store(self.last_turn, Ordering::Relaxed);
        self.by_turn.insert(self.last_turn, Arc::downgrade(reader));
    }
}
